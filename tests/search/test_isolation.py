"""What a candidate, or a compiler on its text, cannot do; in every kind of sandbox that works here.

The gate on texts is passed by: these programs would not get this far.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.operators import row_sum
from support.sandboxed import need, works

from opwright.backends import isolation
from opwright.backends.cpp.build import BuildError, build
from opwright.ir.launch import bind_plan
from opwright.ir.plan import Launch, Plan
from opwright.search.sandbox import Died, Limits, Shared, Worker

DRIVER = 'extern "C" __attribute__((visibility("default"))) int opwright_abi() { return 1; }\n'
HOSTILE = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
// what it does is the first integer; what it was refused with is its status
extern "C" __attribute__((visibility("default")))
int opwright_run(void **buffers, int64_t *ints, double *, int) {
  switch (ints[0]) {
  case 0: for (;;) ;
  case 1: { int p = fork(); if (p == 0) _exit(0); return p < 0 ? errno : -1; }
  case 2: { char *last = 0;
    for (int n = 0; n < 100000; n++) {
      char *p = (char *)malloc(64 << 20);
      if (!p) return ENOMEM;
      last = p; *last = 1; } return -1; }
  case 3: { int s = socket(AF_INET, SOCK_STREAM, 0); if (s < 0) return errno;
    sockaddr_in a = {}; a.sin_family = AF_INET; a.sin_port = htons(ints[1]);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(s, (sockaddr *)&a, sizeof a) ? errno : -1; }
  case 4: { int f = open((const char *)buffers[0], O_RDONLY); return f < 0 ? errno : -1; }
  case 5: { int f = open((const char *)buffers[0], O_WRONLY | O_CREAT, 0600);
    return f < 0 ? errno : -1; }
  case 6: { char c; iovec m = {&c, 1}, y = {&c, 1};
    return process_vm_readv(ints[1], &m, 1, &y, 1, 0) < 0 ? errno : -1; }
  case 7: return kill(ints[1], SIGTERM) ? errno : -1;
  case 8: return setsid() < 0 && setpgid(0, 0) < 0 ? errno : -1;
  case 9: { char *const a[] = {(char *)"/bin/sh", (char *)"-c", (char *)"exit 7", 0};
    execve("/bin/sh", a, 0); return errno; }
  case 10: for (long n = 0; n < 100000; n++)
    if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) < 0) return errno; return -1;
  case 11: { chdir(getenv("TMPDIR"));
    int f = open("x", O_WRONLY | O_CREAT, 0600); if (f < 0) return errno;
    static char block[1 << 20];
    signal(SIGXFSZ, SIG_IGN);
    for (int n = 0; n < 200; n++) if (write(f, block, sizeof block) < 0) return errno;
    return -1; }
  case 12: return syscall(SYS_unshare, 0x10000000) < 0 ? errno : -1;
  }
  return 0;
}
"""
# of Python candidates
ACTS = {
    "fork": "import os\nos.fork()",
    "run": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 28))",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)",
    "read": "open({outside!r}).read()",
    "home": "import os\nopen({home!r}).read()",
    "write": "open({outside!r}, 'a').write('x')",
    "parent": "import os\nopen('/proc/{parent}/mem', 'rb')",
    "signal": "import os\nos.kill({parent}, 18)",
}


