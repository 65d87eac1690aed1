"""Compiles TileIR programs for tests; the operator around them has the right interface only."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.backends.cpp.build import build, host_isa
from opwright.backends.cpp.driver import driver_source
from opwright.backends.cpp.plan import make_plan, print_for
from opwright.backends.cpp.run import Library
from opwright.ir.expr import ZERO, const, leaves
from opwright.ir.op import OpAxis, Operator, Param, Tensor
from opwright.ir.tile import Buffer, TileProgram, scalar_arguments


class Compiler:
    """`levels` are the instruction sets that this machine runs, `best` the highest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        all_levels = ["portable", "x86-64-v3", "x86-64-v4"]
        self.levels = all_levels[: all_levels.index(host_isa()) + 1]
        self.best = self.levels[-1]

    def operator(self, program: TileProgram, params: tuple[Param, ...] = ()) -> Operator:
        """An operator whose inputs and outputs are the program's, in order; its meaning is zero."""
        buffers = [b for b in program.buffers() if b.role in ("in", "out")]
        sizes: dict[str, None] = {}
        roots = [e for b in buffers for e in b.shape]
        for k, p in zip(program.kernels, program.placements, strict=True):
            roots += scalar_arguments(k, p)
        for e in roots:
            for x in leaves(e, "size"):
                sizes[x.attr] = None

        def tensor(b: Buffer) -> Tensor:
            axes = tuple(OpAxis(f"i{n}", ZERO, e) for n, e in enumerate(b.shape))
            zero = const({"real": 0.0, "int": 0, "bool": False}[b.dtype.kind])
            role = "input" if b.role == "in" else "output"
            return Tensor(b.name, b.dtype, axes, None if role == "input" else zero, role)

        return Operator(
            program.name, "1.0", None, {}, tuple(sizes), {}, params, (),
            tuple(tensor(b) for b in buffers if b.role == "in"),
            tuple(tensor(b) for b in buffers if b.role == "out"),
        )  # fmt: skip

    def library(
        self, program: TileProgram, level: str | None = None, params: tuple[Param, ...] = ()
    ) -> Library:
        level = level or self.best
        op = self.operator(program, params)
        text = print_for(program, op, level)
        plan = make_plan(program, op)
        return Library(build(text, driver_source(plan, op), self.folder, level).path, op)


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("built"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`level` runs over the instruction sets that this machine has."""
    if "level" in metafunc.fixturenames:
        metafunc.parametrize("level", Compiler(Path()).levels)
