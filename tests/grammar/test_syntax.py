"""Every construct of the language and the tree that it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opwright.grammar import ast
from opwright.grammar.dump import dump, inline_text
from opwright.grammar.parser import decode, parse, parse_bytes, parse_expression, parse_file

HERE = Path(__file__).parent
SPECS = sorted((HERE / "data").glob("*.op"))

EXPRESSIONS = {
    "1": "1",
    "1.5e-3": "1.5e-3",
    "x": "x",
    "true": "(Bool true)",
    "inf": "(Inf)",
    "-x": "(Unary - x)",
    "--x": "(Unary - (Unary - x))",
    "not a": "(Unary not a)",
    "a or b and not c": "(Binary or a (Binary and b (Unary not c)))",
    "a + b - c": "(Binary - (Binary + a b) c)",
    "a * b / c // d % e": "(Binary % (Binary // (Binary / (Binary * a b) c) d) e)",
    "a + b * -c": "(Binary + a (Binary * b (Unary - c)))",
    "(a + b) * c": "(Binary * (Binary + a b) c)",
    "a == b": "(Compare [==] [a b])",
    "0 <= a < b != c": "(Compare [<= < !=] [0 a b c])",
    "(a < b) == c": "(Compare [==] [(Compare [<] [a b]) c])",
    "a ~= b + 1": "(Compare [~=] [a (Binary + b 1)])",
    "a >= b > c": "(Compare [>= >] [a b c])",
    "D in {64, 128}": "(Member D [64 128])",
    "if c then a else b": "(Cond c a b)",
    "if c then a else if d then b else e": "(Cond c a (Cond d b e))",
    "x[i]": "(Read x [i] -)",
    "x[i, j + 1]": "(Read x [i (Binary + j 1)] -)",
    "x[:, i]": "(Read x [(All) i] -)",
    "x[batch..., j]": "(Read x [(Splat batch) j] -)",
    "x[i - 1] ?? 0": "(Read x [(Binary - i 1)] 0)",
    "x[i] ?? -inf": "(Read x [i] (Unary - (Inf)))",
    "x[i] ?? 0 * w": "(Binary * (Read x [i] 0) w)",
    "x[i] ?? y[j]": "(Read (Read x [i] y) [j] -)",
    "x[i][j]": "(Read (Read x [i] -) [j] -)",
    "f(q, k).o[i]": "(Read (Field (Call f [q k] [] false) o) [i] -)",
    "f()": "(Call f [] [] false)",
    "f(a, causal = false)": "(Call f [a] [(NamedArg causal (Bool false))] false)",
    "max(a, 0)": "(Call max [a 0] [] true)",
    "sm.softmax(s)": "(Call sm.softmax [s] [] false)",
    "sm.f().y": "(Field (Call sm.f [] [] false) y)",
    "f32(x)": "(Cast f32 x)",
    "bool(x)": "(Cast bool x)",
    "round.bf16(x)": "(Round bf16 x)",
    "sum[j: N](x[j])": "(Reduce sum - [(Binder j - N)] - (Read x [j] -))",
    "sum.f32[j: N](1)": "(Reduce sum f32 [(Binder j - N)] - 1)",
    "max[j: N | see[i, j]](s)": "(Reduce max - [(Binder j - N)] (Read see [i j] -) s)",
    "all[i: 0..t + 1, j: N](a)": "(Reduce all - [(Binder i 0 (Binary + t 1)) (Binder j - N)] - a)",
    "argmax[j: N](x[j])": "(Reduce argmax - [(Binder j - N)] - (Read x [j] -))",
    "sum[p: ptr[i]..ptr[i + 1]](v)": (
        "(Reduce sum - [(Binder p (Read ptr [i] -) (Read ptr [(Binary + i 1)] -))] - v)"
    ),
    "[i: N => x[i]]": "(TensorLambda [(Binder i - N)] (Read x [i] -))",
    "[i: 1..N, j: M => 0]": "(TensorLambda [(Binder i 1 N) (Binder j - M)] 0)",
    "rand(seed, i, j)": "(Call rand [seed i j] [] false)",
    # The words of other places are names where a name can stand.
    "memory + error * triton": "(Binary + memory (Binary * error triton))",
    "x.sum": "(Field x sum)",
    "latency(abs, ms)": "(Call latency [abs ms] [] false)",
}


@pytest.mark.parametrize(("text", "tree"), EXPRESSIONS.items(), ids=EXPRESSIONS)
def test_expression(text: str, tree: str) -> None:
    assert inline_text(parse_expression(text)) == tree


ITEMS = {
    "dims B, N": "Dims [(Dim B false) (Dim N false)]",
    "dims batch..., N": "Dims [(Dim batch true) (Dim N false)]",
    "where N >= 1, D in {1}": "Where [(Compare [>=] [N 1]) (Member D [1])]",
    "type T in {f32, f8e4m3fnuz}": "TypeDecl T [(DtypeName f32) (DtypeName f8e4m3fnuz)]",
    "let G = Hq // Hkv": "Let G (Binary // Hq Hkv)",
    "param eps: f32": "Param eps (DtypeName f32) -",
    "param causal: bool = true": "Param causal (DtypeName bool) (Bool true)",
    "input x: T[B, N + 1], s: f32": (
        "Inputs [(TensorDecl x (TypeRef T) [B (Binary + N 1)] - -) "
        "(TensorDecl s (DtypeName f32) [] - -)]"
    ),
    "input x: T[batch..., N] layout nhwc": (
        "Inputs [(TensorDecl x (TypeRef T) [(Splat batch) N] nhwc -)]"
    ),
    "output run: f32[C] updates run_in, y: i4[N] layout row": (
        "Outputs [(TensorDecl run (DtypeName f32) [C] - run_in) "
        "(TensorDecl y (DtypeName i4) [N] row -)]"
    ),
    "requires 0 < s": "Requires - (Compare [<] [0 s])",
    "requires finite: all[i: N](x[i] < inf)": (
        "Requires finite (Reduce all - [(Binder i - N)] - (Compare [<] [(Read x [i] -) (Inf)]))"
    ),
    "ensures a: b": "Ensures a b [] -",
    "ensures a: b within abs 1e-3 rel 1e-2 ulp 2 by proof": (
        "Ensures a b [(Tol abs 1e-3) (Tol rel 1e-2) (Tol ulp 2)] proof"
    ),
    "ensures a: b by proof_or_test": "Ensures a b [] proof_or_test",
    "law a: y ~= y": "Law a [] (Compare [~=] [y y]) [] -",
    "law a(c: f32 in -8..8, u: T[B, N], p: perm(N), i: index(N - 1)): b by test": (
        "Law a [(SampleArg c (DtypeName f32) [] (Unary - 8) 8) "
        "(SampleArg u (TypeRef T) [B N] - -) (PermArg p N) (IndexArg i (Binary - N 1))] b [] test"
    ),
    "law a(u: T[N] in 0..1): b within rel 1e-6": (
        "Law a [(SampleArg u (TypeRef T) [N] 0 1)] b [(Tol rel 1e-6)] -"
    ),
    "tolerance versus f64 { f32: abs 1e-6 rel 1e-5  T: ulp 2 }": (
        "Tolerance (DtypeName f64) [(TolRule (DtypeName f32) [(Tol abs 1e-6) (Tol rel 1e-5)]) "
        "(TolRule (TypeRef T) [(Tol ulp 2)])]"
    ),
    "grad x auto": "Grad [x] (GradAuto)",
    "grad x, w none": "Grad [x w] (GradNone)",
    "workload w weight 0.4 { B = 64, T = bf16, x ~ normal(0, 1), z ~ ones(), }": (
        "Workload w 0.4 [(BindValue B 64) (BindDtype T (DtypeName bf16)) "
        "(BindRandom x normal [0 1]) (BindRandom z ones [])]"
    ),
    'workload "trace.jsonl" weight 0.6': "TraceWorkload trace.jsonl 0.6",
    "minimize latency": "Objective [(Term - latency)] []",
    "minimize 0.8 * latency + memory subject to memory <= 64 MiB, compile_time < 60000 ms": (
        "Objective [(Term 0.8 latency) (Term - memory)] "
        "[(Bound memory <= (Quantity 64 MiB)) (Bound compile_time < (Quantity 60000 ms))]"
    ),
    "minimize energy subject to error <= 2e-2": (
        "Objective [(Term - energy)] [(Bound error <= (Quantity 2e-2 -))]"
    ),
    "target gpu(sm_90) via triton, cuda": "Target gpu sm_90 [triton cuda]",
    "target cpu via cpp, jax": "Target cpu - [cpp jax]",
}


def item_of(text: str) -> ast.Item:
    (op,) = parse(f'opwright "0.1"\nop f @ 1.0 {{\n{text}\n}}').ops
    (item,) = op.items
    return item


@pytest.mark.parametrize(("text", "tree"), ITEMS.items(), ids=ITEMS)
def test_item(text: str, tree: str) -> None:
    assert dump(item_of(text)).rpartition(" @")[0] == tree


STATEMENTS = {
    "y[b, j] = x[b, j]": "Equation [(Lhs y [(LhsIndex b false) (LhsIndex j false)])]",
    "y[batch..., j] = 1": "Equation [(Lhs y [(LhsIndex batch true) (LhsIndex j false)])]",
    "s = 1": "Equation [(Lhs s [])]",
    "v[i], j[i] = topk(x)": "Equation [(Lhs v [(LhsIndex i false)]) (Lhs j [(LhsIndex i false)])]",
    "rec t: h[b, t] = a * h[b, t - 1] init 0": (
        "Recurrence t h [b t] (Binary * a (Read h [b (Binary - t 1)] -)) 0"
    ),
    "rec t: h[batch..., t] = h[batch..., t - 1] init 0": "Recurrence t h [(Splat batch) t]",
}


@pytest.mark.parametrize("head", ["def", "grad x"])
@pytest.mark.parametrize(("text", "tree"), STATEMENTS.items(), ids=STATEMENTS)
def test_statement(head: str, text: str, tree: str) -> None:
    item = item_of(f"{head} {{ {text} }}")
    if isinstance(item, ast.Grad):
        assert isinstance(item.body, ast.GradDef)
        (statement,) = item.body.statements
    else:
        assert isinstance(item, ast.Def)
        (statement,) = item.statements
    assert dump(statement).startswith(tree)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("import nn.softmax", "ImportModule [nn softmax] -"),
        ("import nn.softmax as sm", "ImportModule [nn softmax] sm"),
        ("from a import b", "ImportNames [a] [(ImportedName b -)]"),
        (
            "from a.b import c @1.0, d, e @ 2.1.3",
            "ImportNames [a b] [(ImportedName c 1.0) (ImportedName d -) (ImportedName e 2.1.3)]",
        ),
    ],
)
def test_import(text: str, tree: str) -> None:
    module = parse(f'opwright "0.1"\n{text}\nop f @ 1.0 {{ }}')
    assert dump(module.imports[0]).rpartition(" @")[0] == tree


# The snippets of the language's own description, one for each row.
DESCRIBED = [
    "where Hq % Hkv == 0, D in {64, 128, 256}",
    "param scale: f32 = rsqrt(D)",
    "def { y[b, j] = e[b, j] / sum.f32[k: N](e[b, k]) }",
    "def { y[i, d] = sum[p: ptr[i]..ptr[i + 1]](val[p] * x[col[p], d]) }",
    "def { a[n] = x[n, c, h - pad, w - pad] ?? 0 }",
    "def { y[q] = sum[r: R | (p + pad - r) % stride == 0](x[(p + pad - r) // stride] ?? 0 * w) }",
    "def { y[t] = sum[s: 0..t + 1](x[s]) }",
    "def { rec t: h[b, t] = a[b, t] * h[b, t - 1] + x[b, t] init 0 }",
    "def { y[n, d] = table[ids[n], d] }",
    "requires in_range: all[n: N](0 <= ids[n] and ids[n] < V)",
    "def { y[v, d] = sum[n: N | ids[n] == v](g[n, d]) }",
    "def { z = softmax([i: Sq, j: Skv => s[i, j]])  u[i] = attention(q, k, v).o[i] }",
    "def { u[i, j] = rand(seed, i, j) + randn(seed, i, j) }",
    "output run: f32[C] updates run_in",
    "requires finite: all[b: B, j: N](-inf < x[b, j] < inf)",
    "ensures mass: all[b: B](sum.f64[j: N](y[b, j]) ~= 1) within abs 4e-3",
    "law shift(c: f32 in -8..8): softmax([b: B, j: N => x[b, j] + c]) ~= y",
    "tolerance versus f64 { f32: abs 1e-6 rel 1e-5  bf16: abs 8e-3 rel 1.6e-2 }",
    "grad x { d_x[b, j] = y[b, j] }",
    "workload decode weight 0.4 { B = 64, Skv = 8192, T = bf16, x ~ normal(0, 1) }",
    "minimize 0.8 * latency + 0.1 * memory + 0.1 * energy "
    "subject to memory <= 64 MiB, error <= 2e-2",
]


@pytest.mark.parametrize("text", DESCRIBED)
def test_described_syntax_parses(text: str) -> None:
    assert item_of(text)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_tree_of_a_spec(path: Path, golden: Callable[[Path, str], None]) -> None:
    golden(HERE / "goldens" / f"{path.stem}.ast.txt", dump(parse_file(path)))


@pytest.mark.parametrize("text", ["cdiv(N, 4096)", "i32(N)", "stride(x, 0)", "B <= 2147483647"])
def test_expressions_of_a_launch_plan(text: str) -> None:
    assert parse_expression(text)


def test_white_space_and_line_ends_do_not_matter() -> None:
    text = (HERE / "data" / "softmax.op").read_text()
    expected = parse(text)
    assert parse(text.replace("\n", "\r\n")) == expected
    assert parse(text.replace("  ", "\t")) == expected
    assert parse("\ufeff" + text) == expected
    assert parse_bytes(("\ufeff" + text).encode()) == expected
    flat = " ".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    assert parse(flat) == expected


def test_a_byte_order_mark_takes_no_column() -> None:
    module = parse('\ufeffopwright "0.1" op f @ 1.0 { dims N }')
    assert (module.span.line, module.span.col) == (1, 1)


def test_comments_are_kept_beside_the_tree() -> None:
    module = parse(
        '# first\r\nopwright "0.1" # version\n'
        'op f @ 1.0 "not # a comment" { dims N # sizes  \n  # last\n} # end'
    )
    assert [(comment.text, comment.own_line) for comment in module.comments] == [
        ("# first", True),
        ("# version", False),
        ("# sizes", False),
        ("# last", True),
        ("# end", False),
    ]
    assert [comment.span.line for comment in module.comments] == [1, 2, 3, 4, 5]
    assert module.ops[0].doc == "not # a comment"


def test_bytes_are_utf8() -> None:
    assert decode("y = α".encode()) == "y = α"


def test_the_file_name_is_kept() -> None:
    path = HERE / "data" / "cumsum.op"
    assert parse_file(path).filename == str(path)
