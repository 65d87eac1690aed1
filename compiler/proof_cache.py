"""Proofs that were made before, by content: what is kept, where, and what it may stand in for.

The key is all that a proof depends on: the text, the plan, the spec's meaning, the program that was
read with its facts and limits, the verifier's own sources and z3's version. Only PROVED and REFUTED
are kept: an UNKNOWN may be one of a busy machine. Who may write to the cache folder may write
there what they like, as in every compiler's cache; a proof record (`--proofs`) never rests on it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opwright.compiler.candidates import Candidate
from opwright.compiler.paths import cache_folder
from opwright.ir.expr import show
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import show_program
from opwright.verify import proofs
from opwright.verify.context import Context
from opwright.verify.identity import hashed, plan_digest, spec_digest, verifier_digest

FORMAT = 1
KEPT = ("PROVED", "REFUTED")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of entries, one file each."""

    folder: Path

    def get(self, key: str) -> list[Record] | None:
        """The records of a key; None for none, and for what is no whole entry of that key."""
        try:
            data = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("key") != key:
            return None
        listed = data.get("records")
        if not isinstance(listed, list) or data.get("sum") != _sum(listed):
            return None
        try:
            found = [_record(x) for x in listed]
        except (TypeError, ValueError, KeyError):
            return None
        return found if found and all(r.status in KEPT for r in found) else None

    def put(self, key: str, records: Sequence[Record]) -> None:
        """Keep records, whole or not at all; a folder that cannot be written to keeps nothing."""
        if not records or any(r.status not in KEPT for r in records):
            return
        listed = json.loads(json.dumps([r.to_json() for r in records]))
        data = {"format": FORMAT, "key": key, "sum": _sum(listed), "records": listed}
        file = self._file(key)
        name = ""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=file.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as f:
                json.dump(data, f)
            os.replace(name, file)
        except OSError:
            with contextlib.suppress(OSError):
                if name:
                    os.unlink(name)

    def _file(self, key: str) -> Path:
        name = key.removeprefix("sha256:")
        return self.folder / name[:2] / f"{name}.json"


def _sum(listed: Sequence[Any]) -> str:
    return hashed(json.dumps(listed, sort_keys=True))


def _record(x: Mapping[str, Any]) -> Record:
    return Record(**{**x, "assumptions": tuple(x["assumptions"]), "cached": True})


@dataclass(frozen=True, slots=True)
class _About:
    store: Store
    key: str


_store: ContextVar[Store | None] = ContextVar("opwright-proof-store", default=None)
_about: ContextVar[_About | None] = ContextVar("opwright-proof-about", default=None)


def default_store() -> Store:
    return Store(cache_folder() / "proofs")


@contextmanager
def remembering(store: Store | None) -> Iterator[None]:
    """Static gates inside use this store, or none."""
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)


@contextmanager
def about(c: Candidate, op: Operator) -> Iterator[None]:
    """Proofs inside are about this candidate."""
    store = _store.get()
    if store is None or proofs.current() is not None:
        token = _about.set(None)
    else:
        own = verifier_digest(c.plan.backend)
        z3 = importlib.metadata.version("z3-solver")
        parts = (c.source, plan_digest(c.plan), spec_digest(op), own, z3)
        token = _about.set(_About(store, hashed(*parts)))
    try:
        yield
    finally:
        _about.reset(token)


def remembered(
    what: str,
    program: TileProgram,
    context: Context | None,
    make: Callable[[], list[Record]],
) -> list[Record]:
    """What `make` returns, from the store where it has it."""
    where = _about.get()
    if where is None:
        return make()
    facts = [show(f) for f in program.facts]
    lines = [str(sorted(k.lines.items())) for k in program.kernels]
    key = hashed(
        what, where.key, show_program(program), *program.assumes, "", *facts, "", *lines,
        _said(context),
    )  # fmt: skip
    found = where.store.get(key)
    if found is None:
        found = make()
        where.store.put(key, [replace(r, cached=False) for r in found])
    return found


def _said(context: Context | None) -> str:
    """What may be assumed, but for the effort: more of it never makes a proof wrong."""
    if context is None:
        return ""
    facts = [show(f) for f in context.facts]
    requires = [
        c.name + ": " + (show(c.expr) if c.expr is not None else "") for c in context.requires
    ]
    limits = [context.dim_limit, context.param_limit, context.element_limit, context.replay]
    return json.dumps([facts, requires, limits])
