"""Generated launch code: hand-written kernels, scratch, threads, forks; the build, its errors."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opwright.backends.cpp import build as building
from opwright.backends.cpp.build import BuildError, build
from opwright.backends.cpp.driver import DriverError, driver_source
from opwright.backends.cpp.run import Library, RunError, bind_sizes
from opwright.compiler.elaborate import load_spec
from opwright.ir.dtypes import BF16, DTYPES, F32, I32, I64, DType
from opwright.ir.expr import ZERO, Expr, const, param, size
from opwright.ir.op import OpAxis, Operator, Param, Tensor
from opwright.ir.plan import Launch, Plan, Scratch

N, M = size("N"), size("M")


def tensor(
    name: str, d: DType, *shape: Expr, out: bool = False, updates: str | None = None
) -> Tensor:
    axes = tuple(OpAxis(f"i{k}", ZERO, e) for k, e in enumerate(shape))
    body = (const(0) if d.kind == "int" else const(0.0)) if out else None
    return Tensor(name, d, axes, body, "output" if out else "input", updates=updates)


def operator(
    inputs: list[Tensor], outputs: list[Tensor], *params: Param, lets: Any = None
) -> Operator:
    return Operator(
        "op", "1.0", None, {}, ("N", "M"), lets or {}, params, (), tuple(inputs), tuple(outputs)
    )


def plan(*launches: Launch, scratch: dict[str, Scratch] | None = None) -> Plan:
    return Plan("op@1.0", "cpu", "cpp", "kernel.cpp", launches, scratch=scratch or {})


def library(source: str, p: Plan, op: Operator, folder: Path, work: str | None = None) -> Library:
    return Library(
        build(textwrap.dedent(source), driver_source(p, op, work), folder, "portable").path, op
    )


def test_a_hand_written_candidate_with_headers(tmp_path: Path) -> None:
    source = """
        #include <math.h>
        #include <stdint.h>
        extern "C" void block(const float *x, float *y, int64_t n, int64_t pid0, int64_t, int64_t) {
          const int64_t begin = pid0 * 64, end = begin + 64 < n ? begin + 64 : n;
        #pragma omp simd
          for (int64_t i = begin; i < end; ++i) y[i] = tanhf(x[i]);
        }
    """
    op = operator([tensor("x", F32, N)], [tensor("y", F32, N, out=True)])
    lib = library(source, plan(Launch("block", ("x", "y", "N"), ("cdiv(N, 64)",))), op, tmp_path)
    for n in (0, 1, 64, 1000, 100_000):
        x, y = np.linspace(-3, 3, n, dtype=np.float32), np.zeros(n, np.float32)
        lib.run({"x": x}, {"y": y}, sizes={"M": 1})
        np.testing.assert_allclose(y, np.tanh(x), rtol=1e-6)


GRID = """
    typedef long i64;
    extern "C" void mark(int *y, i64 a, i64 b, i64 p, i64 q, i64 r) {
      y[(r * b + q) * a + p] += 1 + (int)(p + 10 * q + 100 * r);
    }
"""


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_every_program_runs_once(tmp_path: Path, schedule: str) -> None:
    op = operator([], [tensor("y", I32, M, N, const(3), out=True)])
    p = plan(Launch("mark", ("y", "3", "N"), ("3", "N", "M"), schedule=schedule))
    lib = library(GRID, p, op, tmp_path, work="1000000")
    for m, n in ((0, 4), (5, 0), (1, 1), (7, 129)):
        y = np.zeros((m, n, 3), np.int32)
        lib.run({}, {"y": y}, threads=2)
        i = np.indices(y.shape)
        np.testing.assert_array_equal(y, 1 + i[2] + 10 * i[1] + 100 * i[0])


def test_arguments_of_every_kind(tmp_path: Path) -> None:
    source = """
        typedef long i64;
        extern "C" void k(const unsigned short *b, double *y, i64 n, i64 s, int m, float f,
                          double d, i64 flag, double half, i64 three, i64, i64, i64) {
          double v[] = {(double)n, (double)s, (double)m, f, d, (double)flag, half, (double)three,
                        (double)b[s]};
          for (int i = 0; i < 9; i++) y[i] = v[i];
        }
    """
    params = (Param("f", F32, None), Param("d", DTYPES["f64"], param("f", "real") * const(2.0)),
              Param("on", DTYPES["bool"], None), Param("n2", I64, N * 2))  # fmt: skip
    op = operator(
        [tensor("b", BF16, N, M)],
        [tensor("y", DTYPES["f64"], const(9), out=True)],
        *params,
        lets={"H": N // 2},
    )
    args = (
        "b",
        "y",
        "N + H",
        "stride(b, 0)",
        "i32(n2)",
        "f",
        "d * 0.5",
        "on",
        "real(N) / 2.0",
        "if on then 3 else 4",
    )
    lib = library(source, plan(Launch("k", args)), op, tmp_path)
    b, y = np.arange(40, dtype=np.uint16).reshape(4, 10)[:, :7], np.zeros(9)
    lib.run({"b": b}, {"y": y}, {"f": 0.1, "on": True})
    f = float(np.float32(0.1))
    np.testing.assert_allclose(y, [6, 10, 8, f, 0.1, 1, 2, 3, 10], rtol=1e-15)


SCRATCH = """
    typedef long i64;
    extern "C" void first(long *p, i64 n, i64 g, i64, i64) {
      __atomic_fetch_add(p + g % 4, 1, __ATOMIC_RELAXED);
    }
    extern "C" void second(const long *p, long *w, long *y, i64 g, i64, i64) {
      for (int i = 0; i < 8; i++) w[i] = g;
      for (volatile int t = 0; t < 20000; t = t + 1) {}
      long same = 0;
      for (int i = 0; i < 8; i++) same += w[i] == g;
      y[g] = same == 8 && (unsigned long)w % 64 == 0 ? p[g % 4] : -1;
    }
