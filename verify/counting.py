"""Coverage by counting, where programs are dealt to tiles in an order that no digits undo.

What the tile numbers E(x) of a store depend on is one number x (a program id, a running tile of a
loop). If E maps 0 <= x < U0 * U1 * ... into the ranges [0, Ui) and no two x to one tuple, it takes
every tuple: so there is an x for each element, and the store at that x is the witness. Range and
injectivity are proved, the number of tuples is counted; that the x is one of the launch is proved
with the rest of the witness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from opwright.ir.expr import Expr, const, leaf, leaves, substitute, var, walk
from opwright.ir.polynomial import Polynomial, expression, polynomial
from opwright.ir.tile import Buffer
from opwright.verify.encode import Encoder, Instance
from opwright.verify.obligation import Case
from opwright.verify.terms import Formula, Poly
from opwright.verify.walk import Access
from opwright.verify.witness import Witness

DIVIDED = ("floordiv", "mod", "min", "max", "select")


@dataclass(frozen=True, slots=True)
class _Tile:
    """One index: weight * number + rest, where the tile number depends on the root only."""

    number: Expr
    weight: int
    rest: Expr
    digit: Expr
    count: Expr


class Counting:
    """The map from a root number to tile numbers of one store, if it has that form."""

    def __init__(self, encoder: Encoder, store: Access) -> None:
        self.encoder, self.terms, self.store = encoder, encoder.terms, store
        self.source, self.root = self._root()
        self.tiles: dict[int, _Tile] = {}
        if self.source is not None:
            for d, e in enumerate(store.index):
                tile = self._tile(d, e, store.buffer)
                if tile is not None:
                    self.tiles[d] = tile
        used = [x for t in self.tiles.values() for x in walk(t.number)]
        if any(x.op in ("pid", "var", "lane", "value") and x is not self.root for x in used):
            self.tiles = {}

    def _root(self) -> tuple[Expr | None, Expr]:
        """The one number whose quotients and remainders the index is made of."""
        found: dict[Expr, None] = {}
        for e in self.store.index:
            for x in walk(e):
                if x.op in ("floordiv", "mod") and self._moves(x.args[0]):
                    if not any(y.op in DIVIDED and self._moves(y) for y in walk(x.args[0])):
                        found[x.args[0]] = None
        if len(found) != 1:
            return None, const(0)
        (source,) = found
        if leaves(source, "lane", "value"):
            return None, const(0)
        return source, source if source.op in ("pid", "var") else leaf("var", "the root")

    def _moves(self, e: Expr) -> bool:
        return bool(leaves(e, "pid", "var", "lane", "value"))

    def _tile(self, d: int, e: Expr, b: Buffer) -> _Tile | None:
        assert self.source is not None
        own = set(leaves(self.source, "pid", "var"))
        number: Polynomial = {}
        rest: Polynomial = {}
        for m, c in polynomial(e).items():
            rooted = any(x in own for f in m for x in leaves(f, "pid", "var"))
            (number if rooted else rest)[m] = c
        if not number:
            return None
        weight = math.gcd(*number.values())
        inside = expression({m: c // weight for m, c in number.items()})
        if self.root is not self.source:
            inside = substitute(inside, {self.source: self.root})
        count = (b.shape[d] + (weight - 1)) // weight
        return _Tile(inside, weight, expression(rest), var(f"digit {d}"), count)

    def _at(self, x: Poly) -> Instance:
        return Instance(self.store.launch, "c", {self.root: x})

    def total(self) -> Poly:
        out = self.terms.const(1)
        for tile in self.tiles.values():
            out = self.terms.mul(out, self._count(tile))
        return out

    def _count(self, tile: _Tile) -> Poly:
        return self.encoder.term(tile.count, Instance(self.store.launch, ""))

    def lemma(self) -> list[Case]:
        """Tile numbers are in range, and differ for different roots."""
        t, encoder = self.terms, self.encoder
        total = self.total()
        hi = t.interval(total)[1]
        x, y = (t.fresh(n, 0, None if hi is None else max(hi - 1, 0)) for n in ("root", "other"))
        inside, same = [], []
        for tile in self.tiles.values():
            a, b = (encoder.term(tile.number, self._at(z)) for z in (x, y))
            inside += [t.ge0(a), t.lt(a, self._count(tile))]
            same.append(t.eq(a, b))
        first = t.parts(t.lt(x, total))
        both = [*first, *t.parts(t.lt(y, total)), *(p for f in same for p in t.parts(f))]
        cases: list[Case] = [(first, f) for f in inside]
        return [*cases, (both, t.eq(x, y))]

    def witness(self, target: list[Poly]) -> tuple[list[Formula], Formula]:
        """What the lemma gives for an element, and when its instance writes the element."""
        t, encoder, w = self.terms, self.encoder, _Digits(self.encoder, self.store, self.tiles)
        tiles = list(self.tiles.items())
        digits = {n.digit: t.divide(target[d], t.const(n.weight))[0] for d, n in tiles}
        x = t.fresh("root", 0, None)
        exists = [t.lt(x, self.total())]
        exists += [
            t.eq(encoder.term(n.number, self._at(x)), digits[n.digit]) for n in self.tiles.values()
        ]
        ranges = [
            f
            for n in self.tiles.values()
            for f in (t.ge0(digits[n.digit]), t.lt(digits[n.digit], self._count(n)))
        ]
        given = t.either(t.no(t.all(ranges)), t.all(exists))
        assert self.source is not None
        equations = [(n.digit * n.weight, target[d]) for d, n in tiles]
        rest = [
            (self.tiles[d].digit * self.tiles[d].weight + self.tiles[d].rest, target[d])
            if d in self.tiles
            else (e, target[d])
            for d, e in enumerate(self.store.index)
        ]
        at = w.solve([*equations, (self.source, x), *w.undivided(rest)], False)
        return t.parts(given), w.holds(at, target)


class _Digits(Witness):
    """A witness whose tile numbers are digits of their own."""

    def __init__(self, encoder: Encoder, store: Access, tiles: dict[int, _Tile]) -> None:
        super().__init__(encoder, store, {})
        self.free = [*(n.digit for n in tiles.values()), *self.free]
