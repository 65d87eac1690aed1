"""Launches of packaged binaries through a driver library of the test's own: what it is asked."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from opwright.runtime import driver

FAKE = r"""
#include <stdint.h>
#include <string.h>
static unsigned sizes[7];
static int64_t number;
static float real;
static uintptr_t address, stream;
static char name[32], code[8];
int cuInit(unsigned flags) { return (int)flags; }
int cuGetErrorString(int status, const char **text) {
  *text = status == 500 ? "named symbol not found" : "unknown";
  return 0;
}
int cuModuleLoadData(void **module, const char *image) {
  memcpy(code, image, 7);
  *module = code;
  return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *wanted) {
  if (module != code || strcmp(wanted, "k0")) return 500;
  strcpy(name, wanted);
  *function = name;
  return 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *on, void **values, void **extra) {
  if (function != name || extra) return 1;
  unsigned all[7] = {gx, gy, gz, bx, by, bz, shared};
  memcpy(sizes, all, sizeof all);
  address = *(uintptr_t *)values[0];
  number = *(int64_t *)values[1];
  real = *(float *)values[2];
  stream = (uintptr_t)on;
  return 0;
}
const unsigned *seen(int64_t *n, float *x, uintptr_t *at, uintptr_t *on) {
  *n = number; *x = real; *at = address; *on = stream;
  return sizes;
}
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    (tmp_path / "fake.c").write_text(FAKE)
    made = tmp_path / "libfake.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(made), str(tmp_path / "fake.c")], check=True
    )
    monkeypatch.setenv(driver.LIBRARY, str(made))
    return ctypes.CDLL(str(made))


def test_a_launch_hands_over_what_the_plan_says(library: ctypes.CDLL) -> None:
    d = driver.Driver()
    kernel = d.function(b"\x7fELF...\0", "k0")
    values = [ctypes.c_void_p(0x7000), ctypes.c_int64(1 << 40), ctypes.c_float(0.5)]
    d.launch(kernel, (5, 2), (128,), 64, 0x99, values)
    n, x, at, on = ctypes.c_int64(), ctypes.c_float(), ctypes.c_size_t(), ctypes.c_size_t()
    library.seen.restype = ctypes.POINTER(ctypes.c_uint)
    found = library.seen(*(ctypes.byref(v) for v in (n, x, at, on)))
    assert found[:7] == [5, 2, 1, 128, 1, 1, 64]
    assert (n.value, x.value, at.value, on.value) == (1 << 40, 0.5, 0x7000, 0x99)


def test_what_the_driver_refuses_is_said_in_its_words(library: ctypes.CDLL) -> None:
    d = driver.Driver()
    with pytest.raises(RuntimeError, match="cuModuleGetFunction failed with 500: named symbol"):
        d.function(b"\x7fELF...\0", "k1")


def test_without_a_driver_a_call_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(driver.LIBRARY, "/nowhere/libcuda.so")
    with pytest.raises(RuntimeError, match="no CUDA driver here"):
        driver.Driver()
