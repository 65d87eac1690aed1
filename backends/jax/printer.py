"""JAX source from OpIR: a module with one pure function of the inputs by name.

The function takes inputs, then params, then sizes that no shape fixes; it returns the output, or a
tuple of the outputs as they were declared. All other sizes come from shapes. Half types are
computed in f32, contractions in full precision; i64 and f64 are JAX's default types, that is 64
bits under jax_enable_x64 (see `needs_x64`) and 32 bits without.
"""

from __future__ import annotations

from dataclasses import replace

from opwright.backends.jax.expressions import Path, Running, Scope, Stored, path_of
from opwright.backends.jax.folds import Folds
from opwright.backends.jax.scalar import (
    ATOM,
    PHILOX,
    RANDOM,
    SUM,
    PrintError,
    Term,
    aligned,
    half,
    identifier,
    jax_type,
    wrapped,
)
from opwright.ir.dtypes import F32, I64
from opwright.ir.expr import (
    Expr,
    affine,
    const,
    free_vars,
    param,
    read_parts,
    size,
    substitute,
    var,
    walk,
)
from opwright.ir.extents import from_affine
from opwright.ir.op import OpAxis, Operator, Param, Tensor

__all__ = ["PrintError", "function_name", "needs_x64", "print_operator", "static_names"]


def function_name(op: Operator) -> str:
    """The name of the printed function."""
    return identifier(op.name)


def needs_x64(op: Operator) -> bool:
    """Whether the meaning needs 64-bit types, which JAX has under jax_enable_x64 only."""
    kinds = {t.dtype.name for t in (*op.inputs, *op.tensors)}
    for t in op.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op in ("cast", "round"):
                kinds.add(x.attr.name)
            elif x.op == "fold" and x.attr.acc is not None:
                kinds.add(x.attr.acc.name)
            elif x.op in RANDOM:
                kinds.add("i64")
    return bool(kinds & {"f64", "i64", "u64"})


def static_names(op: Operator) -> tuple[str, ...]:
    """Arguments that are Python numbers while the function is traced: integer and bool params,
    real ones that a shape depends on, sizes that no shape fixes."""
    used: set[str] = set()
    for t in (*op.inputs, *op.tensors):
        roots = [e for a in t.axes for e in (a.lo, a.hi)]
        for x in [] if t.body is None else walk(t.body):
            if x.op == "fold":
                roots += x.args[: 2 * len(x.attr.binders)]
        used |= {x.attr for r in roots for x in walk(r) if x.op == "param"}
    params = [p.name for p in op.params if p.dtype.kind != "real" or p.name in used]
    return (*(identifier(n) for n in params), *(identifier(s) for s in op.free_sizes))


def print_operator(op: Operator) -> str:
    """The text of `kernel.py`; PrintError names a form that has no array code."""
    return _Printer(op).module()


