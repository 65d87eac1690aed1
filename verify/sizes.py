"""Legal sizes and params of an operator: boundaries first, within a budget, from its facts alone.

Bounded sampling over the facts, and z3 where sampling finds nothing. Values of tensors are drawn in
`verify/draw.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from opwright.ir.binding import InputError
from opwright.ir.dtypes import DType, decode, encode
from opwright.ir.expr import Expr, ExprError, Fold, conjuncts, evaluate, free_vars, leaves, walk
from opwright.ir.op import Operator, Tensor, Workload
from opwright.ir.semantics import ROWS

Number = int | float | bool
Sizes = Mapping[str, int]
Params = Mapping[str, Number]

# zero, one, primes, powers of two and their neighbours: where tails, masks and empty loops live
POOL = (0, 1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 127, 128, 129,
        251, 255, 256, 257, 509, 1000)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """Budget of one case: elements of the largest tensor, scalar steps of the reference."""

    elements: int = 1 << 14
    work: int = 1 << 22


TEST_LIMITS = Limits()
WORKLOAD_LIMITS = Limits(1 << 20, 1 << 24)


def extent(e: Expr, sizes: Sizes, params: Params) -> int:
    return max(int(evaluate(e, {**params, **sizes})), 0)


def shape_of(t: Tensor, sizes: Sizes, params: Params) -> tuple[int, ...]:
    """The concrete shape of a tensor."""
    return tuple(extent(s, sizes, params) for s in t.shape)


def work(op: Operator, sizes: Sizes, params: Params) -> int:
    """Scalar steps of the definition, roughly: every element, and every fold once for each value of
    the index variables it depends on. A range that depends on data counts as 16."""
    env: dict[str, Any] = {**params, **sizes}
    total = 0
    for t in op.tensors:
        total += math.prod(shape_of(t, sizes, params))
        if t.body is not None:
            ranges: dict[str, int] = {}
            _bind([(a.name, a.lo, a.hi) for a in t.axes], ranges, dict(env))
            total += _fold_steps(t.body, ranges, {**env, **{k: v // 2 for k, v in ranges.items()}})
    return total


def _bind(
    binders: Iterable[tuple[str, Expr, Expr]], ranges: dict[str, int], env: dict[str, Any]
) -> None:
    for name, lo, hi in binders:
        try:
            low, high = int(evaluate(lo, env)), int(evaluate(hi, env))
        except (ExprError, KeyError):
            low, high = 0, 16
        ranges[name] = max(high - low, 0)
        env[name] = (low + high) // 2


def _fold_steps(e: Expr, ranges: Mapping[str, int], env: Mapping[str, Any]) -> int:
    total = 0
    seen: set[Expr] = set()
    stack: list[tuple[Expr, dict[str, int], dict[str, Any]]] = [(e, dict(ranges), dict(env))]
    while stack:
        node, known, values = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "fold":
            f = Fold(node)
            outer = math.prod(known[v] for v in free_vars(node) if v in known)
            known, values = dict(known), dict(values)
            pairs = zip(f.binders, f.ranges, strict=True)
            _bind(((b, lo, hi) for b, (lo, hi) in pairs), known, values)
            total += outer * math.prod(known[b] for b in f.binders)
        stack += [(a, known, values) for a in node.args]
    return total


def all_params(op: Operator, sizes: Sizes, given: Mapping[str, Number]) -> dict[str, Number]:
    """All params: the given ones, else their defaults, else 1."""
    out: dict[str, Number] = {}
    for p in op.params:
        value: Any = given.get(p.name, 1)
        if p.name not in given and p.default is not None:
            value = evaluate(p.default, {**sizes, **out})
        if p.dtype.kind == "real":  # a param is an exact value of its type
            value = decode(encode(np.full(1, float(value)), p.dtype), p.dtype)[0]
        out[p.name] = {"bool": bool, "int": int}.get(p.dtype.kind, float)(value)
    return out


class Sampler:
    """Draws legal sizes and params of an operator; `facts` beyond its own narrow them further."""

    def __init__(
        self,
        op: Operator,
        rng: Random,
        edges: Iterable[int] = (),
        limits: Limits = TEST_LIMITS,
        facts: Sequence[Expr] = (),
    ) -> None:
        self.op, self.rng, self.limits = op, rng, limits
        known = {*op.sizes, *(p.name for p in op.params)}
        self.facts = [
            f
            for whole in (*op.facts, *facts)
            for f in conjuncts(whole)
            if all(x.attr in known for x in leaves(f, "size", "param", "stride", "value"))
        ]
        self.edges = sorted({max(n, 0) for e in edges for n in (e - 1, e, e + 1, 2 * e + 1)})
        self.free_params = [p for p in op.params if p.dtype.kind != "real" or p.default is None]
        self.pools = {s: self._pool(s) for s in op.sizes}

    def _pool(self, size: str) -> list[int]:
        """Values of one dim that its own facts allow, interesting ones first."""
        own = [f for f in self.facts if [x.attr for x in leaves(f, "size", "param")] == [size]]
        found = set(POOL) | set(self.edges)
        for f in self.facts:
            if any(x.attr == size for x in leaves(f, "size")):
                for c in (x.attr for x in walk(f) if x.op == "const" and x.kind == "int"):
                    if 0 <= c <= self.limits.elements:
                        found |= {c, c + 1, max(c - 1, 0), 2 * c, 3 * c, 5 * c, 7 * c}
        inside = [v for v in sorted(found) if v <= self.limits.elements]
        return [v for v in inside if all(self._true(f, {size: v}) for f in own)]

    @staticmethod
    def _true(f: Expr, env: Mapping[str, Any]) -> bool:
        try:
            return bool(evaluate(f, env))
        except (ExprError, ZeroDivisionError, OverflowError):
            return False

    def _complete(
        self, fixed: Mapping[str, Number], small: bool = False
    ) -> tuple[dict[str, int], Params] | None:
        """Random values for what is not fixed, equations solved for a dim where they can be.
        `small` ones have a product within the budget more often than not."""
        sizes: dict[str, int] = {k: int(v) for k, v in fixed.items() if k in self.op.sizes}
        given: dict[str, Number] = {k: v for k, v in fixed.items() if k not in self.op.sizes}
        for p in self.free_params:
            if p.name not in given and (p.default is None or self.rng.random() < 0.5):
                given[p.name] = self._param(p.dtype)
        equations = [
            (a.attr, b)
            for f in self.facts
            if f.op == "eq"
            for a, b in (f.args, f.args[::-1])
            if a.op == "size" and a not in leaves(b, "size")
        ]
        order = [s for s in self.op.sizes if s not in sizes]
        self.rng.shuffle(order)
        solved = {name for name, _ in equations}
        for s in sorted(order, key=lambda s: s in solved):  # free dims first
            if s in sizes:
                continue
            env = {**given, **sizes}
            for name, e in equations:
                if name == s and all(x.attr in env for x in leaves(e, "size", "param")):
                    try:
                        sizes[s] = int(evaluate(e, env))
                    except ExprError:
                        sizes[s] = 0  # a divisor is 0: not legal, whatever this is
                    break
            else:
                if not self.pools[s]:
                    return None
                # mostly small: a product of dims has to stay within the budget
                pool = self.pools[s]
                cut = pool[: max(1, len(pool) * 2 // 3)] if self.rng.random() < 0.7 else pool
                if small:
                    cut = [v for v in pool if v <= self._moderate()] or pool[:2]
                sizes[s] = self.rng.choice(cut)
        ordered = {s: sizes[s] for s in self.op.sizes}
        for p in self.op.params:  # what a default hides shows at another value of its magnitude
            if p.dtype.kind == "real" and p.default is not None and p.name not in given:
                if self.rng.random() < 0.35:
                    usual = float(all_params(self.op, ordered, given)[p.name])
                    given[p.name] = usual * self.rng.choice((0.5, 2.0)) or 0.5
        return ordered, all_params(self.op, ordered, given)

    def _moderate(self) -> int:
        """An extent that all dims may have together, or nearly so."""
        power: float = self.limits.elements ** (1.5 / max(len(self.op.sizes), 1))
        return max(3, round(power))

    def _param(self, d: DType) -> Number:
        if d.kind == "bool":
            return self.rng.random() < 0.5
        if d.kind == "int":
            return self.rng.choice((0, 1, 1, 2, 3))
        return self.rng.choice((1.0, 0.5, 2.0))

    def legal(self, sizes: Sizes, params: Params) -> bool:
        """Whether all facts hold."""
        env = {**params, **sizes}
        return all(v >= 0 for v in sizes.values()) and all(self._true(f, env) for f in self.facts)

    def fits(self, sizes: Sizes, params: Params) -> bool:
        """Whether the case stays within the limits."""
        tensors = (*self.op.inputs, *self.op.tensors)
        largest = max((math.prod(shape_of(t, sizes, params)) for t in tensors), default=0)
        return largest <= self.limits.elements and work(self.op, sizes, params) <= self.limits.work

    def draw(
        self, fixed: Mapping[str, Number] | None = None, tries: int = 300
    ) -> tuple[dict[str, int], Params] | None:
        """Legal sizes and params within the limits; None when neither sampling nor z3 finds any."""
        for n in range(tries):
            found = self._complete(fixed or {}, n >= tries // 3)
            if found is None:
                break
            if self.legal(*found) and self.fits(*found):
                return found
        return self._solve(fixed or {})

    def _solve(self, fixed: Mapping[str, Number]) -> tuple[dict[str, int], Params] | None:
        """By z3: facts first, then random wishes one by one as long as they can be met."""
        import z3

        given = {p.name: fixed[p.name] for p in self.op.params if p.name in fixed}
        variables: dict[str, Any] = {s: z3.Int(s) for s in self.op.sizes}
        for p in self.op.params:
            if p.name in given or p.dtype.kind == "real":
                known = given.get(p.name, 1.0 if p.default is None else None)
                if known is not None:
                    variables[p.name] = _z3_constant(z3, known)
            else:
                variables[p.name] = z3.Bool(p.name) if p.dtype.kind == "bool" else z3.Int(p.name)
        solver = z3.SolverFor("QF_NIA")
        solver.set("rlimit", 2_000_000, "timeout", 2000, "random_seed", 1)
        for s in self.op.sizes:
            solver.add(variables[s] >= 0, variables[s] <= self.limits.elements)
        for f in self.facts:
            term = z3_term(z3, f, variables)
            if term is not None:
                solver.add(term)
        for name, wanted in fixed.items():
            solver.add(variables[name] == wanted)
        if solver.check() != z3.sat:
            return None
        bound = max(2, round(self.limits.elements ** (1 / max(len(self.op.sizes), 1))))
        wishes = [variables[s] <= bound * 4 for s in self.op.sizes if s not in fixed]
        for s in self.rng.sample(self.op.sizes, len(self.op.sizes)):
            if s not in fixed:
                wishes += [variables[s] == v for v in self.rng.sample(POOL, 3)]
        for wish in wishes:
            solver.push()
            solver.add(wish)
            if solver.check() != z3.sat:
                solver.pop()
        if solver.check() != z3.sat:
            return None
        model = solver.model()

        def value(name: str) -> Any:
            v = model.eval(variables[name], model_completion=True)
            return v.as_long() if z3.is_int_value(v) else z3.is_true(v)

        sizes = {s: int(value(s)) for s in self.op.sizes}
        for p in self.op.params:
            if p.dtype.kind != "real" and p.name not in given:
                given[p.name] = value(p.name)
        params = all_params(self.op, sizes, given)
        return (sizes, params) if self.legal(sizes, params) and self.fits(sizes, params) else None

    def many(self, count: int) -> list[tuple[dict[str, int], Params]]:
        """Distinct draws: an ordinary one, then every dim at its boundaries, then random ones.

        Fewer than `count` when the facts allow no more.
        """
        found: dict[tuple[Any, ...], tuple[dict[str, int], Params]] = {}

        def keep(draw: tuple[dict[str, int], Params] | None) -> None:
            if draw is None:
                return
            if 0 in draw[0].values():  # of calls without elements a few are enough
                if sum(0 in d[0].values() for d in found.values()) >= max(2, count // 4):
                    return
            found.setdefault((*draw[0].values(), *draw[1].values()), draw)

        keep(self.draw({}))
        wanted: list[dict[str, Number]] = []
        for s in self.op.sizes:
            pool = self.pools[s]
            wanted += [{s: v} for v in dict.fromkeys((*pool[:2], *self.edges)) if v in pool]
        self.rng.shuffle(wanted)
        for p in self.free_params:
            if p.dtype.kind == "bool":
                wanted[:0] = [{p.name: True}, {p.name: False}]
        budget = max(1, count // 2)
        for fixed in wanted[:budget]:
            keep(self.draw(fixed, tries=60))
        for _ in range(3 * count):
            if len(found) >= count:
                break
            keep(self.draw({}))
        return list(found.values())[:count]

    def beyond(self, blocks: Sequence[int], count: int) -> list[tuple[dict[str, int], Params]]:
        """Draws with one dim past a block, largest blocks first, every dim in turn: two blocks and
        more, so that what one block hands to the next matters, then just past one."""
        found: list[tuple[dict[str, int], Params]] = []
        for n, far in [(n, far) for n in sorted(blocks, reverse=True) for far in (True, False)]:
            for s in self.op.sizes:
                if len(found) < count:
                    v = 2 * n + n // 2 + 1 if far else n + 1
                    drawn = self.beside(s, v) or self.draw({s: v}, tries=40)
                    if drawn is not None and 0 not in drawn[0].values():
                        found.append(drawn)
        return found

    def beside(
        self, name: str, v: int, small: Sequence[int] = (1, 1, 1, 2, 3, 5, 8, 16)
    ) -> tuple[dict[str, int], Params] | None:
        """A draw with this extent and small ones beside it, none of them empty."""
        few = {s: self._few(s, small) for s in self.op.sizes if s != name}
        for _ in range(40):
            others = {s: self.rng.choice(values) for s, values in few.items()}
            found = self._complete({**others, name: v})
            if found is not None and self.legal(*found) and self.fits(*found):
                return found
        return None

    def _few(self, size: str, small: Sequence[int]) -> Sequence[int]:
        """Those of a few small extents that a dim's own facts allow, else its least ones."""
        own = [f for f in self.facts if {x.attr for x in leaves(f, "size", "param")} == {size}]
        allowed = [v for v in small if all(self._true(f, {size: v}) for f in own)]
        return allowed or [v for v in self.pools[size] if v][:3] or [1]


