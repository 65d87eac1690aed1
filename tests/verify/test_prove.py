"""The prover: correct programs are proved for all shapes, wrong ones are refuted by a replay."""

from __future__ import annotations

import dataclasses

import pytest
import tile_kernels
from tile_kernels import C, R, buf

from opwright.ir.dtypes import F32, I64
from opwright.ir.expr import (
    TRUE,
    call,
    cdiv,
    const,
    leaf,
    lift,
    param,
    pid,
    read,
    reduction,
    size,
    var,
)
from opwright.ir.op import Clause
from opwright.ir.tile import Axis, Builder, Placement, TileProgram
from opwright.verify.context import Context
from opwright.verify.gates import safety

n, c, p = size("n"), Axis("c", 8), pid(0)
X, Y, S = buf("X", "in", n), buf("Y", "out", n), buf("S", "program", 8)
BIG = {
    "gelu_tanh": tile_kernels.gelu_tanh,
    "sum_dim0": tile_kernels.sum_dim0,
    "matmul": tile_kernels.matmul,
    "attention": tile_kernels.attention,
}
IN_RANGE = Clause(
    "in_range",
    "requires",
    reduction(
        "all",
        ("i",),
        ((const(0), size("N")),),
        call(
            "and",
            call("le", 0, read("IDS", (var("i"),), "int")),
            call("lt", read("IDS", (var("i"),), "int"), size("V")),
        ),
    ),
)
CONTEXTS = {"gather": Context(requires=(IN_RANGE,))}


def statuses(records):
    return {r.id: r.status for r in records if r.status != "PROVED"}


@pytest.mark.parametrize("name", [*tile_kernels.SMALL, *(f"{n}, full size" for n in BIG)])
def test_correct_programs_are_proved(name):
    base = name.removesuffix(", full size")
    make = BIG[base] if base != name else tile_kernels.SMALL[name]
    records = safety(make(), CONTEXTS.get(name, Context()))
    assert statuses(records) == {}
    kinds = {r.kind for r in records}
    assert kinds == {"G1", "G2", "G3"} and len({r.id for r in records}) == len(records)
    assert all("printer trusted" in r.subject for r in records)


# -- wrong programs --------------------------------------------------------------------------------


def one(grid, body, place=None, facts=(), name="k"):
    k = Builder(name, grid if isinstance(grid, tuple) else (grid,))
    body(k)
    place = place or Placement({"c": "unroll", "d": "unroll"})
    return TileProgram(name, (k.kernel(),), (place,), facts)


def copy(at, mask, load_mask=None, other=None, x=X):
    def body(k):
        v = k.load(x, at, mask=mask if load_mask is None else load_mask, other=other)
        k.store(Y, at, v, mask=mask)

    return body


def rows(store=None, load=None, grid=(R, C)):
    here = (pid(0), pid(1))
    store, load = store or here, load or here
    x, y = buf("X", "in", R, C), buf("Y", "out", R, C)
    return one(grid, lambda k: k.store(y, *store, k.load(x, *load)))


def blocks(lo=lambda p: p * 16, hi=lambda p: p * 16 + 16, step=8, grid=None):
    """Programs of two vectors each; the last one is masked."""

    def body(k):
        def inner(n0):
            mask = n0 + c < n
            k.store(Y, n0 + c, k.load(X, n0 + c, mask=mask), mask=mask)

        k.loop("n0", lo(p), hi(p), step, [], inner)

    return one(cdiv(n, 16) if grid is None else grid, body)


def accumulate(first=lambda k: k.store(S, c.lane, k.full(0.0, F32, c)), hi=n):
    """Adds rows of eight in program scratch."""

    def body(k):
        first(k)

        def add(i):
            k.store(S, c.lane, k.ew("add", k.load(S, c.lane), k.load(X, i)))

        k.loop("i", 0, hi, 1, [], add)
        total = k.reduce("sum", k.load(S, c.lane), c)
        k.store(buf("T", "out", 1), 0, total)

    return one(const(1), body)


