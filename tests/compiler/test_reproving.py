"""Proof files: what convinces, and that nothing does that was changed, left out or made up."""

from __future__ import annotations

import copy
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opwright.compiler.candidates import Candidate, printed
from opwright.compiler.elaborate import load_spec
from opwright.compiler.reproving import (
    ProofError,
    check,
    file_for,
    packed,
    prove,
    read,
    to_bytes,
    write,
)
from opwright.compiler.spaces import spaces
from opwright.ir.op import Operator
from opwright.verify.identity import plan_digest
from opwright.verify.proofs import Book, Query, decide, digest, open_book
from opwright.verify.recheck import NoSolver, Solver, solver

SPEC = """opwright "0.1"

op scaled_rows @ 1.0 {
  dims  N, M
  where M >= 1
  type  T in {f32}
  input x: T[N, M], w: T[M]
  output y: T[N, M]
  def {
    y[i, j] = x[i, j] * w[j] + sum.f32[k: M](x[i, k])
  }
  requires finite: all[i: N, j: M](-inf < x[i, j] < inf)
  tolerance versus f64 { f32: abs 1e-5 rel 1e-5 }
  target cpu(x86_64) via cpp
}
"""
RIGHT = """
extern "C" void rows(const float *x, const float *w, float *y, int64_t N, int64_t M,
                     int64_t pid0, int64_t pid1, int64_t pid2) {
  float s = 0.0f;
  for (int64_t k = 0; k < M; k++) s += x[pid0 * M + k];
  for (int64_t j = 0; j < M; j++) y[pid0 * M + j] = x[pid0 * M + j] * w[j] + s;
}
"""
Data = dict[str, Any]


