"""Candidate 0 in tiles: blocks that fit, blocks that end within a tile, any strides, any type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.shipped import some

from opwright.backends.cpp.plan import print_for
from opwright.backends.cpp.run import Library
from opwright.compiler.elaborate import elaborate, load_spec
from opwright.compiler.library import shipped
from opwright.compiler.normalize import normalize
from opwright.compiler.strategies.blocking import Tile, choose, in_order
from opwright.compiler.strategies.fallback import lower
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.parser import parse
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import Expr, Fold, const, read, reduction, size, var
from opwright.ir.op import OpAxis, Operator
from opwright.ir.reference import reference
from opwright.verify.context import Context
from opwright.verify.gates import safety

SPEC = Path(__file__).parent / "data" / "shapes.op"
SHAPES: dict[str, list[dict[str, int]]] = {
    "prologue": [{"M": 4, "N": 8, "K": 3}, {"M": 70, "N": 21, "K": 5}, {"M": 9, "N": 17, "K": 0}],
    "batched": [{"A": 2, "B": 3, "M": 9, "N": 18, "K": 4}],
    "distance": [{"M": 10, "N": 33, "K": 7}],
    "columns": [{"R": 5, "C": 70}, {"R": 0, "C": 33}],
    "matvec": [{"M": 20, "K": 9}],
    "turned": [{"M": 37, "N": 18}, {"M": 16, "N": 300}],
    "window": [{"N": 2, "C": 3, "H": 40, "K": 9, "R": 3}],
    "masked_rows": [{"H": 2, "Sq": 9, "Skv": 19, "D": 36}],
    "scattered": [{"V": 9, "D": 40, "N": 5}],
    "segments": [{"R": 4, "Z": 6, "D": 40, "C": 7}],
    "over_rows": [{"R": 5, "C": 40}],
    "best": [{"B": 19, "N": 7}],
    "ranked": [{"B": 3, "N": 17, "K": 9}],
    "total": [{"A": 2, "B": 3, "C": 4}],
    "integers": [{"N": 37}],
    "rounding": [{"N": 37}],
    "lookup": [{"V": 5, "D": 20, "N": 6}],
    "halves": [{"B": 2, "N": 70}],
    "pieces": [{"B": 3, "M": 20, "N": 17}],
}
ISAS = ("portable", "x86-64-v3", "x86-64-v4")
ROW, COLUMN, DEPTH, LEVEL = (var(n) for n in "ijkl")


def operator(name: str) -> Operator:
    text = SPEC.read_text()
    return elaborate(parse(text, SPEC.name), name, filename=SPEC.name, source=text)


def arrays(op: Operator, sizes: dict[str, int], gap: int) -> dict[str, np.ndarray]:
    """Inputs in stored form; with a gap, every axis steps over elements that are not its own."""
    from opwright.ir.expr import evaluate

    rng = np.random.default_rng(5)
    limits = {"ids": "V", "t": "V", "col": "C"}
    out = {}
    for t in op.inputs:
        shape = tuple(int(evaluate(s, sizes)) for s in t.shape)
        if t.name in limits:
            a = rng.integers(0, sizes[limits[t.name]], shape)
        elif t.name == "ptr":
            a = np.concatenate([[0], np.sort(rng.integers(0, sizes["Z"] + 1, shape[0] - 1))])
        elif t.kind == "int":
            a = rng.integers(-9, 9, shape)
        else:
            a = rng.standard_normal(shape)
        stored = encode(a, t.dtype)
        wide = np.zeros([gap * n for n in shape], stored.dtype)
        view = wide[tuple(slice(None, None, gap) for _ in shape)]
        view[...] = stored
        out[t.name] = view
    return out


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_tiles_mean_the_spec(name: str) -> None:
    op = operator(name)
    program = lower(normalize(op))
    kit = evaluation_tools(op, "x86-64-v3").tools
    library = Library(kit.build(kit.emit(program)).path, op)
    for gap in (1, 2):
        for sizes in SHAPES[name]:
            given = arrays(op, sizes, gap)
            plain = {t.name: decode(given[t.name], t.dtype) for t in op.inputs}
            free = {k: v for k, v in sizes.items() if k in op.free_sizes}
            want = reference(op, plain, {}, free)
            got = {
                t.name: np.zeros([2 * n for n in want[t.name].shape], t.dtype.storage)[
                    (..., *(slice(None, None, 2) for _ in t.axes))
                ]
                for t in op.outputs
            }
            library.run(given, got, sizes=sizes)
            for t in op.outputs:
                np.testing.assert_allclose(
                    decode(got[t.name], t.dtype),
                    want[t.name],
                    rtol=1e-2 if t.dtype.bits < 32 else 2e-6,
                    atol=1e-6,
                    err_msg=f"{t.name} at {sizes}",
                )


@pytest.mark.parametrize("name", ["prologue", "turned", "columns", "window", "segments", "best"])
def test_tiles_are_safe_for_all_shapes(name: str) -> None:
    op = operator(name)
    records = safety(lower(normalize(op)), Context.of(op))
    assert {r.status for r in records} == {"PROVED"}


def test_every_shipped_operator_prints_at_every_level() -> None:
    for path in some(sorted(shipped().rglob("*.op")), 6):
        spec = load_spec(path)
        for name in spec.names:
            for types in spec.bindings(name):
                op = spec.operator(name, types)
                program = lower(normalize(op))
                for isa in ISAS:
                    assert print_for(program, op, isa)


def axes(*names: str) -> tuple[OpAxis, ...]:
    return tuple(OpAxis(n, const(0), size(n.upper())) for n in names)


def total(*factors: Expr, over: str = "k") -> Expr:
    term = factors[0]
    for f in factors[1:]:
        term = term * f
    return reduction("sum", (over,), ((const(0), size("K")),), term)


def test_lanes_run_where_reads_are_contiguous() -> None:
    product = total(read("x", (ROW, DEPTH), "real"), read("y", (DEPTH, COLUMN), "real"))
    assert choose(axes("i", "j"), product) == Tile(1, 8, 0, 4, 64)
    turned = total(read("x", (DEPTH, ROW), "real"), read("y", (COLUMN, DEPTH), "real"))
    assert choose(axes("i", "j"), turned) == Tile(0, 8, 1, 4, 64)
    down = total(read("x", (DEPTH, COLUMN), "real"))
    assert choose(axes("j"), down) == Tile(0, 32, block=32)
    along = total(read("x", (ROW, DEPTH), "real"))
    assert choose(axes("i"), along) == Tile(0, 8, block=8)
    exchanged = read("x", (COLUMN, ROW), "real")
    assert choose(axes("i", "j"), exchanged) == Tile(0, 16, 1, 16, 256)
    assert choose((), total(read("x", (DEPTH,), "real"))) is None


def test_an_index_that_moves_a_range_has_no_lanes() -> None:
    prefix = reduction("sum", ("k",), ((const(0), ROW),), read("x", (DEPTH, COLUMN), "real"))
    assert choose(axes("i"), prefix) is None
    found = choose(axes("i", "j"), prefix)
    assert found is not None and found.lanes == 1 and found.rows is None


def test_the_innermost_index_is_the_contiguous_one() -> None:
    ranges = ((const(0), size("K")), (const(0), size("L")))
    swapped = reduction("sum", ("k", "l"), ranges, read("x", (LEVEL, DEPTH), "real"))
    assert Fold(in_order(swapped)).binders == ("l", "k")
    plain = reduction("sum", ("k", "l"), ranges, read("x", (DEPTH, LEVEL), "real"))
    assert in_order(plain) is plain
    dependent = ((const(0), size("K")), (const(0), DEPTH))
    kept = reduction("sum", ("k", "l"), dependent, read("x", (LEVEL, DEPTH), "real"))
    assert in_order(kept) is kept


def test_an_input_is_overwritten_after_all_that_read_it() -> None:
    op = load_spec(shipped() / "optim" / "adam.op").operator()
    program = lower(normalize(op))
    stored = [next(b.name for b in k.buffers if b.role == "out") for k in program.kernels]
    assert stored == ["w", "m", "v"]
