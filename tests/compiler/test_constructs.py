"""Constructs of the language beyond index notation: groups of axes, calls, random numbers, top-k,
packed types. Reference and fallback against numpy written for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shipped import SPECS  # type: ignore[import-not-found]

from opwright.compiler.block_spaces import spaces as block_spaces
from opwright.compiler.check import check
from opwright.compiler.elaborate import Spec, load_spec
from opwright.compiler.normalize import normalize
from opwright.compiler.spaces import spaces
from opwright.compiler.stored import stored_form
from opwright.compiler.strategies import block_fallback
from opwright.compiler.strategies.fallback import lower
from opwright.compiler.strategies.in_place import overwritten
from opwright.compiler.strategies.scatter import scatter_of
from opwright.ir.binding import bind, prepare
from opwright.ir.dtypes import DTYPES, decode, encode
from opwright.ir.expr import evaluate, show
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.philox import philox
from opwright.ir.reference import reference
from opwright.ir.scalar import evaluate_scalar
from opwright.ir.tile import row_major
from opwright.search.space import IllegalSchedule
from opwright.verify.context import Context
from opwright.verify.gates import safety

SPEC = Path(__file__).parent / "data" / "constructs.op"
RNG = np.random.default_rng(11)
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    inputs: Arrays
    wanted: Callable[..., Arrays]
    sizes: Mapping[str, int] = field(default_factory=dict)


def normal(*shape: int) -> Any:
    return np.float64(np.float32(RNG.standard_normal(shape)))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def words(seed: int, at: int, stream: int) -> list[int]:
    """Philox4x32-10 in Python's integers."""
    low = 2**32 - 1
    key = [seed & low, seed >> 32 & low]
    c = [at & low, at >> 32, stream, 0]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ key[0], q & low, p >> 32 ^ c[3] ^ key[1], p & low]
        key = [key[0] + 0x9E3779B9 & low, key[1] + 0xBB67AE85 & low]
    return c


def uniform(seed: int, shape: tuple[int, ...], stream: int) -> Any:
    n = int(np.prod(shape))
    return np.array([(words(seed, i, stream)[0] >> 8) / 2**24 for i in range(n)]).reshape(shape)


def gauss(seed: int, shape: tuple[int, ...], stream: int) -> Any:
    out = []
    for i in range(int(np.prod(shape))):
        a, b, *_ = words(seed, i, stream)
        radius = np.sqrt(-2 * np.log(((a >> 8) + 1) / 2**24))
        out.append(radius * np.cos(2 * np.pi * (b >> 8) / 2**24))
    return np.array(out).reshape(shape)


def dropout(x: Any, seed: Any) -> Arrays:
    s = int(seed)
    kept = uniform(s, x.shape, 0) >= 0.25
    return {
        "y": np.where(kept, x / 0.75, 0),
        "u": uniform(s, x.shape[1:], 5),
        "z": gauss(s, x.shape, 2),
    }


def largest(x: Any, K: int) -> Arrays:
    order = np.stack([sorted(range(len(r)), key=lambda j: (not np.isnan(r[j]), -r[j], j))
                      if not np.isnan(r).any() else nan_first(r) for r in x])  # fmt: skip
    v = np.take_along_axis(x, order, 1)
    return {"v": v[:, :K], "i": order[:, :K], "second": v[:, 1]}


def nan_first(row: Any) -> list[int]:
    odd = [j for j in range(len(row)) if np.isnan(row[j])]
    return odd + sorted((j for j in range(len(row)) if j not in odd), key=lambda j: (-row[j], j))


def quantised(x: Any, w: Any, s: Any, z: Any) -> Arrays:
    return {"y": x @ (np.repeat(s, 4, 1) * (w - np.repeat(z, 4, 1))).T}


def nibbles(x: Any, e: Any) -> Arrays:
    after = np.concatenate([e[:, 1:], np.zeros((len(e), 1))], 1)
    return {"q": np.clip(np.rint(x), -8, 7).astype(int), "y": e * 2 + after}


