"""What a text may ask of its compiler: nothing, so that who reads it and who compiles it see one
program.

libclang reads, g++ or nvcc compiles; each defines names of its own, and headers define more. A text
that chooses by one of them may be proved in one branch and shipped in the other. So conditions
speak of what the text itself has defined before, and names of compilers have no place anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKS = (
    "attribute restrict typeof alignof inline const volatile asm signed extension global device "
    "shared constant forceinline launch_bounds align noinline host grid_constant maxnreg "
    "cluster_dims builtin_align managed"
).split()
MARKS = frozenset(f"__{m}__" for m in _MARKS)
TYPES = re.compile(r"__(?:U?INT\d+|SIZE|PTRDIFF|U?INTPTR|U?INTMAX)_TYPE__|__VA_ARGS__|__VA_OPT__")
OWN = re.compile(
    r"__[A-Z]\w*|__[a-z][a-z0-9_]*__|__cplusplus|__has_\w+|__is_identifier|__building_module"
    r"|_OPENMP|_OPENACC|__amd64|__i386|__x86_64|__unix|__linux|__SSE\w*|__nv\w+__"
    r"|__builtin_(?:constant_p|is_constant_evaluated|LINE|FILE|FUNCTION|COLUMN|source_location"
    r"|choose_expr|classify_type|has_attribute|available)"
)
# names that headers define, or that compilers do in one dialect
HEADERS = re.compile(
    r"_\w*|(?:M|FP|FLT|DBL|LDBL|FLT16|FLT32|FLT64|INT|UINT|CHAR|SCHAR|UCHAR|SHRT|USHRT|LONG|ULONG"
    r"|LLONG|ULLONG|SIZE|SSIZE|PTRDIFF|WCHAR|WINT|SIG|HUGE|MATH|DECIMAL|PATH|NAME|ARG|CUDA|CUDART"
    r"|CUDART_\w+|NV|SNAN|RAND|EXIT|BUFSIZ|MB|IOV|LINE|CLOCKS)_\w*|U?INT\w*\d\w*|U?INT(?:MAX|PTR)\w*"
    r"|HUGE_?VALF?L?|NAN|INFINITY|SNANF?L?|NULL|EOF|linux|unix|i386|bool|true|false|offsetof"
    r"|assert|NDEBUG|errno|[a-z]+|math_errhandling|MAXFLOAT|isgreater\w*|isless\w*|RAND_MAX"
)


class Conditions:
    """Directives of one text in their order; `fault` is told what is wrong."""

    def __init__(self) -> None:
        self.depth = 0
        self.fixed: set[str] = set()  # macros that the text has defined, whatever compiles it
        self.guard = ""  # a name between #ifndef and its #define, then its #endif
        self.defined = False

    def tokens(self) -> str:
        """A line that is no directive: what is wrong with it, if anything."""
        return self.broken() if self.guard else ""

    def broken(self) -> str:
        name, self.guard = self.guard, ""
        return f"#ifndef {name} around more than #define {name}: {WHY}"

    def directive(self, name: str, words: Sequence[str], said: str) -> str:
        """What is wrong with a directive, "" if nothing is."""
        wrong = ""
        if self.guard and not (
            (name == "define" and not self.defined and words[:1] == [self.guard])
            or (name == "endif" and self.defined)
        ):
            wrong = self.broken()
        if name in ("if", "ifdef", "ifndef", "elif", "elifdef", "elifndef"):
            self.depth += name.startswith("if")
            unknown = [w for w in words if w not in self.fixed and w not in LOGIC]
            if name == "ifndef" and unknown and not HEADERS.fullmatch(unknown[0]):
                self.guard, self.defined = unknown[0], False
            elif unknown:
                wrong = wrong or f"#{name} {said}: {WHY}"
        elif name == "endif":
            self.depth -= 1
            if self.guard:
                self.fixed.add(self.guard)
                self.guard = ""
        elif name == "define" and words:
            if words[0] == self.guard:
                self.defined = True
            elif not self.depth:
                self.fixed.add(words[0])
            if re.match(r"__|_[A-Z]", words[0]):
                wrong = wrong or f"#define of {words[0]}: such names are the compiler's"
        elif name == "undef" and words:
            if words[0] not in self.fixed or self.depth:
                wrong = wrong or f"#undef {words[0]}, which the text has not defined"
            self.fixed.discard(words[0])
        return wrong


LOGIC = ("defined", "and", "or", "not", "true", "false")
WHY = (
    "a text has to mean the same to whoever reads and compiles it; use what it has #defined itself"
)


def compilers(word: str) -> bool:
    """Whether a name is one that compilers define."""
    return OWN.fullmatch(word) is not None and word not in MARKS and not TYPES.fullmatch(word)
