"""What z3 sees of a spec's obligations: integers and conditions as terms, reads as functions.

Instances of `requires` at the indices that occur constrain what is read. What has no integer
meaning is an unknown, which is noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opwright.compiler.scope import Interval
from opwright.ir.dtypes import integer_range
from opwright.ir.expr import (
    Expr,
    ExprError,
    Fold,
    affine,
    call,
    conjunction,
    conjuncts,
    const,
    evaluate,
    free_vars,
    param,
    read_parts,
    rebuild,
    show,
    size,
    substitute,
    var,
    walk,
)
from opwright.ir.op import Law, Operator, Tensor
from opwright.ir.semantics import ARG_FOLDS, ROWS

RLIMIT = 1_500_000  # z3's own measure of work, for one question; about half a second
TIMEOUT = 10_000  # milliseconds of one question, where the machine is slow
ROUNDS, INSTANCES = 3, 96


def inlined(op: Operator, e: Expr, depth: int = 8) -> Expr:
    """Reads of locals replaced by their definitions, as far as these hold no fold or recurrence."""
    tensors = {t.name: t for t in op.tensors}

    def go(x: Expr, left: int) -> Expr:
        x = rebuild(x, tuple(go(a, left) for a in x.args))
        if x.op != "read" or left == 0:
            return x
        name, index, fill = read_parts(x)
        t = tensors.get(name)
        if t is None or fill is not None or not _plain(t):
            return x
        assert t.body is not None
        body = substitute(t.body, {var(a.name): i for a, i in zip(t.axes, index, strict=True)})
        return go(body, left - 1)

    return go(e, depth)


def _plain(t: Tensor) -> bool:
    return (
        t.body is not None
        and t.recurrence is None
        and t.kind != "real"
        and not any(x.op == "fold" for x in walk(t.body))
    )


class Encoder:
    """Expressions as z3 terms; `unknowns` are described parts that z3 knows nothing about."""

    def __init__(
        self, op: Operator, requires: Sequence[tuple[str, Expr]], law: Law | None = None
    ) -> None:
        import z3

        self.z3: Any = z3
        self.op, self.requires, self.law = op, requires, law
        self.tensors = {t.name: t for t in (*op.inputs, *op.tensors)}
        self.inputs = {t.name for t in op.inputs}
        self.arguments = {a.name: a for a in law.args} if law else {}
        self.memo: dict[Expr, Any] = {}
        self.axioms: list[Any] = []
        self.unknowns: set[str] = set()
        self.loose: set[str] = set()
        self.ground: dict[Expr, None] = {}  # reads of inputs
        self.used: set[tuple[str, tuple[Expr, ...]]] = set()

    def solver(self, parts: Iterable[Any]) -> Any:
        s = self.z3.Solver()
        s.set("rlimit", RLIMIT, "timeout", TIMEOUT, "random_seed", 1)
        s.add(*parts, *self.axioms)
        return s

    def boolean(self, e: Expr) -> Any:
        return self.term(e)

    def negation(self, goal: Expr) -> Any:
        return self.z3.Not(self.term(goal))

    # -- terms ------------------------------------------------------------------------------------

    def term(self, e: Expr) -> Any:
        if e not in self.memo:
            self.memo[e] = self._term(e)
        return self.memo[e]

    def _fresh(self, e: Expr, name: str) -> Any:
        make = {"int": self.z3.Int, "real": self.z3.Real, "bool": self.z3.Bool}[e.kind]
        return make(name)

    def _opaque(self, e: Expr, what: str) -> Any:
        self.unknowns.add(what)
        return self._fresh(e, f"?{len(self.memo)}")

    def _term(self, e: Expr) -> Any:
        z3 = self.z3
        if e.op == "const":
            if e.kind == "bool":
                return z3.BoolVal(e.attr)
            if e.kind == "int":
                return z3.IntVal(e.attr)
            if e.attr != e.attr or e.attr in (float("inf"), float("-inf")):
                return self._opaque(e, "an infinite value")
            return z3.RealVal(repr(e.attr))
        if e.op in ("size", "param", "var"):
            return self._leaf(e)
        if e.op == "read":
            return self._read(e)
        if e.op == "fold":
            return self._fold(e)
        if e.op == "cast" and e.kind != "bool":
            return self.term(e.args[0])
        if e.op in ("floordiv", "mod"):
            return self._division(e)
        if e.op in ("mul", "div") and e.kind == "real":
            if not any(a.op == "const" for a in e.args):
                return self._opaque(e, f"`{show(e)}`")
        row = ROWS.get(e.op)
        if row is None or row.z3 is None or e.op in ("floor", "ceil", "div", "fma"):
            return self._opaque(e, f"`{show(e)}`")
        return row.z3(*(self.term(a) for a in e.args))

    def _leaf(self, e: Expr) -> Any:
        v = self._fresh(e, f"{e.op}:{e.attr}")
        if e.op == "size":
            self.axioms.append(v >= 0)
        return v

    def _division(self, e: Expr) -> Any:
        """Quotient and remainder as unknowns of a * b + r; one pair for both operations."""
        z3 = self.z3
        a, b = e.args
        if b.op == "const" and b.attr > 0:
            x = self.term(a)
            return x / b.attr if e.op == "floordiv" else x % b.attr
        pair = {op: z3.Int(f"{op}:{show(a)}:{show(b)}") for op in ("floordiv", "mod")}
        x, y = self.term(a), self.term(b)
        q, r = pair["floordiv"], pair["mod"]
        self.axioms.append(z3.Implies(y > 0, z3.And(x == y * q + r, r >= 0, r < y)))
        # consequences that nonlinear reasoning needs spelled out
        self.axioms.append(z3.Implies(z3.And(y > 0, x >= 0), z3.And(q >= 0, q <= x)))
        self.axioms.append(z3.Implies(z3.And(y > 0, x >= y), q >= 1))
        if b.op == "floordiv":
            # x // (n // m) < m where m divides n and x < n
            n, m = (self.term(k) for k in b.args)
            rest = self.term(call("mod", *b.args))
            self.axioms.append(z3.Implies(z3.And(m > 0, rest == 0, y > 0, x >= 0, x < n), q < m))
        for op, v in pair.items():
            self.memo[call(op, a, b)] = v
        return pair[e.op]

    def _read(self, e: Expr) -> Any:
        name, index, fill = read_parts(e)
        t = self.tensors.get(name)
        if name in self.arguments:
            return self._argument(e, name, index)
        if t is None:
            return self._opaque(e, f"`{show(e)}`")
        if t.role != "input":
            body = inlined(self.op, e)
            if body is not e:
                return self.term(body)
            if t.body is not None and t.recurrence is None and t.body.op == "fold":
                mapping = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
                return self.term(substitute(t.body, mapping))
            return self._opaque(e, f"`{show(e)}`")
        value = self._element(name, e.kind, index)
        if fill is None:
            self.ground[e] = None
            if e.kind == "int":
                low, high = integer_range(t.dtype)
                self.axioms.append(self.z3.And(value >= low, value <= high))
            return value
        inside = [
            self.term(call("le", a.lo, i) & call("lt", i, a.hi))
            for i, a in zip(index, t.axes, strict=True)
        ]
        return self.z3.If(self.z3.And(*inside), value, self.term(fill))

    def _element(self, name: str, kind: str, index: Sequence[Expr]) -> Any:
        z3 = self.z3
        sort = {"int": z3.IntSort, "real": z3.RealSort, "bool": z3.BoolSort}[kind]()
        if not index:
            return self.z3.Const(f"read:{name}", sort)
        f = z3.Function(f"read:{name}", *[z3.IntSort()] * len(index), sort)
        return f(*(self.term(i) for i in index))

    def _argument(self, e: Expr, name: str, index: Sequence[Expr]) -> Any:
        """A law's argument: an index or a permutation lies in its range."""
        value = self._element(name, e.kind, index)
        arg = self.arguments[name]
        if arg.kind in ("perm", "index") and arg.hi is not None:
            self.axioms.append(self.z3.And(value >= 0, value < self.term(arg.hi)))
        elif arg.dtype.kind == "int":
            for edge, sign in ((arg.lo, 1), (arg.hi, -1)):
                if edge is not None:
                    self.axioms.append((value - self.term(edge)) * sign >= 0)
        return value

    def _fold(self, e: Expr) -> Any:
        """A reduction is a number with the bounds that its kind gives it."""
        f = Fold(e)
        if f.kind in ARG_FOLDS:
            v = self._fresh(e, f"fold:{len(self.memo)}")
            lo, hi = (self.term(b) for b in f.ranges[0])
            # of nothing there is none: that it is not empty is an obligation of its own
            self.axioms.append(self.z3.And(v >= lo, v < hi))
            return v
        if f.kind == "sum" and f.term.op == "const" and f.term.kind == "int":
            v = self._fresh(e, f"fold:{len(self.memo)}")
            count = self.z3.IntVal(1)
            for lo, hi in f.ranges:
                width = self.term(hi - lo)
                count = count * self.z3.If(width > 0, width, 0)
            sign = 1 if f.term.attr >= 0 else -1
            self.axioms.append(v * sign >= 0)
            self.axioms.append(v * sign <= count * abs(f.term.attr))
            self.unknowns.add(f"`{show(e)}`")
            return v
        return self._opaque(e, f"`{show(e)}`")

    # -- requires ---------------------------------------------------------------------------------

    def instantiate(self) -> None:
        """Add the instances of `requires` at the reads that occur."""
        for _ in range(ROUNDS):
            reads = list(self.ground)
            for name, clause in self.requires:
                self._closed(clause)
                for e in reads:
                    if len(self.used) < INSTANCES:
                        self._instance(name, clause, e)
            if len(self.ground) == len(reads):
                break
        touched = {read_parts(e)[0] for e in self.ground}
        for name, clause in self.requires:
            mentioned = {read_parts(x)[0] for x in walk(clause) if x.op == "read"}
            used = any(key == name for key, _ in self.used)
            if mentioned & touched and not used and clause.op == "fold":
                self.loose.add(name)

    def _closed(self, clause: Expr) -> None:
        if clause.op != "fold" and (clause.op, (clause,)) not in self.used:
            if all(x.kind != "real" for x in walk(clause)):
                self.used.add((clause.op, (clause,)))
                self.axioms.append(self.term(clause))

    def _instance(self, name: str, clause: Expr, e: Expr) -> None:
        binders, conditions, body = _universal_form(clause)
        if not binders or any(x.kind == "real" and x.op != "read" for x in walk(body)):
            return
        tensor, index, _ = read_parts(e)
        for x in walk(body):
            if x.op != "read" or read_parts(x)[0] != tensor:
                continue
            mapping = _unify(read_parts(x)[1], index, [b for b, _ in binders])
            if mapping is None:
                continue
            key = (name, tuple(mapping[var(b)] for b, _ in binders))
            if key in self.used:
                continue
            self.used.add(key)
            assume = [call("le", lo, var(b)) & call("lt", var(b), hi) for b, (lo, hi) in binders]
            premise = substitute(conjunction([*assume, *conditions]), mapping)
            claim = substitute(body, mapping)
            self.axioms.append(self.z3.Implies(self.term(premise), self.term(claim)))
            self._monotone(body, binders, tensor, index)

    def _monotone(
        self, body: Expr, binders: list[tuple[str, Interval]], tensor: str, index: Sequence[Expr]
    ) -> None:
        """From f[i] <= f[i + 1] on lo..hi: f[lo] <= f[e] <= f[hi], by induction."""
        if len(binders) != 1 or len(index) != 1:
            return
        (b, (lo, hi)), i = binders[0], index[0]
        for part in conjuncts(body):
            if part.op not in ("le", "lt") or any(x.op != "read" for x in part.args):
                continue
            (first, at, _), (second, after, _) = (read_parts(x) for x in part.args)
            if first != tensor or second != tensor or at != (var(b),):
                continue
            if affine(after[0] - at[0]) != {None: 1}:
                continue
            kind = part.args[0].kind
            value, low, high = (self._element(tensor, kind, (k,)) for k in (i, lo, hi))
            inside = self.term(call("le", lo, i) & call("le", i, hi))
            self.axioms.append(self.z3.Implies(inside, self.z3.And(low <= value, value <= high)))

    # -- models -----------------------------------------------------------------------------------

    def sizes_between(self, least: int, most: int) -> list[Any]:
        out = []
        for e, v in self.memo.items():
            if e.op == "size":
                out += [v >= least, v <= most]
            elif e.op == "param" and e.kind == "int":
                out += [v >= -most, v <= most]
        return out

    def values(self, model: Any) -> dict[Expr, Any]:
        """Numbers of every leaf and read that was encoded."""
        out: dict[Expr, Any] = {}
        for e, v in self.memo.items():
            if e.op in ("size", "param", "var") or e in self.ground:
                found = model.eval(v, model_completion=True)
                if e.kind == "int":
                    out[e] = found.as_long()
                elif e.kind == "bool":
                    out[e] = bool(self.z3.is_true(found))
                elif self.z3.is_rational_value(found):
                    out[e] = found.numerator_as_long() / found.denominator_as_long()
        for s in self.op.sizes:
            out.setdefault(size(s), 1)
        return self._defaults(out)

    def _defaults(self, out: dict[Expr, Any]) -> dict[Expr, Any]:
        env = {e.attr: v for e, v in out.items() if e.op in ("size", "param")}
        for p in self.op.params:
            leaf = param(p.name, p.dtype.kind)
            if leaf not in out and p.default is not None:
                try:
                    value = evaluate(p.default, env)
                except (ExprError, KeyError):
                    continue
                out[leaf] = float(value) if p.dtype.kind == "real" else value
                env[p.name] = out[leaf]
        return out


