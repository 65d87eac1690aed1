"""The operator as `torch.ops.<package>.<name>`: schema, CPU kernel, shapes for tracing, refusals.

Registered with the low-level `define` and `impl` at the first use that needs the dispatcher, or on
`import <package>.torch`. Needs torch 2.4 or later.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from .arrays import ELEMENTS
from .binding import ordered_strides
from .describe import Spec, argument
from .engine import Engine

_REGISTERED: dict[str, TorchOperator] = {}
_SCALARS = {"int": "int", "real": "float", "bool": "bool"}


class TorchOperator:
    """The registered overloads of one engine; `functional` and `out` are OpOverloads."""

    def __init__(self, engine: Engine) -> None:
        import torch as module

        torch: Any = module
        self.torch, self.engine, self.spec = torch, engine, engine.spec
        spec = self.spec
        self.names = tuple(argument(name) for name in spec.given_names())
        inputs = "".join(f"Tensor {argument(t.name)}, " for t in spec.inputs)
        keywords = self._keywords()
        single = len(spec.outputs) == 1
        returns = "Tensor" if single else f"({', '.join('Tensor' for _ in spec.outputs)})"
        self.out_names = ("out",) if single else tuple(f"out_{t.name}" for t in spec.outputs)
        targets = "".join(
            f", Tensor({chr(97 + n)}!) {name}" for n, name in enumerate(self.out_names)
        )
        self.library = torch.library.Library(spec.package, "DEF")
        name = spec.function
        self.library.define(f"{name}({inputs}*, {keywords}) -> {returns}")
        self.library.define(f"{name}.out({inputs}*, {keywords}{targets}) -> ()")
        # without tensor arguments there is no device to dispatch on
        for key in engine.keys if spec.inputs else ("CompositeExplicitAutograd",):
            self.library.impl(name, self._compute, key)
        for key in engine.keys:
            self.library.impl(f"{name}.out", self._compute_out, key)
        for device in engine.strangers if spec.inputs else ():
            self.library.impl(name, self._elsewhere, device)
            self.library.impl(f"{name}.out", self._elsewhere, device)
        qualified = f"{spec.package}::{name}"
        torch.library.register_fake(qualified, self._fake, lib=self.library)
        torch.library.register_fake(f"{qualified}.out", self._fake_out, lib=self.library)
        packet = getattr(getattr(torch.ops, spec.package), name)
        self.functional, self.out = packet.default, packet.out
        self._inners: dict[str, TorchOperator] = {}
        self._recorded = self._make_function() if spec.backward else None
        self.library.impl(name, self._autograd, "Autograd", with_keyset=True)
        self.library.impl(f"{name}.out", self._autograd_out, "Autograd", with_keyset=True)

    def _keywords(self) -> str:
        spec = self.spec
        parts = [
            f"{_SCALARS[p.kind]}{'' if p.default is None else '?'} {argument(p.name)}"
            + ("" if p.default is None else "=None")
            for p in spec.params
        ]
        parts += [
            f"SymInt {argument(name)}" if solve is None else f"SymInt? {argument(name)}=None"
            for name, solve in spec.free.items()
        ]
        # also where there is one binding: a compiled graph that torch has cached names all
        # keywords, and is taken for a package of the same name with other bindings
        parts += [f"str? {argument(name)}=None" for name in spec.types]
        return ", ".join([*parts, "str? implementation=None"])

    def _split(self, keywords: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(keywords.get(name) for name in self.names)

    def _compute(self, *inputs: Any, **keywords: Any) -> Any:
        library = self.engine.family("torch")
        choice = keywords.get("implementation")
        result = self.engine.local(library, inputs, self._split(keywords), None, choice)
        return result if len(self.spec.outputs) == 1 else tuple(result)

    def _compute_out(self, *inputs: Any, **keywords: Any) -> None:
        outs = tuple(keywords[name] for name in self.out_names)
        choice = keywords.get("implementation")
        self.engine.local(self.engine.family("torch"), inputs, self._split(keywords), outs, choice)

    def _elsewhere(self, *inputs: Any, **keywords: Any) -> Any:
        devices = sorted({str(x.device) for x in inputs})
        raise TypeError(
            f"{self.spec.name}: a tensor is on {' and '.join(devices)}; this package holds kernels "
            f"for {self.engine.where}"
        )

    def _describe(self, inputs: Sequence[Any], given: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        spec = self.spec
        library = self.engine.family("torch")
        b = self.engine.dispatcher.select(library, inputs, given, None)
        seen = [tuple(x.shape) for x in inputs]
        flat = [spec.flat_shape(t, s) for t, s in zip(spec.inputs, seen)]
        env = spec.resolve(flat, given)
        lead = spec.lead(seen)
        return library, b, [spec.output_shape(t, env, lead) for t in spec.outputs]

    def _fake(self, *inputs: Any, **keywords: Any) -> Any:
        library, b, shapes = self._describe(inputs, self._split(keywords))
        made = []
        for t, shape, element in zip(self.spec.outputs, shapes, b.outputs):
            dtype = library.output_type(element, inputs, b.inputs)
            if not inputs:
                made.append(library.empty(shape, dtype, t.order))
            elif t.order is None:
                made.append(inputs[0].new_empty(shape, dtype=dtype))
            else:
                strides = ordered_strides(shape, t.order)
                made.append(inputs[0].new_empty_strided(shape, strides, dtype=dtype))
        return made[0] if len(made) == 1 else tuple(made)

    def _fake_out(self, *inputs: Any, **keywords: Any) -> None:
        _, _, shapes = self._describe(inputs, self._split(keywords))
        for name, shape in zip(self.out_names, shapes):
            if tuple(keywords[name].shape) != tuple(shape):
                raise ValueError(f"{self.spec.name}: {name} must have the shape {tuple(shape)}")

    def _wanted(self, tensors: Sequence[Any]) -> bool:
        return self.torch.is_grad_enabled() and any(x.requires_grad for x in tensors)

    def _refuse_gradients(self, tensors: Sequence[Any]) -> None:
        if self.engine.differentiable:
            if self._wanted(tensors):
                raise RuntimeError(self.engine.no_gradient())
            self._refuse_forward(tensors)

    def _refuse_forward(self, tensors: Sequence[Any]) -> None:
        forward = self.torch.autograd.forward_ad
        if forward._current_level >= 0 and any(
            forward.unpack_dual(x).tangent is not None for x in tensors
        ):
            raise RuntimeError(f"{self.spec.name} has no forward-mode derivative in this package")

    # -- gradients ---------------------------------------------------------------------------------

    def _make_function(self) -> Any:
        """What autograd records of a call."""
        operator, torch = self, self.torch

        def forward(ctx: Any, below: Any, keywords: dict[str, Any], *inputs: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                output, saved = operator._forward(below, inputs, keywords)
            operator._keep(ctx, inputs, keywords, output, saved)
            return output

        def backward(ctx: Any, *grads: Any) -> Any:
            return (None, None, *operator._backward(ctx, *grads))

        members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        return type(f"{self.spec.name}_gradient", (torch.autograd.Function,), members)

    def _forward(self, below: Any, inputs: Any, keywords: dict[str, Any]) -> tuple[Any, Any]:
        """(the result, what is saved beside it for the gradients)."""
        saved: dict[str, Any] = {}
        output = None
        for b in self.spec.backward:
            if b.saving:
                operator = self._inner(b.saving, True)
                given = {n: keywords.get(n) for n in operator.names}
                found = operator.functional(*inputs, **given)
                count = len(found) - len(b.saved)
                saved.update(zip(b.saved, found[count:]))
                output = found[0] if count == 1 else tuple(found[:count])
        if output is None or keywords.get("implementation") is not None:
            output = self.functional.redispatch(below, *inputs, **keywords)
        return output, saved

    def _keep(
        self, ctx: Any, inputs: Any, keywords: dict[str, Any], output: Any, saved: Any
    ) -> None:
        """Save what the gradients read: inputs, outputs, and what was made on the way to them."""
        spec = self.spec
        outputs = (output,) if len(spec.outputs) == 1 else tuple(output)
        held = {("input", t.name): x for t, x in zip(spec.inputs, inputs)}
        held.update({("output", t.name): x for t, x in zip(spec.outputs, outputs)})
        held.update({("saved", name): x for name, x in saved.items()})
        read = {key for b in spec.backward for key in b.inputs if key[0] != "grad"}
        ctx.keys = [key for key in held if key in read]
        ctx.given = dict(keywords)
        ctx.shapes = [tuple(x.shape) for x in inputs]
        ctx.save_for_backward(*[held[key] for key in ctx.keys])

    def _backward(self, ctx: Any, *grads: Any) -> Any:
        """Gradients of the inputs that need one; None for others."""
        spec = self.spec
        held = dict(zip(ctx.keys, ctx.saved_tensors))
        held.update({("grad", t.name): g for t, g in zip(spec.outputs, grads)})
        needed = {t.name for t, wanted in zip(spec.inputs, ctx.needs_input_grad[2:]) if wanted}
        found: dict[str, Any] = {}
        for b in spec.backward:
            if not needed.intersection(b.outputs):
                continue
            operator = self._inner(b.module, False)
            keywords = {n: ctx.given.get(n) for n in operator.names}
            keywords.update(self._lacking(operator.spec, ctx))
            result = operator.functional(*[held[key] for key in b.inputs], **keywords)
            found.update(zip(b.outputs, (result,) if len(b.outputs) == 1 else result))
        return tuple(found.get(t.name) if t.name in needed else None for t in spec.inputs)

    def _lacking(self, gradient: Spec, ctx: Any) -> dict[str, Any]:
        """Sizes of the forward call that no input of a gradient shows."""
        lacking = [n for n in gradient.free if ctx.given.get(argument(n)) is None]
        if not lacking:
            return {}
        spec = self.spec
        flat = [spec.flat_shape(t, s) for t, s in zip(spec.inputs, ctx.shapes)]
        env = spec.resolve(flat, self._split(ctx.given))
        return {argument(n): env[n] for n in lacking if n in env}

    def _inner(self, module: str, checking: bool) -> TorchOperator:
        """The operator of a package inside this one, registered at its first use."""
        if module not in self._inners:
            home = __name__.rpartition(".")[0].rpartition(".")[0]
            package = importlib.import_module(f"{home}.{module}")
            engine = package._ENGINE
            if not checking:
                engine.checking = False  # what holds of the inputs was checked by the forward call
            own = importlib.import_module(f"{home}.{module}._runtime.torchop")
            self._inners[module] = own.register(engine)
        return self._inners[module]

    def _autograd(self, keyset: Any, *inputs: Any, **keywords: Any) -> Any:
        below = keyset & self.torch._C._after_autograd_keyset
        if self._recorded is not None and self._wanted(inputs):
            self._refuse_forward(inputs)
            if self.torch._C._are_functorch_transforms_active():
                raise RuntimeError(
                    f"{self.spec.name}: gradients of this package are for torch.autograd "
                    "(backward, grad), not for the transforms of torch.func"
                )
            return self._recorded.apply(below, keywords, *inputs)
        self._refuse_gradients(inputs)
        return self.functional.redispatch(below, *inputs, **keywords)

    def _autograd_out(self, keyset: Any, *inputs: Any, **keywords: Any) -> None:
        self._refuse_gradients((*inputs, *(keywords[name] for name in self.out_names)))
        below = keyset & self.torch._C._after_autograd_keyset
        self.out.redispatch(below, *inputs, **keywords)


def register(engine: Engine) -> TorchOperator:
    """The registered operator of an engine, registered at the first call."""
    name = engine.spec.package
    if name not in _REGISTERED:
        _REGISTERED[name] = TorchOperator(engine)
    return _REGISTERED[name]


def dispatch(
    engine: Engine,
    inputs: tuple[Any, ...],
    given: tuple[Any, ...],
    outs: tuple[Any, ...] | None,
    choice: Any,
) -> Any:
    """The call through torch's dispatcher."""
    return apply(register(engine), inputs, given, outs, choice)


