"""Text form of tile programs: printed, parsed back, and what a program's digest is taken of.

The text is complete: buffers, placements with every hint, facts, and statements with the axes and
dtype of each value. A name that could mean two things (a size and a loop variable, say) is printed
with what it is, `size.n`; names are looked up as program id, size, param, axis, loop
variable, value, in this order.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.dtypes import DTYPES, DType
from opwright.ir.expr import (
    TRUE,
    Expr,
    ExprError,
    const,
    leaf,
    leaves,
    pid,
    show,
    size,
    substitute,
    var,
)
from opwright.ir.semantics import MONOIDS, ROWS
from opwright.ir.text import TextError, parse_expr
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Buffer,
    Check,
    Def,
    Dot,
    For,
    If,
    Kernel,
    Load,
    Placement,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    expressions,
    statements,
)

RESERVED = frozenset("if then else and or not inf nan true false".split())
_PID = re.compile(r"p\d+")
_PREFIX = {"size": "size", "param": "param", "lane": "axis", "var": "loop", "value": "value"}


class ParseError(ExprError):
    """Text that is no tile program; `line` and `column` count from 1, `cure` says what to write."""

    def __init__(self, message: str, line: int, column: int, cure: str) -> None:
        super().__init__(f"{line}:{column}: {message}; {cure}")
        self.message, self.line, self.column, self.cure = message, line, column, cure


def digest(program: TileProgram) -> str:
    """Hash of the text, placements and facts included."""
    return "sha256:" + hashlib.sha256(show_program(program).encode()).hexdigest()


# -- printing --------------------------------------------------------------------------------------


def show_program(program: TileProgram) -> str:
    """The text of a program; `parse_program` reads it back to an equal program.

    Raises ExprError when one kernel has two axes of one name.
    """
    sizes, params = _scalars(program)
    lines = [f"program {program.name}"]
    if sizes:
        lines.append(f"sizes {', '.join(sizes)}")
    if params:
        lines.append(f"params {', '.join(f'{n}: {k}' for n, k in params.items())}")
    names = {**{n: "param" for n in params}, **{n: "size" for n in sizes}}
    facts = _Printer({**names})
    lines += [f"fact {facts.expr(f)}" for f in program.facts]
    lines += [f"assume {json.dumps(a)}" for a in program.assumes]
    for k, p in zip(program.kernels, program.placements, strict=True):
        lines += _Printer(names, k).kernel(k, p)
    return "\n".join(lines) + "\n"


def axes_of(kernel: Kernel) -> tuple[Axis, ...]:
    """Every tile axis of a kernel in order of first appearance."""
    found: dict[Axis, None] = {}

    def expr(e: Expr) -> None:
        for x in leaves(e, "lane", "value"):
            for a in (x.attr,) if x.op == "lane" else x.attr.axes:
                found[a] = None

    for s in statements(kernel.body):
        if isinstance(s, Def):
            for a in s.value.axes:
                found[a] = None
            if s.value.op == "reduce":
                found[s.value.attr[1]] = None
        elif isinstance(s, For):
            for v in (*s.inits, *s.params, *s.results):
                for a in v.axes:
                    found[a] = None
    for e in expressions(kernel.body):
        expr(e)
    found |= dict.fromkeys(kernel.threads)
    return tuple(found)


def _scalars(program: TileProgram) -> tuple[list[str], dict[str, str]]:
    sizes: set[str] = set()
    params: dict[str, str] = {}
    roots: list[Expr] = list(program.facts)
    for k, p in zip(program.kernels, program.placements, strict=True):
        roots += [*k.grid, *expressions(k.body)]
        for b in k.buffers:
            roots += [*b.shape, *(b.strides or ())]
        roots += [e for _, lead in p.home.values() for e in lead]
    for e in roots:
        for x in leaves(e, "size", "param"):
            if x.op == "size":
                sizes.add(x.attr)
            elif "(" not in x.attr:  # `aligned(x, 32)` is spelled in the expression
                params[x.attr] = x.kind
    return sorted(sizes), dict(sorted(params.items()))


def number(n: Any) -> str:
    """A constant that `_number` reads back with its type and sign."""
    if isinstance(n, bool):
        return "true" if n else "false"
    if isinstance(n, float):
        return float.__repr__(float(n))
    return str(operator.index(n))


class _Printer:
    def __init__(self, names: dict[str, str], kernel: Kernel | None = None) -> None:
        self.owner: dict[str, str] = {}
        if kernel is not None:
            for s in statements(kernel.body):
                if isinstance(s, Def):
                    self.owner[s.value.name] = "value"
                elif isinstance(s, For):
                    self.owner |= {v.name: "value" for v in (*s.params, *s.results)}
            for s in statements(kernel.body):
                if isinstance(s, For):
                    self.owner[s.variable] = "var"
            self.axes = axes_of(kernel)
            if len({a.name for a in self.axes}) != len(self.axes):
                raise ExprError(f"kernel {kernel.name} has two axes of one name")
            self.owner |= {a.name: "lane" for a in self.axes}
        self.owner |= names
        self.memo: dict[Expr, str] = {}

    def expr(self, e: Expr) -> str:
        if e not in self.memo:
            renamed = {}
            for x in leaves(e, *_PREFIX):
                name = str(x.attr if isinstance(x.attr, str) else x.attr.name)
                plain = self.owner.get(name) == x.op or "(" in name
                if not plain or name in RESERVED or _PID.fullmatch(name):
                    renamed[x] = leaf("var", f"{_PREFIX[x.op]}.{name}", x.kind)
            self.memo[e] = show(substitute(e, renamed))
        return self.memo[e]

    def list(self, es: Iterable[Expr]) -> str:
        return ", ".join(self.expr(e) for e in es)

    def kernel(self, k: Kernel, p: Placement) -> Iterator[str]:
        yield f"kernel {k.name}"
        yield f"  grid {self.list(k.grid)}".rstrip()
        for b in k.buffers:
            strides = "" if b.strides is None else f" strides ({self.list(b.strides)})"
            init = "" if b.init == "none" else f" init {b.init}"
            yield f"  {b.role} {b.name}: {b.dtype}[{self.list(b.shape)}]{strides}{init}"
        for a in self.axes:
            yield f"  axis {a.name} = {a.extent}"
        for axis, what in sorted(p.axes.items()):
            yield f"  place {axis} {what if isinstance(what, str) else f'{what[0]}({what[1]})'}"
        for scratch, (host, lead) in sorted(p.home.items()):
            yield f"  home {scratch} = {host}[{self.list(lead)}]"
        for word, names in (("pin", p.pin), ("stream", p.stream), ("deep", p.deep)):
            if names:
                yield f"  {word} {', '.join(names)}"
        for load, (loop, ahead) in sorted(p.prefetch.items()):
            yield f"  prefetch {load} = {loop} {ahead}"
        for loop, factor in sorted(p.unroll.items()):
            yield f"  unroll {loop} = {factor}"
        if p.threads != "static":
            yield f"  threads {p.threads}"
        for name, n in sorted(p.launch.items()):
            yield f"  launch {name} = {n}"
        if k.order != "statement":
            yield f"  order {k.order}"
        if k.threads:
            yield f"  parallel {', '.join(a.name for a in k.threads)}"
        for name, line in sorted(k.lines.items()):
            yield f"  line {name} {json.dumps(line)}"
        yield "  body"
        yield from self.block(k.body, "    ")

    def access(self, b: Buffer, index: tuple[Expr, ...], mask: Expr) -> str:
        return f"{b.name}[{self.list(index)}]" + ("" if mask is TRUE else f" if {self.expr(mask)}")

    def rhs(self, v: Value) -> str:
        if v.op == "full":
            return f"full {number(v.attr)}"
        if v.op == "index":
            return f"index {self.expr(v.attr)}"
        if v.op == "load":
            what: Load = v.attr
            other = "" if what.other is None else f" else {number(what.other)}"
            always = " if true" if other and what.mask is TRUE else ""
            return f"load {self.access(what.buffer, what.index, what.mask)}{always}{other}"
        if v.op == "reduce":
            return f"reduce {v.attr[0]} {v.args[0].name} over {v.attr[1].name}"
        names = " ".join(a.name for a in v.args)
        if v.op == "argreduce":
            return f"argreduce {v.attr[0]} {names} over {v.attr[1].name}"
        if v.op == "scan":
            scan: Scan = v.attr
            end = " reverse" if scan.reverse else ""
            return f"scan {scan.monoid} {names} over {scan.axis.name}{end}"
        if v.op == "dot":
            dot: Dot = v.attr
            end = "" if dot.precision == "ieee" else f" as {dot.precision}"
            return f"dot {names} over {dot.axis.name}{end}"
        if v.op == "view":
            places = ", ".join(f"{a.name} = {self.expr(e)}" for a, e in v.attr)
            return f"view {names} at {places}".rstrip()
        if v.op == "opaque":
            return f"opaque {json.dumps(v.attr)} {names}".rstrip()
        return f"{v.op} {names}".rstrip()

    def block(self, body: Iterable[Stmt], pad: str) -> Iterator[str]:
        for s in body:
            if isinstance(s, Def):
                v = s.value
                axes = f"[{', '.join(a.name for a in v.axes)}]" if v.axes else ""
                yield f"{pad}{v.name}: {v.dtype}{axes} = {self.rhs(v)}"
            elif isinstance(s, Store):
                access = self.access(s.buffer, s.index, s.mask)
                yield f"{pad}{s.name}: store {access} = {s.value.name}"
            elif isinstance(s, Atomic):
                access = self.access(s.buffer, s.index, s.mask)
                yield f"{pad}{s.name}: atomic {s.monoid} {access} = {s.value.name}"
            elif isinstance(s, Check):
                why = json.dumps(s.reason)
                yield f"{pad}{s.name}: check {s.kind} {self.expr(s.cond)} because {why}"
            elif isinstance(s, Barrier):
                kind = "barrier" if s.fence else "meet"
                cond = "" if s.mask is TRUE else f" if {self.expr(s.mask)}"
                yield f"{pad}{s.name}: {kind} over {', '.join(a.name for a in s.axes)}{cond}"
            elif isinstance(s, For):
                head = f"for {s.variable} in {self.expr(s.lo)} .. {self.expr(s.hi)} by {s.step}"
                state = zip(s.params, s.inits, strict=True)
                carry = ", ".join(f"{p.name} = {i.name}" for p, i in state)
                results = ", ".join(r.name for r in s.results)
                yield f"{pad}{head}" + (f" carry {carry} -> {results}:" if carry else ":")
                yield from self.block(s.body, pad + "  ")
                if carry:
                    yield f"{pad}  next {', '.join(y.name for y in s.yields)}"
            else:
                yield f"{pad}if {self.expr(s.cond)}:"
                yield from self.block(s.then, pad + "  ")
                if s.other:
                    yield f"{pad}else:"
                    yield from self.block(s.other, pad + "  ")


# -- parsing ---------------------------------------------------------------------------------------


def parse_program(text: str) -> TileProgram:
    """The program of a text; ParseError with line, column and cure for a mistake."""
    return _Reader(text).program()


@dataclass(slots=True)
class _Line:
    number: int
    indent: int
    text: str


@dataclass(slots=True)
class _Scope:
    """What names mean at a place of a kernel."""

    sizes: set[str]
    params: dict[str, str]
    buffers: dict[str, Buffer] = field(default_factory=dict)
    axes: dict[str, Axis] = field(default_factory=dict)
    loops: set[str] = field(default_factory=set)
    values: dict[str, Value] = field(default_factory=dict)

    def inner(self) -> _Scope:
        return _Scope(
            self.sizes,
            self.params,
            self.buffers,
            self.axes,
            set(self.loops),
            dict(self.values),
        )

    def resolve(self, name: str) -> Expr | None:
        if name == "nan":
            return const(math.nan)
        if _PID.fullmatch(name):
            return pid(int(name[1:]))
        kind, _, rest = name.rpartition(".")
        if kind in ("", "size") and rest in self.sizes:
            return size(rest)
        if kind in ("", "param") and rest in self.params:
            return leaf("param", rest, self.params[rest])
        if kind in ("", "axis") and rest in self.axes:
            return self.axes[rest].lane
        if kind in ("", "loop") and rest in self.loops:
            return var(rest)
        if kind in ("", "value") and rest in self.values:
            v = self.values[rest]
            return leaf("value", v, v.dtype.kind)
        return None


_NAME = r"[A-Za-z_]\w*"
_BUFFER = re.compile(
    rf"(?P<role>in|out|state|plan|program) (?P<name>{_NAME}): (?P<dtype>\w+)\[(?P<shape>.*?)\]"
    r"(?: strides \((?P<strides>.*)\))?(?: init (?P<init>\w+))?"
)
_DEF = re.compile(rf"(?P<name>{_NAME}): (?P<dtype>\w+)(?:\[(?P<axes>[\w, ]*)\])? = (?P<rhs>.*)")
_STORE = re.compile(rf"(?P<name>{_NAME}): store (?P<access>.*) = (?P<value>{_NAME})")
_ATOMIC = re.compile(
    rf"(?P<name>{_NAME}): atomic (?P<monoid>\w+) (?P<access>.*) = (?P<value>{_NAME})"
)
_CHECK = re.compile(
    rf'(?P<name>{_NAME}): check (?P<kind>\w+) (?P<cond>.*) because (?P<reason>".*")'
)
_BARRIER = re.compile(
    rf"(?P<name>{_NAME}): (?P<kind>barrier|meet) over (?P<axes>[\w, ]*?)( if (?P<cond>.*))?"
)
_LINE = re.compile(rf'line (?P<name>{_NAME}) (?P<line>".*")')
_OPAQUE = re.compile(r'(?P<what>"(?:[^"\\]|\\.)*")(?P<args>(?: \w+)*)')
_FOR = re.compile(
    rf"for (?P<variable>{_NAME}) in (?P<range>.*) by (?P<step>-?\d+)"
    rf"(?: carry (?P<carry>[\w =,]+?) -> (?P<results>[\w, ]+))?:"
)
_PLACE = re.compile(rf"place (?P<axis>{_NAME}) (?P<what>\w+)(?:\((?P<width>\d+)\))?")
_HOME = re.compile(rf"home (?P<scratch>{_NAME}) = (?P<host>{_NAME})\[(?P<lead>.*)\]")
_PREFETCH = re.compile(r"prefetch (?P<load>[\w*]+) = (?P<loop>[\w*]+) (?P<ahead>-?\d+)")
_UNROLL = re.compile(r"unroll (?P<loop>[\w*]+) = (?P<factor>-?\d+)")
_LAUNCH = re.compile(rf"launch (?P<name>{_NAME}) = (?P<number>-?\d+)")
_AXIS = re.compile(rf"axis (?P<name>{_NAME}) = (?P<extent>-?\d+)")


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines = [
            _Line(n, len(raw) - len(raw.lstrip(" ")), raw.strip())
            for n, raw in enumerate(text.splitlines(), 1)
            if raw.strip() and not raw.strip().startswith("#")
        ]
        self.at = 0
        self.end = _Line(len(text.splitlines()) + 1, -1, "")

    # -- lines
    @property
    def line(self) -> _Line:
        return self.lines[self.at] if self.at < len(self.lines) else self.end

    def fail(
        self, message: str, cure: str, part: str = "", line: _Line | None = None
    ) -> ParseError:
        line = line or self.line
        inside = line.text.find(part) if part else 0
        return ParseError(message, line.number, line.indent + max(inside, 0) + 1, cure)

    def take(self, pattern: re.Pattern[str], cure: str) -> re.Match[str]:
        m = pattern.fullmatch(self.line.text)
        if m is None:
            raise self.fail(f"cannot read {self.line.text!r}", cure)
        return m

    def expr(self, text: str, offset: int, scope: _Scope, line: _Line | None = None) -> Expr:
        """An expression that starts at `offset` of the current line's text."""
        line = line or self.line
        try:
            return parse_expr(text, scope.resolve)
        except TextError as e:
            message = str(e).split(" at column ")[0]
            column = line.indent + offset + e.column
            cure = "write an expression over sizes, params, program ids, axes, loops and values"
            raise ParseError(message, line.number, column, cure) from None

    def exprs(self, text: str, offset: int, scope: _Scope) -> tuple[Expr, ...]:
        return tuple(self.expr(t, offset + at, scope) for at, t in _split(text, ","))

    # -- program
    def program(self) -> TileProgram:
        if not self.line.text.startswith("program "):
            raise self.fail("the text does not start with a program", "begin with 'program NAME'")
        name = self.line.text.removeprefix("program ")
        self.at += 1
        scope = _Scope(set(), {})
        if self.line.text.startswith("sizes "):
            scope.sizes = {s.strip() for s in self.line.text[6:].split(",")}
            self.at += 1
        if self.line.text.startswith("params "):
            for part in self.line.text[7:].split(","):
                n, _, kind = part.strip().partition(": ")
                if kind not in ("int", "real", "bool"):
                    raise self.fail(f"param {n} has no kind", "write 'NAME: int|real|bool'", n)
                scope.params[n] = kind
            self.at += 1
        facts = []
        while self.line.text.startswith("fact "):
            facts.append(self.expr(self.line.text[5:], 5, scope))
            self.at += 1
        assumes = []
        while self.line.text.startswith("assume "):
            assumes.append(self.quoted(self.line.text[7:]))
            self.at += 1
        kernels, placements = [], []
        while self.line is not self.end:
            if not self.line.text.startswith("kernel "):
                raise self.fail(f"unexpected {self.line.text!r}", "write 'kernel NAME' here")
            k, p = self.kernel(scope.inner())
            kernels.append(k)
            placements.append(p)
        return TileProgram(name, tuple(kernels), tuple(placements), tuple(facts), tuple(assumes))

    def quoted(self, text: str) -> str:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, str):
            raise self.fail(f"{text!r} is no text in quotes", 'write "..."', text)
        return found

    def kernel(self, scope: _Scope) -> tuple[Kernel, Placement]:
        scope.buffers, scope.axes = {}, {}
        name, base = self.line.text.removeprefix("kernel "), self.line.indent
        self.at += 1
        grid: tuple[Expr, ...] = ()
        order, lines = "statement", {}
        threads: tuple[Axis, ...] = ()
        hints: dict[str, Any] = {"axes": {}, "home": {}, "prefetch": {}, "unroll": {}, "launch": {}}
        while self.line.indent > base and self.line.text != "body":
            text = self.line.text
            word = text.split(" ", 1)[0]
            if word == "grid":
                grid = self.exprs(text[5:], 5, scope)
            elif word == "axis":
                m = self.take(_AXIS, "write 'axis NAME = EXTENT'")
                scope.axes[m["name"]] = Axis(m["name"], int(m["extent"]))
            elif word in ("in", "out", "state", "plan", "program"):
                self.buffer(scope)
            elif word == "order":
                order = text[6:].strip()
            elif word == "parallel":
                threads = tuple(self.axis(n.strip(), scope) for n in text[9:].split(","))
            elif word == "line":
                m = self.take(_LINE, "write 'line NAME \"FILE:LINE\"'")
                lines[m["name"]] = self.quoted(m["line"])
            else:
                self.hint(word, hints, scope)
            self.at += 1
        if self.line.text != "body":
            raise self.fail(f"kernel {name} has no body", "write 'body' after its declarations")
        inner = self.line.indent
        self.at += 1
        body, _ = self.block(inner, scope)
        k = Kernel(name, grid, tuple(scope.buffers.values()), body, lines, order, threads)
        return k, Placement(**hints)

    def buffer(self, scope: _Scope) -> None:
        m = self.take(_BUFFER, "write 'ROLE NAME: DTYPE[SHAPE]', then strides (...) and init WORD")
        shape = self.exprs(m["shape"], m.start("shape"), scope)
        strides = None
        if m["strides"] is not None:
            strides = self.exprs(m["strides"], m.start("strides"), scope)
        scope.buffers[m["name"]] = Buffer(
            m["name"], m["role"], self.dtype(m["dtype"]), shape, strides, m["init"] or "none"
        )

    def dtype(self, name: str) -> DType:
        if name not in DTYPES:
            raise self.fail(f"unknown type {name}", f"use one of {', '.join(DTYPES)}", name)
        return DTYPES[name]

    def hint(self, word: str, hints: dict[str, Any], scope: _Scope) -> None:
        text = self.line.text
        if word == "place":
            m = self.take(_PLACE, "write 'place AXIS unroll' or 'place AXIS vec(WIDTH)'")
            hints["axes"][m["axis"]] = (m["what"], int(m["width"])) if m["width"] else m["what"]
        elif word == "home":
            m = self.take(_HOME, "write 'home SCRATCH = BUFFER[INDEX, ...]'")
            lead = self.exprs(m["lead"], m.start("lead"), scope)
            hints["home"][m["scratch"]] = (m["host"], lead)
        elif word in ("pin", "stream", "deep"):
            hints[word] = tuple(n.strip() for n in text[len(word) :].split(","))
        elif word == "prefetch":
            m = self.take(_PREFETCH, "write 'prefetch LOAD = LOOP ITERATIONS'")
            hints["prefetch"][m["load"]] = (m["loop"], int(m["ahead"]))
        elif word == "unroll":
            m = self.take(_UNROLL, "write 'unroll LOOP = FACTOR'")
            hints["unroll"][m["loop"]] = int(m["factor"])
        elif word == "launch":
            m = self.take(_LAUNCH, "write 'launch NAME = NUMBER'")
            hints["launch"][m["name"]] = int(m["number"])
        elif word == "threads":
            hints["threads"] = text[8:]
        else:
            raise self.fail(
                f"unknown declaration {word!r}", "declare buffers, axes or hints, then write 'body'"
            )

    # -- statements
    def block(self, outer: int, scope: _Scope) -> tuple[tuple[Stmt, ...], tuple[Value, ...] | None]:
        """Statements indented deeper than `outer`, and the values after `next` if it has one."""
        out: list[Stmt] = []
        indent = self.line.indent
        while self.line.indent > outer:
            text = self.line.text
            if self.line.indent != indent:
                raise self.fail("unexpected indentation", f"indent by {indent} spaces here")
            if text == "next" or text.startswith("next "):
                names = [n.strip() for n in text[5:].split(",")]
                yields = tuple(self.value(n, scope) for n in names)
                self.at += 1
                if self.line.indent > outer:
                    raise self.fail("a statement after 'next'", "'next' ends the loop's body")
                return tuple(out), yields
            if text.startswith("for "):
                out.append(self.loop(scope))
            elif text.startswith("if ") and text.endswith(":"):
                out.append(self.branch(scope))
            else:
                out.append(self.simple(scope))
        return tuple(out), None

    def value(self, name: str, scope: _Scope) -> Value:
        if name not in scope.values:
            raise self.fail(f"unknown value {name!r}", "name a value defined before", name)
        return scope.values[name]

    def simple(self, scope: _Scope) -> Stmt:
        line = self.line
        if m := _STORE.fullmatch(line.text):
            b, index, mask, other = self.access(m["access"], m.start("access"), scope)
            if other is not None:
                raise self.fail("a store has no 'else'", "drop it", "else")
            v = self.value(m["value"], scope)
            self.at += 1
            return Store(m["name"], b, index, v, mask)
        if m := _ATOMIC.fullmatch(line.text):
            b, index, mask, other = self.access(m["access"], m.start("access"), scope)
            if other is not None:
                raise self.fail("an atomic has no 'else'", "drop it", "else")
            v = self.value(m["value"], scope)
            self.at += 1
            return Atomic(m["name"], b, index, v, m["monoid"], mask)
        if m := _CHECK.fullmatch(line.text):
            cond = self.expr(m["cond"], m.start("cond"), scope)
            reason = self.quoted(m["reason"])
            self.at += 1
            return Check(m["name"], cond, m["kind"], reason)
        if m := _BARRIER.fullmatch(line.text):
            names = [n.strip() for n in m["axes"].split(",") if n.strip()]
            over = tuple(self.axis(n, scope) for n in names)
            cond = self.expr(m["cond"], m.start("cond"), scope) if m["cond"] else TRUE
            self.at += 1
            return Barrier(m["name"], over, cond, m["kind"] == "barrier")
        m = self.take(_DEF, "write 'NAME: DTYPE[AXES] = OPERATION' or 'NAME: store ACCESS = VALUE'")
        axes = tuple(self.axis(n.strip(), scope) for n in (m["axes"] or "").split(",") if n.strip())
        op, _, rest = m["rhs"].partition(" ")
        at = m.start("rhs") + len(op) + 1
        args, attr = self.operation(op, rest, at, scope)
        v = Value(m["name"], op, args, axes, self.dtype(m["dtype"]), attr)
        scope.values[v.name] = v
        self.at += 1
        return Def(v)

    def axis(self, name: str, scope: _Scope) -> Axis:
        if name not in scope.axes:
            raise self.fail(f"unknown axis {name!r}", f"declare 'axis {name} = EXTENT'", name)
        return scope.axes[name]

    def operation(
        self, op: str, rest: str, at: int, scope: _Scope
    ) -> tuple[tuple[Value, ...], Any]:
        if op == "full":
            return (), self.number(rest)
        if op == "index":
            return (), self.expr(rest, at, scope)
        if op == "load":
            return (), Load(*self.access(rest, at, scope))
        if op == "reduce":
            m = re.fullmatch(r"(\w+) (\w+) over (\w+)", rest)
            if m is None or m[1] not in MONOIDS:
                kinds = "|".join(MONOIDS)
                raise self.fail(
                    "cannot read the reduction", f"write 'reduce {kinds} VALUE over AXIS'"
                )
            return (self.value(m[2], scope),), (m[1], self.axis(m[3], scope))
        if op in ("argreduce", "scan", "dot"):
            return self.combining(op, rest, scope)
        if op == "view":
            m = re.fullmatch(r"(\w+) at(?: (.*))?", rest)
            if m is None:
                raise self.fail("cannot read the view", "write 'view VALUE at AXIS = INDEX, ...'")
            places = []
            for offset, text in _split(m[2] or "", ","):
                name, sign, e = text.partition("=")
                if not sign:
                    raise self.fail("cannot read the view", "write 'AXIS = INDEX'", text)
                start = at + m.start(2) + offset + len(name) + 1
                places.append((self.axis(name.strip(), scope), self.expr(e, start, scope)))
            return (self.value(m[1], scope),), tuple(places)
        if op == "opaque":
            m = _OPAQUE.fullmatch(rest)
            if m is None:
                raise self.fail("cannot read the operation", "write 'opaque \"NAME\" VALUE ...'")
            args = tuple(self.value(n, scope) for n in m["args"].split())
            return args, self.quoted(m["what"])
        if op not in ROWS and op not in ("cast", "round"):
            raise self.fail(f"unknown operation {op!r}", "use a row of the semantics table", op)
        return tuple(self.value(n, scope) for n in rest.split()), None

    def combining(self, op: str, rest: str, scope: _Scope) -> tuple[tuple[Value, ...], Any]:
        forms = {
            "argreduce": (r"(argmax|argmin) (\w+) (\w+) over (\w+)", "argmax V INDEX over AXIS"),
            "scan": (r"(\w+) (\w+) over (\w+)( reverse)?", "MONOID V over AXIS [reverse]"),
            "dot": (r"(\w+) (\w+) over (\w+)(?: as (\w+))?", "A B over AXIS [as PRECISION]"),
        }
        m = re.fullmatch(forms[op][0], rest)
        if m is None or (op == "scan" and m[1] not in MONOIDS):
            raise self.fail(f"cannot read the {op}", f"write '{op} {forms[op][1]}'")
        if op == "argreduce":
            args = (self.value(m[2], scope), self.value(m[3], scope))
            return args, (m[1], self.axis(m[4], scope))
        axis = self.axis(m[3], scope)
        if op == "scan":
            return (self.value(m[2], scope),), Scan(m[1], axis, m[4] is not None)
        args = (self.value(m[1], scope), self.value(m[2], scope))
        return args, Dot(axis, m[4] or "ieee")

    def number(self, text: str) -> float | int | bool:
        if text in ("true", "false"):
            return text == "true"
        try:
            return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
        except ValueError:
            raise self.fail(f"{text!r} is not a number", "write a number", text) from None

    def access(
        self, text: str, at: int, scope: _Scope
    ) -> tuple[Buffer, tuple[Expr, ...], Expr, float | int | bool | None]:
        name, bracket, rest = text.partition("[")
        close = _closing(rest)
        if not bracket or close < 0:
            raise self.fail(
                "cannot read the access", "write 'BUFFER[INDEX, ...] if MASK else NUMBER'"
            )
        if name not in scope.buffers:
            raise self.fail(f"unknown buffer {name!r}", "declare it in this kernel", name)
        start = at + len(name) + 1
        index = self.exprs(rest[:close], start, scope)
        tail, start = rest[close + 1 :], start + close + 1
        if not tail:
            return scope.buffers[name], index, TRUE, None
        if not tail.startswith(" if "):
            raise self.fail(f"unexpected {tail.strip()!r}", "a mask is written ' if MASK'", tail)
        parts = _split(tail[4:], " else ")
        mask = self.expr(parts[0][1], start + 4 + parts[0][0], scope)
        other = self.number(parts[1][1].strip()) if len(parts) > 1 else None
        return scope.buffers[name], index, mask, other

    def loop(self, scope: _Scope) -> For:
        line = self.line
        m = self.take(_FOR, "write 'for NAME in LO .. HI by STEP carry P = INIT -> RESULT:'")
        parts = _split(m["range"], " .. ")
        if len(parts) != 2:
            raise self.fail("a loop needs LO .. HI", "write 'for NAME in LO .. HI by STEP:'")
        lo, hi = (self.expr(t, m.start("range") + at, scope) for at, t in parts)
        pairs = [p.partition("=")[::2] for p in (m["carry"] or "").split(",") if p.strip()]
        inits = tuple(self.value(i.strip(), scope) for _, i in pairs)
        names = [r.strip() for r in (m["results"] or "").split(",") if r.strip()]
        if len(names) != len(inits):
            raise self.fail("carried values and results differ in number", "name each result", "->")
        inner = scope.inner()
        inner.loops.add(m["variable"])
        make: Callable[[str, str, Value], Value] = lambda n, op, i: Value(  # noqa: E731
            n, op, (), i.axes, i.dtype
        )
        params = tuple(make(p.strip(), "param", i) for (p, _), i in zip(pairs, inits, strict=True))
        inner.values |= {p.name: p for p in params}
        self.at += 1
        body, yields = self.block(line.indent, inner)
        if len(yields or ()) != len(inits):
            cure = f"end the body with 'next' and {len(inits)} values"
            raise self.fail(f"loop {m['variable']} does not say its next state", cure, line=line)
        results = tuple(make(n, "result", i) for n, i in zip(names, inits, strict=True))
        scope.values |= {r.name: r for r in results}
        return For(
            m["variable"], lo, hi, int(m["step"]), inits, params, body, yields or (), results
        )

    def branch(self, scope: _Scope) -> If:
        line = self.line
        cond = self.expr(line.text[3:-1], 3, scope)
        self.at += 1
        sides: list[tuple[Stmt, ...]] = []
        for side in ("then", "else"):
            if side == "else":
                if self.line.text != "else:" or self.line.indent != line.indent:
                    sides.append(())
                    break
                self.at += 1
            body, yields = self.block(line.indent, scope.inner())
            if yields is not None:
                raise self.fail("'next' inside a branch", "a branch carries no state", line=line)
            sides.append(body)
        return If(cond, sides[0], sides[1])


def _closing(text: str) -> int:
    """Offset of the bracket that closes one opened just before `text`; -1 if none does."""
    depth = 1
    for n, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if depth == 0:
            return n
    return -1


def _split(text: str, separator: str) -> list[tuple[int, str]]:
    """Parts of a text at separators outside brackets, with their offsets; none of an empty text."""
    if not text.strip():
        return []
    out, depth, start, n = [], 0, 0, 0
    while n < len(text):
        depth += (text[n] in "([") - (text[n] in ")]")
        if depth == 0 and text.startswith(separator, n):
            out.append((start, text[start:n]))
            n += len(separator)
            start = n
        else:
            n += 1
    return [*out, (start, text[start:])]
