"""Programs as importers make them: the right ones are proved for all shapes, no wrong one is."""

from __future__ import annotations

import pytest
from support import foreign

from opwright.ir.expr import call, const, read, reduction, size, var
from opwright.ir.op import Clause
from opwright.ir.tiletext import parse_program
from opwright.verify.context import Context
from opwright.verify.gates import safety


def in_table() -> Clause:
    ids, length, rows = foreign.IN_TABLE
    at = read(ids, (var("i"),), "int")
    inside = call("and", call("le", 0, at), call("lt", at, size(rows)))
    term = reduction("all", ("i",), ((const(0), size(length)),), inside)
    return Clause("in_table", "requires", term)


def judge(text, **more):
    needs = (in_table(),) if " I: i64[L]" in text else ()
    return safety(parse_program(text), Context(requires=needs, **more))


def opened(records):
    return {r.id: (r.status, r.reason) for r in records if r.status != "PROVED"}


@pytest.mark.parametrize("name", foreign.RIGHT)
def test_right_programs_are_proved(name):
    assert opened(judge(foreign.RIGHT[name])) == {}


# program, what is changed, into what, which obligation fails, and the source line it names
MUTANTS = [
    ("online", "n + c < N else", "n + c <= N else", "G2.bounds.x", "kernel.py:12"),
    (
        "online",
        "p0, k + c] if k + c < N else -1e+30",
        "p0, k + c]",
        "G2.bounds.x_1",
        "kernel.py:20",
    ),
    ("online", "for k in 0 .. N by 64", "for k in 0 .. N // 64 * 64 by 64", "G3.cover.Y", ""),
    ("online", "for k in 0 .. N by 64", "for k in 0 .. N by 128", "G3.cover.Y", ""),
    ("online", "store Y[p0, k + c]", "store Y[0, k + c]", "G3.once.st", "kernel.py:21"),
    ("row", "grid B", "grid B - 1", "G3.cover.Y", ""),
    ("row", "load W[c] if c < N", "load W[c] if c < B", "G2.bounds.w", "kernel.py:14"),
    ("row", "if c < N else 0.0", "if c < N", "G2.poison.s", "kernel.py:9"),
    ("row", "fact N <= 1024", "fact N <= 2048", "G3.cover.Y", ""),
    (
        "swizzle",
        "(M + 63) // 64 * ((N + 31) // 32)\n",
        "M // 64 * ((N + 31) // 32)\n",
        "G3.cover.C",
        "",
    ),
    (
        "swizzle",
        " and k < K - i * 16 else 0.0\n      b",
        " else 0.0\n      b",
        "G2.bounds.a",
        "kernel.py:31",
    ),
    ("unclipped", "", "", "G2.bounds.st", "kernel.py:40"),
    ("fewer columns", "", "", "G3.cover.C", ""),
    (
        "transpose",
        "if p1 * 32 + n < N and p0 * 32 + m < M = y",
        "if p1 * 32 + n < M and p0 * 32 + m < N = y",
        "G2.bounds.st",
        "kernel.py:11",
    ),
    (
        "transpose",
        "Y[p1 * 32 + n, p0 * 32 + m]",
        "Y[p0 * 32 + n, p1 * 32 + m]",
        "G2.bounds.st",
        "kernel.py:11",
    ),
    ("transpose", " and p1 * 32 + n < N\n", "\n", "G2.bounds.x", "kernel.py:9"),
    ("flat", "1024 + c] if p0 * 1024 + c < B * N =", "1024 + c] =", "G2.bounds.st", "kernel.py:9"),
    ("flat", "grid (B * N + 1023) // 1024", "grid B * N // 1024", "G3.cover.Y", ""),
    ("flat", "2147480000", "4294967296", "G2.wrap.w", "kernel.py:5"),
    ("flat", "(B * N + 1023) // 1024", "(B * N + 511) // 512", "G2.wrap.w", "kernel.py:5"),
    ("strided", "by 33792", "by 34048", "G3.cover.Y", ""),
    ("strided", "store Y[i + c] if i + c < N", "store Y[c] if c < N", "G3.once.st", "kernel.py:9"),
    ("strided", "fact N <= 2000000000", "fact N <= 2147483647", "G2.wrap.over", "kernel.py:4"),
    ("persistent", "min(B, 108) - 1) //", "min(B, 108)) //", "G2.bounds.x", "kernel.py:6"),
    (
        "persistent",
        "(B - p0 + min(B, 108) - 1) // min(B, 108)",
        "B // min(B, 108)",
        "G3.cover.Y",
        "",
    ),
    ("running", "if n + c < N else 0.0", "if n + c < N and 3 < c", "G2.poison.y", "kernel.py:8"),
    ("running", "store Y[p0, n + c]", "store Y[p0, n + c - n]", "G3.cover.Y", ""),
    ("lookup", "load T[i, ", "load T[i + 1, ", "G2.bounds.t", "kernel.py:8"),
    ("lookup", "fact V * D <= 2147483647\n", "", "G2.wrap.w", "kernel.py:6"),
    ("count", "if p0 * 128 + c < L = one", "= one", "G2.bounds.count.at", "kernel.py:17"),
    (
        "count",
        "clr: store H[p0 * 128 + c] if p0 * 128 + c < V",
        "clr: store H[p0 * 128 + c] if p0 * 128 + c < V - 1",
        "G3.cover.H",
        "",
    ),
    ("split", "init zero", "init none", "G2.init.parts.at", "kernel.py:12"),
    ("split", "atomic sum S", "store S", "G3.race.parts.at.at", "kernel.py:12"),
    ("redundant", "if c < N else", "if c < N and c <= p1 else", "G3.once.st", ""),
    ("best", "if c < N else -inf", "if c < N", "G2.poison.j", ""),
    ("best", "c = h * 256 + l", "c = h * 257 + l", "G2.view.g", ""),
]
UNKNOWN = {28, 29}  # rests on data that no small run holds


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_wrong_programs_are_not_proved(number):
    name, old, new, ident, line = MUTANTS[number]
    text = foreign.WRONG[name] if name in foreign.WRONG else foreign.RIGHT[name]
    assert old in text
    records = judge(text.replace(old, new) if old else text)
    found = {r.id: r for r in records}
    wanted = "UNKNOWN" if number in UNKNOWN else "REFUTED"
    assert found[ident].status == wanted, opened(records)
    assert line in found[ident].reason
    if wanted == "REFUTED":
        example = found[ident].counterexample
        assert example["sizes"] and "lane" in example
        assert not line or example["line"] == line


