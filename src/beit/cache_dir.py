"""Where what is kept for every run lies on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$BEIT_HOME`, or `~/.cache/beit`; asked for when it is needed."""
    return Path(os.environ.get("BEIT_HOME") or "~/.cache/beit").expanduser()
