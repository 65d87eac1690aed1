"""From arrays to numbers: element types, sizes and strides of a call, and the variant for it."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Union

from .arrays import ALIGNMENT, item_bytes, row_major
from .describe import Binding, Env, Spec, Tensor, Variant
from .machine import levels

Choice = Union[None, str, Sequence[str]]
Rows = list[tuple[str, bool, str]]
# elements of a call below which a copy costs more than the variant that takes any strides
COPY_FROM = 1024
# bytes of copies that a call may make in any case, and in units of what it touches
COPY_BYTES, COPY_SHARE = 1 << 24, 2


class Arrangement(NamedTuple):
    """What a call is once its arrays are understood."""

    binding: Binding
    env: Env  # sizes, params, strides, alignments
    shapes: list[list[int]]  # of inputs then outputs, in the axes of the spec
    strides: list[list[int]]  # likewise, in elements
    copied: tuple[int, ...]  # inputs that are copied to a dense array first
    visible: list[tuple[int, ...]]  # shapes of the outputs as a caller sees them
    spans: list[tuple[int, int]]  # bytes around the address of each given array as it lies
    moved: bool = False  # the results are computed in fresh memory and copied into `out`
    odd: bool = False  # an input is copied for its address, which no signature tells


def span(shape: Sequence[int], strides: Sequence[int], size: int) -> tuple[int, int]:
    """(lowest, end) byte offsets that an array touches, relative to its first element."""
    low = high = 0
    for extent, stride in zip(shape, strides):
        if extent == 0:
            return 0, 0
        reach = (extent - 1) * stride * size
        low, high = (low + reach, high) if reach < 0 else (low, high + reach)
    return low, high + size


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two half-open address ranges share a byte."""
    return max(a[0], b[0]) < min(a[1], b[1])


