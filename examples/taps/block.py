"""Block requests by URL, and say why: python certifier.py … --tap=examples/taps/block.py

Edit BLOCKED: pairs of a regular expression for the whole URL, and the reason that the client is told. There
hosts are in lower case, without a default port.
"""

import re

from taps import Answer

REWRITE = True  # this tap answers requests

BLOCKED = [
    (r"https?://([^/]*\.)?example\.com(:\d+)?/admin(/|\?|$)", "the admin pages are not for crawlers"),
    (r".*\.(exe|msi)(\?|$)", "no programs from the Internet"),
]


def request(exchange):
    """Called for each request before it goes on."""
    # Also by the name that the origin was verified for: Host is what the client chose, and origins may not care.
    path = re.sub(r"^[A-Za-z]+://[^/?]*", "", exchange.target)
    verified = f"{exchange.connection.scheme}://{exchange.connection.authority}{path}"
    for pattern, reason in BLOCKED:
        if re.match(pattern, exchange.url) or re.match(pattern, verified):
            return Answer(403, f"blocked: {reason}\n".encode())
    return None
