"""Every spec block of the README and the docs is checked; every link and make target exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opwright.compiler.check import check_text
from opwright.grammar.format import format_module

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(match[2], id=f"{path.name}:{path.read_text()[: match.start()].count(chr(10)) + 1}")
    for path in DOCUMENTS
    for match in re.finditer(r"^```(op|python)\n(.*?)^```$", path.read_text(), re.M | re.S)
    if match[1] == "op"
]
PYTHON = [
    pytest.param(match[1], id=f"{path.name}:{path.read_text()[: match.start()].count(chr(10)) + 1}")
    for path in DOCUMENTS
    for match in re.finditer(r"^```python\n(.*?)^```$", path.read_text(), re.M | re.S)
]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 2
    assert len(PYTHON) >= 2


@pytest.mark.parametrize("text", BLOCKS)
def test_spec_blocks(text: str) -> None:
    result = check_text(text, "block.op")
    assert [d.headline for d in result.diagnostics] == []
    assert not [r.id for r in result.obligations if r.status == "REFUTED"]
    assert format_module(text) == text


@pytest.mark.parametrize("text", PYTHON)
def test_python_blocks_compile(text: str) -> None:
    compile(text, "block.py", "exec")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[\w-]*)?\)", text):
        if target and "://" not in target:
            assert (path.parent / target).exists(), target
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert anchor in headings, anchor


def test_make_targets_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target
