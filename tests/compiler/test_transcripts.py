"""Recorded searches with a language model: what won in each is still read, and passes the gates.

Whatever lies in `examples/transcripts` is checked: `NAME.jsonl`, the ledger of a search with its
true origin, and `NAME.op` where its spec is not the library's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("clang.cindex")

from opwright.compiler.elaborate import parse_spec
from opwright.compiler.exchanging import judge, medium_of
from opwright.compiler.transcripts import ORIGIN, Transcript, read
from opwright.search.cassette import Cassette, CassetteError
from opwright.search.exchange import Answer
from opwright.search.llm import Message, Request, Response

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "transcripts"
KEPT = sorted(FOLDER.glob("*.jsonl"))
SPEC = """opwright "0.1"
op copied @ 1.0 { dims N input x: f32[N] output y: f32[N] def { y[i] = x[i] } }
"""
ANSWER = """PLAN
one element a trip
LAUNCH
```json
{"facts": ["stride(x, 0) == 1", "stride(y, 0) == 1"],
 "launches": [{"kernel": "k", "grid": ["1"], "args": ["x", "y", "N"]}]}
```
CODE
```cpp
extern "C" void k(const float *x, float *y, i64 n, i64 p, i64 q, i64 r) {
  for (i64 i = 0; i < n; i += {{W}}) {
    const i32x8 m = v_prefix<i32x8>(n - i);
    v_store_masked(y + i, m, v_load_masked<f32x8>(x + i, m, 0.0f));
  }
}
```
HOLES
{"W": [8, 16]}
PREDICTED
1.5, 0.5
"""


def gates(t: Transcript) -> set[str]:
    """What the gates before execution say of the best text."""
    best = t.passed[0]
    medium = medium_of(str(t.origin["backend"]), tuple(t.origin["targets"]), t.op)
    _, given = judge(Answer(0, "best", best.plan, best.source), t.op, medium)
    return {r.status for r in given.records if r.kind in ("G0", "G1", "G2", "G3")}


@pytest.mark.parametrize("path", KEPT, ids=[p.stem for p in KEPT])
def test_a_transcript_s_winner_passes_the_gates(path: Path) -> None:
    t = read(path)
    assert all(t.origin[k] for k in ("client", "model")), "its origin says who answered"
    assert t.passed and gates(t) == {"PROVED"}


@dataclass
class One:
    """Gives one answer."""

    answer: str
    name: str = "dialogue:one"

    def complete(self, request: Request) -> Response:
        return Response(self.answer, "stop", "one")


def written(folder: Path, answer: str, spec: str = SPEC) -> Path:
    op = parse_spec(SPEC).operator("copied")
    said = {"client": "dialogue:one", "model": "one", "operator": "copied@1.0", "spec": op.digest,
            "backend": "cpp", "targets": ["cpu(x86-64-v3)"], "types": {}}  # fmt: skip
    assert set(said) == set(ORIGIN)
    path = folder / "copied.jsonl"
    tape = Cassette(path, "record", One(answer), said)
    tape.note("node", node=0, idea="plan", parent=None, move="", plan=[])
    request = Request("", (Message("user", "write"),), model="one", logical="copied@1.0/plan/0/0")
    tape.complete(request)
    for n, (w, status, score) in enumerate([(16, "ok", 0.9), (8, "ok", 0.5), (16, "wrong", None)]):
        schedule = f"llm(node=0, attempt=0, text=t0, W={w})"
        tape.note("verdict", candidate=n, node=0, attempt=0, score=score, status=status,
                  schedule=schedule)  # fmt: skip
    tape.close()
    path.with_suffix(".op").write_text(spec)
    return path


def test_what_won_is_read_back_with_its_holes(tmp_path: Path) -> None:
    t = read(written(tmp_path, ANSWER), tmp_path)
    assert [x.score for x in t.passed] == [0.5, 0.9] and t.refused == {"wrong": 1}
    assert "i += 8" in t.passed[0].source and gates(t) == {"PROVED"}


def test_a_winner_that_writes_too_far_is_seen(tmp_path: Path) -> None:
    wrong = ANSWER.replace("v_prefix<i32x8>(n - i)", "v_prefix<i32x8>(n - i + 1)")
    assert gates(read(written(tmp_path, wrong), tmp_path)) != {"PROVED"}


def test_another_spec_is_refused(tmp_path: Path) -> None:
    other = SPEC.replace("= x[i]", "= 2 * x[i]")
    with pytest.raises(CassetteError, match="says something else now"):
        read(written(tmp_path, ANSWER, other), tmp_path)
