"""`opwright.load` from Python: arrays of every library, types, params, and mistakes in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import opwright

ROOT = Path(__file__).resolve().parents[2]
SOFTMAX = ROOT / "specs/nn/softmax.op"


@pytest.fixture
def softmax() -> opwright.Operation:
    return opwright.load(SOFTMAX)["softmax"]


def expected(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_module_is_a_mapping() -> None:
    module = opwright.load(SOFTMAX)
    assert list(module) == ["softmax"]
    assert len(module) == 1
    assert "softmax @ 1.0: x -> y" in repr(module["softmax"])
    with pytest.raises(KeyError, match="has no operator gelu; it has softmax"):
        module["gelu"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_numpy(softmax: opwright.Operation, dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 33)).astype(dtype)
    y = softmax.reference(x=x)["y"]
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected(x.astype(np.float64)), rtol=1e-12)


def test_lists(softmax: opwright.Operation) -> None:
    np.testing.assert_allclose(softmax.reference(x=[[0.0, 0.0]])["y"], [[0.5, 0.5]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch(softmax: opwright.Operation, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(3, 40).to(getattr(torch, dtype)).T.contiguous().T.requires_grad_()
    types = softmax.infer_types({"x": x})
    assert types == {"T": {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]}
    y = softmax.reference(x=x)["y"]
    np.testing.assert_allclose(y, expected(x.detach().double().numpy()), rtol=1e-12)


def test_jax(softmax: opwright.Operation) -> None:
    jnp = pytest.importorskip("jax.numpy")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 33)), jnp.bfloat16)
    assert softmax.infer_types({"x": x}) == {"T": "bf16"}
    wanted = expected(np.asarray(x).astype(np.float64))
    np.testing.assert_allclose(softmax.reference(x=x)["y"], wanted, rtol=1e-12)


def test_bits_of_a_type_that_numpy_lacks(softmax: opwright.Operation) -> None:
    bits = np.array([[0x3F80, 0x0000]], np.uint16)  # 1 and 0 in bf16
    y = softmax.reference(x=bits, types={"T": "bf16"})["y"]
    np.testing.assert_allclose(y, expected(np.array([[1.0, 0.0]])))


def test_params_by_name() -> None:
    norm = opwright.load(ROOT / "specs/nn/rmsnorm.op")["rmsnorm"]
    x = np.ones((2, 8), np.float32)
    y = norm.reference(x=x, gamma=np.ones(8, np.float32), eps=3.0)["y"]
    np.testing.assert_allclose(y, 0.5)


def test_mistakes(softmax: opwright.Operation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no input, param or size z; it has x"):
        softmax.reference(z=np.ones((2, 2)))
    with pytest.raises(ValueError, match="x is missing"):
        softmax.reference()
    with pytest.raises(ValueError, match="2 axes"):
        softmax.reference(x=np.ones(3, np.float32))
    norm = opwright.load(ROOT / "specs/nn/layernorm.op")["layernorm"]
    with pytest.raises(TypeError, match="T is one type, but the arrays have x: f32, gamma: f16"):
        norm.reference(x=np.ones((2, 3), np.float32), gamma=np.ones(3, np.float16), beta=np.ones(3))
    with pytest.raises(FileNotFoundError):
        opwright.load(tmp_path / "none.op")
    (tmp_path / "bad.op").write_text(SOFTMAX.read_text().replace("exp(", "expp("))
    with pytest.raises(opwright.SpecError, match="expp"):
        opwright.load(tmp_path / "bad.op")


def test_public_names() -> None:
    assert set(opwright.__all__) <= set(dir(opwright))
    for name in opwright.__all__:
        assert getattr(opwright, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = opwright.nonsense


@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 3), (2, 4, 3), (0, 3)])
def test_a_leading_group_is_what_it_is_in_the_inputs(shape: tuple[int, ...]) -> None:
    operation = opwright.load(ROOT / "specs" / "nn" / "swiglu.op")["swiglu"]
    y = operation.reference(gate=np.ones(shape), up=np.ones(shape))["y"]
    assert y.shape == shape
