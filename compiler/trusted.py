"""What a reader of records has to believe besides them: generated from the records themselves.

An entry is there because a record rests on it, with the version or hash of what was used; nothing
is listed in general. What may be assumed of sizes and inputs is listed as the records name it.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Sequence

from opwright.ir.record import Record
from opwright.ir.semantics import ROWS
from opwright.verify.certificate import TRUSTED_PRINTER
from opwright.verify.identity import sources_digest

# by backend: what reads its texts, and what compiles and runs them
READERS = {"cpp": ("libclang",), "cuda": ("libclang",), "triton": ("triton",), "jax": ("jax",)}
COMPILERS = {"triton": ("triton",), "jax": ("jax", "jaxlib")}
DIGITS = 19  # of a hash, "sha256:" included
EXECUTED = ("run in a sandbox", "run WITHOUT")


def trusted_base(
    records: Iterable[Record],
    backends: Sequence[str],
    spec: str = "",
    compiler: str = "",
    guards: Sequence[str] = (),
) -> dict[str, str]:
    """Entry by name. `spec` names an operator's text, `compiler` what built the code that ran or
    ships (looked up where empty), `guards` are the conditions that are checked at run time."""
    known = list(records)
    out = {}
    if spec:
        out["spec"] = f"{spec}: its text says what is wanted"
    proved = [r for r in known if r.status == "PROVED"]
    tile = [r for r in proved if r.kind in ("G2", "G3")]
    functions = [r for r in proved if r.kind == "G5"]
    if any(r.kind not in ("G0", "G6") for r in known):
        out["semantics table"] = (
            f"{len(ROWS)} operations, {_short('opwright.ir.semantics')}: what each one means, to "
            "prover and interpreter"
        )
    if proved:
        out["verifier"] = f"{_short('opwright.ir', 'opwright.verify')}: what has to be proved, how"
    for b in backends if any(r.kind == "G1" for r in known) else ():
        tools = ", ".join(_versions(READERS.get(b, ())))
        own = f"importer of {b} texts {_short(f'opwright.backends.{b}')}"
        out["importer" if len(backends) == 1 else f"importer {b}"] = (
            f"{own}; front end {tools}" if tools else own
        )
    if any(TRUSTED_PRINTER in r.subject for r in proved):
        out["printer"] = "its text means what the TileIR means; it was not read back for all of it"
    if tile:
        out["solver"] = f"z3 {importlib.metadata.version('z3-solver')}: its unsat"
    if functions:
        out["real arithmetic"] = "what is proved of the function holds of real numbers, not floats"
    cached = sum(r.cached for r in known)
    if cached:
        out["proof cache"] = f"{cached} records were established before, of the same texts"
    ran = [r for r in known if r.kind == "G6" and r.status in ("TESTED", "REFUTED")]
    if ran or compiler:
        found = [compiler] if compiler else [t for b in backends for t in compilers(b)]
        out["compiler"] = ", ".join(found) or "none was needed"
    if ran:
        out["reference"] = (
            f"float64 evaluator, numpy {importlib.metadata.version('numpy')}, python "
            f"{platform.python_version()}"
        )
    runs = sorted({a for r in known for a in r.assumptions if a.startswith(EXECUTED)})
    if runs:
        out["sandbox"] = "; ".join(runs)
    if tile or ran:
        said = "; ".join(guards) or "none, every call is taken"
        out["runtime guards"] = f"the generated driver checks them before it launches: {said}"
    return out


def assumptions(records: Iterable[Record]) -> list[str]:
    """What records assume, once each; how something was run is none of it."""
    found = {a for r in records for a in r.assumptions if not a.startswith(EXECUTED)}
    return sorted(found)


def compilers(backend: str) -> list[str]:
    """What compiles a backend's texts on this machine, with versions."""
    if backend in ("cpp", "cuda"):
        from opwright.backends.cpp.build import BuildError, compiler, compiler_version

        try:
            return [compiler_version(compiler())]
        except BuildError:
            return []
    return _versions(COMPILERS.get(backend, ()))


def _versions(names: Iterable[str]) -> list[str]:
    out = []
    for n in names:
        try:
            out.append(f"{n} {importlib.metadata.version(n)}")
        except importlib.metadata.PackageNotFoundError:
            out.append(f"{n} (not installed)")
    return out


def _short(*packages: str) -> str:
    try:
        return sources_digest(*packages)[:DIGITS]
    except (ImportError, OSError):
        return "(sources are not at hand)"


def text(base: dict[str, str], assumed: Sequence[str]) -> list[str]:
    """The trusted base as lines."""
    width = max(map(len, base), default=0)
    out = ["to be trusted besides the records:"]
    out += [f"    {name:<{width}}  {said}" for name, said in base.items()]
    if assumed:
        out.append("assumed, each a guard, a limit or a condition on inputs:")
        out += [f"    {a}" for a in assumed]
    return out
