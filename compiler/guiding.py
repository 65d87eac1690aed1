"""The guided search of one operator: what a model is told of it, which client answers, where the
ledger lies, and what is said of it at the end.

`search/guided.py` owns the algorithm; here are the operator's texts, its machine and the gates.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from opwright.backends.cpp.importer_prelude import without_vocabulary
from opwright.backends.cpp.inspection import Report, report
from opwright.backends.cpp.policy import breaches
from opwright.compiler.backend import CompileError, Effort
from opwright.compiler.exchanging import Medium, Waiting, fixed_of, judge, level_of, medium_of
from opwright.compiler.forms import forms_of
from opwright.compiler.limiting import Limits, described
from opwright.compiler.paths import cache_folder
from opwright.compiler.profiling import profile
from opwright.ir.op import Operator
from opwright.search import clients
from opwright.search.accounts import Accounts, Caller, Caps, Exhausted, estimate, price_of
from opwright.search.answers import SOURCES, shortened
from opwright.search.archive import Candidate as Tried
from opwright.search.artefacts import Keeper
from opwright.search.cassette import Cassette, CassetteError
from opwright.search.dialogue import Dialogue
from opwright.search.drafts import NAME, Drafts, remembered
from opwright.search.events import SearchResult
from opwright.search.experience import Experience, Gain
from opwright.search.guided import UNTIMED, Guided
from opwright.search.llm import LLMClient, LLMError, count_tokens
from opwright.search.prompts import BUDGET, Context, kernel, system
from opwright.search.propose import Builtin
from opwright.search.ranker import Calibration, Ranked
from opwright.search.run import Budget
from opwright.search.space import IllegalSchedule, Space, parse, space_of

PROVIDERS = ("openai", "anthropic", "dialogue", "replay")
SCALAR = 3  # loops that stay scalar, in one prompt
_MACHINE = ("abi", "op", "spec", "target", "backend", "source", "types", "origin")


@dataclass(frozen=True, slots=True)
class Guide:
    """Who guides a search, and what it may cost. `folder` is a dialogue's; `client` stands for the
    provider in tests and programs; `control` asks for independent samples alone."""

    provider: str
    model: str = ""
    base_url: str = ""
    effort: str = ""
    caps: Caps = field(default_factory=Caps)
    cassette: Path | None = None
    folder: Path | None = None
    wait: float = 0.0
    strict: bool = False
    control: bool = False
    client: LLMClient | None = None
    in_flight: int = 4

    def to_json(self) -> dict[str, Any]:
        """All but the client, so that the same command can be given again."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "client"}
        held["caps"] = asdict(self.caps)
        paths = {k: str(v.absolute()) for k, v in held.items() if isinstance(v, Path)}
        return {**held, **paths}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Guide:
        """The guide that a ledger holds; TypeError for one that this version does not know."""
        held = dict(data)
        for name in ("cassette", "folder"):
            held[name] = Path(held[name]) if held.get(name) else None
        return Guide(**{**held, "caps": Caps(**held["caps"])})


@dataclass(slots=True)
class Workshop:
    """What is known of candidates: texts, bottlenecks, artefacts."""

    op: Operator
    medium: Medium
    drafts: Drafts
    limits: Limits
    keeper: Keeper
    _looked: dict[int, tuple[str, str, tuple[str, ...]]] = field(default_factory=dict)
    _reports: dict[str, Report | None] = field(default_factory=dict)

    def text_of(self, c: Tried, spaces: Sequence[Space]) -> tuple[str, str]:
        schedule = parse(c.schedule)
        space = space_of(spaces, schedule)
        if isinstance(space, Drafts):
            plan, source = space.text_of(schedule)
        else:
            own = self.medium.own(space.instantiate(schedule))
            plan, source = own.plan, own.source
        if self.medium.backend == "cpp":  # the machine puts the vocabulary before it again
            source = without_vocabulary(source, level_of(self.medium.targets))
        return launch_text(plan.to_json()), source

    def look(self, c: Tried, spaces: Sequence[Space]) -> tuple[str, str, tuple[str, ...]]:
        if c.number not in self._looked:
            build = dict(c.build)
            if self.medium.backend == "cpp" and "loops" not in build:
                build |= self._built(c, spaces)
            lines = described(build)
            found = self._report(c)
            if found is not None:
                source = self.drafts.text_of(parse(c.schedule))[1]
                lines += [_quoting(line, source) for line in found.scalar[:SCALAR]]
            label, why = self.limits.diagnose(replace(c, build=build))
            self._looked[c.number] = label, why, tuple(lines)
        return self._looked[c.number]

    def _built(self, c: Tried, spaces: Sequence[Space]) -> Mapping[str, Any]:
        """What is built of a candidate that the archive does not describe."""
        schedule = parse(c.schedule)
        space = space_of(spaces, schedule)
        if isinstance(space, Drafts):
            return self.medium.look(self.medium.emit(*space.text_of(schedule)))
        own = self.medium.own(space.instantiate(schedule))
        return self.medium.look(self.medium.emit(own.plan, own.source))

    def _report(self, c: Tried) -> Report | None:
        """What the compiler says of the loops of a text that an author wrote."""
        if self.medium.backend != "cpp" or not c.schedule.startswith(f"{NAME}("):
            return None
        if c.schedule not in self._reports:
            source = self.drafts.text_of(parse(c.schedule))[1]
            self._reports[c.schedule] = report(source, level_of(self.medium.targets))
        return self._reports[c.schedule]

    def faults(self, c: Tried) -> list[str]:
        if self.medium.backend != "cpp" or not c.schedule.startswith(f"{NAME}("):
            return []
        try:
            source = self.drafts.text_of(parse(c.schedule))[1]
        except IllegalSchedule:  # its launch plan is none, which is what it is told
            return []
        return [f"{SOURCES['cpp']}:{line}: {what}" for line, what in breaches(source)]

    def profile(self, c: Tried) -> None:
        modelled = self.medium.backend in ("triton", "cuda")
        self.keeper.profile(profile(c, self.limits, modelled, self._report(c)))


