"""The precision audit of imported programs against what their operator asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.compiler.elaborate import parse_spec
from opwright.ir.dtypes import BF16, F16, F32, DType
from opwright.ir.expr import pid, size
from opwright.ir.op import Operator
from opwright.ir.tile import Axis, Buffer, Builder, Dot, Placement, TileProgram
from opwright.verify.policy import array_audit, audit, precision_records

PRODUCT = """opwright "0.1"

op product @ 1.0 {
  dims  M, N, K
  type  T in {f32, f16}
  input a: T[M, K], b: T[K, N]
  output c: T[M, N]
  def { c[i, j] = sum.f32[k: K](a[i, k] * b[k, j]) }
}
"""
M, N, K = (size(n) for n in "MNK")


def operator(t: str) -> Operator:
    return parse_spec(PRODUCT, str(Path("product.op"))).operator("product", {"T": t})


def product(
    kind: DType,
    *,
    precision: str = "ieee",
    acc: DType = F32,
    narrow: DType | None = None,
    after: DType | None = None,
) -> TileProgram:
    """A block product; `narrow` rounds operands first, `after` the result before it is scaled."""
    i, j, k = Axis("i", 16), Axis("j", 16), Axis("k", 16)
    b = Builder("product", (M, N))
    left, right = Buffer("a", "in", kind, (M, K)), Buffer("b", "in", kind, (K, N))
    out = Buffer("c", "out", kind, (M, N))

    def body(at, total):  # type: ignore[no-untyped-def]
        b.line = "kernel.py:7"
        x = b.load(left, pid(0) * 16 + i, at + k, other=0.0)
        y = b.load(right, at + k, pid(1) * 16 + j, other=0.0)
        if narrow is not None:
            x, y = b.cast(x, narrow), b.cast(y, narrow)
        b.line = "kernel.py:9"
        return [b.ew("add", total, b.dot(x, y, Dot(k, precision), acc))]

    (total,) = b.loop("k0", 0, K, 16, [b.full(0.0, acc, i, j)], body)
    if after is not None:
        b.line = "kernel.py:11"
        total = b.cast(total, after)
        total = b.ew("mul", total, 2.0)
    b.store(out, pid(0) * 16 + i, pid(1) * 16 + j, b.cast(total, kind))
    return TileProgram("product", (b.kernel(),), (Placement(),))


@pytest.mark.parametrize(
    ("t", "options", "status", "words"),
    [
        ("f32", {}, None, ""),
        ("f16", {"kind": F16}, None, ""),
        ("f16", {"kind": F16, "precision": "tf32"}, None, ""),  # says nothing of f16 operands
        ("f32", {"precision": "tf32x3"}, None, ""),
        ("f32", {"precision": "tf32"}, "UNKNOWN", "kernel.py:9: the product reads f32 operands"),
        ("f32", {"precision": "bf16x3"}, "UNKNOWN", "as bf16x3"),
        ("f16", {"kind": F16, "acc": F16}, "REFUTED", "kernel.py:9: accumulates in f16"),
        ("f32", {"acc": BF16}, "REFUTED", "accumulates in bf16"),
        ("f32", {"narrow": F16}, "UNKNOWN", "kernel.py:7: a value is rounded to f16"),
        ("f16", {"kind": F16, "after": F16}, "UNKNOWN", "kernel.py:11: a value is rounded to f16"),
    ],
)
def test_audit(t: str, options: dict, status: str | None, words: str) -> None:  # type: ignore[type-arg]
    program = product(**{"kind": F32, **options})
    found = audit(program, operator(t))
    records = precision_records(program, operator(t), "kernel.py sha256:0")
    if status is None:
        assert found == []
        assert [r.status for r in records] == ["PROVED"]
        return
    assert found[0].status == status
    assert words in records[0].reason
    assert records[0].id == "G0.precision"


def test_what_the_spec_marks_is_allowed() -> None:
    text = PRODUCT.replace("a[i, k] * b[k, j]", "tf32(a[i, k]) * tf32(b[k, j])")
    marked = parse_spec(text, "product.op").operator("product", {"T": "f32"})
    assert audit(product(F32, precision="tf32"), marked) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("sum.f32[k: K](a[i, k] * b[k, j])", None, ""),
        ("sum.f16[k: K](a[i, k] * b[k, j])", "REFUTED", "accumulates in f16"),
        ("sum.f32[k: K](bf16(a[i, k]) * b[k, j])", "UNKNOWN", "rounds a value to bf16"),
        ("2 * f16(sum.f32[k: K](a[i, k] * b[k, j]))", "UNKNOWN", "rounds a value to f16"),
        ("f16(sum.f32[k: K](a[i, k] * b[k, j]))", None, ""),
    ],
)
def test_audit_of_array_code(body: str, status: str | None, words: str) -> None:
    text = PRODUCT.replace("sum.f32[k: K](a[i, k] * b[k, j])", body)
    read = parse_spec(text, str(Path("read.op"))).operator("product", {"T": "f32"})
    found = array_audit(read, operator("f32"))
    assert [b.status for b in found] == ([status] if status else [])
    assert all(words in b.what for b in found)
