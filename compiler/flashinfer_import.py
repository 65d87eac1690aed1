"""Documents of flashinfer-bench as specs, workloads, candidate folders and records.

A definition becomes a spec: the one whose text its reference carries, where everything else still
follows from that text; else equations read from the reference (`torch_reader`); else an interface
without meaning and the reason. Nothing of a reference is executed here. A spec that was read is a
reading, not the reference: the file keeps that beside it, so that tests can compare the two.
"""

from __future__ import annotations

import ast as python
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.compiler.flashinfer_export import (
    MARK,
    definition_of,
    digest_of,
    sidecar,
    workload_id,
)
from opwright.compiler.flashinfer_schema import (
    DTYPES,
    ConstAxis,
    Definition,
    FormatError,
    ScalarInput,
    Solution,
    StoredInput,
    Trace,
    Workload,
    text_of,
)
from opwright.compiler.torch_reader import RESERVED, NotRead, read_reference
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.record import Record

KINDS = {"bool": "bool", "int": "int", "float": "real", "bfloat": "real"}


@dataclass(frozen=True, slots=True)
class Imported:
    """The text of a spec, how it came about, and what was left out."""

    name: str
    text: str
    origin: str  # carried | read | skeleton
    notes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)  # theirs -> ours, where they differ


# -- definitions ----------------------------------------------------------------------------------


def spec_of(d: Definition, loads: Sequence[Trace] = ()) -> Imported:
    """The spec of a definition with workloads; it has passed the elaborator unless it is a
    skeleton. Raises FormatError where even the interface has no form in a spec."""
    carried = _carried(d)
    if carried is not None:
        return carried
    return _Writer(d, loads).spec()


def _carried(d: Definition) -> Imported | None:
    """The spec in the first lines of the reference, where the definition follows from it."""
    from opwright.compiler.elaborate import parse_spec

    lines = d.reference.splitlines()
    if not lines or not lines[0].startswith(f"# {MARK} "):
        return None
    head = lines[0].removeprefix(f"# {MARK} ")
    name, _, bound = head.partition(" at ")
    body = []
    for line in lines[1:]:
        if not line.startswith("#"):
            break
        body.append(line.removeprefix("#").removeprefix(" "))
    text = "\n".join(body) + "\n"
    types = dict(part.split(" = ") for part in bound.split(", ")) if bound else {}
    try:
        spec = parse_spec(text, f"{name}.op")
        op = spec.operator(name, types)
        syntax = next(o for o in spec.module.ops if o.name == name)
        again = definition_of(op, text, len(syntax.wheres), d.op_type).definition
    except (DiagnosticError, FormatError, ValueError, KeyError, StopIteration):
        return None
    same = ("axes", "inputs", "outputs", "reference", "constraints")
    if any(getattr(again, part) != getattr(d, part) for part in same):
        return None
    return Imported(name, text, "carried")


