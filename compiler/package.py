"""Emission of a package: what goes in, the files it consists of, and the atomic write.

The Python text of tables comes from `package_code`, prose from `package_docs`, the archive from
`wheel`, the write from `package_folder`; `runtime/` is copied verbatim.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import opwright.runtime
from opwright.backends.cpp.build import BuildError, build_extension
from opwright.compiler import package_code as code
from opwright.compiler import package_docs as docs
from opwright.compiler.package_data import own_version, package_metadata, reference_values
from opwright.compiler.package_folder import EmitError, write_folder
from opwright.compiler.package_kinds import UNIVERSAL, templates
from opwright.compiler.package_spec import (
    DEVICE,
    ISA_LEVELS,
    Arrays,
    EmitResult,
    Measurement,
    PackagedOperator,
    PackagedVariant,
    PackageSpec,
    ReferenceCase,
    arrays_module,
    backward_module,
    binary_path,
    kernels_module,
    launch_path,
    library_path,
    proofs_path,
    saving_module,
    source_path,
    types_label,
)
from opwright.compiler.paths import cache_folder
from opwright.compiler.wheel import build_wheel, metadata, wheel_name
from opwright.ir.op import Operator
from opwright.runtime.describe import argument
from opwright.verify.certificate import certificate_text

OLDEST_PYTHON = (3, 9)

__all__ = [
    "ISA_LEVELS",
    "Arrays",
    "EmitError",
    "EmitResult",
    "Measurement",
    "PackageSpec",
    "PackagedOperator",
    "PackagedVariant",
    "ReferenceCase",
    "emit",
]


def emit(spec: PackageSpec, out: Path) -> EmitResult:
    """Write the package into `out/<distribution>`, replacing an older one as a whole.

    EmitError when the parts do not fit together or the folder cannot be written; then nothing in
    `out` has changed.
    """
    check(spec)
    package = package_files(spec)
    tag = f"py3-none-{spec.platform}"
    version, summary = spec.operator.version, docs.title(spec.operator)
    archive = build_wheel(
        {f"{spec.package}/{name}": data for name, data in package.items()},
        spec.distribution,
        version,
        tag,
        metadata(
            spec.distribution,
            version,
            summary,
            package["README.md"].decode(),
            spec.kind.extras,
            spec.license,
        ),
        f"opwright ({own_version()})",
        pure=not spec.kind.native,
    )
    wheel = wheel_name(spec.distribution, version, tag)
    tree = {f"src/{spec.package}/{name}": data for name, data in package.items()}
    for name in ("README.md", "CERTIFICATE.txt", "certificate.json", "metadata.json"):
        tree[name] = package[name]
    tree[f"spec/{spec.operator.name}.op"] = package[f"spec/{spec.operator.name}.op"]
    environment = templates()
    values = {
        "package": spec.package,
        "distribution": spec.distribution,
        "version": version,
        "summary": json.dumps(summary, ensure_ascii=False),
        "extras": {k: json.dumps(v) for k, v in spec.kind.extras.items()},
        "jax": _has_arrays(spec),
        "wheel": wheel,
    }
    for template, name in (
        ("pyproject.toml", "pyproject.toml"),
        ("prebuilt.py", "prebuilt.py"),
        (spec.kind.test, f"tests/test_{spec.package}.py"),
    ):
        tree[name] = environment.get_template(f"{template}.jinja").render(values).encode()
    tree[f"dist/{wheel}"] = archive
    folder = out / spec.distribution
    write_folder(folder, tree)
    return EmitResult(folder, folder / "dist" / wheel)


def check(spec: PackageSpec) -> None:
    """EmitError for the first part that is missing or contradicts another."""
    if not spec.operators:
        raise EmitError("a package needs at least one operator")
    first = code.interface(spec.operator)
    if not spec.operator.outputs:
        raise EmitError(f"{spec.operator.name} has no output")
    for t in (*spec.operator.inputs, *spec.operator.outputs):
        if t.dtype.bits < 8:
            raise EmitError(
                f"{t.name} is {t.dtype}: packages pass whole bytes", "give it an 8-bit type"
            )
    if spec.device is not None:
        check(spec.device)
    for b in spec.backward:
        check(b.spec)
        if b.saving is not None:
            check(b.saving)
    seen: set[tuple[tuple[str, str], ...]] = set()
    for packaged in spec.operators:
        op = packaged.operator
        if code.interface(op) != first:
            raise EmitError(
                f"{op.name} with {dict(op.types)} has another interface than its siblings"
            )
        key = tuple(sorted(op.types.items()))
        if key in seen:
            raise EmitError(f"{op.name} is given twice with {dict(op.types)}")
        seen.add(key)
        _check_variants(packaged, spec.kind.native)
        if spec.backend == "jax" and packaged.arrays is None:
            raise EmitError(f"{op.name} with {dict(op.types)} has no array code")


def _check_variants(packaged: PackagedOperator, native: bool) -> None:
    op = packaged.operator
    names = [v.name for v in packaged.variants]
    if not names or len(set(names)) != len(names):
        raise EmitError(f"{op.name} needs variants with names of their own, not {names}")
    if packaged.variants[-1].guards:
        raise EmitError(
            f"the last variant {names[-1]} of {op.name} has guards",
            "end with candidate 0, which takes every call",
        )
    for v in packaged.variants:
        if not v.name.replace("_", "").replace("-", "").isalnum():
            raise EmitError(f"{v.name!r} cannot name a variant", "use letters, digits, - and _")
        if v.plan.backend in ("triton", "cuda") and not v.targets:
            raise EmitError(f"variant {v.name} of {op.name} was compiled for nothing")
        if native and not v.libraries:
            raise EmitError(f"variant {v.name} of {op.name} has no library")
        unknown = sorted(set(v.libraries) - set(ISA_LEVELS))
        if unknown:
            raise EmitError(f"unknown instruction-set level {unknown[0]}", f"use {ISA_LEVELS}")
        for text in v.guards:
            try:
                code.formula(code.fact(op, text))
            except code.CodeError as error:
                raise EmitError(f"variant {v.name} of {op.name}: {error}") from None
    for case in packaged.cases:
        lacking = [t.name for t in op.inputs if t.name not in case.inputs]
        lacking += [t.name for t in op.outputs if t.name not in case.outputs]
        if lacking:
            raise EmitError(f"reference case {case.name} lacks {lacking[0]}")


def package_files(spec: PackageSpec, entry: bool = True) -> dict[str, bytes]:
    """The files of the import package by path; the same bytes for the same spec. `entry`: with the
    compiled call, where Python's headers are installed."""
    files: dict[str, bytes] = {"py.typed": b"", **_runtime_files(spec.kind.runtime)}
    if spec.kind.native and entry:
        files |= _entry_file()
    for packaged in spec.operators:
        for v in packaged.variants:
            files |= _variant_files(packaged.operator, v)
            if spec.backend == "triton":
                files["_kernels/__init__.py"] = b'"""Triton kernels, one module a variant."""\n'
                module = kernels_module(packaged.operator, v).replace(".", "/")
                files[f"{module}.py"] = v.source.encode()
        if packaged.arrays is not None:
            files["_jnp/__init__.py"] = b'"""Array code for JAX, one module for each binding."""\n'
            module = arrays_module(packaged.operator).replace(".", "/")
            files[f"{module}.py"] = packaged.arrays.source.encode()
    files[f"spec/{spec.operator.name}.op"] = spec.source.encode()
    files["reference.json"] = _json(reference_values(spec))
    certificate = spec.certificate or docs.certificate(spec)
    files["certificate.json"] = _json(certificate)
    files["CERTIFICATE.txt"] = (spec.certificate_text or certificate_text(certificate)).encode()
    files["README.md"] = docs.readme(spec).encode()
    files |= _python_files(spec)
    if spec.device is not None:
        files |= _runtime_files(UNIVERSAL)
        inner = package_files(spec.device, entry=False)
        files |= {f"{DEVICE}/{name}": data for name, data in inner.items()}
    for n, b in enumerate(spec.backward):
        for module, own in ((backward_module(n), b.spec), (saving_module(n), b.saving)):
            inner = package_files(own, entry=False) if own is not None else {}
            files |= {f"{module}/{name}": data for name, data in inner.items()}
    for name, data in files.items():
        if name.endswith(".py"):
            ast.parse(data, name, feature_version=OLDEST_PYTHON)
    files["metadata.json"] = _json(package_metadata(spec, files))
    return files


