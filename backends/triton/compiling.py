"""The child that compiles Triton kernels without a GPU; started as a script by `build.py`.

It imports Triton only. The request is a file of JSON: the module, the target and one entry per
launch; binaries and texts are left in its folder, the answer is JSON beside them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Compile every launch of a request for every target; of a target the first failure is its
    answer, which is written before the next one begins."""
    request = json.loads((folder / "request.json").read_text())
    spec = importlib.util.spec_from_file_location("kernels", request["source"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    failure: BaseException | None = None
    try:
        spec.loader.exec_module(module)
    except BaseException as e:
        failure = e
    for target in request["targets"]:
        answer: dict[str, Any] = {"error": "", "kernels": []}
        place = folder / target["name"]
        try:
            if failure is not None:
                raise failure
            for n, launch in enumerate(request["launches"]):
                kernel = getattr(module, launch["kernel"], None)
                if kernel is None:
                    raise NameError(f"the module has no kernel {launch['kernel']}")
                answer["kernels"].append(compiled(kernel, launch, target, place, n))
        except BaseException as e:
            answer["error"] = reason(e, module, request)
        (place / "answer.json").write_text(json.dumps(answer))


def compiled(
    kernel: Any, launch: dict[str, Any], target: dict[str, Any], folder: Path, n: int
) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    types = list(launch["types"])
    given = names[: len(types)]
    if set(names[len(types) :]) != set(launch["const"]):
        wanted = ", ".join(names[len(types) :]) or "none"
        raise TypeError(f"{launch['kernel']} takes {wanted} as constants")
    signature = dict(zip(given, types, strict=True))
    signature |= {name: "constexpr" for name in launch["const"]}
    attributes = {(i,): [["tt.divisibility", 16]] for i in launch["aligned"]}
    source = ASTSource(kernel, signature, launch["const"], attributes)
    device = GPUTarget(target["family"], target["arch"], target["warp"])
    made = triton.compile(source, target=device, options=launch["options"])
    files = {}
    for kind in ("cubin", "hsaco", "ptx", "amdgcn", "ttir"):
        if kind in made.asm:
            data = made.asm[kind]
            path = folder / f"{n}.{kind}"
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
            files[kind] = path.name
    m = made.metadata
    return {
        "kernel": launch["kernel"],
        "name": m.name,
        "shared": m.shared,
        "num_warps": m.num_warps,
        "scratch": m.global_scratch_size,
        "triton": triton.__version__,
        "files": files,
    }


def reason(e: BaseException, module: Any, request: dict[str, Any]) -> str:
    """The error in a line, at its line of the module where Triton names one."""
    text = str(e).strip() or type(e).__name__
    found = re.match(r"at (\d+):\d+:", text)
    lines = [x for x in text.splitlines() if x.strip()]
    if not found:
        return f"{type(e).__name__}: {lines[0]}"
    src = getattr(e, "src", None)
    whole = Path(request["source"]).read_text()
    start = whole[: whole.find(src)].count("\n") if src and src in whole else 0
    cause = e.__cause__
    said = f"{cause}".splitlines()[0] if cause is not None and str(cause) else lines[-1]
    return f"{os.path.basename(request['source'])}:{start + int(found[1])}: {said}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
