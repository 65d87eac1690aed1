"""Loops of a disassembly (x86-64, AT&T syntax as objdump prints it): what a trip of each innermost
one does, and how many cycles it takes at least by what a core can start at once.

Nothing is executed and no counter is read: which loop is hot is a guess from nesting and from what
a trip moves and computes. Cycles are those of a core with the resources of CORE; they are modelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT = 4  # loops that are told, at most
LEAST = 0.05  # of the heaviest loop's weight, below which a loop is not told
TRIPS = 10  # of a loop, for the guess which one is hot
LINES = 200_000  # of a disassembly that are read
# what one core starts in a cycle: instructions, arithmetic on vectors, loads, shuffles;
# stores of 64 bytes take a cycle, of up to 32 half of one
CORE = {"front": 6, "arithmetic": 2, "loads": 2, "shuffles": 1}
# cycles until a result can be used, and between two divisions of 16, 32, 64 bytes
LATENCY = {"add": 4, "mul": 4, "fma": 4, "div": 14, "sqrt": 18, "extreme": 4, "shuffle": 3,
           "convert": 4, "logic": 1}  # fmt: skip
DIVISION = {16: 4, 32: 6, 64: 14}

_LINE = re.compile(
    r"^\s*([0-9a-f]+):\s+(?:(?:bnd|notrack|rep\w*|lock|data16|cs) )*([a-z][a-z0-9.]*)\s*(.*)$"
)
_LABEL = re.compile(r"^([0-9a-f]+) <([^>]+)>:$")
_OWN = re.compile(
    r"_ZN12_GLOBAL__N_1\d+(?:run_\d+|share|omp_member|crew_member|bind\w*)E|_ZN13opwright_shim|opwright_"
)
_RUNTIME = (
    "_init",
    "_start",
    "_fini",
    "deregister_tm",
    "register_tm",
    "__do_global",
    "frame_dummy",
)
_FLOAT = re.compile(
    r"v?(f?n?m(?:add|sub)(?:sub|add)?\d*|fm\w*|fnm\w*|add|sub|addsub|mul|div|sqrt|max|min|rcp\w*|rsqrt\w*|"
    r"scalef|range|reduce|getexp|getmant|fixupimm|rndscale|round)([ps])([sdh])$"
)
_VECTOR = re.compile(r"%([xyz])mm(\d+)")
_BYTES = {"x": 16, "y": 32, "z": 64}
_ELEMENT = {"s": 4, "d": 8, "h": 2}
_SHUFFLE = re.compile(
    r"^v?p?(?:perm|shuf|unpck|insert|extract|align|compress|expand|broadcast|blendv|hadd|movmsk|movhl|movlh)"
)
_MATH = re.compile(r"<(?:exp|log|pow|a?tan|a?sin|a?cos|erf|cbrt|fmod|hypot|t?gamma)\w*@plt>")
_QUIET = frozenset(
    "lea nop nopw nopl cmp test prefetcht0 prefetcht1 prefetcht2 prefetchnta".split()
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line: its address, name, operands in the order of the text (the target is the last)."""

    at: int
    name: str
    operands: tuple[str, ...]
    text: str


@dataclass(slots=True)
class Loop:
    """One innermost loop: counts of one trip. `width`: bytes of its widest arithmetic,
    `elements`: what a trip loads or stores, the larger one, in elements of `element` bytes;
    `cycles`: at least so many a trip, by cause."""

    function: str
    depth: int
    instructions: int = 0
    width: int = 0
    element: int = 4
    packed: int = 0
    scalar: int = 0
    fma: int = 0
    divisions: int = 0
    operations: int = 0  # of floating-point, lanes counted, a multiply-add as two
    loads: int = 0
    stores: int = 0
    load_bytes: int = 0
    store_bytes: int = 0
    gathers: int = 0
    scatters: int = 0
    spills: int = 0
    reloads: int = 0
    prefetches: int = 0
    streams: int = 0
    calls: int = 0
    math_calls: int = 0
    shuffles: int = 0
    converts: int = 0
    branches: int = 0
    cycles: dict[str, float] = field(default_factory=dict)

    @property
    def elements(self) -> float:
        """Elements a trip, 0 where it moves none."""
        return max(self.load_bytes, self.store_bytes) / self.element

    @property
    def weight(self) -> float:
        """A guess of its share of the time."""
        moved = self.load_bytes + self.store_bytes + 4 * self.operations
        return float(TRIPS**self.depth) * max(moved, self.instructions)

    @property
    def bound(self) -> str:
        """What a trip waits for at least."""
        return max(self.cycles, key=lambda k: (self.cycles[k], k), default="")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "elements": self.elements}


