"""Block programs as CUDA C++: what is printed is read back, proved, and compiled by nvcc."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from opwright.backends.cuda.build import assembly, compile_for, compiler, resources_of
from opwright.backends.cuda.printer import PrintError
from opwright.backends.cuda.text import convert, type_name
from opwright.compiler import block_spaces
from opwright.compiler.candidates import Candidate
from opwright.compiler.cuda_blocks import printed
from opwright.compiler.importing import Static, static_gates
from opwright.compiler.pipeline import compile_spec
from opwright.compiler.stored import stored_form
from opwright.compiler.threads import ROUND, for_threads
from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import pid
from opwright.ir.op import Operator
from opwright.ir.tile import For, TileProgram
from opwright.search.space import parse
from opwright.spec_files import open_spec, pick_operator

LIBRARY = Path(__file__).parents[3] / "specs"
SMALL = {"loop": "loop(rows=1, block=128, even=false, warps=2, stages=2, split=1, aligned=false)"}
SAFE = ("G0", "G1", "G2", "G3")


@cache
def operator(name: str) -> Operator:
    spec = open_spec(LIBRARY / f"{name}.op")
    return stored_form(spec.operator(pick_operator(spec, None), {}))


@cache
def program(name: str, space: int) -> TileProgram:
    """The program of a space's first schedule, with small blocks."""
    found = block_spaces.spaces(operator(name))[space]
    first = parse(SMALL.get(found.name, found.preferred()[0].text))
    return found.instantiate(first)


def candidate(name: str, space: int = 0) -> Candidate:
    return printed(program(name, space), operator(name), "sm_90")


def judged(name: str, space: int = 0) -> Static:
    return static_gates(candidate(name, space), operator(name))


FALLBACKS = [
    "nn/relu", "nn/softmax", "nn/embedding", "nn/swiglu", "reduce/argmax", "reduce/cumsum",
    "reduce/row_any", "reduce/column_sum", "linalg/matmul", "linalg/matmul_4d",
]  # fmt: skip


@pytest.mark.parametrize("name", FALLBACKS)
def test_every_form_of_the_fallback_is_proved_as_it_is_read_back(name: str) -> None:
    found = judged(name)
    weak = [r for r in found.records if r.kind in SAFE and r.status != "PROVED"]
    assert not weak, weak
    assert any(r.kind == "G1" for r in found.records)


def test_the_function_of_a_sum_over_rows_is_proved() -> None:
    assert judged("linalg/matmul").gate("G5") == "PROVED"


def test_threads_of_a_block_share_a_row() -> None:
    found = judged("reduce/row_sum", 1)
    assert found.safe, found.records
    assert "__shfl_xor_sync" in candidate("reduce/row_sum", 1).source


@pytest.mark.parametrize(
    ("old", "new", "gate"),
    [
        ("  __syncthreads();\n", "", "G3"),
        ("threadIdx.x / 32] =", "threadIdx.x / 32 + 1] =", "G2"),
    ],
)
def test_a_wrong_exchange_is_not_proved(old: str, new: str, gate: str) -> None:
    c = candidate("reduce/row_sum", 1)
    assert old in c.source
    head, _, tail = c.source.rpartition(old)
    found = static_gates(Candidate(c.plan, head + new + tail), operator("reduce/row_sum"))
    assert not found.safe
    assert found.gate(gate) != "PROVED"


def test_grids_that_no_counter_holds_go_round() -> None:
    k = for_threads(program("linalg/matmul_4d", 0)).kernels[0]
    (loop,) = k.body
    assert isinstance(loop, For)
    assert (loop.lo, loop.step) == (pid(0), ROUND)
    one = program("nn/relu", 0)
    assert for_threads(one).kernels == one.kernels


@pytest.mark.skipif(not compiler(), reason="no nvcc")
def test_nvcc_reports_what_a_kernel_takes() -> None:
    c = candidate("reduce/row_sum", 1)
    made = compile_for(c.source, "sm_90")
    assert made.code[:4] == b"\x7fELF"
    (found,) = made.resources.values()
    assert found["registers"] > 0
    assert found["spill_stores"] == found["spill_loads"] == 0
    assert found["shared"] > 0
    assert re.search(r"\.target sm_80", assembly(c.source))


def test_the_report_of_the_assembler_is_read() -> None:
    log = (
        "ptxas info    : Compiling entry function 'k0' for 'sm_90'\n"
        "ptxas info    : Function properties for k0\n"
        "    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 4096 bytes smem\n"
    )
    want = {"registers": 255, "stack": 16, "spill_stores": 8, "spill_loads": 12, "shared": 4096}
    assert resources_of(log) == {"k0": want}


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(PrintError, match="f8e4m3fnuz"):
        type_name(DTYPES["f8e4m3fnuz"])
    with pytest.raises(PrintError, match="a conversion to f8e4m3"):
        convert("x", DTYPES["f32"], DTYPES["f8e4m3"])


@pytest.mark.skipif(not compiler(), reason="no nvcc")
def test_packages_hold_binaries_and_a_text_for_newer_devices(tmp_path: Path) -> None:
    """A call in a process without a GPU says why no variant was taken."""
    made = compile_spec(
        LIBRARY / "nn" / "relu.op", backend="cuda", target="sm_90", types={"T": "f32"},
        budget=1, out=tmp_path,
    )  # fmt: skip
    assert made.verdict.gate("G2") == made.verdict.gate("G3") == "PROVED"
    assert made.resources["sm_90"]["k0"]["spill_stores"] == 0
    (folder,) = (p.parent for p in made.package.glob("src/*/_op.py"))
    names = {p.name: p.read_bytes()[:4] for p in (folder / "_native").iterdir()}
    assert {n.partition(".")[2] for n in names} == {
        "candidate0.sm_90.cubin", "candidate0.ptx",
    }  # fmt: skip
    assert names["f32.candidate0.sm_90.cubin"] == b"\x7fELF"
    assert "'types': ['', '', 'i64', 'i64', 'i64']" in (folder / "_op.py").read_text()
    ask = (
        f"import torch, {folder.name} as m\n"
        "try: print(m.relu(torch.zeros(4)))\n"
        "except (TypeError, RuntimeError) as e: print('refused:', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=folder.parent, capture_output=True, text=True
    )
    assert "this package holds kernels for GPUs" in done.stdout, done.stdout + done.stderr
