"""`opwright cases`: what once showed a wrong implementation, and keeping what a command finds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from opwright.outcome import HOLDS, NO, Problem, print_json
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

if TYPE_CHECKING:
    from opwright.ir.op import Operator
    from opwright.ir.record import Verdict
    from opwright.verify.cases import Kept, Refuted

MOST = 4  # cases that one command keeps
TOO_LARGE = "not kept: a call with {} elements is too large for a case"
FAILED = 2  # of the failing calls of generated tests: most show one and the same


@contextlib.contextmanager
def keeping(spec: Path, wanted: bool = True) -> Iterator[list[str]]:
    """Keep minimised calls that refute candidates while the block runs; yields what was kept, in
    sentences."""
    from opwright.verify.cases import keep, minimise, watching

    said: list[str] = []

    def notice(found: Refuted) -> None:
        if len(said) >= MOST:
            return
        sizes, inputs = minimise(found.op, found.sizes, found.params, found.inputs, found.fails)
        case = keep(found.op, sizes, found.params, inputs, "gate", found.shows, found.subject,
                    found.hard)  # fmt: skip
        said.extend(_keep(spec, case))

    if not wanted:
        yield said
        return
    with watching(notice):
        yield said


def keep_replays(spec: Path, op: Operator, verdict: Verdict, wanted: bool, said: list[str]) -> None:
    """Keep a call at the sizes of every other refutation that was replayed."""
    from opwright.ir.binding import InputError
    from opwright.ir.expr import ExprError
    from opwright.verify.cases import ELEMENTS, CaseError, Kept, call_of, keep
    from opwright.verify.sizes import all_params, shape_of

    for record in verdict.records if wanted else ():
        found = record.counterexample
        if record.status != "REFUTED" or record.kind == "G6" or not found or len(said) >= MOST:
            continue
        sizes = found.get("sizes")
        if not isinstance(sizes, dict) or set(sizes) != set(op.sizes):
            continue
        try:
            params = all_params(op, sizes, found.get("params") or {})
            count = sum(prod(shape_of(t, sizes, params)) for t in op.inputs)
            if count > ELEMENTS:  # wraps take sizes that no machine has room for
                said.append(TOO_LARGE.format(count))
                continue
            drawn = Kept(op.name, dict(sizes), {"family": "normal", "seed": 1}, params=params)
            call = call_of(op, drawn)
        except (CaseError, InputError, ExprError, ArithmeticError, TypeError, MemoryError):
            continue
        case = keep(op, sizes, params, call.inputs, "gate", f"{record.id}: {record.reason}",
                    record.subject)  # fmt: skip
        said.extend(_keep(spec, case))


def _keep(spec: Path, case: Kept) -> list[str]:
    """Add a case to the first place that takes it; a sentence about it."""
    from opwright.verify.cases import ELEMENTS, add_case, places

    if case.elements > ELEMENTS:
        return [TOO_LARGE.format(case.elements)]
    for path in places(spec, case.op):
        try:
            fresh = add_case(path, case)
        except OSError:
            continue
        return [f"kept     case {case.id} in {path}"] if fresh else []
    return [f"not kept: no folder takes case {case.id}"]


def keep_recorded(spec: Path, file: Path) -> list[str]:
    """Keep the smallest failing calls of a run of generated tests; sentences about them."""
    from opwright.verify.cases import read_cases

    found = {k.id: k for k in read_cases(file)}
    said: list[str] = []
    for kept in sorted(found.values(), key=lambda k: k.elements)[:FAILED]:
        said += _keep(spec, kept)
    return said


# -- the command -----------------------------------------------------------------------------------


def list_cases(spec: Path, name: str | None, as_json: bool) -> int:
    """Print every case of an operator, with where it is kept and whether it fits the spec."""
    from opwright.verify.cases import CaseError, call_of, places

    op = _operator(spec, name)
    rows = []
    for path in places(spec, op.name):
        for kept in _read(path):
            if kept.op == op.name:
                try:
                    call_of(op, kept)
                    fits = ""
                except CaseError as error:
                    fits = str(error)
                rows.append({**kept.to_json(), "file": str(path), "against": fits})
    if as_json:
        print_json({"op": op.name, "cases": rows})
        return HOLDS
    for row in rows:
        sizes = ", ".join(f"{k} = {v}" for k, v in row["sizes"].items())
        print(f"{row['id']}  {row['date']:<10}  {row['source']:<8}  {sizes}")
        print(f"{'':<14}{row['shows']}")
        if row["against"]:
            print(f"{'':<14}not run: {row['against']}")
    where = places(spec, op.name)[0]
    print(f"{len(rows)} cases of {op.name}; new ones are kept in {where}")
    return HOLDS


def add_cases(spec: Path, file: Path, name: str | None) -> int:
    """Keep the cases of a file of JSON lines; no where one is not a legal call."""
    from opwright.verify.cases import CaseError, call_of

    op = _operator(spec, name)
    found = _read(file, must_exist=True)
    if not found:
        raise Problem(f"{file} holds no cases", "give a file of JSON lines, one case a line")
    for kept in found:
        if kept.op != op.name:
            raise Problem(f"{file}: case {kept.id} is one of {kept.op}, not of {op.name}")
        try:
            call_of(op, kept)
        except CaseError as error:
            raise Problem(f"{file}: {error}", code=NO) from None
    for kept in found:
        for line in _keep(spec, kept) or [f"known    case {kept.id}"]:
            print(line)
    return HOLDS


def remove_case(spec: Path, case: str, name: str | None) -> int:
    """Forget one case, by its id."""
    from opwright.verify.cases import places
    from opwright.verify.cases import remove_case as remove

    op = _operator(spec, name)
    matching = {k.id for p in places(spec, op.name) for k in _read(p) if k.id.startswith(case)}
    if not case or len(matching) != 1:
        many = f"{len(matching)} cases begin with {case}" if matching else f"no case is {case}"
        raise Problem(f"{op.name}: {many}", f"opwright cases list {spec} prints them", NO)
    for path in places(spec, op.name):
        if remove(path, case):
            print(f"removed  case {next(iter(matching))} from {path}")
    return HOLDS


def _read(path: Path, must_exist: bool = False) -> list[Kept]:
    from opwright.verify.cases import CaseError, read_cases

    if must_exist and not path.is_file():
        raise Problem(f"{path}: no such file", "give a file of JSON lines, one case a line")
    try:
        return read_cases(path)
    except CaseError as error:
        raise Problem(str(error), "correct the line, or delete it") from None


def _operator(spec: Path, name: str | None) -> Operator:
    from opwright.grammar.diagnostics import DiagnosticError

    try:
        found = open_spec(spec)
        operator = pick_operator(found, name)
        return found.operator(operator, found.bindings(operator)[0])
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        raise Problem(f"{spec} has errors", "correct them first", NO) from None


def recorded(spec: Path, op: Operator) -> list[dict[str, object]]:
    """The cases of an operator as generated tests take them: with their values."""
    from opwright.ir.dtypes import decode
    from opwright.verify.cases import CaseError, call_of, kept_cases
    from opwright.verify.testkit_spec import array_json

    out = []
    try:
        known = kept_cases(spec, op.name)
    except CaseError as error:
        raise Problem(str(error), "correct the line, or delete it") from None
    for kept in known:
        try:
            call = call_of(op, kept)
        except CaseError:
            continue
        arrays = {t.name: array_json(decode(call.inputs[t.name], t.dtype)) for t in op.inputs}
        out.append({**kept.to_json(), "inputs": arrays})
    return json.loads(json.dumps(out))  # type: ignore[no-any-return]
