"""The JSON of flashinfer-bench: Definition, Workload, Solution, Trace, read strictly.

What is wrong with a document is one sentence with its file and the path inside the JSON. Fields
and names are theirs (flashinfer_bench.data, 2026-04); what the documents mean to an operator is in
`flashinfer_export` and `flashinfer_import`.
"""

from __future__ import annotations

import json
import keyword
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

DTYPES = {
    "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2", "float4_e2m1": "f4e2m1", "int64": "i64", "int32": "i32",
    "int16": "i16", "int8": "i8", "bool": "bool",
}  # fmt: skip
OURS = {own: theirs for theirs, own in DTYPES.items()}
DtypeName = Literal[
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1",
    "int64", "int32", "int16", "int8", "bool",
]  # fmt: skip
Text = Annotated[str, Field(min_length=1)]
Size = Annotated[int, Field(ge=0)]


class FormatError(ValueError):
    """A document that is not what it should be: file, path in the JSON, and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ConstAxis(_Strict):
    """An axis of one length."""

    type: Literal["const"]
    value: Size
    description: str | None = None


class VarAxis(_Strict):
    """An axis whose length every workload says."""

    type: Literal["var"]
    description: str | None = None


Axis = Annotated[ConstAxis | VarAxis, Field(discriminator="type")]


class TensorSpec(_Strict):
    """An input or output: `shape` names axes, [] is a 0-d tensor, null a Python number."""

    shape: list[Text] | None
    dtype: DtypeName
    description: str | None = None


class Definition(_Strict):
    """What is computed: axes, inputs and outputs in call order, a reference in Python."""

    name: Text
    op_type: Text
    axes: dict[str, Axis]
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    reference: Text
    tags: list[str] | None = None
    description: str | None = None
    constraints: list[Text] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Definition:
        both = sorted(set(self.inputs) & set(self.outputs))
        if both:
            raise ValueError(f"outputs.{both[0]}: an input has the same name")
        if not self.outputs:
            raise ValueError("outputs: there is none")
        for place, group in (("inputs", self.inputs), ("outputs", self.outputs)):
            for name, t in group.items():
                if not name.isidentifier() or keyword.iskeyword(name):
                    raise ValueError(f"{place}.{name}: not a Python name")
                for n, axis in enumerate(t.shape or ()):
                    if axis not in self.axes:
                        raise ValueError(f"{place}.{name}.shape[{n}]: there is no axis {axis}")
        _defines_run(self.reference, list(self.inputs))
        return self


def _defines_run(reference: str, inputs: list[str]) -> None:
    """ValueError for a reference without a top-level `run` of these inputs."""
    import ast

    try:
        tree = ast.parse(reference)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        line = getattr(e, "lineno", None)
        raise ValueError(f"reference: not Python (line {line}): {e}") from None
    run = next((f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "run"), None)
    if run is None:
        raise ValueError("reference: there is no top-level function `run`")
    count = len(run.args.posonlyargs) + len(run.args.args)
    if count != len(inputs) and run.args.vararg is None:
        raise ValueError(
            f"reference: `run` takes {count} arguments, there are {len(inputs)} inputs"
        )


class RandomInput(_Strict):
    """Drawn anew for every trial."""

    type: Literal["random"]


class ScalarInput(_Strict):
    """A Python number."""

    type: Literal["scalar"]
    value: bool | int | float


class StoredInput(_Strict):
    """A tensor of a safetensors file, by a path below the data set."""

    type: Literal["safetensors"]
    path: Text
    tensor_key: Text

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        return relative(path)


Input = Annotated[RandomInput | ScalarInput | StoredInput, Field(discriminator="type")]


class Workload(_Strict):
    """Lengths of the variable axes and where inputs come from."""

    uuid: Text
    axes: dict[str, Size]
    inputs: dict[str, Input]


class SourceFile(_Strict):
    path: Text
    content: Text

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        return relative(path)


class SolutionSpec(_Strict):
    """How a solution is built and called."""

    language: Literal["python", "triton", "cpp", "cuda", "tilelang"]
    target_hardware: Annotated[list[Text], Field(min_length=1)]
    entry_point: Text
    dependencies: list[Text] = []
    destination_passing_style: bool = True
    binding: Literal["tvm-ffi", "torch"] | None = None

    @field_validator("entry_point")
    @classmethod
    def _names_a_function(cls, text: str) -> str:
        path, mark, function = text.partition("::")
        if not mark or not function.isidentifier():
            raise ValueError("write file::function, as main.py::run")
        relative(path)
        return text


class Solution(_Strict):
    """Source files that implement a definition."""

    name: Text
    definition: Text
    author: Text
    description: str | None = None
    spec: SolutionSpec
    sources: Annotated[list[SourceFile], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_its_entry(self) -> Solution:
        paths = [s.path for s in self.sources]
        for n, path in enumerate(paths):
            if path in paths[:n]:
                raise ValueError(f"sources[{n}].path: {path} occurs twice")
        entry = self.spec.entry_point.partition("::")[0]
        if entry not in paths:
            raise ValueError(f"spec.entry_point: there is no source {entry}")
        return self


class Correctness(_Strict):
    max_relative_error: float
    max_absolute_error: float
    extra: dict[str, Any] | None = None


class Performance(_Strict):
    latency_ms: float
    reference_latency_ms: float
    speedup_factor: float


class Environment(_Strict):
    hardware: Text
    libs: dict[str, str] = {}


STATUSES = (
    "PASSED", "INCORRECT_SHAPE", "INCORRECT_NUMERICAL", "INCORRECT_DTYPE", "RUNTIME_ERROR",
    "COMPILE_ERROR", "TIMEOUT",
)  # fmt: skip


class Evaluation(_Strict):
    """One run: PASSED has correctness and performance, INCORRECT_NUMERICAL correctness alone."""

    status: Literal[
        "PASSED", "INCORRECT_SHAPE", "INCORRECT_NUMERICAL", "INCORRECT_DTYPE", "RUNTIME_ERROR",
        "COMPILE_ERROR", "TIMEOUT",
    ]  # fmt: skip
    environment: Environment
    timestamp: Text
    log: str = ""
    correctness: Correctness | None = None
    performance: Performance | None = None

    @model_validator(mode="after")
    def _has_what_its_status_says(self) -> Evaluation:
        needs = {"PASSED": (True, True), "INCORRECT_NUMERICAL": (True, False)}
        wanted = needs.get(self.status, (False, False))
        parts = ("correctness", "performance")
        for name, needed in zip(parts, wanted, strict=True):
            if (getattr(self, name) is not None) is not needed:
                raise ValueError(f"{name}: {self.status} {'needs it' if needed else 'has none'}")
        return self


class Trace(_Strict):
    """A workload, and what a solution did on it; alone it is a workload of a data set."""

    definition: Text
    workload: Workload
    solution: str | None = None
    evaluation: Evaluation | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Trace:
        if (self.solution is None) is not (self.evaluation is None):
            raise ValueError("evaluation: it and solution go together")
        return self


Model = TypeVar("Model", bound=_Strict)


def relative(path: str) -> str:
    """The path; ValueError for one that leaves its folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\x00" in path:
        raise ValueError(f"{path!r} is no path below the folder")
    return path


