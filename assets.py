"""``Assets``: the files of the page, read once. The HTML has placeholders, ``{{name}}``, for facts about this proxy."""

import hashlib
import html
import os
import re
from dataclasses import dataclass
from pathlib import Path

from errors import UsageError

FOLDER = Path(__file__).parent / "page"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PLACE = re.compile(r"\{\{([a-z_]+)\}\}")


@dataclass(frozen=True, slots=True)
class Asset:
    """A body, its media type, and a tag that changes with it (RFC 9110 §8.8.3)."""

    kind: str
    body: bytes
    tag: str


class Assets:
    """The files in a folder. Raises ``UsageError`` if they can't be read."""

    def __init__(self, folder: Path = FOLDER) -> None:
        try:
            contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
            self._files = {
                f"/{name}": asset(kind, body)
                for name, body in contents.items()
                if (kind := _KINDS.get(os.path.splitext(name)[1])) is not None
            }
            self._fragments = {name: body.decode() for name, body in contents.items() if name.endswith(".html")}
            self.index({}, trust=False)
        except (OSError, KeyError) as error:
            raise UsageError(f"the page's files in {folder} are incomplete: {error}") from error

    def find(self, path: str) -> Asset | None:
        """The file at a path of the site, if there is one."""
        return self._files.get(path)

    def index(self, said: dict[str, str], trust: bool) -> Asset:
        """The page with ``said`` in its placeholders; with ``trust``, it explains how to trust the CA."""
        text = self._fragments["index.html"]
        text = text.replace("{{trust}}", self._fragments["trust.html" if trust else "no-ca.html"])
        text = _PLACE.sub(lambda match: html.escape(said.get(match[1], "")), text)
        return asset("text/html", text.encode())


def asset(kind: str, body: bytes) -> Asset:
    """A body with its tag."""
    return Asset(kind, body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
