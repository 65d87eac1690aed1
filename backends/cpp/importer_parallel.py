"""`omp parallel for` in a kernel: its trips are programs of their own.

Read so, whatever two trips do to one element is a race of programs. What stands before the loop is
done by every program, so it may not write, nor read what is written. A kernel with several such
loops, or with writes outside of one, is as many launches, if its grid is one program.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from opwright.backends.cpp.clang import Node
from opwright.backends.cpp.importer_functions import Functions
from opwright.backends.cpp.importer_loops import Counter, times_of
from opwright.backends.cpp.importer_trips import Trip, most
from opwright.backends.cpp.importer_values import C, Place
from opwright.ir.expr import ONE, ZERO, Expr, call, leaves, pid

DIMENSIONS = 3  # of a grid


class Several(Exception):
    """A kernel with a parallel loop that is several launches: the number of its parts."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count


class ParallelLoops(Functions):
    """Reads parallel loops; `part` is what is read of a kernel that is several launches."""

    part: int | None = None
    count = 0  # of parallel loops that were read

    @abstractmethod
    def for_loop(self, s: Node) -> None:
        """A loop."""

    def kernel_body(self, body: list[Node]) -> None:
        """The statements of a kernel; of one in parts those of one part, and the values of the
        others."""
        parts = _parts(body)
        if self.part is None:
            self.block(body)
        else:
            for n, own in enumerate(parts):
                self.muted = n != self.part
                if self.muted and _dealt(own[0]):
                    self.forget_assigned(own[0])
                else:
                    self.block(own)
            self.muted = False
        if self.part is None and self.count and (self.count > 1 or self.written_outside):
            raise Several(len(parts))
        if (self.count or self.part is not None) and self.read_outside & self.written:
            raise self.refuse("what is read before a parallel loop is written by it")

    def forget_assigned(self, s: Node) -> None:
        """What a loop of another part assigned is not known here."""
        for v in self.moves(s):
            if v in self.env and not isinstance(self.env[v].what, Place):
                self.env[v] = C(self.env[v].type, None)

    def reducing_loop(self, c: Counter, body: list[Node], s: Node) -> None:
        """A loop whose trips only reduce: the order in which they run changes roundings alone."""
        deal = s.attr
        own = {v for v, title in self.titles.items() if title in deal.private}
        into = {v for v, title in self.titles.items() if title in deal.reduced}
        shared = [v for v in self.moves(*body) & set(self.env) if v not in own | into]
        if shared or deal.loops > 1 or into & own:
            name = self.titles.get(shared[0], "a variable") if shared else "what they reduce"
            raise self.refuse(f"trips of a parallel loop share {name}, which they assign", s.line)
        for v in own & set(self.env):
            self.env[v] = C(self.env[v].type, None)
        before, self.reducing = self.reducing, True
        self.counted_loop(c, body, s.line)
        self.reducing = before

    @abstractmethod
    def counted_loop(self, c: Counter, body: list[Node], line: int) -> None:
        """A loop with a counter in closed form."""

    def parallel_loop(self, c: Counter, body: list[Node], s: Node) -> None:
        """A dimension of the grid in the place of a loop."""
        deal = s.attr
        if self.trips or self.calls:
            raise self.refuse("a parallel loop inside another loop or function", s.line)
        own = {v for v, title in self.titles.items() if title in deal.private}
        shared = [v for v in self.moves(*body) & set(self.env) if v not in own | {c.variable}]
        if shared and (name := self.titles.get(shared[0])):
            raise self.refuse(
                f"the trips of a parallel loop share {name}, which they assign", s.line
            )
        if deal.loops > 1 and (len(body) != 1 or body[0].op != "for"):
            raise self.refuse("collapsed loops with something between them", s.line)
        trips = times_of(c, self.natural)
        grid = () if all(n is ONE for n in self.k.grid) else self.k.grid
        around = [Trip(pid(d), ZERO, n) for d, n in enumerate(grid)]
        here = pid(len(grid))
        count = most(Trip(here, ZERO, trips), around) if leaves(trips, "pid") else trips
        if count is None or leaves(count, "var", "value", "pid") or len(grid) >= DIMENSIONS:
            raise self.refuse("a parallel loop whose trips are no dimension of a grid", s.line)
        self.k.grid = (*grid, count)
        self.bounds[here] = (0, max(self.interval(count)[1] - 1, 0))
        before, dealt = dict(self.env), self.dealing
        inside = call("lt", here, trips)

        def trip() -> None:
            with self.scope():
                for v in own & set(self.env):
                    self.env[v] = C(self.env[v].type, None)
                self.counter_fits(c, c.at(here), c.at(here + 1))
                self.env[c.variable] = C(c.type, c.holds(c.at(here)))
                if deal.loops > 1:
                    inner = Node("for", s.type, body[0].args, deal.inner, body[0].line)
                    self.for_loop(inner)
                else:
                    self.block(body)

        self.dealing, self.count = True, self.count + (not dealt)
        if count is trips:
            trip()
        else:
            self.k.branch(inside, trip)
        self.dealing = dealt
        self.env = before
        for v in own | {c.variable}:
            if v in self.env:
                self.env[v] = C(self.env[v].type, None)

    @abstractmethod
    def counter_fits(self, c: Counter, now: Expr, following: Expr) -> None:
        """The counter after a trip keeps within its type."""


def _parts(body: Sequence[Node]) -> list[list[Node]]:
    """The statements of a kernel, each parallel loop apart."""
    out: list[list[Node]] = []
    for s in body:
        if _dealt(s) or not out or _dealt(out[-1][0]):
            out.append([])
        out[-1].append(s)
    return out


def _dealt(s: Node) -> bool:
    return s.op == "for" and s.attr is not None and not s.attr.reduced
