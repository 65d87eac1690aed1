"""CUDA candidates under sanitizers, on a CPU: g++ builds the text against `shim.cpp`, in which the
threads of a block are fibres. What it lacks (textures, clusters) does not build."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from opwright.backends.cpp.build import TIME_LIMIT, BuildError, compiler, run_compiler
from opwright.backends.cpp.sanitize import CHECKS, COMMON, Instrumented, text_of
from opwright.backends.cuda.shim import device_text, shim_text
from opwright.ir.launch import BoundLaunch, BoundPlan, Scalar
from opwright.ir.tile import Buffer

SHAPE = 7  # grid, block, and bytes of dynamic shared memory


def driver_text(bound: BoundPlan) -> str:
    """`opwright_run` for a plan: the buffers in order, for every launch its shape and arguments."""
    order = {name: n for n, name in enumerate(bound.buffers)}
    lines = []
    ints = reals = 0
    for x in bound.launches:
        if x.const:
            raise BuildError("a launch with constants is not built for the CPU")
        values = []
        shape = ints
        ints += SHAPE
        for a in x.args:
            if isinstance(a, Buffer):
                values.append(f"opwright_shim::argument{{0, 0, buffers[{order[a.name]}]}}")
            elif a.dtype.kind == "real":
                values.append(f"opwright_shim::argument{{0, reals[{reals}], nullptr}}")
                reals += 1
            else:
                values.append(
                    f"opwright_shim::argument{{ints[{ints}], (double)ints[{ints}], nullptr}}"
                )
                ints += 1
        call = f"{x.kernel}({', '.join(values)})"
        lines.append(f"  opwright_shim::launch(ints + {shape}, [&] {{ {call}; }});")
    body = "\n".join(lines)
    head = (
        'extern "C" int32_t opwright_run(void *const *buffers, const int64_t *ints, '
        "const double *reals, int32_t) {"
    )
    texts = '#include "shim.cpp"\n#include "kernel.cu"\n'
    return f"{texts}{head}\n{body}\n  return opwright_shim::failed;\n}}\n"


def scalars(launch: BoundLaunch) -> Sequence[Scalar]:
    """The scalar arguments of a launch in their order."""
    return [a for a in launch.args if isinstance(a, Scalar)]


@contextmanager
def checked(source: str, bound: BoundPlan) -> Iterator[Instrumented]:
    """A program with address and undefined-behaviour checks; BuildError."""
    with tempfile.TemporaryDirectory(prefix="sanitize-") as name:
        files = _written(Path(name), source, bound)
        command = [compiler(), *COMMON, *CHECKS, "-I."]
        run_compiler([*command, *files, "-o", "program"], name, TIME_LIMIT)
        yield Instrumented(Path(name) / "program", Path(name))


@contextmanager
def logged(source: str, bound: BoundPlan) -> Iterator[Instrumented]:
    """A program that knows which threads touched what since their last barrier; BuildError."""
    with tempfile.TemporaryDirectory(prefix="sanitize-") as name:
        driver, main = _written(Path(name), source, bound)
        command = [compiler(), *COMMON, "-I."]
        made = ["-DOPWRIGHT_LOG", "-fsanitize=thread", "-c", driver, "-o", "driver.o"]
        run_compiler([*command, *made], name, TIME_LIMIT)
        run_compiler([*command, "driver.o", main, "-o", "program"], name, TIME_LIMIT)
        yield Instrumented(Path(name) / "program", Path(name))


def _written(folder: Path, source: str, bound: BoundPlan) -> list[str]:
    files = {"shim.cpp": shim_text(), "kernel.cu": device_text(source),
             "driver.cpp": driver_text(bound), "main.cpp": text_of("main")}  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(content)
    return ["driver.cpp", "main.cpp"]
