"""`opwright report`: one whole page; nothing comes from elsewhere, nothing of strangers runs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support import operators as ops
from support.simulated import Simulated, spaces

from opwright import charts
from opwright.charts import Leaf, Mark
from opwright.ir.record import Record
from opwright.outcome import Problem
from opwright.reporting import report
from opwright.search.archive import Archive, Candidate
from opwright.search.run import Budget, search

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'</style></svg>\x00\x1b"


class Elements(HTMLParser):
    """The elements of a page, those left open, and attributes that could load or run something."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.dangerous: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "href", "xlink:href", "action", "style"):
                self.dangerous.append((tag, f"{name}={value}"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> tuple[str, Elements]:
    page = path.read_text(encoding="utf-8")
    found = Elements()
    found.feed(page)
    assert found.open == [] and found.dangerous == []
    assert not found.seen & {"script", "img", "iframe", "link", "object", "embed", "form"}
    assert not re.search(r"https?:|url\(|@import", page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    return page, found


def test_a_page_about_a_search(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path, "op@1.0") as a:
        search(spaces(), ops.scaled(), Simulated(), Budget(20), 0, a)
    assert report(path, None, tmp_path / "page" / "report.html", False) == 0
    page, found = read(tmp_path / "page" / "report.html")
    for title in ("Progress", "Search tree", "Verdicts", "Machine", "Trusted base", "Costs"):
        assert title in found.text
    assert "The winner" in found.text and 'class="add"' in page and 'class="won"' in page
    assert "prefers-color-scheme: dark" in page and "Content-Security-Policy" in page
    assert page.count("<svg") >= 2


def test_strangers_write_data(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    record = Record(f"G2.{EVIL}", "G2", "REFUTED", EVIL, EVIL, (EVIL,))
    with Archive(path, EVIL.replace("\0", "")) as a:
        run = a.run(0, {"proposer": EVIL}, "")
        a.log(run, "operator", {"operator": EVIL, "machine": EVIL, "types": {EVIL: EVIL},
              "workloads": {EVIL: {"weight": 1.0, "flops": 10, "bytes": 5}}})  # fmt: skip
        a.log(run, "command", {"text": EVIL, "backend": EVIL, "target": EVIL})
        a.log(run, "answer", {"name": EVIL, "note": EVIL})
        metrics = {EVIL: {"latency": 1e-3, "memory": 5.0}}
        plan = {"candidate.json": '{"source": "kernel.cpp"}', "kernel.cpp": EVIL, EVIL: EVIL}
        zero = Candidate(0, 0, EVIL, "ok", EVIL, "p", "s", (), {}, metrics, EVIL)
        a.add(run, zero, "", {**plan, "kernel.cpp": "int x;\n" + EVIL})
        better = {EVIL: {"latency": 5e-4, "memory": 9.0}}
        one = Candidate(1, 1, EVIL, "ok", EVIL, "q", "s", (record,), {}, better, EVIL, 0)
        a.add(run, one, "", plan)
        a.add(run, Candidate(2, 1, EVIL, "refuted", EVIL, records=(record,), parent=9), "")
    assert report(path, None, tmp_path / "r.html", True) == 0
    page, found = read(tmp_path / "r.html")
    assert "<script" not in page and "onerror=alert" in found.text
    assert "{{ 7 * 7 }}" in found.text and page.count("<svg") == 4


def test_where_a_page_cannot_go(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path, "op@1.0") as a:
        a.run(0, {}, "")
    with pytest.raises(Problem, match="is a folder"):
        report(path, None, tmp_path, False)
    assert report(path, None, tmp_path / "empty.html", False) == 0  # nothing was tried yet
    read(tmp_path / "empty.html")


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_charts_of_any_size(count: int) -> None:
    marks = [Mark(i + 1.0, 1 / (i + 1), "ok" if i % 3 else "failed", "<&>") for i in range(count)]
    leaves = [Leaf(i, "<n>", "ok", "&", i - 1 if i else None) for i in range(count)]
    for svg in (
        charts.progress(marks),
        charts.pareto(marks, "x", "y"),
        charts.pareto([Mark(1.0, 0.0, "ok", ""), *marks], "x", "y"),
        charts.roofline(marks, None, None, {}),
        charts.roofline(marks, 1e10, 1e11, {"<w>": 2.0}),
        charts.tree(leaves),
        charts.tree([Leaf(3, "own parent", "ok", "", 3), Leaf(1, "later", "ok", "", 3)]),
    ):
        ElementTree.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg
