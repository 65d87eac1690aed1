"""The atomic write of a package folder: as a whole or not at all, and errors with a cure."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ABANDONED = 3600.0  # seconds after which a hidden folder beside a package is nobody's
PACKAGE_KIND = "opwright-package"  # the mark in metadata.json of folders that may be replaced


class EmitError(Exception):
    """A package cannot be emitted; `cure` says what to do about it."""

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message + (f"; {cure}" if cure else ""))
        self.message, self.cure = message, cure


def write_folder(folder: Path, tree: Mapping[str, bytes]) -> None:
    """Make `folder` consist of exactly these files; EmitError leaves what was there untouched."""
    fresh: Path | None = None
    try:
        if folder.exists() and not _is_package(folder):
            raise EmitError(
                f"{folder} exists and is no emitted package",
                "remove it or choose another output folder",
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        fresh.chmod(0o755)
        for name, data in tree.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        _exchange(fresh, folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left of its attempt, once it is old enough to be nobody's."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _is_package(folder: Path) -> bool:
    try:
        data = json.loads((folder / "metadata.json").read_text())
    except (OSError, ValueError):
        return folder.is_dir() and not any(folder.iterdir())
    return isinstance(data, dict) and data.get("kind") == PACKAGE_KIND


def _exchange(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the place of `folder`; what was there gets the old name of `fresh`."""
    if not folder.exists():
        fresh.rename(folder)
        return
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        swap = None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if swap is not None and swap(here, bytes(fresh), here, bytes(folder), exchange) == 0:
        return
    aside = fresh.with_name(fresh.name + ".old")
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _cannot_write(folder: Path, error: OSError) -> EmitError:
    cures = {
        errno.ENOSPC: "free some space or choose a folder on another disk",
        errno.EDQUOT: "free some of your quota or choose a folder on another disk",
        errno.EROFS: "choose an output folder that can be written",
        errno.EACCES: "choose an output folder that you may write to",
        errno.EPERM: "choose an output folder that you may write to",
        errno.ENOTDIR: "choose an output folder whose parents are folders",
        errno.EEXIST: "choose an output folder whose parents are folders",
        errno.ENAMETOOLONG: "choose a shorter output folder",
    }
    cure = cures.get(error.errno or 0, "choose another output folder")
    return EmitError(f"the package cannot be written to {folder}: {error.strerror or error}", cure)
