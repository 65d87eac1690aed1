"""docs/verifying.md: every command on it does what stands below it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("triton")
pytest.importorskip("clang")

from opwright.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "verifying.md").read_text(encoding="utf-8")


def sessions() -> list[tuple[str, list[str]]]:
    """Commands with the lines that they print."""
    out: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                out.append((line[2:], []))
            else:
                out[-1][1].append(line)
    return out


def test_the_page_shows_the_spec_that_is_used() -> None:
    shown = re.search(r"```op\n(.*?)```", PAGE, re.S)
    assert shown is not None
    assert shown[1] == (ROOT / "examples" / "verifying" / "scaled_rows.op").read_text()


def test_commands_do_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    found = sessions()
    assert len(found) >= 9
    for command, lines in found:
        words = shlex.split(command)
        assert words[0] == "opwright"
        result = CliRunner().invoke(app, words[1:])
        said = " ".join(result.output.split())
        for line in lines:
            # counterexamples are made small as far as time allows
            pattern = re.escape(" ".join(line.split()))
            pattern = re.sub(r"(?<!<=\\ )(-?|\\-)214748\d{4}", r"-?2147\\d{6}", pattern)
            assert re.search(pattern, said), f"{command}\n{line}\n{result.output}"
