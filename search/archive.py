"""The archive of a search: one SQLite file per operator, types and target; nothing evaluated is
lost.

Every candidate is one transaction, so that the file is usable after a kill at any moment. The
archive holds facts only (what was proposed, what came of it); scores and winners are computed by
readers. What is written is also an entry of the ledger (`search/ledger.py`) in the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opwright.ir.record import Record
from opwright.search import ledger
from opwright.search.ledger import Entry

SCHEMA = 2
APPLICATION = 0x4F505752  # "OPWR" in the file's header: tells a foreign database from ours

_TABLES = """
create table meta (key text primary key, value text not null) without rowid;
create table runs (
    id integer primary key,
    seed integer not null,
    settings text not null,
    context text not null,
    started real not null,
    finished real,
    outcome text,
    unique (seed, settings, context)
);
create table candidates (
    id integer primary key,
    run integer not null references runs (id),
    number integer not null,
    generation integer not null,
    schedule text not null,
    program text not null,
    source text not null,
    status text not null,
    reason text not null,
    records text not null,
    build text not null,
    metrics text not null,
    origin text not null,
    parent integer,
    context text not null,
    at real not null,
    unique (run, number)
);
create index candidates_program on candidates (context, program);
create table confirmations (
    id integer primary key,
    run integer not null references runs (id),
    number integer not null,
    metrics text not null,
    at real not null
);
"""


class ArchiveError(RuntimeError):
    """The archive cannot be used; the message says what is wrong with which file and what to do."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One evaluated proposal. `metrics`: workload -> metric -> value in SI base units.

    status: ok | illegal | duplicate | refuted | unproved | unbuilt | crashed | timeout | wrong |
    slow. `program` and `source` are digests, empty when the candidate did not get that far;
    `records` are the gates'; `parent` is the number of the candidate that
    this one varies.
    """

    number: int
    generation: int
    schedule: str
    status: str
    reason: str = ""
    program: str = ""
    source: str = ""
    records: tuple[Record, ...] = ()
    build: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    origin: str = ""
    parent: int | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def archive_path(folder: Path, operator: str, types: Mapping[str, str], target: str) -> Path:
    """The file of an operator at one binding of its types on one target (`operator` is
    name@version).
    """
    key = json.dumps([operator, sorted(types.items()), target])
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in operator)
    return folder / f"{safe}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.sqlite"


def _record(x: Mapping[str, Any]) -> Record:
    return Record(**{**x, "assumptions": tuple(x["assumptions"])})


class Archive:
    """An open archive; use it as a context manager. `subject` names what the file is about.

    A file of another subject, another schema, or no archive at all is an ArchiveError; nothing is
    ever deleted or repaired silently. Path ":memory:" keeps nothing.
    """

    def __init__(self, path: Path | str, subject: str = "") -> None:
        self.path = path
        if str(path) != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        except sqlite3.Error as e:
            raise self._broken(str(e)) from None
        try:
            self._open(subject)
        except sqlite3.DatabaseError as e:
            self._db.close()
            raise self._broken(str(e)) from None
        except ArchiveError:
            self._db.close()
            raise

    def _broken(self, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self.path} is not a usable archive: {what}. Move the file away (nothing is deleted "
            "for you) and run again to start a new one."
        )

    def _open(self, subject: str) -> None:
        self._db.execute("pragma busy_timeout = 30000")
        tables = self._db.execute("select count(*) from sqlite_master").fetchone()[0]
        application = self._db.execute("pragma application_id").fetchone()[0]
        version = self._db.execute("pragma user_version").fetchone()[0]
        if tables == 0 and application == 0:
            self._create(subject)
            return
        if application != APPLICATION:
            raise self._broken("it is a database of another program")
        if version == 1:
            self._add_ledger()
        elif version != SCHEMA:
            raise ArchiveError(
                f"{self.path} has schema {version}, this version reads {SCHEMA}. Export it with "
                "the version that wrote it, or move it away to start a new one."
            )
        check = self._db.execute("pragma quick_check(1)").fetchone()[0]
        if check != "ok":
            raise self._broken(str(check))
        held = dict(self._db.execute("select key, value from meta")).get("subject", "")
        if subject and held != subject:
            raise ArchiveError(
                f"{self.path} is the archive of {held}, not of {subject}. Choose another cache "
                "folder or move the file away."
            )
        self._db.execute("pragma synchronous = normal")

    def _create(self, subject: str) -> None:
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        with self._transaction():
            # another process may have created it between our look and this lock
            if self._db.execute("select count(*) from sqlite_master").fetchone()[0]:
                return
            for statement in ledger.statements(_TABLES + ledger.TABLES):
                self._db.execute(statement)
            self._db.execute("insert into meta values ('subject', ?)", (subject,))
            self._db.execute("insert into meta values ('created', ?)", (str(time.time()),))
            self._db.execute(f"pragma application_id = {APPLICATION}")
            self._db.execute(f"pragma user_version = {SCHEMA}")

    def _add_ledger(self) -> None:
        """A file of schema 1 has no ledger: it begins now."""
        with self._transaction():
            if self._db.execute("pragma user_version").fetchone()[0] == 1:
                for statement in ledger.statements(ledger.TABLES):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version = {SCHEMA}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # -- writing ----------------------------------------------------------------------------------

    def run(self, seed: int, settings: Mapping[str, Any], context: str) -> int:
        """The id of the run with this seed, settings and context: the old one, or a new one."""
        text = json.dumps(settings, sort_keys=True)
        key = (seed, text, context)
        where = "select id from runs where seed = ? and settings = ? and context = ?"
        with self._transaction():
            row = self._db.execute(where, key).fetchone()
            if row is None:
                self._db.execute(
                    "insert into runs (seed, settings, context, started) values (?, ?, ?, ?)",
                    (*key, time.time()),
                )
                row = self._db.execute(where, key).fetchone()
        return int(row[0])

    def log(self, run: int, kind: str, body: Mapping[str, Any]) -> str:
        """Add an entry to the ledger; its hash. Kinds are those of `search/ledger.py`."""
        with self._transaction():
            return ledger.append(self._db, run, kind, body)

    def keep(self, text: str) -> str:
        """Keep a text by its hash, which is what entries name it by."""
        with self._transaction():
            return ledger.keep(self._db, text)

    def add(
        self, run: int, c: Candidate, context: str, texts: Mapping[str, str] | None = None
    ) -> None:
        """Keep a candidate with its texts by file name; the first record of a (run, number) wins,
        so that a repeat is harmless.
        """
        with self._transaction():
            made = self._db.execute(
                "insert or ignore into candidates (run, number, generation, schedule, program,"
                " source, status, reason, records, build, metrics, origin, parent, context, at)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run,
                    c.number,
                    c.generation,
                    c.schedule,
                    c.program,
                    c.source,
                    c.status,
                    c.reason,
                    json.dumps([r.to_json() for r in c.records]),
                    json.dumps(dict(c.build)),
                    json.dumps(c.metrics),
                    c.origin,
                    c.parent,
                    context,
                    time.time(),
                ),
            )
            if made.rowcount != 1:
                return
            names = {name: ledger.keep(self._db, text) for name, text in (texts or {}).items()}
            verdict = {
                "number": c.number,
                "schedule": c.schedule,
                "origin": c.origin,
                "parent": c.parent,
                "status": c.status,
                "reason": c.reason,
                "program": c.program,
                "texts": names,
                "records": [r.to_json() for r in c.records],
                "build": dict(c.build),
                "context": context,
            }
            ledger.append(self._db, run, "verdict", verdict)
            if c.metrics:
                timing = {"number": c.number, "metrics": c.metrics}
                ledger.append(self._db, run, "timing", timing)

    def confirm(self, run: int, number: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Keep what a confirmation measured of a candidate."""
        with self._transaction():
            self._db.execute(
                "insert into confirmations (run, number, metrics, at) values (?, ?, ?, ?)",
                (run, number, json.dumps(metrics), time.time()),
            )
            body = {"number": number, "metrics": metrics}
            ledger.append(self._db, run, "confirmation", body)

    def finish(self, run: int, outcome: Mapping[str, Any]) -> None:
        """Say how a run ended: {"outcome": "finished" | "stopped", "winner": number}."""
        with self._transaction():
            self._db.execute(
                "update runs set finished = ?, outcome = ? where id = ?",
                (time.time(), json.dumps(outcome), run),
            )
            ledger.append(self._db, run, "finished", outcome)

    # -- reading ----------------------------------------------------------------------------------

    _COLUMNS = (
        "number, generation, schedule, status, reason, program, source, records, build, metrics,"
        " origin, parent"
    )

    def _candidates(self, where: str, values: Sequence[Any]) -> list[Candidate]:
        rows = self._db.execute(f"select {self._COLUMNS} from candidates {where}", values)
        return [
            Candidate(
                number=r[0],
                generation=r[1],
                schedule=r[2],
                status=r[3],
                reason=r[4],
                program=r[5],
                source=r[6],
                records=tuple(_record(x) for x in json.loads(r[7])),
                build=json.loads(r[8]),
                metrics=json.loads(r[9]),
                origin=r[10],
                parent=r[11],
            )
            for r in rows
        ]

    def candidates(self, run: int) -> list[Candidate]:
        """All candidates of a run in order of their numbers."""
        return self._candidates("where run = ? order by number", (run,))

    def known(self, program: str, context: str) -> Candidate | None:
        """The first candidate of any run with this program and context that is no mere
        duplicate.
        """
        found = self._candidates(
            "where program = ? and context = ? and status not in ('duplicate', 'illegal')"
            " order by id limit 1",
            (program, context),
        )
        return found[0] if found else None

    @property
    def subject(self) -> str:
        """What the file is about."""
        row = self._db.execute("select value from meta where key = 'subject'").fetchone()
        return str(row[0]) if row else ""

    def ledger(self, run: int | None = None, kind: str = "") -> list[Entry]:
        """Entries of the ledger in order, of one run or kind where they are given."""
        return ledger.entries(self._db, run, kind)

    def broken(self) -> str:
        """What is wrong with the ledger; empty where every entry is as it was written."""
        return ledger.broken(self._db)

    def text(self, name: str) -> str | None:
        """A text by its hash."""
        return ledger.kept(self._db, name)

    def texts(self, run: int, number: int) -> dict[str, str]:
        """The texts of a candidate by file name; those of its twin where it is one."""
        own: dict[str, str] = {}
        program = ""
        for e in ledger.entries(self._db, run, "verdict"):
            if e.body["number"] == number:
                own, program = dict(e.body["texts"]), str(e.body["program"])
        if not own and program:
            for e in ledger.entries(self._db, None, "verdict"):
                if e.body["program"] == program and e.body["texts"]:
                    own = dict(e.body["texts"])
                    break
        return {name: ledger.kept(self._db, h) or "" for name, h in own.items()}

    def runs(self) -> list[dict[str, Any]]:
        """All runs: id, seed, settings, context, started, finished, outcome, number of
        candidates.
        """
        rows = self._db.execute(
            "select id, seed, settings, context, started, finished, outcome,"
            " (select count(*) from candidates where run = runs.id) from runs order by id"
        )
        return [
            {
                "id": r[0],
                "seed": r[1],
                "settings": json.loads(r[2]),
                "context": r[3],
                "started": r[4],
                "finished": r[5],
                "outcome": json.loads(r[6]) if r[6] else None,
                "candidates": r[7],
            }
            for r in rows
        ]

    def confirmations(self, run: int) -> dict[int, Mapping[str, Mapping[str, float]]]:
        """The latest confirmed metrics by candidate number."""
        rows = self._db.execute(
            "select number, metrics from confirmations where run = ? order by id", (run,)
        )
        return {r[0]: json.loads(r[1]) for r in rows}

    def best(self, run: int, count: int = 1, metric: str = "latency") -> list[Candidate]:
        """The candidates with the smallest geometric mean of a metric over workloads, best
        first.
        """

        def mean(c: Candidate) -> float:
            values = [w[metric] for w in c.metrics.values() if metric in w]
            product = 1.0
            for v in values:
                product *= max(v, 1e-12) ** (1 / len(values))
            return product if values else float("inf")

        return sorted((c for c in self.candidates(run) if c.ok), key=mean)[:count]

    def table(self, run: int) -> list[dict[str, Any]]:
        """One flat row a candidate, for display."""
        confirmed = self.confirmations(run)
        out = []
        for c in self.candidates(run):
            row: dict[str, Any] = {
                "number": c.number,
                "schedule": c.schedule,
                "status": c.status,
                "reason": c.reason,
                "origin": c.origin,
                "parent": c.parent,
                "confirmed": c.number in confirmed,
            }
            metrics = confirmed.get(c.number, c.metrics)
            for workload, values in metrics.items():
                row |= {f"{workload}.{name}": v for name, v in values.items()}
            out.append(row)
        return out

    def export(self, path: Path) -> int:
        """Write everything as JSON lines (the archive, runs with their candidates, the ledger, its
        texts); lines written.
        """
        meta = dict(self._db.execute("select key, value from meta"))
        lines: list[dict[str, Any]] = [{"kind": "archive", "schema": SCHEMA, **meta}]
        for r in self.runs():
            lines.append({"kind": "run", **r})
            for c in self.candidates(r["id"]):
                found = {**asdict(c), "records": [x.to_json() for x in c.records]}
                lines.append({"kind": "candidate", "run": r["id"], **found})
            for n, m in self.confirmations(r["id"]).items():
                lines.append({"kind": "confirmation", "run": r["id"], "number": n, "metrics": m})
        entries = self.ledger()
        lines += [{"entry": e.to_json(), "kind": "ledger"} for e in entries]
        named = self._db.execute("select hash, text from texts order by hash")
        lines += [{"kind": "text", "hash": h, "text": t} for h, t in named]
        temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
        try:
            temporary.write_text("".join(json.dumps(x) + "\n" for x in lines))
            temporary.replace(path)
        except OSError as e:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise OSError(e.errno, e.strerror, str(path)) from None
        return len(lines)
