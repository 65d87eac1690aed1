"""Workloads of an operator: sizes, params, types, distributions, and traces of observed calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opwright.compiler import codes
from opwright.compiler.codes import Findings, did_you_mean
from opwright.compiler.contradiction import excluded
from opwright.compiler.scope import Scope, role_of
from opwright.compiler.terms import Terms
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.ir.expr import (
    Expr,
    ExprError,
    evaluate,
    leaves,
    show,
)
from opwright.ir.op import (
    Param,
    Workload,
)

if TYPE_CHECKING:
    from opwright.compiler.interface import Interface

NUMBERS = {"normal": 2, "uniform": 2, "constant": 1}  # of a distribution
DISTRIBUTIONS = ("normal", "uniform", "constant")


class WorkloadReader:
    """Reads the workloads of one operator, whose interface is `out`."""

    def __init__(
        self,
        op: ast.Op,
        terms: Terms,
        out: Interface,
        findings: Findings,
        places: Mapping[str, Span],
    ) -> None:
        self.op, self.terms, self.out, self.findings = op, terms, out, findings
        self.places = places
        self.breaks: list[tuple[Span, dict[str, Any]]] = []  # facts that workloads break

    def read(self, filename: str) -> tuple[Workload, ...]:
        out: list[Workload] = []
        seen: set[str] = set()
        for w in self.op.workloads:
            if isinstance(w, ast.Workload):
                if w.name in seen:
                    first = "a workload"
                    self.findings.add(codes.DECLARED_TWICE, w.span, name=w.name, first=first)
                seen.add(w.name)
            if isinstance(w, ast.TraceWorkload):
                out += self._trace(w, filename)
            else:
                out.append(self._workload(w))
        self._report()
        return tuple(out)

    def _workload(self, w: ast.Workload) -> Workload:
        sizes: dict[str, int] = {}
        params: dict[str, float | int | bool] = {}
        types: dict[str, str] = {}
        values: dict[str, tuple[str, tuple[float, ...]]] = {}
        inputs = {t.name for t in self.out.inputs}
        scalars = {p.name: p for p in self.out.params}
        seen: set[str] = set()
        strange = False
        for b in w.bindings:
            if b.name in seen:
                section = f"the binding of `{b.name}` in workload `{w.name}`"
                self.findings.add(codes.SECTION_TWICE, b.span, section=section)
            seen.add(b.name)
            if isinstance(b, ast.BindDtype) and b.name in self.out.types:
                types[b.name] = b.dtype.name
                self._option(b)
            elif isinstance(b, ast.BindValue) and b.name in self.out.sizes:
                e = self.terms.integer(b.value, Scope(), f"`{b.name}`")
                if e is not None:
                    sizes[b.name] = e.attr if e.op == "const" else self._not_constant(b)
            elif isinstance(b, ast.BindValue) and b.name in scalars:
                e = self._setting(b.value, scalars[b.name])
                if e is not None:
                    params[b.name] = e.attr if e.op == "const" else self._not_constant(b)
            elif isinstance(b, ast.BindRandom) and b.name in inputs:
                values[b.name] = (b.distribution, self._numbers(b))
                if b.distribution not in DISTRIBUTIONS:
                    self.findings.add(
                        codes.UNKNOWN_DISTRIBUTION,
                        b.span,
                        name=b.distribution,
                        hint=did_you_mean(b.distribution, list(DISTRIBUTIONS)),
                        known=", ".join(DISTRIBUTIONS),
                    )
            else:
                known = self.out.scope.names.get(b.name)
                if isinstance(b, ast.BindRandom) and getattr(known, "role", "") == "input":
                    continue  # it is declared, and what is wrong there is said there
                strange = strange or known is None
                self.findings.add(
                    codes.UNKNOWN_BINDING,
                    b.span,
                    workload=w.name,
                    name=b.name,
                    found="not declared" if known is None else role_of(known),
                )
        for s in self.out.sizes:
            if strange:
                break  # it may be what a name that is not known stands for
            if s not in sizes and not any(b.name == s for b in w.bindings):
                bound = [b.span for b in w.bindings if b.name in self.out.sizes]
                place = bound[0] if bound else w.span  # sizes stand together
                self.findings.add(codes.MISSING_SIZE, place, workload=w.name, name=s)
        self._obeys(w, sizes, params)
        return Workload(w.name, float(w.weight.value), sizes, params, types, values)

    def _setting(self, node: ast.Expr, p: Param) -> Expr | None:
        """A value for a param, of the kind of its type."""
        what = f"`{p.name}`"
        if p.dtype.kind == "int":
            return self.terms.integer(node, Scope(), what)
        if p.dtype.kind == "bool":
            return self.terms.condition(node, Scope(), what)
        return self.terms.number(node, Scope(), what)

    def _option(self, b: ast.BindDtype) -> None:
        options = next([o.name for o in t.options] for t in self.op.types if t.name == b.name)
        if b.dtype.name not in options:
            self.findings.add(
                codes.WRONG_BINDING,
                b.span,
                name=b.name,
                given=b.dtype.name,
                known=", ".join(options),
            )

    def _not_constant(self, b: ast.BindValue) -> int:
        self.findings.add(codes.NOT_CONSTANT, b.value.span, what=f"`{b.name}`")
        return 1

    def _numbers(self, b: ast.BindRandom) -> tuple[float, ...]:
        out = []
        wanted = NUMBERS.get(b.distribution, len(b.args))
        if len(b.args) not in (0, wanted):
            self.findings.add(
                codes.WRONG_ARITY,
                b.span,
                name=b.distribution,
                wanted=wanted,
                found=len(b.args),
                cure=f"write `{b.name} ~ {b.distribution}({', '.join(['0', '1'][-wanted:])})`",
            )
        for a in b.args:
            e = self.terms.number(a, Scope(), "an argument of a distribution")
            if e is not None and e.op == "const":
                out.append(float(e.attr))
            elif e is not None:
                what = f"an argument of `{b.distribution}`"
                self.findings.add(codes.NOT_CONSTANT, a.span, what=what)
        return tuple(out)

    def _obeys(self, w: ast.Workload, sizes: Mapping[str, int], params: Mapping[str, Any]) -> None:
        """A workload that the operator's own facts exclude is a mistake."""
        if set(sizes) != set(self.out.sizes):
            return
        env: dict[str, Any] = {**sizes, **params}
        try:
            for p in self.out.params:
                if p.name not in env and p.default is not None:
                    env[p.name] = evaluate(p.default, env)
            for fact in self.out.facts:
                used = leaves(fact, "size", "param")
                if all(x.attr in env for x in used) and not evaluate(fact, env):
                    values = ", ".join(f"{x.attr} = {env[x.attr]}" for x in used)
                    names = {x.attr for x in used}
                    own = [b.span for b in w.bindings if b.name in names]
                    fields = {"workload": w.name, "fact": show(fact), "values": values}
                    if fact not in self.out.broken:
                        self.breaks.append((own[-1] if own else w.span, fields))
        except (ExprError, KeyError):
            return

    def _report(self) -> None:
        """Workloads break facts; where nothing satisfies these, that is what is wrong."""
        if not self.breaks:
            return
        n = excluded(self.out.facts, self.out.sizes, self.out.params)
        place = self.places.get(f"where {n}")
        if place is not None:
            self.findings.add(codes.CONTRADICTION, place)
            return
        for span, fields in self.breaks:
            self.findings.add(codes.BROKEN_WORKLOAD, span, **fields)

    def _trace(self, w: ast.TraceWorkload, filename: str) -> list[Workload]:
        """Observed calls: each line of the file is one workload, its weight an equal share."""
        path = Path(filename).parent / w.path
        scalars = {p.name for p in self.out.params}
        rows: list[dict[str, Any]] = []
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    rows.append(dict(json.loads(line)))
            shares = [float(row.pop("weight", 1)) for row in rows]
            total = sum(shares)
            if rows and not (min(shares) >= 0 and 0 < total < float("inf")):
                raise ValueError("weights are numbers >= 0, one of them greater")
        except (OSError, ValueError, TypeError) as error:
            self.findings.add(codes.BAD_TRACE, w.span, path=w.path, why=error)
            return []
        out = []
        for n, row in enumerate(rows, 1):
            share = shares[n - 1] / total * float(w.weight.value)
            unknown = set(row) - set(self.out.sizes) - scalars - set(self.out.types)
            missing = set(self.out.sizes) - set(row)
            wrong = [k for k in self.out.sizes if k in row and not _whole(row[k])]
            wrong += [k for k in sorted(scalars) if k in row and not _number(row[k])]
            if unknown or missing or wrong:
                why = f"line {n} " + (
                    f"binds {min(unknown)}"
                    if unknown
                    else f"gives no {min(missing)}"
                    if missing
                    else f"gives {wrong[0]} = {row[wrong[0]]!r}"
                )
                self.findings.add(codes.BAD_TRACE, w.span, path=w.path, why=why)
                return []
            out.append(
                Workload(
                    f"{Path(w.path).stem}_{n}",
                    share,
                    {k: int(row[k]) for k in self.out.sizes},
                    {k: v for k, v in row.items() if k in scalars},
                    {k: str(v) for k, v in row.items() if k in self.out.types},
                    {},
                )
            )
        return out


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float)
