"""Where everything runs that a candidate brings along: its code, and compilers on its text.

`start` is the one way to run such a thing. It takes the first kind of sandbox that works here:
bubblewrap, namespaces of our own, Landlock; seccomp and limits come with each. A probe tries what
has to be denied before anything else runs in a kind. Where none works `Refused` is raised, unless
`permit_unsafe` was called; no environment variable does that. What each kind holds and does not is
in docs/isolation.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import marshal
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("bwrap", "namespaces", "landlock")
VARIABLE = "OPWRIGHT_SANDBOX"  # one of KINDS, or "none": then nothing runs
FLAG = "--unsafe-no-sandbox"
CONFINE = Path(__file__).with_name("confine.py")
# imported, so that it is compiled once
ENTER = "import sys; sys.path.append(sys.argv[1]); import confine; confine.main(sys.argv[2])"
PROBE = Path(__file__).with_name("probe.py")
PROBE_LIMIT = 30.0  # seconds

SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
    "/etc/localtime", "/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPU = ("nvidia", "kfd", "dri")
# what Landlock leaves of /proc where there is no root of its own
SEEN = (
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg",
    "/proc/version", "/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/cap_last_cap", "/proc/driver/nvidia",
)  # fmt: skip
PARTS = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")
PASSED = ("PATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT", "OMP_PROC_BIND", "OMP_PLACES")


class Refused(Exception):
    """No sandbox works here and running without one was not permitted; nothing was executed.

    No RuntimeError: what fails in a candidate's favour or against it must not catch this one.
    """

    def __init__(self, message: str, cure: str) -> None:
        super().__init__(message)
        self.cure = cure


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one process may use.

    `read` and `write` are paths beside the system's and the interpreter's own; a folder is meant
    with all below it. `memory` is address space (0: no limit, as a GPU's driver needs it), `data`
    what is allocated, `file` the size of one file and `temporary` of all in its /tmp, in bytes;
    `cpu` seconds; `processes` 1 means threads, but no process more.
    """

    read: Sequence[Path] = ()
    write: Sequence[Path] = ()
    memory: int = 8 << 30
    data: int = 0
    cpu: int = 600
    file: int = 1 << 20
    temporary: int = 64 << 20
    processes: int = 1
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A kind that is used here. `probe` says of each attempt what it was denied with; `why` what
    kept stronger kinds from being used."""

    kind: str
    detail: str
    probe: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def text(self) -> str:
        """One line, as certificates have it."""
        if self.kind == "none":
            return f"run WITHOUT a sandbox ({FLAG}): {self.why}"
        denied = sum(map(bool, self.probe.values()))
        return f"run in a sandbox ({self.detail}); {denied} of {len(self.probe)} probes denied"


class Confined(subprocess.Popen[Any]):
    """A process in the sandbox. `end` kills it with all that it started."""

    private: Path | None = None  # its /tmp, where that is a folder of ours
    wrapped = False

    def status(self) -> int | None:
        """The exit status; minus the signal's number where one ended it."""
        code = self.returncode
        if self.wrapped and code is not None and 128 < code < 128 + signal.NSIG:
            return 128 - code
        return code

    def end(self) -> None:
        """Kill the whole group, reap it, and remove its files; harmless when it is gone."""
        self.interrupt()
        self.wait()
        if self.private is not None:
            shutil.rmtree(self.private, ignore_errors=True)

    def interrupt(self) -> None:
        """Kill without waiting, from whatever thread."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


_lock = threading.RLock()
_permitted = False
_found: dict[str, Sandbox | str] = {}  # kind -> what works, or why it does not


def permit_unsafe(yes: bool = True) -> None:
    """Let things run where no sandbox works, or where it is switched off."""
    global _permitted
    _permitted = yes


def unsafe_permitted() -> bool:
    """Whether things run where no sandbox works."""
    return _permitted


def sandbox() -> Sandbox:
    """What is used here, probed once a session; `Refused` when there is nothing."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in KINDS:
        off = wanted.lower() in ("none", "off", "0", "no", "false")
        said = "the sandbox is switched off" if off else "there is no such sandbox"
        return _without(f"{said} ({VARIABLE}={wanted})", f"unset {VARIABLE}")
    reasons: list[str] = []
    with _lock:
        for kind in (wanted,) if wanted else KINDS:
            found = usable(kind)
            if isinstance(found, Sandbox):
                return Sandbox(found.kind, found.detail, found.probe, "; ".join(reasons))
            reasons.append(f"{kind}: {found}")
    return _without(
        f"no sandbox works here ({'; '.join(reasons)})",
        "install bubblewrap, or allow user namespaces or Landlock",
    )


