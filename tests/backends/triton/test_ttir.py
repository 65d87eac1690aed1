"""TTIR text becomes a tree: structure, types, attributes and lines."""

from __future__ import annotations

import time

import pytest

from opwright.backends.triton.ttir import Type, number, parse, parse_type
from opwright.ir.launch import ImportRefusal

TEXT = """
#loc = loc("kernel.py":5:0)
#loc1 = loc(unknown)
#loc2 = loc("/lib/standard.py":9:1)
#loc3 = loc("kernel.py":7:10)
#loc4 = loc("acc"(#loc3))
#loc5 = loc(callsite(#loc2 at #loc4))
#loc6 = loc(fused[#loc2, #loc3])
module {
  tt.func public @k(%x: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("x"(#loc)), %n: i32 loc("n"(#loc))) attributes {noinline = false} {
    %cst = arith.constant dense<0xFF800000> : tensor<8xf32> loc(#loc1)
    %c0 = arith.constant 0 : i32 loc(#loc1)
    %true = arith.constant true loc(#loc1)
    %r = tt.make_range {end = 8 : i32, start = 0 : i32} : tensor<8xi32> loc(#loc4)
    %acc:2 = scf.for %i = %c0 to %n step %c0 iter_args(%a = %cst, %b = %c0) -> (tensor<8xf32>, i32)  : i32 {
      %s = arith.cmpi slt, %i, %n : i32 loc(#loc5)
      tt.assert %s, "a : b (c" : i1 loc(#loc5)
      scf.yield %a, %i : tensor<8xf32>, i32 loc(#loc3)
    } {tt.num_stages = 2 : i32} loc(#loc3)
    %m = "tt.reduce"(%acc#0) <{axis = 0 : i32}> ({
    ^bb0(%s: f32 loc(callsite(#loc1 at #loc4)), %t: f32 loc(unknown)):
      %u = arith.addf %s, %t : f32 loc(#loc6)
      tt.reduce.return %u : f32 loc(#loc5)
    }) : (tensor<8xf32>) -> f32 loc(#loc5)
    %d = tt.dot %acc#0, %acc#0, %cst, inputPrecision = tf32 : tensor<8x8xf16> * tensor<8x8xf16> -> tensor<8x8xf32> loc(#loc3)
    %p = "made.up"(%x, %m) {kind = #tt.thing<a = 1>, list = array<i32: 1, 0>} : (!tt.ptr<f32>, f32) -> tensor<8x!tt.ptr<f32>> loc(#loc3)
    %h = arith.muli %r, %r {tt.contiguity = dense<8> : tensor<1xi32>} : tensor<8xi32> loc(#loc3)
    %e = scf.if %true -> (f32) {
      scf.yield %m : f32 loc(#loc3)
    } else {
      %s = arith.negf %m : f32 loc(#loc3)
      scf.yield %s : f32 loc(#loc3)
    } loc(#loc3)
    cf.cond_br %true, ^bb1, ^bb2 loc(#loc3)
  ^bb1:  // pred: ^bb0
    tt.return loc(#loc)
  ^bb2:  // pred: ^bb0
    tt.store %x, %m : !tt.ptr<f32> loc(#loc3)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""  # noqa: E501


def test_structure_types_and_lines() -> None:
    (f,) = parse(TEXT, "kernel.py")
    assert (f.name, f.line) == ("k", 5)
    assert f.params == [("%x", Type("f32", (), True)), ("%n", Type("i32"))]
    assert [b.label for b in f.blocks] == ["", "^bb1", "^bb2"]
    ops = {op.results[0] if op.results else op.name: op for op in f.blocks[0].ops}
    assert ops["%true"].types() == [Type("i1")]
    assert number(ops["%r"].attrs["end"]) == 8 and ops["%r"].line == 7
    loop = ops["%acc#0"]
    assert loop.operands == ["%c0", "%n", "%c0", "%cst", "%c0"]
    assert [n for n, _ in loop.regions[0][0].args] == ["%i", "%a", "%b"]
    assert loop.types() == [Type("f32", (8,)), Type("i32")]
    compare, check, _ = loop.regions[0][0].ops
    assert (compare.words, compare.types()) == (["slt"], [Type("i1")])
    assert compare.line == 7  # of the call, not of the library
    assert check.ins == [Type("i1")]
    fold = ops["%m"]
    assert number(fold.attrs["axis"]) == 0 and fold.types() == [Type("f32")]
    names = [n for n, _ in fold.regions[0][0].args]
    assert len({*names, "%s"}) == 3  # %s is taken, the region's own has a name of its own
    assert fold.regions[0][0].ops[0].operands == names
    assert ops["%d"].words == ["inputPrecision", "tf32"]
    assert ops["%d"].ins == [Type("f16", (8, 8))] * 2
    made = ops["%p"]
    assert made.name == "made.up" and made.operands == ["%x", "%m"]
    assert made.attrs["list"] == "array<i32: 1, 0>"
    assert made.types() == [Type("f32", (8,), True)]
    assert ops["%h"].attrs["tt.contiguity"] == "dense<8> : tensor<1xi32>"
    assert [len(r[0].ops) for r in ops["%e"].regions] == [1, 2]


def test_types() -> None:
    assert parse_type("tensor<64x32x!tt.ptr<f16>>") == Type("f16", (64, 32), True)
    assert parse_type("tensor<64xi1>") == Type("i1", (64,))
    assert parse_type("tensor<4xf32, #blocked>") == Type("f32", (4,))
    assert parse_type("!tt.ptr<f8E4M3FN, 1>") == Type("f8E4M3FN", (), True)


@pytest.mark.parametrize("text", ["", "module {\n", "tt.func public @k() {\n  %a = arith.negf\n"])
def test_text_that_is_no_module(text: str) -> None:
    with pytest.raises(ImportRefusal):
        parse(text, "kernel.py")


def test_reading_is_linear() -> None:
    def module(n: int) -> str:
        rows = "\n".join(f"    %v{k} = arith.addi %n, %n : i32 loc(#loc)" for k in range(n))
        return f'#loc = loc("k.py":1:1)\ntt.func @k(%n: i32) {{\n{rows}\n    tt.return\n}}\n'

    def seconds(n: int) -> float:
        text = module(n)
        start = time.perf_counter()
        (f,) = parse(text, "k.py")
        assert len(f.blocks[0].ops) == n + 1
        return time.perf_counter() - start

    seconds(100)
    assert seconds(20_000) < 40 * max(seconds(2_000), 0.02)
