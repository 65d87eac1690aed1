"""Sessions of `opwright mcp`: folders, the processes that judge, and what may be told of them.

This side writes candidates into a folder and reads archives. Judging happens in processes of their
own (`compiler/attending.py`), by the same gates as everywhere; verdicts are theirs alone to write.
Whatever a caller gives is checked here: sizes, names, types, and paths, which stay below one root.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from opwright.backends.cpp.importer_prelude import without_vocabulary
from opwright.compiler.exchange_texts import LANGUAGES, target_facts
from opwright.compiler.paths import cache_folder
from opwright.ir.dtypes import DTYPES
from opwright.ir.plan import PlanError
from opwright.outcome import plain
from opwright.search.archive import Archive
from opwright.search.exchange import read_answer
from opwright.search.history import History, Node
from opwright.search.prompts import unexpected

PLAN_SCHEMA = resources.files("opwright.ir") / "plan.schema.json"
LARGEST_SPEC = 256 << 10  # bytes
LARGEST_SOURCE = 1 << 20
LONGEST_NOTE = 2000
LONGEST_WAIT = 60.0  # seconds that one call may wait
MOST_BUDGET = 1000
CHECK_LIMIT = 300.0  # seconds of checking one spec
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
SESSION = re.compile(r"[0-9a-f]{8}")
SUBMISSION = re.compile(r"s[0-9]{4}")
LOCK = "lock"  # as in `compiler/attending.py`, which is not imported here: it takes a second
TARGET = re.compile(r"[A-Za-z0-9_().-]{0,40}")
RUNNING = ("starting", "searching", "waiting", "judging", "confirming", "packaging")
TAKING = ("starting", "searching", "waiting", "judging")
HIDDEN = ("expected", "reference", "allowed")  # fields of a counterexample that hold results


class Refusal(Exception):
    """What was asked for cannot be done; the message says why and what can."""


# -- what callers give -----------------------------------------------------------------------------


def sized(text: object, limit: int, what: str) -> str:
    """A text of at most so many bytes."""
    if not isinstance(text, str):
        raise Refusal(f"{what} must be a string")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise Refusal(f"{what} has {size} bytes; at most {limit} are taken")
    if "\0" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise Refusal(f"{what} holds characters that no text file may hold")
    return text


def named(text: object, pattern: re.Pattern[str], what: str) -> str:
    """A name of the given form; it is what paths are made of."""
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise Refusal(f"there is no {what} of that name")
    return text


def bound_types(types: Mapping[str, str] | None) -> dict[str, str]:
    """A binding of type variables."""
    out = {}
    for name, value in (types or {}).items():
        if not NAME.fullmatch(str(name)) or value not in DTYPES:
            raise Refusal(f"types bind names to element types: {', '.join(DTYPES)}")
        out[str(name)] = value
    return out


@dataclass(frozen=True, slots=True)
class Specs:
    """The specs that may be named: those below a root, and those of the operator library."""

    root: Path

    def library(self) -> Path | None:
        from opwright.spec_files import library_folder

        return library_folder()

    def listed(self) -> list[str]:
        """Names of specs, the root's own first; `library:...` for those that are shipped."""
        own = []
        for path in sorted(self.root.rglob("*.op"))[:500]:
            with contextlib.suppress(Refusal, OSError):
                self._inside(path, self.root)
                own.append(str(path.relative_to(self.root)))
        library = self.library()
        shipped = sorted(library.rglob("*.op")) if library else []
        return [*own, *(f"library:{p.relative_to(library)}" for p in shipped if library)]

    def text(self, spec: object) -> str:
        """The text of a spec, given as itself or by a name from the list."""
        return self.read(spec)[0]

    def read(self, spec: object) -> tuple[str, Path | None]:
        """The text of a spec, and the file that it is from."""
        if isinstance(spec, str) and ("\n" in spec or "{" in spec):
            return sized(spec, LARGEST_SPEC, "the spec"), None
        if not isinstance(spec, str) or not spec or len(spec) > 400 or "\0" in spec:
            raise Refusal("a spec is its text, or a name that list_specs gives")
        folder, name = self.root, spec
        library = self.library()
        if spec.startswith("library:") and library is not None:
            folder, name = library, spec.removeprefix("library:")
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".op":
            raise Refusal("a spec is named by its path below the root and ends in .op")
        whole = self._inside(folder / path, folder)
        try:
            if whole.stat().st_size > LARGEST_SPEC:
                raise Refusal(f"{spec} is larger than {LARGEST_SPEC} bytes")
            return sized(whole.read_text(encoding="utf-8"), LARGEST_SPEC, "the spec"), whole
        except (OSError, UnicodeDecodeError):
            raise Refusal(f"there is no spec {spec}; list_specs names those there are") from None

    @staticmethod
    def _inside(path: Path, folder: Path) -> Path:
        """The path with links followed; it must still be in the folder, and a plain file."""
        try:
            whole = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise Refusal(
                f"there is no spec {path.name}; list_specs names those there are"
            ) from None
        if not whole.is_relative_to(folder.resolve()) or not whole.is_file():
            raise Refusal("a spec is a file below the root")
        return whole


