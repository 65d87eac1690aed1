"""What `make gpu` found, as lines for a terminal and as tables for the documentation.

A model is judged within one task alone: one operator at one workload, its candidates against each
other. Across shapes every model ranks well, for large inputs take longer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

LEAST = 4  # candidates of a task below which its ranking says nothing
SHARE = 0.2  # of a task's predictions that are looked at
Row = Mapping[str, Any]


def chained(rows: Sequence[Row], before: str = "") -> str:
    """The hash of predictions in order; each one's holds those before it."""
    for r in rows:
        text = before + json.dumps(r, sort_keys=True)
        before = hashlib.sha256(text.encode()).hexdigest()
    return before


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; equal numbers share their mean rank. NaN where one of them is constant."""
    x, y = _ranks(a), _ranks(b)
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
    low = math.sqrt(sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y))
    return top / low if low else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda n: values[n])
    out = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for n in order[at : end + 1]:
            out[n] = (at + end) / 2
        at = end + 1
    return out


def calibration(document: Row) -> list[dict[str, Any]]:
    """Of every task how well predictions ranked its candidates: Spearman's coefficient, and how
    much slower than the fastest the best of the predicted top is."""
    predicted = {
        (p["op"], json.dumps(p["types"], sort_keys=True), p["workload"], p["impl"]): p["modelled_s"]
        for p in document.get("predictions", ())
    }
    out = []
    for key, rows in tasks(document["times"]):
        pairs = []
        for r in rows:
            own = (
                r["op"],
                json.dumps(r.get("types", {}), sort_keys=True),
                r["workload"],
                r["impl"],
            )
            if r["median_s"] and predicted.get(own):
                pairs.append((predicted[own], r["median_s"]))
        if len(pairs) < LEAST:
            continue
        rho = spearman([p for p, _ in pairs], [m for _, m in pairs])
        top = sorted(pairs)[: max(1, round(SHARE * len(pairs)))]
        best = min(m for _, m in pairs)
        regret = min(m for _, m in top) / best
        out.append({"op": key[0], "workload": key[1], "candidates": len(pairs), "spearman": rho,
                    "top": regret})  # fmt: skip
    return out


def tasks(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """Times by operator and workload."""
    for key in dict.fromkeys((r["op"], r["workload"]) for r in rows):
        yield key, [r for r in rows if (r["op"], r["workload"]) == key]


def speedups(document: Row) -> list[dict[str, Any]]:
    """The fastest candidate of every task against each baseline."""
    out = []
    for (op, workload), rows in tasks(document["times"]):
        timed = {r["impl"]: r["median_s"] for r in rows if r["median_s"]}
        own = {r["impl"] for r in rows if r.get("own")}
        mine = min((s for n, s in timed.items() if n in own), default=None)
        if mine is None:
            continue
        others = {n: s for n, s in timed.items() if n not in own}
        rate = document.get("ceilings", {}).get("copy_bytes_per_s")
        moved = next((r["bytes"] for r in rows if r.get("bytes")), None)
        floor = moved / rate if rate and moved else None
        out.append({"op": op, "workload": workload, "seconds": mine, "floor": floor,
                    "ratios": {n: s / mine for n, s in others.items()}})  # fmt: skip
    return out


def geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def tables(document: Row) -> list[str]:
    """The document as Markdown."""
    device = document.get("device", {})
    env = ", ".join(f"{k} {v}" for k, v in document.get("versions", {}).items())
    name = device.get("name", "an unknown device")
    lines = [f"Measured on {name} at {document.get('at', 'an unknown time')}; {env}.", ""]
    if device.get("pretended"):
        lines += ["**These numbers are made up: a rehearsal without a GPU.**", ""]
    lines += ["| ceiling | measured |", "|---|---|"]
    lines += [f"| {k} | {v:.4g} |" for k, v in document.get("ceilings", {}).items()]
    tests = document.get("tests", ())
    lines += ["", "| candidates | tested | refuted | other |", "|---|---|---|---|"]
    for language in dict.fromkeys(t.get("language", "triton") for t in tests):
        own = [t["status"] for t in tests if t.get("language", "triton") == language]
        rest = len(own) - own.count("TESTED") - own.count("REFUTED")
        lines.append(f"| {language} | {own.count('TESTED')} | {own.count('REFUTED')} | {rest} |")
    found = speedups(document)
    if found:
        names = list(dict.fromkeys(n for f in found for n in f["ratios"]))
        head = " | ".join(["operator", "workload", "ms", "of its floor", *names])
        lines += ["", f"| {head} |", "|---" * (4 + len(names)) + "|"]
        for f in found:
            floor = f"{f['floor'] / f['seconds']:.0%}" if f["floor"] else ""
            ratios = [f"{f['ratios'][n]:.2f}x" if n in f["ratios"] else "" for n in names]
            cells = [f["op"], f["workload"], f"{f['seconds'] * 1e3:.4f}", floor, *ratios]
            lines.append(f"| {' | '.join(cells)} |")
        for n in names:
            every = [f["ratios"][n] for f in found if n in f["ratios"]]
            lines += ["", f"Geometric mean against {n}: {geometric(every):.2f}x over {len(every)}."]
    ranked = calibration(document)
    if ranked:
        lines += ["", "| task | candidates | Spearman | best of the predicted top fifth |",
                  "|---|---|---|---|"]  # fmt: skip
        lines += [f"| {r['op']} {r['workload']} | {r['candidates']} | {r['spearman']:.2f} | "
                  f"{r['top']:.2f}x the fastest |" for r in ranked]  # fmt: skip
        middle = median(r["spearman"] for r in ranked if not math.isnan(r["spearman"]))
        lines += ["", f"Median of Spearman's coefficient within a task: {middle:.2f}. Predictions, "
                  f"made before: sha256 {document['predicted'][:16]}."]  # fmt: skip
    if document.get("energy"):
        lines += ["", "| operator | workload | of | J a call | W | spread |", "|---" * 6 + "|"]
        lines += [
            f"| {r['op']} | {r['workload']} | {r['impl']} | {r['joules']:.3g} | {r['watts']:.0f} | "
            f"{r['spread']:.1%} |"
            for r in document["energy"]
        ]
    for r in document.get("sanitized", ()):
        lines += ["", f"compute-sanitizer {r['tool']} on {r['job']}: {r['status']}"]
    return lines


def page(document: Row) -> list[str]:
    """What a person wants to know first."""
    lines = []
    tests = document["tests"]
    count = {
        s: sum(t["status"] == s for t in tests) for s in dict.fromkeys(t["status"] for t in tests)
    }
    lines.append(f"{len(tests)} candidates: " + ", ".join(f"{n} {s}" for s, n in count.items()))
    lines += [
        f"  {t['op']} {t['types']} {t['candidate']}: {t['status']}: {t.get('reason', '')}"
        for t in tests
        if t["status"] == "REFUTED"
    ]
    for name, value in document["ceilings"].items():
        lines.append(f"{name} {value:.4g}")
    for key, own in tasks([r for r in document["times"] if r["median_s"]]):
        lines.append(f"{key[0]} {key[1]}")
        for r in sorted(own, key=lambda r: float(r["median_s"])):
            lines.append(f"  {r['median_s'] * 1e3:10.4f} ms  {r['impl']}")
    for r in calibration(document):
        lines.append(f"model on {r['op']} {r['workload']}: Spearman {r['spearman']:.2f}, "
                     f"its top fifth within {r['top']:.2f}x")  # fmt: skip
    for r in document.get("sanitized", ()):
        lines.append(f"compute-sanitizer {r['tool']} {r['job']}: {r['status']}")
    for r in document.get("energy", ()):
        lines.append(f"{r['op']} {r['workload']} {r['impl']}: {r['joules']:.4g} J a call")
    for lost in document["lost"]:
        lines.append(f"lost: {lost['job']}: {lost['reason']}")
    left = document["skipped"]
    if left:
        some = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        lines.append(f"no time for {len(left)}: {some}; run it again: it goes on from here")
    return lines
