"""Every structural mistake has its message."""

from __future__ import annotations

import dataclasses

import pytest
import tile_kernels
from tile_kernels import buf

from opwright.ir.dtypes import BOOL, F32, F64, I64
from opwright.ir.expr import TRUE, call, const, leaf, lift, pid, size, var
from opwright.ir.tile import (
    Axis,
    Buffer,
    Builder,
    Def,
    For,
    If,
    Kernel,
    Load,
    Placement,
    Store,
    TileProgram,
    Value,
)
from opwright.ir.tilecheck import TileError, check_program

n, c, d = size("n"), Axis("c", 8), Axis("d", 4)
X, Y, S = buf("X", "in", n), buf("Y", "out", n), buf("S", "program", 8)
ONE = Value("one", "full", (), (), F32, 1.0)
TILE = Value("tile", "full", (), (c,), F32, 0.0)


def program(*body, buffers=(X, Y, S), grid=(n,), place=None, facts=()):
    place = place or Placement({"c": ("vec", 8), "d": "unroll"})
    return TileProgram("k", (Kernel("k", grid, buffers, body),), (place,), facts)


def loop(body=(), lo=0, hi=n, step=1, inits=(), params=(), yields=(), results=(), name="i"):
    return For(name, lift(lo), lift(hi), step, inits, params, body, yields, results)


def load(index, mask=TRUE, other=None, axes=(c,), b=X, name="x"):
    return Def(Value(name, "load", (), axes, b.dtype, Load(b, index, mask, other)))


def value(op, *args, axes=(), dtype=F32, attr=None, name="v"):
    return Def(Value(name, op, args, axes, dtype, attr))


STORE = Store("st", Y, (pid(0),), ONE, TRUE)
PARAM, RESULT = Value("p", "param", (), (), F32), Value("r", "result", (), (), F32)
AT = Value("at", "index", (), (c,), I64, c.lane)

BAD = {
    "is used where it is not defined": program(STORE),
    "the name one is used twice": program(Def(ONE), value("full", attr=1.0, name="one")),
    "cannot be stored to": program(Def(ONE), Store("st", X, (pid(0),), ONE)),
    "the index has 2": program(Def(ONE), Store("st", Y, (pid(0), pid(0)), ONE)),
    "would write one element": program(Def(TILE), Store("st", Y, (pid(0),), TILE)),
    "holds f32": program(
        Def(w := Value("w", "full", (), (), F64, 1.0)), Store("st", Y, (pid(0),), w)
    ),
    "is not declared": program(Def(ONE), Store("st", buf("Q", "out", n), (pid(0),), ONE)),
    "is int, not bool": program(load((c.lane,), mask=c.lane)),
    "p1 is not a dimension": program(load((pid(1),), axes=())),
    "no loop around here": program(load((var("i"),), axes=())),
    "its operands give c": program(load((c.lane,), axes=())),
    "step 0": program(loop(step=0)),
    "step -1": program(loop(step=-1)),
    "differs between lanes": program(If(c.lane < n, (), ())),
    "differ in number": program(Def(ONE), loop(inits=(ONE,))),
    "does not have the form": program(
        Def(ONE), loop(inits=(ONE,), params=(TILE,), yields=(ONE,), results=(RESULT,))
    ),
    "the next state": program(
        Def(ONE), Def(TILE), loop(inits=(ONE,), params=(PARAM,), yields=(TILE,), results=(RESULT,))
    ),
    "unknown operation": program(value("magic")),
    "add takes 2": program(Def(ONE), value("add", ONE)),
    "operands are f32 and f64": program(
        Def(ONE), Def(w := Value("w", "full", (), (), F64, 1.0)), value("add", ONE, w)
    ),
    "exp needs floats": program(Def(AT), value("exp", AT, axes=(c,), dtype=I64)),
    "does not give": program(Def(ONE), value("lt", ONE, ONE, dtype=F32)),
    "cannot reduce": program(Def(TILE), value("reduce", TILE, attr=("any", c))),
    "has no axis": program(Def(TILE), value("reduce", TILE, attr=("sum", d))),
    "unknown reduction": program(Def(TILE), value("reduce", TILE, attr=("mean", c))),
    "no cast": program(Def(ONE), value("cast", ONE, dtype=I64)),
    "does not fit i64": program(value("full", attr=2**63, dtype=I64)),
    "is not a number of": program(value("full", attr=True)),
    "two extents": program(Def(TILE), value("full", axes=(Axis("c", 4),), attr=0.0)),
    "no lanes": program(value("full", axes=(Axis("c", 0),), attr=0.0)),
    "an axis occurs twice": program(value("full", axes=(c, c), attr=0.0)),
    "not a name": program(value("full", attr=0.0, name="a__b")),
    "used as bool": program(Def(ONE), load((pid(0),), mask=leaf("value", ONE, "bool"), axes=())),
    "one to three dimensions": program(grid=(n, n, n, n)),
    "the grid uses the pid": program(grid=(pid(0),)),
    "unknown role": program(buffers=(buf("Q", "magic", n),)),
    "needs scratch of the plan": program(buffers=(buf("Q", "out", n, init="zero"),)),
    "one stride per axis": program(buffers=(buf("Q", "out", n, strides=()),)),
    "two buffers share": program(buffers=(X, X)),
    "the fact": program(facts=(n + 1,)),
    "is not placed": program(Def(TILE), place=Placement({"d": "unroll"})),
    "is placed as loop": program(place=Placement({"c": "loop"})),
    "no multiple of 3": program(Def(TILE), place=Placement({"c": ("vec", 3)})),
    "two vec axes": program(
        value("full", axes=(c, d), attr=0.0), place=Placement({"c": ("vec", 8), "d": ("vec", 4)})
    ),
    "the pin hint q names no value": program(place=Placement(pin=("q",))),
    "the stream hint q names no store": program(place=Placement(stream=("q",))),
    "the deep hint": program(place=Placement(deep=("q",))),
    "the unroll hint": program(place=Placement(unroll={"q": 2})),
    "the unroll factor": program(loop(), place=Placement(unroll={"i": 0})),
    "names the loop q": program(
        load((c.lane,)), place=Placement({"c": "unroll"}, prefetch={"x": ("q", 1)})
    ),
    "at least one iteration": program(
        load((c.lane,)), loop(), place=Placement({"c": "unroll"}, prefetch={"x": ("i", 0)})
    ),
    "static or dynamic": program(place=Placement(threads="magic")),
    "names an unknown buffer": program(place=Placement(home={"Q": ("Y", ())})),
    "may live in an output only": program(place=Placement(home={"S": ("X", ())})),
    "types or ranks differ": program(place=Placement(home={"S": ("Y", (pid(0),))})),
}


