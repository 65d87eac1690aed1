"""Schedules: text round trip, stable digests; choice spaces: neighbours, sampling, illegal
decisions.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opwright.ir.tile import TileProgram
from opwright.search.space import (
    ChoiceSpace,
    IllegalSchedule,
    Schedule,
    ScheduleError,
    Space,
    parse,
    space_of,
)

names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda n: n not in ("true", "false", "none", "inf")
)
scalars = (
    st.integers() | st.booleans() | st.none() | st.text(max_size=8) | st.floats(allow_nan=False)
)
values = st.recursive(scalars, lambda v: st.tuples(v) | st.tuples(v, v), max_leaves=4)


@settings(max_examples=200, deadline=None)
@given(names, st.lists(st.tuples(names, values), max_size=5, unique_by=lambda d: d[0]))
def test_text_round_trip(strategy: str, decisions: list[tuple[str, object]]) -> None:
    s = Schedule(strategy, tuple(decisions))  # type: ignore[arg-type]
    back = parse(s.text)
    assert back == s and back.text == s.text
    assert back.digest == s.digest
    assert [type(v) for _, v in back.decisions] == [type(v) for _, v in s.decisions]


def test_the_digest_is_stable() -> None:
    s = Schedule("fold.rows", (("width", 32), ("peel", True), ("home", None)))
    assert s.text == "fold.rows(width=32, peel=true, home=none)"
    assert s.digest[:16] == "ee0c66bde2658c6d"
    assert s.digest == parse(" fold.rows ( width = 32,peel=true, home=none )").digest


@pytest.mark.parametrize(
    ("text", "column"),
    [("fold", 5), ("fold(a)", 7), ("fold(a=)", 8), ("fold(a=1) x", 11), ("fold(a=$)", 8)],
)
def test_a_mistake_names_its_column(text: str, column: int) -> None:
    with pytest.raises(ScheduleError, match=f"column {column}"):
        parse(text)


def test_a_decision_is_named_once() -> None:
    with pytest.raises(ScheduleError, match="twice"):
        Schedule("f", (("a", 1), ("a", 2)))


def test_differences_say_what_changed() -> None:
    a = Schedule("f", (("width", 8), ("peel", True)))
    assert a.changed("width", 16).differences(a) == ["width: 8 -> 16"]
    assert Schedule("g").differences(a) == ["strategy: f -> g"]
    assert a.differences(a) == []


def _space() -> ChoiceSpace:
    def build(width: int, order: str) -> TileProgram:
        if width == 64 and order == "b":
            raise IllegalSchedule("64 lanes do not fit order b")
        return TileProgram(f"w{width}{order}", (), ())

    holes = {"width": (16, 8, 32, 64), "order": ("a", "b", "c")}
    return ChoiceSpace("fold", holes, build, ({"width": 32},))


def test_a_choice_space_is_a_space() -> None:
    s = _space()
    assert isinstance(s, Space)
    assert [p.text for p in s.preferred()] == ["fold(width=16, order=a)", "fold(width=32, order=a)"]
    assert len(s) == 12
    assert s.instantiate(s.preferred()[0]).name == "w16a"
    assert space_of([s], s.preferred()[0]) is s


def test_neighbours_step_numbers_and_swap_names() -> None:
    s = _space()
    found = [n.text for n in s.neighbours(parse("fold(width=16, order=a)"))]
    assert found == [
        "fold(width=8, order=a)",
        "fold(width=32, order=a)",
        "fold(width=16, order=b)",
        "fold(width=16, order=c)",
    ]


def test_illegal_schedules_are_results() -> None:
    s = _space()
    with pytest.raises(IllegalSchedule, match="do not fit"):
        s.instantiate(parse("fold(width=64, order=b)"))
    for text in ("fold(width=5, order=a)", "fold(width=8)", "scan(width=8, order=a)"):
        with pytest.raises(IllegalSchedule):
            s.instantiate(parse(text))
    with pytest.raises(IllegalSchedule, match="no strategy"):
        space_of([s], parse("scan()"))


def test_sampling_depends_on_the_generator_alone() -> None:
    s = _space()
    a, b = Random(7), Random(7)
    assert [s.sample(a) for _ in range(20)] == [s.sample(b) for _ in range(20)]
    assert len({s.sample(a) for _ in range(200)}) == 12
