"""What verifiers in public got wrong, tried on every gate and every language that is read: a solver
that does not answer, lanes of one extent taken for one another, division rounded down, integers
without a width, an address that is inside of something, an operation that is skipped.

A right kernel stands beside each wrong one, so that the wrong one is not refused for its form.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tile_kernels
from support import imported

from opwright.compiler.candidates import read
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.ir.expr import call, const, size
from opwright.ir.record import Record, weakest
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.tile_function import tile_function

HEAD = 'opwright "0.1"\n\n'
COPY = """op copy @ 1.0 {
  dims N
  where N >= 1
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] }
}
"""
ROWS = """op copy @ 1.0 {
  dims B, N
  where N >= 1, N <= 1000
  input x: f32[B, N]
  output y: f32[B, N]
  def { y[b, i] = x[b, i] }
}
"""
TILE = """op copy @ 1.0 {
  dims N
  where N == 256
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[0] }
}
"""
TRITON = """import triton
import triton.language as tl


@triton.jit
def copy(x, y, {sizes}, BLOCK: tl.constexpr):
    {body}
"""
CUDA = """extern "C" __global__ void copy(const float *x, float *y, {sizes}) {{
  {body}
}}
"""
CPP = """#include <cstdint>
extern "C" void copy(const float *x, float *y, {sizes}, int64_t pid0, int64_t pid1, int64_t pid2) {{
  {body}
}}
"""


@dataclass(frozen=True)
class Text:
    """A kernel that copies, in one language."""

    backend: str
    body: str
    spec: str = COPY
    args: tuple[str, ...] = ("N",)
    grid: str = "cdiv(N, 64)"
    facts: tuple[str, ...] = ()
    const: dict[str, int] = field(default_factory=lambda: {"BLOCK": 64})

    @property
    def source(self) -> str:
        names = ", ".join(re.sub(r"\W|i32|stride", "", a) for a in self.args)
        if self.backend == "triton":
            return TRITON.format(sizes=names, body=self.body.replace("\n", "\n    "))
        wide = "long long" if self.backend == "cuda" else "int64_t"
        typed = ", ".join(
            f"{'int' if a.startswith('i32') else wide} {re.sub('[(), ]|i32', '', a)}"
            for a in self.args
        )
        form = CUDA if self.backend == "cuda" else CPP
        return form.format(sizes=typed, body=self.body)

    def plan(self) -> dict[str, Any]:
        one: dict[str, Any] = {
            "kernel": "copy",
            "grid": [self.grid],
            "args": ["x", "y", *self.args],
        }
        if self.backend == "triton":
            one["const"] = self.const
        if self.backend == "cuda":
            one["block"] = [64]
        file = {"triton": "kernel.py", "cuda": "kernel.cu", "cpp": "kernel.cpp"}[self.backend]
        target = "cpu(x86-64-v3)" if self.backend == "cpp" else "sm_90"
        dense = ("stride(x, 0) == 1", "stride(y, 0) == 1")
        if "[B, N]" in self.spec:
            dense = ("stride(x, 1) == 1", "stride(y, 1) == 1")
        return {"abi": 1, "op": "copy@1.0", "target": target, "backend": self.backend,
                "source": file, "facts": [*dense, *self.facts], "launches": [one]}  # fmt: skip


def gates(folder: Path, t: Text) -> list[Record]:
    op = stored_form(parse_spec(HEAD + t.spec).operator())
    plan = t.plan()
    (folder / plan["source"]).write_text(t.source)
    (folder / "candidate.json").write_text(json.dumps(plan))
    return list(static_gates(read(folder, op), op).records)


def status(records: list[Record], *kinds: str) -> str:
    assert all(any(r.kind == k for r in records) for k in kinds)
    return weakest(r.status for r in records if r.kind in kinds)


def needs(backend: str) -> None:
    pytest.importorskip("triton" if backend == "triton" else "clang")


# -- lanes of one extent ---------------------------------------------------------------------------

TWO = """r = tl.arange(0, {a})
c = tl.arange(0, {b})
at = {index}
v = tl.load(x + at, mask=at < N)
tl.store(y + at, v, mask=at < N)"""


@pytest.mark.parametrize("b", [16, 32])
def test_two_ranges_are_two(tmp_path, b):
    needs("triton")
    wrong = TWO.format(a=16, b=b, index="c[None, :] - r[:, None]")
    found = gates(tmp_path, Text("triton", wrong, TILE, ("i32(N)",), "1"))
    assert status(found, "G2") in ("REFUTED", "UNKNOWN")
    assert any(r.status == "REFUTED" for r in found)


def test_two_ranges_that_cover_a_square_are_right(tmp_path):
    needs("triton")
    right = TWO.format(a=16, b=16, index="c[None, :] + r[:, None] * 16")
    found = gates(tmp_path, Text("triton", right, TILE.replace("x[0]", "x[i]"), ("i32(N)",), "1"))
    assert status(found, "G2", "G3", "G5") == "PROVED"


def test_only_the_diagonal_is_not_everything(tmp_path):
    needs("triton")
    wrong = "r = tl.arange(0, 16)\ntl.store(y + r * 16 + r, tl.load(x + r * 16 + r))"
    spec = TILE.replace("x[0]", "x[i]")
    found = gates(tmp_path, Text("triton", wrong, spec, ("i32(N)",), "1"))
    assert status(found, "G3") == "REFUTED"


# -- division --------------------------------------------------------------------------------------

LANE = {
    "triton": "i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
    "v = tl.load(x + {at}, mask=i < N)\ntl.store(y + i, v, mask=i < N)",
    "cuda": "int i = blockIdx.x * 64 + threadIdx.x; if (i < N) y[i] = x[{at}];",
    "cpp": "for (int64_t i = pid0 * 64; i < N && i < pid0 * 64 + 64; ++i) y[i] = x[{at}];",
}
SMALL = ("N <= 1000000",)


def lanes(backend: str, at: str, facts: tuple[str, ...] = SMALL) -> Text:
    at = at.replace("/", "//") if backend == "triton" else at
    size_ = "N" if backend == "cpp" else "i32(N)"
    return Text(backend, LANE[backend].format(at=at), COPY, (size_,), facts=facts)


@pytest.mark.parametrize("backend", LANE)
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("i / 4 * 4 + i % 4", "(i - 3) / 4 * 4 + (i - 3) % 4 + 3 - (i - 3) % 4"),
        ("i - i % 4", "i / N * N + (i - 1) % N"),
        ("(i % 4 + 4) % 4 - i % 4 + i", "(i - 3) % 4 + i / N"),
        ("i * 3 / 3", "(i - 1) / 3 - 1 + i / N"),
    ],
)
def test_division_rounds_towards_zero(tmp_path, backend, right, wrong):
    needs(backend)
    good, bad = gates(tmp_path, lanes(backend, right)), gates(tmp_path, lanes(backend, wrong))
    assert status(good, "G2") in ("PROVED", "ASSUMED", "UNKNOWN")
    assert not any(r.status == "REFUTED" for r in good if r.kind == "G2"), good
    assert status(bad, "G2") in ("REFUTED", "UNKNOWN"), bad


# -- widths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_products_of_32_bits_wrap(tmp_path, backend):
    needs(backend)
    bodies = {
        "triton": "row = tl.program_id(0)\nfor j in range(0, N, BLOCK):\n"
        "    c = j + tl.arange(0, BLOCK)\n"
        "    v = tl.load(x + row * N + c, mask=c < N)\n"
        "    tl.store(y + row * N + c, v, mask=c < N)",
        "cuda": "int row = blockIdx.x; for (int c = threadIdx.x; c < N; c += 64) "
        "y[row * N + c] = x[row * N + c];",
    }
    dense = ("stride(x, 0) == N", "stride(y, 0) == N")
    t = Text(backend, bodies[backend], ROWS, ("i32(N)",), "B", dense)
    loose = gates(tmp_path, t)
    assert status(loose, "G2") == "REFUTED"
    assert any("2147483647" in r.reason or "32 bits" in r.reason or "wrap" in r.id for r in loose)
    tight = gates(tmp_path, replace(t, facts=(*dense, "B <= 1000000")))
    assert status(tight, "G2", "G3") == "PROVED"


@pytest.mark.parametrize(
    "narrow",
    [("triton", "i.to(tl.int8).to(tl.int32)"), ("cuda", "(signed char)i"), ("cpp", "(int8_t)i")],
    ids=lambda x: x[0],
)
def test_casts_cut(tmp_path, narrow):
    backend, at = narrow
    needs(backend)
    assert status(gates(tmp_path, lanes(backend, at)), "G2") in ("REFUTED", "UNKNOWN")


# -- an address inside of something else -----------------------------------------------------------


def test_the_next_row_is_not_this_one(tmp_path):
    needs("triton")
    body = """row = tl.program_id(0).to(tl.int64)
