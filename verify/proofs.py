"""The record of a proof: every question that was put to a solver, as text, and what stands on it.

A `Book` that is open listens to the prover. Questions are kept as SMT-LIB 2; what is shown without
a solver is kept as an argument, which can only be checked by making it again. A `Rereading` is a
book that answers from an older one: the prover then runs as it did, over the same program, and
what it demands is what it asks now, not what the older book says that it asked.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
HEAD = "(set-logic ALL)\n"
ANSWERS = ("unsat", "sat", "unknown")
STANDS_FOR = {
    "grid": "extents of the grid do not wrap",
    "shape": "extents of the buffer do not wrap",
    "mask": "what decides about the access does not wrap and divides by nothing but positives",
    "wrap": "no integer on the way to it wraps",
    "bounds": "every index that is used is inside its axis",
    "poison": "nothing undefined is stored, reduced, carried or branched on",
    "init": "what is read was written before",
    "flat": "offsets of indices in bounds stay below the element count",
    "view": "the view has the elements of what it views",
    "home": "memory that stands in for scratch is the program's own",
    "deep": "the loop that is entered early reads nothing late",
    "stream": "what is stored past the caches is not read again",
    "uniform": "all lanes take the same way",
    "barriers": "all lanes reach the barrier together",
    "atomic": "atomic updates commute, on a first value that is known",
    "cover": "every element of the output is written",
    "once": "no element is written by two programs with different values",
    "lanes": "no element is written by two lanes with different values",
    "divisor": "what is divided by is positive",
    "assume": "what the text assumes is true",
    "race": "no program touches what another one of its launch writes",
}


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a solver: can these assertions hold together. `seconds` and `rlimit` are what
    the answer took, `purpose` is what an `unsat` or `sat` of it says."""

    text: str
    result: str
    purpose: str
    reason: str = ""
    seconds: float = 0.0
    rlimit: int = 0

    @property
    def digest(self) -> str:
        return digest(self.text)

    def to_json(self) -> dict[str, Any]:
        return {
            "sha256": self.digest,
            "result": self.result,
            "purpose": self.purpose,
            "reason": self.reason,
            "seconds": round(self.seconds, 6),
            "rlimit": self.rlimit,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """What an obligation stands on: a question by its digest, or an argument."""

    query: str = ""
    argument: str = ""

    def to_json(self) -> dict[str, str]:
        return {"query": self.query} if self.query else {"argument": self.argument}


@dataclass(slots=True)
class Entry:
    """One obligation with its steps, in the order in which they were made."""

    id: str
    kind: str
    status: str = ""
    reason: str = ""
    steps: list[Step] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.id, self.kind, self.status)

    def queries(self) -> list[str]:
        return list(dict.fromkeys(s.query for s in self.steps if s.query))

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "reason": self.reason,
            "stands_for": stands_for(self.id),
            "steps": [s.to_json() for s in dict.fromkeys(self.steps)],
        }


def stands_for(ident: str) -> str:
    """What an obligation says, in words, by its name."""
    what = [*ident.split("."), ""][1]
    return STANDS_FOR.get(what, what)


class Book:
    """Keeps what the prover asks and argues while it is open."""

    def __init__(self) -> None:
        self.queries: dict[str, Query] = {}
        self.programs: list[tuple[str, list[Entry]]] = []
        self.entries: list[Entry] = []

    # -- the prover's side
    def program(self, subject: str) -> None:
        """What follows is about another program."""
        self.programs.append((subject, []))

    @contextmanager
    def obligation(self, ident: str, kind: str) -> Iterator[Entry]:
        """Steps that are made inside belong to this obligation."""
        if not self.programs:
            self.program("")
        entry = Entry(ident, kind)
        self.programs[-1][1].append(entry)
        self.entries.append(entry)
        try:
            yield entry
        finally:
            self.entries.pop()

    def step(self, step: Step) -> None:
        if self.entries:
            self.entries[-1].steps.append(step)

    def decide(self, solver: Any, assertions: Sequence[Any], purpose: str) -> tuple[str, str]:
        """(result, why it is unknown) of a z3 solver, kept with its text."""
        text = smt_text(assertions)
        begin, used = time.perf_counter(), _resources(solver)
        add(solver, assertions)
        result = str(solver.check())
        reason = str(solver.reason_unknown()) if result == "unknown" else ""
        spent = time.perf_counter() - begin
        taken = max(0, _resources(solver) - used)
        self.keep(Query(text, result, purpose, reason, spent, taken))
        return result, reason

    def keep(self, query: Query) -> None:
        known = self.queries.get(query.digest)
        if known is None or known.result == "unknown":
            self.queries[query.digest] = query
        self.step(Step(query=query.digest))

    # -- the reader's side
    def to_json(self) -> dict[str, Any]:
        return {
            "programs": [
                {"subject": subject, "obligations": [e.to_json() for e in entries]}
                for subject, entries in self.programs
            ],
            "queries": [q.to_json() for q in self.queries.values()],
        }