def _quoting(line: str, source: str) -> str:
    """A compiler's note with the line of the text that it means in place of its number."""
    m = re.match(r"line (\d+): (.*)", line)
    text = source.splitlines()
    if m is None or not 0 < int(m[1]) <= len(text):
        return line
    return f"`{shortened(text[int(m[1]) - 1].strip(), 80)}` stays scalar: {m[2]}"


def launch_text(plan: dict[str, Any]) -> str:
    """A launch plan without what the machine fills in."""
    return json.dumps({k: v for k, v in plan.items() if k not in _MACHINE}, indent=1)


@dataclass(slots=True, eq=False)
class Guiding:
    """One operator's guided search, from the first request to the accounts."""

    proposer: Guided
    tape: Cassette
    accounts: Accounts
    folder: Path
    estimate: tuple[str, ...]
    backend: str
    experience: Experience

    @staticmethod
    def open(
        guide: Guide,
        op: Operator,
        text: str,
        backend: str,
        targets: tuple[str, ...],
        evaluations: int,
        seed: int,
    ) -> Guiding:
        """Everything ready to ask; CompileError where it cannot begin."""
        try:
            return _open(guide, op, text, backend, targets, evaluations, seed)
        except (LLMError, Exhausted) as e:
            raise CompileError(str(e), "see `opwright compile --help` and docs/search.md") from None
        except CassetteError as e:
            raise CompileError(str(e), "name another file with --cassette") from None

    def effort(self, effort: Effort) -> Effort:
        """An effort with this proposer, which counts what was measured alone."""
        budget = Budget(effort.budget.evaluations, effort.budget.seconds, UNTIMED)
        return replace(
            effort,
            budget=budget,
            proposer=self.proposer,
            more=(*effort.more, self.proposer.drafts),
            searched=self.searched,
        )

    def searched(self, result: SearchResult) -> None:
        """Remember what won; write the accounts."""
        best = result.winner
        base = result.baseline
        p = self.proposer
        if best is not None and base is not None and best is not base:
            schedule = "" if best.schedule.strategy == NAME else best.schedule.text
            if schedule:
                p.record(
                    Gain(p.context.forms, "", "", p.device, self.backend, p.context.operator,
                         round(base.score - best.score, 4), "ok", (), schedule, p.run)
                )  # fmt: skip
        p.workshop.keeper.finish(result, self.accounts.to_json())
        number = best.candidate.number if best is not None else None
        p.caller.note("result", winner=number, accounts=self.accounts.to_json())

    def close(self) -> None:
        self.tape.close()

    def notes(self) -> list[str]:
        """What the page says of the model's part."""
        p = self.proposer
        found = [f"model: {line}" for line in self.accounts.summary()]
        found.append(f"ledger, artefacts: {self.tape.path}, {self.folder}")
        found += p.calibration.table()
        if p.caller.stopped:
            found.append(f"the model was not asked any more: {p.caller.stopped}")
        if p.finished:
            found.append(f"ended early: {p.finished}")
        if self.tape.drifts:
            found.append(f"{len(self.tape.drifts)} prompts are not as recorded; the first differs:")
            found += self.tape.drifts[0].diff.splitlines()[:12]
        return found


