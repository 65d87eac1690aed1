"""`opwright draft`: a spec from words, believed only as far as a machine can see.

A model is asked for a spec and for examples, and once more, without the first answer, for the
meaning alone. The spec is accepted when it passes `check`, both statements agree (by proof, else on
random inputs), and every example comes out. What fails is said to the author, within a budget.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opwright.drafting_texts import FIRST, MEND, SECOND, SYSTEM
from opwright.outcome import HOLDS, NO, Problem, print_json, write_atomically
from opwright.search.accounts import Unanswered
from opwright.search.llm import LLMClient, LLMError, Message, Request

if TYPE_CHECKING:
    from opwright.compiler.elaborate import Spec
    from opwright.compiler.guiding import Guide
    from opwright.search.accounts import Caller

LONGEST_WORDS = 64 << 10
LONGEST_SPEC = 64 << 10
MOST_NUMBERS = 4096  # of an example's tensor
ABSOLUTE, RELATIVE = 1e-3, 1e-3  # of numbers that were worked out by hand
ERROR = 3000  # characters of what is said to the author
_FENCE = re.compile(r"^[ \t]*(`{3,})[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.M | re.S)
_DOCSTRING = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")


class Wrong(Exception):
    """What is wrong with an answer, for its author. `stage`: answer | check | second | examples."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


@dataclass(slots=True)
class Drafted:
    """What came of it: the accepted text, else None; one line a step."""

    text: str | None = None
    second: str = ""
    examples: int = 0
    evidence: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    steps: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0
    stopped: str = ""

    def step(self, stage: str, said: str) -> None:
        self.steps.append({"stage": stage, "said": said[:ERROR]})


def words_of(text: str) -> str:
    """The words: themselves, a file as `@FILE`, or a function's docstring as `FILE.py:NAME`; no
    code is run."""
    try:
        found = _DOCSTRING.fullmatch(text)
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        elif found and Path(found["file"]).is_file():
            text = _docstring(Path(found["file"]), found["name"])
    except UnicodeDecodeError:
        raise Problem(f"{text[:80]} is no text", "name a UTF-8 text") from None
    if not text.strip():
        raise Problem("there are no words to draft from", "say what the operator computes")
    if len(text.encode()) > LONGEST_WORDS:
        raise Problem(f"the words have more than {LONGEST_WORDS} bytes", "say it shorter")
    return text


def _docstring(path: Path, name: str) -> str:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, ValueError) as e:
        raise Problem(f"{path} is no Python: {e}", "name a file that parses") from None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and node.name == name:
            text = ast.get_docstring(node)
            if text:
                return f"{name}: {text}"
            raise Problem(f"{name} in {path} has no docstring", "write the words instead")
    raise Problem(f"{path} has no function {name}", "check the name")


# -- what answers hold -----------------------------------------------------------------------------


def spec_in(answer: str) -> str:
    """The spec of an answer; Wrong where there is none, or several."""
    blocks = [m[3] for m in _FENCE.finditer(answer)]
    found = [b for b in blocks if re.search(r"^\s*op\s+\w+\s*@", b, re.M)]
    if len(found) != 1:
        raise Wrong("answer", f"the answer has {len(found)} blocks that hold an operator, not one")
    text = found[0].strip() + "\n"
    if len(text.encode("utf-8", "replace")) > LONGEST_SPEC:
        raise Wrong("answer", f"the spec has more than {LONGEST_SPEC} bytes")
    return text if re.match(r"\s*opwright\b", text) else f'opwright "0.1"\n\n{text}'


def examples_in(answer: str) -> list[dict[str, Any]]:
    """The examples of an answer."""
    blocks = [m[3] for m in _FENCE.finditer(answer) if m[2].lower() == "json"]
    if not blocks:
        raise Wrong("answer", "the answer has no ```json block with examples")
    try:
        data = json.loads(blocks[-1])
    except (ValueError, RecursionError) as e:
        raise Wrong("answer", f"the examples are no JSON: {e}") from None
    return checked_examples(data)


