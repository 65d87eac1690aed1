"""NumPy source from OpIR: one readable function in float64, the meaning of an operator as text.

A dialect of the array printer: every real number is a float64, every integer an int64, roundings
that are meaning stay, windows are sums over gathered elements, and loops are loops. What the
printed text needs beyond NumPy is a handful of small functions, printed beside it on demand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from opwright.backends.jax.expressions import Scope, Stored
from opwright.backends.jax.folds import _turned
from opwright.backends.jax.printer import _Printer
from opwright.backends.jax.scalar import (
    ATOM,
    PHILOX,
    RANDOM,
    PrintError,
    Term,
    identifier,
    literal,
    operation,
)
from opwright.ir.dtypes import BOOL, F64, I64, DType, decode
from opwright.ir.expr import Expr, Fold, show, transform
from opwright.ir.op import OpAxis, Operator, Tensor

__all__ = ["PrintError", "Printed", "exact_operator", "module_text", "print_plain", "scalar_text"]

_F32 = np.array([np.finfo(np.float32).max])
_WIDE = {"real": F64, "int": I64, "bool": BOOL}
_MONOID = {"sum": ("np.add", "0"), "prod": ("np.multiply", "1"),
           "max": ("np.maximum", "-np.inf"), "min": ("np.minimum", "np.inf")}  # fmt: skip

HELPERS = {
    "erf": '''\
def erf(x):
    """The error function, element by element."""
    return np.vectorize(math.erf, otypes=[float])(x)
''',
    "sigmoid": '''\
def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)
''',
    "rsqrt": '''\
def rsqrt(x):
    """1 / sqrt(x)."""
    return 1 / np.sqrt(x)
''',
    "running": '''\
def running(combine, x, axis, reverse=False):
    """Prefixes of x along an axis, combined by a ufunc; suffixes when reversed."""
    x = np.flip(x, axis) if reverse else x
    out = combine.accumulate(x, axis=axis)
    return np.flip(out, axis) if reverse else out
''',
    "scatter": '''\
def scatter(combine, empty, values, rows, count, outer, inner):
    """Combine values by the row numbers they go to; numbers outside 0..count go nowhere.

    The first `outer` axes of both are kept, the next `inner` ones are combined over.
    """
    values, rows = np.asarray(values), np.asarray(rows)
    kept, rest = values.shape[:outer], values.shape[outer + inner :]
    batch, length = math.prod(kept), math.prod(values.shape[outer : outer + inner])
    flat = values.reshape((batch, length) + rest)
    places = np.broadcast_to(rows, values.shape[: outer + inner]).reshape(batch, length)
    out = np.full((batch, count) + rest, empty, values.dtype)
    first, second = np.nonzero((places >= 0) & (places < count))
    combine.at(out, (first, places[first, second]), flat[first, second])
    return out.reshape(kept + (count,) + rest)
''',
    "scan": '''\
def scan(step, state, rows):
    """Run a recurrence over the leading axis of its rows; the states of all steps, stacked."""
    several = isinstance(rows, tuple)
    length = len(rows[0] if several else rows)
    parts = state if isinstance(state, tuple) else (state,)
    found = []
    for n in range(length):
        state, new = step(state, tuple(r[n] for r in rows) if several else rows[n])
        found.append(new if isinstance(new, tuple) else (new,))
    stacked = tuple(
        np.stack([row[k] for row in found]) if found else np.zeros((0, *np.shape(part)))
        for k, part in enumerate(parts)
    )
    return state, stacked if isinstance(state, tuple) else stacked[0]
''',
    "first_of": '''\
def first_of(choose, x, axis):
    """The place that np.argmax or np.argmin finds, -1 of nothing."""
    x = np.asarray(x)
    if x.shape[axis] == 0:
        return np.full(x.shape[:axis] + x.shape[axis + 1 :], -1)
    return choose(x, axis=axis)
''',
    "rounded": '''\
def rounded(x, least, mantissa, top, beyond):
    """x rounded to a type with this least exponent, fraction bits and largest value."""
    x = np.asarray(x, float)
    power = np.frexp(np.where(np.isfinite(x), x, 0))[1] - 1
    unit = np.ldexp(1.0, np.maximum(power, least) - mantissa)
    out = np.where(np.isfinite(x), np.rint(x / unit) * unit, x)
    return np.where(np.abs(out) > top, np.copysign(beyond, x), out)
''',
}


def exact_operator(op: Operator) -> Operator:
    """The operator over float64 and int64: casts of real numbers are the identity."""
    memo: dict[Expr, Expr] = {}

    def exact(e: Expr) -> Expr:
        return transform(e, _uncast, memo)

    def wide(t: Tensor) -> Tensor:
        axes = tuple(OpAxis(a.name, exact(a.lo), exact(a.hi)) for a in t.axes)
        body = None if t.body is None else exact(t.body)
        rec = t.recurrence
        rec = None if rec is None else replace(rec, init=exact(rec.init))
        return replace(t, dtype=_WIDE[t.kind], axes=axes, body=body, recurrence=rec,
                       guard=exact(t.guard))  # fmt: skip

    return replace(op, inputs=tuple(map(wide, op.inputs)), tensors=tuple(map(wide, op.tensors)))


def _uncast(e: Expr) -> Expr | None:
    if e.op == "cast" and e.kind == "real":
        return e.args[0]
    return None


@dataclass(frozen=True, slots=True)
class Printed:
    """A function as text, and the names of the helpers that it calls."""

    name: str
    code: str
    helpers: tuple[str, ...]
    arguments: tuple[str, ...]


def print_plain(op: Operator, name: str = "", doc: str = "") -> Printed:
    """One NumPy function of the inputs, the params and the sizes that no shape fixes.

    PrintError names a form that has no array code.
    """
    printer = _Plain(exact_operator(op))
    printer.title, printer.wanted = doc, name
    code = printer.module()
    used = [h for h in (*HELPERS, *RANDOM) if re.search(rf"\b{h}\(", code)]
    return Printed(printer.wanted, code, tuple(used), tuple(printer.arguments))


def module_text(doc: str, functions: list[Printed]) -> str:
    """A module that holds these functions and the helpers they need."""
    used = {h for f in functions for h in f.helpers}
    parts = [text for name, text in HELPERS.items() if name in used]
    random = [text for name, text in RANDOM.items() if name in used]
    if random:
        parts += [_numpy(t.replace("REAL", "float")) for t in (PHILOX, *random)]
    parts += [f.code for f in functions]
    body = "\n\n".join(p.rstrip("\n") + "\n" for p in parts)
    head = ["import math", ""] if "math." in body else []
    return "\n".join([f'"""{doc}"""', "", *head, "import numpy as np", "", "", body])


class _Plain(_Printer):
    """The array printer, with NumPy's names and without what NumPy does not have."""

    title = ""
    wanted = ""

    def __init__(self, op: Operator) -> None:
        super().__init__(op)
        self.f64, self.real = True, "float"
        for taken in (*HELPERS, *RANDOM, "np", "math"):
            self.names.fresh(taken)

    def _text(self, body: list[str]) -> str:
        signature = self._signature()
        self.arguments = [p.partition("=")[0].strip() for p in signature.split(",") if p.strip()]
        self.wanted = self.wanted or self.names.fresh("reference")
        text = (self.title or self.op.doc or self.op.name).replace("\\", "").replace('"', "'")
        lines = [f"def {self.wanted}({signature}):", f'    """{text}"""']
        lines += [f"    {line}" for line in self._head() + body]
        return _numpy("\n".join(lines) + "\n")

    # -- what NumPy has no function for -----------------------------------------------------------

    def convolution(self, f: Fold, scope: Scope) -> Term | None:
        return None

    def pooled(self, f: Fold, scope: Scope) -> Term | None:
        return None

    def band(self, *args: object) -> Term | None:
        return None

    def _round(self, t: Term, to: DType) -> Term:
        if to.bits >= 64:
            return t
        codes = decode(np.arange(2**to.bits, dtype=to.storage), to) if to.bits <= 16 else _F32
        top = float(np.max(codes, where=np.isfinite(codes), initial=0))
        beyond = {"ieee": "np.inf", "none": repr(top)}.get(to.finite, "np.nan")
        code = f"rounded({t.code}, {1 - to.bias}, {to.mantissa}, {top!r}, {beyond})"
        return Term(code, t.axes, t.kind)

    def _toreal(self, t: Term) -> Term:
        if t.static:
            plain = re.fullmatch(r"-?\d+", t.code)
            code = f"{t.code}.0" if plain else f"np.float64({t.code})"
            return Term(code, (), "real", ATOM, None, True)
        return super()._toreal(t)

    def _output(self, t: Tensor, stored: Stored) -> str:
        return stored.code

    def _by_segment(
        self, f: Fold, value: Term, gone: tuple[str, ...], v: str, row: Term, count: str,
        scope: Scope,
    ) -> Term:  # fmt: skip
        assert f.kind is not None
        batch = tuple(a for a in row.axes if a not in gone)
        rest = tuple(a for a in value.axes if a not in gone and a not in batch)
        value = self._over(value, {*batch, *gone}, scope.bind(dict(zip(f.binders, f.ranges,
                           strict=True))))  # fmt: skip
        combine, empty = _MONOID[f.kind]
        if value.kind == "int" and f.kind in ("max", "min"):
            empty = f"np.iinfo(int).{'min' if f.kind == 'max' else 'max'}"
        code = _turned(value, (*batch, *gone, *rest))
        rows = _turned(row, (*batch, *gone))
        text = f"scatter({combine}, {empty}, {code}, {rows}, {count}, {len(batch)}, {len(gone)})"
        return self._ordered(Term(text, (*batch, v, *rest), value.kind, ATOM, value.dtype), scope)


