"""``Downloads``: the CA in the forms that clients accept: PEM, DER, an Apple profile; and its CRL."""

import plistlib
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from gevent.lock import BoundedSemaphore

from signer import Authority
from workers import Workers

_CRL_SECONDS = 3600.0  # a CRL is signed at most this often, however many ask


class Downloads:
    """The downloads of one CA. ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        certificate: x509.Certificate,
        authority: Authority,
        workers: Workers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.der = certificate.public_bytes(Encoding.DER)
        digest = certificate.fingerprint(hashes.SHA256())
        self.fingerprint = digest.hex(":").upper()  # SHA-256, as openssl and browsers show it
        handle = certificate.fingerprint(hashes.SHA1())  # noqa: S303 - by which Windows and macOS find it again
        self.thumbprint = handle.hex().upper()
        self.name = _name_of(certificate)
        self.ends = certificate.not_valid_after_utc
        self.profile = _profile(self.der, self.name, digest)
        self._authority = authority
        self._workers = workers
        self._clock = clock
        self._crl: tuple[float, bytes] | None = None
        self._signing = BoundedSemaphore()

    def revocation_list(self) -> bytes:
        """The CRL as DER, signed at most once an hour. Waits; raises ``RetrievalError`` if the CA can't sign one."""
        with self._signing:  # those who ask meanwhile get what is being signed
            now = self._clock()
            if self._crl is None or not 0 <= now - self._crl[0] < _CRL_SECONDS:  # the clock may have been ahead
                crl = self._workers.run(self._authority.revocation_list, datetime.fromtimestamp(now, UTC))
                self._crl = now, crl
            return self._crl[1]


def _name_of(certificate: x509.Certificate) -> str:
    """Its display name, printable: control characters, as of arrow keys typed into ``openssl req``, break a profile."""
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(common[0].value) if common else certificate.subject.rfc4514_string()
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def _profile(der: bytes, name: str, digest: bytes) -> bytes:
    """A configuration profile for iOS and macOS that holds the certificate and nothing else.

    Its identifiers are derived from the certificate, so that it replaces itself when installed again.
    """

    def identity(what: str) -> dict[str, object]:
        return {
            "PayloadIdentifier": f"certifier.{digest[:8].hex()}.{what}",
            "PayloadUUID": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{digest.hex()}.{what}")).upper(),
            "PayloadVersion": 1,
        }

    certificate = {
        "PayloadType": "com.apple.security.root",
        "PayloadDisplayName": name,
        "PayloadCertificateFileName": "certifier-ca.cer",
        "PayloadContent": der,
        **identity("certificate"),
    }
    return plistlib.dumps(
        {
            "PayloadType": "Configuration",
            "PayloadDisplayName": name,
            "PayloadDescription": "Lets this device trust certificates made by the proxy certifier.",
            "PayloadContent": [certificate],
            **identity("profile"),
        }
    )
