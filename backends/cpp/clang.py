"""libclang: C++ text as a small typed syntax tree of our own; everything outside of it is refused
with its line.

libclang is imported here and nowhere else, when a text is read. No header of the machine is
used: what kernels may include is declared in `clang_headers.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from opwright.backends.cpp import clang_headers
from opwright.backends.cpp.clang_pragmas import parallel_loops
from opwright.ir.launch import ImportRefusal

CURE = "reading C++ back needs libclang: pip install 'opwright[cuda]' (libclang 18.1.1)"
FOLDER = "/opwright-headers"
STACK = 1 << 20  # bytes of an array that a thread has room for
BINARY = (
    " .* ->* * / % + - << >> <=> < > <= >= == != & ^ | && || = *= /= %= += -= <<= >>= &= ^= |= ,"
)
UNARY = ("", "p++", "p--", "++", "--", "&", "*", "+", "-", "~", "!")


@dataclass(frozen=True, slots=True)
class CType:
    """A C++ type. kind: int | uint | bool | real | void | vector | pointer | array | other.

    `bits` of a number; `of` the element of a vector, pointer or array and `count` how many. Of a
    pointer to vectors `bits` is their alignment in bytes where it is not that of the type.
    """

    kind: str
    bits: int = 0
    of: CType | None = None
    count: int = 0
    name: str = ""

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def scalar(self) -> CType:
        """The element of a vector, else the type itself."""
        return self.of if self.kind == "vector" and self.of is not None else self

    def __str__(self) -> str:
        if self.kind in ("vector", "array"):
            return f"{self.of}[{self.count}]"
        if self.kind == "pointer":
            return f"{self.of} *"
        letter = {"int": "i", "uint": "u", "real": "f"}.get(self.kind)
        return f"{letter}{self.bits}" if letter else self.name or self.kind


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A piece of syntax; `attr` depends on `op`.

    Expressions: int, real (the number) | name ((declaration, spelling)) | unary, binary, assign
    (the operator; an assignment's is "" or that of `+=`) | cond | call ((name, declaration,
    integers of its template, which arguments it may change)) | invoke (a lambda; which arguments
    it may change) | index | cast (whether it is written; "convert" for the values of a vector) |
    bits (the same bytes as another type) | shuffle (which elements of two vectors, -1 for any) |
    init | paren | lambda ((parameters, body)).
    Statements: block | declare ((declaration, name)) | expr | if | for (a Parallel or None; init,
    condition, step, body, each maybe None) | while | do | return | continue | break | asm
    (its text) | empty.
    """

    op: str
    type: CType
    args: tuple[Any, ...] = ()
    attr: Any = None
    line: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function with a body; parameters are (declaration, name, type)."""

    name: str
    parameters: tuple[tuple[int, str, CType], ...]
    result: CType
    body: Node
    line: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A read text: functions by declaration."""

    functions: Mapping[int, Function]

    def kernel(self, name: str) -> Function | None:
        found = [f for f in self.functions.values() if f.name == name]
        return found[-1] if found else None


VOID, BOOL = CType("void"), CType("bool", 8)


