"""Worker processes that can be killed: sandboxed, limits, clean environment, capped replies.

The parent owns clocks, deadlines and the block of shared memory. A worker's crash, hang, exit or
flood of output is a `Died` with a reason, and the next worker starts fresh. What keeps it in is
`backends/isolation.py`.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.backends import isolation

SCRIPT = Path(__file__).with_name("worker.py")
REPLY_LIMIT = 4 << 20  # bytes of one reply
CHATTER_LIMIT = 64 << 10  # bytes a candidate may print in all
BESIDE = [SCRIPT, SCRIPT.with_name("rounds.py")]


class Died(Exception):
    """The worker is gone; `kind` is crashed | timeout | flood, the message says what happened."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use. `memory` is address space beyond the shared block, in bytes."""

    memory: int = 8 << 30
    cpu: int = 600
    file: int = 1 << 20
    start: float = 20.0


class Shared:
    """A block of memory that parent and workers map; it has no name and vanishes with them."""

    def __init__(self, size: int) -> None:
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._file = tempfile.TemporaryFile(dir=folder)
        self.size = max(size, mmap.PAGESIZE)
        os.ftruncate(self._file.fileno(), self.size)
        self._map = mmap.mmap(self._file.fileno(), self.size)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def grow(self, size: int) -> None:
        """Make room; earlier contents stay, workers started before do not see the new part."""
        if size <= self.size:
            return
        os.ftruncate(self._file.fileno(), size)
        self.size = size
        self._map = mmap.mmap(self._file.fileno(), size)
        self.bytes = np.frombuffer(self._map, np.uint8)

    def close(self) -> None:
        self._file.close()


def environment(threads: int) -> dict[str, str]:
    """What a worker sees: a short list of names, nothing that could be a key or a token."""
    # without a thread cache every allocation of a test call is filled with garbage
    more = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0", "OMP_DYNAMIC": "false"}
    return isolation.environment({**more, "OMP_NUM_THREADS": str(threads)})


class Worker:
    """One worker process. Requests are answered in order; after `Died` it is dead and reaped."""

    def __init__(
        self,
        shared: Shared,
        threads: int,
        limits: Limits | None = None,
        libraries: Sequence[Path] = (),
    ) -> None:
        """`libraries` are the candidates that it may load; it can read no other."""
        limits = limits or Limits()
        down, self._requests = os.pipe()
        self._replies, up = os.pipe()
        options = {"memory": shared.fd, "size": shared.size, "requests": down, "replies": up}
        allowance = isolation.Allowance(
            [*BESIDE, *libraries],
            memory=limits.memory + shared.size,
            cpu=limits.cpu,
            file=limits.file,
        )
        try:
            self._process = isolation.start(
                [sys.executable, "-I", "-S", str(SCRIPT), json.dumps(options)],
                allowance,
                env=environment(threads),
                pass_fds=(down, up, shared.fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except BaseException:
            os.close(self._requests)
            os.close(self._replies)
            raise
        finally:
            os.close(down)
            os.close(up)
        self._line = b""
        self._chatter = b""
        self._alive = True
        self._read(time.monotonic() + limits.start, limits.start)

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(self, do: str, timeout: float, **content: Any) -> dict[str, Any]:
        """Send a request and wait for its reply; `Died` when there is none in time."""
        if not self._alive:
            raise Died("crashed", "the worker is dead")
        line = json.dumps({"do": do, **content}).encode() + b"\n"
        try:
            os.write(self._requests, line) if len(line) < 4096 else self._write(line)
        except BrokenPipeError:
            raise self._dead() from None
        return self._read(time.monotonic() + timeout, timeout)

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(self._requests, view) :]

    def _read(self, deadline: float, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        watched = [self._replies, output]
        while b"\n" not in self._line:
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise Died("timeout", f"no answer within {timeout:g} s")
            ready, _, _ = select.select(watched, [], [], left)
            if output in ready:
                data = os.read(output, 65536)
                if not data:
                    watched.remove(output)
                self._chatter += data
                if len(self._chatter) > CHATTER_LIMIT:
                    self.kill()
                    raise Died("flood", f"printed more than {CHATTER_LIMIT >> 10} KiB")
            if self._replies in ready:
                data = os.read(self._replies, 65536)
                if not data:
                    raise self._dead()
                self._line += data
                if len(self._line) > REPLY_LIMIT:
                    self.kill()
                    raise Died("flood", f"replied with more than {REPLY_LIMIT >> 20} MiB")
        line, self._line = self._line.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except ValueError:
            self.kill()
            raise Died("crashed", "the worker's reply is not JSON") from None
        if not isinstance(reply, dict):
            self.kill()
            raise Died("crashed", "the worker's reply is no object")
        if "error" in reply:
            self.kill()
            raise Died("crashed", str(reply["error"])[:500])
        return reply

    def _dead(self) -> Died:
        """Reap the process and say how it ended."""
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            return Died("crashed", "the worker closed its pipe")
        code = self._process.status() or 0
        self.kill()
        said = self._chatter.decode(errors="replace").strip().splitlines()
        tail = f": {said[-1][:200]}" if said else ""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
            kind = "timeout" if -code == signal.SIGXCPU else "crashed"
            return Died(kind, f"killed by signal {-code} ({name}){tail}")
        return Died("crashed", f"exited with code {code}{tail}")

    def interrupt(self) -> None:
        """End the process from another thread; whoever waits for it sees `Died` and cleans up."""
        self._process.interrupt()

    def kill(self) -> None:
        """End the process with all that it started and reap it; harmless when it is dead
        already."""
        if not self._alive:
            return
        self._alive = False
        self._process.end()
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._requests)
        os.close(self._replies)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def secret_free(names: Mapping[str, str]) -> bool:
    """Whether no variable name looks like a credential."""
    words = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
    return not any(w in n.upper() for n in names for w in words)
