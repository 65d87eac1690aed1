"""What a package is made of: the parts that the pipeline hands over, and where they lie inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from opwright.compiler.package_kinds import KINDS, Kind
from opwright.ir.op import Operator
from opwright.ir.plan import Plan
from opwright.ir.record import Record

ISA_LEVELS = ("x86-64-v4", "x86-64-v3", "portable")  # best first


@dataclass(frozen=True, slots=True)
class Binary:
    """A kernel as a driver loads it: its code and symbol, threads of a block, dynamic shared
    memory, and, where Triton compiled it, the bytes of scratch of its own that a program has (None
    for a kernel that takes what the plan says and no more)."""

    code: bytes = field(repr=False)
    symbol: str
    threads: int
    shared: int = 0
    hidden: int | None = None


@dataclass(frozen=True, slots=True)
class PackagedVariant:
    """One kernel: its plan, a native library per instruction-set level, its texts and its verdicts.

    A library exports `int32_t opwright_run(void *const *buffers, const int64_t *ints, const double
    *reals, int32_t threads)`. `facts` are guards beyond those of the plan; `sources` are the texts
    by level where they differ from `source`. A package without native code has no libraries;
    `targets` are then what the source was compiled for. `proofs` is the packed record of the proofs
    of the source, where there is one. `binaries` are what a driver loads, by architecture ("ptx"
    for those that have none).
    """

    name: str
    plan: Plan
    libraries: Mapping[str, Path]
    source: str
    tile: str = ""
    facts: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    proofs: bytes = b""
    binaries: Mapping[str, bytes] = field(default_factory=dict)
    # instead, a binary for each launch of the plan, by architecture
    launched: Mapping[str, tuple[Binary, ...]] = field(default_factory=dict)

    @property
    def guards(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.plan.facts, *self.facts)))


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceCase:
    """Small inputs (in storage types) with float64 results and (absolute, relative) tolerances."""

    name: str
    sizes: Mapping[str, int]
    params: Mapping[str, float | int | bool]
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    tolerance: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Array code for JAX: a module with one pure function. `wide`: it computes in 64-bit floats."""

    source: str
    function: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class PackagedOperator:
    """The operator at one binding of its type variables; variants in order of dispatch, the last
    one without guards (candidate 0). `arrays` is what `<package>.jax` runs."""

    operator: Operator
    variants: tuple[PackagedVariant, ...]
    cases: tuple[ReferenceCase, ...] = ()
    arrays: Arrays | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Median seconds of what dispatch takes for a workload, and of what it is compared with."""

    workload: str
    types: Mapping[str, str]
    variant: str
    seconds: float
    baselines: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackageSpec:
    """Everything that a package is made of. `source` is the spec as written; `certificate` and
    `certificate_text` ship as they are (without a text, one is made from the records). `unrun` says
    what was not executed before shipping, `modelled` are times that nobody measured."""

    source: str
    operators: tuple[PackagedOperator, ...]
    certificate: Mapping[str, Any] = field(default_factory=dict)
    certificate_text: str = ""
    benchmarks: tuple[Measurement, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    backend: str = "cpp"
    unrun: tuple[str, ...] = ()
    modelled: tuple[Mapping[str, Any], ...] = ()
    # types of a binding -> target -> kernel -> what its compiler reports
    resources: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    backward: tuple[PackagedBackward, ...] = ()
    device: PackageSpec | None = None  # the same for GPUs, inside a package for CPUs

    @property
    def kind(self) -> Kind:
        return KINDS[self.backend]

    @property
    def platform(self) -> str:
        return self.kind.platform

    @property
    def operator(self) -> Operator:
        return self.operators[0].operator

    @property
    def package(self) -> str:
        """The import name."""
        return f"{self.operator.name}_k"

    @property
    def distribution(self) -> str:
        return self.package.replace("_", "-")


@dataclass(frozen=True, slots=True)
class PackagedBackward:
    """A gradient as a package inside the package: what its inputs are to the operator (input,
    output, grad or saved, and a name), and the inputs that its outputs are gradients of. `saving`
    is the operator whose further outputs, in the order of `saved`, are the saved inputs."""

    spec: PackageSpec
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]
    saved: tuple[str, ...] = ()
    saving: PackageSpec | None = None


DEVICE = "_device"  # the package for GPUs inside one for CPUs


def backward_module(n: int) -> str:
    """The package of the n-th gradient, relative to the package."""
    return f"_backward{n}" if n else "_backward"


def saving_module(n: int) -> str:
    """The package of the operator that saves what the n-th gradient reads."""
    return f"_saving{n}" if n else "_saving"


@dataclass(frozen=True, slots=True)
class EmitResult:
    """The source folder and the wheel inside it."""

    folder: Path
    wheel: Path


def types_label(op: Operator) -> str:
    """A path component for a binding: its element types, or `all`."""
    return "-".join(op.types.values()) or "all"


def library_path(op: Operator, v: PackagedVariant, level: str) -> str:
    return f"_native/{types_label(op)}.{v.name}.{level.replace('-', '_')}.so"


def arrays_module(op: Operator) -> str:
    """The module of a binding's array code, relative to the package."""
    return f"_jnp.{types_label(op).replace('-', '_')}"


def kernels_module(op: Operator, v: PackagedVariant) -> str:
    """The module of a variant's Triton kernels, relative to the package."""
    name = f"{types_label(op)}_{v.name}"
    return f"_kernels.{name.replace('-', '_')}"


def binary_path(op: Operator, v: PackagedVariant, level: str) -> str:
    """What a driver loads on an architecture."""
    suffix = level if level == "ptx" else f"{level}.cubin"
    return f"_native/{types_label(op)}.{v.name}.{suffix}"


def launch_path(op: Operator, v: PackagedVariant, level: str, n: int) -> str:
    """What a driver loads for the n-th launch on an architecture."""
    suffix = level if level == "ptx" else f"{level}.{'hsaco' if level[:3] == 'gfx' else 'cubin'}"
    return f"_native/{types_label(op)}.{v.name}.{n}.{suffix}"


def proofs_path(op: Operator, v: PackagedVariant) -> str:
    return f"sources/{types_label(op)}/{v.name}/proofs.json.gz"


def source_path(op: Operator, v: PackagedVariant) -> str:
    return f"sources/{types_label(op)}/{v.name}/{v.plan.source}"
