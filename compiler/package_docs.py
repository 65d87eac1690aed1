"""Prose of an emitted package: signatures, docstrings, README, certificate text.

Every sentence is computed from the spec, the plans and the verdict records; nothing is claimed that
a record does not say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from opwright.compiler import package_code as code
from opwright.compiler.package_kinds import templates
from opwright.compiler.package_spec import PackagedVariant, PackageSpec, proofs_path
from opwright.compiler.trusted import trusted_base
from opwright.ir.expr import ZERO, Expr, show
from opwright.ir.op import DEFAULT_DIM_LIMIT, ELEMENT_LIMIT, Clause, Operator, Tensor
from opwright.ir.record import Record, Verdict, weakest
from opwright.runtime.describe import argument
from opwright.verify import certificate as certificates

GATES = {
    "G0": "policy: allow-lists and precision audit",
    "G1": "import: the source was read back",
    "G2": "memory safety for all shapes",
    "G3": "determined result for all shapes: coverage, no races",
    "G4": "equal in a finite field at adversarial small shapes",
    "G5": "equal to the spec over the reals for all shapes",
    "G6": "numeric error against the float64 reference",
    "G7": "laws and ranges of the spec",
    "G8": "sanitizers",
    "G9": "mutation score of the gates",
}
# what the example of a README makes its arrays with
_EXAMPLES = {
    "cpp": ("numpy", "np"),
    "jax": ("jax.numpy", "jnp"),
    "triton": ("torch", "torch"),
    "cuda": ("torch", "torch"),
    "binary": ("torch", "torch"),
}
# names of an emitted module that an operator's function may not take
_TAKEN = {"explain", "pack", "selftest", "Explanation", "torch", "annotations"}
_BITS_TYPES = ("bf16", "f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz")


_ARGUMENTS = {
    "cpp": "Inputs are numpy arrays or torch CPU tensors, all of one library; so are the results.",
    "triton": "Inputs are torch tensors on one GPU; so are the results.",
    "cuda": "Inputs are torch tensors on one GPU; so are the results.",
    "binary": "Inputs are torch tensors on one GPU; so are the results.",
    "jax": "Inputs are JAX arrays or tracers (numpy arrays become such); so are the results.",
}


def function_name(op: Operator) -> str:
    name = argument(op.name)
    return name + "_" if name in _TAKEN else name


def results_name(op: Operator) -> str:
    """The class of several outputs, `RowStatsResult` for `row_stats`."""
    return "".join(part.capitalize() for part in op.name.split("_")) + "Result"


def title(op: Operator) -> str:
    """One sentence: the doc of the spec, else name and version."""
    text = " ".join((op.doc or f"The operator {op.name} @ {op.version}").split())
    return text if text.endswith((".", "!", "?")) else text + "."


def given_names(spec: PackageSpec) -> list[str]:
    """Keywords in the order of the runtime's `Spec.given_names`."""
    op = spec.operator
    chosen = list(op.types) if len(spec.operators) > 1 else []
    return [*(p.name for p in op.params), *op.free_sizes, *chosen]


def parameters(spec: PackageSpec) -> list[str]:
    """Python parameters of the function but the three that every one has."""
    op, kinds = spec.operator, {"real": "float", "int": "int", "bool": "bool"}
    named = [f"{argument(t.name)}: Any" for t in op.inputs]
    named.append("*")
    for p in op.params:
        kind = kinds[p.dtype.kind]
        named.append(f"{argument(p.name)}: {kind} | None = None")
    named += [f"{argument(s)}: int | None = None" for s in op.free_sizes]
    if len(spec.operators) > 1:
        named += [f"{argument(t)}: str | None = None" for t in op.types]
    return named


def tensor_text(spec: PackageSpec, t: Tensor) -> str:
    """`x: f32, bf16 [B, N]`."""
    found = dict.fromkeys(code.storage(p.operator.tensor(t.name)) for p in spec.operators)
    several = spec.operator.variadic
    axes = [show(a.hi) + ("..." if show(a.hi) in several else "") for a in t.axes]
    return f"{argument(t.name)}: {' or '.join(found)}" + (f" [{', '.join(axes)}]" if axes else "")


