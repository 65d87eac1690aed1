"""Gradients that are derived for the library, against PyTorch in float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from support.shipped import some  # type: ignore[import-not-found]  # noqa: E402
from support.torch_cases import Row  # type: ignore[import-not-found]  # noqa: E402
from support.torch_gradients import (  # type: ignore[import-not-found]  # noqa: E402
    judge_gradient,
    operator,
    wanted,
)
from support.torch_linalg import CASES as LINALG  # type: ignore[import-not-found]  # noqa: E402
from support.torch_loss import CASES as LOSS  # type: ignore[import-not-found]  # noqa: E402
from support.torch_nn import CASES as NN  # type: ignore[import-not-found]  # noqa: E402
from support.torch_sparse import CASES as SPARSE  # type: ignore[import-not-found]  # noqa: E402
from support.torch_training import (  # type: ignore[import-not-found]  # noqa: E402
    CASES as TRAINING,
)

CASES = [c for c in (*NN, *LOSS, *LINALG, *SPARSE, *TRAINING) if wanted(operator(c))]


@pytest.mark.parametrize("case", some(CASES, 4), ids=lambda c: c.label)
def test_gradients_agree_with_torch(case: Row) -> None:
    assert judge_gradient(case) > 0
