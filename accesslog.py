"""``AccessLog``: logs each tunnel and, if they are decoded, each HTTP request, in one format to one file."""

from collections.abc import Callable

import requestlog
from exchange import Exchange
from linefile import LineFile
from record import Record
from recorder import Observer

FORMATS: dict[str, Callable[[Record], str]] = {"text": Record.text, "json": Record.as_json, "combined": Record.combined}


class AccessLog(Observer):
    """Lines in one of ``FORMATS``. As an ``Observer`` it logs exchanges."""

    def __init__(self, file: LineFile, form: str) -> None:
        self._file = file
        self._tunnel = FORMATS[form]
        self._request = requestlog.FORMATS[form]

    def connection(self, record: Record) -> None:
        """A tunnel or request has ended."""
        self._file.write(self._tunnel(record))

    def ended(self, exchange: Exchange) -> None:
        """An exchange has ended."""
        self._file.write(self._request(exchange))

    def reopen(self) -> None:
        """Continue in a new file, after the present one was renamed."""
        self._file.reopen()
