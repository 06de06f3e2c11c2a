"""Block requests by URL, and say why: python certifier.py … --tap=examples/taps/block.py

Edit BLOCKED: pairs of a regular expression for the whole URL, and the reason that the client is told.
"""

import re

from taps import Answer

REWRITE = True  # this tap answers requests

BLOCKED = [
    (r"https?://[^/]*\.?example\.com/admin(/|\?|$)", "the admin pages are not for crawlers"),
    (r".*\.(exe|msi)(\?|$)", "no programs from the Internet"),
]


def request(exchange):
    """Called for each request before it goes on."""
    for pattern, reason in BLOCKED:
        if re.match(pattern, exchange.url):
            return Answer(403, f"blocked: {reason}\n".encode())
    return None
