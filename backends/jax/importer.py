"""OpIR from a JAX function: its jaxpr, traced in another process, read as index notation.

Sizes stay symbolic where the function can be traced so: the result then holds for all shapes with
sizes of at least 1. Otherwise sizes are pinned to given numbers. What was pinned, and every integer
or truth-valued param, is a fact of the result (see `pins`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from opwright.backends.jax.arrays import Array
from opwright.backends.jax.primitives import Reader
from opwright.backends.jax.run import Process, RunError, TraceRefusal
from opwright.backends.jax.scalar import identifier
from opwright.ir.dtypes import decode, dtype, encode
from opwright.ir.expr import (
    ONE,
    ZERO,
    Expr,
    ExprError,
    affine,
    call,
    cast,
    const,
    evaluate,
    param,
    read,
    rebuild,
    show,
    size,
    substitute,
    var,
    walk,
)
from opwright.ir.extents import from_affine
from opwright.ir.launch import ImportRefusal
from opwright.ir.op import Operator, Tensor
from opwright.ir.plan import Plan

__all__ = ["import_operator", "pins"]

Number = float | int | bool

LARGE = 2**31 - 1  # limits of addressing, of no use to JAX
_LINEAR = {"size", "const", "add", "sub", "mul", "mod", "floordiv"}


def import_operator(
    source: str,
    plan: Plan,
    op: Operator,
    sizes: Mapping[str, int] | None = None,
    params: Mapping[str, Number] | None = None,
    process: Process | None = None,
) -> Operator:
    """What the function computes, as an operator with the inputs and outputs of `op`.

    Tries symbolic sizes first, then, where `sizes` are given, those. Integer and truth-valued
    params are pinned to `params`, else to their defaults. Raises ImportRefusal with a primitive's
    name and line for what has no index notation, and for a result without the operator's form.
    """
    if process is None:
        with Process(source, plan, op) as own:
            return import_operator(source, plan, op, sizes, params, own)
    last: ImportRefusal | None = None
    for pinned_sizes, pinned_params in _attempts(op, sizes, params):
        try:
            return _Import(process, plan, op, pinned_sizes, pinned_params).operator()
        except ImportRefusal as e:
            last = e
    assert last is not None
    raise last


def pins(op: Operator, imported: Operator) -> tuple[Expr, ...]:
    """Facts that the import adds: equalities of what was pinned."""
    known = set(op.facts)
    return tuple(f for f in imported.facts if f not in known and f.op in ("eq", "param", "not"))


def _attempts(
    op: Operator, sizes: Mapping[str, int] | None, params: Mapping[str, Number] | None
) -> Iterator[tuple[Mapping[str, int], Mapping[str, Number]]]:
    """What to pin: as little as possible first."""
    given = dict(params or {})
    discrete = {p.name: _default(p.default, given) for p in op.params if p.dtype.kind != "real"}
    discrete |= {k: v for k, v in given.items() if k in discrete}
    discrete = {k: v for k, v in discrete.items() if v is not None}
    yield {}, discrete
    if sizes is not None:
        yield sizes, discrete
        every = dict(discrete)
        for p in op.params:
            value = given.get(p.name)
            if value is None and p.default is not None:
                try:
                    value = evaluate(p.default, {**sizes, **every})
                except (ExprError, KeyError):
                    value = None
            if value is not None:
                every[p.name] = _number(value)
        if set(every) != set(discrete):
            yield sizes, every


def _number(value: Any) -> Number:
    out: Number = value.item() if isinstance(value, np.generic | np.ndarray) else value
    return out


def _default(e: Expr | None, given: Mapping[str, Number]) -> Any:
    if e is None:
        return None
    try:
        return _number(evaluate(e, dict(given)))
    except (ExprError, KeyError):
        return None


class _Import:
    """One attempt at one set of pinned sizes and params."""

    def __init__(
        self, process: Process, plan: Plan, op: Operator, sizes: Mapping[str, int],
        params: Mapping[str, Number],
    ) -> None:  # fmt: skip
        self.process, self.plan, self.op = process, plan, op
        self.sizes, self.params = dict(sizes), dict(params)
        self.fixed: dict[Expr, Expr] = {size(k): const(v) for k, v in sizes.items()}
        for p in op.params:
            if p.name in params:
                value = params[p.name]
                exact = float(value) if p.dtype.kind == "real" else value
                self.fixed[param(p.name, p.dtype.kind)] = const(exact)

    def operator(self) -> Operator:
        op = self.op
        try:
            self.process.start()
            jaxpr = self._trace()
        except TraceRefusal as e:
            raise ImportRefusal(str(e), self.plan.source, e.line) from None
        except RunError as e:
            what = f"the function cannot be traced: {e}"
            raise ImportRefusal(what, self.plan.source, e.line) from None
        reader = Reader(self._taken(), _constants(op), self.plan.source)
        try:
            results = reader.run(jaxpr, self._arguments())
            outputs = self._outputs(results, reader)
            return replace(
                op,
                facts=(*op.facts, *self._facts()),
                tensors=(*reader.tensors, *outputs),
                clauses=op.clauses,
                gradients=(),
                source="",
                digest="",
            )
        except RecursionError:
            raise ImportRefusal("the function is too deep", self.plan.source) from None
        except ExprError as e:
            raise ImportRefusal(str(e), self.plan.source, reader.line) from None

    # -- tracing ----------------------------------------------------------------------------------

    def _trace(self) -> dict[str, Any]:
        op = self.op
        arrays = [
            {"name": identifier(t.name), "dtype": t.dtype.name, "shape": self._shape(t)}
            for t in op.inputs
        ]
        values: dict[str, Any] = {}
        for p in op.params:
            if not self.process.passes(p.name):
                continue
            if p.name in self.params:
                values[identifier(p.name)] = self.params[p.name]
            elif p.dtype.kind == "real":
                arrays.append({"name": identifier(p.name), "dtype": p.dtype.name, "shape": []})
            else:
                raise ImportRefusal(f"param {p.name} has no default and no given value")
        for s in op.free_sizes:
            if self.process.passes(s):
                values[identifier(s)] = self.sizes.get(s, s)
        symbols = [s for s in op.sizes if s not in self.sizes]
        return dict(
            self.process.trace(arrays, values, symbols, self._constraints() if symbols else ())
        )

    def _shape(self, t: Tensor) -> list[Any]:
        out: list[Any] = []
        for e in t.shape:
            pinned = substitute(e, self.fixed)
            if pinned.op == "const":
                out.append(int(pinned.attr))
                continue
            if any(x.op == "param" for x in walk(pinned)):
                raise ImportRefusal(f"the extent {show(e)} of {t.name} depends on a param")
            out.append(_jax_dimension(pinned))
        return out

    def _constraints(self) -> Sequence[str]:
        """Facts in a form that JAX's symbolic dimensions take."""
        out = []
        for f in self.op.facts:
            part = substitute(f, self.fixed)
            if part.op not in ("le", "lt", "eq") or part.args[0].kind != "int":
                continue
            if any(x.op not in _LINEAR for side in part.args for x in walk(side)):
                continue
            if part.args[1].op == "const" and part.args[1].attr >= LARGE:
                continue
            a, b = (_jax_dimension(_canonical(x)) for x in part.args)
            if part.op == "eq":
                out.append(f"{a} == {b}")
            elif part.args[0].op == "const":
                out.append(f"{b} >= {part.args[0].attr + (part.op == 'lt')}")
            else:
                out.append(f"{a} <= {b}" if part.op == "le" else f"{a} + 1 <= {b}")
        return out

    # -- the operator -----------------------------------------------------------------------------

    def _taken(self) -> set[str]:
        op = self.op
        names = {t.name for t in (*op.inputs, *op.tensors)} | set(op.sizes)
        return names | {a.name for t in op.inputs for a in t.axes}

    def _arguments(self) -> list[Array]:
        out = []
        for t in self.op.inputs:
            shape = tuple(substitute(e, self.fixed) for e in t.shape)

            def element(index: tuple[Expr, ...], t: Tensor = t) -> Expr:
                return read(t.name, index, t.kind)

            out.append(Array(shape, t.dtype, element, t.name))
        for p in self.op.params:
            if p.dtype.kind == "real" and p.name not in self.params and self.process.passes(p.name):
                leaf = param(p.name, "real")
                out.append(Array((), p.dtype, lambda index, leaf=leaf: leaf))  # type: ignore[misc]
        return out

    def _outputs(self, results: Sequence[Array], reader: Reader) -> list[Tensor]:
        op = self.op
        if len(results) != len(op.outputs):
            raise ImportRefusal(
                f"the function returns {len(results)} values, the operator has {len(op.outputs)} "
                "outputs", self.plan.source,
            )  # fmt: skip
        out = []
        for t, x in zip(op.outputs, results, strict=True):
            wanted = tuple(substitute(e, self.fixed) for e in t.shape)
            if not _same_shape(x.shape, wanted):
                shape, right = (", ".join(map(show, s)) for s in (x.shape, wanted))
                raise ImportRefusal(
                    f"{t.name} has shape [{shape}], the operator says [{right}]", self.plan.source
                )
            if x.kind != t.kind:
                raise ImportRefusal(
                    f"{t.name} is {x.dtype}, the operator says {t.dtype}", self.plan.source
                )
            body = x.at(tuple(var(a.name) for a in t.axes))
            if t.kind == "real" and body.op == "read" and x.dtype != t.dtype:
                body = cast(body, t.dtype)
            own = zip(t.axes, wanted, strict=True)
            axes = tuple(replace(a, lo=substitute(a.lo, self.fixed), hi=n) for a, n in own)
            out.append(Tensor(t.name, t.dtype, axes, body, "output"))
        return out

    def _facts(self) -> tuple[Expr, ...]:
        """What was pinned, and that symbolic sizes are at least 1."""
        facts = [call("eq", leaf, value) for leaf, value in self.fixed.items()
                 if leaf.kind != "bool"]  # fmt: skip
        facts += [leaf if value.attr else ~leaf for leaf, value in self.fixed.items()
                  if leaf.kind == "bool"]  # fmt: skip
        facts += [call("le", ONE, size(s)) for s in self.op.sizes if s not in self.sizes]
        return tuple(facts)


