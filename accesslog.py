"""``AccessLog``: logs each tunnel and, if they are decoded, each HTTP request, in one format to one file."""

from collections.abc import Callable

import requestlog
from exchange import Connection, Exchange
from linefile import LineFile
from record import Record

FORMATS: dict[str, Callable[[Record], str]] = {"text": Record.text, "json": Record.as_json, "combined": Record.combined}


class AccessLog:
    """Lines in one of ``FORMATS``. As an ``Observer`` it logs exchanges."""

    def __init__(self, file: LineFile, form: str) -> None:
        self._file = file
        self._tunnel = FORMATS[form]
        self._request = requestlog.FORMATS[form]

    def connection(self, record: Record) -> None:
        """A tunnel or request has ended."""
        self._file.write(self._tunnel(record))

    def request(self, exchange: Exchange) -> None:
        """Nothing is logged before the exchange has ended."""

    def ended(self, exchange: Exchange) -> None:
        """An exchange has ended."""
        self._file.write(self._request(exchange))

    def noted(self, connection: Connection, what: str) -> None:
        """Nothing: the tunnel's line says so."""

    def reopen(self) -> None:
        """Continue in a new file, after the present one was renamed."""
        self._file.reopen()
