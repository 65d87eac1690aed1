"""For every diagnostic code a text that has the mistake and the same text put right.

A test checks both against the front end, so the examples cannot drift from the compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """`wrong` is reported with the code it stands under, `right` is not."""

    wrong: str
    right: str


def body(text: str, interface: str = "input x: f32[N]\n  output y: f32[N]") -> str:
    """A whole file around some sections of one operator."""
    return f'opwright "0.1"\n\nop f @ 1.0 {{\n  dims N\n  {interface}\n  {text}\n}}\n'


def pair(wrong: str, right: str) -> Example:
    """An example whose two texts are sections of one operator."""
    return Example(body(wrong), body(right))


RIGHT = body("def { y[i] = x[i] + 1 }")
SYNTAX: Mapping[str, Example] = {
    "E0101": pair("def { y[i] = x[i] + }", "def { y[i] = x[i] + 1 }"),
    "E0102": Example("# nothing but a comment\n", RIGHT),
    "E0103": Example(RIGHT.removeprefix('opwright "0.1"\n\n'), RIGHT),
    "E0104": Example(RIGHT.replace("0.1", "9.9", 1), RIGHT),
    "E0106": pair("def { y[i] = x[i] & 1 }", "def { y[i] = if x[i] > 0 then 1 else 0 }"),
    "E0107": Example(RIGHT.replace("f @ 1.0", 'f @ 1.0 "adds one'), RIGHT),
    "E0108": pair(
        "where N = 4\n  def { y[i] = x[i] + 1 }", "where N == 4\n  def { y[i] = x[i] + 1 }"
    ),
    "E0109": pair("def { y[i] == x[i] + 1 }", "def { y[i] = x[i] + 1 }"),
    "E0110": pair("def { y[i] = (x[i] + 1 }", "def { y[i] = (x[i] + 1) }"),
    "E0111": pair("def { y[i] = x[i] + 1) }", "def { y[i] = x[i] + 1 }"),
    "E0112": pair("def y[i] = x[i] + 1 }", "def { y[i] = x[i] + 1 }"),
    "E0113": pair("where N >= 1\n  compute y = x", "where N >= 1\n  def { y[i] = x[i] }"),
    "E0114": Example(f"{RIGHT}where N >= 1\n", RIGHT),
    "E0115": Example('opwright "0.1"\n', RIGHT),
    "E0116": Example(RIGHT.replace("@ 1.0", "@ 1", 1), RIGHT),
    "E0117": pair("type T in {float32}", "type T in {f32}"),
    "E0118": pair(f"def {{ y[i] = {'(1 + ' * 250}x[i]{')' * 250} }}", "def { y[i] = 250 + x[i] }"),
    "E0119": pair("def { y[i] = x[i].exp() }", "def { y[i] = exp(x[i]) }"),
    "E0120": pair("def { y[i] = x[i] + 1e999 }", "def { y[i] = x[i] + 1e9 }"),
    "E0121": pair("def { }", "def { y[i] = x[i] + 1 }"),
    "E0122": Example(RIGHT.replace('"0.1"', "0.1", 1), RIGHT),
    "E0124": pair("def { y[i] = max(x[i], 0,) }", "def { y[i] = max(x[i], 0) }"),
    "E0125": pair("ensures all[i: N](y[i] > 0)", "ensures positive: all[i: N](y[i] > 0)"),
    "E0123": pair("minimize 1.0 * speed", "minimize 1.0 * latency"),
}
EXAMPLES: Mapping[str, Example] = {**SYNTAX}
