"""The guided search on a simulated device: phases, repairs, limits, resuming, controls."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest
from support.operators import scaled as scaled_operator
from support.simulated import Simulated, program, spaces

import opwright.search
from opwright.ir.tile import TileProgram
from opwright.search.accounts import Accounts, Caller, Caps
from opwright.search.archive import Archive, Candidate
from opwright.search.artefacts import Keeper, schema
from opwright.search.cassette import Cassette
from opwright.search.drafts import Attempt, Drafts, Node
from opwright.search.events import SearchResult
from opwright.search.exchange import Answer
from opwright.search.experience import Experience, Gain
from opwright.search.guided import UNTIMED, Guided
from opwright.search.llm import LLMError, Request, Response, Scripted
from opwright.search.prompts import Context
from opwright.search.propose import Builtin, View
from opwright.search.results import Emitted, Given, Job
from opwright.search.run import Budget, search
from opwright.search.space import IllegalSchedule, Space
from opwright.search.space import parse as parse_schedule
from opwright.search.telling import launch_delta

FIXED = {"op": "toy@1", "target": "cpu", "backend": "cpp", "source": "kernel.cpp", "types": {}}
TEXT = """PLAN
{plan}
LAUNCH
```json
{{"launches": [{{"kernel": "k", "grid": ["1"], "args": ["y"]}}]}}
```
CODE
```cpp
// time {time} {more}
```
HOLES
{holes}
PREDICTED
1.5, 0.5
"""
PLANS = "\n".join(f"{n}. Plan {w} with {w * 3}\n   it {w}s" for n, w in enumerate(
    ["alpha", "bravo", "carol", "delta", "ember", "frost", "giant", "hotel"], 1))  # fmt: skip


def text(time: float, more: str = "", holes: str = "{}", plan: str = "be quick") -> str:
    return TEXT.format(time=time, more=more, holes=holes, plan=plan)


def judge(a: Answer) -> tuple[TileProgram, Given]:
    """A text says its own time; `refuse` in it is what a gate refuses."""
    if "illegal" in a.source:
        raise IllegalSchedule("the plan does not fit")
    made = program("drawn", 1 + int(a.digest[7:11], 16))
    return made, Given(a.digest, Emitted(a.source, "", a.plan), ())


class Device(Simulated):
    """Times as texts say them; statuses too: `wrong`, `refuted`, ... after the time."""

    def __init__(self, **more: Any) -> None:
        super().__init__(broken=self._status, **more)

    @staticmethod
    def _status(job: Job) -> str | None:
        if job.given is None:
            return None
        words = job.given.emitted.source.split()
        return next((w for w in words if w in UNTIMED), None)

    def _time(self, job: Job, salt: str) -> float:
        if job.given is None:
            return super()._time(job, salt)
        found = re.search(r"time ([\d.]+)", job.given.emitted.source)
        assert found is not None
        return float(found[1]) * 1e-3


class Workshop:
    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def text_of(self, c: Candidate, all_spaces: object) -> tuple[str, str]:
        return "{}", f"// {c.schedule}"

    def look(self, c: Candidate, all_spaces: object) -> tuple[str, str, tuple[str, ...]]:
        return "instructions", "it is slow", ()

    def faults(self, c: Candidate) -> list[str]:
        return []

    def profile(self, c: Candidate) -> None:
        pass


def guided(
    folder: Path,
    client: Any,
    budget: int = 40,
    caps: Caps | None = None,
    tape: Cassette | None = None,
    **more: Any,
) -> Guided:
    accounts = Accounts(caps or Caps(), None)
    note = tape.once if tape is not None else lambda kind, **content: None
    caller = Caller(client, accounts, tape, note, sleep=lambda s: None, in_flight=1)
    context = Context("toy@1", "cpp", "C++", ("cpu",), (), "", "op toy", forms=("map",))
    workshop = Workshop(Keeper(folder / "run", "kernel.cpp"))
    held = {"experience": Experience(), **more}
    return Guided(context, caller, Drafts(FIXED, judge), workshop, Builtin(), budget=budget, **held)


def run(made: Guided, seed: int = 0, archive: Archive | None = None) -> SearchResult:
    everything: list[Space] = [*spaces(), made.drafts]
    budget = Budget(made.budget, None, UNTIMED)
    return search(everything, scaled_operator(), Device(), budget, seed, archive, proposer=made)


def writer(times: Callable[[int], str]) -> Callable[[Request], str]:
    """Answers plans with plans, the n-th request for a kernel with `times(n)`."""
    count = [0]

    def answer(request: Request) -> str:
        if "Nothing has helped" in request.messages[-1].content:
            return "1. Indigo jumps kilometres\n2. Lemon mango nectar"
        if "numbered list" in request.messages[-1].content:
            return PLANS
        count[0] += 1
        return times(count[0] - 1)

    return answer


def test_phases_and_the_winner(tmp_path: Path) -> None:
    client = Scripted(writer(lambda n: text(3 - 0.05 * n, f"v{n}")))
    made = guided(tmp_path, client, 40)
    found = run(made)
    origins = Counter(str(r["origin"]) for r in found.table)
    assert origins["fallback"] == 1 and origins["llm:plan"] == 8
    assert origins["preferred"] >= 2
    assert sum(n for o, n in origins.items() if o.startswith("llm:")) > 20
    measured = [r for r in found.table if r["status"] == "ok"]
    assert len(measured) == 40
    assert found.winner is not None and found.winner.schedule.strategy == "tiled"
    kinds = [n.kind for n in made.drafts.nodes]
    assert kinds[:8] == ["plan"] * 8 and set(kinds[8:]) <= {"move", "paradigm"}
    moved = [(n.move, n.parent) for n in made.drafts.nodes if n.kind == "move"]
    assert len(set(moved)) == len(moved)


def test_what_a_model_finds_wins(tmp_path: Path) -> None:
    made = guided(tmp_path, Scripted(writer(lambda n: text(0.9 - 0.01 * n, f"v{n}"))), 20)
    found = run(made)
    assert found.winner is not None and found.winner.schedule.strategy == "llm"
    assert found.winner.given is not None


@pytest.mark.parametrize("status", ["wrong", "refuted", "unbuilt", "illegal", "crashed"])
def test_a_plan_survives_a_buggy_text(tmp_path: Path, status: str) -> None:
    def kernel(n: int) -> str:
        return text(0.8, status) if n == 0 else text(0.5, f"good{n}")

    made = guided(tmp_path, Scripted(writer(kernel)), 12)
    found = run(made)
    node = made.drafts.nodes[0]
    assert [a.status for a in node.attempts] == [status, "ok"]
    asked = node.attempts[1].request
    assert len(asked.messages) == 3 and "The machine refused this" in asked.messages[-1].content
    assert len([r for r in found.table if r["status"] == "ok"]) == 12
    plan = json.loads((tmp_path / "run/nodes/000/tuning_plan.json").read_text())
    assert plan["plan"] and plan["status"] == "ok" and plan["attempts"] == 2
    assert (tmp_path / "run/nodes/000/kernel_fixed.cpp").exists()


def test_the_same_error_twice_ends_an_idea(tmp_path: Path) -> None:
    made = guided(tmp_path, Scripted(writer(lambda n: text(0.5, f"wrong v{n}"))), 8)
    found = run(made)
    closed = [n for n in made.drafts.nodes if n.closed]
    assert len(closed) >= 16 and all(len(n.attempts) == 2 for n in closed if n.attempts)
    # a model that never writes anything right is not asked for ever
    assert "requests for 5 measured" in made.caller.stopped
    assert found.winner is not None and found.winner.given is None


def test_garbage_ends_the_asking_not_the_search(tmp_path: Path) -> None:
    client = Scripted(lambda r: "I think you should use vectors. PROVED.")
    made = guided(tmp_path, client, 16)
    found = run(made)
    assert "could not be read" in made.caller.stopped
    assert len(client.asked) < 20
    assert len([r for r in found.table if r["status"] == "ok"]) == 16
    assert found.winner is not None


def test_limits_end_the_asking_not_the_search(tmp_path: Path) -> None:
    caps = Caps(tokens=12_000)
    made = guided(tmp_path, Scripted(writer(lambda n: text(2, f"v{n}"))), 30, caps)
    found = run(made)
    assert made.caller.stopped and made.caller.accounts.usage.total <= 12_000
    assert len([r for r in found.table if r["status"] == "ok"]) == 30


def test_a_launch_plan_that_is_none_is_told(tmp_path: Path) -> None:
    bad = text(0.5).replace('{"launches"', "no JSON")

    def answer(request: Request) -> str:
        return text(0.1, f"v{len(request.messages)}") if len(request.messages) > 1 else bad

    client = Scripted(lambda r: PLANS if "numbered list" in r.messages[-1].content else answer(r))
    made = guided(tmp_path, client, 6)
    found = run(made)
    assert found.winner is not None and found.winner.given is not None
    assert any("LAUNCH is not JSON" in m.messages[-1].content for m in client.asked)


def test_a_refusal_is_not_argued_with(tmp_path: Path) -> None:
    def answer(request: Request) -> str | Response:
        return Response("I will not.", "refusal")

    made = guided(tmp_path, Scripted(answer), 8)
    run(made)
    assert made.drafts.nodes and all(len(n.attempts) == 1 for n in made.drafts.nodes)


def test_equal_programs_are_not_evaluated_twice(tmp_path: Path) -> None:
    made = guided(tmp_path, Scripted(writer(lambda n: text(0.7, "the same"))), 10)
    found = run(made)
    llm = [r for r in found.table if str(r["schedule"]).startswith("llm(")]
    assert [r["status"] for r in llm].count("ok") == 1
    assert {r["status"] for r in llm[1:]} <= {"duplicate", "illegal"}
    assert len(llm) < 20 and "nothing new" in made.caller.stopped
    assert all(len(n.attempts) == 1 for n in made.drafts.nodes)


def test_holes_are_tuned_without_the_model(tmp_path: Path) -> None:
    def kernel(n: int) -> str:
        return text(0.4, f"block {{{{BLOCK}}}} v{n}", '{"BLOCK": [1, 2, 4]}')

    made = guided(tmp_path, Scripted(writer(kernel)), 20)
    found = run(made)
    tuned = [r for r in found.table if r["origin"] == "llm:tune"]
    assert tuned and all("BLOCK=2" in str(r["schedule"]) for r in tuned[:1])
    variants = list((tmp_path / "run").rglob("candidate_variants/*.json"))
    assert len(variants) > len(tuned)


def test_best_of_n_asks_one_question(tmp_path: Path) -> None:
    client = Scripted(writer(lambda n: text(1.5, f"v{n}")))
    made = guided(tmp_path, client, 20, control=True)
    found = run(made)
    prompts = {r.messages[0].content for r in client.asked if len(r.messages) == 1}
    assert len(prompts) == 1 and "PARENT" not in prompts.pop()
    assert len([r for r in found.table if r["status"] == "ok"]) == 20
    assert all(n.kind == "sample" for n in made.drafts.nodes)


def test_stagnation_asks_for_paradigms_then_turns_elsewhere(tmp_path: Path) -> None:
    client = Scripted(writer(lambda n: text(2.0, f"v{n}")))
    made = guided(tmp_path, client, 70)
    run(made)
    asked = [r for r in client.asked if "Nothing has helped" in r.messages[-1].content]
    assert len(asked) == 1
    assert [n.kind for n in made.drafts.nodes].count("paradigm") == 2


def test_a_search_stops_where_nothing_is_left_to_gain(tmp_path: Path) -> None:
    made = guided(tmp_path, Scripted(writer(lambda n: text(0.2, f"v{n}"))), 40)
    object.__setattr__(made.context, "floors", {"w": 1.95e-4})
    found = run(made)
    assert "within 5%" in made.finished
    assert len([r for r in found.table if r["status"] == "ok"]) < 20


def test_experience_of_one_operator_helps_the_next(tmp_path: Path) -> None:
    best = "tiled(width=64, depth=4, order=b)"
    known = Experience(None, [Gain(("map",), "", "", "", "cpp", "other@1", 0.5, schedule=best)])

    def reached(experience: Experience) -> int:
        made = guided(tmp_path, Scripted(writer(lambda n: text(5, f"v{n}"))), 40,
                      experience=experience)  # fmt: skip
        found = run(made)
        ok = [r for r in found.table if r["status"] == "ok"]
        return next((n for n, r in enumerate(ok) if str(r["schedule"]) == best), 40)

    alone, helped = reached(Experience()), reached(known)
    assert helped <= 0.7 * alone


def test_a_lucky_outlier_does_not_win(tmp_path: Path) -> None:
    made = guided(tmp_path, Scripted(writer(lambda n: text(0.9 if n else 1.3, f"v{n}"))), 12)
    everything: list[Space] = [*spaces(), made.drafts]
    lucky = Device(lucky=lambda j: j.given is not None and "1.3 v0" in j.given.emitted.source)
    found = search(everything, scaled_operator(), lucky, Budget(12, None, UNTIMED), proposer=made)
    assert found.winner is not None and found.winner.given is not None
    assert "1.3 v0" not in found.winner.given.emitted.source


# -- resuming -------------------------------------------------------------------------------------


def table(found: SearchResult) -> list[tuple[object, ...]]:
    return [(r["number"], r["schedule"], r["status"], r["score"]) for r in found.table]


def keyed(request: Request) -> str:
    """An answer that depends on the request alone, as a server's may."""
    if "numbered list" in request.messages[-1].content:
        return PLANS
    rng = Random(request.key)
    word = rng.choice(["", "", "", "wrong", "illegal", "refuted"])
    return text(round(0.5 + 2 * rng.random(), 3), f"{word} v{rng.random()}")


