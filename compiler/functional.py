"""Array code for JAX: what `<package>.jax` runs, and the gates on such a function."""

from __future__ import annotations

import ast
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.compiler.candidates import Candidate
from opwright.compiler.package_spec import Arrays
from opwright.compiler.signatures import python_functions
from opwright.ir.dtypes import F32, decode, encode
from opwright.ir.expr import Expr, call, param, size, walk
from opwright.ir.launch import ImportRefusal
from opwright.ir.op import Operator, Tensor
from opwright.ir.record import Record
from opwright.ir.reference import reference
from opwright.verify.functional import together
from opwright.verify.inputs import Case, generate
from opwright.verify.numeric import Bound, Numeric, Observation, bounds, numeric, wrong
from opwright.verify.policy import Breach, array_records
from opwright.verify.sizes import Limits, shape_of

Readings = list[tuple[Operator, Sequence[Expr]]]

SAFE = ("G2", "G3")
FULL = ("HIGHEST", "highest", "float32", "float64", "None")  # precisions that keep f32 operands
ENTRY = "opwright_entry"
FLUSHED = "XLA on the CPU takes denormal numbers for zero, and so may the results"
ON_CPU = "run by XLA on the CPU in a killable process, not on an accelerator"


def arrays_of(op: Operator) -> tuple[Arrays | None, str]:
    """The printed function of an operator, or None and why there is none."""
    from opwright.backends.jax.printer import PrintError, function_name, print_operator

    try:
        return Arrays(print_operator(op), function_name(op), wide_reals(op)), ""
    except PrintError as e:
        return None, f"no array code for JAX: {e}"


def wide_reals(op: Operator) -> bool:
    """Whether any value is meant to be computed in 64-bit floats."""
    names = {t.dtype.name for t in (*op.inputs, *op.tensors)}
    for t in op.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op in ("cast", "round"):
                names.add(x.attr.name)
            elif x.op == "fold" and x.attr.acc is not None:
                names.add(x.attr.acc.name)
    return "f64" in names


def arrays_from(c: Candidate, op: Operator) -> Arrays:
    """The array code of a package from a text that was given: its function behind one that takes
    inputs, params and free sizes by position, under jit."""
    from opwright.backends.jax.printer import static_names
    from opwright.backends.jax.scalar import identifier

    launch = c.plan.launches[0]
    own = python_functions(c.plan, c.source).get(identifier(launch.kernel), [])
    inputs = [t.name for t in op.inputs]
    numbers = [*(p.name for p in op.params), *op.free_sizes]
    passed = [n for n in numbers if n in launch.args or identifier(n) in own]
    names = [identifier(n) for n in (*inputs, *numbers)]
    given = ", ".join(f"{identifier(n)}={identifier(n)}" for n in (*inputs, *passed))
    static = f"static_argnames={static_names(op)!r}"
    entry = (
        "",
        "",
        "# what follows was added by the emitter: the function under jit, by position",
        "import functools as _functools  # noqa: E402",
        "",
        "import jax as _jax  # noqa: E402",
        "",
        "",
        f"@_functools.partial(_jax.jit, {static})",
        f"def {ENTRY}({', '.join(names)}):",
        f"    return {identifier(launch.kernel)}({given})",
        "",
    )
    return Arrays(c.source.rstrip("\n") + "\n" + "\n".join(entry), ENTRY, wide_reals(op))


def functional_gates(c: Candidate, op: Operator) -> list[Record]:
    """G1 to G5 of a pure function of arrays: whether its trace reads back and means the spec;
    there is no memory to be safe about."""
    return array_gates(c, op)[0]


def array_gates(c: Candidate, op: Operator) -> tuple[list[Record], Readings]:
    """The same records, and what was read."""
    subject = f"{c.plan.source} {c.digest}"
    begin = time.perf_counter()
    readings, why = _read_back(c, op)
    spent = time.perf_counter() - begin
    status = "PROVED" if readings else "UNKNOWN"
    first = Record("G1.import", "G1", status, why, subject, seconds=spent)
    nothing = "n/a: functional: a pure function of arrays addresses no memory"
    safe = [Record(f"{g}.functional", g, "PROVED", nothing, subject) for g in SAFE]
    if not readings:
        return [first, *safe], readings
    # truth values were tried one by one; other pinned numbers are samples
    audit = array_records(readings[0][0], op, subject, _coarse(c, op))
    complete = all(p.dtype.kind != "int" for p in op.params) and not _has_sizes(op, readings)
    return [*audit, first, *safe, *together(op, readings, subject, complete)], readings


def _coarse(c: Candidate, op: Operator) -> list[Breach]:
    """Products that a text asks to be computed with fewer bits than their operands have: what an
    accelerator may do with it, and this machine does not."""
    if not any(t.kind == "real" and t.dtype.mantissa >= F32.mantissa for t in op.inputs):
        return []
    found = []
    for node in ast.walk(ast.parse(c.source)):
        if isinstance(node, ast.keyword) and node.arg == "precision":
            text = ast.unparse(node.value)
            if not any(word in text for word in FULL):
                what = f"a product with precision {text}: operands may be read in fewer bits"
                place = f"{c.plan.source}:{node.value.lineno}"
                found.append(Breach(what, place, "UNKNOWN"))
    return found


