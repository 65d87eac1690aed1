"""Operators, workloads, candidates and verdicts as documents of flashinfer-bench.

The reference is PyTorch printed from the spec and carries the spec's text in its first lines;
`flashinfer_import` takes that text back where the rest still follows from it. What a document
cannot say (laws, preconditions on values, tolerances) travels in that text alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opwright.compiler.flashinfer_schema import (
    OURS,
    Axis,
    ConstAxis,
    Correctness,
    Definition,
    Environment,
    Evaluation,
    FormatError,
    Performance,
    RandomInput,
    ScalarInput,
    TensorSpec,
    Trace,
    VarAxis,
    Workload,
    dump,
    read_value,
)
from opwright.compiler.torch_reference import PrintError, number_text, print_reference
from opwright.ir.dtypes import DType
from opwright.ir.expr import Expr, evaluate, show
from opwright.ir.op import Operator
from opwright.ir.op import Workload as OwnWorkload
from opwright.ir.record import Verdict

NAMESPACE = uuid.UUID("5f0e7a52-3f0f-5d0e-9b61-0a6f5a3c9d11")
MARK = "opwright spec"


@dataclass(frozen=True, slots=True)
class Exported:
    """A definition and what it does not say."""

    definition: Definition
    notes: tuple[str, ...] = ()


def definition_name(op: Operator) -> str:
    """The operator's name with its types."""
    return "_".join([op.name, *op.types.values()])


def definition_of(op: Operator, text: str, constraints: int, op_type: str = "") -> Exported:
    """The definition of an operator at one binding; `text` is the text of its spec, `constraints`
    how many of its facts were written.

    Raises FormatError for a type or a shape that a definition has no words for.
    """
    axes: dict[str, Axis] = {}
    fixed = {f.args[0].attr: int(f.args[1].attr) for f in op.facts[:constraints]
             if f.op == "eq" and f.args[0].op == "size" and f.args[1].op == "const"}  # fmt: skip
    for name in op.sizes:
        axes[name] = (
            ConstAxis(type="const", value=fixed[name]) if name in fixed else VarAxis(type="var")
        )
    rules: list[str] = []
    notes: list[str] = []
    for f in op.facts[:constraints]:
        if f.op == "eq" and f.args[0].op == "size" and f.args[1].op == "const":
            continue
        try:
            rules.append(_plain(number_text(f)))
        except PrintError as e:
            notes.append(f"the constraint {show(f)} is left out: {e}")

    def shape(extents: Sequence[Expr], place: str) -> list[str]:
        out = []
        for e in extents:
            if e.op == "size":
                out.append(str(e.attr))
            elif e.op == "const":
                out.append(_taken(axes, f"c{e.attr}", ConstAxis(type="const", value=int(e.attr))))
            else:
                name = re.sub(r"\W+", "_", show(e)).strip("_")
                if name not in axes:
                    try:
                        rules.append(f"{name} == {_plain(number_text(e))}")
                    except PrintError as error:
                        raise FormatError(f"{place}: {error}") from None
                out.append(_taken(axes, name, VarAxis(type="var")))
        return out

    inputs: dict[str, TensorSpec] = {}
    for t in op.inputs:
        inputs[t.name] = _spec(t.name, t.dtype, shape(t.shape, t.name))
    for p in op.params:
        inputs[p.name] = _spec(p.name, p.dtype, None)
    for s in op.free_sizes:  # no shape of an input says them
        inputs[s] = TensorSpec(shape=None, dtype="int64")
    outputs = {t.name: _spec(t.name, t.dtype, shape(t.shape, t.name)) for t in op.outputs}
    if op.variadic:
        notes.append("any number of leading axes is one axis here")
    if op.requires:
        notes.append("preconditions on values are in the text of the spec alone")
    bound = ", ".join(f"{k} = {v}" for k, v in op.types.items())
    head = f"{MARK} {op.name}{' at ' + bound if bound else ''}\n{text.strip()}"
    try:
        reference = print_reference(op, list(inputs), head)
    except PrintError as e:
        raise FormatError(f"{op.name} has no reference in PyTorch: {e}") from None
    made = Definition(
        name=definition_name(op),
        op_type=op_type or op.name,
        axes=axes,
        inputs=inputs,
        outputs=outputs,
        reference=reference,
        tags=["status:unverified", "source:opwright"],
        description=op.doc,
        constraints=rules or None,
    )
    return Exported(made, tuple(notes))


