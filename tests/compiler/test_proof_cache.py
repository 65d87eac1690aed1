"""The cache of proofs: what it keeps, what it never stands in for, and how it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from opwright.compiler import importing, proof_cache
from opwright.compiler.candidates import Candidate, printed
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.proof_cache import Store, remembering
from opwright.compiler.spaces import spaces
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.verify.proofs import Book, open_book

SPEC = """opwright "0.1"

op shifted @ 1.0 {{
  dims  N
  where N >= 1
  input x: f32[N]
  output y: f32[N]
  def {{ y[i] = x[i] * 2.0 + {plus} }}
  tolerance versus f64 {{ f32: abs 1e-5 rel 1e-5 }}
  target cpu(x86_64) via cpp
}}
"""


def operator(folder: Path, plus: str = "1.0") -> Operator:
    path = folder / "shifted.op"
    path.write_text(SPEC.format(plus=plus))
    return load_spec(path).operator("shifted", {})


def candidate(op: Operator, n: int = 1) -> Candidate:
    space = spaces(op)[n]
    return printed(space.instantiate(space.preferred()[0]), op, "x86-64-v3")


def proofs(op: Operator, c: Candidate, store: Store | None) -> list[Record]:
    with remembering(store):
        return [r for r in static_gates(c, op).records if r.kind in ("G2", "G3", "G5")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def entries(store: Store) -> list[Path]:
    return sorted(store.folder.rglob("*.json"))


def test_what_was_proved_is_not_proved_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = operator(tmp_path)
    c = candidate(op)
    first = proofs(op, c, store)
    assert {r.status for r in first} == {"PROVED"} and not any(r.cached for r in first)
    assert len(entries(store)) == 2  # safety, function

    def never(*_: Any) -> Any:
        raise AssertionError("proved again")

    monkeypatch.setattr(importing, "safety", never)
    monkeypatch.setattr(importing, "tile_function", never)
    again = proofs(op, c, store)
    assert all(r.cached for r in again)
    assert [replace(r, cached=False, seconds=0) for r in again] == [
        replace(r, seconds=0) for r in first
    ]
    schema = json.loads(
        (Path(proof_cache.__file__).parent.parent / "verify/record.schema.json").read_text()
    )
    for r in again:
        assert r.to_json()["cached"] is True
        jsonschema.validate(r.to_json(), schema)


def test_another_spec_text_plan_or_verifier_is_proved_anew(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = operator(tmp_path)
    c = candidate(op)
    proofs(op, c, store)
    other = operator(tmp_path, "3.0")
    found = proofs(other, replace(c, program=None), store)  # the same text under another meaning
    assert not any(r.cached for r in found)
    assert any(r.kind == "G5" and r.status != "PROVED" for r in found)
    spaced = replace(c, source=c.source + "\n", program=None)
    assert not any(r.cached for r in proofs(op, spaced, store))
    assert not any(r.cached for r in proofs(op, candidate(op, 0), store))
    monkeypatch.setattr(proof_cache, "verifier_digest", lambda backend: "sha256:another")
    assert not any(r.cached for r in proofs(op, c, store))


def test_a_damaged_entry_is_ignored_and_replaced(tmp_path: Path, store: Store) -> None:
    op = operator(tmp_path)
    c = candidate(op)
    proofs(op, c, store)
    whole = {p: p.read_text() for p in entries(store)}

    def forged(text: str) -> str:
        data = json.loads(text)
        data["records"][0]["reason"] = "because"
        return json.dumps(data)

    damages = ["", "{", "[1]", "null", '{"format": 1}', forged]
    for damage in damages:
        for p, text in whole.items():
            p.write_text(damage if isinstance(damage, str) else damage(text))
        assert not any(r.cached for r in proofs(op, c, store))
        for p, text in whole.items():
            mine, before = json.loads(p.read_text()), json.loads(text)
            assert [r["id"] for r in mine["records"]] == [r["id"] for r in before["records"]]
    one, two = entries(store)
    two.write_text(one.read_text())  # whole, but of another key
    assert {r.cached for r in proofs(op, c, store)} == {True, False}


def test_unknown_is_never_kept(store: Store) -> None:
    proved = Record("G2.bounds.x", "G2", "PROVED")
    for status in ("UNKNOWN", "ASSUMED", "TESTED"):
        store.put("sha256:00", [proved, replace(proved, status=status)])
    store.put("sha256:00", [])
    assert store.get("sha256:00") is None and not entries(store)
    refuted = Record("G2.bounds.y", "G2", "REFUTED", counterexample={"sizes": {"N": 3}})
    store.put("sha256:00", [proved, refuted])
    assert store.get("sha256:00") == [replace(r, cached=True) for r in (proved, refuted)]
    (file,) = entries(store)  # nor taken where somebody wrote it
    data = json.loads(file.read_text())
    data["records"][0]["status"] = "UNKNOWN"
    data["sum"] = proof_cache._sum(data["records"])
    file.write_text(json.dumps(data))
    assert store.get("sha256:00") is None


def test_a_time_out_leaves_nothing_behind(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opwright.verify import safety
    from opwright.verify.context import Context

    op = operator(tmp_path)
    c = candidate(op)
    hurried = replace(Context.of(op), timeout=1e-9, rlimit=1)
    monkeypatch.setattr(importing.Context, "of", lambda op: hurried)
    monkeypatch.setattr(safety, "_FLAT", {})
    found = proofs(op, c, store)
    assert any(r.status == "UNKNOWN" for r in found)
    assert not entries(store)


def test_a_record_of_proofs_asks_everything_itself(tmp_path: Path, store: Store) -> None:
    op = operator(tmp_path)
    c = candidate(op)
    proofs(op, c, store)
    with open_book(Book()) as book:
        found = proofs(op, c, store)
    assert not any(r.cached for r in found)
    assert book.queries and book.programs


def test_a_folder_that_cannot_be_written_to_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "below")
    op = operator(tmp_path)
    assert {r.status for r in proofs(op, candidate(op), store)} == {"PROVED"}


def test_without_a_store_nothing_is_kept(tmp_path: Path) -> None:
    op = operator(tmp_path)
    assert not any(r.cached for r in proofs(op, candidate(op), None))
