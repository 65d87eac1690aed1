"""check, compile, verify and bench from outside, on one small operator compiled once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.sandboxed import flags

ROOT = Path(__file__).resolve().parents[2]
SPEC = """opwright "0.1"

op shifted @ 1.0 "Every row less its largest entry." {
  dims  B, N
  where N >= 1
  type  T in {f32, bf16}
  input x: T[B, N]
  output y: T[B, N]
  def {
    m[b]    = max[j: N](x[b, j])
    y[b, j] = x[b, j] - m[b]
  }
  requires finite: all[b: B, j: N](-inf < x[b, j] < inf)
  tolerance versus f64 { f32: abs 1e-6 rel 1e-6  bf16: abs 1e-6 rel 5e-3 }
  workload small weight 1.0 { B = 64, N = 200, T = f32, x ~ normal(0, 1) }
  minimize 1.0 * latency
  target cpu(x86_64) via cpp
}
"""


def opwright(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opwright", *map(str, arguments), *flags()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
    )


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "shifted.op"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def compiled(spec: Path, cache: Path) -> dict[str, Any]:
    done = opwright(
        *("compile", spec, "--type", "T=f32", "--budget", 2, "--against", "none"),
        *("-o", spec.parent / "out", "--json"),
        OPWRIGHT_CACHE=cache,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# ---- check --------------------------------------------------------------------------------------


def test_check(spec: Path) -> None:
    done = opwright("check", spec)
    assert done.returncode == 0, done.stderr
    assert "shifted.op: " in done.stdout
    report = json.loads(opwright("check", "--json", spec).stdout)
    assert report["diagnostics"] == []
    assert report["obligations"]
    fields = {"id", "kind", "status", "reason", "subject", "assumptions", "seconds"}
    assert all(fields <= set(record) for record in report["obligations"])


def test_check_imports_no_framework() -> None:
    program = (
        "import sys, opwright.cli as c; c.run(['check', sys.argv[1]]);"
        "print(sorted({'torch', 'jax', 'sympy', 'rich'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(ROOT / "specs/nn/softmax.op")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_reports_everything_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.op"
    path.write_text(SPEC.replace("m[b])", "q[b])").replace("- m[b]", "- q[b] + x[b]"))
    done = opwright("check", path)
    assert done.returncode == 1
    assert re.search(r"bad\.op:\d+:\d+: error\[E\d{4}\]", done.stdout)
    report = json.loads(opwright("check", "--json", path).stdout)
    assert len(report["diagnostics"]) >= 2
    keys = {"file", "line", "col", "code", "severity", "message"}
    assert all(keys <= set(found) for found in report["diagnostics"])


def test_check_refutes_with_a_counterexample(tmp_path: Path) -> None:
    path = tmp_path / "out.op"
    path.write_text(SPEC.replace("= x[b, j] - m[b]", "= x[b, j + 1] - m[b]"))
    done = opwright("check", path)
    assert done.returncode == 1
    assert "E0401" in done.stdout


def test_check_several_files(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.op").write_text("op")
    done = opwright("check", spec, tmp_path / "bad.op")
    assert done.returncode == 1
    assert "shifted.op: " in done.stdout
    assert "bad.op:1:1" in done.stdout


# ---- compile ------------------------------------------------------------------------------------


def test_compile_document(compiled: dict[str, Any]) -> None:
    assert Path(compiled["wheel"]).is_file()
    assert (Path(compiled["package"]) / "src" / "shifted_k" / "__init__.py").is_file()
    assert compiled["winner"]["schedule"]
    assert compiled["baseline"]["number"] == 0
    assert compiled["speedup"] > 0
    assert compiled["gates"]["G2"] == compiled["gates"]["G3"] == "PROVED"
    assert compiled["gates"]["G6"] == compiled["verdict"] == "TESTED"
    assert {"op", "shape", "impl", "median_s", "mode"} <= set(compiled["rows"][0])
    assert not compiled["stopped"]


def test_compile_again_takes_the_archive(spec: Path, cache: Path, compiled: dict[str, Any]) -> None:
    done = opwright(
        *("compile", spec, "--type", "T=f32", "--budget", 2, "--against", "none"),
        *("-o", spec.parent / "again"),
        OPWRIGHT_CACHE=cache,
    )
    assert done.returncode == 0, done.stderr
    assert "from the archive" in done.stderr
    assert "winner " in done.stdout
    assert "G2  PROVED" in done.stdout
    show = opwright("search", "show", OPWRIGHT_CACHE=cache)
    assert show.returncode == 0
    assert "fallback" in show.stdout


def test_the_wheel_runs_where_opwright_is_absent(compiled: dict[str, Any], tmp_path: Path) -> None:
    install = "-m pip install --quiet --no-deps --no-index --target".split()
    command = [sys.executable, *install, str(tmp_path), compiled["wheel"]]
    subprocess.run(command, check=True)
    program = (
        "import sys, numpy as np; from shifted_k import shifted, explain;"
        "x = np.arange(12, dtype=np.float32).reshape(3, 4); y = shifted(x);"
        "assert (y == x - x.max(1, keepdims=True)).all(); print(explain(x));"
        "assert not [m for m in sys.modules if m.startswith('opwright') or m == 'torch']"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_compile_from_python(spec: Path, cache: Path, compiled: dict[str, Any]) -> None:
    program = """
