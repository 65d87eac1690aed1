"""What every spec may call without an import: operators written in the language, random numbers.

`topk(x, k)` is an operator like any other; its text is here. `rand` and `randn` are functions of
a seed and a tuple of indices: the position is the row-major number of the tuple, the stream is the
number of the call in the text of the operator, or what `stream = n` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from opwright.compiler.scope import OperatorName, Scope
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.parser import parse

if TYPE_CHECKING:
    from opwright.compiler.library import Library

RANDOM = ("rand", "randn")
INTRINSICS = ("topk",)
RESULTS = {"v": "values", "i": "indices"}  # short names of results
_FILE = "<intrinsics>"
_TOPK = """
op {name} @ 1.0 "The k largest of the last axis in order, {order}ties by the smaller index." {{
  dims batch..., N, K
  where 0 <= K, K <= N
  type T in {{{types}}}
  input x: T[batch..., N]
  output values: T[batch..., K], indices: i64[batch..., K]
  def {{
    before[batch..., j] = sum.i32[l: N | {larger} or ({equal} and l < j)](1)
    indices[batch..., t] = argmax[j: N](if before[batch..., j] == t then 1 else 0)
    values[batch..., t] = x[batch..., indices[batch..., t]]
  }}
}}
"""
_OWN, _OTHER = "x[batch..., j]", "x[batch..., l]"
_TEXT = 'opwright "0.1"\n' + _TOPK.format(
    name="topk",
    order="NaN first, ",
    types="f32, f64, f16, bf16, f8e4m3, f8e5m2, f8e4m3fnuz, f8e5m2fnuz, f4e2m1",
    larger=f"({_OTHER} > {_OWN} or (isnan({_OTHER}) and not isnan({_OWN})))",
    equal=f"({_OTHER} == {_OWN} or (isnan({_OTHER}) and isnan({_OWN})))",
) + _TOPK.format(
    name="topk_integers",
    order="",
    types="i64, i32, i16, i8, i4, u64, u32, u16, u8, u4",
    larger=f"{_OTHER} > {_OWN}",
    equal=f"{_OTHER} == {_OWN}",
)  # fmt: skip


def declare(scope: Scope, library: Library) -> None:
    """Make the operators known; a spec's own names hide them."""
    from opwright.compiler.library import Key

    if _FILE not in library.modules:
        library.add(parse(_TEXT, _FILE), _TEXT)
    for name in INTRINSICS:
        scope.names[name] = OperatorName(name, Key(_FILE, name))


def is_intrinsic(op: OperatorName) -> bool:
    return getattr(op.key, "filename", None) == _FILE


def variant(op: OperatorName, kind: str | None) -> OperatorName:
    """The definition for elements of this kind."""
    from opwright.compiler.library import Key

    return OperatorName(op.name, Key(_FILE, f"{op.name}_integers")) if kind == "int" else op


def call_form(node: ast.Call) -> ast.Call:
    """`topk(x, k)` with its count as the size that it is."""
    args: tuple[ast.Expr, ...] = node.args
    kwargs: tuple[ast.NamedArg, ...] = node.kwargs
    if len(args) == 2:
        count = args[1]
        args, kwargs = args[:1], (*kwargs, ast.NamedArg("K", count, span=count.span))
    kwargs = tuple(replace(k, name="K") if k.name == "k" else k for k in kwargs)
    return replace(node, args=args, kwargs=kwargs)


def streams(op: ast.Op) -> Mapping[Span, int]:
    """The number of every random call in the order of the text."""
    calls = [n for i in op.items for n in ast.walk(i) if isinstance(n, ast.Call)]
    spans = sorted({c.span for c in calls if c.func in RANDOM}, key=lambda s: s.start)
    return {s: k for k, s in enumerate(spans)}
