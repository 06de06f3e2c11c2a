"""``Ground``: what the fuzz targets need: a key, a CA and a store, the same in every run, with files in memory."""

import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import ca
from ledger import Ledger
from signer import Authority
from store import Store

NOW = datetime(2027, 1, 1, tzinfo=UTC)  # fixed, so that certificates valid in one run are valid in every run
_MEMORY = "/dev/shm"  # noqa: S108 - we make a folder of our own in it


class Ground:
    """All of it, in a temporary folder that is removed with the process."""

    def __init__(self) -> None:
        in_memory = os.access(_MEMORY, os.W_OK)
        self._folder = tempfile.TemporaryDirectory(prefix="certifier-fuzz-", dir=_MEMORY if in_memory else None)
        self._root = Path(self._folder.name)
        self.key = ec.derive_private_key(1, ec.SECP256R1())  # a well-known one, for which the corpus has certificates
        self.key_pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.store = Store(self._root / "names")
        paths = self.file("ca/ca.crt", self._root_certificate()), self.file("ca/ca.key", self.key_pem)
        self.files = ca.load(*paths, self.file("ca/serial.txt", b"1\n"), NOW)
        self.ledger = Ledger(self._root / "names", self.files.certificate)
        self.authority = Authority(self.files, self.ledger)
        context = ssl.create_default_context()
        self.take_server_name = partial(_wrap, context)

    def file(self, path: str | Path, content: bytes) -> Path:
        """Write a file with this content; ``path`` is relative to the folder."""
        path = self._root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def _root_certificate(self) -> bytes:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fuzz")])
        builder = x509.CertificateBuilder(name, name, self.key.public_key(), 1, NOW, NOW + timedelta(days=3650))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _wrap(context: ssl.SSLContext, server_name: str) -> None:
    """Pass an origin's name to ``ssl``, which encodes it once more, with IDNA."""
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=server_name)
