"""Threads of a program: who touched an element last, when, and what has ordered them since.

A kernel whose `threads` are axes runs statement by statement for all of them; that this is what it
means is shown by the absence of two accesses of one element, one of them writing, by different
threads without a barrier between. Who read or wrote is one number for an element: a thread, several
threads of one group (a warp), or many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opwright.ir.expr import TRUE, show
from opwright.ir.interpreter_state import MANY, NOBODY, Index, Memory, State
from opwright.ir.tile import Axis, Barrier
from opwright.ir.tileops import spread

Ints = NDArray[np.int64]
GROUP = 10  # several threads of group g are the number -(GROUP + g)


class Threads(State):
    """Order between the threads of the running program."""

    def begin_threads(self) -> None:
        """A program starts: nothing has been ordered by a barrier."""
        if not self.threads:
            return
        shape = [a.extent for a in self.threads]
        self.clock = self.met = 1
        self.ids: Ints = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        # threads that differ in the last axis alone are one group
        self.last = self.threads[-1].extent
        self.paired: Ints = np.zeros(self.ids.size, np.int64)  # when a group met last, by thread

    def barrier(self, s: Barrier) -> None:
        """All threads of the scope are here, or none of them."""
        self.decides(s.mask)
        on = self.lanes(s.mask, self.threads).astype(bool)
        moving = tuple(n for n, a in enumerate(self.threads) if a in s.axes)
        other = (on.any(axis=moving, keepdims=True) & ~on) if moving else np.zeros_like(on)
        if other.any():
            lane = np.argwhere(other)[0]
            named = {a.name: int(x) for a, x in zip(self.threads, lane, strict=True)}
            what = "a barrier" if s.fence else "an exchange between threads"
            text = f"{what} is reached by some of its threads only, where {show(s.mask)}"
            self.fail("diverge", text, lane=named)
            self.whole = False
        if not s.fence:
            return
        self.clock += 1
        if set(s.axes) == set(self.threads) and (s.mask is TRUE or on.all()):
            self.met = self.clock
        elif set(s.axes) == {self.threads[-1]}:
            self.paired[self.ids[on]] = self.clock
        elif set(s.axes) == set(self.threads) and on.any():
            self.met = self.clock

    def thread(self, axes: tuple[Axis, ...], on: NDArray[np.bool_]) -> Ints:
        """The thread of each lane that is on."""
        return np.asarray(np.broadcast_to(spread(self.ids, self.threads, axes), on.shape)[on])

    def named(self, who: int) -> dict[str, int]:
        """The place of a thread on its axes; nothing of several."""
        if who < 0:
            return {}
        place = np.unravel_index(who, self.ids.shape)
        return {a.name: int(i) for a, i in zip(self.threads, place, strict=True)}

    def group(self, who: Ints) -> Ints:
        """The group of a thread or of several threads of one; -1 for nobody and many."""
        one, several = who // self.last, -who - GROUP
        return np.where(who >= 0, one, np.where(who <= -GROUP, several, -1))

    def follows(self, who: Ints, when: Ints, now: Ints) -> NDArray[np.bool_]:
        """Whether what others did then is over for the threads `now`."""
        same = (self.group(who) == now // self.last) & (when < self.paired[now])
        return np.asarray((when < self.met) | same)

    def clash(self, who: Ints, when: Ints, now: Ints) -> NDArray[np.bool_]:
        """Whether another thread did that, and nothing has ordered the two."""
        other = (who != NOBODY) & (who != now)
        return np.asarray(other & ~self.follows(who, when, now))

    def together(self, at: Index, now: Ints, shape: tuple[int, ...]) -> Ints:
        """Who touches each of these elements in one statement."""
        if not now.size:
            return now
        flat = np.ravel_multi_index(at, shape)
        elements, back = np.unique(flat, return_inverse=True)
        low = np.full(len(elements), np.iinfo(np.int64).max)
        high = np.full(len(elements), -1)
        np.minimum.at(low, back, now)
        np.maximum.at(high, back, now)
        return self.several(low, high)[back]

    def several(self, low: Ints, high: Ints) -> Ints:
        one = low // self.last == high // self.last
        return np.where(low == high, low, np.where(one, -(GROUP + low // self.last), MANY))

    def joined(self, who: Ints, when: Ints, new: Ints, now: Ints) -> Ints:
        """Who touched an element, where earlier ones that are not over count still."""
        over = (who == NOBODY) | self.follows(who, when, now) | (who == new)
        one = (self.group(who) == self.group(new)) & (self.group(new) >= 0)
        return np.where(over, new, np.where(one, -(GROUP + self.group(new)), MANY))

    # -- what accesses do
    def late(self, m: Memory, at: Index, now: Ints) -> NDArray[np.bool_]:
        """Elements that another thread of this program wrote, unordered."""
        own = m.writer[at] == self.number
        own |= (m.adder[at] == self.number) | (m.adder[at] == MANY)
        return np.asarray(own & self.clash(m.lane[at], m.when[at], now))

    def read_before(self, m: Memory, at: Index, now: Ints) -> NDArray[np.bool_]:
        """Elements that another thread of this program read, unordered."""
        return self.clash(m.seer[at], m.saw[at], now)

    def has_read(self, m: Memory, at: Index, now: Ints) -> None:
        if not now.size:
            return
        new = self.together(at, now, m.data.shape)
        over = (m.seer[at] == NOBODY) | self.follows(m.seer[at], m.saw[at], now)
        m.began[at] = np.where(over, self.me(), m.began[at])
        m.seer[at] = self.joined(m.seer[at], m.saw[at], new, now)
        m.saw[at] = self.tock()
        m.looked[at] = self.me()

    def has_written(self, m: Memory, at: Index, now: Ints, combined: bool) -> None:
        if not now.size:
            return
        new = self.together(at, now, m.data.shape)
        if combined:
            own = (m.writer[at] == self.number) | (m.adder[at] == self.number)
            before = np.where(own, m.lane[at], NOBODY)
            new = self.joined(before, m.when[at], new, now)
        m.lane[at] = new
        m.when[at] = self.tock()

    def tock(self) -> int:
        return int(self.clock)
