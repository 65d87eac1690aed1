"""Toy packages, emitted and installed once for all tests of this folder."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from package import toys

from opwright.compiler.package import EmitResult, PackageSpec, emit

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PackageSpec]:
    folder = tmp_path_factory.mktemp("kernels")
    fails = dataclasses.replace(toys.pick_rows(), name="fails")
    return {
        "row_scale": toys.row_scale_package(folder),
        "pick_rows": toys.simple_package(folder, toys.pick_rows(), toys.PICK_ROWS),
        "spread": toys.simple_package(folder, toys.spread(), toys.SPREAD),
        "accumulate": toys.simple_package(folder, toys.accumulate(), toys.ACCUMULATE),
        "ramp": toys.ramp_package(folder),
        "fails": toys.simple_package(folder, fails, toys.FAILS),
    }


@pytest.fixture(scope="session")
def emitted(
    specs: dict[str, PackageSpec], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, EmitResult]:
    out = tmp_path_factory.mktemp("out")
    return {name: emit(spec, out) for name, spec in specs.items()}


@pytest.fixture(scope="session")
def installed(emitted: dict[str, EmitResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheels as pip installs them, read-only."""
    target = tmp_path_factory.mktemp("site")
    wheels = [str(r.wheel) for r in emitted.values()]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), *wheels], check=True, timeout=120)
    for path in target.rglob("*"):
        path.chmod(0o555 if path.is_dir() or path.suffix == ".so" else 0o444)
    return target


def run_alone(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python without site-packages of its own: what is importable is on the command line."""
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
    )


def report_of(installed: Path, library: str) -> dict[str, str | None]:
    done = run_alone(
        str(HERE / "inside.py"),
        library,
        str(installed),
        sysconfig.get_paths()["purelib"],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.fixture(scope="session")
def numpy_report(installed: Path) -> dict[str, str | None]:
    return report_of(installed, "numpy")


@pytest.fixture(scope="session")
def torch_report(installed: Path) -> dict[str, str | None]:
    return report_of(installed, "torch")
