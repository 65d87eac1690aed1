"""The schedule of a space that tests of texts speak of: one row at a time, nothing kept."""

from __future__ import annotations

from typing import Any

from opwright.search.space import IllegalSchedule, Schedule

PLAIN = (("rows", 1), ("width", 64), ("save", "no"))


def plain(space: Any) -> Schedule:
    """The preferred schedule with as few liberties as the space has."""
    chosen: Schedule = space.preferred()[0]
    for hole, value in PLAIN:
        if hole in dict(chosen.decisions) and (hole != "width" or "rows" in dict(chosen.decisions)):
            changed = chosen.changed(hole, value)
            try:
                space.instantiate(changed)
            except IllegalSchedule:
                continue
            chosen = changed
    return chosen
