"""Contracts as text: sizes, bounds of values, preconditions, claims and laws as Python functions.

What `compiler/testgen.py` writes beside the reference. Nothing here decides what is tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from opwright.backends.jax.plain import Printed, PrintError, print_plain, scalar_text
from opwright.backends.jax.scalar import identifier
from opwright.ir.clauses import bound_of
from opwright.ir.dtypes import BOOL, F64, I64, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjuncts,
    free_vars,
    read_parts,
    show,
    size,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import Clause, Law, OpAxis, Operator, Tensor
from opwright.ir.semantics import ROWS
from opwright.verify.draw import _Rule, _rules

SLACK = 4.0  # times the tolerance, for claims that compare results with each other


@dataclass(slots=True)
class Texts:
    """Functions that were printed so far, and what could not be printed."""

    functions: list[Printed] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, op: Operator, name: str, doc: str) -> tuple[str, tuple[str, ...]]:
        """Print an operator as a function; its name and what it reads, in order."""
        printed = print_plain(op, name, doc)
        self.functions.append(printed)
        reads = [t.name for t in op.inputs] + [p.name for p in op.params] + list(op.free_sizes)
        return printed.name, tuple(reads)


def names_text(names: Sequence[str]) -> str:
    return f"({', '.join(map(repr, names))}{',' if len(names) == 1 else ''})"


def arguments_of(op: Operator) -> str:
    """All sizes and params, as the arguments of a printed formula."""
    return ", ".join(identifier(n) for n in (*op.sizes, *(p.name for p in op.params)))


# -- one expression as an operator -----------------------------------------------------------------


def synthetic(
    op: Operator,
    body: Expr,
    axes: Sequence[OpAxis] = (),
    more: Mapping[str, Tensor] | None = None,
    dtype: DType | None = None,
) -> Operator:
    """An operator whose one output is this expression over the tensors of `op` and `more`.

    Outputs of `op` are inputs of it; locals are defined again.
    """
    known = {t.name: t for t in (*op.inputs, *op.tensors)}
    known.update(more or {})
    inputs: dict[str, Tensor] = {}
    locals_: dict[str, Tensor] = {}

    def visit(e: Expr) -> None:
        for x in walk(e):
            if x.op != "read":
                continue
            t = known[read_parts(x)[0]]
            if t.role == "output" or t.body is None:
                inputs[t.name] = replace(t, role="input", body=None, recurrence=None, updates=None,
                                         guard=TRUE)  # fmt: skip
            elif t.name not in locals_:
                group = [known[n] for n in t.recurrence.group] if t.recurrence else [t]
                locals_.update({u.name: replace(u, role="local") for u in group})
                for u in group:
                    assert u.body is not None
                    visit(u.body)
                    if u.recurrence is not None:
                        visit(u.recurrence.init)

    visit(body)
    for a in axes:
        visit(a.lo)
        visit(a.hi)
    kinds = {"real": F64, "int": I64, "bool": BOOL}
    out = Tensor("result", dtype or kinds[body.kind], tuple(axes), body, "output")
    order = list(known)
    given = tuple(inputs[n] for n in sorted(inputs, key=order.index))
    done = tuple(locals_[n] for n in sorted(locals_, key=order.index))
    used: set[tuple[str, str]] = set()
    for t in (*given, *done, out):
        parts = [e for a in t.axes for e in (a.lo, a.hi)] + [t.guard]
        parts += [] if t.body is None else [t.body]
        parts += [] if t.recurrence is None else [t.recurrence.init]
        used |= {(x.op, x.attr) for e in parts for x in walk(e) if x.op in ("size", "param")}
    return Operator(
        name=op.name, version=op.version, doc=None, types=op.types,
        sizes=tuple(s for s in op.sizes if ("size", s) in used), lets={},
        params=tuple(replace(p, default=None) for p in op.params if ("param", p.name) in used),
        facts=tuple(f for f in op.facts if _speaks_of(f) <= used), inputs=given,
        tensors=(*done, out),
    )  # fmt: skip


def _speaks_of(e: Expr) -> set[tuple[str, str]]:
    return {(x.op, x.attr) for x in walk(e) if x.op in ("size", "param")}


# -- sizes -----------------------------------------------------------------------------------------


def legal_text(op: Operator) -> list[str]:
    """The function that says whether sizes and params satisfy `where`."""
    own = [p for f in op.facts for p in conjuncts(f) if not any(x.op == "read" for x in walk(p))]
    lines = [f"def legal({arguments_of(op)}):", '    """The `where` clauses of the spec."""']
    parts = list(dict.fromkeys(scalar_text(f) for f in own))
    if not parts:
        return [*lines, "    return True"]
    lines += ["    return ("]
    lines += [f"        {'and ' if n else ''}({p})" for n, p in enumerate(parts)]
    return [*lines, "    )"]


def shapes_text(op: Operator) -> list[str]:
    """The function that gives the shape of every input and output."""
    lines = [f"def shapes({arguments_of(op)}):", '    """Shapes of inputs and results."""']
    lines.append("    return {")
    for t in (*op.inputs, *op.outputs):
        inside = ", ".join(scalar_text(s) for s in t.shape)
        lines.append(f'        "{t.name}": ({inside}{"," if len(t.shape) == 1 else ""}),')
    return [*lines, "    }"]


def roundings_text(op: Operator) -> list[str]:
    """The function that counts the roundings of a sensible evaluation."""
    constant, lengths = 4.0, []
    for t in op.tensors:
        assert t.body is not None
        zero = {var(a.name): ZERO for a in t.axes}
        if t.recurrence is not None:
            axis = next(a for a in t.axes if a.name == t.recurrence.axis)
            lengths.append(_length([axis.hi], zero, 1))
        for x in walk(t.body):
            if x.op in ROWS and x.kind == "real":
                constant += ROWS[x.op].ulp
            elif x.op == "fold":
                lengths.append(_length([hi - lo for lo, hi in Fold(x).ranges], zero, 64))
    lines = [f"def roundings({arguments_of(op)}):"]
    lines += ['    """How many roundings a result collects: a root of the length of every sum."""']
    terms = [repr(constant), *(f"2 * math.sqrt({n})" for n in lengths)]
    return [*lines, "    return (", *(f"        {'+ ' if n else ''}{t}"
                                      for n, t in enumerate(terms)), "    )"]  # fmt: skip


def _length(ranges: Iterable[Expr], zero: Mapping[Expr, Expr], least: int) -> str:
    factors = []
    for e in ranges:
        try:
            factors.append(f"max({scalar_text(substitute(e, zero))}, 1)")
        except PrintError:
            factors.append("64")
    return f"max({' * '.join(factors)}, {least})"


def work_text(op: Operator, operators: Sequence[Operator]) -> list[str]:
    """The function that says how large the arrays are that the printed functions make."""
    terms: dict[str, None] = {}
    for own in operators:
        for t in own.tensors:
            ranges = {a.name: (a.lo, a.hi) for a in t.axes}
            terms[_extents(ranges)] = None
            assert t.body is not None
            for x in walk(t.body):
                if x.op == "fold":
                    ranges.update(zip(x.attr.binders, Fold(x).ranges, strict=True))
            for x in walk(t.body):
                if x.op == "fold":
                    names = {*free_vars(x), *free_vars(x.args[-1]), *x.attr.binders}
                    terms[_extents({n: ranges[n] for n in ranges if n in names}, ranges)] = None
    lines = [
        f"def work({arguments_of(op)}):",
        '    """Elements of the largest array in between."""',
    ]
    return [
        *lines,
        "    return max(",
        *(f"        {t}," for t in terms if t),
        "        1,",
        "    )",
    ]


def _extents(ranges: Mapping[str, tuple[Expr, Expr]], outer: Mapping[str, tuple[Expr, Expr]]
             | None = None) -> str:  # fmt: skip
    """The product of the widest extents of ranges."""
    known = outer or ranges
    factors = []
    for lo, hi in ranges.values():
        for _ in range(4):  # bounds speak of indices further out
            hi = substitute(hi, {var(n): h - 1 for n, (_, h) in known.items()})
            lo = substitute(lo, {var(n): low for n, (low, _) in known.items()})
        try:
            low, high = scalar_text(lo), scalar_text(hi)
            factors.append(f"max({high}, 1)" if low == "0" else f"max({high} - ({low}), 1)")
        except PrintError:
            factors.append("64")
    return " * ".join(sorted(factors))


def derived_sizes(op: Operator) -> dict[str, Expr]:
    """Sizes that an equation of `where` gives from others."""
    out: dict[str, Expr] = {}
    for f in (p for whole in op.facts for p in conjuncts(whole)):
        if f.op != "eq":
            continue
        for a, b in (f.args, f.args[::-1]):
            plain = not any(x.op in ("read", "var") for x in walk(b))
            names = {x.attr for x in walk(b) if x.op == "size"}
            if a.op == "size" and plain and a.attr not in names and a.attr not in out:
                if not names & set(out):
                    out[a.attr] = b
                    break
    return out


# -- values ----------------------------------------------------------------------------------------


def inputs_text(op: Operator, dtypes: Mapping[str, str], texts: Texts) -> list[str]:
    """The declarations of the inputs, with the bounds that `requires` puts on their values."""
    rules = _rules(op)
    lines = []
    for t in op.inputs:
        parts = [f'"{t.name}"', f'"{dtypes[t.name]}"']
        parts += _rule_text(op, t, rules[t.name], texts)
        lines.append(f"Input({', '.join(parts)}),")
    return lines


def _rule_text(op: Operator, t: Tensor, rule: _Rule, texts: Texts) -> list[str]:
    parts = []
    for side, what in (("low", rule.low), ("high", rule.high)):
        found = []
        for n, (e, strict, names) in enumerate(what):
            axes = tuple(OpAxis(a, ZERO, t.shape[k]) for k, a in enumerate(names))
            text = _bound(op, e, axes, f"{side}_{t.name}_{n}", texts, strict)
            found += [text] if text else []
        found = list(dict.fromkeys(found))
        if found:
            parts.append(f"{side}=({', '.join(found)},)")
    if rule.ascending:
        parts.append(f"ascending={tuple(rule.ascending)!r}")
    fixed = []
    for n, (index, e) in enumerate(rule.fixed):
        if not any(x.op == "read" for x in walk(e)):
            places = [_bound(op, i, (), f"place_{t.name}_{n}", texts) for i in index]
            comma = "," if len(places) == 1 else ""
            fixed.append(f"(({', '.join(places)}{comma}), "
                         f"{_bound(op, e, (), f'fixed_{t.name}_{n}', texts)})")  # fmt: skip
    if fixed:
        parts.append(f"fixed=({', '.join(fixed)},)")
    total = [
        f"({axis}, {_bound(op, e, (), f'total_{t.name}_{n}', texts)})"
        for n, (axis, e) in enumerate(rule.total)
    ]
    if total:
        parts.append(f"total=({', '.join(total)},)")
    if rule.symmetric:
        parts.append(f"symmetric={tuple(rule.symmetric)!r}")
    if rule.distinct:
        parts.append("distinct=True")
    return parts


def _bound(
    op: Operator, e: Expr, axes: Sequence[OpAxis], name: str, texts: Texts, strict: bool = False
) -> str:
    """A bound as text; empty for one that cannot be printed."""
    tail = ", True" if strict else ""
    if e.op == "const":
        return f"Bound({scalar_text(e)}{tail})"
    try:
        code = scalar_text(e)
        used = sorted({x.attr for x in walk(e) if x.op in ("size", "param")})
        arguments = ", ".join(map(identifier, used))
        return f"Bound(lambda {arguments}: {code}, {strict}, {names_text(used)})"
    except PrintError:
        pass
    try:
        real = e if e.kind == "real" else call("toreal", e) if e.kind == "int" else e
        own = synthetic(op, real, axes)
        side = name.partition("_")[0]
        printed, reads = texts.add(own, name, f"The {side} end of an input's range: {show(e)}.")
    except PrintError as error:
        texts.left_out.append(f"bound {show(e)}: {error}")
        return ""
    return f"Bound({printed}, {strict}, {names_text(reads)})"


# -- claims ----------------------------------------------------------------------------------------


def claim_text(
    op: Operator, clause: Clause, name: str, texts: Texts, more: Mapping[str, Tensor] | None = None
) -> str | None:
    """A condition of the contract as a printed function; None for one that has no array code."""
    assert clause.expr is not None
    wide = clause.kind != "requires"
    e = transform(clause.expr, lambda x: _widened(op, clause, x, wide))
    try:
        printed, reads = texts.add(synthetic(op, e, (), more), name, _one_line(show(clause.expr)))
    except PrintError as error:
        texts.left_out.append(f"{clause.kind} {clause.name}: {error}")
        return None
    text = repr(_one_line(show(clause.expr)))
    return f'Claim("{clause.name}", {printed}, {names_text(reads)}, {text})'


def _one_line(text: str) -> str:
    text = " ".join(text.split()).replace("\\", "")
    return text if len(text) <= 76 else f"{text[:73]}..."


def _widened(op: Operator, clause: Clause, e: Expr, wide: bool) -> Expr | None:
    """A comparison of real numbers that leaves room for rounding."""
    if e.op not in ("lt", "le", "eq", "approx"):
        return None
    a, b = e.args
    if wide and not _compares_results(op, e):
        return None if e.op != "approx" else call("eq", a, b)
    if a.kind != "real" and b.kind != "real":
        return call("eq", a, b) if e.op == "approx" else None
    bound = dict(bound_of(op, clause, e))
    if wide:
        for k, v in _tolerance(op, e).items():
            bound[k] = bound.get(k, 0.0) + SLACK * v
    if "ulp" in bound:
        widths = [t.dtype.epsilon for t in op.outputs if t.kind == "real"] or [2.0**-23]
        bound["rel"] = bound.get("rel", 0.0) + bound.pop("ulp") * max(widths)
    if not any(bound.values()):
        return call("eq", a, b) if e.op == "approx" else None
    room = call("abs", b) * bound.get("rel", 0.0) + bound.get("abs", 0.0)
    if e.op in ("eq", "approx"):
        return call("or", call("eq", a, b), call("le", call("abs", a - b), room))
    return call("or", call("le", a, b), call("le", a - b, room))


def _compares_results(op: Operator, e: Expr) -> bool:
    """Whether results stand in a comparison: a guard over inputs is taken as it is."""
    outputs = {t.name for t in op.outputs}
    return any(x.op == "read" and read_parts(x)[0].rpartition(".")[2] in outputs for x in walk(e))


def _tolerance(op: Operator, e: Expr) -> dict[str, float]:
    """The tolerance of the results that a comparison reads."""
    outputs = {t.name: t for t in op.outputs if t.kind == "real"}
    best: dict[str, float] = {}
    for x in walk(e):
        name = read_parts(x)[0].rpartition(".")[2] if x.op == "read" else ""
        if name in outputs:
            d = outputs[name].dtype
            rule = op.tolerance.get(d.name) or {"abs": 64 * d.epsilon, "rel": 64 * d.epsilon}
            for k, v in rule.items():
                best[k] = max(best.get(k, 0.0), v)
    return best


def law_text(op: Operator, clause: Clause, texts: Texts) -> list[str] | None:
    """A law as text: what is drawn, how it calls the operator, what it claims."""
    form = clause.source
    if not isinstance(form, Law) or clause.expr is None:
        return None
    more: dict[str, Tensor] = {}
    lines = []
    mark = len(texts.functions)
    try:
        for a in form.args:
            axes = tuple(OpAxis(f"{a.name}__{k}", ZERO, s) for k, s in enumerate(a.shape))
            more[a.name] = Tensor(a.name, a.dtype if a.kind == "sample" else I64, axes, None,
                                  "input")  # fmt: skip
            ends = [None if e is None else _formula(op, e) for e in (a.lo, a.hi)]
            inside = ", ".join(scalar_text(s) for s in a.shape)
            shape = f"lambda {arguments_of(op)}: ({inside}{',' if len(a.shape) == 1 else ''})"
            lines.append(
                f'Argument("{a.name}", "{a.kind}", "{a.dtype}", {shape}, {ends[0]}, {ends[1]}),'
            )
        more.update({t.name: t for t in form.tensors})
        calls = []
        for c in form.calls:
            made = []
            for t, target in zip(c.inputs, op.inputs, strict=True):
                assert t.body is not None
                own = synthetic(op, t.body, t.axes, more)
                name = f"{clause.name}_{c.name}_{target.name}".replace(".", "_")
                printed, reads = texts.add(own, name, f"{target.name} of a call of {clause.name}.")
                made.append(f"({printed}, {names_text(reads)})")
            scalars = []
            for key, e in (*c.sizes.items(), *c.params.items()):
                try:
                    used = sorted({x.attr for x in walk(e) if x.op in ("size", "param")})
                    text = f"lambda {', '.join(map(identifier, used))}: {scalar_text(e)}"
                except PrintError:
                    own = synthetic(op, e, (), more)
                    text, reads = texts.add(own, f"{clause.name}_{c.name}_{key}", f"{key}.")
                    used = list(reads)
                scalars.append(f'"{key}": ({text}, {names_text(used)})')
            calls.append(f'LawCall("{c.name}", ({", ".join(made)},), {{{", ".join(scalars)}}}),')
            renamed = {size(k): e for k, e in c.sizes.items()}
            for t in op.outputs:
                axes = tuple(
                    OpAxis(f"{x.name}__{c.name}", substitute(x.lo, renamed),
                           substitute(x.hi, renamed)) for x in t.axes
                )  # fmt: skip
                more[f"{c.name}.{t.name}"] = Tensor(f"{c.name}.{t.name}", t.dtype, axes, None,
                                                    "input")  # fmt: skip
        claim = claim_text(op, clause, f"law_{clause.name}", texts, more)
    except (PrintError, KeyError) as error:
        texts.left_out.append(f"law {clause.name}: {error}")
        claim = None
    if claim is None:
        del texts.functions[mark:]
        return None
    text = repr(_one_line(show(clause.expr)))
    return [
        f'Law("{clause.name}", {text}, (',
        *(f"    {line}" for line in lines),
        "), (",
        *(f"    {line}" for line in calls),
        f"), {claim}),",
    ]


def _formula(op: Operator, e: Expr) -> str:
    return f"lambda {arguments_of(op)}: {scalar_text(e)}"