"""


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_scratch_of_the_plan_and_of_programs(tmp_path: Path, schedule: str) -> None:
    op = operator([], [tensor("y", I64, N, out=True)])
    p = plan(
        Launch("first", ("total", "N"), ("4 * N",), schedule=schedule),
        Launch("second", ("total", "own", "y"), ("N",), schedule=schedule),
        scratch={
            "total": Scratch("i64", ("4",), "zero"),
            "own": Scratch("i64", ("M",), scope="program"),
        },
    )
    lib = library(SCRATCH, p, op, tmp_path, work="1000000")
    y = np.zeros(50, np.int64)
    for threads in (1, 2, 5, 0):
        y[:] = 0
        lib.run({}, {"y": y}, sizes={"M": 8}, threads=threads)
        assert (y == 50).all()
    with pytest.raises(RunError, match="scratch memory"):
        lib.run({}, {"y": y}, sizes={"M": 2**61})
    with pytest.raises(RunError, match="scratch memory"):
        lib.run({}, {"y": y}, sizes={"M": 2**50})


def test_an_output_that_updates_its_input(tmp_path: Path) -> None:
    source = """
        extern "C" void k(const float *a, float *b, long i, long, long) { b[i] = a[i] + 1; }
    """
    op = operator([tensor("a", F32, N)], [tensor("b", F32, N, out=True, updates="a")])
    lib = library(source, plan(Launch("k", ("a", "b"), ("N",))), op, tmp_path)
    a = np.zeros(5, np.float32)
    lib.run({"a": a}, {"b": a}, sizes={"M": 0})
    assert (a == 1).all()


def test_a_bound_call_takes_its_arguments_once(tmp_path: Path) -> None:
    op = operator([], [tensor("y", I32, M, N, const(3), out=True)])
    lib = library(GRID, plan(Launch("mark", ("y", "3", "N"), ("3", "N", "M"))), op, tmp_path)
    y = np.zeros((2, 2, 3), np.int32)
    call = lib.bind({}, {"y": y})
    assert call() == 0 and call() == 0
    assert y[0, 0, 0] == 2


THREADED = """
import os, sys, numpy as np
from pathlib import Path
sys.path.insert(0, os.environ["HERE"])
from test_cpp_driver import operator, tensor, GRID, library, plan, Launch, I32, M, N, const
op = operator([], [tensor("y", I32, M, N, const(3), out=True)])
lib = library(GRID, plan(Launch("mark", ("y", "3", "N"), ("3", "N", "M"), schedule="dynamic")), op,
              Path(sys.argv[1]), work="1000000")
def right():
    y = np.zeros((40, 50, 3), np.int32)
    for _ in range(50):
        y[:] = 0
        lib.run({}, {"y": y}, threads=3)
        i = np.indices(y.shape)
        if not (y == 1 + i[2] + 10 * i[1] + 100 * i[0]).all(): return False
    return True
