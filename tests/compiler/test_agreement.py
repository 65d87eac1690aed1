"""Random valid specs mean the same to the reference, to a literal reading and on every backend.

A sample that has every construct; `make agreement` runs 300 and more on all backends.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import agreement
from support.naive import Naive, Whole, Wrong, rounded
from support.random_specs import CONSTRUCTS, make

from opwright.grammar.parser import parse

SEEDS = range(len(CONSTRUCTS))


def test_a_sample_of_every_construct_agrees() -> None:
    every = {"cpp tile": 3, "triton tile": 4, "jax": 14, "triton": 21, "cpp": 21}
    report = agreement.agree(SEEDS, every=every)
    assert not report.failures
    assert set(CONSTRUCTS) == {c for seed in SEEDS for c in make(seed).constructs}
    assert all(report.agreed[name] for name in agreement.BACKENDS)


@settings(derandomize=True, max_examples=10, deadline=None, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_random_specs_mean_what_they_say(seed: int, rng: object) -> None:
    s = agreement.prepared(make(seed, rng))  # type: ignore[arg-type]
    agreement.with_cases(s)
    agreement.literal(s)


def test_specs_follow_from_their_seed() -> None:
    assert [make(n) for n in range(40)] == [make(n) for n in range(40)]
    assert make(3).text != make(3 + len(CONSTRUCTS)).text


def test_a_wrong_backend_is_noticed() -> None:
    s = agreement.prepared(make(CONSTRUCTS.index("reduction")))
    report = agreement.Report()
    runs = {"cpp": lambda s: agreement.judge(s, 4, _moved(s)) or 1}
    (failure,) = agreement._one(s.spec, 0, ("cpp",), {}, runs, report)
    assert failure[0] == "cpp" and "not" in failure[1]


def _moved(s: agreement.Subject) -> dict[str, object]:
    from opwright.ir.dtypes import encode

    return {n: encode(b.reference + 0.01, s.op.tensor(n).dtype) for n, b in s.bounds[4].items()}


SPEC = """opwright "0.1"
op f @ 1.0 {
  dims N
  input x: f32[N]
  output y: f32[N], k: i64
  def {
    rec t: y[t] = y[t - 1] + (x[t + 1] ?? 10) init 1
    k = argmax[j: N](x[j])
  }
}
"""


def test_the_literal_reading_reads_literally() -> None:
    x = [1.0, 5.0, float("nan"), float("nan")]
    module = parse(SPEC)
    f = Naive(module, "f", {"N": 4}, {}, {"x": Whole((4,), lambda at: x[at[0]])})
    assert f.run()["k"][()] == 2
    x[2:] = [5.0, -1.0]
    f = Naive(module, "f", {"N": 4}, {}, {"x": Whole((4,), lambda at: x[at[0]])})
    assert f.run() == {"y": {(0,): 6.0, (1,): 11.0, (2,): 10.0, (3,): 20.0}, "k": {(): 1}}
    with pytest.raises(Wrong):
        Naive(module, "f", {"N": 0}, {}, {"x": Whole((0,), lambda at: 0.0)}).run()
    assert rounded(1 + 2**-9, "bf16") == 1.0 and rounded(70000.0, "f16") == float("inf")