def counted(ids: Any, g: Any, V: int) -> Arrays:
    kept = g[:, 0] > 0
    rows = range(V)
    return {
        "c": np.array([(ids - 1 == v).sum() for v in rows]),
        "y": np.stack([g[kept & (ids[:, 0] == v)].sum(0) for v in rows]),
        "top": np.stack([g[ids[:, 1] == v + 2].sum(0) for v in rows], 1),
        "w": np.array([2 * g[ids[:, 0] == v, 0].sum() for v in rows]),
    }


def steps(x: Any) -> Arrays:
    h, out = np.zeros(x.shape[1]), []
    for row in x:
        h = softmax(h + row)
        out.append(h)
    return {"h": np.array(out)}


def ragged(ptr: Any, x: Any) -> Arrays:
    rows = pairwise(ptr)
    return {"y": np.stack([softmax(x[a:b]).sum(0) for a, b in rows])}


def gates(x: Any, w: Any) -> Arrays:
    h, c = np.zeros(x[:, 0, 0].shape), np.zeros(x[:, 0, 0].shape)
    hs, cs = [], []
    for t in range(x.shape[1]):
        g = x[:, t] + np.einsum("kij,bj->bki", w, h)
        i, f, o = (1 / (1 + np.exp(-g[:, k])) for k in (1, 0, 3))
        c = f * c + i * np.tanh(g[:, 2])
        h = o * np.tanh(c)
        hs.append(h)
        cs.append(c)
    return {"h": np.stack(hs, 1), "c": np.stack(cs, 1)}


def paths(e: Any, tr: Any) -> Arrays:
    v, back = [e[0]], [np.full(len(tr), -1)]
    for row in e[1:]:
        scores = v[-1][:, None] + tr
        v.append(row + scores.max(0))
        back.append(scores.argmax(0))
    end = v[-1].argmax()
    return {"v": np.array(v), "back": np.array(back), "end": end, "best": v[-1][end]}


def between(x: Any, at: Any) -> Arrays:
    padded = np.concatenate([np.zeros(200), x, np.zeros(200)])
    i = np.floor(at).astype(int)
    return {"y": (1 - at + i) * padded[i + 200] + (at - i) * padded[i + 201]}


def exchanged(a_in: Any, b_in: Any, c_in: Any) -> Arrays:
    a, c = 2 * b_in, c_in + np.concatenate([[0], c_in[:-1]])
    return {"a": a, "b": a_in + a, "c": c, "s": (a + c).sum()}


ODD = np.round(normal(3, 9), 0)
ODD[0, [2, 5]] = np.nan
ODD[1, 4] = -np.inf
CASES = {
    "woven": Case(
        {"x": normal(2, 8, 3, 2)},
        lambda x, **_: {"y": x.reshape(2, 2, 2, 2, 3, 2).transpose(0, 1, 4, 2, 5, 3)
                        .reshape(2, 2, 6, 4)},
        {"C": 2, "F": 2},
    ),
    "unwoven": Case(
        {"x": normal(2, 3, 4, 6)},
        lambda x, **_: {"y": x.reshape(2, 3, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4)
                        .reshape(2, 12, 2, 3)},
        {"P": 2, "Q": 3, "F": 2},
    ),
    "centred": Case({"x": normal(2, 3, 5)},
                    lambda x: {"m": x.mean(-1), "y": x - x.mean(-1, keepdims=True)}),
    "over_groups": Case({"x": normal(2, 3, 4)},
                        lambda x: {"y": x - x.mean(-1, keepdims=True), "one": x[0].mean(-1),
                                   "none": x[0, 0].mean()}),
    "dropout": Case({"x": normal(3, 5), "seed": np.array(-(2**40) - 12345)}, dropout),
    "largest": Case({"x": ODD}, largest, {"K": 4}),
    "quantised": Case({"x": normal(3, 8), "w": RNG.integers(-8, 8, (4, 8)), "s": normal(4, 2),
                       "z": RNG.integers(0, 16, (4, 2))}, quantised),
    "nibbles": Case({"x": 5 * normal(3, 5), "e": normal(3, 5)}, nibbles),
    "counted": Case({"ids": RNG.integers(-1, 7, (9, 2)), "g": normal(9, 3)}, counted, {"V": 6}),
    "steps": Case({"x": normal(3, 4)}, steps),
    "ragged": Case({"ptr": np.array([0, 2, 2, 5]), "x": normal(5, 4)}, ragged),
    "differences": Case({"x": normal(6)},
                        lambda x: {"y": x + (x[-1] - x[0]) / 5, "m": x[1] - x[1:].mean()}),
    "gates": Case({"x": normal(2, 3, 4, 5), "w": normal(4, 5, 5)}, gates),
    "claims": Case({"x": normal(2, 3)}, lambda x: {"y": x.max(1)}),
    "paths": Case({"e": normal(5, 4), "tr": normal(4, 4)}, paths),
    "between": Case({"x": normal(6), "at": 4 * normal(9)}, between),
    "exchanged": Case({"a_in": normal(5), "b_in": normal(5), "c_in": normal(5)}, exchanged),
    "sigmoid": Case({"x": normal(2, 3, 4)}, lambda x: {"y": 1 / (1 + np.exp(-x))}),
}  # fmt: skip


