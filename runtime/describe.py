"""The tables of an emitted operator: what its generated `_op.py` fills in and the engine reads."""

from __future__ import annotations

import keyword
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Union

# keywords that every emitted function has, and a name that method syntax takes
RESERVED = frozenset(("out", "implementation", "check", "self"))
Value = Union[int, float, bool]
Env = dict[str, Any]  # names of formulas: sizes, params, strides and alignments

# inclusive bounds of integer params
INTEGERS = {
    f"{sign}{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if sign == "i"
    else (0, (1 << bits) - 1)
    for sign in "iu"
    for bits in (4, 8, 16, 32, 64)
}


class Formula:
    """Text of a formula and the function that it was compiled to; `uses` names what it reads."""

    __slots__ = ("function", "text", "uses")

    def __init__(self, text: str, uses: tuple[str, ...], function: Callable[..., Any]) -> None:
        self.text, self.uses, self.function = text, uses, function

    def __call__(self, env: Mapping[str, Any]) -> Any:
        try:
            return self.function(*[env[name] for name in self.uses])
        except ZeroDivisionError:
            raise ValueError(f"{self.text} divides by zero ({self.values(env)})") from None

    def holds(self, env: Mapping[str, Any]) -> bool:
        """The truth of a fact; a fact that divides by zero does not hold."""
        try:
            return bool(self.function(*[env[name] for name in self.uses]))
        except ZeroDivisionError:
            return False

    def values(self, env: Mapping[str, Any]) -> str:
        """`N = 65, stride(x, 1) = 2`: what the formula saw."""
        return ", ".join(f"{pretty(name)} = {show_value(env[name])}" for name in self.uses)


def pretty(name: str) -> str:
    """The name that a reader knows: `stride:x:1` is `stride(x, 1)`, `align:x` is `alignment(x)`."""
    kind, _, rest = name.partition(":")
    if kind == "stride":
        tensor, _, axis = rest.partition(":")
        return f"stride({tensor}, {axis})"
    return f"alignment({rest})" if kind == "align" else name


def show_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def argument(name: str) -> str:
    """The Python name of an input, param or size of the spec."""
    return name + "_" if keyword.iskeyword(name) or name in RESERVED else name


