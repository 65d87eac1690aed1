"""The operator library: every spec parses, is in canonical form, and says all that it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.grammar.ast import Op
from opwright.grammar.format import format_module
from opwright.grammar.parser import parse_file

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted((ROOT / "specs").rglob("*.op"))
NAMES = """softmax log_softmax layernorm rmsnorm gelu gelu_tanh silu matmul matmul_bias_gelu
batched_matmul transpose row_sum column_sum argmax cumsum cross_entropy embedding conv2d_bias_relu
causal_attention""".split()
each = pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)


def only_op(path: Path) -> Op:
    (op,) = parse_file(path).ops
    return op


def test_the_library_is_whole() -> None:
    assert set(NAMES) <= {path.stem for path in SPECS}


@each
def test_a_spec_is_named_after_its_file(path: Path) -> None:
    assert only_op(path).name == path.stem


@each
def test_a_spec_is_in_canonical_form(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_module(text, str(path)) == text


@each
def test_a_spec_says_all_that_it_should(path: Path) -> None:
    op = only_op(path)
    assert op.doc
    assert op.defs
    assert op.ensures or op.laws
    assert op.grads
    assert op.workloads
    assert op.objective
    assert {target.name for target in op.targets} == {"cpu", "gpu"}
    assert sum(float(w.weight.value) for w in op.workloads) == pytest.approx(1)


@each
def test_written_tolerances_cover_the_outputs(path: Path) -> None:
    op = only_op(path)
    options = {decl.name: [o.name for o in decl.options] for decl in op.types}
    reals = {
        name
        for output in op.outputs
        for name in options.get(output.type.name, [output.type.name])
        if "f" in name
    }
    if op.tolerance is None:
        assert reals == set()
    else:
        assert {rule.type.name for rule in op.tolerance.rules} == reals
