"""Random mutants of correct programs: whatever is proved of one never traps when it runs."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest
import tile_kernels

from opwright.ir.expr import ExprError
from opwright.ir.interpreter import traps
from opwright.ir.tilecheck import TileError, check_program
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.context import Context
from opwright.verify.prove import Prover
from opwright.verify.replay import matches, replay_trials

EACH = 18
CONTEXT = Context(timeout=1.0, replay=False)


def mutate(text: str, rng: Random) -> str | None:
    """One change in one line: a comparison, a number, a size, a mask, a store, an index."""
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    line = lines[at]
    if line.strip().startswith(("program", "sizes", "params", "axis", "place", "in ", "out ")):
        return None
    sizes = [s.strip() for s in lines[1].removeprefix("sizes ").split(",")]
    some = {
        r" < ": lambda m: " <= ",
        r" <= ": lambda m: " < ",
        r"(?<![\w.])\d+(?![\w.])": lambda m: str(max(0, int(m[0]) + rng.choice((-1, 1)))),
        r"\b(" + "|".join(sizes) + r")\b": lambda m: rng.choice(sizes),
        r" if [^=]*?(?= =|$| else)": lambda m: "",
        r" else [-\w.]+$": lambda m: "",
        r"\bmin\(": lambda m: "max(",
        r"\bp0\b": lambda m: "p1",
        r"\bp1\b": lambda m: "p0",
        r" and [^=]*?(?= and|$| =| else)": lambda m: "",
        r"\[[^\]]+(?=\])": lambda m: m[0] + rng.choice((" + 1", " - 1")),
        r" \+ \w+\b": lambda m: "",
        r".*: store .*": lambda m: "",
    }
    pattern = rng.choice(list(some))
    found = list(re.finditer(pattern, line))
    if not found:
        return None
    m = rng.choice(found)
    lines[at] = line[: m.start()] + some[pattern](m) + line[m.end() :]
    return None if lines[at] == line else "\n".join(x for x in lines if x.strip())


@pytest.mark.parametrize("name", ["softmax_home", "matmul", "flat", "elementwise", "recurrence"])
def test_what_is_proved_does_not_trap(name):
    rng = Random(len(name))
    text = show_program(tile_kernels.SMALL[name]())
    seen: Counter[str] = Counter()
    while sum(seen.values()) < EACH:
        changed = mutate(text, rng)
        if changed is None:
            continue
        try:
            program = parse_program(changed)
            check_program(program)
        except (ExprError, TileError):
            continue
        prover = Prover(program, CONTEXT)
        prover.run()
        proved = all(o.status == "PROVED" for o in prover.obligations)
        found = []
        for trial in replay_trials(prover, 10):
            found += traps(
                program, trial.sizes, trial.arrays, trial.params, trial.strides, limit=20_000
            )
        found = [t for t in found if t.kind != "limit"]
        assert not (proved and found), f"{changed}\n{found[0]}"
        for o in prover.obligations:
            refuting = [t for t in found if o.status == "PROVED" and o.traps and matches(o, t)]
            assert not refuting, f"{changed}\n{o.id} is proved, yet {refuting[0]}"
        seen["trapped" if found else "proved" if proved else "open"] += 1
    assert seen["trapped"] > EACH // 4
