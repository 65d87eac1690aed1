"""The spaces of schedules of block programs (a program computes a tile, as on a GPU).

Candidate 0 is the fallback over the whole operator. Everything else lowers dense arrays.
"""

from __future__ import annotations

from opwright.compiler.normalize import normalize
from opwright.compiler.strategies import block_fallback
from opwright.ir.op import Operator
from opwright.search.space import ChoiceSpace, Space


def spaces(op: Operator, target: str = "sm_90") -> list[Space]:
    """The searchable spaces; the first one is candidate 0's."""
    normal = normalize(op)
    return [
        ChoiceSpace(
            "fallback", {"schedule": ("plain",)}, lambda schedule: block_fallback.lower(normal)
        )
    ]
