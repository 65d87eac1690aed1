"""One lock for the machine: builds and tests share it, timing takes it alone.

It covers processes of this program that run under the same user; other load is measured, not
stopped.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 20.0  # seconds to wait for other processes before timing beside them


def lock_path() -> Path:
    """The lock file of this user."""
    return Path(tempfile.gettempdir()) / f"opwright-{os.getuid()}.timing.lock"


@contextmanager
def busy(path: Path | None = None) -> Iterator[None]:
    """Hold while building or testing, so that nobody times meanwhile."""
    with _held(path or lock_path(), fcntl.LOCK_SH, 600.0):
        yield


@contextmanager
def alone(path: Path | None = None, patience: float = PATIENCE) -> Iterator[bool]:
    """Hold while timing; False when others of ours did not finish within `patience` seconds."""
    with _held(path or lock_path(), fcntl.LOCK_EX, patience) as got:
        yield got


@contextmanager
def _held(path: Path, kind: int, patience: float) -> Iterator[bool]:
    deadline = time.monotonic() + patience
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        got = False
        while not got:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                got = True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
        yield got
    finally:
        os.close(fd)