def two_launches(fill=lambda k, s: k.store(s, pid(0), k.load(X, pid(0))), grid=n, init="none"):
    """The second launch reads what the first one wrote to scratch of the plan."""
    s = buf("W", "plan", n, init=init)
    first, second = Builder("first", (grid,)), Builder("second", (n,))
    fill(first, s)
    second.store(Y, pid(0), second.load(s, pid(0)))
    kernels = (first.kernel(), second.kernel())
    return TileProgram("two", kernels, (Placement({"c": "unroll"}),) * 2)


def poisoned_carry():
    def body(k):
        (s,) = k.loop("i", 0, 2, 1, [k.full(0.0)], lambda i, s: [k.load(X, p, mask=p < i)])
        k.store(Y, p, s)

    return one(n, body)


def poisoned_branch():
    ids = buf("I", "in", n, dtype=I64)

    def body(k):
        at = k.load(ids, p, mask=p < 1)
        k.branch(
            call("lt", leaf("value", at), 3),
            lambda: k.store(Y, p, k.full(0.0)),
            lambda: k.store(Y, p, k.full(1.0)),
        )

    return one(n, body)


def scatter(mask=TRUE):
    """Writes where an input says."""
    ids = buf("I", "in", n, dtype=I64)

    def body(k):
        at = leaf("value", k.load(ids, p))
        k.store(Y, at, k.full(0.0), mask=mask)

    return one(n, body)


def homed(lead, scratch=C, order=False):
    """A row of scratch that lives in the output's row."""
    x, y, e = buf("X", "in", R, C), buf("Y", "out", R, C), buf("E", "program", scratch)

    def body(k):
        k.loop("i", 0, C, 1, [], lambda i: k.store(e, i, k.load(x, pid(0), i)))

        def last(i):
            if order:
                k.store(y, pid(0), i, k.full(0.0))
                k.load(e, i)
            else:
                k.store(y, pid(0), i, k.load(e, i))

        k.loop("j", 0, C, 1, [], last)

    return one(R, body, Placement(home={"E": ("Y", lead)}))


