"""Faults seeded into Triton's intermediate form, line by line.

An operation left out is written as one that hands its operand on, so that every line keeps its
type. Whether a mutant is read, and what it means, is for the importer and the gates to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from opwright.ir.mutant import Mutant, different

_LINE = re.compile(r"(\s*)(%[\w]+) = ([\w.]+) (.*?) : (.*?)( loc\(.*)?")
_FOR = re.compile(r"(.*scf\.for %\w+ = )(%\w+)( to )(%\w+)( step )(%\w+)(.*)")
_YIELD = re.compile(r"(\s*scf\.yield )(.*?)( : )(.*)")
_FUNC = re.compile(r"tt\.func public @(\w+)")
COMPARED = {"slt": "sle", "sle": "slt", "sgt": "sge", "sge": "sgt", "ult": "ule", "eq": "sle",
            "olt": "ole", "ogt": "oge", "oeq": "one", "une": "oeq"}  # fmt: skip
SWAPPED = {
    "arith.addi": "arith.subi", "arith.subi": "arith.addi", "arith.muli": "arith.addi",
    "arith.divsi": "arith.remsi", "arith.remsi": "arith.divsi", "arith.addf": "arith.subf",
    "arith.subf": "arith.addf", "arith.mulf": "arith.addf", "arith.divf": "arith.mulf",
    "arith.maxnumf": "arith.minnumf", "arith.minnumf": "arith.maxnumf",
    "arith.maximumf": "arith.minimumf", "arith.maxsi": "arith.minsi", "arith.minsi": "arith.maxsi",
    "math.exp": "math.exp2", "math.exp2": "math.exp", "math.log": "math.log2",
    "math.rsqrt": "math.sqrt", "math.sqrt": "math.rsqrt", "math.erf": "math.sin",
    "arith.andi": "arith.ori", "arith.ori": "arith.andi",
}  # fmt: skip
ORDERED = ("arith.subi", "arith.divsi", "arith.remsi", "arith.subf", "arith.divf")
NANS = {"arith.maximumf": "arith.maxnumf", "arith.minimumf": "arith.minnumf"}
DUMMY = '"tt.experimental_dummy"() : () -> ()'


def ttir_mutants(text: str) -> list[Mutant]:
    """Mutants of a text in its order."""
    return different(_mutants(text), text)


def _mutants(text: str) -> Iterator[Mutant]:
    lines = text.splitlines()
    kernel, dummies = "", 0
    for n, line in enumerate(lines):
        if m := _FUNC.search(line):
            kernel, dummies = m[1], 0
        place = f"kernel {kernel}, line {n + 1}"
        for kind, new, what in _of_line(line):
            changed = [*lines[:n], *new, *lines[n + 1 :]]
            yield Mutant(kind, place, "\n".join(changed) + "\n", what)
        if kernel and dummies < 2 and ("tt.store" in line or "tt.load" in line):
            dummies += 1
            pad = line[: len(line) - len(line.lstrip())]
            changed = [*lines[:n], pad + DUMMY, *lines[n:]]
            yield Mutant("dummy", place, "\n".join(changed) + "\n", f"{DUMMY} before it")


def _of_line(line: str) -> Iterator[tuple[str, list[str], str]]:
    said = line.strip().partition(" loc(")[0]

    def one(kind: str, new: str) -> tuple[str, list[str], str]:
        shown = new.strip().partition(" loc(")[0]
        return kind, [new], f"{said} -> {shown}"

    if line.strip().startswith("tt.store"):
        yield "store_missing", [], f"without {said}"
        yield from _masked(line, one)
        return
    if m := _FOR.fullmatch(line):
        head, lo, to, hi, by, step, rest = m.groups()
        yield one("loop", f"{head}{step}{to}{hi}{by}{step}{rest}")
        if hi != lo:
            yield one("loop", f"{head}{lo}{to}{step}{by}{step}{rest}")
        return
    if m := _YIELD.fullmatch(line):
        parts = [x.strip() for x in m[2].split(",")]
        types = [x.strip() for x in m[4].partition(" loc(")[0].split(", tensor")]
        for a in range(len(parts)):
            for b in range(a + 1, len(parts)):
                if len(set(types)) == 1 or len(types) != len(parts):
                    new = list(parts)
                    new[a], new[b] = parts[b], parts[a]
                    yield one("state", f"{m[1]}{', '.join(new)}{m[3]}{m[4]}")
        return
    if "tt.reduce" in line or "tt.scan" in line:
        for this, other in (("axis = 0", "axis = 1"), ("axis = 1", "axis = 0"),
                            ("reverse = false", "reverse = true")):  # fmt: skip
            if this in line:
                yield one("axis", line.replace(this, other))
        return
    m2 = _LINE.fullmatch(line)
    if m2 is None:
        return
    groups: list[str] = [x or "" for x in m2.groups()]
    pad, name, op, args, kind, loc = groups

    def made(word: str, to: str, of: str = kind) -> str:
        return f"{pad}{name} = {word} {to} : {of}{loc}"

    operands = re.findall(r"%[\w#]+", args)
    if op == "arith.cmpi" or op == "arith.cmpf":
        word, _, rest = args.partition(", ")
        if word in COMPARED:
            yield one("mask", made(op, f"{COMPARED[word]}, {rest}"))
        yield one("mask", made(op, f"{word}, {operands[1]}, {operands[0]}"))
    elif op == "arith.constant":
        yield from (one(k, made(op, new)) for k, new in _constants(args))
    elif op == "tt.load":
        yield from _masked(line, one)
    elif op == "tt.get_program_id":
        yield one("axis", made(op, "y" if args == "x" else "x"))
    elif op == "tt.make_range":
        if end := re.search(r"end = (\d+)", args):
            yield one("offset", made(op, args, kind).replace(end[0], f"end = {int(end[1]) // 2}"))
    elif op == "tt.dot":
        if "tf32" not in args and "f32>" in kind:
            yield one("precision", made(op, f"{args}, inputPrecision = tf32"))
    elif op == "tt.addptr":
        yield from _moved(line, name, op, args, kind, loc, pad)
    elif op == "arith.select" and len(operands) == 3:
        a, b, c = operands
        yield one("operands", made(op, f"{a}, {c}, {b}"))
    elif op in ("arith.extsi",) and "i64" in kind.partition(" to ")[2]:
        yield from _narrowed(one, name, args, kind, loc, pad)
    if op in SWAPPED:
        yield one("operation", made(SWAPPED[op], args))
    if op in NANS:
        yield one("nan", made(NANS[op], args))
    if op in ORDERED and len(operands) == 2:
        yield one("operands", made(op, f"{operands[1]}, {operands[0]}"))
    if op.startswith(("arith.", "math.")) and " to " not in kind and operands:
        same = "arith.maxnumf" if re.search(r"(^|x)b?f(16|32|64)", kind) else "arith.maxsi"
        fault = "mask_dropped" if op == "arith.andi" else "term_dropped"
        fault = "rescale" if op == "arith.mulf" else fault
        if op not in ("arith.constant", "arith.cmpi", "arith.cmpf", "arith.select"):
            same = "arith.andi" if op in ("arith.andi", "arith.ori") else same
            for x in dict.fromkeys(operands):
                yield one(fault, made(same, f"{x}, {x}"))


def _masked(line: str, one: object) -> Iterator[tuple[str, list[str], str]]:
    """Masks and fills of a load or a store left out."""
    m = re.fullmatch(r"(.*tt\.(load|store) )(.*?)( : .*)", line)
    if m is None:
        return
    parts = [x.strip() for x in m[3].split(",")]
    plain = 1 if m[2] == "load" else 2
    if len(parts) > plain and parts[plain].startswith("%"):
        new = f"{m[1]}{', '.join(parts[:plain])}{m[4]}"
        yield "mask_dropped", [new], f"{m[3]} -> {', '.join(parts[:plain])}"
    if m[2] == "load" and len(parts) > 2 and parts[2].startswith("%"):
        new = f"{m[1]}{', '.join(parts[:2])}{m[4]}"
        yield "fill", [new], f"{m[3]} -> {', '.join(parts[:2])}"


def _constants(args: str) -> Iterator[tuple[str, str]]:
    """Numbers next to one, and the other beginnings of folds."""
    if re.fullmatch(r"-?\d+", args):
        yield "constant", str(int(args) + 1)
        yield "constant", str(int(args) - 1)
    elif re.fullmatch(r"dense<-?\d+>", args):
        yield "constant", f"dense<{int(args[6:-1]) + 1}>"
    elif "0xFF800000" in args:
        yield "init", args.replace("0xFF800000", "0.000000e+00")
    elif re.fullmatch(r"(dense<)?0\.0+e\+00>?", args):
        yield "init", args.replace("0.000000e+00", "1.000000e+00")
    elif f := re.search(r"-?\d\.\d+e[+-]\d+", args):
        yield "constant", args.replace(f[0], f"{float(f[0]) * 1.25:.6e}")
        yield "constant", args.replace(f[0], "0.000000e+00")


def _moved(
    line: str, name: str, op: str, args: str, kind: str, loc: str, pad: str
) -> Iterator[tuple[str, list[str], str]]:
    """An address one element further, and without its offset."""
    pointer, offset = (x.strip() for x in args.split(","))
    of = kind.rpartition(", ")[2] if not kind.endswith(">") else kind[kind.index(", tensor") + 2 :]
    tensor = re.fullmatch(r"tensor<(\d+x(?:\d+x)*)(i\d+)>", of)
    one = f"dense<1> : {of}" if tensor else f"1 : {of}"
    first = f"{pad}{name}_one = arith.constant {one}{loc}"
    more = f"{pad}{name}_more = arith.addi {offset}, {name}_one : {of}{loc}"
    less = f"{pad}{name}_more = arith.subi {offset}, {name}_one : {of}{loc}"
    zero = f"{pad}{name}_more = arith.subi {offset}, {offset} : {of}{loc}"
    new = f"{pad}{name} = {op} {pointer}, {name}_more : {kind}{loc}"
    yield "offset", [first, more, new], f"{name}: {offset} + 1"
    yield "offset", [first, less, new], f"{name}: {offset} - 1"
    yield "stride", [zero, new], f"{name}: without {offset}"


def _narrowed(
    one: object, name: str, args: str, kind: str, loc: str, pad: str
) -> Iterator[tuple[str, list[str], str]]:
    """A 64-bit index through 16 bits: what a conversion left out does, at smaller numbers."""
    old, _, new = kind.partition(" to ")
    if "i32" not in old:
        return
    short = old.replace("i32", "i16")
    lines = [
        f"{pad}{name}_short = arith.trunci {args} : {old} to {short}{loc}",
        f"{pad}{name} = arith.extsi {name}_short : {short} to {new}{loc}",
    ]
    yield "narrow", lines, f"{name}: {args} through 16 bits"
