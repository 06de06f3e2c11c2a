"""Add a credential to requests to one host, so that the client need never hold it:

    CREDENTIAL='Bearer …' python certifier.py … --tap=examples/taps/credential.py

A sandboxed agent calls https://api.example.com/ without a token; the origin gets one. Whatever Authorization the client
sends to that host itself is replaced. Set HOST to yours. The client can still see what the origin answers.
"""

import os

REWRITE = True  # this tap changes requests

HOST = os.environ.get("CREDENTIAL_HOST", "api.example.com")
CREDENTIAL = os.environ.get("CREDENTIAL", "").encode()
if not CREDENTIAL:
    raise ValueError("set CREDENTIAL to what Authorization shall hold, such as 'Bearer …'")


def request(exchange):
    """Called for each request before it goes on."""
    # By the name that the origin was verified for: Host is the client's choice. That must be the same, however: a CDN
    # that serves HOST may pass a request with another Host on to somebody else.
    verified = exchange.connection.authority
    if exchange.connection.scheme != "https" or verified.partition(":")[0] != HOST:
        return
    if exchange.authority.lower().removesuffix(":443") != verified:
        return
    if exchange.method.upper() == "TRACE":  # some origins answer it with the request's own fields
        return
    kept = [(name, value) for name, value in exchange.request_fields if name.lower() != b"authorization"]
    exchange.request_fields = [*kept, (b"Authorization", CREDENTIAL)]
