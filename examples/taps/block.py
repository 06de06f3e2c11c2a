"""Block requests by URL, and say why: python certifier.py … --non-tls=refuse --tap=examples/taps/block.py

Without --non-tls=refuse, plain HTTP in a CONNECT passes unseen.

Edit BLOCKED: pairs of a regular expression for the whole URL, and the reason that the client is told. There
hosts are in lower case, without a default port.
"""

import posixpath
import re
from urllib.parse import unquote

from taps import Answer

REWRITE = True  # this tap answers requests

BLOCKED = [
    (r"https?://([^/]*\.)?example\.com(:\d+)?/admin(/|\?|$)", "the admin pages are not for crawlers"),
    (r".*\.(exe|msi)(\?|$)", "no programs from the Internet"),
]


def request(exchange):
    """Called for each request before it goes on."""
    # Also by the name that the origin was verified for: Host is what the client chose, and origins may not care.
    target = re.sub(r"^[A-Za-z]+://[^/?]*", "", exchange.target)
    verified = f"{exchange.connection.scheme}://{exchange.connection.authority}"
    # And by what most origins make of /%61dmin, //admin and /./admin. There is no end of such: a list of what may pass
    # is safer.
    path = "/" + posixpath.normpath("/" + unquote(target.partition("?")[0])).lstrip("/")
    for pattern, reason in BLOCKED:
        if any(re.match(pattern, url) for url in (exchange.url, verified + target, verified + path)):
            return Answer(403, f"blocked: {reason}\n".encode())
    return None