# -- sessions --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Session:
    """One search that takes candidates from outside."""

    ident: str
    path: Path
    process: subprocess.Popen[bytes] | None = None

    def settings(self) -> dict[str, Any]:
        return _read(self.path / "session.json")

    def state(self) -> dict[str, Any]:
        """What the search is doing; `lost` where its process ended without a word."""
        try:
            found = _read(self.path / "state.json")
        except Refusal:
            found = {"state": "starting"}
        if found["state"] in RUNNING and not self.running:
            found = {**found, "state": "lost"}
        return found

    @property
    def running(self) -> bool:
        """Whether a process judges, this server's or another one's."""
        if self.process is not None and self.process.poll() is None:
            return True
        try:
            with (self.path / LOCK).open("r+") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def history(self) -> tuple[Archive, History] | None:
        """The archive and the run, None before there is one."""
        state = self.state()
        path = Path(str(state.get("archive", "")))
        if not state.get("archive") or not path.exists():
            return None
        archive = Archive(path)
        name = state.get("proposer")
        runs = [r["id"] for r in archive.runs() if r["settings"].get("proposer") == name]
        if not runs:
            archive.close()
            return None
        return archive, History.of(archive, runs[-1])

    def submissions(self) -> list[str]:
        folder = self.path / "desk" / "round-1" / "answers"
        found = sorted(p.stem for p in folder.glob("s*.json") if SUBMISSION.fullmatch(p.stem))
        return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Refusal(f"{path.name} of the session cannot be read") from None
    if not isinstance(found, dict):
        raise Refusal(f"{path.name} of the session cannot be read")
    return found


@dataclass(slots=True)
class Job:
    """A check or a description under way in a process of its own."""

    process: subprocess.Popen[bytes]
    output: Path
    begin: float
    what: str


