"""The shipped operators as ONNX models, and calls of ONNX Runtime on them.

Inputs and outputs are bound once in mode `out`; `onnxruntime (packed)` has weights as constants,
which the runtime lays out ahead. What the runtime cannot load is a reason, never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.expr import evaluate
from opwright.ir.op import Operator

Call = Callable[[], object]
OPSET = 20
NAME, PACKED = "onnxruntime", "onnxruntime (packed)"


class _Graph:
    """Nodes in order; a node's outputs are named by it, and `params` are the operator's."""

    def __init__(self, onnx: Any, params: Mapping[str, Any]) -> None:
        self.onnx, self.params = onnx, params
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{n}" for n in range(outputs)]
        made = self.onnx.helper.make_node(kind, list(inputs), names, **attributes)
        self.nodes.append(made)
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(value, dtype), name))
        return name


@dataclass(frozen=True, slots=True)
class _Model:
    """`build` gives the value of each output in order; `weights` may be constants."""

    build: Callable[[_Graph], tuple[str, ...]]
    weights: tuple[str, ...] = ()


def _layernorm(g: _Graph) -> tuple[str, ...]:
    eps = float(g.params["eps"])
    y, mean, rstd = g("LayerNormalization", "x", "gamma", "beta", outputs=3, axis=-1, epsilon=eps)
    axis = g.constant([1], np.int64)
    return y, g("Squeeze", mean, axis), g("Squeeze", rstd, axis)


def _rmsnorm(g: _Graph) -> tuple[str, ...]:
    mean = g("ReduceMean", g("Mul", "x", "x"), g.constant([-1], np.int64), keepdims=1)
    root = g("Sqrt", g("Add", mean, g.constant(float(g.params["eps"]))))
    return (g("Mul", g("Div", "x", root), "gamma"),)


def _conv(g: _Graph) -> tuple[str, ...]:
    stride, pad, step = (int(g.params[n]) for n in ("stride", "pad", "dilation"))
    options: dict[str, Any] = {"strides": [stride] * 2, "pads": [pad] * 4, "dilations": [step] * 2}
    return (g("Relu", g("Conv", "x", "w", "bias", **options)),)


def _linear_gelu(g: _Graph) -> tuple[str, ...]:
    return (g("Gelu", g("Add", g("MatMul", "x", "w"), "bias")),)


def _loss(g: _Graph) -> tuple[str, ...]:
    log = g("LogSoftmax", "x", axis=-1)
    one = g.constant([1], np.int64)
    taken = g("GatherElements", log, g("Unsqueeze", "target_class", one), axis=1)
    return (g("Neg", g("Squeeze", taken, one)),)


def _sum(axis: int) -> _Model:
    return _Model(lambda g: (g("ReduceSum", "x", g.constant([axis], np.int64), keepdims=0),))


def _unary(kind: str, **attributes: str) -> _Model:
    """One node on x; attributes are params by name."""
    return _Model(lambda g: (_node(g, kind, attributes),))


def _node(g: _Graph, kind: str, attributes: Mapping[str, str]) -> str:
    given: dict[str, Any] = {k: float(g.params[v]) for k, v in attributes.items()}
    return str(g(kind, "x", **given))


def _reduced(kind: str) -> _Model:
    return _Model(lambda g: (g(kind, "x", g.constant([-1], np.int64), keepdims=0),))


def _gated_mlp(g: _Graph) -> tuple[str, ...]:
    gate = g("MatMul", "x", "gate")
    hidden = g("Mul", g("Mul", gate, g("Sigmoid", gate)), g("MatMul", "x", "up"))
    return (g("MatMul", hidden, "down"),)


def _grouped_conv(g: _Graph) -> tuple[str, ...]:
    stride, pad = int(g.params["stride"]), int(g.params["pad"])
    group = int(g.params["size:C"]) // int(g.params["size:I"])
    options: dict[str, Any] = {"strides": [stride] * 2, "pads": [pad] * 4, "group": group}
    return (g("Conv", "x", "w", **options),)


MODELS: dict[str, _Model] = {
    "softmax": _Model(lambda g: (g("Softmax", "x", axis=-1),)),
    "log_softmax": _Model(lambda g: (g("LogSoftmax", "x", axis=-1),)),
    "layernorm": _Model(_layernorm),
    "rmsnorm": _Model(_rmsnorm),
    "gelu": _Model(lambda g: (g("Gelu", "x"),)),
    "gelu_tanh": _Model(lambda g: (g("Gelu", "x", approximate="tanh"),)),
    "silu": _Model(lambda g: (g("Mul", "x", g("Sigmoid", "x")),)),
    "matmul": _Model(lambda g: (g("MatMul", "a", "b"),), ("b",)),
    "batched_matmul": _Model(lambda g: (g("MatMul", "x", "y"),), ("y",)),
    "matmul_bias_gelu": _Model(_linear_gelu, ("w", "bias")),
    "transpose": _Model(lambda g: (g("Transpose", "x", perm=[1, 0]),)),
    "conv2d_bias_relu": _Model(_conv, ("w", "bias")),
    "embedding": _Model(lambda g: (g("Gather", "table", "ids", axis=0),)),
    "cross_entropy": _Model(_loss),
    "argmax": _Model(lambda g: (g("ArgMax", "x", axis=-1, keepdims=0),)),
    "cumsum": _Model(lambda g: (g("CumSum", "x", g.constant(-1, np.int64)),)),
    "row_sum": _sum(-1),
    "column_sum": _sum(0),
    "relu": _unary("Relu"),
    "elu": _unary("Elu", alpha="alpha"),
    "celu": _unary("Celu", alpha="alpha"),
    "selu": _unary("Selu"),
    "leaky_relu": _unary("LeakyRelu", alpha="slope"),
    "hardswish": _unary("HardSwish"),
    "hardsigmoid": _Model(lambda g: (g("HardSigmoid", "x", alpha=1 / 6, beta=0.5),)),
    "mish": _unary("Mish"),
    "softplus": _unary("Softplus"),
    "softsign": _unary("Softsign"),
    "logistic": _unary("Sigmoid"),
    "tanh_act": _unary("Tanh"),
    "matmul_bt": _Model(lambda g: (g("Gemm", "a", "b", transB=1),), ("b",)),
    "matmul_at": _Model(lambda g: (g("Gemm", "a", "b", transA=1),), ("b",)),
    "matmul_4d": _Model(lambda g: (g("MatMul", "x", "w"),), ("w",)),
    "row_max": _reduced("ReduceMax"),
    "row_min": _reduced("ReduceMin"),
    "row_mean": _reduced("ReduceMean"),
    "logsumexp": _reduced("ReduceLogSumExp"),
    "argmin": _Model(lambda g: (g("ArgMin", "x", axis=-1, keepdims=0),)),
    "swiglu": _Model(lambda g: (g("Mul", g("Mul", "gate", g("Sigmoid", "gate")), "up"),)),
    "geglu": _Model(lambda g: (g("Mul", g("Gelu", "gate"), "up"),)),
    "gated_mlp": _Model(_gated_mlp, ("gate", "up", "down")),
    "grouped_conv2d": _Model(_grouped_conv, ("w",)),
    "global_avg_pool": _Model(
        lambda g: (g("ReduceMean", "x", g.constant([2, 3], np.int64), keepdims=0),)
    ),
}


def onnx_calls(
    op: Operator,
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    inputs: Mapping[str, NDArray[Any]],
    threads: int,
) -> dict[tuple[str, str], Call | str]:
    """Calls by (implementation, mode), warmed up, or why there is none; empty without a model."""
    model = MODELS.get(op.name)
    if model is None:
        return {}
    modes = ("out", "fresh")
    try:
        import onnx
        import onnxruntime
    except ImportError as e:
        return {(NAME, m): f"{e.name or 'onnxruntime'} is not installed" for m in modes}
    if any(t.dtype.kind == "real" and t.dtype.name != "f32" for t in op.inputs):
        return {(NAME, m): "onnxruntime: measured in f32 only" for m in modes}
    env = {**sizes, **params}
    shapes = {t.name: [int(evaluate(e, env)) for e in t.shape] for t in op.outputs}
    out: dict[tuple[str, str], Call | str] = {}
    for name, constant in ((NAME, ()), (PACKED, model.weights)):
        if name == PACKED and not constant:
            continue
        try:
            session = _session(onnx, onnxruntime, op, model, params, inputs, constant, threads)
            given = {k: v for k, v in inputs.items() if k not in constant}
            out[name, "out"] = _bound(onnxruntime, op, session, given, shapes)
            if name == NAME:
                out[name, "fresh"] = _fresh(op, session, given)
        except Exception as e:
            first = (str(e).strip().splitlines() or [type(e).__name__])[0]
            out |= {(name, m): f"onnxruntime: {first[:120]}" for m in modes}
    return out


def _session(
    onnx: Any,
    onnxruntime: Any,
    op: Operator,
    model: _Model,
    params: Mapping[str, Any],
    inputs: Mapping[str, NDArray[Any]],
    constant: tuple[str, ...],
    threads: int,
) -> Any:
    helper = onnx.helper
    g = _Graph(onnx, params)
    values = model.build(g)
    for value, t in zip(values, op.outputs, strict=True):
        g.nodes.append(helper.make_node("Identity", [value], [f"out_{t.name}"]))
    kinds = {"f32": onnx.TensorProto.FLOAT, "i64": onnx.TensorProto.INT64}
    kinds["i32"] = onnx.TensorProto.INT32
    graph = helper.make_graph(
        g.nodes,
        op.name,
        [
            helper.make_tensor_value_info(t.name, kinds[t.dtype.name], inputs[t.name].shape)
            for t in op.inputs
            if t.name not in constant
        ],
        [
            helper.make_tensor_value_info(
                f"out_{t.name}", kinds[t.dtype.name], [None] * len(t.axes)
            )
            for t in op.outputs
        ],
        [*g.constants, *(onnx.numpy_helper.from_array(inputs[n], n) for n in constant)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    made.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _bound(
    onnxruntime: Any,
    op: Operator,
    session: Any,
    given: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, list[int]],
) -> Call:
    """A call on memory that is bound once."""
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    binding = session.io_binding()
    for name, a in given.items():
        binding.bind_ortvalue_input(name, value(a))
    for t in op.outputs:
        kept = value(np.empty(shapes[t.name], t.dtype.storage))
        binding.bind_ortvalue_output(f"out_{t.name}", kept)

    def call() -> object:
        return session.run_with_iobinding(binding)

    call()
    return call


def _fresh(op: Operator, session: Any, given: Mapping[str, NDArray[Any]]) -> Call:
    names = [t.name for t in op.outputs]

    def call() -> object:
        return dict(zip(names, session.run(None, given), strict=True))

    call()
    return call
