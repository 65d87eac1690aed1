"""Calls of an emitted operator: admission, value checks, the cache of signatures, the native call.

The native entry is `int32_t opwright_run(void *const *buffers, const int64_t *ints,
const double *reals, int32_t threads)`: inputs then outputs; sizes, integer params, strides of every
tensor; real params.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

from .arrays import ALIGNMENT, family, family_of, item_bytes
from .binding import Choice, Dispatcher, Rows, alignment_class, overlap, switched_on
from .describe import Env, Spec
from .kept import Kept, part_of
from .machine import PORTABLE, default_threads

CACHED_SIGNATURES = 4096
NO_SCRATCH = "{}: the kernel could not allocate its scratch memory"
_INT32 = ctypes.c_int32


class Explanation(NamedTuple):
    """Which variant a call takes and why the others are not taken."""

    isa: str
    chosen: str | None
    types: Mapping[str, str]
    variants: Rows
    copied: tuple[str, ...] = ()  # inputs copied to row-major; "out" when results are copied there

    def __str__(self) -> str:
        bound = "".join(f", {k} = {v}" for k, v in self.types.items())
        lines = [f"instruction set {self.isa}{bound}"]
        for name, accepted, reason in self.variants:
            mark = "taken" if name == self.chosen else "accepts" if accepted else "refuses"
            lines.append(f"  {name}: {mark}: {reason}")
        for name in self.copied:
            what = f"copied {name} to row-major" if name != "out" else "copied the results into out"
            lines.append(f"  {what}")
        return "\n".join(lines)


class Bound:
    """A signature made ready: the native function, its numbers, and what to allocate or copy."""

    __slots__ = (
        "copied",
        "empty",
        "env",
        "ints",
        "masks",
        "moved",
        "new",
        "part",
        "path",
        "prepared",
        "reals",
        "run",
        "shapes",
        "spans",
        "vector",
    )

    run: Any  # a function of a library
    part: Any  # the one that runs it in parts, None where it has none
    path: str  # of the library
    ints: Any
    reals: Any
    vector: Any  # type of the array of addresses
    masks: tuple[int, ...]  # address bits that must be zero in each input
    copied: tuple[int, ...]  # inputs that are copied to a dense array first
    moved: bool  # results are computed in fresh memory, then copied into the given outputs
    new: tuple[tuple[Any, Any, Any], ...]  # (shape, dtype, order) of each output
    empty: bool  # no output has an element
    spans: tuple[tuple[int, int], ...]  # bytes around the address of inputs and outputs as given
    prepared: Any  # what a launch on a device made of the sizes, None before the first
    env: Env  # sizes and params
    shapes: list[list[int]]  # of inputs then outputs, in the axes of the spec


class Again(Exception):
    """A cached signature does not fit after all: an address is odd or memory overlaps."""


class Engine:
    """The callable behind an emitted function; `results` is the class of several outputs."""

    libraries: tuple[str, ...] = ("numpy", "torch")
    # keys of torch's dispatcher: where kernels run, where a call is refused; in words
    keys: tuple[str, ...] = ("CPU",)
    strangers: tuple[str, ...] = ("CUDA", "XPU", "MPS", "HPU")
    where = "the CPU (x.cpu())"
    native = True  # kernels are functions of a library

    def __init__(self, spec: Spec, folder: str, results: Callable[..., Any] | None = None) -> None:
        self.spec, self.folder, self.results = spec, folder, results
        self.dispatcher = Dispatcher(spec, folder)
        prefix = spec.package.upper()
        self.prefix = prefix
        self.checking = switched_on(f"{prefix}_CHECK")
        self._threads, self._threads_fixed = default_threads(f"{prefix}_NUM_THREADS")
        self._cache: dict[Any, Bound] = {}
        self._families: dict[type, Any] = {}
        used = {u for b in spec.bindings for v in b.variants for f in v.facts for u in f.uses}
        tensors = (*spec.inputs, *spec.outputs)
        # of a result that is not real there is no gradient to lose
        self.differentiable = any(
            e[0] in "fb" and e != "bool" for b in spec.bindings for e in b.outputs
        )
        self._aligned = tuple(n for n, t in enumerate(tensors) if f"align:{t.name}" in used)
        self._align_outputs = any(n >= len(spec.inputs) for n in self._aligned)
        self._table = self._compiled() if self.native else None
        # what the generated function calls
        self.entry: Callable[..., Any] = self._table.call if self._table else self.call

    # -- calls -------------------------------------------------------------------------------------

    def call(
        self,
        inputs: tuple[Any, ...],
        given: tuple[Any, ...],
        out: Any = None,
        implementation: Choice = None,
        check: bool | None = None,
        kept: Kept | None = None,
    ) -> Any:
        """The result for arrays of one library; the generated function documents the arguments.
        `kept` holds what kernels make of constant inputs."""
        library = self._families.get(type(inputs[0])) if inputs else None
        if library is not None:
            outs = None if out is None else self.outputs_given(out)
            result = self._repeat(library, inputs, given, outs, implementation, check, False, kept)
            if result is not None:
                return result
        return self._careful(inputs, given, out, implementation, check, kept)

    def _repeat(
        self,
        library: Any,
        inputs: tuple[Any, ...],
        given: tuple[Any, ...],
        outs: tuple[Any, ...] | None,
        choice: Choice,
        check: bool | None,
        inside: bool = False,
        kept: Kept | None = None,
    ) -> Any:
        """The result of a call whose signature is known; None when it needs a closer look."""
        arrays = inputs if outs is None else (*inputs, *outs)
        parts = library.signature(arrays, inside)
        if parts is None:
            return None
        if self._aligned:
            parts += self._alignments(library, arrays)
        try:
            bound = self._cache.get((*parts, given, choice))
        except TypeError:  # something unhashable among the params
            return None
        if bound is None:
            return None
        if self.spec.requires and (self.checking if check is None else check):
            self._check_values(library, bound, inputs)
        try:
            return self._execute(library, bound, inputs, outs, True, kept)
        except Again:
            return None

    def _alignments(self, library: Any, arrays: Sequence[Any]) -> list[int]:
        count = len(arrays)
        return [alignment_class(library.pointer(arrays[n])) for n in self._aligned if n < count]

    def _careful(
        self,
        inputs: tuple[Any, ...],
        given: tuple[Any, ...],
        out: Any,
        choice: Choice,
        check: Any,
        kept: Kept | None = None,
    ) -> Any:
        """A call that is seen for the first time or that needs an answer in words."""
        library, inputs, outs = self.admit(inputs, out)
        if library.name == "torch":
            tensors = (*inputs, *(outs or ()))
            if library.foreign(tensors):
                from .torchop import dispatch

                return dispatch(self, inputs, given, outs, choice)
            if self.differentiable and library.grad_wanted(tensors):
                if self.spec.backward and outs is None:
                    from .torchop import dispatch

                    return dispatch(self, inputs, given, None, choice)
                raise RuntimeError(self.no_gradient())
        return self.local(library, inputs, given, outs, choice, check, kept)

    def local(
        self,
        library: Any,
        inputs: tuple[Any, ...],
        given: tuple[Any, ...],
        outs: tuple[Any, ...] | None = None,
        choice: Choice = None,
        check: bool | None = None,
        kept: Kept | None = None,
    ) -> Any:
        """The kernel on these arrays, past what torch's own machinery wants to see."""
        spec = self.spec
        result = self._repeat(library, inputs, given, outs, choice, check, True, kept)
        if result is not None:
            return result
        inputs = tuple(library.prepare(x) for x in inputs)
        for tensor, x in zip(spec.inputs, inputs):
            trouble = library.trouble(x)
            if trouble:
                raise TypeError(f"{spec.name}: {tensor.name} {trouble}")
        choice = tuple(choice) if isinstance(choice, list) else choice
        bound = self._bind(library, inputs, given, outs, choice)
        if spec.requires and (self.checking if check is None else check):
            self._check_values(library, bound, inputs)
        if outs is not None and self._collisions(library, bound, inputs, outs):
            fresh = self._execute(
                library, self._bind(library, inputs, given, None, choice), inputs, None, False
            )
            for target, result in zip(outs, fresh):
                library.copy_into(target, result)
            return self._pack(outs)
        return self._execute(library, bound, inputs, outs, True, kept)

    def explain(
        self, inputs: tuple[Any, ...], given: tuple[Any, ...], out: Any, choice: Choice
    ) -> Explanation:
        """Every variant with the reason why it would or would not take this call."""
        library, inputs, outs = self.admit(inputs, out)
        inputs = tuple(library.prepare(x) for x in inputs)
        call, variant, rows = self.dispatcher.settle(library, inputs, given, outs, choice, True)
        if variant is not None:
            isa = self.dispatcher.file(variant)[0]
        else:
            isa = self.dispatcher.levels()[0] if self.native else best_level(self)
        copied = tuple(self.spec.inputs[n].name for n in call.copied)
        if call.moved:
            copied += ("out",)
        name = variant.name if variant else None
        return Explanation(isa, name, call.binding.types, rows, copied)

    def no_gradient(self) -> str:
        if self.spec.backward:
            return (
                f"{self.spec.name}: a tensor requires grad, and a call with `out` records none; "
                "leave out= away, or call it under torch.no_grad()"
            )
        return (
            f"{self.spec.name} has no backward in this package, and a tensor requires grad; "
            "call it under torch.no_grad(), or on x.detach() if no gradient is wanted"
        )

    # -- admission ---------------------------------------------------------------------------------

    def admit(
        self, inputs: tuple[Any, ...], out: Any
    ) -> tuple[Any, tuple[Any, ...], tuple[Any, ...] | None]:
        """(library, inputs as its arrays, outputs in order); TypeError for a mixture."""
        spec = self.spec
        outs = self.outputs_given(out)
        named = [*zip((t.name for t in spec.inputs), inputs)]
        if outs is not None:
            named += [(f"out ({t.name})", x) for t, x in zip(spec.outputs, outs)]
        owners: dict[str, str] = {}
        scalars = []
        for n, (name, x) in enumerate(named):
            if n < len(inputs) and not spec.inputs[n].axes and type(x) in (int, float, bool):
                scalars.append(n)
                continue
            found = family_of(x)
            if found is None:
                kind = f"{type(x).__module__}.{type(x).__qualname__}"
                raise TypeError(
                    f"{spec.name}: {name} must be a numpy array or a torch tensor, not {kind}"
                )
            owners.setdefault(found.name, name)
        if len(owners) > 1:
            mixed = " and ".join(f"{name} is of {kind}" for kind, name in owners.items())
            raise TypeError(f"{spec.name}: {mixed}; pass arrays of one library")
        if owners and next(iter(owners)) not in self.libraries:
            name = next(iter(owners.values()))
            raise TypeError(
                f"{spec.name}: {name} must be a torch tensor; this package holds kernels for "
                f"{self.where}"
            )
        library = self.family(next(iter(owners))) if owners else self.default_family()
        if scalars:
            inputs = tuple(
                library.scalar(x, self._scalar_element(library, inputs, n)) if n in scalars else x
                for n, x in enumerate(inputs)
            )
        return library, inputs, outs

    def family(self, name: str) -> Any:
        """The arrays of that library as this engine takes them."""
        return family(name)

    def default_family(self) -> Any:
        for name in self.libraries:
            try:
                return self.family(name)
            except ImportError:
                continue
        raise ImportError(f"{self.spec.name} needs numpy or torch; install one of them")

    def _scalar_element(self, library: Any, inputs: Sequence[Any], at: int) -> str:
        """The element type of a Python number given for an input without axes."""
        fits = [
            b
            for b in self.spec.bindings
            if all(
                type(x) in (int, float, bool) or library.exact(x) == e or e in library.raw(x)
                for x, e in zip(inputs, b.inputs)
            )
        ]
        found = sorted({b.inputs[at] for b in fits or self.spec.bindings})
        if len(found) > 1:
            raise TypeError(
                f"{self.spec.name}: {self.spec.inputs[at].name} may be {' or '.join(found)}; "
                "pass an array without axes of the type that is meant"
            )
        return found[0]

    def outputs_given(self, out: Any) -> tuple[Any, ...] | None:
        spec = self.spec
        if out is None:
            return None
        if isinstance(out, dict):
            names = [t.name for t in spec.outputs]
            if sorted(out) != sorted(names):
                raise TypeError(f"{spec.name}: out must hold exactly {', '.join(names)}")
            return tuple(out[name] for name in names)
        outs = tuple(out) if isinstance(out, (tuple, list)) else (out,)
        if len(outs) != len(spec.outputs):
            named = ", ".join(t.name for t in spec.outputs)
            raise TypeError(f"{spec.name}: out must be {len(spec.outputs)} arrays ({named})")
        return outs

    # -- binding -----------------------------------------------------------------------------------

    def _bind(self, library: Any, inputs: Any, given: Any, outs: Any, choice: Choice) -> Bound:
        """The signature made ready, kept in the cache when its arrays are used as they are."""
        spec = self.spec
        call, variant, rows = self.dispatcher.settle(library, inputs, given, outs, choice)
        if variant is None:
            raise self.dispatcher.refused(rows, choice)
        b, env = call.binding, call.env
        bound = Bound()
        bound.run = self.dispatcher.entry(variant)
        bound.path = self.dispatcher.file(variant)[1] if self.native else ""
        bound.part = part_of(bound.path) if self.native else None
        bound.moved, bound.prepared = call.moved, None
        ints = [env[s] for s in spec.sizes]
        ints += [int(env[p.name]) for p in spec.params if p.kind != "real"]
        for strides in call.strides:
            ints += strides
        reals = [env[p.name] for p in spec.params if p.kind == "real"]
        bound.ints = (ctypes.c_int64 * max(len(ints), 1))(*ints)
        bound.reals = (ctypes.c_double * max(len(reals), 1))(*reals)
        bound.vector = ctypes.c_void_p * max(len(spec.inputs) + len(spec.outputs), 1)
        bound.env, bound.shapes, bound.copied = env, call.shapes, call.copied
        bound.masks = tuple(item_bytes(e) - 1 for e in (*b.inputs, *b.outputs))
        bound.empty = all(0 in shape for shape in call.visible)
        bound.new = tuple(
            (shape, library.output_type(e, inputs, b.inputs), t.order)
            for t, shape, e in zip(spec.outputs, call.visible, b.outputs)
        )
        bound.spans = tuple(call.spans)
        if not call.odd:
            self._keep(library, bound, inputs, given, outs, choice)
        return bound

    def _keep(
        self, library: Any, bound: Bound, inputs: Any, given: Any, outs: Any, choice: Choice
    ) -> None:
        arrays = inputs if outs is None else (*inputs, *outs)
        parts = library.signature(arrays, inside=True)
        if parts is None:
            return
        if len(self._cache) >= CACHED_SIGNATURES:
            self._cache.clear()
        self._cache[(*parts, *self._alignments(library, arrays), given, choice)] = bound
        self._families.update((kind, library) for kind in library.plain)
        if choice is None:
            self._teach(library, bound, inputs, given, outs)

    # -- known signatures, past Python -------------------------------------------------------------

    def _compiled(self) -> Any:
        """The table of `entry.c`, which calls `call` for what it does not know; None where it does
        not load or is not wanted."""
        if sys.version_info < (3, 11) or not switched_on(f"{self.prefix}_ENTRY"):
            return None
        try:
            home = __name__.rpartition(".")[0].rpartition(".")[0]
            table = importlib.import_module(f"{home}._entry").Table
            spec = self.spec
            return table(
                self.call, self.results, NO_SCRATCH.format(spec.name), len(spec.inputs),
                len(spec.outputs), self._threads, self._threads_fixed, self.differentiable,
                sum(1 << n for n in self._aligned),
            )  # fmt: skip
        except (ImportError, ValueError):
            return None

    def _teach(self, library: Any, bound: Bound, inputs: Any, given: Any, outs: Any) -> None:
        """Tell the compiled table of a signature that needs nothing but the kernel."""
        plain = not (bound.copied or bound.moved or bound.empty or self.spec.requires)
        if outs is None:
            plain = plain and not self._align_outputs and all(o is None for _, _, o in bound.new)
        if not plain or self._table is None:
            return
        facts = library.entry()
        if facts is None or not self._table.learn(library.name, *facts):
            return
        numbers = ctypes.c_int64 * (2 * len(bound.spans))
        self._table.add(
            inputs,
            given,
            outs,
            ctypes.cast(bound.run, ctypes.c_void_p).value,
            bytes(bound.ints),
            bytes(bound.reals),
            bytes((ctypes.c_int64 * len(bound.masks))(*bound.masks)),
            bytes(numbers(*(b for span in bound.spans for b in span))),
            tuple(library.making(shape, dtype) for shape, dtype, _ in bound.new),
        )

    # -- execution ---------------------------------------------------------------------------------

    def _execute(
        self,
        library: Any,
        bound: Bound,
        inputs: Any,
        outs: Any,
        pack: bool = True,
        kept: Kept | None = None,
    ) -> Any:
        """Allocate, call, return; Again when a cached signature does not fit these addresses."""
        if outs is None or bound.moved:
            make = library.aligned if self._align_outputs else library.empty
            results = [make(shape, dtype, order) for shape, dtype, order in bound.new]
        else:
            results = outs
        if not bound.empty:
            address = library.pointer
            copying = bound.copied or bound.moved
            addresses = [address(x) for x in (*inputs, *(outs if copying and outs else results))]
            if outs is not None and not self._apart(library, bound, addresses, outs):
                raise Again
            if copying:
                copy = library.aligned_copy if self._aligned else library.dense
                inputs = [copy(x) if n in bound.copied else x for n, x in enumerate(inputs)]
                addresses = [address(x) for x in (*inputs, *results)]
            for where, mask in zip(addresses, bound.masks):
                if where & mask:
                    raise Again
            if self.native:
                threads = self._threads if self._threads_fixed else library.threads(self._threads)
                buffers = bound.vector(*addresses)
                if kept is not None:
                    failed = kept.run(bound, buffers, threads)
                else:
                    failed = bound.run(buffers, bound.ints, bound.reals, _INT32(threads))
                if failed:
                    raise MemoryError(NO_SCRATCH.format(self.spec.name))
            else:
                self.launch(library, bound, inputs, results)
        if outs is not None and bound.moved:
            for target, result in zip(outs, results):
                library.copy_into(target, result)
            results = outs
        if not pack:
            return results
        return results[0] if len(results) == 1 else self._pack(results)

    def launch(self, library: Any, bound: Bound, inputs: Any, results: Any) -> None:
        """Run kernels that are no functions of a library."""
        raise TypeError("an engine for a device says how it launches")

    def _pack(self, results: Sequence[Any]) -> Any:
        if len(results) == 1:
            return results[0]
        return self.results(*results) if self.results else tuple(results)

    def _apart(self, library: Any, bound: Bound, addresses: Sequence[int], outs: Any) -> bool:
        """Whether given outputs are writable and share no memory with inputs or each other."""
        first = len(addresses) - len(outs)
        ranges = [(a + low, a + end) for a, (low, end) in zip(addresses, bound.spans)]
        for n in range(first, len(ranges)):
            for other in ranges[:n]:
                if overlap(ranges[n], other):
                    return False
        return all(library.writable(x) for x in outs)

    def _collisions(self, library: Any, bound: Bound, inputs: Any, outs: Any) -> bool:
        """Whether an output lies over the input that it updates; ValueError for other overlaps."""
        spec = self.spec
        tensors = (*spec.inputs, *spec.outputs)
        ranges = []
        for n, x in enumerate((*inputs, *outs)):
            low, end = bound.spans[n]
            at = library.pointer(x)
            ranges.append((at + low, at + end))
        replaced = False
        for m, t in enumerate(spec.outputs, len(inputs)):
            for other, other_range in zip(tensors[:m], ranges):
                if overlap(ranges[m], other_range):
                    if other.name != t.updates:
                        raise ValueError(
                            f"{spec.name}: out ({t.name}) shares memory with {other.name}; "
                            "pass memory of its own"
                        )
                    replaced = True
        return replaced

    # -- values ------------------------------------------------------------------------------------

    def _check_values(self, library: Any, bound: Bound, inputs: Any) -> None:
        """ValueError for the first precondition on values that the inputs violate."""
        spec, env = self.spec, bound.env
        arrays = {t.name: (x, s) for t, x, s in zip(spec.inputs, inputs, bound.shapes)}
        for requirement in spec.requires:
            tensors = {
                name: library.integers(arrays[name][0]).reshape(arrays[name][1])
                for name in requirement.tensors
            }
            for text, mask, binders in requirement.check(library, tensors, env):
                if bool(mask.all()):
                    continue
                flags = library.to_values(mask)
                at = flags.index(False)
                where: list[str] = []
                for name, extent in reversed([*zip(binders, mask.shape)]):
                    where.insert(0, f"{name} = {at % extent}")
                    at //= extent
                raise ValueError(
                    f"{spec.name} requires {requirement.name}: {text}; "
                    f"it does not hold at {', '.join(where)}"
                )


def best_level(engine: Engine) -> str:
    """The best instruction-set level here, also when the environment asks for an impossible one."""
    try:
        return engine.dispatcher.levels()[0]
    except RuntimeError:
        return PORTABLE if engine.native else "no GPU"


__all__ = ["ALIGNMENT", "Again", "Engine", "Explanation", "best_level"]
