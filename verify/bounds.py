"""Error bounds derived from an operator: what rounding may do to its results, as an operator.

Every tensor `t` gets companions: `t__err` bounds |computed - exact| under fl(a op b) =
(a op b)(1 + d), |d| <= u, in any order of summation; `t__dev` is the scale of the same error when
roundings are independent and have no bias, so that a sum of n terms collects sqrt(n) of them.
Integers and truth values that hang on rounded numbers are bounded, too. The rules per operation
are in `verify/bounds_rules.py`, how a bound judges results in `verify/numeric.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from opwright.ir.binding import InputError
from opwright.ir.dtypes import BOOL, F64, I64
from opwright.ir.expr import (
    FALSE,
    Expr,
    ExprError,
    call,
    const,
    free_vars,
    read,
    rebuild,
    substitute,
    var,
    walk,
)
from opwright.ir.op import Operator, Recurrence, Tensor
from opwright.ir.reference import reference
from opwright.verify.bounds_rules import Rules
from opwright.verify.bounds_terms import DEV, ERR, NOTHING, NotDerivable, plus, storage

Array = NDArray[Any]
SUFFIX = {ERR: "__err", DEV: "__dev"}
DOUBT = "__doubt"


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """An operator whose outputs are those of the original one and their companions.

    `bound` and `scale` name the companions of real and integer outputs, `doubt` those of truth
    values; an output without one is exact.
    """

    op: Operator
    bound: Mapping[str, str]
    scale: Mapping[str, str]
    doubt: Mapping[str, str]


KEPT = 64  # operators whose bounds are remembered
_KNOWN: dict[int, tuple[Operator, Derived | str]] = {}


def derive(op: Operator) -> Derived:
    """The error bounds of an operator; NotDerivable says why there are none."""
    found = _KNOWN.get(id(op))
    if found is None:
        try:
            made: Derived | str = _Deriver(op).run()
        except (NotDerivable, ExprError) as e:
            made = str(e)
        if len(_KNOWN) >= KEPT:
            _KNOWN.pop(next(iter(_KNOWN)))
        found = _KNOWN[id(op)] = op, made
    if isinstance(found[1], str):
        raise NotDerivable(found[1])
    return found[1]


def error_operator(op: Operator) -> Operator:
    """The operator with `y__err` and `y__dev` (and `y__doubt`) as further outputs."""
    return derive(op).op


class _Deriver:
    def __init__(self, op: Operator) -> None:
        self.op = op
        self.sources = {t.name: t for t in (*op.inputs, *op.tensors)}
        self.taken = set(self.sources) | set(op.sizes) | {p.name for p in op.params}
        self.made: list[Tensor] = []
        self.hoisted: dict[tuple[object, ...], Expr] = {}
        self.rules = Rules(self.sources)
        self.wild: set[str] = set()
        for t in op.tensors:
            if self._infinite(t):
                self.wild.add(t.name)

    def run(self) -> Derived:
        pending: list[Tensor] = []
        for t in self.op.tensors:
            if t.recurrence is None:
                self.plain(t)
                continue
            pending.append(t)
            if {u.name for u in pending} >= set(t.recurrence.group):
                self.recurrent(pending)
                pending = []
        outputs = [t.name for t in self.op.outputs]
        tables = self.rules.companions[ERR], self.rules.companions[DEV], self.rules.doubts
        bound, scale, doubt = ({n: c[n] for n in outputs if n in c} for c in tables)
        ends = {*bound.values(), *scale.values(), *doubt.values()}
        tensors = [replace(t, role="output") if t.name in ends else t for t in self.made]
        names = [n for y in outputs for n in (y, *(c[y] for c in tables if y in c))]
        op = replace(
            self.op, tensors=tuple(needed(tensors)), clauses=(), tolerance={}, workloads=(),
            gradients=(), declared=tuple(names), digest="", source="",
        )  # fmt: skip
        return Derived(op, bound, scale, doubt)

    def name(self, wanted: str) -> str:
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    # -- tensors ----------------------------------------------------------------------------------

    def plain(self, t: Tensor) -> None:
        for s in self.parts(t):
            self.companions(s)

    def recurrent(self, group: Sequence[Tensor]) -> None:
        """Tensors that recur together: their errors recur with them."""
        if any(t.kind != "real" for t in group):
            raise NotDerivable(f"{group[0].name} recurs with what is not a real number")
        start = len(self.made)
        parts = [s for t in group for s in self.parts(t)]
        for s in parts:
            for mode in (ERR, DEV):
                self.rules.companions[mode][s.name] = self.name(s.name + SUFFIX[mode])
        for s in parts:
            self.companions(s)
        names = tuple(t.name for t in self.made[start:])
        for n, t in enumerate(self.made[start:], start):
            assert t.recurrence is not None
            self.made[n] = replace(t, recurrence=replace(t.recurrence, group=names))

    def parts(self, t: Tensor) -> list[Tensor]:
        """The tensor after those that its folds became."""
        assert t.body is not None
        start = len(self.made)
        if t.body.op != "fold":
            t = replace(t, body=self.hoist(t.body, t, True))
        self.add(t)
        return self.made[start:]

    def add(self, t: Tensor) -> None:
        assert t.body is not None
        self.made.append(t)
        self.sources[t.name] = t
        if t.kind == "real" and t.recurrence is None and self.rules.magnitude(t.body) is t.body:
            self.rules.positive.add(t.name)

    def companions(self, t: Tensor) -> None:
        """Define what bounds the error of a tensor."""
        assert t.body is not None
        itself = read(t.name, tuple(var(a.name) for a in t.axes), t.kind)
        if t.kind == "bool":
            found = self.rules.doubt(t.body)
            if found is not FALSE:
                self.rules.doubts[t.name] = self.name(t.name + DOUBT)
                self.made.append(self.companion(t, self.rules.doubts[t.name], found, itself))
            return
        known: dict[Expr, str] = {}
        for mode in (ERR, DEV):
            names = self.rules.companions[mode]
            found = self.share(t, itself, mode)
            if found in known and t.role != "output" and t.recurrence is None:
                names[t.name] = known[found]
                continue
            if found is not NOTHING and t.recurrence is None:
                names[t.name] = self.name(t.name + SUFFIX[mode])
            if t.name in names:
                known[found] = names[t.name]
                self.made.append(self.companion(t, names[t.name], found, itself, mode))

    def companion(self, t: Tensor, name: str, found: Expr, itself: Expr, mode: str = ERR) -> Tensor:
        assert t.body is not None
        body = self.hoist(substitute(found, {t.body: itself}), t, False)
        recurrence = t.recurrence
        if recurrence is not None:
            init = self.rules.error(recurrence.init, mode)
            recurrence = replace(recurrence, init=init)
        dtype = BOOL if body.kind == "bool" else F64
        return Tensor(name, dtype, t.axes, body, recurrence=recurrence, guard=t.guard)

    def share(self, t: Tensor, itself: Expr, mode: str) -> Expr:
        """The error of an element: that of its definition and of storing it."""
        assert t.body is not None
        own = self.rules.error(t.body, mode)
        stored = NOTHING
        if t.name not in self.rules.inner:
            stored = storage(t.dtype, self.rules.bits(t.body), itself)
        found = plus([own, stored])
        if found is NOTHING or t.name not in self.wild:
            return found
        # what is infinite has no error
        return call("select", call("abs", itself) < const(float("inf")), found, NOTHING)

    def _infinite(self, t: Tensor) -> bool:
        """Whether the definition may give an infinity for finite inputs."""
        assert t.body is not None
        for x in walk(t.body):
            if x.op in ("div", "log", "log2", "log1p", "rsqrt", "pow"):
                return True
            if x.op == "const" and x.attr in (float("inf"), -float("inf")):
                return True
            if x.op == "fold" and x.attr.kind in ("max", "min") and x.kind == "real":
                return True
            if x.op == "read" and x.attr[0] in self.wild:
                return True
        return False

    # -- folds of their own -----------------------------------------------------------------------

    def hoist(self, body: Expr, t: Tensor, own: bool) -> Expr:
        """The body with folds that no condition of the operator guards as tensors, so that each is
        computed once; `own` is the tensor's own definition."""
        assert t.body is not None
        guards = {x.args[0] for x in walk(t.body) if x.op == "select"}
        memo: dict[Expr, Expr] = {}

        def go(x: Expr) -> Expr:
            if x not in memo:
                if x.op == "fold":
                    memo[x] = self.apart(x, t)
                elif x.op == "select" and (own or x.args[0] in guards):
                    memo[x] = rebuild(x, (go(x.args[0]), *x.args[1:]))
                elif x.op == "read":
                    memo[x] = x
                else:
                    memo[x] = rebuild(x, tuple(go(a) for a in x.args))
            return memo[x]

        return go(body)

    def apart(self, x: Expr, t: Tensor) -> Expr:
        used = free_vars(x)
        time = t.recurrence.axis if t.recurrence else None
        mine = tuple(a for a in t.axes if a.name in used or a.name == time)
        key = (x, mine)
        if key not in self.hoisted:
            name = self.name(f"{t.name}__{len(self.hoisted)}")
            recurrence = None
            if time is not None:  # nothing reads it at an earlier step
                nothing = {"real": NOTHING, "int": const(0), "bool": FALSE}[x.kind]
                recurrence = Recurrence(time, nothing, ())
            dtype = {"real": F64, "int": I64, "bool": BOOL}[x.kind]
            made = Tensor(name, dtype, mine, x, recurrence=recurrence)
            self.add(made)
            self.rules.inner[name] = x
            if self._infinite(made):
                self.wild.add(name)
            self.hoisted[key] = read(name, tuple(var(a.name) for a in mine), x.kind)
        return self.hoisted[key]


