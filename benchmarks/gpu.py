"""`make gpu`: the GPU candidates of the operator library on an NVIDIA GPU, in nine minutes.

    python -m opwright.benchmarks.gpu [OPERATOR...] [--seconds 540] [--out DIR] [--kinds first,time]
        [--again]
    python -m opwright.benchmarks.gpu --tables FILE     # a document as Markdown
    python -m opwright.benchmarks.gpu --rehearse        # without a GPU, with times that are made up

It needs torch with CUDA, Triton and numpy, of any recent versions, and nothing else of the
project's dependencies; CUDA candidates need nvcc, too. The device's ceilings come first. Then
differential tests of Triton and CUDA candidates, times against torch eager, torch.compile and
public kernels that can be imported, compute-sanitizer and energy on samples take turns, so that a
run that ends early has some of everything. What the model says is written down, and hashed, before
a candidate is timed. A child process does the work: a candidate that crashes or hangs costs its own
job, and what was found is kept. The result is a JSON file under benchmarks/results/<device>/, from
which the next run goes on. Exit codes: 0 all candidates that ran are right, 1 one is wrong or there
is no GPU; `make` itself then exits with 2. No part of this was ever run on a GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opwright.benchmarks.gpu_report import chained, page, tables

RESULTS = Path(__file__).resolve().parent / "results"
SECONDS = 540.0
PER_TEST, PER_TIME = 40.0, 25.0  # seconds of one job before its process is ended
LONG = ("time", "energy", "sanitize")  # kinds that may take longer
OVER = "no time was left"
ENDING = 8.0  # seconds kept for the file and the page
CEILINGS = "ceilings"
CHILD = "import sys; from opwright.benchmarks.gpu import main; sys.exit(main(sys.argv[1:]))"
PACKAGES = ("torch", "triton", "jax", "numpy")


def absent() -> str:
    """Why nothing can be measured here, or empty."""
    for name in ("numpy", "torch", "triton"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is not installed for {sys.executable}"
    import torch

    return "" if torch.cuda.is_available() else "torch sees no NVIDIA GPU"


def versions() -> dict[str, str]:
    """Python's version and those of the frameworks that are here."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def slug(name: str) -> str:
    """A device's name as a folder's: `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


# -- the child -------------------------------------------------------------------------------------


def child(labels: Sequence[str], until: float, rehearse: bool = False) -> int:
    """Do the named jobs one after the other; a line of JSON before and after each."""
    from opwright.benchmarks import gpu_jobs

    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        device: Any
        if rehearse:
            from opwright.benchmarks.gpu_rehearsal import Rehearsal

            device, gpu_jobs.CASES = Rehearsal(), 1
        else:
            from opwright.benchmarks.gpu_device import Gpu

            device = Gpu(Path(folder))
        languages = getattr(device, "languages", gpu_jobs.LANGUAGES)
        say({"device": device.describe(), "versions": versions()})
        stems = sorted({m[1] for m in (re.search(r"(\w+)\.op", x) for x in labels) if m})
        known = {j.label: j for j in (*gpu_jobs.jobs(), *gpu_jobs.jobs(stems))}
        for label in labels:
            left = until - time.time()
            if left < ENDING:
                break
            say({"begin": label})
            if label == CEILINGS:
                say({"end": label, "ceilings": device.ceilings()})
                continue
            job = known[label]
            if job.kind == "sanitize":
                say({"end": label, "sanitized": sanitized(job.label, until)})
                continue
            if job.kind == "time":
                say({"predictions": gpu_jobs.predictions(job, device.target, languages)})
            try:
                outcome = gpu_jobs.do(job, device, min(left, PER_TIME) / 3, languages)
            except RuntimeError as e:
                if job.kind != "energy":
                    raise
                say({"end": label, "unmetered": str(e)})
                continue
            found = {k: getattr(outcome, k) for k in ("tests", "times", "energy")}
            say({"end": label, **found})
    return 0


def sanitized(label: str, until: float) -> list[dict[str, Any]]:
    """What compute-sanitizer says of a job's candidates, in a process of its own."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return []
    job = label.replace("sanitize", "first", 1)
    inner = [sys.executable, "-c", CHILD, "--child", json.dumps([[job], until, False])]
    out = []
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--target-processes", "all", *inner]
        limit = max(1.0, min(PER_TEST, until - time.time() - ENDING))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            out.append({"job": label, "tool": name, "status": f"no end in {limit:.0f} s"})
            continue
        out.append({"job": label, "tool": name, "status": summary(done.stdout + done.stderr)})
    return out


