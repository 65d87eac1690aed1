"""The ledger of a search: an append-only chain of everything that happened, by content hash.

It lies in the archive's file. An entry's hash covers its content and the hash of the entry before,
so that nothing can be changed, removed or put in between unseen; the database refuses updates and
deletions of its own. Texts are kept once, under the hash of their content.

Kinds: `command` (what was asked for), `operator` (what it is and costs at its workloads),
`request` and `answer` (to and from a proposer), `verdict`, `timing`, `confirmation`, `finished`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = (
    "command",
    "operator",
    "request",
    "answer",
    "verdict",
    "timing",
    "confirmation",
    "finished",
)
FIRST = "sha256:" + "0" * 64  # what the first entry follows

TABLES = """
create table texts (
    hash text primary key,
    text text not null
) without rowid;
create table ledger (
    id integer primary key,
    run integer not null,
    kind text not null,
    body text not null,
    at real not null,
    previous text not null unique,
    hash text not null unique
);
create index ledger_run on ledger (run, kind);
create trigger ledger_is_not_changed before update on ledger
    begin select raise(abort, 'the ledger is append-only'); end;
create trigger ledger_is_not_shortened before delete on ledger
    begin select raise(abort, 'the ledger is append-only'); end;
create trigger texts_are_not_changed before update on texts
    begin select raise(abort, 'texts are kept by their hash'); end;
create trigger texts_are_not_removed before delete on texts
    begin select raise(abort, 'texts are kept by their hash'); end;
"""


def statements(script: str) -> list[str]:
    """The statements of a script; a trigger's body has a semicolon of its own."""
    out: list[str] = []
    text = ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            out.append(text.strip())
            text = ""
    return [s for s in out if s]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger; `at` is in seconds since 1970."""

    id: int
    run: int
    kind: str
    body: Mapping[str, Any]
    at: float
    previous: str
    hash: str

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "run": self.run,
            "kind": self.kind,
            "at": self.at,
            "previous": self.previous,
            "hash": self.hash,
            "body": dict(self.body),
        }


def digest(text: str) -> str:
    """The name of a text: the hash of its content."""
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def link(previous: str, run: int, kind: str, body: str, at: float) -> str:
    """The hash of an entry; `body` is its JSON as it is stored."""
    return digest(json.dumps([previous, run, kind, body, repr(at)]))


def append(db: sqlite3.Connection, run: int, kind: str, body: Mapping[str, Any]) -> str:
    """Add an entry within the caller's transaction; its hash."""
    if kind not in KINDS:
        raise ValueError(f"there is no kind of entry {kind!r}")
    row = db.execute("select hash from ledger order by id desc limit 1").fetchone()
    previous = str(row[0]) if row else FIRST
    text = json.dumps(body, sort_keys=True, default=str)
    at = time.time()
    made = link(previous, run, kind, text, at)
    db.execute(
        "insert into ledger (run, kind, body, at, previous, hash) values (?, ?, ?, ?, ?, ?)",
        (run, kind, text, at, previous, made),
    )
    return made


def keep(db: sqlite3.Connection, text: str) -> str:
    """Store a text within the caller's transaction; its name."""
    name = digest(text)
    clean = text.encode("utf-8", "replace").decode("utf-8")
    db.execute("insert or ignore into texts (hash, text) values (?, ?)", (name, clean))
    return name


def kept(db: sqlite3.Connection, name: str) -> str | None:
    """The text of that name, None where there is none."""
    row = db.execute("select text from texts where hash = ?", (name,)).fetchone()
    return str(row[0]) if row else None


def entries(db: sqlite3.Connection, run: int | None = None, kind: str = "") -> list[Entry]:
    """Entries in order, of one run or kind where they are given."""
    where = "where (? is null or run = ?) and (? = '' or kind = ?)"
    rows: Iterable[Any] = db.execute(
        f"select id, run, kind, body, at, previous, hash from ledger {where} order by id",
        (run, run, kind, kind),
    )
    return [Entry(r[0], r[1], r[2], json.loads(r[3]), r[4], r[5], r[6]) for r in rows]


def broken(db: sqlite3.Connection) -> str:
    """What is wrong with the chain or with a text; empty where all is as it was written."""
    previous = FIRST
    rows = db.execute("select id, run, kind, body, at, previous, hash from ledger order by id")
    for ident, run, kind, body, at, before, found in rows:
        if before != previous:
            return f"entry {ident} does not follow the one before it"
        if link(before, run, kind, body, at) != found:
            return f"entry {ident} is not what was written"
        previous = found
    for name, text in db.execute("select hash, text from texts order by hash"):
        if digest(text) != name:
            return f"the text {name[:19]} is not what was written"
    return ""