def checked_examples(data: Any) -> list[dict[str, Any]]:
    """Examples of the right form; Wrong says what is missing."""
    rows = data if isinstance(data, list) else [data]
    if not rows:
        raise Wrong("answer", "there are no examples")
    for row in rows:
        good = isinstance(row, dict) and {"inputs", "outputs"} <= set(row)
        if not good or not all(isinstance(v, dict) for v in row.values()):
            form = '{"inputs": {...}, "params": {...}, "sizes": {...}, "outputs": {...}}'
            raise Wrong("answer", f"an example has the form {form}")
    return rows[:20]


# -- what is believed ------------------------------------------------------------------------------


def checked(text: str) -> Spec:
    """The spec of a text that passes `check`; Wrong with the diagnostics."""
    from opwright.compiler.check import check_text
    from opwright.compiler.elaborate import parse_spec
    from opwright.grammar.diagnostics import DiagnosticError, render

    found = check_text(text, "draft.op")
    errors = [d for d in found.diagnostics if d.severity == "error"]
    if errors:
        raise Wrong("check", "\n\n".join(render(d, text) for d in errors[:6]))
    try:
        spec = parse_spec(text, "draft.op")
        if len(spec.names) != 1:
            raise Wrong("check", f"one operator is wanted, the file has {len(spec.names)}")
        spec.operator(spec.names[0], spec.bindings(spec.names[0])[0])
    except DiagnosticError as e:
        raise Wrong("check", "\n\n".join(render(d, text) for d in e.diagnostics[:6])) from None
    return spec


def interface_of(text: str) -> str:
    """What of a spec stands before its meaning, with the operator's name."""
    head = re.split(r"^\s*def\s*\{", text, maxsplit=1, flags=re.M)[0]
    kept = [line for line in head.splitlines() if not re.match(r"\s*(#|let\b)", line)]
    return re.sub(r'(@\s*[\d.]+)\s*"(?:[^"\\]|\\.)*"', r"\1", "\n".join(kept)).strip()


def agree(first: Spec, second: Spec) -> tuple[list[str], list[str]]:
    """(evidence that both statements mean the same, notes); Wrong where they do not, or where
    nobody can tell."""
    from opwright.compiler.diff import CHANGES, diff
    from opwright.grammar.diagnostics import DiagnosticError

    if first.names != second.names:
        raise Wrong("second", f"the second statement is of {', '.join(second.names)}")
    try:
        (found,) = diff(first, second)
    except DiagnosticError as e:
        raise Wrong("second", "; ".join(d.headline for d in e.diagnostics[:3])) from None
    apart = [c for c in found.changes if c.effect == CHANGES and c.part in ("interface", "meaning")]
    if apart:
        lines = [f"{c.text}; {c.reason}" if c.reason else c.text for c in apart[:4]]
        raise Wrong("second", "the two statements are not the same: " + "; ".join(lines))
    meaning = [c for c in found.changes if c.part == "meaning" and c.evidence in ("proof", "tests")]
    if not meaning:
        raise Wrong("second", "nothing shows that the two statements are the same")
    evidence = [f"{c.text.replace(' is what it was', '')}: {c.evidence}" for c in meaning]
    notes = [
        f"the statements differ in their {c.part}: {c.text}"
        for c in found.changes
        if c not in meaning and c.effect != "same" and c.part in ("domain", "meaning")
    ]
    return evidence, notes


