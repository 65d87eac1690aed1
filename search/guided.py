"""The search that a language model guides: it proposes structure, machines choose what to try, tune
numbers and judge.

Phases by the share of measured candidates: a seed without a model, breadth (distinct plans, one
kernel each), exploitation (a parent by its rank, one move by what moves gained), tuning of holes.
Which move is tried is a bandit's choice, not the model's. Everything depends on the seed, earlier
results and recorded answers alone, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from opwright.search import prompts
from opwright.search.accounts import Caller, Reply
from opwright.search.answers import AnswerError, alike, numbered, parse, signature
from opwright.search.archive import Candidate
from opwright.search.drafts import ATTEMPTS, NAME, Attempt, Drafts, Node
from opwright.search.experience import Bandit, Experience, Gain
from opwright.search.llm import Request
from opwright.search.moves import Move, fitting
from opwright.search.prompts import Context
from opwright.search.propose import Proposal, Proposer, View
from opwright.search.ranker import Calibration
from opwright.search.ranking import FREE
from opwright.search.space import IllegalSchedule, Space, space_of
from opwright.search.space import parse as parse_schedule
from opwright.search.telling import Teller, Workshop, dealt, drafted, short

# a candidate with one of these was never timed, and does not count against the budget
UNTIMED = (*FREE, "refuted", "unproved", "unbuilt", "wrong", "crashed", "timeout")
PLANS = 8  # asked for in one call
IMPROVEMENT = 0.02  # less is stagnation
AT_FLOOR = 1.05  # of what is possible: nothing is left to gain
PARADIGMS = 3
ABOUT_LAUNCHES = ("grid-shape", "own-idea")  # moves that may change how programs are dealt
GIVEN_UP = 5  # windows of stagnation after which the model is not asked any more
FRUITLESS = 2  # ideas by one move without a gain, after which the others come first
MOST_ASKED, MORE_ASKED = 4, 60  # requests for a candidate to be measured, and in all beside them
UNREAD = 12  # answers in a row of which nothing could be read, after which it is not either
PAGES = 20  # requests in one call of `propose`, at most


@dataclass(frozen=True, slots=True)
class Shares:
    """Ends of the phases as shares of the measured budget."""

    seed: float = 0.08
    breadth: float = 0.28
    exploit: float = 0.85


@dataclass(slots=True)
class Guided:
    """The proposer. `control` asks for independent samples instead: best of N at equal budget."""

    context: Context
    caller: Caller
    drafts: Drafts
    workshop: Workshop
    inner: Proposer
    experience: Experience
    budget: int
    model: str = ""
    effort: str = ""
    max_tokens: int = 16384
    temperature: float | None = None
    device: str = ""
    run: str = ""
    control: bool = False
    ident: str = ""
    shares: Shares = field(default_factory=Shares)
    known: tuple[Move, ...] = ()
    record: Callable[[Gain], None] = lambda gain: None
    calibration: Calibration = field(default_factory=Calibration)
    finished: str = ""  # why nothing more is proposed
    _bandit: Bandit | None = None
    _spaces: Sequence[Space] = ()
    _unread: int = 0
    _stale: int = 0
    _seen: int = 0
    _by_number: dict[int, Candidate] = field(default_factory=dict)
    _plans: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # (kind, plan)
    _signatures: list[frozenset[str]] = field(default_factory=list)
    _asked_plans: bool = False
    _blocked: dict[tuple[str, int | None], str] = field(default_factory=dict)
    _best: float = math.inf
    _best_at: int = 0
    _stuck: int = 0
    _boost: float = 0.0
    _guides: int = 0
    _restart: int | None = None
    _teller: Teller | None = None

    def attach(self, log: Callable[..., None]) -> None:
        """Take what requests and answers are written into the ledger with."""
        self.caller.log = log

    @property
    def name(self) -> str:
        kind = "best-of-n" if self.control else "guided"
        return f"{kind}({self.caller.client.name}, {self.budget}, {self.ident})"

    @property
    def bandit(self) -> Bandit:
        if self._bandit is None:
            self._bandit = Bandit(
                self.experience, self.context.forms, self.device, self.context.backend
            )
        return self._bandit

    @property
    def teller(self) -> Teller:
        if self._teller is None:
            self._teller = Teller(
                self.context, self.drafts, self.workshop, self.experience, self.device,
                self._by_number, self._blocked,
            )  # fmt: skip
        return self._teller

    # -- the protocol ------------------------------------------------------------------------

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        self._spaces = view.spaces
        self._observe(view)
        used = sum(c.status not in UNTIMED for c in view.candidates)
        count = min(count, max(1, self.budget - used))
        seeded = max(2, round(self.shares.seed * self.budget))
        if used < seeded and not self._waiting():
            found = self._seeds(view, min(count, seeded - used), rng)
            if found:
                return found
        if self.finished:
            return []
        if self._at_floor(view):
            self.finished = "the best is within 5% of what is possible"
            return []
        for _ in range(PAGES):
            most = MOST_ASKED * self.budget + MORE_ASKED
            if self.caller.asked >= most and not self.caller.stopped:
                self.caller.stopped = f"{self.caller.asked} requests for {used} measured candidates"
            if self.caller.stopped:
                break
            asked, made = self._round(view, used, count, rng)
            if made:
                return made
            if not asked:
                break
        self.caller.without()
        found = [] if self.control else self._tune(view, count, rng)
        return found or self._inner(view, count, rng)

    def _seeds(self, view: View, count: int, rng: Random) -> list[Proposal]:
        """What won on operators of this form, then what the spaces prefer."""
        out: list[Proposal] = []
        tried = view.tried
        for text in self.experience.schedules(
            self.context.forms, self.context.backend, self.device
        ):
            schedule = parse_schedule(text)
            space = next((s for s in view.spaces if s.name == schedule.strategy), None)
            if space is None or text in tried or len(out) >= count or space.name == NAME:
                continue
            out.append(Proposal(schedule, "experience"))
        return out or self._inner(view, count, rng)

    def _inner(self, view: View, count: int, rng: Random) -> list[Proposal]:
        """The proposer without a model, on the spaces that it knows."""
        own = [c for c in view.candidates if not drafted(c)]
        numbers = {c.number for c in own}
        scores = {n: s for n, s in view.scores.items() if n in numbers}
        spaces = [s for s in view.spaces if s.name != NAME]
        return self.inner.propose(View(spaces, own, scores), count, rng)

    # -- what came of earlier proposals ------------------------------------------------------

    def _observe(self, view: View) -> None:
        for c in view.candidates[self._seen :]:
            self._by_number[c.number] = c
            score = view.scores.get(c.number)
            if drafted(c):
                self._judged(c, score, view)
        self._seen = len(view.candidates)
        used = sum(c.status not in UNTIMED for c in view.candidates)
        best = min(view.scores.values(), default=math.inf)
        if best < self._best * (1 - IMPROVEMENT):
            self._best, self._best_at, self._stuck, self._boost = best, used, 0, 0.0
            self._restart = None
        window = max(8, self.budget // 10)
        if used - self._best_at >= window and view.scores:
            self._stuck += 1
            self._best_at = used
            self._boost = 0.7
            self.caller.note("stagnation", level=self._stuck, measured=used)
            if self._stuck == 3:
                self._restart = self._other_family(view)

    def _judged(self, c: Candidate, score: float | None, view: View) -> None:
        """Take the verdict on a text to its idea, the bandit and the experience."""
        schedule = parse_schedule(c.schedule)
        try:
            node, attempt = self.drafts.find(schedule)
        except (ValueError, IllegalSchedule):
            return
        first = schedule == node.schedule(attempt)
        if first:
            attempt.status, attempt.reason, attempt.candidate = c.status, c.reason, c.number
        if first and "same program as" in c.reason:
            self._stale += 1
            if self._stale >= UNREAD and not self.caller.stopped:
                self.caller.stopped = f"{UNREAD} answers in a row were nothing new"
        elif first:
            self._stale = 0
        if c.ok:
            self.drafts.passed(schedule)
            self.workshop.profile(c)
        self.workshop.keeper.keep(node, attempt, c, score)
        before = view.scores.get(node.parent) if node.parent is not None else None
        gain = math.log(before / score) if before and score else None
        mixed = c.ok and bool(node.move) and self._dealt_otherwise(node, c)
        if first and node.move and c.ok and not mixed:
            self.bandit.learn(node.move, gain)
        if node.move and c.ok and not mixed:
            self._remember(node, gain, c.status)
        if first and c.ok and gain is not None and gain < 0.0 and node.move:
            self._blocked[(node.move, node.parent)] = f"{math.exp(-gain):.2f} times as slow"
        predicted = attempt.answer.predicted if attempt.answer else None
        if first and score is not None and before and predicted is not None:
            self.calibration.note("its author", before / predicted.speedup, score)
        self.caller.note(
            "verdict",
            candidate=c.number,
            schedule=c.schedule,
            node=node.number,
            attempt=attempt.number,
            program=c.program,
            status=c.status,
            reason=c.reason[:500],
            score=score,
            gain=gain,
            mixed=mixed,
            predicted=[predicted.speedup, predicted.confidence] if predicted else None,
            times={w: m["latency"] for w, m in c.metrics.items() if "latency" in m},
        )

    def _dealt_otherwise(self, node: Node, c: Candidate) -> bool:
        """Whether a child's programs are dealt to threads in another way than its parent's, and its
        move is not about that: then its gain is not the move's alone."""
        before = self._by_number.get(node.parent) if node.parent is not None else None
        if before is None or self.context.backend != "cpp" or node.move in ABOUT_LAUNCHES:
            return False
        own = dealt(self.workshop.text_of(c, self._spaces)[0])
        theirs = dealt(self.workshop.text_of(before, self._spaces)[0])
        return set(own) != set(theirs)

    def _remember(self, node: Node, gain: float | None, status: str) -> None:
        self.record(
            Gain(
                self.context.forms,
                node.bottleneck,
                node.move,
                self.device,
                self.context.backend,
                self.context.operator,
                None if gain is None else round(gain, 4),
                status,
                node.plan[:2],
                "",
                self.run,
            )
        )

    # -- a round of requests -----------------------------------------------------------------

    def _waiting(self) -> list[Node]:
        """Ideas whose last attempt failed and that may have another one."""
        return [n for n in self.drafts.nodes if self._mendable(n)]

    def _mendable(self, node: Node) -> bool:
        last = node.last
        if last is None or node.closed:
            return False
        bad = bool(last.problem) or (last.status != "" and last.status in UNTIMED)
        if not bad:
            return False
        if last.kind == "refusal" or "same program as" in last.reason:
            self._close(node, last.problem or last.reason)
            return False
        errors = [_signature(a) for a in node.attempts]
        if len(node.attempts) >= ATTEMPTS or len(set(errors)) < len(errors):
            self._close(node, f"{len(node.attempts)} attempts: {last.problem or last.reason}")
            return False
        return True

    def _close(self, node: Node, why: str) -> None:
        node.closed = why
        if node.move:
            self._blocked[(node.move, node.parent)] = f"failed: {short(why)}"
            self.bandit.learn(node.move, None)
            last = node.last
            self._remember(node, None, last.status or "malformed" if last else "unanswered")

    def _round(self, view: View, used: int, count: int, rng: Random) -> tuple[bool, list[Proposal]]:
        """Requests for up to `count` texts, and the proposals that came of the answers."""
        work = [(node, self._mending(node, view)) for node in self._waiting()[:count]]
        share = used / self.budget
        end = 1.0 if self.control else self.shares.exploit
        if len(work) < count and share < end and self._stuck < GIVEN_UP:
            work += self._new(view, share, count - len(work), rng)
        if not work:
            return False, []
        replies = self.caller.ask([r for _, r in work])
        made: list[Proposal] = []
        for (node, _), reply in zip(work, replies, strict=False):
            proposal = self._take(node, reply)
            if proposal is not None:
                made.append(proposal)
        for node, _ in work[len(replies) :]:
            node.closed = node.closed or "not asked: " + self.caller.stopped
        return True, made

    def _take(self, node: Node, reply: Reply) -> Proposal | None:
        """The proposal of an answer; what is wrong with its form is told to its author next."""
        if reply.response is None:
            if not node.attempts:
                node.closed = f"no answer: {reply.error}"
            else:
                self._close(node, f"no answer: {reply.error}")
            return None
        answer = reply.response
        attempt = Attempt(len(node.attempts), reply.request, answer.text)
        node.attempts.append(attempt)
        try:
            attempt.answer = parse(answer.text, self.context.backend, answer.finish)
        except AnswerError as e:
            attempt.problem, attempt.kind = str(e), e.kind
            self._unread += 1
            if self._unread >= UNREAD and not self.caller.stopped:
                self.caller.stopped = f"{UNREAD} answers in a row could not be read: {e}"
            self.caller.note(
                "unread", node=node.number, attempt=attempt.number, error=e.kind, message=str(e)
            )
            self.workshop.keeper.keep(node, attempt, None, None)
            return None
        self._unread = 0
        node.plan = node.plan or attempt.answer.plan
        origin = "llm:repair" if attempt.number else f"llm:{node.move or node.kind}"
        self.workshop.keeper.keep(node, attempt, None, None)
        return Proposal(node.schedule(attempt), origin, node.parent)

    def _mending(self, node: Node, view: View) -> Request:
        last = node.last
        assert last is not None
        kind = last.kind or last.status
        error = last.problem or self.teller.error(last)
        good = None
        final = len(node.attempts) == ATTEMPTS - 1 and last.kind not in ("truncated", "malformed")
        if final and node.kind == "move":  # a plan of its own has little in common with a parent
            c = self._by_number.get(node.parent if node.parent is not None else -1)
            good = self.workshop.text_of(c, self._spaces) if c is not None else None
        text = prompts.repair(self.context, error, kind, good, final)
        logical = self._logical(node, len(node.attempts))
        return prompts.again(last.request, last.text, text, logical)

    def _new(self, view: View, share: float, count: int, rng: Random) -> list[tuple[Node, Request]]:
        """Requests for new ideas."""
        if self.control:
            return [self._sample() for _ in range(count)]
        if share < self.shares.breadth and not self._asked_plans:
            self._asked_plans = True
            self._ask_plans(view, PLANS, "plan")
        if self._stuck == 2 and self._guides == 0:
            self._guides = 1
            self._ask_plans(view, PARADIGMS, "paradigm")
        work: list[tuple[Node, Request]] = []
        while self._plans and len(work) < count and not self.caller.stopped:
            kind, plan = self._plans.pop(0)
            work.append(self._planned(view, kind, plan))
        taken: set[tuple[str, int | None]] = set()
        for _ in range(8 * count):
            if len(work) >= count:
                break
            made = self._moved(view, share, rng, taken)
            if made is None:
                break
            work.append(made)
        return work

    def _ask_plans(self, view: View, count: int, kind: str) -> None:
        """Distinct plans, to be written one by one."""
        best = self._ranked(view)[:1]
        parent = self.teller.parent(best[0], view) if best else None
        label = parent.bottleneck if parent else "unknown"
        fit = fitting(
            self.context.forms,
            self.context.backend,
            label,
            self.known,
            parent.text if parent else "",
        )
        stuck = kind == "paradigm"
        text = prompts.plans(
            self.context, parent, count, fit, self.teller.memory(None, view), stuck
        )
        request = self._request(text, f"{self.context.operator}/{kind}s/{self._guides}/0")
        for reply in self.caller.ask([request]):
            found = numbered(reply.response.text, count) if reply.response is not None else []
            for plan in found:
                mark = signature(plan)
                if any(alike(mark, other) for other in self._signatures):
                    continue
                self._signatures.append(mark)
                self._plans += [(kind, plan)]

    def _planned(self, view: View, kind: str, plan: tuple[str, ...]) -> tuple[Node, Request]:
        best = self._ranked(view)[:1]
        parent = self.teller.parent(best[0], view) if best else None
        node = self._node(kind, best[0] if best else None, plan=plan)
        node.bottleneck = parent.bottleneck if parent else "unknown"
        memory = self.teller.memory(None, view)
        text = prompts.kernel(self.context, parent, memory=memory, plan=plan)
        return node, self._request(text, self._logical(node, 0))

    def _sample(self) -> tuple[Node, Request]:
        node = self._node("sample", None)
        return node, self._request(prompts.kernel(self.context, None), self._logical(node, 0))

    def _moved(
        self, view: View, share: float, rng: Random, taken: set[tuple[str, int | None]]
    ) -> tuple[Node, Request] | None:
        """One move from a parent that is chosen by its rank and by how often it was varied; moves
        that gained nothing twice wait until the others were tried."""
        barren = self._barren(view)
        for number in self._parents(view, share, rng, Counter(p for _, p in taken)):
            parent = self.teller.parent(number, view)
            fit = [
                m
                for m in fitting(
                    self.context.forms,
                    self.context.backend,
                    parent.bottleneck,
                    self.known,
                    parent.text,
                )
                if (m.name, number) not in taken and (m.name, number) not in self._tried()
            ]
            fit = [m for m in fit if m.name not in barren] or fit
            move = self.bandit.choose(fit, parent.bottleneck, rng, self._stuck == 1)
            if move is None:
                continue
            taken.add((move.name, number))
            node = self._node("move", number, move.name)
            node.bottleneck = parent.bottleneck
            other = self._other_family(view) if rng.random() < 0.3 else None
            memory = self.teller.memory(number, view, other if other != number else None)
            mean, _ = self.bandit.belief(move, parent.bottleneck)
            seen = len(self.bandit.own.get(move.name, ()))
            evidence = f"Measured so far: {math.exp(mean):.2f} times as fast." if seen else ""
            text = prompts.kernel(self.context, parent, move, evidence, memory)
            return node, self._request(text, self._logical(node, 0))
        return None

    def _barren(self, view: View) -> set[str]:
        """Moves of which two or more ideas in this search failed or gained nothing."""
        lost: Counter[str] = Counter()
        for node in self.drafts.nodes:
            if not node.move or node.last is None:
                continue
            scores = [
                view.scores.get(a.candidate) for a in node.attempts if a.candidate is not None
            ]
            mine = [s for s in scores if s is not None]
            before = view.scores.get(node.parent) if node.parent is not None else None
            gained = bool(mine) and before is not None and min(mine) < before * (1 - IMPROVEMENT)
            if (mine and not gained) or (not mine and (node.closed or not self._open(node))):
                lost[node.move] += 1
        return {m for m, n in lost.items() if n >= FRUITLESS}

    @staticmethod
    def _open(node: Node) -> bool:
        """Whether an idea may still be mended or is on its way."""
        return len(node.attempts) < ATTEMPTS

    def _tried(self) -> set[tuple[str, int | None]]:
        return {(n.move, n.parent) for n in self.drafts.nodes if n.move}

    # -- parents -----------------------------------------------------------------------------

    def _ranked(self, view: View) -> list[int]:
        return sorted(view.scores, key=lambda n: (view.scores[n], n))

    def _parents(
        self, view: View, share: float, rng: Random, more: Counter[int | None]
    ) -> list[int]:
        """Candidates by upper confidence bounds over ranks, mostly among the best four."""
        ranked = self._ranked(view)
        if self._restart in ranked:
            return [n for n in (self._restart, *ranked) if n is not None]
        children: Counter[int | None] = Counter(n.parent for n in self.drafts.nodes) + more
        total = sum(children.values())
        weight = 1.0 - 0.7 * min(share / self.shares.exploit, 1.0) + self._boost
        last = max(len(ranked) - 1, 1)

        def value(number: int) -> float:
            quality = (last - ranked.index(number)) / last
            varied = children[number]
            mine = [n for n in self.drafts.nodes if n.parent == number]
            barren = len(mine) >= 3 and all(n.closed for n in mine)
            bonus = weight * math.sqrt(math.log(total + 1) / (varied + 1))
            return quality + bonus - barren

        top = ranked[:4] if rng.random() < 0.7 else ranked
        first = sorted(top, key=lambda n: (-value(n), n))
        return first + [n for n in ranked if n not in first]

    def _family(self, number: int | None) -> str:
        """Where a candidate comes from: the plan at the root of its ideas, or a strategy."""
        for _ in range(100):
            c = self._by_number.get(number) if number is not None else None
            if c is None:
                return ""
            schedule = parse_schedule(c.schedule)
            if schedule.strategy != NAME:
                return schedule.strategy
            try:
                node, _ = self.drafts.find(schedule)
            except (ValueError, IllegalSchedule):
                return ""
            if node.kind != "move" or node.parent is None:
                return f"node {node.number}"
            number = node.parent
        return ""

    def _other_family(self, view: View) -> int | None:
        ranked = self._ranked(view)
        first = self._family(ranked[0]) if ranked else ""
        return next((n for n in ranked if self._family(n) != first), None)

    # -- tuning ------------------------------------------------------------------------------

    def _tune(self, view: View, count: int, rng: Random) -> list[Proposal]:
        """Holes of the best three, the best one's first; without a model."""
        tried = view.tried
        out: list[Proposal] = []
        for number in self._ranked(view)[:3]:
            schedule = parse_schedule(self._by_number[number].schedule)
            near = space_of(view.spaces, schedule).neighbours(schedule)
            fresh = [s for s in near if s.text not in tried]
            rng.shuffle(fresh)
            for s in fresh[: max(1, count - len(out) - (number != self._ranked(view)[0]))]:
                if len(out) < count:
                    tried.add(s.text)
                    out.append(Proposal(s, "llm:tune" if s.strategy == NAME else "tune", number))
        return out

    def _at_floor(self, view: View) -> bool:
        ranked = self._ranked(view)
        if not ranked or not self.context.floors:
            return False
        shares = [
            [
                self._by_number[n].metrics.get(w, {}).get("latency", math.inf) / floor
                for w, floor in self.context.floors.items()
            ]
            for n in ranked[:4]
        ]
        if any(x < 1 / AT_FLOOR for times in shares for x in times):
            return False  # what counts as possible was measured on a busy machine
        near = [times for times in shares if max(times) <= AT_FLOOR]
        return len(near) > 1  # one time alone may be an accident

    # -- names -------------------------------------------------------------------------------

    def _node(
        self, kind: str, parent: int | None, move: str = "", plan: tuple[str, ...] = ()
    ) -> Node:
        node = Node(len(self.drafts.nodes), kind, parent, move, plan=plan)
        self.drafts.nodes.append(node)
        self.caller.note(
            "node", node=node.number, idea=kind, parent=parent, move=move, plan=list(plan)
        )
        return node

    def _logical(self, node: Node, attempt: int) -> str:
        return f"{self.context.operator}/{node.kind}/{node.number}/{attempt}"

    def _request(self, text: str, logical: str) -> Request:
        return prompts.request(
            self.context,
            text,
            logical,
            model=self.model,
            effort=self.effort,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        )


def _signature(a: Attempt) -> str:
    """What went wrong, without numbers: the same twice is no progress."""
    return "".join(ch for ch in f"{a.status} {a.problem or a.reason}" if not ch.isdigit())[:200]
