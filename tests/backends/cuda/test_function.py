"""G5 of CUDA kernels: trees, butterflies and shares in memory are sums over lanes, and nothing that
is almost one is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cuda_judge import judge
from support.cuda_kernels import CASES, MUTANTS, Mutant

pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")

PROVED = ("warp_softmax", "block_softmax", "tree_sum", "two_launches", "block_norm",
          "tiled_matmul", "scan_block", "half_rows", "pool", "atomic_total", "matvec")  # fmt: skip
# changes of what a kernel computes that leave it safe and determined
WRONG = [m for m in MUTANTS if m.gates == "function"]
SHARE, CLEARED = "if (lane == 0) red[warp] = q", " = warp == 3 ? 0.0f : q"
LOOP = "for (int o = 16; o > 0; o /= 2) {\n    float u"
NEAR = (
    Mutant("tree_sum", "a lane twice", "s[threadIdx.x + o]", "s[threadIdx.x / 2 + o]"),
    Mutant("tree_sum", "a difference", "s[threadIdx.x] += s", "s[threadIdx.x] -= s"),
    Mutant("tree_sum", "doubles every lane", "s[threadIdx.x] = acc", "s[threadIdx.x] = acc + acc"),
    Mutant("tree_sum", "the sum of the second half", "= s[0]", "= s[1]"),
    Mutant("block_norm", "a share for another", "red[2] + red[3]) / n;", "red[2] + red[2]) / n;"),
    Mutant("block_norm", "a distance is missing", "o; o >>= 1) q", "o > 1; o >>= 1) q"),
    Mutant("block_norm", "not every warp's share", SHARE, SHARE[:-4] + CLEARED),
    Mutant("block_softmax", "a warp is left out", "threadIdx.x < WARPS ?", "threadIdx.x < 7 ?"),
    Mutant("block_softmax", "an exchange too short", LOOP, LOOP.replace("16", "8")),
    Mutant(
        "atomic_total", "every element twice", "atomicAdd(&sum, x[i])", "atomicAdd(&sum, 2 * x[i])"
    ),
    Mutant("atomic_total", "begins at 1", "y[0] = 0.0f", "y[0] = 1.0f"),
    Mutant(
        "atomic_total",
        "the first block is left out",
        "if (i < n) atomic",
        "if (i >= 512 && i < n) atomic",
    ),
    Mutant("matvec", "a component for another", "p.z * q.z", "p.z * q.w"),
    Mutant("matvec", "a component twice", "p.w * q.w", "p.z * q.z"),
    Mutant("two_launches", "half of the blocks", "i < blocks", "i < blocks / 2"),
    Mutant("scan_block", "not its own element", "t >= o ?", "t > o ?"),
    Mutant("scan_block", "the one before", "= s[cur][t];\n}", "= s[cur][t > 0 ? t - 1 : 0];\n}"),
)


@pytest.mark.parametrize("name", PROVED)
def test_sums_over_lanes_are_proved(name: str, tmp_path: Path) -> None:
    records = judge(CASES[name], tmp_path).records
    assert {(r.kind, r.status) for r in records if r.kind == "G5"} == {("G5", "PROVED")}, [
        r.reason for r in records if r.kind == "G5"
    ]


@pytest.mark.parametrize("m", [*WRONG[::2], *NEAR], ids=lambda m: f"{m.case}: {m.what}")
def test_wrong_sums_are_not_proved(m: Mutant, tmp_path: Path) -> None:
    records = judge(CASES[m.case], tmp_path, m.source()).records
    kinds = ("G0", "G2", "G3", "G5")
    assert any(r.status != "PROVED" for r in records if r.kind in kinds)