def comes_out(spec: Spec, examples: Sequence[Mapping[str, Any]], whose: str) -> None:
    """Wrong for the first example that the spec computes otherwise."""
    import numpy as np

    from opwright.ir.binding import InputError
    from opwright.ir.reference import reference

    name = spec.names[0]
    op = spec.operator(name, spec.bindings(name)[0])
    kinds = {t.name: t.dtype.kind for t in (*op.inputs, *op.outputs)}
    types = {"real": np.float64, "int": np.int64, "bool": np.bool_}
    for number, row in enumerate(examples, 1):
        label = f"example {number} ({whose})"
        try:
            inputs: dict[str, Any] = {
                k: np.asarray(v, types.get(kinds.get(str(k), "real"), np.float64))
                for k, v in row["inputs"].items()
            }
            if any(a.size > MOST_NUMBERS for a in inputs.values()):
                raise Wrong("examples", f"{label} has more than {MOST_NUMBERS} numbers")
            params, sizes = dict(row.get("params", {})), dict(row.get("sizes", {}))
            if not all(isinstance(v, int) and 0 <= v <= MOST_NUMBERS for v in sizes.values()):
                raise Wrong("examples", f"{label}: sizes are integers up to {MOST_NUMBERS}")
            found = reference(op, inputs, params, sizes)
        except (InputError, ValueError, TypeError, KeyError, OverflowError) as e:
            raise Wrong("examples", f"{label} is no call of the operator: {e}") from None
        for output, given in row["outputs"].items():
            if output not in found:
                raise Wrong("examples", f"{label}: there is no output {output}")
            try:
                wanted = np.asarray(given, np.float64)
            except (ValueError, TypeError):
                raise Wrong("examples", f"{label}: {output} is no array of numbers") from None
            got = np.asarray(found[output], np.float64)
            if wanted.shape != got.shape:
                raise Wrong(
                    "examples", f"{label}: {output} has shape {got.shape}, not {wanted.shape}"
                )
            close = np.isclose(got, wanted, RELATIVE, ABSOLUTE, equal_nan=True)
            if not close.all():
                at = tuple(int(i) for i in np.argwhere(~close)[0])
                raise Wrong(
                    "examples",
                    f"{label}: {output}{list(at)} is {got[at]:.6g} by the spec and "
                    f"{wanted[at]:.6g} in the example",
                )
        if not row["outputs"]:
            raise Wrong("examples", f"{label} has no outputs")


# -- asking ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Asker:
    """Asks within a number of requests; a thread keeps its last answer and what was wrong."""

    caller: Caller
    most: int
    options: Mapping[str, Any]
    asked: int = 0

    def ask(self, text: str, logical: str, thread: Sequence[Message] = ()) -> str:
        """The answer's text; LLMError where none comes any more."""
        if self.asked >= self.most:
            raise LLMError("missing", f"the budget of {self.most} requests is spent")
        self.asked += 1
        turns = (*thread, Message("user", text))
        request = Request(SYSTEM, turns, logical=f"draft/{logical}/{self.asked}", **self.options)
        replies = self.caller.ask([request])
        if not replies or replies[0].response is None:
            said = replies[0].error if replies else self.caller.stopped
            if self.caller.stopped or not replies:
                raise LLMError("missing", f"the model was not asked any more: {said}")
            return ""
        response = replies[0].response
        return response.text if response.finish == "stop" else ""


def draft(words: str, asker: Asker, own: Sequence[Mapping[str, Any]] = ()) -> Drafted:
    """Ask until a spec is accepted or the budget is spent. `own` are examples of the user's."""
    out = Drafted()
    thread: list[Message] = []
    prompt = FIRST.format(text=words)
    try:
        while out.text is None:
            answer = asker.ask(prompt, "first", thread)
            try:
                _accept(out, answer, words, asker, own)
            except Wrong as e:
                out.step(e.stage, str(e))
                start = Message("user", FIRST.format(text=words))
                thread = [start, Message("assistant", answer or "(no text)")]
                prompt = MEND.format(error=str(e)[:ERROR].replace("```", "'''"))
    except LLMError as e:
        out.stopped = str(e)
    out.asked = asker.asked
    return out


def _accept(
    out: Drafted, answer: str, words: str, asker: Asker, own: Sequence[Mapping[str, Any]]
) -> None:
    """Accept an answer, or say what is wrong with it. The cheap things come first."""
    text = spec_in(answer)
    examples = examples_in(answer)
    spec = checked(text)
    comes_out(spec, own, "yours")
    comes_out(spec, examples, "of the answer")
    out.step("check", "it checks, and the examples come out")
    interface = interface_of(text)
    prompt = SECOND.format(text=words, interface=interface)
    thread: list[Message] = []
    for turn in range(2):  # a second statement that is none is asked for once more
        said = asker.ask(prompt, "second", thread)
        try:
            other_text = spec_in(said)
            other = checked(other_text)
            break
        except Wrong as e:
            out.step("second", str(e))
            if turn:
                raise Wrong(
                    "second", f"there is no second statement to compare with: {e}"
                ) from None
            thread = [Message("user", prompt), Message("assistant", said or "(no text)")]
            prompt = MEND.format(error=str(e)[:ERROR].replace("```", "'''"))
    evidence, notes = agree(spec, other)
    out.step("second", "; ".join(evidence))
    out.text, out.second, out.evidence, out.notes = text, other_text, evidence, notes
    out.examples = len(own) + len(examples)


