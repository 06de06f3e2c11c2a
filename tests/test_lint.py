"""An independent judge: pkilint's PKIX linters over the made CA and one leaf of each kind (``make lint-certs``)."""

import sys
from pathlib import Path

import pytest
from lab import run
from pki import now
from test_signer import authority_for

import cafolder
import signer
from keys import KEY_TYPES, generate
from signer import Authority

LINTERS = Path(sys.executable).parent
NAMES = {
    "DNS": "www.example.com",
    "IPv4": "192.0.2.1",
    "IPv6": "2001:db8::1",
    "long": "a" * 60 + ".example.com",
    "IDN": "xn--mnchen-3ya.de",
    "underscore": "_x.example.com",
}
# RFC 5280 wants DNS names in preferred name syntax, which has no underscore; hosts that have one exist all the same.
KNOWN = {"underscore": ['pkix.invalid_domain_name_syntax (ERROR): Invalid domain name syntax: "_x.example.com"']}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ca")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return authority_for(cafolder.load(folder, now()))


def findings(linter: str, *paths: Path) -> list[str]:
    result = run(LINTERS / linter, "lint", "-s", "WARNING", *paths)
    lines = [line.strip() for line in result.stdout.splitlines() if "(" in line]
    assert (result.returncode == 0) == (not lines), result
    return lines


def test_the_made_ca(folder: Path, authority: Authority) -> None:
    assert authority
    assert findings("lint_pkix_cert", folder / "ca.crt") == []


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("key_type", [KEY_TYPES[0], "rsa2048"])
def test_leaves(folder: Path, authority: Authority, kind: str, key_type: str) -> None:
    leaf = folder / f"{kind}-{key_type}.pem"
    leaf.write_bytes(authority.sign(signer.request(NAMES[kind], generate(key_type))[1], NAMES[kind], now(), []))
    assert findings("lint_pkix_cert", leaf) == KNOWN.get(kind, [])
    assert findings("lint_pkix_signer_signee_cert_chain", folder / "ca.crt", leaf) == []


def test_the_linter_finds_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", bad, "-subj",
        "/CN=x", "-addext", "basicConstraints=CA:TRUE,pathlen:0", "-addext", "subjectAltName=DNS:a b",
    )  # fmt: skip
    assert findings("lint_pkix_cert", bad)
