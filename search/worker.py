"""The process that runs candidates: loads libraries, calls them on shared memory, times them.

Standard library only; started by path in a sandbox, with limits and a clean environment. Requests
and replies are JSON lines over two pipes. Buffers lie in a block of memory that the parent owns;
inputs' originals, references and verdicts stay with it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
import os
import sys
from typing import Any

PERTURB = -6  # M_PERTURB of mallopt: what fresh heap memory is filled with
PROTOCOL = 1
FORBIDDEN = 0  # PROT_NONE of mprotect


def _rounds() -> Any:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rounds.py")
    spec = importlib.util.spec_from_file_location("opwright_rounds", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["opwright_rounds"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:  # a sandbox without /proc
        return 0.0


class Worker:
    """State of the process: mapped memory, loaded libraries, private buffers of timed calls."""

    def __init__(self, memory: int, size: int) -> None:
        self.libc = ctypes.CDLL(None)
        self.map = mmap.mmap(memory, size) if size else None
        self.base = 0
        if self.map is not None:
            self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.size = size
        self.functions: list[Any] = []
        self.forgetting: list[Any] = []  # what drops scratch that a library kept, where it does
        self.held: list[Any] = []
        self.contenders: dict[str, Any] = {}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            library = ctypes.CDLL(request["path"], mode=os.RTLD_NOW | os.RTLD_LOCAL)
            abi = library.opwright_abi()
            run = library.opwright_run
        except (OSError, AttributeError) as e:
            return {"error": f"no candidate library: {e}"}
        if abi != 1:
            return {"error": f"abi {abi} is not known"}
        run.restype = ctypes.c_int32
        run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int32]
        self.functions.append(run)
        self.forgetting.append(getattr(library, "opwright_forget", None))
        return {"library": len(self.functions) - 1}

    def _arguments(self, pointers: list[int], request: dict[str, Any]) -> tuple[Any, ...]:
        ints, reals = request["ints"], request["reals"]
        return (
            (ctypes.c_void_p * max(1, len(pointers)))(*pointers),
            (ctypes.c_int64 * max(1, len(ints)))(*ints),
            (ctypes.c_double * max(1, len(reals)))(*reals),
            ctypes.c_int32(request["threads"]),
        )

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """One call on shared memory; fresh heap memory is filled with `perturb`. Touching a page of
        `guards` (offset, bytes) ends the process."""
        pointers = [self.base + offset for offset in request["offsets"]]
        arguments = self._arguments(pointers, request)
        forbidden = [(self.base + at, size) for at, size in request.get("guards", ())]
        for at, size in forbidden:
            self._protect(at, size, FORBIDDEN)
        forget = self.forgetting[request["library"]]
        if forget is not None:
            forget()  # what is kept of another call is not filled with anything
        self.libc.mallopt(PERTURB, request["perturb"])
        status = self.functions[request["library"]](*arguments)
        self.libc.mallopt(PERTURB, 0)
        for at, size in forbidden:
            self._protect(at, size, mmap.PROT_READ | mmap.PROT_WRITE)
        return {"status": status}

    def _protect(self, at: int, size: int, how: int) -> None:
        """Forbid or allow pages of shared memory in this process."""
        if self.libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(size), how):
            raise OSError("pages beside a buffer could not be protected")

    def _private(self, size: int) -> int:
        """Address of fresh pages that nothing else uses, as a framework's allocator gives them."""
        block = mmap.mmap(-1, max(size, 1) + 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.held.append(block)
        return ctypes.addressof(ctypes.c_char.from_buffer(block))

    def _copy(self, buffer: dict[str, Any]) -> int:
        """Address of a private copy of a shared buffer."""
        at = self._private(buffer["bytes"])
        ctypes.memmove(at, self.base + buffer["offset"], buffer["bytes"])
        return at

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Interleaved rounds of several libraries on private copies of one call's buffers.

        After the rounds every contender with a `check` runs once more on other inputs, timed alike,
        into poisoned outputs that go back to shared memory for the parent to compare.
        """
        rounds = _rounds()
        buffers = request["buffers"]
        shared = {b["name"]: self._copy(b) for b in buffers if b["role"] == "in"}
        contenders = {}
        for c in request["contenders"]:
            outputs = {b["name"]: self._copy(b) for b in buffers if b["role"] == "out"}
            contenders[c["name"]] = self._contender(c, request, shared, outputs)
        self.contenders = contenders
        settings = rounds.Settings(**request["settings"])
        settings.rare = tuple(settings.rare)
        settings.stop = tuple(settings.stop) if settings.stop else None
        found = rounds.interleave(contenders, settings)
        for c in request["contenders"]:
            self._check(c, request)
        return {
            "load": _load(),
            "samples": {
                n: {
                    "wall": s.wall,
                    "share": s.share,
                    "rejected": s.rejected,
                    "unparallel": s.unparallel,
                }
                for n, s in found.items()
            },
        }

    def _contender(
        self,
        contender: dict[str, Any],
        request: dict[str, Any],
        inputs: dict[str, int],
        outputs: dict[str, int],
    ) -> Any:
        function = self.functions[contender["library"]]
        order = [b["name"] for b in request["buffers"]]
        buffers, ints, reals, threads = self._arguments(
            [inputs.get(n) or outputs[n] for n in order], request
        )
        if request["mode"] == "out":

            def repeat(count: int) -> None:
                for _ in range(count):
                    function(buffers, ints, reals, threads)

            return repeat
        sizes = [(n, b["bytes"]) for n, b in enumerate(request["buffers"]) if b["role"] == "out"]
        allocate, free = self.libc.posix_memalign, self.libc.free
        free.argtypes = [ctypes.c_void_p]

        def fresh(count: int) -> None:
            for _ in range(count):
                taken = []
                for n, size in sizes:
                    p = ctypes.c_void_p()
                    allocate(ctypes.byref(p), ctypes.c_size_t(64), ctypes.c_size_t(size + 64))
                    buffers[n] = p.value
                    taken.append(p)
                function(buffers, ints, reals, threads)
                for p in taken:
                    free(p)

        return fresh

    def _check(self, contender: dict[str, Any], request: dict[str, Any]) -> None:
        check = contender.get("check")
        if check is None:
            return
        pointers = []
        outputs = []
        for b in check["buffers"]:
            at = self._copy(b)
            pointers.append(at)
            if b["role"] == "out":
                outputs.append((at, b))
        arguments = self._arguments(pointers, {**request, **check})
        self.functions[contender["library"]](*arguments)
        for at, b in outputs:
            ctypes.memmove(self.base + b["offset"], at, b["bytes"])

    def again(self, request: dict[str, Any]) -> dict[str, Any]:
        """More calls of a contender that was timed, for whoever counts from outside."""
        self.contenders[request["contender"]](request["calls"])
        return {}

    def forget(self, request: dict[str, Any]) -> dict[str, Any]:
        """Release private buffers."""
        self.contenders.clear()
        self.held.clear()
        return {}


def main() -> None:
    options = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no ptrace, no core
    worker = Worker(options["memory"], options["size"])
    requests = os.fdopen(options["requests"], "r", encoding="utf-8")
    replies = os.fdopen(options["replies"], "w", encoding="utf-8")
    print(json.dumps({"ready": PROTOCOL}), file=replies, flush=True)
    for line in requests:
        request = json.loads(line)
        action = {
            "load": worker.load,
            "call": worker.call,
            "time": worker.time,
            "again": worker.again,
            "forget": worker.forget,
        }[request["do"]]
        try:
            reply = action(request)
        except MemoryError:
            reply = {"error": "out of memory"}
        except OSError as e:
            reply = {"error": str(e)}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