import sys, numpy as np, opwright
f = opwright.compile(sys.argv[1], types={"T": "f32"}, budget=2, out=sys.argv[2])
x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
wanted = opwright.load(sys.argv[1])["shifted"].reference(x=x)["y"]
np.testing.assert_allclose(f(x=x), wanted, atol=1e-6)
np.testing.assert_allclose(f(x), wanted, atol=1e-6)
import torch
y = f(x=torch.from_numpy(x))
assert isinstance(y, torch.Tensor)
np.testing.assert_allclose(y.numpy(), wanted, atol=1e-6)
assert f.verdict.status == "TESTED" and f.wheel.is_file()
"""
    command = [sys.executable, "-c", program, str(spec), str(spec.parent / "python")]
    environment = {**os.environ, "OPWRIGHT_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_compile_requests_that_make_no_sense(spec: Path, tmp_path: Path) -> None:
    for arguments, words in {
        ("--op", "shift"): "did you mean shifted?",
        ("--type", "T=f16"): "no binding",
        ("--type", "U=f32"): "no type variable U",
        ("--target", "sm_90"): "compiles for CPUs",
        ("--against", "numpy"): "no baseline numpy",
        ("-o", "/proc/none"): "cannot be written",
    }.items():
        done = opwright("compile", spec, "-o", tmp_path, *arguments, OPWRIGHT_CACHE=tmp_path)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr, (arguments, done.stderr)
        assert "cure:" in done.stderr
        assert "Traceback" not in done.stderr
    done = opwright("compile", spec, "-o", tmp_path, OPWRIGHT_CACHE="/dev/null/x")
    assert done.returncode == 2 and "the cache folder /dev/null/x cannot be" in done.stderr
    assert "set OPWRIGHT_CACHE" in done.stderr
    done = opwright("compile", spec, "-o", tmp_path, CXX="no-such-compiler")
    assert done.returncode == 2
    assert "no-such-compiler" in done.stderr


def test_compile_a_wrong_spec(tmp_path: Path) -> None:
    path = tmp_path / "bad.op"
    path.write_text(SPEC.replace("x[b, j] - m[b]", "x[b, j + 1] - m[b]"))
    done = opwright("compile", path, "-o", tmp_path / "out", OPWRIGHT_CACHE=tmp_path)
    assert done.returncode == 1
    assert "E0401" in done.stderr
    assert not (tmp_path / "out" / "shifted-k").exists()


def test_interrupted_while_searching(spec: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "opwright", "compile", str(spec), *flags()]
    command += ["-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--budget", "200", "--against", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPWRIGHT_CACHE": str(tmp_path / "cache")},
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " ok " in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors + output
    done = opwright("search", "show", OPWRIGHT_CACHE=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert " ok " in done.stdout


# ---- verify and bench ---------------------------------------------------------------------------


@pytest.fixture
def candidate(compiled: dict[str, Any], tmp_path: Path) -> Path:
    source = Path(compiled["package"]) / "src" / "shifted_k" / "sources" / "f32" / "winner"
    return Path(shutil.copytree(source, tmp_path / "candidate"))


def test_verify(spec: Path, candidate: Path, cache: Path) -> None:
    done = opwright("verify", spec, candidate, "--json", OPWRIGHT_CACHE=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == "TESTED"
    assert report["gates"]["G2"] == report["gates"]["G3"] == "PROVED"
    tile = candidate / "kernel.tile"
    assert opwright("verify", spec, tile, OPWRIGHT_CACHE=cache).returncode == 0


def test_verify_refuses_an_access_out_of_bounds(spec: Path, candidate: Path, cache: Path) -> None:
    tile = candidate / "kernel.tile"
    text = tile.read_text()
    changed = re.sub(r"(grid B)\b", r"\1 + 1", text, count=1)
    assert changed != text
    tile.write_text(changed)
    done = opwright("verify", spec, tile, "--json", OPWRIGHT_CACHE=cache)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["gates"]["G2"] == "REFUTED"
    refuted = [r for r in report["records"] if r["status"] == "REFUTED"]
    assert refuted[0]["counterexample"]


def test_verify_a_stranger(spec: Path, candidate: Path, cache: Path) -> None:
    source = candidate / "kernel.cpp"
    text = source.read_text()
    source.write_text(text + "\n// what counts is what the text says\n")
    done = opwright("verify", spec, candidate, OPWRIGHT_CACHE=cache)
    assert done.returncode == 0, done.stdout
    assert "G1  PROVED" in done.stdout and "sha256:" in done.stdout
    end = text.rindex("}")
    source.write_text(text[:end] + "  while (B < 0) B = B - 1;\n" + text[end:])
    done = opwright("verify", spec, candidate, OPWRIGHT_CACHE=cache)
    assert done.returncode == 1
    assert "may not ship" in done.stdout
    done = opwright("verify", spec, candidate, "--require", "tested", OPWRIGHT_CACHE=cache)
    assert "G1  UNKNOWN" in done.stdout


def test_verify_bad_paths(spec: Path, candidate: Path, tmp_path: Path) -> None:
    assert opwright("verify", spec, tmp_path / "none").returncode == 2
    (candidate / "candidate.json").write_text("{")
    done = opwright("verify", spec, candidate)
    assert done.returncode == 2
    assert "candidate.json:1:2" in done.stderr
    (candidate / "candidate.json").write_text("[" * 100_000)
    done = opwright("verify", spec, candidate)
    assert done.returncode == 2 and "nested too deeply" in done.stderr


def test_bench_a_package(compiled: dict[str, Any]) -> None:
    done = opwright("bench", compiled["package"], "--against", "none", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["mode"] for row in rows} == {"out", "fresh"}
    assert all(row["median_s"] > 0 for row in rows)
    assert {"op", "shape", "impl", "median_s", "mode"} <= set(rows[0])


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("{", "is not that of a package"),
        ("{}", "is not that of a package"),
        ('{"backend": {"type": "jax"}}', "is a package for jax; bench times C++ packages"),
    ],
)
def test_bench_what_it_cannot_time(tmp_path: Path, metadata: str, words: str) -> None:
    (tmp_path / "metadata.json").write_text(metadata)
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec" / "shifted.op").write_text(SPEC)
    done = opwright("bench", tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_bench_a_spec(spec: Path, cache: Path, compiled: dict[str, Any]) -> None:
    done = opwright("bench", spec, "--budget", 2, "--against", "none", OPWRIGHT_CACHE=cache)
    assert done.returncode == 0, done.stderr
    assert "candidate 0" in done.stdout
