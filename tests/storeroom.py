"""A store, a CA and the leaves from both, in one folder."""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

from pki import TestCA
from test_signer import authority_for, files

from keys import KeyStock
from leaf import Leaf
from leaves import Leaves, Wanted
from store import Store

NAME = "www.example.com"
LATER = timedelta(seconds=4)  # long enough for a file to count as settled


class Room:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "certs")
        self.ca = TestCA("one")
        self.files = files(folder, self.ca)
        self.leaves = Leaves(self.store, authority_for(self.files), KeyStock("p256"))
        self.off = Leaves(self.store, None, KeyStock("p256"))
        path = self.store.path(NAME)
        assert path is not None
        self.path = path

    def retrieve(self, name: str, when: datetime, renew: bool = False, leaves: Leaves | None = None) -> Leaf | None:
        """From ``leaves``, by default ``self.leaves``, which generate; ``notes`` are those of the last call."""
        self.notes: list[str] = []
        return (leaves or self.leaves).retrieve(name, when, self.notes, Wanted(renew=renew))

    def place(self, content: bytes) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_bytes(content)
        os.utime(self.path, times=(time.time() - 10,) * 2)  # as a copy that keeps its time; ``LATER``, it is at rest
