"""Kernels taken out of a project's file: what they use comes along, and nothing is executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.backends.triton.policy import check_policy
from opwright.backends.triton.signature import signature
from opwright.backends.triton.slicing import cut, kernels_of
from opwright.ir.launch import ImportRefusal

OPS = """\
import torch
import triton
import triton.language as tl

from project.tools import lang as pl
from project.tools.numbers import HALF, squared
from .tuning import tuned

if hasattr(tl, "something"):
    from triton.language.extra.nowhere import tanh
else:
    from triton.language.extra.libdevice import tanh

if hasattr(tl, "something"):
    root = tl.extra.nowhere.libdevice.sqrt
else:
    from triton.language.extra import libdevice

    root = libdevice.sqrt

LIMIT: int = 64
TABLE = {torch.float32: tl.float32}
WIDTH = torch.cuda.get_device_properties(0).warp_size


@triton.jit
def clamp(x: tl.tensor, top) -> tl.tensor:
    return tl.minimum(x, top)


@tuned("scale")
@triton.autotune(configs=[triton.Config({"BLOCK": 256}, num_warps=4)], key=["n"])
@triton.jit(do_not_specialize=["n"])
def scale(
    x_ptr,
    y_ptr,
    n: int,
    factor: float,
    BLOCK: tl.constexpr,
):
    pid = pl.program_id(0)
    offs = pid * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask, other=0.0)
    x = clamp(squared(root(tanh(x))) * HALF * factor, LIMIT)
    tl.store(y_ptr + offs, x, mask=mask)


@triton.jit
def warps(y_ptr):
    tl.store(y_ptr + tl.arange(0, 32), WIDTH)


def launch(x):
    raise SystemExit("the module was executed")


raise SystemExit("the module was executed")
"""
LANG = """\
import triton
import triton.language as tl


@triton.jit
def program_id(axis: int):
    return tl.program_id(axis).to(tl.int64)
"""
NUMBERS = """\
import triton
import triton.language as language

HALF = 0.5


@triton.jit
def squared(x):
    return language.math.abs(x) * x
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "src" / "project"
    (package / "tools").mkdir(parents=True)
    for folder in (package, package / "tools"):
        (folder / "__init__.py").write_text("")
    (package / "ops.py").write_text(OPS)
    (package / "tools" / "lang.py").write_text(LANG)
    (package / "tools" / "numbers.py").write_text(NUMBERS)
    return package / "ops.py"


def test_a_kernel_comes_with_what_it_uses(project: Path) -> None:
    found = cut(project, "scale")
    check_policy(found.source, "kernel.py")
    text = found.source
    assert "torch" not in text and "SystemExit" not in text and "tuned" not in text
    assert "from triton.language.extra.libdevice import tanh" in text
    assert "def clamp" in text and "def squared" in text and "def program_id" in text
    assert "pid = program_id(0)" in text
    assert "root = libdevice.sqrt" in text and "nowhere" not in text
    assert "LIMIT = tl.constexpr(64)" in text and "HALF = tl.constexpr(0.5)" in text
    assert "import triton.language as language" in text
    assert found.constants == {"BLOCK": "256"}
    assert any("tanh" in n and "line 12" in n for n in found.notes)


def test_lines_keep_their_numbers(project: Path) -> None:
    before, after = OPS.splitlines(), cut(project, "scale").source.splitlines()
    for n, line in enumerate(before):
        if "tl.load(x_ptr" in line or "tl.store(y_ptr + offs" in line or "def clamp" in line:
            assert after[n].split("(")[0] == line.split("(")[0]


def test_a_computed_constant_has_to_be_given(project: Path) -> None:
    with pytest.raises(ImportRefusal, match=r"WIDTH is computed.*--const WIDTH=VALUE"):
        cut(project, "warps")
    assert "WIDTH = tl.constexpr(32)" in cut(project, "warps", {"WIDTH": "32"}).source
    library = "'triton.language.extra.libdevice'"
    assert "libdevice as WIDTH" in cut(project, "warps", {"WIDTH": library}).source
    with pytest.raises(ImportRefusal, match="nothing here reads it"):
        cut(project, "scale", {"WIDTH": "32"})


def test_a_kernel_is_named_where_there_are_several(project: Path) -> None:
    assert kernels_of(project) == ["clamp", "scale", "warps"]
    with pytest.raises(ImportRefusal, match="kernels here: scale, warps"):
        cut(project, None)
    with pytest.raises(ImportRefusal, match=r"no function launch under triton\.jit"):
        cut(project, "launch")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("    tl.store(p, other(1))", "other is not defined"),
        ("    tl.store(p, host(1))", "host is no function under triton.jit"),
        ("    tl.store(p, foreign(1))", "foreign comes from elsewhere, which is not in this"),
        ("    tl.store(p, torch.pi)", "the kernel uses the module torch"),
    ],
)
def test_what_a_kernel_cannot_have_is_named(tmp_path: Path, body: str, why: str) -> None:
    head = (
        "import torch\nimport triton\nimport triton.language as tl\nfrom elsewhere import foreign\n"
    )
    host = "\ndef host(x):\n    return x\n\n@triton.jit\ndef kernel(p):\n"
    path = tmp_path / "ops.py"
    path.write_text(head + host + body + "\n")
    with pytest.raises(ImportRefusal, match=why):
        cut(path, "kernel")


def test_pointers_are_what_addresses_are_made_of(project: Path) -> None:
    found = signature(cut(project, "scale").source, "scale")
    kinds = {p.name: (p.kind, p.reads, p.writes) for p in found.parameters}
    assert kinds == {
        "x_ptr": ("pointer", True, False),
        "y_ptr": ("pointer", False, True),
        "n": ("scalar", False, False),
        "factor": ("scalar", False, False),
        "BLOCK": ("constant", False, False),
    }
    assert found.axes == 1