def read(kind: type[Model], data: str, place: str) -> Model:
    """One document; FormatError with the file and the path in it."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        raise FormatError(f"{place}: {_first(e)}") from None


def read_value(kind: type[Model], value: Any, place: str) -> Model:
    """As `read`, of JSON that was parsed already."""
    return read(kind, json.dumps(value), place)


def _first(e: ValidationError) -> str:
    """The first thing wrong, by its path."""
    found = e.errors(include_url=False, include_input=False)[0]
    parts = [
        p for p in found["loc"] if p not in ("const", "var", "random", "scalar", "safetensors")
    ]
    path = ""
    for p in parts:
        path += f"[{p}]" if isinstance(p, int) else f".{p}" if path else str(p)
    text = found["msg"].removeprefix("Value error, ")
    more = e.error_count() - 1
    also = f" ({more} more)" if more else ""
    return f"{path}: {text}{also}" if path else f"{text}{also}"


def read_file(kind: type[Model], path: Path) -> Model:
    """The document of a file; FormatError, also for one that cannot be read."""
    return read(kind, text_of(path), str(path))


def read_lines(kind: type[Model], path: Path) -> list[Model]:
    """The documents of a file of JSON lines."""
    rows = enumerate(text_of(path).splitlines(), 1)
    return [read(kind, row, f"{path}:{n}") for n, row in rows if row.strip()]


def text_of(path: Path) -> str:
    """FormatError for a file that cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not UTF-8") from None


def dump(document: _Strict, indent: int | None = 2) -> str:
    """The JSON of a document: what is unset is left out, what must be there is null."""
    data = document.model_dump(mode="json", exclude_none=True)
    if isinstance(document, Definition):
        for name in ("inputs", "outputs"):
            for own, t in getattr(document, name).items():
                data[name][own] = {"shape": t.shape, **data[name][own]}
    if isinstance(document, Trace):
        data = {"definition": None, "workload": None, "solution": None, "evaluation": None, **data}
    return json.dumps(data, indent=indent, ensure_ascii=False) + "\n"
