"""What an exchange request says of the texts of each backend: their contract, what they may use.

One row a backend; `compiler/exchanging.py` fills it in for an operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opwright.backends.cpp import clang_headers
from opwright.backends.cpp.clang_pragmas import ACCEPTED as PRAGMAS
from opwright.backends.cpp.importer_calls import BUILTINS, FUNCTIONS
from opwright.backends.cpp.importer_prelude import WORDS
from opwright.backends.cpp.policy import HEADERS as PERMITTED
from opwright.backends.triton.targets import TARGETS
from opwright.compiler.devices import DEVICES
from opwright.search.loads import host

HEADERS = sorted(PERMITTED & set(clang_headers.HEADERS))  # what may be included, and is read
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
EXCLUDED = (
    "A workload that the facts of a candidate exclude is run by the best candidate that takes "
    "every call, and counts with its time: such a fact gains nothing there."
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
    EXCLUDED,
    f"{WRITTEN} Scratch of scope plan lives across launches, of "
    "scope program it belongs to one program at a time; both hold garbage at first.",
    "Include what you use (<cmath> for std::fma; __builtin_fmaf needs nothing). In LAUNCH integers "
    "are divided by //, which is floor, or cdiv(a, b), which rounds up; / is of real numbers.",
    "No state, no allocation, no input or output, no calls but those allowed, no classes, "
    "structs, switch, goto, recursion or function pointers; no intrinsics and no assembler. A "
    "number is read by its bits with __builtin_bit_cast or memcpy of all its bytes, never through"
    " a pointer of another type. Loops count in closed form.",
    "Alignment that is not stated as a fact, aligned(x, 64), is not assumed: a dereferenced "
    "pointer to vectors has to be aligned, v_load, memcpy and types with aligned(4) need not.",
    "The address of a __builtin_prefetch is neither read nor checked and may lie beyond a buffer: "
    "the processor drops what it cannot reach and never faults for it. Compute it without reading "
    "memory that is not there.",
    f"{JUDGED} Plain loops with affine indices are what the prover understands best.",
)
VOCABULARY = (
    "A vocabulary is at hand, which the machine puts before a text that uses it and whose texts "
    "the best candidates so far are printed in (they are shown without its definitions; copy, "
    "define or overload none of it, and define no templates beside it):",
    "- i8 ... u64; GNU vectors f32x16, f64x8, i32x16, ... (type x lanes, of 16 to 64 bytes) with "
    "+ - * /, comparisons (vectors of i32 or i64, -1 where true), m ? a : b, v[i], {a, b, ...}",
    "- v_load<V>(p), v_store(p, v), v_load_masked<V>(p, m, number), v_store_masked(p, m, v), "
    "v_prefix<M>(n): the first n lanes; v_stream(p, v): past the caches, aligned to its size",
    "- v_splat<V>(s), v_iota<V>(), v_convert<V>(v): values; v_bits<V>(v): bits",
    "- v_sum, v_prod, v_highest, v_lowest, v_any, v_all of one vector give a number; v_run_sum, "
    "_prod, _max, _min and v_run_sum_back, ... give prefixes within a vector",
    "- v_max(a, b), v_min(a, b): nan where one is; v_abs, v_floor, v_ceil, v_trunc, v_rint, "
    "v_root, v_rsqrt, v_exp, v_exp2, v_expm1, v_log, v_log2, v_log1p, v_sin, v_cos, v_tan, "
    "v_sinh, v_cosh, v_tanh, v_asin, v_acos, v_atan, v_erf, v_sigmoid, v_pow of numbers and "
    "vectors",
    "- i_min, i_max, i_div, i_mod of i64 (floor)",
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
    EXCLUDED,
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
        {
            "headers": HEADERS,
            "pragmas": list(PRAGMAS),
            "calls": sorted(FUNCTIONS),
            "builtins": sorted(BUILTINS),
            "vocabulary": sorted(WORDS),
        },
        f"Headers, no others: {', '.join(f'<{h}>' for h in HEADERS)}. "
        f"Pragmas: {', '.join(PRAGMAS)}. "
        f"Functions, also with f, in std:: and as __builtin_: {', '.join(sorted(FUNCTIONS))}; "
        f"memcpy, memset; std::min, max, clamp, swap, fill, fill_n, copy, copy_n; "
        f"{', '.join(sorted(BUILTINS))}; numeric_limits; and what the source defines.\n"
        + "\n".join(VOCABULARY),
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