def _same_shape(found: Sequence[Expr], wanted: Sequence[Expr]) -> bool:
    """Equality of extents; JAX cuts a negative one to 0, which no legal call has."""
    return len(found) == len(wanted) and all(
        _canonical(a) is _canonical(b) for a, b in zip(found, wanted, strict=True)
    )


def _canonical(e: Expr) -> Expr:
    """A size formula with sums in one order and without a cut at 0."""
    e = rebuild(e, tuple(_canonical(a) for a in e.args))
    if e.op == "max" and ZERO in e.args:
        return e.args[1] if e.args[0] is ZERO else e.args[0]
    form = affine(e)
    if form is None:
        return e
    rows = sorted(
        ((k, c) for k, c in form.items() if k is not None and c), key=lambda r: show(r[0])
    )
    return from_affine({**dict(rows), None: form.get(None, 0)})


def _jax_dimension(e: Expr, level: int = 0) -> str:
    """A size formula as JAX's symbolic dimensions are written."""
    if e.op in ("size", "const"):
        return str(e.attr)
    if e.op in ("add", "sub", "mul"):
        sign, own = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2)}[e.op]
        text = f"{_jax_dimension(e.args[0], own)} {sign} {_jax_dimension(e.args[1], own + 1)}"
        return f"({text})" if own < level else text
    if e.op in ("floordiv", "mod", "max", "min"):
        return f"{e.op}({', '.join(_jax_dimension(a) for a in e.args)})"
    raise ImportRefusal(f"the extent {show(e)} has no symbolic form")


def _constants(op: Operator) -> dict[float, float]:
    """Which number of the operator a rounded literal stands for."""
    out: dict[float, float] = {}
    for t in op.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op != "const" or x.kind != "real" or x.attr in (float("inf"), float("-inf")):
                continue
            for name in ("f16", "bf16", "f32"):
                d = dtype(name)
                for value in (x.attr, -x.attr):
                    near = float(decode(encode(np.asarray([value]), d), d)[0])
                    out[near] = value
    return out
