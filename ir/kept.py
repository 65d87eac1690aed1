"""Launches whose results need not be made again while some inputs stay what they are.

A launch that reads inputs alone and writes scratch alone, which it alone writes and only later
launches read, gives the same scratch in every call with the same inputs, sizes, params and strides:
it runs once where the caller holds those inputs constant. What is proved of a program is proved of
all its launches in order, so it is as true of a call whose first part was done before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opwright.ir.tile import Atomic, Buffer, Def, Kernel, Store, TileProgram, statements


@dataclass(frozen=True, slots=True)
class Kept:
    """`launches`: position in the program -> inputs that its results are made of; `scratch`: what
    each such launch writes -> the same."""

    launches: Mapping[int, frozenset[str]]
    scratch: Mapping[str, frozenset[str]]


def accesses(k: Kernel) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
    """(what a kernel reads, what it writes); an atomic does both."""
    reads: dict[str, Buffer] = {}
    writes: dict[str, Buffer] = {}
    for s in statements(k.body):
        if isinstance(s, Def) and s.value.op == "load":
            reads[s.value.attr.buffer.name] = s.value.attr.buffer
        elif isinstance(s, Store | Atomic):
            writes[s.buffer.name] = s.buffer
            if isinstance(s, Atomic):
                reads[s.buffer.name] = s.buffer
    return reads, writes


def kept(program: TileProgram) -> Kept | None:
    """The launches that inputs alone determine; None where there is none, or nothing else."""
    every = [accesses(k) for k in program.kernels]
    writers: dict[str, list[int]] = {}
    readers: dict[str, list[int]] = {}
    for n, (reads, writes) in enumerate(every):
        for name in writes:
            writers.setdefault(name, []).append(n)
        for name in reads:
            readers.setdefault(name, []).append(n)
    launches: dict[int, frozenset[str]] = {}
    scratch: dict[str, frozenset[str]] = {}
    for n, (reads, writes) in enumerate(every):
        shared = {name: b for name, b in writes.items() if b.role != "program"}
        alone = bool(shared) and all(
            b.role == "plan"
            and b.init == "none"
            and writers[name] == [n]
            and all(r > n for r in readers.get(name, ()))
            for name, b in shared.items()
        )
        if not alone or program.placements[n].home:
            continue
        needs: set[str] = set()
        for name, b in reads.items():
            if b.role == "in":
                needs.add(name)
            elif b.role == "plan" and name in scratch:
                needs |= scratch[name]
            elif b.role != "program":
                break
        else:
            if needs:
                launches[n] = frozenset(needs)
                scratch |= dict.fromkeys(shared, frozenset(needs))
    if not launches or len(launches) == len(program.kernels):
        return None
    return Kept(launches, scratch)