@cache
def spec() -> Spec:
    return load_spec(SPEC)


def values(op: Operator, case: Case) -> dict[str, Any]:
    """Inputs as the types hold them."""
    return {
        t.name: decode(encode(np.asarray(case.inputs[t.name]), t.dtype), t.dtype).reshape(
            np.shape(case.inputs[t.name])
        )
        for t in op.inputs
    }


def packed(elements: Any) -> Any:
    """Codes of four bits as bytes, the first in the low nibble."""
    codes = np.asarray(elements).astype(np.int64) % 16
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.int64)], -1)
    return codes[..., ::2] + 16 * codes[..., 1::2]


def test_nothing_is_refused() -> None:
    found = check(SPEC)
    assert found.diagnostics == ()
    assert "REFUTED" not in {r.status for r in found.obligations}


@pytest.mark.parametrize("name", CASES)
def test_the_reference_means_it(name: str) -> None:
    op, case = spec().operator(name), CASES[name]
    inputs = values(op, case)
    wanted = case.wanted(**inputs, **case.sizes)
    for found in (reference(op, inputs, {}, case.sizes),
                  evaluate_scalar(op, inputs, {}, case.sizes)):  # fmt: skip
        assert set(found) == set(wanted)
        for k, v in wanted.items():
            np.testing.assert_allclose(found[k].reshape(np.shape(v)), v, 1e-9, 1e-12, err_msg=k)


@pytest.mark.parametrize("name", CASES)
def test_the_fallback_means_it(name: str) -> None:
    op, case = spec().operator(name), CASES[name]
    inputs = values(op, case)
    wanted = dict(case.wanted(**inputs, **case.sizes))
    for t in (*op.inputs, *op.outputs):
        where = inputs if t.role == "input" else wanted
        if t.dtype.bits < 8:
            codes = encode(np.asarray(where[t.name]), t.dtype)
            where[t.name] = packed(codes.astype(np.int64))
    stored = stored_form(op)
    arrays = prepare(stored, inputs)
    free = {"K": 5} if name == "nibbles" else {"K": 8} if name == "quantised" else {}
    env = bind(stored, arrays, {}, {k: v for k, v in {**case.sizes, **free}.items()
                                    if k in stored.free_sizes})  # fmt: skip
    strides = {
        (t.name, n): int(evaluate(e, env))
        for t in (*stored.inputs, *stored.outputs)
        for n, e in enumerate(row_major(t.shape))
    }
    sizes = {s: int(env[s]) for s in stored.sizes}
    params = {p.name: env[p.name] for p in stored.params}
    found = run(lower(normalize(stored)), sizes, arrays, params, strides)
    for k, v in wanted.items():
        np.testing.assert_allclose(
            np.asarray(found[k]).reshape(np.shape(v)), v, 2e-6, 2e-6, err_msg=k
        )


def test_keys_that_are_data_name_a_place() -> None:
    op = spec().operator("counted")
    forms = {t.name: scatter_of(t) for t in normalize(op).tensors}
    assert {n: f.axis for n, f in forms.items() if f is not None} == {
        "c": 0, "y": 0, "top": 1, "w_sum": 0,
    }  # fmt: skip
    assert {n for n, f in forms.items() if f is None} == {"w"}
    rest = forms["y"]
    assert rest is not None and rest.rest.op == "lt"
    assert show(rest.key).startswith("ids[n")
    assert {r.status for r in safety(lower(normalize(op)), Context.of(op))} == {"PROVED"}


