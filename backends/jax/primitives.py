"""What every primitive of a jaxpr means as index notation; an unknown one is an ImportRefusal.

Integers are read as exact: a conversion between integer types is the identity, as in specs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opwright.backends.jax import arrays
from opwright.backends.jax.arrays import Array, Index, dimension, is_one, tidy, type_of
from opwright.ir.dtypes import BF16, F16, F32, F64, DType
from opwright.ir.expr import (
    FALSE,
    INF,
    ONE,
    TRUE,
    ZERO,
    Expr,
    call,
    cast,
    conjunction,
    const,
    maximum,
    minimum,
    read,
    reduction,
    rounded,
    toreal,
    var,
)
from opwright.ir.launch import ImportRefusal
from opwright.ir.op import OpAxis, Recurrence, Tensor

Equation = dict[str, Any]
UNROLL = 64  # steps of a loop of fixed length that are written out

_PLAIN = {
    "add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "max": "max", "min": "min",
    "neg": "neg", "abs": "abs", "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log",
    "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt", "sin": "sin", "cos": "cos", "tan": "tan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asin": "asin", "acos": "acos",
    "atan": "atan", "erf": "erf", "logistic": "sigmoid", "pow": "pow",
    "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "lt_to": "lt", "le_to": "le",
    "jnp.floor_divide": "floordiv", "jnp.remainder": "mod", "rand": "rand", "randn": "randn",
}  # fmt: skip
_IDENTITY = {"copy", "copy_p", "stop_gradient", "reduce_precision_none", "pvary",
             "sharding_constraint", "mesh_cast", "device_put"}  # fmt: skip
_REDUCE = {"reduce_sum": "sum", "reduce_prod": "prod", "reduce_max": "max", "reduce_min": "min",
           "reduce_or": "any", "reduce_and": "all"}  # fmt: skip
_SCAN = {"cumsum": "sum", "cumprod": "prod", "cummax": "max", "cummin": "min"}
_SCATTER = {"scatter-add": "sum", "scatter_add": "sum", "scatter-mul": "prod",
            "scatter_mul": "prod", "scatter-min": "min", "scatter_min": "min",
            "scatter-max": "max", "scatter_max": "max"}  # fmt: skip


class Reader:
    """Reads equations into tensors; `tensors` collects the definitions that were made."""

    def __init__(self, taken: set[str], constants: dict[float, float], file: str) -> None:
        self.taken = set(taken)
        self.constants = constants
        self.file = file
        self.tensors: list[Tensor] = []
        self.line = 0
        self.count = 0

    # -- the jaxpr --------------------------------------------------------------------------------

    def run(self, jaxpr: dict[str, Any], inputs: Sequence[Array]) -> list[Array]:
        """The outputs of a jaxpr at these inputs."""
        env: dict[int, Array] = {}
        for v, a in zip(jaxpr["in"], inputs, strict=True):
            env[v["var"]] = a
        uses: dict[int, int] = {}
        for e in jaxpr["eqns"]:
            for a in e["in"]:
                if "var" in a:
                    uses[a["var"]] = uses.get(a["var"], 0) + 1
        for e in jaxpr["eqns"]:
            self.line = e["line"] or self.line
            try:
                results = self.equation(e, [self.atom(a, env) for a in e["in"]])
            except ImportRefusal as refusal:
                if refusal.line:
                    raise
                raise ImportRefusal(refusal.what, self.file, e["line"]) from None
            for v, r in zip(e["out"], results, strict=True):
                computes = e["prim"] in _PLAIN or e["prim"] in _COMPUTES
                if uses.get(v["var"], 0) > 1 and computes and r.shape:
                    r = self.local(r)
                env[v["var"]] = r
        return [self.atom(a, env) for a in jaxpr["out"]]

    def atom(self, a: dict[str, Any], env: dict[int, Array]) -> Array:
        if "var" in a:
            return env[a["var"]]
        dtype = type_of(a["dtype"])
        values = a["const"]
        if dtype.kind == "real":
            values = [self.constants.get(float(v), v) for v in values]
        shape = tuple(dimension(n) for n in a["shape"])
        return arrays.constant(values, shape, dtype)

    def equation(self, e: Equation, args: list[Array]) -> list[Array]:
        """The results of one equation."""
        name = e["prim"]
        shapes = [tuple(dimension(n) for n in o["shape"]) for o in e["out"]]
        dtypes = [type_of(o["dtype"]) for o in e["out"]]
        many = _MANY.get(name)
        if many is not None:
            return many(self, e, args, shapes, dtypes)
        if name in _PLAIN:
            return [self.plain(name, args, shapes[0], dtypes[0])]
        if name in _IDENTITY:
            return args
        if name in _REDUCE:
            axes = [self.axis(a) for a in e["params"]["axes"]]
            return [self.reduce(_REDUCE[name], args[0], axes, dtypes[0])]
        if name in _SCAN:
            return [self.scan_along(_SCAN[name], args[0], e["params"], dtypes[0])]
        if name in _SCATTER:
            return [self.scatter(_SCATTER[name], args, e["params"], shapes[0])]
        one = _ONE.get(name)
        if one is None:
            raise ImportRefusal(f"the primitive {name} is not known", self.file, e["line"])
        return [one(self, e, args, shapes[0], dtypes[0])]

    def refuse(self, what: str) -> ImportRefusal:
        return ImportRefusal(what, self.file, self.line)

    def axis(self, n: Any) -> int:
        return int(n)

    # -- names ------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        self.count += 1
        name = f"{hint}{self.count}"
        while name in self.taken:
            self.count += 1
            name = f"{hint}{self.count}"
        self.taken.add(name)
        return name

    def local(self, x: Array) -> Array:
        """The array as a definition of its own, read by name."""
        axes = tuple(OpAxis(self.fresh("i"), ZERO, n) for n in x.shape)
        body = x.at(tuple(var(a.name) for a in axes))
        if body.op in ("read", "const"):
            return x
        name = self.fresh("v")
        self.tensors.append(Tensor(name, x.dtype, axes, body))
        kind = x.kind
        return Array(x.shape, x.dtype, lambda index: read(name, index, kind), name)

    # -- elementwise ------------------------------------------------------------------------------

    def plain(self, name: str, args: list[Array], shape: Index, dtype: DType) -> Array:
        op = _PLAIN[name]
        if args[0].kind == "bool" and op in ("eq", "ne", "max", "min", "add", "mul", "lt", "le"):
            return self.boolean(op, args, shape, dtype)

        def element(index: Index) -> Expr:
            return call(op, *(spread(a, index, shape) for a in args))

        return Array(shape, dtype, element)

    def boolean(self, op: str, args: list[Array], shape: Index, dtype: DType) -> Array:
        """Comparisons and arithmetic of truth values."""

        def element(index: Index) -> Expr:
            a, b = (spread(x, index, shape) for x in args)
            if op in ("max", "add"):
                return a | b
            if op in ("min", "mul"):
                return a & b
            if op == "lt":
                return ~a & b
            if op == "le":
                return ~a | b
            same = (a & b) | (~a & ~b)
            return same if op == "eq" else ~same

        return Array(shape, dtype, element)

    # -- folds ------------------------------------------------------------------------------------

    def reduce(self, kind: str, x: Array, axes: Sequence[int], dtype: DType) -> Array:
        if not axes:
            return x
        rest = [k for k in range(len(x.shape)) if k not in axes]
        shape = tuple(x.shape[k] for k in rest)
        accumulator = dtype if dtype.kind == "real" and kind in ("sum", "prod") else None

        def element(index: Index) -> Expr:
            binders = tuple(self.fresh("r") for _ in axes)
            at = [ZERO] * len(x.shape)
            for i, k in zip(index, rest, strict=True):
                at[k] = i
            for b, k in zip(binders, axes, strict=True):
                at[k] = var(b)
            ranges = tuple((ZERO, x.shape[k]) for k in axes)
            return reduction(kind, binders, ranges, x.at(at), TRUE, accumulator)

        return self.local(Array(shape, dtype, element))

    def arg(self, kind: str, x: Array, axis: int, shape: Index, dtype: DType) -> Array:
        def element(index: Index) -> Expr:
            binder = self.fresh("r")
            at = [*index[:axis], var(binder), *index[axis:]]
            term = x.at(at)
            if term.kind == "bool":
                term = call("select", term, 1, 0)
            return reduction(kind, (binder,), ((ZERO, x.shape[axis]),), term)

        return self.local(Array(shape, dtype, element))

    def scan_along(self, kind: str, x: Array, params: dict[str, Any], dtype: DType) -> Array:
        axis = int(params["axis"])

        def element(index: Index) -> Expr:
            binder = self.fresh("r")
            at = [*index[:axis], var(binder), *index[axis + 1 :]]
            moving = (index[axis], x.shape[axis]) if params["reverse"] else (ZERO, index[axis] + 1)
            accumulator = dtype if kind in ("sum", "prod") and dtype.kind == "real" else None
            return reduction(kind, (binder,), (moving,), x.at(at), TRUE, accumulator)

        return self.local(Array(x.shape, dtype, element))

    def dot(self, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
        (lc, rc), (lb, rb) = e["params"]["dimension_numbers"]
        x, y = args
        left = [k for k in range(len(x.shape)) if k not in lc and k not in lb]
        right = [k for k in range(len(y.shape)) if k not in rc and k not in rb]

        def element(index: Index) -> Expr:
            binders = [self.fresh("r") for _ in lc]
            a: list[Expr] = [ZERO] * len(x.shape)
            b: list[Expr] = [ZERO] * len(y.shape)
            for n, (i, j) in enumerate(zip(lb, rb, strict=True)):
                a[i] = b[j] = index[n]
            for n, i in enumerate(left):
                a[i] = index[len(lb) + n]
            for n, j in enumerate(right):
                b[j] = index[len(lb) + len(left) + n]
            for name, i, j in zip(binders, lc, rc, strict=True):
                a[i] = b[j] = var(name)
            ranges = tuple((ZERO, x.shape[i]) for i in lc)
            term = x.at(a) * y.at(b)
            return reduction("sum", tuple(binders), ranges, term, TRUE, _acc(dtype)) if lc else term

        return self.local(Array(shape, dtype, element))

    def convolution(self, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
        p = e["params"]
        x, w = args
        d = p["dimension_numbers"]
        xs, ws, ys = d["lhs_spec"], d["rhs_spec"], d["out_spec"]
        if int(p["batch_group_count"]) != 1:
            raise self.refuse("a convolution with batch groups")
        groups = dimension(p["feature_group_count"])
        channels, outputs = w.shape[ws[1]], w.shape[ws[0]]

        def element(index: Index) -> Expr:
            out = index[ys[1]]
            binders = [self.fresh("r") for _ in range(len(ws) - 1)]
            ranges = [(ZERO, channels), *((ZERO, w.shape[k]) for k in ws[2:])]
            c = var(binders[0])
            a: list[Expr] = [ZERO] * len(xs)
            b: list[Expr] = [ZERO] * len(ws)
            a[xs[0]] = index[ys[0]]
            a[xs[1]] = c if is_one(groups) else out // (outputs // groups) * channels + c
            b[ws[0]], b[ws[1]] = out, c
            inside: list[Expr] = []
            for n in range(len(ws) - 2):
                r = var(binders[n + 1])
                low = dimension(p["padding"][n][0])
                step, spread_x = p["window_strides"][n], int(p["lhs_dilation"][n])
                at = tidy(index[ys[2 + n]] * step + r * int(p["rhs_dilation"][n]) - low)
                extent = x.shape[xs[2 + n]]
                if spread_x != 1:
                    inside.append(call("eq", at % spread_x, 0))
                    at = at // spread_x
                inside += [call("le", 0, at), call("lt", at, extent)]
                a[xs[2 + n]], b[ws[2 + n]] = at, r
            if all(int(n) == 1 for n in p["lhs_dilation"]):
                value = arrays.filled(x, inside, a, const(0.0))
            else:
                value = call("select", conjunction(inside), x.at(a), const(0.0))
            return reduction("sum", tuple(binders), tuple(ranges), value * w.at(b), TRUE,
                             _acc(dtype))  # fmt: skip

        return self.local(Array(shape, dtype, element))

    def window(self, kind: str, x: Array, p: dict[str, Any], shape: Index, dtype: DType) -> Array:
        """A reduction over windows; what lies outside is the neutral element."""
        if any(int(n) != 1 for n in p.get("base_dilation", ())):
            raise self.refuse("a window over a dilated array")

        def element(index: Index) -> Expr:
            binders, ranges, inside, at = [], [], [], []
            for n, i in enumerate(index):
                extent = dimension(p["window_dimensions"][n])
                low = dimension(p["padding"][n][0])
                step = dimension(p["window_strides"][n])
                if is_one(extent):
                    k = tidy(i * step - low)
                else:
                    b = self.fresh("r")
                    binders.append(b)
                    ranges.append((ZERO, extent))
                    k = tidy(i * step + var(b) * int(p["window_dilation"][n]) - low)
                if k is not i:
                    inside += [call("le", 0, k), call("lt", k, x.shape[n])]
                at.append(k)
            return reduction(kind, tuple(binders), tuple(ranges), x.at(at), conjunction(inside))

        return self.local(Array(shape, dtype, element))

    def scatter(self, kind: str, args: list[Array], p: dict[str, Any], shape: Index) -> Array:
        """What goes to an element: the operand, and every update whose place it is."""
        x, places, updates = args
        target = self.targets(x, places, updates, p)

        def element(index: Index) -> Expr:
            binders, ranges, guard, at = target(index)
            value = updates.at(at)
            found = reduction(kind, tuple(binders), tuple(ranges), value, conjunction(guard))
            row = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[kind]
            return call(row, x.at(index), found)

        return self.local(Array(shape, x.dtype, element))

    def targets(
        self, x: Array, places: Array, updates: Array, p: dict[str, Any]
    ) -> Callable[[Index], tuple[list[str], list[tuple[Expr, Expr]], list[Expr], list[Expr]]]:
        """For an element: the updates that may go there, under which guard, and their index."""
        d = p["dimension_numbers"]
        batched = dict(zip(d["operand_batching_dims"], d["scatter_indices_batching_dims"],
                           strict=True))  # fmt: skip
        clips = p["mode"] == "CLIP"
        windows = d["update_window_dims"]
        outer = [k for k in range(len(updates.shape)) if k not in windows]
        gone = {*d["inserted_window_dims"], *batched}
        inner = [k for k in range(len(x.shape)) if k not in gone]

        def target(
            index: Index,
        ) -> tuple[list[str], list[tuple[Expr, Expr]], list[Expr], list[Expr]]:
            binders, ranges = [], []
            at: list[Expr] = [ZERO] * len(updates.shape)
            own = {outer[which]: index[k] for k, which in batched.items()}
            for k in outer:
                if k in own:
                    at[k] = own[k]
                    continue
                if is_one(updates.shape[k]):
                    continue
                binders.append(self.fresh("r"))
                ranges.append((ZERO, updates.shape[k]))
                at[k] = var(binders[-1])
            batch = [at[k] for k in outer]
            guard: list[Expr] = []
            for k, i in enumerate(index):
                if k in batched:
                    continue
                width = updates.shape[windows[inner.index(k)]] if k in inner else ONE
                offset = i
                if k in d["scatter_dims_to_operand_dims"]:
                    which = const(d["scatter_dims_to_operand_dims"].index(k))
                    start = places.at((*batch, which))
                    last = tidy(x.shape[k] - width)
                    if clips:
                        start = minimum(maximum(start, 0), last)
                    if k not in inner:
                        guard.append(call("eq", start, i))
                        continue
                    guard += [] if clips else [call("le", 0, start), call("le", start, last)]
                    offset = tidy(i - start)
                    if start is not ZERO or width is not x.shape[k]:
                        guard += [call("le", 0, offset), call("lt", offset, width)]
                if k in inner:
                    at[windows[inner.index(k)]] = offset
            return binders, ranges, guard, at

        return target

    # -- loops ------------------------------------------------------------------------------------

    def loop(self, e: Equation, args: list[Array]) -> list[Array]:
        """A scan: written out if it is short and of fixed length, a recurrence otherwise."""
        p = e["params"]
        body = p["jaxpr"]["jaxpr"]
        consts, carries = int(p["num_consts"]), int(p["num_carry"])
        length = dimension(p["length"])
        fixed, start, rows = (
            args[:consts],
            args[consts : consts + carries],
            args[consts + carries :],
        )
        if carries == 0:
            return self.mapped_loop(body, fixed, rows, length, bool(p["reverse"]))
        if length.op == "const" and length.attr <= UNROLL and not rows:
            return self.unrolled(body, fixed, start, int(length.attr), e)
        return self.recurrence(body, fixed, start, rows, length, bool(p["reverse"]), e)

    def mapped_loop(
        self, body: dict[str, Any], fixed: list[Array], rows: list[Array], length: Expr,
        reverse: bool,
    ) -> list[Array]:  # fmt: skip
        """A loop that carries nothing: every step on its own."""
        cache: dict[Expr, list[Array]] = {}

        def step(t: Expr) -> list[Array]:
            if t not in cache:
                cut = [row_of(x, t) for x in rows]
                before = len(self.tensors)
                cache[t] = self.run(body, [*fixed, *cut])
                if len(self.tensors) != before:
                    raise self.refuse("a loop whose steps reduce something")
            return cache[t]

        return [
            Array(
                (length, *(dimension(n) for n in o["shape"])),
                type_of(o["dtype"]),
                lambda index, k=k: step(index[0])[k].at(index[1:]),  # type: ignore[misc]
            )
            for k, o in enumerate(body["out"])
        ]

    def unrolled(
        self, body: dict[str, Any], fixed: list[Array], start: list[Array], length: int,
        e: Equation,
    ) -> list[Array]:  # fmt: skip
        """A loop of fixed length over its carry alone, written out."""
        state = list(start)
        if len(e["out"]) != len(start):
            raise self.refuse("a loop that stacks results of its steps")
        for _ in range(length):
            state = [self.local(a) if a.shape else a for a in self.run(body, [*fixed, *state])]
        return state

    def recurrence(
        self, body: dict[str, Any], fixed: list[Array], start: list[Array], rows: list[Array],
        length: Expr, reverse: bool, e: Equation,
    ) -> list[Array]:  # fmt: skip
        """Tensors over steps: the carry at t reads the carry at t - 1."""
        carries = len(start)
        outs = e["out"]
        names = [self.fresh("h") for _ in outs]
        step = self.fresh("t")
        t = var(step)
        now = tidy(length - 1 - t) if reverse else t
        held = []
        for name, x in zip(names[:carries], start, strict=True):
            kind = x.kind
            held.append(
                Array(x.shape, x.dtype,
                      lambda index, n=name, k=kind: read(n, (t - 1, *index), k))  # type: ignore[misc]
            )  # fmt: skip
        cut = [row_of(x, now) for x in rows]
        before = len(self.tensors)
        found = self.run(body, [*fixed, *held, *cut])
        inner = self.tensors[before:]
        del self.tensors[before:]
        found = [_inlined(a, inner) for a in found]
        results: list[Array] = []
        for n, (name, o, a) in enumerate(zip(names, outs, found, strict=True)):
            shape = tuple(dimension(k) for k in (o["shape"] if n < carries else o["shape"][1:]))
            axes = tuple(OpAxis(self.fresh("i"), ZERO, k) for k in shape)
            at = tuple(var(x.name) for x in axes)
            dtype = type_of(o["dtype"])
            zero = {"real": const(0.0), "int": ZERO, "bool": FALSE}[dtype.kind]
            init = start[n].at(at) if n < carries else zero
            rec = Recurrence(step, init, tuple(names))
            own = OpAxis(step, ZERO, length)
            self.tensors.append(Tensor(name, dtype, (own, *axes), a.at(at), "local", rec))
            kind = dtype.kind
            if n < carries:
                results.append(self.last(name, start[n], length))
            else:

                def element(index: Index, name: str = name, kind: str = kind) -> Expr:
                    when = tidy(length - 1 - index[0]) if reverse else index[0]
                    return read(name, (when, *index[1:]), kind)

                results.append(Array((length, *shape), dtype, element))
        return results

    def last(self, name: str, start: Array, length: Expr) -> Array:
        """What a carry holds after the loop."""

        def element(index: Index) -> Expr:
            found = read(name, (tidy(length - 1), *index), start.kind)
            return arrays.choose(call("lt", 0, length), found, start.at(index))

        return Array(start.shape, start.dtype, element)

    # -- order ------------------------------------------------------------------------------------

    def ranks(self, key: Array, axis: int, descending: bool) -> Array:
        """How many elements come before one in a stable order."""

        def element(index: Index) -> Expr:
            other = self.fresh("r")
            own = key.at(index)
            there = key.at((*index[:axis], var(other), *index[axis + 1 :]))
            before = call("lt", own, there) if descending else call("lt", there, own)
            tie = call("eq", there, own) & call("lt", var(other), index[axis])
            return reduction("sum", (other,), ((ZERO, key.shape[axis]),), ONE, before | tie)

        return self.local(Array(key.shape, type_of("int32"), element))

    def sorted_place(self, key: Array, axis: int, descending: bool, shape: Index) -> Array:
        """Where the element of a given rank stands."""
        rank = self.ranks(key, axis, descending)

        def element(index: Index) -> Expr:
            j = self.fresh("r")
            at = (*index[:axis], var(j), *index[axis + 1 :])
            hit = call("select", call("eq", rank.at(at), index[axis]), 1, 0)
            return reduction("argmax", (j,), ((ZERO, key.shape[axis]),), hit)

        return self.local(Array(shape, type_of("int32"), element))


def _inlined(a: Array, inner: list[Tensor]) -> Array:
    """An array without reads of definitions made inside a loop's body."""
    if not inner:
        return a
    bodies = {t.name: t for t in inner}

    def element(index: Index) -> Expr:
        return inline(a.at(index), bodies)

    return Array(a.shape, a.dtype, element)


