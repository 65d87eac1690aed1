"""Reading files that a stranger wrote: plain ones alone, never through a link, and only so much."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class Unreadable(OSError):
    """The file is none that is read; the message says why."""


def read(path: Path, largest: int, errors: str = "strict") -> str:
    """The text of a plain file of at most `largest` bytes; Unreadable for a link, a pipe, a device,
    what is larger or no UTF-8."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags)
    except OSError as e:
        raise Unreadable("a link; links are not followed" if path.is_symlink() else
                         e.strerror or str(e)) from None  # fmt: skip
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unreadable("no plain file")
        data = file.read(largest + 1)
    if len(data) > largest:
        raise Unreadable(f"larger than {largest >> 20} MiB")
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as e:
        raise Unreadable(f"no UTF-8 at byte {e.start}") from None
