"""What an exchange request says of the texts of each backend: their contract, what they may use.

One row a backend; `compiler/exchanging.py` fills it in for an operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opwright.backends.cpp.policy import CALLS, HEADERS, PRAGMAS
from opwright.backends.triton.targets import TARGETS
from opwright.compiler.devices import DEVICES
from opwright.search.loads import host

JUDGED = (
    "Results are judged against the spec in float64 within its tolerances, on boundary sizes and "
    "special values, in memory with guards; accesses are proved to be in bounds for all sizes that "
    "the spec allows."
)
ELEMENT = (
    "Element [i, j] of x lies at x[i * stride(x, 0) + j * stride(x, 1)]. What is assumed of "
    "strides, sizes and alignment is a fact of the plan: it becomes a guard, and calls that it "
    "excludes go to another candidate."
)
WRITTEN = (
    "Inputs are read only; every element of every output is written, by one program; programs of a "
    "launch share nothing. Launches run in order."
)
CPP = (
    "A candidate is a launch plan (candidate.json) and one C++ source. Launching and allocation "
    "are generated from the plan; the source holds kernels alone.",
    'A kernel is extern "C" void NAME(ARGS, int64_t pid0, int64_t pid1, int64_t pid2), called once '
    "for every point of its grid, from several threads, in any order.",
    "ARGS are those of the plan, in order: a buffer's name is a pointer to its first element, any "
    "other text an expression over sizes, params and stride(x, axis), passed as int64_t; i32(expr) "
    "is an int32_t and needs a fact that bounds it; a real param is float or double as declared.",
    ELEMENT,
    f"{WRITTEN} Scratch of scope plan lives across launches, of "
    "scope program it belongs to one program at a time; both hold garbage at first.",
    "No state, no allocation, no threads, no input or output, no calls but those allowed.",
    f"{JUDGED} Plain loops with affine indices are what the prover understands best.",
)
TRITON = (
    "A candidate is a launch plan (candidate.json) and one Triton source. Launching and allocation "
    "are generated from the plan; the source holds imports, constants and kernels under "
    "@triton.jit alone, no functions that launch them.",
    "A kernel runs once for every point of its grid; tl.program_id(n) is its place in the n-th "
    "entry of `grid`. `const` of a launch gives its tl.constexpr parameters by name; `num_warps` "
    "and `num_stages` stand beside it. Nothing is tuned at run time.",
    "The other parameters are `args` of the plan, in order: a tensor's name is a pointer to its "
    "first element, any other text an expression over sizes, params and stride(x, axis), passed as "
    "an i64; i32(expr) is an i32 and needs a fact that bounds it; a real param has its own type.",
    ELEMENT,
    f"{WRITTEN} Scratch of scope plan lives across launches and holds garbage at first.",
    "Offsets that can exceed 2^31 - 1 elements are computed in 64 bits "
    "(tl.program_id(0).to(tl.int64)); a masked load whose masked lanes are used says `other`.",
    f"{JUDGED} The text is compiled for every target and run by Triton's interpreter; its "
    "time is modelled from its traffic, arithmetic and occupancy.",
)
JAX = (
    "A candidate is a launch plan (candidate.json) and one Python source with one pure function "
    "of arrays: imports of jax, constants and functions, nothing else at module level.",
    "The plan has one launch: `kernel` names the function, `args` the names that it takes: inputs, "
    "then params, then sizes that no shape fixes. All are passed by name. No grid, no scratch.",
    "It returns the output, or a tuple of the outputs in the order of the spec, with the element "
    "types of the spec. It works under jit, for every size and param that the spec allows: Python "
    "branches may depend on shapes, not on values. The plan has no facts.",
    "No state, no random numbers of its own, no callbacks, no input or output.",
    "Results are judged against the spec in float64 within its tolerances, on boundary sizes and "
    "special values, on the CPU; its trace is read back as index notation.",
)


@dataclass(frozen=True, slots=True)
class Language:
    """What a request says of texts of one backend. `timed`: how candidates are ranked."""

    backend: str
    title: str
    contract: tuple[str, ...]
    allowed: Mapping[str, list[str]]
    words: str
    timed: str


LANGUAGES = {
    "cpp": Language(
        "cpp",
        "C++",
        CPP,
        {"headers": sorted(HEADERS), "pragmas": list(PRAGMAS), "calls": sorted(CALLS)},
        f"Headers: {', '.join(f'<{h}>' for h in sorted(HEADERS))}. Pragmas: {', '.join(PRAGMAS)}. "
        "Functions of <math.h> and their std:: forms, intrinsics and\n`__builtin_` functions may "
        "be called, and what the source itself defines.",
        "measured on this machine",
    ),
    "triton": Language(
        "triton",
        "Triton",
        TRITON,
        {"imports": ["triton", "triton.language", "math"], "decorators": ["triton.jit"]},
        "Imports: triton, triton.language, math. Kernels and helper functions are decorated with "
        "`@triton.jit`; inside, the\npublic parts of triton.language and Python's arithmetic.",
        "modelled; nothing was executed on a GPU",
    ),
    "jax": Language(
        "jax",
        "JAX",
        JAX,
        {"imports": ["jax", "jax.numpy", "jax.lax", "jax.nn", "jax.scipy.special", "functools",
                     "math"], "decorators": ["jax.jit", "functools.partial"]},
        "Imports: jax, jax.numpy, jax.lax, jax.nn, jax.scipy.special, functools, math. Decorators: "
        "`jax.jit`,\n`functools.partial(jax.jit, static_argnames=...)`.",
        "measured on this machine, by XLA on the CPU",
    ),
}  # fmt: skip


def target_facts(backend: str, targets: tuple[str, ...]) -> dict[str, Any]:
    """What is known of each target, for whoever writes for it."""
    if backend != "triton":
        return {t: {"processor": host()} for t in targets}
    found: dict[str, Any] = {}
    for name in targets:
        device, limits = DEVICES[name], TARGETS[name]
        found[name] = {
            "part": device.part,
            "multiprocessors": device.multiprocessors,
            "memory_bytes_per_second": device.memory * 1e12,
            "cache_bytes": device.cache,
            "operations_per_second": {k: v * 1e12 for k, v in device.rates.items()},
            "matrix_operations_per_second": {k: v * 1e12 for k, v in device.products.items()},
            "registers_per_multiprocessor": device.registers,
            "registers_per_thread": limits.registers,
            "shared_bytes_per_multiprocessor": device.shared,
            "shared_bytes_per_program": limits.shared,
            "warps_per_multiprocessor": device.warps,
            "threads_per_warp": limits.warp,
        }
    return found
