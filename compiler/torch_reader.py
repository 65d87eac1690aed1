"""PyTorch references as equations of a spec, for the part of PyTorch that has a plain meaning.

A function `run` is read, never executed. Every tensor is known by its extents and by the text of an
element at given indices; a statement becomes an equation, or nothing where it only renames or moves
axes. What is not understood is refused with its line.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opwright.compiler.library import shipped

Element = Callable[[Sequence[str]], str]
DTYPES = {
    "float32": "f32", "float": "f32", "float64": "f64", "double": "f64", "float16": "f16",
    "half": "f16", "bfloat16": "bf16",
}  # fmt: skip
WHOLE = {"int64", "long", "int32", "int", "int16", "int8"}
ONE = {
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "sin", "cos", "tan", "sinh",
    "cosh", "tanh", "asin", "acos", "atan", "erf", "sigmoid", "abs",
}  # fmt: skip
# functions of PyTorch that are written out, and those over shares of exponentials
TABLE: dict[str, dict[str, str]] = json.loads(
    (shipped() / "torch_functions.json").read_text(encoding="utf-8")
)
WRITTEN, EXPONENTIAL = TABLE["written"], TABLE["exponential"]
TWO = {"maximum": "max({0}, {1})", "minimum": "min({0}, {1})"}
INFIX = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}  # fmt: skip
COMPARED = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
LETTERS = "ijklmnpqrstuvw"
# words of the language, that a name cannot be
RESERVED = set(
    "op dims where type in param let input output updates def rec init requires ensures law within"
    " by tolerance versus grad auto none workload weight minimize subject to target via if then"
    " else and or not sum prod max min any all argmax argmin true false inf round perm index from"
    " import as layout abs rel ulp proof test latency memory energy error us ms mJ J triton cuda"
    " jax cpp opwright proof_or_test compile_time code_size MiB GiB".split()
)


class NotRead(ValueError):
    """The reference is outside of what is understood; the message names the line."""


@dataclass(frozen=True, slots=True)
class Array:
    """A tensor: extents as texts ("1" is one element for all) and its element at indices."""

    extents: tuple[str, ...]
    at: Element
    kind: str = "real"


@dataclass(frozen=True, slots=True)
class Number:
    """A size, a Python number or a text of one."""

    text: str
    value: int | float | bool | None = None
    real: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Equations in order, and the free indices of every defined tensor with their extents."""

    equations: tuple[str, ...]
    casts: tuple[str, ...] = ()


def read_reference(
    source: str,
    inputs: Mapping[str, tuple[Sequence[str] | None, str]],
    outputs: Mapping[str, Sequence[str]],
    known: Mapping[str, int],
) -> Read:
    """Equations that define the outputs; NotRead where the text is not understood.

    `inputs` are in call order: extents (None for a Python number) and the kind of an element;
    `known` are extents that are numbers.
    """
    tree = ast.parse(source)
    run = next(f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "run")
    constants = {
        t.id: s.value.value
        for s in tree.body
        if isinstance(s, ast.Assign) and isinstance(s.value, ast.Constant)
        for t in s.targets
        if isinstance(t, ast.Name)
    }
    names = [a.arg for a in (*run.args.posonlyargs, *run.args.args)]
    reader = _Reader(set(inputs) | set(outputs) | set(known), known)
    for k, v in constants.items():
        if isinstance(v, int | float):
            reader.names[k] = _number(v)
    for own, (name, (extents, kind)) in zip(names, inputs.items(), strict=True):
        reader.names[own] = reader.input(name, extents, kind)
    return reader.body(run.body, outputs)


def _number(v: int | float | bool) -> Number:
    text = str(v).lower() if isinstance(v, bool) else repr(v)
    return Number(f"({text})" if text.startswith("-") else text, v, isinstance(v, float))


