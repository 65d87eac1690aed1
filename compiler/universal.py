"""One package for CPUs and GPUs: libraries for processors, binaries for architectures.

`--target` names processors and GPUs together. The part for GPUs is compiled ahead of time and lies
inside the other as a package of its own; what runs there needs no compiler, Triton's included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opwright.compiler.backend import Backend, CompileError, Effort, Found, carry
from opwright.compiler.package_spec import Binary, PackagedVariant, PackageSpec, types_label
from opwright.ir.launch import Scalar, bind_plan
from opwright.ir.op import Operator
from opwright.runtime.driver import PARTS, TEXT

PORTABLE = "sm_80"  # whose assembly text newer architectures take, too


def parts(backend: str, target: str) -> tuple[str, str] | None:
    """(targets of the CPU, targets of GPUs) where a list of targets has both."""
    if backend not in ("triton", "cuda"):
        return None
    words = [w.strip() for w in target.split(",") if w.strip()]
    cpu = [w for w in words if w.startswith("cpu")]
    gpus = [w for w in words if not w.startswith("cpu")]
    if not cpu:
        return None
    if len(cpu) > 1 or not gpus:
        cure = "name one CPU and the GPUs: --target cpu,sm_90,gfx942; for a CPU alone --backend cpp"
        raise CompileError(f"--target {target}: {backend} kernels are for GPUs", cure)
    return cpu[0], ",".join(gpus)


@dataclass(slots=True, eq=False)
class Beside:
    """The part of a package for GPUs: searched binding by binding beside the other one."""

    backend: Backend
    found: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compile(self, op: Operator, effort: Effort) -> None:
        """Search for GPUs with the same budget; what is proposed for the CPU does not matter."""
        own = Effort(
            effort.budget, effort.seed, effort.require, progress=effort.progress, spec=effort.spec
        )
        own = carry(self.found[0], own) if self.found else own
        one = self.backend.compile(op, own)
        if self.backend.name == "triton":
            made = tuple(self._launched(v, op) for v in one.variants)
            kept = tuple(v for v in made if v.launched)
            if not kept or kept[-1].guards:
                raise CompileError(f"{op.name}: nothing that takes every call was compiled")
            one = replace(one, variants=kept)
        self.found.append(one)

    def _launched(self, v: PackagedVariant, op: Operator) -> PackagedVariant:
        """A variant with the binary of every launch for each of its architectures, and the text
        that drivers compile."""
        from opwright.backends.triton.build import BuildError, compile_for
        from opwright.backends.triton.targets import TARGETS

        bound = bind_plan(v.plan, op)
        kinds = {a.dtype.name for c in bound.launches for a in c.args if isinstance(a, Scalar)}
        if strange := sorted(kinds - set(PARTS)):
            self.notes.append(
                f"{v.name}: no launch outside of Triton takes a number in {strange[0]}"
            )
            return v
        made: dict[str, tuple[Binary, ...]] = {}
        text: tuple[Binary, ...] = ()
        wanted = [t for t in (v.targets or self.backend.targets) if t in TARGETS]
        for target in dict.fromkeys((*wanted, PORTABLE)):
            try:
                found = compile_for(v.source, bound, target)
            except BuildError as e:
                what = TEXT if target not in wanted else target
                first = next(iter(str(e).splitlines()), "")[:200]
                self.notes.append(f"{v.name}: no binary for {what}: {first}")
                continue
            binaries = tuple(
                Binary(
                    b.code,
                    b.symbol,
                    int(b.resources["num_warps"]) * TARGETS[target].warp,
                    int(b.resources["shared"]),
                    b.scratch,
                )
                for b in found.binaries
            )
            if target in wanted:
                made[target] = binaries
            if target == PORTABLE:
                text = tuple(
                    replace(b, code=own.assembly.encode())
                    for b, own in zip(binaries, found.binaries, strict=True)
                )
        if text and any(t.startswith("sm_") for t in wanted):
            made[TEXT] = text
        return replace(v, launched=made)

    def within(self, package: PackageSpec, inner: PackageSpec) -> PackageSpec:
        """The package with the part for GPUs inside."""
        operators = tuple(replace(p, arrays=None) for p in inner.operators)
        return replace(package, device=replace(inner, backend="binary", operators=operators))

    def told(self) -> dict[str, Any]:
        """What a result says of the part for GPUs."""
        first = self.found[0]
        levels: dict[str, Sequence[str]] = {
            f"{types_label(f.op)} {v.name}": list(v.launched or v.binaries)
            for f in self.found
            for v in f.variants
        }
        winner = first.result.winner or first.result.baseline
        assert winner is not None
        return {
            "backend": self.backend.name,
            "targets": list(self.backend.targets),
            "winner": winner.schedule.text,
            "binaries": levels,
            "modelled": [dict(r) for f in self.found for r in f.modelled],
            "resources": {t: dict(r) for t, r in first.resources.items()},
            "unrun": list(dict.fromkeys(u for f in self.found for u in f.unrun)),
            "notes": list(dict.fromkeys(self.notes)),
        }


def device_lines(told: dict[str, Any]) -> list[str]:
    """The part for GPUs in words."""
    out = [f"GPUs     {told['winner']} ({told['backend']}, ahead of time), the model's choice"]
    out += [f"         {name}: {', '.join(levels)}" for name, levels in told["binaries"].items()]
    out += [f"         not run: {text}" for text in told["unrun"]]
    out += [f"         {text}" for text in told["notes"]]
    return out
