"""SARIF 2.1.0: the structure of the official schema, places, rules and counterexamples."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import opwright
from opwright.compiler.check import check_text
from opwright.ir.record import Record
from opwright.sarif import of_checks, of_verdict

# properties that sarif-schema-2.1.0.json allows (it forbids all others), and requires
OBJECTS: dict[str, tuple[set[str], set[str]]] = {
    "log": ({"$schema", "version", "runs", "inlineExternalProperties", "properties"},
            {"version", "runs"}),
    "run": ({"tool", "artifacts", "results", "invocations", "columnKind", "properties",
             "originalUriBaseIds", "automationDetails", "taxonomies", "language"}, {"tool"}),
    "driver": ({"name", "version", "rules", "fullName", "semanticVersion", "informationUri",
                "properties", "organization"}, {"name"}),
    "rule": ({"id", "name", "shortDescription", "fullDescription", "help", "helpUri",
              "defaultConfiguration", "properties", "messageStrings"}, {"id"}),
    "artifact": ({"location", "hashes", "length", "roles", "mimeType", "contents", "properties"},
                 set()),
    "result": ({"ruleId", "ruleIndex", "kind", "level", "message", "locations", "fingerprints",
                "partialFingerprints", "relatedLocations", "properties"}, {"message"}),
    "location": ({"id", "physicalLocation", "logicalLocations", "message", "properties"}, set()),
    "physical": ({"address", "artifactLocation", "region", "contextRegion", "properties"}, set()),
    "region": ({"startLine", "startColumn", "endLine", "endColumn", "snippet", "properties"},
               set()),
}  # fmt: skip
LEVELS = ("none", "note", "warning", "error")
URI = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


def keys(kind: str, x: Any) -> None:
    allowed, required = OBJECTS[kind]
    assert isinstance(x, dict), kind
    assert required <= set(x) <= allowed, (kind, sorted(x))


def multiformat(x: Any) -> None:
    assert set(x) <= {"text", "markdown", "properties"} and isinstance(x["text"], str) and x["text"]


def uri(x: Any) -> None:
    assert set(x) <= {"uri", "uriBaseId", "index", "description"}
    assert URI.fullmatch(x["uri"]), x


def valid(log: Any) -> None:
    """The essential rules of the official schema."""
    log = json.loads(json.dumps(log, allow_nan=False))
    keys("log", log)
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    for run in log["runs"]:
        keys("run", run)
        assert set(run["tool"]) <= {"driver", "extensions", "properties"}
        keys("driver", run["tool"]["driver"])
        rules = run["tool"]["driver"]["rules"]
        assert len({r["id"] for r in rules}) == len(rules)
        for r in rules:
            keys("rule", r)
            for name in ("shortDescription", "fullDescription", "help"):
                if name in r:
                    multiformat(r[name])
        for a in run["artifacts"]:
            keys("artifact", a)
            uri(a["location"])
            assert all(re.fullmatch("[0-9a-f]{64}", h) for h in a.get("hashes", {}).values())
        assert len(run["artifacts"]) == len({json.dumps(a) for a in run["artifacts"]})
        assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
        assert all(isinstance(i["executionSuccessful"], bool) for i in run["invocations"])
        for r in run["results"]:
            keys("result", r)
            multiformat(r["message"])
            assert r["level"] in LEVELS
            assert rules[r["ruleIndex"]]["id"] == r["ruleId"]
            assert all(isinstance(v, str) for v in r["partialFingerprints"].values())
            for at in r["locations"]:
                keys("location", at)
                keys("physical", at["physicalLocation"])
                uri(at["physicalLocation"]["artifactLocation"])
                region = at["physicalLocation"].get("region", {"startLine": 1})
                keys("region", region)
                assert all(isinstance(v, int) and v >= 1 for v in region.values())


def results(log: Any) -> list[Any]:
    return list(log["runs"][0]["results"])


def test_a_refutation_has_its_line_rule_and_counterexample(tmp_path: Path) -> None:
    source = tmp_path / "a kernel.cu"
    source.write_text("void f() {}\n")
    example = {"sizes": {"N": 3}, "kernel": "f", "line": "a kernel.cu:12", "value": float("nan")}
    records = [
        Record("G2.bounds.st", "G2", "REFUTED", "a store", "s", ("1 <= N",), example),
        Record("G3.cover.y", "G3", "UNKNOWN", "a kernel.cu:14: not shown"),
        Record("G5.y", "G5", "UNKNOWN", "the normal forms differ"),
        Record("G2.wrap.st", "G2", "PROVED"),
    ]
    log = of_verdict(records, source, {"solver": "z3"})
    valid(log)
    refuted, uncovered, function = results(log)
    assert [r["level"] for r in results(log)] == ["error", "warning", "note"]
    assert refuted["ruleId"] == "G2.bounds" and "N = 3" in refuted["message"]["text"]
    assert refuted["properties"]["counterexample"]["sizes"] == {"N": 3}
    place = refuted["locations"][0]
    assert place["logicalLocations"] == [{"name": "f", "kind": "function"}]
    assert place["physicalLocation"]["artifactLocation"]["uri"].endswith("a%20kernel.cu")
    assert function["ruleId"] == "G5"
    assert uncovered["ruleId"] == "G3.cover"
    assert log["runs"][0]["properties"]["statuses"] == {"PROVED": 1, "REFUTED": 1, "UNKNOWN": 2}


@pytest.mark.parametrize(
    ("reason", "region"),
    [
        ("kernel.py:7:3: a tile", {"startLine": 7, "startColumn": 3}),
        ("other.py:9: see kernel.py:8", {"startLine": 8}),
        ("no place", None),
        ("kernel.py:0: before the text", None),
    ],
)
def test_places_are_those_of_the_source(reason: str, region: dict[str, int] | None) -> None:
    log = of_verdict([Record("G1.import", "G1", "UNKNOWN", reason)], Path("kernel.py"))
    valid(log)
    (found,) = results(log)
    assert found["locations"][0]["physicalLocation"].get("region") == region


def test_mistakes_of_a_spec_are_results_with_their_codes(tmp_path: Path) -> None:
    text = 'opwright "0.1"\n\nop f @ 1.0 {\n  dims N\n  input x: f32[N]\n  output y: f32[N]\n'
    wrong = check_text(text + "  def { y[i] = z[i] }\n}\n", str(tmp_path / "f.op"))
    log = of_checks([wrong])
    valid(log)
    first = results(log)[0]
    assert first["level"] == "error" and re.fullmatch(r"E\d{4}", first["ruleId"])
    assert first["locations"][0]["physicalLocation"]["region"]["startLine"] == 7
    beyond = check_text(text + "  def { y[i] = x[i + 1] }\n}\n", str(tmp_path / "g.op"))
    log = of_checks([beyond])
    valid(log)
    assert any(r["level"] == "error" for r in results(log))
    right = check_text(text + "  def { y[i] = x[i] }\n}\n", str(tmp_path / "h.op"))
    log = of_checks([right])
    valid(log)
    assert not [r for r in results(log) if r["level"] == "error"]


def test_the_commands_write_it(tmp_path: Path) -> None:
    spec = tmp_path / "f.op"
    spec.write_text(
        'opwright "0.1"\n\nop f @ 1.0 {\n  dims N\n  input x: f32[N]\n  output y: f32[N]\n'
        "  def { y[i] = x[i] }\n  tolerance versus f64 { f32: abs 0 rel 0 }\n"
        "  target cpu(x86_64) via cpp\n}\n"
    )
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    strides = ["stride(x, 0) == 1", "stride(y, 0) == 1"]
    plan = {
        "abi": 1, "op": "f@1.0", "target": "cpu(portable)", "backend": "cpp", "facts": strides,
        "source": "kernel.cpp", "launches": [{"kernel": "k", "grid": ["N"], "args": ["x", "y"]}],
    }  # fmt: skip
    (kernel / "candidate.json").write_text(json.dumps(plan))
    (kernel / "kernel.cpp").write_text(
        "#include <cstdint>\n"
        'extern "C" void k(const float *x, float *y, int64_t pid0, int64_t pid1, int64_t pid2) {\n'
        "  y[pid0] = x[pid0 + 1];\n"
        "}\n"
    )

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "opwright", *command, "--sarif", str(tmp_path / "out.sarif")],
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(opwright.__file__).parent.parent)},
        )  # fmt: skip

    assert run("check", "f.op").returncode == 0
    valid(json.loads((tmp_path / "out.sarif").read_text()))
    done = run("verify", "f.op", "kernel", "--no-record", "--no-cache")
    assert done.returncode == 1, done.stderr
    assert "to be trusted besides the records:" in done.stdout and "z3" in done.stdout
    log = json.loads((tmp_path / "out.sarif").read_text())
    valid(log)
    (refuted,) = [r for r in results(log) if r["level"] == "error"]
    place = refuted["locations"][0]["physicalLocation"]
    assert refuted["ruleId"] == "G2.bounds"
    assert place["artifactLocation"]["uri"] == "kernel/kernel.cpp"
    assert place["region"]["startLine"] == 3
    assert refuted["properties"]["counterexample"]["sizes"]