def once(folder: Path, client: Any, budget: int = 30) -> tuple[SearchResult, Guided]:
    path = folder / "ledger.jsonl"
    with Cassette(path, "record", client) as tape, Archive(folder / "a.sqlite") as archive:
        made = guided(folder, client, budget, tape=tape)
        return run(made, 1, archive), made


@pytest.mark.parametrize("at", [1, 2, 5, 9, 17])
def test_a_run_that_ends_anywhere_goes_on_to_the_same_end(tmp_path: Path, at: int) -> None:
    whole, before = once(tmp_path / "whole", Scripted(keyed))

    class Mortal(Scripted):
        def complete(self, request: Request) -> Response:
            if len(self.asked) >= at:
                os._exit(9)
            return super().complete(request)

    child = os.fork()
    if child == 0:
        once(tmp_path / "killed", Mortal(keyed))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    client = Scripted(keyed)
    again, after = once(tmp_path / "killed", client)
    assert table(again) == table(whole)
    assert after.caller.accounts.usage == before.caller.accounts.usage
    assert len(client.asked) == before.caller.accounts.requests - at


def test_a_ledger_replays_bit_by_bit(tmp_path: Path) -> None:
    whole, before = once(tmp_path, Scripted(keyed))
    tape = Cassette(tmp_path / "ledger.jsonl", "strict")
    made = guided(tmp_path, tape, 30, tape=tape)
    assert table(run(made, 1)) == table(whole)
    assert tape.drifts == [] and tape.hits == before.caller.accounts.requests
    notes = [e["kind"] for e in tape.lines]
    assert notes.count("verdict") == sum(str(r["schedule"]).startswith("llm(") for r in whole.table)


