"""Which definitions of a `def` read which, their order, and what recurs together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opwright.grammar import ast
from opwright.grammar.ast import Span


@dataclass(frozen=True, slots=True)
class Definition:
    """One tensor's equation. `part` numbers the result of a call that defines several tensors."""

    name: str
    span: Span
    indices: tuple[tuple[str, Span], ...]  # a variadic one ends in "..."
    rhs: ast.Expr
    part: int | None = None
    axis: str | None = None  # of a recurrence
    init: ast.Expr | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """A free occurrence of a name; `read` is the read it is the base of."""

    name: str
    node: ast.Name
    read: ast.Read | None


def uses(node: ast.Node, bound: frozenset[str] = frozenset()) -> Iterator[Use]:
    """Every name that no binder inside binds."""
    match node:
        case ast.Name():
            if node.name not in bound:
                yield Use(node.name, node, None)
        case ast.Read(base=ast.Name() as base):
            if base.name not in bound:
                yield Use(base.name, base, node)
            for part in (*node.indices, *([] if node.fill is None else [node.fill])):
                yield from uses(part, bound)
        case ast.Reduce() | ast.TensorLambda():
            for b in node.binders:
                for edge in (b.lo, b.hi):
                    if edge is not None:
                        yield from uses(edge, bound)
                bound = bound | {b.name}
            if isinstance(node, ast.Reduce) and node.guard is not None:
                yield from uses(node.guard, bound)
            yield from uses(node.body, bound)
        case _:
            for child in ast.children(node):
                yield from uses(child, bound)


def steps_back(d: Definition, axis: str, use: Use, where: int) -> int | None:
    """How far before the present step a use reads (0 or 1); None when it is something else."""
    if use.read is None or where >= len(use.read.indices):
        return None
    match use.read.indices[where]:
        case ast.Name(name=name) if name == axis:
            return 0
        case ast.Binary(op="-", a=ast.Name(name=name), b=ast.Number(value=1)) if name == axis:
            return 1
    return None


def components(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components, those that are read first (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []

    def visit(root: str) -> None:
        work: list[tuple[str, Iterator[str]]] = [(root, iter(sorted(edges[root])))]
        order[root] = low[root] = len(order)
        stack.append(root)
        while work:
            node, rest = work[-1]
            for nxt in rest:
                if nxt not in order:
                    order[nxt] = low[nxt] = len(order)
                    stack.append(nxt)
                    work.append((nxt, iter(sorted(edges[nxt]))))
                    break
                if nxt in stack:
                    low[node] = min(low[node], order[nxt])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    group = []
                    while True:
                        group.append(stack.pop())
                        if group[-1] == node:
                            break
                    out.append(group)

    for name in edges:
        if name not in order:
            visit(name)
    return out


def graph(definitions: Mapping[str, Definition]) -> dict[str, set[str]]:
    """name -> names of definitions it reads; tensors of one recurrence read each other.

    A recurrence that reads another one at the step before needs it in the same loop, where the
    other's `init` is known.
    """
    edges: dict[str, set[str]] = {name: set() for name in definitions}
    for name, d in definitions.items():
        bound = frozenset(i for i, _ in d.indices)
        for root in (d.rhs, d.init):
            if root is None:
                continue
            for use in uses(root, bound):
                other = definitions.get(use.name)
                if other is None:
                    continue
                edges[name].add(use.name)
                where = axis_position(other, d.axis)
                if (
                    d.axis is not None
                    and other.axis == d.axis
                    and where is not None
                    and steps_back(d, d.axis, use, where) == 1
                ):
                    edges[use.name].add(name)
    return edges


def axis_position(d: Definition, axis: str | None) -> int | None:
    """Where an index stands on the left of a definition."""
    return next((k for k, (name, _) in enumerate(d.indices) if name == axis), None)


def in_step_order(
    group: list[str], definitions: Mapping[str, Definition], axis: str
) -> list[str] | None:
    """Tensors of a recurrence in evaluation order at one step; None if they need each other."""
    edges: dict[str, set[str]] = {name: set() for name in group}
    for name in group:
        d = definitions[name]
        for use in uses(d.rhs, frozenset(i for i, _ in d.indices)):
            if use.name in edges:
                where = axis_position(definitions[use.name], axis)
                if where is not None and steps_back(d, axis, use, where) == 0:
                    edges[name].add(use.name)
    parts = components(edges)
    if any(len(p) > 1 or p[0] in edges[p[0]] for p in parts):
        return None
    first = {name: k for k, name in enumerate(definitions)}
    return [p[0] for p in parts] if parts else sorted(group, key=lambda n: first[n])
