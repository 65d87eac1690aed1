"""Accesses of a tile program to memory: loads, stores, atomics, and what is forbidden of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import integer_range
from opwright.ir.expr import ZERO, Expr, show
from opwright.ir.interpreter_state import MANY, NOBODY, Index, Memory, Tile
from opwright.ir.interpreter_threads import Threads
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Buffer,
    Load,
    Store,
    Value,
    access_axes,
)
from opwright.ir.tileops import (
    signature,
)


class Accesses(Threads):
    """What a program does to memory, element by element."""

    def access(
        self, b: Buffer, index: tuple[Expr, ...], mask: Expr, axes: tuple[Axis, ...]
    ) -> tuple[NDArray[np.bool_], tuple[NDArray[np.int64], ...]]:
        """Lanes that touch memory, and the index of each; lanes out of bounds are dropped."""
        self.decides(mask, *index)
        on = self.lanes(mask, axes).astype(bool)
        bad = self.poison(mask, axes)
        if bad.any():
            self.fail("poison", f"poison decides the mask {show(mask)}", b.name)
            on, self.whole = on & ~bad, False
        for e in index:
            bad = on & self.poison(e, axes)
            if bad.any():
                self.fail("poison", f"poison is in the index {show(e)}", b.name)
                on, self.whole = on & ~bad, False
        at = [self.lanes(i, axes) for i in index or (ZERO,)]
        shape = self.memory[b.name].data.shape
        for d, (i, n) in enumerate(zip(at, shape, strict=True)):
            bad = on & ((i < 0) | (i >= n))
            if bad.any():
                lane = np.argwhere(bad)[0]
                where = tuple(int(j[tuple(lane)]) for j in at)
                named = {a.name: int(x) for a, x in zip(axes, lane, strict=True)}
                what = f"{b.name}{list(where)}: {where[d]} is outside [0, {n}) of dimension {d}"
                self.fail("bounds", what, b.name, where, named)
                on, self.whole = on & ~bad, False
        return on, tuple(np.asarray(i[on], np.int64) for i in at)

    def first(self, bad: NDArray[np.bool_], at: Index) -> tuple[int, ...]:
        n = int(np.flatnonzero(bad)[0])
        return tuple(int(i[n]) for i in at)

    def races(
        self,
        b: Buffer,
        bad: NDArray[np.bool_],
        at: Index,
        text: str,
        names: NDArray[np.int32],
        pair: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> None:
        """A trap where two unordered accesses meet; `names` has the other statement. `pair` are the
        threads of this access, and who did the other one."""
        if bad.any():
            where = self.first(bad, at)
            what = text.format(f"{b.name}{list(where)}")
            lane: dict[str, int] | None = None
            if self.threads and pair is not None:
                n = int(np.flatnonzero(bad)[0])
                lane, other = self.named(int(pair[0][n])), self.named(int(pair[1][where]))
                if other:
                    what += f" ({', '.join(f'{a} = {i}' for a, i in other.items())})"
            self.fail("race", what, b.name, where, lane, other=self.names[names[where]])

    def unordered(self, m: Memory, at: Index, lanes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Lanes at elements that another lane of this program wrote, where lanes are unordered."""
        if self.order == "statement":
            return np.zeros(lanes.shape, bool)
        if self.threads:
            return self.late(m, at, lanes)
        return np.asarray((m.writer[at] == self.number) & (m.lane[at] != lanes))

    def store(self, s: Store) -> None:
        b, m, axes = s.buffer, self.memory[s.buffer.name], self.everyone(access_axes(s))
        on, at = self.access(b, s.index, s.mask, axes)
        data, lanes = self.fits(b, self.stored(s, on, at, axes)), self.signed(axes, on)
        self.collide(s, at, data, m)
        same = self.reals.same(m.data[at], data)
        other = (m.writer[at] != NOBODY) & (m.writer[at] != self.number)
        lost = (other & ~(same & (self.order == "lane"))) | (self.unordered(m, at, lanes) & ~same)
        if b.role in ("out", "state") and lost.any():
            where = self.first(lost, at)
            what = f"{b.name}{list(where)} is written a second time"
            self.fail("twice", what, b.name, where, other=self.names[m.wrote[where]])
        if b.role not in ("in", "program"):
            text = "writes {}, which another program of this launch "
            self.races(b, lost & other, at, text + "wrote", m.wrote)
            other = (m.reader[at] != NOBODY) & (m.reader[at] != self.number)
            self.races(b, other, at, text + "read", m.looked)
            other = (m.adder[at] != NOBODY) & (m.adder[at] != self.number)
            self.races(b, other, at, text + "combines into", m.wrote)
        elif b.role == "program":
            text = "writes {}, which another lane wrote"
            self.races(b, lost, at, text, m.wrote, (lanes, m.lane))
        if self.threads:
            text = "writes {}, which another thread read, with no barrier between"
            read = self.read_before(m, at, lanes)
            for names in (m.looked, m.began):
                self.races(b, read, at, text, names, (lanes, m.seer))
        m.data[at] = data
        m.ready[at] = True
        m.writes[at] += 1
        m.writer[at] = self.number
        if self.threads:
            self.has_written(m, at, lanes, False)
            m.adder[at] = np.where(m.adder[at] == self.number, NOBODY, m.adder[at])
        else:
            m.lane[at] = lanes
        m.wrote[at] = m.plain[at] = self.me()
        self.share(b, m, at)

    def stored(
        self, s: Store | Atomic, on: NDArray[np.bool_], at: Index, axes: tuple[Axis, ...]
    ) -> NDArray[Any]:
        """What the lanes that are on write."""
        b, shape = s.buffer, [a.extent for a in axes]
        data, poison = (np.broadcast_to(t, shape) for t in self.aligned(s.value, axes))
        if poison[on].any():
            where = self.first(poison[on], at)
            self.fail("poison", f"poison is stored to {b.name}{list(where)}", b.name, where)
        return data[on]

    def everyone(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """Axes of an access: every thread does it."""
        return tuple(dict.fromkeys((*axes, *self.threads)))

    def signed(self, axes: tuple[Axis, ...], on: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Signatures of the lanes that are on."""
        if self.order == "statement":
            return np.zeros(int(on.sum()), np.int64)
        if self.threads:
            return self.thread(axes, on)
        return np.broadcast_to(signature(axes), on.shape)[on]

    def collide(self, s: Store, at: Index, data: NDArray[Any], m: Memory) -> None:
        """Two lanes of one store at one element: forbidden, unless lanes run on their own and
        agree."""
        if not data.size:
            return
        flat = np.ravel_multi_index(at, m.data.shape)
        order = np.argsort(flat, kind="stable")
        flat, data = flat[order], data[order]
        agree = self.reals.same(data[1:], data[:-1]) & (self.order == "lane")
        bad = (flat[1:] == flat[:-1]) & ~agree
        if bad.any():
            where = self.first(bad, np.unravel_index(flat[1:], m.data.shape))
            name = f"{self.kernel}.{s.name}"
            what = f"two lanes write {s.buffer.name}{list(where)}"
            self.fail("twice", what, s.buffer.name, where, other=name)

    def atomic(self, s: Atomic) -> None:
        b, m, axes = s.buffer, self.memory[s.buffer.name], self.everyone(access_axes(s))
        on, at = self.access(b, s.index, s.mask, axes)
        data, lanes = self.stored(s, on, at, axes), self.signed(axes, on)
        self.ready(b, m, at)
        if b.role != "program":
            text = "combines into {}, which another program of this launch "
            other = (m.writer[at] != NOBODY) & (m.writer[at] != self.number)
            self.races(b, other, at, text + "wrote", m.plain)
            other = (m.reader[at] != NOBODY) & (m.reader[at] != self.number)
            self.races(b, other, at, text + "read", m.looked)
        text = "combines into {}, which another lane of this program wrote"
        late = self.unordered(m, at, lanes)
        if self.threads:
            late &= m.adder[at] == NOBODY  # not after an atomic
        self.races(b, late, at, text, m.wrote, (lanes, m.lane))
        if self.threads:
            text = "combines into {}, which another thread read, with no barrier between"
            read = self.read_before(m, at, lanes)
            for names in (m.looked, m.began):
                self.races(b, read, at, text, names, (lanes, m.seer))
        code = list(MONOIDS).index(s.monoid)
        alone = (m.adder[at] == self.number) & (self.order == "statement")
        if self.threads:
            alone = (m.adder[at] == self.number) & ~self.clash(m.lane[at], m.when[at], lanes)
        mixed = (m.adder[at] != NOBODY) & ~alone & (m.adds[at] != code)
        self.races(b, mixed, at, "combines into {} in two ways", m.wrote)
        with np.errstate(all="ignore"):
            self.reals.combine(s.monoid, m.data, at, data)
        self.fits(b, m.data[at])
        if self.threads:
            self.has_written(m, at, lanes, True)
        first = (m.adder[at] == NOBODY) | (m.adder[at] == self.number)
        m.adder[at] = np.where(first, self.number, MANY)
        m.adds[at] = code
        m.writes[at] += 1
        m.wrote[at] = self.me()
        self.share(b, m, at)

    def ready(self, b: Buffer, m: Memory, at: Index) -> None:
        unready = ~m.ready[at]
        if unready.any():
            where = self.first(unready, at)
            what = f"{b.name}{list(where)} is read before it is written"
            self.fail("unwritten", what, b.name, where)

    def share(self, b: Buffer, m: Memory, at: Index) -> None:
        """Keep track of who last wrote memory that scratch shares with an output."""
        if m.owner is not None:
            m.owner[at] = NOBODY
        if b.name in self.home:
            owner, where, _ = self.housed(b, at)
            owner[where] = self.number

    def housed(
        self, b: Buffer, at: Index
    ) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...], NDArray[np.bool_]]:
        """Owners of the host's memory, where scratch lies in it, and which lanes stay inside."""
        host, lead = self.home[b.name]
        owner = self.memory[host].owner
        assert owner is not None
        count = at[0].shape
        full = (*(np.full(count, x) for x in lead), *(at if b.shape else ()))
        good = np.ones(count, bool)
        for i, n in zip(full, self.memory[host].data.shape, strict=True):
            good &= (i >= 0) & (i < n)
        if not good.all():
            where = self.first(~good, full)
            self.fail("home", f"{b.name} leaves {host}{list(where)}", host, where)
        return owner, tuple(i[good] for i in full), good

    def fits(self, b: Buffer, data: NDArray[Any]) -> NDArray[Any]:
        if b.dtype.kind == "int" and data.size:
            lo, hi = integer_range(b.dtype)
            if int(data.min()) < lo or int(data.max()) > hi:
                self.fail("wrap", f"an element of {b.name} does not fit {b.dtype}", b.name)
        return data

    def reads(self, b: Buffer, m: Memory, at: Index, lanes: NDArray[np.int64]) -> None:
        if b.role != "program":
            text = "reads {}, which another program of this launch "
            other = (m.writer[at] != NOBODY) & (m.writer[at] != self.number)
            self.races(b, other, at, text + "wrote", m.plain)
            other = (m.adder[at] != NOBODY) & (m.adder[at] != self.number)
            self.races(b, other, at, text + "combines into", m.wrote)
        late = self.unordered(m, at, lanes)
        if self.order == "lane" and not self.threads:
            late = late | (m.adder[at] == self.number)
        text = "reads {}, which another lane of this program wrote"
        self.races(b, late, at, text, m.wrote, (lanes, m.lane))

    def load(self, v: Value) -> Tile:
        what: Load = v.attr
        b, m = what.buffer, self.memory[what.buffer.name]
        on, at = self.access(b, what.index, what.mask, v.axes)
        self.ready(b, m, at)
        if b.role != "in" and self.threads:
            axes = self.everyone(v.axes)
            all_on, all_at = self.access(b, what.index, what.mask, axes)
            lanes = self.signed(axes, all_on)
            self.reads(b, m, all_at, lanes)
            self.has_read(m, all_at, lanes)
        elif b.role != "in":
            self.reads(b, m, at, self.signed(v.axes, on))
        if b.role not in ("in", "program"):
            free = m.reader[at] == NOBODY
            m.reader[at] = np.where(free | (m.reader[at] == self.number), self.number, MANY)
            m.looked[at] = self.me()
        if b.name in self.home:
            owner, full, good = self.housed(b, at)
            lost = (owner[full] != self.number) & m.ready[at][good]
            if lost.any():
                where = self.first(lost, tuple(i[good] for i in at))
                text = f"{b.name}{list(where)} was overwritten in its home"
                self.fail("home", text, b.name, where)
        shape = [a.extent for a in v.axes]
        other = 0 if what.other is None else what.other
        data = self.reals.full(shape, other, b.dtype.kind)
        data[on] = m.data[at]
        return data, (~on if what.other is None else np.zeros(shape, bool))