def documentation(spec: PackageSpec) -> list[str]:
    """The docstring of the function after its first line."""
    op = spec.operator
    lines = [_ARGUMENTS[spec.backend]]
    if spec.device is not None:
        lines.append("Torch tensors on one GPU go to the kernels that this package has for it.")
    lines += ["", "Inputs:"]
    lines += [f"    {tensor_text(spec, t)}" for t in op.inputs] or ["    none"]
    if op.params or op.free_sizes:
        lines += ["", "Keywords:"]
        for p in op.params:
            default = "required" if p.default is None else f"default {show(p.default)}"
            lines.append(f"    {argument(p.name)}: {p.dtype}, {default}")
        solved = code.solved_sizes(op)
        for s in op.free_sizes:
            how = "required" if solved[s] == "None" else "taken from the inputs when left out"
            lines.append(f"    {argument(s)}: size, {how}")
    if len(spec.operators) > 1 and op.types:
        names = ", ".join(argument(t) for t in op.types)
        lines.append(f"    {names}: element type by name, only where the inputs leave it open")
    lines += ["", "Results:"]
    lines += [f"    {tensor_text(spec, t)}" for t in op.outputs]
    if spec.backend == "jax":
        lines += ["", "ValueError or TypeError names what a call violates."]
        return [line.replace("\\", "\\\\").replace('"""', "'''") for line in lines]
    lines += [
        "",
        "`out` takes the result: an array, or a tuple or dict for several outputs.",
        "`implementation` forces a variant by name, or the first that fits of several names; it is",
        "refused when its guards do not hold. `check=False` leaves out the checks of values.",
        "ValueError or TypeError names what a call violates.",
    ]
    return [line.replace("\\", "\\\\").replace('"""', "'''") for line in lines]


def clause_text(c: Clause) -> str:
    return code.readable(c.expr) if c.expr is not None else c.name


# -- verdicts -------------------------------------------------------------------------------------


def verdict(records: Sequence[Record]) -> dict[str, str]:
    """The weakest status of each gate that has a record."""
    kinds = sorted({r.kind for r in records})
    return {k: weakest(r.status for r in records if r.kind == k) for k in kinds}


def _proofs(op: Operator, v: PackagedVariant) -> dict[str, str]:
    """The file with the record of a variant's proofs, by its hash."""
    if not v.proofs:
        return {}
    return {"file": proofs_path(op, v), "sha256": hashlib.sha256(v.proofs).hexdigest()}


def certificate(spec: PackageSpec) -> dict[str, Any]:
    """A certificate made of the records of each variant."""
    op = spec.operator
    variants = [
        certificates.Certified(
            v.name, Verdict(v.records), p.operator.types, v.guards, _proofs(p.operator, v)
        )
        for p in spec.operators
        for v in p.variants
    ]
    records = [r for v in variants for r in v.verdict.records]
    plans = [v.plan for p in spec.operators for v in p.variants]
    trusted = trusted_base(
        records,
        sorted({p.backend for p in plans}),
        f"{op.name}@{op.version} {op.digest}",
        str(spec.provenance.get("compiler", "")),
        sorted({g for v in variants for g in v.guards}),
    )
    assumed = code.preconditions(op).assumed
    return certificates.certificate(
        f"{op.name}@{op.version}", op.digest, variants, trusted, assumed
    )


# -- README ---------------------------------------------------------------------------------------


