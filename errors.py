"""Errors, grouped by whose fault they are, each with the reply that the client gets.

A ``CertifierError`` is a failure that certifier expects: the operator, the client, the policy, the origin
or our own machine is at fault, and the class determines the reply. ``str(error)`` is one plain sentence
for the log and the body of the reply. Any other exception is a bug.

``status``        HTTP status code of the reply (RFC 9110 §15)
``reason``        its reason phrase: the only part that curl, Go and Python show for a failed CONNECT
``proxy_status``  error token of the Proxy-Status field (RFC 9209 §2.3)
``alert``         TLS alert description, where the reply can only be an alert (RFC 8446 §6)
``fields``        further fields of the reply
``outcome``       what the log calls it; the token of Proxy-Status if empty
``refusal``       the rule that refused it, if one did: one word, under which it is counted
"""

from typing import ClassVar, Self

HANDSHAKE_FAILURE = 40
ACCESS_DENIED = 49
DECODE_ERROR = 50
INTERNAL_ERROR = 80
UNRECOGNIZED_NAME = 112
NO_APPLICATION_PROTOCOL = 120


class CertifierError(Exception):
    """Base class of all expected failures."""

    status = 500
    reason = "Internal error"
    proxy_status = "proxy_internal_error"
    alert = INTERNAL_ERROR
    fields: ClassVar[dict[str, str]] = {}
    outcome = ""
    refusal = ""

    def again(self) -> Self:
        """A copy without a traceback, to be kept, or to be raised for one more waiter.

        The traceback of a raised error holds frames, and these hold what they refer to, the kept error included: a
        cycle that only the garbage collector frees, and all such cycles at once.
        """
        return type(self)(*self.args)


class UsageError(CertifierError):
    """The operator's fault: a bad option, file or key. Ends the program with exit status 2."""


class RetrievalError(CertifierError):
    """Our fault: no certificate could be obtained for a name (disk, serial file, key)."""

    reason = "No certificate could be made"


class NotServable(RetrievalError):
    """Our fault: OpenSSL does not accept the certificate or the key of a name."""


class OutOfResources(CertifierError):
    """Our fault: no descriptor, port, memory or thread is left for a connection."""

    status = 503
    reason = "Proxy out of resources"
    fields: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class TooManyConnections(CertifierError):
    """Our limit: no more connections, or checks of passwords, at a time."""

    status = 503
    reason = "Too many connections"
    proxy_status = "connection_limit_reached"
    refusal = "connections"
    fields: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class TooManyOnlookers(TooManyConnections):
    """Our limit: no more clients may watch live data."""

    reason = "Too many are watching already"


# The client's fault


class ClientError(CertifierError):
    """The client sent something malformed."""

    status = 400
    reason = "Bad request"
    proxy_status = "http_request_error"
    alert = DECODE_ERROR


class HeadTooLarge(ClientError):
    """Its request head is larger than we accept."""

    status = 431
    reason = "Request head too large"


class RequestTimeout(ClientError):
    """It began a request and did not complete it in time (RFC 9110 §15.5.9)."""

    status = 408
    reason = "Request not complete in time"


class HelloError(ClientError):
    """Its ClientHello is malformed, incomplete or larger than we accept."""


class HelloTimeout(ClientError):
    """Neither side of a tunnel sent enough in time to tell which protocol it is."""

    outcome = "hello-timeout"


class TooManyOfClient(ClientError):
    """It has more connections than one client may have."""

    status = 429
    reason = "Too many connections from this client"
    proxy_status = "connection_limit_reached"
    alert = INTERNAL_ERROR
    refusal = "client-connections"
    fields: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class TooManyNames(ClientError):
    """It asks for new certificates faster than it may, or all clients together do."""

    status = 429
    reason = "Too many new names"
    alert = INTERNAL_ERROR
    outcome = "too-many-new-names"
    refusal = "new-names"


class NoSharedGroup(ClientError):
    """Its ClientHello would lead to a key exchange in a finite field, which we refuse."""

    alert = HANDSHAKE_FAILURE


