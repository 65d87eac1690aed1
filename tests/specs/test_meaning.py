"""What every spec of the library means, against PyTorch in float64 on shapes of no special form.

The rows are in tests/support/torch_*.py, by family.
"""

from __future__ import annotations

import pytest

import opwright

torch = pytest.importorskip("torch")
from support.torch_cases import SPECS, Row, judge  # type: ignore[import-not-found]  # noqa: E402
from support.torch_linalg import CASES as LINALG  # type: ignore[import-not-found]  # noqa: E402
from support.torch_loss import CASES as LOSS  # type: ignore[import-not-found]  # noqa: E402
from support.torch_nn import CASES as NN  # type: ignore[import-not-found]  # noqa: E402
from support.torch_sparse import CASES as SPARSE  # type: ignore[import-not-found]  # noqa: E402
from support.torch_training import (  # type: ignore[import-not-found]  # noqa: E402
    CASES as TRAINING,
)

CASES = [*NN, *LOSS, *LINALG, *SPARSE, *TRAINING]
NAMES = sorted({c.spec for c in CASES})


def test_every_spec_has_a_case() -> None:
    specs = {str(p.relative_to(SPECS).with_suffix("")) for p in SPECS.rglob("*.op")}
    assert specs == set(NAMES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_reference_agrees_with_torch(case: Row) -> None:
    judge(case)


@pytest.mark.parametrize("name", NAMES)
def test_every_binding_elaborates(name: str) -> None:
    operation = opwright.load(SPECS / f"{name}.op")[name.split("/")[1]]
    for types in operation.bindings:
        assert operation.operator(types).types == types