def _universal_form(
    e: Expr,
) -> tuple[list[tuple[str, Interval]], list[Expr], Expr]:
    """Binders and guards of nested `all`s and what they claim."""
    binders: list[tuple[str, Interval]] = []
    guards: list[Expr] = []
    while e.op == "fold" and Fold(e).kind == "all":
        f = Fold(e)
        binders += list(zip(f.binders, f.ranges, strict=True))
        guards += conjuncts(f.guard)
        e = f.term
    return binders, guards, e


def _unify(
    pattern: Sequence[Expr], index: Sequence[Expr], binders: Sequence[str]
) -> dict[Expr, Expr] | None:
    """What the binders must be for a pattern of `i` or `i + c` to be this index."""
    mapping: dict[Expr, Expr] = {}
    for p, i in zip(pattern, index, strict=True):
        form = affine(p)
        if form is None:
            return None
        inside = [x for x in form if x is not None and free_vars(x) & set(binders)]
        if len(inside) != 1 or inside[0].op != "var" or form[inside[0]] != 1:
            if not inside and show(p) == show(i):
                continue
            return None
        rest = p - inside[0]
        plain = affine(rest)
        shift: Expr = const(0)
        for x, c in (plain or {}).items():
            shift = shift + (c if x is None else x * c)
        value = i - shift
        if mapping.setdefault(inside[0], value) is not value:
            return None
    return mapping if all(var(b) in mapping for b in binders) else None
