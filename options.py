"""The command line: docopt reads it by its manual, and what docopt leaves unchecked or unsaid is checked and said here.

docopt 0.6.2 accepts abbreviations (an ``--allow`` mistyped for another option would set something else) and on a
mismatch shows its usage without a reason. So each word is looked at before it gets there.
"""

import difflib
import warnings
from dataclasses import dataclass
from pathlib import Path

import names
from errors import ClientError, UsageError
from keys import KEY_TYPES
from names import Target

with warnings.catch_warnings():  # docopt's source has invalid escapes: noise at its first import
    warnings.simplefilter("ignore")
    import docopt

MAX_DAYS = 397  # Apple refuses leaves of more than 398 days; ours begin two days in the past
REPEATABLE = {"--listen"}


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator wants, checked as far as it can be without touching a file."""

    store: Path
    capacity: int
    ca: Path | None
    sign: tuple[Path, Path, Path] | None  # certificate, key, serial file: all three or none
    missing: tuple[str, ...]  # those of the three --sign-* that were not given, where some were
    listen: tuple[Target, ...]
    redirect: Target | None
    redirect_tls: bool
    upstream_ca: str | None
    verify_upstream: bool
    key_type: str
    days: int


def parse(manual: str, argv: list[str], version: str) -> Options:
    """The options of a command line. Raises ``UsageError``; ``--help`` and ``--version`` print and exit with 0."""
    _check_words(manual, argv)
    given = docopt.docopt(manual, argv, version=version)
    for option in ("--store", "--max"):
        if not given[option]:
            raise UsageError(f"{option} is missing: certifier.py --store=certs --max=1000; see --help")
    if not (given["--max"].isascii() and given["--max"].isdigit() and int(given["--max"]) >= 1):
        raise UsageError(f"--max={given['--max']}: not a whole number from 1 on (names kept in memory)")
    if given["--key-type"] not in KEY_TYPES:
        raise UsageError(f"--key-type={given['--key-type']}: not one of {', '.join(KEY_TYPES)}")
    if not (given["--days"].isascii() and given["--days"].isdigit() and 1 <= int(given["--days"]) <= MAX_DAYS):
        raise UsageError(f"--days={given['--days']}: not a whole number from 1 to {MAX_DAYS}")
    three = ("--sign-cert", "--sign-key", "--sign-serial")
    present = [option for option in three if given[option]]
    if present and given["--ca"]:
        raise UsageError(f"--ca and {present[0]} exclude each other: the folder of --ca holds all three files")
    redirect, redirect_tls = given["--redirect"], False
    if redirect is not None:
        redirect_tls = redirect.startswith("tls://")
        redirect = _address("--redirect", redirect.removeprefix("tls://"), lowest_port=1)
    return Options(
        store=Path(given["--store"]),
        capacity=int(given["--max"]),
        ca=Path(given["--ca"]) if given["--ca"] else None,
        sign=(Path(given[three[0]]), Path(given[three[1]]), Path(given[three[2]])) if len(present) == 3 else None,
        missing=tuple(option for option in three if present and option not in present and len(present) < 3),
        listen=tuple(_address("--listen", text, lowest_port=0) for text in given["--listen"]),
        redirect=redirect,
        redirect_tls=redirect_tls,
        upstream_ca=given["--upstream-ca"],
        verify_upstream=not given["--no-verify-upstream"],
        key_type=given["--key-type"],
        days=int(given["--days"]),
    )


def _address(option: str, text: str, lowest_port: int) -> Target:
    try:
        return names.target(text, lowest_port=lowest_port)
    except ClientError as error:
        raise UsageError(f"{option}={text}: not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080") from error


def _check_words(manual: str, argv: list[str]) -> None:
    takes_value = {
        word: bool(option.argcount)
        for option in docopt.parse_defaults(manual)  # type: ignore[attr-defined]  # the stubs leave it out
        for word in (option.short, option.long)
        if word
    }
    seen = set()
    words = iter(argv)
    for word in words:
        option, equals, _ = word.partition("=")
        if not word.startswith("-"):
            raise UsageError(f"unexpected argument {word!r}; see --help")
        if option not in takes_value:
            near = difflib.get_close_matches(option, takes_value, n=1)
            raise UsageError(f"unknown option {option}; {f'is {near[0]} meant?' if near else 'see --help'}")
        if takes_value[option] and not equals and next(words, None) is None:
            raise UsageError(f"{option} needs a value: {option}=...")
        if equals and not takes_value[option]:
            raise UsageError(f"{option} takes no value")
        if option in seen and option not in REPEATABLE:
            raise UsageError(f"{option} is given twice")
        seen.add(option)
