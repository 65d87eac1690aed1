"""Emission: wheels, atomic folders, errors; and what the tools of an emitted package say."""

from __future__ import annotations

import ast
import base64
import dataclasses
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest
from package import toys
from package.conftest import run_alone

import opwright.runtime
from opwright.compiler import package_folder
from opwright.compiler.package import EmitError, EmitResult, PackagedOperator, PackageSpec, emit
from opwright.compiler.package_code import CodeError, fact, formula

RUNTIME = Path(opwright.runtime.__file__).parent


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- what is written ------------------------------------------------------------------------------


def test_same_spec_same_bytes(
    specs: dict[str, PackageSpec], emitted: dict[str, EmitResult], tmp_path: Path
) -> None:
    again = emit(specs["row_scale"], tmp_path)
    assert tree(again.folder) == tree(emitted["row_scale"].folder)


def test_wheel_is_complete_and_recorded(emitted: dict[str, EmitResult]) -> None:
    wheel = emitted["row_scale"].wheel
    assert wheel.name == "row_scale_k-1.2-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        content = {n: archive.read(n) for n in names}
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    info = "row_scale_k-1.2.dist-info"
    rows = [line.split(",") for line in content[f"{info}/RECORD"].decode().splitlines()]
    assert [r[0] for r in rows] == names and rows[-1] == [f"{info}/RECORD", "", ""]
    for name, digest, length in rows[:-1]:
        wanted = base64.urlsafe_b64encode(hashlib.sha256(content[name]).digest()).rstrip(b"=")
        assert digest == f"sha256={wanted.decode()}" and int(length) == len(content[name])
    metadata = content[f"{info}/METADATA"].decode()
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.M)
    assert required and all("extra ==" in r for r in required), "no hard dependency"
    assert "Root-Is-Purelib: false" in content[f"{info}/WHEEL"].decode()
    for name in ("spec/row_scale.op", "certificate.json", "CERTIFICATE.txt", "py.typed",
                 "sources/bf16/dense/candidate.json", "sources/f32/plain/kernel.c"):  # fmt: skip
        assert f"row_scale_k/{name}" in content


def test_spec_ships_verbatim_and_digests_hold(
    specs: dict[str, PackageSpec], emitted: dict[str, EmitResult]
) -> None:
    folder = emitted["row_scale"].folder
    assert (folder / "spec/row_scale.op").read_text() == specs["row_scale"].source
    inside = folder / "src/row_scale_k"
    metadata = json.loads((inside / "metadata.json").read_text())
    files = {n: hashlib.sha256(data).hexdigest() for n, data in tree(inside).items()}
    assert files.pop("metadata.json") and files == metadata["files"]
    dense = metadata["bindings"][0]["variants"][1]
    assert dense["verdict"] == {"G2": "PROVED", "G6": "TESTED"}
    assert dense["libraries"]["x86-64-v4"]["sha256"] in files.values()


def test_every_python_file_is_python_3_9_and_imports_only_the_standard_library(
    emitted: dict[str, EmitResult],
) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "torch", "jax", "triton"}
    seen = 0
    for result in emitted.values():
        for path in (result.folder / "src").rglob("*.py"):
            seen += 1
            for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
                names = (
                    [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom) and not node.level
                    else []
                )
                assert {n.partition(".")[0] for n in names} <= allowed, path
    assert seen > 20


def test_runtime_is_copied_verbatim(emitted: dict[str, EmitResult]) -> None:
    copied = emitted["spread"].folder / "src/spread_k/_runtime"
    assert len(list(copied.iterdir())) > 8
    for path in copied.iterdir():
        assert path.read_bytes() == (RUNTIME / path.name).read_bytes()


def test_readme_says_what_the_records_say(emitted: dict[str, EmitResult]) -> None:
    text = (emitted["row_scale"].folder / "README.md").read_text()
    assert "| dense (T = bf16) | PROVED | TESTED |" in text
    assert "of the inputs, `finite: all[b: B, n: N](x[b, n] < inf)`" in text
    assert "| small | T = f32 | dense | 1.5 us | 3.0 us |" in text
    assert "y in bf16: abs 0.01 rel 0.01" in text and "y in f16: the error bound derived" in text
    assert "`1 <= N`" in text and "uint16" in text
    picked = (emitted["pick_rows"].folder / "README.md").read_text()
    assert "values: `in_range: all[n: N](0 <= i[n] and i[n] < V)`" in picked
    assert "No time was measured" in picked