def _has_arrays(spec: PackageSpec) -> bool:
    return all(p.arrays is not None for p in spec.operators)


def _runtime_files(wanted: Collection[str]) -> dict[str, bytes]:
    folder = Path(opwright.runtime.__file__).parent
    try:
        return {f"_runtime/{name}": (folder / name).read_bytes() for name in sorted(wanted)}
    except OSError as error:
        raise EmitError(
            f"{folder} cannot be read: {error.strerror}", "reinstall opwright"
        ) from None


def _entry_file() -> dict[str, bytes]:
    """The compiled call of known signatures; none where it cannot be built, as without Python's
    headers: calls then go through Python alone."""
    source = Path(opwright.runtime.__file__).with_name("entry.c")
    try:
        made = build_extension(source.read_text(), "entry", cache_folder() / "build")
    except (OSError, BuildError):
        return {}
    return {"_entry.abi3.so": made.read_bytes()} if made is not None else {}


def _variant_files(op: Operator, v: PackagedVariant) -> dict[str, bytes]:
    folder = f"sources/{types_label(op)}/{v.name}"
    files = {
        source_path(op, v): v.source.encode(),
        f"{folder}/candidate.json": _json(v.plan.to_json()),
        f"{folder}/verdict.json": _json([r.to_json() for r in v.records]),
    }
    stem, dot, suffix = v.plan.source.rpartition(".")
    for level, text in v.sources.items():
        if text != v.source:
            files[f"{folder}/{stem}.{level.replace('-', '_')}{dot}{suffix}"] = text.encode()
    if v.tile:
        files[f"{folder}/kernel.tile"] = v.tile.encode()
    for level, binary in v.binaries.items():
        files[binary_path(op, v, level)] = binary
    for level, launched in v.launched.items():
        for n, one in enumerate(launched):
            files[launch_path(op, v, level, n)] = one.code
    if v.proofs:
        files[proofs_path(op, v)] = v.proofs
    for level, path in v.libraries.items():
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise EmitError(
                f"the library {path} of {v.name} cannot be read: {error.strerror}"
            ) from None
        if not data.startswith(b"\x7fELF") or b"opwright_run\0" not in data:
            raise EmitError(f"{path} is no shared library with the entry opwright_run")
        files[library_path(op, v, level)] = data
    return files