def test_orders_of_effects_of_a_block_program():
    """A tile that is written and then read by other lanes needs more than program order."""
    text = foreign.ROW.replace(
        "    st: store Y[p0, c] if c < N = y\n",
        """\
    st: store Y[p0, c] if c < N = y
    z: f16[c] = load Y[p0, AT] if c < N
    st_1: store Y[p0, c] if c < N = z
""",
    )
    assert opened(judge(text.replace("AT", "c"))) == {}
    found = opened(judge(text.replace("AT", "N - 1 - c")))
    assert found["G3.race.st.z"][0] == "REFUTED" and "another lane" in found["G3.race.st.z"][1]
    ordered = text.replace("AT", "N - 1 - c").replace("  order lane\n", "")
    assert "G3.race.st.z" not in opened(judge(ordered))


def test_what_a_proof_takes_for_granted_is_said():
    text = foreign.FLAT.replace("kernel each", 'assume "zero fill of masked loads"\nkernel each')
    records = [r for r in judge(text) if r.kind in ("G2", "G3")]
    assert all("assuming zero fill of masked loads" in r.reason for r in records)
    assert all("zero fill of masked loads" in r.assumptions for r in records)


def test_atomics_say_in_what_they_are_determined():
    found = {r.id: r.reason for r in judge(foreign.COUNT)}
    assert found["G3.atomic.count.at"].endswith("determined whatever the order")
    found = {r.id: r.reason for r in judge(foreign.SPLIT)}
    assert found["G3.atomic.parts.at"].endswith("determined up to the order of the sum")


def test_a_wrap_is_refuted_at_one_point():
    text = foreign.FLAT.replace("2147480000", "4294967296")
    (r,) = (r for r in judge(text) if r.id == "G2.wrap.w")
    example = r.counterexample
    n, p = example["sizes"]["B"] * example["sizes"]["N"], example["program"][0]
    assert 0 <= p < (n + 1023) // 1024 and p * 1024 + example["lane"]["c"] > 2**31 - 1