def _has_sizes(op: Operator, readings: Readings) -> bool:
    return any(x.op == "size" for _, pinned in readings for f in pinned for x in walk(f))


def _read_back(c: Candidate, op: Operator) -> tuple[Readings, str]:
    """The function at every pinned choice of its integer and truth-valued params."""
    try:
        importer = importlib.import_module("opwright.backends.jax.importer")
        run = importlib.import_module("opwright.backends.jax.run")
    except ModuleNotFoundError as e:
        return [], f"the text cannot be read back here: {e.msg}"
    readings: Readings = []
    try:
        with run.Process(c.source, c.plan, op) as process:
            for params in _choices(op):
                sizes = default_sizes(op, params)
                found = importer.import_operator(c.source, c.plan, op, sizes, params, process)
                readings.append((found, importer.pins(op, found)))
        return readings, "the trace of the function reads back as index notation"
    except ImportRefusal as e:
        return [], str(e)
    except (ValueError, LookupError, TypeError, RuntimeError, AssertionError) as e:
        return [], f"the importer failed on this text ({type(e).__name__}: {e})"


def _choices(op: Operator) -> list[dict[str, int | bool]]:
    """Both values of every truth-valued param, and integers as in the workloads."""
    flags = [p.name for p in op.params if p.dtype.kind == "bool"][:3]
    out: list[dict[str, int | bool]] = [
        dict(zip(flags, values, strict=True))
        for values in product((True, False), repeat=len(flags))
    ]
    whole = {p.name for p in op.params if p.dtype.kind == "int"}
    for w in op.workloads:
        own: dict[str, int | bool] = {k: int(v) for k, v in w.params.items() if k in whole}
        if own and len(out) < 8 and own not in out:
            out.append(own)
    return out


def default_sizes(op: Operator, params: Mapping[str, int | bool]) -> dict[str, int] | None:
    """Small sizes to trace at where symbolic ones cannot be, legal for these params."""
    pinned = [call("eq", param(k, "int"), int(v)) for k, v in params.items()
              if not isinstance(v, bool)]  # fmt: skip
    positive = [call("le", 1, size(s)) for s in op.sizes]
    limits = Limits(elements=256)
    drawn = generate(op, 7, 2, (), limits, [*pinned, *positive], specials=False).cases
    return dict(drawn[0].sizes) if drawn else None


def functional_numeric(
    c: Candidate,
    op: Operator,
    cases: Sequence[Case],
    bound: Callable[[Case], Mapping[str, Bound]],
    notes: Sequence[str] = (),
    limit: float = 60.0,
) -> Numeric:
    """G6 of a function, called on the CPU in a process of its own, each case twice."""
    from opwright.backends.jax.run import Process, RunError

    subject = f"{c.plan.source} {c.digest}"
    last: dict[str, Mapping[str, NDArray[Any]]] = {}
    flushed: list[Case] = []

    def judged(case: Case) -> Mapping[str, Bound]:
        """The bounds of a case; with denormal inputs, those at zero where they fit instead."""
        own = bound(case)
        if case.family != "denormal" or _within(op, last["results"], own):
            return own
        zero = replace(case, inputs={t.name: _flushed(t, case.inputs[t.name]) for t in op.inputs})
        other = bounds(op, zero, lambda x, sizes, params: reference(op, x, params, sizes))
        if not _within(op, last["results"], other):
            return own
        flushed.append(case)
        return other

    with Process(c.source, c.plan, op) as process:

        def run(case: Case, layout: str) -> Observation | None:
            try:
                first, again = (
                    process.call(case.inputs, case.params, case.sizes, limit) for _ in range(2)
                )
            except RunError as e:
                where = f"{c.plan.source}:{e.line}: " if e.line else ""
                return Observation(failure=f"{where}{e}")
            for t in op.outputs:
                wanted = shape_of(t, case.sizes, case.params)
                if first[t.name].shape != wanted:
                    got = list(first[t.name].shape)
                    return Observation(failure=f"{t.name} has shape {got}, not {list(wanted)}")
            last["results"] = first
            return Observation(first, again)

        found = numeric(op, cases, run, judged, subject, notes, layouts=())
    # inputs and other memory are out of its reach: nothing was watched there
    kept = [r for r in found.records if r.id not in ("G6.memory", "G6.inputs")]
    more = (ON_CPU, FLUSHED) if flushed else (ON_CPU,)
    said = tuple(replace(r, assumptions=(*r.assumptions, *more)) for r in kept)
    return Numeric(said, found.error)


def _within(op: Operator, results: Mapping[str, NDArray[Any]], b: Mapping[str, Bound]) -> bool:
    return not any(wrong(t, results[t.name], b[t.name])[0].any() for t in op.outputs)


def _flushed(t: Tensor, stored: NDArray[Any]) -> NDArray[Any]:
    """Real values below the smallest normal number of f32 as zeros."""
    if t.kind != "real":
        return stored
    x = decode(stored, t.dtype)
    return encode(np.where(np.abs(x) < 2.0**-126, 0.0, x), t.dtype)
