"""`make gpu`: every Triton candidate of the operator library on an NVIDIA GPU, in five minutes.

    python -m opwright.benchmarks.gpu [OPERATOR...] [--seconds 300] [--out DIR]

It needs torch with CUDA, Triton and numpy, of any recent versions, and nothing else of the
project's dependencies. Differential tests of all candidates come first, then the device's ceilings,
then times against torch eager and torch.compile. A child process does the work: a candidate that
crashes or hangs costs its own job, and what was found is kept. The result is a JSON file under
benchmarks/results/<device>/. Exit codes: 0 all candidates that ran are right, 1 one is wrong or
there is no GPU; `make` itself then exits with 2. No part of this was ever run on a GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
SECONDS = 300.0
PER_TEST, PER_TIME = 40.0, 25.0  # seconds of one job before its process is ended
ENDING = 8.0  # seconds kept for the file and the page
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


def child(labels: Sequence[str], until: float) -> int:
    """Do the named jobs one after the other; a line of JSON before and after each."""
    from opwright.benchmarks import gpu_jobs
    from opwright.benchmarks.gpu_device import Gpu

    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        device = Gpu(Path(folder))
        say({"device": device.describe(), "versions": versions()})
        known = {j.label: j for j in gpu_jobs.jobs()}
        for label in labels:
            left = until - time.time()
            if left < ENDING:
                break
            say({"begin": label})
            if label == "ceilings":
                say({"end": label, "ceilings": device.ceilings()})
                continue
            outcome = gpu_jobs.do(known[label], device, min(left, PER_TIME) / 3)
            say({"end": label, "tests": outcome.tests, "times": outcome.times})
    return 0


def say(message: Mapping[str, Any]) -> None:
    print(json.dumps(message, default=str), flush=True)


# -- the parent ------------------------------------------------------------------------------------

Start = Callable[[Sequence[str], float], "subprocess.Popen[str]"]


def start(labels: Sequence[str], until: float) -> subprocess.Popen[str]:
    """A child for these jobs."""
    code = "import sys; from opwright.benchmarks.gpu import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--child", json.dumps([list(labels), until])],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def supervise(labels: Sequence[str], seconds: float, begin: Start = start) -> dict[str, Any]:
    """The document: what all children said, and what became of every job."""
    deadline = time.time() + seconds
    document: dict[str, Any] = {"tests": [], "times": [], "ceilings": {}, "lost": [], "skipped": []}
    left = list(labels)
    while left and time.time() < deadline - ENDING:
        process = begin(left, deadline)
        running, why = _listen(process, left, document, deadline)
        if running:
            document["lost"].append({"job": running, "reason": why})
            left = left[left.index(running) + 1 :]
        elif why:  # it never came to a job
            document["lost"].append({"job": left[0], "reason": why})
            left = left[1:]
        else:
            break
        print(f"  {document['lost'][-1]['job']}: {why}", file=sys.stderr)
    done = {*document.pop("done", ()), *(x["job"] for x in document["lost"])}
    document["skipped"] = [x for x in labels if x not in done]
    return document


def _listen(
    process: subprocess.Popen[str], left: Sequence[str], document: dict[str, Any], deadline: float
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
            limit = PER_TIME * 2 if running.startswith("time") else PER_TEST
            end = min(deadline - ENDING / 2, since + limit + (0 if running else 60))
            if time.time() > end:
                reason = "no time was left" if end < since + limit else f"no end in {limit:g} s"
                break
            if not selector.select(0.5):
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16).decode(errors="replace")
            if not chunk:
                break
            buffer += chunk
            *lines, buffer = buffer.split("\n")
            for line in lines:
                running, since = _note(line, document, running), time.time()
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
        document.setdefault("done", []).append(message["end"])
        document["tests"] += message.get("tests", [])
        document["times"] += message.get("times", [])
        document["ceilings"] |= message.get("ceilings", {})
        print(f"  {message['end']}", file=sys.stderr)
        return ""
    document |= {k: message[k] for k in ("device", "versions") if k in message}
    return running


def page(document: Mapping[str, Any]) -> list[str]:
    """What a person wants to know first."""
    lines = []
    tests = document["tests"]
    count = {s: sum(t["status"] == s for t in tests) for s in dict.fromkeys(
        t["status"] for t in tests)}  # fmt: skip
    lines.append(f"{len(tests)} candidates: " + ", ".join(f"{n} {s}" for s, n in count.items()))
    lines += [
        f"  {t['op']} {t['types']} {t['candidate']}: {t['status']}: {t.get('reason', '')}"
        for t in tests
        if t["status"] == "REFUTED"
    ]
    for name, value in document["ceilings"].items():
        lines.append(f"{name} {value:.4g}")
    rows = [r for r in document["times"] if r["median_s"]]
    for key in dict.fromkeys((r["op"], r["workload"]) for r in rows):
        own = [r for r in rows if (r["op"], r["workload"]) == key]
        lines.append(f"{key[0]} {key[1]}")
        for r in sorted(own, key=lambda r: float(r["median_s"])):
            lines.append(f"  {r['median_s'] * 1e3:10.4f} ms  {r['impl']}")
    for lost in document["lost"]:
        lines.append(f"lost: {lost['job']}: {lost['reason']}")
    if document["skipped"]:
        lines.append(f"no time for {len(document['skipped'])}: {', '.join(document['skipped'])}")
    return lines


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write, print; see the module."""
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.gpu", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("operators", nargs="*", help="names of operators; all of them if absent")
    p.add_argument("--seconds", type=float, default=SECONDS)
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--child", help=argparse.SUPPRESS)
    options = p.parse_args(given)
    if options.child:
        labels, until = json.loads(options.child)
        return child(labels, until)
    why = absent()
    if why:
        print(f"make gpu measures on an NVIDIA GPU: {why}", file=sys.stderr)
        cure = "use a machine that has one, and a Python with torch for CUDA, Triton and numpy"
        print(f"  cure: {cure}: make gpu GPU_PYTHON=/path/to/python", file=sys.stderr)
        return 1
    from opwright.benchmarks.gpu_jobs import jobs

    begin = time.time()
    todo = [j.label for j in jobs(options.operators)]
    tests = [x for x in todo if x.startswith("test")]
    order = [*tests, "ceilings", *(x for x in todo if x not in tests)]
    document = supervise(order, options.seconds)
    document |= {"seconds": round(time.time() - begin, 1), "at": time.strftime("%Y-%m-%dT%H:%M:%S")}
    folder = options.out / slug(str(document.get("device", {}).get("name", "")))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "gpu.json"
    target.write_text(json.dumps(document, indent=2) + "\n")
    print("\n".join([*page(document), str(target)]))
    wrong = any(t["status"] == "REFUTED" for t in document["tests"])
    return 1 if wrong or not document["tests"] else 0


if __name__ == "__main__":
    sys.exit(main())
