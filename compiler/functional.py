"""Gates of whole-array candidates: one pure function of the inputs, read back as OpIR.

Such a text accesses no memory itself, so that G2 and G3 do not apply once it is known to be one
function of arrays.
"""

from __future__ import annotations

import importlib
import time

from opwright.compiler.candidates import Candidate
from opwright.ir.launch import ImportRefusal
from opwright.ir.op import Operator
from opwright.ir.record import Record

FAILURES = (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
            RecursionError, NotImplementedError, RuntimeError, OSError)  # fmt: skip


def functional_gates(c: Candidate, op: Operator) -> list[Record]:
    """G1 to G3 of a function of arrays."""
    subject = f"{c.plan.source} {c.digest}"
    begin = time.perf_counter()
    why = ""
    try:
        module = importlib.import_module("opwright.backends.jax.importer")
        module.import_operator(c.source, c.plan, op)
    except ModuleNotFoundError as e:
        why = f"this installation reads no functions of arrays back: {e.msg}"
    except ImportRefusal as e:
        why = str(e)
    except FAILURES as e:
        first = next(iter(str(e).splitlines()), "")[:300]
        why = f"the importer failed on this text ({type(e).__name__}: {first})"
    spent = time.perf_counter() - begin
    if why:
        text = "the source was not read, so that it is not known to be one pure function"
        return [
            Record("G1.import", "G1", "UNKNOWN", why, subject, seconds=spent),
            *(Record(f"{g}.import", g, "UNKNOWN", text, subject) for g in ("G2", "G3")),
        ]
    said = "n/a: functional; a function of whole arrays makes no accesses of its own"
    return [
        Record("G1.import", "G1", "PROVED", "read back: one function", subject, seconds=spent),
        *(Record(f"{g}.functional", g, "PROVED", said, subject) for g in ("G2", "G3")),
    ]