def apply(
    operator: TorchOperator,
    inputs: tuple[Any, ...],
    given: tuple[Any, ...],
    outs: tuple[Any, ...] | None,
    choice: Any,
) -> Any:
    """The call of a registered operator; torch.compile traces through this."""
    if choice is not None and not isinstance(choice, str):
        raise TypeError("under torch.compile, implementation must be one name")
    keywords = dict(zip(operator.names, given))
    keywords["implementation"] = choice
    if outs is None:
        result = operator.functional(*inputs, **keywords)
        if len(operator.out_names) == 1:
            return result
        results = operator.engine.results
        return results(*result) if results is not None else tuple(result)
    for name, out in zip(operator.out_names, outs):
        keywords[name] = out
    operator.out(*inputs, **keywords)
    return outs[0] if len(outs) == 1 else tuple(outs)


def traced(
    operator: TorchOperator, inputs: tuple[Any, ...], given: tuple[Any, ...], out: Any, choice: Any
) -> Any:
    """A call of the Python function while torch.compile traces it."""
    spec, torch = operator.spec, operator.torch
    tensors = []
    for n, x in enumerate(inputs):
        if isinstance(x, (int, float)) and not spec.inputs[n].axes:
            elements = [b.inputs[n] for b in spec.bindings]
            if any(e != elements[0] for e in elements):
                raise TypeError("under torch.compile, pass a tensor without axes, not a number")
            x = torch.tensor(x, dtype=getattr(torch, ELEMENTS[elements[0]][3] or ""))
        tensors.append(x)
    outs = None if out is None else operator.engine.outputs_given(out)
    return apply(operator, tuple(tensors), given, outs, choice)
