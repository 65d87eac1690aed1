"""Documents of flashinfer-bench: strict to read, of the same meaning on the way there and back."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import agreement
from support.random_specs import make
from support.shipped import SPECS, some

from opwright.cli import run as opwright
from opwright.compiler.block_spaces import spaces as block_spaces
from opwright.compiler.blocks import printed as block_printed
from opwright.compiler.candidates import printed, read, write
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.compiler.flashinfer_export import definition_of, evaluation_of, workload_of
from opwright.compiler.flashinfer_import import (
    documents,
    records_of,
    spec_of,
    stored_input,
    write_solution,
)
from opwright.compiler.flashinfer_schema import (
    Definition,
    Evaluation,
    FormatError,
    Solution,
    StoredInput,
    Trace,
    dump,
    read_value,
)
from opwright.compiler.flashinfer_solutions import solution_of
from opwright.compiler.pure import arrays_candidate
from opwright.compiler.spaces import spaces
from opwright.compiler.torch_reference import PrintError, print_reference
from opwright.ir.dtypes import decode, encode
from opwright.ir.op import Operator
from opwright.ir.record import Record, Verdict
from opwright.ir.reference import reference
from opwright.verify.inputs import generate

FILES = sorted(SPECS.rglob("*.op"))
VAR: dict[str, Any] = {"type": "var"}


def tensor(shape: list[str] | None, dtype: str = "float32") -> dict[str, Any]:
    return {"shape": shape, "dtype": dtype}


GEMM: dict[str, Any] = {
    "name": "gemm_n24_k40", "op_type": "gemm",
    "axes": {"M": VAR, "N": {"type": "const", "value": 24}, "K": {"type": "const", "value": 40}},
    "inputs": {"A": tensor(["M", "K"], "float16"), "B": tensor(["N", "K"], "float16")},
    "outputs": {"C": tensor(["M", "N"], "float16")},
    "reference": "import torch\n\ndef run(A, B):\n    C = torch.matmul(A, B.T)\n    return C\n",
}  # fmt: skip
NORM: dict[str, Any] = {
    "name": "fused_add_norm_h16", "op_type": "rmsnorm", "description": "Added, then normalised.",
    "tags": ["status:verified", "model:some"], "constraints": ["batch_size >= 1"],
    "axes": {"batch_size": {"type": "var", "description": "rows"},
             "hidden_size": {"type": "const", "value": 16}},
    "inputs": {"hidden_states": tensor(["batch_size", "hidden_size"], "bfloat16"),
               "residual": tensor(["batch_size", "hidden_size"], "bfloat16"),
               "weight": {**tensor(["hidden_size"], "bfloat16"), "description": "scales"}},
    "outputs": {"output": tensor(["batch_size", "hidden_size"], "bfloat16")},
    "reference": """import torch

EPS = 1e-5

@torch.no_grad()
def run(hidden_states, residual, weight):
    batch_size, hidden_size = hidden_states.shape
    assert hidden_size == 16
    x = hidden_states.to(torch.float32) + residual.to(torch.float32)
    inv_rms = torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + EPS)
    y = (x * inv_rms) * weight.to(torch.float32)
    return y.to(hidden_states.dtype)
""",
}  # fmt: skip
ROWS: dict[str, Any] = {
    "name": "attend", "op_type": "gqa",
    "axes": {"h": VAR, "sq": VAR, "skv": VAR, "d": {"type": "const", "value": 8}},
    "inputs": {"q": tensor(["h", "sq", "d"]), "k": tensor(["h", "skv", "d"]),
               "v": tensor(["h", "skv", "d"]), "sm_scale": tensor(None)},
    "outputs": {"o": tensor(["h", "sq", "d"]), "lse": tensor(["h", "sq"])},
    "constraints": ["skv >= 1"],
    "reference": """import math
import torch

