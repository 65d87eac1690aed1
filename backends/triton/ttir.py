"""Reads the text of TTIR, as triton prints it, into a tree of operations with source lines.

One operation is one line, regions open and close with braces at the end of lines: that is how MLIR
prints, in the pretty form of each operation as in the generic one, and what keeps reading linear.
Nothing is known here of what an operation means; an unknown one is a node like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from opwright.ir.launch import ImportRefusal


@dataclass(frozen=True, slots=True)
class Type:
    """`element` is i32, f16, ...; `pointer` where elements are addresses of such elements."""

    element: str
    shape: tuple[int, ...] = ()
    pointer: bool = False


@dataclass(slots=True)
class Block:
    """`label` is "" for the entry block of a region without a header."""

    label: str
    args: list[tuple[str, Type]]
    ops: list[Op] = field(default_factory=list)


@dataclass(slots=True)
class Op:
    """One operation. `words` are names and numbers between the operands (predicates, kinds),
    `attrs` the text of attributes by name, `ins` and `outs` the types before and after the
    arrow (one list of types without an arrow is `ins`)."""

    name: str
    results: list[str]
    operands: list[str]
    words: list[str]
    attrs: dict[str, str]
    ins: list[Type]
    outs: list[Type]
    rest: str
    line: int = 0
    regions: list[list[Block]] = field(default_factory=list)
    column: int = 0  # from 1, where the location has one

    def types(self) -> list[Type]:
        """Types of the results."""
        if self.outs:
            one = len(self.outs) == 1  # printed once for all results
            return self.outs * len(self.results) if one else self.outs
        if self.name == "arith.constant" and self.rest in ("true", "false"):
            return [Type("i1")]
        if not self.results or not self.ins:
            return [Type("index")] * len(self.results)
        first = self.ins[0]
        if self.name in ("arith.cmpi", "arith.cmpf"):
            return [Type("i1", first.shape)]
        if self.name == "arith.select":
            return [self.ins[-1]]
        if self.name == "tt.load":
            return [Type(first.element, first.shape, "<" in first.element)]
        return [first] * len(self.results)

    def inner(self) -> Iterator[Op]:
        """Operations of all regions, outer ones first."""
        for region in self.regions:
            for block in region:
                for op in block.ops:
                    yield op
                    yield from op.inner()


@dataclass(slots=True)
class Function:
    """A kernel: its parameters and the blocks of its body."""

    name: str
    params: list[tuple[str, Type]]
    blocks: list[Block]
    line: int = 0


Place = tuple[int, int]
NOWHERE: Place = (0, 0)
_LOC_DEF = re.compile(r"^(#loc\d*) = loc\((.*)\)$")
_LOC_END = re.compile(r" ?loc\((#loc\d*|unknown)\)$")
_FILE = re.compile(r'^"([^"]*)":(\d+):(\d+)')
_RESULTS = re.compile(r"^(%[\w$.#-]+(?::\d+)?(?:, %[\w$.#-]+(?::\d+)?)*) = ")
_NAME = re.compile(r'^"?([A-Za-z_][\w.$]*)"?')
_SSA = re.compile(r"%[\w$.-]+(?:#\d+)?")
_NEST = re.compile(r'->|"(?:[^"\\]|\\.)*"|[<({\[]|[>)}\]]| : | ->')
_TENSOR = re.compile(r"^tensor<((?:\d+x)*)(.*)>$", re.S)
_ATTR = re.compile(r"([\w.]+)(?: = |\b)")
_WORD = re.compile(r"[A-Za-z_][\w.]*|-?\d+(?:\.\d+(?:e[+-]?\d+)?)?|0x[0-9A-Fa-f]+")


def parse(text: str, file: str, *, own: bool = False) -> list[Function]:
    """The functions of a module; locations in `file` become line numbers. With `own`, the text is
    the file itself and a line is one of it."""
    return _Reader(text, file, own).module()


def is_text(file: str) -> bool:
    """Whether a source is TTIR, by its name."""
    return file.endswith(".ttir")


def parse_type(text: str) -> Type:
    """tensor<64x32x!tt.ptr<f16>>, !tt.ptr<f32>, i32."""
    text = text.strip()
    m = _TENSOR.match(text)
    shape: tuple[int, ...] = ()
    if m:
        shape = tuple(int(n) for n in m.group(1).split("x")[:-1])
        text = m.group(2)
        if not text.startswith("!"):
            text = text.split(",")[0]
    if text.startswith("!tt.ptr<"):
        inner = text[len("!tt.ptr<") : -1]
        return Type(inner.split(",")[0] if "<" not in inner else inner, shape, True)
    return Type(text, shape)


class _Reader:
    def __init__(self, text: str, file: str, own: bool) -> None:
        self.file = file
        self.rows: list[str] = []
        self.numbers: list[int] = []  # where the file has a row, if it is the file
        self.locs: dict[str, str] = {}
        self.known: dict[str, Place] = {}
        for number, row in enumerate(text.splitlines(), 1):
            m = _LOC_DEF.match(row)
            if m:
                self.locs[m.group(1)] = m.group(2)
            elif row.strip():
                self.rows.append(row.strip())
                self.numbers.append(number if own else 0)
        self.at = 0

    def fail(self, what: str) -> ImportRefusal:
        return ImportRefusal(f"TTIR: {what}", self.file)

    # -- locations
    def place(self, loc: str) -> Place:
        """The line and column in the file that a location leads to, innermost call first; zeros
        if none."""
        if loc not in self.known:
            self.known[loc] = NOWHERE  # a location never contains itself
            self.known[loc] = self._place(loc)
        return self.known[loc]

    def _place(self, loc: str) -> Place:
        if loc.startswith("#"):
            return self.place(self.locs[loc]) if loc in self.locs else NOWHERE
        m = _FILE.match(loc)
        if m:
            return (int(m.group(2)), int(m.group(3))) if m.group(1) == self.file else NOWHERE
        if loc.startswith("callsite("):
            callee, _, caller = loc[len("callsite(") : -1].partition(" at ")
            found = self.place(callee)
            return found if found[0] else self.place(caller)
        if loc.startswith("fused"):
            places = (self.place(x) for x in re.findall(r"#loc\d*", loc))
            return max(places, default=NOWHERE)
        if loc.startswith('"') and loc.endswith(")"):
            return self.place(loc[loc.index('"', 1) + 2 : -1])
        return NOWHERE

    def strip_loc(self, row: str) -> tuple[str, Place]:
        """A row without the location at its end."""
        if not row.endswith(")"):
            return row, NOWHERE
        m = _LOC_END.search(row)
        if m:
            return row[: m.start()], self.place(m.group(1))
        start = row.rfind(" loc(")
        while start >= 0:
            depth, end = 0, start
            for end in range(start + 4, len(row)):
                depth += (row[end] == "(") - (row[end] == ")")
                if depth == 0:
                    break
            if end == len(row) - 1:
                return row[:start], self.place(row[start + 5 : -1])
            start = row.rfind(" loc(", 0, start)
        return row, NOWHERE

    # -- structure
    def module(self) -> list[Function]:
        out: list[Function] = []
        while self.at < len(self.rows):
            row = self.rows[self.at]
            if row.startswith("tt.func") or row.startswith('"tt.func"'):
                out.append(self.function(row))
            else:
                self.at += 1
        if not out:
            raise self.fail("no function")
        return out

    def function(self, row: str) -> Function:
        """A function whose values have names of their own, also where regions reuse them."""
        m = re.search(r"@\"?([\w$.]+)\"?\(", row)
        if m is None or not row.endswith("{"):
            raise self.fail(f"no function in {row[:60]!r}")
        inner = _balanced(row, m.end() - 1)
        params = [(n, t) for n, t, _ in self.arguments(inner)]
        lines = [line for _, _, line in self.arguments(inner)]
        number = self.numbers[self.at]
        self.at += 1
        blocks, _, (line, _) = self.region()
        made = Function(m.group(1), params, blocks, number or line or next(iter(lines), 0))
        names = {n: n for n, _ in params}
        _Renamer(dict.fromkeys(names, 1)).blocks(blocks, names)
        return made

    def arguments(self, text: str) -> list[tuple[str, Type, int]]:
        """`%x: !tt.ptr<f32> {attrs} loc(...)`, separated by commas."""
        out = []
        for part in _split(text):
            m = re.match(r"(%[\w$.-]+): (.*)$", part.strip())
            if m is None:
                raise self.fail(f"not an argument: {part!r}")
            kind, (line, _) = self.strip_loc(m.group(2))
            out.append((m.group(1), parse_type(kind.split(" {")[0]), line))
        return out

    def region(self) -> tuple[list[Block], str, Place]:
        """Blocks up to the closing brace, what follows it on its row, and the line there."""
        blocks = [Block("", [])]
        while self.at < len(self.rows):
            row = self.rows[self.at]
            self.at += 1
            if row.startswith("}"):
                row, place = self.strip_loc(row)
                if blocks[0].label == "" and not blocks[0].ops and len(blocks) > 1:
                    blocks.pop(0)
                return blocks, row[1:].strip(), place
            if row.startswith("^"):
                label = re.match(r"\^[\w$.-]+", row)
                assert label is not None
                rest = row[label.end() :]
                inner = _balanced(rest, 0) if rest.startswith("(") else ""
                args = [(n, t) for n, t, _ in self.arguments(inner)] if inner else []
                blocks.append(Block(label.group(0), args))
            else:
                blocks[-1].ops.append(self.operation(row))
        raise self.fail("a region is not closed")

    def operation(self, row: str) -> Op:
        number = self.numbers[self.at - 1]
        row, (line, column) = self.strip_loc(row)
        tail = ""
        regions: list[list[Block]] = []
        opened = row.endswith("{")
        if opened:
            row = row[:-1].rstrip().removesuffix("(").rstrip()
            while True:
                blocks, tail, (end, _) = self.region()
                regions.append(blocks)
                line = line or end
                if not tail.endswith("{"):
                    break
            tail = tail.lstrip(")").strip()
        op = self.plain(row, tail, bool(regions))
        op.line, op.column, op.regions = number or line, 0 if number else column, regions
        if opened:
            self.generic(op)
        return op

    def plain(self, row: str, tail: str, regional: bool) -> Op:
        m = _RESULTS.match(row)
        results: list[str] = []
        if m:
            for r in m.group(1).split(", "):
                base, _, count = r.partition(":")
                results += [f"{base}#{n}" for n in range(int(count))] if count else [base]
            row = row[m.end() :]
        m = _NAME.match(row)
        if m is None:
            raise self.fail(f"not an operation: {row[:80]!r}")
        name, rest = m.group(1), row[m.end() :]
        body, types = _types(rest)
        if regional and tail.startswith(":"):
            body, types = rest, tail[1:].strip()
        ins, outs = _signature(types)
        attrs, bare = _attributes(body)
        if regional and tail.startswith("{"):
            attrs |= _attributes(tail)[0]
        if name in ("scf.for", "scf.if", "scf.while") and " -> (" in bare and not outs:
            bare, _, right = bare.partition(" -> ")
            outs = _type_list(right)
        operands = _SSA.findall(bare)
        words = _WORD.findall(_SSA.sub(" ", bare))
        return Op(name, results, operands, words, attrs, ins, outs, body.strip())

    @staticmethod
    def generic(op: Op) -> None:
        """A printed loop in the generic form: bounds and initial values are operands, the
        variable and the carried values are arguments of the block."""
        if op.name == "scf.while" and not op.regions[0][0].args and "=" in op.rest:
            names = op.operands
            op.regions[0][0].args = list(zip(names[::2], op.ins, strict=True))
            op.operands = names[1::2]
        if op.name != "scf.for" or op.regions[0][0].args or " to " not in op.rest:
            return
        variable, lo, hi, step, *carried = op.operands
        kind = op.ins[0] if op.ins else Type("index")
        args = list(zip(carried[::2], op.outs, strict=True))
        op.operands = [lo, hi, step, *carried[1::2]]
        op.regions[0][0].args = [(variable, kind), *args]


class _Renamer:
    """Gives every value of a function a name of its own: printed names repeat in regions."""

    def __init__(self, count: dict[str, int]) -> None:
        self.count = count

    def fresh(self, name: str, scope: dict[str, str]) -> str:
        n = self.count.get(name, 0)
        self.count[name] = n + 1
        scope[name] = name if n == 0 else f"{name}'{n}"
        return scope[name]

    def blocks(self, blocks: list[Block], scope: dict[str, str]) -> None:
        inner = dict(scope)
        for b in blocks:
            b.args = [(self.fresh(n, inner), t) for n, t in b.args]
            for op in b.ops:
                op.operands = [inner.get(x, x) for x in op.operands]
                for region in op.regions:
                    self.blocks(region, inner)
                op.results = [self.fresh(x, inner) for x in op.results]


def _balanced(text: str, start: int) -> str:
    """What stands between the bracket at `start` and its partner."""
    depth = 0
    for m in _NEST.finditer(text, start):
        t = m.group(0)
        if t in "<({[":
            depth += 1
        elif t in ">)}]":
            depth -= 1
            if depth == 0:
                return text[start + 1 : m.start()]
    return text[start + 1 :]


def _split(text: str) -> list[str]:
    """Parts between commas outside of brackets and strings."""
    out, depth, last = [], 0, 0
    for m in re.finditer(r'->|"(?:[^"\\]|\\.)*"|[<({\[]|[>)}\]]|,', text):
        t = m.group(0)
        if t in ("<", "(", "{", "["):
            depth += 1
        elif t in (">", ")", "}", "]"):
            depth -= 1
        elif t == "," and depth == 0:
            out.append(text[last : m.start()])
            last = m.end()
    last_part = text[last:]
    return [*out, last_part] if last_part.strip() else out


def _types(rest: str) -> tuple[str, str]:
    """The body of an operation and its types, at the last colon outside of brackets."""
    depth, cut = 0, -1
    for m in _NEST.finditer(rest):
        t = m.group(0)
        if t in ("<", "(", "{", "["):
            depth += 1
        elif t in (">", ")", "}", "]"):
            depth -= 1
        elif t == " : " and depth == 0:
            cut = m.start()
    if cut < 0:
        return rest, ""
    return rest[:cut], rest[cut + 3 :].strip()


def _signature(types: str) -> tuple[list[Type], list[Type]]:
    left, arrow, right = types.partition(" -> ")
    if not arrow:
        left, arrow, right = types.partition(" to ")
    return _type_list(left), _type_list(right)


def _type_list(text: str) -> list[Type]:
    text = text.strip()
    if text.startswith("("):
        text = _balanced(text, 0)
    return [parse_type(t) for part in _split(text) for t in part.split(" * ")]


def _attributes(body: str) -> tuple[dict[str, str], str]:
    """Attributes in braces (`{...}` or `<{...}>`) by name, and the body without them."""
    attrs: dict[str, str] = {}
    while True:
        start = body.find("{")
        if start < 0:
            return attrs, body
        inner = _balanced(body, start)
        for part in _split(inner):
            name, equals, value = part.strip().partition(" = ")
            attrs[name] = value if equals else "true"
        end = start + len(inner) + 2
        left, right = body[:start].rstrip(), body[end:]
        if left.endswith("<") and right.startswith(">"):
            left, right = left[:-1], right[1:]
        body = f"{left} {right}"


def number(text: str) -> int:
    """The integer at the start of an attribute such as `16 : i32`."""
    m = re.match(r"-?\d+", text)
    if m is None:
        raise ValueError(f"{text!r} is not an integer")
    return int(m.group(0))
