"""Constant inputs: which launches they determine, and a package that keeps what these make."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opwright.backends.cpp.build import host_isa
from opwright.backends.cpp.run import Library
from opwright.compiler.candidates import printed
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.package import PackagedOperator, PackagedVariant, PackageSpec, emit
from opwright.compiler.spaces import spaces
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.dtypes import F32
from opwright.ir.expr import pid, size
from opwright.ir.kept import kept
from opwright.ir.op import Operator
from opwright.ir.tile import Buffer, Builder, Placement, TileProgram

SPEC = """opwright "0.1"

op shares @ 1.0 "A product of matrices, shifted." {
  dims  M, N, K
  where K >= 1
  input x: f32[M, K], w: f32[K, N], shift: f32[N]
  output y: f32[M, N]
  def { y[i, j] = sum.f32[k: K](x[i, k] * w[k, j]) + shift[j] }
  tolerance versus f64 { f32: abs 1e-3 rel 1e-4 }
  minimize 1.0 * latency
  target cpu(x86_64) via cpp
}
"""


@pytest.fixture(scope="module")
def op() -> Operator:
    return parse_spec(SPEC, "shares.op").operator("shares", {})


@pytest.fixture(scope="module")
def programs(op: Operator) -> list[TileProgram]:
    first, second = spaces(op, 8)[:2]
    chosen = second.preferred()[0].changed("tile", (6, 16)).changed("vec", 8)
    return [second.instantiate(chosen), first.instantiate(first.preferred()[0])]


@pytest.fixture(scope="module")
def libraries(op: Operator, programs: list[TileProgram]) -> list[Path]:
    tools = evaluation_tools(op, host_isa()).tools
    return [tools.build(tools.emit(p)).path for p in programs]


@pytest.fixture(scope="module")
def package(
    op: Operator,
    programs: list[TileProgram],
    libraries: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    isa = host_isa()
    variants = []
    for name, program, path in zip(("winner", "candidate0"), programs, libraries, strict=True):
        c = printed(program, op, isa)
        variants.append(PackagedVariant(name, c.plan, {isa: path}, c.source))
    whole = PackageSpec(SPEC, (PackagedOperator(op, tuple(variants)),))
    made = emit(whole, tmp_path_factory.mktemp("kept"))
    sys.path.insert(0, str(made.folder / "src"))
    try:
        yield importlib.import_module("shares_k")
    finally:
        sys.path.remove(str(made.folder / "src"))


def arrays(m: int, n: int, k: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(m * n + k)
    return [rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n), (n,))]


def test_packing_depends_on_the_packed_input_alone(programs: list[TileProgram]) -> None:
    found = kept(programs[0])
    assert found is not None
    assert dict(found.launches) == {0: frozenset({"w"})}
    assert set(found.scratch.values()) == {frozenset({"w"})}
    plain = kept(programs[1])  # sums of both factors, in memory between launches
    assert plain is not None and set(plain.launches.values()) == {frozenset({"w", "x"})}


def _chain(first: str, second: str, third: str) -> TileProgram:
    """Three launches that copy a buffer to another: `in>s` and the like."""
    n = size("N")
    known = {
        name: Buffer(name, role, F32, (n,))
        for name, role in {"a": "in", "b": "in", "y": "out", "s": "plan", "t": "plan"}.items()
    }
    kernels = []
    for at, text in enumerate((first, second, third)):
        source, _, target = text.partition(">")
        b = Builder(f"k{at}", (n,))
        v = b.load(b.buffer(known[source]), pid(0))
        b.store(b.buffer(known[target]), pid(0), v)
        kernels.append(b.kernel())
    return TileProgram("chain", tuple(kernels), tuple(Placement() for _ in kernels))


def test_what_depends_on_kept_scratch_is_kept_too() -> None:
    found = kept(_chain("a>s", "s>t", "t>y"))
    assert found is not None and set(found.launches) == {0, 1}
    assert found.scratch["t"] == {"a"}


@pytest.mark.parametrize(
    "texts",
    [
        ("a>s", "b>s", "s>y"),  # written twice: the first content is gone at the end
        ("s>y", "a>s", "s>y"),  # read before it is written
        ("a>y", "y>s", "s>y"),  # of an output, which other launches write
        ("a>y", "b>y", "a>y"),  # no scratch at all
    ],
)
def test_what_another_launch_could_tell_is_not_kept(texts: tuple[str, str, str]) -> None:
    assert kept(_chain(*texts)) is None


def test_a_library_in_parts_gives_the_same(op: Operator, libraries: list[Path]) -> None:
    library = Library(libraries[0], op)
    x, w, shift = arrays(37, 65, 129)
    given = {"x": x, "w": w, "shift": shift}
    plain, parts = ({"y": np.full((37, 65), v, np.float32)} for v in (1, 2))
    library.run(given, plain)
    call = library.bind_kept(given, parts, ("w",))
    assert call is not None and call() == 0
    assert np.array_equal(plain["y"], parts["y"])
    assert library.bind_kept(given, parts, ("x", "shift")) is None
    assert Library(libraries[1], op).bind_kept(given, parts, ("w",)) is None


def test_a_package_keeps_constant_inputs(package: Any) -> None:
    x, w, shift = arrays(20, 48, 33)
    layer = package.pack(w=w, shift=shift)
    want = package.shares(x, w, shift)
    assert np.array_equal(layer(x), want)
    out = np.empty_like(want)
    assert layer(x=x, out=out) is out and np.array_equal(out, want)
    more = arrays(7, 48, 33)[0]  # other sizes of what varies, the same of what is kept
    assert np.array_equal(layer(more), package.shares(more, w, shift))
    w *= 2
    assert np.array_equal(layer(x), want)  # kept: the caller said that it stays
    layer.refresh()
    assert np.array_equal(layer(x), package.shares(x, w, shift))


def test_a_package_says_what_it_takes(package: Any) -> None:
    x, w, shift = arrays(2, 3, 4)
    with pytest.raises(TypeError, match="no input 'v'; its inputs are x, w, shift"):
        package.pack(v=w)
    layer = package.pack(w=w, shift=shift)
    with pytest.raises(TypeError, match="takes x here, not 2 arrays"):
        layer(x, x)
    with pytest.raises(TypeError, match="w is given twice"):
        layer(x, w=w)
    with pytest.raises(TypeError, match="x"):
        layer()
    with pytest.raises(ValueError):
        layer(x[:, :2])


def test_tensors_are_kept_as_well(package: Any) -> None:
    torch = pytest.importorskip("torch")
    x, w, shift = map(torch.from_numpy, arrays(9, 16, 8))
    layer = package.pack(w=w, shift=shift)
    assert torch.equal(layer(x), package.shares(x, w, shift))
    with pytest.raises(TypeError, match="pass arrays of one library"):
        layer(x.numpy())
