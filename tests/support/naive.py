"""What a spec's text says, taken literally: plain Python numbers, one element at a time.

Written from the language page alone, over the syntax tree, and slow. It shares nothing with the
elaborator, the reference or any backend, so that agreement with it says something; the extents of
locals, which a text leaves to inference, are handed in where padded reads need them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from opwright.grammar import ast

Number = float | int | bool
Env = Mapping[str, Any]


class Wrong(Exception):
    """The text has no meaning here: a read out of range, a divisor that is not positive."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor by its shape and a function from an index to an element."""

    shape: tuple[int, ...]
    at: Callable[[tuple[int, ...]], Number]


def _total(f: Callable[[float], float], low: float = math.nan) -> Callable[[float], float]:
    """A function of the math module with IEEE results in place of errors."""

    def call(x: float) -> float:
        try:
            return f(x)
        except OverflowError:
            return math.inf
        except ValueError:
            return low if x == 0 else math.nan

    return call


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def divide(a: float, b: float) -> float:
    if b:
        return a / b
    if math.isnan(a) or a == 0:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _nearest(x: float) -> int:
    return round(x)  # half to even


ONE: dict[str, Callable[[Any], Any]] = {
    "abs": abs, "exp": _total(math.exp), "exp2": _total(lambda x: 2.0**x),
    "expm1": _total(math.expm1), "log": _total(math.log, -math.inf),
    "log2": _total(math.log2, -math.inf), "log1p": _total(math.log1p), "sqrt": _total(math.sqrt),
    "rsqrt": lambda x: divide(1.0, _total(math.sqrt)(x)), "sin": _total(math.sin),
    "cos": _total(math.cos), "tan": _total(math.tan), "sinh": _total(math.sinh),
    "cosh": _total(math.cosh), "tanh": math.tanh, "asin": _total(math.asin),
    "acos": _total(math.acos), "atan": math.atan, "erf": math.erf, "sigmoid": _sigmoid,
    "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "nearest": _nearest,
    "isnan": math.isnan, "isinf": math.isinf,
}  # fmt: skip
BITS = {  # significant bits, least exponent of a normal number, largest value
    "f64": (53, -1022, math.inf), "f32": (24, -126, math.inf), "f16": (11, -14, 65504.0),
    "bf16": (8, -126, math.inf),
}  # fmt: skip


def rounded(x: float, dtype: str) -> float:
    """The nearest number of a type, ties to even."""
    bits, least, top = BITS[dtype]
    if not math.isfinite(x) or x == 0:
        return x
    exponent = max(math.frexp(x)[1] - 1, least) - (bits - 1)
    unit = Fraction(2) ** exponent
    out = float(round(Fraction(x) / unit) * unit)
    return math.copysign(math.inf, x) if abs(out) > top else out


def larger(a: Any, b: Any) -> Any:
    return a if (isinstance(a, float) and math.isnan(a)) or not (b > a or b != b) else b


def smaller(a: Any, b: Any) -> Any:
    return a if (isinstance(a, float) and math.isnan(a)) or not (b < a or b != b) else b