def _taken(axes: dict[str, Axis], name: str, axis: Axis) -> str:
    """The name of an axis, added where there is none."""
    while name in axes and axes[name] != axis:
        name += "_"
    axes[name] = axis
    return name


def _plain(text: str) -> str:
    return text[1:-1] if text.startswith("(") and _closes(text) == len(text) - 1 else text


def _closes(text: str) -> int:
    depth = 0
    for n, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if not depth:
            return n
    return -1


def _spec(name: str, dtype: DType, shape: list[str] | None) -> TensorSpec:
    if dtype.name not in OURS:
        raise FormatError(f"{name}: flashinfer-bench has no type for {dtype}")
    return TensorSpec(shape=shape, dtype=OURS[dtype.name])  # type: ignore[arg-type]


# -- workloads ------------------------------------------------------------------------------------


def workload_of(op: Operator, d: Definition, w: OwnWorkload) -> Trace:
    """A workload of a spec as a line of a data set."""
    env: dict[str, Any] = dict(w.sizes)
    for p in op.params:
        if p.name in w.params:
            env[p.name] = w.params[p.name]
        elif p.default is not None:
            env[p.name] = evaluate(p.default, env)
        else:
            raise FormatError(f"workload {w.name}: param {p.name} has no value")
    lengths: dict[str, int] = {}
    tensors = {t.name: t for t in (*op.inputs, *op.outputs)}
    for group in (d.inputs, d.outputs):
        for name, t in group.items():
            for axis, e in zip(t.shape or (), tensors[name].shape if t.shape else (), strict=True):
                if d.axes[axis].type == "var":
                    lengths[axis] = int(evaluate(e, env))
    inputs: dict[str, Any] = {}
    for name, t in d.inputs.items():
        if t.shape is not None:
            inputs[name] = RandomInput(type="random")
        else:
            value = env[name]
            plain = bool(value) if t.dtype == "bool" else (
                float(value) if "float" in t.dtype else int(value))  # fmt: skip
            inputs[name] = ScalarInput(type="scalar", value=plain)
    return Trace(
        definition=d.name,
        workload=Workload(uuid=workload_id(d.name, w.name), axes=lengths, inputs=inputs),
    )


def workload_id(definition: str, name: str) -> str:
    """Stable, so that exporting again changes nothing."""
    return str(uuid.uuid5(NAMESPACE, f"{definition}:{name}"))


# -- verdicts -------------------------------------------------------------------------------------


