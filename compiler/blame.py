"""Where a mistake was made, where that is not where it shows.

A declaration that everything contradicts is wrong, not everything else; what follows from another
mistake is no mistake of its own. Findings are moved or dropped here, never added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from opwright.compiler import codes
from opwright.compiler.dependencies import uses
from opwright.compiler.terms_base import counted
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import Diagnostic, diagnose
from opwright.grammar.format_expr import format_expr
from opwright.ir.dtypes import DTYPES

# mistakes after which the range of an index that follows from nothing says nothing new
MISLEADING = (
    codes.UNKNOWN_NAME, codes.DECLARED_TWICE, codes.UNKNOWN_FUNCTION, codes.UNDEFINED_OUTPUT,
    codes.DEFINED_INPUT, codes.CYCLE, codes.UNKNOWN_RESULT, codes.SHADOWED, codes.WRONG_RANK,
    codes.BAD_RECURRENCE, codes.REPEATED_INDEX,
)  # fmt: skip
IMPORTS = (
    codes.UNKNOWN_MODULE, codes.UNKNOWN_OPERATOR, codes.WRONG_VERSION, codes.IMPORT_CYCLE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Use:
    """A tensor with indices: how many, and where."""

    rank: int
    span: Span


def blamed(
    op: ast.Op, found: Sequence[Diagnostic], imports: Sequence[ast.Import] = ()
) -> list[Diagnostic]:
    """The findings about one operator, each where its mistake was made."""
    out = _ranks(op, _unread(op, _imported(list(found), imports)))
    out = _misspelt_locals(op, _misspelt_outputs(op, out))
    out = _types(op, out)
    if any(d.code in MISLEADING for d in out):
        out = [d for d in out if d.code != codes.UNKNOWN_RANGE]
    return out


def _imported(found: list[Diagnostic], imports: Sequence[ast.Import]) -> list[Diagnostic]:
    """Without the uses of what could not be imported."""
    missing: set[str] = set()
    lines = {d.span.line for d in found if d.code in IMPORTS}
    for item in imports:
        if isinstance(item, ast.ImportNames):
            names = [n.name for n in item.names if {n.span.line, item.span.line} & lines]
        else:
            names = [item.alias or item.path[-1]] if item.span.line in lines else []
        missing.update(names)
    unknown = (codes.UNKNOWN_FUNCTION, codes.UNKNOWN_NAME)
    return [
        d for d in found if d.code not in unknown or not any(f"`{n}`" in d.message for n in missing)
    ]


# -- ranks ----------------------------------------------------------------------------------------


def _ranks(op: ast.Op, found: list[Diagnostic]) -> list[Diagnostic]:
    """One finding at a declaration or definition whose rank no use of it has."""
    if not any(d.code == codes.WRONG_RANK for d in found):
        return found
    sites = _sites(op)
    left = {lhs.name: lhs for lhs in _left_sides(op)}
    declared = {t.name: (t.shape, t.span) for t in (*op.inputs, *op.outputs)}
    for name, lhs in left.items():
        declared.setdefault(name, (lhs.indices, lhs.span))
    outputs = {t.name for t in op.outputs}
    for name, (shape, span) in declared.items():
        mine = list(sites.get(name, ()))
        if name in outputs and name in left and left[name].indices:
            mine.append(Use(len(left[name].indices), left[name].span))
        if any(_variadic(x) for x in shape) or len({u.rank for u in mine}) != 1:
            continue
        rank = mine[0].rank
        lines = {u.span.line for u in mine}
        if rank == len(shape) or not (len(lines) > 1 or _alone(op, name, rank, len(shape), found)):
            continue
        about = f"`{name}` has "
        files = [d for d in found if d.code == codes.WRONG_RANK and d.message.startswith(about)]
        if not files:
            continue
        how = f"the {rank} with which it is used (line {', '.join(map(str, sorted(lines)))})"
        moved = diagnose(
            codes.WRONG_RANK, span, files[0].filename, name=name, rank=len(shape), found=how
        )
        moved = replace(moved, cure="give it as many axes as the places that use it")
        found = [d for d in found if d not in files] + [moved]
    return found


def _unread(op: ast.Op, found: list[Diagnostic]) -> list[Diagnostic]:
    """A local whose range nothing gives, since it is read with another number of indices."""
    left = {lhs.name: len(lhs.indices) for lhs in _left_sides(op)}
    sites = _sites(op)
    out: dict[Diagnostic, None] = {}
    for d in found:
        name = d.message.split("`")[3] if d.code == codes.UNKNOWN_RANGE else ""
        wrong = [u for u in sites.get(name, ()) if name in left and u.rank != left[name]]
        for u in wrong:
            text = counted(u.rank, "index", "indices")
            rank = {"name": name, "rank": left[name], "found": text}
            out[diagnose(codes.WRONG_RANK, u.span, d.filename, **rank)] = None
        if not wrong:
            out[d] = None
    return list(out)


def _alone(op: ast.Op, name: str, rank: int, declared: int, found: Sequence[Diagnostic]) -> bool:
    """Whether the one use of a tensor is more to be believed than its declaration."""
    own = next((s for s in _statements(op) if name in _names_left(s)), None)
    if own is None or any(isinstance(s, ast.Equation) and len(s.lhs) > 1 for s in (own,)):
        return False
    (lhs,) = (x for x in _left_sides(op) if x.name == name)
    said = {u.name for u in uses(own.rhs)}
    idle = any(i.name not in said for i in lhs.indices)
    if name not in {t.name for t in op.outputs}:
        return idle and rank == declared - 1  # an index on the left that nothing uses
    wrong = {d.span.line for d in found if d.code == codes.UNKNOWN_NAME}
    inside = range(own.span.line, own.span.end_line + 1)
    if rank > declared:
        return not idle
    shape = next(t.shape for t in op.outputs if t.name == name)
    known = {format_expr(x) for t in op.inputs for x in t.shape if isinstance(x, ast.Expr)}
    strange = any(isinstance(x, ast.Number) and format_expr(x) not in known for x in shape)
    return strange and not wrong & set(inside)


@dataclass(frozen=True, slots=True)
class Left:
    """What an equation defines: a tensor and its indices."""

    name: str
    indices: tuple[ast.Name, ...]
    span: Span


def _statements(op: ast.Op) -> Iterator[ast.Equation | ast.Recurrence]:
    for s in op.defs:
        assert isinstance(s, ast.Equation | ast.Recurrence)
        yield s


def _left_sides(op: ast.Op) -> Iterator[Left]:
    for s in _statements(op):
        if isinstance(s, ast.Recurrence):
            plain = tuple(i for i in s.indices if isinstance(i, ast.Name))
            if len(plain) == len(s.indices):
                yield Left(s.name, plain, s.span)
        else:
            for lhs in s.lhs:
                if not any(i.variadic for i in lhs.indices):
                    named = tuple(ast.Name(i.name, span=i.span) for i in lhs.indices)
                    yield Left(lhs.name, named, lhs.span)


def _names_left(s: ast.Equation | ast.Recurrence) -> set[str]:
    return {s.name} if isinstance(s, ast.Recurrence) else {lhs.name for lhs in s.lhs}


def _variadic(extent: object) -> bool:
    return isinstance(extent, ast.Splat)


def _sites(op: ast.Op) -> dict[str, list[Use]]:
    """Every indexed use of a name outside of declarations."""
    out: dict[str, list[Use]] = {}
    for item in op.items:
        for node in ast.walk(item):
            if isinstance(node, ast.Read) and isinstance(node.base, ast.Name):
                if not any(isinstance(i, ast.Splat) for i in node.indices):
                    use = Use(len(node.indices), node.span)
                    out.setdefault(node.base.name, []).append(use)
    return out


# -- names ----------------------------------------------------------------------------------------


def _misspelt_outputs(op: ast.Op, found: list[Diagnostic]) -> list[Diagnostic]:
    """An output that nothing defines, beside a definition that nothing reads: that is misspelt."""
    missing = [d for d in found if d.code == codes.UNDEFINED_OUTPUT]
    if not missing:
        return found
    read = {u.name for s in _statements(op) for u in uses(s.rhs)}
    known = {t.name for t in op.outputs}
    idle = {lhs.name: lhs for lhs in _left_sides(op) if lhs.name not in read | known}
    for d in missing:
        name = d.message.split("`")[1]
        near = get_close_matches(name, list(idle), n=1, cutoff=0.7)
        if near:
            lhs = idle.pop(near[0])
            cure = f"write `{name}` for `{lhs.name}`, which nothing reads"
            found = [replace(d, span=lhs.span, cure=cure) if x is d else x for x in found]
    return found


def _misspelt_locals(op: ast.Op, found: list[Diagnostic]) -> list[Diagnostic]:
    """A name that is read at several lines and unknown, beside a definition that nothing reads."""
    unknown: dict[str, list[Diagnostic]] = {}
    for d in found:
        if d.code == codes.UNKNOWN_NAME:
            unknown.setdefault(d.message.split("`")[1], []).append(d)
    read = {u.name for s in _statements(op) for u in uses(s.rhs)}
    known = {t.name for t in op.outputs}
    idle = {lhs.name: lhs for lhs in _left_sides(op) if lhs.name not in read | known}
    for name, uses_of in unknown.items():
        near = get_close_matches(name, list(idle), n=1, cutoff=0.7)
        if near and len({d.span.line for d in uses_of}) > 1:
            lhs, first = idle.pop(near[0]), uses_of[0]
            lines = ", ".join(str(n) for n in sorted({d.span.line for d in uses_of}))
            cure = f"write `{name}` for `{lhs.name}`, which nothing reads (`{name}`: line {lines})"
            moved = replace(first, span=lhs.span, cure=cure)
            found = [moved if d is first else d for d in found if d is first or d not in uses_of]
    return found


# -- types ----------------------------------------------------------------------------------------


def _types(op: ast.Op, found: list[Diagnostic]) -> list[Diagnostic]:
    """A real output declared otherwise, where a tolerance names types that no output has."""
    if op.tolerance is None or not any(d.code == codes.WRONG_DEFINITION for d in found):
        return found
    options = {t.name: {o.name for o in t.options} for t in op.types}
    had = {n for t in op.outputs for n in options.get(t.type.name, {t.type.name})}
    keys = {n for r in op.tolerance.rules for n in options.get(r.type.name, {r.type.name})}
    real = {n for n in keys if n in DTYPES and DTYPES[n].kind == "real"}
    if not real or real & had:
        return found
    places = {t.name: t.span for t in op.outputs}
    out = []
    for d in found:
        name = d.message.split("`")[1] if "`" in d.message else ""
        if d.code == codes.WRONG_DEFINITION and name in places and "a real number" in d.message:
            cure = f"declare it with a type of `tolerance`, or {d.cure}"
            d = replace(d, span=places[name], cure=cure)
        out.append(d)
    return out
