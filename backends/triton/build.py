"""Compiles Triton candidates for GPUs that need not be there, in a process of its own, and reads
back what each kernel takes: registers, spills, shared memory, stack.

What a plan's facts say of alignment and divisibility is told to Triton; nothing else is
specialised.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opwright.backends import isolation
from opwright.backends.triton.targets import Target, target_of
from opwright.backends.triton.text import signature
from opwright.ir.expr import Expr, leaves
from opwright.ir.launch import BoundLaunch, BoundPlan, Scalar

TIME_LIMIT = 180.0
MEMORY = 32 << 30  # bytes of address space of a compiler
OUTPUT = 256 << 20  # bytes that it may write
PROCESSES = 32  # it starts an assembler
DIVISIBLE = 16  # what Triton wants to know of pointers (bytes) and integers


class BuildError(RuntimeError):
    """Triton is not there, or it refused; the message says where in the source and why."""


@dataclass(frozen=True, slots=True)
class Binary:
    """One kernel as compiled: the binary that a driver loads, its symbol, the assembly text, bytes
    of scratch that each program has of the launcher (an argument that no plan speaks of)."""

    kernel: str
    symbol: str
    code: bytes = field(repr=False)
    assembly: str = field(repr=False)
    resources: Mapping[str, int]
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class Artefact:
    """A candidate compiled for one target: a binary per launch, in order. `resources` are by
    kernel: registers of a thread; bytes of spills (store and load), stack of a thread and shared
    memory of a program; bytes of code."""

    target: str
    binaries: tuple[Binary, ...]
    seconds: float
    triton: str

    @property
    def resources(self) -> dict[str, Mapping[str, int]]:
        out: dict[str, Mapping[str, int]] = {}
        for n, b in enumerate(self.binaries):
            out[b.kernel if b.kernel not in out else f"{b.kernel}#{n}"] = b.resources
        return out


def compile_for(source: str, bound: BoundPlan, target: str, limit: float = TIME_LIMIT) -> Artefact:
    """Every launch of a plan compiled for sm_80, sm_90, sm_100 (cubin) or gfx942 (hsaco).

    Raises BuildError with the line of the source; also for a kernel that takes more shared memory
    than the target has.
    """
    made = compile_all(source, bound, [target], limit)[target]
    if isinstance(made, BuildError):
        raise made
    return made


def compile_all(
    source: str, bound: BoundPlan, targets: Sequence[str], limit: float = TIME_LIMIT
) -> dict[str, Artefact | BuildError]:
    """What became of a plan for each of several targets, by one compiler process. A target at which
    that process died is tried again, alone."""
    where = [target_of(t) for t in targets]
    if importlib.util.find_spec("triton") is None:
        raise BuildError("Triton is not installed: pip install triton")
    out: dict[str, Artefact | BuildError] = {}
    with tempfile.TemporaryDirectory(prefix="triton-") as name:
        folder = Path(name)
        begin = time.perf_counter()
        died = _compile(source, bound, where, folder, limit)
        spent = (time.perf_counter() - begin) / max(len(where), 1)
        for t in where:
            try:
                out[t.name] = _artefact(t, folder / t.name, spent, died)
            except BuildError as e:
                out[t.name] = e
    if died and len(where) > 1:
        for t in where:
            if out[t.name] is died:
                out |= compile_all(source, bound, [t.name], limit)
    return out


def _artefact(target: Target, folder: Path, seconds: float, died: BuildError | None) -> Artefact:
    """What the compiler left for one target; BuildError where it refused, or died before it."""
    answer = folder / "answer.json"
    if not answer.exists():
        raise died or BuildError(f"the compiler gave no answer for {target.name}")
    data = json.loads(answer.read_text())
    if data["error"]:
        raise BuildError(str(data["error"]))
    made: list[dict[str, Any]] = data["kernels"]
    binaries = tuple(_binary(k, target, folder) for k in made)
    for b in binaries:
        if b.resources["shared"] > target.shared:
            raise BuildError(
                f"{b.kernel} needs {b.resources['shared']} bytes of shared memory; a program on "
                f"{target.name} may have {target.shared}"
            )
    version = str(made[0]["triton"]) if made else ""
    return Artefact(target.name, binaries, seconds, version)


def request_of(bound: BoundPlan, targets: Sequence[Target], path: Path) -> dict[str, Any]:
    """What the child is asked: types, constants and known divisibility of every launch."""
    launches = []
    for c in bound.launches:
        hints = {k: c.extra[k] for k in ("num_warps", "num_stages") if k in c.extra}
        launches.append(
            {
                "kernel": c.kernel,
                "types": [_type(a) for a in c.args],
                "const": dict(c.const),
                "aligned": aligned_arguments(c, bound),
                "options": hints,
            }
        )
    where = [{"name": t.name, "family": t.family, "arch": t.arch, "warp": t.warp} for t in targets]
    return {"source": str(path), "targets": where, "launches": launches}


def _type(a: Any) -> str:
    return signature(a.dtype) if isinstance(a, Scalar) else f"*{signature(a.dtype)}"


def aligned_arguments(c: BoundLaunch, bound: BoundPlan) -> list[int]:
    """Positions of pointers and integers that the plan's facts make multiples of 16 (bytes of a
    pointer); scratch is allocated at such an address."""
    pointers: set[str] = set()
    numbers: set[Expr] = set()
    for f in bound.facts:
        for x in leaves(f, "param"):
            m = re.fullmatch(r"aligned\((\w+), (\d+)\)", str(x.attr))
            if m and f is x and int(m[2]) % DIVISIBLE == 0:
                pointers.add(m[1])
        if f.op == "eq":
            for e, other in (f.args, f.args[::-1]):
                zero = other.op == "const" and other.attr == 0
                if zero and e.op == "mod" and e.args[1].op == "const":
                    if e.args[1].attr % DIVISIBLE == 0:
                        numbers.add(e.args[0])
                elif other.op == "const" and other.kind == "int" and other.attr % DIVISIBLE == 0:
                    numbers.add(e)
    out = []
    for n, a in enumerate(c.args):
        if isinstance(a, Scalar):
            if a.expr in numbers:
                out.append(n)
        elif a.name in pointers or a.role == "plan":
            out.append(n)
    return out


def _compile(
    source: str, bound: BoundPlan, targets: Sequence[Target], folder: Path, limit: float
) -> BuildError | None:
    """Run the compiler; how it died, if it gave no answer for some target."""
    path = folder / bound.plan.source
    path.write_text(source)
    for t in targets:
        (folder / t.name).mkdir()
    (folder / "request.json").write_text(json.dumps(request_of(bound, targets, path)))
    hidden = {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    script = Path(__file__).with_name("compiling.py").absolute()
    with _confined(
        [sys.executable, "-I", str(script), str(folder)],
        folder,
        [script],
        {**hidden, "TRITON_CACHE_DIR": str(folder / "cache")},
    ) as process:
        try:
            log, _ = process.communicate(timeout=limit * len(targets))
        except subprocess.TimeoutExpired:
            return BuildError(f"the compiler was stopped after {limit:g} s")
    if all((folder / t.name / "answer.json").exists() for t in targets):
        return None
    last = [x for x in log.splitlines() if x.strip()][-1:]
    return BuildError(f"the compiler ended with {process.status()}: {''.join(last)[:300]}")


# -- what the binaries say -------------------------------------------------------------------------


def _binary(k: Mapping[str, Any], target: Target, folder: Path) -> Binary:
    files = k["files"]
    for name in files.values():  # the child wrote both the names and the files
        given = folder / name
        if Path(name).name != name or given.is_symlink() or not given.is_file():
            raise BuildError(f"the compiler left no file {name}")
    text = (folder / files["ptx" if target.family == "cuda" else "amdgcn"]).read_text()
    code = folder / files["cubin" if target.family == "cuda" else "hsaco"]
    found = _nvidia(code, text, k["name"]) if target.family == "cuda" else _amd(text, k["name"])
    found["shared"] = max(int(k["shared"]), found.get("shared", 0))
    found |= {"num_warps": int(k["num_warps"]), "code_bytes": code.stat().st_size}
    scratch = int(k.get("scratch", 0))
    return Binary(str(k["kernel"]), str(k["name"]), code.read_bytes(), text, found, scratch)


def _tool(name: str) -> str | None:
    """A program that Triton brings along, else one on the path."""
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        own = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
        if own.exists():
            return str(own)
    return shutil.which(name)


@contextlib.contextmanager
def _confined(
    command: list[str], folder: Path, read: list[Path], env: Mapping[str, str] | None = None
) -> Iterator[isolation.Confined]:
    """A tool on a candidate's text, in the sandbox; it writes to the folder only."""
    allowance = isolation.Allowance(
        [*read, *isolation.packages("triton")],
        [folder],
        memory=MEMORY,
        cpu=int(TIME_LIMIT),
        file=OUTPUT,
        temporary=OUTPUT,
        processes=PROCESSES,
    )
    process = isolation.start(
        command, allowance, env=isolation.environment(env), cwd=folder, text=True,
        errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.end()
        if process.stdout is not None:
            process.stdout.close()


def _run(command: list[str], folder: Path) -> str:
    around = [Path(command[0]).absolute().parent, Path(command[0]).resolve().parent.parent]
    with _confined(command, folder, around) as process:
        try:
            said, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired as e:
            raise BuildError(f"{Path(command[0]).name} does not run: {e}") from None
    return str(said)


def _nvidia(cubin: Path, ptx: str, name: str) -> dict[str, int]:
    """From the cubin's own headers; spills from the assembler's report on the same text."""
    dump = _tool("cuobjdump")
    if dump is None:
        raise BuildError("cuobjdump is missing: it comes with Triton and with CUDA")
    said = _run([dump, "--dump-resource-usage", cubin.name], cubin.parent)
    m = re.search(rf"Function {re.escape(name)}:\s*\n(.*)", said)
    if m is None:
        raise BuildError(f"cuobjdump says nothing of {name}: {said.strip()[:200]}")
    usage = {w: int(n) for w, n in re.findall(r"(\w+):(\d+)", m[1])}
    out = {
        "registers": usage.get("REG", 0),
        "stack": usage.get("STACK", 0),
        "local": usage.get("LOCAL", 0),
        "shared": usage.get("SHARED", 0),
    }
    return out | _spills(cubin.with_suffix(".ptx"), ptx)


def _spills(path: Path, ptx: str) -> dict[str, int]:
    """What the first assembler says that knows this version of the text."""
    arch = re.search(r"^\.target (\w+)", ptx, re.M)
    said = "it comes with Triton and with CUDA"
    for name in ("ptxas", "ptxas-blackwell"):
        tool = _tool(name)
        if tool is not None and arch is not None:
            command = [tool, "-v", f"--gpu-name={arch[1]}", path.name, "-o", f"{path.stem}.again"]
            said = _run(command, path.parent)
            m = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
            if m is not None:
                return {"spill_stores": int(m[1]), "spill_loads": int(m[2])}
    raise BuildError(f"ptxas reports no spills: {said.strip()[:200]}")


def _amd(text: str, name: str) -> dict[str, int]:
    """From the metadata of the code object, whose text is the same as its notes."""
    blocks = re.split(r"\n\s*- (?=\.)", text[text.find("amdhsa.kernels") :])
    block = next((b for b in blocks if re.search(rf"\.name:\s+{re.escape(name)}\b", b)), text)
    found = {w: int(n) for w, n in re.findall(r"\.(\w+):\s+(\d+)\s*$", block, re.M)}
    lane = 4  # bytes of a register of a lane
    return {
        "registers": found.get("vgpr_count", 0),
        "accumulators": found.get("agpr_count", 0),
        "scalar_registers": found.get("sgpr_count", 0),
        "stack": found.get("private_segment_fixed_size", 0),
        "shared": found.get("group_segment_fixed_size", 0),
        "spill_stores": found.get("vgpr_spill_count", 0) * lane,
        "spill_loads": found.get("vgpr_spill_count", 0) * lane,
        "scalar_spills": found.get("sgpr_spill_count", 0),
    }