def evaluation_of(
    verdict: Verdict,
    hardware: str,
    errors: tuple[float, float] | None = None,
    latency: tuple[float, float] | None = None,
    libs: Mapping[str, str] | None = None,
    timestamp: str = "",
) -> Evaluation | None:
    """What a verdict and measurements say in their words; None where they say too little.

    `errors` are the largest relative and absolute error, `latency` seconds of the candidate and of
    the reference. A pass needs both; what was refuted needs no time.
    """
    where = Environment(hardware=hardware, libs=dict(libs or {}))
    when = timestamp or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    right = None
    if errors is not None:
        right = Correctness(max_relative_error=errors[0], max_absolute_error=errors[1])
    bad = next((r for r in verdict.records if r.status == "REFUTED"), None)
    if bad is None:
        if right is None or latency is None or verdict.gate("G6") not in ("TESTED", "PROVED"):
            return None
        own, reference = latency
        speed = Performance(
            latency_ms=own * 1e3,
            reference_latency_ms=reference * 1e3,
            speedup_factor=reference / own if own else 0.0,
        )
        return Evaluation(
            status="PASSED", environment=where, timestamp=when, correctness=right,
            performance=speed,
        )  # fmt: skip
    log = f"{bad.id}: {bad.reason}"
    if bad.id == "G6.runs":
        kind: Any = "TIMEOUT" if "limit" in bad.reason or "stopped" in bad.reason else None
        kind = kind or ("INCORRECT_SHAPE" if "shape" in bad.reason else "RUNTIME_ERROR")
        return Evaluation(status=kind, environment=where, timestamp=when, log=log)
    if right is None:
        right = _errors(bad.counterexample)
    if bad.kind == "G6" and right is not None:
        return Evaluation(
            status="INCORRECT_NUMERICAL", environment=where, timestamp=when, log=log,
            correctness=right,
        )  # fmt: skip
    return Evaluation(status="RUNTIME_ERROR", environment=where, timestamp=when, log=log)


def _errors(found: Mapping[str, Any] | None) -> Correctness | None:
    """The error of a counterexample's element."""
    try:
        got, want = float((found or {})["found"]), float((found or {})["expected"])
    except (KeyError, TypeError, ValueError):
        return None
    error = abs(got - want)
    share = error / abs(want) if want else error
    return Correctness(max_relative_error=share, max_absolute_error=error)


# -- folders --------------------------------------------------------------------------------------


def write_definition(folder: Path, d: Definition, loads: Sequence[Trace]) -> list[Path]:
    """Files of a data set, in its layout."""
    made = [folder / "definitions" / d.op_type / f"{d.name}.json"]
    texts = [dump(d)]
    if loads:
        made.append(folder / "workloads" / d.op_type / f"{d.name}.jsonl")
        texts.append("".join(dump(w, None) for w in loads))
    for path, text in zip(made, texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return made


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """What an import wrote beside a spec: the definition, the names that a spec cannot have, and
    whether the spec is still as it was read."""

    definition: Definition
    names: Mapping[str, str]
    unchanged: bool


def kept_beside(spec: Path, text: str) -> Kept | None:
    """What lies beside a spec that was imported; FormatError for what no import wrote."""
    path = sidecar(spec)
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        theirs = read_value(Definition, data["definition"], str(path))
        names = {str(k): str(v) for k, v in data.get("names", {}).items()}
        return Kept(theirs, names, data.get("spec") == digest_of(text))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
        raise FormatError(f"{path}: not what an import wrote: {e}") from None


def kept_definition(spec: Path, derived: Definition, text: str) -> Definition:
    """The definition that a spec was imported from, where it still says what the spec does: its
    names, descriptions and tags, and its own reference while the text is as it was read."""
    kept = kept_beside(spec, text)
    if kept is None or _interface(kept.definition, kept.names) != _interface(derived, {}):
        return derived
    if kept.unchanged:
        return kept.definition
    if kept.names:
        return derived  # the reference that is printed has the spec's own names
    return kept.definition.model_copy(update={"reference": derived.reference})


def _interface(d: Definition, names: Mapping[str, str]) -> Any:
    """Inputs and outputs with their shapes, by the spec's names, in any order."""

    def group(x: Mapping[str, TensorSpec]) -> Any:
        return {
            names.get(n, n): (t.shape and [_length(d, a, names) for a in t.shape], t.dtype)
            for n, t in x.items()
        }

    return group(d.inputs), group(d.outputs)


def _length(d: Definition, axis: str, names: Mapping[str, str]) -> Any:
    a = d.axes[axis]
    return a.value if isinstance(a, ConstAxis) else names.get(axis, axis)


def sidecar(spec: Path) -> Path:
    """Where an import keeps what a spec has no words for."""
    return spec.with_suffix(".flashinfer.json")