def copied(deep, index=lambda a: 7 - a):
    """Two statements that touch one scratch in other lanes."""

    def body(k):
        k.store(S, c.lane, k.load(X, p * 8 + c, name="a"), name="b")
        k.store(Y, p * 8 + c, k.load(S, index(c.lane), name="d"), name="e")

    facts = (call("eq", n % 8, 0),)
    return one(n // 8, body, Placement({"c": "unroll"}, deep=deep), facts)


WRONG = {
    "mask <=": (one(cdiv(n, 8), copy(p * 8 + c, p * 8 + c <= n)), "G2.bounds.x REFUTED"),
    "mask dropped": (one(cdiv(n, 8), copy(p * 8 + c, TRUE)), "G2.bounds.x REFUTED"),
    "store mask dropped": (
        one(cdiv(n, 8), lambda k: k.store(Y, p * 8 + c, k.full(0.0, F32, c))),
        "G2.bounds.st_y REFUTED",
    ),
    "grid rounds down": (
        one(n // 8, copy(p * 8 + c, p * 8 + c < n)),
        "G3.cover.Y REFUTED",
    ),
    "one program too few": (
        one(n - 1, lambda k: k.store(Y, p, k.load(X, p))),
        "G3.cover.Y REFUTED",
    ),
    "one program too many": (
        one(n + 1, lambda k: k.store(Y, p, k.load(X, p))),
        "G2.bounds.x REFUTED",
    ),
    "programs overlap": (
        one(cdiv(n, 4), copy(p * 4 + c, p * 4 + c < n)),
        "G3.once.st_y REFUTED",
    ),
    "a tile is done twice": (
        one((cdiv(n, 8), const(2)), copy(p * 8 + c, p * 8 + c < n)),
        "G3.once.st_y REFUTED",
    ),
    "blocks overlap": (blocks(hi=lambda p: p * 16 + 24), "G3.once.st_y REFUTED"),
    "blocks leave a gap": (blocks(hi=lambda p: p * 16 + 8), "G3.cover.Y REFUTED"),
    "step too long": (blocks(step=16), "G3.cover.Y REFUTED"),
    "step too short": (blocks(step=4), "G3.once.st_y REFUTED"),
    "starts one late": (blocks(lo=lambda p: p * 16 + 8), "G3.cover.Y REFUTED"),
    "only the first program writes": (
        one(
            cdiv(n, 8),
            lambda k: k.branch(p < 1, lambda: copy(p * 8 + c, p * 8 + c < n)(k)),
        ),
        "G3.cover.Y REFUTED",
    ),
    "wrong size": (rows(grid=(R, R)), "G2.bounds.x REFUTED"),
    "indices swapped": (rows(store=(pid(1), pid(0))), "G2.bounds.st_y REFUTED"),
    "one above": (rows(load=(pid(0), pid(1) + 1)), "G2.bounds.x REFUTED"),
    "one below": (rows(load=(pid(0), pid(1) - 1)), "G2.bounds.x REFUTED"),
    "a column is left out": (rows(grid=(R, C - 1)), "G3.cover.Y REFUTED"),
    "one output column": (rows(store=(pid(0), const(0))), "G3.once.st_y REFUTED"),
    "poison stored": (
        one(cdiv(n, 8), copy(p * 8 + c, p * 8 + c < n, p * 8 + c + 1 < n)),
        "G2.poison.st_y REFUTED",
    ),
    "poison reduced": (
        one(n, lambda k: k.store(Y, p, k.reduce("sum", k.load(X, c, mask=c.lane < n), c))),
        "G2.poison.t REFUTED",
    ),
    "poison carried": (poisoned_carry(), "G2.poison.t_c.next REFUTED"),
    "poison decides a branch": (poisoned_branch(), "G2.poison.if_1 REFUTED"),
    "softmax without other": (tile_kernels.softmax(fill=None), "G2.poison.t_3_c.next REFUTED"),
    "softmax with mask <=": (
        tile_kernels.softmax(bound=lambda a, b: a <= b),
        "G2.bounds.st_y_1 REFUTED",
    ),
    "softmax without mask": (
        tile_kernels.softmax(bound=lambda a, b: TRUE),
        "G2.bounds.x_1 REFUTED",
    ),
    "scratch is not initialised": (accumulate(lambda k: None), "G2.init.s REFUTED"),
    "half of the scratch is": (
        accumulate(lambda k: k.store(S, c.lane, k.full(0.0, F32, c), mask=c.lane < 4)),
        "G2.init.s REFUTED",
    ),
    "loop one too long": (accumulate(hi=n + 1), "G2.bounds.x REFUTED"),
    "launch writes half": (two_launches(grid=n // 2), "G2.init.second.w REFUTED"),
    "launch reads its own scratch": (
        two_launches(lambda k, s: k.store(s, pid(0), k.load(s, pid(0)))),
        "G2.init.first.w REFUTED",
    ),
    "two programs write one element": (
        two_launches(lambda k, s: k.store(s, pid(0) // 2, k.load(X, pid(0)))),
        "G3.race.first.st_w.st_w REFUTED",
    ),
    "reads another program's scratch": (
        two_launches(
            lambda k, s: (
                k.store(s, pid(0), k.load(X, pid(0))),
                k.load(s, pid(0) - 1, mask=lift(0) < pid(0), other=0.0),
            )
        ),
        "G3.race.first.st_w.w REFUTED",
    ),
    "two lanes of a store": (
        one(
            n, lambda k: (k.store(S, c.lane // 2, k.full(0.0, F32, c)), k.store(Y, p, k.full(0.0)))
        ),
        "G3.lanes.st_s REFUTED",
    ),
    "recurrence reads ahead": (
        one(
            R,
            lambda k: k.loop(
                "t",
                0,
                C,
                1,
                [],
                lambda t: k.store(
                    buf("H", "out", R, C),
                    pid(0),
                    t,
                    k.load(buf("H", "out", R, C), pid(0), t + 1, mask=t + 1 < C, other=0.0),
                ),
            ),
        ),
        "G2.init.h REFUTED",
    ),
    "recurrence without its start": (tile_kernels.recurrence(first=-1), "G2.bounds.h REFUTED"),
    "gather without a requirement": (tile_kernels.gather(), "G2.bounds.t REFUTED"),
    "scatter": (scatter(), "G2.bounds.st_y REFUTED"),
    "divisor may be zero": (
        one((n, n), lambda k: k.store(buf("Y", "out", n, n), p, p % (size("m") - 3), k.full(0.0))),
        "G2.mask.st_y REFUTED",
    ),
    "home is not the program's": (homed((const(0),)), "G2.home.E.Y REFUTED"),
    "home is one row off": (homed((pid(0) + 1,)), "G2.home.E.Y REFUTED"),
    "home is too small": (homed((pid(0),), C + 1), "G2.home.E.Y UNKNOWN"),
    "home is overwritten too early": (homed((pid(0),), order=True), "G2.home.E.Y REFUTED"),
    "stream without a fact": (tile_kernels.layernorm(stream=True), "G2.stream.st_y UNKNOWN"),
    "copies in an order that matters": (copied(("b", "d")), "G2.deep.b.d UNKNOWN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_are_not_proved(name):
    program, expected = WRONG[name]
    ident, status = expected.split()
    found = {r.id: r for r in safety(program, Context())}
    assert found[ident].status == status, statuses(found.values())
    assert all(r.status != "REFUTED" or r.counterexample for r in found.values())
    if status == "REFUTED":
        example = found[ident].counterexample
        assert example["message"] and all(v <= 80 for v in example["sizes"].values())


def test_a_counterexample_says_where():
    (r,) = (r for r in safety(WRONG["mask <="][0], Context()) if r.id == "G2.bounds.x")
    assert r.reason == "n = 1: x, kernel k, program (0,): X[1]: 1 is outside [0, 1) of dimension 0"
    example = dict(r.counterexample)
    assert example["sizes"] == {"n": 1} and example["program"] == [0] and example["index"] == [1]
    assert (example["statement"], example["buffer"], example["lane"]) == ("x", "X", {"c": 1})


def test_a_malformed_program_stops_at_its_structure():
    program = tile_kernels.softmax()
    part = Placement({"other": "unroll"})
    (r,) = safety(TileProgram("s", program.kernels, (part,)), Context())
    assert (r.id, r.status) == ("G1.structure", "REFUTED") and "not placed" in r.reason


# -- what helps a proof ----------------------------------------------------------------------------


def test_requirements_bound_data_dependent_indices():
    wrong = dataclasses.replace(IN_RANGE, name="one_too_far")
    wrong = dataclasses.replace(
        wrong,
        expr=reduction(
            "all",
            ("i",),
            ((const(0), size("N")),),
            call(
                "and",
                call("le", 0, read("IDS", (var("i"),), "int")),
                call("le", read("IDS", (var("i"),), "int"), size("V")),
            ),
        ),
    )
    found = safety(tile_kernels.gather(), Context(requires=(wrong,)))
    assert statuses(found)["G2.bounds.t"] == "REFUTED"
    masked = Builder("k", (n,))
    ids = buf("I", "in", n, dtype=I64)
    at = leaf("value", masked.load(ids, p))
    inside = call("and", call("le", 0, at), call("lt", at, size("V")))
    v = masked.load(buf("T", "in", size("V")), at, mask=inside, other=0.0)
    masked.store(Y, p, v)
    assert statuses(safety(TileProgram("k", (masked.kernel(),), (Placement(),)), Context())) == {}


def test_clamped_gather_needs_a_row():
    table = call("lt", 0, size("V"))
    assert statuses(safety(tile_kernels.gather(clamp=True), Context(facts=(table,)))) == {}
    assert "G2.bounds.t" in statuses(safety(tile_kernels.gather(clamp=True), Context()))


def test_monotone_pointers_bound_a_loop():
    """Rows of a compressed matrix: ptr[r] .. ptr[r + 1] inside 0 .. Z."""
    r, z = size("R"), size("Z")
    ptr, val = buf("PTR", "in", r + 1, dtype=I64), buf("VAL", "in", z)
    y = buf("Y", "out", r)
    k = Builder("rows", (r,))
    lo, hi = (leaf("value", k.load(ptr, pid(0) + i)) for i in (0, 1))
    (s,) = k.loop("e", lo, hi, 1, [k.full(0.0)], lambda e, s: [k.ew("add", s, k.load(val, e))])
    k.store(y, pid(0), s)
    program = TileProgram("rows", (k.kernel(),), (Placement(),))
    at = read("PTR", (var("i"),), "int")
    bounded = call("and", call("le", 0, at), call("le", at, z))
    clause = Clause("bounded", "requires", reduction("all", ("i",), ((const(0), r + 1),), bounded))
    assert statuses(safety(program, Context(requires=(clause,)))) == {}
    assert "G2.bounds.val" in statuses(safety(program, Context()))


def test_facts_specialise():
    """Without a rest when the size is a multiple of the tile."""
    program = one(n // 8, copy(p * 8 + c, TRUE))
    multiple = call("eq", n % 8, 0)
    assert statuses(safety(program, Context(facts=(multiple,)))) == {}
    assert statuses(safety(dataclasses.replace(program, facts=(multiple,)), Context())) == {}
    assert statuses(safety(program, Context()))["G3.cover.Y"] == "REFUTED"
    wrong = call("eq", n % 4, 0)
    assert statuses(safety(program, Context(facts=(wrong,))))["G3.cover.Y"] == "REFUTED"


def test_stream_with_its_facts():
    facts = (call("eq", C % 8, 0), param("aligned(Y, 64)", "bool"))
    program = dataclasses.replace(tile_kernels.layernorm(stream=True), facts=facts)
    assert statuses(safety(program, Context())) == {}
    for one_only in facts:
        part = dataclasses.replace(program, facts=(one_only,))
        assert "G2.stream.st_y" in statuses(safety(part, Context()))


def test_copies_within_a_lane():
    assert statuses(safety(copied(("b", "d"), index=lambda a: a), Context())) == {}
    assert statuses(safety(copied(("b",)), Context())) == {}


def test_zeroed_scratch_and_state():
    fill = lambda k, s: k.store(  # noqa: E731
        s, pid(0), k.ew("add", k.load(s, pid(0)), k.load(X, pid(0)))
    )
    assert statuses(safety(two_launches(fill, init="zero"), Context())) == {}
    state = buf("Z", "state", n)
    program = one(
        n, lambda k: (k.store(state, p, k.ew("add", k.load(state, p), 1.0)), copy(p, TRUE)(k))
    )
    assert statuses(safety(program, Context())) == {}


def test_a_dead_rest_is_proved_and_said_to_be_dead():
    facts = (call("eq", C % 32, 0),)
    records = {r.id: r for r in safety(tile_kernels.softmax(), Context(facts=facts))}
    assert statuses(records.values()) == {}
    assert records["G2.bounds.x_1"].reason == "cannot happen under the facts"


def test_writes_of_one_program_are_ordered():
    """The later one decides; on a target whose lanes run on their own, in the same lane only."""

    def body(k):
        k.branch(p < 3, lambda: k.store(Y, p, k.full(0.0)))
        k.branch(p <= 3, lambda: k.store(Y, p, k.full(1.0)))
        k.branch(3 < p, lambda: k.store(Y, p, k.full(1.0)))

    records = {r.id: r for r in safety(one(n, body), Context())}
    assert statuses(records.values()) == {}
    assert records["G3.once.st_y.st_y_1"].reason == "writes of one program are ordered"
    assert records["G3.once.st_y.st_y_2"].reason == "cannot happen under the facts"


# -- honesty ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        (call("lt", n, 3), call("lt", 5, n)),
        (call("eq", n % 2, 0), call("eq", n % 4, 1)),
        (const(False),),
        (call("lt", n * size("m"), 0),),
    ],
)
def test_contradictory_facts_prove_nothing(facts):
    records = safety(one(cdiv(n, 8), copy(p * 8 + c, p * 8 + c <= n)), Context(facts=facts))
    found = {r.status for r in records if r.kind != "G1" and r.id != "G2.flat"}
    assert found == {"UNKNOWN"}
    assert any("contradict" in r.reason for r in records)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 0.25), (-1.25, -0.75), (3.0, 50.0)])
def test_inputs_of_a_replay_meet_what_is_required_of_them(low, high):
    """A store leaves the last element out; a replay needs values in the range of X."""
    k = Builder("k", (n - 1,))
    k.store(Y, pid(0), k.load(X, pid(0)))
    program = TileProgram("k", (k.kernel(),), (Placement(),))
    at = read("X", (var("i"),), "real")
    inside = call("and", call("le", low, at), call("le", at, high))
    clause = Clause("range", "requires", reduction("all", ("i",), ((const(0), n),), inside))
    positive = call("le", 1, n)
    found = statuses(safety(program, Context(facts=(positive,), requires=(clause,))))
    assert found == {"G3.cover.Y": "REFUTED"}


def test_contradictory_requirements_prove_nothing():
    at = read("IDS", (var("i"),), "int")
    never = call("and", call("lt", at, 0), call("lt", 0, at))
    clause = Clause("never", "requires", reduction("all", ("i",), ((const(0), size("N")),), never))
    found = statuses(safety(tile_kernels.gather(), Context(requires=(clause,))))
    assert found["G2.bounds.t"] == "UNKNOWN"


def test_a_solver_without_resources_proves_nothing():
    full = safety(tile_kernels.matmul(), Context())
    for poor in (Context(rlimit=1), Context(timeout=1e-6), Context(budget=0.0)):
        records = safety(tile_kernels.matmul(), dataclasses.replace(poor, replay=False))
        assert [r.id for r in records] == [r.id for r in full]
        open_ones = [r for r in records if r.status != "PROVED"]
        assert len(open_ones) > (10 if poor.budget == 0 else 1)
        assert all(r.status == "UNKNOWN" and r.reason for r in open_ones)


def test_an_open_obligation_names_the_data_it_depends_on():
    records = {r.id: r for r in safety(tile_kernels.gather(), Context(replay=False))}
    assert "depends on the data of IDS" in records["G2.bounds.t"].reason
    v = size("V")
    k = Builder("k", (n,))

    def step(i, at):
        return [k.ew("add", at, k.cast(k.load(buf("I", "in", n, dtype=I64), i), I64))]

    (at,) = k.loop("i", 0, n, 1, [k.full(0, I64)], step)
    k.store(Y, p, k.load(buf("T", "in", v), leaf("value", at), name="row"))
    found = {
        r.id: r
        for r in safety(TileProgram("k", (k.kernel(),), (Placement(),)), Context(replay=False))
    }
    assert found["G2.bounds.row"].status == "UNKNOWN"
    assert "depends on the data of t_r" in found["G2.bounds.row"].reason


def test_without_replay_nothing_is_refuted():
    records = safety(WRONG["mask <="][0], Context(replay=False))
    assert {r.status for r in records} == {"PROVED", "UNKNOWN"}


def test_assumptions_are_listed():
    facts = (call("eq", C % 32, 0),)
    (r, *_) = (
        r
        for r in safety(tile_kernels.gather(), Context(facts=facts, requires=(IN_RANGE,)))
        if r.kind == "G2"
    )
    assert "C % 32 == 0" in r.assumptions and "requires in_range" in r.assumptions
    assert any("at most" in a for a in r.assumptions)


def test_parts_of_a_row_that_sizes_divide():
    """Program i of P takes i N // P .. ((i + 1) N + P - 1) // P: in bounds, for all sizes."""
    parts, whole = size("P"), size("N")
    x, y = buf("X", "in", whole), buf("Y", "out", parts)
    b = Builder("parts", (parts,))
    lo, hi = p * whole // parts, ((p + 1) * whole + parts - 1) // parts

    def step(v, acc):
        return [b.ew("add", acc, b.load(x, v))]

    (total,) = b.loop("j", lo, hi, 1, [b.full(0.0, F32)], step)
    b.store(y, p, total)
    program = TileProgram("parts", (b.kernel(),), (Placement(),), ())
    facts = (call("le", 1, parts), call("le", 1, whole))
    assert statuses(safety(program, Context(facts=facts))) == {}
