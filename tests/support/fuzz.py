"""Texts that nobody would write, for the front end, for plans and for the command line.

    make fuzz ARGS="--count 10000 --seed 0"

What goes in: texts derived from the grammar at random, valid specs with tokens edited, and bytes.
What has to come out: a tree or diagnostics, each with a registered code, a place in the text and a
cure, and never a traceback or a wait. A text that parses is formatted: the result is the same tree
and stays as it is. Where atheris is installed, `--atheris` lets it choose the bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from support.random_specs import make
from support.shipped import SPECS

from opwright.compiler.check import check_text
from opwright.grammar.diagnostics import Diagnostic, DiagnosticError, codes, render
from opwright.grammar.format import format_module
from opwright.grammar.parser import decode, parse

TIME_LIMIT = 20  # seconds of work for one input
CHECKED = 4000  # characters of a text that is also checked: obligations of large ones take long
TOKEN = re.compile(
    r"#[^\n]*|\"[^\"\n]*\"|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_]\w*|\.\.\.|\.\.|\?\?|=>"
    r"|==|!=|~=|<=|>=|//|\s+|."
)
WORDS = (
    "op", "dims", "where", "type", "in", "param", "let", "input", "output", "updates", "def",
    "rec", "init", "requires", "ensures", "law", "within", "by", "tolerance", "versus", "grad",
    "auto", "none", "workload", "weight", "minimize", "subject", "to", "target", "via", "if",
    "then", "else", "and", "or", "not", "sum", "max", "argmax", "any", "all", "f32", "bf16", "i64",
    "bool", "true", "false", "inf", "round", "perm", "index", "x", "y", "N", "B", "j", "i", "0",
    "1", "1.5", "1e-6", "99999999999999999999", "1e999", "(", ")", "[", "]", "{", "}", ",", ":",
    "=", "=>", "..", "...", "??", "|", "+", "-", "*", "/", "//", "%", "<", "<=", "==", "~=", "@",
    "~", ".", '"', "#", "import", "from", "as", "exp", "floor", "layout", "prod", "topk", "rand",
    "f64", "u8", "i4", "abs", "rel", "ulp", "proof", "latency", "MiB", "cpp", "\n", " ", "§", "é",
    "\t", "\r\n", "\u2028", "\x00", "\ufeff", "𝔁", "1.0", "'", "\\", "$", ";", "`",
)  # fmt: skip


class Hang(Exception):
    """An input took longer than the limit."""


class Bad(Exception):
    """An answer that is not one: the message says what is wrong with it."""


# -- inputs ----------------------------------------------------------------------------------------


@cache
def corpus() -> tuple[str, ...]:
    """Valid texts to start from: operators of the library and random ones."""
    shipped = [p.read_text(encoding="utf-8") for p in sorted(SPECS.rglob("*.op"))]
    return (*shipped, *(make(seed).text for seed in range(60)))


@cache
def rules() -> dict[str, tuple[tuple[tuple[str, bool], ...], ...]]:
    """The expansions of every rule of the grammar: symbols with whether they are terminals."""
    from lark import Lark

    from opwright.grammar.lalr import GRAMMAR

    parser = Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", start="start")
    out: dict[str, list[tuple[tuple[str, bool], ...]]] = {}
    for rule in parser.rules:
        body = tuple((s.name, s.is_term) for s in rule.expansion)
        out.setdefault(rule.origin.name, []).append(body)
    terminals.update({t.name: (t.pattern.value, t.pattern.type) for t in parser.terminals})
    return {k: tuple(dict.fromkeys(v)) for k, v in out.items()}


terminals: dict[str, tuple[str, str]] = {}


@cache
def depths() -> dict[str, int]:
    """The least depth of a derivation of every rule."""
    table = rules()
    out: dict[str, int] = {}
    for _ in range(len(table)):
        for name, bodies in table.items():
            known = [
                1 + max((0 if term else out.get(s, 999) for s, term in body), default=0)
                for body in bodies
            ]
            out[name] = min(known)
    return out


SAMPLES = {
    "NAME": ("x", "y", "N", "B", "b", "j", "i", "softmax", "exp", "T", "batch", "p0", "_", "topk"),
    "NUMBER": ("0", "1", "2", "64", "1.5", "1e-6", "1e400", "123456789012345678901234567890"),
    "DTYPE": ("f32", "bf16", "f16", "f64", "i64", "i32", "bool", "f8e4m3", "u8", "i4"),
    "REDUCER": ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin"),
    "METRIC": ("latency", "memory", "error"), "BACKEND": ("cpp", "triton", "jax", "cuda"),
    "TOL": ("abs", "rel", "ulp"), "BY": ("proof", "test", "proof_or_test"),
    "UNIT": ("MiB", "us", "J"), "BOOL": ("true", "false"), "SEMVER": ("1.0", "2.13", "1.0.3"),
    "CMP": ("==", "!=", "~=", "<", "<=", ">", ">="), "STRING": ('"0.1"', '"doc"', '""'),
    "DOTS": ("...",), "COMMENT": ("# c\n",),
}  # fmt: skip


def derived(rng: Random, start: str = "start", budget: int = 14) -> str:
    """A text that the grammar derives: syntactically right, for the rest nonsense."""
    table, least = rules(), depths()
    out: list[str] = []
    stack: list[tuple[str, bool, int]] = [(start, False, budget)]
    while stack:
        name, term, left = stack.pop()
        if term:
            value, kind = terminals[name]
            words = SAMPLES.get(name)
            out.append(rng.choice(words) if words else value if kind == "str" else "x")
            continue
        bodies = table[name]
        if left <= 0 or len(out) > 600:
            depth = [max((0 if t else least[s] for s, t in b), default=0) for b in bodies]
            bodies = tuple(b for b, d in zip(bodies, depth, strict=True) if d == min(depth))
        body = rng.choice(bodies)
        stack += [(s, t, left - 1) for s, t in reversed(body)]
    if out[:1] == ["opwright"] and len(out) > 1 and rng.random() < 0.95:
        out[1] = '"0.1"'
    return " ".join(out)


def edited(rng: Random, text: str) -> str:
    """A valid text with a few tokens changed."""
    tokens = TOKEN.findall(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not tokens:
            break
        at = rng.randrange(len(tokens))
        how = rng.randrange(7)
        if how == 0:
            del tokens[at]
        elif how == 1:
            tokens.insert(at, rng.choice(WORDS))
        elif how == 2:
            tokens[at] = rng.choice(WORDS)
        elif how == 3:
            other = rng.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif how == 4:
            tokens[at:at] = [tokens[at]] * rng.choice((1, 2, 50))
        elif how == 5:
            end = min(len(tokens), at + rng.randrange(1, 20))
            del tokens[at:end]
        else:  # a piece of another place
            start = rng.randrange(len(tokens))
            tokens[at:at] = tokens[start : start + rng.randrange(1, 12)]
    return "".join(tokens)


def spoiled(rng: Random, text: str) -> bytes:
    """The bytes of a text with some of them changed."""
    data = bytearray(text.encode("utf-8"))
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(6)
        if how == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif how == 1:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif how == 2:
            del data[at : at + rng.randrange(1, 40)]
        elif how == 3:
            del data[at:]
        elif how == 4:
            data[at:at] = rng.choice(("\ufeff", "\r\n", "\u2029", "é", "\x00", "٣", "𝟛")).encode()
        else:
            return bytes(data.replace(b"\n", b"\r\n"))
    return bytes(data)


def extreme(rng: Random) -> str:
    """Long, deep and large."""
    n = rng.choice((10, 199, 201, 1000, 1500))
    body = rng.choice((
        "(" * n + "x[i]" + ")" * n, "-" * n + "x[i]", "not " * n + "true", "x[" * n + "i" + "]" * n,
        " + ".join(["x[i]"] * n), "if true then " * n + "1", "9" * n, f"1e{n}", "1." + "0" * n,
        "exp(" * n + "x[i]" + ")" * n, "x[i]" + " ?? 0" * n, f"x[i + {'9' * n}] ?? 0",
        "sum[r: N](" * n + "x[i]" + ")" * n, "x[i] < " * n + "1", "[i: N => " * n, "a" * n,
        "x[i] ** 2", "1 // 0", "i % 0", "1 / 0", f"2.5e-{n} * x[i]", "pow(0, -1)",
    ))  # fmt: skip
    left = rng.choice(("y[i]", "y[i, i]", "y", "x[i]", f"y[{'i, ' * 30}i]"))
    return (
        f'opwright "0.1"\nop o @ 1.0 {{\n  dims N\n  input x: f32[N]\n  output y: f32[N]\n'
        f"  def {{ {left} = {body} }}\n}}\n"
    )


KINDS = ("valid", "derived", "edited", "bytes", "extreme")


def inputs(seed: int) -> tuple[str, bytes]:
    """The kind and the bytes of the input of a seed."""
    rng = Random(f"fuzz:{seed}")
    kind = rng.choices(KINDS, (2, 6, 20, 8, 1))[0]
    if kind == "valid":
        return kind, make(1000 + seed).text.encode()
    if kind == "derived":
        return kind, derived(rng, budget=rng.randrange(3, 22)).encode()
    if kind == "extreme":
        return kind, extreme(rng).encode()
    text = rng.choice(corpus()) if rng.random() < 0.4 else make(rng.randrange(400)).text
    if kind == "edited":
        return kind, edited(rng, text).encode()
    return kind, spoiled(rng, text)


# -- what has to hold ------------------------------------------------------------------------------


@contextmanager
def limited(seconds: int = TIME_LIMIT) -> Iterator[None]:
    """`Hang` after so many seconds of this process, or four times as many by the clock."""

    def stop(*_: object) -> None:
        raise Hang(f"no answer within {seconds} s")

    before = [signal.signal(s, stop) for s in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(4 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for s, old in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(s, old)


def diagnosed(found: Sequence[Diagnostic], text: str) -> None:
    """Every diagnostic has a code, a message, a cure and a place in the text."""
    lines = text.count("\n") + 2
    for d in found:
        if d.code not in codes():
            raise Bad(f"{d.code} is not registered")
        if not d.message.strip() or not d.cure.strip():
            raise Bad(f"{d.code} has no message or no cure")
        if d.filename == "f.op" and not 1 <= d.span.line <= lines:
            raise Bad(f"{d.code} is on line {d.span.line} of {lines}")
        render(d, text)


def examine(data: bytes, checked: int = CHECKED) -> str:
    """Whether bytes are `refused`, `wrong` (they parse, `check` has something to say) or `valid`;
    Bad where an answer lacks something. Other exceptions are defects."""
    try:
        text = decode(data, "f.op")
        module = parse(text, "f.op")
    except DiagnosticError as e:
        if not e.diagnostics:
            raise Bad("refused without a diagnostic") from None
        diagnosed(e.diagnostics, data.decode("utf-8", "replace"))
        return "refused"
    formatted = format_module(text, "f.op")
    if parse(formatted, "f.op") != module:
        raise Bad("formatting changes the tree")
    if format_module(formatted, "f.op") != formatted:
        raise Bad("formatting twice changes the text")
    if len(text) > checked:
        return "parsed"
    found = check_text(text, "f.op")
    diagnosed(found.diagnostics, text)
    return "valid" if found.ok else "wrong"


# -- plans -----------------------------------------------------------------------------------------

JSON: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, "", "x", "N", "1 +", "x" * 3000, "\x00", "../../etc/passwd",
    [], {}, [[]], {"": None}, "(" * 3000, "stride(x, 0)", "i32(N)", "N // 0", "1e400",
)  # fmt: skip


def bent(rng: Random, value: Any) -> Any:
    """A JSON value with one place changed."""
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return rng.choice(JSON)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        how = rng.randrange(4)
        if how == 0:
            return [*value[:at], *value[at + 1 :]]
        if how == 1:
            return [*value[:at], value[at], *value[at:]]
        return [*value[:at], bent(rng, value[at]), *value[at + 1 :]]
    key = rng.choice(sorted(value))
    how = rng.randrange(6)
    if how == 0:
        return {k: v for k, v in value.items() if k != key}
    if how == 1:
        return {**value, rng.choice(("extra", "", key.upper())): rng.choice(JSON)}
    return {**value, key: bent(rng, value[key])}


@cache
def plans() -> tuple[tuple[Any, dict[str, Any]], ...]:
    """(operator, the JSON of a plan for it) of C++, Triton and JAX."""
    from opwright.backends.cpp.plan import make_plan as cpp_plan
    from opwright.backends.jax.plan import make_plan as jax_plan
    from opwright.backends.triton.plan import make_plan as triton_plan
    from opwright.compiler.block_spaces import spaces as block_spaces
    from opwright.compiler.elaborate import parse_spec
    from opwright.compiler.spaces import spaces

    out = []
    for seed in (2, 15, 27):
        op = parse_spec(make(seed).text).operator()
        for found, plan in ((spaces, cpp_plan), (block_spaces, triton_plan)):
            space = found(op)[-1]
            made = plan(space.instantiate(space.preferred()[0]), op)
            out.append((op, json.loads(json.dumps(made.to_json()))))
        out.append((op, json.loads(json.dumps(jax_plan(op).to_json()))))
    return tuple(out)


def examine_plan(seed: int) -> str:
    """A plan with some places changed is read and bound, or refused by name."""
    from opwright.ir.launch import ImportRefusal, bind_plan
    from opwright.ir.plan import PlanError, load

    rng = Random(f"plan:{seed}")
    op, data = rng.choice(plans())
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = bent(rng, data)
    raw = json.dumps(data).encode()
    if rng.random() < 0.2:
        raw = spoiled(rng, raw.decode())
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        Path(folder, "candidate.json").write_bytes(raw)
        try:
            bind_plan(load(Path(folder)), op)
        except (PlanError, ImportRefusal) as e:
            if not str(e).strip():
                raise Bad("refused without a reason") from None
            return "refused"
    return "valid"


# -- other documents -------------------------------------------------------------------------------

TRACED = """opwright "0.1"

