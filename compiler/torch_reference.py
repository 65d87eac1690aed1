"""A definition as plain PyTorch, for those who want to run what a spec means: slow and literal.

Every scalar expression becomes array code over all indices in scope: an index is an `arange` along
a dimension of its own, a read is indexing with such arrays, a fold adds dimensions and reduces
them under a mask. Reals are computed in float64 and cast to the type of the output.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping, Sequence

from opwright.ir.expr import (
    TRUE,
    Expr,
    Fold,
    conjuncts,
    free_vars,
    read_parts,
    show,
    walk,
)
from opwright.ir.op import Operator, Tensor

TORCH = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64",
    "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
    "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip
INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "lt": "<",
    "le": "<=", "eq": "==", "ne": "!=", "approx": "==", "and": "&", "or": "|",
}  # fmt: skip
CALLS = {
    "exp": "torch.exp", "exp2": "torch.exp2", "expm1": "torch.expm1", "log": "torch.log",
    "log2": "torch.log2", "log1p": "torch.log1p", "sqrt": "torch.sqrt", "rsqrt": "torch.rsqrt",
    "sin": "torch.sin", "cos": "torch.cos", "tan": "torch.tan", "sinh": "torch.sinh",
    "cosh": "torch.cosh", "tanh": "torch.tanh", "asin": "torch.asin", "acos": "torch.acos",
    "atan": "torch.atan", "erf": "torch.erf", "sigmoid": "torch.sigmoid", "abs": "torch.abs",
    "isnan": "torch.isnan", "isinf": "torch.isinf", "min": "torch.minimum",
    "max": "torch.maximum", "pow": "torch.pow",
}  # fmt: skip
TO_INT = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "nearest": "round"}
KINDS = {"real": "torch.float64", "int": "torch.int64", "bool": "torch.bool"}
REDUCED = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin", "any": "any", "all": "all"}


class PrintError(ValueError):
    """What has no form here; the message names it."""


def python_name(name: str) -> str:
    """A name that Python and the code around it leave free."""
    taken = keyword.iskeyword(name) or name in ("torch", "run", "range", "max", "min", "int")
    return f"{name}_" if taken else name


def print_reference(op: Operator, arguments: Sequence[str], spec: str = "") -> str:
    """A module with `run(*arguments)`: inputs, params and free sizes by name in this order.

    Raises PrintError for what PyTorch has no types or this printer no words for.
    """
    return _Printer(op).module(arguments, spec)


def number_text(e: Expr) -> str:
    """An expression over sizes, params and strides as Python; PrintError where it has none."""
    return _scalar(e)


class _Printer:
    def __init__(self, op: Operator) -> None:
        self.op = op
        self.lines: list[str] = []
        self.count = 0
        self.shared: dict[tuple[Expr, tuple[str, ...]], str] = {}
        self.indent = "    "
        self.outer: dict[str, str] = {}  # index names that are Python numbers here

    def module(self, arguments: Sequence[str], spec: str) -> str:
        op = self.op
        self.sizes(arguments)
        for t in op.inputs:
            name = python_name(t.name)
            self.add(f"{name} = {name}.to({KINDS[t.kind]})")
        done: set[str] = set()
        for t in op.tensors:
            if t.name in done:
                continue
            if t.recurrence is not None:
                group = [op.tensor(n) for n in t.recurrence.group]
                self.recurrence(group)
                done |= {u.name for u in group}
            else:
                self.tensor(t)
        results = []
        for t in op.outputs:
            if t.dtype.name not in TORCH:
                raise PrintError(f"{t.name}: PyTorch has no type {t.dtype}")
            results.append(f"{python_name(t.name)}.to(torch.{TORCH[t.dtype.name]})")
        head = [f"# {spec_line}".rstrip() for spec_line in spec.splitlines()]
        doc = " ".join((op.doc or op.name).replace('"', "'").replace("\\", "").split())
        names = ", ".join(python_name(a) for a in arguments)
        code = [*head, *([""] if head else []), "import math", "", "import torch", "", ""]
        code += [*HELPERS.strip("\n").splitlines(), "", ""]
        code += [f"def run({names}):", f'    """{doc}"""', *self.lines]
        return "\n".join([*code, f"    return {', '.join(results)}"]) + "\n"

    def add(self, line: str) -> None:
        self.lines.append(self.indent + line)

    def fresh(self, hint: str = "v") -> str:
        self.count += 1
        return f"{hint}_{self.count}"

    def sizes(self, arguments: Sequence[str]) -> None:
        known = set(self.op.free_sizes) & set(arguments)
        for t in self.op.inputs:
            for n, a in enumerate(t.axes):
                if a.hi.op == "size" and a.hi.attr not in known:
                    known.add(a.hi.attr)
                    self.add(f"{python_name(a.hi.attr)} = {python_name(t.name)}.shape[{n}]")
        for p in self.op.params:
            if p.name not in arguments and p.default is not None:
                self.add(f"{python_name(p.name)} = {self.scalar(p.default)}")
        missing = [s for s in self.op.sizes if s not in known]
        if missing:
            raise PrintError(f"size {missing[0]} follows from no input and is no argument")

    # -- tensors -----------------------------------------------------------------------------------

    def tensor(self, t: Tensor) -> None:
        assert t.body is not None
        if any(a.lo.op != "const" or a.lo.attr != 0 for a in t.axes):
            raise PrintError(f"{t.name} does not begin at index 0")
        axes = tuple(a.name for a in t.axes)
        self.indices(axes, [a.hi for a in t.axes])
        value = self.value(t.body, axes)
        shape = ", ".join(self.scalar(a.hi) for a in t.axes)
        comma = "," if len(axes) == 1 else ""
        kind = KINDS[t.kind]
        self.add(f"{python_name(t.name)} = spread({value}, ({shape}{comma}), {kind})")

    def indices(self, axes: Sequence[str], extents: Sequence[Expr], before: int = 0) -> None:
        """One array for each index, along its own dimension of those in scope."""
        total = before + len(axes)
        for n, (name, e) in enumerate(zip(axes, extents, strict=True)):
            self.add(f"{_index(name)} = along({self.scalar(e)}, {before + n}, {total})")

    def recurrence(self, group: Sequence[Tensor]) -> None:
        first = group[0].recurrence
        assert first is not None
        axis = {t.name: next(n for n, a in enumerate(t.axes) if a.name == t.recurrence.axis)
                for t in group if t.recurrence}  # fmt: skip
        for t in group:
            shape = ", ".join(self.scalar(a.hi) for a in t.axes)
            comma = "," if len(t.axes) == 1 else ""
            self.add(
                f"{python_name(t.name)} = torch.zeros(({shape}{comma}), dtype={KINDS[t.kind]})"
            )
        t = group[0]
        self.add(f"for t_ in range({self.scalar(t.axes[axis[t.name]].hi)}):")
        self.indent = "        "
        for t in group:
            assert t.body is not None and t.recurrence is not None
            k = axis[t.name]
            inner = tuple(a.name for n, a in enumerate(t.axes) if n != k)
            self.outer = {t.recurrence.axis: "t_"}
            self.indices(inner, [a.hi for n, a in enumerate(t.axes) if n != k])
            self.starts = {u.name: (axis[u.name], u.recurrence.init, u) for u in group
                           if u.recurrence}  # fmt: skip
            value = self.value(t.body, inner)
            at = ", ".join("t_" if n == k else ":" for n in range(len(t.axes)))
            shape = ", ".join(self.scalar(a.hi) for n, a in enumerate(t.axes) if n != k)
            comma = "," if len(inner) == 1 else ""
            self.add(
                f"{python_name(t.name)}[{at}] = spread({value}, ({shape}{comma}), {KINDS[t.kind]})"
            )
            self.shared.clear()
        self.starts = {}
        self.outer = {}
        self.indent = "    "

    starts: Mapping[str, tuple[int, Expr, Tensor]] = {}

    # -- expressions -------------------------------------------------------------------------------

    def scalar(self, e: Expr) -> str:
        return _scalar(e)

    def value(self, e: Expr, axes: tuple[str, ...]) -> str:
        """Code of an array that broadcasts over the axes in scope."""
        if e.op == "const":
            return _constant(e)
        if e.op == "var":
            return self.outer.get(str(e.attr), _index(str(e.attr)))
        if e.op in ("size", "param"):
            return python_name(str(e.attr))
        key = (e, axes)
        if key not in self.shared:
            self.shared[key] = self.named(self.code(e, axes), "v")
        return self.shared[key]

    def named(self, code: str, hint: str) -> str:
        name = self.fresh(hint)
        self.add(f"{name} = {code}")
        return name

    def code(self, e: Expr, axes: tuple[str, ...]) -> str:
        if e.op == "read":
            return self.read(e, axes)
        if e.op == "fold":
            return self.fold(Fold(e), axes)
        if e.op in ("rand", "randn"):
            raise PrintError(f"random numbers ({e.op}) have no form in PyTorch")
        args = [self.value(a, axes) for a in e.args]
        if e.op in ("cast", "toreal"):
            return f"real({args[0]})" if e.kind == "real" else args[0]
        if e.op == "round":
            if e.attr.name not in TORCH:
                raise PrintError(f"PyTorch has no type {e.attr}")
            return f"real({args[0]}).to(torch.{TORCH[e.attr.name]}).to(torch.float64)"
        if e.op == "select":
            return f"choose({', '.join(args)}, {KINDS[e.kind]})"
        if e.op == "not":
            return f"~truth({args[0]})"
        if e.op in ("and", "or"):
            return f" {INFIX[e.op]} ".join(f"truth({a})" for a in args)
        if e.op == "neg":
            return f"-{args[0]}"
        if e.op == "fma":
            return f"{args[0]} * {args[1]} + {args[2]}"
        if e.op in INFIX:
            return f" {INFIX[e.op]} ".join(args)
        if e.op in TO_INT:
            return f"torch.{TO_INT[e.op]}(real({args[0]})).to(torch.int64)"
        if e.op in CALLS:
            kind = {"real": "real", "int": "whole", "bool": "truth"}[e.args[0].kind]
            return f"{CALLS[e.op]}({', '.join(f'{kind}({a})' for a in args)})"
        raise PrintError(f"{e.op} has no form in PyTorch")

    def read(self, e: Expr, axes: tuple[str, ...]) -> str:
        name, index, fill = read_parts(e)
        t = self.op.tensor(name)
        if not index:
            return python_name(name)
        places = [self.value(i, axes) for i in index]
        if name in self.starts:
            return self.before(name, places, axes)
        extents = [self.scalar(a.hi) for a in t.axes]
        given = f"[{', '.join(places)}], [{', '.join(extents)}]"
        if fill is None:
            return f"element({python_name(name)}, {given})"
        return f"padded({python_name(name)}, {given}, {self.value(fill, axes)})"

    def before(self, name: str, places: list[str], axes: tuple[str, ...]) -> str:
        """A tensor of the recurrence in progress: its start where the step is before the first."""
        k, init, t = self.starts[name]
        extents = [self.scalar(a.hi) for a in t.axes]
        given = f"[{', '.join(places)}], [{', '.join(extents)}]"
        own = {f: p for f, p in zip((a.name for a in t.axes), places, strict=True)}
        saved, self.outer = self.outer, {**self.outer, **own}
        start = self.value(init, axes)
        self.shared = {q: v for q, v in self.shared.items() if q[0] is not init}
        self.outer = saved
        return f"element({python_name(name)}, {given}) if {places[k]} >= 0 else {start}"

    def fold(self, f: Fold, axes: tuple[str, ...]) -> str:
        if f.kind is None:
            raise PrintError("a derived fold has no form in PyTorch")
        inner = (*axes, *f.binders)
        highest: list[str] = []
        masks: list[str] = []
        for n, (binder, (lo, hi)) in enumerate(zip(f.binders, f.ranges, strict=True)):
            plain = not free_vars(hi) and not any(x.op in ("read", "fold") for x in walk(hi))
            top = self.scalar(hi) if plain else f"most({self.value(hi, axes)})"
            if not plain and free_vars(hi) & set(f.binders):
                raise PrintError(f"{show(f.node)}: a range depends on another index of the fold")
            highest.append(top)
            del binder, n, lo
        # indices in scope get a dimension for each binder
        moved: dict[str, str] = {}
        for name in axes:
            moved[name] = self.named(f"more({_index(name)}, {len(f.binders)})", "i")
        saved = dict(self.outer)
        outer_names = {n: c for n, c in saved.items()}
        self.outer = {**outer_names, **moved}
        for n, (binder, top) in enumerate(zip(f.binders, highest, strict=True)):
            self.add(f"{_index(binder)} = along({top}, {len(axes) + n}, {len(inner)})")
        for binder, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            own = _index(binder)
            if lo.op != "const" or lo.attr != 0:
                masks.append(f"({self.value(lo, inner)} <= {own})")
            if free_vars(hi) or any(x.op in ("read", "fold") for x in walk(hi)):
                masks.append(f"({own} < {self.value(hi, inner)})")
        if f.guard is not TRUE:
            masks += [f"truth({self.value(c, inner)})" for c in conjuncts(f.guard)]
        term = self.value(f.term, inner)
        self.outer = saved
        shape = ", ".join([*("1" for _ in axes), *highest])
        comma = "," if len(inner) == 1 else ""
        mask = " & ".join(masks) if masks else "True"
        dims = tuple(range(len(axes), len(inner)))
        kind = KINDS[f.term.kind]
        whole = f"({shape}{comma})"
        if f.kind in ("argmax", "argmin"):
            return f'first_best({term}, {mask}, {whole}, {kind}, "{f.kind}")'
        return f'reduced({term}, {mask}, {whole}, {kind}, "{f.kind}", {dims})'


def _scalar(e: Expr) -> str:
    """An expression over sizes and params as Python."""
    if e.op == "const":
        return _constant(e)
    if e.op in ("size", "param"):
        return python_name(str(e.attr))
    if e.op == "stride":
        return f"{python_name(e.attr[0])}.stride({e.attr[1]})"
    if e.op in ("toreal", "cast"):
        return f"float({_scalar(e.args[0])})"
    if e.op in ("min", "max"):
        return f"{e.op}({', '.join(_scalar(a) for a in e.args)})"
    if e.op == "select":
        c, a, b = (_scalar(x) for x in e.args)
        return f"({a} if {c} else {b})"
    if e.op == "neg":
        return f"(-{_scalar(e.args[0])})"
    if e.op == "not":
        return f"(not {_scalar(e.args[0])})"
    if e.op in ("and", "or"):
        return f"({f' {e.op} '.join(_scalar(a) for a in e.args)})"
    if e.op in INFIX:
        a, b = (_scalar(x) for x in e.args)
        return f"({a} {INFIX[e.op]} {b})"
    if e.op in ("sqrt", "exp", "log", "sin", "cos", "tanh", "abs"):
        name = "abs" if e.op == "abs" else f"math.{e.op}"
        return f"{name}({_scalar(e.args[0])})"
    if e.op == "rsqrt":
        return f"(1.0 / math.sqrt({_scalar(e.args[0])}))"
    raise PrintError(f"{show(e)} has no form as a Python number")


def _constant(e: Expr) -> str:
    if isinstance(e.attr, float) and not math.isfinite(e.attr):
        return "math.nan" if math.isnan(e.attr) else f"{'-' if e.attr < 0 else ''}math.inf"
    return f"({e.attr!r})" if not isinstance(e.attr, bool) and e.attr < 0 else repr(e.attr)


def _index(name: str) -> str:
    return "i_" + "".join(c if c.isalnum() else "_" for c in name)


HELPERS = '''
def along(n, place, count):
    """The numbers 0..n along one of `count` dimensions."""
    shape = [1] * count
    shape[place] = max(int(n), 0)
    return torch.arange(max(int(n), 0)).reshape(shape)


def more(x, count):
    return x.reshape((*x.shape, *[1] * count)) if isinstance(x, torch.Tensor) else x


def real(x):
    return torch.as_tensor(x).to(torch.float64)


def whole(x):
    return torch.as_tensor(x).to(torch.int64)


def truth(x):
    return torch.as_tensor(x).to(torch.bool)


def choose(c, a, b, kind):
    return torch.where(truth(c), torch.as_tensor(a).to(kind), torch.as_tensor(b).to(kind))


def spread(x, shape, kind):
    """The array over all of a shape."""
    x = torch.as_tensor(x).to(kind)
    return x.expand(shape).clone() if x.ndim <= len(shape) else x.reshape(shape)


def most(x):
    x = torch.as_tensor(x)
    return int(x.max()) if x.numel() else 0


def element(x, index, extents):
    """Elements at indices; what a mask or a choice leaves out may be out of range."""
    if 0 in extents:
        shape = torch.broadcast_shapes(*(torch.as_tensor(i).shape for i in index))
        return torch.zeros(shape, dtype=x.dtype)
    return x[tuple(torch.as_tensor(i).clamp(0, n - 1) for i, n in zip(index, extents))]


def padded(x, index, extents, fill):
    inside = torch.as_tensor(True)
    for i, n in zip(index, extents):
        i = torch.as_tensor(i)
        inside = inside & (0 <= i) & (i < n)
    fill = torch.as_tensor(fill).to(x.dtype)
    return torch.where(inside, element(x, index, extents), fill)


NEUTRAL = {"sum": 0, "prod": 1, "max": -math.inf, "min": math.inf, "any": False, "all": True}


def masked(x, mask, shape, kind, monoid):
    """Elements over all of a shape, those left out as what changes nothing."""
    x = torch.as_tensor(x).to(kind)
    neutral = NEUTRAL[monoid]
    if kind == torch.int64 and monoid in ("max", "min"):
        limits = torch.iinfo(torch.int64)
        neutral = limits.min if monoid == "max" else limits.max
    full = torch.broadcast_shapes(x.shape, shape, torch.as_tensor(mask).shape)
    return torch.where(torch.as_tensor(mask), x, torch.as_tensor(neutral, dtype=kind)).expand(full)


def reduced(x, mask, shape, kind, monoid, dims):
    x = masked(x, mask, shape, kind, monoid)
    if monoid in ("sum", "prod", "any", "all"):
        for d in reversed(dims):
            x = getattr(x, monoid)(dim=d)
        return x.to(kind)
    for d in reversed(dims):
        if not x.shape[d]:
            return torch.full([n for k, n in enumerate(x.shape) if k not in dims], 0, dtype=kind)
    return (x.amax if monoid == "max" else x.amin)(dim=dims)


def first_best(x, mask, shape, kind, name):
    """The first index of the best element, or of the first NaN."""
    x = masked(x, mask, shape, kind, "max" if name == "argmax" else "min")
    if not x.shape[-1]:
        return torch.zeros(x.shape[:-1], dtype=torch.int64)
    best = x.amax(dim=-1, keepdim=True) if name == "argmax" else x.amin(dim=-1, keepdim=True)
    hit = ((x == best) | torch.isnan(x.to(torch.float64))) & torch.as_tensor(mask)
    n = x.shape[-1]
    return torch.where(hit, torch.arange(n), torch.as_tensor(n)).amin(dim=-1).clamp(max=n - 1)
'''