def unanswered(error: Exception, guide: Guide) -> Waiting:
    """What is said when prompts lie in a folder and nobody has answered yet."""
    where = guide.folder / "requests" if guide.folder is not None else ""
    return Waiting(
        f"{error}", f"write answers to the files in {where} into answers/ and run this again"
    )


def _open(
    guide: Guide,
    op: Operator,
    text: str,
    backend: str,
    targets: tuple[str, ...],
    evaluations: int,
    seed: int,
) -> Guiding:
    medium = medium_of(backend, targets, op)
    model, effort, prices, client = client_of(guide)
    parts = [op.digest, sorted(op.types.items()), backend, targets, guide.provider, model, effort]
    key = hashlib.sha256(repr([*parts, evaluations, seed, guide.control]).encode()).hexdigest()
    folder = cache_folder() / "runs" / f"{op.name}-{key[:12]}"
    path = guide.cassette or folder / "ledger.jsonl"
    origin = {
        "client": client.name if client is not None else "",
        "model": model,
        "operator": f"{op.name}@{op.version}",
        "types": dict(op.types),
        "spec": op.digest,
        "backend": backend,
        "targets": list(targets),
        "evaluations": evaluations,
        "seed": seed,
    }
    if client is None:
        tape = Cassette(path, "strict" if guide.strict else "replay")
        model, client = tape.model, tape
    else:
        tape = Cassette(path, "record", client, origin)
        if tape.origin.get("spec") != op.digest or tape.model != model:
            tape.close()
            raise CassetteError(f"{path} is the ledger of another spec or model")
    price = price_of(model, prices.prices if prices is not None else None)
    accounts = Accounts(guide.caps, price)
    caller = Caller(
        client,
        accounts,
        tape,
        tape.once,
        timeout=prices.timeout if prices is not None else max(600.0, guide.wait + 60),
        in_flight=guide.in_flight,
    )
    context = context_of(op, text, medium, backend, targets)
    keeper = Keeper(folder, SOURCES[backend])
    fixed = fixed_of(op, backend, targets)
    before = remembered(tape) if tape.mode == "record" else {}
    drafts = Drafts(fixed, lambda a: judge(a, op, medium), keys=before, note=tape.once)
    limits = limits_of(op, backend, targets)
    known = learned()
    run = key[:12]
    before_now = _before(tape, known, run)
    calibration = Calibration()
    proposer = Guided(
        context,
        caller,
        drafts,
        Workshop(op, medium, drafts, limits, keeper),
        Ranked(Builtin(), calibration, seed),
        before_now,
        evaluations,
        model=model,
        effort=effort,
        max_tokens=prices.max_tokens if prices is not None else 16384,
        temperature=prices.temperature if prices is not None else None,
        device=limits.machine.name,
        run=run,
        control=guide.control,
        ident=hashlib.sha256(repr((key, str(path))).encode()).hexdigest()[:8],
        record=known.add,
        calibration=calibration,
    )
    size = count_tokens(system(context)) + min(BUDGET, count_tokens(kernel(context, None)) * 2)
    told = estimate(evaluations, size, proposer.max_tokens, price, guide.caps)
    return Guiding(proposer, tape, accounts, folder, tuple(told), backend, known)


def _before(tape: Cassette, known: Experience, run: str) -> Experience:
    """What was known when this run began: as its ledger has it, else what is known now."""
    held = next(iter(tape.entries("experience")), None)
    if held is not None:
        from opwright.search.experience import gain_from

        return Experience(None, [gain_from(r) for r in held["rows"]])
    before = known.without(run)
    tape.note("experience", rows=before.to_json())
    return before


def client_of(guide: Guide) -> tuple[str, str, clients.Settings | None, LLMClient | None]:
    """(model, effort, settings, client); no client for a replay."""
    if guide.client is not None:
        return guide.model or guide.client.name, guide.effort, None, guide.client
    if guide.provider == "dialogue":
        if guide.folder is None:
            raise LLMError("missing", "a dialogue needs its folder: --exchange DIR")
        return guide.model, guide.effort, None, Dialogue(guide.folder, guide.model, guide.wait)
    if guide.provider == "replay":
        if guide.cassette is None:
            raise LLMError("missing", "a replay needs its cassette: --cassette FILE")
        return "", guide.effort, None, None
    chosen = clients.settings(guide.provider, guide.model, guide.base_url, guide.effort)
    return chosen.model, chosen.effort, chosen, clients.connect(chosen)


