"""Gate G6 admits honest candidates and names what every dishonest one did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from support import operators as ops
from support import runs

from opwright.ir.dtypes import decode, dtype, encode
from opwright.ir.expr import call, leaf, stride
from opwright.ir.op import Operator
from opwright.verify.inputs import Case, generate
from opwright.verify.memory import LAYOUTS, Frame, unwritten
from opwright.verify.numeric import Numeric, Observation, Peer, Reference, bounds, numeric, wrong


def _judge(op: Operator, body: runs.Body, reference: Reference, **more: Any) -> Numeric:
    made = generate(op, 0, count=10)
    run = runs.runner(op, body)
    return numeric(op, made.cases, run, lambda c: bounds(op, c, reference), "s", made.notes, **more)


@pytest.mark.parametrize("of", ["f32", "f16", "bf16", "f8e4m3", "f8e5m2"])
def test_an_honest_candidate_is_tested(of: str) -> None:
    found = _judge(ops.scaled(of), runs.scaled, runs.scaled_reference)
    assert found.refuted is None, found.refuted
    assert {r.status for r in found.records} == {"TESTED"}
    by = {r.id: r for r in found.records}
    assert "of the derived bound" in by["G6.error.y"].reason
    assert "cases" in by["G6.error.y"].reason and "largest error" in by["G6.error.y"].reason
    assert "nan" in by["G6.corners"].reason
    assert "gapped" in by["G6.memory"].reason
    assert "equal bits" in by["G6.determined"].reason
    assert 0 <= found.error <= 1


def test_calls_without_elements_say_nothing() -> None:
    op = ops.scaled("f32")
    empty = [c for c in generate(op, 0, count=10).cases if not c.inputs["x"].size]
    assert empty
    found = numeric(
        op, empty, runs.runner(op, runs.scaled), lambda c: bounds(op, c, runs.scaled_reference)
    )
    assert [(r.status, r.reason) for r in found.records] == [
        ("UNKNOWN", "only calls without elements ran")
    ]


def _f32_sum(views: Mapping[str, Any], frame: Frame) -> None:
    total = np.zeros(views["x"].shape[0], np.float32)
    for column in decode(views["x"], frame.slot("x").dtype).astype(np.float32).T:
        total += column
    views["y"][...] = total


@pytest.mark.parametrize("of", ["f32", "bf16"])
@pytest.mark.parametrize("written", [None, {"f32": {"abs": 1e-4, "rel": 1e-5}}])
def test_a_plain_f32_sum_passes_on_hard_inputs(of: str, written: Any) -> None:
    found = _judge(ops.row_sum(of, tolerance=written), _f32_sum, runs.sum_reference)
    assert found.refuted is None, found.refuted


def _narrow_sum(views: Mapping[str, Any], frame: Frame) -> None:
    total = np.zeros(views["x"].shape[0], np.float16)
    for column in views["x"].astype(np.float16).T:
        total += column
    views["y"][...] = total


@pytest.mark.parametrize("written", [None, {"f32": {"abs": 1e-5, "rel": 1e-5}}])
def test_a_narrow_accumulator_is_refuted(written: Any) -> None:
    found = _judge(ops.row_sum(tolerance=written), _narrow_sum, runs.sum_reference)
    assert found.refuted is not None and found.refuted.id == "G6.error.y"
    example = found.refuted.counterexample
    assert example is not None and example["output"] == "y" and "allowed" in example


def _stale(views: Mapping[str, Any], frame: Frame) -> None:
    """Writes nothing."""


def _zeros(views: Mapping[str, Any], frame: Frame) -> None:
    views["y"][...] = 0


def _input_mutated(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    if views["x"].size:
        views["x"][(0,) * views["x"].ndim] = 3


def _beyond(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    s = frame.slot("y")
    frame.memory[s.offset + s.span] ^= 0xFF


def _before(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    frame.memory[frame.slot("y").offset - 1] ^= 0xFF


def _last_wrong(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    if views["y"].size > 1:
        views["y"][-1, -1] += 1


def _one_nan(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    if views["y"].size > 40:
        views["y"][0, 0] = np.nan


def _nan_swallowed(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    views["y"][...] = np.nan_to_num(views["y"], nan=0.0, posinf=np.inf, neginf=-np.inf)


def _infinity_clamped(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    views["y"][...] = np.clip(views["y"], -3e38, 3e38)


def _depends_on_garbage(views: Mapping[str, Any], frame: Frame) -> None:
    runs.scaled(views, frame)
    if frame.memory[5] % 2:  # one unit in the last place
        views["y"][...] = np.nextafter(views["y"], np.float32(np.inf))


@pytest.mark.parametrize(
    ("body", "record", "words"),
    [
        (_stale, "G6.error.y", "expected"),
        (_zeros, "G6.error.y", "elements wrong"),
        (_input_mutated, "G6.inputs", "was changed"),
        (_beyond, "G6.memory", "past the end of y"),
        (_before, "G6.memory", "before the start of y"),
        (_last_wrong, "G6.error.y", "1 of"),
        (_one_nan, "G6.error.y", "is nan"),
        (_nan_swallowed, "G6.corners.y", "expected nan"),
        (_infinity_clamped, "G6.corners.y", "inf"),
        (_depends_on_garbage, "G6.determined", "differs"),
    ],
)
def test_cheats_are_refuted(body: runs.Body, record: str, words: str) -> None:
    found = _judge(ops.scaled(), body, runs.scaled_reference)
    assert [r for r in found.records if r.status == "REFUTED"] == list(found.records)
    first = {r.id: r for r in found.records}
    assert record in first, [(r.id, r.reason) for r in found.records]
    assert words in first[record].reason
    assert first[record].counterexample


def _rows_only(views: Mapping[str, Any], frame: Frame) -> None:
    # assumes dense rows: writes through a flat view of the memory from the first element
    s = frame.slot("y")
    flat = frame.memory[s.offset : s.offset + int(np.prod(s.shape)) * 4].view(np.float32)
    x = views["x"].astype(np.float32)
    flat[...] = (x * 2 + 1).reshape(-1)


def test_strides_are_tested_unless_facts_exclude_them() -> None:
    op = ops.scaled()
    found = _judge(op, _rows_only, runs.scaled_reference)
    assert found.refuted is not None
    assert found.refuted.counterexample and found.refuted.counterexample["layout"] == "rows"
    facts = [call("eq", stride("y", 1), 1), call("eq", stride("y", 0), ops.N)]
    made = generate(op, 0, count=10)
    plain = runs.runner(op, _rows_only)

    def run(case: Case, layout: str) -> Observation | None:
        frame = Frame(op, case, layout)
        return plain(case, layout) if frame.satisfies(facts) else None

    found = numeric(op, made.cases, run, lambda c: bounds(op, c, runs.scaled_reference))
    assert found.refuted is None


def test_alignment_facts_exclude_offset_buffers() -> None:
    op = ops.scaled()
    case = generate(op, 0, count=1).cases[0]
    aligned = [leaf("param", "aligned(x, 32)", "bool")]
    assert Frame(op, case, "dense").satisfies(aligned)
    assert not Frame(op, case, "offset").satisfies(aligned)


def test_integers_are_exact_and_ties_count() -> None:
    op = ops.row_argmax()

    def reference(inputs: Any, sizes: Any, params: Any) -> Any:
        return {"i": inputs["x"].argmax(axis=1)}

    def right(views: Mapping[str, Any], frame: Frame) -> None:
        views["i"][...] = views["x"].argmax(axis=1)

    def last_of_ties(views: Mapping[str, Any], frame: Frame) -> None:
        x = views["x"][:, ::-1]
        views["i"][...] = x.shape[1] - 1 - x.argmax(axis=1)

    assert _judge(op, right, reference).refuted is None
    found = _judge(op, last_of_ties, reference)
    assert found.refuted is not None and found.refuted.id in ("G6.exact.i", "G6.corners.i")


def test_a_failure_to_run_is_refuted() -> None:
    op = ops.scaled()
    made = generate(op, 0, count=2)
    found = numeric(op, made.cases, lambda c, k: Observation(failure="killed by signal 11"), {}.get)  # type: ignore[arg-type]
    assert [r.id for r in found.records] == ["G6.runs"]
    assert "signal 11" in found.records[0].reason


def test_no_case_is_unknown() -> None:
    op = ops.scaled()
    found = numeric(op, [], lambda c, k: None, {}.get, "s", ["no sizes fit"])  # type: ignore[arg-type]
    assert [(r.status, r.id) for r in found.records] == [("UNKNOWN", "G6.error")]
    assert "no sizes fit" in found.records[0].reason


@pytest.mark.parametrize(
    ("of", "value", "stored", "ok"),
    [
        ("f16", 1e6, np.inf, True),
        ("f16", 1e6, -np.inf, False),
        ("f16", 60000.0, np.inf, False),
        ("f32", np.inf, np.inf, True),
        ("f32", np.inf, 3e38, False),
        ("f32", np.nan, 1.0, False),
        ("f32", np.nan, np.nan, True),
        ("f8e4m3", 1e6, np.nan, True),
        ("f8e4m3", 1e6, 448.0, True),
        ("f8e4m3", 1e6, 2.0, False),
        ("f8e4m3", np.inf, np.nan, True),
    ],
)
def test_infinities(of: str, value: float, stored: float, ok: bool) -> None:
    op = ops.scaled(of)
    case = Case("c", "normal", {"B": 1, "N": 1}, {}, {"x": np.zeros((1, 1), dtype(of).storage)})
    found = bounds(op, case, lambda i, s, p: {"y": np.full((1, 1), value)})["y"]
    bad, _ = wrong(op.outputs[0], encode(np.full((1, 1), stored), dtype(of)), found)
    assert bool(bad.any()) is not ok


def test_ulp_tolerance() -> None:
    op = ops.scaled(tolerance={"f32": {"ulp": 1}})
    case = Case("c", "normal", {"B": 1, "N": 2}, {}, {"x": np.ones((1, 2), np.float32)})
    bound = bounds(op, case, runs.scaled_reference)["y"]
    near = np.float32(3) + np.spacing(np.float32(3)) * np.array([[1, 2]], np.float32)
    bad, share = wrong(op.outputs[0], near, bound)
    assert bad.tolist() == [[False, True]] and share == 2.0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_hold_and_report(layout: str) -> None:
    op = ops.scaled()
    for case in generate(op, 0, count=6, specials=False).cases:
        frame = Frame(op, case, layout)
        frame.fill(1, "a5")
        assert (frame.array("x") == case.inputs["x"]).all()
        assert frame.damage() == ([], [])
        assert unwritten(frame.outputs(), "a5") == {"y": case.inputs["x"].size}
        frame.array("y")[...] = 1
        assert frame.damage() == ([], [])
        facts = [call("eq", stride("x", 1), frame.slot("x").strides[1])]
        assert frame.satisfies(facts)
        if layout != "end":  # which ends on a page, wherever it begins
            assert frame.address("x") % 64 == (4 if layout == "offset" else 0)


def test_an_updated_input_may_share_its_memory() -> None:
    from dataclasses import replace

    y = replace(ops.scaled().outputs[0], updates="x")
    op = ops.operator("update", ["B", "N"], ops.scaled().inputs, [y])
    found = _judge(op, runs.scaled, runs.scaled_reference)
    assert found.refuted is None
    assert "aliased" in {r.id: r for r in found.records}["G6.memory"].reason


@pytest.mark.parametrize("of", ["f32", "bf16", "f64"])
@pytest.mark.parametrize("written", [None, {"f32": {"abs": 1e-6, "rel": 1e-5}}])
def test_a_peers_results_serve_as_the_reference_of_large_calls(of: str, written: Any) -> None:
    op = ops.scaled(of, tolerance=written)
    d = dtype(of)
    case = Case("c", "normal", {"B": 700, "N": 800}, {}, {"x": np.zeros((700, 800), d.storage)})
    rng = np.random.default_rng(0)
    exact = rng.normal(0, 1, (700, 800))
    exact[3, 4], exact[5, 6] = np.nan, np.inf
    peer = Peer(op, case, {"y": encode(exact, d)})
    assert peer.disagreement({"y": encode(exact, d)}) == ""
    assert peer.disagreement({"y": encode(exact * (1 + d.epsilon), d)}) == ""
    for value in (exact[-1, -1] + 0.1, np.nan, -np.inf):
        other = exact.copy()
        other[-1, -1] = value
        assert peer.disagreement({"y": encode(other, d)}).startswith("y[699, 799] is")
    for at in ((3, 4), (5, 6)):
        other = exact.copy()
        other[at] = 0
        assert f"y[{at[0]}, {at[1]}]" in peer.disagreement({"y": encode(other, d)})
