"""Save every JSON response to a folder: python certifier.py … --tap=examples/taps/save_json.py

The folder is $JSON_FOLDER, or ./json. Each response becomes a file named after its time, number, host and path.
"""

import os
import re
from pathlib import Path

BODY_MAX = 10_000_000  # octets of a body that are kept for response(); a longer one is saved truncated

FOLDER = Path(os.environ.get("JSON_FOLDER", "json"))
FOLDER.mkdir(mode=0o700, exist_ok=True)  # responses hold secrets, as HAR files do


def response(exchange):
    """Called when a request and its response have passed."""
    kind = exchange.content_type.partition(";")[0].strip().lower()
    if exchange.error is None and exchange.response_octets and (kind == "application/json" or kind.endswith("+json")):
        # A peer's text becomes part of a file name, so reduce it to letters, digits and dashes.
        name = re.sub(r"[^A-Za-z0-9]+", "-", exchange.url.partition("://")[2])[:100].strip("-")
        # Numbers start again in each process: after a restart, and in each worker.
        (FOLDER / f"{exchange.started:.6f}-{exchange.id:06}-{name}.json").write_bytes(exchange.response_content)
