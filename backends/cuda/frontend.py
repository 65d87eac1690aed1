"""CUDA C++ as the typed syntax tree of `backends/cpp/clang`, and what it adds: shared memory,
indices of threads, vector types, addresses that are seen as other types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from opwright.backends.cpp.clang import BOOL, CType, Node, Reader, Unit
from opwright.backends.cuda.shared import per_block
from opwright.backends.cuda.stub import HEADERS, STUB

PLACES = ("threadIdx", "blockIdx", "blockDim", "gridDim")
VECTORS = {
    "char": CType("int", 8), "uchar": CType("uint", 8), "short": CType("int", 16),
    "ushort": CType("uint", 16), "int": CType("int", 32), "uint": CType("uint", 32),
    "longlong": CType("int", 64), "ulonglong": CType("uint", 64), "float": CType("real", 32),
    "double": CType("real", 64),
}  # fmt: skip
HALF, BFLOAT = CType("real", 16), CType("real", 16, name="bf16")
PAIRS = {"__half2": HALF, "__nv_bfloat162": BFLOAT}


def parse(source: str, file: str) -> Text:
    """The functions of a text; ImportRefusal with the line of what is outside of the subset."""
    reader = CudaReader(per_block(source), file, STUB)
    return Text(reader.unit(), dict(reader.outer))


@dataclass(frozen=True, slots=True)
class Text:
    """A read text; `outer` are arrays in shared memory that are declared outside of functions."""

    unit: Unit
    outer: Mapping[int, Node]


class CudaReader(Reader):
    """Reads one CUDA text."""

    def __init__(self, source: str, file: str, stub: str) -> None:
        self.outer: dict[int, Node] = {}
        super().__init__(source, file, stub)

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **HEADERS}

    def type(self, t: Any, at: Any) -> CType:
        kinds = self.ci.TypeKind
        c = t.get_canonical()
        name = c.spelling.removeprefix("const ").removeprefix("struct ").strip()
        if name in ("_Float16", "__fp16"):
            return HALF
        if name == "__bf16":
            return BFLOAT
        if c.kind == kinds.RECORD:
            if name in PAIRS:
                return CType("vector", of=PAIRS[name], count=2, name=name)
            word, count = name[:-1], name[-1:]
            if word in VECTORS and count.isdigit():
                return CType("vector", of=VECTORS[word], count=int(count), name=name)
            if name in ("opwright_place", "dim3"):
                return CType("other", name=name)
        if c.kind == kinds.INCOMPLETEARRAY:
            return CType("array", of=self.type(c.element_type, at), count=0)
        return super().type(t, at)

    def declaration(self, c: Any) -> Node:
        kinds, line = self.ci.CursorKind, self.line(c)
        if c.kind == kinds.VAR_DECL:
            if self.is_shared(c):
                kind = self.type(c.type, c)
                return Node("shared", kind, (), (self.ident(c), c.spelling, self.starts(c)), line)
            if c.type.get_canonical().kind == self.ci.TypeKind.RECORD:
                kind = self.type(c.type, c)
                inits = [x for x in c.get_children() if x.kind.is_expression()]
                args = () if not inits else (self.expression(inits[-1]),)
                if args and args[0].op == "empty":
                    args = ()
                return Node("declare", kind, args, (self.ident(c), c.spelling), line)
        return super().declaration(c)

    def expression(self, c: Any) -> Node:
        kinds, line = self.ci.CursorKind, self.line(c)
        children = list(c.get_children())
        if c.kind == kinds.MEMBER_REF_EXPR:
            if not children:
                raise self.refuse(f"the member {c.spelling}", line)
            kind = self.type(c.type, c)
            return Node("member", kind, (self.expression(children[0]),), c.spelling, line)
        if c.kind == kinds.CXX_REINTERPRET_CAST_EXPR:
            inner = self.expression([x for x in children if x.kind.is_expression()][-1])
            return Node("cast", self.type(c.type, c), (inner,), True, line)
        if c.kind == kinds.DECL_REF_EXPR and c.spelling in (*PLACES, "warpSize"):
            return Node("place", self.type(c.type, c), (), c.spelling, line)
        d = c.referenced if c.kind == kinds.DECL_REF_EXPR else None
        if d is not None and d.kind == kinds.VAR_DECL and self.is_shared(d):
            number = self.ident(d)
            kind = self.type(d.type, d)
            if d.semantic_parent.kind == kinds.TRANSLATION_UNIT:
                where = (number, d.spelling, self.starts(d))
                self.outer[number] = Node("shared", kind, (), where, self.line(d))
            return Node("name", kind, (), (number, d.spelling), line)
        if c.kind == kinds.CALL_EXPR and (found := self.special(c, children, line)):
            return found
        if c.kind == kinds.CXX_FUNCTIONAL_CAST_EXPR and children:
            kind = self.type(c.type, c)
            inner = self.expression([x for x in children if x.kind.is_expression()][-1])
            return inner if inner.type == kind else Node("cast", kind, (inner,), True, line)
        return super().expression(c)

    def is_shared(self, declared: Any) -> bool:
        """Whether a variable is in the memory of a block."""
        kind = self.ci.CursorKind.ANNOTATE_ATTR
        return any(x.kind == kind and x.spelling == "shared" for x in declared.get_children())

    def starts(self, declared: Any) -> int:
        """Bytes to which a variable is aligned by its declaration; 0 where it does not say."""
        kind = self.ci.CursorKind.ANNOTATE_ATTR
        said = [x.spelling.removeprefix("aligned ") for x in declared.get_children()
                if x.kind == kind and x.spelling.startswith("aligned ")]  # fmt: skip
        return max((int(n) for n in said if n.isdigit()), default=0)

    def special(self, c: Any, children: list[Any], line: int) -> Node | None:
        """Constructors and assignments of vector types."""
        kinds, d = self.ci.CursorKind, c.referenced
        kind = self.type(c.type, c)
        if (d is not None and d.kind == kinds.CONSTRUCTOR) or (d is None and kind.kind == "vector"):
            inner = [x for x in children if x.kind.is_expression()]
            if not inner:
                return Node("empty", kind, (), None, line)
            if len(inner) == 1:
                return self.expression(inner[0])
            return Node("init", kind, tuple(map(self.expression, inner)), None, line)
        if c.spelling == "operator=" and d is not None and d.kind == kinds.CXX_METHOD:
            sides = [x for x in children if x.kind.is_expression() and x.spelling != "operator="]
            if len(sides) == 2:
                both = tuple(map(self.expression, sides))
                return Node("assign", both[0].type, both, "", line)
        return None

    def constant(self, c: Any, line: int) -> Node | None:
        found = super().constant(c, line)
        if found is not None and found.type.kind == "bool" and found.type != BOOL:
            return replace(found, type=BOOL)
        return found
