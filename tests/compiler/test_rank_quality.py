"""When predicted ranks may be used, and the tables and counts that predictions rest on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest

from opwright.backends.triton.disassembly import parse, unit_of
from opwright.compiler.compiled_facts import trips
from opwright.compiler.devices import DEVICES
from opwright.compiler.rank_quality import Measured, measured, quality, regret, spearman
from opwright.ir.dtypes import F32
from opwright.ir.expr import const, size
from opwright.ir.tile import Buffer, Builder

TEXT = """
\t\tFunction : first
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/                   FFMA R4, R4, R5, R6 ;
        /*0030*/              @!P0 BRA 0x10 ;
        /*0040*/                   MUFU.EX2 R4, R4 ;
        /*0050*/                   EXIT ;
        /*0060*/                   BRA 0x60;
        /*0070*/                   NOP;
\t\tFunction : second
        /*0000*/                   HMMA.16816.F32 R4, R4, R8, R4 ;
        /*0010*/                   EXIT ;
"""


def rows(noise: float, count: int = 100) -> list[Measured]:
    rng = Random(0)
    out = []
    for _ in range(count):
        t = rng.uniform(1.0, 4.0)
        out.append(Measured("t", t * math.exp(noise * rng.gauss(0, 1)), t, (t * t, 1 / t)))
    return out


def test_rank_correlation_knows_ties_and_constants() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2], [1, 1, 2]) == pytest.approx(1)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert regret([3, 1, 2, 4, 5], [1.0, 2.0, 4.0, 8.0, 9.0]) == 2.0


def test_good_predictions_are_usable_and_say_how_good() -> None:
    found = quality("t", rows(0.05))
    assert found.usable and found.static > 0.9 and found.near <= 1.2
    assert "rank correlation" in found.text


@pytest.mark.parametrize("noise", [3.0, 8.0])
def test_predictions_that_rank_badly_are_not_usable(noise: float) -> None:
    found = quality("t", rows(noise))
    assert not found.usable and found.text.startswith("not usable: a rank correlation below")


def test_a_good_rank_that_misses_the_best_is_not_usable() -> None:
    made = rows(0.0)
    made.append(Measured("t", 100.0, 0.2))  # the fastest is predicted to be the slowest
    found = quality("t", [Measured(r.task, r.predicted, r.seconds) for r in made])
    assert found.static > 0.8 and not found.usable and "top fifth" in found.why


def test_without_measurements_nothing_is_usable() -> None:
    assert quality("t", []).text == "not usable: nothing was measured"
    assert "16 are needed" in quality("t", rows(0.0, 8)).text


def test_measurements_are_read_by_target(tmp_path: Path) -> None:
    row = {"task": "a", "predicted_s": 1e-3, "seconds": 2e-3, "features": [1]}
    for device, target in (("one", "sm_90"), ("two", "sm_80")):
        (tmp_path / device).mkdir()
        (tmp_path / device / "model.json").write_text(json.dumps({"target": target, "rows": [row]}))
    assert measured("sm_90", tmp_path) == {"a": [Measured("a", 1e-3, 2e-3, (1.0,))]}
    assert measured("gfx942", tmp_path) == {}


def test_every_number_of_a_device_has_a_source_and_a_status() -> None:
    for name, device in DEVICES.items():
        assert device.numbers, name
        for what, n in device.numbers.items():
            assert n.source and n.status in ("spec", "reported", "assumed"), (name, what)
    assert DEVICES["sm_90"].products["bf16"] == 989.0 and DEVICES["gfx942"].warp == 64


def test_instructions_are_counted_by_unit_and_depth() -> None:
    found = parse(TEXT)
    assert found["second"].units() == {"tensor": 1, "control": 1}
    first = found["first"]
    assert first.units() == {"integer": 1, "memory": 1, "float": 1, "control": 3, "special": 1}
    assert first.counts["memory", 1] == 1 and first.counts["special", 0] == 1
    assert first.executed([10.0])["memory"] == 10.0
    assert first.executed([])["memory"] == 1.0
    assert [unit_of(n) for n in ("STL", "LDGSTS", "WARPGROUP", "ISETP")] == [
        "local", "shared", "tensor", "integer"
    ]  # fmt: skip


def test_trips_are_by_depth_in_a_program_at_the_middle() -> None:
    b = Builder("k", (size("M"),))
    x = Buffer("x", "out", F32, (size("N"),))

    def inner(i: object) -> None:
        b.loop("j", 0, const(4), 2, (), lambda j: b.store(x, j, b.full(0.0)))

    b.loop("i", 0, size("N"), 8, (), inner)
    assert trips(b.kernel(), {"M": 4, "N": 64}) == [8.0, 2.0]
