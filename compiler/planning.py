"""Drafts of launch plans: what a kernel's parameters stand for, as far as names say it.

A draft decides nothing in silence. What names do not say is a hole, `?` with what is missing, and
a plan with holes is none; what they do say is told, and is judged with the plan by every gate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.expr import show
from opwright.ir.op import Operator, Tensor
from opwright.ir.signature import Parameter, Signature

HOLE = "?"
_AFFIXES = re.compile(r"^(ptr_|pointer_|p_)|(_ptrs?|_pointer|_p|ptr)$")
_FIRST = ("row", "rows", "batch", "b")
_LAST = ("col", "cols", "column", "feat", "n")


@dataclass(frozen=True, slots=True)
class Given:
    """What the person says: arguments and constants by parameter, the grid, facts."""

    args: Mapping[str, str] = field(default_factory=dict)
    const: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[str, ...] = ()
    block: tuple[int, ...] = ()
    facts: tuple[str, ...] = ()
    wide: bool = False  # integers whose type the text does not say are passed in 64 bits


@dataclass(frozen=True, slots=True)
class Draft:
    """candidate.json as a document, what was matched and why, and what is missing."""

    document: dict[str, Any]
    told: tuple[tuple[str, str, str], ...]  # parameter, what it gets, why
    holes: tuple[tuple[str, str], ...]  # where, what is missing


def draft(
    op: Operator, signature: Signature, backend: str, target: str, source: str, given: Given
) -> Draft:
    """A plan of one launch; ValueError for options that name nothing of the kernel."""
    names = {p.name for p in signature.parameters}
    constants = {p.name for p in signature.parameters if p.kind == "constant"}
    for name in (*given.args, *given.const):
        if name not in names:
            raise ValueError(f"{signature.kernel} has no parameter {name}")
    if wrong := sorted(set(given.args) & constants):
        raise ValueError(f"{wrong[0]} is a constant of {signature.kernel}: use --const")
    made = _Draft(op, signature, given)
    made.pointers()
    made.scalars()
    made.constants()
    launch: dict[str, Any] = {"kernel": signature.kernel, "grid": made.grid()}
    if backend == "cuda":
        launch["block"] = made.block()
    launch["args"] = [
        made.value[p.name]
        for p in signature.parameters
        if p.kind != "constant" and p.name not in made.const
    ]
    if made.const:
        launch["const"] = made.const
    document: dict[str, Any] = {"abi": 1, "op": f"{op.name}@{op.version}"}
    document |= {"target": target, "backend": backend, "source": source}
    if op.types:
        document["types"] = dict(op.types)
    facts = list(dict.fromkeys([*made.facts(), *given.facts]))
    if facts:
        document["facts"] = facts
    document["launches"] = [launch]
    return Draft(document, tuple(made.told), tuple(made.holes))


class _Draft:
    def __init__(self, op: Operator, signature: Signature, given: Given) -> None:
        self.op, self.signature, self.given = op, signature, given
        self.value: dict[str, str] = {}
        self.const: dict[str, Any] = {}
        self.told: list[tuple[str, str, str]] = []
        self.holes: list[tuple[str, str]] = []
        self.tensors: dict[str, str] = {}  # pointer parameter -> tensor
        self.strides: set[tuple[str, int]] = set()

    def tell(self, p: Parameter, text: str, why: str) -> None:
        self.value[p.name] = text
        self.told.append((p.name, text, why))

    def hole(self, where: str, what: str) -> str:
        self.holes.append((where, what))
        return f"{HOLE}{where}: {what}"

    # -- pointers
    def pointers(self) -> None:
        fixed = self.given.const
        own = self.signature.parameters
        wanted = [p for p in own if p.kind == "pointer" and p.name not in fixed]
        for p in wanted:
            if p.name in self.given.args:
                self.takes(p, self.given.args[p.name], "as given")
        for p in wanted:
            same = [t for t in self.of(p) if t.name.lower() == _plain(p.name)]
            if p.name not in self.value and len(same) == 1:
                self.takes(p, same[0].name, "the same name")
        for role, writes in (("output", True), ("input", False)):
            rest = [p for p in wanted if p.name not in self.value and p.writes is writes]
            left = [t for t in self.all(role) if t.name not in self.tensors.values()]
            if len(rest) == len(left) == 1:
                does = "written" if writes else "read"
                self.takes(rest[0], left[0].name, f"the only {role} left, and it is {does}")
        for p in wanted:
            if p.name not in self.value:
                does = "writes" if p.writes else "reads"
                names = ", ".join(t.name for t in self.of(p)) or "a scratch buffer of the plan"
                self.value[p.name] = self.hole(p.name, f"a buffer that the kernel {does}: {names}")

    def takes(self, p: Parameter, text: str, why: str) -> None:
        self.tensors[p.name] = text
        self.tell(p, text, why)

    def all(self, role: str) -> list[Tensor]:
        return list(self.op.outputs if role == "output" else self.op.inputs)

    def of(self, p: Parameter) -> list[Tensor]:
        return self.all("output" if p.writes else "input")

    # -- scalars
    def scalars(self) -> None:
        for p in self.signature.parameters:
            if p.kind != "scalar" or p.name in self.given.const:
                continue
            if p.name in self.given.args:
                text = self.given.args[p.name]
                self.tell(p, text, "as given")
                self.note_strides(text)
                continue
            found = self.named(p) or self.stride(p)
            if found is None:
                self.value[p.name] = self.hole(p.name, self.suggest(p))
                continue
            text, why, whole = found
            narrow = whole and (p.dtype == "i32" or (not p.dtype and not self.given.wide))
            self.tell(p, f"i32({text})" if narrow else text, why)
            self.note_strides(text)

    def note_strides(self, text: str) -> None:
        for tensor, axis in re.findall(r"stride\((\w+),\s*(\d+)\)", text):
            self.strides.add((tensor, int(axis)))

    def named(self, p: Parameter) -> tuple[str, str, bool] | None:
        """A size or a param of the same name."""
        sizes = [s for s in self.op.sizes if s == p.name]
        sizes = sizes or [s for s in self.op.sizes if s.lower() == p.name.lower()]
        if len(sizes) == 1:
            return sizes[0], "the size of that name", True
        for q in self.op.params:
            if q.name.lower() == p.name.lower():
                return q.name, "the param of that name", q.dtype.kind == "int"
        return None

    def stride(self, p: Parameter) -> tuple[str, str, bool] | None:
        """`x_row_stride`, `stride_x_0`, `stride_xm` of a tensor whose pointer is known."""
        name = p.name.lower()
        if "stride" not in name:
            return None
        rest = re.sub(r"_?strides?_?", "_", name).strip("_")
        for parameter, tensor in self.tensors.items():
            found = self.tensor(tensor)
            if found is None:
                continue
            for head in {_plain(parameter), tensor.lower(), parameter.lower()}:
                if rest == head or rest.startswith(head):
                    axis = self.axis(found, rest[len(head) :].strip("_"))
                    if axis is not None:
                        text = f"stride({tensor}, {axis})"
                        return text, f"axis {axis} of {tensor}, by its name", True
        return None

    def axis(self, t: Tensor, word: str) -> int | None:
        rank = len(t.axes)
        if word.isdigit():
            return int(word) if int(word) < rank else None
        letters = [show(e).lower() for e in t.shape]
        if word and letters.count(word) == 1:
            return letters.index(word)
        if rank == 2 and word in _FIRST:
            return 0
        if rank == 2 and word in _LAST:
            return 1
        return 0 if rank == 1 and not word else None

    def tensor(self, name: str) -> Tensor | None:
        return next((t for t in (*self.op.inputs, *self.op.outputs) if t.name == name), None)

    def suggest(self, p: Parameter) -> str:
        if "stride" in p.name.lower():
            named = [t for t in self.tensors.values() if self.tensor(t) is not None]
            first = named[0] if named else "x"
            return f"a stride, for instance i32(stride({first}, 0))"
        sizes = ", ".join(self.op.sizes)
        most = max((t for t in self.all("output")), key=lambda t: len(t.axes), default=None)
        product = " * ".join(show(e) for e in most.shape) if most is not None else "N"
        return f"a number over {sizes or 'nothing'}, for instance i32({product})"

    # -- the rest
    def constants(self) -> None:
        for p in self.signature.parameters:
            if p.kind != "constant":
                if p.name in self.given.const:
                    self.const[p.name] = self.given.const[p.name]
                    self.told.append((p.name, str(self.const[p.name]), "a constant, as given"))
                continue
            if p.name in self.given.const:
                self.const[p.name] = self.given.const[p.name]
                self.told.append((p.name, str(self.const[p.name]), "as given"))
            elif not p.default:
                same = [s for s in self.op.sizes if s.lower() == p.name.lower()]
                also = f" and --fact '{same[0]} == VALUE'" if same else ""
                self.const[p.name] = self.hole(
                    p.name, f"a constant of the kernel: --const {p.name}=VALUE{also}"
                )

    def grid(self) -> list[str]:
        if self.given.grid:
            return list(self.given.grid)
        count = self.signature.axes
        sizes = self.op.sizes[0] if self.op.sizes else "1"
        return [
            self.hole(f"grid[{n}]", f"how many programs along axis {n}, for instance {sizes}")
            for n in range(count)
        ]

    def block(self) -> list[int] | str:
        if self.given.block:
            return list(self.given.block)
        return self.hole("block", "threads of a block: --block 256")

    def facts(self) -> list[str]:
        """Strides that the kernel is not told are those of dense rows."""
        if any("stride" in where.lower() for where, _ in self.holes):
            return []
        out = []
        for name in dict.fromkeys(self.tensors.values()):
            t = self.tensor(name)
            if t is None:
                continue
            for n in range(len(t.axes)):
                if (name, n) in self.strides:
                    continue
                after = [show(e) for e in t.shape[n + 1 :]]
                whole = " * ".join(a if a.isidentifier() else f"({a})" for a in after) or "1"
                out.append(f"stride({name}, {n}) == {whole}")
        return out


def _plain(name: str) -> str:
    """A pointer's name without what says that it is one."""
    return _AFFIXES.sub("", name.lower()) or name.lower()
