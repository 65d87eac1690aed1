"""Faults seeded into tile programs, statement by statement of their text form.

Every mutant is a program that has a meaning and whose normal form is not the original's, so that
what is left differs in something; whether in a result is for a proof or a test to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from opwright.ir.expr import ExprError
from opwright.ir.mutant import Mutant
from opwright.ir.normal import normal_form
from opwright.ir.tile import TileProgram
from opwright.ir.tilecheck import TileError, check_program
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.mutate_structure import structural

_DEF = re.compile(r"(\s*)(\w+): (\w+)(\[[^\]]*\])? = (.*)")
_STORE = re.compile(r"(\s*)(\w+): (store|atomic \w+) (.*) = (\w+)")
_FOR = re.compile(r"(\s*)for (\w+) in (.*?) \.\. (.*) by (\d+)( carry (.*) -> (.*))?:")
_BUFFER = re.compile(r"\s+(in|out|state|plan|program) (\w+): ")

SWAPS = {
    "add": ("sub",), "sub": ("add",), "mul": ("add",), "div": ("mul",), "max": ("min", "add"),
    "min": ("max",), "exp": ("exp2",), "exp2": ("exp",), "log": ("log2",), "log2": ("log",),
    "log1p": ("log",), "expm1": ("exp",), "rsqrt": ("sqrt",), "sqrt": ("rsqrt",),
    "sin": ("cos",), "cos": ("sin",), "tanh": ("erf",), "erf": ("tanh",), "sigmoid": ("tanh",),
    "lt": ("le",), "le": ("lt",), "eq": ("ne",), "ne": ("eq",), "and": ("or",), "or": ("and",),
    "floor": ("ceil",), "ceil": ("floor",), "trunc": ("floor",), "nearest": ("trunc",),
    "floordiv": ("mod",), "mod": ("floordiv",), "rand": ("randn",),
}  # fmt: skip
ORDERED = ("sub", "div", "pow", "lt", "le", "floordiv", "mod")  # the order of operands matters
MONOIDS = {
    "sum": ("max",), "prod": ("sum",), "max": ("min", "sum"), "min": ("max",), "any": ("all",),
    "all": ("any",), "argmax": ("argmin",), "argmin": ("argmax",),
}  # fmt: skip
COMPARISONS = {"<": ("<=",), "<=": ("<",), "==": ("<=",), "!=": ("<",)}


@dataclass(slots=True)
class _Scope:
    """What the text says of the kernel around a line."""

    name: str = ""
    first: int = 0
    last: int = 0
    buffers: dict[str, str] = field(default_factory=dict)  # role by name
    types: dict[str, tuple[str, str]] = field(default_factory=dict)  # (dtype, axes) by value
    sizes: tuple[str, ...] = ()


def tile_mutants(program: TileProgram) -> list[Mutant]:
    """Mutants of a program in the order of its text, each with another normal form."""
    text = show_program(program)
    seen = {normal_form(program)}
    out = []
    for m in _raw(text):
        try:
            changed = parse_program(m.text)
            check_program(changed)
            form = normal_form(changed)
        except (ExprError, TileError, ValueError, KeyError):
            continue  # no program
        if form not in seen:
            seen.add(form)
            out.append(m)
    return out


def _raw(text: str) -> Iterator[Mutant]:
    lines = text.splitlines()
    sizes: tuple[str, ...] = ()
    scope = _Scope()
    scopes: list[_Scope] = []
    for n, line in enumerate(lines):
        if line.startswith("sizes "):
            sizes = tuple(x.strip() for x in line[6:].split(","))
        elif line.startswith("kernel "):
            scope = _Scope(line[7:], n, n, sizes=sizes)
            scopes.append(scope)
        elif m := _BUFFER.match(line):
            scope.buffers[m[2]] = m[1]
        elif m := _DEF.fullmatch(line):
            scope.types[m[2]] = (m[3], m[4] or "")
        elif (m := _FOR.fullmatch(line)) and m[6]:
            results = [x.strip() for x in m[8].split(",")]
            for pair, result in zip(m[7].split(","), results, strict=False):
                carried, _, start = pair.partition("=")
                known = scope.types.get(start.strip(), ("", ""))
                scope.types[carried.strip()] = scope.types[result] = known
        if scopes:
            scope.last = n
    facts = [n for n, line in enumerate(lines) if line.startswith("fact ")]
    for n in facts:
        yield _made("facts", "facts", lines[:n] + lines[n + 1 :], f"without {lines[n][5:]}")
    if scopes:
        start = scopes[0].first
        never = [*lines[:start], "fact 1 <= 0", *lines[start:]]
        yield _made("contradiction", "facts", never, "with 1 <= 0")
    for scope in scopes:
        kernel = _Kernel(lines, scope)
        yield from kernel.mutants()
        for kind, n, new, what in structural(lines, scope.first, scope.last):
            yield _made(kind, kernel.place(n), [*lines[:n], *new, *lines[n + 1 :]], what)
    if len(scopes) > 1:
        for scope in scopes:
            kept = lines[: scope.first] + lines[scope.last + 1 :]
            yield _made("store_missing", f"kernel {scope.name}", kept, "the launch left out")


def _made(kind: str, place: str, lines: list[str], what: str) -> Mutant:
    return Mutant(kind, place, "\n".join(lines) + "\n", what)


class _Kernel:
    def __init__(self, lines: list[str], scope: _Scope) -> None:
        self.lines, self.scope = lines, scope

    def place(self, n: int) -> str:
        name = re.match(r"\s*(?:for )?(\w+)", self.lines[n])
        said = f"kernel {self.scope.name}, {name[1]}" if name else f"kernel {self.scope.name}"
        return f"{said} (line {n + 1})"

    def with_line(self, kind: str, n: int, new: str, what: str = "") -> Mutant:
        changed = [*self.lines[:n], new, *self.lines[n + 1 :]]
        what = what or f"{self.lines[n].strip()} -> {new.strip()}"
        return _made(kind, self.place(n), changed, what)

    def renamed(self, kind: str, n: int, old: str, new: str, what: str, drop: bool) -> Mutant:
        """Every later use of a value replaced; its definition dropped or kept."""
        kept = [] if drop else [self.lines[n]]
        later = [
            re.sub(rf"(?<![\w.]){old}(?!\w)", new, x)
            for x in self.lines[n + 1 : self.scope.last + 1]
        ]
        lines = [*self.lines[:n], *kept, *later, *self.lines[self.scope.last + 1 :]]
        return _made(kind, self.place(n), lines, what)

    def mutants(self) -> Iterator[Mutant]:
        depth: list[tuple[int, re.Match[str], int]] = []  # loops around: indent, head, line
        for n in range(self.scope.first, self.scope.last + 1):
            line = self.lines[n]
            indent = len(line) - len(line.lstrip())
            while depth and indent <= depth[-1][0]:
                depth.pop()
            if line.startswith("  grid "):
                yield from self.grid(n)
            elif _BUFFER.match(line):
                yield from self.buffer(n)
            elif m := _FOR.fullmatch(line):
                depth.append((indent, m, n))
                yield from self.loop(n, m)
            elif line.strip().startswith("next "):
                yield from self.state(n, depth[-1][1] if depth else None)
            elif line.strip().startswith("if "):
                for new in _compared(line):
                    yield self.with_line("branch", n, new)
            elif m := _STORE.fullmatch(line):
                yield from self.store(n, m)
            elif m := _DEF.fullmatch(line):
                yield from self.definition(n, m, bool(depth))

    # -- declarations -----------------------------------------------------------------------------

    def grid(self, n: int) -> Iterator[Mutant]:
        line = self.lines[n]
        for new in re.finditer(r"\((\w+) \+ (\d+)\) // (\d+)", line):
            floor = line[: new.start()] + f"{new[1]} // {new[3]}" + line[new.end() :]
            yield self.with_line("grid", n, floor)
        parts = _split(line[7:], ", ")
        for k, part in enumerate(parts):
            for more in (f"{part} - 1", f"{part} + 1"):
                changed = ", ".join([*parts[:k], more, *parts[k + 1 :]])
                yield self.with_line("grid", n, f"  grid {changed}")
        for a, b in zip(range(len(parts)), range(1, len(parts)), strict=False):
            swapped = list(parts)
            swapped[a], swapped[b] = parts[b], parts[a]
            yield self.with_line("grid", n, f"  grid {', '.join(swapped)}")

    def buffer(self, n: int) -> Iterator[Mutant]:
        line = self.lines[n]
        if m := re.search(r" strides \((.*)\)", line):
            parts = _split(m[1], ", ")
            if len(parts) > 1:
                swapped = ", ".join([*parts[:-2], parts[-1], parts[-2]])
                new = line[: m.start(1)] + swapped + line[m.end(1) :]
                yield self.with_line("stride", n, new)
            yield self.with_line("stride", n, line[: m.start()] + line[m.end() :])
        if " init zero" in line:
            yield self.with_line("init", n, line.replace(" init zero", ""))

    # -- loops ------------------------------------------------------------------------------------

    def loop(self, n: int, m: re.Match[str]) -> Iterator[Mutant]:
        pad, variable, lo, hi, step, carry = m[1], m[2], m[3], m[4], int(m[5]), m[6] or ""

        def head(lo: str, hi: str, step: int) -> str:
            return f"{pad}for {variable} in {lo} .. {hi} by {step}{carry}:"

        yield self.with_line("loop", n, head(f"{lo} + {step}", hi, step))
        yield self.with_line("loop", n, head(lo, f"{hi} - 1", step))
        yield self.with_line("loop", n, head(lo, f"{hi} + 1", step))
        yield self.with_line("loop", n, head(lo, hi, step * 2))
        if step > 1:
            yield self.with_line("loop", n, head(lo, f"({hi}) // {step} * {step}", step))
        for new in _other_sizes(hi, self.scope.sizes):
            yield self.with_line("bound", n, head(lo, new, step))

    def state(self, n: int, m: re.Match[str] | None) -> Iterator[Mutant]:
        """What a loop hands on: an entry as it was, two entries exchanged."""
        if m is None or not m[6]:
            return
        line = self.lines[n]
        pad = line[: len(line) - len(line.lstrip())]
        values = [x.strip() for x in line.strip()[5:].split(",")]
        carried = [x.partition("=")[0].strip() for x in m[7].split(",")]
        for k, old in enumerate(carried):
            kept = ", ".join([*values[:k], old, *values[k + 1 :]])
            yield self.with_line("state", n, f"{pad}next {kept}")
        for a in range(len(values)):
            for b in range(a + 1, len(values)):
                new = list(values)
                new[a], new[b] = values[b], values[a]
                yield self.with_line("state", n, f"{pad}next {', '.join(new)}")
        # the old state where the new one is meant, and the other way round
        for value, old in zip(values, carried, strict=False):
            first = self.line_of(m)
            for k in range(first + 1, n):
                found = _DEF.fullmatch(self.lines[k])
                if found and re.search(rf"(?<![\w.]){value}(?!\w)", found[5]):
                    changed = re.sub(rf"(?<![\w.]){value}(?!\w)", old, found[5])
                    at = self.lines[k]
                    yield self.with_line("stale", k, at[: found.start(5)] + changed)

    def line_of(self, m: re.Match[str]) -> int:
        return self.lines.index(m[0], self.scope.first)

    # -- statements -------------------------------------------------------------------------------

    def store(self, n: int, m: re.Match[str]) -> Iterator[Mutant]:
        yield _made(
            "store_missing",
            self.place(n),
            [*self.lines[:n], *self.lines[n + 1 :]],
            f"without {self.lines[n].strip()}",
        )
        word = m[3]
        if word.startswith("atomic"):
            plain = f"{m[1]}{m[2]}: store {m[4]} = {m[5]}"
            yield self.with_line("atomic", n, plain)
        for kind, access in _accesses(m[4], self.scope, "store"):
            yield self.with_line(kind, n, f"{m[1]}{m[2]}: {word} {access} = {m[5]}")

    def definition(self, n: int, m: re.Match[str], inside: bool) -> Iterator[Mutant]:
        pad, name, dtype, axes, rhs = m[1], m[2], m[3], m[4] or "", m[5]
        op, _, rest = rhs.partition(" ")

        def line(kind: str, new: str) -> Mutant:
            return self.with_line(kind, n, f"{pad}{name}: {dtype}{axes} = {new}")

        if op == "load":
            for kind, access in _accesses(rest, self.scope, "load"):
                yield line(kind, f"load {access}")
        elif op == "full":
            for new in _numbers(rest, dtype):
                kind = "init" if self.starts_loop(n, name) else "constant"
                yield line(kind, f"full {new}")
        elif op == "index":
            for new in _compared(rest):
                yield line("mask" if dtype == "bool" else "index", f"index {new}")
            for new in _other_sizes(rest, self.scope.sizes):
                yield line("bound", f"index {new}")
            if dtype != "bool":
                yield line("offset", f"index {rest} + 1")
            else:
                yield line("mask_dropped", "index true")
        elif op in ("reduce", "scan", "argreduce"):
            word, _, tail = rest.partition(" ")
            for new in MONOIDS.get(word, ()):
                yield line("reduction", f"{op} {new} {tail}")
            if op == "scan":
                turned = rhs.removesuffix(" reverse")
                yield line("reduction", turned if turned != rhs else f"{rhs} reverse")
        elif op == "dot":
            if " as " not in rest:
                yield line("precision", f"{rhs} as tf32")
        elif op == "view":
            for new in _indices(rest.partition(" at ")[2]):
                yield line("offset", f"view {rest.partition(' at ')[0]} at {new}")
        elif op in ("cast", "round"):
            yield from self.dropped(n, name, rest.split())
        else:
            yield from self.elementwise(n, m, op, rest.split(), inside)
        yield from self.narrowed(n, m)

    def elementwise(
        self, n: int, m: re.Match[str], op: str, args: list[str], inside: bool
    ) -> Iterator[Mutant]:
        pad, name, dtype, axes = m[1], m[2], m[3], m[4] or ""

        def line(kind: str, new: str) -> Mutant:
            return self.with_line(kind, n, f"{pad}{name}: {dtype}{axes} = {new}")

        for new in SWAPS.get(op, ()):
            kind = "comparison" if op in ("lt", "le", "eq", "ne") else "operation"
            yield line(kind, f"{new} {' '.join(args)}")
        if op in ORDERED and len(args) == 2 and args[0] != args[1]:
            yield line("operands", f"{op} {args[1]} {args[0]}")
        if op == "select":
            yield line("operands", f"select {args[0]} {args[2]} {args[1]}")
        if op == "fma":
            yield line("term_dropped", f"mul {args[0]} {args[1]}")
        yield from self.dropped(n, name, args, "rescale" if op == "mul" and inside else "")

    def dropped(self, n: int, name: str, args: list[str], kind: str = "") -> Iterator[Mutant]:
        """The operand in place of the result."""
        mine = self.scope.types.get(name)
        for a in dict.fromkeys(args):
            if self.scope.types.get(a) == mine and mine is not None:
                what = f"{a} in place of {self.lines[n].strip()}"
                yield self.renamed(kind or "term_dropped", n, name, a, what, drop=True)

    def narrowed(self, n: int, m: re.Match[str]) -> Iterator[Mutant]:
        """The value through a narrower type and back."""
        pad, name, dtype, axes = m[1], m[2], m[3], m[4] or ""
        narrow = {"f32": ("f16", "bf16"), "f64": ("f32",), "i64": ("i32",)}.get(dtype, ())
        if m[5].partition(" ")[0] in ("full", "cast", "load", "index"):
            return
        for less in narrow:
            short, back = f"{name}_less", f"{name}_back"
            changed = self.renamed("precision", n, name, back, "", drop=False)
            lines = changed.text.splitlines()
            lines[n + 1 : n + 1] = [
                f"{pad}{short}: {less}{axes} = cast {name}",
                f"{pad}{back}: {dtype}{axes} = cast {short}",
            ]
            kind = "narrow" if dtype == "i64" else "precision"
            yield _made(kind, self.place(n), lines, f"{name} through {less}")

    def starts_loop(self, n: int, name: str) -> bool:
        rest = self.lines[n + 1 : self.scope.last + 1]
        return any(" carry " in x and re.search(rf"= {name}(?!\w)", x) for x in rest)


# -- parts of lines --------------------------------------------------------------------------------


def _accesses(text: str, scope: _Scope, way: str) -> Iterator[tuple[str, str]]:
    """(kind, access) of mutants of `BUFFER[INDEX, ...] if MASK else OTHER`."""
    buffer, _, rest = text.partition("[")
    close = _closing(rest)
    inner, tail = rest[:close], rest[close + 1 :]
    mask, other = "", ""
    if tail.startswith(" if "):
        parts = _split(tail[4:], " else ")
        mask, other = parts[0], parts[1] if len(parts) > 1 else ""

    def access(inner: str, mask: str, other: str) -> str:
        end = f" if {mask}" if mask else ""
        if other:
            end = f"{end or ' if true'} else {other}"
        return f"{buffer}[{inner}]{end}"

    for new in _indices(inner):
        yield "offset", access(new, mask, other)
    parts = _split(inner, ", ")
    for a in range(len(parts)):
        for b in range(a + 1, len(parts)):
            swapped = list(parts)
            swapped[a], swapped[b] = parts[b], parts[a]
            yield "index_order", access(", ".join(swapped), mask, other)
    for new in _other_names(inner, ("p0", "p1", "p2")):
        yield "index_order", access(new, mask, other)
    if mask:
        for new in _compared(mask):
            yield "mask", access(inner, new, other)
        for new in _other_sizes(mask, scope.sizes):
            yield "bound", access(inner, new, other)
        for new in re.findall(r"\S+ < (\w+)", mask)[:1]:
            less = re.sub(rf"< {new}(?!\w)", f"< {new} - 1", mask, count=1)
            yield "mask", access(inner, less, other)
        conjuncts = _split(mask, " and ")
        for k in range(len(conjuncts)):
            kept = " and ".join([*conjuncts[:k], *conjuncts[k + 1 :]])
            yield "mask_dropped", access(inner, kept, other if kept else "")
        if other:
            yield "fill", access(inner, mask, "")
            for new in _numbers(other, "f32" if re.search(r"[.einf]", other) else "i64"):
                yield "fill", access(inner, mask, new)
    elif way == "store" and parts:
        for size in scope.sizes:
            yield "mask", access(inner, f"{parts[-1]} < {size} - 1", "")


def _indices(inner: str) -> Iterator[str]:
    parts = _split(inner, ", ")
    for k, part in enumerate(parts):
        for new in (f"{part} + 1", f"{part} - 1"):
            yield ", ".join([*parts[:k], new, *parts[k + 1 :]])


def _compared(text: str) -> Iterator[str]:
    """Each comparison of an expression made weaker, stronger or another one."""
    for m in re.finditer(r" (<=|<|==|!=) ", text):
        for new in COMPARISONS[m[1]]:
            yield f"{text[: m.start()]} {new} {text[m.end() :]}"
    for m in re.finditer(r" (and|or) ", text):
        word = "or" if m[1] == "and" else "and"
        yield f"{text[: m.start()]} {word} {text[m.end() :]}"


def _other_sizes(text: str, sizes: tuple[str, ...]) -> Iterator[str]:
    yield from _other_names(text, sizes)


def _other_names(text: str, names: tuple[str, ...]) -> Iterator[str]:
    for m in re.finditer(r"(?<![\w.])\w+", text):
        if m[0] in names:
            for new in names:
                if new != m[0]:
                    yield text[: m.start()] + new + text[m.end() :]


def _numbers(text: str, dtype: str) -> tuple[str, ...]:
    """Other numbers for a constant: what starts another fold, and what is nearly right."""
    if dtype == "bool":
        return ("false" if text == "true" else "true",)
    if text in ("-inf", "inf", "nan"):
        return ("0.0", "inf" if text == "-inf" else "-inf")
    try:
        value = float(text)
    except ValueError:
        return ()
    if dtype.startswith("i") and re.fullmatch(r"-?\d+", text):
        return (str(int(text) + 1), str(int(text) - 1))
    if value == 0:
        return ("1.0", "-inf") if "." in text or "e" in text else ("1", "-inf")
    if value == 1:
        return ("0.0", "2.0")
    return (repr(-value), repr(value * 10), repr(value * 1.01), "0.0")


def _closing(text: str) -> int:
    depth = 1
    for n, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if depth == 0:
            return n
    return len(text)


def _split(text: str, separator: str) -> list[str]:
    out, depth, start, n = [], 0, 0, 0
    while n < len(text):
        depth += (text[n] in "([") - (text[n] in ")]")
        if depth == 0 and text.startswith(separator, n):
            out.append(text[start:n])
            n += len(separator)
            start = n
        else:
            n += 1
    return [*out, text[start:]] if text else []