assert right()
child = os.fork()
if child == 0: os._exit(0 if right() else 3)
assert os.waitpid(child, 0)[1] == 0
assert right()
loaded = Path("/proc/self/maps").read_text()
print("gomp" if "libgomp" in loaded else "own")
"""


@pytest.mark.parametrize("own", ["", "1"])
def test_threads_of_openmp_and_of_its_own_survive_a_fork(tmp_path: Path, own: str) -> None:
    env = {
        **os.environ,
        "HERE": str(Path(__file__).parent),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    env |= {"OPWRIGHT_OWN_THREADS": "1"} if own else {}
    done = subprocess.run(
        [sys.executable, "-c", THREADED, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("own" if own else "gomp")


def test_the_library_needs_no_openmp(tmp_path: Path) -> None:
    op = operator([], [tensor("y", I32, M, N, const(3), out=True)])
    made = build(
        GRID,
        driver_source(plan(Launch("mark", ("y", "3", "N"))), op),
        tmp_path / "k.so",
        "portable",
    )
    assert b"libgomp.so.1\0" in made.path.read_bytes()  # the name that it looks for at run time
    listed = subprocess.run(["readelf", "-d", made.path], capture_output=True, text=True).stdout
    assert "gomp" not in listed
    assert made.path == tmp_path / "k.so" and made.size > 0


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (Launch("k", ("z",)), r"launches\[0\] k, argument 0: unknown name 'z'"),
        (Launch("k", ("N +",)), "unexpected 'end of text'"),
        (Launch("k", ("stride(x, 3)",)), "names no axis"),
        (Launch("k", (), ("1.5",)), "is real, not int"),
        (Launch("k", (), extra={"num_warps": 4}), "no 'num_warps'"),
    ],
)
def test_a_plan_that_cannot_be_launched(launch: Launch, message: str) -> None:
    op = operator([tensor("x", F32, N)], [tensor("y", F32, N, out=True)])
    with pytest.raises(DriverError, match=message):
        driver_source(plan(launch), op)


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    source = 'extern "C" void k(const float *, float *, long, long, long) {}'
    op = operator([tensor("x", F32, N, M)], [tensor("y", F32, N, out=True)], Param("a", F32, None))
    lib = library(source, plan(Launch("k", ("x", "y"), ("N",))), op, tmp_path)
    x, y = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    good: dict[str, Any] = {"inputs": {"x": x}, "outputs": {"y": y}, "params": {"a": 1.0}}
    lib.run(**good)
    wrong = [
        ({"inputs": {}}, "input x is missing"),
        ({"inputs": {"x": x.astype(float)}}, "stored as float32"),
        ({"inputs": {"x": x[0]}}, "x has 2 axes, not 1"),
        ({"outputs": {"y": np.zeros(4, np.float32)}}, "y: axis 0 is 4, but N = 3"),
        ({"params": {}}, "param a has no default"),
        ({"params": {"a": 1, "b": 2}}, "no param b"),
        ({"sizes": {"Q": 2}}, "no size Q"),
    ]
    for change, message in wrong:
        with pytest.raises(RunError, match=message):
            lib.run(**{**good, **change})
    odd = np.zeros((3, 4), dtype=[("f", np.float32), ("pad", np.uint8)])["f"]
    with pytest.raises(RunError, match="whole number of elements"):
        lib.run(**{**good, "inputs": {"x": odd}})
    y.flags.writeable = False
    with pytest.raises(RunError, match="not writeable"):
        lib.run(**good)
    with pytest.raises(RunError, match="no candidate library"):
        Library(Path(__file__), op)


def test_build_errors_and_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    op = operator([], [tensor("y", I32, M, N, const(3), out=True)])
    driver = driver_source(plan(Launch("mark", ("y", "3", "N"))), op)
    first = build(GRID, driver, tmp_path / "cache", "portable")
    again = build(GRID, driver, tmp_path / "cache", "portable")
    assert first.path == again.path and first.seconds > 0 and again.seconds == 0
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [first.path.name]
    with pytest.raises(BuildError, match=r"kernel.cpp:1:\d+: error: 'nonsense' does not name"):
        build("nonsense;", driver, tmp_path, "portable")
    with pytest.raises(BuildError, match="undefined"):
        build("", driver, tmp_path, "portable")
    with pytest.raises(ValueError, match="unknown instruction set"):
        build(GRID, driver, tmp_path, "x86-64-v9")
    slow = (
        'extern "C" void mark() {}\n'
        + "#define A(x) x x x x x x x x x x\n"
        + ("#define B(x) A(A(A(A(A(x)))))\nint f() { int s = 0; B(B(s += __LINE__;)) return s; }")
    )
    begin = time.monotonic()
    with pytest.raises(BuildError, match=r"stopped after 0.5 s"):
        build(slow, driver, tmp_path, "portable", limit=0.5)
    assert time.monotonic() - begin < 10
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="install g"):
        build(GRID, driver, tmp_path / "other", "portable")
    assert building.host_isa() in ("portable", "x86-64-v3", "x86-64-v4")


def test_extents_that_depend_on_params() -> None:
    spec = load_spec(Path(__file__).resolve().parents[2] / "specs/nn/conv2d_bias_relu.op")
    shapes = {"x": (1, 2, 8, 8), "w": (3, 2, 3, 3), "bias": (3,), "y": (1, 3, 4, 4)}
    known = bind_sizes(spec.operator(), shapes, params={"stride": 2, "pad": 1})
    assert (known["H"], known["R"]) == (8, 3)
    with pytest.raises(RunError, match="y: axis 2 is 4"):
        bind_sizes(spec.operator(), shapes, params={"stride": 1, "pad": 1})