def learned() -> Experience:
    """What all searches on this machine have measured."""
    return Experience.load(cache_folder() / "experience.jsonl")


@cache
def limits_of(op: Operator, backend: str, targets: tuple[str, ...]) -> Limits:
    """What limits candidates of an operator on the machine of a backend."""
    return Limits.of(op, backend, targets)


def context_of(
    op: Operator, text: str, medium: Medium, backend: str, targets: tuple[str, ...]
) -> Context:
    """What all prompts about an operator say."""
    limits = limits_of(op, backend, targets)
    language = medium.language
    return Context(
        f"{op.name}@{op.version}",
        backend,
        language.title,
        targets,
        language.contract,
        language.words,
        text,
        dict(op.types),
        limits.machine.rows,
        tuple((x.name, x.text) for x in limits.loads),
        limits.floors,
        forms_of(op),
        EXAMPLES[backend],
        language.timed,
        accuracy_of(op, backend),
        LAUNCHING.get(backend, ""),
        unit_of(op),
    )


def unit_of(op: Operator) -> str:
    """What a score is in units of."""
    terms = [(m, w) for m, w in op.objective.terms if w > 0]
    if not terms or [m for m, _ in terms] == ["latency"]:
        return "of the first candidate's time"
    said = " + ".join(f"{w:g} {m}" for m, w in terms)
    return f"of the first candidate's objective ({said}), not of its time"


def accuracy_of(op: Operator, backend: str) -> tuple[str, ...]:
    """What results are held to, as the tests apply it."""
    written = {t: n for t, n in op.tolerance.items() if any(o.dtype.name == t for o in op.outputs)}
    lines = [
        "An element passes where |found - exact| is within every one of these limits; exact is the "
        "operator in float64 on the same inputs."
    ]
    for name, numbers in written.items():
        terms = {
            "abs": "{:g}", "rel": "{:g} |exact|", "ulp": "{:g} units in the last place of exact",
        }  # fmt: skip
        said = " + ".join(terms[k].format(v) for k, v in numbers.items() if k in terms)
        lines.append(f"As written in the spec for {name}: {said} (a sum, not the larger one).")
    lines.append(
        "Derived from the spec: what its operations lose when each is rounded once, in the "
        "precision that the spec has, at this element's inputs, in any order of summation. It "
        "grows with the number of terms, so that small sizes, which are tested too, leave little: "
        "a few units in the last place. Functions may be off by a few units in the last place as "
        "well; cheaper ones, with a relative error of 1e-6, fail on rows of two or three elements."
    )
    lines.append(
        "Typical errors, root mean square over a test, have to stay below a statistical limit "
        "(roundings as if independent, by their square root)."
    )
    return tuple(lines) if backend in ("cpp", "jax") else tuple(lines[:-1])


EXAMPLES = {
    "cpp": '{"facts": ["stride(x, 1) == 1", "stride(y, 0) == N", "stride(y, 1) == 1", '
    '"aligned(y, 64)", "N % 16 == 0"],\n'
    ' "scratch": {"part": {"dtype": "f32", "shape": ["B", "cdiv(N, 4096)"], "scope": "plan"}},\n'
    ' "launches": [{"kernel": "parts", "grid": ["B", "cdiv(N, 4096)"], '
    '"args": ["x", "part", "N", "stride(x, 0)"], "schedule": "dynamic"},\n'
    '  {"kernel": "rows", "grid": ["cdiv(B, {{ROWS}})"], '
    '"args": ["x", "part", "y", "B", "N", "stride(x, 0)"]}]}',
    "triton": '{"facts": ["stride(x, 1) == 1", "N <= 131072"],\n'
    ' "launches": [{"kernel": "rows", "grid": ["B"], '
    '"args": ["x", "y", "i32(N)", "stride(x, 0)"],\n'
    '  "const": {"BLOCK": {{BLOCK}}}, "num_warps": 4, "num_stages": 2}]}',
    "cuda": '{"facts": ["stride(x, 1) == 1"],\n'
    ' "launches": [{"kernel": "rows", "grid": ["B"], "block": [256], '
    '"args": ["x", "y", "N", "stride(x, 0)"]}]}',
    "jax": '{"launches": [{"kernel": "rows", "args": ["x"]}]}',
}
LAUNCHING = {
    "cpp": "Take what is needed alone: no fact that nothing stands on, no scratch where none is. "
    "scope program: the array belongs to one program at a time. schedule: how programs are dealt "
    "to threads, static (default) or dynamic. Arguments reach the kernel in this order, then pid0, "
    "pid1, pid2.",
}
