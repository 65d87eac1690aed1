"""Workers die with a reason, leave nothing behind, and see no secrets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opwright.search.sandbox import Died, Limits, Shared, Worker, environment, secret_free


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_shared_memory_is_seen_by_both_sides_and_grows() -> None:
    shared = Shared(100)
    shared.bytes[:4] = [1, 2, 3, 4]
    shared.grow(1 << 20)
    assert shared.bytes[:4].tolist() == [1, 2, 3, 4] and len(shared.bytes) == 1 << 20
    shared.close()


def test_killing_a_worker_twice_is_harmless() -> None:
    with Worker(Shared(4096), 1) as w:
        pid = w.pid
        w.kill()
        w.kill()
        with pytest.raises(Died, match="dead"):
            w.request("forget", 1.0)
    assert _gone(pid)


def test_a_worker_killed_from_outside_is_reported() -> None:
    with Worker(Shared(4096), 1) as w:
        os.kill(w.pid, signal.SIGKILL)
        with pytest.raises(Died, match="SIGKILL") as e:
            for _ in range(500):  # its namespace ends a moment after it
                w.request("forget", 5.0)
                time.sleep(0.01)
        assert e.value.kind == "crashed"


def test_a_file_that_is_no_library_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    path.write_text("not a library")
    with Worker(Shared(4096), 1, None, [path]) as w, pytest.raises(Died, match="no candidate lib"):
        w.request("load", 5.0, path=str(path))


def test_workers_see_a_short_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "x")
    monkeypatch.setenv("GITHUB_TOKEN", "x")
    seen = environment(2)
    assert secret_free(seen)
    assert seen["OMP_NUM_THREADS"] == "2"
    assert {n for n in seen if not n.startswith("OMP_")} <= {
        "PATH",
        "LD_LIBRARY_PATH",
        "LANG",
        "LC_ALL",
        "GLIBC_TUNABLES",
    }
    assert not secret_free({"MY_TOKEN": ""})
    with Worker(Shared(4096), 1) as w:
        environ = Path(f"/proc/{w.pid}/environ")
        try:
            text = environ.read_text()
        except PermissionError:  # the worker made itself unreadable
            text = ""
        assert "SOME_API_KEY" not in text


def test_limits_reach_the_worker() -> None:
    with Worker(Shared(4096), 1, Limits(memory=1 << 30, cpu=7)) as w:
        text = Path(f"/proc/{w.pid}/limits").read_text()
    rows = {line[:25].strip(): line[25:].split() for line in text.splitlines()}
    assert rows["Max cpu time"][0] == "7"
    assert rows["Max core file size"][0] == "0"
    assert int(rows["Max address space"][0]) == (1 << 30) + 4096
    assert int(rows["Max file size"][0]) == 1 << 20


_PARENT = """
import time
from opwright.backends import isolation
from opwright.search.sandbox import Shared, Worker
isolation.permit_unsafe()
w = Worker(Shared(4096), 1)
print(w.pid, flush=True)
time.sleep(60)
"""


def test_a_killed_parent_takes_its_workers_along() -> None:
    p = subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert p.stdout is not None
    pid = int(p.stdout.readline())
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    p.kill()
    p.wait()
    p.stdout.close()
    assert _gone(pid)