def inline(e: Expr, bodies: dict[str, Tensor]) -> Expr:
    """Replace reads of these tensors by their bodies."""
    from opwright.ir.expr import read_parts, substitute, transform

    def rule(x: Expr) -> Expr | None:
        if x.op != "read" or x.attr[0] not in bodies:
            return None
        t = bodies[x.attr[0]]
        _, index, _ = read_parts(x)
        assert t.body is not None
        body = substitute(t.body, {var(a.name): i for a, i in zip(t.axes, index, strict=True)})
        return inline(body, bodies)

    return transform(e, rule)


def row_of(x: Array, t: Expr) -> Array:
    return Array(x.shape[1:], x.dtype, lambda index: x.at((t, *index)))


def spread(x: Array, index: Index, shape: Index) -> Expr:
    """An operand's element; scalars and axes of extent 1 stand for all."""
    if not x.shape:
        return x.at(())
    if len(x.shape) != len(shape):
        raise ImportRefusal("operands of different rank")
    return x.at(tuple(ZERO if is_one(n) and not is_one(m) else i
                      for i, n, m in zip(index, x.shape, shape, strict=True)))  # fmt: skip


def _acc(dtype: DType) -> DType | None:
    return dtype if dtype in (F32, F64, F16, BF16) else None


# -- primitives by name: (reader, equation, operands, shape, type) -> array ------------------------

