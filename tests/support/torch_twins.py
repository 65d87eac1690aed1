"""PyTorch's own functions by the names of the library's operators, for generated tests.

`opwright test SPEC --against support.torch_twins:NAME`: a name stands for the row of the tables of
`torch_cases` that takes the most params.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from support import (  # type: ignore[import-not-found]
    torch_linalg,
    torch_loss,
    torch_nn,
    torch_sparse,
    torch_training,
)

# what a function here cannot be told, or computes otherwise than the spec asks
NOT_TWINS = {
    "adam": "its corrections follow from a count of steps",
    "adamw": "its corrections follow from a count of steps",
    "block_sparse_attention": "it takes a block that is listed twice once",
    "exclusive_cumsum": "it subtracts what it added",
    "focal": "it computes in f64",
    "frobenius_norm": "it divides zeros by their norm",
    "matmul_fp8": "it returns f8",
    "matmul_w8a8": "it multiplies in i8",
    "pairwise_distance": "it expands the square, which cancels",
    "quantize_rows": "it returns i64",
    "router": "it takes equal values in any order",
    "top_p": "it takes equal values in any order",
    "topk": "it takes equal values in any order",
}
OWN: dict[str, Callable[..., Any]] = {
    "softplus": torch.nn.functional.softplus,
    "variance": lambda x, correction=1: torch.var_mean(x, 1, correction=correction),
}
ROWS: dict[str, Any] = {}
for _module in (torch_nn, torch_linalg, torch_loss, torch_sparse, torch_training):
    for _row in _module.CASES:
        _name = _row.spec.split("/")[-1]
        if _name not in ROWS or (_row.given and not ROWS[_name].given):
            ROWS[_name] = _row


def __getattr__(name: str) -> Callable[..., Any]:
    if name in OWN:
        return OWN[name]
    if name not in ROWS:
        raise AttributeError(name)
    row = ROWS[name]
    function: Callable[..., Any] = row.function
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return function

    def named(*inputs: Any, **given: Any) -> Any:
        return function(*inputs, **given)

    own = [inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)]
    own += [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY) for k in row.given]
    named.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return named
