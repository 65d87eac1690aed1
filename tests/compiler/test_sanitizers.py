"""Gate G8 on C++ texts: faults that no result shows, and what is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.halved import SPEC, plan, source

from opwright.backends.cpp.build import host_isa
from opwright.compiler.candidates import read
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.importing import Static
from opwright.compiler.sanitizer_gates import sanitizer_records
from opwright.ir.launch import bind_plan
from opwright.ir.record import Record

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
OP = parse_spec(SPEC).operator()
SOURCE, PLAN = source(8, simd=False), plan(8)


def judged(folder: Path, source: str) -> dict[str, Record]:
    (folder / "candidate.json").write_text(json.dumps(PLAN))
    (folder / "kernel.cpp").write_text(source)
    c = read(folder, OP)
    static = Static((), None, bind_plan(c.plan, OP))
    return {r.id: r for r in sanitizer_records(c, static, OP, host_isa(), 0)}


def test_a_right_text_is_tested(tmp_path: Path) -> None:
    found = judged(tmp_path, SOURCE)
    assert {r.status for r in found.values()} == {"TESTED"}, found
    assert set(found) == {"G8.address", "G8.undefined", "G8.races"}


FAULTS = [
    # read past the end, multiplied away
    ("y[i] = 0.5f * x[i];", "y[i] = 0.5f * x[i] + (x[n] > 3e38f ? 1e-30f : 0.0f);",
     "G8.address", "reads x[", "kernel.cpp:7"),
    ("y[i] = 0.5f * x[i];", "y[i] = 0.5f * x[i]; if (i == n - 1) y[n] = 0;",
     "G8.address", "writes y[", "kernel.cpp:7"),
    ("const int64_t begin", "float t[4]; t[n > 2 ? 5 : 0] = 1; y[0] = t[0]; const int64_t begin",
     "", "", "kernel.cpp:4"),
    ("y[i] = 0.5f * x[i];",
     "int32_t k = 2147483600; k += (int32_t)(i + n + 48); y[i] = 0.5f * x[i] + (k == 7);",
     "G8.undefined", "signed integer overflow", "kernel.cpp:7"),
    # every program writes the first element of the next one, too, before that one does
    ("i < end; ++i", "i < end + (end < n); ++i", "G8.races", "both write y[", ""),
    ("y[i] = 0.5f * x[i];", "y[i] = 0.5f * x[i] + (i > begin ? 0 : 0 * y[0]);",
     "G8.races", "y[0]", ""),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "gate", "words", "line"), FAULTS)
def test_faults_are_refuted_where_they_are(
    tmp_path: Path, right: str, wrong: str, gate: str, words: str, line: str
) -> None:
    assert right in SOURCE
    found = judged(tmp_path, SOURCE.replace(right, wrong, 1))
    (refuted,) = [r for r in found.values() if r.status == "REFUTED"]
    assert refuted.id.startswith(gate or "G8."), refuted
    assert words in refuted.reason
    assert line in refuted.reason
    assert refuted.counterexample is not None
    assert refuted.counterexample["sizes"]["N"] > 0


def test_a_text_that_does_not_build_is_unknown(tmp_path: Path) -> None:
    found = judged(tmp_path, SOURCE.replace("0.5f", "nothing"))
    assert {r.status for r in found.values()} == {"UNKNOWN"}
