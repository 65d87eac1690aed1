"""What the ledger of one operator is worth to a search of another."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from support.operators import scaled
from support.simulated import Simulated, spaces

from opwright.benchmarks.ledgers import LEDGERS, Ledger
from opwright.benchmarks.transfer import PAIRS, course, measure
from opwright.compiling import Request, informed, learned
from opwright.search.archive import Archive, ArchiveError
from opwright.search.informed import ORIGIN, Informed, Seen, expected, seen_in
from opwright.search.propose import Builtin, View
from opwright.search.run import Budget, search
from opwright.search.space import Schedule, parse


def searched(seed: int, **more: object) -> list[float]:
    found = search(spaces(), scaled(), Simulated(), Budget(16), seed, **more)  # type: ignore[arg-type]
    scores = [r["score"] for r in found.table if r["status"] == "ok"]
    return [float(str(s)) for s in scores]


def test_an_archive_of_another_search_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with Archive(path) as archive:
        searched(3, archive=archive)
    rows = seen_in(path)
    assert len(rows) == 16 and rows[0].score == min(r.score for r in rows)
    proposer = Informed((rows,))
    warm = searched(1, proposer=proposer)
    assert warm[1] == rows[0].score  # the best there is the first to be tried after candidate 0
    assert min(warm) <= min(searched(1))
    assert proposer.name != Informed((rows[:3],)).name != "builtin"
    with pytest.raises(ArchiveError):
        seen_in(tmp_path / "none.sqlite")
    again = json.loads(json.dumps(Request(
        Path("x"), None, "", {}, 1, None, 0, "proved", Path("o"), (), learned=learned([path])
    ).to_json("f")))["learned"]  # fmt: skip
    restored = informed(again)
    assert restored is not None and restored.name == proposer.name  # a resumed run knows the same
    assert informed(()) is None


def test_what_fits_nothing_here_is_left_out() -> None:
    foreign = tuple(
        Seen(text, 0.1)
        for text in ("other(a=1)", "tiled(width=7, depth=1, order=a)", "llm(node=0, text=t0)")
    )
    view = View(spaces(), (), {})
    made = Informed((foreign,)).propose(view, 4, Random(0))
    assert len(made) == 4 and not {p.schedule.text for p in made} & {r.schedule for r in foreign}
    kept = Informed(()).propose(view, 2, Random(0))
    assert kept and all(p.origin == ORIGIN for p in kept)


def test_a_guess_follows_what_is_measured_here() -> None:
    near, far = (
        parse("tiled(width=32, depth=4, order=a)"),
        parse("tiled(width=2, depth=4, order=a)"),
    )
    known = [(near, 0.0, 1), (far, 1.0, 1)]
    pool = [parse("tiled(width=64, depth=4, order=a)"), parse("tiled(width=4, depth=4, order=a)")]
    first = expected(known, pool)
    assert first[0][1] < first[1][1] and first[0][0] > first[1][0]
    here = [(near, 1.0, 0), (far, 0.0, 0)]  # the other way round on this operator
    then = expected([*known, *here], pool)
    assert then[0][1] > then[1][1]


def test_what_changed_nothing_elsewhere_waits() -> None:
    def at(width: int, depth: int, order: str) -> Schedule:
        return parse(f"tiled(width={width}, depth={depth}, order={order})")

    # there the width matters and the order does not; the depth was never varied
    there = [(at(w, 4, o), 0.4 * (w == 8), 1) for w in (8, 16) for o in ("a", "b")]
    known = [*there, (at(16, 4, "a"), 0.0, 0)]
    order, depth, both = expected(known, [at(16, 4, "b"), at(16, 8, "a"), at(8, 4, "a")])
    assert depth[0] > 2 * order[0]  # of the depth nothing is known: it may gain
    assert both[1] > 0.2 > abs(order[1])  # the width is known to cost here, too


def test_recorded_ledgers_are_searched_as_they_are() -> None:
    known = [p for p in PAIRS if all((LEDGERS / f"{n}.jsonl").exists() for n in p)]
    assert len(known) >= 3
    first, second = (Ledger.load(n) for n in known[0])
    one = course(second, 12, 0, Builtin())
    assert one.scores == course(second, 12, 0, Builtin()).scores and len(one.scores) == 12
    found = measure(first, second, 12, 1)
    assert found.warm <= 13 and found.cold >= 1