class _Printer(Folds):
    def module(self) -> str:
        op = self.op
        for t in op.inputs:
            self.names.give(t.name, t.name)
        for p in op.params:
            self.names.give(("param", p.name), p.name)
        self._sizes()
        for t in op.inputs:
            ranges = tuple((a.lo, a.hi) for a in t.axes)
            name = self.names.give(t.name, t.name)
            self.arrays[t.name] = Stored(name, ranges, t.kind, t.dtype)
        done: set[str] = set()
        for t in op.tensors:
            if t.name not in done:
                done |= self._tensor(t)
        return self._text([*self.base, self._result()])

    def _text(self, body: list[str]) -> str:
        """The module around the statements of the function."""
        op = self.op
        code = "\n".join(self._head() + body)
        random = [t.replace("REAL", self.real) for n, t in RANDOM.items() if f"{n}(" in code]
        helpers = "\n\n".join([PHILOX, *random]) if random else ""
        code += helpers
        imports = ["from functools import partial"] if static_names(op) else []
        imports += ["import math"] if "math." in code else []
        used = ["import jax", "import jax.numpy as jnp"]
        used += ["from jax import lax"] if "lax." in code else []
        statics = ", ".join(f'"{n}"' for n in static_names(op))
        comma = "," if len(static_names(op)) == 1 else ""
        jit = f"@partial(jax.jit, static_argnames=({statics}{comma}))" if statics else "@jax.jit"
        title = " ".join((op.doc or "").replace("\\", "").replace('"', "'").split())
        title = f'"""{op.name} {op.version}{": " + title if title else ""}"""'
        types = ", ".join(f"{k} = {v}" for k, v in op.types.items())
        lines = [title, "", *imports, *([""] if imports else []), *used, "", ""]
        lines += [*helpers.splitlines(), "", ""] if helpers else []
        lines += [f"# {types}"] if types else []
        lines += [jit, f"def {function_name(op)}({self._signature()}):"]
        lines += [f"    {line}" for line in self._head() + body]
        return "\n".join(lines) + "\n"

    def _signature(self) -> str:
        parts = [self.names.give(t.name, t.name) for t in self.op.inputs]
        optional = False
        for p in self.op.params:
            name = self.names.give(("param", p.name), p.name)
            default = self._default(p)
            optional = optional or default is not None
            parts.append(name if default is None else f"{name}={default}")
            if default is None and optional:
                parts[-1] = f"{name}=None"
        for s in self.op.free_sizes:
            name = self.names.give(("size", s), s)
            parts.append(f"{name}=None" if optional or s in self._solved else name)
            optional = optional or s in self._solved
        return ", ".join(parts)

    def _default(self, p: Param) -> str | None:
        """A literal default, `None` where it is a formula in sizes and earlier params."""
        if p.default is None:
            return None
        if p.default.op != "const":
            return "None"
        value = p.default.attr
        if p.dtype.kind == "real" and value in (float("inf"), float("-inf")):
            return 'float("inf")' if value > 0 else '-float("inf")'
        return repr(value)

    # -- sizes and params -------------------------------------------------------------------------

    def _sizes(self) -> None:
        """How every size and param is known; those in use become statements at the head."""
        op = self.op
        self._size_lines: dict[str, str] = {}
        self._solved: dict[str, str] = {}
        for s in op.sizes:
            name = self.names.give(("size", s), s)
            self.scalars[size(s)] = Term(name, (), "int", ATOM, None, True)
        statics = static_names(op)
        for p in op.params:
            name = self.names.give(("param", p.name), p.name)
            static = name in statics
            self.scalars[param(p.name, p.dtype.kind)] = Term(
                name, (), p.dtype.kind, ATOM, None, static
            )
        for t in op.inputs:
            for k, a in enumerate(t.axes):
                source = f"{self.names.give(t.name, t.name)}.shape[{k}]"
                if a.hi.op == "size" and a.hi.attr not in self._size_lines:
                    self._size_lines[a.hi.attr] = source
                elif a.hi.op != "size":
                    self._solve(a.hi, source)

    def _solve(self, extent: Expr, source: str) -> None:
        """A free size from an extent such as `R + 1`."""
        form = affine(extent) or {}
        unknown = [x for x in form if x is not None and x.op == "size"
                   and x.attr in self.op.free_sizes]  # fmt: skip
        if len(unknown) != 1 or abs(form[unknown[0]]) != 1 or unknown[0].attr in self._solved:
            return
        factor = form[unknown[0]]
        rest = from_affine({k: c * factor for k, c in form.items() if k is not unknown[0]})
        code = source if factor == 1 else f"-{source}"
        tail = self.number(rest, SUM + 1)
        self._solved[unknown[0].attr] = code if tail == "0" else f"{code} - {tail}"

    def _head(self) -> list[str]:
        """Statements that give sizes and params their values."""
        text = "\n".join(self.base)
        out = []
        needed = _words(text) | _words("\n".join(self._result_text))
        defaults = []
        for p in self.op.params:
            if p.default is not None and p.default.op != "const":
                name = self.names.give(("param", p.name), p.name)
                value = self.value(p.default, Scope({}))
                if p.dtype.kind == "int" and value.kind == "real":
                    value = Term(f"int({value.code})", (), "int")
                defaults += [f"if {name} is None:", f"    {name} = {value.code}"]
                needed |= _words(value.code)
        for s, solution in self._solved.items():
            name = self.names.give(("size", s), s)
            out += [f"if {name} is None:", f"    {name} = {solution}"]
            needed |= _words(solution)
        sizes = []
        for s, source in self._size_lines.items():
            name = self.names.give(("size", s), s)
            if name in needed:
                sizes.append(f"{name} = {source}")
        return [*self._merged(sizes), *out, *defaults]

    def _merged(self, lines: list[str]) -> list[str]:
        """`B, N = x.shape` where every axis of an input is wanted."""
        for t in self.op.inputs:
            name = self.names.give(t.name, t.name)
            wanted = [f"{self.names.give(('size', a.hi.attr), a.hi.attr)} = {name}.shape[{k}]"
                      for k, a in enumerate(t.axes) if a.hi.op == "size"]  # fmt: skip
            if len(wanted) == len(t.axes) > 1 and all(w in lines for w in wanted):
                names = ", ".join(w.split(" = ")[0] for w in wanted)
                first = lines.index(wanted[0])
                rest = [x for x in lines if x not in wanted]
                lines = [*rest[:first], f"{names} = {name}.shape", *rest[first:]]
        return lines

    # -- tensors ----------------------------------------------------------------------------------

    def _tensor(self, t: Tensor) -> set[str]:
        """Write the statements of a definition; the names that are defined then."""
        if t.recurrence is not None:
            group = [self.op.tensor(n) for n in t.recurrence.group]
            self._recurrence(group)
            return {u.name for u in group}
        assert t.body is not None
        value = self._whole(t.body, t.axes, t.kind, path_of(t))
        ranges = tuple((a.lo, a.hi) for a in t.axes)
        value = self.name(value, t.name)
        self.arrays[t.name] = Stored(value.code, ranges, t.kind, value.dtype)
        return {t.name}

    def _whole(self, body: Expr, axes: tuple[OpAxis, ...], kind: str, path: Path) -> Term:
        """The value of a definition; one that is split along an axis is put together."""
        parts = self._parts(body, axes)
        if parts is None:
            scope = Scope({a.name: (a.lo, a.hi) for a in axes}, path=path)
            return self._full(self.root(body, scope), axes, kind)
        k, pieces = parts
        terms = []
        for lo, hi, e in pieces:
            own = tuple(replace(a, lo=lo, hi=hi) if n == k else a for n, a in enumerate(axes))
            terms.append(self._whole(e, own, kind, path))
        if len({t.dtype for t in terms}) > 1:
            terms = [self.lift(t) for t in terms]
        codes = ", ".join(self.name(t, "part").code if len(t.code) > 60 else t.code for t in terms)
        names = tuple(a.name for a in axes)
        return Term(f"jnp.concatenate([{codes}], axis={k})", names, kind, ATOM, terms[0].dtype)

    def _parts(
        self, body: Expr, axes: tuple[OpAxis, ...]
    ) -> tuple[int, list[tuple[Expr, Expr, Expr]]] | None:
        """`if i < n then ... else ...` over an axis i with n within its range, as ranges of i."""
        while body.op == "cast" and body.kind == "real" and body.attr.bits >= 32:
            body = body.args[0]
        if body.op != "select" or body.args[0].op not in ("lt", "le"):
            return None
        below, above = body.args[1:]
        a, b = body.args[0].args
        strict = body.args[0].op == "lt"
        if b.op == "var":  # n < i or n <= i
            a, b, below, above, strict = b, a, above, below, not strict
        if a.op != "var" or not self.is_static(b):
            return None
        cut = b if strict else b + 1
        for k, axis in enumerate(axes):
            if axis.name == a.attr:
                inside = self.facts.at_least(cut - axis.lo) and self.facts.at_least(axis.hi - cut)
                if not inside:
                    return None
                pieces = []
                for lo, hi, e in ((axis.lo, cut, below), (cut, axis.hi, above)):
                    own = tuple(replace(x, lo=lo, hi=hi) if n == k else x
                                for n, x in enumerate(axes))  # fmt: skip
                    inner = self._parts(e, own)
                    same = inner is not None and inner[0] == k
                    pieces += inner[1] if inner is not None and same else [(lo, hi, e)]
                return k, pieces
        return None

    def _full(self, t: Term, axes: tuple[OpAxis, ...], kind: str) -> Term:
        """The value as an array with all axes of its definition."""
        names = tuple(a.name for a in axes)
        shape = ", ".join(self.extent(a.lo, a.hi) for a in axes) + ("," if len(axes) == 1 else "")
        if not t.axes and not t.code.startswith("jnp.sum("):
            to = {"real": self.real, "int": "int", "bool": "bool"}[kind]
            if t.static:
                return Term(f"jnp.full(({shape}), {t.code}, {to})", names, kind)
            if not names and ("(" not in t.code or t.dtype is None):
                return t if "(" in t.code else Term(f"jnp.asarray({t.code})", (), kind,
                                                    ATOM, t.dtype)  # fmt: skip
        if t.axes != names:
            code = f"jnp.broadcast_to({aligned(t, names).code}, ({shape}))"
            return Term(code, names, kind, ATOM, t.dtype)
        return t

    def _recurrence(self, group: list[Tensor]) -> None:
        """A scan over the axis that runs in order; the carry is the group at the step before."""
        places, starts, members = {}, [], []
        for t in group:
            assert t.recurrence is not None
            when = next(k for k, a in enumerate(t.axes) if a.name == t.recurrence.axis)
            places[t.name] = when
        steps = group[0].axes[places[group[0].name]]
        for t in group:
            assert t.recurrence is not None
            rest = tuple(a for k, a in enumerate(t.axes) if k != places[t.name])
            scope = Scope({a.name: (a.lo, a.hi) for a in rest})
            time = t.axes[places[t.name]]
            init = substitute(t.recurrence.init, {var(time.name): time.lo - 1})
            start = self._full(self.lift(self.value(init, scope)), rest, t.kind)
            starts.append(self._computed(start, t.kind))
            members.append((t, rest))
        step = self.names.fresh("step")
        now = self.names.fresh("t" if "t" not in self.names._taken else steps.name)
        previous = {t.name: self.names.fresh(f"{t.name}_before") for t in group}
        kept = dict(self.arrays)
        sliced = self._slices(group, places)
        present: dict[str, Stored] = {}
        outer, self.lines = self.lines, []
        for t, rest in members:
            assert t.body is not None
            time = t.axes[places[t.name]]
            for u, other in members:
                ranges = tuple((a.lo, a.hi) for a in other)
                before = Stored(previous[u.name], ranges, u.kind)
                self.arrays[u.name] = Running(
                    places[u.name], var(time.name), before, present.get(u.name)
                )
            for name, (when, variable) in sliced.items():
                whole = kept[name]
                assert isinstance(whole, Stored)
                rest_of = tuple(r for k, r in enumerate(whole.ranges) if k != when)
                here = Stored(variable, rest_of, whole.kind, whole.dtype)
                self.arrays[name] = Running(when, var(time.name), here, here)
            path: Path = path_of(t)
            at = Term(now, (), "int")
            scope = Scope({a.name: (a.lo, a.hi) for a in rest}, {time.name: at},
                          {time.name: (time.lo, time.hi)}, path)  # fmt: skip
            value = self._full(self.lift(self.root(t.body, scope)), rest, t.kind)
            value = self.name(self._computed(value, t.kind), t.name)
            present[t.name] = Stored(value.code, tuple((a.lo, a.hi) for a in rest), t.kind)
        body, self.lines = self.lines, outer
        names = [previous[t.name] for t in group]
        new = [present[t.name].code for t in group]
        self.arrays = kept
        uses_time = any(now in _words(line) for line in body)
        rows = [v for _, v in sliced.values()]
        every = _tuple([*([now] if uses_time or not rows else []), *rows])
        argument = every if every.isidentifier() else self.names.fresh("row")
        carry, result = _tuple(names), _tuple(new)
        head = carry if carry.isidentifier() else "carry"
        self.lines.append(f"def {step}({head}, {argument}):")
        self.lines += [] if carry == head else [f"    {carry} = carry"]
        self.lines += [] if every == argument else [f"    {every} = {argument}"]
        self.lines += [f"    {line}" for line in body]
        self.lines.append(f"    return {result}, {result}")
        stacked = [self.names.fresh(t.name) for t in group]
        first, last = self.number(steps.lo), self.number(steps.hi)
        runs = f"jnp.arange({last})" if first == "0" else f"jnp.arange({first}, {last})"
        moved = []
        for name, (when, _) in sliced.items():
            whole = self.arrays[name]
            assert isinstance(whole, Stored)
            moved.append(f"jnp.moveaxis({whole.code}, {when}, 0)" if when else whole.code)
        over = _tuple([*([runs] if uses_time or not rows else []), *moved])
        begin = _tuple([s.code for s in starts])
        runs_through = wrapped(f"_, {_tuple(stacked)} = lax.scan({step}, {begin}, {over})")
        if any(now in _words(part) for line in body for part in line.split("[")[1:]):
            # what is indexed by the step cannot even be traced where there is no step
            none = [self._no_steps(t, rest) for t, rest in members]
            self.lines.append(f"if {self.extent(steps.lo, steps.hi)} > 0:")
            self.lines += [f"    {line}" for line in runs_through]
            self.lines.append("else:")
            self.lines += [f"    {line}" for line in wrapped(f"{_tuple(stacked)} = {_tuple(none)}")]
        else:
            self.lines += runs_through
        for t, name in zip(group, stacked, strict=True):
            when = places[t.name]
            if when:
                self.lines.append(f"{name} = jnp.moveaxis({name}, 0, {when})")
            self.arrays[t.name] = Stored(name, tuple((a.lo, a.hi) for a in t.axes), t.kind)

    def _no_steps(self, t: Tensor, rest: tuple[OpAxis, ...]) -> str:
        """What a scan of no steps stacks."""
        shape = ", ".join(["0", *(self.extent(a.lo, a.hi) for a in rest)])
        to = {"real": self.real, "int": "int", "bool": "bool"}[t.kind]
        return f"jnp.zeros(({shape}{'' if rest else ','}), {to})"

    def _slices(self, group: list[Tensor], places: dict[str, int]) -> dict[str, tuple[int, str]]:
        """Tensors that are only read at the present step: {name: (axis, name of the slice)}."""
        found: dict[str, set[int | None]] = {}
        for t in group:
            assert t.body is not None
            time = t.axes[places[t.name]]
            for x in walk(t.body):
                if x.op == "read" and x.attr[0] not in places:
                    name, index, _ = read_parts(x)
                    stored = self.arrays[name]
                    at = [k for k, i in enumerate(index) if time.name in free_vars(i)]
                    plain = len(at) == 1 and index[at[0]] is var(time.name)
                    if plain and isinstance(stored, Stored):
                        plain = stored.ranges[at[0]] == (time.lo, time.hi)
                    found.setdefault(name, set()).add(at[0] if plain else None)
        out = {}
        for name, axes in found.items():
            only = next(iter(axes))
            stored = self.arrays[name]
            if len(axes) == 1 and only is not None and isinstance(stored, Stored):
                out[name] = (only, self.names.fresh(f"{stored.code}_t"))
        return out

    def _computed(self, t: Term, kind: str) -> Term:
        """A carry has one type at every step."""
        if kind == "bool" or not (self.f64 or t.static):
            return t
        to = {"real": self.real, "int": "int"}[kind]
        if t.code.startswith("jnp.full(") and t.code.endswith(f"{to})"):
            return t
        return Term(f"{t.at(ATOM)}.astype({to})", t.axes, t.kind)

    # -- the result -------------------------------------------------------------------------------

    def _result(self) -> str:
        codes = []
        for t in self.op.outputs:
            stored = self.arrays[t.name]
            assert isinstance(stored, Stored)
            codes.append(self._output(t, stored))
        text = f"return {', '.join(codes)}"
        self._result_text = [text]
        return text

    def _output(self, t: Tensor, stored: Stored) -> str:
        """The value in the type of the output."""
        if stored.dtype == t.dtype or t.kind == "bool":
            return stored.code
        computed = stored.dtype is None or not (half(stored.dtype) or stored.dtype.kind == "int")
        if computed and t.dtype == F32 and not self.f64:
            return stored.code
        if computed and t.dtype == I64:
            return stored.code
        return f"{stored.code}.astype({jax_type(t.dtype)})"

    _result_text: list[str] = []  # noqa: RUF012
    _solved: dict[str, str] = {}  # noqa: RUF012
    _size_lines: dict[str, str] = {}  # noqa: RUF012


def _tuple(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _words(text: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


def shape_of(t: Tensor) -> tuple[Expr, ...]:
    """Extents of a tensor's axes, without terms that cancel."""
    out = []
    for a in t.axes:
        form = affine(a.hi - a.lo)
        out.append(a.hi - a.lo if form is None else from_affine(form) if form else const(0))
    return tuple(out)