def usable(kind: str) -> Sandbox | str:
    """A kind with its probe's result, or why it is not used; found out once a session."""
    with _lock:
        if kind not in _found:
            _found[kind] = _try(kind)
        return _found[kind]


def _without(why: str, cure: str) -> Sandbox:
    if _permitted:
        return Sandbox("none", "none", {}, why)
    raise Refused(f"{why}, so nothing is executed", f"{cure}, or give {FLAG}")


def describe() -> str:
    """What a record says of anything that was executed here."""
    return sandbox().text


def start(
    command: Sequence[str | os.PathLike[str]],
    allowance: Allowance,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Iterable[int] = (),
    **streams: Any,
) -> Confined:
    """Start a command in the sandbox, in a process group of its own.

    Without `cwd` it starts in its private /tmp. HOME and TMPDIR are there too. It sees `env`
    (`environment()` without one), and is killed when this process dies.
    """
    return _start(sandbox().kind, command, allowance, env, cwd, tuple(pass_fds), streams)


def start_in(kind: str, command: Sequence[str], allowance: Allowance, **streams: Any) -> Confined:
    """Start a command in one kind, whether or not it is the one that is used here."""
    return _start(kind, command, allowance, None, None, (), streams)


@contextlib.contextmanager
def only(kind: str) -> Iterator[None]:
    """One kind and no other, or "none", where that is permitted."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = kind
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """A short list of names, nothing that could be a key or a token."""
    kept = {k: os.environ[k] for k in PASSED if k in os.environ}
    return {**kept, "LC_ALL": "C", **(more or {})}


def share(size: int) -> int:
    """That many bytes, or half of this machine's memory where that is less."""
    try:
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return size
    return min(size, half)


def packages(*names: str) -> list[Path]:
    """The folders in which these modules are found, where that is not the interpreter's own."""
    import importlib.util

    found = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent.parent)
    return found


# -- kinds -----------------------------------------------------------------------------------------


def _start(
    kind: str,
    command: Sequence[str | os.PathLike[str]],
    a: Allowance,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    pass_fds: tuple[int, ...],
    streams: Mapping[str, Any],
) -> Confined:
    apart = kind in ("bwrap", "namespaces")
    private = None if apart else Path(tempfile.mkdtemp(prefix="opwright-"))
    temporary = "/tmp" if apart else str(private)
    program = os.fspath(command[0])
    program = program if os.sep in program else shutil.which(program) or program
    # the interpreter's link is the way to its packages; links of others are followed
    devices = [d for d in (*DEVICES, *(_gpu() if a.gpu else ())) if os.path.exists(d)]
    read = [os.path.abspath(p) for p in [*a.read, Path(program), CONFINE]]
    read = list(dict.fromkeys([*_own(), *devices, *(p for p in read if os.path.exists(p))]))
    if not apart:
        read = [os.path.realpath(p) for p in read]
    write = [os.path.realpath(p) if not apart else os.path.abspath(p) for p in a.write]
    request = {
        "kind": "inside" if kind == "bwrap" else kind,
        "parent": 0 if kind == "bwrap" else os.getpid(),
        "read": read, "write": write, "devices": devices, "private": temporary,
        "seen": ["/proc"] if apart else [p for p in SEEN if os.path.exists(p)],
        "temporary": a.temporary, "processes": a.processes, "most": _most(a, apart),
        "limits": _limits(a), "cwd": os.fspath(cwd or temporary),
        "command": [program, *(os.fspath(x) for x in command[1:])],
    }  # fmt: skip
    asked = marshal.dumps(request).hex()
    line = [sys.executable, "-I", "-S", "-c", ENTER, str(CONFINE.parent), asked]
    if kind == "bwrap":
        line = [*_bubble(read, write, devices, a), *line]
    given = {**(environment() if env is None else env), "HOME": temporary, "TMPDIR": temporary}
    try:
        process = Confined(
            line, env=given, cwd="/", pass_fds=pass_fds, start_new_session=True, **streams
        )
    except BaseException:
        if private is not None:
            shutil.rmtree(private, ignore_errors=True)
        raise
    process.private, process.wrapped = private, kind == "bwrap"
    return process


def _own() -> list[str]:
    """The system's and the interpreter's folders; of its prefixes the parts that it needs."""
    found = [p for p in SYSTEM if os.path.exists(p)]
    for prefix in dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix)):
        found += [p for p in (os.path.join(prefix, n) for n in PARTS) if os.path.exists(p)]
    return found


