"""What a package says of itself as data: reference values and metadata."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.compiler import package_code as code
from opwright.compiler import package_docs as docs
from opwright.compiler.package_folder import PACKAGE_KIND, EmitError
from opwright.compiler.package_spec import (
    ISA_LEVELS,
    PackageSpec,
    backward_module,
    library_path,
    saving_module,
    source_path,
)
from opwright.ir.op import Tensor


def reference_values(spec: PackageSpec) -> dict[str, Any]:
    cases = []
    for packaged in spec.operators:
        op = packaged.operator
        for case in packaged.cases:
            given = {
                **dict(case.params),
                **{s: case.sizes[s] for s in op.free_sizes if s in case.sizes},
            }
            cases.append(
                {
                    "name": case.name,
                    "types": dict(op.types),
                    "given": given,
                    "inputs": {t.name: _stored(t, case.inputs[t.name]) for t in op.inputs},
                    "outputs": {
                        t.name: _expected(
                            case.outputs[t.name], case.tolerance.get(t.name, (0.0, 0.0))
                        )
                        for t in op.outputs
                    },
                }
            )
    return {"format": 1, "cases": cases}


def _number(value: Any) -> Any:
    """A JSON number, or text for what JSON has no number for."""
    value = value.item() if isinstance(value, np.generic) else value
    return repr(value) if isinstance(value, float) and not np.isfinite(value) else value


def _stored(t: Tensor, array: NDArray[Any]) -> dict[str, Any]:
    """Numbers of a native type, bits of any other."""
    wanted = np.dtype(t.dtype.storage)
    if array.dtype != wanted:
        raise EmitError(f"reference input {t.name} is {array.dtype}; it must be stored as {wanted}")
    return {"shape": list(array.shape), "data": [_number(v) for v in array.reshape(-1)]}


def _expected(array: NDArray[Any], tolerance: tuple[float, float]) -> dict[str, Any]:
    values = np.asarray(array)
    return {
        "shape": list(values.shape),
        "data": [_number(v) for v in values.reshape(-1)],
        "abs": tolerance[0],
        "rel": tolerance[1],
    }


def package_metadata(spec: PackageSpec, files: Mapping[str, bytes]) -> dict[str, Any]:
    op = spec.operator
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    spec_path = f"spec/{op.name}.op"
    return {
        "format": 1,
        "kind": PACKAGE_KIND,
        "id": spec.package,
        "name": spec.distribution,
        "version": op.version,
        "license": spec.license,
        "generator": {"name": "opwright", "version": own_version()},
        "operator": f"{op.name}@{op.version}",
        "spec": {"path": spec_path, "digest": op.digest, "sha256": digests[spec_path]},
        "platform": spec.platform,
        "backend": _backend(spec),
        "unrun": list(spec.unrun),
        "python-depends": [],
        "bindings": [
            {
                "types": dict(p.operator.types),
                "variants": [
                    {
                        "name": v.name,
                        "guards": list(v.guards),
                        "source": source_path(p.operator, v),
                        "verdict": docs.verdict(v.records),
                        "libraries": {
                            level: {"path": path, "sha256": digests[path]}
                            for level in ISA_LEVELS
                            if level in v.libraries
                            for path in [library_path(p.operator, v, level)]
                        },
                    }
                    for v in p.variants
                ],
            }
            for p in spec.operators
        ],
        "assumed": list(code.preconditions(op).assumed),
        "backward": [
            {
                "package": backward_module(n),
                "operator": b.spec.operator.name,
                "gradients": list(b.outputs),
                **({"saved": list(b.saved), "saving": saving_module(n)} if b.saving else {}),
            }
            for n, b in enumerate(spec.backward)
        ],
        "workloads": [
            {
                "name": w.name,
                "weight": w.weight,
                "sizes": dict(w.sizes),
                "params": dict(w.params),
                "types": dict(w.types),
            }
            for w in op.workloads
        ],
        "benchmarks": {
            "machine": dict(spec.machine),
            "rows": [
                {
                    "workload": m.workload,
                    "types": dict(m.types),
                    "variant": m.variant,
                    "seconds": m.seconds,
                    "baselines": dict(m.baselines),
                }
                for m in spec.benchmarks
            ],
        },
        "modelled": [dict(m) for m in spec.modelled],
        "resources": dict(spec.resources),
        "provenance": dict(spec.provenance),
        "files": digests,
    }


def _backend(spec: PackageSpec) -> dict[str, Any]:
    if spec.kind.native:
        return {"type": "cpu", "archs": list(ISA_LEVELS)}
    targets = dict.fromkeys(x for p in spec.operators for v in p.variants for x in v.targets)
    return {"type": spec.backend, "archs": list(targets)}


def own_version() -> str:
    try:
        return importlib.metadata.version("opwright")
    except importlib.metadata.PackageNotFoundError:
        return "unversioned"
