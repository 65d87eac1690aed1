"""CUDA texts read back and judged: right kernels are proved; what is not read is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cuda_judge import judge
from support.cuda_kernels import CASES
from support.cuda_more import MORE

from opwright.ir.normal import normal_form
from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import parse_program, show_program

pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")
# whose values are computed here
MEANT = ("guarded", "padded_transpose", "gather")  # whose values are proved
QUICK = ("guarded", "gather", "atomic_total", "matvec", "scatter_add", "break_search")


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_right_kernels_are_proved(name: str, tmp_path: Path) -> None:
    found = judge({**CASES, **MORE}[name], tmp_path, run=name in QUICK)
    below = [r for r in found.records if r.status != "PROVED" and r.kind not in ("G5", "G6")]
    weak = [f"{r.id} {r.status} {r.reason}" for r in below]
    assert not any(r.kind == "G5" and r.status != "PROVED" for r in found.records) or (
        name not in MEANT
    )
    assert not weak
    ran = [r for r in found.records if r.kind == "G6"]
    assert all(r.status == "TESTED" for r in ran), ran
    assert bool(ran) == (name in QUICK)
    text = show_program(found.program)
    again = parse_program(text)
    check_program(again)
    assert show_program(again) == text
    assert normal_form(again) == normal_form(found.program)


UNREAD = {
    "inline assembly": ("y[i", 'asm volatile("exit;"); y[i', "inline assembly"),
    "a partial mask": ("y[i", "__syncwarp(1); y[i", "some threads of a warp"),
    "an atomic's old value": (
        "y[i * n + j] =", "y[i * n + j] = atomicAdd(y, 1.0f) +", "gives back"
    ),
    "a do loop": ("y[i", "do { } while (false); y[i", "do loop"),
    "a function that is not known": ("__ldg(b + j)", "__dp4a(1, 2, 3)", "__dp4a"),
    "dynamic shared memory": (
        "const long long j", "extern __shared__ float s[]; const long long j", "shared_bytes"
    ),
    "a loop without an end": ("y[i", "for (;;) { } y[i", "does not count"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(UNREAD))
def test_what_is_not_read_is_unknown(what: str, tmp_path: Path) -> None:
    old, new, said = UNREAD[what]
    case = CASES["guarded"]
    found = judge(case, tmp_path, case.source.replace(old, new, 1))
    first = next(r for r in found.records if r.id == "G1.import")
    assert first.status == "UNKNOWN"
    assert said in first.reason or "does not parse" in first.reason
    assert "kernel.cu:" in first.reason
    assert all(r.status == "UNKNOWN" for r in found.records if r.kind in ("G2", "G3"))


REFUSED = {
    "state": ("extern", "__device__ float cache[16];\nextern"),
    "host code": ("extern", "#include <iostream>\nextern"),
    "a launch": ("y[i", "child<<<1, 1>>>(); y[i"),
    "printing": ("y[i", 'printf("x"); y[i'),
    "a clock": ("y[i", "clock64(); y[i"),
    "memory of its own": ("y[i", "float *p = new float[4]; y[i"),
    "the runtime": ("y[i", "cudaDeviceSynchronize(); y[i"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_a_text_must_not_contain_is_refused(what: str, tmp_path: Path) -> None:
    old, new = REFUSED[what]
    case = CASES["guarded"]
    found = judge(case, tmp_path, case.source.replace(old, new, 1))
    assert [r.status for r in found.records] == ["REFUTED"]
    assert found.records[0].kind == "G0"


def test_facts_that_are_missing_are_named(tmp_path: Path) -> None:
    case = CASES["matvec"]
    facts = [f for f in case.facts if not f.startswith("aligned")]
    found = judge(case, tmp_path, plan={"facts": facts}, run=True)
    below = [r for r in found.records if r.status != "PROVED" and r.kind not in ("G5", "G6")]
    weak = {r.id.split(".")[1]: r for r in below}
    assert set(weak) == {"align"}
    assert "starts at a multiple of 16 bytes" in weak["align"].reason


def test_a_launch_that_the_device_refuses(tmp_path: Path) -> None:
    case = CASES["guarded"]
    facts = [f for f in case.facts if not f.startswith("M <=")]
    found = judge(case, tmp_path, plan={"facts": facts})
    refuted = [r for r in found.records if r.status == "REFUTED"]
    assert any("at most 65535 blocks" in r.reason for r in refuted)
    launches = [{**case.launches[0], "block": [64, 32]}]
    found = judge(case, tmp_path, plan={"launches": launches})
    assert any("at most 1024 threads" in r.reason for r in found.records if r.status == "REFUTED")


def test_numbers_are_passed_in_the_width_of_their_parameters(tmp_path: Path) -> None:
    case = CASES["tree_sum"]
    launches = [{**case.launches[0], "args": ["x", "y", "N"]}]
    found = judge(case, tmp_path, plan={"launches": launches})
    first = next(r for r in found.records if r.id == "G1.import")
    assert first.status == "UNKNOWN" and "write i32" in first.reason


def test_nvcc_is_a_witness(tmp_path: Path) -> None:
    from opwright.backends import isolation
    from opwright.backends.cpp.build import BuildError
    from opwright.backends.cuda.build import compiles

    case = CASES["guarded"]
    try:
        said = compiles(case.source, "kernel.cu", "sm_90")
    except (BuildError, isolation.Refused) as e:
        pytest.skip(str(e))
    assert said == ""
    wrong = compiles(case.source.replace("fmaxf", "no_such"), "kernel.cu", "sm_90")
    assert wrong.startswith("kernel.cu:7: error") and "no_such" in wrong
