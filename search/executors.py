"""Where candidates are judged and timed: in this process, or on a Ray cluster.

An executor has workers that prove, compile and test, any number at a time, and one exclusive slot a
device that times. A worker that is lost takes no result with it: what it was at is done again, and
what was finished is in the archive. Jobs travel as texts, which read back as what they were.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from opwright.ir.op import Operator
from opwright.ir.plan import from_json
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import digest, parse_program, show_program
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.results import (
    Confirmation,
    Emitted,
    Evaluation,
    Given,
    Incumbent,
    Job,
    Options,
    Tools,
)
from opwright.search.space import parse

EXECUTORS = ("local", "ray")
DEVICE = "opwright_device"  # the resource of a node that times; it has one
TRIES = 3  # of a job whose worker was lost
LOOK = 0.5  # seconds between two looks at a job
STORE = 100 << 20  # bytes of a local cluster's object store


class ExecutorError(RuntimeError):
    """The executor cannot be used; the message says why and what to do."""


class Executor(Protocol):
    """Judges jobs (from several threads at once), times those that passed, one at a time."""

    @property
    def workers(self) -> int:
        """How many jobs are judged at a time."""
        ...

    @property
    def context(self) -> str:
        """What results depend on, on the machine that times."""
        ...

    def judge(self, job: Job) -> Evaluation: ...

    def measure(self, job: Job, result: Evaluation, incumbent: Incumbent | None) -> Evaluation: ...

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a worker makes its evaluator: a function by name (module:function) and plain
    arguments."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> CandidateEvaluator:
        module, _, name = self.function.partition(":")
        made = getattr(importlib.import_module(module), name)(**self.arguments)
        assert isinstance(made, CandidateEvaluator)
        return made


# -- jobs as texts ---------------------------------------------------------------------------------


def packed(job: Job) -> dict[str, Any] | None:
    """A job in plain data; None where its program does not read back as what it is."""
    text = show_program(job.program) if job.program.kernels else ""
    if text:
        try:
            if digest(parse_program(text)) != digest(job.program):
                return None
        except ValueError:
            return None
    given = None
    if job.given is not None:
        e = job.given.emitted
        given = {
            "digest": job.given.digest,
            "source": e.source,
            "driver": e.driver,
            "plan": e.plan.to_json(),
            "records": [r.to_json() for r in job.given.records],
        }
    if not text and (given is None or job.program.facts):
        return None  # nothing to read the program from
    return {
        "number": job.number,
        "schedule": job.schedule.text,
        "name": job.program.name,
        "program": text,
        "digest": job.digest,
        "given": given,
    }


def unpacked(data: Mapping[str, Any]) -> Job:
    """The job that was packed."""
    program = (
        parse_program(data["program"]) if data["program"] else TileProgram(data["name"], (), ())
    )
    given = None
    if data["given"] is not None:
        g = data["given"]
        records = tuple(record(r) for r in g["records"])
        emitted = Emitted(g["source"], g["driver"], from_json(g["plan"]))
        given = Given(g["digest"], emitted, records)
    return Job(data["number"], parse(data["schedule"]), program, data["digest"], given)


def record(data: Mapping[str, Any]) -> Record:
    return Record(**{**data, "assumptions": tuple(data["assumptions"])})


def packed_incumbent(i: Incumbent | None) -> dict[str, Any] | None:
    """An incumbent in plain data; None for none, and where it does not read back."""
    if i is None:
        return None
    job, base = packed(i.job), packed(i.base) if i.base else None
    if job is None:
        return None
    metrics, base_metrics = _plain(i.metrics), _plain(i.base_metrics)
    return {"job": job, "metrics": metrics, "base": base, "base_metrics": base_metrics}


def unpacked_incumbent(data: Mapping[str, Any] | None) -> Incumbent | None:
    if data is None:
        return None
    base = unpacked(data["base"]) if data["base"] else None
    return Incumbent(unpacked(data["job"]), data["metrics"], base, data["base_metrics"])


def _plain(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {w: dict(v) for w, v in metrics.items()}


# -- the evaluator that hands its work out ---------------------------------------------------------


class Distributed(CandidateEvaluator):
    """An evaluator whose work is done by an executor; jobs that cannot travel are done here."""

    def __init__(
        self, op: Operator, tools: Tools, options: Options | None, executor: Executor
    ) -> None:
        super().__init__(op, tools, replace(options or Options(), workers=executor.workers))
        self.executor = executor

    @property
    def context(self) -> str:
        return self.executor.context

    def judge(self, job: Job) -> Evaluation:
        if packed(job) is None:
            return super().judge(job)
        return self.executor.judge(job)

    def timed(self, job: Job, result: Evaluation, incumbent: Incumbent | None) -> Evaluation:
        jobs = [job, *([incumbent.job] if incumbent else [])]
        if any(packed(j) is None for j in jobs):
            return super().timed(job, result, incumbent)
        return self.executor.measure(job, result, incumbent)

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
        everyone = [*jobs, *([baseline] if baseline else [])]
        if any(packed(j) is None for j in everyone):
            return super().confirm(jobs, baseline)
        return self.executor.confirm(jobs, baseline)

    def close(self) -> None:
        super().close()
        self.executor.close()


class Bench:
    """What a worker process holds: an evaluator of its own. Plain data in, plain data out."""

    def __init__(self, recipe: Recipe, unsafe: bool = False) -> None:
        from opwright.backends.isolation import permit_unsafe

        os.environ.pop("OMP_NUM_THREADS", None)  # a cluster's guess is not what is measured with
        if unsafe:
            permit_unsafe()
        self.evaluator = recipe.make()

    def ready(self) -> dict[str, Any]:
        return {"process": os.getpid(), "context": self.evaluator.context}

    def judge(self, job: Mapping[str, Any]) -> Evaluation:
        return _sendable(self.evaluator.judge(unpacked(job)))

    def measure(
        self, job: Mapping[str, Any], result: Evaluation, incumbent: Mapping[str, Any] | None
    ) -> Evaluation:
        return _sendable(self.evaluator.timed(unpacked(job), result, unpacked_incumbent(incumbent)))

    def confirm(
        self, jobs: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any] | None
    ) -> Confirmation:
        base = unpacked(baseline) if baseline else None
        found = self.evaluator.confirm([unpacked(j) for j in jobs], base)
        metrics = {n: _plain(m) for n, m in found.metrics.items()}
        return Confirmation(metrics, found.noise, tuple(found.notes))


def _sendable(e: Evaluation) -> Evaluation:
    """The evaluation in plain data that any process can read."""
    build = json.loads(json.dumps(dict(e.build), default=str))
    records = tuple(record(json.loads(json.dumps(r.to_json()))) for r in e.records)
    return Evaluation(e.status, e.reason, e.source, records, build, _plain(e.metrics))


# -- Ray -------------------------------------------------------------------------------------------


class RayExecutor:
    """Workers and the slot as actors of a Ray cluster: `address`, RAY_ADDRESS, or one of this
    machine's own that ends with this object. The slot needs a node with the resource
    `opwright_device`."""

    def __init__(
        self, recipe: Recipe, workers: int = 0, address: str = "", unsafe: bool = False
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ExecutorError("Ray is not installed: pip install opwright[ray]") from None
        self.ray: Any = ray
        self.recipe, self.unsafe = recipe, unsafe
        self.mine = not self.ray.is_initialized()
        if self.mine:
            self._connect(address or os.environ.get("RAY_ADDRESS", ""))
        found = self.ray.cluster_resources()
        if found.get(DEVICE, 0) < 1:
            self.close()
            raise ExecutorError(
                f"no node of the cluster has the resource {DEVICE}; start the one that times with "
                f"ray start --resources '{{\"{DEVICE}\": 1}}'"
            )
        self.workers = workers or max(1, int(found.get("CPU", 1)))
        self.lost = 0
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._idle: queue.Queue[Any] = queue.Queue()
        for _ in range(self.workers):
            self._idle.put(self._worker())
        self._slot = self._device()
        self.context = str(self._ask_slot("ready")["context"])

    def _connect(self, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address:
            self.ray.init(address=address, **quiet)
            return
        cpus = os.cpu_count() or 1
        self.ray.init(
            address="local",
            num_cpus=cpus,
            resources={DEVICE: 1},
            include_dashboard=False,
            object_store_memory=STORE,
            **quiet,
        )

    def _worker(self) -> Any:
        return self.ray.remote(num_cpus=1, max_restarts=0)(Bench).remote(self.recipe, self.unsafe)

    def _device(self) -> Any:
        made = self.ray.remote(num_cpus=0, resources={DEVICE: 1}, max_restarts=0)(Bench)
        return made.remote(self.recipe, self.unsafe)

    def _result(self, reference: Any) -> Any:
        """What a worker answers, watched so that nobody waits for it after the end."""
        while not self.closed.is_set():
            done, _ = self.ray.wait([reference], timeout=LOOK)
            if done:
                return self.ray.get(reference)
        raise ExecutorError("the executor was closed")

    @property
    def _losses(self) -> tuple[type[BaseException], ...]:
        e = self.ray.exceptions
        return (e.RayActorError, e.WorkerCrashedError, e.NodeDiedError, e.ObjectLostError)

    def judge(self, job: Job) -> Evaluation:
        data = packed(job)
        assert data is not None
        for _ in range(TRIES):
            worker = self._idle.get()
            try:
                found = self._result(worker.judge.remote(data))
                assert isinstance(found, Evaluation)
                return found
            except self._losses:
                worker = self._again(self._worker)
            finally:
                self._idle.put(worker)
        return Evaluation("crashed", f"the worker that judged it was lost {TRIES} times")

    def _again(self, make: Callable[[], Any]) -> Any:
        with self._lock:
            self.lost += 1
        return make()

    def _ask_slot(self, method: str, *arguments: Any) -> Any:
        """An answer of the slot; one that is lost is replaced and asked again."""
        for turn in range(TRIES):
            try:
                return self._result(getattr(self._slot, method).remote(*arguments))
            except self._losses as e:
                if turn == TRIES - 1:
                    raise ExecutorError(f"the measuring slot was lost {TRIES} times: {e}") from None
                self._slot = self._again(self._device)
        raise AssertionError

    def measure(self, job: Job, result: Evaluation, incumbent: Incumbent | None) -> Evaluation:
        sent = (packed(job), _sendable(result), packed_incumbent(incumbent))
        found = self._ask_slot("measure", *sent)
        assert isinstance(found, Evaluation)
        return found

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
        sent = ([packed(j) for j in jobs], packed(baseline) if baseline else None)
        found = self._ask_slot("confirm", *sent)
        assert isinstance(found, Confirmation)
        return found

    def processes(self) -> list[int]:
        """Process ids of the workers that are idle, and of the slot at the end."""
        found = []
        waiting = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        for w in waiting:
            found.append(int(self._result(w.ready.remote())["process"]))
            self._idle.put(w)
        return [*found, int(self._ask_slot("ready")["process"])]

    def close(self) -> None:
        """End the workers; a cluster of our own ends with them."""
        if hasattr(self, "closed"):
            self.closed.set()
            with contextlib.suppress(Exception):
                for actor in [*self._idle.queue, self._slot]:
                    self.ray.kill(actor)
        if self.mine:
            self.ray.shutdown()
            self.mine = False


def recipe_options(options: Options) -> dict[str, Any]:
    """Options as plain arguments of a recipe."""
    plain = asdict(options)
    plain.pop("lock", None)
    return plain
