"""What faults are seeded into to judge the gates: kernels at a level, and the classes of faults.

Kernels are what the printers make of the library (C++, Triton, JAX), and the Triton and CUDA
kernels of the tests; faults go into their texts, their plans, the programs they were printed from,
and Triton's intermediate form.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import host_isa
from opwright.compiler.candidates import Candidate, printed, read
from opwright.compiler.elaborate import load_spec
from opwright.compiler.mutating_gates import ArrayJudge, Judge, Printer
from opwright.compiler.stored import stored_form
from opwright.ir.launch import bind_plan, with_room
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.search.space import IllegalSchedule, Space

ROOT = Path(__file__).resolve().parent.parent
SPECS, TESTS = ROOT / "specs", ROOT / "tests"
SAFETY = {
    "mask": "a comparison of a mask made weaker, stronger or another one",
    "mask_dropped": "a mask, or a part of one, left out",
    "comparison": "a comparison made weaker, stronger or another one",
    "bound": "another size as bound",
    "stride": "strides exchanged, left out or of another axis",
    "offset": "an index moved by one",
    "index_order": "indices exchanged",
    "diagonal": "one range of lanes in place of another",
    "narrow": "an index through a narrower integer",
    "division": "a quotient or remainder that is right only where division is floored",
    "grid": "a grid that is rounded down, or larger or smaller by one",
    "arguments": "two arguments exchanged",
    "facts": "a guard left out",
    "contradiction": "guards that contradict each other",
    "hint": "a hint that nothing makes true",
    "store_missing": "a store or a launch left out",
    "early_return": "all programs but the first do nothing",
    "alias": "the output read in place of an input",
    "atomic": "a store in place of an atomic operation",
    "launch_order": "launches in another order",
    "barrier": "a barrier left out or under a condition; fewer lanes in a shuffle",
    "shared": "scratch or shared memory that is too small",
    "dummy": "an operation that nothing knows",
    "branch": "a branch taken otherwise",
    "fill": "another value for masked-off lanes, or none",
}
FUNCTION = {
    "loop": "a loop that starts, ends or steps otherwise",
    "init": "another start of a fold",
    "state": "carried values kept or exchanged",
    "stale": "an old state where the new one is meant",
    "accumulator": "an assignment in place of an accumulation",
    "rescale": "a factor left out",
    "term_dropped": "an operand in place of a result",
    "operation": "another operation",
    "operands": "operands exchanged",
    "reduction": "another reduction",
    "axis": "another axis",
    "constant": "another constant",
    "index": "another comparison in an index",
    "epilogue": "a term on the wrong side of a function",
    "precision": "a value through a narrower type",
    "nan": "NaN that is dropped",
    "keepdim": "another shape",
    "slice": "another slice",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A kernel at a level, of whose text or of whose family; `make` gives its judge, or raises
    ValueError with what stands against it."""

    name: str
    level: str
    backend: str
    family: str
    make: Callable[[], Judge]

    @property
    def text(self) -> str:
        return f"{self.name} ({self.level})"

    @property
    def group(self) -> str:
        return f"{self.backend}, {self.level}"


def subjects() -> list[Subject]:
    """All of them, in one order."""
    return [*library(), *triton_kernels(), *cuda_kernels()]


def library() -> Iterator[Subject]:
    """What our printers make of the library."""
    for path in sorted(SPECS.glob("*/*.op")):
        family = path.parent.name
        name = f"{family}/{path.stem}"
        for backend in ("cpp", "triton"):
            for level in ("tile", "source"):
                make = partial(own, path, backend, level)
                yield Subject(f"{name}, {backend}", level, backend, family, make)
        yield Subject(f"{name}, jax", "source", "jax", family, partial(arrays, path))