class _Reader:
    def __init__(self, taken: set[str], known: Mapping[str, int]) -> None:
        self.names: dict[str, Any] = {}
        # names of free indices, none that a tensor has
        own = [*LETTERS, *(f"{a}{n}" for n in range(1, 9) for a in LETTERS)]
        self.letters = [a for a in own if a not in taken][: len(LETTERS)]
        self.taken, self.known = {*taken, *self.letters}, known
        self.equations: list[str] = []
        self.line = 0

    def fail(self, what: str) -> NotRead:
        return NotRead(f"line {self.line}: {what}")

    def input(self, name: str, extents: Sequence[str] | None, kind: str) -> Any:
        if extents is None:
            return Number(name, None, kind == "real")
        return Array(tuple(extents), _element(name), kind)

    def fresh(self, hint: str) -> str:
        plain = hint.isidentifier() and hint not in RESERVED
        name = hint if plain else f"{hint}_"
        n = 1
        while name in self.taken:
            n += 1
            name = f"{hint}_{n}"
        self.taken.add(name)
        return name

    def define(self, hint: str, value: Array, name: str = "") -> Array:
        """The tensor as one with a name."""
        name = name or self.fresh(hint)
        own = [n for n, e in enumerate(value.extents) if e != "1"]
        letters = self.letters[: len(own)]
        index = ["0"] * len(value.extents)
        for n, letter in zip(own, letters, strict=True):
            index[n] = letter
        left = f"{name}[{', '.join(letters)}]" if letters else name
        self.equations.append(f"{left} = {value.at(index)}")
        read = _element(name)
        return replace(value, at=lambda i: read([i[n] for n in own]))

    # -- statements --------------------------------------------------------------------------------

    def body(self, statements: Sequence[ast.stmt], outputs: Mapping[str, Sequence[str]]) -> Read:
        for s in statements:
            self.line = s.lineno
            if isinstance(s, ast.Return) and s.value is not None:
                found = self.value(s.value)
                results = list(found) if isinstance(found, tuple) else [found]
                return self.results(results, outputs)
            self.statement(s)
        raise self.fail("`run` returns nothing")

    def statement(self, s: ast.stmt) -> None:
        if isinstance(s, ast.Assert | ast.Import | ast.ImportFrom | ast.Pass):
            return
        if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant):
            return
        if isinstance(s, ast.Assign) and len(s.targets) == 1:
            self.assign(s.targets[0], self.value(s.value))
        elif isinstance(s, ast.AnnAssign) and s.value is not None:
            self.assign(s.target, self.value(s.value))
        elif isinstance(s, ast.AugAssign) and isinstance(s.target, ast.Name):
            whole = ast.BinOp(ast.Name(s.target.id, ast.Load()), s.op, s.value)
            self.assign(s.target, self.value(whole))
        else:
            raise self.fail(f"a statement `{ast.unparse(s).splitlines()[0]}`")

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            if isinstance(value, Array) and not _is_read(value):
                value = self.define(target.id, value)
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, tuple | list):
            if len(target.elts) != len(value):
                raise self.fail(f"{len(target.elts)} names for {len(value)} values")
            for t, v in zip(target.elts, value, strict=True):
                self.assign(t, v)
        else:
            raise self.fail(f"an assignment to `{ast.unparse(target)}`")

    def results(self, found: list[Any], outputs: Mapping[str, Sequence[str]]) -> Read:
        if len(found) == 1 and isinstance(found[0], dict):
            found = [found[0].get(n) for n in outputs]
        if len(found) != len(outputs):
            raise self.fail(f"{len(found)} results for {len(outputs)} outputs")
        for (name, extents), value in zip(outputs.items(), found, strict=True):
            if not isinstance(value, Array):
                raise self.fail(f"{name} is no tensor")
            if len(value.extents) != len(extents):
                raise self.fail(f"{name} has {len(value.extents)} axes, not {len(extents)}")
            for a, b in zip(value.extents, extents, strict=True):
                if a != b and not self.same(a, b):
                    raise self.fail(f"an axis of {name} is {a}, not {b}")
            self.define(name, Array(tuple(extents), value.at, value.kind), name)
        return Read(tuple(self.equations))

    def same(self, a: str, b: str) -> bool:
        value = [int(x) if x.isdigit() else self.known.get(x) for x in (a, b)]
        return a == b or (value[0] is not None and value[0] == value[1])

    # -- expressions -------------------------------------------------------------------------------

    def value(self, e: ast.expr) -> Any:
        if isinstance(e, ast.Constant):
            if isinstance(e.value, bool | int | float):
                return _number(e.value)
            return e.value
        if isinstance(e, ast.Name):
            if e.id not in self.names:
                raise self.fail(f"`{e.id}` is not known")
            return self.names[e.id]
        if isinstance(e, ast.Tuple | ast.List):
            return tuple(self.value(x) for x in e.elts)
        if isinstance(e, ast.Dict):
            keys = [self.value(k) for k in e.keys if k is not None]
            return dict(zip(keys, (self.value(v) for v in e.values), strict=True))
        if isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.USub):
            x = self.value(e.operand)
            if isinstance(x, Number):
                return _number(-x.value) if x.value is not None else Number(f"(-{x.text})")
            return self.mapped("-{0}", x)
        if isinstance(e, ast.BinOp):
            return self.binary(e)
        if isinstance(e, ast.Compare) and len(e.ops) == 1:
            op = COMPARED.get(type(e.ops[0]))
            if op is not None:
                a, b = self.value(e.left), self.value(e.comparators[0])
                return replace(self.mapped(f"{{0}} {op} {{1}}", a, b), kind="bool")
        if isinstance(e, ast.Subscript):
            return self.subscript(self.value(e.value), e.slice)
        if isinstance(e, ast.Attribute):
            return self.attribute(e)
        if isinstance(e, ast.Call):
            return self.call(e)
        raise self.fail(f"`{ast.unparse(e)}`")

    def mapped(self, form: str, *values: Any) -> Array:
        """Elementwise with broadcasting; operands are put in parentheses where they need them."""
        arrays = [v for v in values if isinstance(v, Array)]
        if not arrays or any(not isinstance(v, Array | Number) for v in values):
            raise self.fail("an operand is no tensor")
        rank = max(len(a.extents) for a in arrays)
        extents: list[str] = []
        for n in range(rank):
            own = {a.extents[n - rank + len(a.extents)] for a in arrays
                   if n - rank + len(a.extents) >= 0} - {"1"}  # fmt: skip
            first = min(own) if own else "1"
            if any(not self.same(first, x) for x in own):
                raise self.fail(f"axes of {' and '.join(sorted(own))} do not broadcast")
            extents.append(first)

        def at(index: Sequence[str]) -> str:
            texts = []
            for v in values:
                if isinstance(v, Number):
                    texts.append(v.text)
                    continue
                own = index[rank - len(v.extents) :]
                places = ["0" if x == "1" else i for x, i in zip(v.extents, own, strict=True)]
                texts.append(_atom(v.at(places)))
            return form.format(*texts)

        kind = "real" if any(v.kind != "int" for v in arrays) else "int"
        return Array(tuple(extents), at, kind)

    def binary(self, e: ast.BinOp) -> Any:
        a, b = self.value(e.left), self.value(e.right)
        if isinstance(e.op, ast.MatMult):
            return self.matmul(a, b)
        if isinstance(a, Number) and isinstance(b, Number):
            return self.numbers(e.op, a, b)
        if isinstance(e.op, ast.Pow):
            return self.power(a, b)
        op = INFIX.get(type(e.op))
        if op is None:
            raise self.fail(f"the operator of `{ast.unparse(e)}`")
        return self.mapped(f"{{0}} {op} {{1}}", a, b)

    def numbers(self, op: ast.operator, a: Number, b: Number) -> Number:
        if a.value is not None and b.value is not None:
            known = ARITHMETIC.get(type(op))
            large = isinstance(op, ast.Pow) and (abs(a.value) > 1e6 or abs(b.value) > 64)
            if known is None or large:
                raise self.fail("an operator between numbers")
            try:
                found = known(a.value, b.value)
            except ArithmeticError as error:
                raise self.fail(str(error)) from None
            if isinstance(found, complex):
                raise self.fail("a complex number")
            return _number(found)
        if isinstance(op, ast.Pow) and b.value == 0.5:
            return Number(f"sqrt({a.text})", None, True)
        if isinstance(op, ast.Pow) and b.value == -0.5:
            return Number(f"rsqrt({a.text})", None, True)
        text = {**INFIX, ast.FloorDiv: "//", ast.Mod: "%"}.get(type(op))
        if text is None:
            raise self.fail("an operator between numbers")
        return Number(f"({a.text} {text} {b.text})", None, a.real or b.real or text == "/")

    def power(self, a: Any, b: Any) -> Array:
        n = b.value if isinstance(b, Number) else None
        known = {2: "{0} * {0}", 3: "{0} * {0} * {0}", 0.5: "sqrt({0})", -0.5: "rsqrt({0})",
                 -1: "1 / {0}"}  # fmt: skip
        if n in known:
            return self.mapped(known[n], a)
        return self.mapped("pow({0}, {1})", a, b)

    def matmul(self, a: Any, b: Any) -> Array:
        if not isinstance(a, Array) or not isinstance(b, Array):
            raise self.fail("a product with what is no tensor")
        left = (*(("1",) if len(a.extents) == 1 else ()), *a.extents)
        right = (*b.extents, *(("1",) if len(b.extents) == 1 else ()))
        if not self.same(left[-1], right[-2]):
            raise self.fail(f"axes of {left[-1]} and {right[-2]} are multiplied")
        depth = left[-1]
        rank = max(len(left), len(right))
        r = self.binder()
        heads = []
        for n in range(rank - 2):
            own = [x[n - rank + len(x)] for x in (left, right) if n - rank + len(x) >= 0]
            heads.append(next((x for x in own if x != "1"), "1"))

        def at(index: Sequence[str]) -> str:
            head, i, j = index[:-2], index[-2], index[-1]
            mine = [*head[len(head) - len(left) + 2 :], i, r]
            theirs = [*head[len(head) - len(right) + 2 :], r, j]
            x = a.at(_fixed(left, mine)[len(left) - len(a.extents) :])
            y = b.at(_fixed(right, theirs)[: len(b.extents)])
            return f"sum[{r}: {depth}]({_atom(x)} * {_atom(y)})"

        whole = Array((*heads, left[-2], right[-1]), at)
        made = self.define("product", whole)
        out = list(range(rank))
        if len(b.extents) == 1:
            out.remove(rank - 1)
        if len(a.extents) == 1:
            out.remove(rank - 2)
        return self.moved(made, out)

    def binder(self) -> str:
        return self.fresh("r")

    def moved(self, a: Array, kept: Sequence[int]) -> Array:
        """Axes in another order, those left out have one element."""

        def at(index: Sequence[str]) -> str:
            full = ["0"] * len(a.extents)
            for i, n in zip(index, kept, strict=True):
                full[n] = i
            return a.at(full)

        return replace(a, extents=tuple(a.extents[n] for n in kept), at=at)

    def subscript(self, base: Any, key: ast.expr) -> Any:
        if isinstance(base, tuple | list):
            n = self.value(key)
            if isinstance(n, Number) and isinstance(n.value, int):
                return base[n.value]
        if not isinstance(base, Array):
            raise self.fail("an index of what is no tensor")
        parts = list(key.elts) if isinstance(key, ast.Tuple) else [key]
        real = [p for p in parts if not (isinstance(p, ast.Constant) and p.value in (None, ...))]
        missing = len(base.extents) - len(real)
        if missing < 0:
            raise self.fail("more indices than axes")
        filled: list[ast.expr | None] = []
        dots = False
        for part in parts:
            if isinstance(part, ast.Constant) and part.value is ...:
                filled += [ast.Slice()] * missing
                dots = True
            else:
                filled.append(part)
        if not dots:
            filled += [ast.Slice()] * missing
        extents: list[str] = []
        takes: list[str | None] = []  # None: an axis of the result
        for p in filled:
            if isinstance(p, ast.Constant) and p.value is None:
                extents.append("1")
            elif isinstance(p, ast.Slice) and not (p.lower or p.upper or p.step):
                extents.append(base.extents[len(takes)])
                takes.append(None)
            else:
                n = None if p is None or isinstance(p, ast.Slice) else self.value(p)
                if not isinstance(n, Number):
                    raise self.fail("an index that is no number")
                own = base.extents[len(takes)]
                negative = isinstance(n.value, int) and n.value < 0
                takes.append(f"{own} - {-n.value}" if negative and n.value else n.text)
        news = [isinstance(p, ast.Constant) and p.value is None for p in filled]
        picks = [isinstance(p, ast.Slice) for p in filled]

        def at(index: Sequence[str]) -> str:
            here = iter(index)
            full = []
            t = iter(takes)
            for new, whole in zip(news, picks, strict=True):
                if new:
                    next(here)
                    continue
                fixed = next(t)
                full.append(next(here) if whole else str(fixed))
            return base.at(full)

        return replace(base, extents=tuple(extents), at=at)

    def attribute(self, e: ast.Attribute) -> Any:
        if isinstance(e.value, ast.Name) and e.value.id in ("torch", "math"):
            known = {"pi": 3.141592653589793, "e": 2.718281828459045, "inf": float("inf")}
            if e.attr in known:
                return _number(known[e.attr])
            return f"torch.{e.attr}"
        base = self.value(e.value)
        if isinstance(base, Array):
            if e.attr in ("T", "mT") and len(base.extents) >= 2:
                order = list(range(len(base.extents)))
                order[-2:] = order[-1], order[-2]
                if e.attr == "mT" or len(order) == 2:
                    return self.moved(base, order)
            if e.attr == "shape":
                return tuple(self.length(x) for x in base.extents)
            if e.attr in ("dtype", "device"):
                return f"{e.attr}"
            if e.attr == "ndim":
                return _number(len(base.extents))
        if isinstance(base, dict) and e.attr in base:
            return base[e.attr]
        raise self.fail(f"`{ast.unparse(e)}`")

    def length(self, extent: str) -> Number:
        value = int(extent) if extent.isdigit() else self.known.get(extent)
        return Number(extent, value)

    def call(self, e: ast.Call) -> Any:
        name, args = "", list(e.args)
        named = {k.arg: k.value for k in e.keywords if k.arg is not None}
        if isinstance(e.func, ast.Attribute):
            name = e.func.attr
            module = ast.unparse(e.func.value)
            if module not in ("torch", "math", "F", "torch.nn.functional", "torch.special"):
                args = [e.func.value, *args]
        elif isinstance(e.func, ast.Name):
            name = e.func.id
        values = [self.value(a) for a in args]
        more = {k: self.value(v) for k, v in named.items()}
        found = self.function(name, values, more)
        if found is None:
            raise self.fail(f"`{ast.unparse(e)}`")
        return found

    def function(self, name: str, v: list[Any], more: dict[str, Any]) -> Any:
        x = v[0] if v else more.pop("input", None)
        if isinstance(x, Number) and not any(isinstance(o, Array) for o in v):
            return self.scalar_function(name, x, v)
        if name in ("to", "type", "contiguous", "clone", "detach", "float", "half", "double",
                    "bfloat16", "long", "int"):  # fmt: skip
            return self.cast(name, x, [*v[1:], *more.values()])
        if name in ONE:
            return self.mapped(f"{name}({{0}})", x)
        how = more.get("approximate", "none")
        form = WRITTEN.get(name if how == "none" else f"{name} {how}")
        if form is not None:
            return self.mapped(form, x)
        if name in TWO and len(v) == 2:
            return self.mapped(TWO[name], *v)
        binary = {"add": "+", "sub": "-", "mul": "*", "div": "/", "true_divide": "/"}
        if name in binary and len(v) == 2 and not more:
            return self.mapped(f"{{0}} {binary[name]} {{1}}", *v)
        if name in ("clamp", "clip"):
            low = more.get("min", v[1] if len(v) > 1 else None)
            high = more.get("max", v[2] if len(v) > 2 else None)
            out = x
            if low is not None:
                out = self.mapped("max({0}, {1})", out, low)
            return out if high is None else self.mapped("min({0}, {1})", out, high)
        if name == "where" and len(v) == 3:
            kept = [o for o in v[1:] if isinstance(o, Array)]
            made = self.mapped("(if {0} then {1} else {2})", *v)
            return replace(made, kind=kept[0].kind if kept else "real")
        if name == "pow" and len(v) == 2:
            return self.power(*v)
        if name in ("matmul", "mm", "bmm", "mv") and len(v) == 2:
            return self.matmul(*v)
        if name == "linear" and len(v) >= 2:
            made = self.matmul(x, self.transposed(v[1]))
            bias = v[2] if len(v) > 2 else more.get("bias")
            return made if bias is None else self.mapped("{0} + {1}", made, bias)
        if name == "t":
            return self.transposed(x)
        if name in ("transpose", "swapaxes"):
            a, b = (self.axis(x, n) for n in v[1:3])
            order = list(range(len(x.extents)))
            order[a], order[b] = order[b], order[a]
            return self.moved(x, order)
        if name == "permute":
            given = v[1] if len(v) == 2 and isinstance(v[1], tuple) else tuple(v[1:])
            return self.moved(x, [self.axis(x, n) for n in given])
        if name == "unsqueeze":
            n = self.whole(v[1] if len(v) > 1 else more.get("dim"))
            at = n if n >= 0 else n + len(x.extents) + 1
            extents = (*x.extents[:at], "1", *x.extents[at:])
            return replace(x, extents=extents, at=lambda i: x.at([*i[:at], *i[at + 1 :]]))
        if name == "squeeze" and len(v) == 2:
            n = self.axis(x, v[1])
            return self.moved(x, [k for k in range(len(x.extents)) if k != n])
        if name == "size":
            lengths = tuple(self.length(n) for n in x.extents)
            return lengths[self.axis(x, v[1])] if len(v) > 1 else lengths
        reduced = ("sum", "mean", "amax", "amin", "max", "min", "prod", "any", "all", "argmax")
        if name in (*reduced, "argmin", *EXPONENTIAL):
            return self.reduction(name, x, v[1:], more)
        if name == "rms_norm" and len(v) >= 2:
            eps = more.get("eps", v[3] if len(v) > 3 else None)
            weight = more.get("weight", v[2] if len(v) > 2 else None)
            if isinstance(eps, Number):
                mean = self.reduction("mean", self.mapped("{0} * {0}", x), [_number(-1)],
                                      {"keepdim": _number(True)})  # fmt: skip
                out = self.mapped("{0} * rsqrt({1} + {2})", x, mean, eps)
                return out if weight is None else self.mapped("{0} * {1}", out, weight)
        return None

    def scalar_function(self, name: str, x: Number, v: list[Any]) -> Number | None:
        if name in ("float", "int", "bool"):
            return replace(x, real=name == "float")
        if name in ONE and x.value is not None and hasattr(math, name):
            try:
                return _number(getattr(math, name)(x.value))
            except (ArithmeticError, ValueError) as error:
                raise self.fail(str(error)) from None
        if name in ONE:
            return Number(f"{name}({x.text})", None, True)
        if name in ("max", "min") and all(isinstance(o, Number) for o in v):
            return Number(f"{name}({', '.join(o.text for o in v)})", None, x.real)
        return None

    def transposed(self, x: Any) -> Array:
        if not isinstance(x, Array) or len(x.extents) != 2:
            raise self.fail("a transpose of what has not two axes")
        return self.moved(x, [1, 0])

    def whole(self, n: Any) -> int:
        if isinstance(n, Number) and isinstance(n.value, int):
            return n.value
        raise self.fail("an axis that is no number")

    def axis(self, x: Array, n: Any) -> int:
        k = self.whole(n)
        if not -len(x.extents) <= k < len(x.extents):
            raise self.fail(f"axis {k} of a tensor with {len(x.extents)}")
        return k % len(x.extents)

    def cast(self, name: str, x: Any, given: list[Any]) -> Any:
        if not isinstance(x, Array):
            return x
        if name in DTYPES:
            given = [f"torch.{name}"]
        words = [g for g in given if isinstance(g, str)]
        wanted = [w.removeprefix("torch.") for w in words if w.startswith("torch.")]
        if name in ("contiguous", "clone", "detach") or not wanted:
            return x  # to the type or the device of another tensor
        if wanted[0] in WHOLE or name in ("long", "int"):
            if x.kind == "int":
                return x
            raise self.fail("a conversion to integers")
        if wanted[0] not in DTYPES:
            raise self.fail(f"a conversion to {wanted[0]}")
        if x.kind == "bool":
            return replace(self.mapped("(if {0} then 1 else 0)", x), kind="real")
        own = DTYPES[wanted[0]]
        if own in ("f16", "bf16"):
            return x  # a rounding on the way: over the reals nothing
        return replace(self.mapped(f"{own}({{0}})", x), kind="real")

    def reduction(self, name: str, x: Any, v: list[Any], more: dict[str, Any]) -> Any:
        if not isinstance(x, Array):
            raise self.fail(f"`{name}` of what is no tensor")
        if name in ("max", "min") and v and isinstance(v[0], Array):
            return self.mapped(f"{name}({{0}}, {{1}})", x, v[0])
        dims = more.get("dim", more.get("axis", v[0] if v else None))
        keep = more.get("keepdim", v[1] if len(v) > 1 else None)
        kept = isinstance(keep, Number) and keep.value is True
        listed = dims if isinstance(dims, tuple) else (dims,)
        axes = list(range(len(x.extents))) if dims is None else [self.axis(x, d) for d in listed]
        if name in EXPONENTIAL:
            return self.exponential(EXPONENTIAL[name], x, axes, kept)
        if name.startswith("arg") and len(axes) != 1:
            raise self.fail(f"`{name}` over {len(axes)} axes")
        kind = {"mean": "sum", "amax": "max", "amin": "min"}.get(name, name)
        made = self.reduced(kind, x, axes, kept)
        if name == "mean":
            count = " * ".join(x.extents[a] for a in axes)
            made = self.define("mean", self.mapped("{0} / {1}", made, Number(f"({count})")))
        if name in ("max", "min") and dims is not None:
            return {0: made, "values": made}
        return made

    def reduced(self, kind: str, x: Array, axes: Sequence[int], keep: bool) -> Array:
        rest = [n for n in range(len(x.extents)) if n not in axes]
        binders = {a: self.binder() for a in axes}
        extents = tuple("1" if n in axes else e for n, e in enumerate(x.extents))

        def at(index: Sequence[str]) -> str:
            full = [binders.get(n, i) for n, i in enumerate(index)]
            bound = ", ".join(f"{b}: {x.extents[a]}" for a, b in binders.items())
            return f"{kind}[{bound}]({x.at(full)})"

        out = "int" if kind.startswith("arg") else x.kind
        made = self.define(kind, Array(extents, at, out))
        return made if keep else self.moved(made, rest)

    def exponential(self, name: str, x: Array, axes: Sequence[int], keep: bool) -> Array:
        top = self.reduced("max", x, axes, True)
        shares = self.define("share", self.mapped("exp({0} - {1})", x, top))
        total = self.reduced("sum", shares, axes, True)
        if name == "share":
            return self.mapped("{0} / {1}", shares, total)
        if name == "log share":
            return self.mapped("{0} - {1} - log({2})", x, top, total)
        out = self.define("lse", self.mapped("{0} + log({1})", top, total))
        rest = [n for n in range(len(x.extents)) if n not in axes]
        return out if keep else self.moved(out, rest)


def _element(name: str) -> Element:
    def at(index: Sequence[str]) -> str:
        return f"{name}[{', '.join(index)}]" if index else name

    return at


def _is_read(a: Array) -> bool:
    """Whether an element is nothing but an element of a tensor that has a name."""
    text = a.at([f"?{n}" for n in range(len(a.extents))])
    return "(" not in text and " " not in text.replace(", ", ",")


def _fixed(extents: Sequence[str], index: Sequence[str]) -> list[str]:
    return ["0" if e == "1" else i for e, i in zip(extents, index, strict=True)]


def _atom(text: str) -> str:
    """The text as an operand."""
    depth = 0
    for n, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if not depth and c == " " and not text[:n].endswith(","):
            return f"({text})"
    return f"({text})" if text.startswith(("-", "if ")) else text