def _z3_constant(z3: Any, value: Number) -> Any:
    if isinstance(value, bool):
        return z3.BoolVal(value)
    return z3.IntVal(value) if isinstance(value, int) else z3.RealVal(repr(value))


def z3_term(z3: Any, e: Expr, variables: Mapping[str, Any]) -> Any:
    """The z3 term of a fact, or None when it holds something that z3 has no meaning for."""
    if e.op == "const":
        return None if e.kind == "real" and not math.isfinite(e.attr) else _z3_constant(z3, e.attr)
    if e.op in ("size", "param"):
        return variables.get(e.attr)
    row = ROWS.get(e.op)
    if row is None or row.z3 is None:
        return None
    args = [z3_term(z3, a, variables) for a in e.args]
    return None if any(a is None for a in args) else row.z3(*args)


@dataclass(frozen=True, slots=True)
class Scaled:
    """A workload as it is measured here; `note` says how it was scaled down, empty when it was
    not.
    """

    name: str
    weight: float
    sizes: Sizes
    params: Params
    note: str = ""


def memory_of(op: Operator, sizes: Sizes, params: Params) -> int:
    """Bytes of all inputs and outputs."""
    return sum(
        math.prod(shape_of(t, sizes, params)) * t.dtype.bytes for t in (*op.inputs, *op.outputs)
    )