def summary(said: str) -> str:
    """The last word of the tool: how many errors."""
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: ([^\n]*)", said)
    return found[-1].strip() if found else "it gave no summary"


def say(message: Mapping[str, Any]) -> None:
    print(json.dumps(message, default=str), flush=True)


# -- the parent ------------------------------------------------------------------------------------

Start = Callable[[Sequence[str], float], "subprocess.Popen[str]"]


def start(labels: Sequence[str], until: float, rehearse: bool = False) -> subprocess.Popen[str]:
    """A child for these jobs."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, "--child", json.dumps([list(labels), until, rehearse])],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def fresh() -> dict[str, Any]:
    """A document of nothing."""
    lists = ("tests", "times", "energy", "sanitized", "predictions", "lost", "skipped", "done")
    return {**{k: [] for k in lists}, "ceilings": {}, "predicted": ""}


def supervise(
    labels: Sequence[str],
    seconds: float,
    begin: Start = start,
    known: Mapping[str, Any] | None = None,
    save: Callable[[Mapping[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """The document: what all children said, and what became of every job. What a document that is
    known has of them is not done again; `save` gets it after every job."""
    deadline = time.time() + seconds
    document: dict[str, Any] = {**fresh(), **(known or {})}
    lost = {x["job"] for x in document["lost"]}
    left = [x for x in labels if x not in document["done"] and x not in lost]
    while left and time.time() < deadline - ENDING:
        process = begin(left, deadline)
        running, why = _listen(process, left, document, deadline, save)
        if why == OVER:  # its time was this run's, and it is begun anew in the next one
            break
        if running:
            document["lost"].append({"job": running, "reason": why})
            left = left[left.index(running) + 1 :]
        elif why:  # it never came to a job
            document["lost"].append({"job": left[0], "reason": why})
            left = left[1:]
        else:
            break
        print(f"  {document['lost'][-1]['job']}: {why}", file=sys.stderr)
        save(document)
    done = {*document["done"], *(x["job"] for x in document["lost"])}
    document["skipped"] = [x for x in labels if x not in done]
    return document


def _listen(
    process: subprocess.Popen[str],
    left: Sequence[str],
    document: dict[str, Any],
    deadline: float,
    save: Callable[[Mapping[str, Any]], None],
) -> tuple[str, str]:
    """Take what a child says until it ends; (job that it died in, why), both empty at its end."""
    import selectors
    import signal

    assert process.stdout is not None
    running, since, reason = "", time.time(), ""
    buffer = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        os.set_blocking(process.stdout.fileno(), False)
        while True:
            limit = PER_TEST * (3 if running.startswith(LONG) else 1)
            end = min(deadline - ENDING / 2, since + limit + (0 if running else 60))
            if time.time() > end:
                reason = OVER if end < since + limit else f"no end in {limit:g} s"
                break
            if not selector.select(0.5):
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16).decode(errors="replace")
            if not chunk:
                break
            buffer += chunk
            *lines, buffer = buffer.split("\n")
            for line in lines:
                before, running = running, _note(line, document, running)
                since = time.time()
                if before and not running:
                    save(document)
    if reason:
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    process.stdout.close()
    if not reason and code:
        reason = f"the process ended with {code}"
    return running if reason else "", reason


def _note(line: str, document: dict[str, Any], running: str) -> str:
    """Enter a line into the document; the job that is running after it."""
    try:
        message = json.loads(line)
    except ValueError:
        return running
    if not isinstance(message, dict):
        return running
    if "begin" in message:
        return str(message["begin"])
    if "end" in message:
        document["done"].append(message["end"])
        for kind in ("tests", "times", "energy", "sanitized"):
            document[kind] += message.get(kind, [])
        if "unmetered" in message:
            document["unmetered"] = message["unmetered"]
        document["ceilings"] |= message.get("ceilings", {})
        print(f"  {message['end']}", file=sys.stderr)
        return ""
    if "predictions" in message:
        rows = message["predictions"]
        document["predicted"] = chained(rows, document["predicted"])
        document["predictions"] += rows
    document |= {k: message[k] for k in ("device", "versions") if k in message}
    return running


def kept(path: Path, identity: str) -> dict[str, Any]:
    """What an earlier run of the same candidates found there, if anything."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("identity") == identity else {}