@dataclass(slots=True)
class Sessions:
    """All sessions and jobs of one server. `unsafe`: candidates also run where no sandbox works."""

    specs: Specs
    most: int = 2
    unsafe: bool = False
    open: dict[str, Session] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return cache_folder() / "sessions"

    # -- jobs: checks and descriptions --------------------------------------------------------

    def check(self, spec: object) -> str:
        """Begin to check a spec; the job's id."""
        path = self._spec_file(self.specs.text(spec))
        return self._job([sys.executable, "-m", "opwright", "check", str(path), "--json"], "check")

    def describe(self, spec: object, op: str, types: Mapping[str, str] | None) -> str:
        """Begin to describe an operator; the job's id."""
        if op:
            named(op, NAME, "operator")
        path = self._spec_file(self.specs.text(spec))
        words = ["--describe", str(path), op, json.dumps(bound_types(types))]
        command = [sys.executable, "-m", "opwright.compiler.attending", *words]
        return self._job(command, "describe")

    def _spec_file(self, text: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="spec-", dir=_made(self.folder)))
        path = folder / "spec.op"
        path.write_text(text, encoding="utf-8")
        return path

    def _job(self, command: list[str], what: str) -> str:
        if sum(j.process.poll() is None for j in self.jobs.values()) >= 4:
            raise Refusal("four jobs are under way; ask for one of them with get_job first")
        ident = secrets.token_hex(4)
        output = Path(command[3]).parent / "out.json"
        for word in command:
            if word.endswith("spec.op"):
                output = Path(word).parent / "out.json"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL
            )
        self.jobs[ident] = Job(process, output, time.monotonic(), what)
        return ident

    def job(self, ident: object) -> dict[str, Any]:
        """What came of a job, or that it is under way."""
        found = self.jobs.get(named(ident, SESSION, "job"))
        if found is None:
            raise Refusal("there is no job of that name")
        code = found.process.poll()
        if code is None:
            if time.monotonic() - found.begin > CHECK_LIMIT:
                found.process.kill()
                found.process.wait()
                return {"job": ident, "state": "failed", "error": f"no end in {CHECK_LIMIT:g} s"}
            return {"job": ident, "state": "running", "seconds": time.monotonic() - found.begin}
        try:
            data = json.loads(found.output.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"job": ident, "state": "failed", "error": f"it ended with status {code}"}
        return {"job": ident, "state": "done", "holds": code == 0, "result": data}

    # -- searches -----------------------------------------------------------------------------

    def start(
        self,
        spec: object,
        op: str,
        types: Mapping[str, str] | None,
        backend: str,
        target: str,
        own: int,
        budget: int,
        seed: int,
    ) -> str:
        """Begin a search that takes candidates; the session's id."""
        text, origin = self.specs.read(spec)
        if op:
            named(op, NAME, "operator")
        if backend not in LANGUAGES:
            raise Refusal(f"there is no backend of that name; backends: {', '.join(LANGUAGES)}")
        named(target, TARGET, "target")
        if sum(s.running for s in self.open.values()) >= self.most:
            raise Refusal(f"{self.most} searches are under way; finish one of them first")
        if not 1 <= own <= budget <= MOST_BUDGET:
            raise Refusal(f"1 <= builtin_candidates <= budget <= {MOST_BUDGET} must hold")
        ident = secrets.token_hex(4)
        path = _made(self.folder / ident)
        settings = {
            "op": op or None,
            "types": bound_types(types),
            "backend": backend,
            "target": target,
            "own": own,
            "budget": budget,
            "seed": int(seed),
            "require": "proved",
            "unsafe": self.unsafe,
            "origin": str(origin) if origin else None,
        }
        (path / "spec.op").write_text(text, encoding="utf-8")
        (path / "session.json").write_text(json.dumps(settings, indent=2) + "\n")
        self.open[ident] = Session(ident, path)
        self._launch(self.open[ident])
        return ident

    def _launch(self, session: Session) -> None:
        if sum(s.running for s in self.open.values()) >= self.most:
            raise Refusal(f"{self.most} searches are under way; finish one of them first")
        log = (session.path / "log.txt").open("ab")
        with log:
            session.process = subprocess.Popen(
                [sys.executable, "-m", "opwright.compiler.attending", str(session.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def resume(self, ident: object) -> Session:
        """Go on with a session whose process has ended before its end."""
        session = self.get(ident)
        state = session.state()["state"]
        if session.running or state in ("finished", "failed"):
            raise Refusal(f"the session is {state}; only one that was stopped or lost goes on")
        with contextlib.suppress(OSError):
            (session.path / "finish").unlink()
        self._launch(session)
        return session

    def get(self, ident: object) -> Session:
        """A session by its id, also one of an earlier server."""
        name = named(ident, SESSION, "session")
        if name not in self.open:
            path = self.folder / name
            if not (path / "session.json").is_file():
                raise Refusal(
                    "there is no session of that name; list_sessions names those there are"
                )
            self.open[name] = Session(name, path)
        return self.open[name]

    def listed(self) -> list[dict[str, Any]]:
        found = sorted(p.name for p in self.folder.glob("*") if SESSION.fullmatch(p.name))
        out = []
        for name in found:
            with contextlib.suppress(Refusal):
                session = self.get(name)
                out.append({"session": name, **status(session)})
        return out

    def submit(self, ident: object, plan: object, source: object, note: object) -> str:
        """Hand a candidate in; the submission's id. What is no candidate at all is refused here."""
        session = self.get(ident)
        state = session.state()["state"]
        if state not in TAKING or (session.path / "finish").exists():
            raise Refusal(f"the search is {state}, or was asked to end: it takes no candidates")
        text = sized(source, LARGEST_SOURCE, "source")
        if not text.strip():
            raise Refusal("source must hold the text of the candidate")
        said = sized(note, LARGEST_SOURCE, "note")[:LONGEST_NOTE]
        if not isinstance(plan, dict):
            raise Refusal("plan must be an object: what would be candidate.json")
        body = json.dumps({"answer": 1, "plan": plan, "source": text, "note": said})
        sized(body, 2 * LARGEST_SOURCE, "the candidate")
        folder = session.path / "desk" / "round-1" / "answers"
        if not folder.is_dir():
            raise Refusal("the search has not begun to take candidates; ask session_status")
        handle, name = tempfile.mkstemp(prefix=".", suffix=".json", dir=folder)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(body)
            try:
                read_answer(temporary, 1)
            except PlanError as e:
                raise Refusal(str(e).replace(f"{temporary}: ", "")) from None
            for number in range(len(session.submissions()) + 1, 10_000):
                final = folder / f"s{number:04d}.json"
                try:
                    os.link(temporary, final)  # unlike a rename it never replaces
                except FileExistsError:
                    continue
                return final.stem
        finally:
            temporary.unlink(missing_ok=True)
        raise Refusal("the session has as many candidates as it can take")

    def finish(self, ident: object) -> Session:
        """End a search: finalists are confirmed, the best is packaged."""
        session = self.get(ident)
        if not session.running:
            raise Refusal(f"the search is {session.state()['state']} already")
        (session.path / "finish").touch()
        return session

    def close(self) -> None:
        """End all processes; sessions can be resumed."""
        for s in self.open.values():
            if s.process is not None and s.process.stdin is not None:
                with contextlib.suppress(OSError):
                    s.process.stdin.close()
        for j in self.jobs.values():
            if j.process.poll() is None:
                j.process.kill()
                j.process.wait()
        deadline = time.monotonic() + 10
        for s in self.open.values():
            if s.process is None:
                continue
            try:
                s.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                s.process.kill()
                s.process.wait()


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


# -- what may be told ------------------------------------------------------------------------------


def status(session: Session) -> dict[str, Any]:
    """What a search is doing and where it stands."""
    state = session.state()
    kept = ("state", "operator", "types", "targets", "error", "notes", "why", "package", "wheel")
    out = {k: state[k] for k in (*kept, "speedup") if state.get(k) is not None}
    settings = session.settings()
    out |= {"backend": settings["backend"], "budget": settings["budget"]}
    found = session.history()
    if found is None:
        return {**out, "evaluated": 0}
    archive, history = found
    archive.close()
    spent = sum(n.candidate.status not in ("illegal", "duplicate") for n in history.nodes)
    best = history.winner
    out |= {"evaluated": spent, "left": max(settings["budget"] - spent, 0)}
    if best is not None:
        out["best"] = {"number": best.number, "score": best.score, "origin": best.candidate.origin}
    return out


def ranks(history: History) -> dict[int, int]:
    """Places of the candidates that passed, 1 the best: what the search ended with, then those
    that were confirmed side by side, then the others."""
    first = history.winner
    order = sorted(history.ranked, key=lambda n: n is not first)
    return {n.number: place for place, n in enumerate(order, 1)}


def brief(record: Any) -> dict[str, Any]:
    """A record without what the reference computes."""
    found = record.to_json()
    out = {k: found[k] for k in ("id", "kind", "status") if found[k]}
    if found["reason"]:
        out["reason"] = unexpected(str(found["reason"]))
    if found["counterexample"]:
        out["counterexample"] = hidden(found["counterexample"])
    return out


def hidden(value: Any) -> Any:
    """A counterexample without expected results: where, at which sizes, on which inputs."""
    if isinstance(value, Mapping):
        return {k: hidden(v) for k, v in value.items() if k not in HIDDEN}
    if isinstance(value, list | tuple):
        return [hidden(v) for v in value]
    return unexpected(value) if isinstance(value, str) else value


def row(node: Node, places: Mapping[int, int]) -> dict[str, Any]:
    """A candidate in a table."""
    c = node.candidate
    return {
        "number": c.number,
        "rank": places.get(c.number),
        "status": c.status,
        "reason": unexpected(c.reason),
        "score": node.score,
        "times": times(node),
        "origin": c.origin,
        "parent": c.parent,
        "schedule": c.schedule,
        "confirmed": node.confirmed,
    }


def times(node: Node) -> dict[str, float]:
    return {w: v["latency"] for w, v in node.metrics.items() if "latency" in v}


def verdict(session: Session, submission: str) -> dict[str, Any]:
    """What came of a submission; `pending` until it was judged."""
    if submission not in session.submissions():
        raise Refusal("there is no submission of that name in this session")
    found = session.history()
    if found is not None:
        archive, history = found
        archive.close()
        mark = f"answer={submission},"
        for node in history.nodes:
            if node.candidate.schedule.startswith("exchange(") and mark in node.candidate.schedule:
                return {"submission": submission, "state": "judged", **full(node, history)}
    state = session.state()
    if state["state"] in RUNNING:
        return {"submission": submission, "state": "pending", "search": state["state"]}
    return {"submission": submission, "state": "not judged", "search": state["state"]}


def full(node: Node, history: History) -> dict[str, Any]:
    """A candidate's verdict: every obligation that is not proved, how many are, where it stands."""
    c = node.candidate
    counts: dict[str, dict[str, int]] = {}
    for r in c.records:
        gate = counts.setdefault(r.kind, {})
        gate[r.status] = gate.get(r.status, 0) + 1
    best = min((n.score for n in history.ranked if n.score is not None), default=None)
    return {
        **row(node, ranks(history)),
        "best_score": best,
        "gates": counts,
        "records": [brief(r) for r in c.records if r.status != "PROVED"],
    }


def profile(node: Node, history: History) -> dict[str, Any]:
    """What is known of a candidate's speed; every field says how it is known."""

    def said(value: Any, how: str) -> dict[str, Any]:
        return {"value": value, "basis": how}

    measured = "measured" if history.operator.get("measured", True) else "modelled"
    loads = history.operator.get("workloads", {})
    out: dict[str, Any] = {}
    for name, values in node.metrics.items():
        seconds = values.get("latency")
        entry: dict[str, Any] = {}
        if values.get("delegated"):  # its facts exclude this workload
            why = "its facts exclude this workload: the best candidate that takes every call runs"
            out[name] = {"excluded": said(why, "from the plan"),
                         "latency_s": said(seconds, f"{measured}, of that candidate")}  # fmt: skip
            continue
        if seconds is not None:
            entry["latency_s"] = said(seconds, measured)
            entry["spread"] = said(values.get("spread"), measured)
            if "share" in values:
                entry["cpu_time_over_wall_time"] = said(values["share"], measured)
            for key, per in (("bytes", "bytes_per_second"), ("flops", "flops_per_second")):
                amount = loads.get(name, {}).get(key)
                if amount and seconds > 0:
                    entry[f"compulsory_{key}" if key == "bytes" else key] = said(amount, "modelled")
                    entry[per] = said(amount / seconds, f"modelled over {measured}")
        if "memory" in values:
            entry["scratch_bytes"] = said(values["memory"], "from the plan")
        if "error" in values:
            entry["error_of_tolerance"] = said(values["error"], "measured")
        out[name] = entry
    build = node.candidate.build
    compiled = {k: said(v, "compiled") for k, v in build.items() if k in ("size", "resources")}
    return {"number": node.number, "workloads": out, "compiled": compiled}


def profiled(session: Session, node: Node, history: History) -> dict[str, Any]:
    """The profile that the search wrote of a candidate, else what its times and build say."""
    own = profile(node, history)
    with contextlib.suppress(Refusal):
        own["report"] = _read(session.path / "profiles" / f"{node.number}.json")
    return own


def task(session: Session) -> dict[str, Any]:
    """What a writer of candidates needs: contract, spec, hardware, the parent with its text and
    times, what was tried, the form of an answer."""
    settings = session.settings()
    state = session.state()
    language = LANGUAGES[settings["backend"]]
    targets = tuple(state.get("targets", ()))
    out: dict[str, Any] = {
        "state": state["state"],
        "role": f"Write one faster {language.title} candidate. Whatever you write is judged: read "
        "back, proved, tested against the spec, and timed. Nothing else counts.",
        "contract": list(language.contract),
        "allowed": dict(language.allowed),
        "words": " ".join(language.words.split()),
        "spec": (session.path / "spec.op").read_text(encoding="utf-8"),
        "operator": state.get("operator"),
        "types": state.get("types", {}),
        "hardware": target_facts(settings["backend"], targets),
        "timed": language.timed,
    }
    found = session.history()
    if found is None:
        return {
            **out,
            "parent": None,
            "tried": [],
            "hint": "candidate 0 is being judged; ask again",
        }
    archive, history = found
    with archive:
        places = ranks(history)
        best = next((n for n in history.nodes if places.get(n.number) == 1), None)
        out["workloads"] = dict(history.operator.get("workloads", {}))
        out["parent"] = None
        if best is not None:
            texts = archive.texts(history.id, best.number)
            out["parent"] = {**row(best, places), **candidate_text(texts)}
            if settings["backend"] == "cpp":  # the machine puts the vocabulary before it again
                level = targets[0].removeprefix("cpu(").removesuffix(")")
                out["parent"]["source"] = without_vocabulary(out["parent"]["source"] or "", level)
            out["profile"] = profiled(session, best, history)
            plan = out["parent"].get("plan") or {}
            out["plan_form"] = {
                "required": {k: plan.get(k) for k in ("abi", "op", "target", "backend", "types")},
                "source": plan.get("source"),
                "schema": plan_schema(),
            }
        out["tried"] = [row(n, places) for n in list(history.nodes)[-30:]]
    out["moves"] = suggested(settings["backend"])
    with contextlib.suppress(Refusal):
        out["advice"] = _read(session.path / "task.json")
    out["ask"] = (
        "Hand in plan (an object of the form of the parent's) and source with submit_candidate; "
        "then ask get_verdict. A candidate has numbers: where a move speaks of holes, hand in one "
        "candidate for each value. Calls that the plan's facts exclude go to another candidate."
    )
    return out


def plan_schema() -> dict[str, Any]:
    """The form of a launch plan, field by field."""
    found = json.loads(PLAN_SCHEMA.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def suggested(backend: str) -> list[dict[str, Any]]:
    """Moves that a backend knows, in words."""
    from opwright.search.moves import moves

    return [
        {"name": m.name, "title": m.title, "why": m.why}
        for m in moves()
        if not m.backends or backend in m.backends
    ]


def candidate_text(texts: Mapping[str, str]) -> dict[str, Any]:
    """Plan and source of a candidate, where there are any."""
    try:
        plan = json.loads(texts["candidate.json"])
    except (KeyError, ValueError):
        return {"plan": None, "source": None}
    return {"plan": plan, "source": texts.get(str(plan.get("source")), None)}


def told(value: Mapping[str, Any]) -> dict[str, Any]:
    """A reply in JSON's own types."""
    found = plain(dict(value))
    assert isinstance(found, dict)
    return found


def known(found: tuple[Archive, History] | None) -> tuple[Archive, History]:
    if found is None:
        raise Refusal("nothing was judged yet; ask session_status")
    return found