def scale(
    op: Operator,
    workload: Workload,
    bytes_limit: int,
    work_limit: int,
    legal: Callable[[Sizes, Params], bool] | None = None,
) -> Scaled:
    """The workload, its largest dims halved until it fits this machine; legal sizes only.

    Raises InputError when no legal halving fits.
    """
    sampler = Sampler(op, Random(0))
    sizes = {s: int(workload.sizes[s]) for s in op.sizes}
    params = all_params(op, sizes, workload.params)
    check = legal or sampler.legal
    if not check(sizes, params):
        raise InputError(f"workload {workload.name} breaks a fact of the operator")
    start = dict(sizes)

    def fits() -> bool:
        return memory_of(op, sizes, params) <= bytes_limit and work(op, sizes, params) <= work_limit

    while not fits():
        for s in sorted(sizes, key=lambda s: -sizes[s]):
            trial = {**sizes, s: sizes[s] // 2}
            new = all_params(op, trial, workload.params)
            if trial[s] >= 1 and check(trial, new):
                sizes, params = trial, new
                break
        else:
            raise InputError(
                f"workload {workload.name} is too large for this machine and no dim can be halved"
            )
    note = ""
    if sizes != start:
        changed = ", ".join(
            f"{s} = {start[s]} -> {sizes[s]}" for s in sizes if sizes[s] != start[s]
        )
        note = f"{workload.name} is scaled down to fit this machine: {changed}"
    return Scaled(workload.name, workload.weight, sizes, params, note)


def default_workload(op: Operator, limits: Limits = WORKLOAD_LIMITS) -> Scaled:
    """Moderate sizes for an operator that names no workload; InputError when there are none."""
    rng = Random(0)
    sampler = Sampler(op, rng, (), limits)
    best: tuple[int, dict[str, int], Params] | None = None
    for _ in range(40):
        found = sampler.draw({}, tries=50)
        if found is not None:
            amount = memory_of(op, *found)
            if best is None or amount > best[0]:
                best = (amount, *found)
    if best is None:
        raise InputError(f"no sizes satisfy the facts of {op.name}")
    return Scaled("default", 1.0, best[1], best[2], "no workload is declared: sizes were drawn")