@dataclass(frozen=True, slots=True)
class Disassembly:
    """Counts over all of a kernel's functions, and its loops, the hottest first."""

    counts: Mapping[str, int]
    loops: tuple[Loop, ...]


def read(text: str) -> Disassembly:
    """What a disassembly holds, without the functions that launch kernels."""
    counts = dict.fromkeys(("all", "float", "packed", "gathers", "calls", "spills"), 0)
    loops: list[Loop] = []
    for name, body in functions(text):
        framed = any(i.name == "mov" and i.operands == ("%rsp", "%rbp") for i in body)
        whole = Loop(name, 0)
        for i in body:
            _count(i, whole, framed)
        counts["all"] += len(body)
        counts["float"] += whole.packed + whole.scalar
        counts["packed"] += whole.packed
        counts["gathers"] += whole.gathers
        counts["calls"] += whole.math_calls
        counts["spills"] += whole.spills
        loops += _loops(name, body, framed)
    loops.sort(key=lambda x: -x.weight)
    least = LEAST * loops[0].weight if loops else 0.0
    return Disassembly(counts, tuple(x for x in loops[:KEPT] if x.weight >= least))


def functions(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    """The functions of a disassembly that are a kernel's own, with their instructions."""
    name, body = "", list[Instruction]()
    for line in text.splitlines()[:LINES]:
        label = _LABEL.match(line)
        if label is not None:
            if body and _kernel(name):
                yield name, body
            name, body = label.group(2), []
            continue
        m = _LINE.match(line)
        if m is not None:
            rest = m.group(3).partition("#")[0].strip()
            body.append(Instruction(int(m.group(1), 16), m.group(2), _operands(rest), rest))
    if body and _kernel(name):
        yield name, body


def _kernel(name: str) -> bool:
    return not (_OWN.match(name) or name.startswith(_RUNTIME) or "@plt" in name)


def _operands(text: str) -> tuple[str, ...]:
    """Operands between commas outside brackets."""
    out, depth, begin = [], 0, 0
    for n, ch in enumerate(text):
        if ch == "(":
            depth += 1
        elif ch == ")":
            depth -= 1
        elif ch == "," and depth == 0:
            out.append(text[begin:n].strip())
            begin = n + 1
    last = text[begin:].strip()
    return (*out, last) if last else tuple(out)


def _loops(name: str, body: Sequence[Instruction], framed: bool) -> list[Loop]:
    """The innermost natural loops of a function; a trip is all that lies in one, whatever path."""
    blocks, follow = _blocks(body)
    around = _natural(follow)
    found = []
    for head, inside in around.items():
        if any(h != head and h in inside for h in around):
            continue
        loop = Loop(name, sum(head in other for other in around.values()))
        trip = [i for b in sorted(inside) for i in body[blocks[b][0] : blocks[b][1]]]
        for i in trip:
            _count(i, loop, framed)
        loop.cycles = _cycles(loop, trip)
        found.append(loop)
    return found


def _blocks(body: Sequence[Instruction]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Basic blocks as ranges of instructions, and which follow each."""
    place = {i.at: n for n, i in enumerate(body)}
    jumps: dict[int, int | None] = {}
    for n, i in enumerate(body):
        if i.name.startswith("j"):
            try:
                jumps[n] = place.get(int(i.operands[0].split()[0], 16))
            except (ValueError, IndexError):
                jumps[n] = None
    ends = {n + 1 for n, i in enumerate(body) if n in jumps or i.name.startswith(("ret", "ud2"))}
    starts = sorted({0, *ends, *(t for t in jumps.values() if t is not None)} - {len(body)})
    blocks = list(zip(starts, [*starts[1:], len(body)], strict=True))
    number = {begin: n for n, begin in enumerate(starts)}
    follow: list[list[int]] = []
    for n, (_, end) in enumerate(blocks):
        last = body[end - 1]
        after = []
        target = jumps.get(end - 1)
        if target is not None:
            after.append(number[target])
        if not last.name.startswith(("jmp", "ret", "ud2")) and n + 1 < len(blocks):
            after.append(n + 1)
        follow.append(after)
    return blocks, follow


def _natural(follow: Sequence[Sequence[int]]) -> dict[int, set[int]]:
    """Natural loops: header -> blocks, those of one header joined."""
    order, seen, stack = list[int](), {0}, [(0, 0)]
    while stack:  # depth first, in postorder
        node, at = stack.pop()
        if at < len(follow[node]):
            stack.append((node, at + 1))
            after = follow[node][at]
            if after not in seen:
                seen.add(after)
                stack.append((after, 0))
        else:
            order.append(node)
    rank = {node: n for n, node in enumerate(order)}
    before: dict[int, list[int]] = {n: [] for n in order}
    for n in order:
        for after in follow[n]:
            before[after].append(n)
    above = {0: 0}  # the immediate dominator

    def common(a: int, b: int) -> int:
        while a != b:
            while rank[a] < rank[b]:
                a = above[a]
            while rank[b] < rank[a]:
                b = above[b]
        return a

    changed = True
    while changed:
        changed = False
        for n in reversed(order[:-1]):
            known = [p for p in before[n] if p in above]
            new = known[0]
            for p in known[1:]:
                new = common(new, p)
            if above.get(n) != new:
                above[n] = new
                changed = True

    def dominates(a: int, b: int) -> bool:
        while b != a and b != 0:
            b = above[b]
        return a == b

    loops: dict[int, set[int]] = {}
    for n in order:
        for head in follow[n]:
            if dominates(head, n):
                inside = loops.setdefault(head, {head})
                todo = [n]
                while todo:
                    b = todo.pop()
                    if b not in inside:
                        inside.add(b)
                        todo += before[b]
    return loops


def _memory(operand: str) -> bool:
    return "(" in operand or bool(re.fullmatch(r"(?:%[fg]s:)?0x[0-9a-f]+", operand))


def _count(i: Instruction, x: Loop, framed: bool) -> None:
    """Add an instruction to a loop's counts."""
    x.instructions += 1
    name = i.name
    if name.startswith("prefetch"):
        x.prefetches += 1
        return
    if name.startswith("call"):
        x.calls += 1
        x.math_calls += _MATH.search(i.text) is not None
        return
    if name.startswith("j"):
        x.branches += 1
        return
    wide = max((_BYTES[v[0]] for v in _VECTOR.findall(i.text)), default=0)
    kind = _FLOAT.match(name)
    if kind is not None:
        what, packed, suffix = kind.groups()
        size = _ELEMENT[suffix]
        lanes = wide // size if packed == "p" else 1
        x.packed += packed == "p"
        x.scalar += packed == "s"
        fused = what.startswith(("fm", "fnm"))
        x.fma += fused
        x.divisions += what in ("div", "sqrt")
        x.operations += lanes * (2 if fused else 1)
        x.element = size
        x.width = max(x.width, wide if packed == "p" else size)
    x.gathers += "gather" in name
    x.scatters += "scatter" in name
    spread = "broadcast" in name and any(map(_memory, i.operands))  # part of the load
    x.shuffles += _SHUFFLE.match(name) is not None and not spread
    x.converts += name.startswith(("vcvt", "cvt"))
    x.streams += name.startswith(("vmovnt", "movnt"))
    if name in _QUIET or not any(map(_memory, i.operands)):
        return
    size = _moved(i, wide)
    stack = any("%rsp" in o or (framed and "%rbp" in o) for o in i.operands if _memory(o))
    written = _memory(i.operands[-1]) and len(i.operands) > 1
    if stack:
        x.spills += written and wide > 0
        x.reloads += not written and wide > 0
    elif written:
        x.stores += 1
        x.store_bytes += size
    else:
        x.loads += 1
        x.load_bytes += size


def _moved(i: Instruction, wide: int) -> int:
    """Bytes of memory that an instruction touches."""
    m = re.search(r"\{1to(\d+)\}", i.text)
    if m is not None:
        return max(wide // int(m.group(1)), 1)
    name = i.name
    if wide == 0:
        return 4 if "%e" in i.text or name.endswith("l") else 8
    if re.search(r"(?:ss|[^b]d)$", name) and re.match(r"v?(?:mov|broadcast)(?:ss|d)$", name):
        return 4
    if name in ("vmovsd", "vmovq", "vmovhps", "vmovlps", "vmovhpd", "vmovlpd", "vbroadcastsd"):
        return 8
    if name in ("vbroadcastss", "vmovss", "vmovd", "vpbroadcastd"):
        return 4
    spread = re.match(r"v(?:pmov[sz]x|broadcast[if])(bw|bd|bq|wd|wq|dq|(\d+)x(\d+))", name)
    if spread is not None:
        if spread.group(2):
            return int(spread.group(2)) * int(spread.group(3)) // 8
        share = {"bw": 2, "bd": 4, "bq": 8, "wd": 2, "wq": 4, "dq": 2}[spread.group(1)]
        return wide // share
    scalar = re.search(r"s([sdh])$", name) if _FLOAT.match(name) else None
    return _ELEMENT[scalar.group(1)] if scalar is not None else wide


# -- cycles ----------------------------------------------------------------------------------------


def _cycles(x: Loop, trip: Sequence[Instruction]) -> dict[str, float]:
    """Cycles of a trip at least, by what it waits for."""
    wide = sum(1 for i in trip if "%zmm" in i.text and i.operands and _memory(i.operands[-1]))
    found = {
        "front": x.instructions / CORE["front"],
        "arithmetic": (x.packed + x.scalar - x.divisions) / CORE["arithmetic"],
        "loads": (x.loads + x.reloads + 8 * x.gathers) / CORE["loads"],
        "stores": (x.stores + x.spills + wide) / 2 + 8 * x.scatters,
        "shuffles": x.shuffles / CORE["shuffles"],
        "divisions": float(x.divisions * DIVISION.get(max(x.width, 16), 4)),
        "dependence": float(_chain(trip)),
    }
    return {k: round(v, 2) for k, v in found.items() if v}


def _latency(name: str) -> int:
    kind = _FLOAT.match(name)
    if kind is not None:
        what = kind.group(1)
        if what in ("div", "sqrt", "add", "mul"):
            return LATENCY[what]
        if what in ("max", "min"):
            return LATENCY["extreme"]
        return LATENCY["fma"]
    if name.startswith(("vcvt", "cvt")):
        return LATENCY["convert"]
    if _SHUFFLE.match(name):
        return LATENCY["shuffle"]
    return 0 if name.startswith(("vmov", "mov")) else LATENCY["logic"]


def _chain(trip: Sequence[Instruction]) -> int:
    """Cycles from a vector register at the start of a trip to itself at the end, the longest: what
    the next trip waits for, however many units a core has."""
    steps: list[tuple[str, frozenset[str], int]] = []
    for i in trip:
        if not i.operands or i.name.startswith(("j", "call")):
            continue
        target = _VECTOR.match(i.operands[-1])
        if target is None:
            continue
        own = target.group(2)
        read = {m[1] for o in i.operands[:-1] for m in _VECTOR.findall(o)}
        alike = len(i.operands) >= 3 and len({*map(_bare, i.operands)}) == 1
        if i.name.startswith(("vpxor", "vxor")) and alike:
            read = set()  # zero, whatever was there
        merged = "{%k" in i.operands[-1] and "{z}" not in i.operands[-1]
        fused = re.match(r"vf(?:n?m)", i.name) is not None
        old = not i.name.startswith("v") and not i.name.startswith("mov")
        if merged or fused or old or i.name.startswith(("vpternlog", "vpermt2", "vpermi2")):
            read.add(own)
        steps.append((own, frozenset(read), _latency(i.name)))
    written = {s[0] for s in steps}
    read_first: set[str] = set()
    seen: set[str] = set()
    for own, sources, _ in steps:
        read_first |= sources - seen
        seen.add(own)
    longest = 0
    for start in read_first & written:
        path = {start: 0}
        for own, sources, cost in steps:
            reach = [path[s] for s in sources if s in path]
            if reach:
                path[own] = max(reach) + cost
            else:
                path.pop(own, None)
        longest = max(longest, path.get(start, 0))
    return longest


def _bare(operand: str) -> str:
    m = _VECTOR.match(operand)
    return m.group(0) if m is not None else operand
