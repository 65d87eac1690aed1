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
    "E0117": pair(
        "type T in {float32}\n  def { y[i] = x[i] }", "type T in {f32}\n  def { y[i] = x[i] }"
    ),
    "E0118": pair(f"def {{ y[i] = {'(1 + ' * 250}x[i]{')' * 250} }}", "def { y[i] = 250 + x[i] }"),
    "E0119": pair("def { y[i] = x[i].exp() }", "def { y[i] = exp(x[i]) }"),
    "E0120": pair("def { y[i] = x[i] + 1e999 }", "def { y[i] = x[i] + 1e9 }"),
    "E0121": pair("def { }", "def { y[i] = x[i] + 1 }"),
    "E0122": Example(RIGHT.replace('"0.1"', "0.1", 1), RIGHT),
    "E0124": pair("def { y[i] = max(x[i], 0,) }", "def { y[i] = max(x[i], 0) }"),
    "E0125": pair(
        "def { y[i] = exp(x[i]) }\n  ensures all[i: N](y[i] > 0)",
        "def { y[i] = exp(x[i]) }\n  ensures positive: all[i: N](y[i] > 0)",
    ),
    "E0123": pair(
        "def { y[i] = x[i] }\n  minimize 1.0 * speed",
        "def { y[i] = x[i] }\n  minimize 1.0 * latency",
    ),
}
NAMES: Mapping[str, Example] = {
    "E0201": pair("def { y[i] = x[i] + z }", "def { y[i] = x[i] + 1 }"),
    "E0202": pair("def {\n    y[i] = x[i]\n    y[i] = x[i] + 1\n  }", "def { y[i] = x[i] + 1 }"),
    "E0203": pair("def { y[i] = expo(x[i]) }", "def { y[i] = exp(x[i]) }"),
    "E0204": Example(
        RIGHT.replace("\n\n", "\nimport nn.nowhere as n\n\n", 1),
        RIGHT.replace("\n\n", "\nimport nn.gelu as n\n\n", 1),
    ),
    "E0205": Example(
        RIGHT.replace("\n\n", "\nfrom nn.gelu import jelu\n\n", 1),
        RIGHT.replace("\n\n", "\nfrom nn.gelu import gelu\n\n", 1),
    ),
    "E0206": Example(
        RIGHT.replace("\n\n", "\nfrom nn.gelu import gelu @9.0\n\n", 1),
        RIGHT.replace("\n\n", "\nfrom nn.gelu import gelu @1.0\n\n", 1),
    ),
    "E0207": pair("def { y[i] = x[i] }\n  grad y auto", "def { y[i] = x[i] }\n  grad x auto"),
    "E0208": pair("def { z[i] = x[i] + 1 }", "def { y[i] = x[i] + 1 }"),
    "E0209": pair(
        "def {\n    x[i] = 1\n    y[i] = x[i]\n  }",
        "def {\n    z[i] = 1 + x[i]\n    y[i] = z[i]\n  }",
    ),
    "E0210": pair(
        "def {\n    y[i] = z[i]\n    z[i] = y[i] + x[i]\n  }",
        "def {\n    y[i] = z[i]\n    z[i] = 2 * x[i]\n  }",
    ),
    "E0211": pair(
        "def { y[i] = x[i] }\n  law same: f(x).z ~= y",
        "def { y[i] = x[i] }\n  law same: f(x).y ~= y",
    ),
    "E0212": pair(
        "def { y[i] = x[i] }\n  law same: f(x, k = 2) ~= y",
        "def { y[i] = x[i] }\n  law same: f(x) ~= y",
    ),
    "E0214": pair(
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, M = 4 }",
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4 }",
    ),
    "E0215": pair(
        "def { y[i] = x[i] }\n  workload w weight 1.0 { x ~ normal(0, 1) }",
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, x ~ normal(0, 1) }",
    ),
    "E0216": pair(
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, x ~ gauss(0, 1) }",
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, x ~ normal(0, 1) }",
    ),
    "E0217": pair(
        'def { y[i] = x[i] }\n  workload "no-such-trace.jsonl" weight 1.0',
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4 }",
    ),
    "E0218": pair(
        "def { y[i] = x[i] }\n  target tpu via jax", "def { y[i] = x[i] }\n  target cpu via cpp"
    ),
    "E0220": pair("def { y[i] = sum[i: N](x[i]) }", "def { y[i] = sum[j: N](x[j]) }"),
}
KINDS: Mapping[str, Example] = {
    "E0301": pair("def { y[i] = -(x[i] > 0) }", "def { y[i] = -x[i] }"),
    "E0302": pair(
        "def { y[i] = if x[i] > 0 then 1 else x[i] > 0 }",
        "def { y[i] = if x[i] > 0 then 1 else 0 }",
    ),
    "E0303": pair("def { y[i] = x[x[i]] }", "def { y[i] = x[N - 1 - i] }"),
    "E0304": pair("def { y[i] = x[i] > 0 }", "def { y[i] = if x[i] > 0 then 1 else 0 }"),
    "E0305": pair("def { y[i] = x + 1 }", "def { y[i] = x[i] + 1 }"),
    "E0306": pair("def { y[i] = x[i] + N[i] }", "def { y[i] = x[i] + N }"),
    "E0307": pair("def { y[i] = exp(x[i], 2) }", "def { y[i] = exp(x[i]) }"),
    "E0308": pair("def { y[i] = i32(x[i]) }", "def { y[i] = i32(floor(x[i])) }"),
    "E0309": pair("def { y[i] = round.i32(x[i]) }", "def { y[i] = round.bf16(x[i]) }"),
    "E0310": pair(
        "param k: i32 = 0.5\n  def { y[i] = x[i] }", "param k: i32 = 5\n  def { y[i] = x[i] }"
    ),
    "E0311": pair(
        "def { y[i] = if x[i] then 1 else 0 }", "def { y[i] = if x[i] > 0 then 1 else 0 }"
    ),
    "E0313": pair(
        "def { y[i] = if any[j: N](x[j]) then 1 else 0 }",
        "def { y[i] = if any[j: N](x[j] > 0) then 1 else 0 }",
    ),
    "E0314": pair("def { y[i] = sum.i32[j: N](x[j]) }", "def { y[i] = sum.f32[j: N](x[j]) }"),
    "E0315": pair(
        "where N >= 1\n  def { y[i] = argmax[j: N, k: N](x[j] * x[k]) }",
        "where N >= 1\n  def { y[i] = argmax[j: N](x[j]) }",
    ),
    "E0312": pair(
        "type T in {f32}\n  def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, T = bf16 }",
        "type T in {f32}\n  def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, T = f32 }",
    ),
    "E0316": Example(
        body(
            "def {\n    y[i] = x[i]\n    z[i] = -x[i]\n  }\n  law same: f(x) ~= y",
            "input x: f32[N]\n  output y: f32[N], z: f32[N]",
        ),
        body(
            "def {\n    y[i] = x[i]\n    z[i] = -x[i]\n  }\n  law same: f(x).y ~= y",
            "input x: f32[N]\n  output y: f32[N], z: f32[N]",
        ),
    ),
    "E0318": pair(
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, x ~ normal(0, exp(1)) }",
        "def { y[i] = x[i] }\n  workload w weight 1.0 { N = 4, x ~ normal(0, 2.7) }",
    ),
    "E0319": pair("def { y[i] = x[i] + 9999999999999999999 }", "def { y[i] = x[i] + 1e19 }"),
    "E0320": pair(
        "def { y[i] = x[i] }\n  minimize latency subject to memory <= 5 ms",
        "def { y[i] = x[i] }\n  minimize latency subject to memory <= 5 MiB",
    ),
    "E0317": pair(
        "def { y[i] = x[i] }\n  minimize latency\n  minimize memory",
        "def { y[i] = x[i] }\n  minimize latency",
    ),
}
SHAPES: Mapping[str, Example] = {
    "E0402": pair("def { y[i] = x[i, 0] }", "def { y[i] = x[i] }"),
    "E0405": pair(
        "def {\n    z[i, i] = x[i]\n    y[i] = z[i, i]\n  }",
        "def {\n    z[i, j] = if i == j then x[i] else 0\n    y[i] = z[i, i]\n  }",
    ),
    "E0403": pair(
        "def {\n    z[i] = 2 * i\n    y[i] = x[i] + z[0]\n  }", "def { y[i] = x[i] + 2 * 0 }"
    ),
    "E0404": Example(
        body(
            "def {\n    z[i] = x[i] + w[i]\n    y = z[0]\n  }",
            "dims M\n  input x: f32[N], w: f32[M]\n  output y: f32",
        ),
        body(
            "def {\n    z[i] = x[i] + w[i]\n    y = z[0]\n  }",
            "input x: f32[N], w: f32[N]\n  output y: f32",
        ),
    ),
    "E0407": pair(
        "def { y[i] = x[i] }\n  law same: f(x) ~= [i: N, j: N => x[i]]",
        "def { y[i] = x[i] }\n  law same: f(x) ~= [i: N => x[i]]",
    ),
    "E0408": Example(
        body("def { y[i] = x }\n  law same: f(x) ~= y", "input x: f32\n  output y: f32[N]"),
        body("def { y[i] = x }\n  law same: f(x, N = N) ~= y", "input x: f32\n  output y: f32[N]"),
    ),
    "E0413": pair(
        "def { rec t: y[t] = y[t + 1] + x[t] init 0 }",
        "def { rec t: y[t] = y[t - 1] + x[t] init 0 }",
    ),
    "E0414": Example(
        body("def { y[i] = x[i] }", "input s: i32, x: f32[s]\n  output y: f32[N]"),
        body("def { y[i] = x[i] }", "input s: i32, x: f32[N]\n  output y: f32[N]"),
    ),
    "E0415": pair(
        "where N % 4 == 0\n  def { y[i] = x[i] }\n  workload w weight 1.0 { N = 6 }",
        "where N % 4 == 0\n  def { y[i] = x[i] }\n  workload w weight 1.0 { N = 8 }",
    ),
    "E0424": pair(
        "param eps: f32 = 0\n  where eps > 0\n  def { y[i] = x[i] / eps }",
        "param eps: f32 = 1e-6\n  where eps > 0\n  def { y[i] = x[i] / eps }",
    ),
    "E0416": Example(
        body("def { y[i..., j] = x[i..., j] }", "input x: f32[N..., N]\n  output y: f32[N, N]"),
        body("def { y[i, j] = x[i, j] }", "input x: f32[N, N]\n  output y: f32[N, N]"),
    ),
    "E0430": pair(
        "input k: i32[N]\n  def { y[i] = x[i] * rand(0, i, k[i]) }",
        "input k: i32[N]\n  def { y[i] = x[i] * rand(0, k[i], i) }",
    ),
}
OBLIGATIONS: Mapping[str, Example] = {
    "E0401": pair("def { y[i] = x[i + 1] }", "def { y[i] = x[i + 1] ?? 0 }"),
    "E0406": Example(
        body("def { y[i] = x[i] }", "input x: f32[N]\n  output y: f32[N - 2]"),
        body("where N >= 2\n  def { y[i] = x[i] }", "input x: f32[N]\n  output y: f32[N - 2]"),
    ),
    "E0409": pair(
        "def { y[i] = x[i] - max[j: N / 2](x[j]) }".replace("N / 2", "N // 2"),
        "where N >= 2\n  def { y[i] = x[i] - max[j: N // 2](x[j]) }",
    ),
    "E0410": pair(
        "param k: i32 = 2\n  def { y[i] = x[i // k] }",
        "param k: i32 = 2\n  where k >= 1\n  def { y[i] = x[i // k] }",
    ),
    "E0411": pair(
        "where N >= 4, N < 4\n  def { y[i] = x[i] }", "where N >= 4, N < 8\n  def { y[i] = x[i] }"
    ),
    "E0412": Example(
        'opwright "0.1"\n\nfrom nn.softmax import softmax\n\nop f @ 1.0 {\n  dims B, N\n'
        "  input x: f32[B, N]\n  output y: f32[B, N]\n"
        "  def {\n    s = softmax(x)\n    y[b, j] = s[b, j]\n  }\n}\n",
        'opwright "0.1"\n\nfrom nn.softmax import softmax\n\nop f @ 1.0 {\n  dims B, N\n'
        "  where 1 <= N, N <= 1024\n  input x: f32[B, N]\n  output y: f32[B, N]\n"
        "  def {\n    s = softmax(x)\n    y[b, j] = s[b, j]\n  }\n}\n",
    ),
    "E0418": pair("def { y[i] = x[i] / 0 }", "def { y[i] = x[i] / 2 }"),
    "E0419": pair(
        "def { y[i] = x[i] * x[i] }\n  grad x { d_x[i] = x[i] * d_y[i] }",
        "def { y[i] = x[i] * x[i] }\n  grad x { d_x[i] = 2 * x[i] * d_y[i] }",
    ),
    "E0420": pair(
        "input k: i32[N]\n  def { y[i] = x[i] }\n  grad k auto",
        "input k: i32[N]\n  def { y[i] = x[i] }\n  grad x auto",
    ),
    "E0421": pair(
        "def { y[i] = max(x[i], 0) }\n  ensures nonneg: all[i: N](y[i] > 0)",
        "def { y[i] = max(x[i], 0) }\n  ensures nonneg: all[i: N](y[i] >= 0)",
    ),
    "E0422": pair(
        "def { y[i] = abs(x[i]) }\n  law odd: f([i: N => -x[i]]) ~= [i: N => -y[i]]",
        "def { y[i] = abs(x[i]) }\n  law even: f([i: N => -x[i]]) ~= y",
    ),
    "E0423": pair("def { y[i] = log(-1 - x[i] * x[i]) }", "def { y[i] = log(1 + x[i] * x[i]) }"),
    "W0401": pair(
        "def { y[i] = 1 / x[i] }",
        "def { y[i] = 1 / x[i] }\n  requires positive: all[i: N](0 < x[i])",
    ),
}
EXAMPLES: Mapping[str, Example] = {**SYNTAX, **NAMES, **KINDS, **SHAPES, **OBLIGATIONS}
