"""How sizes follow from the shapes of inputs, and how params get their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import Expr, ExprError, affine, evaluate, leaves, show
from opwright.ir.frames import NUMPY_KIND
from opwright.ir.labelled import Array
from opwright.ir.op import Operator, Tensor


class InputError(ValueError):
    """The inputs, sizes or params do not fit the operator."""


def prepare(op: Operator, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Inputs as arrays of their kind with leading axes of a variadic size flattened into one."""
    names = [t.name for t in op.inputs]
    unknown = sorted(set(inputs) - set(names))
    missing = [n for n in names if n not in inputs]
    if unknown or missing:
        what = f"no input {unknown[0]}" if unknown else f"input {missing[0]} is missing"
        raise InputError(f"{op.name}: {what}; its inputs are {', '.join(names) or 'none'}")
    out = {}
    for t in op.inputs:
        given = np.asarray(inputs[t.name])
        if t.kind != "real" and given.dtype.kind not in ("biu" if t.kind == "int" else "b"):
            raise InputError(f"{op.name}: {t.name} holds {t.dtype}, not {given.dtype}")
        array: Array = given.astype(NUMPY_KIND[t.kind], copy=False)
        rank = len(t.axes)
        if leading(op, t) is not None and array.ndim >= rank - 1:
            lead = array.ndim - rank + 1
            count = int(np.prod(array.shape[:lead], dtype=np.int64))
            array = array.reshape(count, *array.shape[lead:])
        if array.ndim != rank:
            raise InputError(f"{op.name}: {t.name} has {rank} axes, the array has {array.ndim}")
        out[t.name] = array
    return out


def leading(op: Operator, t: Tensor) -> str | None:
    """The size that stands for any number of leading axes of a tensor, if it has one."""
    first = t.axes[0].hi if t.axes else None
    if first is not None and first.op == "size" and first.attr in op.variadic:
        return str(first.attr)
    return None


def restore(
    op: Operator, inputs: Mapping[str, Any], outputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Outputs with the leading axes that the inputs had before `prepare` flattened them."""
    lead: dict[str, tuple[int, ...]] = {}
    for t in op.inputs:
        name = leading(op, t)
        if name is not None:
            shape = np.shape(inputs[t.name])
            lead.setdefault(name, shape[: len(shape) - len(t.axes) + 1])
    out = {}
    for t in op.outputs:
        shape = lead.get(leading(op, t) or "")
        array = outputs[t.name]
        out[t.name] = array if shape is None else array.reshape(*shape, *array.shape[1:])
    return out


def bind(
    op: Operator,
    arrays: Mapping[str, Array],
    params: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """Values of all sizes and params; InputError when shapes disagree or a fact fails."""
    env: dict[str, Any] = {}
    for name, value in sizes.items():
        if name not in op.sizes:
            raise InputError(f"{op.name} has no size {name}; its sizes are {', '.join(op.sizes)}")
        env[name] = int(value)
    unknown = sorted(set(params) - {p.name for p in op.params})
    if unknown:
        raise InputError(f"{op.name} has no param {unknown[0]}")
    origin = {name: "the caller" for name in env}
    pending = [(t.name, k, a.hi, arrays[t.name].shape[k])
               for t in op.inputs for k, a in enumerate(t.axes)]  # fmt: skip
    for name, k, extent, actual in pending:
        if extent.op == "size":
            known = env.setdefault(extent.attr, actual)
            if known != actual:
                raise InputError(
                    f"{op.name}: {extent.attr} is {known} by {origin[extent.attr]}, "
                    f"but axis {k} of {name} is {actual}"
                )
            origin.setdefault(extent.attr, f"axis {k} of {name}")
    _bind_params(op, params, env)
    for _, _, extent, actual in pending:
        _solve_extent(extent, actual, env)
    _bind_params(op, params, env)
    loose = [s for s in op.sizes if s not in env]
    if loose:
        raise InputError(f"{op.name}: size {loose[0]} follows from no input; pass it by name")
    _bind_params(op, params, env, last=True)
    for name, k, extent, actual in pending:
        wanted = _value(extent, env)
        if wanted != actual:
            raise InputError(
                f"{op.name}: axis {k} of {name} is {actual}, not {show(extent)} = {wanted}"
            )
    for fact in op.facts:
        if not _value(fact, env):
            given = ", ".join(f"{x.attr} = {env[x.attr]}" for x in leaves(fact, "size", "param"))
            raise InputError(f"{op.name}: {show(fact)} does not hold for {given}")
    return env


def _bind_params(
    op: Operator, params: Mapping[str, Any], env: dict[str, Any], last: bool = False
) -> None:
    """Params given, then defaults whose sizes are known; a value is rounded to the param's type."""
    for p in op.params:
        if p.name in env:
            continue
        if p.name in params:
            value = params[p.name]
        elif p.default is None:
            if last:
                raise InputError(f"{op.name}: param {p.name} has no default; pass it by name")
            continue
        elif all(x.attr in env for x in leaves(p.default, "size", "param")):
            value = _value(p.default, env)
        else:
            continue
        if p.dtype.kind == "real":
            value = decode(encode(np.asarray([value], np.float64), p.dtype), p.dtype)[0]
        elif p.dtype.kind == "int":
            if isinstance(value, float) and not value.is_integer():
                raise InputError(f"{op.name}: param {p.name} is {p.dtype}, not {value}")
            value = int(value)
        else:
            value = bool(value)
        env[p.name] = value


def _solve_extent(extent: Expr, actual: int, env: dict[str, Any]) -> None:
    """Find one unknown size of an affine extent such as 2 * D."""
    unknown = [x for x in leaves(extent, "size") if x.attr not in env]
    form = affine(extent)
    if len(unknown) != 1 or form is None or unknown[0] not in form:
        return
    rest = 0
    for x, factor in form.items():
        if x is not unknown[0]:
            if x is not None and any(y.attr not in env for y in leaves(x, "size", "param")):
                return
            rest += factor * (1 if x is None else _value(x, env))
    found, remainder = divmod(actual - rest, form[unknown[0]])
    if remainder == 0:
        env[unknown[0].attr] = found


def _value(e: Expr, env: Mapping[str, Any]) -> Any:
    try:
        value = evaluate(e, env)
    except ExprError as error:
        raise InputError(str(error)) from None
    return value.item() if isinstance(value, np.generic | np.ndarray) else value
