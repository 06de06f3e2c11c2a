"""Block requests by URL, and say why:

    python certifier.py … --non-tls=refuse --mismatch=deny --tap=examples/taps/block.py

Without --non-tls=refuse, plain HTTP in a CONNECT passes unseen. Without --mismatch=deny, a client may ask one host,
such as a CDN, for another's pages, in a Host field that is written as no URL is.

Edit BLOCKED: pairs of a regular expression, matched from the start of the URL, and the reason given to the client.
In these URLs, hosts are in lower case and without a default port; a dot may follow them.
"""

import posixpath
import re
from urllib.parse import unquote

from taps import Answer

REWRITE = True  # this tap answers requests
FAIL_CLOSED = True  # a request that it can't judge, by a fault of this file, does not pass

BLOCKED = [
    (r"https?://([^/]*\.)?example\.com\.?(:\d+)?/admin(/|\?|$)", "the admin pages are not for crawlers"),
    (r".*\.(exe|msi)(\?|$)", "no programs from the Internet"),
]


def request(exchange):
    """Called for each request before it goes on."""
    # Also by the name that the origin was verified for: the client chooses Host, and origins may ignore it.
    target = re.sub(r"^[A-Za-z]+://[^/?]*", "", exchange.target)
    verified = f"{exchange.connection.scheme}://{exchange.connection.authority}"
    # And by the path that most origins read in /%61dmin, //admin and /./admin. There is no end of such variants: a list
    # of what may pass is safer.
    path = "/" + posixpath.normpath("/" + unquote(target.partition("?")[0])).lstrip("/")
    for pattern, reason in BLOCKED:
        if any(re.match(pattern, url) for url in (exchange.url, verified + target, verified + path)):
            return Answer(403, f"blocked: {reason}\n".encode())
    return None
