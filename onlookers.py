"""``Onlookers``: who may see live data, which shows what others do: clients on this machine, or users."""

from collections.abc import Callable
from dataclasses import dataclass

import names
from access import Access
from errors import ClientError, Refused
from names import Target

_OWN_SITE = ("", "none", "same-origin")  # Sec-Fetch-Site of a program, of an address typed by the user, of our own page


@dataclass(slots=True)
class Visit:
    """A request for a page of the proxy's own."""

    method: str
    target: str  # in origin-form
    ip: str  # the client's
    called: str  # the name it has for us, as sent: its Host field or the authority of an absolute-form; empty if none
    where: Target  # the same, parsed; or the address where it reached us, if that is no host and port
    header: Callable[[bytes], str]  # returns the value of a request field, by its name in lower case
    user: str | None = None  # who authenticated, where that was checked


class Onlookers:
    """Checks visits. ``hosts`` are names by which browsers may call us, besides IP addresses and ``localhost``."""

    def __init__(self, access: Access, hosts: frozenset[str] = frozenset()) -> None:
        self._access = access
        self._hosts = hosts | {"localhost"}

    @property
    def has_users(self) -> bool:
        """Whether there are users, so that each client must give a name and password."""
        return self._access.users is not None

    def check(self, visit: Visit) -> None:
        """Raise ``Refused``, or ``AuthenticationRequired`` if a name and password would help, unless:

        1. The request does not come from another site's page, in whoever's browser.
        2. The client may use the proxy at all and, if there are users, is one of them, on whatever machine.
        3. Without users, it is on this machine and calls us by a name that can't be another site's: a page whose name
           was rebound to our address (DNS rebinding) asks from here, too. With users, browsers don't send such a page
           the password for our site; that for the proxy comes with all requests, but counts only by a name of ours.
        """
        if visit.header(b"sec-fetch-site") not in _OWN_SITE:
            raise Refused("another site's page may not see live data")
        self.check_client(visit)

    def check_client(self, visit: Visit) -> None:
        """``check`` without its first step: whether a page of ours, in the same client, may see live data."""
        visit.user = self._access.check(visit.ip, lambda: self._authorization(visit))
        if visit.user is not None:
            return
        address = names.ip_of(visit.ip)
        if address is None or not address.is_loopback:
            raise Refused("only clients that come over loopback, and with --auth its users, may see live data")
        if not self._knows(visit.called):
            raise Refused(
                "live data is shown only if the proxy is called by an IP address, localhost or a name of --listen"
            )

    def _authorization(self, visit: Visit) -> str:
        """Credentials for us as a site (RFC 9110 §11.6.2) or, if called by a name that is ours alone, as a proxy."""
        as_proxy = visit.header(b"proxy-authorization") if self._knows(visit.called) else ""
        return visit.header(b"authorization") or as_proxy

    def _knows(self, called: str) -> bool:
        if not called:
            return True  # HTTP/1.0 without Host, which no browser sends
        try:
            host = names.target(called, default_port=80).host
        except ClientError:
            return False
        return host in self._hosts or names.ip_of(host) is not None


def hosts_of(listeners: tuple[Target, ...]) -> frozenset[str]:
    """The hosts in the addresses that the operator gave."""
    return frozenset(listener.host for listener in listeners)
