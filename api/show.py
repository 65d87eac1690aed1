"""`opwright show`: a spec at every stage of its way down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opwright.outcome import HOLDS, NO, Problem
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

if TYPE_CHECKING:
    from opwright.ir.op import Operator
    from opwright.ir.tile import TileProgram


def show(
    path: Path, stage: str, name: str | None, types: dict[str, str], schedule: str | None
) -> int:
    """Print one stage of one operator (of every operator for `ast`)."""
    from opwright.grammar.diagnostics import DiagnosticError

    try:
        print(text_of(path, stage, name, types, schedule).rstrip("\n"))
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    return HOLDS


def text_of(
    path: Path, stage: str, name: str | None, types: dict[str, str], schedule: str | None
) -> str:
    """The text of a stage; raises `Problem` or `DiagnosticError`."""
    spec = open_spec(path)
    if stage == "ast":
        from opwright.grammar.dump import dump

        wanted = None if name is None else pick_operator(spec, name)
        root = (
            spec.module
            if wanted is None
            else next(op for op in spec.module.ops if op.name == wanted)
        )
        return dump(root)
    op = spec.operator(pick_operator(spec, name), types)
    if stage == "op":
        from opwright.ir.op import show_operator

        return show_operator(op)
    if stage == "grad":
        return gradient_of(op)
    if stage == "schedules":
        return "\n".join(schedules(op))
    program = lowered(op, schedule)
    if stage == "tile":
        from opwright.ir.tiletext import show_program

        return show_program(program)
    from opwright.backends.cpp.build import host_isa
    from opwright.backends.cpp.printer import print_program

    return print_program(program, host_isa(), {p.name: p.dtype for p in op.params})


def gradient_of(op: Operator) -> str:
    """The derived gradient of the real inputs, as a spec of its own."""
    from opwright.compiler.autodiff import gradient
    from opwright.compiler.autodiff_rules import NotDifferentiable
    from opwright.compiler.spec_text import spec_text

    try:
        return spec_text(gradient(op))
    except NotDifferentiable as error:
        raise Problem(str(error), "only real inputs have gradients") from None


def schedules(op: Operator) -> list[str]:
    """The preferred schedules of every space; the first is candidate 0."""
    from opwright.compiler.spaces import spaces

    return [s.text for space in spaces(op, lanes()) for s in space.preferred()]


def lanes() -> int:
    """f32 lanes of a vector on this machine."""
    from opwright.backends.cpp.build import host_isa

    return 16 if host_isa() == "x86-64-v4" else 8


def lowered(op: Operator, schedule: str | None) -> TileProgram:
    """The program of a schedule; without one, of the first preferred schedule that is legal and
    not the fallback's."""
    from opwright.compiler.spaces import spaces
    from opwright.search.space import IllegalSchedule, ScheduleError, parse, space_of

    known = spaces(op, lanes())
    if schedule is None:
        for space in (*known[1:], known[0]):
            for one in space.preferred():
                try:
                    return space.instantiate(one)
                except IllegalSchedule:
                    continue
    try:
        wanted = parse(schedule or "")
        return space_of(known, wanted).instantiate(wanted)
    except (IllegalSchedule, ScheduleError) as error:
        cure = "`opwright show SPEC --stage schedules` prints schedules of this operator"
        raise Problem(f"schedule {schedule}: {error}", cure) from None