One = Callable[[Reader, Equation, list[Array], Index, DType], Array]


def _elementwise(build: Callable[..., Expr]) -> One:
    def one(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
        return Array(shape, dtype, lambda index: build(*(spread(a, index, shape) for a in args)))

    return one


def _convert(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    x = args[0]

    def element(index: Index) -> Expr:
        v = x.at(index)
        if x.kind == dtype.kind:
            narrows = dtype.kind == "real" and dtype.bits != x.dtype.bits
            return cast(v, dtype) if narrows and v.op != "const" else v
        if dtype.kind == "real":
            return toreal(v) if x.kind == "int" else call("select", v, 1.0, 0.0)
        if dtype.kind == "int":
            if x.kind == "bool":
                return call("select", v, 1, 0)
            whole = v.op == "toreal"
            return v.args[0] if whole else call("trunc", v)
        return call("ne", v, 0)

    return Array(shape, dtype, element)


def _select(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    which, *cases = args
    if which.kind == "bool":

        def element(index: Index) -> Expr:
            no, yes = (spread(c, index, shape) for c in cases)
            c = spread(which, index, shape)
            if dtype.kind == "bool":
                return (c & yes) | (~c & no)
            return call("select", c, yes, no)

        return Array(shape, dtype, element)

    def chosen(index: Index) -> Expr:
        c = spread(which, index, shape)
        out = spread(cases[-1], index, shape)
        for k in range(len(cases) - 2, -1, -1):
            out = arrays.choose(call("le", c, k), spread(cases[k], index, shape), out)
        return out

    return Array(shape, dtype, chosen)


def _power(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    n = int(e["params"]["y"])

    def element(index: Index) -> Expr:
        x = args[0].at(index)
        out = x if n else (const(1.0) if dtype.kind == "real" else ONE)
        for _ in range(abs(n) - 1):
            out = out * x
        return call("div", 1.0, out) if n < 0 else out

    return Array(shape, dtype, element)


def _divide(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    if dtype.kind == "real":
        return _elementwise(lambda a, b: call("div", a, b))(r, e, args, shape, dtype)
    return _elementwise(
        lambda a, b: call("select", call("le", 0, a), a // b, -(-a // b))
    )(r, e, args, shape, dtype)  # fmt: skip


def _remainder(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    if dtype.kind == "real":
        raise r.refuse("a remainder of floats")
    return _elementwise(
        lambda a, b: call("select", call("le", 0, a), a % b, -(-a % b))
    )(r, e, args, shape, dtype)  # fmt: skip


def _sign(x: Expr) -> Expr:
    if x.kind == "int":
        return call("select", call("lt", 0, x), 1, call("select", call("lt", x, 0), -1, 0))
    return call("select", call("lt", 0.0, x), 1.0, call("select", call("lt", x, 0.0), -1.0, x))


def _rounding(name: str) -> One:
    return _elementwise(lambda x: toreal(call(name, x)))


def _round(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    if str(e["params"]["rounding_method"]) not in ("TO_NEAREST_EVEN", "1"):
        raise r.refuse("rounding half away from zero")
    return _rounding("nearest")(r, e, args, shape, dtype)


def _reduce_precision(
    r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType
) -> Array:
    bits = (int(e["params"]["exponent_bits"]), int(e["params"]["mantissa_bits"]))
    known = {(8, 7): BF16, (5, 10): F16, (8, 23): F32}
    if bits not in known:
        raise r.refuse(f"a precision of {bits[0]} exponent and {bits[1]} mantissa bits")
    return _elementwise(lambda x: rounded(x, known[bits]))(r, e, args, shape, dtype)


def _barrier(
    r: Reader, e: Equation, args: list[Array], shapes: list[Index], dtypes: list[DType]
) -> list[Array]:
    """What stands before a barrier is not merged with what follows: a conversion to a narrow type
    is a rounding."""

    def kept(x: Array) -> Array:
        def element(index: Index) -> Expr:
            v = x.at(index)
            return rounded(v.args[0], x.dtype) if v.op == "cast" and v.attr is x.dtype else v

        return Array(x.shape, x.dtype, element) if x.kind == "real" and x.dtype.bits < 32 else x

    return [kept(x) for x in args]


def _logical(name: str) -> One:
    def one(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
        if dtype.kind != "bool":
            raise r.refuse(f"{name} of integers, bit by bit")
        table: dict[str, Callable[..., Expr]] = {
            "and": lambda a, b: a & b, "or": lambda a, b: a | b, "not": lambda a: ~a,
            "xor": lambda a, b: (a & ~b) | (~a & b),
        }  # fmt: skip
        return _elementwise(table[name])(r, e, args, shape, dtype)

    return one


def _iota(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    k = int(e["params"]["dimension"])
    return Array(shape, dtype, lambda i: toreal(i[k]) if dtype.kind == "real" else i[k])


def _broadcast(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    return arrays.broadcast(args[0], shape, e["params"]["broadcast_dimensions"])


def _reshape(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    if e["params"].get("dimensions") is not None:
        raise r.refuse("a reshape in another order than row-major")
    return arrays.reshape(args[0], shape)


def _transpose(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    return arrays.transpose(args[0], e["params"]["permutation"])


def _slice(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    p = e["params"]
    start = tuple(dimension(n) for n in p["start_indices"])
    steps = p["strides"] or [1] * len(start)
    return arrays.strided(args[0], start, shape, [int(n) for n in steps])


def _reverse(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    turned = set(e["params"]["dimensions"])
    return arrays.mapped(
        args[0],
        shape,
        lambda index: tuple(
            tidy(n - 1 - i) if k in turned else i
            for k, (i, n) in enumerate(zip(index, shape, strict=True))
        ),
    )


def _squeeze(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    return arrays.reshape(args[0], shape)


def _pad(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    config = [[dimension(n) for n in row] for row in e["params"]["padding_config"]]
    return arrays.pad(args[0], args[1], config)


def _reduce_window(kind: str) -> One:
    def one(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
        return r.window(kind, args[0], e["params"], shape, dtype)

    return one


def _arg(kind: str) -> One:
    def one(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
        return r.arg(kind, args[0], int(e["params"]["axes"][0]), shape, dtype)

    return one


def _scatter_one(r: Reader, e: Equation, args: list[Array], shape: Index, dtype: DType) -> Array:
    """A scatter that replaces: only where at most one update can go to a place."""
    x, places, updates = args
    target = r.targets(x, places, updates, e["params"])

    def element(index: Index) -> Expr:
        binders, _, guard, at = target(index)
        if binders:
            raise r.refuse("a scatter of several updates that replace each other")
        return arrays.choose(conjunction(guard), updates.at(at), x.at(index))

    return Array(shape, dtype, element)


_ONE: dict[str, One] = {
    "convert_element_type": _convert, "select_n": _select, "integer_pow": _power, "div": _divide,
    "rem": _remainder, "iota": _iota, "broadcast_in_dim": _broadcast, "reshape": _reshape,
    "transpose": _transpose, "slice": _slice, "rev": _reverse, "squeeze": _squeeze,
    "expand_dims": _squeeze, "pad": _pad, "round": _round, "reduce_precision": _reduce_precision,
    "and": _logical("and"), "or": _logical("or"), "not": _logical("not"), "xor": _logical("xor"),
    "floor": _rounding("floor"), "ceil": _rounding("ceil"), "scatter": _scatter_one,
    "ge": _elementwise(lambda a, b: a >= b), "gt": _elementwise(lambda a, b: a > b),
    "square": _elementwise(lambda a: a * a), "sign": _elementwise(_sign),
    "erfc": _elementwise(lambda a: const(1.0) - call("erf", a)),
    "log2": _elementwise(lambda a: call("log2", a)),
    "is_finite": _elementwise(lambda a: call("lt", -INF, a) & call("lt", a, INF)),
    "clamp": _elementwise(lambda lo, x, hi: maximum(lo, minimum(x, hi))),
    "argmax": _arg("argmax"), "argmin": _arg("argmin"),
    "reduce_window_sum": _reduce_window("sum"), "reduce_window_max": _reduce_window("max"),
    "reduce_window_min": _reduce_window("min"),
    "concatenate": lambda r, e, a, s, d: arrays.concatenate(a, int(e["params"]["dimension"])),
    "gather": lambda r, e, a, s, d: arrays.gather(a[0], a[1], e["params"], s),
    "dynamic_slice": lambda r, e, a, s, d: arrays.dynamic_slice(a[0], a[1 : 1 + len(s)], s),
    "dynamic_update_slice": lambda r, e, a, s, d: arrays.dynamic_update_slice(a[0], a[1], a[2:]),
    "dot_general": lambda r, e, a, s, d: r.dot(e, a, s, d),
    "conv_general_dilated": lambda r, e, a, s, d: r.convolution(e, a, s, d),
    "dim_as_value": lambda r, e, a, s, d: Array(s, d, lambda _: dimension(e["params"]["dim"])),
}  # fmt: skip
_COMPUTES = {"div", "integer_pow", "square", "erfc", "select_n", "rem", "clamp", "sign", "log2"}


# -- primitives with several results -------------------------------------------------------------

Many = Callable[[Reader, Equation, list[Array], list[Index], list[DType]], list[Array]]


def _split(
    r: Reader, e: Equation, args: list[Array], shapes: list[Index], dtypes: list[DType]
) -> list[Array]:
    axis, start, out = int(e["params"]["axis"]), ZERO, []
    for shape in shapes:
        begin = tuple(start if k == axis else ZERO for k in range(len(shape)))
        out.append(arrays.strided(args[0], begin, shape, [1] * len(shape)))
        start = start + shape[axis]
    return out


def _sort(
    r: Reader, e: Equation, args: list[Array], shapes: list[Index], dtypes: list[DType]
) -> list[Array]:
    p = e["params"]
    if int(p["num_keys"]) != 1 or (not p["is_stable"] and len(args) > 1):
        raise r.refuse("a sort by several keys, or one that is not stable")
    axis = int(p["dimension"])
    place = r.sorted_place(args[0], axis, False, shapes[0])
    return [_taken(x, place, axis) for x in args]


def _taken(x: Array, place: Array, axis: int) -> Array:
    return Array(
        place.shape,
        x.dtype,
        lambda index: x.at((*index[:axis], place.at(index), *index[axis + 1 :])),
    )


def _top(
    r: Reader, e: Equation, args: list[Array], shapes: list[Index], dtypes: list[DType]
) -> list[Array]:
    axis = len(shapes[0]) - 1
    if int(e["params"].get("axis", axis)) not in (axis, -1):
        raise r.refuse("top_k over another axis than the last")
    place = r.sorted_place(args[0], axis, True, shapes[0])
    return [_taken(args[0], place, axis), place]


def _branches(
    r: Reader, e: Equation, args: list[Array], shapes: list[Index], dtypes: list[DType]
) -> list[Array]:
    which, *operands = args
    results = [r.run(b["jaxpr"], operands) for b in e["params"]["branches"]]

    def chosen(k: int) -> Callable[[Index], Expr]:
        def element(index: Index) -> Expr:
            out = results[-1][k].at(index)
            c = which.at(())
            for n in range(len(results) - 2, -1, -1):
                low = ~c if c.kind == "bool" else call("le", c, n)
                out = arrays.choose(low, results[n][k].at(index), out)
            return out

        return element

    return [Array(s, d, chosen(k)) for k, (s, d) in enumerate(zip(shapes, dtypes, strict=True))]


_MANY: dict[str, Many] = {
    "optimization_barrier": _barrier,
    "split": _split,
    "sort": _sort,
    "top_k": _top,
    "cond": _branches,
    "scan": lambda r, e, a, s, d: r.loop(e, a),
}
