"""The rest of the library in PyTorch's own functions, one line each where that is possible.

JAX rivals of these are the operators' definitions as printed for JAX (`printed`). With
`baselines.py` and `onnx_models.py` the place besides the specs where operators have names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opwright.ir.op import Operator

Torch = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], Any]


def _f(torch: Any) -> Any:
    return torch.nn.functional


def _unary(name: str, *params: str, **fixed: Any) -> Torch:
    """A function of `torch.nn.functional` on x, with params by position."""
    return lambda torch, x, p: getattr(_f(torch), name)(x["x"], *(p[n] for n in params), **fixed)


def _pool(name: str, window: tuple[str, ...], **fixed: Any) -> Torch:
    def call(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
        size = [p["size:" + n] for n in window]
        more = {"dilation": p["dilation"]} if "dilation" in p else {}
        return getattr(_f(torch), name)(x["x"], size, p["stride"], p["pad"], **fixed, **more)

    return call


def _mean(loss: str, *names: str, **renamed: str) -> Torch:
    def call(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
        given = [x[n].float() for n in names]
        return getattr(_f(torch), loss)(*given, **{k: p[v] for k, v in renamed.items()})

    return call


def _attention(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any], bias: Any) -> Any:
    attend = _f(torch).scaled_dot_product_attention
    return attend(x["q"], x["k"], x["v"], attn_mask=bias, scale=p["scale"])


def _alibi(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    n = x["q"].shape[2]
    i = torch.arange(n)
    far = (i[:, None] - i[None, :]).to(torch.float32)
    bias = -x["slope"][:, None, None] * far
    bias = bias.masked_fill(far < 0, -torch.inf).to(x["q"].dtype)
    return _attention(torch, x, p, bias)


def _window(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    i = torch.arange(x["q"].shape[2])
    far = i[:, None] - i[None, :]
    return _attention(torch, x, p, (far >= 0) & (far < p["window"]))


def _rope(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    a, b = x["x"].float().chunk(2, -1)
    c, s = x["cosine"], x["sine"]
    return torch.cat([a * c - b * s, b * c + a * s], -1).to(x["x"].dtype)


def _grouped_conv(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    groups = x["x"].shape[1] // x["w"].shape[1]
    return _f(torch).conv2d(x["x"], x["w"], None, p["stride"], p["pad"], groups=groups)


def _depthwise(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    w, groups = x["w"][:, None], x["x"].shape[1]
    return _f(torch).conv2d(x["x"], w, None, p["stride"], p["pad"], groups=groups)


def _causal_conv1d(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    c, r = x["w"].shape
    padded = _f(torch).pad(x["x"], (r - 1, 0))
    return _f(torch).silu(_f(torch).conv1d(padded, x["w"][:, None], x["bias"], groups=c))


def _conv(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any], name: str, **more: Any) -> Any:
    return getattr(_f(torch), name)(x["x"], x["w"], x.get("bias"), p["stride"], p["pad"], **more)


def _linear(torch: Any, x: Mapping[str, Any]) -> Any:
    return _f(torch).linear(x["x"], x["w"], x["bias"])


def _gated_mlp(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    return (_f(torch).silu(x["x"] @ x["gate"]) * (x["x"] @ x["up"])) @ x["down"]


def _linear_loss(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    logits = (x["x"] @ x["w"].T).float()
    return _f(torch).cross_entropy(logits, x["target_class"], reduction="none")


def _clamped_logsumexp(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    c = (2 * _linear(torch, x).float()).clamp(-p["clamp"], p["clamp"])
    s = torch.logsumexp(c, -1)
    return s * _f(torch).mish(s)


def _groupnorm(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    a = x["x"]
    n, c, s = a.shape
    made = torch.native_group_norm
    y, mean, rstd = made(a, x["gamma"], x["beta"], n, c, s, p["size:G"], p["eps"])
    return {"y": y, "mean": mean.float(), "rstd": rstd.float()}


def _batchnorm(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    mean, var = x["mean_in"].clone(), x["var_in"].clone()
    norm = _f(torch).batch_norm
    y = norm(x["x"], mean, var, x["gamma"], x["beta"], True, p["momentum"], p["eps"])
    return {"y": y, "running_mean": mean, "running_var": var}


def _batchnorm_inference(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    norm = _f(torch).batch_norm
    return norm(x["x"], x["mean"], x["variance"], x["gamma"], x["beta"], False, 0.0, p["eps"])


def _add_rmsnorm(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    h = x["x"] + x["residual"]
    return {"y": _f(torch).rms_norm(h, (h.shape[-1],), x["gamma"], p["eps"]), "sum_out": h}


def _variance(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    var, mean = torch.var_mean(x["x"].float(), -1, correction=p["correction"])
    return {"var": var, "mean": mean}


def _column_max(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    y, at = x["x"].max(0)
    return {"y": y, "at": at}


def _adam(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    g = x["g"].float()
    m = p["beta1"] * x["m_in"] + (1 - p["beta1"]) * g
    v = p["beta2"] * x["v_in"] + (1 - p["beta2"]) * g * g
    w = x["w_in"] * (1 - p["rate"] * p.get("decay", 0.0))
    root = (v / p["correction2"]).sqrt() + p["eps"]
    return {"w": w - p["rate"] * (m / p["correction1"]) / root, "m": m, "v": v}


def _lion(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    c = p["beta1"] * x["m_in"] + (1 - p["beta1"]) * x["g"]
    w = x["w_in"] * (1 - p["rate"] * p["decay"]) - p["rate"] * c.sign()
    return {"w": w, "m": p["beta2"] * x["m_in"] + (1 - p["beta2"]) * x["g"]}


def _rmsprop(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    v = p["alpha"] * x["v_in"] + (1 - p["alpha"]) * x["g"] * x["g"]
    return {"w": x["w_in"] - p["rate"] * x["g"] / (v.sqrt() + p["eps"]), "v": v}


def _sgd(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    m = p["momentum"] * x["m_in"] + x["g"] + p["decay"] * x["w_in"]
    return {"w": x["w_in"] - p["rate"] * m, "m": m}


def _exclusive(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    return _f(torch).pad(x["x"].float().cumsum(-1)[:, :-1], (1, 0))


def _reverse(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    return x["x"].float().flip(-1).cumsum(-1).flip(-1)


def _topk(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    v, i = x["x"].topk(p["size:K"], -1)
    return {"v": v, "i": i}


def _quantize(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    a = x["x"]
    scale = a.abs().amax(-1).clamp_min(1e-12) / 127
    return {"q": (a / scale[:, None]).round().to(torch.int8), "scale": scale}


def _dequantize(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    q, zero, scale = x["q"], x["zero"], x["scale"]
    b, n = q.shape
    wide = q.view(b, zero.shape[1], -1).float() - zero[..., None].float()
    return (wide * scale[..., None]).view(b, n)


def _gru(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    h = x["h_in"]
    flat = [x[n].flatten(0, 1) for n in ("wi", "wh")]
    bias = [x[n].flatten().to(h.dtype) for n in ("bias_i", "bias_h")]
    return torch.gru_cell(x["x"], h, *flat, *bias)


def _lstm_cell(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    z = (x["x"] @ x["wi"].T).float() + (x["h_in"] @ x["wh"].T).float() + x["bias"]
    i, f, g, o = z.chunk(4, -1)
    c = f.sigmoid() * x["c_in"] + i.sigmoid() * g.tanh()
    return {"h": (o.sigmoid() * c.tanh()).to(x["h_in"].dtype), "c": c}


def _embedding_bag(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    bag = _f(torch).embedding_bag
    return bag(x["ids"], x["table"], x["start"][:-1], mode="sum", per_sample_weights=x["weight"])


def _scatter_add(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    return x["table"].float().index_add(0, x["ids"], x["rows"].float())


def _csr(torch: Any, x: Mapping[str, Any]) -> Any:
    shape = (len(x["ptr"]) - 1, len(x["x"]))
    return torch.sparse_csr_tensor(x["ptr"], x["column"], x["value"], shape)


def _sddmm(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    return (x["a"][x["row"].long()].float() * x["b"][x["column"].long()].float()).sum(-1)


def _segment_mean(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    count = (x["start"][1:] - x["start"][:-1]).long()
    return torch.segment_reduce(x["x"].float(), "sum", lengths=count) / count.clamp_min(1)[:, None]


def _repetition(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    a = x["x"].float()
    taken = a.gather(1, x["history"])
    taken = torch.where(taken > 0, taken / p["penalty"], taken * p["penalty"])
    return a.scatter(1, x["history"], taken).to(x["x"].dtype)


def _expert(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    rows, y = x["x"], None
    y = torch.empty(len(rows), x["w"].shape[2], dtype=rows.dtype)
    for e in range(len(x["w"])):
        mine = (x["expert"] == e).nonzero()[:, 0]
        y[mine] = rows[mine] @ x["w"][e]
    return y


def _kl(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    return _f(torch).kl_div(x["log_q"].float(), x["p"].float(), reduction="none").sum(-1)


def _smoothing(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    loss = _f(torch).cross_entropy
    return loss(x["x"].float(), x["target_class"], reduction="none", label_smoothing=p["smoothing"])


def _cosine(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    sign = torch.where(x["like"], 1, -1)
    loss = _f(torch).cosine_embedding_loss
    return loss(x["x"].float(), x["y"].float(), sign, p["margin"], reduction="none")


def _triplet(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    given = [x[n].float() for n in ("anchor", "positive", "negative")]
    return _f(torch).triplet_margin_loss(*given, p["margin"], eps=p["eps"], reduction="none")


def _focal(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    yes = x["target_class"].float()
    a = x["x"].float()
    loss = _f(torch).binary_cross_entropy_with_logits(a, yes, reduction="none")
    miss = 1 - torch.where(x["target_class"], a.sigmoid(), 1 - a.sigmoid())
    return torch.where(x["target_class"], p["alpha"], 1 - p["alpha"]) * miss * miss * loss


def _distance(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    return torch.cdist(x["x"].float(), x["y"].float()).square()


LIBRARY: dict[str, Torch] = {
    "relu": _unary("relu"),
    "relu6": _unary("relu6"),
    "elu": _unary("elu", "alpha"),
    "celu": _unary("celu", "alpha"),
    "selu": _unary("selu"),
    "hardsigmoid": _unary("hardsigmoid"),
    "hardswish": _unary("hardswish"),
    "hardtanh": _unary("hardtanh", "lo", "hi"),
    "leaky_relu": _unary("leaky_relu", "slope"),
    "log_sigmoid": _unary("logsigmoid"),
    "mish": _unary("mish"),
    "softplus": _unary("softplus"),
    "softshrink": _unary("softshrink", "threshold"),
    "softsign": _unary("softsign"),
    "logistic": lambda torch, x, p: x["x"].sigmoid(),
    "tanh_act": lambda torch, x, p: x["x"].tanh(),
    "prelu": lambda torch, x, p: _f(torch).prelu(x["x"], x["slope"]),
    "glu": lambda torch, x, p: _f(torch).glu(x["x"], -1),
    "geglu": lambda torch, x, p: _f(torch).gelu(x["gate"]) * x["up"],
    "swiglu": lambda torch, x, p: _f(torch).silu(x["gate"]) * x["up"],
    "l1norm": lambda torch, x, p: _f(torch).normalize(x["x"], 1.0, -1, p["eps"]),
    "l2norm": lambda torch, x, p: _f(torch).normalize(x["x"], 2.0, -1, p["eps"]),
    "frobenius_norm": lambda torch, x, p: x["x"] / x["x"].norm(dim=(1, 2), keepdim=True),
    "instancenorm": lambda torch, x, p: _f(torch).instance_norm(
        x["x"], None, None, x["gamma"], x["beta"], eps=p["eps"]
    ),
    "groupnorm": _groupnorm,
    "batchnorm": _batchnorm,
    "batchnorm_inference": _batchnorm_inference,
    "add_rmsnorm": _add_rmsnorm,
    "attention": lambda torch, x, p: _grouped_attention(torch, x, p),
    "alibi_attention": _alibi,
    "window_attention": _window,
    "rope": _rope,
    "conv1d": lambda torch, x, p: _conv(torch, x, p, "conv1d", dilation=p["dilation"]),
    "conv3d": lambda torch, x, p: _conv(torch, x, p, "conv3d"),
    "conv_transpose1d": lambda torch, x, p: _conv(torch, x, p, "conv_transpose1d"),
    "conv_transpose2d": lambda torch, x, p: _conv(
        torch, x, p, "conv_transpose2d", dilation=p["dilation"]
    ),
    "conv_transpose3d": lambda torch, x, p: _conv(torch, x, p, "conv_transpose3d"),
    "causal_conv1d": _causal_conv1d,
    "depthwise_conv2d": _depthwise,
    "grouped_conv2d": _grouped_conv,
    "pointwise_conv2d": lambda torch, x, p: _f(torch).conv2d(
        x["x"], x["w"][:, :, None, None], x["bias"]
    ),
    "conv2d_min_tanh": lambda torch, x, p: (
        _f(torch).conv2d(x["x"], x["w"], x["bias"]).float().amin(1).tanh().tanh()
    ),
    "gated_mlp": _gated_mlp,
    "linear_cross_entropy": _linear_loss,
    "matmul_logsumexp_mish": _clamped_logsumexp,
    "matmul_row_min": lambda torch, x, p: _linear(torch, x).float().amin(-1) - p["subtract"],
    "matmul_scale_residual": lambda torch, x, p: (
        lambda a: a * p["scale"] + a
    )(_linear(torch, x)),
    "matmul_swish_scale": lambda torch, x, p: p["scale"] * _f(torch).silu(_linear(torch, x)),
    "bilinear": lambda torch, x, p: _f(torch).bilinear(x["x"], x["y"], x["w"], x["bias"]),
    "diag_matmul": lambda torch, x, p: x["d"][:, None] * x["b"],
    "dot": lambda torch, x, p: torch.dot(x["x"], x["y"]).float(),
    "gram": lambda torch, x, p: (x["x"].T @ x["x"]).float(),
    "matmul_4d": lambda torch, x, p: x["x"] @ x["w"],
    "matmul_at": lambda torch, x, p: x["a"].T @ x["b"],
    "matmul_atbt": lambda torch, x, p: x["a"].T @ x["b"].T,
    "matmul_bt": lambda torch, x, p: x["a"] @ x["b"].T,
    "matvec": lambda torch, x, p: (x["a"] @ x["x"]).float(),
    "outer": lambda torch, x, p: torch.outer(x["x"], x["y"]),
    "pairwise_distance": _distance,
    "tril_matmul": lambda torch, x, p: torch.tril(torch.tril(x["a"]) @ torch.tril(x["b"])),
    "triu_matmul": lambda torch, x, p: torch.triu(torch.triu(x["a"]) @ torch.triu(x["b"])),
    "bce": _mean("binary_cross_entropy", "p", "target_value"),
    "bce_with_logits": _mean("binary_cross_entropy_with_logits", "x", "target_value"),
    "huber": _mean("huber_loss", "x", "target_value", delta="delta"),
    "mae": _mean("l1_loss", "x", "target_value"),
    "mse": _mean("mse_loss", "x", "target_value"),
    "smooth_l1": _mean("smooth_l1_loss", "x", "target_value", beta="beta"),
    "hinge": lambda torch, x, p: (1 - x["sign"].float() * x["x"].float()).clamp_min(0).mean(),
    "kl_div": _kl,
    "label_smoothing": _smoothing,
    "cosine_embedding": _cosine,
    "triplet_margin": _triplet,
    "focal": _focal,
    "nll": lambda torch, x, p: _f(torch).nll_loss(x["x"].float(), x["target_class"], x["weight"]),
    "combine": lambda torch, x, p: (
        (x["share"][..., None] * x["y"][x["place"].long()].float()).sum(1).to(x["y"].dtype)
    ),
    "expert_matmul": _expert,
    "adam": _adam,
    "adamw": _adam,
    "lion": _lion,
    "rmsprop": _rmsprop,
    "sgd_momentum": _sgd,
    "adaptive_avg_pool2d": lambda torch, x, p: _f(torch).adaptive_avg_pool2d(
        x["x"], [p["size:P"], p["size:Q"]]
    ),
    "avg_pool1d": _pool("avg_pool1d", ("R",)),
    "avg_pool2d": _pool("avg_pool2d", ("R", "S")),
    "avg_pool3d": _pool("avg_pool3d", ("R", "R", "R")),
    "max_pool1d": _pool("max_pool1d", ("R",)),
    "max_pool2d": _pool("max_pool2d", ("R", "S")),
    "max_pool3d": _pool("max_pool3d", ("R", "R", "R")),
    "global_avg_pool": lambda torch, x, p: x["x"].float().mean((2, 3)),
    "dequantize": _dequantize,
    "quantize_rows": _quantize,
    "gru_cell": _gru,
    "lstm_cell": _lstm_cell,
    "argmin": lambda torch, x, p: x["x"].argmin(-1),
    "column_max": _column_max,
    "histogram": lambda torch, x, p: torch.bincount(x["x"], minlength=p["size:K"]),
    "logsumexp": lambda torch, x, p: x["x"].float().logsumexp(-1),
    "middle_sum": lambda torch, x, p: x["x"].sum(1, dtype=torch.float32),
    "row_all": lambda torch, x, p: x["x"].all(-1),
    "row_any": lambda torch, x, p: x["x"].any(-1),
    "row_max": lambda torch, x, p: x["x"].amax(-1),
    "row_min": lambda torch, x, p: x["x"].amin(-1),
    "row_mean": lambda torch, x, p: x["x"].mean(-1, dtype=torch.float32),
    "row_prod": lambda torch, x, p: x["x"].prod(-1, dtype=torch.float32),
    "variance": _variance,
    "gumbel_max": lambda torch, x, p: (
        x["x"] / p["temperature"] - (-x["uniform"].log()).log()
    ).argmax(-1),
    "repetition_penalty": _repetition,
    "topk": _topk,
    "cummax": lambda torch, x, p: x["x"].cummax(-1).values,
    "cummin": lambda torch, x, p: x["x"].cummin(-1).values,
    "cumprod": lambda torch, x, p: x["x"].cumprod(-1, dtype=torch.float32),
    "exclusive_cumsum": _exclusive,
    "reverse_cumsum": _reverse,
    "logcumsumexp": lambda torch, x, p: x["x"].float().logcumsumexp(-1),
    "masked_cumsum": lambda torch, x, p: (
        x["x"].float().masked_fill(~x["mask"], 0).cumsum(-1)
    ),
    "embedding_bag": _embedding_bag,
    "scatter_add": _scatter_add,
    "sddmm": _sddmm,
    "segment_mean": _segment_mean,
    "spmm": lambda torch, x, p: (_csr(torch, x) @ x["x"]).float(),
    "spmv": lambda torch, x, p: (_csr(torch, x) @ x["x"]).float(),
}  # fmt: skip


def _grouped_attention(torch: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    """Without the log-sum-exp of each row, which PyTorch keeps for itself."""
    q, k = x["q"], x["k"]
    n, m = q.shape[2], k.shape[2]
    bias = None
    if p["causal"] and n > 1:
        bias = torch.ones(n, m, dtype=torch.bool).tril(m - n)
    attend = _f(torch).scaled_dot_product_attention
    o = attend(q, k, x["v"], attn_mask=bias, scale=p["scale"], enable_gqa=True)
    return {"o": o}


def printed(op: Operator) -> Callable[[Any, Any, Mapping[str, Any], Mapping[str, Any]], Any]:
    """The operator's definition as a function of JAX. Raises PrintError for what has no form there,
    ValueError for what needs 64 bits."""
    from opwright.backends.jax.printer import function_name, needs_x64, print_operator
    from opwright.backends.jax.scalar import identifier

    if needs_x64(op) and any(t.dtype.name in ("f64", "u64") for t in (*op.inputs, *op.tensors)):
        raise ValueError("its definition needs 64 bits, which JAX has on request only")
    space: dict[str, Any] = {}
    exec(compile(print_operator(op), f"<{op.name}>", "exec"), space)
    function = space[function_name(op)]

    def call(jnp: Any, jax: Any, x: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
        given = {identifier(t.name): x[t.name] for t in op.inputs}
        given |= {identifier(q.name): p[q.name] for q in op.params}
        given |= {identifier(s): p[f"size:{s}"] for s in op.free_sizes}
        y = function(**given)
        found = y if isinstance(y, tuple) else (y,)
        return dict(zip((t.name for t in op.outputs), found, strict=True))

    return call
