"""The operator's options as values, checked as far as possible without touching a file. Raises ``UsageError``."""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cafolder
from commandline import CommandLine, address, path
from errors import UsageError
from keys import KEY_TYPES
from limits import Limits
from names import Target

MAX_DAYS = 397  # what Apple advises, see ``certlint.MAX_LIFE``
MAX_WORKERS = 256  # more than machines have cores; a ``Cursor`` names as many
_TLS = "tls://"  # before the target of a redirect that is to be encrypted again
SIGN = ("--sign-cert", "--sign-key", "--sign-serial")


@dataclass(frozen=True, slots=True)
class CaOptions:
    """The CA that signs, by its three files: in a folder of certifier's own, or an operator's. Or no CA."""

    folder: Path | None  # made on first use
    files: tuple[Path, Path, Path] | None  # certificate, key, serial file
    missing: str  # which --sign-* options were not given, in words, if some but not all were


@dataclass(frozen=True, slots=True)
class LeafOptions:
    """Where leaves are kept, and how they are made."""

    store: Path
    ca: CaOptions
    key_type: str
    days: int
    crl_url: str | None


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """Who may use the proxy, and where to. ``ruleset.py`` reads the files named here."""

    auth: Path | None
    allow_from: tuple[str, ...]
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    bypass: tuple[str, ...]
    ports: tuple[range, ...]
    deny_private: bool
    mismatch: str
    non_tls: str
    learn_bypass: int


@dataclass(frozen=True, slots=True)
class SightOptions:
    """What is recorded of the traffic, and where."""

    log_requests: bool
    log_format: str
    log_file: Path | None
    har: Path | None
    har_body_max: int
    har_max: int
    pcap: Path | None
    keylog: Path | None
    taps: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """All options of a running proxy."""

    leaves: LeafOptions
    rules: RuleOptions
    limits: Limits
    sight: SightOptions
    workers: int
    capacity: int
    store_max: int | None
    listen: tuple[Target, ...]
    open: bool
    redirect: Target | None
    redirect_tls: bool
    proxy_protocol: bool
    upstream_ca: str | None
    verify_upstream: bool


def proxy_options(line: CommandLine) -> Options:
    """The options of the proxy itself."""
    line.required("--store", "--store=certs --max=1000")
    line.required("--max", "--store=certs --max=1000")
    redirect = line.text("--redirect")
    where = None if redirect is None else address("--redirect", redirect, lowest_port=1, scheme=_TLS)
    proxy_protocol = line.flag("--proxy-protocol")
    if proxy_protocol and where is None:
        raise UsageError("--proxy-protocol needs --redirect, whose streams it describes")
    return Options(
        leaves=leaf_options(line),
        rules=_rule_options(line),
        limits=_limits(line),
        sight=_sight_options(line),
        workers=_workers(line),
        capacity=line.number("--max", 1, what="names kept in memory"),
        store_max=line.number_if_given("--store-max", 1, what="certificates kept"),
        listen=tuple(address("--listen", text, lowest_port=0) for text in line.every("--listen")),
        open=line.flag("--open"),
        redirect=where,
        redirect_tls=redirect is not None and redirect.startswith(_TLS),
        proxy_protocol=proxy_protocol,
        upstream_ca=line.text("--upstream-ca"),
        verify_upstream=not line.flag("--no-verify-upstream"),
    )


def leaf_options(line: CommandLine) -> LeafOptions:
    """The options for making leaves."""
    return LeafOptions(
        store=store_option(line),
        ca=ca_options(line),
        key_type=line.choice("--key-type", KEY_TYPES),
        days=line.number("--days", 1, MAX_DAYS),
        crl_url=_url(line, "--crl-url"),
    )


def store_option(line: CommandLine) -> Path:
    """The folder of ``--store``."""
    return path("--store", line.required("--store", "--store=certs"))


def ca_options(line: CommandLine) -> CaOptions:
    """The CA of ``--ca`` or of the three ``--sign-*``."""
    folder = line.path("--ca")
    given = {option: found for option in SIGN if (found := line.path(option)) is not None}
    if given and folder is not None:
        raise UsageError(f"--ca and {next(iter(given))} can't both be given: the folder of --ca holds all three files")
    missing = " and ".join(option for option in SIGN if given and option not in given)
    files = None if missing or not given else (given[SIGN[0]], given[SIGN[1]], given[SIGN[2]])
    if folder is not None:
        files = cafolder.files_in(folder)
    return CaOptions(folder, files, missing)


def _rule_options(line: CommandLine) -> RuleOptions:
    return RuleOptions(
        auth=line.path("--auth"),
        allow_from=tuple(line.every("--allow-from")),
        allow=tuple(line.every("--allow")),
        deny=tuple(line.every("--deny")),
        bypass=tuple(line.every("--bypass")),
        ports=_ports(line.text("--ports") or ""),
        deny_private=line.flag("--deny-private"),
        mismatch=line.choice("--mismatch", ("allow", "log", "deny")),
        non_tls=line.choice("--non-tls", ("relay", "refuse")),
        learn_bypass=line.number_if_given("--learn-bypass", 1) or 0,
    )


def _workers(line: CommandLine) -> int:
    supervised = hasattr(signal, "sigtimedwait")  # macOS has none
    if line.text("--workers") == "auto":
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS) if supervised else 1
    count = line.number("--workers", 1, MAX_WORKERS, what="or auto")
    if count > 1 and not supervised:
        raise UsageError(f"--workers={count}: more than one needs sigtimedwait, which this system lacks")
    return count


def _limits(line: CommandLine) -> Limits:
    return Limits(
        connections=line.number("--max-connections", 1),
        client_connections=line.number_if_given("--max-client-connections", 1) or 0,
        head=line.number("--max-head", 1024),
        hello=line.number("--max-hello", 1024, 1 << 20),
        head_timeout=line.number("--head-timeout", 1),
        hello_timeout=line.number("--hello-timeout", 1),
        dial_timeout=line.number("--dial-timeout", 1),
        tls_timeout=line.number("--tls-timeout", 1),
        idle_timeout=line.number("--idle-timeout", 1),
        new_names=line.number("--new-names", 1),
        client_new_names=line.number("--client-new-names", 1),
        log_value=line.number("--max-log-value", 16),
    )


def _sight_options(line: CommandLine) -> SightOptions:
    return SightOptions(
        log_requests=line.flag("--log-requests"),
        log_format=line.choice("--log-format", ("text", "json", "combined")),
        log_file=line.path("--log-file"),
        har=line.path("--har"),
        har_body_max=line.number("--har-body-max", 0),
        har_max=line.number("--har-max", 100_000),
        pcap=line.path("--pcap"),
        keylog=line.path("--keylog") or (Path(found) if (found := os.environ.get("SSLKEYLOGFILE")) else None),
        taps=tuple(Path(text) for text in line.every("--tap")),
    )


def _ports(text: str) -> tuple[range, ...]:
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= 65535:
            raise UsageError(f"--ports={text}: not a list of ports and ranges such as 80,443,1024-65535")
        found.append(range(low, high + 1))
    return tuple(found)


def _url(line: CommandLine, option: str) -> str | None:
    text = line.text(option)
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        good = parts.scheme == "http" and parts.hostname is not None and parts.port != 0
    except ValueError:  # no IPv6 address in the brackets, or a port that is not a number
        good = False
    if not good or not (text.isascii() and text.isprintable()) or " " in text:
        raise UsageError(f"{option}={text}: not an http:// URL, such as http://127.0.0.1:8080/ca.crl")
    return text
