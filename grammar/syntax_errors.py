"""The table of syntax errors, E01xx, and the words that messages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from opwright.grammar.diagnostics import register
from opwright.grammar.lalr import END

VERSIONS = ("0.1",)

UNEXPECTED = register("E0101", "expected {expected}, found {found}", "{cure}")
EMPTY = register(
    "E0102",
    "the file holds no text",
    'start with `opwright "0.1"` and define an operator: `op name @ 1.0 {{ ... }}`',
)
NO_VERSION = register(
    "E0103",
    "the language version is missing before {found}",
    'write `opwright "0.1"` as the first line',
)
UNKNOWN_VERSION = register(
    "E0104",
    'version "{version}" of the language is unknown',
    'write `opwright "0.1"`, the version that this compiler reads',
)
NOT_TEXT = register(
    "E0105",
    "the file is not UTF-8 text: byte {byte} at offset {offset}",
    "save the file as UTF-8",
)
STRAY = register("E0106", "`{found}` is not part of the language", "{cure}")
OPEN_STRING = register(
    "E0107",
    "the quoted text is not closed on its line",
    'write `"` at its end; a quoted text has no line breaks and no escapes',
)
DEFINES = register(
    "E0108", "`=` defines a name; it does not compare", "write `==` to compare two values"
)
COMPARES = register(
    "E0109", "`==` compares two values; it does not define a name", "write `=` to define"
)
UNCLOSED = register(
    "E0110",
    "`{opener}` at {line}:{col} is not closed before {found}",
    "write `{closers}` before {found}",
)
UNMATCHED = register("E0111", "`{found}` closes nothing that is open", "{cure}")
MISSING = register("E0112", "`{missing}` is missing before {found}", "write `{missing}` here")
UNKNOWN_SECTION = register(
    "E0113",
    "`{found}` does not begin a section",
    "{hint}sections begin with one of: {sections}",
)
OUTSIDE = register(
    "E0114",
    "the section `{found}` stands outside of any operator",
    "move it between the braces of an `op`{hint}",
)
NO_OPERATOR = register(
    "E0115", "the file defines no operator", "add one: `op name @ 1.0 {{ ... }}`"
)
BAD_VERSION = register(
    "E0116",
    "`{found}` is not a version",
    "write the version as major.minor, for example `@ 1.0`",
)
NOT_DTYPE = register("E0117", "`{found}` is not a dtype", "{cure}")
TOO_DEEP = register(
    "E0118",
    "the expression is nested more than {limit} levels deep",
    "name parts of it by equations of their own",
)
NOT_MODULE = register(
    "E0119",
    "only an imported module can stand before `.name(...)`",
    "import the module with `import path as name` and call `name.operator(...)`",
)
TOO_LARGE = register(
    "E0120", "the number is too large to represent", "write a number below 1.8e308, or `inf`"
)
EMPTY_BLOCK = register("E0121", "the braces of `{block}` are empty", "{cure}")
UNQUOTED = register(
    "E0122", "the language version is written without quotes", 'write `opwright "{version}"`'
)
NOT_WORD = register("E0123", "`{found}` is not {kind}", "{hint}write one of: {words}")

UNNAMED = register("E0125", "`{keyword}` needs a name", "write `{keyword} name: ...`")
TRAILING_COMMA = register(
    "E0124", "the list ends with a comma", "remove it, or write {expected} after it"
)

SECTIONS: Mapping[str, str] = {
    "dims": "DIMS",
    "where": "WHERE",
    "type": "TYPE",
    "let": "LET",
    "param": "PARAM",
    "input": "INPUT",
    "output": "OUTPUT",
    "def": "DEF",
    "requires": "REQUIRES",
    "ensures": "ENSURES",
    "law": "LAW",
    "tolerance": "TOLERANCE",
    "grad": "GRAD",
    "workload": "WORKLOAD",
    "minimize": "MINIMIZE",
    "target": "TARGET",
}
SECTION_LIST = ", ".join(SECTIONS)
# What people write from habit: not close in spelling to the keyword that means it.
SECTION_HABITS = {
    "dim": "dims",
    "sizes": "dims",
    "shape": "dims",
    "assert": "requires",
    "assume": "requires",
    "require": "requires",
    "ensure": "ensures",
    "constraint": "where",
    "constraints": "where",
    "parameter": "param",
    "attr": "param",
    "in": "input",
    "inputs": "input",
    "out": "output",
    "outputs": "output",
    "return": "output",
    "body": "def",
    "gradient": "grad",
    "backward": "grad",
    "objective": "minimize",
    "minimise": "minimize",
    "maximize": "minimize",
    "tol": "tolerance",
}

WORDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "METRIC": ("a metric", ("latency", "memory", "energy", "error", "compile_time", "code_size")),
    "BACKEND": ("a backend", ("triton", "cuda", "jax", "cpp")),
    "TOL": ("a kind of tolerance", ("abs", "rel", "ulp")),
    "BY": ("a way to discharge", ("proof", "test", "proof_or_test")),
    "UNIT": ("a unit", ("us", "ms", "MiB", "GiB", "mJ", "J")),
}
DTYPES = (
    *("f64", "f32", "tf32", "f16", "bf16", "f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz"),
    *("f4e2m1", "i64", "i32", "i16", "i8", "i4", "u64", "u32", "u16", "u8", "u4", "bool"),
)
DTYPE_HABITS = {
    "double": "f64",
    "float": "f32",
    "single": "f32",
    "half": "f16",
    "bfloat": "bf16",
    "bfloat16": "bf16",
    "brain": "bf16",
    "int": "i32",
    "long": "i64",
    "short": "i16",
    "char": "i8",
    "byte": "u8",
    "uint": "u32",
    "boolean": "bool",
    "float8_e4m3fn": "f8e4m3",
    "float8_e4m3": "f8e4m3",
    "float8_e5m2": "f8e5m2",
    "fp8": "f8e4m3",
    "tfloat32": "tf32",
    **{f"{stem}{bits}": f"f{bits}" for stem in ("float", "fp") for bits in (16, 32, 64)},
    **{f"int{bits}": f"i{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (4, 8, 16, 32, 64)},
}
WORD_HABITS = {
    "time": "latency",
    "speed": "latency",
    "runtime": "latency",
    "mem": "memory",
    "power": "energy",
    "accuracy": "error",
    "size": "code_size",
    "c++": "cpp",
    "cpu": "cpp",
    "gpu": "cuda",
    "pallas": "jax",
    "absolute": "abs",
    "relative": "rel",
    "atol": "abs",
    "rtol": "rel",
    "tests": "test",
    "mb": "MiB",
    "gb": "GiB",
}
# What other languages and keyboards offer: what is read instead, and the cure.
POWER = "there is no power operator: write `x * x` or `pow(x, y)`"
FOREIGN: Mapping[str, tuple[str, str]] = {
    "&&": ("and", "write `and`"),
    "||": ("or", "write `or`"),
    ":=": ("=", "write `=`"),
    "**": ("*", POWER),
    "^": ("*", POWER),
    "&": ("and", "write `and`"),
    "!": ("not", "write `not`"),
    "≤": ("<=", "write `<=`"),
    "≥": (">=", "write `>=`"),
    "≠": ("!=", "write `!=`"),
    "≈": ("~=", "write `~=`"),
    "×": ("*", "write `*`"),
    "·": ("*", "write `*`"),
    "÷": ("/", "write `/`"),
    "−": ("-", "write `-`"),
    "∞": ("inf", "write `inf`"),
    "∈": ("in", "write `in`"),
    "…": ("...", "write `...`"),
    "'": ("", 'quoted text stands between `"`'),
    ";": ("", "remove it: statements need no terminator"),
    "\\": ("", "remove it: an expression may continue on the next line"),
}
EXPRESSION = frozenset("NAME NUMBER REDUCER DTYPE BOOL INF LPAR MINUS NOT IF ROUND LSQB".split())
OPERAND = EXPRESSION - {"MINUS", "NOT", "IF"}
OPERATORS = frozenset("PLUS MINUS STAR SLASH PERCENT CMP AND OR".split())
CLASSES = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a quoted text",
    "DTYPE": "a dtype",
    "REDUCER": "a reducer",
    "BOOL": "`true` or `false`",
    "CMP": "a comparison",
    "SEMVER": "a version",
    END: "the end of the file",
    **{name: kind for name, (kind, _) in WORDS.items()},
}


def expected_words(expected: Iterable[str], fixed: Mapping[str, str]) -> list[str]:
    """Return in words which tokens could stand at a place."""
    left = set(expected)
    parts = []
    if left >= OPERAND:
        parts.append("an expression")
        left -= EXPRESSION
    elif left >= OPERATORS:
        # After a whole expression nearly everything can follow: what closes it says more.
        left -= OPERATORS | {"IN", "LSQB", "DOT", "LPAR", "WITHIN", "BY"}
        left -= {name for name, text in fixed.items() if text in ("//", "??")}
        parts.append("an operator")
    sections = set(SECTIONS.values())
    if left >= sections:
        parts.append("a section")
        left -= sections
    named = [CLASSES[name] for name in CLASSES if name in left]
    quoted = sorted(f"`{fixed[name]}`" for name in left if name in fixed)
    if parts[:1] == ["an operator"]:
        return [*named, *quoted, *parts]
    return [*parts, *named, *quoted]


def describe_expected(expected: Iterable[str], fixed: Mapping[str, str]) -> str:
    """Say in words which tokens could stand at a place."""
    return one_of(expected_words(expected, fixed))


def one_of(parts: list[str]) -> str:
    """Join alternatives: `a`, `a or b`, `a, b or c`."""
    if len(parts) < 2:
        return "".join(parts) or "nothing more"
    return ", ".join(parts[:-1]) + " or " + parts[-1]


def suggest(
    word: str,
    words: Iterable[str],
    habits: Mapping[str, str] | None = None,
    cutoff: float = 0.72,
) -> str | None:
    """Return the known word that a wrong one most likely stands for."""
    lower = word.lower()
    if habits and lower in habits:
        return habits[lower]
    close = get_close_matches(lower, list(words), n=1, cutoff=cutoff)
    return close[0] if close else None


def suggest_dtype(word: str) -> str | None:
    """Return the dtype that a wrong name for one most likely stands for, as f32 for float32."""
    return suggest(word.removeprefix("torch.").removeprefix("tl."), DTYPES, DTYPE_HABITS)


def did_you_mean(word: str | None) -> str:
    """Return the start of a cure that names the likely word, or nothing."""
    return "" if word is None else f"did you mean `{word}`? "
