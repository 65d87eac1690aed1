"""The CUDA backend: block programs as CUDA C++, compiled by nvcc, judged without a device.

Candidates, their search and their model are those of `compiler/blocks`; a text is read back, proved
and compiled to a binary for every target. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from opwright.backends.cpp.build import BuildError
from opwright.backends.cuda import build
from opwright.backends.cuda.plan import make_plan, print_for
from opwright.backends.cuda.printer import known_leaves
from opwright.backends.cuda.vectors import Vectors, best_axis, ends_of
from opwright.compiler.backend import CompileError
from opwright.compiler.blocks import Blocks, Resources, targets_of
from opwright.compiler.candidates import Candidate
from opwright.compiler.threads import for_threads
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram

TARGETS = ("sm_90", "sm_80", "sm_100")
NO_GPU = (
    "on a GPU: there was none; kernels were {compiled}read back and proved, what was read of them "
    "was run on the CPU, and times for {targets} are modelled"
)


def cuda_backend(target: str = "") -> Blocks:
    """The backend for the architectures of `--target`."""
    return Blocks(targets_of(target, TARGETS), Cuda())


class Cuda:
    """CUDA C++: compiled ahead of time, since packages bring no compiler."""

    name = "cuda"
    unrun = NO_GPU

    def prepare(self) -> None:
        if not build.compiler():
            raise CompileError("there is no nvcc", "pip install nvidia-cuda-nvcc, or install CUDA")

    def identity(self) -> str:
        return f"nvcc {build.version()}"

    def printed(self, program: TileProgram, op: Operator, target: str) -> Candidate:
        return printed(program, op, target)

    def compiled(
        self, c: Candidate, op: Operator, targets: Sequence[str]
    ) -> tuple[Resources, dict[str, str]]:
        out: Resources = {}
        refused: dict[str, str] = {}
        warps = {x.kernel: _warps(x.extra.get("block", [1])) for x in c.plan.launches}
        for t in targets:
            try:
                made = build.compile_for(c.source, t)
            except BuildError as e:
                refused[t] = str(e).splitlines()[0][:300]
                continue
            out[t] = {k: {**v, "num_warps": warps.get(k, 1)} for k, v in made.resources.items()}
        return out, refused

    def binaries(self, c: Candidate, targets: Sequence[str]) -> Mapping[str, bytes]:
        """A binary for each architecture, and a text that drivers compile for newer ones."""
        made = {t: build.compile_for(c.source, t).code for t in targets}
        return {**made, "ptx": build.assembly(c.source).encode()} if made else {}


def printed(program: TileProgram, op: Operator, target: str) -> Candidate:
    """The candidate that the printer makes of a block program. Its TileIR is not what a proof is
    about: the text says which thread does what."""
    program = with_vectors(for_threads(program))
    return Candidate(make_plan(program, op, target), print_for(program, op))


def with_vectors(program: TileProgram) -> TileProgram:
    """The program with placements that say along which axis threads take whole vectors of memory,
    as far as facts make them vectors.

    Where rows are known to be aligned, a fact that ranges end with a vector may be added to them.
    """
    known, facts = known_leaves(program), list(program.facts)
    places = []
    for kernel, placement in zip(program.kernels, program.placements, strict=True):
        vectors = Vectors(facts, known, kernel)
        found = best_axis(kernel, vectors)
        if found is None and vectors.starts:
            ends = ends_of(kernel, vectors)
            found = best_axis(kernel, Vectors([*facts, *ends], known, kernel)) if ends else None
            facts += ends if found is not None else []
        if found is not None and not any(k.startswith("vec_") for k in placement.launch):
            axis, count = found
            launch = {**placement.launch, f"vec_{axis.name}": count}
            placement = replace(placement, launch=launch)
        places.append(placement)
    return replace(program, placements=tuple(places), facts=tuple(facts))


def _warps(block: object) -> int:
    threads = 1
    for n in block if isinstance(block, list) else [1]:
        threads *= int(n)
    return -(-threads // 32)