def run(q, k, v, sm_scale):
    logits = torch.matmul(q.float(), k.float().transpose(-1, -2)) * sm_scale
    lse = torch.logsumexp(logits, dim=-1) / math.log(2.0)
    p = torch.softmax(logits, dim=-1)
    o = torch.where(p > 2, 0.0, p) @ v.float()
    return o.to(q.dtype), lse
""",
}  # fmt: skip
LOOP: dict[str, Any] = {
    "name": "loop", "op_type": "x", "axes": {"n": VAR}, "inputs": {"x": tensor(["n"])},
    "outputs": {"y": tensor(["n"])}, "constraints": ["len(x) > 0"],
    "reference": "def run(x):\n    y = x.clone()\n    for i in range(len(x)):\n"
                 "        y[i] = 2 * x[i]\n    return y\n",
}  # fmt: skip
FOREIGN = {"gemm": GEMM, "norm": NORM, "rows": ROWS, "loop": LOOP}


def definition(d: Mapping[str, Any]) -> Definition:
    return read_value(Definition, d, "d.json")


def of(op: Operator, text: str) -> Definition:
    syntax = next(o for o in parse_spec(text).module.ops if o.name == op.name)
    return definition_of(op, text, len(syntax.wheres)).definition


# ---- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", some(FILES, 7), ids=lambda p: p.stem)
def test_operators_of_the_library_come_back(path: Path) -> None:
    spec = load_spec(path)
    for name in spec.names:
        op = spec.operator(name, spec.bindings(name)[0])
        try:
            d = of(op, spec.source)
        except FormatError as e:
            assert "random numbers" in str(e) or "no type for" in str(e)
            continue
        loads = [workload_of(op, d, w) for w in op.workloads]
        found = spec_of(definition(json.loads(dump(d))), loads)
        again = parse_spec(found.text).operator(name, op.types)
        assert found.origin == "carried" and again.digest == op.digest
        assert [read_value(Trace, json.loads(dump(w)), "w") for w in loads] == loads


def test_a_reference_that_says_something_else_is_not_believed() -> None:
    """The text that a reference carries counts only while the code is what it was printed as."""
    spec = load_spec(SPECS / "nn" / "relu.op")
    d = of(spec.operator("relu", {"T": "f32"}), spec.source)
    changed = d.model_copy(update={"reference": d.reference.replace("maximum", "minimum", 2)})
    assert changed.reference != d.reference
    assert spec_of(changed).origin == "skeleton"


@pytest.mark.parametrize("name", ["gemm", "norm", "rows"])
def test_references_of_others_are_read_as_what_they_compute(name: str) -> None:
    torch = pytest.importorskip("torch")
    d = definition(FOREIGN[name])
    found = spec_of(d)
    assert found.origin == "read" and not found.notes
    op = parse_spec(found.text).operator()
    names: dict[str, Any] = {}
    exec(d.reference, names)
    ran = 0
    for case in generate(op, 3, 6, specials=False, families=("normal", "uniform")).cases:
        plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
        wanted = reference(op, plain, case.params, {})
        given = [
            case.params[own] if t.shape is None
            else torch.as_tensor(np.array(plain[own])).to(getattr(torch, t.dtype)).float()
            for own, t in ((found.names.get(n, n), t) for n, t in d.inputs.items())
        ]  # fmt: skip
        made = names["run"](*given)
        for t, x in zip(op.outputs, made if isinstance(made, tuple) else (made,), strict=True):
            np.testing.assert_allclose(x.double().numpy(), wanted[t.name], rtol=2e-4, atol=2e-4)
        ran += 1
    assert ran


def test_what_is_not_read_is_an_interface_and_a_reason() -> None:
    found = spec_of(definition(LOOP))
    assert found.origin == "skeleton" and "def {" not in found.text.replace("`def { ... }`", "")
    assert any("line 3" in n for n in found.notes) and any("len(x) > 0" in n for n in found.notes)


@pytest.mark.parametrize("name", list(FOREIGN))
def test_definitions_of_others_go_back_as_they_came(name: str, tmp_path: Path) -> None:
    d = definition(FOREIGN[name])
    loads = [
        {"definition": d.name, "solution": None, "evaluation": None,
         "workload": {"uuid": f"u{n}", "axes": {a: n + 3 for a, x in d.axes.items()
                                                if x.type == "var"},
                      "inputs": {k: {"type": "random"} if t.shape is not None else
                                 {"type": "scalar", "value": 0.5}
                                 for k, t in d.inputs.items()}}}
        for n in range(2)
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "d.json").write_text(json.dumps(FOREIGN[name]))
    (tmp_path / "in" / "w.jsonl").write_text("\n".join(map(json.dumps, loads)))
    code = opwright(["exchange", "flashinfer", "import", str(tmp_path / "in"), "-o",
                     str(tmp_path / "own")])  # fmt: skip
    assert code == (1 if name == "loop" else 0)
    (spec,) = (tmp_path / "own").glob("*.op")
    out = tmp_path / "out"
    assert opwright(["exchange", "flashinfer", "export", str(spec), "-o", str(out)]) == 0
    ((again,), traces, _) = documents(out)
    assert again == d
    if name != "loop":
        assert [t.workload.axes for t in traces] == [w["workload"]["axes"] for w in loads]
        assert [t.workload.inputs.keys() for t in traces] == [
            w["workload"]["inputs"].keys() for w in loads
        ]
        # what was written into the spec since counts more than what was imported
        spec.write_text(spec.read_text().replace("@ 1.0", "@ 1.1"))
        assert opwright(["exchange", "flashinfer", "export", str(spec), "-o", str(out)]) == 0
        assert any(x.reference != d.reference for x in documents(out)[0])


# ---- references in PyTorch -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2, 72, 5))
def test_printed_references_compute_what_the_spec_means(seed: int) -> None:
    torch = pytest.importorskip("torch")
    s = agreement.prepared(make(seed))
    agreement.with_cases(s)
    op = s.op
    names = [*(t.name for t in op.inputs), *(p.name for p in op.params), *op.free_sizes]
    if any("rand(" in line for line in s.spec.text.splitlines()):
        with pytest.raises(PrintError, match="random numbers"):
            print_reference(op, names)
        return
    code: dict[str, Any] = {}
    exec(print_reference(op, names), code)
    for case in s.cases:
        args = [torch.as_tensor(np.array(decode(case.inputs[t.name], t.dtype))) for t in op.inputs]
        args += [case.params[p.name] for p in op.params]
        made = code["run"](*args, *(case.sizes[n] for n in op.free_sizes))
        wanted = agreement.meaning(s, case)
        for t, x in zip(op.outputs, made if isinstance(made, tuple) else (made,), strict=True):
            real = t.kind == "real"
            found = x.double().numpy() if real else x.numpy()
            exact = decode(encode(wanted[t.name], t.dtype), t.dtype)
            limit = 4 * t.dtype.epsilon if real else 0
            np.testing.assert_allclose(found, exact, rtol=limit, atol=limit / 50)


# ---- solutions -----------------------------------------------------------------------------------

SPEC = """opwright "0.1"

