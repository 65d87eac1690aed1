"""Faults seeded into CUDA C++ text: those of C++, and those of threads that share memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from opwright.backends.cpp.clang_headers import HEADERS
from opwright.backends.cpp.mutate import Faults
from opwright.backends.cuda.stub import HEADERS as OWN
from opwright.backends.cuda.stub import STUB
from opwright.ir.mutant import Mutant, different

BARRIERS = ("__syncthreads", "__syncwarp")
ATOMICS = {"atomicAdd": "*({0}) = *({0}) + ({1})", "atomicMax": "*({0}) = max(*({0}), {1})",
           "atomicMin": "*({0}) = min(*({0}), {1})"}  # fmt: skip


def cuda_mutants(source: str, file: str = "kernel.cu") -> list[Mutant]:
    """Mutants of a text in its order. ImportRefusal where it does not parse."""
    from opwright.backends.cpp.reading import mutants

    return mutants("cuda", source, file, source, STUB)


def found(source: str, file: str, kept: str, stub: str) -> list[Mutant]:
    """The same, in the process that reads."""
    return different(CudaFaults(source, file, kept, stub).mutants(), source)


class CudaFaults(Faults):
    """Faults of one CUDA text."""

    leave = "if (blockIdx.x > 0) return;"

    def headers(self) -> dict[str, str]:
        return {**HEADERS, **OWN}

    def walk(self, c: Any, where: str, integers: list[str]) -> Iterator[Mutant]:
        kinds = self.ci.CursorKind
        if c.kind == kinds.CALL_EXPR and c.spelling in BARRIERS:
            yield self.made("barrier", where, c, "(void)0")
            text = self.text(c)
            yield self.made(
                "barrier", where, c, f"do {{ if (threadIdx.x == 0) {text}; }} while (0)"
            )
        elif c.kind == kinds.CALL_EXPR and c.spelling in ATOMICS:
            arguments = [self.text(a) for a in c.get_arguments()]
            if len(arguments) == 2:
                yield self.made("atomic", where, c, ATOMICS[c.spelling].format(*arguments))
        elif c.kind == kinds.CALL_EXPR and c.spelling.startswith("__shfl_"):
            arguments = [self.text(a) for a in c.get_arguments()]
            if len(arguments) >= 3:
                head = self.text(c).partition("(")[0]
                rest = ", ".join(arguments[1:])
                yield self.made("barrier", where, c, f"{head}(0xffffu, {rest})")
                yield self.made("rescale", where, c, f"({arguments[1]})")
        elif c.kind == kinds.VAR_DECL and any(
            x.kind == kinds.ANNOTATE_ATTR and x.spelling == "shared" for x in c.get_children()
        ):
            yield from self.smaller(c, where)
        yield from super().walk(c, where, integers)

    def smaller(self, c: Any, where: str) -> Iterator[Mutant]:
        """An array in shared memory that is too small by one."""
        text = self.text(c)
        for m in re.finditer(r"\[([^\]]+)\]", text):
            new = text[: m.start()] + f"[{m[1]} - 1]" + text[m.end() :]
            yield self.made("shared", where, c, new)