class Rereading(Book):
    """A book that answers `unsat` and `unknown` from an older one, by the text of the question.

    What the older one does not have is unknown, and in `missing`. A `sat` is asked again, since
    what comes next depends on the model.
    """

    def __init__(self, known: Mapping[str, Query]) -> None:
        super().__init__()
        self.known = known
        self.missing: dict[str, str] = {}

    def decide(self, solver: Any, assertions: Sequence[Any], purpose: str) -> tuple[str, str]:
        text = smt_text(assertions)
        name = digest(text)
        query = self.known.get(name)
        if query is None:
            self.missing[name] = purpose
            self.step(Step(query=name))
            return "unknown", "the proof file has no such question"
        if query.result == "sat":
            return super().decide(solver, assertions, purpose)
        self.keep(Query(text, query.result, purpose, query.reason, query.seconds, query.rlimit))
        return query.result, query.reason


_book: ContextVar[Book | None] = ContextVar("opwright-proofs", default=None)


@contextmanager
def open_book(book: Book) -> Iterator[Book]:
    """The prover tells this book what it does."""
    token = _book.set(book)
    try:
        yield book
    finally:
        _book.reset(token)


@contextmanager
def unrecorded() -> Iterator[None]:
    """What is asked inside is no part of any proof."""
    token = _book.set(None)
    try:
        yield
    finally:
        _book.reset(token)


def current() -> Book | None:
    """The book that is open, if any."""
    return _book.get()


@contextmanager
def obligation(ident: str, kind: str) -> Iterator[Entry]:
    """Steps made inside are this obligation's; who opened it says what became of it."""
    book = _book.get()
    if book is None:
        yield Entry(ident, kind)
        return
    with book.obligation(ident, kind) as entry:
        yield entry


def decide(solver: Any, assertions: Sequence[Any], purpose: str = "") -> tuple[str, str]:
    """(unsat, sat or unknown; why it is unknown) of what is asserted to a fresh z3 solver.

    Every question that a PROVED of a candidate stands on goes through here, and its text into the
    book that is open.
    """
    book = _book.get()
    if book is not None:
        return book.decide(solver, assertions, purpose)
    add(solver, assertions)
    result = str(solver.check())
    return result, str(solver.reason_unknown()) if result == "unknown" else ""


@contextmanager
def steps() -> Iterator[list[Step]]:
    """The steps that are made inside, for whoever makes use of them again."""
    made: list[Step] = []
    book = _book.get()
    if book is None or not book.entries:
        yield made
        return
    own = book.entries[-1].steps
    before = len(own)
    yield made
    made += own[before:]


def again(made: Iterable[Step]) -> None:
    """Steps of before that what is done now stands on, too."""
    book = _book.get()
    if book is not None:
        for step in made:
            book.step(step)


def add(solver: Any, assertions: Iterable[Any]) -> None:
    """Assert boolean terms; `Solver.add` casts each of them first, which takes longer than what it
    does."""
    from z3 import Z3_solver_assert

    context, own = solver.ctx.ref(), solver.solver
    for e in assertions:
        Z3_solver_assert(context, own, e.as_ast())


def argue(text: str) -> None:
    """A step that no solver is needed for; whoever checks the record makes it again."""
    book = _book.get()
    if book is not None:
        book.step(Step(argument=text))


def smt_text(assertions: Sequence[Any]) -> str:
    """Assertions as SMT-LIB 2, in their order; equal for equal ones, in whichever process.

    (A solver prints its own assertions as it has rewritten them, with numbers that depend on all
    that it was asked before.)
    """
    import z3

    uninterpreted = z3.Z3_OP_UNINTERPRETED
    declared: dict[str, str] = {}
    seen: set[int] = set()
    todo = list(assertions)
    while todo:
        e = todo.pop()
        if e.get_id() in seen:
            continue
        seen.add(e.get_id())
        found = e.children()
        todo += found
        d = e.decl()
        if d.kind() == uninterpreted:
            inside = [d.domain(n).sexpr() for n in range(d.arity())]
            name = e.sexpr() if not found else _quoted(d.name())
            head = f"fun {name} ({' '.join(inside)})" if inside else f"const {name}"
            declared[name] = f"(declare-{head} {d.range().sexpr()})"
    lines = [text for _, text in sorted(declared.items())]
    lines += [f"(assert {e.sexpr()})" for e in assertions]
    return HEAD + "\n".join(lines) + "\n(check-sat)\n"


def _quoted(name: str) -> str:
    """A symbol as SMT-LIB writes it."""
    simple = re.fullmatch(r"[A-Za-z~!@$%^&*_+=<>.?/-][\w~!@$%^&*+=<>.?/-]*", name, re.ASCII)
    return name if simple else f"|{name}|"


def _resources(solver: Any) -> int:
    """z3's own count of steps so far."""
    try:
        return int(solver.statistics().get_key_value("rlimit count"))
    except Exception as e:  # a z3.Z3Exception where nothing was counted yet
        if type(e).__name__ != "Z3Exception":
            raise
        return 0
