"""What an answer is made of (PLAN, LAUNCH, CODE, HOLES, PREDICTED) and what is wrong with it.

An answer is data from a stranger. Nothing in it is believed or obeyed: the code goes through the
gates, the words are cut to a few short lines before they are shown to anybody again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opwright.backends.cpp.importer_prelude import completed
from opwright.ir.plan import Plan, PlanError, from_json

PARTS = ("PLAN", "LAUNCH", "CODE", "HOLES", "PREDICTED")
MOST_LINES, LONGEST_LINE = 5, 320
MOST_HOLES, MOST_VALUES = 6, 8
TAGS = {
    "cpp": ("cpp", "c++", "cc", "cxx", "c"),
    "triton": ("python", "py", "triton"),
    "jax": ("python", "py", "jax"),
    "cuda": ("cuda", "cu", "cpp", "c++"),
}
SOURCES = {"cpp": "kernel.cpp", "triton": "kernel.py", "jax": "kernel.py", "cuda": "kernel.cu"}
BINS = (0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)  # edges of predicted speed-ups

_HEAD = re.compile(
    rf"^[ \t]*(?:#{{1,6}}[ \t]*|\*\*|\[)?({'|'.join(PARTS)})\b(?:\*\*|\])?[ \t]*:?(?:\*\*)?",
    re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([A-Za-z0-9+#_.-]*)[^\n]*$", re.MULTILINE)
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_VALUE = re.compile(r"[A-Za-z0-9_.+-]{1,32}")


class AnswerError(ValueError):
    """The answer is not of the form that was asked for. kind: truncated | malformed | language |
    refusal; the message tells the author what to change."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the author expects: time of the parent over its own, and how sure it is (0 to 1)."""

    speedup: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer. `launch` and `code` may hold `{{HOLE}}`; the first value is preferred."""

    plan: tuple[str, ...]
    launch: str
    code: str
    holes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    predicted: Prediction | None = None

    @property
    def first(self) -> dict[str, str]:
        return {name: values[0] for name, values in self.holes.items()}


def shortened(text: str, most: int) -> str:
    """A line of at most so many characters, cut between words."""
    if len(text) <= most:
        return text
    kept = text[: most - 4]
    return (kept.rpartition(" ")[0] or kept) + " ..."


def words(text: str, most: int = MOST_LINES) -> tuple[str, ...]:
    """A few short lines of a stranger's text, without marks that structure a prompt."""
    out = []
    for line in text.splitlines():
        plain = re.sub(r"[`~]{2,}|^[\s#>*\-\[\]]+|<[^>]*>", " ", line)
        plain = re.sub(r"[^\x20-\x7e\u00a0-\u024f\u0370-\u03ff\u2190-\u22ff]", " ", plain)
        plain = " ".join(plain.split())
        if plain:
            out.append(shortened(plain, LONGEST_LINE))
    return tuple(out[:most])


def parse(text: str, backend: str, finish: str = "stop") -> Answer:
    """The parts of an answer; AnswerError says what is missing or wrong."""
    if finish == "refusal":
        raise AnswerError("refusal", f"the request was refused: {' '.join(words(text, 2))}")
    cut = finish == "length"
    parts = _parts(text)
    if "CODE" not in parts:
        if cut:
            raise AnswerError("truncated", "the answer was cut off before its CODE: be brief")
        what = "there is no part CODE: answer with PLAN, LAUNCH, CODE, HOLES, PREDICTED"
        raise AnswerError("malformed", what)
    code = _fenced(parts["CODE"], "CODE", TAGS[backend], cut)
    if "LAUNCH" not in parts:
        raise AnswerError("malformed", "there is no part LAUNCH: the launch plan as JSON")
    launch = _fenced(parts["LAUNCH"], "LAUNCH", ("json", "jsonc", ""), cut)
    holes = _holes(parts.get("HOLES", ""))
    for name in holes:
        if "{{" + name + "}}" not in code + launch:
            raise AnswerError("malformed", f"hole {name} occurs in no text as {{{{{name}}}}}")
    predicted = _prediction(parts.get("PREDICTED", ""))
    plan = words(_unfenced(parts.get("PLAN", "")))
    return Answer(plan, launch, code, holes, predicted)


def _parts(text: str) -> dict[str, str]:
    """The texts under the headings, headings inside fences apart; the last of each name
    counts, among those with a fenced block where one has."""
    masked = list(text)
    open_fence: tuple[str, int] | None = None
    for m in _FENCE.finditer(text):
        mark = m.group(1)
        if open_fence is None:
            open_fence = (mark, m.end())
        elif mark[0] == open_fence[0][0] and len(mark) >= len(open_fence[0]) and not m.group(2):
            masked[open_fence[1] : m.start()] = " " * (m.start() - open_fence[1])
            open_fence = None
    if open_fence is not None:
        masked[open_fence[1] :] = " " * (len(text) - open_fence[1])
    plain = "".join(masked)
    heads = list(_HEAD.finditer(plain))
    found: dict[str, str] = {}
    for n, m in enumerate(heads):
        end = heads[n + 1].start() if n + 1 < len(heads) else len(text)
        body = text[m.end() : end]
        held = found.get(m.group(1))
        if held is None or (
            body.strip() and bool(_FENCE.search(body)) >= bool(_FENCE.search(held))
        ):
            found[m.group(1)] = body
    return found


