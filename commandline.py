"""``CommandLine``: the arguments of one command, checked, and parsed by docopt according to the command's manual.

docopt 0.6.2 accepts abbreviations (a mistyped option may set another one) and, on a mismatch, prints the usage
without a reason. So each argument is checked before docopt sees it.
"""

import difflib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import names
from errors import ClientError, UsageError
from names import Target

with warnings.catch_warnings():  # docopt's source has invalid escapes: noise at its first import
    warnings.simplefilter("ignore")
    import docopt


_DIGITS = 15  # of a number: more is a typo, and ``int`` refuses thousands


class CommandLine:
    """The arguments given for a manual. Methods raise ``UsageError`` with one line that says what to do.

    ``command`` is the name of the subcommand, ``operands`` are those that it takes; without one, ``commands`` are those
    that there are. ``--help`` and ``--version`` print and exit with 0.
    """

    def __init__(
        self,
        manual: str,
        argv: list[str],
        version: str,
        command: str = "",
        operands: Sequence[str] = (),
        commands: Iterable[str] = (),
    ) -> None:
        self._program = f"certifier.py {command}".rstrip()
        self._commands = commands
        self._repeatable = set(re.findall(r"\[(--[a-z-]+)=<[^>]*>\]\.\.\.", manual))
        argv = self._check(manual, argv, operands)
        self._given: dict[str, Any] = docopt.docopt(manual, [command, *argv] if command else argv, version=version)

    def text(self, option: str) -> str | None:
        """The value of an option or operand; None if it was not given."""
        return self._given[option] or None

    def required(self, option: str, example: str) -> str:
        """The value of a required option or operand."""
        value = self.text(option)
        if value is None:
            raise UsageError(f"{option} is required, as in: {self._program} {example}; see --help")
        return value

    def flag(self, option: str) -> bool:
        """Whether an option that takes no value was given."""
        return bool(self._given[option])

    def every(self, option: str) -> list[str]:
        """The values of a repeatable option."""
        return list(self._given[option])

    def path(self, option: str) -> Path | None:
        """The value as a path; None if it was not given."""
        value = self.text(option)
        return None if value is None else path(option, value)

    def number(self, option: str, lowest: int, highest: int | None = None, what: str = "") -> int:
        """The value as a whole number in a range."""
        text = self.text(option) or ""
        if text.isascii() and text.isdigit() and len(text) <= _DIGITS and lowest <= int(text) <= (highest or int(text)):
            return int(text)
        if highest is None and len(text) > _DIGITS:
            highest = 10**_DIGITS - 1
        span = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise UsageError(f"{option}={text}: not a whole number {span}{f' ({what})' if what else ''}")

    def number_if_given(self, option: str, lowest: int, what: str = "") -> int | None:
        """The same; None if it was not given."""
        return None if self.text(option) is None else self.number(option, lowest, what=what)

    def choice(self, option: str, among: tuple[str, ...]) -> str:
        """The value, which must be one of several words."""
        text = self.text(option) or ""
        if text not in among:
            raise UsageError(f"{option}={text}: not one of {', '.join(among)}")
        return text

    def _check(self, manual: str, argv: list[str], operands: Sequence[str]) -> list[str]:
        """Check each argument; return those for docopt: all, or the first ``--help`` or ``--version`` alone."""
        takes_value = {
            word: bool(option.argcount)
            for option in docopt.parse_defaults(manual)  # type: ignore[attr-defined]  # the stubs leave it out
            for word in (option.short, option.long)
            if word
        }
        seen = set()
        missing = list(operands)
        words = iter(argv)
        for word in words:
            option, equals, value = word.partition("=")
            if not word.startswith("-") or word == "-":
                if not missing:
                    near = difflib.get_close_matches(word, self._commands, n=1)
                    hint = f"did you mean {self._program} {near[0]} ...?" if near else "see --help"
                    raise UsageError(f"unexpected argument {word!r}; {hint}")
                del missing[0]
                continue
            if option not in takes_value:
                near = difflib.get_close_matches(option, takes_value, n=1)
                raise UsageError(f"unknown option {option}; {f'did you mean {near[0]}?' if near else 'see --help'}")
            if takes_value[option]:
                value = value if equals else next(words, "")
                if not value or (not equals and (value.startswith("--") or value in takes_value)):  # the next option
                    raise UsageError(f"{option} needs a value: {option}=...")
            elif equals:
                raise UsageError(f"{option} takes no value")
            if option in seen and option not in self._repeatable:
                raise UsageError(f"{option} is given twice")
            if option in ("-h", "--help", "--version"):
                return [option]  # whatever else is given
            seen.add(option)
        if missing:
            raise UsageError(f"{missing[0]} is missing; see {self._program} --help")
        return argv


def path(option: str, text: str) -> Path:
    """An option's path. Raises ``UsageError`` if it is relative to nothing: using it would only say "no such file"."""
    if not os.path.isabs(text):
        try:
            os.getcwd()
        except FileNotFoundError as error:
            raise UsageError(f"{option}: {text} is a relative path, and the working directory was removed") from error
    return Path(text)


def address(option: str, text: str, lowest_port: int, scheme: str = "") -> Target:
    """Parse an option's ``HOST:PORT``, optionally preceded by ``scheme``. Raises ``UsageError``."""
    try:
        return names.target(text.removeprefix(scheme), lowest_port=lowest_port)
    except ClientError as error:
        wanted = f"HOST:PORT or {scheme}HOST:PORT" if scheme else "HOST:PORT"
        raise UsageError(f"{option}={text}: not {wanted}, such as 127.0.0.1:8080 or [::1]:8080") from error
