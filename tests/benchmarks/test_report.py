"""What is measured in which order, what counts as measured, and what tables claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from opwright.benchmarks import __main__ as bench
from opwright.benchmarks.limits import Machine, Need
from opwright.benchmarks.plots import write_plots
from opwright.benchmarks.report import BEGIN, END, into_readme, lost, markdown, sections, text
from opwright.benchmarks.results_file import Entry, Results, slug, version
from opwright.benchmarks.subjects import STUDY, library, plan, subject

LIMITS = {"fma": 4e11, "read": 2e10, "copy": 3e10, "threads": 2}


def _row(impl: str, mode: str, seconds: float | None, note: str = "") -> dict[str, Any]:
    return {"impl": impl, "mode": mode, "median_s": seconds, "note": note}


def _pair(title: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    own = [_row("opwright", "out", 1e-3), _row("opwright again", "out", 1.02e-3)]
    body = {
        "op": "softmax", "direction": "forward", "element": "f32", "workload": "study",
        "sizes": {"B": 8}, "params": {}, "study": title, "run": "r", "rows": [*own, *rows],
        "need": {"read": 10_000_000, "written": 5_000_000, "operations": 1000},
        "winner": {"schedule": "rows(b=1)", "gates": dict.fromkeys(("G2", "G3", "G6"), "PROVED")},
    }  # fmt: skip
    return {**body, **more}


def _results(path: Path, *pairs: dict[str, Any]) -> Results:
    found = Results(path / "some-machine" / "bench.json", "some machine", {"r": {"limits": LIMITS}})
    found.pairs = {f"{n}": p for n, p in enumerate(pairs)}
    return found


def test_modes_stay_apart_and_packed_counts_against_our_plain_call() -> None:
    rows = [
        _row("torch", "out", 2e-3),
        _row("opwright", "fresh", 2e-3),
        _row("torch", "fresh", 3e-3),
        _row("onnxruntime", "packed", 0.5e-3),
        _row("jax", "fresh", None, "jax: no such type"),
    ]
    e = Entry(_pair("a", rows), Machine(**LIMITS))
    assert e.ratio("torch", "out") == pytest.approx(2.0)
    assert e.ratio("torch", "fresh") == pytest.approx(1.5)
    assert e.ratio("onnxruntime", "packed") == pytest.approx(0.5)
    assert e.ratio("jax", "fresh") is None and e.ratio("abacus", "out") is None
    assert e.worst() == ("onnxruntime", "packed", pytest.approx(0.5))
    packed = Entry(_pair("a", [*rows, _row("opwright", "packed", 0.4e-3)]), None)
    assert packed.ratio("onnxruntime", "packed") == pytest.approx(1.25)
    share = e.share
    assert share is not None and share == (pytest.approx(0.5), "copy")


def test_a_kernel_that_only_reads_is_held_to_the_rate_of_reading() -> None:
    m = Machine(**LIMITS)
    assert Need(20_000_000_000, 10, 1).floor(m) == (pytest.approx(1.0), "read")
    assert Need(1000, 1000, 400_000_000_000).floor(m) == (pytest.approx(1.0), "fma")


def test_nothing_is_claimed_inside_the_floor(tmp_path: Path) -> None:
    near = _pair("near", [_row("torch", "out", 1.01e-3)])
    ahead = _pair("ahead", [_row("torch", "out", 0.9e-3)])
    results = _results(tmp_path, near, ahead)
    assert results.floor() == pytest.approx(1.02)
    assert lost(results.entries(), results) == ["ahead: torch (out) 0.90"]
    said = text(results)
    assert "1.01 =" in said and "0.90 " in said and "A/A floor: 2.0%" in said
    page = markdown(results)
    assert "| near | 1 | 50% copy | 1.01 = | 1.01 = |" in page
    assert "`rows(b=1)` | PROVED | PROVED | PROVED |" in page


def test_missing_and_doubtful_numbers_have_their_reasons(tmp_path: Path) -> None:
    bad = _pair("late", [], failed="not measured within 3 s")
    del bad["rows"]
    rows = [_row("jax", "fresh", None, "jax: no such type"), _row("torch", "out", 1.0, "load 9")]
    results = _results(tmp_path, _pair("a", rows), bad)
    page = markdown(results)
    assert "late, f32, forward: not measured within 3 s" in page
    assert "jax (fresh): jax: no such type" in page and "load 9" in page
    assert len(sections(results)) == 1


def test_plots_are_whole_documents(tmp_path: Path) -> None:
    results = _results(tmp_path, _pair("a < b", [_row("torch", "out", 2e-3)]))
    results.path.parent.mkdir(parents=True)
    files = write_plots(results, results.path.parent)
    assert [f.name for f in files] == [
        "ratios-the-study-s-pairs-f32-forward.svg",
        "limits-the-study-s-pairs-f32-forward.svg",
    ]
    for f in files:
        assert ElementTree.fromstring(f.read_text()).tag.endswith("svg")


def test_the_table_in_a_page_is_between_its_marks(tmp_path: Path) -> None:
    results = _results(tmp_path, _pair("a", [_row("torch", "out", 2e-3)]))
    page = tmp_path / "page.md"
    page.write_text("before\n")
    assert not into_readme(results, page)
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert into_readme(results, page) and into_readme(results, page)
    said = page.read_text()
    assert said.startswith("before\n") and said.endswith("\nafter\n") and "old" not in said
    assert "| a | 1 | 50% copy | 2.00 | 2.00 |" in said


def test_a_file_is_read_back_and_a_damaged_one_begins_anew(tmp_path: Path) -> None:
    results = _results(tmp_path, _pair("a", []))
    results.pairs["0"]["code"] = "one"
    results.write()
    again = Results.of(results.path)
    assert again.machine == "some machine" and again.pairs == results.pairs
    assert again.done("0", "one") and not again.done("0", "two") and not again.done("1", "one")
    results.path.write_text("damaged")
    assert Results.of(results.path, "m").pairs == {}
    assert json.dumps(version(library()["softmax"])) != json.dumps(version(library()["gelu"]))


def test_the_study_comes_first_and_every_pair_once() -> None:
    pairs = plan(("f32", "bf16"), ("forward", "backward"), ("softmax", "argmax", "silu"))
    assert [p.study for p in pairs[:3]] == ["softmax 4096x4096", "softmax 128x50257",
                                            "argmax dim 1"]  # fmt: skip
    assert len({p.key for p in pairs}) == len(pairs)
    first = next(n for n, p in enumerate(pairs) if not p.study)
    assert all(not p.study for p in pairs[first:])
    assert not any(p.op == "argmax" and p.direction == "backward" for p in pairs)
    assert len(plan(("f32",), ("forward",), study=True)) == len(STUDY) == 17


def test_a_subject_has_the_pairs_shape_alone() -> None:
    pair = next(p for p in plan(("bf16",), ("backward",), study=True) if p.op == "rmsnorm")
    s = subject(pair)
    assert s.wrt == ("x", "gamma") and {t.name for t in s.op.outputs} == {"d_x", "d_gamma"}
    (load,) = s.op.workloads
    assert load.sizes == pair.sizes and s.op.digest != s.forward.digest


def test_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench.main(["no_such"]) == 2
    assert "no operator no_such" in capsys.readouterr().err
    assert bench.main(["silu", "--against", "abacus"]) == 2
    assert bench.main(["silu", "--types", "f99"]) == 2
    assert bench.main(["silu", "--minutes", "0", "--results", str(tmp_path)]) == 1


def test_a_cut_off_run_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def one(pair: Any, settings: Any, seconds: float) -> dict[str, Any]:
        asked.append(pair.key)
        if len(asked) == 2:
            return {**pair.to_json(), "failed": "the process ended: killed"}
        return {**_pair("", []), **pair.to_json()}

    monkeypatch.setattr(bench, "one", one)
    monkeypatch.setattr(bench, "measure", lambda: Machine(**LIMITS))
    given = ["silu", "--types", "f32", "--results", str(tmp_path), "--directions", "forward"]
    assert bench.main(given) == 1 and len(asked) == 2
    assert bench.main(given) == 0 and len(asked) == 3
    assert bench.main(given) == 0 and len(asked) == 3
    assert bench.main([*given, "--again"]) == 0 and len(asked) == 5


def test_names_of_folders() -> None:
    assert slug("Some(R) CPU @ 2.0GHz x2") == "some-r-cpu-2-0ghz-x2"