@cache
def _clang() -> Any:
    """The binding, with the prototypes that it lacks; ImportRefusal with the cure."""
    try:
        from clang import cindex
    except ImportError:
        raise ImportRefusal(CURE) from None
    try:
        library = cindex.conf.lib
    except cindex.LibclangError:
        raise ImportRefusal(CURE) from None
    # exported since LLVM 17; the binding of the 18.1.1 wheel does not name them
    for name in ("clang_getCursorBinaryOperatorKind", "clang_getCursorUnaryOperatorKind"):
        function = getattr(library, name)
        function.argtypes, function.restype = [cindex.Cursor], ctypes.c_int
    for number in (32, 39):  # types that the binding does not name: _Float16, __bf16
        try:
            cindex.TypeKind.from_id(number)
        except ValueError:
            cindex.TypeKind(number)
    library.clang_Cursor_Evaluate.argtypes = [cindex.Cursor]
    library.clang_Cursor_Evaluate.restype = ctypes.c_void_p
    for name, kind in (
        ("getKind", ctypes.c_int),
        ("getAsLongLong", ctypes.c_longlong),
        ("getAsDouble", ctypes.c_double),
        ("dispose", None),
    ):
        function = getattr(library, f"clang_EvalResult_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], kind
    return cindex


def parse(source: str, file: str, stub: str = "") -> Unit:
    """The functions of a text; `stub` is declared before its first line. ImportRefusal with the
    line of what does not parse or is outside of the subset."""
    return Reader(source, file, stub).unit()


class Reader:
    """One text; other dialects of C++ override what is theirs."""

    def __init__(self, source: str, file: str, stub: str) -> None:
        self.ci = _clang()
        self.library = self.ci.conf.lib
        self.source, self.file = source, file
        self.parallel = parallel_loops(source, self.refuse)
        self.dealt: dict[int, int] = {}
        main = f"{FOLDER}/main.cpp"
        headers = self.headers()
        first = '#include "before.h"\n' if stub else "\n"
        texts = [(f"{FOLDER}/{n}", t) for n, t in (*headers.items(), ("before.h", stub))]
        texts.append((main, first + source))
        # no header of the machine; wide registers so that assembly constraints are accepted
        args = ["-nostdinc", f"-I{FOLDER}", "-std=c++17", "-x", "c++", "-w", "-march=x86-64-v4"]
        args += ["--target=x86_64-unknown-linux-gnu"]
        self.tu = self.ci.Index.create().parse(main, args=args, unsaved_files=texts)
        self.main = main
        for d in self.tu.diagnostics:
            if d.severity >= self.ci.Diagnostic.Error:
                raise self.refuse(f"does not parse: {d.spelling}", d.location.line - 1)
        self.functions: dict[int, Function] = {}
        self.idents: dict[int, list[Any]] = {}
        self.count = 0
        self.pending: list[Any] = []

    def headers(self) -> dict[str, str]:
        """What a text may include."""
        return dict(clang_headers.HEADERS)

    def refuse(self, what: str, at: Any = 0) -> ImportRefusal:
        line = at if isinstance(at, int) else self.line(at)
        return ImportRefusal(what, self.file, max(line, 0))

    def line(self, cursor: Any) -> int:
        return int(cursor.location.line) - 1

    # -- declarations
    def ident(self, cursor: Any) -> int:
        """A number for a declaration; hashes of two may be equal."""
        row = self.idents.setdefault(cursor.hash, [])
        for known, number in row:
            if known == cursor:
                return int(number)
        self.count += 1
        row.append((cursor, self.count))
        return self.count

    def unit(self) -> Unit:
        self.find(self.tu.cursor)
        while self.pending:  # functions that are called: templates at their arguments too
            cursor = self.pending.pop()
            if self.ident(cursor) not in self.functions:
                self.function(cursor)
        return Unit(self.functions)

    def find(self, cursor: Any) -> None:
        kinds = self.ci.CursorKind
        for c in cursor.get_children():
            here = c.location.file is not None and c.location.file.name == self.main
            if c.kind in (kinds.LINKAGE_SPEC, kinds.UNEXPOSED_DECL, kinds.NAMESPACE) and here:
                self.find(c)
            elif c.kind == kinds.FUNCTION_DECL and c.is_definition() and here:
                self.function(c)

    def function(self, c: Any) -> None:
        kinds = self.ci.CursorKind
        parameters = []
        body = None
        for p in c.get_children():
            if p.kind == kinds.PARM_DECL:
                parameters.append((self.ident(p), p.spelling, self.type(p.type, p)))
            elif p.kind == kinds.COMPOUND_STMT:
                body = p
        if body is None:
            return
        self.functions[self.ident(c)] = Function(
            c.spelling,
            tuple(parameters),
            self.type(c.result_type, c),
            self.statement(body),
            self.line(c),
        )

    def type(self, t: Any, at: Any) -> CType:
        kinds = self.ci.TypeKind
        c = t.get_canonical()
        signed = {
            kinds.CHAR_S: 8, kinds.SCHAR: 8, kinds.SHORT: 16, kinds.INT: 32, kinds.LONG: 64,
            kinds.LONGLONG: 64,
        }  # fmt: skip
        unsigned = {
            kinds.CHAR_U: 8, kinds.UCHAR: 8, kinds.USHORT: 16, kinds.UINT: 32, kinds.ULONG: 64,
            kinds.ULONGLONG: 64,
        }  # fmt: skip
        if c.kind in signed:
            return CType("int", signed[c.kind])
        if c.kind in unsigned:
            return CType("uint", unsigned[c.kind])
        if c.kind == kinds.BOOL:
            return BOOL
        if c.kind in (kinds.FLOAT, kinds.DOUBLE):
            return CType("real", 32 if c.kind == kinds.FLOAT else 64)
        if c.kind == kinds.VOID:
            return VOID
        if c.kind == kinds.POINTER:
            return CType("pointer", self.alignment(t), self.type(c.get_pointee(), at))
        if c.kind in (kinds.LVALUEREFERENCE, kinds.RVALUEREFERENCE):
            return CType("reference", of=self.type(c.get_pointee(), at))
        if c.kind == kinds.CONSTANTARRAY:
            return CType("array", of=self.type(c.element_type, at), count=c.element_count)
        if c.kind == kinds.VECTOR:
            return CType("vector", of=self.type(c.element_type, at), count=c.element_count)
        if c.kind == kinds.ENUM:
            return self.type(c.get_declaration().enum_type, at)
        return CType("other", name=t.spelling)

    def alignment(self, t: Any) -> int:
        """What a type of pointers says of the alignment of its vectors; 0 for nothing special."""
        kinds = self.ci.TypeKind
        of = t.get_pointee() if t.kind == kinds.POINTER else t.get_canonical().get_pointee()
        if of.get_canonical().kind != kinds.VECTOR:
            return 0
        own = int(of.get_align())
        return own if 0 < own < of.get_canonical().get_size() else 0

    # -- statements
    def statement(self, c: Any) -> Node:
        kinds, line = self.ci.CursorKind, self.line(c)
        k, children = c.kind, list(c.get_children())

        def node(op: str, *args: Any, attr: Any = None) -> Node:
            return Node(op, VOID, args, attr, line)

        if k == kinds.COMPOUND_STMT:
            return node("block", *(self.statement(x) for x in children))
        if k == kinds.NULL_STMT:
            return node("empty")
        if k == kinds.DECL_STMT:
            found = [self.declaration(x) for x in children]
            return found[0] if len(found) == 1 else node("group", *found)
        if k == kinds.IF_STMT:
            if not 2 <= len(children) <= 3 or not children[0].kind.is_expression():
                raise self.refuse("a declaration in the condition of an if", line)
            return node("if", self.expression(children[0]), *map(self.statement, children[1:]))
        if k == kinds.FOR_STMT:
            return self.loop(c, children, line)
        if k == kinds.WHILE_STMT:
            if len(children) != 2:
                raise self.refuse("a declaration in the condition of a while", line)
            return node("while", self.expression(children[0]), self.statement(children[1]))
        if k == kinds.DO_STMT:
            return node("do", self.statement(children[0]), self.expression(children[1]))
        if k == kinds.RETURN_STMT:
            return node("return", *(self.expression(x) for x in children))
        if k == kinds.CONTINUE_STMT:
            return node("continue")
        if k == kinds.BREAK_STMT:
            return node("break")
        if k == kinds.UNEXPOSED_STMT and children:  # a statement with attributes, a loop hint
            return self.statement(children[-1])
        if k in (kinds.ASM_STMT, kinds.MS_ASM_STMT):
            text = "".join(t.spelling for t in c.get_tokens())
            return node("asm", *(self.expression(x) for x in children), attr=text)
        if k.is_expression():
            return node("expr", self.expression(c))
        names = {
            kinds.GOTO_STMT: "goto", kinds.LABEL_STMT: "a label", kinds.SWITCH_STMT: "switch",
            kinds.CXX_TRY_STMT: "try", kinds.CXX_FOR_RANGE_STMT: "a range for",
        }  # fmt: skip
        raise self.refuse(f"{names.get(k, k.name.lower())} is not understood", line)

    def declaration(self, c: Any) -> Node:
        kinds, line = self.ci.CursorKind, self.line(c)
        if c.kind in (kinds.STATIC_ASSERT, kinds.TYPEDEF_DECL, kinds.TYPE_ALIAS_DECL):
            return Node("empty", VOID, (), None, line)
        if c.kind == kinds.ENUM_DECL:
            return Node("empty", VOID, (), None, line)
        if c.kind != kinds.VAR_DECL:
            raise self.refuse(f"the declaration of {c.spelling or c.kind.name.lower()}", line)
        if c.storage_class == self.ci.StorageClass.STATIC and not c.type.is_const_qualified():
            raise self.refuse(f"{c.spelling}: a static variable lives across programs", line)
        kind = self.type(c.type, c)
        if kind.kind == "array" and c.type.get_size() > STACK:
            raise self.refuse(f"{c.spelling} has {c.type.get_size()} bytes on the stack", line)
        inits = [x for x in c.get_children() if x.kind.is_expression()]
        if kind.kind == "array":  # extents are children too
            inits = [x for x in inits if x.kind == kinds.INIT_LIST_EXPR]
        args = (self.expression(inits[-1]),) if inits else ()
        return Node("declare", kind, args, (self.ident(c), c.spelling), line)

    def loop(self, c: Any, children: list[Any], line: int) -> Node:
        """A `for`; libclang leaves absent parts out, so they are told apart by the semicolons."""
        begin = c.extent.start.offset
        dealt = None  # of loops on one line the pragma is about the first one
        if line in self.parallel and self.dealt.setdefault(line, begin) == begin:
            dealt = self.parallel[line]
        body = self.statement(children[-1])
        parts: list[Any] = [None, None, None]
        if len(children) == 4:
            parts = list(children[:3])
        else:
            depth, cuts = 0, []
            for t in c.get_tokens():
                depth += (t.spelling == "(") - (t.spelling == ")")
                if t.spelling == ";" and depth == 1:
                    cuts.append(t.extent.start.offset)
                if depth == 0 and t.spelling == ")":
                    break
            for x in children[:-1]:
                at = x.extent.start.offset
                parts[0 if at < cuts[0] else 1 if at < cuts[1] else 2] = x
        init = None if parts[0] is None else self.statement(parts[0])
        cond = None if parts[1] is None else self.expression(parts[1])
        step = None if parts[2] is None else self.statement(parts[2])
        return Node("for", VOID, (init, cond, step, body), dealt, line)

    # -- expressions
    def evaluate(self, c: Any) -> int | float | None:
        """A value known at compile time: literals in macros, constexpr, enumerators."""
        found = self.library.clang_Cursor_Evaluate(c)
        if not found:
            return None
        try:
            kind = self.library.clang_EvalResult_getKind(found)
            if kind == 1:
                return int(self.library.clang_EvalResult_getAsLongLong(found))
            return float(self.library.clang_EvalResult_getAsDouble(found)) if kind == 2 else None
        finally:
            self.library.clang_EvalResult_dispose(found)

    def constant(self, c: Any, line: int) -> Node | None:
        kind = self.type(c.type, c)
        if kind.kind not in ("int", "uint", "bool", "real"):
            return None
        value = self.evaluate(c)
        if value is None:
            return None
        if kind.kind == "real":
            return Node("real", kind, (), float(value), line)
        value = int(value)
        if kind.kind == "uint":
            value %= 1 << kind.bits
        return Node("int", kind, (), bool(value) if kind.kind == "bool" else value, line)

    def expression(self, c: Any) -> Node:
        kinds, line = self.ci.CursorKind, self.line(c)
        k, children = c.kind, list(c.get_children())
        kind = self.type(c.type, c)
        literals = (
            kinds.INTEGER_LITERAL, kinds.CHARACTER_LITERAL, kinds.CXX_BOOL_LITERAL_EXPR,
            kinds.FLOATING_LITERAL, kinds.UNARY_OPERATOR,
        )  # fmt: skip
        if k in literals and (k != kinds.UNARY_OPERATOR or self.is_literal(c)):
            found = self.constant(c, line)
            if found is not None:
                return found
        if k == kinds.PAREN_EXPR:
            inner = self.expression(children[0])
            return Node("paren", inner.type, (inner,), None, line)
        if k == kinds.DECL_REF_EXPR:
            return self.name(c, kind, line)
        if k == kinds.ARRAY_SUBSCRIPT_EXPR:
            return Node("index", kind, tuple(map(self.expression, children)), None, line)
        if k == kinds.UNARY_OPERATOR:
            op = UNARY[self.library.clang_getCursorUnaryOperatorKind(c)]
            return Node("unary", kind, (self.expression(children[0]),), op, line)
        if k in (kinds.BINARY_OPERATOR, kinds.COMPOUND_ASSIGNMENT_OPERATOR):
            op = BINARY.split(" ")[self.library.clang_getCursorBinaryOperatorKind(c)]
            args = tuple(map(self.expression, children))
            if op.endswith("=") and op not in ("==", "!=", "<=", ">="):
                return Node("assign", kind, args, op[:-1], line)
            return Node("binary", kind, args, op, line)
        if k == kinds.CONDITIONAL_OPERATOR:
            return Node("cond", kind, tuple(map(self.expression, children)), None, line)
        if k == kinds.CALL_EXPR:
            return self.call(c, children, kind, line)
        if k == kinds.LAMBDA_EXPR:
            params = [x for x in children if x.kind == kinds.PARM_DECL]
            body = next((x for x in children if x.kind == kinds.COMPOUND_STMT), None)
            if body is None:
                raise self.refuse("a lambda without a body", line)
            declared = tuple((self.ident(p), p.spelling, self.type(p.type, p)) for p in params)
            return Node("lambda", kind, (), (declared, self.statement(body)), line)
        if k == kinds.COMPOUND_LITERAL_EXPR:
            return self.expression(children[-1])
        if k == kinds.BUILTIN_BIT_CAST_EXPR:
            return Node("bits", self.bit_type(c, children), (self.expression(children[-1]),), None,
                        line)  # fmt: skip
        if k == kinds.UNEXPOSED_EXPR and kind.kind == "vector":
            word = next((t.spelling for t in c.get_tokens()), "")
            if word == "__builtin_convertvector":
                return Node("cast", kind, (self.expression(children[0]),), "convert", line)
            if word == "__builtin_shufflevector":
                return self.shuffle(children, kind, line)
        if k == kinds.INIT_LIST_EXPR:
            return Node("init", kind, tuple(map(self.expression, children)), None, line)
        casts = (
            kinds.UNEXPOSED_EXPR, kinds.CSTYLE_CAST_EXPR, kinds.CXX_STATIC_CAST_EXPR,
            kinds.CXX_FUNCTIONAL_CAST_EXPR, kinds.CXX_CONST_CAST_EXPR,
            kinds.CXX_REINTERPRET_CAST_EXPR,
        )  # fmt: skip
        if k in casts:
            values = (kinds.BUILTIN_BIT_CAST_EXPR,)  # of which the binding says it is no value
            inner_cursors = [x for x in children if x.kind.is_expression() or x.kind in values]
            if inner_cursors:
                inner = self.expression(inner_cursors[-1])
                explicit = k != kinds.UNEXPOSED_EXPR
                vectors = inner.type.kind == kind.kind == "vector"
                pointers = inner.type.kind == kind.kind == "pointer"
                if k == kinds.CXX_REINTERPRET_CAST_EXPR and not (vectors or pointers):
                    raise self.refuse("reinterpret_cast", line)
                if inner.type == kind and not explicit:
                    return inner
                return Node("cast", kind, (inner,), explicit, line)
        found = self.constant(c, line)
        if found is not None:
            return found
        raise self.refuse(f"the expression {k.name.lower()} is not understood", line)

    def bit_type(self, c: Any, children: list[Any]) -> CType:
        """The type that a bit cast names; of a plain type only its words are known."""
        if children[0].kind == self.ci.CursorKind.TYPE_REF:
            found = self.type(children[0].type, c)
            if found.kind in ("int", "uint", "real", "vector"):
                return found
        words = []
        for t in list(c.get_tokens())[2:]:
            if t.spelling == ",":
                break
            words.append(t.spelling)
        plain = {
            "float": CType("real", 32), "double": CType("real", 64), "int": CType("int", 32),
            "unsigned": CType("uint", 32), "unsigned int": CType("uint", 32),
            "long": CType("int", 64), "unsigned long": CType("uint", 64),
        }  # fmt: skip
        said = " ".join(words)
        if said not in plain:
            raise self.refuse(f"a bit cast to {said}", self.line(c))
        return plain[said]

    def shuffle(self, children: list[Any], kind: CType, line: int) -> Node:
        """Elements of two vectors in a new order."""
        values = [x for x in children if x.kind.is_expression()]
        if len(values) != kind.count + 2:
            raise self.refuse("a shuffle by numbers that are not written out", line)
        at = [self.evaluate(x) for x in values[2:]]
        if any(not isinstance(n, int) for n in at):
            raise self.refuse("a shuffle by numbers that are not known", line)
        return Node("shuffle", kind, tuple(map(self.expression, values[:2])), tuple(at), line)

    def is_literal(self, c: Any) -> bool:
        """Whether an operand is a sign before a number."""
        kinds = self.ci.CursorKind
        inner = list(c.get_children())
        op = UNARY[self.library.clang_getCursorUnaryOperatorKind(c)]
        literal = (kinds.INTEGER_LITERAL, kinds.FLOATING_LITERAL)
        return op == "-" and len(inner) == 1 and inner[0].kind in literal

    def name(self, c: Any, kind: CType, line: int) -> Node:
        kinds, d = self.ci.CursorKind, c.referenced
        if d is None:  # a number that a template is given
            found = self.constant(c, line)
            if found is not None:
                return found
            raise self.refuse(f"the name {c.spelling}", line)
        top = (kinds.TRANSLATION_UNIT, kinds.NAMESPACE, kinds.LINKAGE_SPEC)
        if d.kind == kinds.ENUM_CONSTANT_DECL or d.semantic_parent.kind in top:
            return self.outside(c, d, kind, line)
        if d.kind in (kinds.VAR_DECL, kinds.PARM_DECL):
            return Node("name", kind, (), (self.ident(d), c.spelling), line)
        raise self.refuse(f"the name {c.spelling} is not understood here", line)

    def outside(self, c: Any, d: Any, kind: CType, line: int) -> Node:
        """A name of the whole text: only constants have a meaning."""
        kinds = self.ci.CursorKind
        found = self.constant(c, line) or (
            self.constant(d, line) if d.kind == kinds.ENUM_CONSTANT_DECL else None
        )
        if found is not None:
            return found
        fixed = d.kind == kinds.VAR_DECL and d.type.is_const_qualified()
        inits = [x for x in d.get_children() if x.kind.is_expression()]
        if fixed and inits and kind.kind != "array":
            return self.expression(inits[-1])
        raise self.refuse(f"{c.spelling} is a variable outside of the kernel", line)

    def call(self, c: Any, children: list[Any], kind: CType, line: int) -> Node:
        kinds = self.ci.CursorKind
        name, d = c.spelling, c.referenced
        if not name and not children:
            raise self.refuse("a constructor call", line)
        if name == "operator()":  # of a lambda
            args = [self.expression(x) for x in children if not self.is_method(x)]
            return Node("invoke", kind, tuple(args), self.changes(d), line)
        arguments = list(c.get_arguments())
        if name in ("NAN", "INFINITY") or name.startswith(("__builtin_inf", "__builtin_nan")):
            found = self.constant(c, line)
            if found is not None:
                return found
        if d is not None and d.kind == kinds.CXX_METHOD:  # numeric_limits
            found = self.constant(c, line)
            if found is None:
                raise self.refuse(f"the call of {name}", line)
            return found
        if d is None or d.kind != kinds.FUNCTION_DECL:
            raise self.refuse(f"the call of {name or 'something without a name'}", line)
        defined = d.get_definition()
        here = defined is not None and defined.location.file is not None
        here = here and defined.location.file.name == self.main
        if here:
            self.pending.append(defined)
        integers = []
        for x in children[0].walk_preorder():
            if x.kind == kinds.INTEGER_LITERAL:
                integers.append(int(self.evaluate(x) or 0))
        args = [self.expression(x) for x in arguments]
        if name == "abs" and not here:  # headers differ in whether there is one of reals
            for x in args:
                if x.op == "cast" and not x.attr and x.args[0].type.kind == "real":
                    raise self.refuse("abs of a real number: write fabsf or fabs", line)
        attr = (name, self.ident(defined) if here else None, tuple(integers), self.changes(d))
        return Node("call", kind, tuple(args), attr, line)

    def changes(self, function: Any) -> tuple[int, ...]:
        """Arguments that a function takes by a reference through which it may change them."""
        kinds = self.ci.TypeKind
        given = [p.type.get_canonical() for p in function.get_arguments()]
        return tuple(
            n
            for n, t in enumerate(given)
            if t.kind in (kinds.LVALUEREFERENCE, kinds.RVALUEREFERENCE)
            and not t.get_pointee().is_const_qualified()
        )

    def is_method(self, c: Any) -> bool:
        d = c.referenced
        return d is not None and d.kind == self.ci.CursorKind.CXX_METHOD
