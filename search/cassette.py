"""What was asked of a model and what it answered, as JSON lines that are only ever appended to.

The ledger of a run is a cassette: with it the run is repeated without the model, bit by bit. An
answer is found by the sha256 of its request with the ordinal among equal ones; else, when prompts
have changed, by its logical id (op/phase/node/attempt), and the difference is reported.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opwright.search.llm import FATAL, LLMClient, LLMError, Message, Request, Response, Usage

VERSION = 1
MODES = ("record", "replay", "strict")
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)", re.IGNORECASE)


class CassetteError(RuntimeError):
    """The file cannot be used; the message says which line is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A recorded answer that was taken for another prompt; `diff` is from the old to the new."""

    logical: str
    diff: str


@dataclass(frozen=True, slots=True)
class _Take:
    request: Request
    response: Response | None
    error: tuple[str, str, bool] | None
    wasted: Usage | None = None  # of tries before an error, which may be billed

    def answer(self) -> Response:
        if self.response is not None:
            return self.response
        kind, message, billed = self.error or ("malformed", "nothing was recorded", False)
        error = LLMError(kind, message, billed=billed, final=True)
        error.wasted = self.wasted
        raise error


@dataclass(frozen=True, slots=True)
class Stop:
    """After how many requests a run went on without the model, and why."""

    asked: int
    why: str


@dataclass(slots=True)
class Cassette:
    """A client that answers from a file. record: what is not there is asked of `inner` and kept;
    replay: an answer that is not there is an LLMError `missing`; strict: so is one to another
    prompt (`drift`). One process at a time writes a file."""

    path: Path
    mode: str = "replay"
    inner: LLMClient | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    drifts: list[Drift] = field(default_factory=list)
    hits: int = 0
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    stop: Stop | None = None
    _lost: dict[tuple[str, int], Usage] = field(default_factory=dict)
    _takes: dict[tuple[str, int], _Take] = field(default_factory=dict)
    _logical: dict[str, list[_Take]] = field(default_factory=dict)
    _used: set[int] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _file: int | None = None
    _told: set[str] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode}: {', '.join(MODES)}")
        if self.mode == "record" and self.inner is None:
            raise ValueError("record needs a client to ask")
        if self.mode == "record":
            self._open()
        try:
            self._load()
        except CassetteError:
            self.close()
            raise
        if self.mode == "record" and not self.lines:
            self.note("cassette", version=VERSION, origin=dict(self.origin))

    @property
    def name(self) -> str:
        """Who answered, also when the answers come from the file."""
        held = str(self.origin.get("client", ""))
        return held or (self.inner.name if self.inner is not None else "replay")

    @property
    def model(self) -> str:
        """The model that the recorded requests name."""
        return str(self.origin.get("model", ""))

    def complete(self, request: Request) -> Response:
        found = self.find(request)
        if found is not None:
            return found
        if self.mode != "record" or self.inner is None:
            raise LLMError("missing", f"{self.path} has no answer to {request.logical}")
        response = self.inner.complete(request)
        self.keep(request, response)
        return response

    def find(self, request: Request) -> Response | None:
        """The recorded answer, None where there is none; a recorded failure is raised."""
        with self._lock:
            take = self._find(request)
            if take is None:
                return None
            self.hits += 1
        return take.answer()

    def keep(
        self, request: Request, found: Response | LLMError, wasted: Usage | None = None
    ) -> None:
        """Record what finally came of a request; `wasted` are tokens of tries before an error."""
        if isinstance(found, Response):
            self._keep(_Take(request, found, None))
        elif found.transient or found.kind in FATAL:
            told = (found.kind, str(found), found.billed)
            self._keep(_Take(request, None, told, wasted))

    def lost(self, request: Request) -> Usage:
        """What earlier processes may have been billed for a request whose answer is not here."""
        return self._lost.pop((request.key, request.ordinal), Usage())

    def ended(self, stop: Stop) -> None:
        """The run goes on without the model: what comes is not to be asked when it is resumed."""
        if self.stop is None:
            self.stop = stop
            self.once("stopped", asked=stop.asked, why=stop.why)

    def _find(self, request: Request) -> _Take | None:
        take = self._takes.get((request.key, request.ordinal))
        if take is not None:
            self._used.add(id(take))
            return take
        if not request.logical or self.mode == "record":
            return None
        near = [t for t in self._logical.get(request.logical, []) if id(t) not in self._used]
        if not near and self.mode == "replay":  # the search took another turn: any answer of a kind
            kind = _kind(request.logical)
            near = [
                t
                for t in self._takes.values()
                if id(t) not in self._used and _kind(t.request.logical) == kind
            ]
        if not near:
            return None
        diff = "\n".join(
            difflib.unified_diff(
                _pretty(near[0].request), _pretty(request), "recorded", "asked", "", "", 1
            )
        )
        if self.mode == "strict":
            raise LLMError("drift", f"the prompt of {request.logical} is not as recorded:\n{diff}")
        self._used.add(id(near[0]))
        self.drifts.append(Drift(request.logical, diff))
        return near[0]

    # -- the file -----------------------------------------------------------------------------

    def _read(self) -> bytes:
        """What the file holds. A file that is written is read through its own handle: closing
        another one would end the lock."""
        if self._file is None:
            return self.path.read_bytes()
        parts: list[bytes] = []
        while part := os.pread(self._file, 1 << 24, sum(map(len, parts))):
            parts.append(part)
        return b"".join(parts)

    def _load(self) -> None:
        try:
            data = self._read()
        except FileNotFoundError:
            raise CassetteError(f"{self.path} does not exist; name a recorded cassette") from None
        except OSError as e:
            raise CassetteError(f"{self.path}: {e.strerror or e}") from None
        lines = data.split(b"\n")
        if lines[-1] and self._file is not None:
            # a killed run wrote half a line; what was complete stays
            os.ftruncate(self._file, len(data) - len(lines[-1]))
        takes: list[_Take] = []
        under_way: dict[tuple[str, int], Usage] = {}
        for number, line in enumerate(lines[:-1], 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                self.lines.append(entry)
                if entry["kind"] == "cassette":
                    if entry["version"] != VERSION:
                        raise ValueError(f"version {entry['version']}, this one reads {VERSION}")
                    self.origin = {**self.origin, **entry["origin"]}
                elif entry["kind"] == "call":
                    takes.append(_take(entry))
                    under_way.pop((takes[-1].request.key, takes[-1].request.ordinal), None)
                elif entry["kind"] == "sent":
                    at = (str(entry["key"]), int(entry["ordinal"]))
                    sent = Usage(int(entry["worst"][0]), int(entry["worst"][1]), 0, True)
                    under_way[at] = under_way.get(at, Usage()) + sent
                elif entry["kind"] == "returned":  # without an answer, and not billed
                    at = (str(entry["key"]), int(entry["ordinal"]))
                    sent = Usage(int(entry["worst"][0]), int(entry["worst"][1]))
                    held = under_way.get(at, Usage())
                    under_way[at] = replace(
                        held, input=held.input - sent.input, output=held.output - sent.output
                    )
                elif entry["kind"] == "stopped":
                    self.stop = Stop(int(entry["asked"]), str(entry["why"]))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
                what = f"{self.path}:{number} is damaged ({e}); move the file away"
                raise CassetteError(what) from None
        final = {(t.request.key, t.request.ordinal): t for t in takes}
        # what was asked again after a failure is what came of it
        takes = [
            t for t in takes if t.error is None or final[t.request.key, t.request.ordinal] is t
        ]
        if self.mode == "record" and self.stop is None:
            # failures at the end are what stopped the run: they are asked again, as is what no
            # answer could cure
            last = max((n for n, t in enumerate(takes, 1) if t.error is None), default=0)
            again = [t for t in takes[:last] if t.error and t.error[0] in FATAL] + takes[last:]
            takes = [t for t in takes[:last] if not (t.error and t.error[0] in FATAL)]
            for t in again:
                at = (t.request.key, t.request.ordinal)
                held = under_way.get(at, Usage()) + (t.wasted or Usage())
                if t.error is not None and t.error[2]:
                    held += replace(t.request.worst, estimated=True)
                under_way[at] = held
        self._lost = {at: u for at, u in under_way.items() if u.total > 0}
        for take in takes:
            self._remember(take)

    def _remember(self, take: _Take) -> None:
        request = take.request
        self._takes.setdefault((request.key, request.ordinal), take)
        self._logical.setdefault(request.logical, []).append(take)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, flags, 0o644)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in (errno.EACCES, errno.EAGAIN) and self._file is not None:
                self.close()
                raise CassetteError(f"{self.path} is being written by another process") from None
            if self._file is None:
                raise CassetteError(f"{self.path}: {e.strerror or e}") from None

    def _keep(self, take: _Take) -> None:
        request = take.request
        with self._lock:
            self._remember(take)
            self._used.add(id(take))
            self.note(
                "call",
                logical=request.logical,
                key=request.key,
                ordinal=request.ordinal,
                request=request.sent,
                response=take.response.to_json() if take.response else None,
                error=list(take.error) if take.error else None,
                **({"wasted": take.wasted.to_json()} if take.wasted else {}),
            )

    def note(self, kind: str, **content: Any) -> None:
        """Append a line of the run's ledger; nothing where the file is only read."""
        if self._file is None:
            return
        line = json.dumps({"kind": kind, **content}, ensure_ascii=False, sort_keys=True)
        with self._lock:
            os.write(self._file, (scrubbed(line) + "\n").encode("utf-8", "replace"))

    def once(self, kind: str, **content: Any) -> None:
        """Append a line unless the file has it: a run that goes on says nothing twice."""
        line = json.loads(json.dumps({"kind": kind, **content}))
        with self._lock:
            if self._told is None:
                self._told = {json.dumps(e, sort_keys=True) for e in self.lines}
            text = json.dumps(line, sort_keys=True)
            if text in self._told:
                return
            self._told.add(text)
        self.note(kind, **content)

    def entries(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """Lines of a kind that the file had when it was opened."""
        return (e for e in self.lines if e["kind"] == kind)

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    def __enter__(self) -> Cassette:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take(entry: Mapping[str, Any]) -> _Take:
    logical, ordinal = entry["logical"], entry["ordinal"]
    if not isinstance(logical, str) or type(ordinal) is not int:
        raise TypeError("logical is a text, ordinal a number")
    request = Request.from_json(entry["request"], logical, ordinal)
    if request.key != entry["key"]:
        raise ValueError("the key is not that of the request")
    response = entry["response"]
    error = entry["error"]
    wasted = entry.get("wasted")
    return _Take(
        request,
        Response.from_json(response) if response is not None else None,
        (str(error[0]), str(error[1]), bool(error[2])) if error is not None else None,
        Usage.from_json(wasted) if wasted is not None else None,
    )


def _kind(logical: str) -> tuple[str, bool]:
    """What a request is for: plans or a kernel, and whether it mends an earlier answer."""
    parts = logical.split("/")
    return ("plans" if parts[1:2] in (["plans"], ["paradigms"]) else "kernel", parts[-1] != "0")


def _pretty(request: Request) -> list[str]:
    sent = request.sent
    head = [f"{k}: {sent[k]}" for k in ("model", "max_tokens", "effort", "temperature")]
    return [*head, *request.text.splitlines()]


def scrubbed(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text without the values of variables that hold credentials."""
    for name, value in environment.items():
        if _SECRET.search(name) and len(value) >= 8 and value in text:
            text = text.replace(value, f"<{name}>")
    return text


def unsecret(request: Request) -> Request:
    """A request without the values of variables that hold credentials."""
    messages = tuple(Message(m.role, scrubbed(m.content)) for m in request.messages)
    return replace(request, system=scrubbed(request.system), messages=messages)
