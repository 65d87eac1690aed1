"""The canonical form keeps the tree and the comments, and formatting it again changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opwright.grammar import ast, lalr
from opwright.grammar.diagnostics import DiagnosticError
from opwright.grammar.format import WIDTH, format_expr, format_module, format_tree
from opwright.grammar.parser import parse, parse_expression

HERE = Path(__file__).parent
SPECS = sorted((HERE / "data").glob("*.op"))

# ---- whole files --------------------------------------------------------------------------------


def comments_of(text: str) -> list[str]:
    return sorted(comment.text for comment in parse(text).comments)


def check(text: str) -> str:
    """Format a text and check everything that formatting promises."""
    formatted = format_module(text)
    assert parse(formatted) == parse(text)
    assert comments_of(formatted) == comments_of(text)
    assert format_module(formatted) == formatted
    assert not any(line != line.rstrip() for line in formatted.split("\n"))
    assert formatted.endswith("\n") and not formatted.endswith("\n\n")
    return formatted


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_spec(path: Path, golden: Callable[[Path, str], None]) -> None:
    formatted = check(path.read_text())
    assert all(len(line) <= WIDTH for line in formatted.split("\n"))
    golden(HERE / "goldens" / f"{path.stem}.formatted.op", formatted)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_layout_of_the_input_does_not_matter_but_for_blank_lines(path: Path) -> None:
    text = "\n".join(line for line in path.read_text().split("\n") if line.strip())
    formatted = format_module(text)
    assert format_module(text.replace("\n", "\r\n").replace("  ", "\t ")) == formatted
    assert format_module("\ufeff" + text.replace("\n", "   \n")) == formatted


def test_a_file_that_does_not_parse_is_not_formatted() -> None:
    with pytest.raises(DiagnosticError):
        format_module('opwright "0.1"\nop f @ 1.0 { dims }')


UGLY = """\
# a header

   # and more


opwright "0.1"   # the language
import  a.b   as c
# about d
from d import e@1.0,f # two


op f@1.0 "doc"{ # the operator
# the sizes
dims B,N # B first
where N>=1,

      # a lower bound
      B>=1



let   G=(B*N)//2
def{ # the meaning
a[i]=x[i]+1 # one
# between
long_name[i,j]=(if (a[i]>0) then # positive
  a[i] else 0) # two

b[i]=((x[i-1]??0)*2)
# after all
}
grad x{d_x[i]=1}
workload w weight 1{B=1, # small
N=2,}
# the end
}
op g@1.0{}
op h@1.0{
# nothing yet
}
# really
"""
TIDY = """\
# a header

# and more

opwright "0.1"  # the language
import a.b as c
# about d
from d import e @1.0, f  # two

op f @ 1.0 "doc" {  # the operator
  # the sizes
  dims  B, N  # B first
  where N >= 1,
    # a lower bound
    B >= 1

  let   G = B * N // 2
  def {  # the meaning
    a[i] = x[i] + 1  # one
    # between
    long_name[i, j] = if a[i] > 0  # positive
      then a[i]
      else 0  # two

    b[i] = (x[i - 1] ?? 0) * 2
    # after all
  }
  grad x { d_x[i] = 1 }
  workload w weight 1 {
    B = 1,  # small
    N = 2
  }
  # the end
}

op g @ 1.0 {}

