"""Faults seeded into a right kernel that a person wrote: each is refused for what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.centred import KERNEL, PLAN, SPEC

from opwright.backends.cpp.build import host_isa
from opwright.compiler.elaborate import load_spec
from opwright.compiler.stored import stored_form
from opwright.compiler.verification import verify_operator
from opwright.ir.op import Operator
from opwright.ir.record import Verdict

HUGE = {"w": {"dtype": "f32", "shape": ["B * 1099511627776"], "scope": "plan"}}
# (what is replaced, by what, changes of the plan, the record that refutes, a part of its reason)
FAULTS = {
    "past the end": ("j < N; j++) y", "j <= N; j++) y", {}, "G2.bounds", "kernel.cpp:6"),
    "no tail": ("j < N; j++) y", "j < N / 8 * 8; j++) y", {}, "G3.cover.y", "is not written"),
    "other rows": ("y[pid0 * N + j]", "y[j]", {}, "G3.once", "written a second time"),
    "wrong sum": ("s += x", "s -= x", {}, "G4.y", "expected"),
    "reads the output": ("s = 0.0f", "s = y[pid0 * N]", {}, "G2.init", "before it is written"),
    "divides": ("s = 0.0f", "s = (float)(B / (N - 3))", {}, "G2.divisor", "divisor is positive"),
    "exchanged": ("", "", {"args": ["y", "x", "B", "N"]}, "G2.inputs", "writes to x, which is an"),
    "exchanged names": ("const float *x, float *y", "float *y, const float *x", {}, "G2.inputs",
                        "kernel.cpp:6: kernel rows writes to x"),
    "writes an input": ("const float *x", "float *x", {"then": "x[pid0 * N] = s;"}, "G2.inputs",
                        "writes to x, which is an input"),
    "asks for too much": ("", "", {"scratch": HUGE}, "G6.runs", "bytes of scratch"),
    "a state": ("float s", "static int n; n++; float s", {}, "G0.policy", "outlives a call"),
    "a clock": ("s = 0.0f", "s = (float)(__builtin_ia32_rdtsc() & 0)", {}, "G0.policy", "clocks"),
    "an environment": ("extern", 'extern "C" char *getenv(const char *);\nextern', {},
                       "G0.policy", "getenv"),
    "one size": ("s = 0.0f", "s = B == 777 ? 1.0f : 0.0f", {}, "G6.error.y", "B = 777"),
    "one size of many": ("s = 0.0f", "s = N % 131072 == 40009 ? 9.0f : 0.0f", {}, "G6.error.y",
                         "N = 40009"),
    "large sizes": ("s = 0.0f", "s = N > 20000 ? 9.0f : 0.0f", {}, "G6.error.y", "N = 20001"),
    "one program": ("s = 0.0f", "s = pid0 == 30000 ? 9.0f : 0.0f", {}, "G6.error.y", "B = 30001"),
}  # fmt: skip


@pytest.fixture(scope="module")
def op(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    path = tmp_path_factory.mktemp("spec") / "centred.op"
    path.write_text(SPEC)
    return stored_form(load_spec(path).operator("centred"))


def verified(
    op: Operator, folder: Path, text: str, plan: dict[str, object], require: str = "proved"
) -> Verdict:
    (folder / "kernel.cpp").write_text(text)
    (folder / "candidate.json").write_text(json.dumps(plan))
    return verify_operator(op, folder, host_isa(), require)


def test_the_kernel_itself_passes(op: Operator, tmp_path: Path) -> None:
    verdict = verified(op, tmp_path, KERNEL, PLAN)
    assert [verdict.gate(g) for g in ("G0", "G2", "G3", "G6")] == ["PROVED"] * 3 + ["TESTED"]


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_is_refused_for_what_it_is(op: Operator, tmp_path: Path, name: str) -> None:
    old, new, change, wanted, words = FAULTS[name]
    assert old in KERNEL
    text = KERNEL.replace(old, new, 1) if old else KERNEL
    if "then" in change:
        text = text.replace("  for (int64_t j = 0; j < N; j++) y", f"  {change['then']}\n"
                            "  for (int64_t j = 0; j < N; j++) y")  # fmt: skip
    launch = {**PLAN["launches"][0]}  # type: ignore[index]
    plan = {**PLAN, "scratch": change.get("scratch", {})}
    plan["launches"] = [{**launch, "args": change.get("args", launch["args"])}]
    verdict = verified(op, tmp_path, text, plan)
    refuted = [r for r in verdict.records if r.status == "REFUTED"]
    assert any(r.id.startswith(wanted) and words in r.reason for r in refuted), [
        (r.id, r.status, r.reason) for r in verdict.records if r.status != "PROVED"
    ]


def test_every_rest_of_a_small_block_is_tried(op: Operator, tmp_path: Path) -> None:
    whole = KERNEL[: KERNEL.rindex("  for (int64_t j")] + "  for (int64_t i = 0; i < N; i += 7) {\n"
    for k in range(7):
        inside = f"i + {k} < N{' - 1' if k == 5 else ''}"
        at = f"pid0 * N + i + {k}"
        whole += f"    if (i + {k} < N) y[{at}] = ({inside}) ? x[{at}] - s / (float)N : 0.0f;\n"
    right = whole.replace(" - 1) ?", ") ?")
    assert verified(op, tmp_path, right + "  }\n}\n", PLAN).gate("G6") == "TESTED"
    verdict = verified(op, tmp_path, whole + "  }\n}\n", PLAN)
    assert [verdict.gate(g) for g in ("G2", "G3")] == ["PROVED", "PROVED"]
    assert {"G4", "G6"} & {r.kind for r in verdict.records if r.status == "REFUTED"}


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("s = 0.0f; for (;;) if (y[pid0 * N] == 1e30f) break", "no answer within"),
        ("s = *(volatile float *)16", "signal 11"),
    ],
)
def test_what_cannot_be_read_is_tested_apart(
    op: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str, words: str
) -> None:
    monkeypatch.setattr("opwright.compiler.execution.CALL_LIMIT", 2.0)
    text = KERNEL.replace("s = 0.0f", new)
    unread = verified(op, tmp_path, text, PLAN)
    assert unread.gate("G2") == "UNKNOWN" and unread.gate("G6") == "UNKNOWN"
    verdict = verified(op, tmp_path, text, PLAN, "tested")
    found = next(r for r in verdict.records if r.kind == "G6")
    assert found.status == "REFUTED" and words in found.reason