op scaled @ 1.0 "Rows by their sum." {
  dims B, N
  where N >= 1
  param scale: f32 = 2.0
  input x: f32[B, N]
  output y: f32[B, N], s: f32[B]
  def {
    s[b] = sum[j: N](x[b, j])
    y[b, j] = x[b, j] * scale + s[b]
  }
}
"""


@pytest.fixture(scope="module")
def scaled() -> tuple[Operator, Definition]:
    op = parse_spec(SPEC).operator()
    return op, of(op, SPEC)


def candidates(op: Operator) -> dict[str, Any]:
    own, blocks = spaces(op)[-1], block_spaces(op)[-1]
    return {
        "cpp": printed(own.instantiate(own.preferred()[0]), op, "x86-64-v3"),
        "triton": block_printed(blocks.instantiate(blocks.preferred()[0]), op, "sm_90"),
        "jax": arrays_candidate(op),
    }


@pytest.mark.parametrize("backend", ["cpp", "triton", "jax"])
def test_candidates_come_back(
    backend: str, scaled: tuple[Operator, Definition], tmp_path: Path
) -> None:
    op, d = scaled
    c = candidates(op)[backend]
    s = read_value(Solution, json.loads(dump(solution_of(c, op, d))), "s.json")
    assert s.definition == d.name
    made, why = write_solution(tmp_path / "c", s)
    assert not why and {p.name for p in made} >= {"candidate.json", c.plan.source}
    write(c, tmp_path / "own")
    back, own = read(tmp_path / "c", op), read(tmp_path / "own", op)
    assert back.source == c.source and back.plan == own.plan
    assert (back.program is None) == (own.program is None)


def entry(s: Solution, name: str) -> str:
    return next(f.content for f in s.sources if f.path == name)


X = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)


def test_an_entry_for_arrays_runs(scaled: tuple[Operator, Definition]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    op, d = scaled
    names: dict[str, Any] = {}
    exec(entry(solution_of(candidates(op)["jax"], op, d), "main.py"), names)
    y, s = names["run"](torch.from_numpy(X), 1.5)
    np.testing.assert_allclose(s.numpy(), X.sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y.numpy(), X * 1.5 + X.sum(1)[:, None], rtol=1e-4, atol=1e-4)


def test_an_entry_for_kernels_launches_them(
    scaled: tuple[Operator, Definition], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    op, d = scaled
    text = entry(solution_of(candidates(op)["triton"], op, d), "main.py")
    assert isinstance(ast.parse(text), ast.Module)
    (tmp_path / "main.py").write_text(text)
    script = (
        "import torch, main\n"
        "x = torch.randn(3, 64); y = torch.full((3, 64), 9.0); s = torch.full((3,), 9.0)\n"
        "main.run(x, 1.5, y, s)\n"
        "assert torch.allclose(s, x.sum(1), atol=1e-4), s\n"
        "assert torch.allclose(y, x * 1.5 + x.sum(1)[:, None], atol=1e-4), y\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env={**os.environ, "TRITON_INTERPRET": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]


def test_an_entry_for_extensions_hands_everything_over(scaled: tuple[Operator, Definition]) -> None:
    op, d = scaled
    s = solution_of(candidates(op)["cpp"], op, d)
    text = entry(s, "main.cpp")
    assert s.spec.binding == "torch" and s.spec.destination_passing_style
    assert "void run(torch::Tensor x, double scale, torch::Tensor y, torch::Tensor s)" in text
    assert (
        "{x.size(0), x.size(1), x.stride(0), x.stride(1), y.stride(0), y.stride(1), s.stride(0)}"
        in text
    )


def test_a_solution_without_a_plan_is_no_candidate(tmp_path: Path) -> None:
    s = {
        "name": "theirs", "definition": "d", "author": "someone",
        "spec": {"language": "triton", "target_hardware": ["cuda"], "entry_point": "main.py::run"},
        "sources": [{"path": "main.py", "content": "def run(x, y): ...\n"}],
    }  # fmt: skip
    made, why = write_solution(tmp_path, read_value(Solution, s, "s.json"))
    assert [p.name for p in made] == ["main.py"] and "no launch plan" in why


# ---- traces --------------------------------------------------------------------------------------


def verdict(status: str, name: str = "G6.numeric", **more: Any) -> Verdict:
    records = [Record(f"{g}.x", g, "PROVED") for g in ("G2", "G3")]
    return Verdict((*records, Record(name, "G6", status, "why", "", (), more or None)))


def test_verdicts_say_no_more_than_was_established() -> None:
    assert evaluation_of(verdict("TESTED"), "cpu") is None  # not measured: no pass
    assert evaluation_of(verdict("UNKNOWN"), "cpu", (0.0, 0.0), (1e-3, 2e-3)) is None
    passed = evaluation_of(verdict("TESTED"), "cpu", (1e-6, 1e-7), (1e-3, 2e-3))
    assert passed is not None and passed.status == "PASSED"
    assert passed.performance is not None and passed.performance.speedup_factor == 2.0
    wrong = evaluation_of(verdict("REFUTED", found=2.0, expected=1.0), "cpu")
    assert wrong is not None and wrong.status == "INCORRECT_NUMERICAL"
    assert wrong.correctness is not None and wrong.correctness.max_absolute_error == 1.0
    crashed = evaluation_of(verdict("REFUTED", "G6.runs"), "cpu")
    assert crashed is not None and crashed.status == "RUNTIME_ERROR"


def test_a_report_of_others_is_an_assumption() -> None:
    w = {"uuid": "u", "axes": {"n": 3}, "inputs": {"x": {"type": "random"}}}
    e = dump_of(evaluation_of(verdict("TESTED"), "cpu", (1e-6, 1e-7), (1e-3, 2e-3)))
    t = read_value(
        Trace, {"definition": "d", "workload": w, "solution": "s", "evaluation": e}, "t.jsonl"
    )
    (record,) = records_of(t)
    assert record.status == "ASSUMED" and "PASSED on cpu" in record.reason


def dump_of(e: Evaluation | None) -> Any:
    assert e is not None
    return json.loads(dump(e))


# ---- strictness ----------------------------------------------------------------------------------

STRICT = {
    "axes.n.value": lambda d: d["axes"].update(n={"type": "const", "value": -1}),
    "axes.n": lambda d: d["axes"].update(n={"type": "some"}),
    "inputs.x.dtype": lambda d: d["inputs"]["x"].update(dtype="float31"),
    "inputs.x.shape[0]: there is no axis m": lambda d: d["inputs"]["x"].update(shape=["m"]),
    "outputs.x: an input has the same name": lambda d: d.update(outputs=d["inputs"]),
    "reference: there is no top-level function": lambda d: d.update(reference="x = 1"),
    "reference: not Python": lambda d: d.update(reference="def run(:"),
    "reference: `run` takes 0": lambda d: d.update(reference="def run(): ..."),
    "extra": lambda d: d.update(extra=1),
    "name": lambda d: d.pop("name"),
    "constraints[0]": lambda d: d.update(constraints=[3]),
}


@pytest.mark.parametrize("place", STRICT)
def test_one_error_names_the_place(place: str, tmp_path: Path) -> None:
    data = json.loads(json.dumps(LOOP))
    STRICT[place](data)
    path = tmp_path / "d.json"
    path.write_text(json.dumps(data))
    with pytest.raises(FormatError) as e:
        documents(path)
    assert str(e.value).startswith(f"{path}: {place}")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"name": "\\ud800"}', "[" * 100_000, "nul"])
def test_what_is_no_document_is_said_in_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"d\.json"):
        documents(path)
    assert opwright(["exchange", "flashinfer", "import", str(path), "-o", str(tmp_path)]) == 2


def test_paths_stay_below_the_folder() -> None:
    for path in ("../x.py", "/etc/passwd", "a/../../b", "a\\b"):
        s = {"name": "s", "definition": "d", "author": "a",
             "spec": {"language": "python", "target_hardware": ["cpu"],
                      "entry_point": "main.py::run"},
             "sources": [{"path": path, "content": ""}]}  # fmt: skip
        with pytest.raises(FormatError, match=r"sources\[0\]\.path"):
            read_value(Solution, s, "s.json")


def test_stored_inputs_are_read(tmp_path: Path) -> None:
    a = np.arange(6, dtype=np.int32).reshape(2, 3)
    head = json.dumps({"t": {"dtype": "I32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + a.tobytes())
    given = StoredInput(type="safetensors", path="w.safetensors", tensor_key="t")
    assert np.array_equal(stored_input(tmp_path, given), a)
    for other in (given.model_copy(update={"tensor_key": "u"}),
                  given.model_copy(update={"path": "none"})):  # fmt: skip
        with pytest.raises(FormatError):
            stored_input(tmp_path, other)
