"""Reverse mode on JAX arrays: the gradients that a package carries, JAX's own for the rest.

A gradient of the package is an operator of inputs, outputs and cotangents of outputs. What it does
not cover (other inputs, real params) is differentiated by JAX through the array code.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

from .describe import Backward

if TYPE_CHECKING:
    from .jaxop import JaxOperator


class Gradients:
    """The rule for reverse mode of one operator; false where the package carries no gradient of
    array code."""

    def __init__(self, operator: JaxOperator) -> None:
        self.operator, self.jax, self.spec = operator, operator.jax, operator.spec
        self.carried: list[tuple[Backward, JaxOperator]] = []
        self.saving: list[tuple[Backward, JaxOperator]] = []
        for b in self.spec.backward:
            own = self._operator(b.module)
            extra = self._operator(b.saving) if b.saving else None
            if own is None or (b.saving and extra is None):
                continue
            self.carried.append((b, own))
            if extra is not None:
                self.saving.append((b, extra))
        names = [t.name for t in self.spec.inputs]
        self.covered = frozenset(names.index(x) for b, _ in self.carried for x in b.outputs)

    def _operator(self, module: str) -> JaxOperator | None:
        """The operator of a package inside this one, where it has array code."""
        home = f"{self.operator.package}.{module}"
        spec = importlib.import_module(f"{home}._op").SPEC
        if not all(binding.jax for binding in spec.bindings):
            return None
        found: JaxOperator = importlib.import_module(f"{home}.jax").OPERATOR
        return found

    def __bool__(self) -> bool:
        return bool(self.carried)

    def call(self, arrays: Sequence[Any], given: Sequence[Any]) -> tuple[Any, ...]:
        """The results of a call that JAX may differentiate in reverse."""
        count = len(arrays)
        real = {p.name for p in self.spec.params if p.kind == "real"}
        traced = [
            n
            for n, (name, value) in enumerate(zip(self.spec.given_names(), given))
            if name in real and self.operator.is_array(value)
        ]

        def numbers(leaves: Sequence[Any]) -> list[Any]:
            out = list(given)
            for n, value in zip(traced, leaves[count:]):
                out[n] = value
            return out

        def whole(*leaves: Any) -> tuple[Any, ...]:
            return self.operator.results_of(leaves[:count], numbers(leaves))

        def saving(*leaves: Any) -> tuple[Any, dict[str, Any]]:
            return self._saving(leaves[:count], numbers(leaves), whole, leaves)

        def forward(*leaves: Any) -> tuple[Any, Any]:
            return self._forward(whole, saving, leaves)

        def backward(kept: Any, cotangents: Any) -> Any:
            return self._backward(kept, cotangents, numbers)

        f = self.jax.custom_vjp(whole)
        f.defvjp(forward, backward, symbolic_zeros=True)
        found: tuple[Any, ...] = f(*arrays, *[given[n] for n in traced])
        return found

    def _saving(
        self, arrays: Sequence[Any], given: Sequence[Any], whole: Callable[..., Any], leaves: Any
    ) -> tuple[Any, dict[str, Any]]:
        """(results, what is saved beside them for the gradients)."""
        results: Any = None
        saved: dict[str, Any] = {}
        named = dict(zip(self.spec.given_names(), given))
        for b, operator in self.saving:
            own = [named.get(name) for name in operator.spec.given_names()]
            found = operator.results_of(operator.admit(arrays), own)
            end = len(found) - len(b.saved)
            results, saved = found[:end], {**saved, **dict(zip(b.saved, found[end:]))}
        return (whole(*leaves) if results is None else results), saved

    def _forward(
        self, whole: Callable[..., Any], saving: Callable[..., Any], leaves: Sequence[Any]
    ) -> tuple[Any, Any]:
        """(results, what the way back reads). Which arguments need a gradient is static, so it
        stands in keys of the second."""
        values = [leaf.value for leaf in leaves]
        moving = [n for n, leaf in enumerate(leaves) if leaf.perturbed]
        wanted = tuple(n for n in moving if n in self.covered)
        others = tuple(n for n in moving if n not in self.covered)

        def of(*some: Any) -> Any:
            full = list(values)
            for n, value in zip(others, some):
                full[n] = value
            return whole(*full)

        pull, saved = None, {}
        if others:
            results, pull = self.jax.vjp(of, *[values[n] for n in others])
            if wanted and self.saving:
                saved = saving(*values)[1]
        else:
            results, saved = saving(*values)
        return results, {(wanted, others): (values, results if wanted else None, saved, pull)}

    def _backward(
        self, kept: Any, cotangents: Any, numbers: Callable[[Sequence[Any]], list[Any]]
    ) -> tuple[Any, ...]:
        """A cotangent for every argument, None for zero."""
        (((wanted, others), (values, results, saved, pull)),) = kept.items()
        # constants may come back as numbers
        values = [x if hasattr(x, "shape") else self.jax.numpy.asarray(x) for x in values]
        out: list[Any] = [None] * len(values)
        full = [self._concrete(ct) for ct in cotangents]
        if others:
            for n, value in zip(others, pull(tuple(full))):
                out[n] = value
        if not wanted:
            return tuple(out)
        spec = self.spec
        place = {t.name: n for n, t in enumerate(spec.inputs)}
        held = {("input", t.name): x for t, x in zip(spec.inputs, values)}
        held.update({("output", t.name): y for t, y in zip(spec.outputs, results)})
        held.update({("grad", t.name): ct for t, ct in zip(spec.outputs, full)})
        held.update({("saved", name): x for name, x in saved.items()})
        named = dict(zip(spec.given_names(), numbers(values)))
        for b, gradient in self.carried:
            if not any(place[name] in wanted for name in b.outputs):
                continue
            own = [named.get(name) for name in gradient.spec.given_names()]
            if any(named.get(name) is None for name in gradient.spec.free):
                # sizes of the forward call that no input of the gradient shows
                known = self.operator.sizes(values[: len(spec.inputs)], list(named.values()))
                names = gradient.spec.given_names()
                own = [
                    known.get(n) if x is None and n in gradient.spec.free else x
                    for n, x in zip(names, own)
                ]
            found = gradient.results_of(gradient.admit([held[key] for key in b.inputs]), own)
            for name, value in zip(b.outputs, found):
                if place[name] in wanted:
                    out[place[name]] = value
        return tuple(out)

    def _concrete(self, cotangent: Any) -> Any:
        """An array for a cotangent that JAX knows to be zero."""
        if type(cotangent).__name__ != "SymbolicZero":
            return cotangent
        if cotangent.dtype == self.jax.dtypes.float0:
            import numpy

            return numpy.zeros(cotangent.shape, cotangent.dtype)
        return self.jax.numpy.zeros(cotangent.shape, cotangent.dtype)
