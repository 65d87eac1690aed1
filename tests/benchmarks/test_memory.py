"""The table of peak memory: real calls, and words for what cannot be run."""

from __future__ import annotations

from opwright.benchmarks.memory import main


def test_a_gradient_is_called_at_every_size(capsys):
    sizes = ["--size", "B=1", "--size", "H=1", "--size", "D=8", "--size", "S=16,32"]
    given = ["causal_attention", "--grad", "q,k,v", "--space", "walk", *sizes]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert said.count("peak +") == 2
    assert "S = 32" in said and "loop_stream_stream: 0.0 scratch, not run" in said


def test_what_is_missing_is_said(capsys):
    assert main(["nothing"]) == 2
    assert main(["causal_attention", "--size", "S=many"]) == 2
    assert main(["causal_attention", "--grad", "q", "--size", "S=4"]) == 2
    said = capsys.readouterr().err
    assert "no operator nothing" in said and "--size S=many" in said and "say --size B=N" in said
