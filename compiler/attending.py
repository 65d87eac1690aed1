"""A search that waits for candidates from outside while it runs: one process, one session folder.

`python -m opwright.compiler.attending FOLDER` compiles as `session.json` in the folder says. First
the built-in proposer has its turn, then texts that appear in `desk/` are judged one by one, by the
same gates as every candidate, until `finish` appears, the budget is spent, or standard input ends.
What it is doing is in `state.json`; verdicts are in the archive. Nobody but this process writes
either. `python -m opwright.compiler.attending --describe FILE OP TYPES` prints what an operator is.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from opwright.backends.cpp.inspection import Report, report
from opwright.compiler.backend import Backend, CompileError
from opwright.compiler.elaborate import Spec, load_spec
from opwright.compiler.exchanging import Desk, Medium, fixed_of, judge, medium_of
from opwright.compiler.paths import cache_folder
from opwright.ir.op import Operator
from opwright.search.archive import Candidate, archive_path
from opwright.search.events import Confirming, Evaluated, Event, Note, Proposed, SearchResult
from opwright.search.exchange import Exchange, Folder, Texts, write
from opwright.search.propose import Builtin, Proposal, View
from opwright.search.results import TextSpace
from opwright.search.space import parse, space_of
from opwright.verify.cases import know

PAUSE = 0.1  # seconds between two looks into the folder
LOCK = "lock"  # of a session's folder; whoever judges there holds it
GRACE = 20.0  # seconds to put things in order when nobody is there any more


@dataclass(slots=True)
class Room:
    """A session folder as the search sees it."""

    path: Path
    said: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        found = json.loads((self.path / "session.json").read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    def say(self, state: str, **more: Any) -> None:
        """Replace what the state file says."""
        self.said |= {"state": state, "at": time.time(), **more}
        write(self.path / "state.json", json.dumps(self.said, default=str) + "\n")

    @property
    def finishing(self) -> bool:
        return (self.path / "finish").exists()


@dataclass(frozen=True, slots=True)
class Live(Exchange):
    """The proposer of a session: as of an exchange folder, but it waits for the next answer."""

    room: Room = field(default_factory=lambda: Room(Path()), compare=False)
    clerk: Clerk | None = field(default=None, compare=False)
    folder: Folder = field(default_factory=lambda: Folder(Path()), compare=False)

    @property
    def name(self) -> str:
        return f"session({self.inner.name}, {self.own}, {self.ident})"

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        found = Exchange.propose(self, view, count, rng)
        if not found and self.clerk is not None:
            self.clerk.write(view, self.room.path)
        while not found and not self.room.finishing:
            self.room.say("waiting", candidates=len(view.candidates))
            time.sleep(PAUSE)
            if self.folder.collect():
                found = Exchange.propose(self, view, count, rng)
        self.room.say("searching", candidates=len(view.candidates))
        return found


@dataclass(slots=True)
class Clerk:
    """Writes what the next author is told: `task.json`, and `profiles/NUMBER.json` of candidates
    that passed."""

    op: Operator
    text: str
    medium: Medium
    ident: str
    unknown: str = ""  # why nothing can be told

    def write(self, view: View, path: Path) -> None:
        if self.unknown:
            return
        try:
            self._write(view, path)
        except (ValueError, ArithmeticError, KeyError, OSError) as e:
            # a task without advice is a task; verdicts do not depend on it
            self.unknown = f"{type(e).__name__}: {e}"

    def _write(self, view: View, path: Path) -> None:
        from opwright.compiler.guiding import context_of, learned, limits_of
        from opwright.compiler.limiting import described
        from opwright.compiler.profiling import profile
        from opwright.search.experience import Bandit
        from opwright.search.moves import fitting

        backend, targets = self.medium.backend, self.medium.targets
        context = context_of(self.op, self.text, self.medium, backend, targets)
        limits = limits_of(self.op, backend, targets)
        (path / "profiles").mkdir(exist_ok=True)
        for c in view.candidates:
            file = path / "profiles" / f"{c.number}.json"
            if c.ok and not file.exists():
                said = self._said(c, view)
                made = profile(c, limits, backend == "triton", said, self._seen(c, view))
                write(file, made.model_dump_json() + "\n")
        best = min(view.scores, key=lambda n: (view.scores[n], n), default=None)
        parent = next((c for c in view.candidates if c.number == best), None)
        label, why = "unknown", ""
        seen: dict[str, Any] = {}
        if parent is not None:
            seen = {**parent.build, **self._seen(parent, view)}
            label, why = limits.diagnose(replace(parent, build=seen))
        known = learned()
        bandit = Bandit(known, context.forms, limits.machine.name, backend)
        chance = Random(f"{self.ident}:{len(view.candidates)}")
        move = bandit.choose(fitting(context.forms, backend, label), label, chance)
        told = known.told(context.forms, limits.machine.name, backend, context.operator)
        task: dict[str, Any] = {
            "parent": best,
            "bottleneck": label,
            "why": why,
            "built": described(seen),
            "forms": list(context.forms),
            "hardware": [list(row) for row in context.hardware],
            "floors": dict(context.floors),
            "measured_elsewhere": list(told),
            "move": None,
        }
        if move is not None:
            snippet = move.snippet.get(backend, "")
            task["move"] = {
                "name": move.name,
                "title": move.title,
                "why": move.why,
                "expected": list(move.gain),
                "snippet": snippet,
            }
        write(path / "task.json", json.dumps(task, default=str) + "\n")

    def _said(self, c: Candidate, view: View) -> Report | None:
        """What the compiler says of the loops of a text."""
        schedule = parse(c.schedule)
        space = space_of(view.spaces, schedule)
        if self.medium.backend != "cpp" or not isinstance(space, TextSpace):
            return None
        level = self.medium.targets[0].removeprefix("cpu(").removesuffix(")")
        return report(space.given(schedule).emitted.source, level)

    def _seen(self, c: Candidate, view: View) -> Mapping[str, Any]:
        """What is built of a candidate, where the archive does not say."""
        if "loops" in c.build or self.medium.backend != "cpp":
            return {}
        schedule = parse(c.schedule)
        space = space_of(view.spaces, schedule)
        if isinstance(space, TextSpace):
            return self.medium.look(space.given(schedule).emitted)
        own = self.medium.own(space.instantiate(schedule))
        return self.medium.look(self.medium.emit(own.plan, own.source))


class Attended(Desk):
    """A desk whose answers come while the search runs: nothing is asked for by files."""

    __slots__ = ()

    def searched(self, result: SearchResult) -> None:
        assert isinstance(self.proposer, Live)
        self.proposer.room.say("packaging", why=result.why, noise=result.noise)

    def notes(self) -> list[str]:
        return []


def desk(room: Room, op: Operator, spec: Spec, backend: Backend, budget: int, own: int) -> Attended:
    """The desk of a session; `own` candidates come from the built-in proposer."""
    medium = medium_of(backend.name, backend.targets, op)
    types = "".join(f", {k} = {v}" for k, v in op.types.items())
    subject = f"{op.name}@{op.version}{types} for {', '.join(backend.targets)}"
    folder = Folder.open(room.path / "desk", subject)
    folder.fixed = fixed_of(op, backend.name, backend.targets)
    if folder.round == 0:
        folder.ask({})
    folder.collect()
    space = Texts(folder.taken, lambda a: judge(a, op, medium))
    clerk = Clerk(op, spec.source, medium, folder.ident)
    proposer = Live(
        Builtin(), own, folder.taken, folder.ident, room=room, clerk=clerk, folder=folder
    )
    room.say(
        "searching",
        archive=str(archive_of(op, backend)),
        proposer=proposer.name,
        operator=f"{op.name}@{op.version}",
        types=dict(op.types),
        targets=list(backend.targets),
    )
    # the budget counts all: a session's candidates and those before them
    return Attended(op, spec.source, folder, medium, budget - len(folder.taken), space, proposer)


def archive_of(op: Operator, backend: Backend) -> Path:
    """The archive that a backend keeps of an operator."""
    key = "-".join(backend.targets)
    if backend.name == "cpp":
        key = str(getattr(backend, "level", ""))
    elif backend.name == "jax":
        key = "jax"
    return archive_path(cache_folder() / "archive", op.name, op.types, key)


def attend(path: Path) -> int:
    """Run a session to its end; 0 when a package was written, 1 when none could be."""
    from opwright.backends.isolation import permit_unsafe
    from opwright.compiler.pipeline import compile_spec

    room = Room(path)
    asked = room.settings()
    if asked.get("unsafe"):
        permit_unsafe()

    def heard(event: Event) -> None:
        match event:
            case Proposed():
                room.say("judging", number=event.number, schedule=event.schedule)
            case Evaluated():
                done = int(room.said.get("evaluated", 0)) + 1
                room.say("searching", evaluated=done, number=None, schedule=None)
            case Confirming():
                room.say("confirming", numbers=list(event.numbers))
            case Note():
                room.say(str(room.said["state"]), notes=[*room.said.get("notes", []), event.text])
            case _:
                pass

    room.say("starting", process=os.getpid(), error=None)
    try:
        if asked.get("origin"):  # kept cases lie beside the spec that was named
            know(Path(asked["origin"]), load_spec(path / "spec.op").names)
        result = compile_spec(
            path / "spec.op",
            asked["op"],
            target=asked["target"],
            backend=asked["backend"],
            budget=asked["budget"],
            out=path / "out",
            seed=asked["seed"],
            types=asked["types"] or None,
            require=asked["require"],
            progress=heard,
            desk_of=lambda op, spec, backend, budget: desk(
                room, op, spec, backend, budget, min(asked["own"], budget)
            ),
        )
    except KeyboardInterrupt:
        room.say("stopped")
        return 1
    except Exception as e:
        lines = [str(e), getattr(e, "cure", "")]
        diagnostics = getattr(e, "diagnostics", ())
        lines = [d.headline for d in diagnostics] or lines
        kind = "" if isinstance(e, CompileError) or diagnostics else f"{type(e).__name__}: "
        room.say("failed", error=kind + "; ".join(x for x in lines if x)[:2000])
        return 1
    room.say(
        "stopped" if result.stopped else "finished",
        package=str(result.package),
        wheel=str(result.wheel),
        speedup=result.speedup,
        why=result.why,
        winner=dict(result.winner),
        verdict=result.verdict.status,
    )
    return 0


def watch() -> None:
    """End this process in order when standard input ends: whoever started it is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# -- what an operator is ---------------------------------------------------------------------------