class _Writer:
    """A definition of others as the text of a spec."""

    def __init__(self, d: Definition, loads: Sequence[Trace]) -> None:
        self.d, self.loads = d, loads
        self.notes: list[str] = []
        self.names: dict[str, str] = {}
        used: set[str] = set()
        for name in (*d.axes, *d.inputs, *d.outputs):
            if name in self.names:
                continue
            own = re.sub(r"\W", "_", name)
            own = own if own[:1].isalpha() or own[:1] == "_" else f"n_{own}"
            while own in RESERVED or own in used or own in DTYPES.values():
                own += "_"
            used.add(own)
            self.names[name] = own

    def spec(self) -> Imported:
        d = self.d
        name = re.sub(r"\W", "_", d.name)
        name = f"op_{name}" if not name[:1].isalpha() or name in RESERVED else name
        lines, origin = [f'opwright "0.1"\n\nop {name} @ 1.0{self.doc()} {{', *self.head()], "read"
        try:
            equations = self.meaning()
            body = [*lines, "", "  def {", *(f"    {e}" for e in equations), "  }"]
            text = "\n".join([*body, *self.workloads(), "}"]) + "\n"
            self.elaborated(text, name)
        except NotRead as e:
            origin = "skeleton"
            why = str(e)
            self.notes.append(f"the reference was not read: {why}")
            comment = [
                f"  # the reference was not read: {' '.join(why.split())}",
                "  # write `def { ... }` for what flashinfer.json holds in Python",
            ]
            text = "\n".join([*lines, "", *comment, *self.workloads(), "}"]) + "\n"
        renamed = {k: v for k, v in self.names.items() if k != v}
        from opwright.grammar.format import format_module

        try:
            text = format_module(text, f"{name}.op")
        except DiagnosticError as e:
            raise FormatError(f"{d.name}: no spec: {e.diagnostics[0].headline}") from None
        return Imported(name, text, origin, tuple(self.notes), renamed)

    def doc(self) -> str:
        text = " ".join((self.d.description or "").replace('"', "'").split())
        return f' "{text}"' if text else ""

    def head(self) -> list[str]:
        d, own = self.d, self.names
        out = []
        if d.axes:
            out.append(f"  dims {', '.join(own[a] for a in d.axes)}")
        fixed = [f"{own[n]} == {a.value}" for n, a in d.axes.items() if isinstance(a, ConstAxis)]
        params = [n for n, t in d.inputs.items() if t.shape is None]
        out += [f"  param {own[n]}: {DTYPES[d.inputs[n].dtype]}" for n in params]
        if fixed:
            out.append(f"  where {', '.join(fixed)}")
        for k, text in enumerate(d.constraints or ()):
            rule = self.constraint(text)
            if rule is None:
                self.notes.append(f"constraints[{k}] is left out: {text}")
            else:
                out.append(f"  where {rule}")
        for kind, group in (("input", d.inputs), ("output", d.outputs)):
            tensors = []
            for n, t in group.items():
                if t.shape is None:
                    if kind == "output":
                        raise FormatError(f"outputs.{n}: a Python number has no form in a spec")
                    continue
                shape = f"[{', '.join(own[a] for a in t.shape)}]" if t.shape else ""
                tensors.append(f"{own[n]}: {DTYPES[t.dtype]}{shape}")
            if tensors:
                out.append(f"  {kind} {', '.join(tensors)}")
        return out

    def constraint(self, text: str) -> str | None:
        """A Python condition over axes and numbers in the language of specs; None for others."""
        try:
            tree = python.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError):
            return None
        numbers = {n for n, t in self.d.inputs.items() if t.shape is None}
        allowed = (
            python.BoolOp, python.And, python.Or, python.UnaryOp, python.Not, python.USub,
            python.BinOp, python.Add, python.Sub, python.Mult, python.FloorDiv, python.Mod,
            python.Compare, python.Eq, python.NotEq, python.Lt, python.LtE, python.Gt, python.GtE,
            python.Name, python.Load, python.Constant,
        )  # fmt: skip
        renamed: dict[int, str] = {}
        for node in python.walk(tree):
            if not isinstance(node, allowed):
                return None
            if isinstance(node, python.Name):
                if node.id not in self.d.axes and node.id not in numbers:
                    return None
                renamed[id(node)] = self.names[node.id]
            if isinstance(node, python.Constant) and not isinstance(node.value, bool | int | float):
                return None
        for node in python.walk(tree):
            if isinstance(node, python.Name):
                node.id = renamed[id(node)]
        return python.unparse(tree).replace("True", "true").replace("False", "false")

    def meaning(self) -> tuple[str, ...]:
        d, own = self.d, self.names
        inputs = {}
        for n, t in d.inputs.items():
            kind = next(k for word, k in KINDS.items() if t.dtype.startswith(word))
            inputs[own[n]] = (None if t.shape is None else [own[a] for a in t.shape], kind)
        outputs = {own[n]: [own[a] for a in t.shape or ()] for n, t in d.outputs.items()}
        known = {own[n]: a.value for n, a in d.axes.items() if isinstance(a, ConstAxis)}
        return read_reference(d.reference, inputs, outputs, known).equations

    def elaborated(self, text: str, name: str) -> None:
        from opwright.compiler.elaborate import parse_spec

        try:
            parse_spec(text, f"{name}.op").operator(name)
        except DiagnosticError as e:
            found = e.diagnostics[0]
            raise NotRead(f"what was read is no spec: {found.code}: {found.message}") from None

    def workloads(self) -> list[str]:
        out = []
        for n, trace in enumerate(self.loads):
            found = workload_item(trace.workload, self.d, f"w{n}", self.names)
            if found is not None:
                out.append(f"  {found}")
        return ["", *out] if out else []


def workload_item(
    w: Workload, d: Definition, name: str, names: Mapping[str, str] | None = None
) -> str | None:
    """A workload as a line of a spec; None without lengths. Raises FormatError where it does not
    fit the definition."""
    names = names or {}
    wanted = {n for n, a in d.axes.items() if not isinstance(a, ConstAxis)}
    if set(w.axes) != wanted:
        odd = sorted(set(w.axes) ^ wanted)[0]
        why = "is no variable axis" if odd in w.axes else "has no length"
        raise FormatError(f"workload {w.uuid}: axes.{odd}: {odd} {why} of {d.name}")
    parts = [f"{names.get(k, k)} = {v}" for k, v in w.axes.items()]
    parts += [f"{names.get(n, n)} = {a.value}" for n, a in d.axes.items()
              if isinstance(a, ConstAxis)]  # fmt: skip
    for k, v in w.inputs.items():
        if k not in d.inputs:
            raise FormatError(f"workload {w.uuid}: inputs.{k}: {d.name} has no such input")
        if isinstance(v, ScalarInput):
            text = str(v.value).lower() if isinstance(v.value, bool) else repr(v.value)
            parts.append(f"{names.get(k, k)} = {text}")
    return f"workload {name} weight 1.0 {{ {', '.join(parts)} }}" if parts else None


