"""The target's vocabulary: instruction-set levels, snippets of header-free C++, error claims.

The snippets are text files beside this one. A kernel is printed with the snippets it names and
those that these name in turn, nothing else, which keeps a compile short.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from opwright.ir.dtypes import DType


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction-set level: compiler flags, bytes of a register, override files, asm class."""

    name: str
    flags: tuple[str, ...]
    register: int
    overrides: tuple[str, ...] = ()
    held: str = ""  # constraint of a vector register in inline assembly; empty: cannot pin
    fence: str = ""  # statement that ends a program with streaming stores


_FENCE = "__builtin_ia32_sfence();"
ISAS: dict[str, Isa] = {
    i.name: i
    for i in (
        Isa("portable", (), 16),
        Isa("x86-64-v3", ("-march=x86-64-v3",), 32, ("prelude_x86_v3.h",), "x", _FENCE),
        Isa(
            "x86-64-v4",
            ("-march=x86-64-v4",),
            64,
            ("prelude_x86_v3.h", "prelude_x86_v4.h"),
            "v",
            _FENCE,
        ),
    )
}

# Largest error in units in the last place of the f32 functions on normal results; tests measure it.
ULP: dict[str, float] = {
    "exp": 1.4, "exp2": 1.4, "expm1": 1.8, "log": 1.0, "log2": 1.6, "log1p": 1.8, "sqrt": 0.5,
    "rsqrt": 1.5, "sin": 1.6, "cos": 1.6, "tan": 3.5, "sinh": 3.0, "cosh": 3.0, "tanh": 2.6,
    "asin": 2.6, "acos": 1.5, "atan": 3.0, "erf": 1.3, "sigmoid": 2.6, "pow": 1.0,
}  # fmt: skip

# floats with no arithmetic of their own: BITS, M, BIAS, KIND of the snippets v_small and v_to_small
_KINDS = {"ieee": 0, "fn": 1, "fnuz": 2, "none": 3}


def small_format(d: DType) -> str:
    """Template arguments that describe a small float to v_small and v_to_small."""
    return f"{d.bits}, {d.mantissa}, {d.bias}, {_KINDS[d.finite]}"


class VocabularyError(ValueError):
    """An unknown instruction-set level."""


def isa(name: str) -> Isa:
    """The level of that name; VocabularyError lists the known ones."""
    if name not in ISAS:
        raise VocabularyError(f"unknown instruction set {name!r}; known: {', '.join(ISAS)}")
    return ISAS[name]


@dataclass(frozen=True, slots=True)
class Snippet:
    """Text that defines `name`; printed when the name and the vector types `types` are in use."""

    name: str
    types: tuple[str, ...]
    text: str


_WORD = re.compile(r"[A-Za-z_]\w*")
VECTOR = re.compile(r"\b([fiu])(8|16|32|64)x(\d+)\b")
_HEAD = re.compile(r"^//: (\w+)((?: \w+)*)\n", re.M)


@cache
def _file(name: str) -> tuple[Snippet, ...]:
    text = resources.files("opwright.backends.cpp").joinpath(name).read_text()
    heads = list(_HEAD.finditer(text))
    ends = [h.start() for h in heads[1:]] + [len(text)]
    return tuple(
        Snippet(h[1], tuple(h[2].split()), text[h.end() : end].strip() + "\n")
        for h, end in zip(heads, ends, strict=True)
    )


@cache
def _table(level: str) -> dict[str, tuple[Snippet, ...]]:
    found: dict[str, list[Snippet]] = {}
    for name in ("prelude_common.h", "prelude_math.h", *isa(level).overrides):
        for s in _file(name):
            found.setdefault(s.name, []).append(s)
    return {name: tuple(snippets) for name, snippets in found.items()}


@cache
def names() -> frozenset[str]:
    """Every name that the vocabulary defines for a kernel, whatever the level."""
    found = {"INL", *(f"{s}{b}" for s in "iu" for b in (8, 16, 32, 64))}
    return frozenset(found.union(*(_table(level) for level in ISAS)))


def snippets(level: str) -> tuple[str, ...]:
    """Every text that `prelude` may print at a level, but for vector types."""
    return tuple(s.text for found in _table(level).values() for s in found)


def is_vector_type(word: str) -> bool:
    """Whether a word has the form of a vector type's name."""
    return VECTOR.fullmatch(word) is not None


def typedef(name: str) -> str:
    """The definition of a vector type."""
    m = VECTOR.fullmatch(name)
    assert m is not None
    letter, bits, lanes = m[1], int(m[2]), int(m[3])
    element = {"f32": "float", "f64": "double"}.get(letter + m[2], letter + m[2])
    return f"typedef {element} {name} __attribute__((vector_size({lanes * bits // 8})));\n"


def prelude(body: str, level: str) -> str:
    """What must precede `body`: scalar and vector types, then snippets in order of need."""
    table, types = _table(level), {m[0] for m in VECTOR.finditer(body)}
    out: list[str] = []
    done: set[str] = set()

    def need(text: str) -> None:
        for word in dict.fromkeys(_WORD.findall(text)):
            if word in table and word not in done:
                done.add(word)
                chosen = [s.text for s in table[word] if set(s.types) <= types]
                for t in chosen:
                    need(t)
                out.extend(chosen)

    need("INL")
    at = len(out)
    need(body)
    defined = "".join(typedef(t) for t in sorted(types))
    return "".join([*out[:at], defined, *out[at:]])
