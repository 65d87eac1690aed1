"""One package for CPUs and GPUs where there is no GPU: it runs, and says why no binary is taken."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from package import toys

from opwright.compiler.package import EmitResult, PackagedOperator, PackageSpec, emit
from opwright.compiler.package_spec import Binary, PackagedVariant
from opwright.compiler.universal import parts
from opwright.ir.plan import Launch, Plan

FAKE = r"""
#include <stdint.h>
#include <string.h>
static uint64_t seen[16];
int P(Init)(unsigned flags) { return (int)flags; }
#ifdef AMD
const char *hipGetErrorString(int status) { return status == 98 ? "invalid device function" : 0; }
#else
int cuGetErrorString(int status, const char **text) { *text = "no such kernel"; return 0; }
int cuFuncSetAttribute(void *f, int what, int value) {
  seen[10] = what; seen[11] = value;
  return 0;
}
#endif
int P(ModuleLoadData)(void **module, const char *image) { *module = (void *)image; return 0; }
int P(ModuleGetFunction)(void **function, void *module, const char *name) {
  if (strcmp(name, "pick")) return 98;
  *function = module;
  return 0;
}
int LAUNCH(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
           unsigned shared, void *on, void **v, void **extra) {
  seen[0] = gx; seen[1] = bx; seen[2] = shared; seen[3] = (uintptr_t)on;
  for (int n = 0; n < 3; n++) seen[4 + n] = *(uint64_t *)v[n];
  seen[7] = *(uint32_t *)v[3]; seen[8] = *(uint64_t *)v[4]; seen[9] = *(uint64_t *)v[5];
  seen[12] = *(const char *)f;
  return 0;
}
const uint64_t *what(void) { return seen; }
"""


def device_part(folder: Path) -> PackageSpec:
    op = toys.pick_rows()
    launch = Launch("pick", ("a", "i", "y", "i32(D)"), ("N",), {"BLOCK": 64})
    plan = Plan(f"{op.name}@{op.version}", "sm_90", "triton", "kernel.py", (launch,))
    made = {
        "sm_90": (Binary(b"ninety", "pick", 128, 60000, 16),),
        "gfx942": (Binary(b"amd", "pick", 256, 0, 0),),
        "ptx": (Binary(b".version", "pick", 128, 0, 0),),
    }
    v = PackagedVariant("winner", plan, {}, "# triton", targets=("sm_90", "gfx942"), launched=made)
    return PackageSpec(
        f"op {op.name}\n", (PackagedOperator(op, (v,)),), backend="binary", unrun=("on a GPU",)
    )


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> EmitResult:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("universal")
    op = replace(toys.pick_rows(), name="pick_rows")
    spec = toys.simple_package(folder, op, toys.PICK_ROWS)
    return emit(replace(spec, device=device_part(folder)), folder / "out")


@pytest.fixture
def package(emitted: EmitResult, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(emitted.folder / "src"))
    monkeypatch.setenv("OPWRIGHT_CUDA_LIBRARY", "/nowhere/libcuda.so")
    monkeypatch.setenv("OPWRIGHT_HIP_LIBRARY", "/nowhere/libamdhip64.so")
    yield importlib.import_module("pick_rows_k")
    for name in [n for n in sys.modules if n.split(".")[0] == "pick_rows_k"]:
        del sys.modules[name]


def test_the_wheel_holds_binaries_for_every_architecture(emitted: EmitResult) -> None:
    names = zipfile.ZipFile(emitted.wheel).namelist()
    inner = {n.partition("/_device/_native/")[2] for n in names if "/_device/_native/" in n}
    assert inner == {"all.winner.0.sm_90.cubin", "all.winner.0.gfx942.hsaco", "all.winner.0.ptx"}
    assert "pick_rows_k/_device/CERTIFICATE.txt" in names
    assert not any(n.startswith("pick_rows_k/_device/_kernels") for n in names)


def test_it_runs_on_a_cpu_and_says_why_no_binary_is_taken(package) -> None:  # type: ignore[no-untyped-def]
    a = np.arange(12, dtype=np.float32).reshape(4, 3)
    index = np.array([0, 2], np.int32)
    np.testing.assert_array_equal(package.pick_rows(a, index), a[index])
    found = package.explain(a, index)
    reasons = {name: why for name, taken, why in found.variants if not taken}
    assert found.chosen == "plain"
    assert "no CUDA driver here: /nowhere/libcuda.so" in reasons["gpu winner [sm_90]"]
    assert "no CUDA driver here" in reasons["gpu winner [ptx]"]
    assert "no AMD driver here: /nowhere/libamdhip64.so" in reasons["gpu winner [gfx942]"]
    assert "gpu winner [gfx942]: refuses" in str(found)


@pytest.mark.parametrize("level", ["sm_90", "gfx942"])
def test_a_launch_hands_over_what_the_plan_and_triton_say(
    package,  # type: ignore[no-untyped-def]
    level: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    amd = level.startswith("gfx")
    made = tmp_path / "libfake.so"
    (tmp_path / "fake.c").write_text(FAKE)
    words = ["-DP(x)=hip##x", "-DLAUNCH=hipModuleLaunchKernel", "-DAMD"] if amd else [
        "-DP(x)=cu##x", "-DLAUNCH=cuLaunchKernel"]  # fmt: skip
    command = ["gcc", "-shared", "-fPIC", *words, "-o", str(made), str(tmp_path / "fake.c")]
    subprocess.run(command, check=True)
    monkeypatch.setenv(f"OPWRIGHT_{'HIP' if amd else 'CUDA'}_LIBRARY", str(made))

    class Tensor:
        def __init__(self, at: int) -> None:
            self.at = at

        def data_ptr(self) -> int:
            return self.at

    given: list[int] = []

    def empty(count: int, dtype: object, device: str) -> Tensor:
        given.append(count)
        return Tensor(0x5000)

    torch = types.ModuleType("torch")
    stream = types.SimpleNamespace(cuda_stream=0x77)
    torch.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        current_device=lambda: 0, current_stream=lambda: stream
    )
    torch.empty, torch.uint8 = empty, "u8"  # type: ignore[attr-defined]
    inner = importlib.import_module("pick_rows_k._device")
    driver = importlib.import_module("pick_rows_k._device._runtime.driver")
    monkeypatch.setitem(sys.modules, "torch", torch)
    variant = inner._ENGINE.spec.bindings[0].variants[0]
    launcher = driver.BinaryLauncher(variant, inner._ENGINE.folder, level)
    ((kernel, args, named),), scratch = launcher.prepare({"D": 3, "N": 5, "V": 4})
    assert args[:3] == ["a", "i", "y"] and not named and not scratch
    kernel(Tensor(0x1000), Tensor(0x2000), Tensor(0x3000), 3)
    seen_of = ctypes.CDLL(str(made)).what
    seen_of.restype = ctypes.POINTER(ctypes.c_uint64)
    seen = seen_of()
    threads, shared, hidden = (256, 0, 0) if amd else (128, 60000, 0x5000)
    assert seen[:10] == [5, threads, shared, 0x77, 0x1000, 0x2000, 0x3000, 3, hidden, 0]
    assert given == ([] if amd else [16 * 5])
    assert chr(seen[12]) == ("a" if amd else "n")
    if not amd:
        assert seen[10:12] == [8, 60000]


def test_gpus_take_binaries_of_their_generation_else_the_text(package) -> None:  # type: ignore[no-untyped-def]
    inner = importlib.import_module("pick_rows_k._device")
    dispatcher = inner._ENGINE.dispatcher
    variant = inner._ENGINE.spec.bindings[0].variants[0]
    for arch, level in (("sm_90", "sm_90"), ("sm_120", "ptx"), ("sm_86", "ptx")):
        dispatcher._isa = arch
        assert dispatcher.file(variant)[0] == level
    dispatcher._isa = "sm_86"
    assert "sm_80" in dispatcher.levels()
    for arch in ("sm_75", "gfx90a"):
        dispatcher._isa = arch
        with pytest.raises(RuntimeError, match=f"this GPU is {arch}"):
            dispatcher.file(variant)


def test_targets_name_processors_and_gpus_together() -> None:
    assert parts("triton", "cpu, sm_90,gfx942") == ("cpu", "sm_90,gfx942")
    assert parts("triton", "sm_90,gfx942") is None
    assert parts("cpp", "cpu") is None
