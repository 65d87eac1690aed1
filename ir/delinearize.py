"""From an element offset back to the logical index of a buffer.

The offset is split by the strides, largest first, with what facts say of strides and sizes put in;
the result is an identity: index times strides is the offset, whatever the facts leave open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from opwright.ir.expr import ONE, Expr, conjuncts, leaves, substitute
from opwright.ir.polynomial import Polynomial, add, divide, expression, leading, polynomial
from opwright.ir.tile import Buffer, TileProgram, element_count, row_major

_ORDER = {"stride": 0, "param": 1, "size": 2}


def stated_values(facts: Iterable[Expr]) -> dict[Expr, Expr]:
    """Strides, params and sizes that equations among facts give the value of, in closed form."""
    equations: list[tuple[Expr, Expr]] = []
    for f in facts:
        for part in conjuncts(f):
            if part.op == "eq" and part.args[0].kind == "int":
                equations += [part.args, part.args[::-1]]  # type: ignore[list-item]
    known: dict[Expr, Expr] = {}
    usable = [(x, e) for x, e in equations if x.op in _ORDER and not (x.op != "stride" and e.args)]
    for x, e in sorted(usable, key=lambda q: (_ORDER[q[0].op], q[1].op != "const")):
        value = substitute(e, known)
        if x in known or x in leaves(value, *_ORDER):
            continue
        if x.op != "stride" and value.op in _ORDER and _ORDER[value.op] < _ORDER[x.op]:
            continue
        known = {y: substitute(v, {x: value}) for y, v in known.items()}
        known[x] = value
    return known


def strides_of(buffer: Buffer, known: Mapping[Expr, Expr]) -> tuple[Expr, ...]:
    """Strides in elements, with what is known of them."""
    return tuple(substitute(s, known) for s in buffer.strides or row_major(buffer.shape))


def logical_index(
    offset: Expr,
    buffer: Buffer,
    facts: Iterable[Expr] = (),
    known: Mapping[Expr, Expr] | None = None,
) -> tuple[Expr, ...] | None:
    """The index whose strides add up to an element offset; None where they do not divide it.

    `known` may hold `stated_values(facts)`, computed once. Whether the index is in bounds is left
    to a proof: an offset that runs through several rows is split, too, and then out of bounds.
    """
    known = stated_values(facts) if known is None else known
    memo: dict[Expr, Polynomial] = {}
    alike: dict[object, Expr] = {}
    steps = [polynomial(s, memo, alike) for s in strides_of(buffer, known)]
    rest = polynomial(substitute(offset, known), memo, alike)
    index: list[Polynomial] = [{} for _ in steps]
    fixed = [substitute(n, known) is ONE for n in buffer.shape]
    for d in sorted(range(len(steps)), key=lambda d: (_weight(steps[d]), -d), reverse=True):
        if steps[d] and not fixed[d]:
            index[d], rest = divide(rest, steps[d])
            plain = all(x.op != "stride" for m in steps[d] for x in m)
            if rest and plain and all(c < 0 for c in rest.values()):  # from the end of a row
                index[d], rest = add(index[d], {(): -1}), add(rest, steps[d])
    return None if rest else tuple(expression(p) for p in index)


def settled(
    index: tuple[Expr, ...], buffer: Buffer, known: Mapping[Expr, Expr], mask: Expr
) -> tuple[Expr, ...]:
    """Another index with the same offset, where the mask speaks of it and not of the given one:
    whole rows that the division took for the outer axis go back to the inner one, as in
    `a[i, j - n]` under `n <= j` for rows of n."""
    memo: dict[Expr, Polynomial] = {}
    steps = [polynomial(s, memo) for s in strides_of(buffer, known)]
    stated = [_slack(c, known, memo) for c in conjuncts(mask)]
    own = [polynomial(substitute(i, known), memo) for i in index]

    def spoken_of(p: Polynomial, d: int) -> bool:
        """Whether the mask says that it is a place along an axis, from below or from above."""
        n = polynomial(substitute(buffer.shape[d], known), memo)
        return p in stated or add(add(n, p, -1), {(): -1}) in stated

    for d in range(len(index) - 1):
        rows = own[d].get((), 0)
        ratio, rest = divide(steps[d], steps[d + 1]) if rows and steps[d + 1] else ({}, {(): 1})
        if rest:
            continue
        inner = add(own[d + 1], ratio, int(rows))
        if spoken_of(inner, d + 1) and not spoken_of(own[d + 1], d + 1):
            own[d], own[d + 1] = add(own[d], {(): -rows}), inner
    made = tuple(expression(p) for p in own)
    return tuple(
        a if polynomial(a) == polynomial(b) else b for a, b in zip(index, made, strict=True)
    )


def _slack(e: Expr, known: Mapping[Expr, Expr], memo: dict[Expr, Polynomial]) -> Polynomial | None:
    """What a comparison of integers says is not negative."""
    if e.op == "not":
        inner = e.args[0]
        if inner.op not in ("lt", "le") or inner.args[0].kind != "int":
            return None
        b, a, strict = inner.args[0], inner.args[1], inner.op == "le"
    elif e.op in ("lt", "le") and e.args[0].kind == "int":
        a, b, strict = e.args[0], e.args[1], e.op == "lt"
    else:
        return None
    x, y = (polynomial(substitute(q, known), memo) for q in (a, b))
    return add(add(y, x, -1), {(): -1} if strict else {})


def _weight(p: Polynomial) -> tuple[int, int]:
    """How large a stride is likely to be."""
    if not p:
        return -1, 0
    top = leading(p)
    return len(top), p[top]


def is_dense(
    buffer: Buffer, facts: Iterable[Expr] = (), known: Mapping[Expr, Expr] | None = None
) -> bool:
    """Whether facts make the strides row-major over the shape (extents of one need none)."""
    known = stated_values(facts) if known is None else known
    own = strides_of(buffer, known)
    shape = [substitute(n, known) for n in buffer.shape]
    dense = row_major(tuple(shape))
    memo: dict[Expr, Polynomial] = {}
    return all(
        n is ONE or polynomial(a, memo) == polynomial(substitute(b, known), memo)
        for a, b, n in zip(own, dense, shape, strict=True)
    )


def flat_view(
    buffer: Buffer, facts: Iterable[Expr] = (), known: Mapping[Expr, Expr] | None = None
) -> Buffer | None:
    """The same memory as one axis of all elements; None unless facts make the buffer dense.

    All accesses of a program to the buffer must then go through the view.
    """
    if not is_dense(buffer, facts, known):
        return None
    return replace(buffer, shape=(element_count(buffer.shape),), strides=None)


def seen_flat(program: TileProgram, buffers: Mapping[str, Buffer]) -> frozenset[str]:
    """Tensors of several axes that a program takes as one."""
    own = {b.name: b for k in program.kernels for b in k.buffers}
    return frozenset(
        n for n, b in buffers.items() if n in own and len(own[n].shape) == 1 < len(b.shape)
    )


def views(
    buffer: Buffer, facts: Iterable[Expr] = (), known: Mapping[Expr, Expr] | None = None
) -> Iterator[Buffer]:
    """The same memory with neighbouring axes seen as one, few of them first; the last one is flat.
    None unless facts make the buffer dense."""
    if not is_dense(buffer, facts, known):
        return
    rank = len(buffer.shape)
    for merges in range(1, rank):
        for ends in combinations(range(1, rank), rank - 1 - merges):
            cuts = (0, *ends, rank)
            shape = tuple(element_count(buffer.shape[a:b]) for a, b in pairwise(cuts))
            yield replace(buffer, shape=shape, strides=None)


def split_accesses(
    buffer: Buffer, offsets: Sequence[Expr], facts: Iterable[Expr] = ()
) -> tuple[Buffer, list[tuple[Expr, ...]]] | None:
    """A buffer as all accesses of a program see it, and the index of each.

    The logical shape where every offset is split and moves along every axis that has more than one
    element in some access, else the first view for which this holds, else the flat view, else the
    split with axes that never move; None where an offset is not split and the buffer is not dense.
    """
    known = stated_values(facts)
    found = [logical_index(e, buffer, (), known) for e in offsets]
    split = [i for i in found if i is not None]
    whole = len(split) == len(found)
    if whole and _moves(buffer, split, known):
        return buffer, split
    for view in views(buffer, (), known):
        if len(view.shape) > 1:
            made = [logical_index(e, view, (), known) for e in offsets]
            inner = [i for i in made if i is not None]
            if len(inner) == len(made) and _moves(view, inner, known):
                return view, inner
    flat = flat_view(buffer, (), known)
    if flat is not None:
        return flat, [(substitute(e, known),) for e in offsets]
    return (buffer, split) if whole else None


def _moves(buffer: Buffer, found: Sequence[tuple[Expr, ...]], known: Mapping[Expr, Expr]) -> bool:
    """Whether indices move along every axis that has more than one element."""
    return all(
        substitute(n, known).op == "const" or any(i[d].op != "const" for i in found)
        for d, n in enumerate(buffer.shape)
    )


def same_memory(seen: Buffer, declared: Buffer, facts: Iterable[Expr] = ()) -> bool:
    """Whether a program's buffer is the declared tensor: itself, or a view of it."""
    if (seen.name, seen.role, seen.dtype) != (declared.name, declared.role, declared.dtype):
        return False
    facts = tuple(facts)
    if seen.shape == declared.shape and seen.strides == declared.strides:
        return True
    return seen in views(declared, facts) or seen == flat_view(declared, facts)
