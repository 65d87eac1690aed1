"""`python -m <package>`: show-config, explain, verify, bench."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

from . import selftest
from .arrays import ELEMENTS
from .engine import Engine, best_level
from .files import file_problems, metadata
from .machine import cpu_flags, processors

LARGEST_BENCH = 2 << 30  # bytes of inputs and outputs of one benchmark


def _libraries() -> dict[str, str]:
    found = {}
    for name in ("numpy", "torch", "ml_dtypes"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def show_config(engine: Engine, as_json: bool) -> int:
    """What this package is and what it finds here."""
    spec, data = engine.spec, metadata(engine.folder)
    level = best_level(engine)
    config: dict[str, Any] = {
        "package": spec.package,
        "version": data["version"],
        "operator": f"{spec.name}@{spec.version}",
        "spec": data["spec"]["digest"],
        "folder": engine.folder,
        "python": platform.python_version(),
        "instruction_set": level,
        "flags_known": bool(cpu_flags()),
        "processors": processors(),
        "libraries": _libraries(),
        "environment": {
            f"{engine.prefix}_{n}": os.environ.get(f"{engine.prefix}_{n}", "")
            for n in ("IMPL", "ISA", "NUM_THREADS", "CHECK", "COPY")
        },
        "variants": [
            {
                "types": b.types,
                "name": v.name,
                "guards": [f.text for f in v.facts],
                "instruction_sets": list(v.libraries),
            }
            for b in spec.bindings
            for v in b.variants
        ],
    }
    if as_json:
        print(json.dumps(config, indent=2))
        return 0
    for key, value in config.items():
        if key == "variants":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v or 'unset'}" for k, v in value.items())
        print(f"{key:16} {value}")
    for row in config["variants"]:
        types = ", ".join(f"{k} = {v}" for k, v in row["types"].items())
        guards = "; ".join(row["guards"]) or "any layout and size"
        levels = "/".join(row["instruction_sets"])
        print(f"variant          {row['name']} [{types}] {levels}: {guards}")
    return 0


def verify(engine: Engine, wanted: str | None, as_json: bool) -> int:
    """Digests of the files, then the shipped reference values on every installed library."""
    data = metadata(engine.folder)
    problems = file_problems(engine.folder, data["files"])
    report: dict[str, Any] = {"files": len(data["files"]), "problems": problems, "cases": []}
    ran = False
    for name in (wanted,) if wanted else engine.libraries:
        try:
            engine.family(name)
        except ImportError:
            if wanted:
                problems.append(f"{name} is not installed")
            continue
        ran = True
        try:
            for case, count, worst in selftest.run(engine, name):
                report["cases"].append(
                    {
                        "case": case,
                        "library": name,
                        "elements": count,
                        "error_over_tolerance": worst,
                    }
                )
        except (AssertionError, RuntimeError) as error:
            problems.append(f"{name}: {error}")
    if not ran:
        needed = " nor ".join(engine.libraries)
        problems.append(f"no {needed} is installed: no value was compared")
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print(f"files: {len(data['files'])} digests compared")
        for row in report["cases"]:
            print(
                f"{row['library']}: {row['case']}: {row['elements']} elements, largest error "
                f"{row['error_over_tolerance']:.3g} of the tolerance"
            )
        for problem in problems:
            print(f"PROBLEM {problem}")
        print(
            "not as certified" if problems else "as certified: the certificate is certificate.json"
        )
    return 1 if problems else 0


def setting(word: str) -> tuple[str, Any]:
    """NAME=VALUE with a number, true, false or the name of a type; ValueError otherwise."""
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word!r} is not of the form NAME=VALUE")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for convert in (int, float):
        try:
            return name, convert(value)
        except ValueError:
            continue
    return name, value


class Problem(Exception):
    """An example cannot be made; the message says why."""


def example(
    engine: Engine, library: Any, settings: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], Any]:
    """(inputs, params, binding) for sizes, params and types by name, with random values."""
    spec = engine.spec
    types = {t: settings[t] for t in spec.types if t in settings}
    fits = [b for b in spec.bindings if all(b.types[t] == v for t, v in types.items())]
    if not fits:
        raise Problem(f"no variant for {types}")
    b = fits[0]
    missing = [s for s in spec.sizes if s not in settings]
    if missing:
        raise Problem(f"give the sizes {', '.join(missing)} as NAME=VALUE")
    env: dict[str, Any] = {s: settings[s] for s in spec.sizes}
    for p in spec.params:
        value = settings.get(p.name)
        if value is None and p.default is None:
            raise Problem(f"give the param {p.name} as NAME=VALUE")
        env[p.name] = p.accept(p.default(env) if value is None and p.default else value)
    total = 0
    shapes = []
    for t, e in zip((*spec.inputs, *spec.outputs), (*b.inputs, *b.outputs)):
        shape = [axis(env) for axis in t.axes]
        shapes.append(shape)
        total += math.prod(shape) * max(ELEMENTS[e][0], 8) // 8
    if total > LARGEST_BENCH:
        raise Problem(
            f"{total / 2**30:.1f} GiB of arrays; the limit is {LARGEST_BENCH / 2**30:.0f} GiB"
        )
    inputs = tuple(
        library.random(shape, e, n) for n, (shape, e) in enumerate(zip(shapes, b.inputs))
    )
    values = {**env, **b.types}
    return inputs, tuple(values.get(name) for name in spec.given_names()), b


def _time(call: Any, seconds: float) -> float:
    """Median of repeated calls after a warm-up."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def bench(
    engine: Engine, library: Any, settings: dict[str, Any], seconds: float, as_json: bool
) -> int:
    """Median time of every variant that takes the workloads of the spec, or the sizes given."""
    runs = (
        [("given", settings)]
        if any(s in settings for s in engine.spec.sizes)
        else [
            (w["name"], {**w["sizes"], **w["params"], **w["types"], **settings})
            for w in metadata(engine.folder)["workloads"]
        ]
    )
    if not runs:
        print("the spec names no workload; give the sizes as NAME=VALUE", file=sys.stderr)
        return 2
    rows = []
    failed = False
    for name, values in runs:
        try:
            inputs, given, b = example(engine, library, values)
            outs = engine.local(library, inputs, given)
            outs = (outs,) if len(engine.spec.outputs) == 1 else tuple(outs)
            call = engine.dispatcher.arrange(library, inputs, given, outs)
        except (Problem, ValueError, TypeError, MemoryError) as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
            failed = True
            continue
        for variant in b.variants:
            if engine.dispatcher.choose(b, call.env, variant.name)[0] is None:
                continue
            choice = variant.name
            median = _time(
                lambda i=inputs, g=given, o=outs, c=choice: engine.call(i, g, o, c), seconds
            )
            rows.append({"workload": name, "variant": choice, "types": b.types, "seconds": median})
            if not as_json:
                types = ", ".join(f"{k} = {v}" for k, v in b.types.items())
                print(f"{name:12} {choice:20} {types:16} {median * 1e6:12.1f} us")
    if as_json:
        level = best_level(engine)
        print(
            json.dumps(
                {"instruction_set": level, "processors": processors(), "rows": rows}, indent=2
            )
        )
    return 1 if failed and not rows else 0


