"""The front end runs only what the policy allows, in a process of its own, for a pinned
signature."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from opwright.backends.triton import frontend
from opwright.backends.triton.frontend import signature_of, to_ttir, to_ttir_many
from opwright.backends.triton.policy import check_policy
from opwright.backends.triton.ttir import parse
from opwright.ir.dtypes import BF16, BOOL, F32, I32, I64
from opwright.ir.expr import const, param, size
from opwright.ir.launch import BoundLaunch, ImportRefusal, Scalar
from opwright.ir.tile import Buffer

HEAD = "import triton\nimport triton.language as tl\n"
COPY = (
    HEAD
    + """

@triton.jit
def copy(x, y, n, BLOCK: tl.constexpr = 16):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n), mask=i < n)
"""
)
N = size("N")
X, Y = Buffer("x", "in", F32, (N,)), Buffer("y", "out", BF16, (N,))
COUNT = Scalar(N, I32)


def launch(*args: Buffer | Scalar, kernel: str = "copy", **constants: object) -> BoundLaunch:
    return BoundLaunch(kernel, (const(1),), args, constants)


def test_types_of_arguments_come_from_the_launch() -> None:
    args = (X, Y, COUNT, Scalar(N, I64), Scalar(param("a", "real"), F32), Scalar(N < 3, BOOL))
    assert signature_of(launch(*args)) == ["*fp32", "*bf16", "i32", "i64", "fp32", "i1"]
    text = to_ttir(COPY, "kernel.py", launch(X, Y, Scalar(const(1), I64)), "sm_90")
    (f,) = parse(text, "kernel.py")
    assert [(n, t.element, t.pointer) for n, t in f.params] == [
        ("%x", "f32", True),
        ("%y", "bf16", True),
        ("%n", "i64", False),  # also where it is 1: nothing is specialised
    ]
    assert "tt.divisibility" not in text


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_every_target_gives_ttir_with_lines(target: str) -> None:
    (f,) = parse(to_ttir(COPY, "kernel.py", launch(X, Y, COUNT), target), "kernel.py")
    assert {op.line for op in f.blocks[0].ops if op.name in ("tt.load", "tt.store")} == {8}


def test_several_kernels_come_from_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = frontend._ask
    monkeypatch.setattr(frontend, "_ask", lambda *a: asked.append(a) or ask(*a))
    monkeypatch.setattr(frontend, "_DONE", {})
    launches = [launch(X, Y, COUNT, BLOCK=b) for b in (32, 64, 32)]
    texts = to_ttir_many(COPY, "kernel.py", launches, "sm_90")
    assert texts[0] == texts[2] != texts[1]
    assert to_ttir_many(COPY, "kernel.py", launches, "sm_90") == texts
    assert [len(a[2]) for a in asked] == [2]


@pytest.mark.parametrize(
    "what, args, constants",
    [
        ("no argument n", (X, Y), {}),
        ("1 arguments too many", (X, Y, COUNT, COUNT), {}),
        ("no parameter SIZE", (X, Y, COUNT), {"SIZE": 3}),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(what: str, args: tuple, constants: dict) -> None:
    with pytest.raises(ImportRefusal, match=what):
        to_ttir(COPY, "kernel.py", launch(*args, **constants), "sm_90")


@pytest.mark.parametrize(
    "old, new, line, what",
    [
        ("tl.load(x", "tl.lood(x", 8, "lood"),
        ("BLOCK + tl", "BLOCK + nothing + tl", 7, "nothing is not defined"),
        ("i < n)", "i < n[0])", 8, ""),
    ],
)
def test_errors_have_the_line_of_the_source(old: str, new: str, line: int, what: str) -> None:
    source = COPY.replace(old, new, 1)
    with pytest.raises(ImportRefusal, match=what) as e:
        to_ttir(source, "kernel.py", launch(X, Y, COUNT), "sm_90")
    assert (e.value.file, e.value.line) == ("kernel.py", line)


def test_a_front_end_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "WALL", 2.0)
    slow = COPY.replace(
        "    i = ", "    for z in tl.static_range(1000000000):\n        n += z\n    i = "
    )
    with pytest.raises(ImportRefusal, match=r"no TTIR after|ended with"):
        to_ttir(slow, "kernel.py", launch(X, Y, COUNT), "sm_90")


@pytest.mark.parametrize(
    "text, line",
    [
        ("import os\n", 1),
        ("import triton.runtime\n", 1),
        ("from triton.language import core\n", 1),
        ("from triton.language import *\n", 1),
        ("from . import x\n", 1),
        ("import triton\nprint(3)\n", 2),
        ("x = open('a')\n", 1),
        ("x = [i for i in range(3)]\n", 1),
        ("x = ().__class__\n", 1),
        ("def f(x):\n    return x\n", 1),
        ("class A:\n    pass\n", 1),
        ("if True:\n    x = 1\n", 1),
        (HEAD + "@triton.jit\ndef f(x):\n    tl.core.os.system('a')\n", 5),
        (HEAD + "@triton.jit\ndef f(x):\n    x.__class__\n", 5),
        (HEAD + "@triton.jit\ndef f(x):\n    import os\n", 5),
        (HEAD + "@triton.jit\ndef f(x):\n    eval('1')\n", 5),
        (HEAD + "@triton.jit\ndef f(x):\n    tl = x\n", 4),
        (HEAD + "@triton.jit\ndef f(x, y=open('a')):\n    pass\n", 4),
        (HEAD + "@triton.jit\ndef f(x, y: open('a')):\n    pass\n", 4),
        (HEAD + "@triton.runtime.driver.active.x\ndef f(x):\n    pass\n", 3),
        (HEAD + "@triton.jit\ndef f(x):\n    y = lambda: 3\n", 5),
        (HEAD + "@triton.jit\ndef f(x):\n    triton.compile(x)\n", 5),
        (HEAD + "x = (\n", 3),
    ],
)
def test_the_policy_refuses(text: str, line: int) -> None:
    with pytest.raises(ImportRefusal) as e:
        check_policy(text, "kernel.py")
    assert e.value.line == line


@pytest.mark.parametrize(
    "text",
    [
        COPY,
        '"""Kernels."""\nimport math\n' + HEAD + "LOG2E: tl.constexpr = tl.constexpr(1.44)\n",
        HEAD
        + "from triton.language.extra import libdevice\nA = -float('inf')\nB = math.pi\n".replace(
            "math.pi", "3"
        ),
        HEAD
        + "@triton.autotune(configs=[triton.Config({'B': 16}, num_warps=4)], key=['n'])\n"
        + "@triton.jit(do_not_specialize=['n'])\ndef f(x, n, B: tl.constexpr):\n"
        + "    tl.static_assert(B > 2)\n    y = tl.math.exp(tl.load(x)) + min(n, 3)\n"
        + "    tl.store(x, y.to(x.dtype.element_ty))\n",
    ],
)
def test_the_policy_allows(text: str) -> None:
    check_policy(text, "kernel.py")
