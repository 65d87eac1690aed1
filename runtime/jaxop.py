"""The operator on JAX arrays: admission by type and shape, then a pure function under jit.

Everything here works on tracers, so a call may stand inside jit, grad and vmap. JAX is imported
when an operator is made, not before.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from .arrays import ELEMENTS, STORED_AS_BITS
from .describe import Binding, Env, Spec
from .jaxgrad import Gradients

# 64-bit integers that JAX stores in 32 bits unless jax_enable_x64 is set
_NARROWED = {"i64": "int32", "u64": "uint32"}


def dtype_name(element: str) -> str:
    """The name of an element type as JAX arrays show it."""
    row = ELEMENTS[element]
    return row[2] or row[1]


class JaxOperator:
    """The function of `<package>.jax`; `results` is the class of several outputs."""

    def __init__(self, spec: Spec, package: str, results: Callable[..., Any] | None = None) -> None:
        try:
            import jax
        except ImportError:
            distribution = spec.package.replace("_", "-")
            raise ImportError(
                f"{package}.jax needs JAX, which is not installed: pip install {distribution}[jax]"
            ) from None
        self.jax: Any = jax
        self.spec, self.package, self.results = spec, package, results
        self.folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self._functions: dict[str, Callable[..., Any]] = {}
        self._gradients: Gradients | None = None

    def call(self, inputs: Sequence[Any], given: Sequence[Any]) -> Any:
        """The result for arrays, tracers or, where an input has no axes, Python numbers."""
        arrays = self.admit(inputs)
        if self.gradients:
            outs = self.gradients.call(arrays, given)
        else:
            outs = self.results_of(arrays, given)
        if len(outs) == 1:
            return outs[0]
        return self.results(*outs) if self.results else outs

    @property
    def gradients(self) -> Gradients | None:
        """The gradients that the package carries, looked up at the first call."""
        if self.spec.backward and self._gradients is None:
            self._gradients = Gradients(self)
        return self._gradients

    def results_of(self, arrays: Sequence[Any], given: Sequence[Any]) -> tuple[Any, ...]:
        """The results for admitted arrays, without a rule for gradients."""
        spec = self.spec
        binding = self.select(arrays, given)
        shapes = [tuple(x.shape) for x in arrays]
        flat = [spec.flat_shape(t, s) for t, s in zip(spec.inputs, shapes)]
        lead = spec.lead(shapes)
        values, env, traced = self._resolve(flat, given)
        self._check_where(env, traced)
        flattened = [x if list(s) == f else x.reshape(f) for x, s, f in zip(arrays, shapes, flat)]
        found = self._function(binding)(*flattened, *values)
        outs = found if isinstance(found, tuple) else (found,)
        visible = [tuple(spec.output_shape(t, env, lead)) for t in spec.outputs]
        return tuple(y if y.shape == s else y.reshape(s) for y, s in zip(outs, visible))

    # -- admission ---------------------------------------------------------------------------------

    def admit(self, inputs: Sequence[Any]) -> list[Any]:
        """The inputs as JAX arrays; TypeError for what is none."""
        spec, jnp = self.spec, self.jax.numpy
        out = []
        for n, (t, x) in enumerate(zip(spec.inputs, inputs)):
            if not t.axes and type(x) in (int, float, bool):
                elements = sorted({b.inputs[n] for b in spec.bindings})
                if len(elements) > 1:
                    raise TypeError(
                        f"{spec.name}: {t.name} may be {' or '.join(elements)}; pass an array "
                        "without axes of the type that is meant"
                    )
                x = jnp.asarray(x, dtype_name(elements[0]))
            module = type(x).__module__.partition(".")[0]
            if not hasattr(x, "dtype") or not hasattr(x, "shape") or module == "torch":
                kind = f"{type(x).__module__}.{type(x).__qualname__}"
                raise TypeError(f"{spec.name}: {t.name} must be a JAX array, not {kind}")
            out.append(x if hasattr(x, "reshape") and module != "numpy" else jnp.asarray(x))
        return out

    def select(self, arrays: Sequence[Any], given: Sequence[Any]) -> Binding:
        """The binding that the element types give; TypeError when none or several do."""
        spec = self.spec
        keywords = dict(zip(spec.given_names(), given))
        chosen = {t: keywords[t] for t in spec.types if keywords.get(t) is not None}
        found = [
            b
            for b in spec.bindings
            if all(b.types.get(k) == v for k, v in chosen.items())
            and all(str(x.dtype) in self._names(e) for x, e in zip(arrays, b.inputs))
        ]
        if len(found) == 1:
            if found[0].wide and not self._x64():
                raise TypeError(
                    f"{spec.name} computes in 64-bit floats here; JAX has them after "
                    'jax.config.update("jax_enable_x64", True)'
                )
            return found[0]
        pairs = zip(spec.inputs, arrays)
        have = ", ".join(f"{t.name}: {x.dtype}" for t, x in pairs)
        if found:
            several = " or ".join(
                ", ".join(f"{k}={v!r}" for k, v in b.types.items()) for b in found
            )
            raise TypeError(
                f"{spec.name}: ({have}) may mean {several}; pass one of them by keyword"
            )
        table = " or ".join(
            "(" + ", ".join(f"{t.name}: {e}" for t, e in zip(spec.inputs, b.inputs)) + ")"
            for b in spec.bindings
        )
        raise TypeError(f"{spec.name} takes {table}, not ({have})")

    def _names(self, element: str) -> tuple[str, ...]:
        name = dtype_name(element)
        if element in _NARROWED and not self._x64():
            return name, _NARROWED[element]
        return (name,)

    def _x64(self) -> bool:
        return bool(self.jax.config.jax_enable_x64)

    # -- sizes and params --------------------------------------------------------------------------

    def sizes(self, arrays: Sequence[Any], given: Sequence[Any]) -> Env:
        """Sizes of a call."""
        spec = self.spec
        flat = [spec.flat_shape(t, tuple(x.shape)) for t, x in zip(spec.inputs, arrays)]
        _, env, _ = self._resolve(flat, given)
        return {name: env[name] for name in spec.sizes if name in env}

    def _resolve(
        self, flat: Sequence[Sequence[Any]], given: Sequence[Any]
    ) -> tuple[list[Any], Env, frozenset[str]]:
        """(params and free sizes for the function, all values that are known, traced params)."""
        spec = self.spec
        names = spec.given_names()
        keywords = dict(zip(names, given))
        traced = {
            p.name: keywords[p.name]
            for p in spec.params
            if p.kind == "real" and self.is_array(keywords.get(p.name))
        }
        known = [1.0 if n in traced else keywords[n] for n in names]
        env = spec.resolve(flat, known)
        for p in spec.params:
            depends = [n for n in traced if p.default is not None and n in p.default.uses]
            if depends and keywords.get(p.name) is None:
                raise TypeError(
                    f"{spec.name}: the default of {p.name} depends on {depends[0]}, which is an "
                    f"array here; pass {p.name} too"
                )
        ordered = [*(p.name for p in spec.params), *spec.free]
        return [traced.get(n, env[n]) for n in ordered], env, frozenset(traced)

    def is_array(self, value: Any) -> bool:
        """Whether a param is an array or a tracer, not a number of Python or numpy."""
        if value is None or type(value) in (int, float, bool):
            return False
        if type(value).__module__ == "numpy":
            return False
        return hasattr(value, "dtype") and getattr(value, "shape", None) == ()

    def _check_where(self, env: Env, traced: frozenset[str]) -> None:
        """ValueError for a constraint that the shapes violate; those on traced params are not
        known here."""
        spec = self.spec
        for fact in spec.where:
            if not traced.intersection(fact.uses) and not fact.holds(env):
                seen = fact.values(env)
                raise ValueError(
                    f"{spec.name}: where {fact.text} does not hold" + (f" ({seen})" if seen else "")
                )

    def _function(self, binding: Binding) -> Callable[..., Any]:
        """The jitted function of a binding, imported at its first use."""
        name = binding.jax
        if name not in self._functions:
            module = importlib.import_module(f"{self.package}.{name}")
            self._functions[name] = getattr(module, binding.function)
        return self._functions[name]

    # -- the shipped reference values --------------------------------------------------------------

    def wide(self, types: Mapping[str, str]) -> Any:
        """A context with 64-bit types if a binding has any, else one that changes nothing."""
        binding = next(b for b in self.spec.bindings if b.types == dict(types))
        elements = (*binding.inputs, *binding.outputs)
        if not (binding.wide or any(ELEMENTS[e][0] == 64 for e in elements)):
            return contextlib.nullcontext()
        if hasattr(self.jax, "enable_x64"):
            return self.jax.enable_x64(True)
        older: Any = importlib.import_module("jax.experimental")
        return older.enable_x64(True)

    def array(self, values: Sequence[Any], shape: Sequence[int], element: str) -> Any:
        """An array from stored numbers or bits."""
        import numpy

        if element in STORED_AS_BITS:
            raw = numpy.array(values, ELEMENTS[element][1])
            stored = raw.view(self.jax.numpy.dtype(dtype_name(element)))
        else:
            stored = numpy.array(values, ELEMENTS[element][1])
        return self.jax.numpy.asarray(stored.reshape(tuple(shape)))

    def numbers(self, x: Any) -> list[float]:
        """Values in row-major order."""
        import numpy

        flat = numpy.asarray(x).reshape(-1)
        return [float(v) for v in flat.astype(numpy.float64)]