c = tl.arange(0, BLOCK)
v = tl.load(x + row * sx + c, mask=c {less} N)
tl.store(y + row * sy + c, v, mask=c < N)"""
    args = ("i32(N)", "stride(x, 0)", "stride(y, 0)")

    def text(less: str) -> Text:
        found = Text("triton", body.format(less=less), ROWS, args, "B", const={"BLOCK": 1024})
        return found

    def judged(less: str) -> list[Record]:
        t = text(less)
        op = stored_form(parse_spec(HEAD + t.spec).operator())
        source = t.source.replace("N, x0, y0", "N, sx, sy")
        (tmp_path / "kernel.py").write_text(source)
        (tmp_path / "candidate.json").write_text(json.dumps(t.plan()))
        return list(static_gates(read(tmp_path, op), op).records)

    assert status(judged("<"), "G2", "G3") == "PROVED"
    assert status(judged("<="), "G2") == "REFUTED"


# -- an output that nobody speaks of ---------------------------------------------------------------

PAIR = """op copy @ 1.0 {
  dims N
  where N >= 1, N <= 1000000
  input x: f32[N]
  output y: f32[N], z: f32[N]
  def { y[i] = x[i]
        z[i] = x[i] }
}
"""


@pytest.mark.parametrize("backend", LANE)
@pytest.mark.parametrize("passed", [True, False])
def test_an_output_that_no_kernel_names_is_not_written(tmp_path, backend, passed):
    needs(backend)
    op = stored_form(parse_spec(HEAD + PAIR).operator())
    t = replace(lanes(backend, "i"), spec=PAIR)
    plan, source = t.plan(), t.source
    plan["facts"].append("stride(z, 0) == 1")
    if passed:
        plan["launches"][0]["args"].insert(2, "z")
        source = source.replace("x, y, ", "x, y, z, ").replace("*y, ", "*y, float *z, ")
    (tmp_path / plan["source"]).write_text(source)
    (tmp_path / "candidate.json").write_text(json.dumps(plan))
    found = static_gates(read(tmp_path, op), op).records
    assert [r.status for r in found if r.id == "G3.cover.z"] == ["REFUTED"]
    assert not any(r.status == "PROVED" for r in found if r.kind == "G5")


# -- what nothing knows ----------------------------------------------------------------------------


def test_an_unknown_operation_is_not_skipped(tmp_path):
    pytest.importorskip("triton")
    from opwright.backends.triton.frontend import to_ttir_many
    from opwright.backends.triton.mutate import DUMMY
    from opwright.ir.launch import bind_plan, with_room

    plan = imported.plan_of("gelu_flat")
    op = imported.operator_of("gelu_flat", plan)
    bound = bind_plan(with_room(plan, op), op)
    text = "\n".join(
        to_ttir_many(imported.source_of("gelu_flat"), "kernel.py", bound.launches, plan.target)
    )
    written = replace(plan, source="kernel.ttir")
    (tmp_path / "candidate.json").write_text(json.dumps(written.to_json()))
    lines = text.splitlines()
    places = [n for n, line in enumerate(lines) if re.match(r"\s+(%|tt\.(store|return))", line)]
    forms = (
        DUMMY,
        "%dummy = tt.experimental_dummy %0 : i32",
        "tt.experimental_dummy",
        "ttg.local_dealloc %0 : i32",
        '"tt.experimental_dummy"() ({\n^bb0:\n  tt.return\n}) : () -> ()',
    )
    for n, form in zip(
        (places[1], places[-2], places[3], places[4], places[5]), forms, strict=True
    ):
        changed = [*lines[:n], f"    {form} loc(#loc)", *lines[n:]]
        (tmp_path / "kernel.ttir").write_text("\n".join(changed))
        found = static_gates(read(tmp_path, op), op).records
        assert status(list(found), "G1") == "UNKNOWN", form
        assert status(list(found), "G2") == status(list(found), "G3") == "UNKNOWN"


@pytest.mark.parametrize(
    "extra",
    [
        'asm volatile("nop");',
        'asm volatile("st.global.f32 [%0], 0f3F800000;" :: "l"(y));',
        "__nanosleep(1);",
        "unknown_builtin(i);",
        "__builtin_prefetch(x); goto end; end:",
        "__threadfence_system(); *(volatile float *)y = 1.0f;",
    ],
)
def test_unknown_statements_of_cuda_are_not_skipped(tmp_path, extra):
    needs("cuda")
    t = lanes("cuda", "i")
    assert status(gates(tmp_path, t), "G2", "G3", "G5") == "PROVED"
    body = t.body.replace("if (i", f"{extra} if (i")
    found = gates(tmp_path, replace(t, body=body))
    assert weakest(r.status for r in found) in ("UNKNOWN", "REFUTED")
    assert not any(r.kind == "G5" and r.status == "PROVED" for r in found)


# -- a solver that does not answer -----------------------------------------------------------------

PROGRAMS = ["softmax_home", "matmul", "flat", "elementwise", "recurrence"]


def silence(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    import z3

    def check(self: Any, *_: Any) -> Any:
        if answer == "raises":
            raise z3.Z3Exception("canceled")
        return getattr(z3, answer)

    monkeypatch.setattr(z3.Solver, "check", check)
    monkeypatch.setattr(z3.Solver, "reason_unknown", lambda self: "silenced")


def proved(records: list[Record]) -> set[str]:
    return {r.id for r in records if r.status == "PROVED"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_answer_proves_nothing(name, monkeypatch):
    pytest.importorskip("z3")
    program = tile_kernels.SMALL[name]()
    plain = proved(safety(program, Context(replay=False)))
    silence(monkeypatch, "unknown")
    silent = safety(program, Context(replay=False))
    assert proved(silent) <= plain
    if name != "recurrence":  # intervals are enough for this one
        assert any("silenced" in r.reason for r in silent if r.status == "UNKNOWN")
    monkeypatch.undo()
    for hurried in (Context(replay=False, rlimit=1), Context(replay=False, timeout=1e-6),
                    Context(replay=False, budget=0.0)):  # fmt: skip
        assert proved(safety(program, hurried)) <= plain


@pytest.mark.parametrize("name", PROGRAMS[:3])
def test_a_solver_that_breaks_proves_nothing(name, monkeypatch):
    pytest.importorskip("z3")
    program = tile_kernels.SMALL[name]()
    plain = proved(safety(program, Context(replay=False)))
    silence(monkeypatch, "raises")
    try:
        found = safety(program, Context(replay=False))
    except Exception as e:
        assert "canceled" in str(e)
    else:
        assert proved(found) < plain


FAULTS = [("<", "<="), (" if ", " if true or "), ("grid B", "grid B - 1"), ("p0", "p0 + 1")]


@pytest.mark.parametrize("answer", ["unknown", "sat"])
@pytest.mark.parametrize("name", ["softmax_home", "flat", "elementwise"])
def test_faults_stay_unproved_whatever_the_solver_says(name, answer, monkeypatch):
    pytest.importorskip("z3")
    text = show_program(tile_kernels.SMALL[name]())
    wrong = []
    for old, new in FAULTS:
        for m in list(re.finditer(re.escape(old), text))[:6]:
            changed = text[: m.start()] + new + text[m.end() :]
            try:
                program = parse_program(changed)
                records = safety(program, Context(replay=False))
            except Exception:
                continue
            if any(r.status != "PROVED" for r in records):
                wrong.append(program)
    assert len(wrong) >= 3
    silence(monkeypatch, answer)
    for program in wrong:
        found = safety(program, Context(replay=False))
        assert any(r.status != "PROVED" for r in found), show_program(program)


@pytest.mark.parametrize("answer", ["unknown", "sat", "raises"])
def test_functions_are_not_proved_by_silence(answer, monkeypatch):
    """G5 of a wrong row and a right one: the first is never proved."""
    (path,) = (imported.SPECS).rglob("softmax.op")
    op = load_spec(path).operator()
    from opwright.compiler import spaces

    space = next(s for s in spaces.spaces(op, 16) if s.name == "row")
    program = space.instantiate(space.preferred()[0])
    text = show_program(program)
    assert {r.status for r in tile_function(program, op)} == {"PROVED"}
    silence(monkeypatch, answer)
    for old, new in (("reduce max", "reduce min"), ("for n0 in 0 ..", "for n0 in 64 .."),
                     ("full -inf", "full inf"), (" = exp ", " = exp2 ")):  # fmt: skip
        assert old in text
        wrong = parse_program(text.replace(old, new, 1))
        try:
            found = tile_function(wrong, op)
        except Exception as e:
            assert "canceled" in str(e)
        else:
            assert {r.status for r in found} == {"UNKNOWN"}, old


# -- facts that contradict each other --------------------------------------------------------------


def lemma(r: Record) -> bool:
    """What holds of all numbers, whatever a program's facts are."""
    return "flat" in r.id


