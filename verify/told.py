"""Test values that a candidate's own text tells: the numbers it spells, what two or three of them
make together, and their neighbours. A text that treats one value apart has to say which."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from opwright.ir.dtypes import DType, decode, encode
from opwright.ir.op import Operator
from opwright.verify.draw import Array, holds
from opwright.verify.inputs import Case, hosts_of, overflows

MOST = 16  # numbers of a text that are taken
COMBINED = 6  # of them that are put together
LARGE = 64.0  # beyond this a value loses what is added to it
HOSTS = 3  # cases that are planted
_PLAIN = re.compile(
    r"(?<![\w.])(0[xX][0-9a-fA-F.]+[pP][-+]?\d+|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)"
)


def numbers(text: str) -> list[float]:
    """The finite numbers that a text spells, comments left out; those with a point first."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/|#[^\n]*|\"[^\"\n]*\"", " ", text, flags=re.S)
    found: dict[float, bool] = {}
    for m in _PLAIN.finditer(bare):
        word = m[1]
        value = float.fromhex(word) if word[:2] in ("0x", "0X") else float(word)
        if math.isfinite(value):
            found[value] = found.get(value, False) or not word.isdigit()
    return sorted(found, key=lambda v: not found[v])[:MOST]


def combined(values: Sequence[float]) -> Iterator[float]:
    """What two and three numbers make by arithmetic: the value that a disguised test is about."""
    few = values[:COMBINED]
    pairs = list(dict.fromkeys(x for a, b in itertools.product(few, few) for x in _made(a, b)))
    yield from pairs
    for a, b in itertools.product(pairs, few):
        yield from _made(a, b)


def _made(a: float, b: float) -> Iterator[float]:
    yield from (a + b, a - b, a * b)
    if b:
        yield a / b


def planted(op: Operator, cases: Sequence[Case], text: str, seed: int) -> list[Case]:
    """Ordinary cases with such values at many places of one real input each."""
    spelled = numbers(text)
    real = [t for t in op.inputs if t.kind == "real"]
    hosts = sorted(
        hosts_of(cases), key=lambda c: -min((c.inputs[t.name].size for t in real), default=0)
    )
    if not spelled or not real or not hosts:
        return []
    out = []
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 3])
    direct = [y for v in spelled for x in (v, -v) for y in (x, x)]
    ways = (direct, [v for v in direct if abs(v) <= LARGE], [*direct, *combined(spelled)])
    for n, values in enumerate(ways):
        for t in real:
            made = _plant(op, hosts[0], t.name, t.dtype, values, rng, n == 2)
            if made is not None:
                out.append(made)
        if len(out) >= HOSTS * len(real):
            break
    return out


def _plant(
    op: Operator,
    host: Case,
    name: str,
    dtype: DType,
    values: Iterable[float],
    rng: np.random.Generator,
    many: bool,
) -> Case | None:
    """The host with values of the input's type in place of some of its own."""
    bits = _stored(values, dtype)
    before = host.inputs[name]
    count = min(len(bits), before.size if many else max(1, before.size // 2))
    if not count:
        return None
    changed = before.copy()
    places = rng.choice(before.size, count, replace=False)
    changed.reshape(-1)[places] = bits[:count]
    inputs = {**host.inputs, name: changed}
    if holds(op, inputs, host.sizes, host.params):
        return None
    largest = float(np.abs(decode(bits[:count], dtype)).max())
    case = Case(
        f"{host.name}.told", "told", host.sizes, host.params, inputs, largest > LARGE
    )  # fmt: skip
    return None if overflows(op, case) else case


def _stored(values: Iterable[float], dtype: DType) -> Array:
    """The values in a type, each with the next ones on both sides; what it cannot hold is left
    out."""
    with np.errstate(all="ignore"):
        near = np.array(list(dict.fromkeys(values)), np.float64)
        spread = np.abs(near) * 2.0**-dtype.mantissa
        wide = np.stack([near, near + spread, near - spread], 1).reshape(-1)
        bits = encode(wide, dtype)
        back = decode(bits, dtype)
    kept = np.isfinite(back)
    _, first = np.unique(back[kept], return_index=True)
    return np.asarray(bits[kept][np.sort(first)])
