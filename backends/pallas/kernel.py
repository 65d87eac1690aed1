"""One Pallas kernel as TileIR: its equations, over index expressions and tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opwright.backends.jax.arrays import dimension, type_of
from opwright.backends.pallas.axes import Axes, Dims
from opwright.ir.dtypes import BOOL, F32, I64, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    affine,
    call,
    conjunction,
    conjuncts,
    const,
    leaves,
    pid,
    show,
    walk,
)
from opwright.ir.extents import from_affine
from opwright.ir.launch import ImportRefusal
from opwright.ir.tile import Axis, Buffer, Builder, Dot, Kernel, Scan, Value

Atom = Mapping[str, Any]
LOW, HIGH = -(2**31), 2**31 - 1
_ROWS = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "div", "max": "max", "min": "min",
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log1p": "log1p",
    "sqrt": "sqrt", "rsqrt": "rsqrt", "sin": "sin", "cos": "cos", "tan": "tan", "tanh": "tanh",
    "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh",
    "logistic": "sigmoid", "erf": "erf", "abs": "abs", "neg": "neg", "pow": "pow",
}  # fmt: skip
_COMPARE = {"lt": "lt", "le": "le", "eq": "eq", "ne": "ne", "gt": "lt", "ge": "le"}
_REDUCE = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
           "reduce_or": "any", "reduce_and": "all"}  # fmt: skip
_KEPT = ("copy", "copy_p", "stop_gradient", "optimization_barrier")


@dataclass(frozen=True, slots=True)
class Block:
    """What a reference of a kernel stands for: blocks of a buffer, or one param."""

    source: Any
    spec: Mapping[str, Any]
    role: str  # in | out


@dataclass(frozen=True, slots=True)
class Sym:
    """Integers or truth values as an index expression; `bits` of the numbers that hold them."""

    e: Expr
    bits: int = 32


@dataclass(slots=True, eq=False)
class Late:
    """A load that has not happened: what selects among its lanes may become its mask."""

    buffer: Buffer
    index: tuple[Expr, ...]
    inside: Expr
    value: Value | None = None


@dataclass(slots=True)
class _Ref:
    block: Block
    first: tuple[Expr, ...] = ()  # of the block, in blocks
    extents: tuple[Expr | None, ...] = ()  # None: squeezed
    known: set[Expr] = field(default_factory=set)


class KernelReader:
    """Reads one kernel into a builder."""

    def __init__(
        self,
        name: str,
        grid: tuple[Expr, ...],
        blocks: Sequence[Block],
        jaxpr: Mapping[str, Any],
        facts: Sequence[Expr],
        file: str,
    ) -> None:
        self.b = Builder(name, grid)
        self.grid, self.blocks, self.jaxpr, self.file = grid, blocks, jaxpr, file
        self.line = 0
        self.env: dict[int, Any] = {}
        self.exact = {f.args[0]: f.args[1] for f in facts if f.op == "eq"}
        self.checked: set[Expr] = set()
        self.steps: dict[Expr | None, int] = {}  # loop variables that are multiples of a number
        self.axes = Axes(jaxpr)

    def refuse(self, what: str) -> ImportRefusal:
        return ImportRefusal(what, self.file, self.line)

    def kernel(self) -> Kernel:
        for v, block in zip(self.jaxpr["in"], self.blocks, strict=True):
            self.env[v["var"]] = self.reference(block)
        self.run(self.jaxpr)
        return self.b.kernel()

    # -- blocks -----------------------------------------------------------------------------------

    def reference(self, block: Block) -> _Ref:
        """The place of a program's block: its index map at the program's ids."""
        found = block.spec["map"]
        keep, self.env = self.env, {}
        for n, v in enumerate(found["in"]):
            self.env[v["var"]] = Sym(pid(n))
        self.run(found)
        first = tuple(self.whole(self.atom(x)) for x in found["out"])
        self.env = keep
        extents = tuple(None if n is None else dimension(n) for n in block.spec["block"])
        return _Ref(block, first, extents)

    def elements(self, ref: _Ref, eqn: Mapping[str, Any], dims: Dims) -> tuple[list[Expr], Expr]:
        """The index tuple in the array, and which lanes are inside of it."""
        buffer: Buffer = ref.block.source
        places = list(eqn["params"]["index"])
        lanes = list(dims)
        index: list[Expr] = []
        masks: list[Expr] = []
        for first, extent, n in zip(ref.first, ref.extents, buffer.shape, strict=True):
            start = first if extent is None else first * extent
            self.observed(start)
            if extent is None:
                index.append(start)
                continue
            self.stated(call("le", ZERO, start), "blocks do not begin before an array")
            place = places.pop(0)
            if "at" in place:
                local = self.place(place["at"])
                self.inside_block(local, 1, extent)
                index.append(start + local)
                continue
            size = place["size"]
            if place["stride"] != 1 or not isinstance(size, int):
                raise self.refuse("a slice of a block that is no tile of a fixed extent")
            offset = self.place(place["start"])
            self.inside_block(offset, size, extent)
            axis = lanes.pop(0)
            at = start + offset
            if axis is None:
                index.append(at)
                continue
            if at is not ZERO:
                self.stated(call("lt", start, n), "blocks begin inside of an array")
            index.append(at + axis.lane)
            if not self.divides(at, n, axis.extent):
                masks.append(call("lt", index[-1], n))
        return index, conjunction(masks)

    def place(self, x: Any) -> Expr:
        if isinstance(x, int):
            return const(x)
        if isinstance(x, str):
            return dimension(x)
        if x["shape"]:
            raise self.refuse("an access at places that an array holds")
        e = self.whole(self.atom(x))
        self.observed(e)
        return e

    def inside_block(self, start: Expr, size: int, extent: Expr) -> None:
        """A slice past the end of a block would be moved back into it."""
        self.stated(call("le", ZERO, start), "a slice begins inside of a block")
        self.stated(call("le", start + size, extent), "a slice ends inside of a block")

    def divides(self, start: Expr, n: Expr, extent: int) -> bool:
        """Whether an array has whole tiles: none of them goes past its end."""
        form = affine(start)
        if form is None or any(c % extent and self.steps.get(k) != extent
                               for k, c in form.items()):  # fmt: skip
            return False
        n = self.exact.get(n, n)
        if n.op == "const":
            return bool(n.attr % extent == 0)
        for e, rest in self.exact.items():
            if e.op == "mod" and e.args[0] is n and rest is ZERO and e.args[1].op == "const":
                if e.args[1].attr % extent == 0:
                    return True
        return False

    def stated(self, cond: Expr, why: str) -> None:
        if cond is TRUE or cond in self.checked or _holds(cond):
            return
        self.checked.add(cond)
        self.b.check(cond, "mask", why)

    def observed(self, e: Expr, bits: int = 32) -> None:
        """Numbers of 32 bits are exact here if they fit; sums and products before are exact modulo
        2^32."""
        if e in self.checked or e.kind != "int" or bits > 32 or not leaves(e, "size", "pid", "var"):
            return
        if e.op in ("pid", "size"):
            return
        self.checked.add(e)
        within = call("and", call("le", LOW, e), call("le", e, HIGH))
        self.b.check(within, "wrap", f"{show(e)} fits 32 bits")

    # -- atoms ------------------------------------------------------------------------------------

    def atom(self, a: Atom) -> Any:
        if "var" in a:
            return self.env[a["var"]]
        kind = type_of(a["dtype"])
        if len(set(map(str, a["const"]))) != 1:
            raise self.refuse("an array constant in a kernel")
        value = a["const"][0]
        if kind.kind == "real":
            return self.b.full(float(value), kind)
        return Sym(const(bool(value) if kind is BOOL else int(value)), kind.bits)

    def whole(self, x: Any) -> Expr:
        """An index expression."""
        if not isinstance(x, Sym):
            raise self.refuse("an index that comes from data")
        return x.e

    def value(self, x: Any, kind: DType) -> Value:
        """A tile of that type."""
        if isinstance(x, Late):
            return self.loaded(x)
        if isinstance(x, Sym):
            self.observed(x.e, x.bits)
            if x.e.kind == "bool":
                return self.b.index(x.e, BOOL)
            return self.b.index(x.e, kind)
        if not isinstance(x, Value):
            raise self.refuse("a reference used as a value")
        return x

    def given(self, a: Atom) -> Any:
        """What a loop or a branch takes from outside: loaded before it, if it is a load."""
        x = self.atom(a)
        return self.loaded(x) if isinstance(x, Late) else x

    def loaded(self, x: Late) -> Value:
        if x.value is None:
            x.value = self.b.load(x.buffer, *x.index, mask=x.inside)
        return x.value

    # -- equations --------------------------------------------------------------------------------

    def run(self, jaxpr: Mapping[str, Any]) -> None:
        for e in jaxpr["eqns"]:
            self.line = e["line"] or self.line
            self.b.line = f"{self.file}:{self.line}" if self.line else ""
            made = self.equation(e)
            for v, x in zip(e["out"], made, strict=True):
                self.env[v["var"]] = x

    def equation(self, e: Mapping[str, Any]) -> list[Any]:
        name, p = e["prim"], e["params"]
        if name == "get":
            return [self.get(e)]
        if name == "swap":
            return [self.swap(e)]
        if name == "while":
            return self.repeat(e)
        if name == "scan":
            return self.repeat_known(e)
        if name == "cond":
            return self.branch(e)
        if name == "program_id":
            return [Sym(pid(p["axis"]))]
        if name == "num_programs":
            return [Sym(self.grid[p["axis"]])]
        if name == "dim_as_value":
            return [Sym(dimension(p["dim"]), type_of(e["out"][0]["dtype"]).bits)]
        out = e["out"][0]
        kind = type_of(out["dtype"])
        if name == "iota":
            axis = self.axes.of(out)[p["dimension"]]
            return [Sym(ZERO if axis is None else axis.lane, kind.bits)]
        args = [self.atom(a) for a in e["in"]]
        if name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", *_KEPT):
            if name not in _KEPT and _full(e["in"][0]) and _full(e["in"][0]) != _full(out):
                if name != "broadcast_in_dim":
                    raise self.refuse(f"{name} that makes other axes")
            return [args[0]]
        if name == "transpose":
            return [args[0]]
        if name == "convert_element_type":
            return [self.converted(args[0], kind)]
        if name == "select_n":
            return [self.select(args, kind)]
        if name in _REDUCE:
            return [self.reduce(e, args[0], kind)]
        if name == "dot_general":
            return [self.dot(e, args, kind)]
        if name == "cumsum":
            v = self.value(args[0], kind)
            axis = self.axes.of(out)[p["axis"]]
            if axis is None:
                return [v]
            return [
                self.b.scan(
                    self.spread(v, self.axes.of(out)), Scan("sum", axis, bool(p["reverse"]))
                )
            ]
        if all(isinstance(a, Sym) for a in args):
            found = self.symbolic(name, args, kind)
            if found is not None:
                return [found]
        return [self.elementwise(e, args, kind)]

    # -- memory -----------------------------------------------------------------------------------

    def get(self, e: Mapping[str, Any]) -> Any:
        ref = self.env[e["in"][0]["var"]]
        if not isinstance(ref, _Ref):
            raise self.refuse("a reference that is none")
        if ref.block.role != "in":
            raise self.refuse("a kernel reads what it writes")
        if not isinstance(ref.block.source, Buffer):
            return self.b.index(ref.block.source, type_of(e["out"][0]["dtype"]))
        index, inside = self.elements(ref, e, self.axes.of(e["out"][0]))
        return Late(ref.block.source, tuple(index), inside)

    def swap(self, e: Mapping[str, Any]) -> Any:
        ref = self.env[e["in"][0]["var"]]
        if not isinstance(ref, _Ref) or ref.block.role != "out":
            raise self.refuse("a kernel writes to an input")
        buffer: Buffer = ref.block.source
        dims = self.axes.of(e["in"][1]) if "var" in e["in"][1] else self.axes.of(e["out"][0])
        index, inside = self.elements(ref, e, dims)
        v = self.value(self.atom(e["in"][1]), buffer.dtype)
        self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=inside)
        return None

    # -- control ----------------------------------------------------------------------------------

    def branch(self, e: Mapping[str, Any]) -> list[Any]:
        if e["out"] or len(e["params"]["branches"]) != 2:
            raise self.refuse("a branch with results")
        found = self.atom(e["in"][0])
        cond = self.whole(found)
        if cond.kind != "bool":
            cond = call("ne", cond, ZERO)
        if leaves(cond, "lane", "value"):
            raise self.refuse("a branch that differs between lanes")
        sides = []
        given = [self.given(a) for a in e["in"][1:]]
        for b in e["params"]["branches"]:
            sides.append(lambda b=b["jaxpr"]: self.side(b, given))
        self.b.branch(cond, sides[1], sides[0])
        return []

    def side(self, jaxpr: Mapping[str, Any], given: Sequence[Any]) -> None:
        checked = set(self.checked)
        for v, a in zip(jaxpr["in"], given, strict=True):
            self.env[v["var"]] = a
        self.run(jaxpr)
        self.checked = checked

    def repeat(self, e: Mapping[str, Any]) -> list[Any]:
        """A `while` that counts from a number to another one, as `fori_loop` makes it."""
        p = e["params"]
        test, body = p["cond_jaxpr"]["jaxpr"], p["body_jaxpr"]["jaxpr"]
        consts = e["in"][p["cond_nconsts"] :][: p["body_nconsts"]]
        state = e["in"][p["cond_nconsts"] + p["body_nconsts"] :]
        inner = body["in"][p["body_nconsts"] :]
        if p["cond_nconsts"] or len(test["eqns"]) != 1 or test["eqns"][0]["prim"] != "lt":
            raise self.refuse("a loop that does not count")
        ends = [a.get("var") for a in test["eqns"][0]["in"]]
        at = [v["var"] for v in test["in"]]
        if ends[0] != at[0] or test["eqns"][0]["out"] != test["out"]:
            raise self.refuse("a loop that does not count")
        step = next((x for x in body["eqns"] if x["out"] and x["out"][0] == body["out"][0]), None)
        counts = step is not None and step["prim"] == "add" and step["in"][0] == inner[0]
        if not counts or step["in"][1].get("const") != [1]:  # type: ignore[index]
            raise self.refuse("a loop that does not count by one")
        lo = self.whole(self.atom(state[0]))
        if ends[1] == at[1] and body["out"][1] == inner[1]:
            hi, first = self.whole(self.atom(state[1])), 2
        elif "const" in test["eqns"][0]["in"][1]:
            hi, first = self.whole(self.atom(test["eqns"][0]["in"][1])), 1
        else:
            raise self.refuse("a loop without a fixed end")
        for v, a in zip(body["in"], consts, strict=False):
            self.env[v["var"]] = self.given(a)
        if first == 2:
            self.env[inner[1]["var"]] = Sym(hi)
        rest = [x for x in body["eqns"] if x is not step]
        made = self.counted(
            lo, hi, inner[0], {**body, "eqns": rest}, inner[first:], state[first:],
            body["out"][first:],
        )  # fmt: skip
        return [Sym(hi), Sym(hi)][:first] + made

    def repeat_known(self, e: Mapping[str, Any]) -> list[Any]:
        """A `scan` over nothing but a counter, as `fori_loop` makes it of a known number."""
        p = e["params"]
        body = p["jaxpr"]["jaxpr"]
        kept, carried = p["num_consts"], p["num_carry"]
        if len(e["in"]) != kept + carried or len(body["out"]) != carried or p["reverse"]:
            raise self.refuse("a scan over arrays")
        inner = body["in"][kept:]
        step = next((x for x in body["eqns"] if x["out"] and x["out"][0] == body["out"][0]), None)
        counts = step is not None and step["prim"] == "add" and step["in"][0] == inner[0]
        if not counts or step["in"][1].get("const") != [1]:  # type: ignore[index]
            raise self.refuse("a scan that does not count by one")
        for v, a in zip(body["in"], e["in"][:kept], strict=False):
            self.env[v["var"]] = self.given(a)
        state = e["in"][kept:]
        lo = self.whole(self.atom(state[0]))
        hi = lo + p["length"]
        rest = [x for x in body["eqns"] if x is not step]
        made = self.counted(
            lo, hi, inner[0], {**body, "eqns": rest}, inner[1:], state[1:], body["out"][1:]
        )
        return [Sym(hi), *made]

    def counted(
        self, lo: Expr, hi: Expr, counter: Atom, body: Mapping[str, Any], inner: Sequence[Atom],
        state: Sequence[Atom], ends: Sequence[Atom],
    ) -> list[Any]:  # fmt: skip
        """The loop; where its counter is only ever multiplied, it counts the product."""
        self.observed(lo)
        self.observed(hi)
        factor = _factor(body, counter["var"]) if lo is ZERO else 1
        if factor > 1:
            hi = _times(hi, factor)
        inits = []
        for v, a in zip(inner, state, strict=True):
            kind = type_of(v["dtype"])
            inits.append(self.spread(self.value(self.atom(a), kind), self.axes.of(v)))
        checked = set(self.checked)

        def step(at: Expr, *carried: Value) -> list[Value]:
            if factor > 1:
                self.steps[at] = factor
                self.env[counter["var"]] = Sym(at // factor)
            else:
                self.env[counter["var"]] = Sym(at)
            for v, x in zip(inner, carried, strict=True):
                self.env[v["var"]] = x
            self.run(body)
            out = []
            for v, a in zip(inner, ends, strict=True):
                kind = type_of(v["dtype"])
                out.append(self.spread(self.value(self.atom(a), kind), self.axes.of(v)))
            return out

        made = self.b.loop("at", lo, hi, factor, inits, step)
        self.checked = checked
        return list(made)

    def spread(self, v: Value, dims: Dims) -> Value:
        """The value over all of these axes."""
        wanted = [a for a in dims if a is not None]
        lacking = [a for a in wanted if a not in v.axes]
        if not lacking:
            return v
        if v.op == "full":
            return self.b.full(v.attr, v.dtype, *wanted)
        everywhere = self.b.full(True, BOOL, *lacking)
        return self.b.ew("select", everywhere, v, v)

    # -- values -----------------------------------------------------------------------------------

    def converted(self, x: Any, kind: DType) -> Any:
        if isinstance(x, Sym) and kind.kind != "real":
            if x.e.kind == "bool" and kind is not BOOL:
                return Sym(call("select", x.e, const(1), ZERO), kind.bits)
            self.observed(x.e, x.bits)
            return Sym(x.e, kind.bits)
        if isinstance(x, Sym):
            self.observed(x.e, x.bits)
            if x.e.kind == "bool":
                one, zero = self.b.full(1.0, kind), self.b.full(0.0, kind)
                return self.b.ew("select", self.b.index(x.e, BOOL), one, zero)
            if not leaves(x.e, "lane", "value"):
                return self.b.index(call("toreal", x.e), kind)
            return self.b.cast(self.b.ew("toreal", self.b.index(x.e)), kind)
        v = self.value(x, kind)
        if v.dtype.kind == "real" and kind.kind == "real":
            return self.b.cast(v, kind)
        if v.dtype.kind == "int" and kind.kind == "int":
            return self.b.cast(v, kind)
        if v.dtype.kind == "int" and kind.kind == "real":
            wide = self.b.cast(v, I64) if v.dtype is not I64 else v
            return self.b.cast(self.b.ew("toreal", wide), kind)
        raise self.refuse(f"a conversion of {v.dtype} to {kind}")

    def select(self, args: Sequence[Any], kind: DType) -> Any:
        cond, no, yes = args
        if all(isinstance(a, Sym) for a in args):
            if cond.e.kind != "bool":
                raise self.refuse("a selection by a number")
            if kind is BOOL:
                e = (cond.e & yes.e) | (~cond.e & no.e)
                return Sym(e, kind.bits)
            return Sym(call("select", cond.e, yes.e, no.e), kind.bits)
        if isinstance(cond, Sym) and isinstance(yes, Late) and yes.value is None:
            other = no.attr if isinstance(no, Value) and no.op == "full" else None
            if isinstance(no, Sym) and no.e.op == "const":
                other = no.e.attr
            covered = set(conjuncts(yes.inside)) <= {*conjuncts(cond.e), TRUE}
            if other is not None and covered and set(_lanes(cond.e)) <= set(_lanes(*yes.index)):
                return self.b.load(yes.buffer, *yes.index, mask=cond.e, other=other)
        test = self.value(cond, BOOL)
        return self.b.ew("select", test, self.value(yes, kind), self.value(no, kind))

    def reduce(self, e: Mapping[str, Any], x: Any, kind: DType) -> Value:
        dims = self.axes.of(e["in"][0])
        v = self.value(x, kind)
        for n in sorted(e["params"]["axes"], reverse=True):
            axis = dims[n]
            if axis is None:
                continue
            v = self.spread(v, (axis,)) if axis not in v.axes else v
            v = self.b.reduce(_REDUCE[e["prim"]], v, axis)
        return v

    def dot(self, e: Mapping[str, Any], args: Sequence[Any], kind: DType) -> Value:
        (ca, cb), (ba, _) = e["params"]["dimension_numbers"]
        left, right = (self.axes.of(a) for a in e["in"])
        if len(ca) != 1 or ba:
            raise self.refuse("a product over several axes, or of many pairs")
        axis = left[ca[0]]
        if axis is None or right[cb[0]] != axis:
            raise self.refuse("a product over an axis of one element")
        a, b = (self.value(x, type_of(y["dtype"])) for x, y in zip(args, e["in"], strict=True))
        precision = str(e["params"]["precision"] or "")
        full = a.dtype.mantissa < F32.mantissa or "HIGHEST" in precision.upper()
        how = "ieee" if full else "tf32"
        return self.b.dot(self.spread(a, left), self.spread(b, right), Dot(axis, how), kind)

    def symbolic(self, name: str, args: Sequence[Any], kind: DType) -> Sym | None:
        """An operation on integers and conditions that stays an index expression."""
        parts = [a.e for a in args]
        whole = all(e.kind == "int" for e in parts)
        if name in ("add", "sub", "mul") and whole:
            a, b = parts
            for x, y in ((a, b), (b, a)):
                if name == "mul" and x.op == "floordiv" and self.steps.get(x.args[0]):
                    if y.op == "const" and x.args[1] is y and y.attr == self.steps[x.args[0]]:
                        return Sym(x.args[0], kind.bits)
            made = {"add": a + b, "sub": a - b, "mul": a * b}[name]
            form = affine(made)
            return Sym(made if form is None else from_affine(form), kind.bits)
        for a in args:
            self.observed(a.e, a.bits)
        if name in _COMPARE and whole:
            a, b = parts[::-1] if name in ("gt", "ge") else parts
            return Sym(call(_COMPARE[name], a, b))
        if name in ("and", "or") and not whole and all(e.kind == "bool" for e in parts):
            return Sym(call(name, *parts))
        if name == "not" and parts[0].kind == "bool":
            return Sym(~parts[0])
        if name in ("min", "max") and whole:
            return Sym(call(name, *parts), kind.bits)
        if name in ("jnp.floor_divide", "jnp.remainder") and whole:
            if (parts[1].op == "const" and parts[1].attr > 0) or parts[1].op == "size":
                word = "floordiv" if name == "jnp.floor_divide" else "mod"
                return Sym(call(word, *parts), kind.bits)
        if name == "neg" and whole:
            return Sym(ZERO - parts[0], kind.bits)
        return None

    def elementwise(self, e: Mapping[str, Any], args: Sequence[Any], kind: DType) -> Value:
        name = e["prim"]
        types = [type_of(a["dtype"]) for a in e["in"]]
        values = [self.value(a, t) for a, t in zip(args, types, strict=True)]
        if name in _COMPARE:
            if name in ("gt", "ge"):
                values.reverse()
            return self.b.ew(_COMPARE[name], *values)
        if name in ("and", "or", "not") and kind is BOOL:
            return self.b.ew(name, *values)
        if name == "integer_pow" and e["params"]["y"] in (2, 3):
            out = self.b.ew("mul", values[0], values[0])
            return out if e["params"]["y"] == 2 else self.b.ew("mul", out, values[0])
        if name == "square":
            return self.b.ew("mul", values[0], values[0])
        if name == "is_finite":
            x = values[0]
            bad = self.b.ew("or", self.b.ew("isnan", x), self.b.ew("isinf", x))
            return self.b.ew("not", bad)
        if name not in _ROWS:
            raise self.refuse(f"{name} in a kernel")
        if kind.kind == "int" and name not in ("add", "sub", "mul", "max", "min", "abs", "neg"):
            raise self.refuse(f"{name} of whole numbers in a kernel")
        return self.b.ew(_ROWS[name], *values)


def _holds(cond: Expr) -> bool:
    """Whether a comparison holds whatever its leaves are: of constants, or of what is natural."""
    if cond.op != "le" or cond.args[0] is not ZERO:
        return False
    return all(x.op in ("const", "pid", "size", "lane", "add", "mul", "floordiv") and
               not (x.op == "const" and x.attr < 0) for x in walk(cond.args[1]))  # fmt: skip


def _lanes(*es: Expr) -> list[Axis]:
    return [x.attr for e in es for x in leaves(e, "lane")]


def _full(a: Atom) -> list[int]:
    return [n for n in a["shape"] if n != 1]


def _factor(body: Mapping[str, Any], counter: int) -> int:
    """What a counter is multiplied by wherever it is used; 1 where it is not."""
    found = {1}
    for e in body["eqns"]:
        if not any(a.get("var") == counter for a in e["in"]):
            continue
        other = e["in"][1] if e["in"][0].get("var") == counter else e["in"][0]
        if e["prim"] != "mul" or "const" not in other or len(other["const"]) != 1:
            return 1
        found.add(int(other["const"][0]))
    several = sorted(found - {1})
    return several[0] if len(several) == 1 and several[0] > 1 else 1


def _times(hi: Expr, factor: int) -> Expr:
    """The end of a loop that counts by a factor: that of ceil(x / factor) steps is x."""
    if hi.op == "floordiv" and hi.args[1] is const(factor):
        form = affine(hi.args[0])
        if form is not None:
            return from_affine({**form, None: form.get(None, 0) - (factor - 1)})
    return hi * factor
