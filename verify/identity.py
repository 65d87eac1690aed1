"""The hashes by which proofs name what they are about: a spec's meaning, a plan, the verifier."""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import cache
from pathlib import Path

from opwright.ir.expr import show
from opwright.ir.op import Operator, show_operator
from opwright.ir.plan import Plan


def hashed(*texts: str) -> str:
    """sha256 of texts, each with its length, so that no two lists of them are one."""
    h = hashlib.sha256()
    for t in texts:
        data = t.encode()
        h.update(f"{len(data)}:".encode() + data)
    return "sha256:" + h.hexdigest()


def spec_digest(op: Operator) -> str:
    """The operator at its binding: its text, those of operators that it uses, what they became."""
    rest = [
        f"{t.name} {t.dtype} {t.updates} {t.layout} {show(t.guard)} {t.role}"
        for t in (*op.inputs, *op.tensors)
    ]
    types = json.dumps(sorted(op.types.items()))
    return hashed(op.digest, types, show_operator(op), *rest)


def plan_digest(plan: Plan) -> str:
    """A plan as data, whatever its file looks like and whoever proposed it; the spec and the types
    that it was made for have hashes of their own."""
    own = {k: v for k, v in plan.to_json().items() if k not in ("origin", "spec", "types")}
    return hashed(json.dumps(own, sort_keys=True))


@cache
def sources_digest(*packages: str) -> str:
    """The Python files of packages of this installation: a change in any is another verifier."""
    texts = []
    for name in packages:
        module = importlib.import_module(name)
        roots = [Path(p) for p in getattr(module, "__path__", ())]
        files = sorted(f for r in roots for f in r.rglob("*.py"))
        if not files and module.__file__:
            files, roots = [Path(module.__file__)], [Path(module.__file__).parent]
        for f in files:
            base = next(r for r in roots if f.is_relative_to(r))
            texts += [f"{name}/{f.relative_to(base)}", f.read_text(encoding="utf-8")]
    return hashed(*texts)


def verifier_digest(backend: str = "") -> str:
    """What turns texts of a backend into proofs: importer, semantics table, obligations, solver's
    terms."""
    own = ("opwright.ir", "opwright.verify")
    return sources_digest(*own, *((f"opwright.backends.{backend}",) if backend else ()))


def z3_version() -> str:
    import z3

    return str(z3.get_version_string())
