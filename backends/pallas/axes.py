"""Which dimensions of the values of a kernel are one tile axis: those that operations align."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opwright.ir.launch import ImportRefusal
from opwright.ir.tile import Axis

Jaxpr = Mapping[str, Any]
Dims = tuple[Axis | None, ...]  # None where there is one element
Place = tuple[int, int]  # a variable and one of its dimensions


class Axes:
    """Axes of every variable of a kernel, those of loops and branches included."""

    def __init__(self, kernel: Jaxpr) -> None:
        self.parent: dict[Place, Place] = {}
        self.shapes: dict[int, list[Any]] = {}
        self.names: dict[Place, Axis] = {}
        self.walk(kernel)

    def of(self, atom: Mapping[str, Any]) -> Dims:
        """The axes of a value; ImportRefusal for an extent that is no number."""
        if "var" not in atom:
            return tuple(None for _ in atom["shape"])
        out: list[Axis | None] = []
        for n, extent in enumerate(atom["shape"]):
            if not isinstance(extent, int):
                raise ImportRefusal(f"a value of the kernel has extent {extent}: no fixed tile")
            out.append(None if extent == 1 else self.axis((atom["var"], n), extent))
        own = [a for a in out if a is not None]
        if len(set(own)) < len(own):
            raise ImportRefusal("a value has one axis twice")
        return tuple(out)

    def axis(self, place: Place, extent: int) -> Axis:
        root = self.root(place)
        if root not in self.names:
            self.names[root] = Axis(f"a{len(self.names)}", extent)
        return self.names[root]

    def root(self, p: Place) -> Place:
        while self.parent.setdefault(p, p) != p:
            self.parent[p] = self.parent[self.parent[p]]
            p = self.parent[p]
        return p

    def same(self, a: Mapping[str, Any], i: int, b: Mapping[str, Any], j: int) -> None:
        if "var" in a and "var" in b and a["shape"][i] == b["shape"][j] != 1:
            self.parent[self.root((a["var"], i))] = self.root((b["var"], j))

    def alike(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
        if len(a["shape"]) == len(b["shape"]):
            for n in range(len(a["shape"])):
                self.same(a, n, b, n)

    def all_alike(self, a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> None:
        for x, y in zip(a, b, strict=False):
            self.alike(x, y)

    def walk(self, jaxpr: Jaxpr) -> None:
        for e in jaxpr["eqns"]:
            self.equation(e)

    def equation(self, e: Mapping[str, Any]) -> None:
        name, ins, outs, params = e["prim"], e["in"], e["out"], e["params"]
        if name in ("get", "swap", "iota", "program_id", "dim_as_value", "masked_swap"):
            return
        if name == "broadcast_in_dim":
            for n, d in enumerate(params["broadcast_dimensions"]):
                self.same(ins[0], n, outs[0], d)
        elif name in ("reshape", "squeeze", "expand_dims"):
            a, b = (_full(x) for x in (ins[0], outs[0]))
            if [ins[0]["shape"][n] for n in a] == [outs[0]["shape"][n] for n in b]:
                for n, m in zip(a, b, strict=True):
                    self.same(ins[0], n, outs[0], m)
        elif name == "transpose":
            for n, m in enumerate(params["permutation"]):
                self.same(ins[0], m, outs[0], n)
        elif name.startswith("reduce_") and "axes" in params:
            rest = [n for n in range(len(ins[0]["shape"])) if n not in params["axes"]]
            for n, m in enumerate(rest):
                self.same(ins[0], m, outs[0], n)
        elif name == "dot_general":
            (ca, cb), (ba, bb) = params["dimension_numbers"]
            for n, m in (*zip(ca, cb, strict=True), *zip(ba, bb, strict=True)):
                self.same(ins[0], n, ins[1], m)
            free = [(ins[0], n) for n in ba]
            free += [(ins[0], n) for n in range(len(ins[0]["shape"])) if n not in (*ca, *ba)]
            free += [(ins[1], n) for n in range(len(ins[1]["shape"])) if n not in (*cb, *bb)]
            for n, (x, m) in enumerate(free):
                self.same(x, m, outs[0], n)
        elif name == "while":
            body = params["body_jaxpr"]["jaxpr"]
            state = ins[params["cond_nconsts"] :]
            kept = params["body_nconsts"]
            self.all_alike(state, body["in"])
            self.all_alike(body["out"], body["in"][kept:])
            self.all_alike(outs, body["out"])
            self.walk(body)
        elif name == "scan":
            body = params["jaxpr"]["jaxpr"]
            kept = params["num_consts"]
            self.all_alike(ins, body["in"])
            self.all_alike(body["out"], body["in"][kept:])
            self.all_alike(outs, body["out"])
            self.walk(body)
        elif name == "cond":
            for b in params["branches"]:
                self.all_alike(ins[1:], b["jaxpr"]["in"])
                self.walk(b["jaxpr"])
        else:
            for x in ins:
                for y in outs:
                    self.alike(x, y)


def _full(x: Mapping[str, Any]) -> list[int]:
    return [n for n, d in enumerate(x["shape"]) if d != 1]
