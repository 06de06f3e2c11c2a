"""What the operator wants, checked as far as it can be without touching a file."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from commandline import CommandLine, address
from errors import UsageError
from keys import KEY_TYPES
from names import Target

MAX_DAYS = 397  # Apple refuses leaves of more than 398 days; ours begin two days in the past
_SIGN = ("--sign-cert", "--sign-key", "--sign-serial")


@dataclass(frozen=True, slots=True)
class CaOptions:
    """Which CA signs: a folder, or three files of an operator's, or none."""

    folder: Path | None
    files: tuple[Path, Path, Path] | None  # certificate, key, serial file
    missing: tuple[str, ...]  # those of the three --sign-* that were not given, where some were


@dataclass(frozen=True, slots=True)
class LeafOptions:
    """Where leaves are kept, and how they are made."""

    store: Path
    ca: CaOptions
    key_type: str
    days: int
    crl_url: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """Of a running proxy."""

    leaves: LeafOptions
    capacity: int
    store_max: int | None
    listen: tuple[Target, ...]
    redirect: Target | None
    redirect_tls: bool
    upstream_ca: str | None
    verify_upstream: bool


def proxy_options(line: CommandLine) -> Options:
    """The options of the proxy itself. Raises ``UsageError``."""
    line.required("--store", "--store=certs --max=1000")
    line.required("--max", "--store=certs --max=1000")
    redirect, redirect_tls = line.text("--redirect"), False
    where = None
    if redirect is not None:
        redirect_tls = redirect.startswith("tls://")
        where = address("--redirect", redirect.removeprefix("tls://"), lowest_port=1)
    return Options(
        leaves=leaf_options(line),
        capacity=line.number("--max", 1, what="names kept in memory"),
        store_max=line.number("--store-max", 1, what="certificates kept") if line.text("--store-max") else None,
        listen=tuple(address("--listen", text, lowest_port=0) for text in line.every("--listen")),
        redirect=where,
        redirect_tls=redirect_tls,
        upstream_ca=line.text("--upstream-ca"),
        verify_upstream=not line.flag("--no-verify-upstream"),
    )


def leaf_options(line: CommandLine) -> LeafOptions:
    """The options of whoever makes leaves."""
    return LeafOptions(
        store=store_option(line),
        ca=ca_options(line),
        key_type=line.choice("--key-type", KEY_TYPES),
        days=line.number("--days", 1, MAX_DAYS),
        crl_url=_url(line, "--crl-url"),
    )


def store_option(line: CommandLine) -> Path:
    """The folder of ``--store``."""
    return Path(line.required("--store", "--store=certs"))


def ca_options(line: CommandLine) -> CaOptions:
    """The CA of ``--ca`` or of the three ``--sign-*``."""
    folder = line.path("--ca")
    given = {option: path for option in _SIGN if (path := line.path(option)) is not None}
    if given and folder is not None:
        raise UsageError(f"--ca and {next(iter(given))} exclude each other: the folder of --ca holds all three files")
    missing = tuple(option for option in _SIGN if given and option not in given)
    files = None if missing or not given else (given[_SIGN[0]], given[_SIGN[1]], given[_SIGN[2]])
    return CaOptions(folder, files, missing)


def _url(line: CommandLine, option: str) -> str | None:
    text = line.text(option)
    if text is None:
        return None
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.netloc or not (text.isascii() and text.isprintable()) or " " in text:
        raise UsageError(f"{option}={text}: not an http:// URL, such as http://127.0.0.1:8080/ca.crl")
    return text
