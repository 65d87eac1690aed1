"""What a CUDA candidate's text may contain: kernels and what they call, on the device alone.

No host code, no state that outlives a launch, no printing, no allocation, no clocks, no launches.
It keeps mistakes and tricks out of the measurements. It is no security boundary.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import ClassVar

from opwright.backends.cpp.policy import CALLS, FORBIDDEN, HEADERS, PolicyReader, Token
from opwright.backends.cuda.shared import per_block
from opwright.backends.cuda.stub import EMPTY, STUB
from opwright.backends.cuda.stub import HEADERS as OWN
from opwright.ir.launch import ImportRefusal

DEVICE = {
    **dict.fromkeys(
        "clock clock64 __nanosleep __globaltimer globaltimer __smid".split(),
        "clocks and the processor's name",
    ),
    **dict.fromkeys("__trap __brkpt __prof_trigger".split(), "the debugger"),
    **dict.fromkeys("__managed__ texture surface".split(), "state that outlives a launch"),
    "cudaStream_t": "host code",
    "dim3": "host code",
}
_WORD = re.compile(r"[A-Za-z_]\w*(?=\s*\()")
# words of CUDA that kernels may call: what the declarations name, and what is not read but harmless
DECLARED = frozenset(
    name for text in (STUB, *OWN.values()) for name in _WORD.findall(text) if "opwright" not in name
)
UNREAD = frozenset(
    "__cvta_generic_to_shared __pipeline_memcpy_async __pipeline_commit __pipeline_wait_prior "
    "__match_any_sync __match_all_sync __lane_id __brev __byte_perm __dp4a __int_as_float "
    "__float_as_int __uint_as_float __float_as_uint __reduce_add_sync __reduce_max_sync "
    "__reduce_min_sync assert sizeof".split()
)
MARKS = frozenset(
    "__launch_bounds__ __align__ __grid_constant__ __maxnreg__ __cluster_dims__ "
    "__builtin_align__".split()
)


class DevicePolicy(PolicyReader):
    """The lists of CUDA."""

    headers = HEADERS - {"immintrin.h", "cstring", "string.h"} | {*OWN, *EMPTY}
    forbidden: ClassVar[dict[str, str]] = {
        **{k: v for k, v in FORBIDDEN.items() if k not in ("asm", "__asm", "__asm__")},
        **DEVICE,
    }
    allowed = CALLS | DECLARED | UNREAD | MARKS
    prefixes = ("__builtin_",)
    storage = frozenset({'"C"', "__shared__"})

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.tokens = self.unmarked()
        self.known = self.introduced()

    def unmarked(self) -> list[Token]:
        """Tokens without what stands between a kernel's type and its name."""
        out, n = [], 0
        while n < len(self.tokens):
            t = self.tokens[n]
            if t.text in MARKS and n + 1 < len(self.tokens) and self.tokens[n + 1].text == "(":
                n = self.matching(n + 1) + 1
                continue
            out.append(t)
            n += 1
        return out

    def words(self) -> None:
        super().words()
        for a, b in pairwise(self.tokens):
            if a.text == "<<" and b.text == "<":
                self.fault(a.line, "<<<...>>>: launches are the plan's")
        for t in self.tokens:
            if re.fullmatch(r"(cuda|cu|nvrtc)[A-Z]\w*", t.text):
                self.fault(t.line, f"{t.text}: host code")
            if t.text.startswith("opwright"):
                self.fault(t.line, f"{t.text}: a name of what runs it here")
            if t.text == "main":
                self.fault(t.line, "main: host code")


def check_policy(source: str, file: str) -> None:
    """ImportRefusal names the line of the first thing that the text must not contain."""
    for line, what in breaches(source)[:1]:
        raise ImportRefusal(what, file, line)


def breaches(source: str) -> list[tuple[int, str]]:
    """(line, what is wrong) of everything that the text must not contain, in order of lines."""
    return sorted(dict.fromkeys(DevicePolicy(per_block(source)).breaches()))
