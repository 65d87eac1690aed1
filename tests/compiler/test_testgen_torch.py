"""Generated tests hold for PyTorch's own functions: `OPWRIGHT_TEST_ALL=1 pytest FILE` tries all."""

from __future__ import annotations

import importlib
import sys
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.shipped import SPECS, some  # type: ignore[import-not-found]

from opwright.compiler.elaborate import load_spec
from opwright.compiler.testgen import KIT, generate_suite, write_suite
from opwright.verify import testkit_checks as check
from opwright.verify.testkit_frames import LAYOUTS, frame
from opwright.verify.testkit_spec import Spec, table, typical
from opwright.verify.testkit_values import PLACES, SPECIALS

torch = pytest.importorskip("torch")
twins = importlib.import_module("support.torch_twins")
NAMES = sorted({*twins.ROWS, *twins.OWN} - set(twins.NOT_TWINS))


@pytest.fixture(autouse=True)
def kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The suites take the modules of this tree for their copies."""
    for module in KIT:
        monkeypatch.setitem(sys.modules, module.__name__.rpartition(".")[2], module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spec_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    (path,) = SPECS.rglob(f"{name}.op")
    spec = load_spec(path)
    operators = [spec.operator(name, types) for types in spec.bindings(name)]
    write_suite(generate_suite(operators), folder)
    monkeypatch.syspath_prepend(str(folder))
    made: Spec = importlib.import_module(f"{name}_inputs").SPEC
    for own in (f"{name}_inputs", f"{name}_reference"):
        monkeypatch.delitem(sys.modules, own)
    return made.typed(made.bindings[0])


@pytest.mark.parametrize("name", some(NAMES, 24))
def test_a_function_of_torch_passes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(name, tmp_path, monkeypatch)
    subject = check.Subject(getattr(twins, name), spec, frame("torch"), refusals=True)
    failed: list[str] = []
    made = 0

    def judge(function: Callable[..., None], *arguments: Any) -> None:
        nonlocal made
        try:
            function(*arguments)
            made += 1
        except unittest.SkipTest:
            pass
        except AssertionError as e:
            failed.append(str(e))

    usual = typical(spec, 2)
    for case in table(spec):
        judge(check.check_values, subject, case)
    for special in SPECIALS:
        for place in PLACES:
            judge(check.check_special, subject, special, place)
    for layout in LAYOUTS:
        judge(check.every, check.check_layout, subject, usual, layout)
    judge(check.every, check.check_same_bits, subject, usual)
    judge(check.every, check.check_stale, subject, check.pairs(spec))
    judge(check.every, check.check_own_memory, subject, usual)
    for claim in spec.ensures:
        judge(check.every, check.check_ensures, subject, check.for_claims(spec), claim)
    for law in spec.laws:
        judge(check.every, check.check_law, subject, check.for_claims(spec), law)
    if spec.gradient is not None:
        judge(check.every, check.check_gradient, subject, usual)
    assert not failed, "\n".join(failed[:4])
    assert made > 20