def _numpy(code: str) -> str:
    """The text in NumPy's names."""
    code = re.sub(r",\s*precision=lax\.Precision\.HIGHEST", "", code)
    code = re.sub(r",\s*preferred_element_type=[\w.]+", ", optimize=True", code)
    for kind, (combine, _) in _MONOID.items():
        code = code.replace(f"lax.cum{kind}(", f"running({combine}, ")
    code = re.sub(r"\bjnp\.(argmax|argmin)\(", r"first_of(np.\1, ", code)
    code = code.replace("lax.scan(", "scan(").replace("lax.erf(", "erf(")
    code = code.replace("lax.rsqrt(", "rsqrt(").replace("jax.nn.sigmoid(", "sigmoid(")
    code = code.replace("@jax.jit\n", "").replace(", stable=True)", ', kind="stable")')
    code = code.replace("jnp.", "np.")
    left = re.search(r"\b(lax|jax)\.\w+", code)
    if left:
        raise PrintError(f"NumPy has no {left.group()}")
    return code


def scalar_text(e: Expr) -> str:
    """A number of sizes and params as Python text; PrintError for what reads arrays."""
    return _scalar(e).code.replace("jnp.inf", "math.inf").replace("jnp.nan", "math.nan")


def _scalar(e: Expr) -> Term:
    if e.op == "const":
        return literal(e)
    if e.op in ("size", "param"):
        return Term(identifier(e.attr), (), e.kind, ATOM, None, True)
    if e.op in ("toreal", "cast"):
        return _scalar(e.args[0])
    if e.op in ("read", "fold", "var", "state", "round"):
        raise PrintError(f"{show(e)} is no number of sizes and params")
    return operation(e.op, [_scalar(a) for a in e.args], (), e.kind)