def identity() -> str:
    """What results depend on: the sources that make candidates and judge them, and versions."""
    from opwright.verify.identity import hashed, sources_digest

    packages = (f"opwright.{p}" for p in ("backends", "compiler", "ir", "specs", "verify"))
    specs = [p.read_text() for p in sorted((RESULTS.parents[1] / "specs").rglob("*.op"))]
    return hashed(sources_digest(*packages), json.dumps(versions()), *specs)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write, print; see the module."""
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.gpu", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("operators", nargs="*", help="names of operators; all of them if absent")
    p.add_argument("--seconds", type=float, default=SECONDS)
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--kinds", default="", help="of first, time, sanitize, energy, test; all")
    p.add_argument("--again", action="store_true", help="forget what earlier runs found")
    p.add_argument("--rehearse", action="store_true", help="pretend that there is a GPU")
    p.add_argument("--tables", type=Path, help="print a document as Markdown")
    p.add_argument("--child", help=argparse.SUPPRESS)
    options = p.parse_args(given)
    if options.child:
        labels, until, rehearse = json.loads(options.child)
        return child(labels, until, rehearse)
    if options.tables:
        print("\n".join(tables(json.loads(options.tables.read_text()))))
        return 0
    why = "" if options.rehearse else absent()
    if why:
        print(f"make gpu measures on an NVIDIA GPU: {why}", file=sys.stderr)
        cure = "use a machine that has one, and a Python with torch for CUDA, Triton and numpy"
        print(f"  cure: {cure}: make gpu GPU_PYTHON=/path/to/python", file=sys.stderr)
        return 1
    from opwright.benchmarks.gpu_jobs import KINDS, jobs

    begin, own = time.time(), identity()
    target = options.out / slug(_device(options.rehearse)) / "gpu.json"
    known = {} if options.again else kept(target, own)
    if known:
        print(f"going on from {target}: {len(known['done'])} jobs are done", file=sys.stderr)

    def save(document: Mapping[str, Any]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = {**document, "identity": own, "seconds": round(time.time() - begin, 1)}
        made["at"] = time.strftime("%Y-%m-%dT%H:%M:%S")
        part = target.with_suffix(".part")
        part.write_text(json.dumps(made, indent=2, default=str) + "\n")
        part.replace(target)

    kinds = set(options.kinds.split(",")) if options.kinds else set(KINDS)
    order = [CEILINGS, *(j.label for j in jobs(options.operators) if j.kind in kinds)]
    starts = partial(start, rehearse=options.rehearse)
    document = supervise(order, options.seconds, starts, known, save)
    save(document)
    print("\n".join([*page(document), str(target)]))
    wrong = any(t["status"] == "REFUTED" for t in document["tests"])
    return 1 if wrong or not document["tests"] else 0


def _device(rehearse: bool) -> str:
    if rehearse:
        return "rehearsal"
    import torch

    return str(torch.cuda.get_device_name(0))


if __name__ == "__main__":
    sys.exit(main())