def readme(spec: PackageSpec) -> str:
    op = spec.operator
    template = templates().get_template(f"{spec.kind.readme}.jinja")
    conditions = code.preconditions(op)
    gates = [g for g in GATES if any(r.kind == g for v in _variants(spec) for r in v.records)]
    return template.render(
        title=title(op),
        package=spec.package,
        prefix=spec.package.upper(),
        distribution=spec.distribution,
        function=function_name(op),
        operator=f"{op.name} @ {op.version}",
        digest=op.digest,
        spec_file=f"spec/{op.name}.op",
        example=example(spec),
        inputs=[tensor_text(spec, t) for t in op.inputs],
        outputs=[tensor_text(spec, t) for t in op.outputs],
        matrix=_matrix(spec),
        bits=[n for n in _element_types(spec) if n in _BITS_TYPES],
        tolerance=_tolerance(spec),
        gates=[f"{g} {GATES[g]}" for g in gates],
        verdict_head=["variant", *gates],
        verdicts=_verdict_rows(spec, gates),
        assumptions=_assumptions(spec),
        unknown=_statements(spec, ("UNKNOWN", "REFUTED")),
        where=[show(f) for f in op.facts if not _usual(f)]
        + [text for text, _ in conditions.scalar],
        checked=[f"{c.name}: {clause_text(c)}" for c, _, _ in conditions.functions],
        assumed=conditions.assumed,
        guards=_guards(spec),
        machine=", ".join(f"{k} {v}" for k, v in spec.machine.items()),
        benchmark_head=_benchmark_head(spec),
        benchmarks=_benchmark_rows(spec),
        several=op.variadic,
        jax=all(p.arrays is not None for p in spec.operators),
        unrun=spec.unrun,
        device=_device_rows(spec),
        device_unrun=spec.device.unrun if spec.device is not None else (),
        backward=[name for b in spec.backward for name in b.outputs],
        modelled=_modelled_rows(spec),
        resources=[
            [types, target, kernel, ", ".join(f"{k} {v}" for k, v in found.items())]
            for types, targets in spec.resources.items()
            for target, kernels in targets.items()
            for kernel, found in kernels.items()
        ],
        updates=[(argument(t.name), argument(t.updates)) for t in op.outputs if t.updates],
        license=spec.license,
        provenance={k: v for k, v in spec.provenance.items() if isinstance(v, str | int | float)},
    )


def _usual(fact: Expr) -> bool:
    """Whether a fact is a bound that every size or tensor has without being asked for."""
    if fact.op != "le":
        return False
    low, high = fact.args
    limits = (DEFAULT_DIM_LIMIT, ELEMENT_LIMIT)
    return (low is ZERO and high.op == "size") or (high.op == "const" and high.attr in limits)


def _variants(spec: PackageSpec) -> Iterable[PackagedVariant]:
    return (v for p in spec.operators for v in p.variants)


def _element_types(spec: PackageSpec) -> list[str]:
    tensors = (t for p in spec.operators for t in (*p.operator.inputs, *p.operator.outputs))
    return sorted({code.storage(t) for t in tensors})


def _label(types: Any) -> str:
    return ", ".join(f"{k} = {v}" for k, v in types.items()) or "-"


def example(spec: PackageSpec) -> list[str]:
    """Python lines of one call; they run when a reference case tells shapes that are allowed."""
    op = spec.operator
    results = ", ".join(argument(t.name) for t in op.outputs)
    called = [f"from {spec.package} import {function_name(op)}", ""]
    chosen = next(
        (
            (p, c)
            for p in spec.operators
            for c in p.cases
            if not code.preconditions(op).functions
            and not any(code.storage(t) in _BITS_TYPES for t in p.operator.inputs)
        ),
        None,
    )
    solved = code.solved_sizes(op)
    words = [argument(t.name) for t in op.inputs]
    if chosen is None:
        words += [f"{argument(s)}=..." for s in op.free_sizes if solved[s] == "None"]
        words += [f"{argument(p.name)}=..." for p in op.params if p.default is None]
        return [*called, f"{results} = {function_name(op)}({', '.join(words)})"]
    packaged, case = chosen
    library, alias = _EXAMPLES[spec.backend]
    lines = [f"import {library}" + (f" as {alias}" if alias != library else ""), *called]
    lines = lines if op.inputs else called
    for t in packaged.operator.inputs:
        shape, of = tuple(case.inputs[t.name].shape), t.dtype.storage
        made = f"ones({shape}, {alias}.{of})"
        if spec.backend in ("triton", "cuda", "binary"):
            made = f'ones({shape}, dtype=torch.{of}, device="cuda")'
        lines.append(f"{argument(t.name)} = {alias}.{made}")
    words += [f"{argument(s)}={case.sizes[s]}" for s in op.free_sizes if solved[s] == "None"]
    words += [f"{argument(p.name)}={case.params[p.name]!r}" for p in op.params if p.default is None]
    kinds = [tuple(code.storage(t) for t in p.operator.inputs) for p in spec.operators]
    if kinds.count(tuple(code.storage(t) for t in packaged.operator.inputs)) > 1:
        words += [f"{argument(k)}={v!r}" for k, v in packaged.operator.types.items()]
    return [*lines, f"{results} = {function_name(op)}({', '.join(words)})"]