def test_a_replay_with_other_prompts_says_so(tmp_path: Path) -> None:
    once(tmp_path, Scripted(keyed))
    tape = Cassette(tmp_path / "ledger.jsonl", "replay")
    made = guided(tmp_path, tape, 30, tape=tape)
    object.__setattr__(made.context, "spec", "op toy changed")
    found = run(made, 1)
    assert found.winner is not None and tape.drifts
    assert "+op toy changed" in tape.drifts[0].diff


def test_nobody_answers_yet(tmp_path: Path) -> None:
    from opwright.search.accounts import Unanswered

    made = guided(tmp_path, Scripted([LLMError("waiting", "no answer to x", final=True)]), 12)
    with pytest.raises(Unanswered, match="no answer to x"):
        run(made)


# -- artefacts ------------------------------------------------------------------------------------


def test_artefacts_are_what_their_schemas_say(tmp_path: Path) -> None:
    made = guided(tmp_path, Scripted(keyed), 20)
    found = run(made)
    made.workshop.keeper.finish(found, made.caller.accounts.to_json())
    folder = Path(opwright.search.__file__).parent
    held = json.loads((folder / "artefacts.schema.json").read_text())
    assert held == json.loads(json.dumps(schema()))
    plans = list((tmp_path / "run").rglob("tuning_plan.json"))
    assert len(plans) == len(made.drafts.nodes)
    for path in plans:
        jsonschema.validate(json.loads(path.read_text()), held["tuning_plan.json"])
    for name in ("front.json", "accounts.json"):
        jsonschema.validate(json.loads((tmp_path / "run" / name).read_text()), held[name])
    variants = list((tmp_path / "run").rglob("candidate_variants/*.json"))
    for path in variants:
        jsonschema.validate(json.loads(path.read_text()), held["candidate_variants"])
    rows = (tmp_path / "run/bench_results.csv").read_text().splitlines()
    assert rows[0].startswith("candidate,schedule,status,score,workload,latency")
    assert len(rows) == len(found.table) + 1
    shown = json.loads((tmp_path / "run/front.json").read_text())
    assert shown and {"candidate", "memory"} <= set(shown[0])


