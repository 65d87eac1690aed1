"""What is to be proved of a program, and what all collectors of obligations share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from opwright.ir.tile import TileProgram
from opwright.verify.context import Context
from opwright.verify.encode import Encoder, Instance
from opwright.verify.point import Probe
from opwright.verify.solver import Answer
from opwright.verify.terms import Formula
from opwright.verify.walk import Access, Walk

Case = tuple[list[Formula], Formula]  # facts and goal


@dataclass(slots=True)
class Obligation:
    """Something to prove: in each case, under its facts, the goal holds.

    `traps` are the kinds of trap that refute it; `statements` ("kernel.name") are where such a trap
    shows, all of them involved (none: anywhere); `buffers` are those it may speak of (none: any).
    `proposed` marks goals that rest on a proposed witness. `otherwise` are lists of cases each of
    which will do instead, and why; `note` is said of what is proved; `line` is where its
    statement comes from, `says` what fails where it fails, `probe` what to evaluate at a point.
    """

    id: str
    kind: str
    traps: tuple[str, ...]
    cases: list[Case]
    statements: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    proposed: bool = False
    otherwise: list[tuple[list[Case], str]] = field(default_factory=list)
    note: str = ""
    line: str = ""
    says: str = ""
    probe: Probe | None = None
    status: str = ""
    reason: str = ""
    seconds: float = 0.0
    failed: Case | None = None
    answer: Answer | None = None
    decide: Callable[[], tuple[str, str]] | None = None  # status and reason, in place of cases


class Collector:
    """Makes obligations of one program; subclasses know which."""

    def __init__(
        self, program: TileProgram, context: Context, seen: Walk, encoder: Encoder
    ) -> None:
        self.program, self.context, self.seen, self.encoder = program, context, seen, encoder
        self.terms = encoder.terms

    def name(self, gate: str, what: str, launch: int, statement: str) -> str:
        own = statement
        if len(self.program.kernels) > 1 and launch >= 0:
            own = f"{self.program.kernels[launch].name}.{statement}"
        return f"{gate}.{what}.{own}"

    def make(
        self,
        gate: str,
        what: str,
        launch: int,
        name: str,
        traps: tuple[str, ...],
        cases: list[Case],
        *,
        statements: tuple[str, ...] | None = None,
        buffers: tuple[str, ...] = (),
        proposed: bool = False,
        otherwise: list[tuple[list[Case], str]] | None = None,
        note: str = "",
    ) -> Obligation:
        """An obligation; `statements` default to the statement that gave it its name."""
        if statements is None:
            statements = (self.at(launch, name),)
        ident = self.name(gate, what, launch, name)
        out = Obligation(ident, gate, traps, cases, statements, buffers, proposed)
        out.otherwise, out.note = otherwise or [], note
        lines = (self.line(s) for s in statements)
        out.line = ", ".join(dict.fromkeys(x for x in lines if x))
        return out

    def line(self, statement: str) -> str:
        """Where a statement ("kernel.name") of an imported program comes from."""
        kernel, _, name = statement.partition(".")
        for k in self.program.kernels:
            if k.name == kernel:
                return k.lines.get(name, "")
        return ""

    def at(self, launch: int, statement: str) -> str:
        return f"{self.program.kernels[launch].name}.{statement}"

    def meeting(self, u: Access, e1: Instance, w: Access, e2: Instance) -> list[Formula]:
        """Facts of two accesses that touch one element."""
        t, encoder = self.terms, self.encoder
        same = [
            t.eq(encoder.term(i, e1), encoder.term(j, e2))
            for i, j in zip(u.index, w.index, strict=True)
        ]
        masks = [encoder.formula(u.mask, e1), encoder.formula(w.mask, e2)]
        out: dict[Formula, None] = {}
        for f in (*e1.facts, *e2.facts, *same, *masks):
            out |= dict.fromkeys(t.parts(f))
        return list(out)
