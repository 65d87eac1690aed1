"""Outputs that a text also uses as memory of its own.

TileIR writes an element of an output once. Where a text uses an output as memory, the whole output
is scratch of the plan, copied out by a last launch. What the printer keeps in an output before the
final value goes there is scratch of the program, at home in the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from opwright.backends.cpp.importer_polynomials import canonical
from opwright.backends.cpp.importer_rewrite import Rewriter, replace_attr
from opwright.ir.expr import ONE, Expr, leaves, pid, substitute, var
from opwright.ir.tile import (
    Buffer,
    Builder,
    Def,
    For,
    If,
    Kernel,
    Load,
    Placement,
    Stmt,
    Store,
    Value,
    written_at,
)


@dataclass(frozen=True, slots=True)
class _Use:
    """A load or store of an output, loops around it and conditions that it is under."""

    what: Store | Value
    index: tuple[Expr, ...]
    mask: Expr
    loops: tuple[For, ...]
    conds: tuple[Expr, ...]

    @property
    def stores(self) -> bool:
        return isinstance(self.what, Store)


def settle(
    kernels: list[Kernel], taken: Iterable[str], ours: bool
) -> tuple[list[Kernel], list[Placement]]:
    """Kernels that write each element of an output once, and their placements; only in what is
    printed (`ours`) outputs hold scratch that is over before they are written."""
    places = [Placement() for _ in kernels]
    names = set(taken)
    outs = [b for b in dict.fromkeys(b for k in kernels for b in k.buffers) if b.role == "out"]
    copies = []
    for b in outs:
        uses = [_uses(k.body, b) for k in kernels]
        touched = [n for n, u in enumerate(uses) if u]
        if not any(_again(u) for u in uses) and len(touched) < 2:
            continue
        home = _home(uses[touched[0]], b) if ours and len(touched) == 1 else None
        label = _fresh(f"{b.name}_part", names)
        if home is not None:
            n = touched[0]
            lead, early = home
            scratch = Buffer(label, "program", b.dtype, b.shape[len(lead) :])
            kernels[n] = _moved(kernels[n], b, scratch, len(lead), early)
            places[n] = Placement(home={**places[n].home, label: (b.name, lead)})
            continue
        if len(touched) > 1 and not any(_again(u) for u in uses):
            continue  # launches that write parts of it
        whole = Buffer(label, "plan", b.dtype, b.shape)
        lines = written_at(kernels, b.name)
        kernels[:] = [_moved(k, b, whole, 0, None) for k in kernels]
        copies.append(_copy(b, whole, _fresh(f"copy_{b.name}", names), lines))
    return [*kernels, *copies], [*places, *(Placement() for _ in copies)]


def _fresh(name: str, taken: set[str]) -> str:
    n, label = 1, name
    while label in taken:
        n += 1
        label = f"{name}_{n}"
    taken.add(label)
    return label


def _uses(
    body: Iterable[Stmt], b: Buffer, loops: tuple[For, ...] = (), conds: tuple[Expr, ...] = ()
) -> list[_Use]:
    out: list[_Use] = []
    for s in body:
        if isinstance(s, Def) and s.value.op == "load" and s.value.attr.buffer == b:
            m: Load = s.value.attr
            out.append(_Use(s.value, m.index, m.mask, loops, conds))
        elif isinstance(s, Store) and s.buffer == b:
            out.append(_Use(s, s.index, s.mask, loops, conds))
        elif isinstance(s, For):
            out += _uses(s.body, b, (*loops, s), conds)
        elif isinstance(s, If):
            out += _uses(s.then, b, loops, (*conds, s.cond))
            out += _uses(s.other, b, loops, (*conds, ~s.cond))
    return out


def _again(uses: list[_Use]) -> bool:
    """Whether an element of an output is evidently written more than once."""
    stores = [u for u in uses if u.stores]
    for n, u in enumerate(uses):  # what is read before it is written was written before
        if not u.stores and any(
            w.stores and w.loops == u.loops and _form(w)[:-1] == _form(u)[:-1] for w in uses[n:]
        ):
            return True
    if any(not _moves(s, u) for u in stores for s in u.loops):
        return True
    forms = [_form(u) for u in stores]
    return len(set(forms)) < len(forms)


def _moves(s: For, u: _Use) -> bool:
    """Whether a loop around an access moves it, or decides about it."""
    moving = {v for e in (*u.index, u.mask, *u.conds) for v in leaves(e, "var")}
    for inner in reversed(u.loops):
        if var(inner.variable) in moving:
            moving |= {v for e in (inner.lo, inner.hi) for v in leaves(e, "var")}
    return var(s.variable) in moving


def _form(u: _Use) -> tuple[object, ...]:
    """Where an access runs, whatever its loops are called."""
    names: dict[Expr, Expr] = {}
    rows: list[object] = []
    for n, s in enumerate(u.loops):
        rows += [canonical(substitute(e, names)) for e in (s.lo, s.hi)]
        rows.append(s.step)
        names[var(s.variable)] = var(f"\0{n}")
    rows += [canonical(substitute(e, names)) for e in (*u.index, *u.conds, u.mask)]
    return tuple(rows)


def _home(uses: list[_Use], b: Buffer) -> tuple[tuple[Expr, ...], set[object]] | None:
    """(leading index, accesses of scratch) where an output holds scratch before its values."""
    reads = [n for n, u in enumerate(uses) if not u.stores]
    if not reads:
        return None
    early = [u for n, u in enumerate(uses) if not u.stores or n < reads[0]]
    late = [u for n, u in enumerate(uses) if u.stores and n > reads[0]]
    if not late or not any(u.stores for u in early):
        return None
    for u in late:  # what is read afterwards must still be scratch
        for r in (uses[n] for n in reads):
            for s in u.loops:
                if any(s is x for x in r.loops) and not (_moves(s, u) and _moves(s, r)):
                    return None
    lead: list[Expr] = []
    for d in range(len(b.shape)):
        found = {canonical(u.index[d]) for u in early}
        first = early[0].index[d]
        if len(found) != 1 or leaves(first, "var", "lane", "value"):
            break
        lead.append(first)
    if len(lead) == len(b.shape):
        return None
    return tuple(lead), {u.what for u in early}


def _moved(k: Kernel, b: Buffer, to: Buffer, drop: int, only: set[object] | None) -> Kernel:
    """Accesses of a buffer (all, or these) as accesses of another one."""
    inside = {s.what for s in _uses(k.body, b)} if only is None else only

    def change(v: Value) -> Value | None:
        names = {x.name for x in inside if isinstance(x, Value)}
        if v.op == "load" and v.attr.buffer == b and v.name in names:
            m: Load = v.attr
            return replace_attr(v, Load(to, m.index[drop:], m.mask, m.other))
        return v

    def stores(body: Iterable[Stmt]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        names = {x.name for x in inside if isinstance(x, Store)}
        for s in body:
            if isinstance(s, Store) and s.buffer == b and s.name in names:
                s = replace(s, buffer=to, index=s.index[drop:])
            elif isinstance(s, For):
                s = replace(s, body=stores(s.body))
            elif isinstance(s, If):
                s = If(s.cond, stores(s.then), stores(s.other))
            out.append(s)
        return tuple(out)

    if not inside:
        return k
    body = stores(Rewriter(change).body(k.body))
    kept = [x for x in k.buffers if x != b or only is not None]
    return replace(k, body=body, buffers=(*kept, to))


def apart(kernels: Sequence[Kernel], taken: Iterable[str]) -> list[Kernel]:
    """Kernels whose arrays have names of their own: those of two may be called the same."""
    names, found, out = set(taken), dict[str, Buffer](), []
    for k in kernels:
        for b in k.buffers:
            if b.role == "program" and found.setdefault(b.name, b) != b:
                k = _moved(k, b, replace(b, name=_fresh(b.name, names)), 0, None)
        out.append(k)
    return out


def _copy(b: Buffer, source: Buffer, name: str, lines: str) -> Kernel:
    """What no program wrote shows here: as written at the lines of all stores."""
    grid = b.shape[:1] or (ONE,)
    k = Builder(name, grid)
    k.line = lines

    def inner(d: int, at: tuple[Expr, ...]) -> None:
        if d < len(b.shape):
            k.loop(f"i{d}", 0, b.shape[d], 1, [], lambda v: inner(d + 1, (*at, v)))
            return
        k.store(b, *at, k.load(source, *at))

    inner(1, (pid(0),) if b.shape else ())
    return k.kernel()
