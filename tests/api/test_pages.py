"""The page that `compile` and `bench` print, from results made here."""

from __future__ import annotations

from opwright.compiler.timing import Row
from opwright.compiling import gates, timing_lines, verdict_lines
from opwright.ir.record import Record, Verdict


def row(impl: str, mode: str, seconds: float | None, note: str = "") -> Row:
    return Row("f", "w", "N=4; T=f32", impl, mode, seconds, 0.0, note)


def test_times_are_ratios_to_the_emitted_kernel() -> None:
    busy = "torch used 0.5 of 2 threads; the machine's load was 4"
    lines = timing_lines(
        [
            row("torch", "out", 4e-3, busy),
            row("opwright", "out", 2e-3, busy.replace("torch", "opwright")),
            row("jax", "fresh", None, "jax is not installed"),
            row("torch", "fresh", 3e-3),
        ]
    )
    assert lines[1] == "  f w: N=4; T=f32"
    assert lines[2].split() == ["opwright", "out", "2.0000", "ms", "1.00x", "[1,", "2]"]
    assert lines[3].split() == ["torch", "out", "4.0000", "ms", "2.00x", "[1,", "2]"]
    assert lines[4].split() == ["torch", "fresh", "3.0000", "ms"]
    assert lines[5].split()[:2] == ["jax", "fresh"]
    assert lines[5].endswith("jax is not installed")
    assert lines[6:] == ["  [1] used 0.5 of 2 threads", "  [2] the machine's load was 4"]
    assert timing_lines([]) == ["nothing was timed"]


def test_a_missing_gate_is_unknown() -> None:
    verdict = Verdict((Record("G2.bounds.x", "G2", "PROVED", subject="TileIR sha256:0"),))
    assert gates(verdict) == {"G2": "PROVED", "G3": "UNKNOWN", "G6": "UNKNOWN"}
    lines = verdict_lines(verdict)
    assert lines[0] == "G2  PROVED    safety: 1 obligation"
    assert lines[-1] == "    subject: TileIR sha256:0"


def test_a_gate_shows_its_weakest_record() -> None:
    verdict = Verdict(
        (
            Record("G2.bounds.x", "G2", "PROVED", "fine"),
            Record("G2.wrap.y", "G2", "REFUTED", "i = 2147483648 leaves i32"),
        )
    )
    assert verdict_lines(verdict)[0] == (
        "G2  REFUTED   safety: 2 obligations; i = 2147483648 leaves i32"
    )
