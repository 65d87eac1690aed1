"""Faults seeded into Python text: functions of arrays, and kernels that are written in Python.

The text is parsed, never run. Every mutant is the original with one span replaced, so that a
difference shows one place. Whether a mutant still means the same is for whoever runs it to say.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from opwright.ir.mutant import Mutant, different

COMPARISONS = {
    ast.Lt: ("<=",), ast.LtE: ("<",), ast.Gt: (">=",), ast.GtE: (">",), ast.Eq: ("!=", "<="),
    ast.NotEq: ("==",),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("-",), ast.Sub: ("+",), ast.Mult: ("+", "/"), ast.Div: ("*",), ast.FloorDiv: ("*",),
    ast.Mod: ("//",), ast.Pow: ("*",), ast.BitAnd: ("|",), ast.BitOr: ("&",), ast.BitXor: ("|",),
}  # fmt: skip
NAMES = {
    "max": ("min",), "min": ("max",), "amax": ("amin",), "amin": ("amax",),
    "maximum": ("minimum",), "minimum": ("maximum",), "sum": ("mean", "cumsum"), "mean": ("sum",),
    "prod": ("sum",), "argmax": ("argmin",), "argmin": ("argmax",), "cumsum": ("cumprod",),
    "cumprod": ("cumsum",), "exp": ("exp2", "expm1"), "exp2": ("exp",), "expm1": ("exp",),
    "log": ("log2", "log1p"), "log2": ("log",), "log1p": ("log",), "rsqrt": ("sqrt",),
    "sqrt": ("square",), "square": ("abs",), "sin": ("cos",), "cos": ("sin",),
    "tanh": ("sigmoid", "sin"), "sigmoid": ("tanh",), "erf": ("tanh",), "floor": ("ceil", "trunc"),
    "ceil": ("floor",), "round": ("trunc",), "trunc": ("round",), "zeros": ("ones",),
    "ones": ("zeros",), "zeros_like": ("ones_like",), "any": ("all",), "all": ("any",),
    "cummax": ("cummin",), "cummin": ("cummax",), "cdiv": (), "var": ("std",), "std": ("var",),
    "triu": ("tril",), "tril": ("triu",), "logsumexp": ("sum",),
}  # fmt: skip
NANS = {"maximum": "fmax", "minimum": "fmin", "amax": "nanmax", "max": "nanmax", "sum": "nansum",
        "min": "nanmin", "mean": "nanmean"}  # fmt: skip
LESS = {
    "float64": ("float32",), "float32": ("float16", "bfloat16"), "int64": ("int32",),
    "double": ("float",), "float": ("half",),
}  # fmt: skip
CASTS = ("contiguous", "clone", "copy", "float", "double", "to", "astype", "half", "long", "int")
REDUCTIONS = "max min amax amin sum mean prod argmax argmin any all".split()
KEYWORDS = {
    "mask": "mask_dropped", "other": "fill", "dtype": "precision", "keepdim": "keepdim",
    "keepdims": "keepdim", "correction": "constant", "ddof": "constant",
}  # fmt: skip
OUTSIDE = ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "erf")
WHICH = ("axis", "dim", "axes", "dims")
# a function of one argument whose result has the argument's shape: leaving it out may go unseen
UNARY = (
    "abs exp exp2 expm1 log log1p log2 sqrt rsqrt square tanh sigmoid erf sin cos floor ceil round "
    "relu cumsum flip sort trunc clip clamp clamp_min clamp_max where isnan"
).split()


def python_mutants(text: str, function: str = "", first: int = 1) -> list[Mutant]:
    """Mutants of all functions of a text, or of the named one; SyntaxError if it is no Python.
    `first` is the number of the text's first line in its file."""
    tree = ast.parse(text)
    source = _Source(text, first)
    found: list[Mutant] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and function in ("", node.name):
            walker = _Function(source, node)
            found += walker.whole(node)
            for statement in node.body:
                found += walker.visit(statement)
    return different(_parsed(found), text)


