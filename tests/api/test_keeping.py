"""What commands keep of the calls that refute a candidate."""

from __future__ import annotations

from pathlib import Path

from opwright.ir.record import Record, Verdict
from opwright.keeping import keep_replays
from opwright.spec_files import open_spec

TWICE = """opwright "0.1"

op twice @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] + x[i] }
}
"""


def refuted(n: int) -> Verdict:
    return Verdict((Record("G2.wrap.x", "G2", "REFUTED", counterexample={"sizes": {"N": n}}),))


def test_calls_that_are_too_large_are_not_drawn(tmp_path: Path) -> None:
    """A wrap needs sizes that no machine has room for."""
    path = tmp_path / "twice.op"
    path.write_text(TWICE)
    op = open_spec(path).operator()
    said: list[str] = []
    keep_replays(path, op, refuted(2**31), True, said)
    assert said == [f"not kept: a call with {2**31} elements is too large for a case"]
    keep_replays(path, op, refuted(3), True, said)
    assert said[1].startswith("kept     case ")
