import plistlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from lab import WAIT, run
from pki import TestCA
from test_contexts import Clock
from test_signer import authority_for, files

from downloads import Downloads
from workers import Workers


def downloads(folder: Path, authority: TestCA, clock: Clock | None = None) -> Downloads:
    certificate = x509.load_pem_x509_certificate(authority.pem)
    return Downloads(certificate, authority_for(files(folder, authority)), Workers(), clock or Clock())


def test_pem_der_and_fingerprint_as_openssl_has_them(tmp_path: Path) -> None:
    authority = TestCA("An operator's CA")
    offered = downloads(tmp_path, authority)
    assert offered.pem == authority.pem
    (tmp_path / "ca.der").write_bytes(offered.der)
    words = ("-noout", "-sha256", "-fingerprint", "-subject", "-nameopt", "multiline,-esc_msb")
    shown = run("openssl", "x509", "-inform", "DER", "-in", tmp_path / "ca.der", *words).stdout
    assert f"ingerprint={offered.fingerprint}\n" in shown
    assert "= An operator's CA\n" in shown
    assert offered.name == "An operator's CA"


def test_the_apple_profile(tmp_path: Path) -> None:
    authority, other = TestCA("op"), TestCA("op")
    offered = downloads(tmp_path, authority)
    assert offered.profile.startswith(b"<?xml")
    profile = plistlib.loads(offered.profile)
    assert (profile["PayloadType"], profile["PayloadVersion"]) == ("Configuration", 1)
    (payload,) = profile["PayloadContent"]
    assert payload["PayloadType"] == "com.apple.security.root"
    assert payload["PayloadContent"] == offered.der
    assert b"PRIVATE" not in offered.profile
    identities = {entry[key] for entry in (profile, payload) for key in ("PayloadUUID", "PayloadIdentifier")}
    assert len(identities) == 4
    assert downloads(tmp_path, authority).profile == offered.profile
    again = plistlib.loads(downloads(tmp_path, other).profile)
    assert again["PayloadUUID"] != profile["PayloadUUID"]


@pytest.mark.parametrize("odd", ["\x1b[D", "\0", "\uffff"])
def test_a_name_that_holds_what_no_profile_takes(tmp_path: Path, odd: str) -> None:
    offered = downloads(tmp_path, TestCA(f"My {odd} CA"))
    shown = f"My \ufffd{odd[1:]} CA"
    assert (offered.name, plistlib.loads(offered.profile)["PayloadDisplayName"]) == (shown, shown)


def test_the_crl_is_signed_once_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    authority = TestCA("op")
    offered = downloads(tmp_path, authority, clock)

    def crl() -> x509.CertificateRevocationList:
        return x509.load_der_x509_crl(offered.revocation_list())

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


def test_those_who_ask_at_once_get_the_same_crl(tmp_path: Path) -> None:
    offered = downloads(tmp_path, TestCA("op"))
    asked = [gevent.spawn(offered.revocation_list) for _ in range(20)]
    assert len({each.get(timeout=WAIT) for each in asked}) == 1  # each signature is another


@pytest.mark.parametrize("subject", [x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example, Inc.")])])
def test_a_ca_without_a_common_name_has_its_whole_name(tmp_path: Path, subject: x509.Name) -> None:
    authority = TestCA("op")
    certificate = x509.load_pem_x509_certificate(authority.pem)
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=certificate.public_key(),
        serial_number=1,
        not_valid_before=certificate.not_valid_before_utc,
        not_valid_after=certificate.not_valid_after_utc,
    )
    named = builder.sign(authority.key, certificate.signature_hash_algorithm)  # type: ignore[arg-type]
    offered = Downloads(named, authority_for(files(tmp_path, authority)), Workers())
    assert offered.name == r"O=Example\, Inc."
