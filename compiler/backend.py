"""What a backend is to the pipeline: it searches one binding of an operator and says what ships.

`compile_spec` knows specs, bindings and packages; a `Backend` knows which candidates there are, how
they are judged, and whether their times are measured or modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from opwright.compiler.package_spec import PackagedVariant, ReferenceCase
from opwright.compiler.timing import Baselines, Row
from opwright.ir.op import Operator
from opwright.search.events import Choice, Event, SearchResult
from opwright.search.propose import Proposal, Proposer, View
from opwright.search.run import Budget
from opwright.search.space import Space, parse
from opwright.verify.inputs import KEPT, Case
from opwright.verify.numeric import Bound

KEPT_CASES = 8  # recorded cases in the smoke tests of a package
CARRIED = 1  # schedules tried at a binding that was not searched, besides candidate 0


class CompileError(Exception):
    """The compile cannot go on; `cure` is what the user can do."""

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure


class Refused(CompileError):
    """No candidate passed the gates: the answer is no, with reasons."""


@dataclass(frozen=True, slots=True, eq=False)
class Effort:
    """How hard to look at one binding. `primary` is the binding that is searched; at the others
    `proposer` brings what won there. `more` are spaces beside the backend's own; `searched` hears
    of the result before anything is built of it; `command` is what was asked for, for the ledger.
    `executor` says where candidates are judged: local | ray.
    """

    budget: Budget
    seed: int
    require: str
    primary: bool = True
    proposer: Proposer | None = None
    progress: Callable[[Event], None] | None = None
    baselines: Baselines | None = None
    more: tuple[Space, ...] = ()
    searched: Callable[[SearchResult], None] | None = None
    command: Mapping[str, Any] | None = None
    executor: str = "local"
    spec: tuple[str, str] = ("", "")  # the text that the operator is from, and its file


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The search at one binding of the types, and what its candidates were judged with.

    `serving` names the variant that each workload takes; `resources` are what compilers report of
    the winner, by target; `unrun` says what was not executed, and why; `modelled` are times that
    nobody measured. `schedules` are those that ship where they are more than the winner's.
    """

    op: Operator
    result: SearchResult
    variants: tuple[PackagedVariant, ...]
    cases: tuple[ReferenceCase, ...]
    rows: tuple[Row, ...]
    serving: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unrun: tuple[str, ...] = ()
    modelled: tuple[Mapping[str, Any], ...] = ()
    schedules: tuple[str, ...] = ()


class Backend(Protocol):
    """A way from an operator to a package. Methods raise CompileError, Refused, BuildError."""

    @property
    def name(self) -> str:
        """cpp | triton | jax"""
        ...

    @property
    def targets(self) -> tuple[str, ...]:
        """What the candidates are compiled for, as the command line names it."""
        ...

    def prepare(self) -> None:
        """CompileError when a tool that this needs is missing; before any work is done."""
        ...

    def compile(self, op: Operator, effort: Effort) -> Found: ...

    def machine(self) -> Mapping[str, Any]:
        """What times belong to."""
        ...

    def identity(self, op: Operator) -> str:
        """The compiler that candidates were made with."""
        ...


@dataclass(frozen=True, slots=True)
class Carried:
    """Proposes what won elsewhere, then the preferred schedules."""

    schedules: tuple[str, ...]

    @property
    def name(self) -> str:
        return "carried"

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        known = {s.name for s in view.spaces}
        wanted = [parse(t) for t in self.schedules]
        wanted = [s for s in wanted if s.strategy in known]
        wanted += [s for space in view.spaces[1:] for s in space.preferred()[:1]]
        fresh = [s for s in dict.fromkeys(wanted) if s.text not in view.tried]
        return [Proposal(s, "carried") for s in fresh[:count]]


def carry(first: Found, effort: Effort) -> Effort:
    """The effort at a binding that is not searched: candidate 0 and what won elsewhere."""
    found = (first.result.winner, first.result.general)
    won = [*(c.schedule.text for c in found if c is not None), *first.schedules]
    won = list(dict.fromkeys(won))
    budget = Budget(1 + max(CARRIED, len(won)), effort.budget.seconds)
    return Effort(budget, effort.seed, effort.require, False, Carried(tuple(won)), effort.progress)


def ships(result: SearchResult) -> list[tuple[str, Choice]]:
    """What goes into a package, in order of dispatch: the winner, the best candidate that asks for
    dense arrays only, candidate 0; each program once."""
    assert result.baseline is not None
    chosen = [("winner", result.winner), ("dense", result.general)]
    out = [("candidate0", result.baseline)]
    for label, c in reversed(chosen):
        if c is not None and all(c.candidate.program != o.candidate.program for _, o in out):
            out.insert(0, (label, c))
    return out


def refusal(op: Operator, result: SearchResult) -> Refused:
    """Why nothing ships: the reasons of the first candidates that failed."""
    bad = [r for r in result.table if r["status"] != "ok"]
    reasons = [f"{r['schedule']}: {r['status']}: {r['reason']}" for r in bad]
    missing = "no candidate" if result.baseline is None else "no candidate that takes every call"
    message = f"{op.name}: {missing} passed the gates\n" + "\n".join(reasons[:8])
    return Refused(message, "read the reasons above; `opwright show` prints them")


def reference_cases(
    op: Operator, cases: Sequence[Case], bound: Callable[[Case], Mapping[str, Bound]]
) -> tuple[ReferenceCase, ...]:
    """A few small generated cases with their reference values and tolerances, for the smoke
    tests."""
    small = sorted((c for c in cases if not c.special and not c.hard), key=_elements)
    picked = [c for c in small if _elements(c) > 0 and c.family != KEPT][:3]
    picked += [c for c in small if c.family == KEPT][:KEPT_CASES]
    out = []
    for n, c in enumerate(picked):
        bounds = bound(c)
        tolerance = {}
        for t in op.outputs:
            rule = op.tolerance.get(t.dtype.name, {})
            allowed = bounds[t.name].allowed
            worst = float(allowed.max()) if allowed is not None and allowed.size else 0.0
            rel = float(rule.get("rel", 0.0))
            tolerance[t.name] = (max(float(rule.get("abs", 0.0)), 0.0 if rule else worst), rel)
        expected = {t.name: bounds[t.name].reference for t in op.outputs}
        out.append(
            ReferenceCase(
                f"case{n}", dict(c.sizes), dict(c.params), dict(c.inputs), expected, tolerance
            )
        )
    return tuple(out)


def _elements(c: Case) -> int:
    return sum(int(a.size) for a in c.inputs.values())