CONTRADICTIONS = [
    (call("lt", size("N"), const(0)),),
    (call("le", size("N"), const(4)), call("le", const(5), size("N"))),
    (call("eq", size("N") * 2, const(7)),),
    (call("eq", size("N") * size("N"), const(3)), call("le", const(2), size("N"))),
]


@pytest.mark.parametrize("facts", CONTRADICTIONS, ids=range(4))
def test_contradictory_facts_prove_nothing(facts):
    program = tile_kernels.SMALL["elementwise"]()
    wrong = replace(program, facts=(*program.facts, *facts))
    for records in (safety(wrong, Context()), safety(program, Context(facts=facts))):
        mine = [r for r in records if r.kind in ("G2", "G3")]
        assert mine and all(r.status == "UNKNOWN" for r in mine if not lemma(r))


@pytest.mark.parametrize("backend", ["triton", "cuda", "cpp"])
@pytest.mark.parametrize("facts", [("N <= 4", "N >= 5"), ("2 * N == 7",), ("N < 0",)], ids=range(3))
def test_contradictory_plans_prove_nothing(tmp_path, backend, facts):
    needs(backend)
    found = gates(tmp_path, lanes(backend, "i + 1", facts))
    assert status(found, "G2", "G3", "G5") == "UNKNOWN"
    mine = [r for r in found if r.kind in ("G2", "G3", "G5") and not lemma(r)]
    assert not any(r.status == "PROVED" for r in mine)


# -- identities ------------------------------------------------------------------------------------


def test_nothing_is_told_apart_by_ids_of_terms():
    """A term that was freed hands its number to the next one. What prints questions walks over
    terms that are held, and declares all that they speak of."""
    z3 = pytest.importorskip("z3")
    root = Path(__file__).resolve().parents[2]
    held = root / "verify" / "proofs.py"
    for folder in ("verify", "ir", "compiler"):
        for path in (root / folder).rglob("*.py"):
            assert path == held or "get_id(" not in path.read_text(), path

    from opwright.verify.proofs import smt_text

    def made(n: int) -> object:  # its terms are freed before those of the next one are made
        f = z3.Function(f"f{n}", z3.IntSort(), z3.IntSort())
        return z3.Int(f"a{n}") * z3.Int(f"b{n}") > f(z3.Int(f"a{n}") + n)

    text = smt_text([made(n) for n in range(200)])
    assert text == smt_text([made(n) for n in range(200)])
    assert len(z3.parse_smt2_string(text)) == 200
    assert all(f"(declare-const b{n} Int)" in text for n in range(200))
