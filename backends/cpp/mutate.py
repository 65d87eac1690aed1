"""Faults seeded into C++ text, at the places that libclang finds.

Bodies of functions are changed, those of `extern "C"` functions alone where a text has any. The
result parses as C++ more often than not; a mutant that does not build is no mutant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opwright.backends.cpp.clang import FOLDER, _clang
from opwright.backends.cpp.clang_headers import HEADERS
from opwright.ir.launch import ImportRefusal
from opwright.ir.mutant import Mutant, different

COMPARISONS = {"<": ("<=",), "<=": ("<",), ">": (">=",), ">=": (">",), "==": ("!=",), "!=": ("==",)}
ARITHMETIC = {"+": ("-",), "-": ("+",), "*": ("+",), "/": ("*",), "%": ("/",), "&": ("|",),
              "|": ("&",), "&&": ("||",), "||": ("&&",), "<<": (">>",), ">>": ("<<",)}  # fmt: skip
CALLS = {
    "max": ("min",), "min": ("max",), "fmaxf": ("fminf",), "fminf": ("fmaxf",), "fmax": ("fmin",),
    "fmin": ("fmax",), "expf": ("exp2f",), "exp": ("exp2",), "exp2f": ("expf",), "logf": ("log2f",),
    "log": ("log2",), "log1pf": ("logf",), "sqrtf": ("fabsf",), "sqrt": ("fabs",),
    "fabsf": ("-",), "tanhf": ("erff",), "erff": ("tanhf",), "sinf": ("cosf",), "cosf": ("sinf",),
    "floorf": ("ceilf",), "ceilf": ("floorf",), "v_max": ("v_min",), "v_highest": ("v_sum",),
}  # fmt: skip
OUTSIDE = ("expf", "exp", "logf", "log", "sqrtf", "sqrt", "rsqrtf", "rsqrt", "tanhf", "erff")
TYPES = {"int64_t": "int32_t", "i64": "i32", "long long": "int", "long": "int", "size_t": "int",
         "double": "float"}  # fmt: skip
INTEGERS = ("int", "long", "long long", "unsigned int", "unsigned long", "unsigned long long")


def cpp_mutants(source: str, file: str = "kernel.cpp") -> list[Mutant]:
    """Mutants of a text in its order. ImportRefusal where it does not parse."""
    from opwright.backends.cpp.importer_prelude import trusted
    from opwright.backends.cpp.reading import mutants

    # the printer's vocabulary is taken for granted, and declarations stand in for it
    kept, stub = trusted(source) or (source, "")
    return mutants("cpp", source, file, kept, stub)


def found(source: str, file: str, kept: str, stub: str) -> list[Mutant]:
    """The same, in the process that reads: `kept` is what is read, `stub` declared before it."""
    return different(Faults(source, file, kept, stub).mutants(), source)


class Faults:
    """Faults of one text; other dialects of C++ override what is theirs."""

    leave = "if (pid0 > 0) return;"  # all but the first program

    def __init__(self, source: str, file: str, kept: str, stub: str) -> None:
        self.ci = _clang()
        self.raw, self.file = source.encode(), file
        first = '#include "before.h"\n' if stub else "\n"
        self.shift = len(self.raw) - len(kept.encode()) - len(first)
        main = f"{FOLDER}/main.cpp"
        texts = [(f"{FOLDER}/{n}", t) for n, t in (*self.headers().items(), ("before.h", stub))]
        texts.append((main, first + kept))
        args = ["-nostdinc", f"-I{FOLDER}", "-std=c++17", "-x", "c++", "-w", "-march=x86-64-v4"]
        args += ["--target=x86_64-unknown-linux-gnu"]
        self.tu = self.ci.Index.create().parse(main, args=args, unsaved_files=texts)
        self.main = main
        for d in self.tu.diagnostics:
            if d.severity >= self.ci.Diagnostic.Error:
                raise ImportRefusal(f"does not parse: {d.spelling}", file, d.location.line - 1)

    def headers(self) -> dict[str, str]:
        """What a text may include."""
        return dict(HEADERS)

    def begins(self, body: Any, where: str) -> Iterator[Mutant]:
        """Faults of a whole body."""
        begin = self.span(body)[0] + 1
        changed = self.raw[:begin] + f" {self.leave}".encode() + self.raw[begin:]
        place = f"{self.file}:{body.location.line - 1}, {where}"
        yield Mutant("early_return", place, changed.decode(), f"{self.leave} at the start")

    def mutants(self) -> Iterator[Mutant]:
        outer = list(self.functions(self.tu.cursor, False))
        chosen = [f for f, shown in outer if shown] or [f for f, _ in outer]
        for f in chosen:
            integers = [
                p.spelling
                for p in f.get_arguments()
                if p.type.get_canonical().spelling in ("long", "long long")
                and not p.spelling.startswith("pid")
            ]
            for child in f.get_children():
                if child.kind == self.ci.CursorKind.COMPOUND_STMT:
                    yield from self.begins(child, f.spelling)
                    yield from self.walk(child, f.spelling, integers)

    def functions(self, cursor: Any, shown: bool) -> Iterator[tuple[Any, bool]]:
        kinds = self.ci.CursorKind
        for c in cursor.get_children():
            if c.location.file is None or c.location.file.name != self.main:
                if c.kind not in (kinds.LINKAGE_SPEC, kinds.UNEXPOSED_DECL):
                    continue
            if c.kind in (kinds.LINKAGE_SPEC, kinds.UNEXPOSED_DECL, kinds.NAMESPACE):
                yield from self.functions(c, c.kind != kinds.NAMESPACE)
            elif c.kind == kinds.FUNCTION_DECL and c.is_definition():
                yield c, shown

    # -- text -------------------------------------------------------------------------------------

    def text(self, c: Any) -> str:
        begin, end = self.span(c)
        return self.raw[begin:end].decode()

    def span(self, c: Any) -> tuple[int, int]:
        return c.extent.start.offset + self.shift, c.extent.end.offset + self.shift

    def made(self, kind: str, where: str, c: Any, new: str) -> Mutant:
        begin, end = self.span(c)
        changed = (self.raw[:begin] + new.encode() + self.raw[end:]).decode()
        old = " ".join(self.raw[begin:end].decode().split())
        place = f"{self.file}:{c.location.line - 1}, {where}"
        return Mutant(kind, place, changed, f"{old} -> {' '.join(new.split())}")

    # -- syntax -----------------------------------------------------------------------------------

    def walk(self, c: Any, where: str, integers: list[str]) -> Iterator[Mutant]:
        kinds = self.ci.CursorKind
        children = list(c.get_children())
        if c.kind == kinds.BINARY_OPERATOR and len(children) == 2:
            yield from self.binary(c, children, where, integers)
        elif c.kind == kinds.COMPOUND_ASSIGNMENT_OPERATOR and len(children) == 2:
            left, right = map(self.text, children)
            word = self.between_text(children).strip()
            yield self.made("accumulator", where, c, f"{left} = {right}")
            yield self.made("store_missing", where, c, f"(void)({right})")
            for new in ARITHMETIC.get(word.removesuffix("="), ()):
                yield self.made("operation", where, c, f"{left} {new}= {right}")
        elif c.kind == kinds.INTEGER_LITERAL:
            text = self.text(c)
            if text.isdigit():
                yield self.made("constant", where, c, str(int(text) + 1))
                if int(text):
                    yield self.made("constant", where, c, str(int(text) - 1))
        elif c.kind == kinds.FLOATING_LITERAL:
            yield from self.number(c, where)
        elif c.kind == kinds.ARRAY_SUBSCRIPT_EXPR and len(children) == 2:
            base, index = map(self.text, children)
            for more in ("+ 1", "- 1"):
                yield self.made("offset", where, c, f"{base}[{index} {more}]")
        elif c.kind == kinds.CALL_EXPR:
            yield from self.call(c, children, where)
        elif c.kind == kinds.CONDITIONAL_OPERATOR and len(children) == 3:
            test, a, b = map(self.text, children)
            yield self.made("operands", where, c, f"({test} ? {b} : {a})")
            yield self.made("mask_dropped", where, c, f"({a})")
        elif c.kind == kinds.IF_STMT and children:
            test = self.text(children[0])
            yield self.made("branch", where, children[0], f"!({test})")
            yield self.made("mask_dropped", where, children[0], "true")
        elif c.kind == kinds.FOR_STMT:
            yield from self.loop(c, children, where)
        elif c.kind == kinds.VAR_DECL:
            yield from self.declaration(c, children, where)
        elif c.kind == kinds.CSTYLE_CAST_EXPR and children:
            text = self.text(c)
            for wide in ("(int64_t)", "(long long)", "(size_t)", "(long)", "(i64)"):
                if text.startswith(wide):
                    yield self.made("narrow", where, c, f"(int)({text.removeprefix(wide)})")
        elif c.kind == kinds.UNARY_OPERATOR and self.text(c).startswith("-") and children:
            yield self.made("operation", where, c, f"({self.text(children[0])})")
        for child in children:
            yield from self.walk(child, where, integers)

    def number(self, c: Any, where: str) -> Iterator[Mutant]:
        text = self.text(c)
        end = "f" if text.endswith("f") else ""
        try:
            zero = float(text.rstrip("fF")) == 0
        except ValueError:
            return  # a hexadecimal one
        news = [f"1.0{end}"] if zero else [f"({text} * 10)", f"({text} * 1.01{end})", f"0.0{end}"]
        for new in news:
            yield self.made("constant", where, c, new)

    def between_text(self, children: list[Any]) -> str:
        begin, end = self.span(children[0])[1], self.span(children[1])[0]
        return self.raw[begin:end].decode()

    def binary(
        self, c: Any, children: list[Any], where: str, integers: list[str]
    ) -> Iterator[Mutant]:
        left, right = map(self.text, children)
        word = self.between_text(children).strip()
        if word == "=":
            yield self.made("store_missing", where, c, f"(void)({right})")
        for new in COMPARISONS.get(word, ()):
            yield self.made("comparison", where, c, f"{left} {new} {right}")
        if word == "<":
            yield self.made("comparison", where, c, f"{left} < {right} - 1")
            for other in integers:
                if other != right and right in integers:
                    yield self.made("bound", where, c, f"{left} < {other}")
        for new in ARITHMETIC.get(word, ()):
            yield self.made("operation", where, c, f"({left} {new} {right})")
        whole = children[0].type.get_canonical().spelling in INTEGERS
        if word == "/" and whole:  # the same where division is floored
            yield self.made("division", where, c, f"((({left}) - ({right})) / ({right}) + 1)")
        if word == "%":
            yield self.made("division", where, c, f"((({left}) - ({right})) % ({right}))")
        if word in ("-", "/"):
            yield self.made("operands", where, c, f"({right} {word} {left})")
        if word in ("+", "-", "*", "/"):
            kind = "rescale" if word == "*" else "term_dropped"
            yield self.made(kind, where, c, f"({left})")
            if word in "+*":
                yield self.made(kind, where, c, f"({right})")
        if word == "*" and right in integers:  # the stride of an index
            for other in integers:
                if other != right:
                    yield self.made("stride", where, c, f"{left} * {other}")
        if word in ("&&", "&"):
            for kept in (left, right):
                yield self.made("mask_dropped", where, c, f"({kept})")

    def call(self, c: Any, children: list[Any], where: str) -> Iterator[Mutant]:
        text = self.text(c)
        name = c.spelling
        head, _, tail = text.partition("(")
        for new in CALLS.get(name, ()):
            yield self.made("operation", where, c, f"{head.replace(name, new)}({tail}")
        arguments = list(c.get_arguments())
        same = arguments and arguments[0].type.spelling == c.type.spelling
        inner = arguments[0] if len(arguments) == 1 and name in OUTSIDE else None
        while inner is not None and inner.kind in self.wrappers():
            inner = next(iter(inner.get_children()), None)
        if inner is not None and inner.kind == self.ci.CursorKind.BINARY_OPERATOR:
            parts = list(inner.get_children())
            word = self.between_text(parts).strip()
            if len(parts) == 2 and word in ("+", "-", "*"):
                a, b = map(self.text, parts)
                yield self.made("epilogue", where, c, f"({head}({a}) {word} {b})")
        if len(arguments) == 1 and same:
            yield self.made("term_dropped", where, c, f"({self.text(arguments[0])})")
        elif len(arguments) == 2 and name in CALLS:
            for a in arguments:
                yield self.made("term_dropped", where, c, f"({self.text(a)})")

    def wrappers(self) -> tuple[Any, ...]:
        return (self.ci.CursorKind.UNEXPOSED_EXPR, self.ci.CursorKind.PAREN_EXPR)

    def loop(self, c: Any, children: list[Any], where: str) -> Iterator[Mutant]:
        kinds = self.ci.CursorKind
        first = children[0]
        if first.kind == kinds.DECL_STMT and (declared := list(first.get_children())):
            start = list(declared[0].get_children())
            if start:
                at = start[-1]
                yield self.made("loop", where, at, f"({self.text(at)}) + 1")
        for child in children[1:-1]:
            text = self.text(child)
            if text.endswith("++") or text.startswith("++"):
                yield self.made("loop", where, child, f"{text.strip('+')} += 2")
            elif child.kind == kinds.COMPOUND_ASSIGNMENT_OPERATOR:
                yield self.made("loop", where, child, f"{text} + 1")

    def declaration(self, c: Any, children: list[Any], where: str) -> Iterator[Mutant]:
        text = self.text(c)
        for wide, narrow in TYPES.items():
            if text.startswith(wide + " ") or text.startswith(f"const {wide} "):
                kind = "precision" if wide == "double" else "narrow"
                yield self.made(kind, where, c, text.replace(wide, narrow, 1))
        value = children[-1] if children and "=" in text else None
        if value is not None and c.type.spelling in ("float", "double"):
            inner = self.text(value)
            yield self.made("precision", where, value, f"(float)(__bf16)({inner})")
