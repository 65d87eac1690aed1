"""Specs in Python: `load` for what an operator means, `compile` for a callable that was measured.

Public through `opwright`; nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opwright.compiler.elaborate import Spec
    from opwright.ir.op import Operator
    from opwright.packages import Compiled
    from opwright.search.events import Event


class Module(Mapping[str, "Operation"]):
    """The operators of one spec file by name."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._operations = {name: Operation(spec, name) for name in spec.names}

    def __getitem__(self, name: str) -> Operation:
        try:
            return self._operations[name]
        except KeyError:
            known = ", ".join(self._operations)
            raise KeyError(f"{self.path} has no operator {name}; it has {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._operations)

    def __len__(self) -> int:
        return len(self._operations)

    def __repr__(self) -> str:
        return f"<opwright module {self.path}: {', '.join(self._operations)}>"

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._spec.filename)


class Operation:
    """One operator of a spec."""

    def __init__(self, spec: Spec, name: str) -> None:
        self._spec = spec
        self.name = name

    def __repr__(self) -> str:
        op = self.operator()
        inputs = ", ".join(t.name for t in op.inputs)
        outputs = ", ".join(t.name for t in op.outputs)
        return f"<opwright operator {op.name} @ {op.version}: {inputs} -> {outputs}>"

    @property
    def bindings(self) -> list[dict[str, str]]:
        """Every combination of element types that the spec names, the default one first."""
        return self._spec.bindings(self.name)

    def operator(self, types: Mapping[str, str] | None = None) -> Operator:
        """The checked operator; type variables not bound here take the first of their types."""
        return self._spec.operator(self.name, types)

    def infer_types(self, arrays: Mapping[str, Any]) -> dict[str, str]:
        """A type for every type variable: that of an array declared with it, else the first.

        Raises TypeError when two arrays ask for different types.
        """
        from opwright.arrays import element_type

        syntax = next(op for op in self._spec.module.ops if op.name == self.name)
        out: dict[str, str] = {}
        for decl in syntax.types:
            options = [option.name for option in decl.options]
            asked = {
                tensor.name: found
                for tensor in syntax.inputs
                if tensor.type.name == decl.name and tensor.name in arrays
                if (found := element_type(arrays[tensor.name])) in options
            }
            if len(set(asked.values())) > 1:
                given = ", ".join(f"{name}: {found}" for name, found in asked.items())
                raise TypeError(
                    f"{self.name}: {decl.name} is one type, but the arrays have {given}"
                )
            out[decl.name] = next((found for found in asked.values() if found), options[0])
        return out

    def reference(
        self, *, types: Mapping[str, str] | None = None, **given: Any
    ) -> dict[str, NDArray[Any]]:
        """The outputs by name as the definition says, float64 (int64, bool) and unrounded.

        Inputs are numpy arrays, torch tensors or numbers by name; params, and sizes that no input
        fixes, are passed by name too. A leading group keeps the axes that the inputs have. Raises
        `ValueError` for what the operator does not take.
        """
        from opwright.arrays import decoded
        from opwright.ir.binding import InputError, restore
        from opwright.ir.reference import reference

        op = self.operator({**self.infer_types(given), **(types or {})})
        inputs = {t.name: t for t in op.inputs}
        params = {p.name for p in op.params}
        sizes = set(op.sizes)
        unknown = [name for name in given if name not in {*inputs, *params, *sizes}]
        if unknown:
            known = ", ".join((*inputs, *(p.name for p in op.params), *op.free_sizes))
            raise InputError(
                f"{self.name} has no input, param or size {unknown[0]}; it has {known}"
            )
        arrays = {n: decoded(v, inputs[n].dtype.name) for n, v in given.items() if n in inputs}
        found = reference(
            op,
            arrays,
            {n: v for n, v in given.items() if n in params},
            {n: int(v) for n, v in given.items() if n in sizes and n not in params},
        )
        return restore(op, arrays, found)


def load(path: str | Path) -> Module:
    """The operators of a spec file.

    Raises OSError for a file that cannot be read, and `opwright.SpecError` with every mistake.
    """
    from opwright.compiler.elaborate import load_spec

    spec = load_spec(path)
    spec.all_elaborated()
    return Module(spec)


def compile(
    path: str | Path,
    op: str | None = None,
    target: str = "cpu",
    *,
    budget: int = 12,
    out: str | Path | None = None,
    seed: int = 0,
    types: Mapping[str, str] | None = None,
    require: str = "proved",
    seconds: float | None = None,
    progress: Callable[[Event], None] | None = None,
    backward: bool = False,
) -> Compiled:
    """Search, prove, measure and emit one operator of a spec; the result is callable.

    `budget` counts evaluated candidates; the package goes to `out` (default: the cache folder).
    With `backward`, gradients that the spec asks for go into it, for torch's autograd.
    Raises OSError, `opwright.SpecError`, and `opwright.CompileError` when nothing may ship.
    """
    from opwright.compiler.paths import cache_folder
    from opwright.compiler.pipeline import compile_spec
    from opwright.packages import Compiled

    folder = Path(out) if out is not None else cache_folder() / "packages"
    result = compile_spec(
        Path(path),
        op,
        target=target,
        budget=budget,
        out=folder,
        seed=seed,
        types=types,
        require=require,
        progress=progress,
        seconds=seconds,
        backward=backward,
    )
    return Compiled(result)
