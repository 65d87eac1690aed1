"""The shipped tables belong to the grammar, and read texts as lark does."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opwright.grammar import build, lalr
from opwright.grammar.parser import analyse

DATA = Path(__file__).parent / "data"
SPECS = [path.read_text() for path in sorted(DATA.glob("*.op"))]
# What lark's grammar takes and this front end refuses on purpose.
BEYOND_THE_GRAMMAR = {"E0104", "E0118", "E0119", "E0120"}


@pytest.fixture(scope="module")
def reference() -> Any:
    """Lark's own parser in strict mode: it raises on any conflict or colliding terminals."""
    pytest.importorskip("interegular", reason="strict mode compares terminals with interegular")
    from lark import Lark

    text = lalr.GRAMMAR.read_text(encoding="utf-8")
    return Lark(text, parser="lalr", strict=True, start=list(lalr.STARTS))


def test_the_tables_are_not_stale() -> None:
    assert build.render(build.build_tables()) == lalr.TABLES.read_text(encoding="utf-8"), (
        "run python -m opwright.grammar.build"
    )


def test_the_tables_do_not_depend_on_the_process() -> None:
    script = (
        "import hashlib; from opwright.grammar import build;"
        "print(hashlib.sha256(build.render(build.build_tables()).encode()).hexdigest())"
    )
    digests = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("change", ["grammar", "format"])
def test_stale_tables_are_refused(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads(lalr.TABLES.read_text(encoding="utf-8"))
    data[change] = "other"
    stale = tmp_path / "tables.json"
    stale.write_text(json.dumps(data))
    monkeypatch.setattr(lalr, "TABLES", stale)
    with pytest.raises(lalr.StaleTables, match=r"opwright\.grammar\.build"):
        lalr.load_tables.__wrapped__()


def test_line_endings_of_a_checkout_do_not_make_tables_stale() -> None:
    assert lalr.grammar_hash("a\r\nb\r\n") == lalr.grammar_hash("a\nb\n")


def test_the_frozen_syntax_only_grew() -> None:
    """Every rule of syntax 0.1 as it was first published is still there."""
    text = " ".join(lalr.GRAMMAR.read_text(encoding="utf-8").split())
    for rule in FROZEN:
        assert " ".join(rule.split()) in text, rule


FROZEN = [
    "start: version import_* op+",
    'op: "op" NAME "@" SEMVER [STRING] "{" section* "}"',
    "?section: dims | where | types | let_ | param | input_ | output | def_ "
    "| requires | ensures | law | tolerance | grad | workload | objective | target",
    'tensor: NAME ":" scalar [shape] [layout]',
    'equation: lhs ("," lhs)* "=" expr',
    'ensures: "ensures" NAME ":" expr [within] [by]',
    'law: "law" NAME ["(" law_arg ("," law_arg)* ")"] ":" expr [within] [by]',
    'tolerance: "tolerance" "versus" DTYPE "{" (tol_rule)+ "}"',
    'objective: "minimize" term ("+" term)* ["subject" "to" bound ("," bound)*]',
    'binder: NAME ":" expr [".." expr]',
    r"NUMBER: /\d+(\.\d+)?([eE][+-]?\d+)?/",
    r"UNIT.2: /(us|ms|MiB|GiB|mJ|J)\b/",
]


def tokens_of(text: str) -> list[tuple[str, str]]:
    """Return the tokens that the shipped tables read, with the start symbol of a file."""
    tables = lalr.load_tables()
    frame, position, found = tables.first("start"), 0, []
    while True:
        token = tables.scan(text, position, frame.state)
        assert token is not None
        following = tables.step(frame, token)
        assert following is not None
        if token.type == lalr.END:
            return found
        found.append((token.type, token.text))
        frame, position = following, token.end


@pytest.mark.parametrize("text", SPECS, ids=range(len(SPECS)))
def test_tokens_are_those_of_lark(text: str, reference: Any) -> None:
    interactive = reference.parse_interactive(text, start="start")
    expected = [(token.type, str(token)) for token in interactive.iter_parse()]
    assert tokens_of(text) == expected


def pieces(text: str) -> list[tuple[int, int]]:
    tables, position, found = lalr.load_tables(), 0, []
    while (token := tables.scan_any(text, position)) and token.type != lalr.END:
        found.append((token.start, token.end))
        position = token.end
    return found


EXTRA = "( ) [ ] { } , : = == .. x 3 sum input def + - op in f32 if then | => @ . ~ type J".split()


def mutations(seed: int, count: int) -> list[str]:
    """Return specs with one token deleted, doubled, replaced, put in or moved."""
    source = random.Random(seed)
    result = []
    for _ in range(count):
        text = source.choice(SPECS)
        places = pieces(text)
        index = source.randrange(len(places) - 1)
        (start, end), (start2, end2) = places[index], places[index + 1]
        other = source.choice(EXTRA)
        result.append(
            source.choice(
                [
                    text[:start] + text[end:],
                    f"{text[:end]} {text[start:]}",
                    f"{text[:start]} {other} {text[end:]}",
                    f"{text[:start]} {other} {text[start:]}",
                    text[:start] + text[start2:end2] + " " + text[start:end] + text[end2:],
                ]
            )
        )
    return result


def test_texts_are_accepted_exactly_where_lark_accepts_them(reference: Any) -> None:
    from lark.exceptions import UnexpectedInput

    refused = 0
    for text in mutations(seed=7, count=150):
        try:
            reference.parse(text, start="start")
            expected = True
        except UnexpectedInput:
            expected = False
        _, found = analyse(text)
        accepted = not [one for one in found if one.code not in BEYOND_THE_GRAMMAR]
        assert accepted == expected, text
        refused += not expected
    assert refused > 100


def test_errors_do_not_cascade() -> None:
    """A single wrong token rarely gives more than one error, and never many."""
    counts = [len(analyse(text)[1]) for text in mutations(seed=11, count=250)]
    wrong = [count for count in counts if count]
    assert len(wrong) > 200
    assert sum(count == 1 for count in wrong) / len(wrong) > 0.8
    assert max(wrong) <= 6


def test_importing_and_parsing_load_no_lark() -> None:
    script = (
        "import sys, opwright.grammar; assert 'lark' not in sys.modules;"
        "assert 'opwright.grammar.parser' not in sys.modules;"
        "from opwright.grammar.parser import parse;"
        "parse('opwright \"0.1\" op f @ 1.0 { dims N }');"
        "assert 'lark' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=env, check=True)