def _matrix(spec: PackageSpec) -> list[list[str]]:
    rows = []
    for p in spec.operators:
        for v in p.variants:
            levels = ", ".join(v.libraries or v.targets)
            rows.append(
                [_label(p.operator.types), v.name, levels, "; ".join(v.guards) or "every call"]
            )
    return rows


def _device_rows(spec: PackageSpec) -> list[list[str]]:
    """The variants for GPUs of a package for CPUs and GPUs: architectures, guards, gates."""
    if spec.device is None:
        return []
    rows = []
    for p in spec.device.operators:
        for v in p.variants:
            levels = ", ".join(v.launched or v.binaries)
            found = ", ".join(f"{g} {s}" for g, s in verdict(v.records).items())
            types = _label(p.operator.types)
            rows.append([types, v.name, levels, "; ".join(v.guards) or "every call", found])
    return rows


def _guards(spec: PackageSpec) -> bool:
    return any(v.guards for v in _variants(spec))


def _tolerance(spec: PackageSpec) -> list[str]:
    out: dict[str, None] = {}
    for p in spec.operators:
        for t in p.operator.outputs:
            written = p.operator.tolerance.get(code.storage(t))
            text = (
                " ".join(f"{k} {v:g}" for k, v in written.items()) + ", written in the spec"
                if written
                else "the error bound derived from the spec"
            )
            out[f"{argument(t.name)} in {code.storage(t)}: {text}"] = None
    return list(out)


def _verdict_rows(spec: PackageSpec, gates: Sequence[str]) -> list[list[str]]:
    rows = []
    for p in spec.operators:
        for v in p.variants:
            found = verdict(v.records)
            name = v.name if not p.operator.types else f"{v.name} ({_label(p.operator.types)})"
            rows.append([name, *(found.get(g, "UNKNOWN") for g in gates)])
    return rows


def _statements(spec: PackageSpec, statuses: Sequence[str]) -> list[str]:
    out: dict[str, None] = {}
    for v in _variants(spec):
        for r in v.records:
            if r.status in statuses:
                out[f"{v.name}: {r.id} {r.status}" + (f" ({r.reason})" if r.reason else "")] = None
        if not v.records:
            out[f"{v.name}: nothing was recorded"] = None
    return list(out)


def _assumptions(spec: PackageSpec) -> list[str]:
    out: dict[str, None] = {}
    for v in _variants(spec):
        for r in v.records:
            out |= dict.fromkeys(r.assumptions)
            if r.status == "ASSUMED":
                out[f"{r.id}: {r.reason}"] = None
    return list(out)


def _seconds(value: float) -> str:
    return f"{value * 1e6:.1f} us" if value < 1e-3 else f"{value * 1e3:.3f} ms"


def _modelled_rows(spec: PackageSpec) -> list[list[str]]:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for m in spec.modelled:
        if m["modelled_s"] is not None:
            here = rows.setdefault((f"{m['workload']}: {m['shape']}", m["target"]), {})
            here[m["impl"]] = _seconds(m["modelled_s"])
    return [[*key, *(v.get(i, "-") for i in ("opwright", "candidate 0"))]
            for key, v in rows.items()]  # fmt: skip


def _benchmark_head(spec: PackageSpec) -> list[str]:
    names = dict.fromkeys(n for m in spec.benchmarks for n in m.baselines)
    return ["workload", "types", "variant", "this package", *names]


def _benchmark_rows(spec: PackageSpec) -> list[list[str]]:
    names = _benchmark_head(spec)[4:]
    return [
        [
            m.workload,
            _label(m.types),
            m.variant,
            _seconds(m.seconds),
            *(_seconds(m.baselines[n]) if n in m.baselines else "-" for n in names),
        ]
        for m in spec.benchmarks
    ]