def _parsed(found: list[Mutant]) -> Iterator[Mutant]:
    for m in found:
        try:
            ast.parse(m.text)
        except (SyntaxError, ValueError):
            continue
        yield m


class _Source:
    """A text by the places of its nodes."""

    def __init__(self, text: str, first: int) -> None:
        self.first = first
        self.starts = [0]
        raw = text.encode()
        self.raw = raw
        for n, byte in enumerate(raw):
            if byte == 10:
                self.starts.append(n + 1)

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        begin, end = self.span(node)
        return self.raw[begin:end].decode()

    def replaced(self, begin: int, end: int, new: str) -> str:
        return (self.raw[:begin] + new.encode() + self.raw[end:]).decode()


class _Function:
    def __init__(self, source: _Source, node: ast.FunctionDef) -> None:
        self.source, self.name = source, node.name
        self.jitted = False
        self.modules = {"np", "numpy", "torch", "jnp", "jax", "lax", "tl", "math", "F", "libdevice"}

    def made(self, kind: str, node: ast.expr | ast.stmt | ast.keyword, new: str) -> Mutant:
        begin, end = self.source.span(node)
        old = " ".join(self.source.of(node).split())
        place = f"{self.name}, line {node.lineno + self.source.first - 1}"
        what = f"{old} -> {' '.join(new.split())}"
        return Mutant(kind, place, self.source.replaced(begin, end, new), what)

    def visit(self, node: ast.AST, inside: str = "") -> Iterator[Mutant]:
        """Mutants of a node and all below; `inside` is "slice" or "axis" where that matters."""
        if isinstance(node, ast.FunctionDef):
            return  # a function of its own
        if isinstance(node, ast.stmt):
            yield from self.statement(node)
        if isinstance(node, ast.expr):
            yield from self.expression(node, inside)
        if isinstance(node, ast.Subscript):
            yield from self.visit(node.value)
            yield from self.visit(node.slice, "slice")
            return
        if isinstance(node, ast.Call):
            yield from self.visit(node.func)
            for a in node.args:
                yield from self.visit(a, "axis" if _axis_argument(node, a) else "")
            for k in node.keywords:
                yield from self.visit(k.value, "axis" if k.arg in WHICH else "")
            return
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.Constant | ast.expr) or not isinstance(
                node, ast.AnnAssign
            ):
                yield from self.visit(child, inside)

    # -- kernels ----------------------------------------------------------------------------------

    def whole(self, node: ast.FunctionDef) -> Iterator[Mutant]:
        """Faults of a kernel's work: all but the first program leave, hints that are not true,
        one range of lanes for another."""
        marks = [self.source.of(d) for d in node.decorator_list]
        if not any("jit" in m for m in marks) or not node.body:
            return
        first = node.body[0]
        pad = "\n" + " " * first.col_offset
        before = self.source.of(first)

        def put(kind: str, line: str) -> Mutant:
            made = self.made(kind, first, f"{line}{pad}{before}")
            return Mutant(kind, made.place, made.text, f"{line} at the start")

        uses = [x for x in ast.walk(node) if isinstance(x, ast.Call)]
        if any(self.source.of(x.func) == "tl.program_id" for x in uses):
            yield put("early_return", f"if tl.program_id(0) > 0:{pad}    return")
        self.jitted = True
        bounds: list[ast.expr] = [x for x in ast.walk(node) if isinstance(x, ast.Compare)]
        bounds += [x for x in uses if self.source.of(x.func) in ("range", "tl.cdiv")]
        named = {x.id for b in bounds for x in ast.walk(b) if isinstance(x, ast.Name)}
        plain = [a.arg for a in node.args.args if a.annotation is None]
        for name in [a for a in plain if a in named][:2]:
            yield put("hint", f"tl.assume({name} > 64)")
            yield put("hint", f"{name} = tl.multiple_of({name}, 16)")
        known: dict[str, int] = {}
        for x in ast.walk(node):
            if isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name):
                if "tl.arange" in self.source.of(x.value):
                    known.setdefault(x.targets[0].id, x.lineno)
        for x in ast.walk(node):
            if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load) and x.id in known:
                for other, line in known.items():
                    if other != x.id and line < x.lineno:
                        yield self.made("diagonal", x, other)

    # -- statements -------------------------------------------------------------------------------

    def statement(self, node: ast.stmt) -> Iterator[Mutant]:
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
        if call or stored:
            yield self.made("store_missing", node, "pass")
        if isinstance(node, ast.AugAssign):
            target, value = self.source.of(node.target), self.source.of(node.value)
            yield self.made("accumulator", node, f"{target} = {value}")
            yield self.made("store_missing", node, "pass")
            for new in ARITHMETIC.get(type(node.op), ()):
                yield self.made("operation", node, f"{target} {new}= {value}")
        if isinstance(node, ast.If):
            yield self.made("branch", node.test, f"not ({self.source.of(node.test)})")
            yield self.made("branch", node.test, "True")
            yield self.made("branch", node.test, "False")
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            used = {x.id for x in ast.walk(node.value) if isinstance(x, ast.Name)}
            if name in used:  # the state of a loop
                yield self.made("stale", node, "pass")

    # -- expressions ------------------------------------------------------------------------------

    def expression(self, node: ast.expr, inside: str) -> Iterator[Mutant]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right = self.source.of(node.left), self.source.of(node.comparators[0])
            for new in COMPARISONS.get(type(node.ops[0]), ()):
                yield self.made("comparison", node, f"{left} {new} {right}")
            if isinstance(node.ops[0], ast.Lt):
                yield self.made("comparison", node, f"{left} < {right} - 1")
        elif isinstance(node, ast.BinOp):
            yield from self.binary(node, inside)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            if not isinstance(node.operand, ast.Constant):
                yield self.made("operation", node, f"({self.source.of(node.operand)})")
        elif isinstance(node, ast.Constant):
            yield from self.constant(node, inside)
        elif isinstance(node, ast.Call):
            yield from self.call(node)
        elif isinstance(node, ast.Attribute):
            if node.attr in ("T", "mT"):
                yield self.made("axis", node, self.source.of(node.value))
            for less in LESS.get(node.attr, ()):
                if isinstance(node.value, ast.Name) and node.value.id in self.modules:
                    kind = "narrow" if node.attr.startswith("int") else "precision"
                    yield self.made(kind, node, f"{node.value.id}.{less}")
        elif isinstance(node, ast.Slice):
            for bound, new in ((node.lower, "+ 1"), (node.upper, "- 1")):
                if bound is not None and not isinstance(bound, ast.Constant):
                    yield self.made("slice", bound, f"{self.source.of(bound)} {new}")

    def binary(self, node: ast.BinOp, inside: str) -> Iterator[Mutant]:
        left, right = self.source.of(node.left), self.source.of(node.right)
        for new in ARITHMETIC.get(type(node.op), ()):
            yield self.made("operation", node, f"({left} {new} {right})")
        if isinstance(node.op, ast.Sub | ast.Div | ast.MatMult | ast.Pow):
            yield self.made("operands", node, f"({right} - {left})" if isinstance(
                node.op, ast.Sub) else f"({right} {_symbol(node.op)} {left})")  # fmt: skip
        if isinstance(node.op, ast.FloorDiv) and self.jitted:  # the same where division is floored
            yield self.made("division", node, f"((({left}) - ({right})) // ({right}) + 1)")
        if isinstance(node.op, ast.Mod) and self.jitted:
            yield self.made("division", node, f"((({left}) - ({right})) % ({right}))")
        if isinstance(node.op, ast.BitAnd):
            for kept in (left, right):
                yield self.made("mask_dropped", node, f"({kept})")
        elif not isinstance(node.op, ast.MatMult):
            kind = "rescale" if isinstance(node.op, ast.Mult) else "term_dropped"
            yield self.made(kind, node, f"({left})")
            if isinstance(node.op, ast.Add | ast.Mult):
                yield self.made(kind, node, f"({right})")
        if isinstance(node.op, ast.Add | ast.Mult) and inside != "slice":
            yield self.made("constant", node, f"({left} {_symbol(node.op)} {right} * 1.01)")

    def constant(self, node: ast.Constant, inside: str) -> Iterator[Mutant]:
        value = node.value
        if isinstance(value, bool):
            yield self.made("keepdim", node, str(not value))
        elif isinstance(value, int):
            kind = {"slice": "slice", "axis": "axis"}.get(inside, "constant")
            yield self.made(kind, node, str(value + 1))
            yield self.made(kind, node, f"({value - 1})")
            if kind == "axis":
                yield self.made(kind, node, "(0)" if value else "(-1)")
        elif isinstance(value, float):
            for new in (value * 10 if value else 1.0, value * 1.001, 0.0):
                yield self.made("constant", node, repr(new))
        elif value in ("-inf", "inf"):
            yield self.made("constant", node, '"0"')

    def call(self, node: ast.Call) -> Iterator[Mutant]:
        func = node.func
        name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
        module = (
            isinstance(func, ast.Attribute)
            and isinstance(func.value, ast.Name)
            and func.value.id in self.modules
        )
        text = self.source.of(node)
        head = self.source.of(func)
        tail = text[len(head) :]
        stem = head[: len(head) - len(name)]
        for new in NAMES.get(name, ()):
            kind = "reduction" if name in REDUCTIONS else "operation"
            yield self.made(kind, node, f"{stem}{new}{tail}")
        if name in NANS:
            yield self.made("nan", node, f"{stem}{NANS[name]}{tail}")
        if name == "cdiv" and len(node.args) == 2:
            a, b = (self.source.of(x) for x in node.args)
            yield self.made("grid", node, f"(({a}) // ({b}))")
        if name == "where" and len(node.args) == 3:
            c, a, b = (self.source.of(x) for x in node.args)
            yield self.made("operands", node, f"{head}({c}, {b}, {a})")
        if name == "program_id" and node.args and isinstance(node.args[0], ast.Constant):
            yield self.made("axis", node, f"{head}({1 - int(bool(node.args[0].value))})")
        if name == "dot":
            yield self.made("precision", node, f'{text.rstrip(")")}, input_precision="tf32")')
        if name in CASTS and isinstance(func, ast.Attribute) and not module:
            kind = "stride" if name == "contiguous" else "precision"
            kind = "stale_output" if name in ("clone", "copy") else kind
            kind = "narrow" if "int64" in tail else kind
            yield self.made(kind, node, self.source.of(func.value))
        if name in ("atomic_add", "atomic_max", "atomic_min") and module:
            kept = [self.source.of(a) for a in node.args[:2]]
            kept += [self.source.of(k) for k in node.keywords if k.arg == "mask"]
            yield self.made("atomic", node, f"{stem}store({', '.join(kept)})")
        if name in OUTSIDE and len(node.args) == 1 and isinstance(node.args[0], ast.BinOp):
            inner = node.args[0]
            a, b = self.source.of(inner.left), self.source.of(inner.right)
            if isinstance(inner.op, ast.Add | ast.Sub | ast.Mult):
                word = "-" if isinstance(inner.op, ast.Sub) else _symbol(inner.op)
                yield self.made("epilogue", node, f"({head}({a}) {word} {b})")
        if name in ("argmax", "argmin") and (ties := self.last_tie(node, module)):
            yield self.made("tie", node, ties)
        if name in UNARY and node.args and module and name != "where":
            yield self.made("term_dropped", node, f"({self.source.of(node.args[0])})")
        elif name in UNARY and isinstance(func, ast.Attribute) and not module:
            yield self.made("term_dropped", node, self.source.of(func.value))
        if name == "range":
            yield from self.range(node)
        for k in node.keywords:
            yield from self.keyword(node, k)
        if name in ("sum", "mean", "matmul", "einsum", "cumsum", "prod", "dot") and module:
            yield self.made("precision", node, f"{_rounded(stem, self.first(node), text, node)}")

    def first(self, node: ast.Call) -> str:
        return self.source.of(node.args[0]) if node.args else ""

    def range(self, node: ast.Call) -> Iterator[Mutant]:
        parts = [self.source.of(a) for a in node.args]
        name = self.source.of(node.func)
        stop = 0 if len(parts) == 1 else 1
        for new in (f"{parts[stop]} - 1", f"{parts[stop]} + 1"):
            changed = [*parts[:stop], new, *parts[stop + 1 :]]
            yield self.made("loop", node, f"{name}({', '.join(changed)})")
        first = ["1", *parts] if len(parts) == 1 else [f"{parts[0]} + 1", *parts[1:]]
        yield self.made("loop", node, f"{name}({', '.join(first)})")
        if len(parts) == 3:
            yield self.made("loop", node, f"{name}({parts[0]}, {parts[1]}, 2 * ({parts[2]}))")
            floor = f"({parts[1]}) // ({parts[2]}) * ({parts[2]})"
            yield self.made("loop", node, f"{name}({parts[0]}, {floor}, {parts[2]})")

    def keyword(self, node: ast.Call, k: ast.keyword) -> Iterator[Mutant]:
        kind = KEYWORDS.get(k.arg or "")
        if kind is None:
            return
        others = [self.source.of(a) for a in node.args]
        others += [self.source.of(x) for x in node.keywords if x is not k]
        if k.arg == "mask":
            others = [x for x in others if not x.startswith("other")]
        yield self.made(kind, node, f"{self.source.of(node.func)}({', '.join(others)})")

    def last_tie(self, node: ast.Call, module: bool) -> str:
        """The last of equal elements in place of the first; "" where the axis is not written."""
        axis = next((k.value for k in node.keywords if k.arg in WHICH), None)
        rest = node.args[1:] if module else node.args
        if axis is None and rest:
            axis = rest[0]
        if axis is None:
            return ""
        assert isinstance(node.func, ast.Attribute)
        where = self.source.of(axis)
        base = self.first(node) if module else self.source.of(node.func.value)
        prefix = self.source.of(node.func.value) if module else ""
        if module and prefix in ("tl",):
            return ""
        flipped = f"{prefix}.flip({base}, ({where},))" if module else f"{base}.flip({where})"
        more = ", ".join(self.source.of(k) for k in node.keywords if k.arg not in WHICH)
        end = f", {more}" if more else ""
        if module:
            found = f"{self.source.of(node.func)}({flipped}, {where}{end})"
        else:
            found = f"{flipped}.{node.func.attr}({where}{end})"
        return f"(({base}).shape[{where}] - 1 - {found})"


def _axis_argument(node: ast.Call, a: ast.expr) -> bool:
    """Whether a positional argument says which axis: an integer of a reduction."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    value = a.operand if isinstance(a, ast.UnaryOp) else a
    known = {*NAMES, "stack", "flip", "sort", "gather", "unsqueeze"} - {"round"}
    return (
        name in known
        and isinstance(value, ast.Constant)
        and isinstance(value.value, int)
        and not isinstance(value.value, bool)
    )


def _rounded(stem: str, first: str, text: str, node: ast.Call) -> str:
    """A contraction or a sum of operands that went through half precision."""
    module = stem.rstrip(".")
    if module == "torch":
        new = f"({first}).to(torch.float16).to(({first}).dtype)"
    else:
        new = f"({first}).astype({module}.float16).astype(({first}).dtype)"
    return text.replace(first, new, 1) if first else text


def _symbol(op: ast.operator) -> str:
    return {ast.Div: "/", ast.MatMult: "@", ast.Pow: "**", ast.Add: "+", ast.Mult: "*"}[type(op)]
