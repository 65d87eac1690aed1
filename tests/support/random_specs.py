"""Random valid specs: texts over every construct of the language, by seed.

A spec is put together from one or more constructs; what its elements are is a random expression.
Sizes, guards and reads are chosen so that the text is meant to be valid for every size that its
`where` allows: a text that `check` refuses is a finding. Values stay of moderate size, and what
rounding could decide (comparisons, floors, extremes with an index) stands on inputs alone, so that
every backend has to agree with the float64 reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

Scope = list[tuple[str, str]]  # (index, extent) of every index in scope
SIZES = ("B", "N", "M", "K", "L", "D")
REAL_INPUTS = ("f32", "f32", "f32", "f64", "bf16", "f16")
REAL_OUTPUTS = ("f32", "f32", "f32", "f64", "bf16", "f16")
CONSTANTS = ("0.5", "1.5", "-0.75", "2", "0.25", "3", "-1")
UNARY = (
    "tanh({})", "sigmoid({})", "sin({})", "cos({})", "exp(min({}, 2))", "log(1 + abs({}))",
    "log1p(abs({}))", "sqrt(abs({}) + 0.25)", "rsqrt(abs({}) + 0.5)", "erf({})", "abs({})",
    "-({})", "expm1(min({}, 1))", "atan({})", "exp2(min({}, 2))", "f32({})",
    "pow(abs({}) + 0.5, 1.5)", "log2(1 + abs({}))", "max({}, 0)", "1 / (1 + abs({}))",
)  # fmt: skip
BINARY = (
    "{} + {}", "{} - {}", "({}) * ({})", "max({}, {})", "min({}, {})", "({}) / (1 + abs({}))",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RandomSpec:
    """A text, what it is made of, and how its inputs are drawn: `domains` hold by name
    ("real",), ("truth",), ("whole", lo, hi), ("index", extent) or ("pointer", end)."""

    name: str
    text: str
    constructs: tuple[str, ...]
    domains: dict[str, tuple[Any, ...]]
    seed: int = field(default=0, compare=False)


@dataclass(slots=True)
class _Tensor:
    name: str
    dtype: str
    extents: tuple[str, ...]


class Maker:
    """One operator; every construct adds equations and declares what it needs."""

    def __init__(self, rng: Random, name: str) -> None:
        self.rng, self.name = rng, name
        self.sizes: list[str] = []
        self.wheres: list[str] = []
        self.params: list[str] = []
        self.lets: list[str] = []
        self.requires: list[str] = []
        self.inputs: list[_Tensor] = []
        self.locals: list[_Tensor] = []
        self.outputs: list[_Tensor] = []
        self.updates: dict[str, str] = {}
        self.equations: list[str] = []
        self.domains: dict[str, tuple[Any, ...]] = {}
        self.helpers: list[str] = []
        self.used: list[str] = []
        self.count = 0
        self.reals = [rng.choice(REAL_INPUTS)]
        if rng.random() < 0.3:
            self.reals.append(rng.choice(REAL_INPUTS))
        self.result = rng.choice(REAL_OUTPUTS)
        # f32 marked beside f64 would allow two precisions at once
        self.mark = "f64" if "f64" in (*self.reals, self.result) else "f32"

    # -- names -------------------------------------------------------------------------------------

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def size(self, new: bool = False) -> str:
        """A dim, one that there is as a rule."""
        free = [s for s in SIZES if s not in self.sizes]
        if free and (new or not self.sizes or (len(self.sizes) < 4 and self.chance(0.4))):
            s = self.rng.choice(free)
            self.sizes.append(s)
            return s
        return self.rng.choice([s for s in self.sizes if s in SIZES])

    def other(self, *taken: str) -> str:
        """A dim that is none of these."""
        left = [s for s in self.sizes if s in SIZES and s not in taken]
        if left and self.chance(0.5):
            return self.rng.choice(left)
        s = self.rng.choice([s for s in SIZES if s not in self.sizes])
        self.sizes.append(s)
        return s

    def where(self, text: str) -> None:
        if text not in self.wheres:
            self.wheres.append(text)

    def scope(self, most: int = 3, least: int = 1) -> Scope:
        """Free indices over some dims, no dim twice."""
        found: Scope = []
        for n in range(self.rng.randint(least, most)):
            found.append(("ijk"[n], self.other(*(e for _, e in found))))
        return found

    # -- tensors -----------------------------------------------------------------------------------

    def tensor(self, dtype: str, extents: Sequence[str], domain: tuple[Any, ...]) -> _Tensor:
        """An input of that kind, an earlier one as a rule."""
        same = [t for t in self.inputs if t.dtype == dtype and t.extents == tuple(extents)
                and self.domains[t.name] == domain]  # fmt: skip
        if same and self.chance(0.5):
            return self.rng.choice(same)
        if same and len(self.inputs) > 4:
            return same[0]
        prefix = {"real": "x", "truth": "m", "whole": "c"}.get(domain[0], "p")
        t = _Tensor(self.fresh(prefix), dtype, tuple(extents))
        self.inputs.append(t)
        self.domains[t.name] = domain
        binders = ", ".join(f"a{n}: {e}" for n, e in enumerate(extents))
        at = "[" + ", ".join(f"a{n}" for n in range(len(extents))) + "]" if extents else ""
        whole = f"all[{binders}]" if extents else ""
        if domain[0] == "whole":
            claim = f"{domain[1]} <= {t.name}{at} and {t.name}{at} <= {domain[2]}"
            self.requires.append(f"{t.name}_small: {whole}({claim})")
        elif domain[0] == "index":
            claim = f"0 <= {t.name}{at} and {t.name}{at} < {domain[1]}"
            self.requires.append(f"{t.name}_in_range: {whole}({claim})")
        return t

    def real(self, extents: Sequence[str]) -> _Tensor:
        return self.tensor(self.rng.choice(self.reals), extents, ("real",))

    def whole(self, extents: Sequence[str]) -> _Tensor:
        return self.tensor(self.rng.choice(("i32", "i64", "i32", "i8")), extents, ("whole", -6, 6))

    def truth(self, extents: Sequence[str]) -> _Tensor:
        return self.tensor("bool", extents, ("truth",))

    def param(self, dtype: str) -> str:
        name = self.fresh({"bool": "flag", "i32": "shift"}.get(dtype, "scale"))
        default = {"bool": ("true", "false"), "i32": ("1", "2", "0")}.get(dtype, ("0.5", "1.25"))
        self.params.append(f"{name}: {dtype} = {self.rng.choice(default)}")
        return name

    def output(self, kind: str, scope: Scope, text: str, prefix: str = "y") -> str:
        """An output and its equation."""
        dtype = {"real": self.result, "int": self.rng.choice(("i64", "i32")), "bool": "bool"}[kind]
        t = _Tensor(self.fresh(prefix), dtype, tuple(e for _, e in scope))
        self.outputs.append(t)
        self.define(t.name, scope, text)
        return t.name

    def define(self, name: str, scope: Scope, text: str) -> None:
        at = "[" + ", ".join(i for i, _ in scope) + "]" if scope else ""
        self.equations.append(f"{name}{at} = {text}")

    # -- expressions -------------------------------------------------------------------------------

    def at(self, t: _Tensor, *index: str) -> str:
        return f"{t.name}[{', '.join(index)}]" if index else t.name

    def read(self, scope: Scope, make: Callable[[Sequence[str]], _Tensor], fill: str = "") -> str:
        """A read at indices in scope, some of them moved where there is a fill."""
        if not scope:
            return self.at(make(()))
        own = self.rng.sample(scope, self.rng.randint(1, min(len(scope), 3)))
        t = make([e for _, e in own])
        index = [i for i, _ in own]
        n = self.rng.randrange(len(own))
        i, e = own[n]
        r = self.rng.random()
        if r < 0.06:
            index[n] = f"{e} - 1 - {i}"
        elif r < 0.1:
            index[n] = f"({i} + {self.rng.choice((1, 2))}) % {_factor(e)}"
        elif r < 0.2 and fill:
            index[n] = f"{i} {self.rng.choice(('- 1', '+ 1', '- 2', '+ 3'))}"
            return f"({self.at(t, *index)} ?? {fill})"
        return self.at(t, *index)

    def raw(self, scope: Scope) -> str:
        """An element of a real input: exact everywhere."""
        return self.read(scope, self.real, self.rng.choice(("0", "0.5", "-1")))

    def leaf(self, scope: Scope) -> str:
        r = self.rng.random()
        names = {i for i, _ in scope}
        fit = [t for t in self.locals if t.dtype == "real" and set(t.extents) <= names]
        if fit and r < 0.15:
            t = self.rng.choice(fit)
            return self.at(t, *t.extents)
        if r < 0.72:
            return self.raw(scope)
        if r < 0.82:
            return self.rng.choice(CONSTANTS)
        if r < 0.88 and scope:
            return f"0.125 * {self.rng.choice(scope)[0]}"
        if r < 0.93:
            return f"0.25 * {self.read(scope, self.whole, '1')}"
        known = [p.partition(":")[0] for p in self.params if ": f32" in p]
        return self.rng.choice(known) if known else self.raw(scope)

    def expr(self, scope: Scope, depth: int = 2) -> str:
        """A real expression of moderate size."""
        if depth <= 0 or self.chance(0.15):
            return self.leaf(scope)
        r = self.rng.random()
        if r < 0.35:
            inner = self.expr(scope, depth - 1)
            return self.rng.choice(UNARY).format(inner).replace("f32(", f"{self.mark}(", 1)
        if r < 0.85:
            a, b = self.expr(scope, depth - 1), self.expr(scope, depth - 1)
            return self.rng.choice(BINARY).format(a, b)
        if r < 0.95:
            a, b = self.expr(scope, depth - 1), self.expr(scope, depth - 1)
            return f"(if {self.condition(scope)} then {a} else {b})"
        return f"({self.integer(scope, 1)}) * 0.125"

    def condition(self, scope: Scope, depth: int = 1) -> str:
        """A truth value that no rounding decides."""
        if depth > 0 and self.chance(0.25):
            a, b = self.condition(scope, 0), self.condition(scope, 0)
            return self.rng.choice(("{} and {}", "({} or {})", "not ({}) or {}")).format(a, b)
        options: list[Callable[[], str]] = [
            lambda: (
                f"{self.raw(scope)} {self.rng.choice(('<', '>', '<=', '>='))} "
                f"{self.rng.choice(('0', '0.5', '-0.25'))}"
            ),
            lambda: self.read(scope, self.truth),
            lambda: (
                f"{self.read(scope, self.whole, '0')} {self.rng.choice(('==', '<', '!='))} "
                f"{self.rng.choice(('0', '2', '-1'))}"
            ),
            lambda: f"{self.raw(scope)} <= {self.raw(scope)}",
        ]
        if scope:
            i, e = self.rng.choice(scope)
            options += [
                lambda: f"{i} % {self.rng.choice((2, 3))} == {self.rng.choice((0, 1))}",
                lambda: f"{i} in {{0, 2, 5}}",
                lambda: f"1 <= {i} < {e} - 1",
            ]
        if len(scope) > 1:
            (i, _), (j, _) = self.rng.sample(scope, 2)
            options += [lambda: f"{i} <= {j}", lambda: f"({i} + {j}) % 2 == 0"]
        return self.rng.choice(options)()

    def integer(self, scope: Scope, depth: int = 2) -> str:
        if depth <= 0 or self.chance(0.2):
            r = self.rng.random()
            if r < 0.6:
                return self.read(scope, self.whole, self.rng.choice(("0", "3", "-2")))
            if r < 0.8 and scope:
                return self.rng.choice(scope)[0]
            return self.rng.choice(("2", "3", "1"))
        a, b = self.integer(scope, depth - 1), self.integer(scope, depth - 1)
        c = self.rng.choice(("2", "3", "4"))
        return self.rng.choice((
            "{a} + {b}", "{a} - {b}", "({a}) * ({b})", "({a}) // {c}", "({a}) % {c}",
            "max({a}, {b})", "min({a}, {b})", "abs({a})", "(if {q} then {a} else {b})", "-({a})",
        )).format(a=a, b=b, c=c, q=self.condition(scope, 0))  # fmt: skip

    def binder(self, n: int = 0) -> str:
        return "rstuv"[n]

    def element(self, scope: Scope, kind: str, depth: int = 1) -> str:
        """What a reduction of that kind takes: bounded, so that a product stays so."""
        body = self.expr(scope, depth)
        return f"1 + 0.25 * tanh({body})" if kind == "prod" else body

    def reduction(self, scope: Scope, extent: str, guard: str = "", kinds: str = "") -> str:
        """Over one dim of its own."""
        r = self.binder()
        kind = self.rng.choice((kinds or "sum sum sum prod max min").split())
        inner = [*scope, (r, extent)]
        if kind in ("max", "min") and extent in self.sizes:
            self.where(f"{extent} >= 1")
        own = self.real([e for _, e in inner][-3:])
        plain = self.at(own, *[i for i, _ in inner][-3:])
        body = f"{plain} * {self.leaf(inner)}" if self.chance(0.5) else self.expr(inner, 2)
        if kind == "prod":
            body = f"1 + 0.25 * tanh({body})"
        acc = self.rng.choice(("", "", f".{self.mark}")) if kind in ("sum", "prod") else ""
        return f"{kind}{acc}[{r}: {extent}{guard}]({body})"

    # -- constructs --------------------------------------------------------------------------------

    def do_pointwise(self) -> None:
        scope = self.scope()
        self.output("real", scope, self.expr(scope, 3))

    def do_scalar(self) -> None:
        scope: Scope = []
        e = self.other()
        self.output("real", scope, f"{self.leaf(scope)} + {self.reduction(scope, e, kinds='sum')}")

    def do_broadcast(self) -> None:
        scope = self.scope(3, 2)
        parts = []
        for _ in range(self.rng.randint(2, 3)):
            own = self.rng.sample(scope, self.rng.randint(1, len(scope)))
            parts.append(self.at(self.real([e for _, e in own]), *(i for i, _ in own)))
        self.output("real", scope, " * ".join(parts) + f" + {self.expr(scope, 1)}")

    def do_reduction(self) -> None:
        scope = self.scope(2)
        e = self.other(*(x for _, x in scope))
        text = self.reduction(scope, e)
        self.output("real", scope, text if self.chance(0.5) else f"{text} + {self.expr(scope, 1)}")

    def do_two_axes(self) -> None:
        scope = self.scope(2, 0)
        a = self.other(*(x for _, x in scope))
        b = self.other(a, *(x for _, x in scope))
        inner = [*scope, ("r", a), ("s", b)]
        kind = self.rng.choice(("sum", "sum", "max", "prod"))
        if kind == "max":
            self.where(f"{a} >= 1")
            self.where(f"{b} >= 1")
        t = self.real([e for _, e in inner][-3:])
        plain = self.at(t, *[i for i, _ in inner][-3:])
        body = f"{plain} + {self.expr(inner, 1)}"
        body = f"1 + 0.25 * tanh({body})" if kind == "prod" else body
        self.output("real", scope, f"{kind}[r: {a}, s: {b}]({body})")

    def do_guard(self) -> None:
        scope = self.scope(2)
        i, e = scope[-1]
        kind = self.rng.choice(("same", "other"))
        extent = e if kind == "same" else self.other(*(x for _, x in scope))
        guard = (
            self.rng.choice((f"r <= {i}", f"r != {i}", f"({i} + r) % 2 == 0", f"{i} < r"))
            if kind == "same"
            else self.rng.choice(("r % 2 == 0", f"r >= {i}", "r < 3 or r % 3 == 1"))
        )
        body = self.reduction(scope, extent, f" | {guard}", "sum sum prod")
        self.output("real", scope, body)

    def do_data_guard(self) -> None:
        scope = self.scope(2)
        e = self.other(*(x for _, x in scope))
        inner = [*scope, ("r", e)]
        guard = self.condition(inner)
        self.output("real", scope, self.reduction(scope, e, f" | {guard}", "sum prod sum"))

    def do_scan(self) -> None:
        scope = self.scope(2)
        i, e = scope[-1]
        kind = self.rng.choice(("sum", "prod", "max", "min"))
        full = [f"0..{i} + 1", f"{i}..{e}", f"max(0, {i} - 2)..{i} + 1"]
        ranges = full if kind in ("max", "min") else [*full, f"0..{i}", f"{i} + 1..{e}"]
        head = scope[:-1]
        t = self.real([*(x for _, x in head), e])
        plain = self.at(t, *(x for x, _ in head), "r")
        body = plain if self.chance(0.5) else f"{plain} + {self.expr([*head, ('r', e)], 1)}"
        body = f"1 + 0.25 * tanh({body})" if kind == "prod" else body
        text = f"{kind}[r: {self.rng.choice(ranges)}]({body})"
        self.output("real", scope, text if self.chance(0.6) else f"{text} * {self.leaf(scope)}")

    def do_window(self) -> None:
        n = self.rng.choice((1, 1, 2))
        batch: Scope = [("b", self.other())] if self.chance(0.5) else []
        lengths = [self.other(*(e for _, e in batch))]
        if n == 2:
            lengths.append(self.other(*lengths, *(e for _, e in batch)))
        kind = self.rng.choice(("sum", "max", "weights"))
        width = self.rng.choice(("2", "3", "1"))
        stride, dilation = self.rng.choice(("1", "2")), self.rng.choice(("1", "1", "2"))
        pad = self.rng.choice(("0", "1", "2"))
        outs: list[str] = []
        for length in lengths:
            r = self.rng.random()
            if r < 0.4:
                outs.append(length)
            elif r < 0.7:
                p = self.fresh("P")
                self.sizes.append(p)  # fixed by no input: passed by name
                outs.append(p)
            else:
                reach = int(dilation) * (int(width) - 1) + 1
                self.where(f"{length} + 2 * {pad} >= {reach}")
                p = self.fresh("P")
                self.lets.append(f"{p} = ({length} + 2 * {pad} - {reach}) // {stride} + 1")
                outs.append(p)
        scope: Scope = [*batch, *zip("pq", outs, strict=False)]
        t = self.real([*(e for _, e in batch), *lengths])
        places = [
            f"{x} * {stride} + {r} * {dilation} - {pad}" for x, r in zip("pq", "rs", strict=True)
        ][:n]
        fill = {"max": "-inf", "sum": "0", "weights": "0"}[kind]
        read = f"({self.at(t, *(i for i, _ in batch), *places)} ?? {fill})"
        binders = ", ".join(f"{r}: {width}" for r in "rs"[:n])
        if kind == "weights":
            w = self.real([width] * n)
            read = f"{read} * {self.at(w, *'rs'[:n])}"
        self.output("real", scope, f"{'max' if kind == 'max' else 'sum'}[{binders}]({read})")

    def do_argmax(self) -> None:
        scope = self.scope(2)
        e = self.other(*(x for _, x in scope))
        self.where(f"{e} >= 1")
        inner = [*scope, ("r", e)]
        t = self.real([x for _, x in inner][-3:])
        plain = self.at(t, *[x for x, _ in inner][-3:])
        body = self.rng.choice((plain, f"abs({plain})", f"-{plain}"))
        kind = self.rng.choice(("argmax", "argmin"))
        y = self.output("int", scope, f"{kind}[r: {e}]({body})")
        if self.chance(0.4) and len(inner) <= 3:
            back = self.at(t, *[x for x, _ in scope], f"{y}[{', '.join(x for x, _ in scope)}]")
            self.output("real", scope, back)

    def do_select(self) -> None:
        scope = self.scope()
        i = scope[0][0]
        m = self.other(*(x for _, x in scope))
        t = self.real([m, *(x for _, x in scope[1:])])
        own = self.at(t, *(x for x, _ in scope))
        inner = f"if {i} < {m} then {own} else {self.expr(scope, 1)}"
        if self.chance(0.5):
            inner = f"if {self.condition(scope)} then {self.expr(scope, 1)} else {inner}"
        self.output("real", scope, inner)

    def do_concat(self) -> None:
        m = self.other()
        n = self.other(m)
        head: Scope = [("b", self.other(m, n))] if self.chance(0.5) else []
        scope: Scope = [*head, ("j", f"{m} + {n}")]
        a, b = self.real([*(e for _, e in head), m]), self.real([*(e for _, e in head), n])
        front = [i for i, _ in head]
        text = f"if j < {m} then {self.at(a, *front, 'j')} else {self.at(b, *front, f'j - {m}')}"
        self.output("real", scope, text)

    def do_integers(self) -> None:
        scope = self.scope(2)
        text = self.integer(scope)
        if self.chance(0.4):
            e = self.other(*(x for _, x in scope))
            kind = self.rng.choice(("sum", "max", "min"))
            if kind != "sum":
                self.where(f"{e} >= 1")
            text = (
                f"{kind}[r: {e}]({self.integer([*scope, ('r', e)], 1)}) + {self.integer(scope, 1)}"
            )
        self.output("int", scope, text)

    def do_truth(self) -> None:
        scope = self.scope(2)
        text = self.condition(scope)
        if self.chance(0.6):
            e = self.other(*(x for _, x in scope))
            guard = "" if self.chance(0.6) else " | r % 2 == 0"
            body = self.condition([*scope, ("r", e)])
            text = f"{self.rng.choice(('any', 'all'))}[r: {e}{guard}]({body})"
            if self.chance(0.4):
                text = f"{text} or {self.condition(scope, 0)}"
        self.output("bool", scope, text)

    def do_casts(self) -> None:
        scope = self.scope(2)
        raw = self.raw(scope)
        self.output("real", scope, f"{self.mark}({raw}) * {self.expr(scope, 1)}")
        if self.chance(0.5):
            self.output(
                "int", scope, f"{self.rng.choice(('floor', 'ceil', 'trunc', 'nearest'))}({raw} * 4)"
            )

    def do_rounding(self) -> None:
        scope = self.scope(2)
        kind = self.rng.choice(("bf16", "f16"))
        self.output("real", scope, f"round.{kind}({self.raw(scope)}) * 2 + {self.expr(scope, 1)}")

    def do_params(self) -> None:
        scope = self.scope(2)
        scale, flag, shift = self.param("f32"), self.param("bool"), self.param("i32")
        self.where(f"{shift} >= 0")
        t = self.real([e for _, e in scope])
        index = [i for i, _ in scope]
        index[-1] = f"{index[-1]} - {shift}"
        text = f"if {flag} then {scale} * {self.expr(scope, 1)} else {self.at(t, *index)} ?? 0"
        self.output("real", scope, text)

    def do_where(self) -> None:
        e = self.size(new=True)
        self.where(
            self.rng.choice((f"{e} % 2 == 0", f"{e} in {{2, 4, 8}}", f"{e} % 2 == 0, {e} <= 64"))
        )
        t = self.real([e])
        how = self.rng.choice(("pairs", "halves", "share"))
        if how == "pairs":
            self.output("real", [("i", f"{e} // 2")], f"{t.name}[2 * i] - {t.name}[2 * i + 1]")
        elif how == "halves":
            half = self.fresh("H")
            self.lets.append(f"{half} = {e} // 2")
            text = f"if i < {half} then {t.name}[i + {half}] else -{t.name}[i - {half}]"
            self.output("real", [("i", e)], text)
        else:
            self.output(
                "real", [("i", e)], f"{t.name}[i] * {self.real([f'{e} // 2']).name}[i // 2]"
            )

    def do_split_index(self) -> None:
        a = self.other()
        b = self.other(a)
        self.where(f"{b} >= 1")
        t = self.real([a, b])
        scope: Scope = [("i", f"{a} * {b}")]
        self.output(
            "real",
            scope,
            f"{self.at(t, f'i // {b}', f'i % {b}')} * 2 + {self.rng.choice(CONSTANTS)}",
        )

    def do_merge_index(self) -> None:
        a = self.other()
        b = self.other(a)
        t = self.real([f"{a} * {b}"])
        if self.chance(0.5):
            self.output("real", [("i", a), ("j", b)], f"sin({t.name}[i * {b} + j])")
        else:
            self.output("real", [("i", a)], f"sum[r: {b}]({t.name}[i * {b} + r])")

    def do_leading(self) -> None:
        if "batch..." in self.sizes:
            return self.do_pointwise()
        self.sizes.insert(0, "batch...")
        e = self.other()
        t = self.real(["batch...", e])
        if self.chance(0.5):
            self.output("real", [("batch...", "batch..."), ("j", e)],
                        f"{t.name}[batch..., j] * {self.expr([('j', e)], 1)}")  # fmt: skip
        else:
            kind = self.rng.choice(("sum", "max"))
            if kind == "max":
                self.where(f"{e} >= 1")
            self.output(
                "real", [("batch...", "batch...")], f"{kind}[r: {e}]({t.name}[batch..., r])"
            )
        return None

    def do_gather(self) -> None:
        v = self.other()
        self.where(f"{v} >= 1")
        n = self.other(v)
        d = self.other(v, n)
        table = self.real([v, d])
        ids = self.tensor(self.rng.choice(("i32", "i64")), [n], ("index", v))
        scope: Scope = [("i", n), ("j", d)]
        text = f"{self.at(table, f'{ids.name}[i]', 'j')} * {self.expr(scope, 1)}"
        self.output("real", scope, text)

    def do_scatter(self) -> None:
        v = self.other()
        self.where(f"{v} >= 1")
        n = self.other(v)
        ids = self.tensor(self.rng.choice(("i32", "i64")), [n], ("index", v))
        scope: Scope = [("i", v)]
        if self.chance(0.6):
            scope.append(("j", self.other(v, n)))
        source = self.real([n, *(e for _, e in scope[1:])])
        body = self.at(source, "r", *(i for i, _ in scope[1:]))
        text = f"sum[r: {n} | {ids.name}[r] == i]({body})"
        self.output("real", scope, text if self.chance(0.5) else f"{self.raw(scope)} + {text}")

    def do_segments(self) -> None:
        rows = self.other()
        z = self.other(rows)
        c = self.other(rows, z)
        self.where(f"{c} >= 1")
        ptr = _Tensor(self.fresh("p"), self.rng.choice(("i32", "i64")), (f"{rows} + 1",))
        self.inputs.append(ptr)
        self.domains[ptr.name] = ("pointer", z)
        p = ptr.name
        self.requires.append(f"{p}_start: {p}[0] == 0")
        self.requires.append(
            f"{p}_rises: all[a0: {rows}](0 <= {p}[a0] and {p}[a0] <= {p}[a0 + 1]"
            f" and {p}[a0 + 1] <= {z})"
        )
        col = self.tensor("i32", [z], ("index", c))
        value, x = self.real([z]), self.real([c])
        body = f"{value.name}[r] * {x.name}[{col.name}[r]]"
        self.output("real", [("i", rows)], f"sum[r: {p}[i]..{p}[i + 1]]({body})")

    def do_recurrence(self) -> None:
        head: Scope = [("b", self.other())] if self.chance(0.6) else []
        e = self.other(*(x for _, x in head))
        scope: Scope = [*head, ("t", e)]
        front = [i for i, _ in head]
        x = self.real([*(x for _, x in head), e])
        own = self.at(x, *front, "t")
        h = self.fresh("y")
        self.outputs.append(_Tensor(h, self.result, tuple(x for _, x in scope)))
        index = ", ".join((*front, "t"))
        back = f"{h}[{', '.join((*front, 't - 1'))}]"
        how = self.rng.choice(("linear", "gated", "two", "extreme"))
        init = self.rng.choice(("0", "0.5", self.at(self.real([z for _, z in head]), *front)))
        text = {
            "linear": f"0.75 * {back} + {own}",
            "gated": f"sigmoid({self.expr(scope, 1)}) * {back} + tanh({own})",
            "extreme": f"max({back}, {own})",
            "two": f"0.5 * {back} + {own}",
        }[how]
        if how == "two":
            g = self.fresh("y")
            self.outputs.append(_Tensor(g, self.result, tuple(x for _, x in scope)))
            other = f"{g}[{', '.join((*front, 't - 1'))}]"
            self.equations.append(
                f"rec t: {g}[{index}] = 0.5 * {other} + 0.25 * {h}[{index}] init 0"
            )
            text = f"0.5 * {back} - 0.25 * {other} + {own}"
        self.equations.append(f"rec t: {h}[{index}] = {text} init {init}")

    def do_contraction(self) -> None:
        i, j = self.other(), ""
        j = self.other(i)
        k = self.other(i, j)
        batch: Scope = [("b", self.other(i, j, k))] if self.chance(0.25) else []
        front, lead = [x for x, _ in batch], [e for _, e in batch]
        a = self.real([*lead, i, k] if self.chance(0.7) else [*lead, k, i])
        b = self.real([*lead, k, j] if self.chance(0.5) else [*lead, j, k])
        left = self.at(a, *front, *(("i", "r") if a.extents[-1] == k else ("r", "i")))
        right = self.at(b, *front, *(("r", "j") if b.extents[-2] == k else ("j", "r")))
        if self.chance(0.3):
            left = f"max({left}, 0)"
        scope: Scope = [*batch, ("i", i), ("j", j)]
        acc = self.rng.choice(("", f".{self.mark}"))
        text = f"sum{acc}[r: {k}]({left} * {right})"
        if self.chance(0.5):
            text = f"tanh({text} + {self.leaf([('j', j)])})"
        self.output("real", scope, text)

    def do_locals(self) -> None:
        scope: Scope = [("i", self.other())]
        e = self.other(scope[0][1])
        self.where(f"{e} >= 1")
        t = self.real([scope[0][1], e])
        m, z, p = (self.fresh("l") for _ in range(3))
        how = self.rng.choice(("shares", "moments", "chain", "shared"))
        if how == "shares":
            self.define(m, scope, f"max[r: {e}]({t.name}[i, r])")
            self.define(p, [*scope, ("j", e)], f"exp({t.name}[i, j] - {m}[i])")
            self.define(z, scope, f"sum[r: {e}]({p}[i, r])")
            self.output("real", [*scope, ("j", e)], f"{p}[i, j] / {z}[i]")
        elif how == "moments":
            self.define(m, scope, f"sum[r: {e}]({t.name}[i, r]) / {e}")
            self.define(
                z,
                scope,
                f"sum[r: {e}](({t.name}[i, r] - {m}[i]) * ({t.name}[i, r] - {m}[i])) / {e}",
            )
            self.output(
                "real", [*scope, ("j", e)], f"({t.name}[i, j] - {m}[i]) * rsqrt({z}[i] + 0.5)"
            )
        elif how == "chain":
            self.define(
                p, [*scope, ("j", e)], f"{t.name}[i, j] * 2 + {self.expr([*scope, ('j', e)], 1)}"
            )
            self.define(m, [*scope, ("j", e)], f"tanh({p}[i, j]) + {t.name}[i, {e} - 1 - j]")
            self.output("real", scope, f"sum[r: {e}]({m}[i, r] * {p}[i, r])")
        else:
            self.define(p, [*scope, ("j", e)], f"sin({t.name}[i, j])")
            self.output("real", [*scope, ("j", e)], f"{p}[i, j] + ({p}[i, j - 1] ?? 0)")
            self.output("real", scope, f"max[r: {e}]({p}[i, r])")

    def do_outputs(self) -> None:
        scope = self.scope(2)
        y = self.output("real", scope, self.expr(scope, 2))
        index = ", ".join(i for i, _ in scope)
        self.output("real", scope, f"{y}[{index}] * 0.5 + {self.expr(scope, 1)}")
        if self.chance(0.5):
            e = scope[-1][1]
            inner = [*scope[:-1], ("r", e)]
            read = f"{y}[{', '.join(i for i, _ in inner)}]"
            self.output("real", scope[:-1], f"sum[r: {e}]({read})")

    def do_updates(self) -> None:
        scope = self.scope(2)
        t = _Tensor(self.fresh("x"), "f32", tuple(e for _, e in scope))
        self.inputs.append(t)
        self.domains[t.name] = ("real",)
        y = self.fresh("y")
        self.outputs.append(_Tensor(y, "f32", t.extents))
        self.updates[y] = t.name
        self.define(
            y, scope, f"0.75 * {self.at(t, *(i for i, _ in scope))} + {self.expr(scope, 1)}"
        )

    def do_call(self) -> None:
        """Another operator of the file, on an input or on a literal."""
        helper = f"helper{len(self.helpers)}"
        kind = self.rng.choice(("rows", "map"))
        body = {
            "rows": "    z[i] = sum[j: Q](v[i, j] * 0.5)\n    w[i, j] = v[i, j] - z[i]",
            "map": "    z[i] = 1 + sum[j: Q](abs(v[i, j]))\n    w[i, j] = v[i, j] / z[i]",
        }[kind]
        self.helpers.append(
            f"op {helper} @ 1.0 {{\n  dims P, Q\n  input v: f32[P, Q]\n"
            f"  output w: f32[P, Q], z: f32[P]\n  def {{\n{body}\n  }}\n}}\n"
        )
        a = self.other()
        b = self.other(a)
        t = self.tensor("f32", [a, b], ("real",))
        how = self.rng.choice(("whole", "literal", "field"))
        scope: Scope = [("i", a), ("j", b)]
        if how == "whole":
            s = self.fresh("l")
            self.define(s, [*scope], f"{helper}({t.name}).w[i, j]")
            self.output("real", scope, f"{s}[i, j] + {self.expr(scope, 1)}")
        elif how == "literal":
            self.output("real", scope, f"{helper}([i: {a}, j: {b} => {t.name}[i, j] * 2]).w[i, j]")
        else:
            self.output("real", [("i", a)], f"{helper}({t.name}).z[i] * 0.5")

    def do_topk(self) -> None:
        b = self.other()
        n = self.other(b)
        k = self.rng.choice(("1", "2"))
        self.where(f"{n} >= {k}")
        t = self.tensor(self.rng.choice(("f32", "i32")), [b, n], ("real",))
        if t.dtype == "i32":
            self.domains[t.name] = ("whole", -6, 6)
        v, i = self.fresh("y"), self.fresh("y")
        self.outputs += [_Tensor(v, t.dtype, (b, k)), _Tensor(i, "i64", (b, k))]
        self.equations.append(f"{v}, {i} = topk({t.name}, {k})")

    def do_random(self) -> None:
        seed = self.fresh("seed")
        self.params.append(f"{seed}: i64 = {self.rng.choice((7, 123456789))}")
        scope = self.scope(2)
        index = ", ".join(i for i, _ in scope)
        text = f"rand({seed}, {index})"
        if self.chance(0.5):
            text = f"if {text} < 0.5 then {self.expr(scope, 1)} else 0"
        self.output("real", scope, text)

    def do_diagonal(self) -> None:
        e = self.other()
        t = self.real([e, e])
        if self.chance(0.5):
            self.output("real", [("i", e)], f"{t.name}[i, i] + {self.expr([('i', e)], 1)}")
        else:
            self.output("real", [], f"sum[r: {e}]({t.name}[r, r])")

    def do_triangle(self) -> None:
        i, j = self.other(), ""
        j = self.other(i)
        a, b = self.real([i, i]), self.real([i, j])
        bounds = self.rng.choice(("0..i + 1", f"i..{i}"))
        self.output(
            "real", [("i", i), ("j", j)], f"sum[r: {bounds}]({a.name}[i, r] * {b.name}[r, j])"
        )

    def do_transposed_window(self) -> None:
        n = self.other()
        width, stride = self.rng.choice((2, 3)), self.rng.choice((1, 2, 3))
        self.where(f"{n} >= 1")
        x, w = self.real([n]), self.real([str(width)])
        out = f"({n} - 1) * {stride} + {width}"
        read = f"({x.name}[(p - r) // {stride}] ?? 0)"
        text = f"sum[r: {width} | (p - r) % {stride} == 0]({read} * {w.name}[r])"
        self.output("real", [("p", out)], text)

    def do_nested(self) -> None:
        """A reduction inside the element of another."""
        scope = self.scope(1)
        a = self.other(scope[0][1])
        b = self.other(a, scope[0][1])
        t, u = self.real([scope[0][1], a]), self.real([a, b])
        inner = f"sum[s: {b}]({u.name}[r, s] * {self.leaf([('r', a), ('s', b)])})"
        self.output("real", scope, f"sum[r: {a}](tanh({t.name}[i, r]) * {inner})")

    def do_dependent_binders(self) -> None:
        """A range that depends on another index of the same reduction."""
        scope: Scope = [("i", self.other())] if self.chance(0.7) else []
        e = self.other(*(x for _, x in scope))
        t = self.real([e, e])
        bounds = self.rng.choice(("0..r + 1", f"r..{e}", f"0..min(r + 2, {e})", "0..r"))
        body = f"{t.name}[r, s]"
        if scope:
            body = f"{body} * {self.at(self.real([scope[0][1], e]), 'i', 's')}"
        self.output("real", scope, f"sum[r: {e}, s: {bounds}]({body})")

    def do_fills(self) -> None:
        """Padded reads of integers and truth values, by computed indices."""
        scope = self.scope(2)
        i, e = scope[-1]
        k, m = self.whole([e]), self.truth([e])
        self.output("int", scope, f"({k.name}[{i} + 1] ?? 7) + {k.name}[{i}]")
        if self.chance(0.5):
            fill = self.rng.choice(("true", "false"))
            self.output("bool", scope, f"{m.name}[{i} - 1] ?? {fill}")
        if self.chance(0.5):
            x = self.real([e])
            self.output("real", scope, f"{x.name}[{i} + {k.name}[{i}]] ?? 0.25")

    def do_cell(self) -> None:
        """A recurrence whose step reduces the state before."""
        e, h = self.other(), ""
        h = self.other(e)
        x, w = self.real([e, h]), self.real([h, h])
        y = self.fresh("y")
        self.outputs.append(_Tensor(y, self.result, (e, h)))
        inner = f"sum[r: {h}]({w.name}[i, r] * {y}[t - 1, r])"
        init = self.rng.choice(("0", self.at(self.real([h]), "i")))
        self.equations.append(f"rec t: {y}[t, i] = tanh({inner} + {x.name}[t, i]) init {init}")

    def do_masked_best(self) -> None:
        """An extreme under a guard that a choice keeps from being empty."""
        scope = self.scope(2)
        e = self.other(*(x for _, x in scope))
        inner = [*scope, ("r", e)]
        t = self.real([x for _, x in inner][-3:])
        plain = self.at(t, *[x for x, _ in inner][-3:])
        guard = self.read(inner, self.truth) if self.chance(0.5) else f"{plain} > 0"
        kind = self.rng.choice(("max", "min", "argmax", "argmin"))
        some = f"any[r: {e}]({guard})"
        best = f"{kind}[r: {e} | {guard}]({plain})"
        out = "int" if kind.startswith("arg") else "real"
        self.output(out, scope, f"if {some} then {best} else {'-1' if out == 'int' else '0'}")

    def do_counts(self) -> None:
        """Reductions of integers, and counts as numbers."""
        scope = self.scope(2)
        e = self.other(*(x for _, x in scope))
        inner = [*scope, ("r", e)]
        count = f"sum.{self.rng.choice(('i32', 'i64'))}[r: {e} | {self.condition(inner, 0)}](1)"
        if self.chance(0.5):
            self.output("int", scope, f"{count} * 2 - {self.integer(scope, 1)}")
        else:
            self.output("real", scope, f"{count} * 0.5 / (1 + {e})")
        if self.chance(0.4):
            self.where(f"{e} >= 1")
            kind = self.rng.choice(("max", "min", "argmax"))
            own = self.at(self.whole([x for _, x in inner][-2:]), *[x for x, _ in inner][-2:])
            self.output("int", scope, f"{kind}[r: {e}]({own} * 3 - r)")

    def do_chain_of_scans(self) -> None:
        """Running results of running results."""
        scope: Scope = [("b", self.other())] if self.chance(0.5) else []
        e = self.other(*(x for _, x in scope))
        front = [i for i, _ in scope]
        t = self.real([*(x for _, x in scope), e])
        m = self.fresh("l")
        read = self.at(t, *front, "r")
        self.define(m, [*scope, ("t", e)], f"max[r: 0..t + 1]({read})")
        own = f"{m}[{', '.join([*front, 'r'])}]"
        self.output("real", [*scope, ("t", e)], f"sum[r: 0..t + 1](exp({read} - {own}))")

    # -- the text ----------------------------------------------------------------------------------

    def text(self) -> str:
        lines = ['opwright "0.1"\n', *self.helpers, f"op {self.name} @ 1.0 {{"]
        if self.sizes:
            lines.append(f"  dims {', '.join(self.sizes)}")
        lines += [f"  param {p}" for p in self.params]
        lines += [f"  where {w}" for w in self.wheres]
        lines += [f"  let {x}" for x in self.lets]
        declared = [_declared(t) for t in self.inputs]
        if declared:
            lines.append(f"  input {', '.join(declared)}")
        outs = [
            _declared(t) + (f" updates {self.updates[t.name]}" if t.name in self.updates else "")
            for t in self.outputs
        ]
        lines.append(f"  output {', '.join(outs)}")
        equations = list(self.equations)
        self.rng.shuffle(equations)
        lines += ["  def {", *(f"    {e}" for e in equations), "  }"]
        lines += [f"  requires {r}" for r in self.requires]
        return "\n".join([*lines, "}"]) + "\n"


def _declared(t: _Tensor) -> str:
    return f"{t.name}: {t.dtype}" + (f"[{', '.join(t.extents)}]" if t.extents else "")


def _factor(e: str) -> str:
    return e if e.isidentifier() else f"({e})"


CONSTRUCTS = tuple(n.removeprefix("do_") for n in vars(Maker) if n.startswith("do_"))


def make(seed: int, rng: Random | None = None) -> RandomSpec:
    """The random spec of a seed: its construct goes round through all of them, others may join."""
    rng = rng or Random(f"spec:{seed}")
    name = f"r{seed}"
    maker = Maker(rng, name)
    wanted = [CONSTRUCTS[seed % len(CONSTRUCTS)]]
    while len(wanted) < 3 and rng.random() < 0.35:
        wanted.append(rng.choice(CONSTRUCTS))
    for construct in wanted:
        if len(maker.sizes) > 3 and maker.used:
            break
        getattr(maker, f"do_{construct}")()
        maker.used.append(construct)
    return RandomSpec(name, maker.text(), tuple(dict.fromkeys(maker.used)), maker.domains, seed)