@pytest.mark.parametrize("reason", BAD)
def test_reason(reason):
    with pytest.raises(TileError) as e:
        check_program(BAD[reason])
    assert reason in e.value.reason


def test_where_it_is():
    with pytest.raises(TileError) as e:
        check_program(BAD["cannot be stored to"])
    assert (e.value.statement, e.value.kernel) == ("st", "k")


def test_a_value_of_a_branch_or_loop_stays_inside():
    inner = Def(ONE)
    for outer in (If(call("lt", pid(0), 1), (inner,), ()), loop((inner,))):
        with pytest.raises(TileError, match="not defined"):
            check_program(program(outer, STORE))


def test_launches_agree_about_buffers():
    a, b = program(), program(buffers=(dataclasses.replace(X, dtype=F64),))
    with pytest.raises(TileError, match="differs between launches"):
        k = dataclasses.replace(b.kernels[0], name="other")
        check_program(TileProgram("k", (*a.kernels, k), (Placement(),) * 2))


def test_a_program_without_launch():
    with pytest.raises(TileError, match="no kernel"):
        check_program(TileProgram("k", (), ()))
    with pytest.raises(TileError, match="one placement"):
        check_program(TileProgram("k", (Kernel("k", (n,), (), ()),), ()))


@pytest.mark.parametrize("name", tile_kernels.SMALL)
def test_good_programs_pass(name):
    check_program(tile_kernels.SMALL[name]())


def test_scalar_indices_and_casts_pass():
    k = Builder("k", (n,))
    ids = Buffer("I", "in", I64, (n,))
    at = k.load(ids, pid(0))
    flag = k.ew("lt", at, 3)
    assert flag.dtype is BOOL
    k.store(Y, leaf("value", at), k.index(n, F32), mask=leaf("value", flag, "bool"))
    k.cast(k.index(n), F32)
    k.loop("i", 0, leaf("value", at), 1, [], lambda i: None)
    k.branch(leaf("value", flag, "bool"), lambda: None)
    check_program(TileProgram("k", (k.kernel(),), (Placement(),), (call("eq", n % const(8), 0),)))