def main(engine: Engine, arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 holds, 1 the answer is no, 2 usage."""
    parser = argparse.ArgumentParser(prog=f"python -m {engine.spec.package}")
    commands = parser.add_subparsers(dest="command", required=True)
    sub = {
        name: commands.add_parser(name, help=text)
        for name, text in (
            ("show-config", "what this package is and what it finds here"),
            ("explain", "which variant a call with these sizes takes, and why"),
            ("verify", "compare file digests and the shipped reference values"),
            ("bench", "time every variant"),
        )
    }
    for p in sub.values():
        p.add_argument("--json", action="store_true")
    for name in ("explain", "verify", "bench"):
        sub[name].add_argument("--library", choices=("numpy", "torch"))
    for name in ("explain", "bench"):
        sub[name].add_argument("settings", nargs="*", type=setting, metavar="NAME=VALUE")
    sub["bench"].add_argument("--seconds", type=float, default=1.0, help="time per variant")
    args = parser.parse_args(arguments)
    if args.command == "show-config":
        return show_config(engine, args.json)
    if args.command == "verify":
        return verify(engine, args.library, args.json)
    library = engine.family(args.library) if args.library else engine.default_family()
    settings = dict(args.settings)
    if args.command == "bench":
        return bench(engine, library, settings, args.seconds, args.json)
    try:
        inputs, given, _ = example(engine, library, settings)
        found = engine.explain(inputs, given, None, None)
    except (Problem, ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found._asdict(), indent=2) if args.json else str(found))
    return 0
