"""The architectures that Triton candidates are compiled for: how Triton names them and what one
program may take. Limits are those that the vendors publish for the architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One architecture. `family` and `arch` are Triton's words; `shared` is the most memory, in
    bytes, that one program may share between its threads, `registers` the most that a thread may
    have, `threads` the most that a program may have. `specialises`: its compiler can give warps of
    a program roles of their own."""

    name: str
    family: str
    arch: int | str
    warp: int
    shared: int
    registers: int = 255
    threads: int = 1024
    specialises: bool = False


TARGETS = {
    t.name: t
    for t in (
        Target("sm_80", "cuda", 80, 32, 163 << 10),
        Target("sm_90", "cuda", 90, 32, 227 << 10),
        Target("sm_100", "cuda", 100, 32, 227 << 10, specialises=True),
        Target("gfx942", "hip", "gfx942", 64, 64 << 10, 512),
    )
}


def target_of(name: str) -> Target:
    """The architecture of that name; ValueError lists the known ones."""
    if name not in TARGETS:
        raise ValueError(f"unknown target {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name]
