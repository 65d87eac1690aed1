"""Calls of operators inside a spec: their definitions are copied into the caller under fresh names.

A call under an index is lifted: every copied tensor gets the outer indices that the arguments
depend on as leading axes. Inside a law a call of the operator itself stays a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opwright.compiler import codes
from opwright.compiler.call_parts import (
    Bound,
    CallSite,
    Copier,
    Interface,
    Sink,
    chosen_type,
    constant,
    in_caller,
    interface_of,
    local_dtype,
    loose_indices,
    param_values,
    shape_text,
    solve_extent,
)
from opwright.compiler.codes import KINDS, Findings
from opwright.compiler.interface import is_default_limit
from opwright.compiler.intrinsics import call_form, is_intrinsic, variant
from opwright.compiler.library import Library
from opwright.compiler.scope import (
    Interval,
    OperatorName,
    Results,
    Scope,
    Whole,
    bounding,
    same_extent,
)
from opwright.compiler.terms import Terms
from opwright.compiler.variadic import leading_axes, variadic_size
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.expr import (
    ZERO,
    Expr,
    call,
    conjunction,
    free_vars,
    param,
    read,
    read_parts,
    rename,
    show,
    size,
    substitute,
    toreal,
    transform,
    var,
    walk,
)
from opwright.ir.op import LawCall, OpAxis, Operator, Param, Tensor


class Calls:
    """The call handler of one `Terms`; calls of `own` stay calls (in its laws)."""

    def __init__(self, terms: Terms, library: Library, findings: Findings) -> None:
        self.terms, self.library, self.findings = terms, library, findings
        self.sink = Sink()
        self.own: tuple[object, Interface] | None = None
        self.equal: dict[Expr, Expr] = {}  # sizes that `where` equates
        self.memo: dict[tuple[object, ...], Results] = {}
        self.digests: set[str] = set()  # of the operators called
        self.writes = False  # results are written out: a clause has no tensors of its own

    def __call__(self, node: ast.Call, op: OperatorName, scope: Scope) -> Results | None:
        if self.own is not None and self.own[0] == op.key:
            interface = self.own[1]
            bound = self._match(node, interface, scope)
            return None if bound is None else self._keep(node, interface, bound)
        if op.key in self.library.pending:
            self.findings.add(codes.CYCLE, node.span, names=f"operator `{op.name}`")
            return None
        if is_intrinsic(op):
            node = call_form(node)
        values = self._values(node, scope)
        if values is None:
            return None
        if is_intrinsic(op):
            first = next(iter(values.values()), None)
            op = variant(op, None if first is None else first.kind)
        callee = self._elaborate(op, values, node)
        if callee is None:
            return None
        self.digests.add(callee.digest)
        interface = interface_of(callee)
        bound = self._match(node, interface, scope, values)
        return None if bound is None else self._inline(node, callee, bound)

    # -- arguments --------------------------------------------------------------------------------

    def _values(self, node: ast.Call, scope: Scope) -> dict[object, Whole] | None:
        """Every argument as a tensor, by position or by name."""
        out: dict[object, Whole] = {}
        good = True
        for key, arg in (*enumerate(node.args), *((k.name, k.value) for k in node.kwargs)):
            v = self.terms.value(arg, scope)
            if isinstance(v, Results):
                v = self.terms.single(v, arg)
            if v is None:
                good = False
            else:
                out[key] = v if isinstance(v, Whole) else constant(v, arg)
        return out if good else None

    def _elaborate(
        self, op: OperatorName, values: Mapping[object, Whole], node: ast.Call
    ) -> Operator | None:
        """The called operator at the binding that the arguments' types ask for."""
        key = op.key
        syntax = self.library.op(key)  # type: ignore[arg-type]
        if variadic_size(syntax) is not None:
            given = [(t, values.get(k, values.get(t.name))) for k, t in enumerate(syntax.inputs)]
            ranks = {t.name: len(v.shape) for t, v in given if v is not None}
            count = leading_axes(syntax, ranks)
            if count is not None and count >= 0 and count != 1:
                key = self.library.written_out(key, count)  # type: ignore[arg-type]
                syntax = self.library.op(key)
        options = {t.name: [o.name for o in t.options] for t in syntax.types}
        types: dict[str, str] = {}
        for k, decl in enumerate(syntax.inputs):
            v = values.get(k, values.get(decl.name))
            if isinstance(decl.type, ast.TypeRef) and decl.type.name in options:
                wanted = None if v is None else v.dtype
                types.setdefault(decl.type.name, chosen_type(options[decl.type.name], wanted))
        try:
            return self.library.operator(key, types)  # type: ignore[arg-type]
        except DiagnosticError as error:
            self.findings.found += error.diagnostics
            return None

    def _match(
        self,
        node: ast.Call,
        callee: Interface,
        scope: Scope,
        values: Mapping[object, Whole] | None = None,
    ) -> Bound | None:
        values = self._values(node, scope) if values is None else values
        if values is None:
            return None
        inputs = {t.name: t for t in callee.inputs}
        scalars = {p.name: p for p in callee.params}
        names = list(inputs)
        args: dict[str, Whole] = {}
        given: dict[str, Whole] = {}
        good = True
        if len(node.args) > len(names):
            self._arity(node, callee)
            return None
        for key, v in values.items():
            name = names[key] if isinstance(key, int) else str(key)
            if name in inputs and name not in args:
                args[name] = v
            elif name in scalars or name in callee.sizes:
                given[name] = v
            else:
                span = next((k.span for k in node.kwargs if k.name == name), node.span)
                known = ", ".join([*inputs, *scalars, *callee.sizes])
                self.findings.add(
                    codes.UNKNOWN_ARGUMENT, span, op=callee.name, name=name, known=known
                )
                good = False
        if len(args) < len(inputs):
            self._arity(node, callee)
            return None
        places = dict(zip(names, node.args, strict=False)) | {k.name: k.value for k in node.kwargs}
        for name, v in args.items():
            good = self._kind(name, v, inputs[name].kind, places[name]) and good
            good = self._rank(v, inputs[name], places[name]) and good
        if not good:
            return None
        return self._sizes(node, callee, args, given, places)

    def _arity(self, node: ast.Call, callee: Interface) -> None:
        names = [t.name for t in callee.inputs]
        self.findings.add(
            codes.WRONG_ARITY,
            node.span,
            name=callee.name,
            wanted=len(names),
            found=len(node.args) + sum(1 for k in node.kwargs if k.name in names),
            cure=f"its inputs are {', '.join(names)}; params and sizes are passed by name",
        )

    def _kind(self, name: str, v: Whole, kind: str, node: ast.Expr) -> bool:
        if v.kind is None or v.kind == kind or (v.kind, kind) == ("int", "real"):
            return v.kind is not None
        self.findings.add(
            codes.WRONG_KIND,
            node.span,
            what=f"argument `{name}`",
            wanted=KINDS[kind],
            found=KINDS[v.kind],
            cure="convert it in a tensor literal",
        )
        return False

    def _rank(self, v: Whole, wanted: Tensor, node: ast.Expr) -> bool:
        if len(v.shape) == len(wanted.axes):
            return True
        self.findings.add(
            codes.WRONG_SHAPE,
            node.span,
            what=f"argument `{wanted.name}`",
            found=shape_text(v.shape),
            wanted=shape_text(wanted.shape),
        )
        return False

    def _sizes(
        self,
        node: ast.Call,
        callee: Interface,
        args: Mapping[str, Whole],
        given: Mapping[str, Whole],
        places: Mapping[str, ast.Expr],
    ) -> Bound | None:
        """The callee's sizes from the arguments' shapes, its params from names and defaults."""
        known: dict[Expr, Expr | None] = {}
        for name, v in given.items():
            if name in callee.sizes:
                known[size(name)] = v.at((), None, places[name].span)
        pairs = [
            (t, k, a.hi, args[t.name].shape[k]) for t in callee.inputs for k, a in enumerate(t.axes)
        ]
        for _, _, extent, actual in pairs:
            if extent.op == "size" and known.get(extent) is None:
                known[extent] = actual
        params: dict[str, Expr] = {}
        values_of_law = self.own is not None and self.own[1] is callee
        for p in callee.params:
            before = {**known, **param_values(callee, params)}
            value = self._param(p, given, places, before, values_of_law)
            if value is None:
                return None
            params[p.name] = value
        for _, _, extent, actual in pairs:
            solve_extent(extent, actual, known)
        for s in callee.sizes:
            if size(s) not in known:
                self.findings.add(codes.UNKNOWN_SIZE, node.span, op=callee.name, name=s)
                return None
        total: dict[Expr, Expr | None] = {**known, **param_values(callee, params)}
        for t, k, extent, actual in pairs:
            wanted = in_caller(extent, total)
            if wanted is not None and actual is not None and not self._same(wanted, actual):
                self.findings.add(
                    codes.WRONG_SHAPE,
                    places[t.name].span,
                    what=f"argument `{t.name}` of `{callee.name}`",
                    found=shape_text(args[t.name].shape),
                    wanted=shape_text([
                        wanted if j == k else in_caller(a.hi, total) for j, a in enumerate(t.axes)
                    ]),
                )  # fmt: skip
                return None
        return Bound(args, total, params)

    def _same(self, a: Expr, b: Expr) -> bool:
        return same_extent(a, b) or same_extent(substitute(a, self.equal),
                                                substitute(b, self.equal))  # fmt: skip

    def _param(
        self,
        p: Param,
        given: Mapping[str, Whole],
        places: Mapping[str, ast.Expr],
        known: Mapping[Expr, Expr | None],
        own: bool,
    ) -> Expr | None:
        kind = p.dtype.kind
        if p.name not in given:
            if own:
                # a law speaks of one setting: what a call leaves out is as in the call it is about
                return param(p.name, kind)
            if p.default is None:
                self.findings.add(
                    codes.WRONG_ARITY,
                    next(iter(places.values())).span if places else ast.NO_SPAN,
                    name=p.name,
                    wanted="a value: it has no default, 1",
                    found=0,
                    cure=f"pass `{p.name} = ...`",
                )
                return None
            value = in_caller(p.default, known)
            return p.default if value is None else value
        v = given[p.name]
        place = places[p.name]
        if v.shape or not self._kind(p.name, v, kind, place):
            if v.shape:
                self.terms.fits(v, (), place)
            return None
        e = v.at((), None, place.span)
        return toreal(e) if e is not None and kind == "real" else e

    # -- calls that stay calls --------------------------------------------------------------------

    def _keep(self, node: ast.Call, callee: Interface, bound: Bound) -> Results | None:
        name = f"call{len(self.sink.calls)}"
        inputs = []
        for t in callee.inputs:
            made = self._argument(f"{name}.{t.name}", bound.args[t.name], t, (), node.span)
            if made is None:
                return None
            if loose_indices(made[0]):
                self.findings.add(
                    codes.UNSUPPORTED,
                    node.span,
                    what=f"a call of `{callee.name}` in its own law that depends on an outer index",
                    cure="compare whole tensors with `~=`",
                )
                return None
            inputs.append(made[0])
        sizes = {s: bound.leaves[size(s)] for s in callee.sizes}
        if any(s is None for s in sizes.values()):
            return None
        self.sink.calls.append(
            LawCall(
                name,
                tuple(inputs),
                dict(bound.params),
                {k: s for k, s in sizes.items() if s is not None},
            )
        )
        outputs = {
            t.name: self._result(f"{name}.{t.name}", t, bound.leaves, ()) for t in callee.outputs
        }
        return Results(callee.name, outputs)

    # -- copies -----------------------------------------------------------------------------------

    def _inline(self, node: ast.Call, callee: Operator, bound: Bound) -> Results | None:
        lifted, loose, carried = self._lifted(bound, node)
        if lifted is None:
            return None
        if loose is not None or carried or self.writes:
            if all(t.recurrence is None for t in callee.tensors):
                return self._written(node, callee, bound)
            what = f"a call of `{callee.name}`, which has a recurrence, "
            what += f"under index `{loose}` of a moving range" if loose else (
                "in another one" if carried else "outside `def` and `law`"
            )  # fmt: skip
            cure = "call the operator on a tensor that is defined outside of it"
            self.findings.add(codes.UNSUPPORTED, node.span, what=what, cure=cure)
            return None
        key: tuple[object, ...] = (
            callee.digest,
            callee.name,
            tuple(sorted(callee.types.items())),
            tuple((k, bound.leaves[k]) for k in sorted(bound.leaves, key=show)),
            tuple(v.tensor for v in bound.args.values()),
        )
        if any(v.tensor is None for v in bound.args.values()):
            key = (*key, node.span)  # one place of the text, as for several names on the left
        plain = not lifted
        if plain and key in self.memo:
            return self.memo[key]
        prefix = tuple(var(n) for n, _ in lifted)
        names: dict[str, tuple[str, tuple[Expr, ...]]] = {}
        for t in callee.inputs:
            v = bound.args[t.name]
            if v.tensor is not None:
                names[t.name] = (v.tensor, ())
                continue
            made = self._argument(f"{callee.name}_{t.name}", v, t, lifted, node.span)
            if made is None:
                return None
            names[t.name] = (made[0].name, tuple(var(n) for n in made[1]))
            self._emit(made[0], node, callee)
        for t in callee.tensors:
            names[t.name] = (self.terms.fresh(f"{callee.name}_{t.name}"), prefix)
        copier = Copier(self.terms, names, bound.leaves, lifted)
        for t in callee.tensors:
            self._emit(copier.tensor(t, names[t.name][0]), node, callee)
        self._preconditions(node, callee, copier)
        outputs = {
            t.name: self._result(names[t.name][0], t, bound.leaves, prefix) for t in callee.outputs
        }
        out = Results(callee.name, outputs)
        if plain:
            self.memo[key] = out
        return out

    def _emit(self, t: Tensor, node: ast.Call, callee: Operator) -> None:
        self.sink.tensors.append(t)
        self.sink.origin[t.name] = (node.span, callee.name)

    def _written(self, node: ast.Call, callee: Operator, bound: Bound) -> Results:
        """The results as expressions: definitions are written out where they are read."""
        copier = Copier(self.terms, {}, bound.leaves, ())
        known: dict[str, tuple[tuple[Expr, ...], Expr]] = {}
        for t in callee.tensors:
            assert t.body is not None
            names = copier.fresh(t.body, axes=[a.name for a in t.axes])
            body = substitute(rename(t.body, names), copier.known)
            known[t.name] = tuple(var(names[a.name]) for a in t.axes), body
        sizes = {t.name: [in_caller(s, bound.leaves) for s in t.shape] for t in callee.tensors}

        def element(
            name: str, index: tuple[Expr, ...], fill: Expr | None, span: Span
        ) -> Expr | None:
            if name in bound.args:
                e = bound.args[name].at(index, fill, span)
                return toreal(e) if e is not None and callee.tensor(name).kind == "real" else e
            own, body = known[name]
            e = substitute(expand(body, span), dict(zip(own, index, strict=True)))
            if fill is None:
                return e
            inside = [
                call("le", 0, i) & call("lt", i, s)
                for i, s in zip(index, sizes[name], strict=True)
                if s is not None
            ]
            return call("select", conjunction(inside), e, fill)

        def expand(body: Expr, span: Span) -> Expr:
            def rule(x: Expr) -> Expr | None:
                if x.op != "read":
                    return None
                name, index, fill = read_parts(x)
                return element(name, index, fill, span)

            return transform(body, rule)

        for fact in callee.facts:
            here = substitute(fact, copier.known)
            if not is_default_limit(fact) and not free_vars(here):
                self.sink.sites.append(CallSite(callee.name, node.span, show(fact), here))
        outputs = {}
        for t in callee.outputs:

            def at(
                index: tuple[Expr, ...], fill: Expr | None, span: Span, name: str = t.name
            ) -> Expr | None:
                return element(name, index, fill, span)

            outputs[t.name] = Whole(
                f"the result `{t.name}`", tuple(sizes[t.name]), t.kind, t.dtype, at
            )
        return Results(callee.name, outputs)

    def _lifted(
        self, bound: Bound, node: ast.Call
    ) -> tuple[list[tuple[str, Interval]] | None, str | None, bool]:
        """The outer indices that the arguments depend on, with constant ranges; one without such a
        range; whether an argument reads the recurrence being defined."""
        found: dict[str, None] = {}
        carried = False
        for v in bound.args.values():
            if v.tensor is not None:
                carried = carried or v.tensor in self.sink.busy
                continue
            at = tuple(var(f"?{k}") for k in range(len(v.shape)))
            e = v.at(at, None, node.span)
            if e is None:
                return None, None, False
            reads = {read_parts(x)[0] for x in walk(e) if x.op == "read"}
            carried = carried or not reads.isdisjoint(self.sink.busy)
            inner = {f"?{k}" for k in range(len(v.shape))}
            found.update(dict.fromkeys(sorted(free_vars(e) - inner)))
        for e in bound.leaves.values():
            if e is not None:
                found.update(dict.fromkeys(sorted(free_vars(e))))
        out: list[tuple[str, Interval]] = []
        for n in found:
            interval = self.terms.ranges.get(n)
            box = None
            if interval is not None:
                lo = bounding(interval[0], self.terms.ranges, upper=False)
                hi = bounding(interval[1], self.terms.ranges, upper=True)
                box = None if lo is None or hi is None else (lo, hi)
            if box is None:
                return out, self.terms.display.get(n, n), carried
            out.append((n, box))
        return out, None, carried

    def _argument(
        self,
        name: str,
        v: Whole,
        wanted: Tensor,
        lifted: Sequence[tuple[str, Interval]],
        span: Span,
    ) -> tuple[Tensor, list[str]] | None:
        """A local that holds an argument; the outer indices it depends on are its leading axes."""
        fresh = [self.terms.index(f"i{k}", None) for k in range(len(v.shape))]
        own: list[OpAxis] = []
        for n, extent in zip(fresh, v.shape, strict=True):
            if extent is None:
                return None
            self.terms.ranges[n] = (ZERO, extent)
            own.append(OpAxis(n, ZERO, extent))
        e = v.at(tuple(var(n) for n in fresh), None, span)
        if e is None:
            return None
        if wanted.kind == "real":
            e = toreal(e)
        loose = free_vars(e) - set(fresh)
        outer: list[OpAxis] = []
        depends = [(n, interval) for n, interval in lifted if n in loose]
        for n, (lo, hi) in depends:
            copy = self.terms.index(self.terms.display.get(n, n), (lo, hi))
            outer.append(OpAxis(copy, lo, hi))
            e = substitute(e, {var(n): var(copy)})
        dtype = v.dtype or local_dtype(e)
        unique = name if "." in name else self.terms.fresh(name)
        return Tensor(unique, dtype, (*outer, *own), e), [n for n, _ in depends]

    def _result(
        self,
        name: str,
        t: Tensor,
        known: Mapping[Expr, Expr | None],
        prefix: tuple[Expr, ...],
    ) -> Whole:
        kind = t.kind

        def at(index: tuple[Expr, ...], fill: Expr | None, span: Span) -> Expr | None:
            e = read(name, (*prefix, *index), kind, fill)
            self.terms.record(e, span)
            return e

        shape = tuple(in_caller(s, known) for s in t.shape)
        return Whole(f"the result `{t.name}`", shape, kind, t.dtype, at, None if prefix else name)

    def _preconditions(self, node: ast.Call, callee: Operator, copier: Copier) -> None:
        for fact in callee.facts:
            if not is_default_limit(fact):
                here = copier.expression(fact)
                self.sink.sites.append(CallSite(callee.name, node.span, show(fact), here))
        for c in callee.requires:
            if c.expr is not None:
                here = copier.closed(c)
                what = f"{c.name}: {show(c.expr)}"
                self.sink.sites.append(CallSite(callee.name, node.span, what, here, True))
