"""Reports of compute-sanitizer are read, and what it runs is built where nvcc is; without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cuda_kernels import CASES

from opwright.backends.cpp.build import BuildError
from opwright.backends.cuda import device_check
from opwright.compiler.candidates import read
from opwright.compiler.stored import stored_form
from opwright.ir.launch import bind_plan
from opwright.spec_files import open_spec

MEMCHECK = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at relu_bias(const float *, const float *, float *, long long, long long)+0x1b0 in kernel.cu:7
=========     by thread (3,0,0) in block (0,0,0)
=========     Address 0x7f3dfe800214 is out of bounds
=========
========= ERROR SUMMARY: 1 error
"""  # noqa: E501
RACECHECK = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at total(const float *, float *, int)+0x90 in kernel.cu:6
=========     and Read access at total(const float *, float *, int)+0xb0 in kernel.cu:9 [31 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""  # noqa: E501
BARRIER = """\
========= COMPUTE-SANITIZER
========= Barrier error detected. Divergent thread(s) in block.
=========     at 0x150 in sum_rows(const float *, float *)
=========     by thread (0,0,0) in block (0,0,0)
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"


def test_reports_are_read() -> None:
    found = device_check.reading("memcheck", MEMCHECK)
    assert found is not None and found.kind == "memcheck"
    assert found.text == "kernel.cu:7: Invalid __global__ read of size 4 bytes"
    found = device_check.reading("racecheck", RACECHECK)
    assert found is not None and found.line == "kernel.cu:6"
    assert found.what == "Race reported between Write access"
    found = device_check.reading("synccheck", BARRIER)
    assert found is not None and found.what.startswith("Barrier error") and not found.line
    assert device_check.reading("memcheck", CLEAN) is None


def test_the_program_is_built(tmp_path: Path) -> None:
    case = CASES["two_launches"]
    (tmp_path / "s.op").write_text(case.spec)
    (tmp_path / "kernel.cu").write_text(case.source)
    (tmp_path / "candidate.json").write_text(json.dumps(case.plan()))
    op = stored_form(open_spec(tmp_path / "s.op").operator(case.op))
    c = read(tmp_path, op)
    bound = bind_plan(c.plan, op)
    assert device_check.host_text(c.source, bound).count("<<<") == 2
    if not device_check.compiler():
        pytest.skip("no nvcc")
    try:
        with device_check.built(c.source, bound, "sm_90") as program:
            assert program.path.is_file()
    except BuildError as e:
        pytest.skip(f"nvcc does not build programs here: {e}")