def _python_files(spec: PackageSpec) -> dict[str, bytes]:
    op = spec.operator
    environment = templates()
    values = {
        "package": spec.package,
        "package_text": repr(spec.package),
        "operator": op.name,
        "function": docs.function_name(op),
        "opwright": own_version(),
        "version": repr(op.version),
        "digest": op.digest or "sha256:" + hashlib.sha256(spec.source.encode()).hexdigest(),
        "title": docs.title(op).replace("\\", "\\\\").replace('"""', "'''"),
    }
    results = docs.results_name(op) if len(op.outputs) > 1 else ""
    public = [docs.function_name(op), "selftest", "__version__"]
    public += [] if spec.backend == "jax" else ["explain", "Explanation"]
    public += ["pack"] if spec.kind.native else []
    inputs = [argument(t.name) for t in op.inputs]
    given = [argument(n) for n in docs.given_names(spec)]
    parameters = docs.parameters(spec)
    initial = values | {
        "native": spec.kind.native,
        "device": spec.device is not None,
        "backend": spec.backend,
        "public": repr(sorted([*public, *([results] if results else [])])),
        "results": results,
        "outputs": [argument(t.name) for t in op.outputs],
        "parameters": parameters,
        "pure_parameters": parameters[:-1] if parameters[-1] == "*" else parameters,
        "documentation": docs.documentation(spec),
        "inputs": _tuple(inputs),
        "given": _tuple(given),
    }
    modules = list(spec.kind.modules)
    if _has_arrays(spec):
        modules.append(("jax.py", "jax.py"))
    files = {"_op.py": environment.get_template("op.py.jinja").render(_tables(spec))}
    for template, name in modules:
        files[name] = environment.get_template(f"{template}.jinja").render(initial)
    return {name: text.encode() for name, text in files.items()}


