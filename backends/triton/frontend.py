"""Triton source and a launch become TTIR without a GPU, in a process that can be killed.

The signature is pinned by the launch: pointers by the dtype of their buffer, integers as i64, or
i32 where the plan writes `i32(expr)`, constants by the plan's `const`. Nothing is specialised: no
argument is taken to be 1 or divisible by 16, and whoever launches the kernel compiles exactly this
signature. The parent only parses the source; what is executed passed `policy` first, and runs
with a wall clock in a sandbox.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opwright.backends import isolation
from opwright.backends.triton.policy import check_policy
from opwright.ir.launch import BoundLaunch, ImportRefusal
from opwright.ir.spent import part
from opwright.ir.tile import Buffer

WALL = 120.0  # seconds for one call, an import of triton on a busy machine included
MEMORY = 1 << 35  # bytes of address space
OUTPUT = 1 << 28  # bytes of TTIR

NAMES = {
    "f64": "fp64", "f32": "fp32", "tf32": "fp32", "f16": "fp16", "bf16": "bf16", "bool": "i1",
    "f8e4m3": "fp8e4nv", "f8e5m2": "fp8e5", "f8e4m3fnuz": "fp8e4b8", "f8e5m2fnuz": "fp8e5b16",
    **{f"{s}{b}": f"{s}{b}" for s in "iu" for b in (8, 16, 32, 64)},
}  # fmt: skip
_OPTIONS = ("num_warps", "num_stages")
_DONE: dict[str, dict[str, Any]] = {}


def to_ttir(source: str, file: str, launch: BoundLaunch, target: str) -> str:
    """TTIR of one launch's kernel with locations in `file`; ImportRefusal says why there is
    none."""
    return to_ttir_many(source, file, [launch], target)[0]


def to_ttir_many(source: str, file: str, launches: Sequence[BoundLaunch], target: str) -> list[str]:
    """TTIR of several launches, from one process."""
    tree = check_policy(source, file)
    requests = [_request(c, file, target) for c in launches]
    keys = [_key(source, r) for r in requests]
    missing = {k: r for k, r in zip(keys, requests, strict=True) if k not in _DONE}
    if missing:
        made = _ask(source, file, list(missing.values()))
        _DONE.update(zip(missing, made, strict=True))
    lines = {n.name: n.lineno for n in tree.body if hasattr(n, "name")}
    out = []
    for k, c in zip(keys, launches, strict=True):
        answer = _DONE[k]
        if "ttir" not in answer:
            line = answer.get("line") or lines.get(c.kernel, 0)
            raise ImportRefusal(f"kernel {c.kernel}: {answer['error']}", file, line)
        out.append(answer["ttir"].replace(answer["path"], file))
    return out


def signature_of(launch: BoundLaunch, file: str = "") -> list[str]:
    """Triton's names of the argument types, in order."""
    out = []
    for a in launch.args:
        name = NAMES.get(a.dtype.name)
        if name is None:
            raise ImportRefusal(f"kernel {launch.kernel}: no Triton type for {a.dtype}", file)
        out.append(f"*{name}" if isinstance(a, Buffer) else name)
    return out


def _request(launch: BoundLaunch, file: str, target: str) -> dict[str, Any]:
    options = {k: launch.extra[k] for k in _OPTIONS if k in launch.extra}
    return {
        "kernel": launch.kernel,
        "args": signature_of(launch, file),
        "const": dict(launch.const),
        "options": options,
        "target": target,
    }


def _key(source: str, request: dict[str, Any]) -> str:
    text = json.dumps([source, request], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(answer: Path, file: str) -> str:
    """What the child wrote: a file of its own making, of any size and kind."""
    if answer.is_symlink() or not answer.is_file() or answer.stat().st_size > OUTPUT:
        raise ImportRefusal("the Triton front end left no answer", file)
    return answer.read_text(encoding="utf-8", errors="replace")


@part("process")
def _ask(source: str, file: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="opwright-") as folder:
        path, answer = Path(folder, "kernel.py"), Path(folder, "answer.json")
        path.write_text(source, encoding="utf-8")
        text = json.dumps({"source": str(path), "answer": str(answer), "kernels": requests})
        script = Path(__file__).with_name("extract.py").absolute()
        allowance = isolation.Allowance(
            [script, *isolation.packages("triton")],
            [Path(folder)],
            memory=MEMORY,
            cpu=int(WALL),
            file=OUTPUT,
            temporary=OUTPUT,
        )
        child = isolation.start(
            [sys.executable, "-I", str(script)],
            allowance,
            env=isolation.environment({"TRITON_CACHE_DIR": folder}),
            cwd=Path(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _, said = child.communicate(text.encode(), timeout=WALL)
        except subprocess.TimeoutExpired:
            raise ImportRefusal(f"no TTIR after {WALL:.0f} s", file) from None
        finally:
            child.end()
            if child.stderr is not None:
                child.stderr.close()
        if not answer.exists():
            last = said.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise ImportRefusal(
                f"the Triton front end ended with {child.status()}: {last[0]}", file
            )
        data: dict[str, Any] = json.loads(_read(answer, file))
        if "answers" not in data:
            raise ImportRefusal(data["error"], file, data.get("line", 0))
        return [{**a, "path": str(path)} for a in data["answers"]]
