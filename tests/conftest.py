"""Fixtures: a PKI per session, and the program as its users start it."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import faultlab
import pytest
from hypothesis import HealthCheck, settings
from lab import Origin, Program, echo, http_origin
from pki import TestCA
from storeroom import Room

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compile the program once for its thousand starts

# How long an example takes depends on the machine; hypothesis fails it after 200 ms by default.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def origin_ca() -> TestCA:
    return TestCA("origins' CA")


@pytest.fixture(scope="session")
def roots(origin_ca: TestCA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roots") / "origins.pem"
    path.write_bytes(origin_ca.pem)
    return path


@pytest.fixture(scope="session")
def certificate(origin_ca: TestCA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good certificate for an origin with several names."""
    path = tmp_path_factory.mktemp("origin") / "origin.pem"
    path.write_bytes(origin_ca.issue("localhost", "127.0.0.1", "::1", "www.example.com", "example.com"))
    return path


@pytest.fixture
def origin(certificate: Path) -> Iterator[Origin]:
    with Origin(http_origin, certificate) as server:
        yield server


@pytest.fixture
def echo_origin(certificate: Path) -> Iterator[Origin]:
    with Origin(echo, certificate) as server:
        yield server


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.fixture(scope="session")
def program(roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A running certifier that has its own CA and trusts the test origins."""
    folder = tmp_path_factory.mktemp("program")
    with Program(folder, "--store=certs", "--max=100", "--ca=ca", f"--upstream-ca={roots}") as running:
        yield running


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], faultlab.Faulty]]:
    """Programs with fault injection, by their options."""
    with faultlab.programs(tmp_path_factory.mktemp) as started:
        yield started