# -- what is told ---------------------------------------------------------------------------------


def test_prompts_tell_of_other_values_and_other_parents(tmp_path: Path) -> None:
    def kernel(n: int) -> str:
        return text(0.9 - 0.01 * n, f"block {{{{BLOCK}}}} v{n}", '{"BLOCK": [1, 2]}')

    client = Scripted(writer(kernel))
    made = guided(tmp_path, client, 40)
    run(made)
    asked = [r.messages[0].content for r in client.asked if "## MOVE" in r.messages[0].content]
    others = [p for p in asked if "## TRIED FROM OTHER PARENTS" in p]
    assert others and "times as fast as its parent" in others[-1]
    variants = [c for c in made._by_number.values() if "dealt=" in c.schedule]
    assert not variants, "one program is not dealt to threads"
    c = next(c for c in made._by_number.values() if c.origin == "llm:tune" and c.ok)
    view = View([*spaces(), made.drafts], list(made._by_number.values()), dict.fromkeys(
        [n for n, x in made._by_number.items() if x.ok], 1.0))  # fmt: skip
    told = made.teller.parent(c.number, view).tuned
    assert told and "BLOCK: 2 -> 1: 1.00 times its time" in told


def test_the_other_way_to_deal_programs_is_a_neighbour(tmp_path: Path) -> None:
    grid = text(0.5, "v").replace('"grid": ["1"]', '"grid": ["N", "1"]')
    made = guided(tmp_path, Scripted(writer(lambda n: grid.replace("v", f"v{n}"))), 40)
    run(made)
    dealt = [c for c in made._by_number.values() if "dealt=dynamic" in c.schedule]
    assert dealt and all(c.origin == "llm:tune" for c in dealt)
    plan, _ = made.drafts.text_of(parse_schedule(dealt[0].schedule))
    assert [x.schedule for x in plan.launches] == ["dynamic"]
    assert made.drafts.neighbours(parse_schedule(dealt[0].schedule)) == []


