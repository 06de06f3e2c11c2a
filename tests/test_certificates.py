"""Certificates that others wrote: whatever is wrong with one, the error is the same."""

import base64
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from lab import HERE, run
from pki import TestCA, now
from test_ca import write

import ca
import certificates
from certificates import Unreadable
from errors import UsageError
from ledger import Ledger
from pruning import prune
from store import Store
from stored import MARK

CA = TestCA("op")
GOOD = CA.issue("a.example", with_key=False)
CERTIFICATE = x509.load_pem_x509_certificate(GOOD)
DER = CERTIFICATE.public_bytes(Encoding.DER)
BEGINS = f"{CERTIFICATE.not_valid_before_utc:%y%m%d%H%M%S}".encode()

SPOILERS = {  # octets of its DER, so many that its keys and signatures do not hold them by chance; their replacement
    "a version that there is not": (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x08"),
    "a point that is none": (b"\x03\x42\x00\x04", b"\x03\x42\x00\x05"),
    "a curve that nobody knows": (bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")),
    "an extension twice": (b"\x06\x03\x55\x1d\x13", b"\x06\x03\x55\x1d\x0f"),
    "a kind of name that nobody uses": (b"\x82\x09a.example", b"\xa3\x09a.example"),
    "a date that is none": (BEGINS + b"Z", BEGINS + b"X"),
    "a length that is too long": (DER[:4], b"\x30\x82\xff\xff"),
    "a subject that is no text": (b"\x0c\x09a.", b"\x0c\x09\xff\xff"),
    "an issuer that is no text": (b"\x0c\x02op", b"\x0c\x02\xff\xff"),
}

FAR = x509.load_pem_x509_certificate(
    CA.issue("a.example", with_key=False, begins=timedelta(days=15_000), ends=timedelta(days=20_000))
)  # from 2050 on, years have four digits


def spoiled(spoiler: str) -> bytes:
    old, new = SPOILERS[spoiler]
    assert DER.count(old) == 1
    return pem(DER.replace(old, new))


def in_year_0(moment: datetime) -> bytes:
    der, year = FAR.public_bytes(Encoding.DER), b"\x18\x0f%d" % moment.year
    assert der.count(year) == 1
    return pem(der.replace(year, b"\x18\x0f0000"))


def pem(der: bytes) -> bytes:
    """Encode by hand: cryptography writes only what it can parse."""
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_certificates_that_can_be_read() -> None:
    assert [c.subject for c in certificates.read(GOOD + CA.pem)] == [certificates.first(GOOD).subject, CA.name]
    assert certificates.first(pem(DER)) == certificates.first(GOOD + b"rubbish")


def test_a_serial_number_that_is_not_positive_is_read_in_silence() -> None:
    der = bytearray(DER)
    der[der.index(b"\xa0\x03\x02\x01\x02\x02") + 7] = 0x80
    code = "import sys, certificates; print(certificates.first(sys.stdin.buffer.read()).serial_number < 0)"
    done = run(sys.executable, "-c", code, input=pem(bytes(der)).decode(), cwd=HERE)
    assert (done.stdout, done.stderr) == ("True\n", "")


BAD = {spoiler: spoiled(spoiler) for spoiler in SPOILERS} | {
    "empty": b"",
    "rubbish": b"rubbish",
    "a begin in the year 0": in_year_0(FAR.not_valid_before_utc),
    "an end in the year 0": in_year_0(FAR.not_valid_after_utc),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_certificate_cannot_be_read(text: bytes, tmp_path: Path) -> None:
    for read in (certificates.read, certificates.first):
        with pytest.raises(Unreadable):
            read(text)
    if b"CERTIFICATE" in text:
        with pytest.raises(Unreadable):
            certificates.read(GOOD + text)
    # Wherever such a certificate is found, nothing else suffers.
    paths = write(tmp_path, CA)
    paths[0].write_bytes(text)
    with pytest.raises(UsageError, match="holds no PEM certificate that can be read: "):
        ca.load(*paths, now())
    store = Store(tmp_path / "certs")
    (store.root / "abc").mkdir()
    (store.root / "abc" / "a.crt").write_bytes(MARK + text)
    serials = (certificates.issuer_and_serial(GOOD)[1], FAR.serial_number)  # what is wrong may be elsewhere
    assert Ledger(store.root, CA.certificate).read(print) in (0, *serials)
    assert [gone.reason for gone in prune(store, now().timestamp()).removed] == [
        "holds no certificate that can be read"
    ]
