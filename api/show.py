"""`opwright show`: a spec at every stage of its way down."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opwright.outcome import HOLDS, NO, Problem
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

if TYPE_CHECKING:
    from opwright.compiler.candidates import Candidate
    from opwright.ir.op import Operator
    from opwright.ir.tile import TileProgram
    from opwright.search.space import Space


@dataclass(frozen=True, slots=True)
class View:
    """What is asked for: a stage of one operator, in the language of one backend."""

    path: Path
    stage: str
    name: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    schedule: str | None = None
    backend: str = "cpp"
    target: str = ""


COMPILED = ("ttir", "ptx", "resources")  # stages that texts for GPUs have, the first Triton's


def show(view: View) -> int:
    """Print one stage of one operator (of every operator for `ast`)."""
    from opwright.grammar.diagnostics import DiagnosticError

    try:
        print(text_of(view).rstrip("\n"))
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    return HOLDS


def text_of(view: View) -> str:
    """The text of a stage; raises `Problem` or `DiagnosticError`."""
    stage = view.stage
    spec = open_spec(view.path)
    if stage == "ast":
        from opwright.grammar.dump import dump

        wanted = None if view.name is None else pick_operator(spec, view.name)
        root = (
            spec.module
            if wanted is None
            else next(op for op in spec.module.ops if op.name == wanted)
        )
        return dump(root)
    from opwright.compiler.stored import stored_form

    op = spec.operator(pick_operator(spec, view.name), view.types)
    if stage == "op":
        from opwright.ir.op import show_operator

        return show_operator(op)
    if stage == "grad":
        return gradient_of(op)
    if stage == "folds":
        return folds_of(op)
    op = stored_form(op)
    if stage == "bounds":
        return bounds_of(op)
    allowed = {"triton": COMPILED, "cuda": COMPILED[1:]}.get(view.backend, ())
    if stage in COMPILED and stage not in allowed:
        raise Problem(
            f"{view.backend} texts have no stage {stage}", "add --backend triton, or --stage source"
        )
    if view.backend == "jax":
        return array_text(op, view)
    if stage == "schedules":
        return "\n".join(s.text for space in known_spaces(op, view) for s in space.preferred())
    if view.backend == "pallas" and stage != "tile":
        return kernel_text(op, view)
    program = lowered(op, view)
    if stage == "tile":
        from opwright.ir.tiletext import show_program

        return show_program(program)
    if view.backend == "triton":
        return block_text(op, program, view)
    if view.backend == "cuda":
        return device_text(op, program, view)
    from opwright.backends.cpp.build import host_isa
    from opwright.compiler.candidates import printed

    text = printed(program, op, host_isa())
    return plan_text(text) if stage == "plan" else text.source


def folds_of(op: Operator) -> str:
    """Reductions that depend on each other, each as one pass with its proof, or why not."""
    from opwright.compiler.cascade.rewrite import derivations
    from opwright.compiler.cascade.text import derivation_text

    found = [derivation_text(d) for d in derivations(op)]
    return "\n\n".join(found) or f"{op.name}: no reduction reads another one's result"


def bounds_of(op: Operator) -> str:
    """The operator with the error bounds that follow from it, as further outputs."""
    from opwright.ir.op import show_operator
    from opwright.verify.bounds import error_operator
    from opwright.verify.bounds_terms import NotDerivable

    try:
        return show_operator(error_operator(op))
    except NotDerivable as error:
        raise Problem(f"no bound is derived: {error}", "G6 falls back to a default", NO) from None


def plan_text(c: Candidate) -> str:
    """candidate.json as it would be written."""
    return json.dumps(c.plan.to_json(), indent=2)


def array_text(op: Operator, view: View) -> str:
    """The printed function of arrays, or its plan."""
    from opwright.compiler.pure import arrays_candidate

    if view.stage not in ("source", "plan"):
        raise Problem(
            f"array code has no stage {view.stage}: it is printed from the operator itself",
            "ask for --stage op, source or plan",
        )
    if view.schedule is not None:
        raise Problem("array code has no schedules", "leave --schedule out")
    found = arrays_candidate(op)
    return plan_text(found) if view.stage == "plan" else found.source


def kernel_text(op: Operator, view: View) -> str:
    """A Pallas text or its plan: of a schedule, or of the first that is a program of blocks."""
    from opwright.backends.jax.scalar import PrintError
    from opwright.compiler.pallas import printed, texts

    if view.schedule is not None:
        try:
            found = printed(lowered(op, view), op)
        except PrintError as e:
            raise Problem(f"{view.schedule}: {e}", "another schedule: --stage schedules", NO) from e
    else:
        reasons: dict[str, None] = {}
        first = next(texts(op, reasons), None)
        if first is None:
            said = "; ".join(list(reasons)[:4])
            raise Problem(f"{op.name} is no program over whole blocks: {said}", "--backend jax", NO)
        found = first[2]
    return plan_text(found) if view.stage == "plan" else found.source


def block_text(op: Operator, program: TileProgram, view: View) -> str:
    """The Triton source of a program, its plan, or what Triton makes of it without a GPU."""
    from opwright.backends.triton.text import PrintError
    from opwright.compiler.blocks import printed

    target = targets(view)[0]
    try:
        found = printed(program, op, target)
    except PrintError as error:
        raise Problem(f"no Triton source: {error}", "try another --schedule") from None
    if view.stage == "source":
        return found.source
    if view.stage == "plan":
        return plan_text(found)
    if importlib.util.find_spec("triton") is None:
        raise Problem("Triton is not installed", "pip install triton (Linux only)")
    from opwright.backends.triton.build import BuildError, compile_for
    from opwright.backends.triton.frontend import to_ttir_many
    from opwright.ir.launch import ImportRefusal, bind_plan

    bound = bind_plan(found.plan, op)
    try:
        if view.stage == "ttir":
            texts = to_ttir_many(found.source, found.plan.source, bound.launches, target)
            return "\n".join(texts)
        if view.stage == "ptx":
            made = compile_for(found.source, bound, target)
            return "\n".join(b.assembly for b in made.binaries)
        compiled = {t: compile_for(found.source, bound, t).resources for t in targets(view)}
    except (BuildError, ImportRefusal) as error:
        raise Problem(str(error), "try another --schedule or --target", NO) from None
    from opwright.compiling import resource_table

    return "\n".join(resource_table(compiled))


def device_text(op: Operator, program: TileProgram, view: View) -> str:
    """The CUDA C++ of a program, its plan, or what nvcc makes of it."""
    from opwright.backends.cpp.build import BuildError
    from opwright.backends.cpp.scalar import PrintError
    from opwright.backends.cuda.build import assembly, compile_for
    from opwright.compiler.cuda_blocks import printed

    where = targets(view)
    try:
        found = printed(program, op, where[0])
        if view.stage == "source":
            return found.source
        if view.stage == "plan":
            return plan_text(found)
        if view.stage == "ptx":
            return assembly(found.source, where[0])
        compiled = {t: compile_for(found.source, t).resources for t in where}
    except PrintError as error:
        raise Problem(f"no CUDA source: {error}", "try another --schedule") from None
    except BuildError as error:
        raise Problem(str(error), "try another --schedule or --target", NO) from None
    from opwright.compiling import resource_table

    return "\n".join(resource_table(compiled))


def targets(view: View) -> tuple[str, ...]:
    """The architectures that are asked for."""
    from opwright.compiler import blocks, cuda_blocks

    known = cuda_blocks.TARGETS if view.backend == "cuda" else blocks.TARGETS
    return blocks.targets_of(view.target, known)


def gradient_of(op: Operator) -> str:
    """The derived gradient of the real inputs, as a spec of its own."""
    from opwright.compiler.autodiff import gradient
    from opwright.compiler.autodiff_rules import NotDifferentiable
    from opwright.compiler.spec_text import spec_text

    try:
        return spec_text(gradient(op))
    except NotDifferentiable as error:
        raise Problem(str(error), "only real inputs have gradients") from None


def known_spaces(op: Operator, view: View) -> list[Space]:
    """The spaces of a backend; the first preferred schedule of the first one is candidate 0."""
    if view.backend == "pallas":
        from opwright.compiler import block_spaces

        return block_spaces.spaces(op)
    if view.backend in ("triton", "cuda"):
        from opwright.compiler import block_spaces

        return block_spaces.spaces(op, targets(view)[0])
    from opwright.compiler.spaces import spaces

    return spaces(op, lanes())


def lanes() -> int:
    """f32 lanes of a vector on this machine."""
    from opwright.backends.cpp.build import host_isa

    return 16 if host_isa() == "x86-64-v4" else 8


def lowered(op: Operator, view: View) -> TileProgram:
    """The program of a schedule; without one, of the first preferred schedule that is legal and
    not the fallback's."""
    from opwright.search.space import IllegalSchedule, ScheduleError, parse, space_of

    known = known_spaces(op, view)
    if view.schedule is None:
        for space in (*known[1:], known[0]):
            for one in space.preferred():
                try:
                    return space.instantiate(one)
                except IllegalSchedule:
                    continue
    try:
        wanted = parse(view.schedule or "")
        return space_of(known, wanted).instantiate(wanted)
    except (IllegalSchedule, ScheduleError) as error:
        more = "" if view.backend == "cpp" else f" --backend {view.backend}"
        cure = f"`opwright show SPEC --stage schedules{more}` prints schedules of this operator"
        raise Problem(f"schedule {view.schedule}: {error}", cure) from None
