"""Instructions of compiled kernels by the unit that executes them, and how deep in loops they are.

The disassembler is the one that comes with Triton (or CUDA), run on an NVIDIA binary in the
sandbox. Loops are what branches go back over; how often they run is not in a binary: the caller
knows it of the program that was compiled. Of other vendors' binaries nothing is said.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opwright.backends.triton.build import BuildError, _run, _tool

# unit -> how names of its instructions begin; the first that fits
UNITS = (
    ("tensor", r"[HIDQ]?G?MMA|HGMMA|QGMMA|IGMMA|UTC\w*MMA|WARPGROUP"),
    ("special", r"MUFU"),
    ("double", r"D(ADD|MUL|FMA|SETP)"),
    ("local", r"LDL|STL"),
    ("shared", r"LDS|STS|ATOMS|STSM|LDGSTS|LDGDEPBAR|DEPBAR"),
    ("memory", r"LDG?\b|LDG|STG?\b|STG|RED|ATOM|UBLKCP|UTMA|LDC|ULDC|LDU"),
    ("barrier", r"BAR|SYNCS|WARPSYNC|MEMBAR|FENCE|ERRBAR|CCTL"),
    ("shuffle", r"SHFL|VOTE|REDUX|MATCH"),
    (
        "float",
        r"F(ADD|MUL|FMA|MNMX|SETP|SEL|CHK|SET|SWZADD)|H(ADD|MUL|FMA|MNMX|SETP)2?|F2|I2F|FRND",
    ),
    ("control", r"BRA|EXIT|BSSY|BSYNC|BREAK|CALL|RET|NOP|BRX|JMP|YIELD|NANOSLEEP"),
)
_UNITS = tuple((name, re.compile(pattern)) for name, pattern in UNITS)
OTHER = "integer"  # addresses, moves, comparisons of integers, predicates
_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.M)
_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)([^;]*);")


@dataclass(frozen=True, slots=True)
class Mix:
    """Instructions of one kernel: (unit, depth in loops) -> how many are written."""

    counts: Mapping[tuple[str, int], int]

    def units(self) -> dict[str, int]:
        """Written instructions of each unit."""
        out: Counter[str] = Counter()
        for (unit, _), n in self.counts.items():
            out[unit] += n
        return dict(out)

    def executed(self, trips: Sequence[float]) -> dict[str, float]:
        """Instructions of each unit that a thread executes, where a loop at each depth runs so
        often; loops deeper than those are taken to run once."""
        out: dict[str, float] = {}
        for (unit, depth), n in self.counts.items():
            times = 1.0
            for t in trips[:depth]:
                times *= max(t, 1.0)
            out[unit] = out.get(unit, 0.0) + n * times
        return out


def unit_of(opcode: str) -> str:
    """The unit of an instruction by its name."""
    return next((name for name, pattern in _UNITS if pattern.match(opcode)), OTHER)


def mixes(code: bytes) -> dict[str, Mix]:
    """The mix of every kernel of an NVIDIA binary; BuildError where it cannot be disassembled."""
    tool = _tool("cuobjdump")
    if tool is None:
        raise BuildError("cuobjdump is missing: it comes with Triton and with CUDA")
    with tempfile.TemporaryDirectory(prefix="opwright-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(code)
        found = parse(_run([tool, "-sass", path.name], path.parent))
    if not found:
        raise BuildError("the disassembler says nothing of this binary")
    return found


def parse(text: str) -> dict[str, Mix]:
    """The mix of every kernel of a disassembly."""
    out: dict[str, Mix] = {}
    heads = list(_FUNCTION.finditer(text))
    for m, following in zip(heads, [*heads[1:], None], strict=True):
        body = text[m.end() : following.start() if following else len(text)]
        lines = [(int(a, 16), op, rest) for a, op, rest in _LINE.findall(body)]
        loops = []
        for at, op, rest in lines:
            target = re.search(r"0x([0-9a-f]+)", rest)
            if op in ("BRA", "JMP") and target and int(target[1], 16) < at:
                loops.append((int(target[1], 16), at))
        counts: Counter[tuple[str, int]] = Counter()
        for at, op, _ in lines:
            if op == "NOP":
                continue
            depth = len({lo for lo, hi in loops if lo <= at <= hi})
            counts[unit_of(op), depth] += 1
        out[m[1]] = Mix(dict(counts))
    return out
