"""Gate G5 of loops that keep an extreme and its place: what is proved, and the near misses that are
not."""

from __future__ import annotations

import functools

import pytest
from support.schedules import plain
from support.shipped import SPECS

from opwright.compiler import block_spaces, spaces
from opwright.compiler.elaborate import load_spec
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.tile_function import tile_function


@functools.cache
def operator(name: str) -> Operator:
    (path,) = SPECS.rglob(f"{name}.op")
    return load_spec(path).operator()


@functools.cache
def program(name: str, space: str) -> TileProgram:
    op = operator(name)
    found = spaces.spaces(op, 16) if space != "loop" else block_spaces.spaces(op)
    (one,) = [s for s in found if s.name == space]
    return one.instantiate(plain(one))


def statuses(p: TileProgram, op: Operator) -> set[str]:
    return {r.status for r in tile_function(p, op)}


PROVED = [
    ("argmax", "fallback"),
    ("argmin", "row"),
    ("argmax", "placed_row"),
    ("argmax", "column"),
    ("argmax", "loop"),
    ("column_max", "row"),
    ("topk", "row_row"),
    ("gumbel_max", "row"),
]


@pytest.mark.parametrize(("name", "space"), PROVED)
def test_places_of_extremes_are_the_spec_for_all_sizes(name: str, space: str) -> None:
    assert statuses(program(name, space), operator(name)) == {"PROVED"}


WRONG = [
    ("argmax", "row", "lt t_c x", "le t_c x"),  # the last of several
    ("argmax", "row", "lt t_37_c x_1", "le t_37_c x_1"),
    ("argmax", "row", "lt t_c x", "lt x t_c"),
    ("argmax", "row", "reduce min t_31", "reduce max t_31"),
    ("argmax", "row", "reduce max t_r", "reduce min t_r"),
    ("argmax", "row", "eq t_r t_23", "le t_r t_23"),
    ("argmax", "row", "lt t_23 t_63", "le t_23 t_63"),
    ("argmax", "row", "lt t_23 t_63", "lt t_63 t_23"),
    ("argmax", "row", "and t_85 t_87", "or t_85 t_87"),
    ("argmax", "row", "select t_88 t_76 t_36", "select t_88 t_36 t_76"),
    ("argmax", "row", "t_19: i64[c64] = index n0 + c64", "t_19: i64[c64] = index n0 + c64 + 1"),
    ("argmax", "row", "t_19: i64[c64] = index n0 + c64", "t_19: i64[c64] = index c64 - n0"),
    ("argmax", "row", "t_19: i64[c64] = index n0 + c64", "t_19: i64[c64] = index c64"),
    ("argmax", "row", "t_58: bool[z8] = index n0_1 + z8 < N",
     "t_58: bool[z8] = index n0_1 + z8 < N - 1"),
    ("argmax", "row", "t_58: bool[z8] = index n0_1 + z8 < N",
     "t_58: bool[z8] = index n0_1 + z8 < N + 1"),
    ("argmax", "row", "t: f32[c64] = full -inf", "t: f32[c64] = full 0.0"),
    ("argmax", "row", "next t_11, t_20", "next t_11, t_19"),
    ("argmax", "row", "next t_11, t_20", "next x, t_20"),
    ("argmax", "fallback", "full -inf", "full 0.0"),
    ("argmax", "loop", "lt acc_c t_2", "le acc_c t_2"),
    ("argmax", "loop", "t_1: f32 = full -inf", "t_1: f32 = full 0.0"),
    ("argmax", "loop", "acc: f32[n] = full -inf", "acc: f32[n] = full 0.0"),
    ("argmax", "loop", "t_10: i64[n] = index start + n", "t_10: i64[n] = index n"),
    ("argmax", "loop", "select t_16 first_r t_17", "select t_16 t_17 first_r"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "space", "right", "wrong"), WRONG)
def test_faults_in_places_are_not_proved(name: str, space: str, right: str, wrong: str) -> None:
    text = show_program(program(name, space))
    assert right in text
    changed = parse_program(text.replace(right, wrong))
    assert statuses(changed, operator(name)) == {"UNKNOWN"}