# -- the command -----------------------------------------------------------------------------------


def draft_command(
    text: str,
    out: Path | None,
    guide: Guide,
    most: int,
    examples: Path | None,
    as_json: bool,
) -> int:
    """Draft, write the spec where it is accepted, and say what happened."""
    words = words_of(text)
    own: list[dict[str, Any]] = []
    if examples is not None:
        try:
            own = checked_examples(json.loads(examples.read_text(encoding="utf-8")))
        except (ValueError, Wrong) as e:
            raise Problem(f"{examples}: {e}", "a list of calls with inputs and outputs") from None
    asker, close = asker_of(guide, words, most)
    try:
        found = draft(words, asker, own)
    except Unanswered as e:
        where = guide.folder / "requests" if guide.folder is not None else "the folder"
        cure = f"write answers to the files in {where} into answers/ and run this again"
        raise Problem(str(e), cure, NO) from None
    finally:
        close()
    if found.text is not None and out is not None:
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            out.touch()
        write_atomically(out, found.text)
    if as_json:
        print_json(
            {
                "accepted": found.text is not None,
                "spec": found.text,
                "second": found.second,
                "file": out if found.text is not None else None,
                "evidence": found.evidence,
                "examples": found.examples,
                "notes": found.notes,
                "steps": found.steps,
                "asked": found.asked,
                "stopped": found.stopped,
            }
        )
        return HOLDS if found.text is not None else NO
    if found.text is None:
        for step in found.steps:
            print(f"{step['stage']}: {step['said']}")
        print(f"no spec was accepted in {found.asked} requests: {found.stopped}")
        return NO
    if out is None:
        print(found.text, end="")
    say = sys.stderr if out is None else sys.stdout
    for line in (*found.evidence, *found.notes):
        print(f"second statement: {line}", file=say)
    print(f"{found.examples} examples come out; {found.asked} requests", file=say)
    if out is not None:
        print(f"{out}: accepted", file=say)
    return HOLDS


def asker_of(guide: Guide, words: str, most: int) -> tuple[Asker, Any]:
    """An asker for a provider, and what closes its cassette."""
    import hashlib

    from opwright.compiler.backend import CompileError
    from opwright.compiler.guiding import client_of
    from opwright.compiler.paths import cache_folder
    from opwright.search.accounts import Accounts, Caller, price_of
    from opwright.search.cassette import Cassette, CassetteError

    try:
        model, effort, settings, client = client_of(guide)
        key = hashlib.sha256(json.dumps([words, guide.provider, model]).encode()).hexdigest()
        path = guide.cassette or cache_folder() / "drafts" / f"{key[:12]}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if client is None:
            tape = Cassette(path, "strict" if guide.strict else "replay")
            model, known = tape.model, tape
            asking: LLMClient = known
        else:
            origin = {"client": client.name, "model": model, "draft": key}
            tape = Cassette(path, "record", client, origin)
            asking = client
    except (CassetteError, LLMError) as e:
        raise CompileError(str(e), "name another file with --cassette, or another model") from None
    prices = settings.prices if settings is not None else None
    caller = Caller(
        asking,
        Accounts(guide.caps, price_of(model, prices)),
        tape,
        timeout=settings.timeout if settings is not None else max(600.0, guide.wait + 60),
    )
    options: dict[str, Any] = {"model": model, "effort": effort}
    if settings is not None:
        options |= {"max_tokens": settings.max_tokens, "temperature": settings.temperature}
    return Asker(caller, most, options), tape.close