op traced @ 1.0 {
  dims B, N
  param scale: f32 = 1.0
  input x: f32[B, N]
  output y: f32[B, N]
  def { y[b, j] = x[b, j] * scale }
  workload "trace.jsonl" weight 1.0
}
"""


@cache
def exchanged() -> tuple[dict[str, Any], ...]:
    """A definition, a solution, a workload, a trace and a case of the operator above."""
    from opwright.compiler.elaborate import parse_spec
    from opwright.compiler.flashinfer_export import definition_of
    from opwright.compiler.flashinfer_schema import dump
    from opwright.compiler.flashinfer_solutions import solution_of
    from opwright.compiler.pure import arrays_candidate
    from opwright.verify.cases import keep

    text = TRACED.replace('  workload "trace.jsonl" weight 1.0\n', "")
    op = parse_spec(text).operator()
    d = definition_of(op, text, 0).definition
    solution = json.loads(dump(solution_of(arrays_candidate(op), op, d)))
    inputs = {"x": {"type": "random"}, "scale": {"type": "scalar", "value": 0.5}}
    workload = {"uuid": "u", "axes": {"B": 2, "N": 3}, "inputs": inputs}
    result = {
        "status": "INCORRECT_NUMERICAL", "timestamp": "now", "environment": {"hardware": "cpu"},
        "correctness": {"max_relative_error": 0.5, "max_absolute_error": 0.5},
    }  # fmt: skip
    trace = {"definition": d.name, "workload": workload, "solution": "s", "evaluation": result}
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    kept = keep(op, {"B": 2, "N": 3}, {"scale": 0.5}, {"x": x}, "gate", "why").to_json()
    own = json.loads(dump(d))
    foreign = {**own, "reference": "import torch\ndef run(x, scale):\n    return x * scale\n"}
    row = {"B": 2, "N": 3, "scale": 0.5}
    return own, foreign, solution, trace, json.loads(json.dumps(kept)), row


def examine_document(seed: int) -> str:
    """Documents with places changed are read, or refused by file and place."""
    from opwright.compiler.elaborate import parse_spec
    from opwright.compiler.flashinfer_import import documents, spec_of, write_solution
    from opwright.compiler.flashinfer_schema import FormatError
    from opwright.verify.cases import CaseError, call_of, read_cases

    rng = Random(f"document:{seed}")
    kind = rng.randrange(6)
    data: Any = exchanged()[kind]
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = bent(rng, data)
    raw = json.dumps(data).encode()
    if rng.random() < 0.2:
        raw = spoiled(rng, raw.decode())
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        folder = Path(made)
        if kind == 5:
            (folder / "trace.jsonl").write_bytes(raw)
            found = check_text(TRACED, str(folder / "f.op"))
            diagnosed(found.diagnostics, TRACED)
            return "valid" if found.ok else "refused"
        path = folder / "document.json"
        path.write_bytes(raw)
        try:
            if kind == 4:
                op = parse_spec(TRACED.replace('  workload "trace.jsonl" weight 1.0\n', ""))
                for kept in read_cases(path):
                    call_of(op.operator(), kept)
                return "valid"
            definitions, traces, solutions = documents(path)
            for d in definitions:
                found_spec = spec_of(d, traces)
                if found_spec.origin == "skeleton" and not found_spec.notes:
                    raise Bad("a skeleton without a reason")
            for s in solutions:
                write_solution(folder / "out", s)
        except (FormatError, CaseError) as e:
            if "document.json" not in str(e) and not str(e).strip():
                raise Bad("refused without a reason") from None
            return "refused"
    return "valid"


# -- the command line ------------------------------------------------------------------------------

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("check", "{}"), ("check", "{}", "--json"), ("fmt", "--check", "{}"), ("show", "{}"),
    ("show", "{}", "--stage", "ast"), ("show", "{}", "--stage", "tile"), ("diff", "{}", "{}"),
    ("verify", "{}", "{}"), ("verify", "{}", "{}", "--json"), ("explain", "{}"),
    ("explain", "{}", "--json"), ("compile", "{}", "-o", "{}"), ("bench", "{}"),
    ("compile", "{}", "--budget", "{}"), ("show", "{}", "--op", "{}"), ("search", "show", "{}"),
    ("search", "export", "{}"), ("show", "{}", "--type", "{}"), ("check", "{}", "{}"),
    ("compile", "{}", "--target", "{}"), ("show", "{}", "--schedule", "{}", "--stage", "tile"),
    ("search", "best", "{}", "-n", "{}"), ("verify", "{}", "{}", "--seed", "{}"), ("{}",),
    ("{}", "{}"), ("check", "--summary", "{}"), ("check",), ("--debug", "check", "{}"),
)  # fmt: skip


def strange_files(folder: Path) -> list[str]:
    """Paths of every kind of file that a command may be handed, and words that are none."""
    good = make(0).text
    files: dict[str, bytes] = {
        "empty.op": b"", "good.op": good.encode(), "binary.op": bytes(range(256)) * 8,
        "bom.op": b"\xef\xbb\xbf" + good.encode(), "crlf.op": good.replace("\n", "\r\n").encode(),
        "utf16.op": good.encode("utf-16"), "deep.op": extreme(Random(3)).encode(),
        "two.op": (good + good.partition("\n")[2].replace("op r0", "op r1")).encode(),
        "wrong.op": good.replace("f32", "f33").encode(), "naïve space.op": good.encode(),
        "data.json": b'{"a": [1, 2', "nul.op": b"\x00" * 64, "no_newline.op": good.strip().encode(),
        "cut.op": good[: len(good) // 2].encode(), "huge.op": b"# " + b"x" * 200_000,
        "prog.tile": b"program x\n", "bad.sqlite": b"SQLite format 3\x00" + b"\x07" * 300,
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.op").mkdir()
    (folder / "candidate").mkdir()
    (folder / "candidate" / "candidate.json").write_bytes(b'{"abi": 1')
    words = [
        "",
        "-",
        "--",
        "x",
        "E0312",
        "E9999",
        "G2",
        "1e400",
        "-1",
        "99999999999999999999",
        "T=f32",
        "T=",
        "=",
        "cpu",
        "sm_90",
        "sm_999",
        "nan",
        "\x1b[31m",
        "né",
        "a" * 5000,
        "/dev/null",
        "/",
        "..",
        "/nonexistent/x.op",
        "fallback(schedule=plain)",
        "(((",
        "3.17",
    ]
    return [str(folder / n) for n in (*files, "folder.op", "candidate", "missing.op")] + words


def examine_command(seed: int, folder: Path, words: Sequence[str]) -> str:
    """A command line of strange arguments ends with 0, 1 or 2, and says why."""
    from opwright import outcome
    from opwright.cli import run

    rng = Random(f"command:{seed}")
    command = [w.format(rng.choice(words)) if w == "{}" else w for w in rng.choice(COMMANDS)]
    if command[0] in ("compile", "bench") and any(
        w.endswith(("good.op", "bom.op", "crlf.op", "newline.op", "space.op")) for w in command
    ):
        command = ["check", *command[1:2]]  # compiling takes a minute
    if "--summary" in command:
        command = [w for w in command if w != "/"]  # a whole disk takes its time
    if command[:1] == ["fmt"] and "--check" not in command:
        command.insert(1, "--check")
    out, err = io.StringIO(), io.StringIO()
    out.fileno = lambda: 1  # type: ignore[method-assign]
    with redirect_stdout(out), redirect_stderr(err), chdir(folder):
        code = run(command)
    outcome.debug = False
    if code not in (0, 1, 2):
        raise Bad(f"opwright {command} ends with {code}: {err.getvalue()[-300:]}")
    if "Traceback" in err.getvalue() and "--debug" not in command:
        raise Bad(f"opwright {command} prints a traceback: {err.getvalue()[-600:]}")
    if code == 2 and not err.getvalue().strip():
        raise Bad(f"opwright {command} says nothing")
    return f"exit {code}"


# -- many ------------------------------------------------------------------------------------------


def guarded(
    what: Callable[[], str], label: str, found: Counter[str], said: Callable[[str], None]
) -> bool:
    """Count the outcome; False and a message for a defect."""
    try:
        with limited():
            found[what()] += 1
    except Exception as e:
        found["DEFECT"] += 1
        place = traceback.extract_tb(e.__traceback__)[-1]
        said(f"{label}: {type(e).__name__}: {str(e)[:400]} ({place.filename}:{place.lineno})")
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="texts for the front end")
    parser.add_argument("--plans", type=int, default=1000)
    parser.add_argument("--commands", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for inputs that are defects")
    parser.add_argument("--atheris", action="store_true", help="let atheris choose the bytes")
    given = parser.parse_args()
    if given.atheris:
        return with_atheris(given.count)
    begin, bad = time.perf_counter(), 0
    table: dict[str, Counter[str]] = {}

    def said(line: str) -> None:
        print(line, flush=True)

    for seed in range(given.seed, given.seed + given.count):
        kind, data = inputs(seed)
        own = table.setdefault(kind, Counter())
        if not guarded(lambda data=data: examine(data), f"seed {seed} ({kind})", own, said):
            bad += 1
            if given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{seed}.op").write_bytes(data)
    for seed in range(given.seed, given.seed + given.plans):
        own = table.setdefault("plans", Counter())
        bad += not guarded(lambda seed=seed: examine_plan(seed), f"plan {seed}", own, said)
        own = table.setdefault("documents", Counter())
        bad += not guarded(lambda seed=seed: examine_document(seed), f"document {seed}", own, said)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        words = strange_files(Path(made))
        for seed in range(given.seed, given.seed + given.commands):
            own = table.setdefault("commands", Counter())
            what = lambda seed=seed: examine_command(seed, Path(made), words)  # noqa: E731
            bad += not guarded(what, f"command {seed}", own, said)
    for kind, own in table.items():
        counts = "  ".join(f"{k} {n}" for k, n in sorted(own.items()))
        print(f"{kind:<10} {sum(own.values()):>6}  {counts}")
    total = sum(sum(c.values()) for c in table.values())
    print(f"{total} inputs, {bad} defects, {time.perf_counter() - begin:.0f} s")
    return 1 if bad else 0


def with_atheris(count: int) -> int:
    """Coverage decides what is tried next; 0 with a message where atheris is missing."""
    try:
        import atheris
    except ModuleNotFoundError:
        print("atheris is not installed: pip install atheris")
        return 0
    import opwright.grammar.engine
    import opwright.grammar.recovery

    for module in (opwright.grammar.engine, opwright.grammar.recovery):
        for name, part in vars(module).items():
            if callable(part) and getattr(part, "__module__", "") == module.__name__:
                if isinstance(part, type):
                    for own, method in list(vars(part).items()):
                        if hasattr(method, "__code__"):
                            setattr(part, own, atheris.instrument_func(method))
                else:
                    setattr(module, name, atheris.instrument_func(part))

    def one(data: bytes) -> None:
        examine(data, checked=0)

    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        for n, text in enumerate(corpus()):
            Path(folder, f"{n}.op").write_text(text)
        atheris.Setup([sys.argv[0], folder, f"-runs={count}", "-max_len=2000"], one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
