"""Inputs that a caller holds constant: what kernels make of them alone is made once and kept.

A library with launches that depend on some inputs only has `int64_t opwright_part(buffers, ints,
reals, threads, phase, constant, held)`: phase 3 says how many bytes are kept for the constant
inputs (bits), phase 1 fills them, phase 2 runs the other launches. It gives 2 where what is held
was made for other sizes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Mapping
from typing import Any, Callable

from .describe import argument

FILL, REST, SIZE = 1, 2, 3
OTHER = 2  # status: held for other sizes
MOST = 8  # libraries of which something is kept at once
_INT32, _WORD, _ADDRESS = ctypes.c_int32, ctypes.c_uint64, ctypes.c_void_p


class Kept:
    """An operator with some inputs given; called with the others, in their order or by name.

    The arrays that were given must not change while this is in use; after a change call `refresh`.
    """

    def __init__(
        self, engine: Any, function: Callable[..., Any], constant: Mapping[str, Any]
    ) -> None:
        spec = engine.spec
        names = [argument(t.name) for t in spec.inputs]
        strange = sorted(set(constant) - set(names))
        if strange:
            raise TypeError(
                f"{spec.name} has no input {strange[0]!r}; its inputs are {', '.join(names)}"
            )
        replaced = {argument(t.updates) for t in spec.outputs if t.updates}
        for name in constant:
            if name in replaced:
                raise ValueError(f"{spec.name}: {name} is updated by a call: it is not constant")
        self.engine, self.function = engine, function
        self.constant = dict(constant)
        self._names = names
        self._free = [n for n in names if n not in constant]
        self._given = [argument(n) for n in spec.given_names()]
        self._mask = sum(1 << k for k, n in enumerate(names) if n in constant)
        self._held: dict[str, Any] = {}

    def __call__(
        self,
        *arrays: Any,
        out: Any = None,
        implementation: Any = None,
        check: bool | None = None,
        **keywords: Any,
    ) -> Any:
        """What the operator gives; `keywords` are inputs by name, params and the like."""
        if len(arrays) > len(self._free):
            raise TypeError(
                f"{self.engine.spec.name} takes {', '.join(self._free)} here,"
                f" not {len(arrays)} arrays"
            )
        named = {**self.constant, **dict(zip(self._free, arrays))}
        twice = sorted(named.keys() & keywords.keys())
        if twice:
            raise TypeError(f"{self.engine.spec.name}: {twice[0]} is given twice")
        named.update(keywords)
        torch = sys.modules.get("torch")
        known = all(n in named for n in self._names)
        if not known or (torch is not None and torch.compiler.is_compiling()):
            return self.function(
                **named, **_present(out=out, implementation=implementation, check=check)
            )
        strange = [k for k in keywords if k not in self._names and k not in self._given]
        if strange:
            return self.function(**named)  # says what it takes
        inputs = tuple(named[n] for n in self._names)
        given = tuple(keywords.get(n) for n in self._given)
        return self.engine.call(inputs, given, out, implementation, check, self)

    def refresh(self) -> None:
        """Make anew at the next call what was made of the constant inputs."""
        self._held.clear()

    def run(self, bound: Any, buffers: Any, threads: int) -> int:
        """The kernel of a call whose signature is known; 0, or 1: no memory."""
        part = bound.part
        if part is None:
            return int(bound.run(buffers, bound.ints, bound.reals, _INT32(threads)))
        numbers = (buffers, bound.ints, bound.reals, _INT32(threads))
        mask = _WORD(self._mask)
        held = self._held.get(bound.path)
        for _ in range(2):
            if held is None:
                held = self._make(bound, part, numbers, mask)
                if held is None:
                    return 1
            if not held:  # nothing of this library depends on these inputs alone
                return int(bound.run(*numbers))
            status = int(part(*numbers, _INT32(REST), mask, _ADDRESS(held[0])))
            if status != OTHER:
                return status
            held = None
        return 1

    def _make(self, bound: Any, part: Any, numbers: Any, mask: Any) -> Any:
        """(address, memory) of what is kept; empty where nothing is, None without memory."""
        size = part(*numbers, _INT32(SIZE), mask, None)
        least = part(*numbers, _INT32(SIZE), _WORD(0), None)
        held: Any = ()
        if size > least:
            try:
                memory = mmap.mmap(-1, size)
            except (OSError, ValueError, OverflowError):
                return None
            if size >= 1 << 22 and hasattr(mmap, "MADV_HUGEPAGE"):
                try:
                    memory.madvise(mmap.MADV_HUGEPAGE)
                except OSError:
                    pass
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            if part(*numbers, _INT32(FILL), mask, _ADDRESS(address)):
                return None
            held = (address, memory)
        if len(self._held) >= MOST:
            self._held.pop(next(iter(self._held)))
        self._held[bound.path] = held
        return held


def part_of(path: str) -> Any:
    """The function that runs a library in parts; None where it has no parts."""
    try:
        found = ctypes.CDLL(path).opwright_part
    except (OSError, AttributeError):
        return None
    found.restype = ctypes.c_int64
    return found


def _present(**given: Any) -> dict[str, Any]:
    return {k: v for k, v in given.items() if v is not None}
