"""Generated inputs obey facts and `requires`, meet the boundaries, and depend on the seed alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from support import operators as ops

from opwright.compiler.elaborate import elaborate
from opwright.grammar.parser import parse
from opwright.ir.binding import InputError
from opwright.ir.dtypes import decode, dtype
from opwright.ir.expr import call, const, evaluate, param, read, reduction, size, toreal, var
from opwright.ir.op import OpAxis, Operator, Param, Tensor, Workload
from opwright.verify import memory
from opwright.verify.draw import draw_inputs, holds
from opwright.verify.inputs import Cases, generate, plant, workload_case
from opwright.verify.sizes import Limits, memory_of, scale, work

ALL = [
    ops.scaled,
    ops.row_sum,
    ops.row_argmax,
    ops.gather,
    ops.rows_of_pointers,
    ops.blocked,
]


def _check(op: Operator, made: Cases, limits: Limits) -> None:
    for c in made.cases:
        env = {**c.params, **c.sizes}
        assert all(evaluate(f, env) for f in op.facts)
        assert not holds(op, c.inputs, c.sizes, c.params)
        assert work(op, c.sizes, c.params) <= limits.work
        for t in op.inputs:
            shape = tuple(int(evaluate(s, env)) for s in t.shape)
            assert c.inputs[t.name].shape == shape
            assert c.inputs[t.name].dtype == np.dtype(t.dtype.storage)
            assert math.prod(shape) <= limits.elements


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_cases_obey_facts_and_requires(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    op = make()
    limits = Limits(4096, 1 << 18)
    made = generate(op, seed, count=14, edges=(32,), limits=limits, families=("normal", "ties"))
    assert len(made.cases) >= 10
    _check(op, made, limits)


@pytest.mark.parametrize("make", ALL)
def test_the_same_seed_gives_the_same_cases(make) -> None:  # type: ignore[no-untyped-def]
    a, b, other = (generate(make(), s) for s in (5, 5, 6))
    assert a.notes == b.notes
    assert [str(c) for c in a.cases] == [str(c) for c in b.cases]
    for x, y in zip(a.cases, b.cases, strict=True):
        assert all(x.inputs[n].tobytes() == y.inputs[n].tobytes() for n in x.inputs)
    assert [str(c) for c in a.cases] != [str(c) for c in other.cases]


def test_boundaries_and_edges_are_met() -> None:
    made = generate(ops.scaled(), 0, count=40, edges=(32,))
    seen = {c.sizes["N"] for c in made.cases}
    assert {0, 1} <= seen and {31, 32, 33} <= seen
    assert any(c.sizes["B"] != c.sizes["N"] for c in made.cases)


def test_sizes_beyond_a_block() -> None:
    made = generate(ops.row_sum(), 0, count=8, beyond=(96, 512))
    seen = [(c.sizes["B"], c.sizes["N"]) for c in made.cases]
    for past in (1281, 513, 241, 97):  # more than two blocks, and one more than a block
        assert any(b == past for b, _ in seen) and any(n == past for _, n in seen)


def test_equations_divisibility_and_membership() -> None:
    made = generate(ops.blocked(), 3, count=10)
    assert {c.sizes["D"] for c in made.cases} == {64, 128}
    assert all(c.sizes["N"] == c.sizes["M"] * c.sizes["D"] for c in made.cases)
    assert all(c.sizes["M"] % 16 == 0 for c in made.cases)
    shares = []  # of a default over sizes, exact in its type, and of other values beside it
    for c in made.cases:
        usual = np.float32(1 / math.sqrt(c.sizes["D"]))
        shares.append(c.params["scale"] / usual)
        assert np.float32(c.params["scale"]) == c.params["scale"]
    assert 1 in shares and set(shares) <= {0.5, 1, 2}


def test_facts_of_a_variant_narrow_the_sizes() -> None:
    made = generate(ops.scaled(), 0, facts=[call("eq", size("N") % 8, 0), call("eq", size("B"), 5)])
    assert made.cases
    assert all(c.sizes["N"] % 8 == 0 and c.sizes["B"] == 5 for c in made.cases)


def test_z3_finds_what_sampling_does_not() -> None:
    # N is one of few numbers that no pool holds
    fact = call("eq", size("N") % 977, 611)
    op = ops.scaled(facts=[fact, call("le", size("N"), 2000), call("le", 3, size("B"))])
    made = generate(op, 0, count=3)
    assert made.cases
    assert {c.sizes["N"] for c in made.cases} <= {611, 1588}


def test_many_dims_fit_a_small_budget() -> None:
    names = "ABCDEFGH"
    axes = tuple(OpAxis(n.lower(), const(0), size(n)) for n in names)
    x = Tensor("x", dtype("f32"), axes, None, "input")
    body = read("x", tuple(var(n.lower()) for n in names), "real")
    y = Tensor("y", dtype("f32"), axes, body, "output")
    facts = tuple(call("le", 1, size(n)) for n in names)
    op = Operator("eight", "1.0", None, {}, tuple(names), {}, (), facts, (x,), (y,))
    made = generate(op, 0, 8, (), Limits(256), (), ("normal",), specials=False)
    assert len(made.cases) == 8
    assert any(2 in c.sizes.values() or 3 in c.sizes.values() for c in made.cases)


def test_impossible_facts_are_said() -> None:
    op = ops.scaled(facts=[call("lt", size("N"), size("B")), call("lt", size("B"), size("N"))])
    made = generate(op, 0)
    assert not made.cases
    assert "no sizes" in made.notes[0] and "N < B" in made.notes[0]


def test_indices_stay_in_range_and_reach_both_ends() -> None:
    made = generate(ops.gather(), 0, count=30)
    ends = set()
    for c in made.cases:
        ids = c.inputs["ids"]
        if ids.size:
            assert 0 <= ids.min() and ids.max() < c.sizes["V"]
            ends |= {"first"} if ids.min() == 0 else set()
            ends |= {"last"} if ids.max() == c.sizes["V"] - 1 else set()
    assert ends == {"first", "last"}


def test_pointers_are_monotone_between_their_ends() -> None:
    for c in generate(ops.rows_of_pointers(), 0, count=20).cases:
        ptr = c.inputs["ptr"]
        assert ptr[0] == 0 and ptr[-1] == c.sizes["E"]
        assert (np.diff(ptr) >= 0).all()


def test_special_values_only_where_requires_allows() -> None:
    free = {c.family for c in generate(ops.scaled(), 0).cases if c.special}
    assert free == {"nan", "inf", "negative_inf", "negative_zero", "denormal"}
    made = generate(ops.row_sum(), 0)
    assert {c.family for c in made.cases if c.special} == {"negative_zero", "denormal"}
    assert "no input may hold nan" in made.notes
    for c in generate(ops.scaled("bf16"), 0).cases:
        x = decode(c.inputs["x"], dtype("bf16"))
        if c.family == "nan":
            assert np.isnan(x).any()
        elif not c.special:
            assert np.isfinite(x).all()


def test_a_type_without_infinity_holds_none() -> None:
    op = ops.scaled("f8e4m3")
    case = generate(op, 0, count=1, specials=False).cases[0]
    assert plant(op, case, "inf", 0) is None
    assert plant(op, case, "nan", 0) is not None


def _bounded(low: float, high: float, of: str) -> Operator:
    x = ops.at("x", ops.n)
    inside = call("and", call("lt", const(low), x), call("le", x, const(high)))
    return ops.operator(
        "bounded",
        ["N"],
        [ops.tensor("x", of, n=ops.N)],
        [ops.tensor("y", of, "output", x, n=ops.N)],
        clauses=[ops.requires("inside", ops.every(inside, n=ops.N))],
    )


@pytest.mark.parametrize("of", ["f32", "bf16", "f8e4m3"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, math.inf), (-math.inf, -2.0), (-1.0, 1e-3)])
def test_open_and_closed_bounds(of: str, bounds: tuple[float, float]) -> None:
    op = _bounded(*bounds, of)
    for seed in range(3):
        for c in generate(op, seed).cases:
            x = decode(c.inputs["x"], dtype(of))
            assert ((x > bounds[0]) & (x <= bounds[1])).all()


def test_bounds_that_read_another_input() -> None:
    x, lo = ops.at("x", ops.n), ops.at("lo", ops.n)
    op = ops.operator(
        "above",
        ["N"],
        [ops.tensor("x", "f32", n=ops.N), ops.tensor("lo", "f32", n=ops.N)],
        [ops.tensor("y", "f32", "output", x - lo, n=ops.N)],
        clauses=[ops.requires("above", ops.every(call("lt", lo, x), n=ops.N))],
    )
    made = generate(op, 0)
    assert len(made.cases) > 8
    for c in made.cases:
        assert (c.inputs["lo"] < c.inputs["x"]).all()


def test_symmetric_and_permutation_inputs() -> None:
    a = ops.at("a", ops.i, ops.j)
    same = call("eq", a, ops.at("a", ops.j, ops.i))
    p, q = ops.at("p", ops.i, kind="int"), ops.at("p", ops.j, kind="int")
    apart = call("or", call("eq", ops.i, ops.j), call("ne", p, q))
    inside = call("and", call("le", 0, p), call("lt", p, ops.N))
    op = ops.operator(
        "mixed",
        ["N"],
        [ops.tensor("a", "f32", i=ops.N, j=ops.N), ops.tensor("p", "i32", i=ops.N)],
        [ops.tensor("y", "f32", "output", a, i=ops.N, j=ops.N)],
        clauses=[
            ops.requires("symmetric", ops.every(same, i=ops.N, j=ops.N)),
            ops.requires("apart", ops.every(apart, i=ops.N, j=ops.N)),
            ops.requires("inside", ops.every(inside, i=ops.N)),
        ],
    )
    made = generate(op, 0, count=8)
    assert len(made.cases) >= 6
    for c in made.cases:
        n = c.sizes["N"]
        assert (c.inputs["a"] == c.inputs["a"].T).all()
        assert sorted(c.inputs["p"]) == list(range(n))


def test_requires_that_cannot_be_met_is_said() -> None:
    x = ops.at("x", ops.n)
    never = call("lt", x * x, const(-1.0))
    op = ops.operator(
        "never",
        ["N"],
        [ops.tensor("x", "f32", n=ops.N)],
        [ops.tensor("y", "f32", "output", x, n=ops.N)],
        facts=[call("le", 1, ops.N)],
        clauses=[ops.requires("never", ops.every(never, n=ops.N))],
    )
    with pytest.raises(InputError, match="break never"):
        draw_inputs(op, {"N": 4}, {}, "normal", 0)
    made = generate(op, 0, count=2)
    assert not made.cases and "break never" in made.notes[0]


def test_hard_inputs_that_overflow_the_definition_are_left_out() -> None:
    x = ops.at("x", ops.n)
    op = ops.operator(
        "grows",
        ["N"],
        [ops.tensor("x", "f32", n=ops.N)],
        [ops.tensor("y", "f32", "output", call("log", call("exp", x)), n=ops.N)],
        facts=[call("le", 8, ops.N)],
    )
    made = generate(op, 0, count=3, families=("extreme",))
    assert all(c.family == "normal" for c in made.cases if not c.special)
    assert any("overflows f32" in n for n in made.notes)


def test_params_take_defaults_and_legal_values() -> None:
    x = ops.at("x", ops.n)
    op = ops.operator(
        "step",
        ["N"],
        [ops.tensor("x", "f32", n=ops.N)],
        [ops.tensor("y", "f32", "output", x, n=ops.N // param("step", "int"))],
        facts=[call("le", 1, param("step", "int"))],
        params=[Param("step", dtype("i32"), const(1)), Param("flag", dtype("bool"), const(True))],
    )
    made = generate(op, 0, count=16)
    assert all(c.params["step"] >= 1 for c in made.cases)
    assert len({c.params["step"] for c in made.cases}) > 1
    assert {c.params["flag"] for c in made.cases} == {True, False}


def test_workloads_are_scaled_down_legally() -> None:
    w = Workload(
        "big", 1.0, {"N": 1 << 20, "M": 1 << 14, "D": 64}, {}, {}, {"x": ("uniform", (2.0, 3.0))}
    )
    op = ops.blocked()
    assert (
        scale(
            op, Workload("s", 1.0, {"N": 1024, "M": 16, "D": 64}, {}, {}, {}), 1 << 20, 1 << 20
        ).note
        == ""
    )
    with pytest.raises(InputError, match="no dim"):
        # N == M * D: halving one dim alone is never legal
        scale(op, w, 1 << 12, 1 << 20)
    big = Workload("rows", 0.7, {"B": 32768, "N": 4096}, {}, {}, {"x": ("uniform", (2.0, 3.0))})
    op = ops.scaled()
    s = scale(op, big, 1 << 22, 1 << 30)
    assert memory_of(op, s.sizes, s.params) <= 1 << 22
    assert s.weight == 0.7 and "B = 32768 -> " in s.note and "N" in s.sizes
    c = workload_case(op, big, s, 0)
    assert 2.0 <= c.inputs["x"].min() and c.inputs["x"].max() <= 3.0


def test_work_counts_a_fold_once_for_what_it_depends_on() -> None:
    assert work(ops.row_sum(), {"B": 10, "N": 100}, {}) == 10 + 10 * 100
    total = reduction("sum", ("k",), ((const(0), ops.N),), ops.at("x", ops.b, var("k")))
    shares = ops.operator(
        "shares",
        ["B", "N"],
        [ops.tensor("x", "f32", b=ops.B, n=ops.N)],
        [ops.tensor("y", "f32", "output", ops.at("x", ops.b, ops.n) / total, b=ops.B, n=ops.N)],
    )
    assert work(shares, {"B": 10, "N": 100}, {}) == 10 * 100 + 10 * 100
    upto = reduction("sum", ("s",), ((const(0), ops.n + 1),), ops.at("x", ops.b, var("s")))
    running = ops.operator(
        "running",
        ["B", "N"],
        [ops.tensor("x", "f32", b=ops.B, n=ops.N)],
        [ops.tensor("y", "f32", "output", upto, b=ops.B, n=ops.N)],
    )
    assert 10 * 100 * 50 <= work(running, {"B": 10, "N": 100}, {}) <= 10 * 100 * 53


@pytest.mark.parametrize("layout", memory.GUARDED)
def test_guarded_buffers_end_at_pages(layout: str) -> None:
    case = next(c for c in generate(ops.scaled(), 3, 6).cases if c.inputs["x"].size > 1)
    found, size = memory.slots(ops.scaled(), case, layout)
    taken: list[range] = []
    for s in found:
        pages = memory.guards(s, layout)
        at = s.offset if layout == "start" else s.offset + s.span
        assert at % memory.PAGE == 0
        assert pages["start"] + memory.PAGE <= s.offset
        assert s.offset + s.span <= pages["end"] < size
        if layout == "start":
            assert pages["start"] + memory.PAGE == s.offset
        else:
            assert pages["end"] == s.offset + s.span
        taken.append(range(s.offset, s.offset + s.span))
        taken += [range(p, p + memory.PAGE) for p in pages.values()]
    taken = sorted(taken, key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(taken))


def test_one_case_lies_far_below_zero():
    """Where a maximum that starts from zero leaves nothing of the exponentials."""
    text = (
        'opwright "0.1"\nop s @ 1.0 { dims B, N where N >= 1 input x: f32[B, N] output y: f32[B, N]'
    )
    stable = " def { m[b] = max[j: N](x[b, j]) y[b, j] = exp(x[b, j] - m[b]) } }"
    literal = " def { y[b, j] = 1 / exp(x[b, j]) } }"
    for body, found in ((stable, 1), (literal, 0)):
        op = elaborate(parse(text + body, "s.op"), None, filename="s.op", source=text + body)
        low = [c for c in generate(op, 1, 4).cases if c.family == "low"]
        assert len(low) == found and all(c.inputs["x"].max() < -100 for c in low)


def test_sizes_that_facts_fix_do_not_empty_the_others() -> None:
    op = ops.row_sum()
    rows, columns = op.sizes
    facts = [call("eq", size(columns), 64)]
    made = generate(op, 0, 8, (32,), Limits(elements=1 << 13), facts, beyond=(32,))
    full = [c for c in made.cases if all(x.size for x in c.inputs.values())]
    assert max(c.sizes[rows] for c in full) > 32
    assert all(c.sizes[columns] == 64 for c in made.cases)


def test_an_empty_result_of_a_large_definition_is_no_work() -> None:
    """What does not depend on the extent that is 0 is not evaluated to see whether it overflows."""
    i, j = (OpAxis(n, const(0), size(n.upper())) for n in "ij")
    x = Tensor("x", dtype("f32"), (OpAxis("a", const(0), size("J")),), None, "input")
    total = reduction(
        "sum",
        ("p", "q", "r"),
        ((const(0), size("J")),) * 3,
        read("x", (var("p"),), "real")
        * read("x", (var("q"),), "real")
        * read("x", (var("r"),), "real")
        * toreal(var("i")),
    )
    y = Tensor("y", dtype("f32"), (i, j), total, "output")
    facts = (call("eq", size("I"), 0), call("le", 1000, size("J")), call("le", size("J"), 1001))
    op = Operator("none", "1.0", None, {}, ("I", "J"), {}, (), facts, (x,), (y,))
    made = generate(op, 0, 2, (), Limits(4096), (), ("extreme",), specials=False)
    assert {c.sizes["I"] for c in made.cases} == {0}