def _tuple(names: list[str]) -> str:
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _tables(spec: PackageSpec) -> dict[str, Any]:
    """Texts of the tables of `_op.py`."""
    op, indent = spec.operator, "    "
    conditions = code.preconditions(op)
    where = [code.formula(f) for f in op.facts]
    where += [code.formula(e, text) for text, e in conditions.scalar]
    requires = [
        f"Requirement({c.name!r}, {docs.clause_text(c)!r}, {tensors!r}, {source.split('(')[0][4:]})"
        for c, source, tensors in conditions.functions
    ]
    solved = code.solved_sizes(op)
    return {
        "operator": op.name,
        "op_version": op.version,
        "package": repr(spec.package),
        "name": repr(op.name),
        "function": repr(docs.function_name(op)),
        "version": repr(op.version),
        "types": repr(tuple(op.types)),
        "sizes": repr(tuple(op.sizes)),
        "free": "{" + ", ".join(f"{k!r}: {v}" for k, v in solved.items()) + "}",
        "params": code.tuple_text(code.param_table(op), indent),
        "where": code.tuple_text(where, indent),
        "inputs": code.tuple_text((code.tensor_table(op, t) for t in op.inputs), indent),
        "outputs": code.tuple_text((code.tensor_table(op, t) for t in op.outputs), indent),
        "functions": [source for _, source, _ in conditions.functions],
        "requires": code.tuple_text(requires, indent),
        "bindings": [_binding_tables(p, spec.backend) for p in spec.operators],
        "backward": code.tuple_text(
            (
                f"Backward({backward_module(n)!r}, {b.inputs!r}, {b.outputs!r}"
                + (f", {saving_module(n)!r}, {b.saved!r})" if b.saving else ")")
                for n, b in enumerate(spec.backward)
            ),
            indent,
        ),
    }


def _binding_tables(packaged: PackagedOperator, backend: str) -> dict[str, Any]:
    op = packaged.operator
    kernels = backend in ("triton", "cuda", "binary")
    return {
        "types": repr(dict(op.types)),
        "arrays": _arrays_table(packaged),
        "inputs": repr(tuple(code.storage(t) for t in op.inputs)),
        "outputs": repr(tuple(code.storage(t) for t in op.outputs)),
        "variants": [
            {
                "name": repr(v.name),
                "facts": code.tuple_text(
                    (code.formula(code.fact(op, text), text) for text in v.guards), " " * 20
                ),
                "libraries": repr(_files(packaged, v, backend)),
                "source": repr(source_path(op, v)),
                "launches": code.launches(op, v.plan, " " * 20, _levels(op, v)) if kernels else "",
                "scratch": code.scratch(op, v.plan, " " * 20) if kernels else "",
            }
            for v in packaged.variants
        ],
    }


def _files(packaged: PackagedOperator, v: PackagedVariant, backend: str) -> dict[str, str]:
    """What of the package a variant is, by level."""
    if backend == "triton":
        return _kernels(packaged, v)
    if v.launched:
        return {level: launch_path(packaged.operator, v, level, 0) for level in v.launched}
    if backend in ("cuda", "binary"):
        return {level: binary_path(packaged.operator, v, level) for level in v.binaries}
    return _libraries(packaged.operator, v)


def _levels(op: Operator, v: PackagedVariant) -> list[dict[str, dict[str, Any]]]:
    """How the binaries of each launch are launched, by architecture; nothing where a plan says."""
    if not v.launched:
        return []
    return [
        {
            level: {
                "file": launch_path(op, v, level, n),
                "symbol": launched[n].symbol,
                "block": [launched[n].threads],
                "shared_bytes": launched[n].shared,
                "hidden": launched[n].hidden,
            }
            for level, launched in v.launched.items()
        }
        for n in range(len(v.plan.launches))
    ]


def _libraries(op: Operator, v: PackagedVariant) -> dict[str, str]:
    return {level: library_path(op, v, level) for level in ISA_LEVELS if level in v.libraries}


def _kernels(packaged: PackagedOperator, v: PackagedVariant) -> dict[str, str]:
    """The module of kernels by architecture; the last variant takes any."""
    module = kernels_module(packaged.operator, v)
    last = v is packaged.variants[-1]
    return {target: module for target in (*v.targets, *(["any"] if last else []))}


def _arrays_table(packaged: PackagedOperator) -> list[str]:
    """Keywords of a `Binding` that has array code."""
    arrays = packaged.arrays
    if arrays is None:
        return []
    found = [f"jax={arrays_module(packaged.operator)!r}", f"function={arrays.function!r}"]
    return [*found, *(["wide=True"] if arrays.wide else [])]


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