def philox(seed: int, position: int, stream: int) -> tuple[int, ...]:
    """Philox4x32-10 with the seed as key; counter: position low and high, stream, 0."""
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    c = [position & 0xFFFFFFFF, position >> 32 & 0xFFFFFFFF, stream & 0xFFFFFFFF, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ key[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return tuple(c)


class Naive:
    """One call of one operator of a module."""

    def __init__(
        self,
        module: ast.Module,
        name: str,
        sizes: Mapping[str, int],
        params: Mapping[str, Number],
        inputs: Mapping[str, Whole],
        extents: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.module = module
        self.op = next(o for o in module.ops if o.name == name)
        self.inputs, self.extents = inputs, dict(extents or {})
        self.names: dict[str, Any] = dict(sizes)
        for p in self.op.params:
            if p.name in params:
                self.names[p.name] = params[p.name]
            elif p.default is not None:
                self.names[p.name] = self.value(p.default, {})
        for item in self.op.lets:
            self.names[item.name] = self.value(item.value, {})
        self.memo: dict[tuple[str, tuple[int, ...]], Number] = {}
        self.calls: dict[Any, Mapping[str, Whole]] = {}
        self.equations: dict[str, tuple[ast.Stmt, int]] = {}
        for s in self.op.defs:
            if isinstance(s, ast.Recurrence):
                self.equations[s.name] = s, 0
            elif isinstance(s, ast.Equation):
                for n, one in enumerate(s.lhs):
                    self.equations[one.name] = s, n
        streams = sorted(
            {n.span.start for i in self.op.items for n in ast.walk(i)
             if isinstance(n, ast.Call) and n.func in ("rand", "randn")}
        )  # fmt: skip
        self.streams = {at: n for n, at in enumerate(streams)}

    # -- tensors -----------------------------------------------------------------------------------

    def run(self) -> dict[str, dict[tuple[int, ...], Number]]:
        """Every element of every output."""
        out = {}
        for t in self.op.outputs:
            shape = self.shape(t.shape)
            out[t.name] = {at: self.element(t.name, at) for at in indices(shape)}
        return out

    def shape(self, extents: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(int(self.names[e.name] if isinstance(e, ast.Splat) else self.value(e, {}))
                     for e in extents)  # fmt: skip

    def whole(self, e: Any, env: Env) -> Whole:
        """A tensor-valued expression."""
        if isinstance(e, ast.Name):
            if e.name in self.inputs:
                return self.inputs[e.name]
            if e.name in self.equations:
                return Whole(self.extent(e.name), lambda at: self.element(e.name, at))
            raise Wrong(f"{e.name} is no tensor")
        if isinstance(e, ast.TensorLambda):
            binders = e.binders
            shape = tuple(self.value(b.hi, env) for b in binders)
            return Whole(
                shape,
                lambda at: self.value(
                    e.body, {**env, **{b.name: i for b, i in zip(binders, at, strict=True)}}
                ),
            )
        if isinstance(e, ast.Field):
            assert isinstance(e.base, ast.Call)
            short = {"v": "values", "i": "indices"} if e.base.func == "topk" else {}
            return self.results(e.base, env)[short.get(e.name, e.name)]
        if isinstance(e, ast.Call):
            found = self.results(e, env)
            if len(found) != 1:
                raise Wrong(f"{e.func} has several results")
            return next(iter(found.values()))
        raise Wrong(f"no tensor: {e}")

    def extent(self, name: str) -> tuple[int, ...]:
        for t in self.op.outputs:
            if t.name == name:
                return self.shape(t.shape)
        return self.extents[name]

    def results(self, e: ast.Call, env: Env) -> Mapping[str, Whole]:
        """The outputs of a call of another operator, or of `topk`."""
        key = (id(e), tuple(sorted(env.items())))
        if key in self.calls:
            return self.calls[key]
        if e.func == "topk":
            found = self.topk(self.whole(e.args[0], env), int(self.value(e.args[1], env)))
        else:
            callee = next(o for o in self.module.ops if o.name == e.func)
            inputs, sizes = {}, {}
            for t, arg in zip(callee.inputs, e.args, strict=True):
                inputs[t.name] = self.whole(arg, env)
                for x, n in zip(t.shape, inputs[t.name].shape, strict=True):
                    if isinstance(x, ast.Name | ast.Splat):
                        sizes[x.name] = n
            params = {k.name: self.value(k.value, env) for k in e.kwargs}
            inner = Naive(self.module, e.func, sizes, params, inputs)
            found = {
                t.name: Whole(inner.shape(t.shape), lambda at, n=t.name: inner.element(n, at))
                for t in callee.outputs
            }
        self.calls[key] = found
        return found

    def topk(self, x: Whole, k: int) -> Mapping[str, Whole]:
        def order(head: tuple[int, ...]) -> list[int]:
            row = [x.at((*head, j)) for j in range(x.shape[-1])]
            rank = {j: (0, 0.0) if row[j] != row[j] else (1, -row[j]) for j in range(len(row))}
            return sorted(rank, key=lambda j: (*rank[j], j))

        shape = (*x.shape[:-1], k)
        indices_ = Whole(shape, lambda at: order(at[:-1])[at[-1]])
        values = Whole(shape, lambda at: x.at((*at[:-1], order(at[:-1])[at[-1]])))
        return {"values": values, "indices": indices_}

    def element(self, name: str, at: tuple[int, ...]) -> Number:
        """One element of a defined tensor."""
        if (name, at) in self.memo:
            return self.memo[name, at]
        s, n = self.equations[name]
        if isinstance(s, ast.Recurrence):
            names = [i.name for i in s.indices if isinstance(i, ast.Name | ast.Splat)]
            out = self.value(s.rhs, dict(zip(names, at, strict=True)))
        else:
            assert isinstance(s, ast.Equation)
            left = s.lhs[n]
            if left.indices or (len(s.lhs) == 1 and not at):
                env = {i.name: v for i, v in zip(left.indices, at, strict=True)}
                out = self.value(s.rhs, env)
            else:
                assert isinstance(s.rhs, ast.Call)
                out = list(self.results(s.rhs, {}).values())[n].at(at)
        self.memo[name, at] = out
        return out

    # -- scalars -----------------------------------------------------------------------------------

    def value(self, e: Any, env: Env) -> Any:
        method = getattr(self, "_" + type(e).__name__.lower(), None)
        if method is None:
            raise Wrong(f"no scalar: {e}")
        return method(e, env)

    def _number(self, e: ast.Number, env: Env) -> Number:
        return e.value

    def _bool(self, e: ast.Bool, env: Env) -> Number:
        return e.value

    def _inf(self, e: ast.Inf, env: Env) -> Number:
        return math.inf

    def _name(self, e: ast.Name, env: Env) -> Number:
        if e.name in env:
            found: Number = env[e.name]
            return found
        if e.name in self.names:
            found = self.names[e.name]
            return found
        return self.whole(e, env).at(())

    def _unary(self, e: ast.Unary, env: Env) -> Number:
        x = self.value(e.x, env)
        return (not x) if e.op == "not" else -x

    def _binary(self, e: ast.Binary, env: Env) -> Number:
        a = self.value(e.a, env)
        if e.op in ("and", "or"):
            return bool(a) if bool(a) is (e.op == "or") else bool(self.value(e.b, env))
        b = self.value(e.b, env)
        if e.op == "/":
            return divide(a, b)
        if e.op in ("//", "%"):
            if b <= 0:
                raise Wrong(f"a divisor is {b}")
            return a // b if e.op == "//" else a % b
        return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b}[e.op]()

    def _compare(self, e: ast.Compare, env: Env) -> bool:
        values = [self.value(x, env) for x in e.operands]
        tests: dict[str, Callable[[Any, Any], bool]] = {
            "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "~=": lambda a, b: a == b,
            "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
            ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
        }  # fmt: skip
        return all(tests[o](*values[n : n + 2]) for n, o in enumerate(e.ops))

    def _member(self, e: ast.Member, env: Env) -> bool:
        return any(self.value(e.x, env) == self.value(o, env) for o in e.options)

    def _cond(self, e: ast.Cond, env: Env) -> Number:
        found: Number = self.value(e.a if self.value(e.c, env) else e.b, env)
        return found

    def _read(self, e: ast.Read, env: Env) -> Number:
        base = self.whole(e.base, env)
        at = tuple(
            env[i.name] if isinstance(i, ast.Splat) else int(self.value(i, env)) for i in e.indices
        )
        name = e.base.name if isinstance(e.base, ast.Name) else ""
        s = self.equations.get(name, (None, 0))[0]
        if isinstance(s, ast.Recurrence):
            names = [i.name for i in s.indices if isinstance(i, ast.Name | ast.Splat)]
            axis = names.index(s.axis)
            if at[axis] < 0:
                # `init` may speak of the other axes by name
                found: Number = self.value(s.init, dict(zip(names, at, strict=True)))
                return found
            return self.element(name, at)
        if name in self.equations and name not in self.extents and e.fill is None:
            return self.element(name, at)
        if any(not 0 <= i < n for i, n in zip(at, base.shape, strict=True)):
            if e.fill is None:
                raise Wrong(f"a read of {name} at {at} outside of {base.shape}")
            return self.value(e.fill, env)  # type: ignore[no-any-return]
        return base.at(at)

    def _field(self, e: ast.Field, env: Env) -> Number:
        return self.whole(e, env).at(())

    def _cast(self, e: ast.Cast, env: Env) -> Number:
        x = self.value(e.x, env)
        return float(x) if e.dtype in BITS else x

    def _round(self, e: ast.Round, env: Env) -> float:
        return rounded(float(self.value(e.x, env)), e.dtype)

    def _call(self, e: ast.Call, env: Env) -> Number:
        if e.func == "rand":
            return self.random(e, env)
        if e.func in ("max", "min"):
            values = [self.value(a, env) for a in e.args]
            out = values[0]
            for v in values[1:]:
                out = larger(out, v) if e.func == "max" else smaller(out, v)
            return out  # type: ignore[no-any-return]
        if e.func == "pow":
            a, b = (float(self.value(x, env)) for x in e.args)
            return math.pow(a, b)
        if e.func == "fma":
            a, b, c = (self.value(x, env) for x in e.args)
            return a * b + c  # type: ignore[no-any-return]
        if e.func in ONE:
            return ONE[e.func](self.value(e.args[0], env))  # type: ignore[no-any-return]
        return self.whole(e, env).at(())

    def random(self, e: ast.Call, env: Env) -> float:
        """`rand` at indices that are names: their extents make the position row-major."""
        seed, *at = (int(self.value(a, env)) for a in e.args)
        position = at[0]
        for arg, i in zip(e.args[2:], at[1:], strict=True):
            assert isinstance(arg, ast.Name)
            position = position * self.ranges[arg.name] + i
        stream = self.streams[e.span.start]
        return float((philox(seed, position, stream)[0] >> 8) * 2.0**-24)

    ranges: Mapping[str, int] = {}  # extents of index names, where random numbers need them

    # -- reductions --------------------------------------------------------------------------------

    def _reduce(self, e: ast.Reduce, env: Env) -> Any:
        values = [
            (at, self.value(e.body, at))
            for at in self.points(e.binders, env)
            if e.guard is None or self.value(e.guard, at)
        ]
        if e.kind == "sum":
            return sum((v for _, v in values), 0)
        if e.kind == "prod":
            return math.prod(v for _, v in values)
        if e.kind in ("any", "all"):
            return (any if e.kind == "any" else all)(v for _, v in values)
        if not values:
            raise Wrong(f"an empty {e.kind}")
        better = larger if e.kind in ("max", "argmax") else smaller
        at, best = values[0]
        for other, v in values[1:]:
            if best == best and better(best, v) is v and v != best:
                at, best = other, v
        return at[e.binders[0].name] if e.kind.startswith("arg") else best

    def points(self, binders: tuple[ast.Binder, ...], env: Env) -> Iterator[Env]:
        """Every assignment of the binders; later ranges may depend on earlier names."""
        if not binders:
            yield env
            return
        b = binders[0]
        lo = 0 if b.lo is None else int(self.value(b.lo, env))
        for i in range(lo, int(self.value(b.hi, env))):
            yield from self.points(binders[1:], {**env, b.name: i})


def indices(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every index of a shape in row-major order."""
    return itertools.product(*(range(n) for n in shape))
