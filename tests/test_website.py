from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from pki import TestCA
from test_contexts import Clock
from test_signer import authority_for, files

from website import Website
from workers import Workers


@pytest.mark.parametrize(
    ("method", "path", "ca", "status"),
    [
        ("GET", "/", None, 200), ("GET", "/?x", b"PEM", 200), ("HEAD", "/", None, 200), ("POST", "/", None, 405),
        ("GET", "/ca.crt", b"PEM", 200), ("GET", "/ca.crt", None, 404), ("GET", "/../ca.crt", b"PEM", 404),
        ("GET", "*", b"PEM", 404), ("PUT", "/x", None, 404), ("GET", "/ca.crl", None, 404),
    ],
)  # fmt: skip
def test_statuses(method: str, path: str, ca: bytes | None, status: int) -> None:
    website = Website(Workers())
    website.use(ca, None)
    found, reply = website.answer(method, path, "127.0.0.1:8080")
    assert found == status
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    assert reply.endswith(b"\r\n\r\n") == (method == "HEAD")


def test_the_crl_is_signed_once_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    website = Website(Workers(), clock)
    authority = TestCA("op")

    def crl() -> x509.CertificateRevocationList:
        status, reply = website.answer("GET", "/ca.crl", "x")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert status == 200
        assert b"\r\nContent-Type: application/pkix-crl\r\n" in head
        return x509.load_der_x509_crl(body)

    website.use(authority.pem, authority_for(files(tmp_path, authority)))
    first = crl()
    assert first.is_signature_valid(authority.key.public_key())
    assert list(first) == []
    clock.advance(minutes=59)
    assert crl() == first
    clock.advance(minutes=2)
    again = crl()
    assert again != first
    assert again.next_update_utc
    assert again.next_update_utc - datetime.fromtimestamp(clock.time, UTC) > timedelta(days=6)
    another = TestCA("another")
    website.use(another.pem, authority_for(files(tmp_path, another)))
    assert crl().is_signature_valid(another.key.public_key())
