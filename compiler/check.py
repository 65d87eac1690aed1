"""Check a spec: syntax, names, types and shapes, then the obligations of its own text.

`check` never raises for what a person wrote: everything wrong is a diagnostic, and every obligation
that inspection did not settle is a record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opwright.compiler import codes
from opwright.compiler.blame_ranges import Refuted, relocated
from opwright.compiler.check_claims import check_claims, trial_text
from opwright.compiler.check_domains import REAL, Domains
from opwright.compiler.contradiction import excluded
from opwright.compiler.decide import Answer, Decider
from opwright.compiler.elaborate import Elaborated, Spec, bindings, parse_spec, repeated
from opwright.compiler.gradients import check_gradients
from opwright.compiler.obligations import Obligation, collect
from opwright.compiler.scope import Interval
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import Diagnostic, DiagnosticError, diagnose, in_order
from opwright.grammar.parser import decode
from opwright.ir.expr import (
    Expr,
    ExprError,
    Fold,
    conjunction,
    const,
    evaluate,
    read_parts,
    rebuild,
    reduction,
    show,
    walk,
)
from opwright.ir.op import Law
from opwright.ir.record import Record
from opwright.verify.falsify import Falsifier

CLAUSES = {codes.FALSE_ENSURES, codes.FALSE_LAW}
BINDINGS = 32  # combinations of type variables that are elaborated, per operator


@dataclass(frozen=True, slots=True)
class Place:
    """Where an obligation comes from: its operator, its name and kind there, its line."""

    operator: str
    name: str
    kind: str  # as in the ids: where, extent, range, empty, ..., ensures, law, gradient
    line: int


@dataclass(frozen=True, slots=True, eq=False)
class CheckResult:
    """What was found: diagnostics in the order of the text, and one record per obligation."""

    filename: str
    diagnostics: tuple[Diagnostic, ...]
    obligations: tuple[Record, ...]
    operators: tuple[Elaborated, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    places: tuple[Place, ...] = ()  # one for each obligation

    @property
    def ok(self) -> bool:
        return not any(d.severity == "error" for d in self.diagnostics)


def check(path: str | Path) -> CheckResult:
    """Check a file; raises OSError when it cannot be read."""
    data = Path(path).read_bytes()
    try:
        text = decode(data, str(path))
    except DiagnosticError as error:
        return CheckResult(str(path), tuple(error.diagnostics), ())
    return check_text(text, str(path))


def check_text(text: str, filename: str = "<string>") -> CheckResult:
    """As `check`, of a text."""
    try:
        spec = parse_spec(text, filename)
    except DiagnosticError as error:
        return CheckResult(filename, tuple(error.diagnostics), (), (), {filename: text})
    found: list[Diagnostic] = repeated(spec.module)
    made: list[tuple[Record, Place]] = []
    operators: list[Elaborated] = []
    for syntax in spec.module.ops:
        elaborated = _elaborate(spec, syntax.name, found)
        if elaborated is not None:
            operators.append(elaborated)
            settled, wrong = check_operator(elaborated)
            made += settled
            found += wrong
            if all(d.code in CLAUSES for d in wrong if d.severity == "error"):
                records, wrong = check_gradients(spec, elaborated)
                line = elaborated.syntax.name_span.line
                lines = {_gradient(g): g.span.line for g in elaborated.syntax.grads}
                for r in records:
                    name = r.id.removeprefix("gradient.")
                    place = Place(syntax.name, name, "gradient", lines.get(name, line))
                    made.append((r, place))
                found += wrong
    sources = {**spec.library.sources, filename: text}
    return CheckResult(
        filename,
        tuple(in_order(found)),
        tuple(r for r, _ in made),
        tuple(operators),
        sources,
        tuple(p for _, p in made),
    )


def _gradient(grad: Any) -> str:
    return "_".join(n.name for n in grad.names)


def _elaborate(spec: Spec, name: str, found: list[Diagnostic]) -> Elaborated | None:
    """The operator at its default binding, after every binding was tried."""
    syntax = next(o for o in spec.module.ops if o.name == name)
    first: Elaborated | None = None
    for n, types in enumerate(bindings(syntax)[:BINDINGS]):
        try:
            elaborated = spec.elaborated(name, types)
        except DiagnosticError as error:
            found += _with_reads(spec, syntax, types, error.diagnostics)
            return None
        if n == 0:
            first = elaborated
    return first


def _with_reads(
    spec: Spec, op: ast.Op, types: Mapping[str, str], found: list[Diagnostic]
) -> list[Diagnostic]:
    """What is wrong, reads of `def` included where the mistakes are those of clauses alone.

    A clause whose shapes disagree may tell of a declaration, which the reads then show.
    """
    spans = [d.span for d in found]
    wrong = [i for i in op.items if isinstance(i, ast.Ensures | ast.Law)
             and any(i.span.start <= s.start and s.end <= i.span.end for s in spans)]  # fmt: skip
    inside = [any(i.span.start <= s.start and s.end <= i.span.end for i in wrong) for s in spans]
    if not all(inside) or not any(d.code == codes.WRONG_SHAPE for d in found):
        return found
    rest = replace(op, items=tuple(i for i in op.items if i not in wrong))
    module = replace(spec.module, ops=tuple(rest if o is op else o for o in spec.module.ops))
    try:
        e = Spec(module, spec.source).elaborated(op.name, types)
    except DiagnosticError:
        return found
    _, more = check_operator(e, claims=False)
    more = [d for d in more if d.code == codes.OUT_OF_RANGE]
    return more or found


def check_operator(
    e: Elaborated, claims: bool = True
) -> tuple[list[tuple[Record, Place]], list[Diagnostic]]:
    """Decide the obligations of one operator: a record for each, a diagnostic for refuted ones."""
    op = e.operator
    decider = Decider(op)
    made: list[tuple[Record, Place]] = []
    found: list[Diagnostic] = []
    answer = decider.satisfiable()
    span = next(iter(e.syntax.wheres)).span if e.syntax.wheres else e.syntax.name_span
    if answer.status == "REFUTED":
        first = excluded(op.facts, op.sizes, op.params)
        span = e.places.get(f"where {first}", span)
    place = Place(op.name, "where", "where", span.line)
    made.append((_record("spec.where", answer, op.digest, None), place))
    if answer.status == "REFUTED":
        found.append(diagnose(codes.CONTRADICTION, span, e.filename))
        return made, found
    laws = {c.name: c.source for c in op.clauses if isinstance(c.source, Law)}
    clauses = {c.name for c in op.clauses}
    pending: dict[str, list[str]] = {}  # what is not proved, by the clause that it belongs to
    if answer.status != "PROVED":
        pending[""] = ["spec.where"]
    falsifier = Falsifier(op)
    domains = Domains(e, falsifier)
    refuted: list[Refuted] = []
    broken: set[Span] = set()  # calls whose preconditions fail: what is copied from them may too
    for o in sorted(collect(e), key=lambda o: o.kind != "call"):
        if o.owner in e.origin and e.origin[o.owner][0] in broken:
            answer = Answer("UNKNOWN", "the call it comes from breaks a precondition")
        elif o.kind in REAL:
            begin = time.perf_counter()
            answer, wrong = domains.decide(o)
            answer = replace(answer, seconds=time.perf_counter() - begin)
            found += [] if wrong is None else [wrong]
        else:
            answer = decider.decide(o, laws.get(o.owner))
            if answer.status == "UNKNOWN":
                answer = _tried(e, o, falsifier) or answer
        if o.kind == "call" and answer.status == "REFUTED":
            broken.add(o.span)
        text = None
        if answer.status == "REFUTED" and o.kind in REAL:
            text = answer.reason
        elif answer.status == "REFUTED":
            case = answer.reason.removeprefix("replayed on a generated case: ")
            text = case if case != answer.reason else witness(e, o, answer)
            refuted.append(Refuted(o, answer, _diagnostic(e, o, answer, text)))
        if answer.status != "PROVED":
            pending.setdefault(o.owner if o.owner in clauses else "", []).append(o.id)
        place = Place(op.name, o.owner, o.kind, o.span.line)
        made.append((_record(o.id, answer, op.digest, text, o.what), place))
    found += relocated(e, refuted)
    if claims and not any(d.severity == "error" for d in found):
        for claimed in check_claims(e, falsifier, pending):
            kind = claimed.clause.kind
            line = claimed.place.line
            made.append((claimed.record, Place(op.name, claimed.clause.name, kind, line)))
            found += [] if claimed.wrong is None else [claimed.wrong]
    return made, found


def _tried(e: Elaborated, o: Obligation, falsifier: Falsifier) -> Answer | None:
    """A counterexample among generated cases, to what depends on values that z3 does not know."""
    inside = o.owner in {t.name for t in e.operator.tensors} - set(e.origin)
    if o.undecided or not inside or o.kind not in ("range", "empty"):
        return None
    goal = o.goal
    if o.exists:
        names, ranges = zip(*o.exists, strict=True)
        goal = reduction("any", names, ranges, goal)
    found, _ = falsifier.breaks(o.ranges, o.assume, goal, falsifier.inputs())
    if found is None:
        return None
    values = {**found.trial.sizes, **found.trial.params, **found.indices}
    text = trial_text(e, None, found, conjunction([goal, *o.assume]))
    return Answer("REFUTED", f"replayed on a generated case: {text}", values)


def _record(id: str, answer: Answer, subject: str, witness: str | None, what: str = "") -> Record:
    reason = f"{what}: {answer.reason}" if what else answer.reason
    counterexample: dict[str, Any] | None = None
    if answer.status == "REFUTED":
        counterexample = {"text": witness or "", "values": dict(answer.values)}
    return Record(id, "spec", answer.status, reason, subject, (), counterexample, answer.seconds)


# -- counterexamples in the spec's own names ------------------------------------------------------


def witness(e: Elaborated, o: Obligation, answer: Answer) -> str:
    """The sizes, params, indices and values of a counterexample, as in `N = 65, j = 64`."""
    order = [*e.operator.sizes, *(p.name for p in e.operator.params), *o.ranges]
    used = sorted(_relevant(o), key=lambda x: order.index(x.attr) if x.attr in order else 0)
    parts: dict[str, None] = {}
    for group in ("size", "param", "var"):
        for x in used:
            if x.op == group:
                name = e.display.get(x.attr, x.attr) if group == "var" else x.attr
                value = answer.names.get(x, answer.values.get(x.attr))
                if value is not None:
                    shown = str(value).lower() if isinstance(value, bool) else value
                    parts[f"{name} = {shown}"] = None
    for x in used:
        if x.op == "read" and x in answer.names:
            parts[f"{_read_text(x, answer)} = {answer.names[x]}"] = None
    return ", ".join(parts)


def _relevant(o: Obligation) -> list[Expr]:
    """Leaves and reads that an obligation depends on, ranges of its indices included."""
    out: dict[Expr, None] = {}
    pending = [o.goal, *o.assume, *([] if o.subject is None else [o.subject])]
    pending += [edge for _, r in o.exists for edge in r]
    hidden = {b for b, _ in o.exists}
    if o.subject is not None and o.subject.op == "fold":
        hidden |= set(o.subject.attr.binders)
    while pending:
        for x in walk(pending.pop()):
            if x.op == "fold":
                hidden |= set(x.attr.binders)
            if x in out or (x.op == "var" and x.attr in hidden):
                continue
            if x.op in ("size", "param", "var", "read"):
                out[x] = None
            if x.op == "var" and x.attr in o.ranges:
                pending += list(o.ranges[x.attr])
    return list(out)


def _number(x: Expr, answer: Answer) -> Any:
    """An integer expression at the counterexample; None when a part of it has no number."""

    def fill(y: Expr) -> Expr:
        if y in answer.names:
            return const(answer.names[y])
        return rebuild(y, tuple(fill(a) for a in y.args))

    try:
        return evaluate(fill(x), dict(answer.values))
    except (ExprError, KeyError):
        return None


def _read_text(x: Expr, answer: Answer) -> str:
    name, index, _ = read_parts(x)
    at = []
    for i in index:
        value = _number(i, answer)
        at.append(show(i) if value is None else str(value))
    return f"{name}[{', '.join(at)}]" if at else name


def _range_text(r: Interval, answer: Answer) -> str:
    return "..".join(str(_number(edge, answer)) for edge in r)


def _diagnostic(e: Elaborated, o: Obligation, answer: Answer, text: str) -> Diagnostic:
    prefix = text or "always"
    x = o.subject
    if o.kind == "range" and x is not None:
        name, _, _ = read_parts(x)
        t = next((t for t in (*e.operator.inputs, *e.operator.tensors) if t.name == name), None)
        shape = "its range" if t is None else _range_text(
            (t.axes[o.axis].lo, t.axes[o.axis].hi), answer
        )  # fmt: skip
        return diagnose(
            codes.OUT_OF_RANGE,
            o.span,
            e.filename,
            witness=prefix,
            read=_read_text(x, answer),
            range=shape,
        )
    if o.kind == "empty" and x is not None:
        return diagnose(
            codes.EMPTY_REDUCTION, o.span, e.filename, witness=prefix, kind=Fold(x).kind
        )
    if o.kind == "extent":
        t = e.operator.tensor(o.owner)
        axis = t.axes[o.axis]
        value = _number(axis.hi - axis.lo, answer)
        return diagnose(
            codes.NEGATIVE_EXTENT,
            o.span,
            e.filename,
            witness=prefix,
            axis=o.axis,
            name=o.owner,
            extent=value,
        )
    if o.kind == "call":
        op = o.owner.removeprefix("call of ")
        return diagnose(
            codes.BROKEN_PRECONDITION, o.span, e.filename, witness=prefix, op=op, fact=o.what
        )
    assert x is not None
    divisor = x.args[-1]
    if divisor.op == "const" and divisor.attr == 0:
        return diagnose(codes.DIVISION_BY_ZERO, o.span, e.filename)
    value = _number(divisor, answer)
    symbol = {"floordiv": "//", "mod": "%", "div": "/"}.get(x.op, x.op)
    return diagnose(
        codes.BAD_DIVISOR, o.span, e.filename, witness=prefix, op=symbol, value=_plain(value)
    )


def _plain(value: Any) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() else str(number)