def write_spec(folder: Path, d: Definition, found: Imported) -> list[Path]:
    """The spec, and beside it what it has no words for."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found.name}.op"
    path.write_text(found.text, encoding="utf-8")
    made = [path]
    if found.origin != "carried":
        kept = {
            "definition": d.model_dump(mode="json", exclude_unset=True),
            "spec": digest_of(found.text),
            "names": dict(found.names),
        }
        side = sidecar(path)
        side.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        made.append(side)
    return made


# -- stored inputs --------------------------------------------------------------------------------

STORED = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "uint8", "F8_E5M2": "uint8",
}  # fmt: skip
HEADER_LIMIT = 1 << 26


def stored_input(data_set: Path, given: StoredInput) -> NDArray[Any]:
    """A tensor of a safetensors file in stored form; FormatError with the file."""
    path = data_set / given.path
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_LIMIT:
                raise FormatError(f"{path}: no safetensors file")
            header = json.loads(file.read(length))
            row = header[given.tensor_key]
            begin, end = row["data_offsets"]
            file.seek(8 + length + begin)
            raw = file.read(end - begin)
        return np.frombuffer(raw, STORED[row["dtype"]]).reshape(row["shape"]).copy()
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror or e}") from None
    except KeyError as e:
        raise FormatError(f"{path}: there is no {e}") from None
    except (ValueError, TypeError, struct.error) as e:
        raise FormatError(f"{path}: no safetensors file: {e}") from None


# -- traces ---------------------------------------------------------------------------------------


def records_of(trace: Trace) -> list[Record]:
    """What others say of a solution, as records: a report is never more than an assumption."""
    e = trace.evaluation
    if e is None:
        return []
    parts = [f"{e.status} on {e.environment.hardware}, {e.timestamp}"]
    if e.correctness is not None:
        c = e.correctness
        parts.append(f"largest error {c.max_absolute_error:g}, relative {c.max_relative_error:g}")
    if e.performance is not None:
        p = e.performance
        parts.append(f"{p.latency_ms:g} ms, {p.speedup_factor:g} times the reference")
    if e.log and e.status != "PASSED":
        parts.append(e.log.splitlines()[0][:200])
    said = f"reported by flashinfer-bench for workload {trace.workload.uuid}"
    status = "ASSUMED" if e.status == "PASSED" else "UNKNOWN"
    subject = f"solution {trace.solution} of {trace.definition}"
    return [Record("G6.reported", "G6", status, "; ".join(parts), subject, (said,))]


# -- solutions ------------------------------------------------------------------------------------


def write_solution(folder: Path, s: Solution) -> tuple[list[Path], str]:
    """The files of a solution in a folder, and why they are no candidate; empty where they are."""
    from opwright.ir.plan import PlanError, from_json

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    files = {f.path: f.content for f in s.sources}
    why = ""
    if "candidate.json" not in files:
        why = (
            f"{s.name} has no launch plan (candidate.json): its launches are code of its own in "
            f"{s.spec.entry_point}"
        )
    else:
        try:
            plan = from_json(json.loads(files["candidate.json"]))
            if plan.source not in files:
                why = f"{s.name}: candidate.json names {plan.source}, which is no source"
            else:  # the entry is generated; the candidate is the plan and its source
                files = {k: files[k] for k in ("candidate.json", plan.source, "kernel.tile")
                         if k in files}  # fmt: skip
        except (PlanError, ValueError, RecursionError) as e:
            why = f"{s.name}: candidate.json: {e}"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        made.append(path)
    return made, why


def documents(path: Path) -> tuple[list[Definition], list[Trace], list[Solution]]:
    """What a file or a data set's folder holds, told apart by its fields."""
    definitions: list[Definition] = []
    traces: list[Trace] = []
    solutions: list[Solution] = []
    if path.is_dir():
        files = sorted(f for f in path.rglob("*.json*") if f.suffix in (".json", ".jsonl"))
        if not files:
            raise FormatError(f"{path}: no .json or .jsonl files")
    else:
        files = [path]
    from opwright.compiler.flashinfer_schema import read

    for file in files:
        text = text_of(file)
        whole = file.suffix != ".jsonl"
        rows = [text] if whole else text.splitlines()
        for n, row in enumerate(rows, 1):
            if not row.strip() and not whole:
                continue
            place = str(file) if whole else f"{file}:{n}"
            kind = _kind(row, place)
            if kind is Definition:
                definitions.append(read(Definition, row, place))
            elif kind is Solution:
                solutions.append(read(Solution, row, place))
            else:
                traces.append(read(Trace, row, place))
    return definitions, traces, solutions


def _kind(text: str, place: str) -> type[Definition] | type[Solution] | type[Trace]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as e:
        raise FormatError(
            f"{place}: not JSON (line {e.lineno}, column {e.colno}): {e.msg}"
        ) from None
    except (RecursionError, ValueError) as e:
        raise FormatError(f"{place}: not JSON that can be read: {e}") from None
    if not isinstance(data, dict):
        raise FormatError(f"{place}: not an object")
    if "workload" in data:
        return Trace
    if "sources" in data or "spec" in data:
        return Solution
    return Definition


def same_workload(d: Definition, w: Workload, names: Sequence[str]) -> bool:
    """Whether a workload is one that an export wrote for a spec with these workloads."""
    return any(w.uuid == workload_id(d.name, n) for n in names)