@pytest.fixture(scope="module")
def op(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    path = tmp_path_factory.mktemp("spec") / "scaled_rows.op"
    path.write_text(SPEC)
    spec = load_spec(path)
    return spec.operator("scaled_rows", {"T": "f32"})


@pytest.fixture(scope="module")
def candidate(op: Operator) -> Candidate:
    space = spaces(op)[1]
    return printed(space.instantiate(space.preferred()[0]), op, "x86-64-v3")


@pytest.fixture(scope="module")
def made(op: Operator, candidate: Candidate) -> Data:
    static, data = prove(candidate, op)
    assert static.safe
    loaded: Data = json.loads(to_bytes(data, False))
    return loaded


@pytest.fixture(scope="module")
def z3() -> Solver:
    return solver()


class Repeats:
    """Answers as the honest record does, so that a test is about something else."""

    name, version = "repeats", "1"

    def __init__(self, data: Data) -> None:
        self.answers = {q["text"]: q["result"] for q in data["queries"]}

    def ask(self, text: str, seconds: float = 0.0) -> str:
        return str(self.answers[text])


@pytest.fixture(scope="module")
def repeats(made: Data) -> Any:
    return Repeats(made)


def proved_query(data: Data) -> int:
    """The number of a question that an obligation stands on as unsat."""
    unsat = {q["sha256"]: n for n, q in enumerate(data["queries"]) if q["result"] == "unsat"}
    for p in data["programs"]:
        for o in p["obligations"]:
            for s in o["steps"]:
                if o["status"] == "PROVED" and s.get("query") in unsat:
                    return unsat[s["query"]]
    raise AssertionError("no obligation needs a solver")


def test_a_record_of_a_candidate_convinces(
    made: Data, op: Operator, candidate: Candidate, z3: Solver
) -> None:
    report = check(made, candidate, op, z3)
    assert report.convinces, report.wrong
    assert report.asked > 3
    assert {o.kind for o in report.obligations} >= {"G0", "G1", "G2", "G3", "G5"}
    assert all(o.how != "nothing was done" for o in report.obligations)


def test_every_obligation_says_what_it_stands_for_and_stands_on_something(made: Data) -> None:
    for p in made["programs"]:
        for o in p["obligations"]:
            assert o["steps"], o["id"]
            assert " " in o["stands_for"] or o["id"] == "facts.consistent", o["id"]
    for q in made["queries"]:
        assert q["text"].startswith("(set-logic ALL)") and "(check-sat)" in q["text"]
        assert q["seconds"] >= 0 and q["rlimit"] >= 0
    assert made["made_with"]["z3"] and made["facts"] is not None


def test_a_text_that_was_changed_is_found(
    made: Data, op: Operator, candidate: Candidate, repeats: Any
) -> None:
    """With and without the hash that goes with it."""
    for fit in (False, True):
        data = copy.deepcopy(made)
        q = data["queries"][proved_query(data)]
        q["text"] = q["text"].replace("(check-sat)", "(assert false)\n(check-sat)")
        if fit:
            q["sha256"] = digest(q["text"])
        report = check(data, candidate, op, repeats)
        assert not report.convinces
        assert any("not in the file" in x for x in report.wrong)
        assert fit or any("hash" in x for x in report.wrong)


def test_a_question_that_is_left_out_is_found(
    made: Data, op: Operator, candidate: Candidate, repeats: Any
) -> None:
    data = copy.deepcopy(made)
    del data["queries"][proved_query(data)]
    assert not check(data, candidate, op, repeats).convinces


def test_an_obligation_that_is_left_out_is_found(
    made: Data, op: Operator, candidate: Candidate, repeats: Any
) -> None:
    data = copy.deepcopy(made)
    gone = data["programs"][0]["obligations"].pop(3)
    report = check(data, candidate, op, repeats)
    assert f"{gone['id']}: the file does not have it" in report.wrong
    data = copy.deepcopy(made)
    data["programs"][0]["obligations"].append({**gone, "id": "G2.bounds.elsewhere"})
    assert any("does not demand it" in x for x in check(data, candidate, op, repeats).wrong)
    data = copy.deepcopy(made)
    gone = data["records"].pop()
    assert (
        f"{gone['id']}: the file has no record of it" in check(data, candidate, op, repeats).wrong
    )


@pytest.mark.parametrize("claim", ["sat", "unsat", "unknown", "surely"])
def test_an_answer_that_was_turned_around_is_found(
    made: Data, op: Operator, candidate: Candidate, repeats: Any, claim: str
) -> None:
    data = copy.deepcopy(made)
    n = proved_query(data)
    if claim == "unsat":
        needed = {
            s["query"]
            for p in data["programs"]
            for o in p["obligations"]
            for s in o["steps"]
            if "query" in s
        }
        n = next(
            n
            for n, q in enumerate(data["queries"])
            if q["result"] == "sat" and q["sha256"] in needed
        )
    data["queries"][n]["result"] = claim
    assert not check(data, candidate, op, repeats).convinces


def test_a_status_that_was_turned_around_is_found(
    made: Data, op: Operator, candidate: Candidate, repeats: Any
) -> None:
    data = copy.deepcopy(made)
    data["records"][-1]["status"] = "TESTED"
    assert not check(data, candidate, op, repeats).convinces
    data = copy.deepcopy(made)
    data["programs"][0]["obligations"][4]["status"] = "UNKNOWN"
    assert not check(data, candidate, op, repeats).convinces


def test_a_made_up_record_of_a_wrong_candidate_does_not_convince(
    op: Operator, candidate: Candidate, z3: Solver, tmp_path: Path
) -> None:
    """Everything in it says PROVED and unsat, and all hashes fit."""
    folder = tmp_path / "wrong"
    folder.mkdir()
    plan = {
        "abi": 1, "op": "scaled_rows@1.0", "target": "cpu(x86-64-v3)", "backend": "cpp",
        "source": "kernel.cpp", "types": {"T": "f32"},
        "launches": [{"kernel": "rows", "grid": ["N"], "args": ["x", "w", "y", "N", "M"]}],
        "facts": [f"stride({t}, 0) == M" for t in "xy"] + [f"stride({t}, 1) == 1" for t in "xy"]
        + ["stride(w, 0) == 1"],
    }  # fmt: skip
    (folder / "candidate.json").write_text(json.dumps(plan))
    from opwright.compiler.candidates import read as read_candidate

    results = {}
    for name, text in (("right", RIGHT), ("wrong", RIGHT.replace("k < M", "k <= M"))):
        (folder / "kernel.cpp").write_text("#include <cstdint>\n" + text)
        c = read_candidate(folder, op)
        static, data = prove(c, op)
        data = json.loads(to_bytes(data, False))
        assert static.gate("G2") == ("PROVED" if name == "right" else "REFUTED")
        assert check(data, c, op, z3).convinces  # also a refutation is recorded as it is
        results[name] = (c, data)
    c, data = results["wrong"]
    for q in data["queries"]:
        q["result"] = "unsat"
    for p in data["programs"]:
        for o in p["obligations"]:
            o["status"] = "PROVED"
    for r in data["records"]:
        r.update(status="PROVED", reason="", counterexample=None)
    report = check(data, c, op, z3)
    assert not report.convinces
    assert any("z3 says sat" in x for x in report.wrong)
    # and the honest record of the right one is not one of the wrong one
    assert any("another source" in x for x in check(results["right"][1], c, op, z3).wrong)


def test_a_record_of_another_spec_or_plan_is_found(
    made: Data, op: Operator, candidate: Candidate, repeats: Any
) -> None:
    for name in ("spec", "plan", "source", "operator", "types", "facts"):
        data = copy.deepcopy(made)
        data[name] = ["x"] if name == "facts" else "sha256:0"
        assert not check(data, candidate, op, repeats).convinces, name


def test_the_texts_do_not_depend_on_what_was_proved_before(
    made: Data, op: Operator, candidate: Candidate
) -> None:
    import z3 as z

    x, y = z.Ints("y x")
    z.Solver().add(x > y)  # numbers of terms differ from here on
    _, again = prove(candidate, op)
    assert [q["sha256"] for q in again["queries"]] == [q["sha256"] for q in made["queries"]]


def test_another_solver_is_asked_where_it_is_named(
    made: Data, op: Operator, candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "contrary"
    program.write_text('#!/bin/sh\ncase "$1" in --version) echo Contrary 1;; *) echo sat;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    report = check(made, candidate, op, solver("contrary"))
    assert report.solver == "contrary (Contrary 1)"
    assert any("the file says unsat, contrary says sat" in x for x in report.wrong)
    with pytest.raises(NoSolver):
        solver("no_such_solver")


def test_z3_answers_from_text_in_processes_of_its_own(z3: Solver) -> None:
    text = "(set-logic ALL)\n(declare-const x Int)\n(assert (> x 0))\n{}(check-sat)\n"
    inside = Solver("z3", (sys.executable, "-I", "-c", _inside()), "")
    for who in (z3, inside):
        assert who.ask(text.format("")) == "sat"
        assert who.ask(text.format("(assert (< x 0))\n")) == "unsat"
    assert "error" in z3.ask("(assert nothing)\n")


def _inside() -> str:
    from opwright.verify.recheck import INSIDE

    return INSIDE


def test_texts_declare_functions_too() -> None:
    import z3 as z

    f = z.Function("f", z.IntSort(), z.RealSort())
    x = z.Int("a name")
    with open_book(Book()) as book:
        assert decide(z.Solver(), [f(x) > 1, f(x) < 0]) == ("unsat", "")
    (q,) = book.queries.values()
    assert "(declare-fun f (Int) Real)" in q.text and "(declare-const |a name| Int)" in q.text
    assert solver().ask(q.text) == "unsat"
    assert isinstance(q, Query)


def test_files_are_written_whole_packed_or_not_and_strangers_are_refused(
    made: Data, candidate: Candidate, op: Operator, tmp_path: Path
) -> None:
    for name in ("a.json", "a.json.gz"):
        write(made, tmp_path / name)
        assert read(tmp_path / name) == made
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.json.gz"]
    assert file_for(tmp_path, candidate, op).name.startswith("scaled_rows-")
    for text in ("", "{", "[]", '{"kind": "opwright proof record", "format": 99}'):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ProofError):
            read(tmp_path / "b.json")
    (tmp_path / "c.gz").write_bytes(b"\x1f\x8bnot packed")
    with pytest.raises(ProofError):
        read(tmp_path / "c.gz")


def test_the_record_of_a_package_is_one_of_the_folder_that_it_has(
    made: Data, candidate: Candidate, op: Operator, repeats: Any, tmp_path: Path
) -> None:
    """Who proposed a candidate, and for which spec and types, is no part of its plan's meaning."""
    from opwright.compiler.candidates import read as read_candidate
    from opwright.compiler.candidates import write as write_candidate

    plan = replace(candidate.plan, spec=op.digest, types=dict(op.types), origin={"proposer": "p"})
    write_candidate(replace(candidate, plan=plan), tmp_path / "variant")
    found = read_candidate(tmp_path / "variant", op)
    assert found.program is not None
    assert check(made, found, op, repeats).convinces
    data = json.loads(gzip.decompress(packed(Candidate(plan, candidate.source), op)))
    assert data["source"] == made["source"] and data["plan"] == made["plan"]
    other = replace(plan, facts=(*plan.facts, "M % 8 == 0"))
    assert plan_digest(other) != made["plan"] == plan_digest(plan)


def test_the_command_line_records_and_checks(
    made: Data, candidate: Candidate, tmp_path: Path
) -> None:
    from opwright.compiler.candidates import write as write_candidate

    spec = tmp_path / "scaled_rows.op"
    spec.write_text(SPEC)
    write_candidate(candidate, tmp_path / "kernel")
    write(made, tmp_path / "proofs.json")

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "opwright", "verify", str(spec), str(tmp_path / "kernel")]
        return subprocess.run([*command, *more], capture_output=True, text=True, timeout=120)

    done = run("--replay", str(tmp_path / "proofs.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the proof file convinces" in done.stdout
    source = tmp_path / "kernel" / candidate.plan.source
    source.write_text(source.read_text() + "\n")
    done = run("--replay", str(tmp_path / "proofs.json"), "--json")
    assert done.returncode == 1
    assert not json.loads(done.stdout)["convinces"]