op h @ 1.0 {
  # nothing yet
}
# really
"""


def test_comments_blank_lines_and_spacing() -> None:
    assert check(UGLY) == TIDY


def test_equations_are_aligned_while_they_follow_each_other() -> None:
    body = "def { a = 1 bcd[i] = 2\n\n e = 3 rec t: h[t] = 1 init 0 f = 4 }"
    assert format_module(f'opwright "0.1" op f @ 1.0 {{ {body} }}').split("\n")[3:] == [
        "  def {",
        "    a      = 1",
        "    bcd[i] = 2",
        "",
        "    e = 3",
        "    rec t: h[t] = 1 init 0",
        "    f = 4",
        "  }",
        "}",
        "",
    ]


def places(text: str) -> list[int]:
    """Return the offsets at which a token of a file starts."""
    tables = lalr.load_tables()
    frame, position, found = tables.first("start"), 0, []
    while True:
        token = tables.scan(text, position, frame.state)
        assert token is not None
        if token.type == lalr.END:
            return found
        following = tables.step(frame, token)
        assert following is not None
        found.append(token.start)
        frame, position = following, token.end


FORMS = (" # {}\n", "\n# {}\n", "\n\n   #{}\n\n", " # {}\n\n\n")


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_comment_anywhere_is_kept(path: Path) -> None:
    source = random.Random(path.stem)
    text = path.read_text()
    starts = places(text)
    for count in (1, 1, 2, 3, 5, 8):
        commented = text
        for number, start in enumerate(sorted(source.sample(starts, count), reverse=True)):
            comment = source.choice(FORMS).format(f"remark {number}")
            commented = commented[:start] + comment + commented[start:]
        check(commented)


# ---- expressions --------------------------------------------------------------------------------

MINIMAL = [
    "a + b * c",
    "(a + b) * c",
    "a - b - c",
    "a - (b - c)",
    "a / b * c",
    "a // (b % c)",
    "-a * b",
    "-(a * b)",
    "--a",
    "a - -b",
    "(-a)[i]",
    "not a and b",
    "not (a and b)",
    "(not a) + b",
    "a or b and c",
    "(a or b) and c",
    "a or (b or c)",
    "0 <= a < b",
    "(0 <= a) < b",
    "a in {1, 2} or b",
    "(a in {1}) == b",
    "f(if a then b else c, [i: N => i], x = -1)",
    "(if a then b else c) + 1",
    "if a then b else if c then d else e",
    "x[:, batch..., i + 1]",
    "x[i] ?? 0",
    "x[i] ?? -1",
    "x[i] ?? (y[j])",
    "x[i] ?? (a + b)",
    "f(x[i] ?? 0, [i: N => x[i] ?? 0])",
    "(x[i] ?? 0) * w",
    "(x[i] ?? 0)[j]",
    "f(q, k).o[i]",
    "[i: N => x[i]][j]",
    "sm.softmax(x).y",
    "a.f(b).g",
    "sum.f32[j: N, k: M | j < i](x[j])",
    "max(a, 0) + max[j: lo..hi | a or b](x[j])",
    "round.bf16(f32(x) * 2)",
    "-inf < x",
]


@pytest.mark.parametrize("text", MINIMAL)
def test_parentheses_are_minimal(text: str) -> None:
    assert format_expr(parse_expression(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("((a)) + (b * c)", "a + b * c"),
        ("(a or (b and c))", "a or b and c"),
        ("f((a), (x[(i)]))", "f(a, x[i])"),
        ("x[i] ?? 0 * w", "(x[i] ?? 0) * w"),
        ("max( a,0 )", "max(a, 0)"),
    ],
)
def test_other_parentheses_go(text: str, expected: str) -> None:
    assert format_expr(parse_expression(text)) == expected


NAMES = st.sampled_from(["x", "y2", "_t", "batch", "memory", "rel", "ms", "index", "Hq"])
DTYPES = st.sampled_from(["f32", "bf16", "f8e4m3fnuz", "i4", "bool"])
REDUCERS = st.sampled_from(["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"])
NUMBERS = st.one_of(
    st.integers(0, 10**20).map(ast.number),
    st.floats(0, 1e300, allow_nan=False).map(ast.number),
    st.sampled_from([ast.Number(1e3, "1E3"), ast.Number(0.5, "0.50"), ast.Number(7, "007")]),
)
LEAVES = st.one_of(NUMBERS, NAMES.map(ast.Name), st.booleans().map(ast.Bool), st.just(ast.Inf()))


def some(strategy: st.SearchStrategy[ast.Node], least: int = 1) -> st.SearchStrategy[tuple]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


def binders(expr: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[tuple]:
    return some(st.builds(ast.Binder, NAMES, st.none() | expr, expr))


def compound(expr: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    index = st.one_of(expr, st.just(ast.All()), NAMES.map(ast.Splat))
    compare = some(
        st.tuples(st.sampled_from(["==", "!=", "~=", "<=", ">=", "<", ">"]), expr)
    ).flatmap(
        lambda pairs: st.builds(
            ast.Compare,
            st.just(tuple(op for op, _ in pairs)),
            expr.map(lambda first: (first, *(operand for _, operand in pairs))),
        )
    )
    named = some(st.builds(ast.NamedArg, NAMES, expr), 0)
    operators = st.sampled_from(["or", "and", "+", "-", "*", "/", "//", "%"])
    return st.one_of(
        st.builds(ast.Unary, st.sampled_from(["-", "not"]), expr),
        st.builds(ast.Binary, operators, expr, expr),
        st.builds(ast.Binary, operators, expr, expr),
        compare,
        st.builds(ast.Member, expr, some(expr)),
        st.builds(ast.Cond, expr, expr, expr),
        st.builds(ast.Read, expr, some(index), st.none() | expr),
        st.builds(ast.Field, expr, NAMES),
        st.builds(ast.Call, NAMES, some(expr, 0), named),
        st.builds(ast.Call, st.just("sm.softmax"), some(expr, 0), named),
        st.builds(ast.Call, REDUCERS, some(expr, 0), named, st.just(True)),
        st.builds(ast.Cast, DTYPES, expr),
        st.builds(ast.Round, DTYPES, expr),
        st.builds(ast.Reduce, REDUCERS, st.none() | DTYPES, binders(expr), st.none() | expr, expr),
        st.builds(ast.TensorLambda, binders(expr), expr),
    )


EXPRESSIONS = st.recursive(LEAVES, compound, max_leaves=12)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(EXPRESSIONS)
def test_expressions_round_trip(expr: ast.Expr) -> None:
    text = format_expr(expr)
    assert "\n" not in text
    assert parse_expression(text) == expr
    assert format_expr(parse_expression(text)) == text


# ---- trees from elsewhere -----------------------------------------------------------------------

SMALL = st.recursive(LEAVES, compound, max_leaves=4)
SCALARS = st.one_of(DTYPES.map(ast.DtypeName), NAMES.map(ast.TypeRef))
EXTENTS = some(st.one_of(SMALL, NAMES.map(ast.Splat)), 0)
TENSORS = st.builds(ast.TensorDecl, NAMES, SCALARS, EXTENTS, st.none() | NAMES)
TOLERANCES = st.builds(
    ast.Tol, st.sampled_from(["abs", "rel", "ulp"]), st.just(ast.Number(0.5, "0.5"))
)
SIDES = st.builds(ast.Lhs, NAMES, some(st.builds(ast.LhsIndex, NAMES, st.booleans()), 0))
WEIGHTS = st.just(ast.Number(0.5, "0.5"))
STATEMENTS = st.one_of(
    st.builds(ast.Equation, some(SIDES), SMALL),
    st.builds(
        ast.Recurrence,
        NAMES,
        NAMES,
        some(st.one_of(SMALL, NAMES.map(ast.Splat))),
        SMALL,
        SMALL,
    ),
)
BYS = st.sampled_from([None, "proof", "test", "proof_or_test"])
LAW_ARGS = st.one_of(
    st.builds(ast.SampleArg, NAMES, SCALARS.filter(lambda s: s.name != "index"), EXTENTS),
    st.builds(
        ast.SampleArg, NAMES, SCALARS.filter(lambda s: s.name != "index"), EXTENTS, SMALL, SMALL
    ),
    st.builds(ast.PermArg, NAMES, SMALL),
    st.builds(ast.IndexArg, NAMES, SMALL),
)
METRICS = st.sampled_from(["latency", "memory", "code_size"])
ITEMS = st.one_of(
    some(st.builds(ast.Dim, NAMES, st.booleans())).map(ast.Dims),
    some(SMALL).map(ast.Where),
    st.builds(ast.TypeDecl, NAMES, some(DTYPES.map(ast.DtypeName))),
    st.builds(ast.Let, NAMES, SMALL),
    st.builds(ast.Param, NAMES, SCALARS, st.none() | SMALL),
    some(TENSORS).map(ast.Inputs),
    some(
        st.builds(ast.TensorDecl, NAMES, SCALARS, EXTENTS, st.none() | NAMES, st.none() | NAMES)
    ).map(ast.Outputs),
    some(STATEMENTS).map(ast.Def),
    st.builds(ast.Requires, st.none() | NAMES, SMALL),
    st.builds(ast.Ensures, NAMES, SMALL, some(TOLERANCES, 0), BYS),
    st.builds(ast.Law, NAMES, some(LAW_ARGS, 0), SMALL, some(TOLERANCES, 0), BYS),
    st.builds(
        ast.Tolerance,
        DTYPES.map(ast.DtypeName),
        some(st.builds(ast.TolRule, SCALARS.filter(lambda s: s.name != "rel"), some(TOLERANCES))),
    ),
    st.builds(
        ast.Grad,
        some(NAMES.map(ast.Name)),
        st.one_of(
            st.just(ast.GradAuto()), st.just(ast.GradNone()), some(STATEMENTS).map(ast.GradDef)
        ),
    ),
    st.builds(
        ast.Workload,
        NAMES,
        WEIGHTS,
        some(
            st.one_of(
                st.builds(ast.BindValue, NAMES, SMALL),
                st.builds(ast.BindDtype, NAMES, DTYPES.map(ast.DtypeName)),
                st.builds(ast.BindRandom, NAMES, NAMES, some(SMALL, 0)),
            )
        ),
    ),
    st.builds(ast.TraceWorkload, st.just("a b/trace.jsonl"), WEIGHTS),
    st.builds(
        ast.Objective,
        some(st.builds(ast.Term, st.none() | WEIGHTS, METRICS)),
        some(
            st.builds(
                ast.Bound,
                METRICS,
                st.sampled_from(["<=", "<"]),
                st.builds(ast.Quantity, WEIGHTS, st.sampled_from([None, "ms", "MiB"])),
            ),
            0,
        ),
    ),
    st.builds(
        ast.Target, NAMES, st.none() | NAMES, some(st.sampled_from(["triton", "cuda", "cpp"]))
    ),
)
VERSIONS = st.sampled_from(["1.0", "2.1.3"])
OPS = st.builds(ast.Op, NAMES, VERSIONS, st.sampled_from([None, "", "a doc"]), some(ITEMS, 0))
PATHS = some(NAMES)
IMPORTS = st.one_of(
    st.builds(ast.ImportModule, PATHS, st.none() | NAMES),
    st.builds(
        ast.ImportNames, PATHS, some(st.builds(ast.ImportedName, NAMES, st.none() | VERSIONS))
    ),
)
MODULES = st.builds(ast.Module, st.just("0.1"), some(IMPORTS, 0), some(OPS))


@settings(deadline=None, max_examples=250, derandomize=True)
@given(MODULES)
def test_trees_round_trip(module: ast.Module) -> None:
    text = format_tree(module)
    assert parse(text) == module
    check(text)