def test_a_gain_that_is_not_the_move_s_alone_is_not_learned(tmp_path: Path) -> None:
    def kernel(n: int) -> str:
        made = text(0.9 - 0.01 * n, f"v{n}")
        return made.replace('["y"]', '["y"], "schedule": "dynamic"') if n % 2 else made

    class Plans(Workshop):
        def text_of(self, c: Candidate, all_spaces: object) -> tuple[str, str]:
            if not c.schedule.startswith("llm("):
                return "{}", ""
            plan, source = made.drafts.text_of(parse_schedule(c.schedule))
            return json.dumps(plan.to_json()), source

    client = Scripted(writer(kernel))
    with Cassette(tmp_path / "ledger.jsonl", "record", client) as tape:
        made = guided(tmp_path, client, 40, tape=tape)
        made.workshop = Plans(made.workshop.keeper)
        run(made)
    lines = map(json.loads, (tmp_path / "ledger.jsonl").read_text().splitlines())
    verdicts = [e for e in lines if e["kind"] == "verdict" and e["gain"] is not None]
    assert {v["mixed"] for v in verdicts} == {True, False}
    ideas = [n for n in made.drafts.nodes if n.move and n.attempts and n.attempts[0].status == "ok"]
    mixed = [v for v in verdicts if v["mixed"] and made.drafts.nodes[v["node"]].move]
    learned = sum(len(v) for v in made.bandit.own.values())
    assert mixed and learned == len(ideas) - len(mixed)


def test_launches_are_compared_in_words() -> None:
    old = {"facts": ["a"], "launches": [{"grid": ["B"]}]}
    new = {"facts": ["b"], "launches": [{"grid": ["N"], "schedule": "dynamic"}, {}]}
    said = launch_delta(old, new)
    assert said.startswith("static -> dynamic/static; 2 launches for 1; grid [B] -> [N]")
    assert "+b, -a" in said and launch_delta(old, old) == ""


def test_what_no_run_confirmed_is_no_advice(tmp_path: Path) -> None:
    made = guided(tmp_path, Scripted([]), 4)
    why = "safety is UNKNOWN: kernel.cpp:7: a counterexample at N = 3, M = 0 could not be replayed"
    request = Request("", (), logical="x")
    attempt = Attempt(0, request, "", status="unproved", reason=why)
    said = made.teller._line(Node(0, "plan", plan=("p",)), attempt, None)
    assert said is not None and "N = 3" not in said[1] and "nothing was seen to fail" in said[1]