def test_readme_example_runs(emitted: dict[str, EmitResult], installed: Path) -> None:
    text = (emitted["row_scale"].folder / "README.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.S)
    assert block is not None and "np.ones" in block[1]
    paths = f"import sys; sys.path[:0] = {[str(installed), sysconfig.get_paths()['purelib']]!r}\n"
    done = run_alone("-c", paths + block[1] + "print(y.shape, t.shape)")
    assert done.stdout.strip() == "(3, 8) (3,)", done.stderr


# -- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", [True, False])
def test_an_older_package_is_replaced_as_a_whole(
    specs: dict[str, PackageSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(package_folder.ctypes, "CDLL", lambda *a, **k: None)
    first = emit(specs["spread"], tmp_path)
    (first.folder / "leftover.txt").write_text("old")
    newer = dataclasses.replace(specs["spread"], license="MIT")
    second = emit(newer, tmp_path)
    assert second == first and not (first.folder / "leftover.txt").exists()
    assert "License: MIT" in (second.folder / "README.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["spread-k"]


def test_what_a_killed_process_left_is_removed_once_it_is_old(
    specs: dict[str, PackageSpec], tmp_path: Path
) -> None:
    for name, age in ((".spread-k.old", 2 * package_folder.ABANDONED), (".spread-k.new", 1.0)):
        (tmp_path / name / "src").mkdir(parents=True)
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    emit(specs["spread"], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".spread-k.new", "spread-k"]


def test_a_folder_of_something_else_is_left_alone(
    specs: dict[str, PackageSpec], tmp_path: Path
) -> None:
    (tmp_path / "spread-k").mkdir()
    (tmp_path / "spread-k/thesis.tex").write_text("years of work")
    with pytest.raises(EmitError, match="is no emitted package; remove it or choose another"):
        emit(specs["spread"], tmp_path)
    assert tree(tmp_path) == {"spread-k/thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EROFS, "Read-only file system; choose an output folder that can be written"),
        (errno.EACCES, "choose an output folder that you may write to"),
        (errno.EIO, "choose another output folder"),
    ],
)
def test_a_failing_disk_changes_nothing(
    specs: dict[str, PackageSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    cure: str,
) -> None:
    emit(specs["spread"], tmp_path)
    before, written, real = tree(tmp_path), [], Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if len(written) == 7:
            raise OSError(number, os.strerror(number))
        written.append(path)
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(EmitError, match=cure):
        emit(dataclasses.replace(specs["spread"], license="MIT"), tmp_path)
    monkeypatch.undo()
    assert tree(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


def test_output_below_a_file_is_one_error(specs: dict[str, PackageSpec], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmitError, match="choose an output folder whose parents are folders"):
        emit(specs["spread"], tmp_path / "file" / "below")


# -- what is refused ------------------------------------------------------------------------------


def refuse(spec: PackageSpec, message: str, tmp_path: Path) -> None:
    with pytest.raises(EmitError, match=message):
        emit(spec, tmp_path)
    assert not list(tmp_path.iterdir())


def test_parts_that_do_not_fit(specs: dict[str, PackageSpec], tmp_path: Path) -> None:
    spec = specs["row_scale"]
    f32, bf16 = spec.operators[:2]

    def of(*operators: PackagedOperator) -> PackageSpec:
        return dataclasses.replace(spec, operators=operators)

    refuse(of(), "at least one operator", tmp_path)
    refuse(of(f32, f32), "given twice", tmp_path)
    short = dataclasses.replace(f32, variants=f32.variants[:1])
    refuse(of(short), "has guards; end with candidate 0", tmp_path)
    other = dataclasses.replace(bf16.operator, sizes=("N", "B"))
    refuse(of(f32, dataclasses.replace(bf16, operator=other)), "another interface", tmp_path)
    last = f32.variants[-1]
    for change, message in (
        ({"name": "a/b"}, "cannot name a variant"),
        ({"libraries": {}}, "has no library"),
        ({"libraries": {"sse": Path("x")}}, "unknown instruction-set level sse"),
        ({"libraries": {"portable": tmp_path / "none.so"}}, "cannot be read: No such file"),
        ({"libraries": {"portable": RUNTIME / "engine.py"}}, "no shared library with the entry"),
        ({"facts": ("stride(z, 0) == 1",)}, "has guards"),
    ):
        refuse(of(dataclasses.replace(f32, variants=(dataclasses.replace(last, **change),))),
               message, tmp_path)  # fmt: skip
    wrong = dataclasses.replace(f32.variants[0], facts=("stride(z, 0) == 1",))
    broken = dataclasses.replace(f32, variants=(wrong, last))
    refuse(of(broken), "row_scale has no tensor z", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stride(x, 2) == 1", "x has 2 axes"),
        ("N + 1", "is not a truth value"),
        ("Q == 1", "unknown name 'Q'"),
        ("aligned(x, 48)", "a power of two up to 64"),
        ("aligned(x, 128)", "a power of two up to 64"),
    ],
)
def test_facts_that_no_guard_can_check(text: str, message: str) -> None:
    with pytest.raises(CodeError, match=message):
        formula(fact(toys.row_scale("f32"), text))


def test_arrays_of_two_libraries_are_refused(installed: Path) -> None:
    paths = [str(installed), sysconfig.get_paths()["purelib"]]
    code = f"""
import sys
sys.path[:0] = {paths!r}
import numpy, torch
from row_scale_k import row_scale
x, w = numpy.ones((2, 8), "f4"), numpy.ones(8, "f4")
for call in (lambda: row_scale(x, torch.ones(8)), lambda: row_scale(torch.ones(2, 8), w),
             lambda: row_scale(x, w, out=(torch.ones(2, 8), torch.ones(2)))):
    for known in (False, True):
        try:
            call()
        except TypeError as error:
            print(error)
        row_scale(x, w), row_scale(torch.ones(2, 8), torch.ones(8))
assert type(row_scale(x, w).y) is numpy.ndarray
"""
    done = run_alone("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        line
        for line in (
            "row_scale: x is of numpy and w is of torch; pass arrays of one library",
            "row_scale: x is of torch and w is of numpy; pass arrays of one library",
            "row_scale: x is of numpy and out (y) is of torch; pass arrays of one library",
        )
        for _ in range(2)
    ]


# -- the tools of a package -----------------------------------------------------------------------


def tool(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = [str(installed), sysconfig.get_paths()["purelib"]]
    code = (
        f"import sys, runpy; sys.path[:0] = {paths!r}; sys.modules['torch'] = None; "
        "runpy.run_module('row_scale_k', run_name='__main__', alter_sys=True)"
    )
    return run_alone("-c", code, *arguments, **environment)


def test_show_config(installed: Path) -> None:
    done = tool(installed, "show-config", "--json", ROW_SCALE_K_IMPL="plain")
    config = json.loads(done.stdout)
    assert config["operator"] == "row_scale@1.2" and config["environment"]["ROW_SCALE_K_IMPL"]
    assert config["variants"][2] == {
        "types": {"T": "f32"}, "name": "plain", "guards": [], "instruction_sets": ["portable"],
    }  # fmt: skip
    assert "dense [T = f32] x86-64-v4/portable" in tool(installed, "show-config").stdout


def test_explain_and_environment(installed: Path) -> None:
    sizes = ("N=64", "B=2", "T=f32")
    free = json.loads(tool(installed, "explain", *sizes, "flip=true", "--json").stdout)
    assert free["chosen"] == "dense" and "not flip" in free["variants"][0][2]
    held = tool(installed, "explain", *sizes, ROW_SCALE_K_ISA="portable")
    assert held.stdout.startswith("instruction set portable")
    forced = tool(installed, "explain", *sizes, ROW_SCALE_K_IMPL="plain")
    assert "plain: taken" in forced.stdout and "dense: refuses: not asked for" in forced.stdout
    wrong = tool(installed, "explain", *sizes, ROW_SCALE_K_ISA="sparc")
    assert (
        wrong.returncode == 1 and "the instruction-set level 'sparc' cannot be used" in wrong.stderr
    )
    none = tool(installed, "explain", "N=0", "B=1")
    assert none.returncode == 1 and "where 1 <= N does not hold (N = 0)" in none.stderr
    assert tool(installed, "explain", "B=1").stderr.strip() == "give the sizes N as NAME=VALUE"
    assert tool(installed, "explain", "B").returncode == 2


def test_verify_and_tampering(installed: Path, tmp_path: Path) -> None:
    done = tool(installed, "verify")
    assert done.returncode == 0 and "f32 3x8 [dense]: 27 elements" in done.stdout, done.stderr
    copy = tmp_path / "row_scale_k"
    for name, data in tree(installed / "row_scale_k").items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    reference = copy / "reference.json"
    data = json.loads(reference.read_text())
    data["cases"][0]["outputs"]["y"]["data"][3] += 1.0
    reference.write_text(json.dumps(data))
    (copy / "extra.py").write_text("")
    changed = tool(tmp_path, "verify", "--json")
    problems = "\n".join(json.loads(changed.stdout)["problems"])
    assert changed.returncode == 1
    assert "reference.json: changed" in problems and "extra.py: is no part" in problems
    assert "numpy: f32 3x8 [dense]: y element 3 is" in problems


def test_bench_times_every_variant(installed: Path) -> None:
    rows = json.loads(tool(installed, "bench", "--seconds", "0.01", "--json").stdout)["rows"]
    assert {r["variant"] for r in rows} >= {"dense", "plain"}
    assert all(r["workload"] == "small" and 0 < r["seconds"] < 1 for r in rows)
    given = tool(installed, "bench", "B=1", "N=7", "--seconds", "0.01")
    assert "plain" in given.stdout and "dense" not in given.stdout
    big = tool(installed, "bench", "B=100000", "N=100000")
    assert big.returncode == 1 and "GiB of arrays; the limit is 2 GiB" in big.stderr


def test_source_folder_installs_and_its_tests_pass(
    emitted: dict[str, EmitResult], tmp_path: Path
) -> None:
    folder = emitted["row_scale"].folder
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(folder)], check=True, timeout=120)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout[-2000:]


def test_nothing_is_written_into_an_install(
    installed: Path, numpy_report: dict[str, str | None], torch_report: dict[str, str | None]
) -> None:
    assert numpy_report and torch_report  # both ran from that folder
    with_cache = {n for n in tree(installed) if "__pycache__" not in n}
    expected: set[str] = set()
    for record in installed.glob("*.dist-info/RECORD"):
        expected |= {line.split(",")[0] for line in record.read_text().splitlines()}
    assert {n for n in with_cache if ".dist-info" not in n} <= expected
