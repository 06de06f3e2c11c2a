"""``Guard``: in one tunnel, whether its requests' Host is the name that was connected to, and what can't be decoded."""

import names
from errors import CertifierError, ClientError, Refused
from exchange import Connection, Exchange
from policy import Policy
from record import Record

_UNSEEN = "malformed"  # how a watcher's note begins that gives up on what is HTTP


class Guard:
    """Notes in a tunnel's record what its watcher gives up on, and whether Host is the name that was connected to."""

    def __init__(self, policy: Policy, name: str, record: Record) -> None:
        self.refusal: CertifierError | None = None
        self.awaited: dict[int, Exchange] = {}  # whose responses have not ended
        self._spoilt = False  # what the client hears can't be told apart any more
        self._policy = policy
        self._name = name
        self._record = record
        self._told = False

    @property
    def quiet(self) -> bool:
        """Whether the client awaits at most one response, which has not begun: then it can be told in its place."""
        return (
            not self._spoilt
            and len(self.awaited) <= 1
            and all(exchange.status is None for exchange in self.awaited.values())
        )

    def check(self) -> None:
        """Raise why nothing more may pass, if that is so."""
        if self.refusal is not None:
            raise self.refusal.again()

    def request(self, exchange: Exchange) -> None:
        """Look at its Host."""
        self.awaited[id(exchange)] = exchange
        if not self._policy.minds_mismatch or self.refusal is not None:
            return
        try:
            host = names.target(exchange.authority, default_port=443).host
        except ClientError:
            host = exchange.authority
        if host == self._name:
            return
        try:
            remark = self._policy.check_mismatch("Host", host, self._name)
        except Refused as refusal:
            self.refusal = refusal.again()
            return
        if not self._told:  # once a tunnel
            self._told = True
            self._record.note(remark)

    def ended(self, exchange: Exchange) -> None:
        """One less."""
        self.awaited.pop(id(exchange), None)

    def noted(self, connection: Connection, what: str) -> None:  # noqa: ARG002
        """Told in the line of the tunnel."""
        self._record.note(f"not decoded: {what}")
        if what.startswith(_UNSEEN):
            self._spoilt = self._spoilt or bool(self.awaited) or "response" in what
        if self._policy.denies_mismatch and what.startswith(_UNSEEN):
            self.refusal = Refused(f"can't tell the Host: {what}")
