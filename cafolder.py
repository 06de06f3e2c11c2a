"""The folder of ``--ca``: a CA's three files, ``ca.crt``, ``ca.key`` and ``serial.txt``, made on first use."""

import errno
import os
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import ca
import files
import reading
from errors import UsageError
from keys import generate
from leaf import BACKDATED
from serials import SerialFile

VALIDITY = timedelta(days=3653)  # ten years


def load(folder: Path, now: datetime) -> ca.CaFiles:
    """The CA in a folder: a new root if there is no ``ca.crt``. Raises ``UsageError`` as ``ca.load`` does.

    An existing key or serial file is used for it: an interrupted start left it behind, or an operator put it there.
    """
    certificate, key, serials = files_in(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.locked(folder / ".lock"):  # two programs started at once must make one CA
            if is_new := _is_missing(certificate):
                _make(certificate, key, serials, now)
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        if os.path.isfile(certificate):  # on a disk that is mounted read-only, as secrets are in containers
            hint = "--sign-cert, --sign-key and --sign-serial take its files from different folders"
            raise UsageError(f"can't use the CA in {folder}, which must be writable: {reason}; {hint}") from error
        raise UsageError(f"can't use or make a CA in {folder}: {reason}") from error
    return replace(ca.load(certificate, key, serials, now), is_new=is_new)


def files_in(folder: Path) -> tuple[Path, Path, Path]:
    """Certificate, key and serial file of the CA in a folder."""
    return folder / "ca.crt", folder / "ca.key", folder / "serial.txt"


def _is_missing(path: Path) -> bool:
    """Whether there is no such file. Raises ``OSError`` for a link to one that is not there: it may yet be mounted."""
    if reading.exists(path):
        return False
    if path.is_symlink():
        raise FileNotFoundError(errno.ENOENT, f"{path} is a link to a file that does not exist")
    return True


def _make(certificate_path: Path, key_path: Path, serial_path: Path, now: datetime) -> None:
    if _is_missing(key_path):
        key = generate("p256")
        files.write_new(key_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    else:
        key = ca.load_key(key_path)
    if not reading.exists(serial_path):
        SerialFile(serial_path).create()
    # Firefox refuses a second CA with the same issuer and serial number: each gets a name of its own.
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"certifier CA {secrets.token_hex(4)}")])
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The certificate is written last: a folder that has it has all three.
    files.write_new(certificate_path, certificate.public_bytes(Encoding.PEM), mode=0o644)
