"""How a command ends: exit codes, one clear message with a cure, and a log for what is our fault.

0 the answer is yes, 1 it is no, 2 the question could not be asked, 3 a defect of this program.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import typer

from opwright.compiler.paths import cache_folder

HOLDS, NO, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 130
P = ParamSpec("P")

# set once by the command line, before any command runs
debug = False


class Problem(Exception):
    """What stops a command: one sentence, and one on what to do about it."""

    def __init__(self, message: str, cure: str = "", code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.code = code


def guarded(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command that returns an exit code, or raises, into one that leaves with the code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            code = command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            code = report("interrupted; what was finished is kept", code=INTERRUPTED)
        except BrokenPipeError:
            # the reader of our output has gone, as in `opwright show ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        except Exception as error:
            code = explain_failure(error, as_json)
        raise typer.Exit(code)

    return run


def explain_failure(error: Exception, as_json: bool) -> int:
    """Say what an exception means for the person at the terminal; returns the exit code."""
    if debug:
        traceback.print_exc()
    problem = as_problem(error)
    if problem is not None:
        return report(problem.message, problem.cure, problem.code, as_json)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    log = write_log(error)
    where = f"the log is {log}" if log else "no folder for a log could be written"
    return report(
        f"internal error: {what} ({where})",
        "this is a defect of opwright; report it with the log, or add --debug to see the traceback",
        INTERNAL,
        as_json,
    )


def as_problem(error: Exception) -> Problem | None:
    """The problem that an expected exception stands for, None for an unexpected one."""
    if isinstance(error, Problem):
        return error
    # each layer's own error, looked up only if that layer was used at all
    for module, name, cure in (
        ("opwright.ir.plan", "PlanError", "correct the plan; docs/architecture.md has its form"),
        ("opwright.search.archive", "ArchiveError", ""),
        ("opwright.backends.isolation", "Refused", ""),
        ("opwright.search.exchange", "ExchangeError", ""),
        ("opwright.compiler.package_folder", "EmitError", ""),
        ("opwright.backends.cpp.build", "BuildError", "run `opwright doctor`"),
        ("opwright.packages", "PackageError", "name a folder that `opwright compile` wrote"),
    ):
        kind = loaded(module, name)
        if kind is not None and isinstance(error, kind):
            return Problem(str(error), getattr(error, "cure", cure))
    refused = loaded("opwright.compiler.backend", "Refused")
    if refused is not None and isinstance(error, refused):
        return Problem(str(error), getattr(error, "cure", ""), NO)
    failed = loaded("opwright.compiler.backend", "CompileError")
    if failed is not None and isinstance(error, failed):
        return Problem(str(error), getattr(error, "cure", ""))
    if isinstance(error, OSError) and error.filename is not None:
        return file_problem(error, Path(os.fsdecode(error.filename)))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Problem("no space left on the device", "free some space, or choose another folder")
    return None


def loaded(module: str, name: str) -> type | None:
    """A class of a module, if that module was imported."""
    return getattr(sys.modules.get(module), name, None)


def file_problem(error: OSError, path: Path) -> Problem:
    """The problem of a file or folder that cannot be read or written."""
    if isinstance(error, FileNotFoundError):
        return Problem(f"{path}: no such file or folder", "check the path")
    if isinstance(error, IsADirectoryError):
        return Problem(f"{path} is a folder, not a file", "name a file in it")
    if isinstance(error, NotADirectoryError):
        return Problem(f"{path}: a part of the path is a file", "check the path")
    if isinstance(error, FileExistsError):
        return Problem(f"{path} is in the way", "remove it, or choose another path")
    if isinstance(error, PermissionError):
        return Problem(f"{path}: permission denied", "change its permissions, or choose another")
    if error.errno == errno.EROFS:
        return Problem(f"{path}: the file system is read-only", "choose another folder")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(f"{path}: no space left", "free some space, or choose another folder")
    return Problem(f"{path}: {error.strerror or error}", "")


def report(message: str, cure: str = "", code: int = USAGE, as_json: bool = False) -> int:
    """Print one message to standard error, for a machine also to standard output."""
    print(f"opwright: {message}", file=sys.stderr)
    if cure:
        print(f"  cure: {cure}", file=sys.stderr)
    if as_json:
        print_json({"error": {"message": message, "cure": cure, "exit": code}})
    sys.stderr.flush()
    return code


def write_log(error: Exception) -> Path | None:
    """Keep the traceback where a person can find it; None if there is no place for it."""
    text = f"{sys.argv}\nPython {sys.version}\n\n{''.join(traceback.format_exception(error))}"
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (cache_folder() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return None


def print_json(value: object) -> None:
    """One document on standard output; infinities and NaN become null, so that any reader copes."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: object) -> object:
    """The value in JSON's own types."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)


def several(count: int, noun: str) -> str:
    """`1 candidate`, `2 candidates`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text in one step, keeping its permissions; on failure nothing changes."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~current_umask()
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def current_umask() -> int:
    """The process's file mode mask."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
