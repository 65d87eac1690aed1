"""CUDA texts as libraries for a CPU: the text with `shim.cpp`, in which the threads of a block are
fibres, and a driver with the interface of every other library, `opwright_run`.

What the shim lacks (textures, clusters, asynchronous copies) does not build.
"""

from __future__ import annotations

import re
from importlib import resources

from opwright.backends.cpp.driver import Driver, DriverError
from opwright.backends.cuda.shared import per_block
from opwright.backends.cuda.stub import HEADERS, MATH_CONSTANTS
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan

# integers wrap and memory has no types on a device; what does not fit an integer ends the process
FLAGS = ("-O1", "-fwrapv", "-fno-strict-aliasing", "-fsanitize=float-cast-overflow",
         "-fsanitize-undefined-trap-on-error")  # fmt: skip
STATUS = {
    5: "threads of a block wait for others that never come",
    6: "a block has more threads than a device takes",
    8: "a part of a warp exchanges values, which the CPU's shim does not run",
}
NAN_MET = 7  # of a call that took an extreme of a number and NaN
DYNAMIC = re.compile(
    r"extern\s+__shared__\s+((?:__align__\(\d+\)\s*)?)([\w:\s]+?)\s*(\w+)\s*\[\s*\]\s*;"
)
_TOOLKIT = "|".join(map(re.escape, HEADERS))
_DEVICE = re.compile(rf"^[ \t]*#[ \t]*include[ \t]*[<\"](?:{_TOOLKIT})[>\"][^\n]*", re.M)
_ENTRY = """
extern "C" __attribute__((visibility("hidden"))) void opwright_begin(void) {
  opwright_shim::failed = 0; opwright_shim::met_nan = false;
}
extern "C" __attribute__((visibility("hidden"))) int opwright_end(void) {
  using namespace opwright_shim;
  turn++;
  return failed ? failed : met_nan ? NAN_MET : 0;
}
"""


def shim_text() -> str:
    """The shim with its functions of numbers in one text."""
    folder = resources.files("opwright.backends.cuda")
    core, numbers = (folder.joinpath(n).read_text() for n in ("shim.cpp", "shim_numbers.h"))
    constants = MATH_CONSTANTS.removeprefix("#pragma once\n")
    return core.replace('#include "shim_numbers.h"\n', numbers) + constants


def device_text(source: str) -> str:
    """A candidate's text as the shim takes it, line by line: no headers of a toolkit, dynamic
    shared memory where the shim has it."""
    text = _DEVICE.sub("", per_block(source))
    return DYNAMIC.sub(r"\2 *\3 = (\2 *)opwright_shim::dynamic;", text)


def library_text(source: str, plan: Plan, op: Operator) -> tuple[str, str]:
    """(kernel's text, driver's text) of a library that runs a candidate; DriverError."""
    driver = _Driver(plan, op)
    own = driver.text(None)
    # a kernel may have the name of a function of C
    names = "".join(
        f"#define {n} opwright_{n}\n" for n in dict.fromkeys(x.kernel for x in plan.launches)
    )
    parts = ["#define OPWRIGHT_RUN 1\n", shim_text(), names, '#line 1 "kernel.cu"\n',
             device_text(source), "\n", *driver.entries, _ENTRY]  # fmt: skip
    return "".join(parts), own


class _Driver(Driver):
    """Launches go to the shim, which has the kernels in its own text."""

    backend = "cuda"

    def __init__(self, plan: Plan, op: Operator) -> None:
        super().__init__(plan, op)
        self.entries: list[str] = []

    def text(self, work: str | None) -> str:
        # what is not the shim's own is filled with garbage between calls: nothing is kept
        declared = (
            "#define OPWRIGHT_PLAIN_MEMORY 1\n"
            'extern "C" void opwright_begin(void); extern "C" int opwright_end(void);\n'
        )
        return declared + super().text(work)

    def scratch(self) -> list[str]:
        return [*super().scratch(), "opwright_begin();"]

    def ending(self) -> str:
        return "opwright_end()"

    def launch(self, n: int, launch: Launch) -> tuple[list[str], list[str]]:
        where = f"launches[{n}] {launch.kernel}"
        if launch.const:
            raise DriverError(f"{where}: a launch with constants is not built for the CPU")
        passed: list[str] = []
        values: dict[str, list[str]] = {"pointers": [], "ints": [], "reals": []}
        for i, text in enumerate(launch.args):
            kind, value, _ = self.argument(text, f"{where}, argument {i}", "")
            bank = "pointers" if kind.endswith("*") else "ints"
            bank = "reals" if kind in ("float", "double") else bank
            at = f"{bank}[{len(values[bank])}]"
            values[bank].append(f"(void *){value}" if bank == "pointers" else value)
            passed.append(
                {
                    "pointers": f"opwright_shim::argument{{0, 0, {at}}}",
                    "ints": f"opwright_shim::argument{{{at}, (double){at}, nullptr}}",
                    "reals": f"opwright_shim::argument{{0, {at}, nullptr}}",
                }[bank]
            )
        given = "const int64_t *shape, void *const *pointers, const int64_t *ints, "
        self.entries.append(
            f'extern "C" __attribute__((visibility("hidden"))) void opwright_launch_{n}({given}'
            f"const double *reals) {{ opwright_shim::launch(shape, [&] {{ "
            f"{launch.kernel}({', '.join(passed)}); }}); }}\n"
        )
        grid = [self.number(g, f"{where}, grid") for g in launch.grid]
        extents = [f"i_max(0, {g})" for g in [*grid, "1", "1"][:3]]
        block = [str(int(b)) for b in [*launch.extra.get("block", (1,)), 1, 1][:3]]
        shared = self.number(str(launch.extra.get("shared_bytes", 0) or 0), where)
        lists = {k: ", ".join(v) or "0" for k, v in values.items()}
        task = [
            f'extern "C" void opwright_launch_{n}(const i64 *shape, void *const *pointers, '
            "const i64 *ints, const double *reals);"
        ]
        call = [
            f"{{ const i64 shape[] = {{{', '.join([*extents, *block, shared])}}};",
            f"  void *const pointers[] = {{{lists['pointers']}}};",
            f"  const i64 numbers[] = {{{lists['ints']}}};",
            f"  const double floats[] = {{{lists['reals']}}};",
            f"  opwright_launch_{n}(shape, pointers, numbers, floats); }}",
        ]
        return task, call
