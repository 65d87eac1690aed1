"""Walks a tile program once: accesses, loops, and where a value must not be poison."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from opwright.ir.expr import TRUE, Expr, call, conjunction, conjuncts, leaf, leaves, substitute
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Buffer,
    Check,
    Def,
    For,
    If,
    Kernel,
    Load,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    lanes,
)


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One step of the way to a statement: into a loop, or into one side of a branch."""

    loop: For | None = None
    cond: Expr = TRUE
    taken: bool = True


Path = tuple[Step, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Access:
    """A load, a store or an atomic (`monoid` is its name; it counts as a store): where in the
    program, and at which elements of which buffer."""

    name: str
    store: bool
    buffer: Buffer
    index: tuple[Expr, ...]
    mask: Expr
    path: Path
    order: tuple[int, ...]  # place in the program text
    launch: int
    axes: tuple[Axis, ...]
    value: Value | None = None
    monoid: str = ""

    @property
    def plain(self) -> bool:
        """Whether it is an ordinary store."""
        return self.store and not self.monoid

    @property
    def loops(self) -> tuple[For, ...]:
        return tuple(s.loop for s in self.path if s.loop is not None)


@dataclass(frozen=True, eq=False, slots=True)
class Use:
    """A place where poison is forbidden: `defined` must hold wherever `when` does."""

    name: str
    statement: str
    path: Path
    launch: int
    when: Expr
    defined: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Bound:
    """An index expression outside of accesses: bounds of a loop, a condition, an index value."""

    name: str
    exprs: tuple[Expr, ...]
    path: Path
    launch: int
    step: Step = Step()  # into the loop
    value: Value | None = None  # that holds the expression

    @property
    def loop(self) -> For | None:
        return self.step.loop


@dataclass(frozen=True, eq=False, slots=True)
class Stated:
    """A check of the program: `cond` must hold for the lanes at which `defined` does."""

    check: Check
    path: Path
    launch: int
    defined: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Moved:
    """A view, whose lanes must be lanes of its operand; or a scan: where a lane that counts is
    `defined`, those scanned before it must be."""

    value: Value
    path: Path
    launch: int
    defined: Expr = TRUE


@dataclass(frozen=True, eq=False, slots=True)
class Fence:
    """A barrier, and where in the program it is."""

    barrier: Barrier
    path: Path
    order: tuple[int, ...]
    launch: int


@dataclass(eq=False, slots=True)
class Walk:
    """Everything a proof speaks of, in program order."""

    program: TileProgram
    accesses: list[Access] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    checks: list[Stated] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)
    fences: list[Fence] = field(default_factory=list)
    scopes: dict[Value, Path] = field(default_factory=dict)
    launches: dict[Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for n, k in enumerate(self.program.kernels):
            _Walker(self, n, k).block(k.body, (), ())


class _Walker:
    def __init__(self, out: Walk, launch: int, kernel: Kernel) -> None:
        self.out, self.launch, self.kernel = out, launch, kernel
        self.defined: dict[Value, Expr] = {}
        self.views: dict[tuple[Value, Value], Value] = {}

    def use(self, name: str, statement: str, path: Path, when: Expr, defined: Expr) -> None:
        given = set(conjuncts(when))
        left = conjunction([c for c in conjuncts(defined) if c not in given])
        if left is not TRUE:
            self.out.uses.append(Use(name, statement, path, self.launch, when, left))

    def clean(self, *exprs: Expr) -> Expr:
        """Where the values that occur in index expressions are defined."""
        parts: dict[Expr, None] = {}
        for e in exprs:
            for x in leaves(e, "value"):
                parts |= dict.fromkeys(conjuncts(self.defined[x.attr]))
        return conjunction(list(parts))

    def block(self, body: Iterable[Stmt], path: Path, order: tuple[int, ...]) -> None:
        for n, s in enumerate(body):
            at = (*order, n)
            if isinstance(s, Def):
                self.out.scopes[s.value] = path
                self.out.launches[s.value] = self.launch
                self.defined[s.value] = self.value(s.value, path, at)
            elif isinstance(s, Store):
                axes = access_axes(s)
                self.touch(s.name, True, s.buffer, s.index, s.mask, path, at, axes, s.value)
                self.use(s.name, s.name, path, s.mask, self.defined[s.value])
            elif isinstance(s, Atomic):
                axes = access_axes(s)
                part = (s.buffer, s.index, s.mask, path, at, axes, s.value, s.monoid)
                self.touch(s.name, True, *part)
                self.use(s.name, s.name, path, s.mask, self.defined[s.value])
            elif isinstance(s, Check):
                self.out.checks.append(Stated(s, path, self.launch, self.clean(s.cond)))
            elif isinstance(s, Barrier):
                self.out.fences.append(Fence(s, path, at, self.launch))
                self.use(f"{s.name}.mask", s.name, path, TRUE, self.clean(s.mask))
            elif isinstance(s, For):
                self.loop(s, path, at)
            else:
                self.branch(s, path, at)

    def branch(self, s: If, path: Path, at: tuple[int, ...]) -> None:
        name = f"if_{'_'.join(map(str, at))}"
        self.out.bounds.append(Bound(name, (s.cond,), path, self.launch))
        self.use(name, "if", path, TRUE, self.clean(s.cond))
        self.block(s.then, (*path, Step(None, s.cond, True)), (*at, 0))
        self.block(s.other, (*path, Step(None, s.cond, False)), (*at, 1))

    def loop(self, s: For, path: Path, at: tuple[int, ...]) -> None:
        step = Step(s)
        self.out.bounds.append(Bound(s.variable, (s.lo, s.hi), path, self.launch, step))
        self.use(s.variable, s.variable, path, TRUE, self.clean(s.lo, s.hi))
        inside = (*path, step)
        for i, p, r in zip(s.inits, s.params, s.results, strict=True):
            self.use(p.name, s.variable, path, TRUE, self.defined[i])
            self.defined[p] = self.defined[r] = TRUE
            self.out.scopes[p], self.out.scopes[r] = inside, path
            self.out.launches[p] = self.out.launches[r] = self.launch
        self.block(s.body, inside, at)
        for y, p in zip(s.yields, s.params, strict=True):
            self.use(f"{p.name}.next", s.variable, inside, TRUE, self.defined[y])

    def touch(
        self,
        name: str,
        store: bool,
        buffer: Buffer,
        index: tuple[Expr, ...],
        mask: Expr,
        path: Path,
        order: tuple[int, ...],
        axes: tuple[Axis, ...],
        value: Value | None,
        monoid: str = "",
    ) -> None:
        axes = tuple(dict.fromkeys((*axes, *self.kernel.threads)))
        self.out.accesses.append(
            Access(name, store, buffer, index, mask, path, order, self.launch, axes, value, monoid)
        )
        self.use(f"{name}.mask", name, path, TRUE, self.clean(mask))
        self.use(f"{name}.index", name, path, mask, self.clean(*index))

    def value(self, v: Value, path: Path, at: tuple[int, ...]) -> Expr:
        """Where a value is not poison, as a predicate over its lanes."""
        if v.op == "load":
            what: Load = v.attr
            self.touch(v.name, False, what.buffer, what.index, what.mask, path, at, v.axes, v)
            return TRUE if what.other is not None else what.mask
        if v.op == "index":
            if not v.attr.args:
                return TRUE
            self.out.bounds.append(Bound(v.name, (v.attr,), path, self.launch, value=v))
            return self.clean(v.attr)
        if v.op == "select":
            return self.select(v)
        parts: dict[Expr, None] = {}
        for a in v.args:
            parts |= dict.fromkeys(conjuncts(self.defined[a]))
        defined = conjunction(list(parts))
        if v.op in ("reduce", "dot", "argreduce"):
            self.use(v.name, v.name, path, TRUE, defined)
            return TRUE
        if v.op == "scan" and defined is not TRUE:
            self.out.moves.append(Moved(v, path, self.launch, defined))
        if v.op == "view":
            self.out.moves.append(Moved(v, path, self.launch))
            return self.moved(v, defined)
        return defined

    def moved(self, v: Value, e: Expr) -> Expr:
        """A predicate over lanes of a view's operand, at those that a lane of the view stands
        for."""
        places = {a.lane: at for a, at in v.attr}
        for x in leaves(e, "value"):
            m: Value = x.attr
            own = tuple((a, at) for a, at in v.attr if a in m.axes)
            if own:
                if (v, m) not in self.views:
                    kept = [a for a in m.axes if a.lane not in places]
                    axes = tuple(dict.fromkeys((*kept, *lanes(*(at for _, at in own)))))
                    new = Value(f"{v.name}.{m.name}", "view", (m,), axes, m.dtype, own)
                    self.views[v, m] = new
                    self.out.scopes[new] = self.out.scopes[v]
                    self.out.launches[new] = self.launch
                places[x] = leaf("value", self.views[v, m], m.dtype.kind)
        return substitute(e, places)

    def select(self, v: Value) -> Expr:
        c = v.args[0]
        dc, da, db = (self.defined[x] for x in v.args)
        cond = c.attr if c.op == "index" else leaf("value", c, "bool")
        known = set(conjuncts(cond))
        left = conjunction([x for x in conjuncts(da) if x not in known])
        sides = conjunction([call("or", ~cond, left), call("or", cond, db)])
        if left is TRUE:
            sides = TRUE if db is TRUE else call("or", cond, db)
        elif db is TRUE:
            sides = call("or", ~cond, left)
        return conjunction([*conjuncts(dc), sides])