def rounded(value: float, dtype: str) -> float:
    """The nearest value of a float type of at least 16 bits (ties to even)."""
    code = {"f32": "f", "f16": "e", "bf16": "f"}.get(dtype)
    if code is None or value != value:
        return value
    try:
        value = float(struct.unpack(code, struct.pack(code, value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
    if dtype == "bf16" and math.isfinite(value):
        bits = struct.unpack("I", struct.pack("f", value))[0]
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        value = float(struct.unpack("f", struct.pack("I", bits & 0xFFFFFFFF))[0])
    return value


class Param:
    """A run-time attribute; `kind` is int, real or bool."""

    __slots__ = ("default", "dtype", "kind", "name")

    def __init__(self, name: str, dtype: str, kind: str, default: Formula | None) -> None:
        self.name, self.dtype, self.kind, self.default = name, dtype, kind, default

    def accept(self, value: Any) -> Value:
        """The value as a Python number of the right kind; TypeError or ValueError otherwise."""
        if hasattr(value, "shape") and not hasattr(value, "item"):
            raise TypeError(f"{self.name} takes a number, not a {type(value).__name__}")
        if hasattr(value, "dtype"):
            if type(value).__module__ != "numpy" or getattr(value, "shape", None) != ():
                raise TypeError(f"{self.name} takes a Python number, not a {type(value).__name__}")
            value = value.item()
        if self.kind == "bool":
            if not isinstance(value, (bool, int)) or value not in (0, 1):
                raise TypeError(f"{self.name} takes True or False, not {value!r}")
            return bool(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{self.name} takes a number, not {value!r}")
        if self.kind == "real":
            # formulas are over the reals: -0.0 is 0.0
            return rounded(float(value), self.dtype) + 0.0
        if value != int(value):
            raise TypeError(f"{self.name} takes a whole number, not {value!r}")
        low, high = INTEGERS.get(self.dtype, INTEGERS["i64"])
        if not low <= value <= high:
            raise ValueError(f"{self.name} = {value} is outside {self.dtype} ({low}..{high})")
        return int(value)


class Tensor:
    """An input or an output: one extent formula per axis.

    `several` says that the first axis stands for any number of leading axes. `order` is the order
    of a new output's axes in memory (None: row-major), `updates` the input whose memory an output
    may replace.
    """

    __slots__ = ("axes", "name", "order", "several", "updates")

    def __init__(
        self,
        name: str,
        axes: tuple[Formula, ...],
        several: bool = False,
        order: tuple[int, ...] | None = None,
        updates: str | None = None,
    ) -> None:
        self.name, self.axes, self.several = name, axes, several
        self.order, self.updates = order, updates


class Solve:
    """How a size follows from an axis that it fixes: extent = factor * size + rest."""

    __slots__ = ("axis", "factor", "rest", "tensor", "uses")

    def __init__(self, tensor: int, axis: int, factor: int, rest: Formula) -> None:
        self.tensor, self.axis, self.factor, self.rest = tensor, axis, factor, rest
        self.uses = rest.uses

    def solve(self, spec: Spec, name: str, env: Env, shapes: Any) -> Any:
        extent = shapes[self.tensor][self.axis]
        share = extent - self.rest(env)
        if share % self.factor or share // self.factor < 0:
            tensor = spec.inputs[self.tensor]
            raise ValueError(
                f"{spec.name}: {tensor.name} axis {self.axis} is {extent}, "
                f"which no {name} makes of {tensor.axes[self.axis].text}"
            )
        return share // self.factor


class Requirement:
    """A precondition on values: `check(library, tensors, env)` yields (text, mask, binders)."""

    __slots__ = ("check", "name", "tensors", "text")

    def __init__(
        self, name: str, text: str, tensors: tuple[str, ...], check: Callable[..., Any]
    ) -> None:
        self.name, self.text, self.tensors, self.check = name, text, tensors, check


class Launch:
    """One kernel over a grid: tensors by name and numbers by formula, constants, options."""

    __slots__ = ("args", "const", "grid", "kernel", "options")

    def __init__(
        self,
        kernel: str,
        grid: tuple[Formula, ...],
        args: tuple[str | Formula, ...],
        const: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self.kernel, self.grid, self.args = kernel, grid, args
        self.const, self.options = dict(const), dict(options)


class Scratch:
    """Memory between the launches of a call."""

    __slots__ = ("element", "name", "shape", "zero")

    def __init__(
        self, name: str, element: str, shape: tuple[Formula, ...], zero: bool = False
    ) -> None:
        self.name, self.element, self.shape, self.zero = name, element, shape, zero


class Variant:
    """One candidate: guards, and a library file for each instruction-set level or a module of
    kernels for each architecture, which `launches` and `scratch` say how to run."""

    __slots__ = ("facts", "launches", "libraries", "name", "scratch", "source")

    def __init__(
        self,
        name: str,
        facts: tuple[Formula, ...],
        libraries: Mapping[str, str],
        source: str,
        launches: tuple[Launch, ...] = (),
        scratch: tuple[Scratch, ...] = (),
    ) -> None:
        self.name, self.facts, self.libraries, self.source = name, facts, dict(libraries), source
        self.launches, self.scratch = launches, scratch


class Binding:
    """The operator at one choice of its type variables; the last variant takes every call.

    `jax` is the module with its array code (relative to the package, empty without one), `function`
    the name in there, `wide` says that it computes in 64-bit floats.
    """

    __slots__ = ("function", "inputs", "jax", "outputs", "types", "variants", "wide")

    def __init__(
        self,
        types: Mapping[str, str],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        variants: tuple[Variant, ...],
        jax: str = "",
        function: str = "",
        wide: bool = False,
    ) -> None:
        self.types, self.inputs, self.outputs = dict(types), inputs, outputs
        self.variants = variants
        self.jax, self.function, self.wide = jax, function, wide


class Backward:
    """A gradient of the operator: the package inside this one that computes it, what its inputs are
    ("input" | "output" | "grad" and a name of the operator's, or "saved" and one of `saved`), and
    of which inputs its outputs are gradients. `saving` is the package whose operator gives the
    outputs, then what is saved."""

    __slots__ = ("inputs", "module", "outputs", "saved", "saving")

    def __init__(
        self,
        module: str,
        inputs: tuple[tuple[str, str], ...],
        outputs: tuple[str, ...],
        saving: str = "",
        saved: tuple[str, ...] = (),
    ) -> None:
        self.module, self.inputs, self.outputs = module, inputs, outputs
        self.saving, self.saved = saving, saved


class Spec:
    """Everything that is known of the operator before a call."""

    __slots__ = (
        "backward",
        "bindings",
        "free",
        "function",
        "inputs",
        "name",
        "outputs",
        "package",
        "params",
        "requires",
        "sizes",
        "types",
        "version",
        "where",
    )

    def __init__(
        self,
        package: str,
        name: str,
        function: str,
        version: str,
        types: tuple[str, ...],
        sizes: tuple[str, ...],
        free: Mapping[str, Solve | None],
        params: tuple[Param, ...],
        where: tuple[Formula, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        requires: tuple[Requirement, ...],
        bindings: tuple[Binding, ...],
        backward: tuple[Backward, ...] = (),
    ) -> None:
        self.backward = backward
        self.package, self.name, self.function, self.version = package, name, function, version
        self.types, self.sizes, self.free, self.params = types, sizes, dict(free), params
        self.where, self.inputs, self.outputs = where, inputs, outputs
        self.requires, self.bindings = requires, bindings

    def given_names(self) -> tuple[str, ...]:
        """Keywords of a call in the order in which the engine gets them."""
        choose = self.types if len(self.bindings) > 1 else ()
        return (*(p.name for p in self.params), *self.free, *choose)

    # -- shapes ------------------------------------------------------------------------------------

    def flat_shape(self, tensor: Tensor, shape: Sequence[Any]) -> list[Any]:
        """The shape with leading axes multiplied into one; ValueError for a wrong rank."""
        rank = len(tensor.axes)
        if not tensor.several:
            if len(shape) != rank:
                raise ValueError(
                    f"{self.name}: {tensor.name} must have {rank} axes "
                    f"({', '.join(a.text for a in tensor.axes)}), not {len(shape)}"
                )
            return list(shape)
        if len(shape) < rank - 1:
            raise ValueError(f"{self.name}: {tensor.name} must have at least {rank - 1} axes")
        count = len(shape) - rank + 1
        product = 1
        for extent in shape[:count]:
            product = product * extent
        return [product, *shape[count:]]

    def lead(self, shapes: Sequence[Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
        """Extents behind each size that stands for several axes, the same in every input."""
        out: dict[str, tuple[Any, ...]] = {}
        for tensor, shape in zip(self.inputs, shapes):
            if not tensor.several:
                continue
            name = tensor.axes[0].text
            own = tuple(shape[: len(shape) - len(tensor.axes) + 1])
            if out.setdefault(name, own) != own:
                raise ValueError(
                    f"{self.name}: the axes {name}... are {list(out[name])} and, in {tensor.name}, "
                    f"{list(own)}"
                )
        return out

    def resolve(self, shapes: Sequence[Sequence[Any]], given: Sequence[Any]) -> Env:
        """Sizes and params of a call; ValueError or TypeError in the spec's own names.

        `shapes` are flattened; works with symbolic extents.
        """
        env: Env = {}
        source: dict[str, str] = {}
        for tensor, shape in zip(self.inputs, shapes):
            for n, (axis, extent) in enumerate(zip(tensor.axes, shape)):
                if axis.text not in self.sizes:
                    continue
                if axis.text not in env:
                    env[axis.text], source[axis.text] = extent, f"{tensor.name} axis {n}"
                elif env[axis.text] != extent:
                    raise ValueError(
                        f"{self.name}: {tensor.name} axis {n} must be {axis.text} = "
                        f"{env[axis.text]} (from {source[axis.text]}), not {extent}"
                    )
        self._complete(env, dict(zip(self.given_names(), given)), shapes)
        for tensor, shape in zip(self.inputs, shapes):
            for n, (axis, extent) in enumerate(zip(tensor.axes, shape)):
                if axis.text not in self.sizes and axis(env) != extent:
                    raise ValueError(
                        f"{self.name}: {tensor.name} axis {n} must be {axis.text} = {axis(env)} "
                        f"({axis.values(env)}), not {extent}"
                    )
        return env

    def _complete(self, env: Env, values: Mapping[str, Any], shapes: Any) -> None:
        """Free sizes and params, given, solved or by default, each once what it needs is known."""
        for name in self.free:
            if values.get(name) is not None:
                env[name] = self._size(name, values[name])
        for param in self.params:
            if values.get(param.name) is not None:
                env[param.name] = param.accept(values[param.name])
        wanted = [*self.free, *(p.name for p in self.params)]
        rules: dict[str, Any] = {p.name: p.default for p in self.params}
        rules.update(self.free)
        by_name = {p.name: p for p in self.params}
        while True:
            ready = [
                n
                for n in wanted
                if n not in env and rules[n] is not None and set(rules[n].uses) <= env.keys()
            ]
            if not ready:
                break
            for name in ready:
                rule = rules[name]
                env[name] = (
                    rule.solve(self, name, env, shapes)
                    if isinstance(rule, Solve)
                    else by_name[name].accept(rule(env))
                )
        missing = [n for n in wanted if n not in env]
        if missing:
            what = "has no default" if missing[0] in by_name else "follows from no input"
            raise TypeError(f"{self.name}: {missing[0]} {what}; pass it by keyword")

    def _size(self, name: str, value: Any) -> Any:
        whole = not isinstance(value, (bool, float)) and not hasattr(value, "dtype")
        if not whole or (type(value) is int and not 0 <= value < 1 << 63):
            raise ValueError(f"{self.name}: {name} is a size, a whole number >= 0, not {value!r}")
        return value

    def check_where(self, env: Env) -> None:
        """ValueError for the first constraint of the spec that the sizes and params violate."""
        for fact in self.where:
            if not fact.holds(env):
                seen = fact.values(env)
                raise ValueError(
                    f"{self.name}: where {fact.text} does not hold" + (f" ({seen})" if seen else "")
                )

    def output_shape(self, tensor: Tensor, env: Env, lead: Mapping[str, tuple[Any, ...]]) -> Any:
        """The shape that a caller sees: with the leading axes unfolded."""
        shape: list[Any] = []
        for n, axis in enumerate(tensor.axes):
            if n == 0 and tensor.several and axis.text in lead:
                shape += lead[axis.text]
            else:
                shape.append(axis(env))
        return tuple(shape)
