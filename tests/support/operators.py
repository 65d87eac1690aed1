"""Small operators built by hand, so that these tests need neither parser nor elaborator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opwright.ir.dtypes import dtype
from opwright.ir.expr import (
    Expr,
    call,
    cast,
    conjunction,
    const,
    param,
    read,
    reduction,
    size,
    var,
)
from opwright.ir.op import Clause, OpAxis, Operator, Param, Tensor, Workload


def axes(**ranges: Expr) -> tuple[OpAxis, ...]:
    return tuple(OpAxis(n, const(0), hi) for n, hi in ranges.items())


def tensor(
    name: str, of: str, role: str = "input", body: Expr | None = None, **ranges: Expr
) -> Tensor:
    return Tensor(name, dtype(of), axes(**ranges), body, role)


def at(name: str, *index: Expr, kind: str = "real") -> Expr:
    return read(name, index, kind)


def every(body: Expr, **ranges: Expr) -> Expr:
    return reduction("all", tuple(ranges), tuple((const(0), hi) for hi in ranges.values()), body)


def requires(name: str, e: Expr) -> Clause:
    return Clause(name, "requires", e)


def operator(
    name: str,
    sizes: Sequence[str],
    inputs: Sequence[Tensor],
    tensors: Sequence[Tensor],
    facts: Sequence[Expr] = (),
    clauses: Sequence[Clause] = (),
    params: Sequence[Param] = (),
    tolerance: Mapping[str, Mapping[str, float]] | None = None,
    workloads: Sequence[Workload] = (),
    **more: Any,
) -> Operator:
    limits = [call("le", 0, size(s)) for s in sizes]
    limits += [call("le", size(s), 2**31 - 1) for s in sizes]
    return Operator(
        name,
        "1.0",
        None,
        {},
        tuple(sizes),
        {},
        tuple(params),
        (*facts, *limits),
        tuple(inputs),
        tuple(tensors),
        tuple(clauses),
        tolerance or {},
        tuple(workloads),
        digest=f"sha256:{name}",
        **more,
    )


B, N, M, V, D, E = (size(s) for s in "BNMVDE")
b, i, j, n, d = (var(s) for s in "bijnd")


def scaled(of: str = "f32", **more: Any) -> Operator:
    """y[b, n] = 2 * x[b, n] + 1."""
    body = at("x", b, n) * const(2.0) + const(1.0)
    return operator(
        "scaled",
        ["B", "N"],
        [tensor("x", of, b=B, n=N)],
        [tensor("y", of, "output", body, b=B, n=N)],
        **more,
    )


def row_sum(of: str = "f32", **more: Any) -> Operator:
    """y[b] = the sum of row b, with finite inputs."""
    total = reduction("sum", ("k",), ((const(0), N),), at("x", b, var("k")), acc=dtype("f32"))
    inf = const(float("inf"))
    finite = call("and", call("lt", -inf, at("x", b, n)), call("lt", at("x", b, n), inf))
    return operator(
        "row_sum",
        ["B", "N"],
        [tensor("x", of, b=B, n=N)],
        [tensor("y", "f32", "output", cast(total, dtype("f32")), b=B)],
        clauses=[requires("finite", every(finite, b=B, n=N))],
        **more,
    )


def row_argmax() -> Operator:
    """i[b] = the first index of the largest element of row b."""
    body = reduction("argmax", ("k",), ((const(0), N),), at("x", b, var("k")))
    return operator(
        "row_argmax",
        ["B", "N"],
        [tensor("x", "f32", b=B, n=N)],
        [tensor("i", "i64", "output", body, b=B)],
        facts=[call("le", 1, N)],
    )


def gather() -> Operator:
    """y[n, d] = table[ids[n], d] with ids in range."""
    ids = at("ids", n, kind="int")
    good = call("and", call("le", 0, ids), call("lt", ids, V))
    return operator(
        "gather",
        ["V", "D", "N"],
        [tensor("table", "f32", v=V, d=D), tensor("ids", "i32", n=N)],
        [tensor("y", "f32", "output", at("table", ids, d), n=N, d=D)],
        clauses=[requires("in_range", every(good, n=N))],
    )


def rows_of_pointers() -> Operator:
    """y[i] = sum of val[p] for p in ptr[i]..ptr[i + 1], with ptr monotone from 0 to E."""
    p = var("p")
    ptr = at("ptr", i, kind="int")
    after = at("ptr", i + 1, kind="int")
    body = reduction("sum", ("p",), ((ptr, after),), at("val", p))
    ends = conjunction(
        [
            call("eq", at("ptr", const(0), kind="int"), 0),
            call("eq", at("ptr", M, kind="int"), E),
            every(call("le", ptr, after), i=M),
        ]
    )
    return operator(
        "rows_of_pointers",
        ["M", "E"],
        [tensor("ptr", "i64", i=M + 1), tensor("val", "f32", p=E)],
        [tensor("y", "f32", "output", body, i=M)],
        clauses=[requires("monotone", ends)],
    )


def blocked() -> Operator:
    """Sizes under equations, divisibility and membership, and a param: y[n] = x[n] * scale."""
    member = call("or", call("eq", D, 64), call("eq", D, 128))
    return operator(
        "blocked",
        ["N", "M", "D"],
        [tensor("x", "bf16", n=N), tensor("z", "bf16", d=D)],
        [tensor("y", "bf16", "output", at("x", n) * param("scale", "real"), n=N)],
        facts=[call("eq", N, M * D), call("eq", M % 16, 0), call("le", 1, M), member],
        params=[Param("scale", dtype("f32"), call("rsqrt", D))],
    )