def _fenced(body: str, part: str, tags: Sequence[str], cut: bool) -> str:
    """The first fenced block of a part."""
    fences = list(_FENCE.finditer(body))
    if not fences:
        if part == "LAUNCH" and body.strip().startswith("{"):
            return body.strip()
        raise AnswerError("malformed", f"{part} holds no fenced block")
    first = fences[0]
    tag = first.group(2).lower()
    if tag and tag not in tags:
        wanted = tags[0] or "plain"
        raise AnswerError("language", f"{part} is written in {tag}; {wanted} is asked for")
    ends = (m for m in fences[1:] if m.group(1).startswith(first.group(1)) and not m.group(2))
    end = next(ends, None)
    if end is None:
        kind, why = ("truncated", "was cut off") if cut else ("malformed", "does not end")
        raise AnswerError(kind, f"the block of {part} {why}")
    inside = body[first.end() : end.start()].strip("\n")
    if not inside.strip():
        raise AnswerError("malformed", f"the block of {part} is empty")
    return inside + "\n"


def _unfenced(body: str) -> str:
    return "\n".join(line for line in body.splitlines() if not _FENCE.match(line))


def _holes(body: str) -> dict[str, tuple[str, ...]]:
    text = _unfenced(body).strip()
    if not text or text.lower().rstrip(".") in ("none", "{}", "-", "no", "n/a"):
        return {}
    start = text.find("{")
    if start < 0:
        return {}
    try:
        data, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError) as e:
        raise AnswerError("malformed", f"HOLES is not a JSON object: {e}") from None
    holes: dict[str, tuple[str, ...]] = {}
    for name, values in data.items():
        if not _NAME.fullmatch(name):
            raise AnswerError("malformed", f"hole {name[:40]!r}: a name has capitals, digits and _")
        shown = [_value(v) for v in (values if isinstance(values, list) else [values])]
        if not shown or any(v is None for v in shown):
            raise AnswerError("malformed", f"hole {name}: its values are numbers or short words")
        kept = [v for v in dict.fromkeys(shown) if v is not None]
        holes[name] = tuple(kept[:MOST_VALUES])
    if len(holes) > MOST_HOLES:
        raise AnswerError("malformed", f"{len(holes)} holes; at most {MOST_HOLES}")
    return holes


def _value(v: Any) -> str | None:
    if isinstance(v, bool):
        return "true" if v else "false"
    if not isinstance(v, int | float | str):
        return None
    text = str(v)
    return text if _VALUE.fullmatch(text) else None


def _prediction(body: str) -> Prediction | None:
    """The predicted speed-up, where a number says one; nonsense counts as none."""
    text = _unfenced(body)
    numbers = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(%?)", text)
    values = [float(n) / (100 if unit else 1) for n, unit in numbers]
    if not values or not 0.01 <= values[0] <= 1000:
        return None
    confidence = values[1] if len(values) > 1 and 0 <= values[1] <= 1 else 0.5
    return Prediction(values[0], confidence)


def bin_of(speedup: float) -> int:
    """The bin of a speed-up among BINS."""
    return sum(speedup >= edge for edge in BINS)


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text with its holes filled."""
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def candidate(
    answer: Answer, values: Mapping[str, str], plan: Mapping[str, Any]
) -> tuple[Plan, str]:
    """Plan and source of an answer with its holes filled. `plan` has what the author does not
    choose (op, target, backend, source, types). PlanError where the launch plan is none."""
    try:
        data = json.loads(filled(answer.launch, values))
    except (ValueError, RecursionError) as e:
        raise PlanError(f"LAUNCH is not JSON: {str(e)[:200]}") from None
    if not isinstance(data, dict):
        raise PlanError("LAUNCH must be a JSON object")
    for name in ("op", "target", "backend", "source", "types", "abi", "spec", "origin"):
        data.pop(name, None)
    try:
        found = from_json({**data, "abi": 1, **plan})
    except (TypeError, AttributeError, KeyError, RecursionError) as e:
        raise PlanError(f"LAUNCH does not have the form of a plan: {e}") from None
    code = filled(answer.code, values)
    if found.backend == "cpp":
        name, target = found.op.partition("@")[0], found.target
        code = completed(code, name, target.removeprefix("cpu(").removesuffix(")"))
    return replace(found, origin={}), code


def numbered(text: str, most: int = 8) -> list[tuple[str, ...]]:
    """Plans from a numbered list: each a title line and what follows it."""
    items: list[list[str]] = []
    for line in text.splitlines():
        if re.match(r"^\s*(?:#{1,4}\s*)?(?:\*\*)?(?:PLAN\s*)?\d{1,2}\s*[.):]", line):
            items.append([re.sub(r"^\s*[#*\s]*(?:PLAN\s*)?\d{1,2}\s*[.):]\s*", "", line)])
        elif items and line.strip():
            items[-1].append(line)
    plans = [words("\n".join(i)) for i in items]
    return [p for p in plans if p][:most]


def signature(plan: Sequence[str]) -> frozenset[str]:
    """The telling words of a plan: plans with nearly the same are one."""
    said = re.findall(r"[a-z]{4,}", " ".join(plan).lower())
    return frozenset(w.rstrip("s") for w in said)


def alike(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two plans say the same."""
    return bool(a and b) and len(a & b) / len(a | b) > 0.6
