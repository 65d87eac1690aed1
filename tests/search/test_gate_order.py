"""Which gate comes first: by refutations per second, with a safe default, whatever the order of the
ledger."""

from __future__ import annotations

import random
from pathlib import Path

from opwright.ir.record import Record
from opwright.search.archive import Archive, Candidate, archive_path
from opwright.search.gate_order import DEFAULT, FIELD, LEAST, PROOFS, learn, learned


def rows(count: int, proof: tuple[str, float], field: tuple[str, float]) -> list[list[Record]]:
    return [
        [
            Record("G2.bounds.x", "G2", proof[0], seconds=proof[1]),
            Record("G4.y", "G4", field[0], seconds=field[1]),
        ]
        for _ in range(count)
    ]


def test_proofs_come_first_until_enough_was_seen() -> None:
    assert learn([]).groups == DEFAULT == (PROOFS, FIELD)
    few = learn(rows(LEAST - 1, ("PROVED", 9.0), ("REFUTED", 0.1)))
    assert few.groups == DEFAULT and not few.learned and "default" in few.text()


def test_what_refutes_more_a_second_comes_first() -> None:
    field = learn(rows(LEAST, ("PROVED", 1.0), ("REFUTED", 0.1)))
    assert field.groups == (FIELD, PROOFS) and field.field_first and field.learned
    assert f"G4 refuted {LEAST} of {LEAST}" in field.text()
    slow = learn(rows(LEAST, ("REFUTED", 0.1), ("REFUTED", 5.0)))
    assert slow.groups == DEFAULT and slow.learned
    draw = learn(rows(LEAST, ("REFUTED", 0.5), ("REFUTED", 0.5)))
    assert draw.groups == DEFAULT


def test_the_order_of_the_ledger_does_not_matter() -> None:
    mixed = [
        *rows(15, ("REFUTED", 0.3), ("PROVED", 0.7)),
        *rows(15, ("PROVED", 0.11), ("REFUTED", 0.13)),
    ]
    texts = set()
    for seed in range(5):
        random.Random(seed).shuffle(mixed)
        texts.add(learn(mixed).text())
    assert len(texts) == 1


def test_what_came_from_a_cache_took_no_time_and_does_not_count() -> None:
    cached = [[Record("G2.bounds.x", "G2", "PROVED", cached=True)] for _ in range(99)]
    tallies = learn(cached).tallies
    assert tallies is not None and tallies[PROOFS].seen == 0


def test_archives_are_read_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    assert learned(tmp_path / "nowhere") == learned(tmp_path)
    with Archive(archive_path(tmp_path, "rows@1.0", {}, "cpu"), "rows") as archive:
        run = archive.run(0, {}, "here")
        for n, records in enumerate(rows(LEAST, ("PROVED", 1.0), ("REFUTED", 0.1))):
            archive.add(run, Candidate(n, 0, "s()", "refuted", records=tuple(records)), "here")
    (tmp_path / "rows@1.0-broken.sqlite").write_text("no database")
    assert learned(tmp_path, "rows@1.0").field_first
    assert learned(tmp_path, "others@1.0").field_first  # those of all operators