class NoSharedProtocol(ClientError):
    """It offers no application protocol that can be spoken here (RFC 7301 §3.2)."""

    alert = NO_APPLICATION_PROTOCOL


# The policy's decision


class Refused(CertifierError):
    """Not allowed by the policy."""

    status = 403
    reason = "Refused by policy"
    proxy_status = "http_request_denied"
    alert = ACCESS_DENIED
    refusal = "policy"


class AuthenticationRequired(Refused):
    """Not allowed without a valid name and password (RFC 9110 §11.7)."""

    status = 407
    reason = "Proxy authentication required"
    refusal = "authentication"
    fields: ClassVar[dict[str, str]] = {"Proxy-Authenticate": 'Basic realm="certifier", charset="UTF-8"'}


class Misdirected(Refused):
    """The CONNECT host, the server name and the Host field disagree (``--mismatch=deny``)."""

    status = 421
    reason = "Host differs from the name that was connected to"
    refusal = "mismatch"


class NotTls(Refused):
    """A tunnel that is not TLS, or whose origin speaks first (``--non-tls=refuse``)."""

    outcome = "not-tls"
    refusal = "not-tls"


class UnknownName(Refused):
    """TLS with neither a usable server_name nor a CONNECT host (RFC 6066 §3)."""

    alert = UNRECOGNIZED_NAME
    refusal = "no-name"


class LoopDetected(Refused):
    """The target is the proxy itself."""

    status = 508
    reason = "Target is the proxy itself"
    proxy_status = "proxy_loop_detected"
    refusal = "loop"


# The origin's fault


class OriginError(CertifierError):
    """The origin can't be reached, or is not who it should be."""

    status = 502
    reason = "Origin unreachable"
    proxy_status = "destination_ip_unroutable"


class OriginNotFound(OriginError):
    """Its name does not resolve."""

    reason = "Origin name not found"
    proxy_status = "dns_error"


class OriginLookupFailed(OriginNotFound):
    """No name server said whether its name resolves."""

    reason = "Origin name lookup failed"


class OriginLookupTimeout(OriginError):
    """Its name did not resolve in time."""

    status = 504
    reason = "Origin name lookup timed out"
    proxy_status = "dns_timeout"


class OriginRefused(OriginError):
    """Nothing listens on its port."""

    reason = "Origin refused the connection"
    proxy_status = "connection_refused"


class OriginTimeout(OriginError):
    """It did not answer in time."""

    status = 504
    reason = "Origin connection timed out"
    proxy_status = "connection_timeout"


class OriginSilent(OriginError):
    """It accepted the request and sent no response in time."""

    status = 504
    reason = "Origin sent no response in time"
    proxy_status = "connection_read_timeout"


class OriginTlsError(OriginError):
    """Its TLS handshake failed."""

    reason = "Origin TLS handshake failed"
    proxy_status = "tls_protocol_error"


class OriginAlert(OriginTlsError):
    """It ended TLS with an alert."""

    proxy_status = "tls_alert_received"


class OriginWantsCertificate(OriginAlert):
    """It requires a client certificate, and said so."""

    reason = "Origin wants a client certificate"


class OriginLeftWithoutCertificate(OriginWantsCertificate):
    """It asked for a client certificate, and closed the connection when it got none."""

    proxy_status = "connection_terminated"


class OriginRenegotiates(OriginTlsError):
    """It wanted to renegotiate, as servers of TLS 1.2 do for a client certificate, and ended the connection."""

    reason = "Origin wants to renegotiate TLS"


class OriginCertificateError(OriginError):
    """Its certificate does not verify."""

    reason = "Origin certificate not trusted"
    proxy_status = "tls_certificate_error"


class OriginProtocolError(OriginError):
    """Its response is not valid HTTP/1."""

    reason = "Origin sent a malformed response"
    proxy_status = "http_protocol_error"


class OriginGone(OriginError):
    """It closed the connection before its response was complete."""

    reason = "Origin closed the connection"
    proxy_status = "connection_terminated"