def test_nothing_is_overwritten_before_it_is_read() -> None:
    """In the order of the launches, with every result in the memory that it updates."""
    op = spec().operator("exchanged")
    normal = normalize(op)
    assert not overwritten(op, lower(normal))
    assert not overwritten(op, block_fallback.lower(normal))
    for space in (*spaces(op, 16)[1:], *block_spaces(op)[1:]):
        with pytest.raises(IllegalSchedule, match="overwritten"):
            space.instantiate(space.preferred()[0])
    step = load_spec(SPECS / "optim" / "sgd_momentum.op").operator("sgd_momentum", {})
    for space in (*spaces(step, 16), *block_spaces(step)):
        assert not overwritten(step, space.instantiate(space.preferred()[0]))


@pytest.mark.parametrize("name", ["paths", "between", "exchanged"])
def test_the_fallback_is_safe(name: str) -> None:
    """Definitions follow what they read; numbers without bounds are compared, not added to."""
    op = spec().operator(name)
    assert {r.status for r in safety(lower(normalize(op)), Context.of(op))} == {"PROVED"}


@pytest.mark.parametrize("name", ["woven", "unwoven"])
def test_products_of_sizes_are_safe_where_another_is_0(name: str) -> None:
    op = spec().operator(name)
    for program in (lower(normalize(op)), block_fallback.lower(normalize(op))):
        assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}


def test_words_are_those_of_the_definition() -> None:
    for seed, at, stream in ((0, 0, 0), (2**63 - 1, 2**33 + 5, 7), (-1, 1, 2), (12345, 99, 0)):
        assert [int(w) for w in philox(seed, at, stream)] == words(seed, at, stream)
    # the test vector of Random123 for counter 0 and key 0
    assert [int(w) for w in philox(0, 0, 0)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_arrays_draw_the_same_numbers() -> None:
    pytest.importorskip("jax")
    from opwright.backends.jax.run import Process
    from opwright.compiler.pure import arrays_candidate

    op, case = spec().operator("dropout"), CASES["dropout"]
    made = arrays_candidate(op)
    inputs = {t.name: encode(np.asarray(case.inputs[t.name]), t.dtype) for t in op.inputs}
    inputs["seed"] = inputs["seed"].reshape(())
    with Process(made.source, made.plan, op) as process:
        found = process.call(inputs, {"p": 0.25}, {}, 60.0)
    for name, v in case.wanted(**values(op, case)).items():
        np.testing.assert_allclose(found[name], v, 2e-7, err_msg=name)


def test_four_bits_stand_for_what_the_type_says() -> None:
    from opwright.compiler.stored import decoded, encoded
    from opwright.ir.expr import const

    for name in ("i4", "u4", "f4e2m1"):
        d = DTYPES[name]
        codes = np.arange(16, dtype=np.uint8)
        if d.kind == "int":
            means = (codes.astype(np.int64) + 8) % 16 - 8 if name == "i4" else codes
        else:
            means = decode(codes, d)
        for code, value in zip(codes, means, strict=True):
            assert evaluate(decoded(const(int(code)), d), {}) == value
            if d.kind == "int" or value:
                number = const(float(value) if d.kind == "real" else int(value))
                assert evaluate(encoded(number, d), {}) == code
    for x in (0.25, 0.3, 0.75, 1.25, 1.3, 2.5, 3.5, 3.6, 5.0, 5.1, 100.0, -2.5, -0.3):
        wanted = int(encode(np.array([x]), DTYPES["f4e2m1"])[0])
        assert evaluate(encoded(const(x), DTYPES["f4e2m1"]), {}) == wanted


def test_ranks_and_first_places_are_not_quadratic() -> None:
    """The largest of a hundred thousand, all in order: found by sorting."""
    op = spec().operator("largest")
    x = np.round(RNG.standard_normal((1, 100_000)), 3)
    found = reference(op, {"x": x}, {}, {"K": x.size})
    np.testing.assert_array_equal(found["i"][0], np.argsort(-x[0], kind="stable"))