def folded(shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """The stride of the single axis that several axes make, or None when they do not line up."""
    if 0 in shape:
        return 1
    real = [(n, s) for n, s in zip(shape, strides) if n != 1]
    for (_, outer), (count, inner) in zip(real, real[1:]):
        if outer != inner * count:
            return None
    return real[-1][1] if real else 1


def alignment_class(address: int) -> int:
    """Largest power of two up to ALIGNMENT that divides an address."""
    return min(address & -address, ALIGNMENT) if address else ALIGNMENT


def ordered_strides(shape: Sequence[int], order: tuple[int, ...] | None) -> list[int]:
    """Strides of a dense array whose axes lie in memory in `order`."""
    if order is None:
        return row_major(shape)
    dense = row_major([shape[a] for a in order])
    return [dense[order.index(a)] for a in range(len(shape))]


def _set_strides(env: Env, t: Tensor, strides: Sequence[int]) -> None:
    for axis, stride in enumerate(strides):
        env[f"stride:{t.name}:{axis}"] = stride


def switched_on(variable: str) -> bool:
    """Whether an environment variable does not say 0, off, false or no."""
    return os.environ.get(variable, "1").lower() not in ("0", "off", "false", "no")


class Dispatcher:
    """Understands calls and picks variants; keeps the loaded libraries."""

    def __init__(self, spec: Spec, folder: str) -> None:
        self.spec, self.folder = spec, folder
        prefix = spec.package.upper()
        self.choice: Choice = os.environ.get(f"{prefix}_IMPL") or None
        self._isa = os.environ.get(f"{prefix}_ISA") or None
        self.copies = switched_on(f"{prefix}_COPY")
        self._levels: tuple[str, ...] | None = None
        self._loaded: dict[str, Any] = {}

    # -- types -------------------------------------------------------------------------------------

    def select(
        self, library: Any, inputs: Sequence[Any], given: Sequence[Any], outs: Sequence[Any] | None
    ) -> Binding:
        """The binding that the arrays' element types give; TypeError when none does."""
        spec = self.spec
        keywords = dict(zip(spec.given_names(), given))
        chosen = {t: keywords[t] for t in spec.types if keywords.get(t) is not None}
        arrays = [*inputs, *(outs or ())]
        exact: list[Binding] = []
        loose: list[Binding] = []
        for b in spec.bindings:
            if any(b.types.get(k) != v for k, v in chosen.items()):
                continue
            wanted = (*b.inputs, *b.outputs) if outs is not None else b.inputs
            if all(library.exact(x) == e for x, e in zip(arrays, wanted)):
                exact.append(b)
            elif all(library.exact(x) == e or e in library.raw(x) for x, e in zip(arrays, wanted)):
                loose.append(b)
        found = exact or loose
        if len(found) == 1:
            return found[0]
        tensors = (*spec.inputs, *spec.outputs) if outs is not None else spec.inputs
        have = ", ".join(f"{t.name}: {x.dtype}" for t, x in zip(tensors, arrays))
        if not found:
            table = " or ".join(
                "(" + self.signature(b, outs is not None) + ")" for b in spec.bindings
            )
            pinned = " with " + ", ".join(f"{k} = {v}" for k, v in chosen.items()) if chosen else ""
            raise TypeError(f"{spec.name} takes {table}, not ({have}){pinned}")
        several = " or ".join(", ".join(f"{k}={v!r}" for k, v in b.types.items()) for b in found)
        raise TypeError(f"{spec.name}: ({have}) may mean {several}; pass one of them by keyword")

    def signature(self, b: Binding, outputs: bool = False) -> str:
        pairs = [*zip(self.spec.inputs, b.inputs)]
        if outputs:
            pairs += [*zip(self.spec.outputs, b.outputs)]
        return ", ".join(f"{t.name}: {e}" for t, e in pairs)

    # -- layout ------------------------------------------------------------------------------------

    def arrange(
        self,
        library: Any,
        inputs: Sequence[Any],
        given: Sequence[Any],
        outs: Sequence[Any] | None,
    ) -> Arrangement:
        """Types, sizes and strides of a call; ValueError or TypeError names what does not fit."""
        spec = self.spec
        b = self.select(library, inputs, given, outs)
        seen = [tuple(x.shape) for x in inputs]
        flat = [spec.flat_shape(t, s) for t, s in zip(spec.inputs, seen)]
        lead = spec.lead(seen)
        env = spec.resolve(flat, given)
        spec.check_where(env)
        visible = [spec.output_shape(t, env, lead) for t in spec.outputs]
        shapes = [[axis(env) for axis in t.axes] for t in (*spec.inputs, *spec.outputs)]
        strides: list[list[int]] = []
        copied: list[int] = []
        odd = False
        for n, (t, x, e) in enumerate(zip(spec.inputs, inputs, b.inputs)):
            own = self._strides(library, t, x, e, shapes[n])
            address = library.pointer(x)
            if own is None or address % item_bytes(e):
                odd = odd or own is not None
                own, address = row_major(shapes[n]), 0
                copied.append(n)
            strides.append(own)
            env[f"align:{t.name}"] = alignment_class(address)
        for m, (t, e) in enumerate(zip(spec.outputs, b.outputs)):
            shape = shapes[len(inputs) + m]
            if outs is None:
                strides.append(ordered_strides(shape, t.order))
                env[f"align:{t.name}"] = ALIGNMENT
            else:
                strides.append(self._out_strides(library, t, e, outs[m], visible[m], shape))
                env[f"align:{t.name}"] = alignment_class(library.pointer(outs[m]))
        for t, own in zip((*spec.inputs, *spec.outputs), strides):
            _set_strides(env, t, own)
        elements = (*b.inputs, *b.outputs)
        spans = [
            (0, 0) if n in copied else span(shapes[n], own, item_bytes(e))
            for n, (own, e) in enumerate(zip(strides, elements))
        ]
        return Arrangement(b, env, shapes, strides, tuple(copied), visible, spans, False, odd)

    def settle(
        self,
        library: Any,
        inputs: Sequence[Any],
        given: Sequence[Any],
        outs: Sequence[Any] | None,
        choice: Choice,
        everything: bool = False,
    ) -> tuple[Arrangement, Variant | None, Rows]:
        """A call with the variant for it, on row-major copies where those pay."""
        call = self.arrange(library, inputs, given, outs)
        variant, rows = self.choose(call.binding, call.env, choice, everything)
        last = call.binding.variants[-1]
        if variant is last and len(call.binding.variants) > 1:
            if choice is None and self.choice is None and self.copies:
                dense = self._densified(call, outs is not None)
                if dense is not None:
                    better, told = self.choose(dense.binding, dense.env, None, everything)
                    if better is not None and better is not last:
                        return dense, better, told
        return call, variant, rows

    def _densified(self, call: Arrangement, given: bool) -> Arrangement | None:
        """The call as it is once inputs are row-major copies and results are copied out; None where
        nothing is to be copied, or where that is not worth it."""
        spec, count = self.spec, len(self.spec.inputs)
        if any(t.updates for t in spec.outputs):
            return None  # an output may lie over an input: what is read and written where matters
        env, strides, copied = dict(call.env), list(call.strides), list(call.copied)
        moved = False
        items = [item_bytes(e) for e in (*call.binding.inputs, *call.binding.outputs)]
        touched = work = copies = 0
        for n, t in enumerate((*spec.inputs, *spec.outputs)):
            shape = call.shapes[n]
            dense = row_major(shape) if n < count else ordered_strides(shape, t.order)
            size = 1
            for extent in shape:
                size *= extent
            low, end = call.spans[n]
            touched, work = touched + end - low, work + size
            if strides[n] == dense or not size:
                continue
            copies += size * items[n]
            strides[n] = dense
            env[f"align:{t.name}"] = ALIGNMENT
            _set_strides(env, t, dense)
            if n < count:
                copied.append(n)
            else:
                moved = given
        if work < COPY_FROM or copies > max(COPY_BYTES, COPY_SHARE * touched):
            return None
        if len(copied) == len(call.copied) and not moved:
            return None
        if moved:
            for n, t in enumerate(spec.outputs, count):
                env[f"align:{t.name}"] = ALIGNMENT
                strides[n] = ordered_strides(call.shapes[n], t.order)
                _set_strides(env, t, strides[n])
        return call._replace(env=env, strides=strides, copied=tuple(sorted(copied)), moved=moved)

    def _strides(
        self, library: Any, t: Tensor, x: Any, element: str, shape: Sequence[int]
    ) -> list[int] | None:
        """Strides in elements, one per axis of the spec; None when the array must be copied."""
        strides = library.layout(x, element)
        if strides is None:
            return None
        if t.several:
            count = len(strides) - len(shape) + 1
            one = folded(x.shape[:count], strides[:count])
            if one is None:
                return None
            strides = (one, *strides[count:])
        # an axis of at most one element has no stride to speak of: the dense one meets most guards
        dense = row_major(shape)
        if 0 in shape:
            return dense
        return [d if n <= 1 else s for n, s, d in zip(shape, strides, dense)]

    def _out_strides(
        self,
        library: Any,
        t: Tensor,
        element: str,
        x: Any,
        visible: tuple[int, ...],
        shape: Sequence[int],
    ) -> list[int]:
        """Strides of a given output; TypeError or ValueError when it cannot take the result."""
        at = f"out ({t.name})" if len(self.spec.outputs) > 1 else "out"
        name = self.spec.name
        trouble = library.trouble(x)
        if trouble:
            raise TypeError(f"{name}: {at} {trouble}")
        if tuple(x.shape) != tuple(visible):
            raise ValueError(f"{name}: {at} must have the shape {visible}, not {tuple(x.shape)}")
        if not library.writable(x):
            raise ValueError(f"{name}: {at} is read-only")
        strides = self._strides(library, t, x, element, shape)
        if strides is None or library.pointer(x) % item_bytes(element):
            raise ValueError(f"{name}: {at} does not lie in memory as whole elements; pass another")
        step = 1
        for stride, extent in sorted((abs(s), n) for s, n in zip(strides, shape) if n > 1):
            if stride < step:
                raise ValueError(f"{name}: elements of {at} share memory; pass a plain array")
            step = stride * extent
        return strides

    # -- variants ----------------------------------------------------------------------------------

    def levels(self) -> tuple[str, ...]:
        """Instruction-set levels to use, best first; RuntimeError for one that is not here."""
        if self._levels is None:
            self._levels = levels(self._isa)
        return self._levels

    def choose(
        self, b: Binding, env: Env, choice: Choice, everything: bool = False
    ) -> tuple[Variant | None, Rows]:
        """The first variant whose facts hold and that runs here, and a reason for each tried."""
        wanted = self.choice if choice is None else choice
        by_name = {v.name: v for v in b.variants}
        names = list(by_name)
        if wanted is not None:
            names = [wanted] if isinstance(wanted, str) else list(wanted)
            unknown = [n for n in names if n not in by_name]
            if unknown:
                raise ValueError(
                    f"{self.spec.name}: no variant {unknown[0]!r}; there are {', '.join(by_name)}"
                )
        rows: Rows = []
        taken: Variant | None = None
        for name in names:
            reason = self._refusal(by_name[name], env)
            rows.append((name, reason is None, reason or "every guard holds"))
            if reason is None and taken is None:
                taken = by_name[name]
                if not everything:
                    return taken, rows
        rows += [(n, False, "not asked for") for n in by_name if n not in names and everything]
        return taken, rows

    def refused(self, rows: Rows, choice: Choice) -> Exception:
        """ValueError when a wish is refused, RuntimeError when nothing runs."""
        said = "; ".join(f"{name}: {reason}" for name, _, reason in rows)
        if choice is None and self.choice is None:
            return RuntimeError(f"{self.spec.name}: no variant can run here: {said}")
        return ValueError(f"{self.spec.name}: the variant asked for cannot take this call: {said}")

    def _refusal(self, variant: Variant, env: Env) -> str | None:
        failed = [fact for fact in variant.facts if not fact.holds(env)]
        if failed:
            return "; ".join(f"{fact.text} does not hold ({fact.values(env)})" for fact in failed)
        try:
            self.entry(variant)
        except (OSError, AttributeError, RuntimeError) as error:
            return str(error)
        return None

    def file(self, variant: Variant) -> tuple[str, str]:
        """(level, path) of a variant's best library for this processor; RuntimeError if none."""
        for level in self.levels():
            if level in variant.libraries:
                return level, os.path.join(self.folder, variant.libraries[level])
        built, here = ", ".join(variant.libraries), ", ".join(self.levels())
        raise RuntimeError(f"built for {built}; this processor runs {here}")

    def entry(self, variant: Variant) -> Callable[..., int]:
        """The native function of a variant; OSError when its library does not load."""
        path = self.file(variant)[1]
        found = self._loaded.get(path)
        if found is None:
            try:
                # no argtypes: every argument is built with its exact ctypes type
                found = ctypes.CDLL(path).opwright_run
            except (OSError, AttributeError) as error:
                warnings.warn(f"{path} cannot be used: {error}", RuntimeWarning, stacklevel=2)
                found = OSError(f"its library cannot be used: {error}")
            self._loaded[path] = found
        if isinstance(found, OSError):
            raise found
        run: Callable[..., int] = found
        return run
