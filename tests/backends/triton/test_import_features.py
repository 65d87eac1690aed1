"""What single constructs of the language mean: the imported program in our interpreter against the
source in Triton's own."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

from opwright.backends.triton.importer import import_program
from opwright.backends.triton.run import interpret
from opwright.ir.dtypes import I32, dtype
from opwright.ir.expr import call, const, size, stride
from opwright.ir.interpreter import Trap, run
from opwright.ir.launch import BoundLaunch, BoundPlan, ImportRefusal, Scalar
from opwright.ir.plan import Plan
from opwright.ir.tile import Buffer, Check, Def, For, TileProgram, statements
from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import parse_program, show_program

HEAD = (
    "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n\n"
)
N = size("N")


def bound_of(grid: tuple[int, ...], ins: dict[str, str], outs: dict[str, str]) -> BoundPlan:
    """One launch of `k` over buffers of N elements, with N last."""
    buffers = {
        n: Buffer(n, role, dtype(t), (N,), (stride(n, 0),))
        for role, group in (("in", ins), ("out", outs))
        for n, t in group.items()
    }
    args = (*buffers.values(), Scalar(N, I32))
    launch = BoundLaunch("k", tuple(const(g) for g in grid), args)
    facts = tuple(call("eq", stride(n, 0), 1) for n in buffers)
    return BoundPlan(Plan("k@1.0", "sm_90", "triton", "kernel.py", ()), buffers, (launch,), facts)


def text_of(body: str, names: list[str]) -> str:
    head = f"@triton.jit\ndef k({', '.join(names)}, N):\n"
    return HEAD + head + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"


def imported(
    body: str,
    ins: dict[str, str] | None = None,
    outs: dict[str, str] | None = None,
    grid: tuple[int, ...] = (1,),
    helpers: str = "",
) -> tuple[TileProgram, BoundPlan, str]:
    ins, outs = ins or {"x": "f32"}, outs or {"y": "f32"}
    source = text_of(body, [*ins, *outs]).replace("@triton.jit", helpers + "@triton.jit", 1)
    bound = bound_of(grid, ins, outs)
    program = import_program(source, bound, "kernel.py")
    check_program(program)
    text = show_program(program)
    assert show_program(parse_program(text)) == text
    return program, bound, source


def data(kind: str, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "bool":
        return rng.integers(0, 2, n).astype(bool)
    if kind[0] == "f":
        return rng.normal(0, 1, n).astype(dtype(kind).storage)
    low = 0 if kind[0] == "u" else -100
    return rng.integers(low, 100, n).astype(dtype(kind).storage)


CASES: dict[str, dict[str, Any]] = {
    "branch with results": dict(
        grid=(3,),
        body="""
        i = tl.program_id(0) * 16 + tl.arange(0, 16)
        if tl.program_id(0) > 0:
            v = tl.load(x + i, mask=i < N) * 2
            s = i
        else:
            v = tl.load(x + i + 1, mask=i + 1 < N, other=1.0)
            s = i * 3
        tl.store(y + i, v + s, mask=i < N)
        """,
        n=48,
    ),
    "loop in a branch": dict(
        grid=(2,),
        body="""
        i = tl.program_id(0) * 16 + tl.arange(0, 16)
        acc = tl.zeros([16], tl.float32)
        if tl.program_id(0) == 1:
            for j in range(0, N, 16):
                c = j + tl.arange(0, 16)
                acc += tl.sum(tl.load(x + c, mask=c < N, other=0.0), 0)
        else:
            acc += 1.0
        tl.store(y + i, acc, mask=i < N)
        """,
        n=30,
    ),
    "early returns": dict(
        grid=(5,),
        body="""
        p = tl.program_id(0)
        if p == 1:
            return
        i = p * 8 + tl.arange(0, 8)
        if p > 3:
            return
        tl.store(y + i, tl.load(x + i, mask=i < N), mask=i < N)
        if p == 2:
            tl.store(y + 8 + tl.arange(0, 8), tl.load(x + i, mask=i < N, other=0.0))
        """,
        n=32,
    ),
    "pointers through nested loops": dict(
        body="""
        c = tl.arange(0, 4)
        p = x + c
        q = y + c
        for i in range(0, 3):
            for j in range(0, 4, 2):
                tl.store(q, tl.load(p) + i + j)
                p += 4
                q += 4
        tl.store(q, tl.load(p))
        """,
        n=28,
    ),
    "a number of the last iteration": dict(
        body="""
        c = tl.arange(0, 4)
        at = 3
        for i in range(0, 4):
            tl.store(y + i * 4 + c, tl.load(x + at * 4 + c))
            at = i
        """,
        n=16,
    ),
    "grid stride": dict(
        grid=(3,),
        body="""
        for t in range(tl.program_id(0), tl.cdiv(N, 8), tl.num_programs(0)):
            i = t * 8 + tl.arange(0, 8)
            tl.store(y + i, tl.load(x + i, mask=i < N), mask=i < N)
        """,
        n=50,
    ),
    "sums over all axes": dict(
        body="""
        i = tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
        v = tl.load(x + i)
        tl.store(y + i, v - tl.sum(v) + tl.max(v) + tl.sum(tl.sum(v, 0), 0))
        """,
        n=32,
    ),
    "outer product of one vector": dict(
        body="""
        i = tl.arange(0, 8)
        v = tl.load(x + i)
        o = v[:, None] * v[None, :] + i[:, None] - i[None, :]
        tl.store(y + i[:, None] * 8 + i[None, :], o)
        """,
        n=64,
    ),
    "product with its transpose": dict(
        body="""
        i = tl.arange(0, 16)
        a = tl.load(x + i[:, None] * 16 + i[None, :])
        tl.store(y + i[:, None] * 16 + i[None, :], tl.dot(a, tl.trans(a), input_precision="ieee"))
        """,
        n=256,
    ),
    "reshapes": dict(
        body="""
        i = tl.arange(0, 64)
        v = tl.load(x + i)
        a = tl.trans(tl.reshape(v, (16, 4)))
        b = tl.reshape(tl.permute(tl.reshape(a, (4, 4, 4)), (2, 0, 1)), (64,))
        tl.store(y + i, b + tl.reshape(tl.reshape(i, (8, 8)).T, (64,)))
        """,
        n=64,
    ),
    "join and split": dict(
        body="""
        i = tl.arange(0, 16)
        a, b = tl.split(tl.reshape(tl.load(x + tl.arange(0, 32)), (16, 2)))
        tl.store(y + tl.arange(0, 32), tl.interleave(b, a * 2))
        """,
        n=32,
    ),
    "scans": dict(
        outs={"y": "f32", "z": "f32", "w": "f32"},
        body="""
        i = tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
        v = tl.load(x + i)
        tl.store(y + i, tl.cumsum(v, 1))
        tl.store(z + i, tl.cumsum(v, 0, reverse=True))
        tl.store(w + i, tl.cumprod(v, 1))
        """,
        n=32,
    ),
    "extremes and their places": dict(
        outs={"y": "f32", "z": "i32"},
        body="""
        i = tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
        v = tl.load(x + i)
        best, at = tl.max(v, 1, return_indices=True)
        low = tl.argmin(v, 0)
        tl.store(y + i, v - best[:, None])
        tl.store(z + i, at[:, None] * 100 + low[None, :])
        """,
        n=32,
    ),
    "integers with signs": dict(
        ins={"x": "i32"},
        outs={"y": "i32", "z": "i32", "w": "i32"},
        body="""
        i = tl.arange(0, 32)
        v = tl.load(x + i)
        tl.store(y + i, v // 7 + (i - 16) // 5)
        tl.store(z + i, v % 7 + (i - 16) % 5)
        tl.store(w + i, (v >> 2) + ((i - 16) << 3) + (v & 15) + tl.minimum(v, i) + tl.abs(v))
        """,
        n=32,
    ),
    "narrow and unsigned integers": dict(
        ins={"x": "u8", "b": "bool", "s": "i8"},
        outs={"y": "i32", "c": "bool", "u": "u8"},
        body="""
        i = tl.arange(0, 32)
        v = tl.load(x + i)
        flag = tl.load(b + i)
        tl.store(y + i, v.to(tl.int32) + tl.load(s + i).to(tl.int32) + flag.to(tl.int32))
        tl.store(c + i, flag & (v > 50))
        tl.store(u + i, v)
        """,
        n=32,
    ),
    "sums of integers": dict(
        ins={"x": "i32"},
        outs={"y": "i32"},
        body="""
        i = tl.arange(0, 32)
        v = tl.load(x + i)
        some = tl.sum((v > 0).to(tl.int32), 0) + tl.max(v, 0)
        tl.store(y + i, tl.sum(v, 0) + tl.cumsum(v, 0) + some)
        """,
        n=32,
    ),
    "functions": dict(
        body="""
        i = tl.arange(0, 32)
        v = tl.load(x + i)
        a = tl.ceil(v) + tl.floor(v)
        a += tl.sigmoid(v) + tl.erf(v) + tl.exp2(v) + tl.log(tl.abs(v) + 1)
        a += tl.rsqrt(tl.abs(v) + 1)
        a += tl.clamp(v, -0.5, 0.5) + tl.fma(v, v, 1.0) + tl.where(v > 0, v, -v * 2)
        a += tl.cos(v) + tl.sin(v) + tl.sqrt(tl.abs(v)) + (v * 100).to(tl.int32)
        tl.store(y + i, a + (v != v) + (v <= 0.1))
        """,
        n=32,
    ),
    "fill that is a tile": dict(
        body="""
        i = tl.arange(0, 32)
        tl.store(y + i, tl.load(x + i, mask=i < N - 5, other=i * 2.0), mask=i < N)
        """,
        n=20,
    ),
    "gather": dict(
        ins={"x": "f32", "j": "i64"},
        body="""
        i = tl.arange(0, 32)
        at = tl.load(j + i, mask=i < N, other=0)
        at = tl.where(at < 0, -at, at) % N
        tl.store(y + i, tl.load(x + at, mask=at > 2, other=7.0), mask=i < N)
        """,
        n=20,
    ),
    "helpers of the source": dict(
        helpers="@triton.jit\ndef twice(v, BY: tl.constexpr = 2):\n    return v * BY, v + BY\n\n\n",
        body="""
        i = tl.arange(0, 16)
        a, b = twice(tl.load(x + i), 3)
        tl.store(y + i, a - b)
        """,
        n=16,
    ),
    "state that is an integer": dict(
        ins={"x": "f32"},
        outs={"y": "f32", "z": "i32"},
        body="""
        best = tl.full([8], float("-inf"), tl.float32)
        at = tl.zeros([8], tl.int32)
        c = tl.arange(0, 8)
        for i in range(0, N, 8):
            v = tl.load(x + i + c, mask=i + c < N, other=float("-inf"))
            at = tl.where(v > best, i + c, at)
            best = tl.maximum(v, best)
        for i in range(0, N, 8):
            tl.store(y + i + c, best, mask=i + c < N)
            tl.store(z + i + c, at, mask=i + c < N)
        """,
        n=43,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_import_means_what_triton_computes(name: str) -> None:
    case = dict(CASES[name])
    n = case.pop("n")
    program, bound, source = imported(**case)
    ins = [b for b in bound.buffers.values() if b.role == "in"]
    arrays = {b.name: data(b.dtype.name, n, k) for k, b in enumerate(ins)}
    wanted = interpret(source, bound, arrays, {"N": n})
    given = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    got = run(program, {"N": n}, given)
    for b in bound.buffers.values():
        if b.role == "out":
            np.testing.assert_allclose(got[b.name], wanted[b.name], rtol=2e-5, atol=2e-5)


REFUSED = {
    "scf.while": ("while N > tl.load(y):\n    tl.store(y, 1.0)", 7),
    "old value": ("tl.store(y, tl.atomic_add(x, 1.0))", 7),
    "combine region": (
        "i = tl.arange(0, 16)\ntl.store(y + i, tl.associative_scan(tl.load(x + i), 0, pick))",
        13,
    ),
    "no attribute": ("tl.store(y, tl.nonsense(x))", 7),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_named_with_its_line(what: str) -> None:
    body, line = REFUSED[what]
    helpers = "@triton.jit\ndef pick(a, b):\n    return a * b + a\n\n\n"
    with pytest.raises(ImportRefusal, match=what) as e:
        imported(body, helpers=helpers if "pick" in body else "")
    assert (e.value.file, e.value.line) == ("kernel.py", line)


def test_an_address_that_depends_on_data_is_carried() -> None:
    body = """
    for i in range(0, N):
        x += tl.load(y).to(tl.int32)
        tl.store(x, 1.0)
    """
    program, _, _ = imported(body, {"y": "f32"}, {"x": "f32"})
    (loop,) = [s for s in statements(program.kernels[0].body) if isinstance(s, For)]
    assert [str(p.dtype) for p in loop.params] == ["i64"]


def test_library_functions_are_rows_of_the_table() -> None:
    body = """
    i = tl.arange(0, 16)
    v = tl.load(x + i)
    v = libdevice.tanh(v) + libdevice.floor(v) + libdevice.rint(v) + libdevice.pow(v, v)
    tl.store(y + i, v + libdevice.cyl_bessel_i0(v))
    """
    program, _, _ = imported(body)
    ops = [s.value.op for s in statements(program.kernels[0].body) if isinstance(s, Def)]
    assert {"tanh", "floor", "nearest", "pow", "opaque"} <= set(ops)


def test_lanes_without_a_fill_are_poison_unless_it_is_assumed_to_be_zero() -> None:
    source = text_of(
        "i = tl.arange(0, 16)\ntl.store(y, tl.sum(tl.load(x + i, mask=i < N), 0))", ["x", "y"]
    )
    bound = bound_of((1,), {"x": "f32"}, {"y": "f32"})
    with pytest.raises(Trap, match="poison"):
        run(import_program(source, bound, "kernel.py"), {"N": 3}, {"x": np.ones(3)})
    assumed = import_program(source, bound, "kernel.py", zero_fill=True)
    assert assumed.assumes == ("zero fill of masked loads",)
    out = run(assumed, {"N": 1}, {"x": np.ones(1)})
    assert out["y"].tolist() == [1.0]


def test_a_hint_is_an_obligation() -> None:
    body = "i = tl.multiple_of(tl.load(x), 8).to(tl.int32) + tl.arange(0, 8)\ntl.store(y + i, i)"
    program, _, _ = imported(body, {"x": "i32"}, {"y": "i32"})
    kinds = [
        (s.kind, s.reason) for s in statements(program.kernels[0].body) if isinstance(s, Check)
    ]
    assert any(k == "align" and "divisible by 8" in r for k, r in kinds)