def own(path: Path, backend: str, level: str) -> Judge:
    """Of the first schedule that is legal and not the fallback's."""
    op = first(path)
    isa = host_isa()
    printer: Printer
    if backend == "triton":
        from opwright.compiler import block_spaces, blocks

        known: Sequence[Space] = block_spaces.spaces(op, "sm_90")
        printer = partial(blocks_printed, op, blocks.printed)
    else:
        from opwright.compiler.spaces import spaces

        known = spaces(op, 16 if isa == "x86-64-v4" else 8)
        printer = partial(printed_for, op, isa)
    return Judge(printer(lowered(known)), op, isa, level, printer)


def printed_for(op: Operator, isa: str, program: TileProgram) -> Candidate:
    return printed(program, op, isa)


def blocks_printed(op: Operator, make: Callable[..., Candidate], program: TileProgram) -> Candidate:
    c = make(program, op, "sm_90")
    return Candidate(c.plan, c.source, program)


def lowered(known: Sequence[Space]) -> TileProgram:
    for space in (*known[1:], known[0]):
        for one in space.preferred():
            try:
                return space.instantiate(one)
            except IllegalSchedule:
                continue
    raise ValueError("no schedule of it is legal")


def arrays(path: Path) -> Judge:
    """Of the function of arrays that is printed."""
    from opwright.backends.jax.plan import make_plan
    from opwright.backends.jax.printer import PrintError, print_operator

    op = first(path)
    try:
        text = print_operator(op)
    except PrintError as e:
        raise ValueError(f"no array code: {e}") from None
    return ArrayJudge(Candidate(make_plan(op), text), op, host_isa(), "source")


def first(path: Path) -> Operator:
    """The first operator of a spec at its first types."""
    spec = load_spec(path)
    name = spec.names[0]
    types = spec.bindings(name)
    return stored_form(spec.operator(name, types[0] if types else {}))


def triton_kernels() -> Iterator[Subject]:
    """Kernels of the tests that other people would write."""
    folders = sorted(p for p in (TESTS / "backends/triton/candidates").glob("*") if p.is_dir())
    for folder in folders:
        for level in ("source", "plan", "ttir"):
            make = partial(foreign, folder, level)
            yield Subject(f"{folder.name}, Triton kernel", level, "Triton kernels", "", make)


def foreign(folder: Path, level: str) -> Judge:
    said = json.loads((folder / "candidate.json").read_text())
    name = said["op"].partition("@")[0]
    known = [folder / "spec.op"] if (folder / "spec.op").exists() else SPECS.rglob("*.op")
    path = next(p for p in known if name in load_spec(p).names)
    op = stored_form(load_spec(path).operator(name, said.get("types", {})))
    c = read(folder, op)
    if level == "ttir":
        from dataclasses import replace

        from opwright.backends.triton.frontend import to_ttir_many

        bound = bind_plan(with_room(c.plan, op), op)
        text = "\n".join(to_ttir_many(c.source, c.plan.source, bound.launches, c.plan.target))
        c = Candidate(replace(c.plan, source="kernel.ttir"), text)
    return Judge(c, op, host_isa(), "plan" if level == "plan" else "source")


def cuda_kernels() -> Iterator[Subject]:
    """CUDA kernels of the tests."""
    if str(TESTS) not in sys.path and TESTS.is_dir():
        sys.path.append(str(TESTS))
    try:
        cases = importlib.import_module("support.cuda_kernels").CASES
    except ImportError:
        return
    for name in sorted(cases):
        for level in ("source", "plan"):
            make = partial(cuda, cases[name], level)
            yield Subject(f"{name}, CUDA kernel", level, "CUDA kernels", "", make)


def cuda(case: Any, level: str) -> Judge:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="opwright-") as root:
        folder = Path(root)
        (folder / "spec.op").write_text(case.spec)
        (folder / "candidate.json").write_text(json.dumps(case.plan()))
        (folder / "kernel.cu").write_text(case.source)
        op = stored_form(load_spec(folder / "spec.op").operator(case.op, {}))
        return Judge(read(folder, op), op, host_isa(), level)