def _gpu() -> list[str]:
    return [e.path for e in os.scandir("/dev") if e.name.startswith(GPU)]


def _limits(a: Allowance) -> dict[str, int]:
    limits = {"as": a.memory, "data": a.data, "cpu": a.cpu, "fsize": a.file}
    return {**{k: n for k, n in limits.items() if n}, "core": 0}


def _most(a: Allowance, apart: bool) -> int:
    """The limit on processes, threads included; 0 where the kernel would count others, too."""
    threads = 1024 if a.processes <= 1 else 4 * a.processes
    return threads if apart else 0


def _bubble(read: Sequence[str], write: Sequence[str], devices: Sequence[str], a: Allowance
            ) -> list[str]:  # fmt: skip
    line = [
        shutil.which("bwrap") or "bwrap", "--unshare-user", "--unshare-ipc", "--unshare-pid",
        "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent",
        "--cap-drop", "ALL", "--size", str(a.temporary), "--tmpfs", "/tmp", "--proc", "/proc",
    ]  # fmt: skip
    ways = {p: "--dev-bind" if p in devices else "--ro-bind" for p in read}
    ways |= dict.fromkeys(write, "--bind")
    shown: list[str] = []
    for path in sorted(ways):
        above = [p for p in shown if path == p or path.startswith(p + "/")]
        if above and ways[above[-1]] == ways[path]:
            continue
        if os.path.islink(path) and ways[path] == "--ro-bind":
            line += ["--symlink", os.readlink(path), path]
            continue
        line += [ways[path], path, path]
        shown.append(path)
    return [*line, "--remount-ro", "/", "--"]


def _version(kind: str) -> str:
    import importlib.util

    spec = importlib.util.spec_from_file_location("opwright_confine", CONFINE)
    assert spec is not None and spec.loader is not None
    confine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(confine)
    abi = confine.landlock_abi()
    parts = ["namespaces"] if kind == "namespaces" else []
    if kind == "bwrap":
        done = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False)
        parts = [done.stdout.strip().replace("bubblewrap", "bwrap")]
    return ", ".join([*parts, *([f"Landlock {abi}"] if abi else []), "seccomp"])


# -- the probe -------------------------------------------------------------------------------------


def _try(kind: str) -> Sandbox | str:
    """The kind with its probe's result, or why it is not used."""
    if platform.system() != "Linux":
        return "Linux only"
    if kind == "bwrap" and shutil.which("bwrap") is None:
        return "not installed"
    try:
        probe = _probe(kind)
        if isinstance(probe, str):
            return probe
        detail = _version(kind)
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        return f"{type(e).__name__}: {e}"
    passed = [name for name, denied in probe.items() if not denied]
    if passed:
        return f"the probe could {', '.join(passed)}"
    return Sandbox(kind, detail, probe)


def _probe(kind: str) -> dict[str, str] | str:
    """What each attempt was denied with ("": it was not); a text where the kind does not start."""
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="opwright-")))
        outside = folder / "outside"
        outside.write_text("seen")
        tcp = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        unix = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        name = f"opwright-{os.getpid()}-{os.urandom(8).hex()}"
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(4)
        unix.bind("\0" + name)
        unix.listen(4)
        asked = {
            "outside": str(outside), "home": _readable_at_home(), "port": tcp.getsockname()[1],
            "abstract": name, "parent": os.getpid(),
        }  # fmt: skip
        command = [sys.executable, "-I", "-S", str(PROBE), json.dumps(asked)]
        allowance = Allowance([PROBE], memory=1 << 30, cpu=20)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True,
                   "stderr": subprocess.PIPE}  # fmt: skip
        process = _start(kind, command, allowance, None, None, (), streams)
        try:
            said, wrong = process.communicate(timeout=PROBE_LIMIT)
        finally:
            process.end()
    if process.status() != 0 or not said:
        last = wrong.strip().splitlines()[-1:] or [f"exit status {process.status()}"]
        return f"does not start: {last[0][:200]}"
    found = json.loads(said)
    return {str(k): str(v) for k, v in found.items()}


def _readable_at_home() -> str:
    """Some file right below the home folder, which has to stay unread; empty where there is
    none."""
    home = os.path.expanduser("~")
    try:
        entries = sorted(os.scandir(home), key=lambda e: e.name)
        return next((e.path for e in entries if e.is_file(follow_symlinks=False)), "")
    except OSError:
        return ""


def not_dumpable() -> None:
    """Keep other processes of the same user from reading this one's memory."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
