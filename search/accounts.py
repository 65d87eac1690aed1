"""Budgets of a search that asks a model, and its accounts: tokens, money, time, requests.

Limits are hard: a request is sent only if the worst that it can cost still fits beside what was
spent and what is under way. Waiting and asking again belong here too.
"""

from __future__ import annotations

import math
import re
import threading
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from random import Random
from typing import Any

from opwright.search.cassette import Cassette, Stop, scrubbed, unsecret
from opwright.search.llm import (
    FATAL,
    LLMClient,
    LLMError,
    Request,
    Response,
    Usage,
    count_tokens,
)

DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$")
LEAST_ANSWER = 1024  # tokens below which an answer is not worth asking for
TRIES = 5  # of one request, while the server asks to wait or fails
LONGEST_WAIT = 120.0
FAILURES = 3  # requests in a row without any answer, after which the model is given up
IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class Caps:
    """Hard limits; None: none. `cost` in USD, `tokens` in and out, `minutes` of wall time."""

    cost: float | None = None
    tokens: int | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens; `origin` says whose word that is, and of when."""

    input: float
    output: float
    cached: float
    origin: str = ""

    def of(self, usage: Usage) -> float:
        fresh = usage.input - usage.cached
        total = fresh * self.input + usage.cached * self.cached + usage.output * self.output
        return total / 1e6


def price_of(model: str, more: Mapping[str, Mapping[str, Any]] | None = None) -> Price | None:
    """The price of a model: the caller's, by the longest name that it begins with, else the one
    that ships for its very name or a dated version of it; None where none is known."""
    own = sorted((n for n in more or {} if model.startswith(n)), key=len)
    row: Mapping[str, Any]
    if own and more:
        row = more[own[-1]]
        told = str(row.get("date", ""))
        origin = "the configuration" + (f", {told}" if told else "")
    else:
        held = tomllib.loads((resources.files("opwright.search") / "prices.toml").read_text())
        name = DATED.sub("", model)
        if name not in held:
            return None
        row = held[name]
        origin = f"{row['source']}, read {row['date']}"
    cached = row.get("cached", row["input"])
    return Price(float(row["input"]), float(row["output"]), float(cached), origin)


class Unanswered(Exception):
    """Nobody has answered yet; the search goes on from its archive and ledger once somebody has."""


class Exhausted(Exception):
    """A limit would be exceeded; the message names it."""


@dataclass(slots=True)
class Reply:
    """What came of one request: an answer, or why there is none."""

    request: Request
    response: Response | None = None
    error: LLMError | None = None
    wasted: Usage = field(default_factory=Usage)  # of earlier tries that may be billed


@dataclass(slots=True)
class Accounts:
    """What was spent, what is under way, and what may still be."""

    caps: Caps
    price: Price | None
    clock: Callable[[], float] = time.monotonic
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    failed: int = 0
    retries: int = 0
    flying: Usage = field(default_factory=Usage)
    began: float = 0.0
    assumed: int = 0  # tokens of requests that failed and may have been billed

    def __post_init__(self) -> None:
        self.began = self.clock()
        if self.caps.cost is not None and self.price is None:
            raise Exhausted(
                "the price of this model is not known, so --max-cost cannot be kept: use "
                "--max-tokens, or say the price in opwright.toml under [llm.prices]"
            )

    @property
    def cost(self) -> float | None:
        """USD spent; None where the price is not known."""
        return self.price.of(self.usage) if self.price is not None else None

    def left(self) -> float:
        """Seconds of wall time."""
        if self.caps.minutes is None:
            return math.inf
        return self.began + 60 * self.caps.minutes - self.clock()

    def fitted(self, request: Request) -> Request:
        """The request with an answer no longer than what the limits leave; Exhausted when that is
        too short."""
        if self.left() <= 0:
            raise Exhausted(f"{self.caps.minutes:g} minutes are over")
        given = count_tokens(request.text)
        committed = self.usage + self.flying
        most = request.max_tokens
        if self.caps.tokens is not None:
            most = min(most, self.caps.tokens - committed.total - given)
        if self.caps.cost is not None and self.price is not None:
            free = self.caps.cost - self.price.of(replace(committed, cached=0))
            free -= given * self.price.input / 1e6
            most = min(most, int(free * 1e6 / self.price.output) if self.price.output else most)
        least = min(LEAST_ANSWER, request.max_tokens)
        if most < least:
            raise Exhausted(f"the next request might exceed {self._limits()}")
        return replace(request, max_tokens=most)

    def commit(self, request: Request) -> Usage:
        self.flying += request.worst
        return request.worst

    def settle(self, worst: Usage, reply: Reply) -> None:
        """Take a reply into the books; what may have been billed without an answer counts in
        full."""
        self.flying = Usage(self.flying.input - worst.input, self.flying.output - worst.output)
        self.requests += 1
        if reply.response is not None:
            self.usage += reply.response.usage
        else:
            self.failed += 1
            self.usage += reply.wasted
            if reply.error is not None and reply.error.billed:
                self.usage += replace(worst, estimated=True)
                self.assumed += worst.total

    def _limits(self) -> str:
        parts = []
        if self.caps.cost is not None:
            parts.append(f"{self.caps.cost:g} USD ({self.cost or 0:.4f} spent)")
        if self.caps.tokens is not None:
            parts.append(f"{self.caps.tokens} tokens ({self.usage.total} spent)")
        return " or ".join(parts)

    def summary(self) -> list[str]:
        """The accounts in words."""
        u = self.usage
        about = "about " if u.estimated else ""
        asked = f"{self.requests} request" + ("" if self.requests == 1 else "s")
        lines = [
            f"{asked}, {self.failed} without an answer, {self.retries} asked again; "
            f"{about}{u.input} tokens in ({u.cached} cached), {u.output} out"
        ]
        cost = self.cost
        lines.append(f"cost {cost:.4f} USD" if cost is not None else "cost: unknown price")
        if self.assumed:
            lines.append(f"{self.assumed} tokens are assumed: requests that failed may be billed")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "failed": self.failed,
            "retries": self.retries,
            "usage": self.usage.to_json(),
            "assumed_tokens": self.assumed,
            "cost_usd": self.cost,
        }


def estimate(
    evaluations: int, prompt: int, answer: int, price: Price | None, caps: Caps
) -> list[str]:
    """What a search may ask and cost, in words: `prompt` and `answer` are tokens of one request."""
    low, high = max(1, evaluations), 2 * evaluations + 2
    tokens = (low * (prompt + answer // 4), high * (prompt + answer // 2))
    text = f"estimate: {low} to {high} requests, {_round(tokens[0])} to {_round(tokens[1])} tokens"
    if price is None:
        text += ", unknown price"
    else:
        least = low * price.of(Usage(prompt, answer // 4))
        text += f", {least:.2f} to {high * price.of(Usage(prompt, answer // 2)):.2f} USD"
    lines = [text]
    if price is not None and price.origin:
        lines.append(
            f"price: {price.input:g} in, {price.output:g} out USD for a million tokens "
            f"({price.origin})"
        )
    limits = [
        f"{caps.cost:g} USD" if caps.cost is not None else "",
        f"{caps.tokens} tokens" if caps.tokens is not None else "",
        f"{caps.minutes:g} minutes" if caps.minutes is not None else "",
    ]
    told = ", ".join(filter(None, limits))
    lines.append(f"hard limits: {told}" if told else "no limit but the candidates to evaluate")
    worst = prompt + answer
    room = caps.tokens // worst if caps.tokens is not None else None
    if caps.cost is not None and price is not None:
        one = price.of(Usage(prompt, answer))
        affordable = int(caps.cost / one) if one else high
        room = affordable if room is None else min(room, affordable)
    if room is not None and room < 3:
        lines.append(f"the limits leave room for {room} requests of this size: too few to learn")
    return lines


def _round(n: int) -> str:
    return f"{n / 1e6:.1f}M" if n >= 1_000_000 else f"{max(n // 1000, 1)}k"


@dataclass(slots=True)
class Caller:
    """Asks within the limits: several requests at once, again after errors that pass.

    Requests are admitted in order and settled together, so that what is asked depends on nothing
    but earlier answers. `note` hears what happens on the way.
    """

    client: LLMClient
    accounts: Accounts
    tape: Cassette | None = None
    note: Callable[..., None] = lambda kind, **content: None
    log: Callable[..., None] = lambda kind, body, texts: None  # into the ledger of the run
    sleep: Callable[[float], None] = time.sleep
    timeout: float = 600.0
    in_flight: int = IN_FLIGHT
    stopped: str = ""  # why nothing is asked any more
    asked: int = 0  # requests that were admitted
    _ordinals: dict[str, int] = field(default_factory=dict)
    _silent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies to the first requests that the limits admit, in order; `stopped` says why the
        others were not asked."""
        replies: list[Reply] = []
        waiting = list(requests)
        while waiting and not self.stopped:
            batch: list[tuple[Request, Usage]] = []
            while waiting and len(batch) < self.in_flight:
                end = self.tape.stop if self.tape is not None else None
                if end is not None and self.asked >= end.asked:
                    if not batch:
                        self.stopped = end.why
                    break
                try:
                    one = self.accounts.fitted(unsecret(waiting[0]))
                except Exhausted as e:
                    if not batch:
                        self.stopped = str(e)
                    break
                ordinal = self._ordinals.get(one.key, 0)
                self._ordinals[one.key] = ordinal + 1
                one = replace(one, ordinal=ordinal)
                batch.append((one, self.accounts.commit(one)))
                self.asked += 1
                waiting.pop(0)
            replies += self._batch(batch)
        return replies

    def without(self) -> None:
        """The search goes on without the model from here, also when it is resumed."""
        if self.stopped and self.tape is not None and self.tape.mode == "record":
            self.tape.ended(Stop(self.asked, self.stopped))

    def _batch(self, batch: Sequence[tuple[Request, Usage]]) -> list[Reply]:
        found: list[Reply] = [Reply(r) for r, _ in batch]

        def work(n: int) -> None:
            found[n] = self._patient(batch[n][0], batch[n][1])

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(batch))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        waiting = [r for r in found if r.error is not None and r.error.kind == "waiting"]
        if waiting:
            raise Unanswered(str(waiting[0].error))
        for reply, (_, worst) in zip(found, batch, strict=True):
            self.accounts.settle(worst, reply)
            self._written(reply)
            self._silent = 0 if reply.response is not None else self._silent + 1
            if reply.error is not None and reply.error.kind in FATAL:
                self.stopped = str(reply.error)
        if self._silent >= FAILURES and not self.stopped:
            last = next((r.error for r in reversed(found) if r.error), None)
            self.stopped = f"{self._silent} requests in a row had no answer: {last}"
        return found

    def _written(self, reply: Reply) -> None:
        """Write a request and what came of it into the ledger."""
        asked, got = reply.request, reply.response
        body = {"logical": asked.logical, "ordinal": asked.ordinal, "key": asked.key}
        self.log("request", {**body, "model": asked.model}, {"prompt": asked.text})
        if got is not None:
            said = {k: v for k, v in got.to_json().items() if k != "text"}
            self.log("answer", {**body, **said}, {"answer": got.text})
        else:
            self.log("answer", {**body, "error": str(reply.error)}, {})

    def _patient(self, request: Request, worst: Usage) -> Reply:
        """One request, asked again after a pause where the error passes; what was recorded of it
        counts as it was."""
        rng = Random(request.key)
        wasted = Usage()
        for attempt in range(TRIES):
            try:
                if self.tape is not None and not attempt:
                    try:
                        found = self.tape.find(request)
                    except LLMError as e:
                        return Reply(request, None, e, e.wasted or wasted)
                    if found is not None:
                        return Reply(request, found)
                    wasted = self.tape.lost(request)
                    if wasted.total and not self._affordable(wasted):
                        what = "it was asked before, and asking again might exceed the limits"
                        raise LLMError("lost", what)
                made = self._sent(request)
                made = replace(made, usage=made.usage + wasted)
                if self.tape is not None:
                    self.tape.keep(request, made)
                return Reply(request, made)
            except LLMError as e:
                self.note("trouble", logical=request.logical, error=e.kind, message=str(e)[:300])
                last = e.final or not e.transient or e.kind == "timeout" or attempt == TRIES - 1
                wait = e.retry_after if e.retry_after is not None else 2.0**attempt
                wait = min(wait * (1 + 0.1 * rng.random()), LONGEST_WAIT)
                more = wasted + replace(worst, estimated=True) if e.billed else wasted
                if last or wait >= self.accounts.left() or not self._affordable(more):
                    if self.tape is not None:
                        self.tape.keep(request, e, wasted)
                    return Reply(request, None, e, wasted)
                wasted = more
                with self._lock:
                    self.accounts.retries += 1
                self.sleep(wait)
        return Reply(request, None, LLMError("server", "no answer"))

    def _sent(self, request: Request) -> Response:
        """One try, which the ledger knows of before it is made where it costs money: of a process
        that is killed meanwhile nobody else does."""
        if self.tape is None or not getattr(self.client, "paid", False):
            return self._once(request)
        body = {"key": request.key, "ordinal": request.ordinal,
                "worst": [request.worst.input, request.worst.output]}  # fmt: skip
        self.tape.note("sent", **body)
        try:
            return self._once(request)
        except LLMError as e:
            if not e.billed:
                self.tape.note("returned", **body)
            raise

    def _affordable(self, wasted: Usage) -> bool:
        """Whether a request may be billed once more, beside all that is under way."""
        a = self.accounts
        total = a.usage + a.flying + wasted
        if a.caps.tokens is not None and total.total > a.caps.tokens:
            return False
        cost = a.price.of(replace(total, cached=0)) if a.price is not None else 0.0
        return a.caps.cost is None or cost <= a.caps.cost

    def _once(self, request: Request) -> Response:
        """One call with a limit on the whole of it: a server that drips holds no run up."""
        limit = min(self.timeout, max(self.accounts.left(), 0.01))
        box: list[Response | LLMError] = []

        def work() -> None:
            try:
                box.append(self.client.complete(request))
            except LLMError as e:
                box.append(e)
            except Exception as e:  # whatever a client meets, the run goes on
                what = f"{type(e).__name__}: {str(e)[:200]}"
                box.append(LLMError("malformed", what, billed=True))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(limit if math.isfinite(limit) else None)
        if not box:
            raise LLMError("timeout", f"no answer within {limit:.3g} s", billed=True)
        if isinstance(box[0], LLMError):
            raise box[0]
        # a server knows the key: nothing that it says leaves this place with it
        return replace(box[0], text=scrubbed(box[0].text), model=scrubbed(box[0].model))
