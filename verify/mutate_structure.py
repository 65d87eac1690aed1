"""Faults in how the programs of a launch share their work, seeded into the text of tile programs:
barriers, memory that is read back, one program for all, one index for two, and a term on the wrong
side of a function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_BARRIER = re.compile(r"(\s*)(\w+): (barrier|meet) over ([\w, ]*?)( if .*)?")
_ACCESS = re.compile(r"(\s*\w+: (?:\w+(?:\[[^\]]*\])? = load|store|atomic \w+) )(\w+)\[(.*)")
_DEF = re.compile(r"(\s*)(\w+): (\w+)(\[[^\]]*\])? = (\w+) (\w+)(?: (\w+))?")
_BUFFER = re.compile(r"\s+(in|out|state) (\w+): (\w+)\[(.*?)\]")
_AXIS = re.compile(r"\s+axis (\w+) = (\d+)")
ONE_WORD = ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos")

Change = tuple[str, int, list[str], str]  # kind, line, what stands there instead, in words


def structural(lines: Sequence[str], first: int, last: int) -> Iterator[Change]:
    """Changes of one kernel, whose lines are `first` to `last`."""
    kernel = range(first, last + 1)
    buffers = {m[2]: (m[1], m[3], m[4].count(",")) for n in kernel
               if (m := _BUFFER.match(lines[n]))}  # fmt: skip
    extents = {m[1]: m[2] for n in kernel if (m := _AXIS.match(lines[n]))}
    defined: dict[str, re.Match[str]] = {}
    for n in kernel:
        line = lines[n]
        if m := _BARRIER.fullmatch(line):
            yield "barrier", n, [], f"without {line.strip()}"
            axis = m[4].split(",")[0].strip()
            if axis and not m[5]:
                yield "barrier", n, [f"{line} if {axis} < 1"], f"{line.strip()} if {axis} < 1"
        elif m := _ACCESS.fullmatch(line):
            yield from _access(n, m, buffers, extents)
        elif m := _DEF.fullmatch(line):
            yield from _outside(n, m, defined)
            defined[m[2]] = m


def _access(
    n: int, m: re.Match[str], buffers: dict[str, tuple[str, str, int]], extents: dict[str, str]
) -> Iterator[Change]:
    head, name, tail = m[1], m[2], m[3]
    close = _closing(tail)
    inner, rest = tail[:close], tail[close + 1 :]
    if " = load " in head:
        role, *like = buffers.get(name, ("",))
        for other, (kind, *theirs) in buffers.items():
            if role == "in" and kind == "out" and like == theirs:
                yield "alias", n, [f"{head}{other}[{inner}]{rest}"], f"{other} for {name}"
    else:
        where, _, value = rest.rpartition(" = ")
        limit = f"{where} and p0 < 1" if where else " if p0 < 1"
        what = "only the first program stores"
        yield "early_return", n, [f"{head}{name}[{inner}]{limit} = {value}"], what
    used = [a for a in extents if re.search(rf"(?<![\w.]){a}(?!\w)", inner)]
    for a in used:
        for b in used:
            if a != b and extents[a] == extents[b]:
                new = re.sub(rf"(?<![\w.]){a}(?!\w)", b, inner)
                yield "diagonal", n, [f"{head}{name}[{new}]{rest}"], f"{b} for {a} in [{inner}]"


def _outside(n: int, m: re.Match[str], defined: dict[str, re.Match[str]]) -> Iterator[Change]:
    """f(a + b) as f(a) + b."""
    pad, name, dtype, axes, op = m[1], m[2], m[3], m[4] or "", m[5]
    inner = defined.get(m[6])
    if op not in ONE_WORD or m[7] or inner is None or inner[5] not in ("add", "sub", "mul"):
        return
    if inner[7] is None or (inner[3], inner[4] or "") != (dtype, axes):
        return
    for a, b in ((inner[6], inner[7]), (inner[7], inner[6])):
        own = defined.get(a)
        if own is None or (own[3], own[4] or "") != (dtype, axes):
            continue
        new = [
            f"{pad}{name}_in: {dtype}{axes} = {op} {a}",
            f"{pad}{name}: {dtype}{axes} = {inner[5]} {name}_in {b}",
        ]
        yield "epilogue", n, new, f"{inner[5]} {b} after {op}"


def _closing(text: str) -> int:
    depth = 1
    for n, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if depth == 0:
            return n
    return len(text)