def describe(path: Path, name: str | None, types: Mapping[str, str]) -> dict[str, Any]:
    """An operator in words and numbers: index notation, interface, workloads, cost, bindings."""
    from opwright.compiler.pipeline import choose
    from opwright.compiler.stored import stored_form
    from opwright.ir.expr import evaluate, show
    from opwright.ir.formulas import compulsory_bytes, flops
    from opwright.ir.op import show_operator
    from opwright.search.loads import host, memory_limit, workloads

    spec = load_spec(path)
    chosen = choose(spec, name)
    bindings = [dict(b) for b in spec.bindings(chosen)]
    fit = [b for b in bindings if all(b.get(k) == v for k, v in types.items())]
    if not fit:
        raise CompileError("the spec has no such binding of types", f"bindings: {bindings}")
    op = stored_form(spec.operator(chosen, fit[0]))
    work, traffic = flops(op), compulsory_bytes(op)
    loads = []
    found, notes = workloads(op, memory_limit())
    for _, scaled in found:
        env = {**scaled.params, **scaled.sizes}
        loads.append(
            {
                "name": scaled.name,
                "weight": scaled.weight,
                "sizes": dict(scaled.sizes),
                "params": dict(scaled.params),
                "flops": int(evaluate(work, env)),
                "compulsory_bytes": int(evaluate(traffic, env)),
            }
        )
    return {
        "operator": f"{op.name}@{op.version}",
        "doc": op.doc,
        "operators": list(spec.names),
        "bindings": bindings,
        "types": dict(op.types),
        "index_notation": show_operator(op),
        "inputs": [_tensor(t) for t in op.inputs],
        "outputs": [_tensor(t) for t in op.outputs],
        "params": [{"name": p.name, "type": p.dtype.name} for p in op.params],
        "sizes": list(op.sizes),
        "flops": show(work),
        "compulsory_bytes": show(traffic),
        "objective": [list(t) for t in op.objective.terms],
        "tolerance": {k: dict(v) for k, v in op.tolerance.items()},
        "workloads": loads,
        "notes": notes,
        "machine": host(),
    }


def _tensor(t: Any) -> dict[str, Any]:
    from opwright.ir.expr import show

    return {"name": t.name, "type": t.dtype.name, "shape": [show(e) for e in t.shape]}


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--describe"]:
        try:
            found = describe(Path(arguments[1]), arguments[2] or None, json.loads(arguments[3]))
        except Exception as e:
            lines = [d.headline for d in getattr(e, "diagnostics", ())] or [str(e)]
            print(json.dumps({"error": "; ".join([*lines, getattr(e, "cure", "")])}))
            return 1
        print(json.dumps(found, default=str))
        return 0
    room = Path(arguments[0])
    with (room / LOCK).open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{room} is being judged by another process", file=sys.stderr)
            return 1
        watch()
        return attend(room)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
