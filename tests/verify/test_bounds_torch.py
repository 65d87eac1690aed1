"""PyTorch in f32 stays within derived bounds and statistical limits, whatever order it sums in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from support.shipped import some
from support.torch_cases import SPECS, Row, draw
from support.torch_linalg import CASES as LINALG
from support.torch_loss import CASES as LOSS
from support.torch_nn import CASES as NN
from support.torch_sparse import CASES as SPARSE
from support.torch_training import CASES as TRAINING

from opwright.compiler.elaborate import load_spec
from opwright.ir.binding import bind, prepare
from opwright.ir.dtypes import decode, encode
from opwright.ir.op import Operator, Tensor
from opwright.ir.reference import reference
from opwright.verify.inputs import Case
from opwright.verify.numeric import bounds, spread, wrong

# the table's function takes the element off the inclusive sum, which rounds where nothing is added
OTHERWISE = ("scan/exclusive_cumsum",)
ROWS = [r for r in (*NN, *LOSS, *LINALG, *SPARSE, *TRAINING) if r.spec not in OTHERWISE]


def plain_f32(r: Row) -> Operator | None:
    spec = load_spec(SPECS / f"{r.spec}.op")
    (name,) = spec.names
    for types in spec.bindings(name):
        if set(types.values()) <= {"f32", "i64", "i32"}:
            return spec.operator(name, types)
    return None


def stored(t: Tensor, x: Any) -> Any:
    a = np.asarray(x.double() if x.is_floating_point() else x)
    return encode(a, t.dtype).reshape(a.shape) if t.kind == "real" else a.astype(t.dtype.storage)


@pytest.mark.parametrize("r", some([r for r in ROWS if plain_f32(r)], 6), ids=lambda r: r.label)
def test_torch_is_within_the_bounds(r: Row) -> None:
    import torch

    op = plain_f32(r)
    assert op is not None
    params = {p.name for p in op.params}
    for seed, shape in enumerate(r.shapes[:2]):
        inputs = [torch.as_tensor(x) for x in draw(shape, seed + 11)]
        inputs = [x.float() if x.is_floating_point() else x for x in inputs]
        found = r.function(*inputs, **r.given)
        given = {t.name: stored(t, x) for t, x in zip(op.inputs, inputs, strict=True)}
        arrays = prepare(op, {t.name: decode(given[t.name], t.dtype) for t in op.inputs})
        own = ({k: v for k, v in r.given.items() if (k in params) is p} for p in (True, False))
        env = bind(op, arrays, *own)
        flat = {n: np.ascontiguousarray(x).reshape(arrays[n].shape) for n, x in given.items()}
        sizes, values = {s: env[s] for s in op.sizes}, {p: env[p] for p in params}
        case = Case("torch", "normal", sizes, values, flat)
        known = bounds(
            op, case, lambda x, s, p, op=op: reference(op, x, p, {k: s[k] for k in op.free_sizes})
        )
        results = found if isinstance(found, tuple) else (found,)
        for t, x in zip(op.outputs, results, strict=True):
            b = known[t.name]
            y = stored(t, x).reshape(b.reference.shape)
            assert not wrong(t, y, b)[0].any(), (t.name, shape)
            typical, most = spread(t, y, b)
            assert typical <= most, (t.name, shape)
