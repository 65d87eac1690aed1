"""The trusted base lists what records rest on, and nothing else."""

from __future__ import annotations

import importlib.metadata

from opwright.compiler.trusted import assumptions, text, trusted_base
from opwright.ir.record import Record

READ = Record("G1.import", "G1", "PROVED", subject="kernel.cpp sha256:00")
SAFE = Record(
    "G2.bounds.x", "G2", "PROVED", subject="kernel.cpp sha256:00", assumptions=("1 <= N",)
)
SANDBOX = "run in a sandbox (namespaces)"
TESTED = Record("G6.error", "G6", "TESTED", assumptions=(SANDBOX,))


def test_entries_come_and_go_with_what_rests_on_them() -> None:
    assert trusted_base([], ("cpp",)) == {}
    read = trusted_base([READ], ("cpp",), "s@1.0 sha256:1")
    assert list(read) == ["spec", "semantics table", "verifier", "importer"]
    assert "libclang" in read["importer"]
    safe = trusted_base([READ, SAFE], ("cpp",), guards=("N % 8 == 0",))
    assert importlib.metadata.version("z3-solver") in safe["solver"]
    assert "N % 8 == 0" in safe["runtime guards"] and "compiler" not in safe
    ran = trusted_base([READ, SAFE, TESTED], ("cpp",))
    assert ran["compiler"] and "numpy" in ran["reference"] and ran["sandbox"] == SANDBOX
    unproved = trusted_base([Record("G2.bounds.x", "G2", "UNKNOWN")], ("cpp",))
    assert "solver" not in unproved and "verifier" not in unproved


def test_a_printer_is_trusted_where_its_text_was_not_read() -> None:
    printed = Record("G2.bounds.x", "G2", "PROVED", subject="TileIR sha256:0 (printer trusted)")
    assert "printer" in trusted_base([printed], ("cpp",))
    assert "printer" not in trusted_base([SAFE], ("cpp",))


def test_the_cache_is_trusted_where_it_was_used() -> None:
    cached = Record("G2.bounds.x", "G2", "PROVED", cached=True)
    assert trusted_base([cached, SAFE], ("cpp",))["proof cache"].startswith("1 records")
    assert "proof cache" not in trusted_base([SAFE], ("cpp",))


def test_assumptions_are_listed_once_and_apart_from_how_it_ran() -> None:
    assert assumptions([SAFE, SAFE, TESTED]) == ["1 <= N"]
    lines = text(trusted_base([SAFE], ("cpp",)), assumptions([SAFE]))
    assert lines[0].startswith("to be trusted") and lines[-1] == "    1 <= N"
