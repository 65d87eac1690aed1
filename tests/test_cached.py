"""What the results of a test file depend on."""

from __future__ import annotations

from support.cached import ROOT, closure, imported, key


def test_a_file_rests_on_every_folder_that_is_reached_from_it() -> None:
    text = "from opwright.grammar.parser import parse\nimport opwright\n    import opwright.ir\n"
    assert imported(text) == {"grammar", "api", "ir"}
    found = closure("from opwright.verify import gates\n")
    assert {"verify", "ir", "grammar"} <= set(found)
    assert {"backends", "runtime"} <= set(closure("from opwright.compiler import check\n"))


def test_the_key_of_a_file_changes_with_it(tmp_path) -> None:
    own = tmp_path / "test_own.py"
    own.write_text("from opwright.grammar import parser\n")
    first = key(own)
    assert first == key(own)
    own.write_text("from opwright.grammar import parser  # another text\n")
    assert key(own) != first and key(ROOT / "tests" / "test_cached.py") != first
