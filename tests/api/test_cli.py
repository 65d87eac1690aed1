"""The command line from outside: exit codes, messages, JSON, start-up time."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.sandboxed import flags

from opwright.cli import run


def opwright(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opwright", *map(str, arguments), *flags()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
    )


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, opwright.cli as c; c.run(['--help']);"
            "print(sorted({'numpy', 'torch', 'jax', 'z3', 'sympy', 'rich', 'lark'}"
            "& set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    assert opwright("--version").stdout.startswith("opwright 0.")


@pytest.mark.parametrize("arguments", [["nonsense"], ["doctor", "--nonsense"], ["explain"]])
def test_usage_errors(arguments: list[str]) -> None:
    done = opwright(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_doctor() -> None:
    done = opwright("doctor", "--json")
    names = {finding["name"] for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode in (0, 1)
    assert {"python", "compiler", "z3-solver", "torch", "jax", "onnxruntime", "cache"} <= names


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    done = opwright("doctor", CXX="no-such-compiler", OPWRIGHT_CACHE="/proc/none")
    assert done.returncode == 1
    assert "no-such-compiler: not found" in done.stdout
    assert "cure: make it writable" in done.stdout


@pytest.mark.parametrize("name", ["E0101", "e0101", "G2", "G2.bounds.ld_x", "PROVED"])
def test_explain(name: str) -> None:
    done = opwright("explain", name)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 2


def test_explain_as_json() -> None:
    facts = json.loads(opwright("explain", "E0101", "--json").stdout)
    assert facts["id"] == "E0101"
    assert set(facts["example"]) == {"wrong", "right"}


@pytest.mark.parametrize("name", ["E9999", "G12", "something", "77.1", "abcdef12"])
def test_explain_nothing(name: str, tmp_path: Path) -> None:
    done = opwright("explain", name, OPWRIGHT_CACHE=tmp_path)
    assert done.returncode == 2
    assert "cure:" in done.stderr


def test_search_without_an_archive(tmp_path: Path) -> None:
    done = opwright("search", "show", OPWRIGHT_CACHE=tmp_path)
    assert done.returncode == 2
    assert "no archive" in done.stderr


def test_search_in_a_missing_file(tmp_path: Path) -> None:
    done = opwright("search", "best", tmp_path / "a.sqlite")
    assert done.returncode == 2
    assert not (tmp_path / "a.sqlite").exists()


def test_search_in_a_foreign_file(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.sqlite") as database:
        database.execute("create table t (x)")
    done = opwright("search", "show", tmp_path / "a.sqlite")
    assert done.returncode == 2
    assert "another program" in done.stderr


@pytest.mark.parametrize("command", ["show", "best", "export"])
def test_search_makes_no_archive_of_an_empty_file(command: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    more = [tmp_path / "lines"] if command == "export" else []
    done = opwright("search", command, *more, empty)
    assert done.returncode == 2 and "is empty, and no archive" in done.stderr
    assert empty.stat().st_size == 0 and not (tmp_path / "lines").exists()


def test_search_in_an_archive(tmp_path: Path) -> None:
    from opwright.search.archive import Archive, Candidate

    with Archive(tmp_path / "a.sqlite") as archive:
        run = archive.run(0, {}, "here")
        archive.add(run, Candidate(0, 0, "plain()", "ok", metrics={"w": {"latency": 2e-3}}), "here")
        archive.add(run, Candidate(1, 0, "plain(x=2)", "refuted", "out of bounds"), "here")
    done = opwright("search", "show", OPWRIGHT_CACHE=tmp_path)
    assert "2 ms" in done.stdout
    assert "out of bounds" in done.stdout
    best = json.loads(opwright("search", "best", "--json", OPWRIGHT_CACHE=tmp_path).stdout)
    assert [row["number"] for row in best["rows"]] == [0]
    target = tmp_path / "all.jsonl"
    assert opwright("search", "export", target, tmp_path / "a.sqlite").returncode == 0
    kinds = [json.loads(line)["kind"] for line in target.read_text().splitlines()]
    assert [k for k in kinds if k != "ledger"] == ["archive", "run", "candidate", "candidate"]
    assert "out of bounds" in opwright("explain", "1.1", OPWRIGHT_CACHE=tmp_path).stdout


def test_a_defect_is_one_line_and_a_log(tmp_path: Path) -> None:
    program = (
        "import sys, opwright.doctor as d, opwright.cli as c;"
        "d.examine = lambda: 1 / 0;"
        "sys.exit(c.run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "doctor"]
    environment = {**os.environ, "OPWRIGHT_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3
    assert "internal error: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    (log,) = (tmp_path / "logs").iterdir()
    assert "Traceback" in log.read_text()
    command.append("--debug")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3
    assert "Traceback" in done.stderr


SPEC = 'opwright "0.1"\nop f @ 1.0 {\n dims N\n input x: f32[N]\n output y: f32[N]\n'
UGLY = SPEC + " def { y[i]=x[i]+1 } # one more\n}\n"
BROKEN = SPEC + " def { y[i] = x[i] + }\n}\n"


def test_fmt(tmp_path: Path) -> None:
    path = tmp_path / "f.op"
    path.write_text(UGLY)
    path.chmod(0o640)
    assert opwright("fmt", "--check", path).returncode == 1
    assert path.read_text() == UGLY
    assert opwright("fmt", path).returncode == 0
    assert "# one more" in path.read_text()
    assert path.read_text() != UGLY
    assert path.stat().st_mode & 0o777 == 0o640
    assert opwright("fmt", "--check", path).returncode == 0
    assert list(tmp_path.iterdir()) == [path]


def test_fmt_leaves_a_broken_file_and_goes_on(tmp_path: Path) -> None:
    broken, ugly = tmp_path / "a.op", tmp_path / "b.op"
    broken.write_text(BROKEN)
    ugly.write_text(UGLY)
    done = opwright("fmt", broken, ugly)
    assert done.returncode == 1
    assert "a.op:6:" in done.stderr
    assert broken.read_text() == BROKEN
    assert ugly.read_text() != UGLY


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "no space left"),
    ],
)
def test_fmt_where_nothing_can_be_written(
    number: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "f.op"
    path.write_text(UGLY)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("opwright.outcome.os.replace", fail)
    assert run(["fmt", str(path)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "cure:" in message
    assert path.read_text() == UGLY
    assert list(tmp_path.iterdir()) == [path]


COMMANDS = [["fmt"], ["show"], ["check"], ["compile"], ["bench"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_bad_paths(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "latin.op").write_bytes(b'opwright "0.1"\n# \xe9t\xe9\n')
    (tmp_path / "softmax.op").write_text(UGLY)
    for name, words in {
        "softmacks.op": "did you mean",
        "folder": "no such file",
        ".": "is a folder, not a spec",
        "softmax.op/x.op": "a part of the path is a file",
        "latin.op": "not UTF-8",
    }.items():
        done = opwright(*command, tmp_path / name)
        assert done.returncode == 2, name
        assert words in done.stderr, name
        assert "cure:" in done.stderr, name
        assert "Traceback" not in done.stderr


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("stage", ["ast", "op", "schedules", "tile", "source"])
def test_show(stage: str) -> None:
    done = opwright("show", ROOT / "specs/nn/softmax.op", "--stage", stage)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3


@pytest.mark.parametrize(
    ("backend", "stage", "words"),
    [
        ("triton", "schedules", "loop(rows=1"),
        ("triton", "tile", "launch num_warps"),
        ("triton", "source", "@triton.jit"),
        ("triton", "plan", '"backend": "triton"'),
        ("jax", "source", "jnp."),
        ("jax", "plan", '"backend": "jax"'),
        ("cpp", "plan", '"backend": "cpp"'),
    ],
)
def test_show_what_a_backend_prints(backend: str, stage: str, words: str) -> None:
    path = ROOT / "specs/nn/softmax.op"
    done = opwright("show", path, "--stage", stage, "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize(
    ("stage", "words"),
    [("ttir", "tt.func public @"), ("ptx", ".target sm_90"), ("resources", "registers/thread")],
)
def test_show_what_triton_makes_of_it(stage: str, words: str) -> None:
    pytest.importorskip("triton")
    path = ROOT / "specs/nn/softmax.op"
    done = opwright("show", path, "--stage", stage, "--backend", "triton", "--target", "sm_90")
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_doctor_names_what_devices_need() -> None:
    done = opwright("doctor", "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert {"triton", "libclang", "jax", "torch", "compiler", "nvcc", "ptxas", "gpu"} <= set(found)
    assert all(one["ok"] or one["cure"] for one in found.values())


def test_show_another_binding_and_schedule() -> None:
    path = ROOT / "specs/reduce/row_sum.op"
    done = opwright("show", path, "--stage", "tile", "--type", "T=bf16")
    assert "bf16" in done.stdout
    schedule = opwright("show", path, "--stage", "schedules").stdout.splitlines()[0]
    done = opwright("show", path, "--stage", "source", "--schedule", schedule)
    assert 'extern "C"' in done.stdout


def test_show_bad_requests(tmp_path: Path) -> None:
    path = tmp_path / "f.op"
    path.write_text(UGLY + UGLY.replace('opwright "0.1"', "").replace("op f", "op grid"))
    for arguments, words in {
        (): "name one: --op f | grid",
        ("--op", "gird"): "did you mean grid?",
        ("--op", "f", "--type", "T=float"): "binds no type",
        ("--op", "f", "--stage", "tile", "--schedule", "nonsense(a=1)"): "no strategy nonsense",
        ("--op", "f", "--stage", "ptx"): "add --backend triton",
        ("--op", "f", "--stage", "tile", "--backend", "jax"): "array code has no stage tile",
        ("--op", "f", "--stage", "ptx", "--backend", "triton", "--target", "sm_1"): "target sm_1",
    }.items():
        done = opwright("show", path, *arguments)
        assert done.returncode == 2, arguments
        assert words in done.stderr, done.stderr
    assert opwright("show", path, "--stage", "nonsense").returncode == 2
    path.write_text(BROKEN)
    done = opwright("show", path)
    assert done.returncode == 1
    assert "error[E0101]" in done.stderr
