"""Save every JSON response to a folder: python certifier.py … --tap=examples/taps/save_json.py

The folder is that of JSON_FOLDER, or ./json. Each response is a file named by its time, number, host and path.
"""

import os
import re
from pathlib import Path

BODY_MAX = 10_000_000  # octets of a body that are kept for response(); a longer one is saved as it was cut

FOLDER = Path(os.environ.get("JSON_FOLDER", "json"))
FOLDER.mkdir(exist_ok=True)


def response(exchange):
    """Called when a request and its response have passed."""
    kind = exchange.content_type.partition(";")[0].strip().lower()
    if exchange.error is None and exchange.response_octets and (kind == "application/json" or kind.endswith("+json")):
        # What a peer sends becomes part of a file's name: letters, digits and dashes of it.
        name = re.sub(r"[^A-Za-z0-9]+", "-", exchange.url.partition("://")[2])[:100].strip("-")
        # Numbers begin anew in each process: after a restart, and in each worker.
        (FOLDER / f"{exchange.started:.6f}-{exchange.id:06}-{name}.json").write_bytes(exchange.response_content)