@pytest.fixture(params=isolation.KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    need(request.param)
    monkeypatch.setenv(isolation.VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def best() -> None:
    need()


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(HOSTILE, DRIVER, tmp_path_factory.mktemp("hostile"), "portable").path


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield s.getsockname()[1]


def do(library: Path, ints: list[int], text: str = "", limits: Limits | None = None) -> int:
    """What the hostile library's call returned."""
    shared = Shared(4096)
    shared.bytes[: len(text) + 1] = [*text.encode(), 0]
    try:
        with Worker(shared, 1, limits, [library]) as w:
            w.request("load", 20.0, path=str(library))
            reply = w.request(
                "call", 3.0, library=0, offsets=[0], ints=ints, reals=[], threads=1, perturb=0
            )
    finally:
        shared.close()
    return int(reply["status"])


def test_a_library_reaches_nothing(kind: str, hostile: Path, port: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    absent = (errno.ENOENT, errno.EACCES)
    limits = Limits(memory=1 << 30)
    assert do(hostile, [1]) == errno.EPERM  # fork
    assert do(hostile, [10]) == errno.EPERM  # clone
    assert do(hostile, [2], limits=limits) == errno.ENOMEM
    assert do(hostile, [3, port]) in (errno.EPERM, errno.EACCES)
    assert do(hostile, [4], str(outside)) in absent
    assert do(hostile, [4], "/etc/passwd") in absent
    assert do(hostile, [5], str(tmp_path / "made")) in (*absent, errno.EROFS)
    assert not (tmp_path / "made").exists()
    assert do(hostile, [6, os.getpid()]) == errno.EPERM
    assert do(hostile, [7, os.getpid()]) in (errno.EPERM, errno.ESRCH)
    assert do(hostile, [8]) == errno.EPERM
    assert do(hostile, [11]) in (errno.EFBIG, errno.ENOSPC)
    assert do(hostile, [12]) == errno.EPERM


def test_a_library_that_hangs_is_ended(kind: str, hostile: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(Died, match="no answer") as e:
        do(hostile, [0])
    assert e.value.kind == "timeout" and time.monotonic() - begin < 20


def test_another_program_is_still_confined(kind: str, hostile: Path) -> None:
    with pytest.raises(Died, match="code 7"):
        do(hostile, [9])


def test_what_a_process_leaves_behind_ends_with_it(kind: str) -> None:
    """Also where processes are allowed: a child of a child, in whatever session it wants."""
    text = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    try: os.setsid()\n"
        "    except OSError: pass\n"
        "    if os.fork() == 0:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "time.sleep(600)\n"
    )
    allowance = isolation.Allowance(processes=8)
    marker = f"opwright-{os.getpid()}-{kind}"
    process = isolation.start(
        [sys.executable, "-I", "-S", "-c", text, marker], allowance, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    assert len(running(marker)) >= 2
    process.end()
    process.stdout.close()
    for _ in range(100):
        if not running(marker):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {running(marker)}")


def running(marker: str) -> list[int]:
    """Processes, zombies left out, that have a word among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except (OSError, UnicodeDecodeError):
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_too_many_processes_end_it_all() -> None:
    need("namespaces")
    text = (
        "import os, time\n"
        "for _ in range(200):\n"
        "    if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "print('done', flush=True)\n"
        "time.sleep(5)\n"
    )
    begin = time.monotonic()
    process = isolation.start_in(
        "namespaces", [sys.executable, "-I", "-S", "-c", text], isolation.Allowance(processes=8),
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, said = process.communicate(timeout=60)
    process.end()
    assert process.status() != 0 and time.monotonic() - begin < 5
    assert "more than 8 processes" in said or "unavailable" in said


@pytest.mark.parametrize("header", ["/etc/passwd", "outside"])
def test_a_compiler_reads_nothing_else(kind: str, header: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("int secret;\n")
    path = header if header.startswith("/") else str(tmp_path / header)
    (tmp_path / "cache").mkdir()
    with pytest.raises(BuildError, match=r"No such file|ermission denied"):
        build(f'#include "{path}"\n', DRIVER, tmp_path / "cache", "portable")


# -- candidates in Python --------------------------------------------------------------------------


def said_of(act: str, outside: Path, port: int) -> str:
    home = isolation._readable_at_home() or str(outside)
    return ACTS[act].format(port=port, outside=str(outside), home=home, parent=os.getpid())


DENIED = r"Permission|Operation not permitted|No such|MemoryError|No such process|Resource"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_text("secret")
    return path


def plan(backend: str) -> Plan:
    op = row_sum()
    target = {"jax": "cpu(jax)", "triton": "sm_90"}[backend]
    args = tuple(t.name for t in (op.inputs if backend == "jax" else (*op.inputs, *op.outputs)))
    grid = () if backend == "jax" else ("B",)
    return Plan(f"{op.name}@1.0", target, backend, "kernel.py", (Launch("row_sum", args, grid),))


@pytest.mark.parametrize("act", ACTS)
def test_an_array_function_reaches_nothing(
    best: None, act: str, outside: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jax")
    from opwright.backends.jax import run

    monkeypatch.setattr(run, "check_policy", lambda *_: None)
    monkeypatch.setattr(run, "DATA", 1 << 30)
    op = row_sum()
    body = said_of(act, outside, port)
    source = f"def row_sum(x):\n    exec({body!r}, {{}})\n    return x.sum(1)\n"
    x = np.ones((2, 3), np.float32)
    with run.Process(source, plan("jax"), op) as p:
        with pytest.raises(run.RunError, match=f"{DENIED}|ended with"):
            p.call({"x": x}, {}, {"B": 2, "N": 3}, 60.0)
    assert outside.read_text() == "secret"


@pytest.mark.parametrize("act", ACTS)
def test_a_kernel_in_the_interpreter_reaches_nothing(
    best: None, act: str, outside: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr("opwright.backends.triton.run.MEMORY", 4 << 30)
    found = interpreted(said_of(act, outside, port), 60.0)
    assert any(word in found for word in [*DENIED.split("|"), "died"]), found
    assert outside.read_text() == "secret"


def interpreted(text: str, limit: float) -> str:
    """How a module that does something when it is loaded ends in the interpreter."""
    pytest.importorskip("triton")
    from opwright.backends.triton import run

    op = row_sum()
    head = "import triton\nimport triton.language as tl\n"
    kernel = "@triton.jit\ndef row_sum(x, y):\n    tl.store(y, tl.load(x))\n"
    x = np.ones((2, 3), np.float32)
    with pytest.raises(run.RunError) as found:
        run.interpret(
            head + kernel + text, bind_plan(plan("triton"), op), {"x": x}, {"B": 2, "N": 3}, {},
            limit,
        )  # fmt: skip
    return str(found.value)


def test_a_kernel_that_hangs_floods_or_lies_is_ended(best: None) -> None:
    assert "stopped after" in interpreted("while True: pass", 8.0)
    assert "answer is none" in interpreted(_lie(b"}\n"), 60.0)
    assert "too long" in interpreted(_lie(b"x" * 40000, 4), 60.0)


def _lie(data: bytes, times: int = 1) -> str:
    return (
        "import os\n"
        "for fd in range(3, 20):\n"
        f"    for _ in range({times}):\n"
        f"        try: os.write(fd, {data!r})\n"
        "        except OSError: pass\n"
    )


@pytest.mark.parametrize("act", ["fork", "network", "read", "home"])
def test_a_front_end_reaches_nothing(
    best: None, act: str, outside: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    import ast

    from opwright.backends.triton import frontend
    from opwright.ir.launch import ImportRefusal

    monkeypatch.setattr(frontend, "check_policy", lambda source, _: ast.parse(source))
    head = "import triton\nimport triton.language as tl\n"
    kernel = "@triton.jit\ndef row_sum(x, y):\n    tl.store(y, tl.load(x))\n"
    launch = bind_plan(plan("triton"), row_sum()).launches[0]
    with pytest.raises(ImportRefusal, match=DENIED):
        frontend.to_ttir(head + kernel + said_of(act, outside, port), "kernel.py", launch, "sm_90")


# -- no sandbox ------------------------------------------------------------------------------------


def everything(tmp_path: Path) -> dict[str, Any]:
    """All ways in which something of a candidate is executed."""
    from opwright.backends.jax import run as arrays
    from opwright.backends.triton import build as kernels
    from opwright.backends.triton import frontend
    from opwright.backends.triton import run as interpreter

    op = row_sum()
    source = "import triton\n@triton.jit\ndef row_sum(x, y):\n    pass\n"
    bound = bind_plan(plan("triton"), op)
    function = "def row_sum(x):\n    return x.sum(1)\n"
    x = {"x": np.ones((2, 3), np.float32)}
    sizes = {"B": 2, "N": 3}
    return {
        "worker": lambda: Worker(Shared(4096), 1),
        "g++": lambda: build("int x;", DRIVER, tmp_path / "new", "portable"),
        "interpreter": lambda: interpreter.interpret(source, bound, x, sizes),
        "front end": lambda: frontend.to_ttir(source, "kernel.py", bound.launches[0], "sm_90"),
        "compiler": lambda: kernels.compile_for(source, bound, "sm_90"),
        "arrays": lambda: arrays.Process(function, plan("jax"), op).call(x, {}, sizes),
    }


WAYS = ("worker", "g++", "interpreter", "front end", "compiler", "arrays")


@pytest.mark.parametrize("value", ["none", "0", "off", "nonsense"])
@pytest.mark.parametrize("way", WAYS)
def test_no_variable_makes_anything_run_without_a_sandbox(
    way: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way in ("interpreter", "front end", "compiler"):
        pytest.importorskip("triton")
    if way == "arrays":
        pytest.importorskip("jax")
    started: list[Any] = []
    monkeypatch.setattr(isolation, "_permitted", False)
    monkeypatch.setenv(isolation.VARIABLE, value)
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *a, **_: started.append(a))
    if way == "g++":  # the version of the compiler is asked first, of the compiler alone
        monkeypatch.setattr("opwright.backends.cpp.build.compiler_version", lambda _: "1")
    with pytest.raises(isolation.Refused, match="so nothing is executed") as e:
        everything(tmp_path)[way]()
    assert not started and isolation.FLAG in e.value.cure


def test_no_kind_that_works_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(isolation.VARIABLE, raising=False)
    monkeypatch.setattr(isolation, "_permitted", False)
    monkeypatch.setattr(isolation, "_try", lambda kind: "not here")
    monkeypatch.setattr(isolation, "_found", {})
    with pytest.raises(isolation.Refused, match="bwrap: not here; namespaces: not here; landlock"):
        isolation.sandbox()


def test_a_kind_that_denies_too_little_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_probe", lambda kind: {"fork": "", "read": "No such file"})
    assert isolation._try("namespaces") == "the probe could fork"


def test_the_flag_lets_things_run_and_records_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_permitted", True)
    monkeypatch.setenv(isolation.VARIABLE, "none")
    assert "WITHOUT a sandbox (--unsafe-no-sandbox)" in isolation.describe()
    with Worker(Shared(4096), 1) as w:
        assert w.request("forget", 5.0) == {}


def test_a_probe_is_denied_everything(kind: str) -> None:
    found = isolation.sandbox()
    assert found.kind == kind and len(found.probe) == 12 and all(found.probe.values())
    assert "12 of 12 probes denied" in found.text


def test_the_command_line_refuses_and_says_what_to_do(tmp_path: Path) -> None:
    spec = tmp_path / "double.op"
    spec.write_text(
        'opwright "0.1"\n'
        "op double @ 1.0 {\n  dims N\n  type T in {f32}\n  input x: T[N]\n  output y: T[N]\n"
        "  def { y[i] = x[i] + x[i] }\n  minimize 1.0 * latency\n}\n"
    )
    environment = {**os.environ, "OPWRIGHT_CACHE": str(tmp_path / "cache")}
    environment[isolation.VARIABLE] = "none"
    command = [sys.executable, "-m", "opwright", "compile", str(spec), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--against", "none", "--budget", "1"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "so nothing is executed" in done.stderr
    assert isolation.FLAG in done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_this_machine_says_what_it_uses() -> None:
    assert isolation.describe().startswith("run in a sandbox" if works() else "run WITHOUT")
