"""Test cases of an operator with their reference values, as evaluators of backends share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opwright.ir.binding import InputError
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.search.loads import WORK_LIMIT, workloads
from opwright.verify.inputs import Case, generate
from opwright.verify.numeric import Bound, bounds


class Known:
    """Generated cases of an operator that have a reference, its workloads, and what was left out.

    `bytes_limit` and `work_limit` are of a workload that is used as it is; larger ones are scaled.
    """

    def __init__(
        self,
        op: Operator,
        seed: int,
        count: int,
        bytes_limit: int,
        work_limit: int = WORK_LIMIT,
    ) -> None:
        self.op, self.seed = op, seed
        made = generate(op, seed, count)
        # with the case itself: the id of one that is gone is given to another
        self._bounds: dict[int, tuple[Case, Mapping[str, Bound]]] = {}
        self._notes = list(made.notes)
        self.cases = [x for x in made.cases if self._has_reference(x)]
        self.loads, notes = workloads(op, bytes_limit, work_limit)
        self._notes += notes

    @property
    def notes(self) -> Sequence[str]:
        return tuple(dict.fromkeys(self._notes))

    def note(self, text: str) -> None:
        """Say what was left out."""
        self._notes.append(text)

    @property
    def weights(self) -> Mapping[str, float]:
        return {s.name: s.weight for _, s in self.loads}

    def bound(self, case: Case) -> Mapping[str, Bound]:
        """Reference values of a case, computed once."""
        if id(case) not in self._bounds:
            found = bounds(
                self.op, case, lambda x, sizes, params: reference(self.op, x, params, sizes)
            )
            self._bounds[id(case)] = case, found
        return self._bounds[id(case)][1]

    def _has_reference(self, case: Case) -> bool:
        try:
            self.bound(case)
        except InputError as e:
            self.note(f"{case} left out: {e}")
            return False
        return True
