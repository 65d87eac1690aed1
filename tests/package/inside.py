"""Runs inside a process that has emitted packages, numpy or torch, and no Opwright.

    python -S inside.py LIBRARY PACKAGES SITE_PACKAGES

prints one JSON object {check: null or its error}. Checks are the functions of this file that are
marked for the library; the other one cannot be imported.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

CHECKS: dict[str, dict[str, Callable[[], None]]] = {"numpy": {}, "torch": {}}


def check(*libraries: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def mark(function: Callable[[], None]) -> Callable[[], None]:
        for library in libraries:
            CHECKS[library][function.__name__] = function
        return function

    return mark


class Refused:
    """`with Refused(ValueError, "text"):` expects that error with that text."""

    def __init__(self, kind: type[BaseException], *texts: str) -> None:
        self.kind, self.texts = kind, texts

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        assert kind is not None, f"no {self.kind.__name__} with {self.texts}"
        assert issubclass(kind, self.kind), f"{kind.__name__}: {error}"
        for text in self.texts:
            assert text in str(error), f"{text!r} is not in {error!s}"
        return True


LIBRARY = ""


def lib() -> Any:
    return importlib.import_module(LIBRARY)


def array(values: Any, of: str = "float32") -> Any:
    m = lib()
    if LIBRARY == "numpy":
        return m.array(values, of)
    return m.tensor(values, dtype=getattr(m, of))


def floats(x: Any) -> Any:
    return x.tolist()


X = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [0.5] * 8]
W = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]
Y = [[0.5 * a * b for a, b in zip(row, W, strict=True)] for row in X]
T = [sum(row) for row in Y]


# -- both libraries -----------------------------------------------------------------------------


@check("numpy", "torch")
def known_calls_pass_python_by() -> None:
    import row_scale_k

    engine = row_scale_k._ENGINE
    assert engine._table is not None, "the compiled call does not load"
    x, w, y, t = array(X), array(W), array(Y) * 0, array(T) * 0
    row_scale_k.row_scale(x, w, alpha=0.5)
    row_scale_k.row_scale(x, w, alpha=0.5, out=(y, t))
    engine._careful, kept = None, engine._careful  # whoever needs a closer look fails now
    try:
        first = row_scale_k.row_scale(x, w, alpha=0.5)
        again = row_scale_k.row_scale(x, w, alpha=0.5, out=(y, t))
        with Refused(TypeError, "not callable"):
            row_scale_k.row_scale(x, w, alpha=0.25)
        for other in (x[:1], array([*X, *X]), array(X, "float16")):
            with Refused(TypeError, "not callable"):
                row_scale_k.row_scale(other, w, alpha=0.5)
    finally:
        engine._careful = kept
    assert type(first) is row_scale_k.RowScaleResult and type(again) is type(first)
    assert again[0] is y and again[1] is t
    assert floats(first.y) == floats(y) == Y and floats(first.t) == floats(t) == T


@check("numpy", "torch")
def known_calls_ask_for_the_rest() -> None:
    from row_scale_k import row_scale

    for _ in range(3):
        x, w = array(X), array(W)
        with Refused(ValueError, "shares memory"):
            row_scale(x, w, alpha=0.5, out=(x, array(T)))
        with Refused(TypeError, "must be"):
            row_scale(x, None, alpha=0.5)
        with Refused(ValueError):
            row_scale(x, w[:4], alpha=0.5)
        assert floats(row_scale(x, w, alpha=0.5).y) == Y
    if LIBRARY == "torch":
        with Refused(RuntimeError, "requires grad"):
            row_scale(x.requires_grad_(), w, alpha=0.5)
        with lib().no_grad():
            assert floats(row_scale(x, w, alpha=0.5).y) == Y
        meta = row_scale(x.detach().to("meta"), w.to("meta"), alpha=0.5)
        assert meta.y.device.type == "meta"
    else:
        x.flags.writeable = False
        assert floats(row_scale(x, w, alpha=0.5).y) == Y
        y = array(Y)
        y.flags.writeable = False
        with Refused(ValueError, "read-only"):
            row_scale(x, w, alpha=0.5, out=(y, array(T)))


@check("numpy", "torch")
def values_by_position_and_name() -> None:
    from row_scale_k import row_scale

    x, w = array(X), array(W)
    y, t = row_scale(x, w, alpha=0.5)
    assert type(y) is type(x) and floats(y) == Y and floats(t) == T
    named = row_scale(w=w, x=x, alpha=0.5, flip=True)
    assert floats(named.y) == [[-v for v in row] for row in Y] and named._fields == ("y", "t")


@check("numpy", "torch")
def default_param_is_its_formula_rounded_to_its_type() -> None:
    from row_scale_k import row_scale

    y, _ = row_scale(array(X), array(W))
    assert abs(floats(y)[0][0] - 8**-0.5) < 1e-7


@check("numpy", "torch")
def strides_go_to_a_variant_that_takes_them() -> None:
    from row_scale_k import explain, row_scale

    base = array([[v for v in row for _ in (0, 1)] for row in X])
    strided, w = base[:, ::2], array(W)
    assert floats(row_scale(strided, w, alpha=0.5).y) == Y
    told = explain(strided, w, alpha=0.5)
    assert told.chosen == "plain" and told.isa == "portable"
    assert "stride(x, 1) == 1 does not hold (stride(x, 1) = 2)" in str(told)
    transposed = array([list(column) for column in zip(*X, strict=True)]).T
    assert floats(row_scale(transposed, w, alpha=0.5).y) == Y


@check("numpy", "torch")
def large_strided_arrays_are_copied_for_the_tuned_variant() -> None:
    from row_scale_k import explain, row_scale

    base = array([[float((7 * i + j) % 13) for j in range(128)] for i in range(16)])
    w = array([float(j % 3) for j in range(64)])
    dense = array([row[::2] for row in floats(base)])
    strided = base[:, ::2]
    wanted = row_scale(dense, w, alpha=0.5)
    told = explain(strided, w, alpha=0.5)
    assert told.chosen == "aligned", told
    assert told.copied == ("x",) and "copied x to row-major" in str(told), told
    for _ in range(2):  # the second call finds its signature known
        got = row_scale(strided, w, alpha=0.5)
        assert floats(got.y) == floats(wanted.y) and floats(got.t) == floats(wanted.t)
    forced = explain(strided, w, alpha=0.5, implementation="plain")
    assert forced.chosen == "plain" and forced.copied == ()
    wide, t = array([[0.0] * 128] * 16), array([0.0] * 16)
    told = explain(strided, w, alpha=0.5, out=(wide[:, ::2], t))
    assert told.copied == ("x", "out") and "copied the results into out" in str(told)
    for _ in range(2):
        wide[...] = 0
        row_scale(strided, w, alpha=0.5, out=(wide[:, ::2], t))
        assert floats(wide[:, ::2]) == floats(wanted.y) and not any(map(any, floats(wide[:, 1::2])))
    for _ in range(2):  # reads are over before anything is written, and still it is refused
        with Refused(ValueError, "out (y) shares memory with x"):
            row_scale(strided, w, alpha=0.5, out=(base[:, 1::2], t))
        with Refused(ValueError, "out (t) shares memory with y"):
            row_scale(strided, w, alpha=0.5, out=(wide[:, ::2], wide[:, 4]))


@check("numpy", "torch")
def broadcast_and_overlapping_inputs_are_right() -> None:
    from row_scale_k import explain, row_scale

    line = array([float(j % 5) for j in range(160)])
    column = array([[float(j % 7)] for j in range(32)])
    w = array([1.0] * 64)
    if LIBRARY == "numpy":
        from numpy.lib.stride_tricks import as_strided

        repeated = lib().broadcast_to(column, (32, 64))
        windows = as_strided(line, (16, 64), (4, 8))
    else:
        repeated = column.expand(32, 64)
        windows = line.as_strided((16, 64), (1, 2))
    for x in (repeated, windows):
        told = explain(x, w, alpha=0.5)
        assert told.chosen != "plain" and told.copied == ("x",), told
        rows = floats(x)
        got = row_scale(x, w, alpha=0.5)
        assert floats(got.y) == [[0.5 * v for v in row] for row in rows]


@check("numpy", "torch")
def dispatch_takes_the_first_variant_whose_guards_hold() -> None:
    from row_scale_k import explain

    x, w = array([row * 8 for row in X]), array(W * 8)
    first = explain(x[:, 1:57], array(W * 7))
    assert [name for name, _, _ in first.variants] == ["aligned", "dense", "plain"]
    assert first.chosen == "dense" and "alignment(x)" in first.variants[0][2], first
    assert explain(x[:, :9], w[:9]).chosen == "plain"
    assert first.types == {"T": "f32"}
    assert not explain(x, w, flip=True).variants[0][1]


@check("numpy", "torch")
def implementation_is_forced_or_refused() -> None:
    from row_scale_k import row_scale

    x, w = array(X), array(W)
    assert floats(row_scale(x, w, alpha=0.5, implementation="plain").y) == Y
    with Refused(ValueError, "dense", "N % 8 == 0 does not hold (N = 7)"):
        row_scale(x[:, :7], w[:7], implementation="dense")
    assert row_scale(x[:, :7], w[:7], implementation=["dense", "plain"]).y.shape == (2, 7)
    with Refused(ValueError, "no variant 'fast'; there are aligned, dense, plain"):
        row_scale(x, w, implementation="fast")


@check("numpy", "torch")
def out_takes_the_result() -> None:
    from row_scale_k import row_scale

    x, w = array(X), array(W)
    y, t = array([[0.0] * 8] * 2), array([0.0] * 2)
    for out in ((y, t), {"t": t, "y": y}, [y, t]):
        got = row_scale(x, w, alpha=0.5, out=out)
        assert got.y is y and got.t is t and floats(y) == Y and floats(t) == T
        y[...] = 0
        row_scale(x, w, alpha=0.5, out=out)
        assert floats(y) == Y
    wide = array([[0.0] * 16] * 2)
    row_scale(x, w, alpha=0.5, out=(wide[:, ::2], t))
    assert floats(wide[:, ::2]) == Y and floats(wide[:, 1::2]) == [[0.0] * 8] * 2


@check("numpy", "torch")
def out_is_refused_when_it_cannot_take_the_result() -> None:
    from row_scale_k import row_scale

    x, w, t = array(X), array(W), array([0.0] * 2)
    with Refused(ValueError, "out (y) shares memory with x"):
        row_scale(x, w, out=(x, t))
    y = array([[0.0] * 8] * 2)
    row_scale(x, w, alpha=0.5, out=(y, t))
    with Refused(ValueError, "out (t) shares memory with y"):
        row_scale(x, w, out=(y, y[0, :2]))
    with Refused(ValueError, "out (y) shares memory with x"):  # also once the signature is known
        row_scale(y, w, out=(y, t))
    with Refused(ValueError, "out (y) must have the shape (2, 8), not (2, 7)"):
        row_scale(x, w, out=(y[:, :7], t))
    with Refused(TypeError, "y: f32", "float64"):
        row_scale(x, w, out=(array([[0.0] * 8] * 2, "float64"), t))
    with Refused(TypeError, "out must be 2 arrays (y, t)"):
        row_scale(x, w, out=y)


@check("numpy", "torch")
def wrong_arguments_are_named() -> None:
    from row_scale_k import row_scale

    x, w = array(X), array(W)
    with Refused(ValueError, "w axis 0 must be N = 8 (from x axis 1), not 7"):
        row_scale(x, w[:7])
    with Refused(ValueError, "x must have 2 axes (B, N), not 1"):
        row_scale(w, w)
    with Refused(ValueError, "where 1 <= N does not hold (N = 0)"):
        row_scale(x[:, :0], w[:0])
    with Refused(ValueError, "where 0.0 < alpha does not hold (alpha = -1.0)"):
        row_scale(x, w, alpha=-1)
    with Refused(TypeError, "takes (x: f32, w: f32) or (x: bf16, w: f32)", "float64"):
        row_scale(array(X, "float64"), w)
    with Refused(TypeError, "x must be a numpy array or a torch tensor, not builtins.list"):
        row_scale(X, w)
    with Refused(TypeError, "alpha takes a number"):
        row_scale(x, w, alpha="big")
    with Refused(TypeError, "flip takes True or False"):
        row_scale(x, w, flip=2)
    with Refused(TypeError, "alpha takes a Python number" if LIBRARY == "torch" else "alpha takes"):
        row_scale(x, w, alpha=w)


@check("numpy", "torch")
def empty_tensors() -> None:
    from pick_rows_k import pick_rows
    from row_scale_k import row_scale

    y, t = row_scale(array(X)[:0], array(W))
    assert tuple(y.shape) == (0, 8) and tuple(t.shape) == (0,)
    none = pick_rows(array(X), array([], "int32"))
    assert tuple(none.shape) == (0, 8)


@check("numpy", "torch")
def values_of_indices_are_checked() -> None:
    from pick_rows_k import pick_rows

    a = array(X)
    assert floats(pick_rows(a, array([0, 1, 1], "int32"))) == [X[0], X[1], X[1]]
    with Refused(ValueError, "requires in_range: all[n: N](0 <= i[n] and i[n] < V)", "at n = 2"):
        pick_rows(a, array([0, 1, 2], "int32"))
    with Refused(ValueError, "requires ordered", "at n = 1"):
        pick_rows(a, array([0, 1, 0], "int32"))
    assert floats(pick_rows(a, array([1, 0], "int32"), check=False)) == [X[1], X[0]]


@check("numpy", "torch")
def leading_axes_free_and_solved_sizes() -> None:
    from spread_k import explain, spread

    x, e = array([[[1.0], [2.0], [3.0]]] * 2), array([10.0, 20.0])
    y = spread(x, e, K=3)
    assert floats(y) == [[[v + 10, v + 20, v + 10] for v in (1.0, 2.0, 3.0)]] * 2
    assert floats(spread(x, e, K=3, E=1)) == floats(y)
    swapped = x.swapaxes(0, 1)  # the leading axes do not lie in memory as one
    assert floats(spread(swapped, e, K=2)) == [[[v + 10, v + 20]] * 2 for v in (1.0, 2.0, 3.0)]
    assert tuple(spread(x[0, 0], e, K=2).shape) == (2,)
    assert explain(x, e, K=1).chosen == "plain"
    with Refused(TypeError, "K follows from no input; pass it by keyword"):
        spread(x, e)
    with Refused(ValueError, "e axis 0 must be E + 1 = 6 (E = 5), not 2"):
        spread(x, e, K=1, E=5)
    with Refused(ValueError, "K is a size"):
        spread(x, e, K=-1)
    with Refused(ValueError, "no E makes of E + 1"):
        spread(x, e[:0], K=1)
    out = array([[0.0] * 3] * 6).reshape(2, 3, 3)
    assert spread(x, e, K=3, out=out) is out and floats(out) == floats(y)


@check("numpy", "torch")
def an_output_may_replace_the_input_that_it_updates() -> None:
    from accumulate_k import accumulate

    old, x = array([1.0, 2.0, 3.0]), array([1.0, 1.0, 1.0])
    assert floats(accumulate(old, x, 2.0)) == [3.0, 3.0, 4.0]
    assert floats(accumulate(old, x, array(2.0))) == [3.0, 3.0, 4.0]
    with Refused(ValueError, "out (now) shares memory with x"):
        accumulate(old, x, 2.0, out=x)
    assert accumulate(old, x, 2.0, out=old) is old and floats(old) == [3.0, 3.0, 4.0]


@check("numpy", "torch")
def a_type_that_no_input_has_goes_by_name_or_by_out() -> None:
    from ramp_k import explain, ramp

    with Refused(TypeError, "may mean T='f32' or T='f16'; pass one of them by keyword"):
        ramp(K=2)
    y = ramp(K=2, T="f16", start=5)
    assert type(y).__module__.partition(".")[0] == LIBRARY and "16" in str(y.dtype)
    assert floats(y) == [[5.0, 15.0], [6.0, 16.0]]
    strides = y.strides if LIBRARY == "numpy" else [2 * s for s in y.stride()]
    assert tuple(strides) == (2, 4), "columns lie in memory one after the other"
    out = array([[0.0, 0.0]])
    assert ramp(K=1, out=out) is out and floats(out) == [[0.0, 10.0]]
    with Refused(TypeError, "with T = f64"):
        ramp(K=1, T="f64")
    with Refused(ValueError, "start = 2147483648 is outside i32"):
        ramp(K=1, T="f32", start=1 << 31)
    assert explain(K=3, T="f32").types == {"T": "f32"}
    assert tuple(ramp(K=0, T="f32").shape) == (0, 2)


@check("numpy", "torch")
def calls_from_threads_agree() -> None:
    from row_scale_k import row_scale

    x, w, wrong = array(X), array(W), []

    def work() -> None:
        for _ in range(200):
            if floats(row_scale(x, w, alpha=0.5).y) != Y:
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert not wrong


@check("numpy", "torch")
def selftest_compares_every_variant() -> None:
    import row_scale_k

    rows = row_scale_k.selftest(LIBRARY)
    labels = {label for label, _, _ in rows}
    assert "f32 3x8 [dense]" in labels and "bf16 2x5 [plain]" in labels
    assert "f32 2x5 [dense]" not in labels
    assert all(count > 0 and 0 <= worst <= 1 for _, count, worst in rows)


@check("numpy", "torch")
def a_failing_kernel_is_a_memory_error() -> None:
    from fails_k import fails

    with Refused(MemoryError, "fails: the kernel could not allocate"):
        fails(array(X), array([0], "int32"))


@check("numpy", "torch")
def nothing_of_opwright_is_importable() -> None:
    assert importlib.util.find_spec("opwright") is None
    other = "torch" if LIBRARY == "numpy" else "numpy"
    assert sys.modules[other] is None


# -- numpy ----------------------------------------------------------------------------------------


@check("numpy")
def bf16_is_ml_dtypes_or_raw_bits() -> None:
    import ml_dtypes
    import numpy as np
    from row_scale_k import explain, row_scale

    w = array(W)
    raw = row_scale(np.array(X, ml_dtypes.bfloat16).view(np.uint16), w, alpha=0.5)
    assert raw.y.dtype == np.uint16
    wide = row_scale(np.array(X, ml_dtypes.bfloat16), w, alpha=0.5)
    assert wide.y.dtype == ml_dtypes.bfloat16 and wide.y.astype(float).tolist() == Y
    assert (wide.y.view(np.uint16) == raw.y).all()
    assert row_scale(np.array(X, np.float16), w, alpha=0.5).y.dtype == np.float16
    assert explain(np.array(X, ml_dtypes.bfloat16), w).types == {"T": "bf16"}
    with Refused(TypeError, "not (x: uint16, w: float32) with T = f32"):
        row_scale(raw.y, w, T="f32")


@check("numpy")
def odd_numpy_arrays() -> None:
    import numpy as np
    from row_scale_k import row_scale

    w = array(W)
    x = np.array(X, "f4")
    record = np.zeros((2, 8), [("pad", "i1"), ("x", "f4")])
    record["x"] = X
    assert row_scale(record["x"], w, alpha=0.5).y.tolist() == Y  # strides of 5 bytes
    memory = np.zeros(65, np.uint8)
    odd = memory[1:65].view(np.float32).reshape(2, 8)
    odd[...] = X
    row_scale(x, w, alpha=0.5)  # the signature of `odd`, well aligned
    assert row_scale(odd, w, alpha=0.5).y.tolist() == Y
    assert row_scale(x[::-1, ::-1], w[::-1], alpha=0.5).y.tolist() == [r[::-1] for r in Y[::-1]]
    assert row_scale(np.broadcast_to(x[:1], (3, 8)), w, alpha=0.5).y.tolist() == [Y[0]] * 3
    locked = x.copy()
    locked.flags.writeable = False
    assert row_scale(locked, w, alpha=0.5).y.tolist() == Y
    y, t = np.zeros((2, 8), "f4"), np.zeros(2, "f4")
    row_scale(x, w, out=(y, t))
    y.flags.writeable = False
    with Refused(ValueError, "out (y) is read-only"):
        row_scale(x, w, out=(y, t))
    with Refused(ValueError, "elements of out (y) share memory"):
        row_scale(x, w, out=(np.lib.stride_tricks.as_strided(t, (2, 8), (4, 4)), t[:2].copy()))
    with Refused(TypeError, "x is a numpy.matrix; pass a plain numpy array"):
        row_scale(np.matrix(X, "f4"), w)
    with Refused(TypeError, ">f4"):
        row_scale(x.astype(">f4"), w)


@check("numpy")
def a_broken_library_falls_to_the_next_variant_with_a_warning() -> None:
    import row_scale_k

    engine = row_scale_k._Engine(row_scale_k._SPEC, row_scale_k._ENGINE.folder)
    variant = engine.spec.bindings[0].variants[1]
    whole, variant.libraries = variant.libraries, {"portable": "_native/missing.so"}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            given = (0.5, None, None)
            y, _ = engine.call((array(X), array(W)), given)
            told = engine.explain((array(X), array(W)), given, None, None)
    finally:
        variant.libraries = whole
    assert y.tolist() == Y
    if told.chosen != "aligned":
        assert len(caught) == 1 and "missing.so" in str(caught[0].message)
    assert "its library cannot be used" in str(told)


# -- torch ----------------------------------------------------------------------------------------


@check("torch")
def registered_operator_passes_opcheck() -> None:
    import pick_rows_k.torch
    import ramp_k.torch
    import row_scale_k.torch
    import spread_k.torch
    import torch

    operator = row_scale_k.torch.OPERATOR
    assert operator.functional is torch.ops.row_scale_k.row_scale.default
    for of in (torch.float32, torch.bfloat16):
        x, w = torch.tensor(X, dtype=of), torch.tensor(W)
        for arrangement in (x, x.T.contiguous().T, x[:, ::2]):
            weights = w[: arrangement.shape[1]]
            found = torch.library.opcheck(
                operator.functional, (arrangement, weights), {"alpha": 0.5}
            )
            assert set(found.values()) == {"SUCCESS"}, found
        outs = {"out_y": torch.empty_like(x), "out_t": torch.empty(2)}
        found = torch.library.opcheck(operator.out, (x, w), outs)
        assert set(found.values()) == {"SUCCESS"}, found
    e = torch.tensor([1.0, 2.0])
    for lead in ((), (2,), (2, 3)):
        found = torch.library.opcheck(spread_k.torch.spread, (torch.ones(*lead, 1), e), {"K": 4})
        assert set(found.values()) == {"SUCCESS"}, found
    found = torch.library.opcheck(ramp_k.torch.ramp, (), {"K": 3, "T": "f16"})
    assert set(found.values()) == {"SUCCESS"}, found
    ids = torch.tensor([0, 1], dtype=torch.int32)
    found = torch.library.opcheck(pick_rows_k.torch.pick_rows, (torch.ones(2, 8), ids))
    assert set(found.values()) == {"SUCCESS"}, found


@check("torch")
def compiles_as_one_graph_with_dynamic_shapes() -> None:
    import torch
    from accumulate_k import accumulate
    from pick_rows_k import pick_rows
    from ramp_k import ramp
    from row_scale_k import row_scale
    from spread_k import spread

    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def model(x: Any, w: Any) -> Any:
        y, t = row_scale(x * 2, w, alpha=0.25)
        return y + 0, t

    once = torch.compile(model, fullgraph=True, backend="aot_eager")
    y, t = once(torch.tensor(X), torch.tensor(W))
    assert y.tolist() == Y and t.tolist() == T
    dynamic = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for rows in (2, 5, 9):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(dynamic(x, torch.tensor(W))[0], 0.5 * x * torch.tensor(W))
    assert len(graphs) == 1, "recompiled"

    def into(x: Any, w: Any) -> Any:
        y, t = torch.zeros_like(x), torch.zeros(x.shape[0])
        row_scale(x, w, alpha=0.5, out=(y, t))
        return y + 0

    assert (
        torch.compile(into, fullgraph=True, backend="aot_eager")(
            torch.tensor(X), torch.tensor(W)
        ).tolist()
        == Y
    )
    e = torch.tensor([10.0, 20.0])
    wide = torch.compile(lambda x: spread(x, e, K=3) * 1, fullgraph=True, backend="aot_eager")
    assert wide(torch.ones(2, 2, 1)).tolist() == [[[11.0, 21.0, 11.0]] * 2] * 2
    running = torch.compile(
        lambda old, x: accumulate(old, x, 2.0), fullgraph=True, backend="aot_eager"
    )
    assert running(torch.ones(2), torch.ones(2)).tolist() == [3.0, 3.0]
    made = torch.compile(lambda: ramp(K=2, T="f32") + 0, fullgraph=True, backend="aot_eager")
    assert made().tolist() == [[0.0, 10.0], [1.0, 11.0]]
    chosen = torch.compile(lambda a, i: pick_rows(a, i, implementation="plain"), fullgraph=True,
                           backend="aot_eager")  # fmt: skip
    assert chosen(torch.tensor(X), torch.tensor([1], dtype=torch.int32)).tolist() == [X[1]]


@check("torch")
def compiles_with_inductor() -> None:
    import torch
    from row_scale_k import row_scale

    graph = torch.compile(
        lambda x, w: row_scale(x.T.contiguous().T, w, alpha=0.5).y * 1, fullgraph=True
    )
    assert graph(torch.tensor(X), torch.tensor(W)).tolist() == Y


@check("torch")
def gradients_are_refused_not_dropped() -> None:
    import torch
    from row_scale_k import row_scale
    from row_scale_k import torch as registered

    x, w = torch.tensor(X), torch.tensor(W)
    needs = x.clone().requires_grad_()
    for call in (row_scale, registered.row_scale):
        with Refused(RuntimeError, "no backward", "torch.no_grad()"):
            call(needs, w)
        with torch.no_grad():
            assert call(needs, w, alpha=0.5)[0].tolist() == Y
    with Refused(RuntimeError, "no backward"):
        row_scale(x, w, out=(needs * 1, torch.empty(2)))
    with torch.inference_mode():
        assert row_scale(x, w, alpha=0.5).y.tolist() == Y
    parameter = torch.nn.Parameter(torch.tensor(W))
    with Refused(RuntimeError, "no backward"):
        row_scale(x, parameter)
    with torch.no_grad():
        assert row_scale(x, parameter, alpha=0.5).y.tolist() == Y
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with Refused(RuntimeError, "forward-mode"):
            row_scale(dual, w)
        assert row_scale(x, w, alpha=0.5).y.tolist() == Y


@check("torch")
def other_devices_layouts_and_subclasses() -> None:
    import torch
    from row_scale_k import row_scale

    x, w = torch.tensor(X), torch.tensor(W)
    meta = row_scale(x.to("meta"), w.to("meta"))
    assert meta.y.device.type == "meta" and meta.t.shape == (2,)
    with Refused(TypeError, "x has the layout torch.sparse_coo; pass a dense tensor"):
        row_scale(x.to_sparse(), w)
    mixed = torch.complex(x, x).conj().imag  # a view that is negated lazily
    assert row_scale(-mixed, w, alpha=0.5).y.tolist() == Y
    assert row_scale(mixed, w, alpha=0.5).y.tolist() == [[-v for v in row] for row in Y]

    class Logged(torch.Tensor):
        seen: ClassVar[list[Any]] = []

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            cls.seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    y = row_scale(x.as_subclass(Logged), w, alpha=0.5).y
    assert y.tolist() == Y and torch.ops.row_scale_k.row_scale.default in Logged.seen
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            Count.calls += "row_scale" in str(func)
            return func(*args, **(kwargs or {}))

    with Count():
        row_scale(x, w)
    assert Count.calls == 1
    batched = torch.vmap(lambda a: row_scale(a, w, alpha=0.5).y)(torch.stack([x, x]))
    assert batched.tolist() == [Y, Y]


@check("torch")
def torch_is_not_registered_before_it_is_needed() -> None:
    import subprocess

    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import torch, row_scale_k; "
        "row_scale_k.row_scale(torch.ones(1, 8), torch.ones(8)); "
        "assert not hasattr(torch.ops.row_scale_k, 'row_scale'); import row_scale_k.torch; "
        "assert hasattr(torch.ops.row_scale_k, 'row_scale')"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code, *sys.path[:2]], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-800:]


def main() -> None:
    global LIBRARY
    LIBRARY, packages, site = sys.argv[1:4]
    sys.path[:0] = [packages, site]
    sys.modules["torch" if LIBRARY == "numpy" else "numpy"] = None  # type: ignore[assignment]
    here = str(pathlib.Path(__file__).parent)
    sys.path[:] = [p for p in sys.path if p != here]
    report: dict[str, str | None] = {}
    for name, function in CHECKS[LIBRARY].items():
        try:
            function()
            report[name] = None
        except BaseException:
            report[name] = traceback.format_exc()[-3000:]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
