"""Where the compiler keeps what it makes."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where archives and built libraries live: OPWRIGHT_CACHE, else the user's cache folder."""
    named = os.environ.get("OPWRIGHT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(base) / "opwright"