def needed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that some output depends on."""
    by_name = {t.name: t for t in tensors}
    seen: set[str] = set()
    stack = [t.name for t in tensors if t.role == "output"]
    while stack:
        t = by_name.get(stack.pop())
        if t is None or t.name in seen:
            continue
        seen.add(t.name)
        bodies = [t.body] + ([t.recurrence.init] if t.recurrence else [])
        stack += [x.attr[0] for b in bodies if b is not None for x in walk(b) if x.op == "read"]
        stack += t.recurrence.group if t.recurrence else ()
    return [t for t in tensors if t.name in seen]


# -- evaluation ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Errors of one call's outputs: float64 arrays by output, or bool ones for truth values; an
    output that is missing is exact. `reason` says why nothing was derived."""

    bound: Mapping[str, Array]
    scale: Mapping[str, Array]
    reason: str = ""


def errors(
    op: Operator, inputs: Mapping[str, Array], params: Mapping[str, Any], sizes: Mapping[str, int]
) -> Errors:
    """The derived errors on decoded inputs, evaluated in float64."""
    try:
        d = derive(op)
        free = {s: sizes[s] for s in op.free_sizes}
        found = reference(d.op, inputs, params, free) if d.bound or d.doubt else {}
    except (NotDerivable, InputError, ExprError, RecursionError) as e:
        return Errors({}, {}, str(e) or type(e).__name__)
    return Errors(
        {y: found[n] for y, n in (*d.bound.items(), *d.doubt.items())},
        {y: found[n] for y, n in d.scale.items()},
    )
