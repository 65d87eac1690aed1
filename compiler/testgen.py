"""`opwright test`: readable pytest and Hypothesis files from a spec alone.

The files need NumPy, pytest, Hypothesis and the framework of what is tested. What they hold is
data and printed functions; how a property is checked is in the copied `testkit_*.py`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opwright.backends.jax.plain import (
    Printed,
    PrintError,
    exact_operator,
    module_text,
    print_plain,
    scalar_text,
)
from opwright.backends.jax.scalar import identifier
from opwright.compiler.testgen_print import (
    Texts,
    arguments_of,
    claim_text,
    derived_sizes,
    inputs_text,
    law_text,
    legal_text,
    names_text,
    roundings_text,
    shapes_text,
    work_text,
)
from opwright.compiler.testgen_table import Table, independent_sizes, make_table
from opwright.ir.expr import Expr, read_parts, walk
from opwright.ir.op import Operator, Tensor
from opwright.verify import testkit_checks, testkit_frames, testkit_spec, testkit_values
from opwright.verify.bounds import derive
from opwright.verify.bounds_terms import NotDerivable
from opwright.verify.numeric import _inner_moved

KIT = (testkit_values, testkit_frames, testkit_spec, testkit_checks)
FRAMEWORKS = ("torch", "jax", "numpy")


@dataclass(frozen=True, slots=True)
class Suite:
    """Generated files by name, and what could not be generated."""

    name: str
    files: Mapping[str, str]
    notes: tuple[str, ...]


def write_suite(suite: Suite, folder: Path) -> None:
    """Write the files; what is there under their names is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in suite.files.items():
        (folder / name).write_text(text, encoding="utf-8")


def generate_suite(
    operators: Sequence[Operator],
    framework: str = "",
    seed: int = 0,
    recorded: Sequence[Mapping[str, Any]] = (),
) -> Suite:
    """The files for one operator at all its bindings, the default one first.

    `recorded` are cases that every suite runs. Raises PrintError where the definition has no array
    code.
    """
    return _Generator(operators, framework, seed, recorded).suite()


class _Generator:
    def __init__(
        self, operators: Sequence[Operator], framework: str, seed: int,
        recorded: Sequence[Mapping[str, Any]],
    ) -> None:  # fmt: skip
        self.ops, self.op = list(operators), operators[0]
        self.framework, self.seed, self.recorded = framework, seed, list(recorded)
        self.name = identifier(self.op.name)
        self.texts = Texts()
        self.notes: list[str] = []
        self.worked: list[Operator] = [self.op]  # what is evaluated: the arrays in between count
        self.dtypes = {t.name: self._type_of(t) for t in (*self.op.inputs, *self.op.outputs)}

    def _type_of(self, t: Tensor) -> str:
        """The element type as the spec writes it: a type variable where it depends on one."""
        own = [op.tensor(t.name).dtype.name for op in self.ops]
        if len(set(own)) == 1:
            return own[0]
        for v in self.op.types:
            if all(op.types[v] == d for op, d in zip(self.ops, own, strict=True)):
                return v
        return own[0]

    def suite(self) -> Suite:
        reference = self._reference()
        body, head = self._contract()
        spec = self._spec(Table((), {}), {})
        made = self._executed(reference, head, [*body, "", "", *spec])
        table = make_table(self.op, made, self.seed)
        if not table.rows:
            why = "; ".join(table.notes) or "no sizes satisfy `where`"
            raise PrintError(f"{self.op.name} has no calls to test: {why}")
        spec = self._spec(table, {})
        made = self._executed(reference, head, [*body, "", "", *spec])
        free = independent_sizes(self.op, made)
        spec = self._spec(table, free)
        inputs = "\n".join([head, *body, "", "", *spec]) + "\n"
        files = {
            f"{self.name}_reference.py": reference,
            f"{self.name}_inputs.py": inputs,
            f"test_{self.name}.py": self._tests(free),
            "conftest.py": self._conftest(),
            "pytest.ini": "[pytest]\n",
            "README.md": self._readme(),
        }
        files.update(kit_files())
        lines = [json.dumps(c, sort_keys=True) for c in self.recorded]
        files[f"{self.name}_cases.jsonl"] = "".join(f"{line}\n" for line in lines)
        return Suite(self.op.name, files, tuple(dict.fromkeys([*self.notes, *self.texts.left_out])))

    # -- the reference ----------------------------------------------------------------------------

    def _reference(self) -> str:
        op = self.op
        types = ", ".join(f"{k} = {v}" for k, v in op.types.items())
        own = print_plain(op, self.name, op.doc or op.name)
        functions = [own]
        self.references: list[str] = []
        for other in self.ops:
            text = print_plain(other, self.name, op.doc or op.name)
            if text.code == own.code:
                self.references.append(self.name)
                continue
            label = "_".join(other.types.values())
            functions.append(print_plain(other, f"{self.name}_{label}", op.doc or op.name))
            self.references.append(f"{self.name}_{label}")
        self.moved = self._moved()
        if self.moved is not None:
            functions.append(self.moved)
        self.errors = [self._errors(n, other) for n, other in enumerate(self.ops)]
        functions += [found[0] for found in self.errors if found is not None]
        self.gradient = self._gradient()
        if self.gradient is not None:
            functions.append(self.gradient[0])
        doc = f"What {op.name} {op.version} means, in float64, printed from its spec."
        doc += f"\n\nFor every binding of its types ({types} and others).\n" if types else "\n"
        return module_text(doc, functions)

    def _moved(self) -> Printed | None:
        """The meaning with intermediate values moved by 2^-26 of themselves."""
        moved = _inner_moved(self.op)
        if moved is None:
            return None
        doc = "With every intermediate moved by 2^-26 of itself: what its rounding may do."
        try:
            return print_plain(moved, f"{self.name}_moved", doc)
        except PrintError:
            return None

    def _errors(self, n: int, op: Operator) -> tuple[Printed, str] | None:
        """The error bounds of one binding: the function, and the text of its `Errors`."""
        try:
            found = derive(op)
            label = "_".join(op.types.values()) if n else ""
            name = f"{self.name}_errors{'_' + label if label else ''}"
            printed = print_plain(found.op, name, "Results, and what rounding may do to them.")
        except (NotDerivable, PrintError, RecursionError) as e:
            self.notes.append(f"no error bound is derived: {e}")
            return None
        if not n:
            self.worked.append(found.op)
        gives = names_text([t.name for t in found.op.outputs])
        tables = ", ".join(str(dict(d)) for d in (found.bound, found.scale, found.doubt))
        text = f"Errors(exact.{name}, {gives}, {tables})"
        if len(found.op.outputs) == 1:
            return None  # every result is exact
        return printed, text

    def _gradient(self) -> tuple[Printed, tuple[str, ...], tuple[str, ...]] | None:
        from opwright.compiler.autodiff import gradient
        from opwright.grammar.diagnostics import DiagnosticError

        none = {name for name, how in self.op.gradients if how == "none"}
        named = [name for name, how in self.op.gradients if how != "none"]
        real = [t.name for t in self.op.inputs if t.kind == "real" and t.name not in none]
        wanted = [n for n in real if n in named] if named else real
        if not wanted or not any(t.kind == "real" for t in self.op.outputs):
            return None
        if any(t.updates for t in self.op.outputs):
            return None
        try:
            back = gradient(self.op, wanted)
            printed = print_plain(back, f"{self.name}_gradient",
                                  "Gradients by those of the results.")  # fmt: skip
        except (PrintError, DiagnosticError, ValueError) as e:
            self.notes.append(f"no gradients are tested: {e}")
            return None
        self.worked.append(back)
        reads = [t.name for t in back.inputs] + [p.name for p in back.params]
        reads += list(back.free_sizes)
        return printed, tuple(reads), tuple(t.name[2:] for t in back.outputs)

    # -- the contract -----------------------------------------------------------------------------

    def _contract(self) -> tuple[list[str], str]:
        """Statements of the inputs module and its head."""
        op = self.op
        exact = exact_operator(op)
        declared = inputs_text(exact, self.dtypes, self.texts)
        self.inputs = declared
        self.requires = self._claims("requires")
        self.ensures = self._claims("ensures")
        self.laws: list[str] = []
        self.law_names: list[str] = []
        for c in op.clauses:
            if c.kind == "law":
                lines = law_text(op, c, self.texts)
                if lines is not None:
                    self.laws += lines
                    self.law_names.append(c.name)
        lines = [*legal_text(op), "", "", *shapes_text(op), "", "", *roundings_text(op)]
        lines += ["", "", *work_text(op, self.worked)]
        doc = f"What may be passed to {op.name}: sizes, values and claims, printed from its spec."
        text = module_text(doc, self.texts.functions)
        head, _, functions = text.partition("import numpy as np\n")
        head = head.replace("import math\n\n", "")
        imports = [
            "import math", "", "import numpy as np", "",
            f"import {self.name}_reference as exact",
            "from testkit_spec import Argument, Claim, Errors, Law, LawCall, Output, Param, Spec",
            "from testkit_values import Bound, Input",
        ]  # fmt: skip
        body = [functions.strip("\n"), "", ""] if functions.strip() else []
        return [*body, *lines], "\n".join([head.rstrip(), "", *imports, "", ""])

    def _claims(self, kind: str) -> list[str]:
        found = []
        for c in self.op.clauses:
            if c.kind == kind and c.expr is not None:
                line = claim_text(self.op, c, f"{kind}_{c.name}", self.texts)
                found += [line] if line else []
        return found

    def _spec(self, table: Table, free: Mapping[str, Any]) -> list[str]:
        op = self.op
        lines = ["CASES = (  # family of values, seed, sizes, params beyond their defaults"]
        for family, seed, sizes, params in table.rows:
            lines.append(f"    ({family!r}, {seed}, {dict(sizes)}, {dict(params)}),")
        lines += [")", "", "SPEC = Spec("]
        derived = derived_sizes(op)
        arguments = arguments_of(op)
        declared = []
        for p in op.params:
            default = "None"
            if p.default is not None:
                default = scalar_text(p.default)
                if p.default.op != "const":
                    default = self._default(p.default, p.name)
            declared.append(f'Param("{p.name}", "{p.dtype.kind}", {default}),')
        outputs = []
        for t in op.outputs:
            more = f', updates="{t.updates}"' if t.updates else ""
            more += ", moves=True" if moves(op, t) else ""
            outputs.append(f'Output("{t.name}", "{self.dtypes[t.name]}"{more}),')
        fields = [
            ("name", f'"{op.name}"'),
            ("bindings", f"({', '.join(str(dict(o.types)) for o in self.ops)},)"),
            ("sizes", names_text(op.sizes)),
            ("free", names_text(op.free_sizes)),
            ("params", declared),
            ("inputs", self.inputs),
            ("outputs", outputs),
            ("legal", "legal"),
            ("shapes", "shapes"),
            ("reference", f"exact.{self.name}"),
        ]
        if len(set(self.references)) > 1:
            names = ", ".join(f"exact.{n}" for n in self.references)
            fields.append(("references", f"({names},)"))
        fields += [
            ("requires", self.requires and [f"{c}," for c in self.requires]),
            ("ensures", self.ensures and [f"{c}," for c in self.ensures]),
            ("laws", self.laws),
            ("table", "CASES"),
        ]
        if derived:
            inside = ", ".join(
                f'"{k}": lambda {arguments}: {scalar_text(e)}' for k, e in derived.items()
            )
            fields.append(("derived", f"{{{inside}}}"))
        fields.append(("pools", str({k: tuple(v) for k, v in table.pools.items()})))
        if op.tolerance:
            written = {k: dict(v) for k, v in op.tolerance.items()}
            fields.append(("tolerance", str(written)))
        fields.append(("roundings", "roundings"))
        if self.moved is not None:
            fields.append(("moved", f"exact.{self.moved.name}"))
        fields.append(("work", "work"))
        if self.errors and all(e is not None for e in self.errors):
            fields.append(("errors", [f"{e[1]}," for e in self.errors if e is not None]))
        if any(t.dtype.name == "f64" for t in op.tensors) or _marks_f64(op):
            fields.append(("wide", "True"))
        if self.gradient is not None:
            fields.append(("gradient", f"exact.{self.gradient[0].name}"))
            fields.append(("gradient_reads", names_text(self.gradient[1])))
            fields.append(("gradient_of", names_text(self.gradient[2])))
        for key, value in fields:
            if isinstance(value, str):
                lines.append(f"    {key}={value},")
            elif value:
                lines.append(f"    {key}=(")
                lines += [f"        {line}" for line in value]
                lines.append("    ),")
            elif key in ("params", "inputs", "outputs"):
                lines.append(f"    {key}=(),")
        return [*lines, ")"]

    def _default(self, e: Expr, name: str) -> str:
        """A default that sizes and earlier params give."""
        before = [p.name for p in self.op.params]
        before = before[: before.index(name)]
        return f"lambda {', '.join(map(identifier, (*self.op.sizes, *before)))}: {scalar_text(e)}"

    def _executed(self, reference: str, head: str, lines: list[str]) -> Any:
        """The `Spec` that the text makes, with the kit of this installation."""
        space: dict[str, Any] = {}
        exec(compile(reference, f"{self.name}_reference.py", "exec"), space)
        holder = type("exact", (), {k: staticmethod(v) for k, v in space.items() if callable(v)})
        kit = {**vars(testkit_values), **vars(testkit_spec), "exact": holder}
        text = "\n".join([head.partition("import math")[0], *lines])
        exec(compile(f"import math\nimport numpy as np\n{text}", f"{self.name}_inputs.py", "exec"),
             kit)  # fmt: skip
        made = kit["SPEC"]
        return made.typed(made.bindings[0])

    # -- the tests --------------------------------------------------------------------------------

    def _tests(self, free: Mapping[str, Any]) -> str:
        op = self.op
        called = ", ".join([t.name for t in op.inputs])
        rest = [f"{p.name}=" for p in op.params] + [f"{s}=" for s in op.free_sizes]
        signature = ", ".join([called, *rest]) if called else ", ".join(rest)
        title = " ".join((op.doc or op.name).replace('"', "'").split())
        real = any(t.kind == "real" for t in op.inputs)
        parts = [_HEAD.format(
            op=op.name, version=op.version, title=title, signature=signature, name=self.name,
            results=", ".join(t.name for t in op.outputs),
        )]  # fmt: skip
        parts.append(_VALUES)
        if real:
            parts.append(_SPECIAL)
        if op.inputs:
            parts.append(_MEMORY)
        if self.ensures:
            parts.append(_ENSURES)
        if self.laws:
            parts.append(_LAWS)
        if free:
            parts.append(_INDEPENDENT.format(
                axes="{\n" + "".join(f"    {k!r}: {v!r},\n" for k, v in free.items()) + "}"
            ))  # fmt: skip
        if self.gradient is not None:
            parts.append(_GRADIENT)
        return "\n\n".join(p.strip("\n") + "\n" for p in parts)

    def _conftest(self) -> str:
        return _CONFTEST.replace("FRAMEWORK", repr(self.framework)).replace(
            "INPUTS", f"{self.name}_inputs"
        ).replace("CASES", f"{self.name}_cases.jsonl")  # fmt: skip

    def _readme(self) -> str:
        return (
            f"Tests of `{self.op.name}` {self.op.version}, written from its spec: "
            "`pytest . --against package.module:function` runs them "
            "(`-m smoke` a few, `--deep` many; `pytest . --help` lists the options).\n"
        )


def kit_files() -> dict[str, str]:
    """The modules that generated tests stand on, as they are copied."""
    out = {}
    for module in KIT:
        text = inspect.getsource(module)
        name = module.__name__.rpartition(".")[2]
        out[f"{name}.py"] = re.sub(r"from opwright\.verify\.(testkit_\w+)", r"from \1", text)
    return out


def moves(op: Operator, t: Tensor) -> bool:
    """Whether an output may be a view: its elements are elements of one input."""
    e = t.body
    while e is not None and e.op == "cast":
        e = e.args[0]
    if e is None or e.op != "read":
        return False
    return read_parts(e)[0] in {i.name for i in op.inputs}


def _marks_f64(op: Operator) -> bool:
    for t in op.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op in ("cast", "round") and x.attr.name == "f64":
                return True
            if x.op == "fold" and x.attr.acc is not None and x.attr.acc.name == "f64":
                return True
    return False


_HEAD = '''
"""Tests of {op} {version}: {title}

Written from its spec alone. They hold for any function that takes ({signature})
and returns {results}; name one with --against module:function.
"""

from __future__ import annotations

import pytest
import testkit_checks as check
from hypothesis import given
from {name}_inputs import SPEC
from testkit_checks import Subject, every
from testkit_frames import LAYOUTS
from testkit_spec import Case, Claim, Law, typical
from testkit_values import PLACES, SPECIALS
'''

_VALUES = '''
@pytest.mark.parametrize("case", check.marked(SPEC))
def test_values(subject: Subject, case: Case) -> None:
    """Every element is what the reference says, at every size and family of the table."""
    check.check_values(subject, case)


def test_values_deep(subject: Subject, deep: bool) -> None:
    """The table again with other seeds, when --deep is given."""
    check.check_deep(subject, deep)


@given(case=check.calls(SPEC))
def test_values_anywhere(subject: Subject, case: Case) -> None:
    """Every element is what the reference says, at sizes that Hypothesis picks within `where`."""
    check.check_anywhere(subject, case)


@pytest.mark.smoke
def test_recorded_cases(subject: Subject, recorded: list[Case]) -> None:
    """What once showed a wrong implementation does so again."""
    every(check.check_recorded, subject, recorded)
'''

_SPECIAL = '''
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("special", SPECIALS)
def test_special_values(subject: Subject, special: str, place: str) -> None:
    """NaN, infinities, -0 and denormals give what the reference gives, where the contract allows
    them."""
    check.check_special(subject, special, place)
'''

_MEMORY = '''
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(subject: Subject, layout: str) -> None:
    """Values do not depend on strides and offsets; nothing between elements is read or written."""
    every(check.check_layout, subject, typical(SPEC, 3), layout)


@pytest.mark.smoke
def test_same_bits_twice(subject: Subject) -> None:
    """Equal inputs give equal bits."""
    every(check.check_same_bits, subject, typical(SPEC, 2))


@pytest.mark.smoke
def test_nothing_is_stale(subject: Subject) -> None:
    """A call sees nothing of the calls before it, and leaves their results alone."""
    every(check.check_stale, subject, check.pairs(SPEC))


@pytest.mark.smoke
def test_memory_may_change(subject: Subject) -> None:
    """Other values at the same address give other results: nothing is cached by address."""
    every(check.check_same_memory, subject, check.pairs(SPEC)[:1])


def test_results_own_their_memory(subject: Subject) -> None:
    """Results overlap neither each other nor inputs that they do not update."""
    every(check.check_own_memory, subject, typical(SPEC, 2))


def test_every_element_is_written(subject: Subject) -> None:
    """Buffers handed in as out= are filled, whatever they held."""
    every(check.check_out, subject, typical(SPEC, 3))
'''

_ENSURES = '''
@pytest.mark.parametrize("claim", SPEC.ensures, ids=lambda claim: claim.name)
def test_ensures(subject: Subject, claim: Claim) -> None:
    """What the spec ensures of results holds."""
    every(check.check_ensures, subject, check.for_claims(SPEC), claim)
'''

_LAWS = '''
@pytest.mark.parametrize("law", SPEC.laws, ids=lambda law: law.name)
def test_laws(subject: Subject, law: Law) -> None:
    """The laws of the spec hold between results of the function."""
    every(check.check_law, subject, check.for_claims(SPEC), law)
'''

_INDEPENDENT = '''
INDEPENDENT = {axes}


@pytest.mark.parametrize("size", INDEPENDENT)
def test_order_of_entries(subject: Subject, size: str) -> None:
    """In another order of the entries along a size, results are the same in that order."""
    every(check.check_independent, subject, typical(SPEC, 2), size, INDEPENDENT[size])
'''

_GRADIENT = '''
def test_gradients(subject: Subject) -> None:
    """Gradients that the framework derives from the function are those of the spec."""
    every(check.check_gradient, subject, typical(SPEC, 2))
'''

_CONFTEST = '''\
"""Options and fixtures of the generated tests: what is tested, on which arrays, how deeply."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(Path.cwd())]

from INPUTS import SPEC  # noqa: E402
from testkit_checks import Subject, case_json, framework_of, minimised  # noqa: E402
from testkit_frames import frame  # noqa: E402
from testkit_spec import load_cases  # noqa: E402

RECORDED = HERE / "CASES"
BINDINGS = {",".join(f"{k}={v}" for k, v in b.items()): b for b in SPEC.bindings}


def pytest_addoption(parser: pytest.Parser) -> None:
    own = parser.getgroup("the function under test")
    own.addoption("--against", help="module:function to test; the module is found from here")
    own.addoption("--framework", default=FRAMEWORK, help="torch, jax or numpy; guessed if absent")
    own.addoption("--device", default="cpu", help="device of PyTorch tensors")
    own.addoption("--types", default="", help=f"all, or one of {' '.join(BINDINGS)}")
    own.addoption("--deep", action="store_true", help="more examples and seeds, all types")
    own.addoption("--views", action="store_true", help="results may be views of inputs")
    own.addoption("--unordered", action="store_true", help="sums may run in any order each time")
    own.addoption("--refusals", action="store_true", help="skip calls that raise an exception")
    own.addoption("--record", metavar="FILE", help="append failing cases to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smoke: a few seconds in all")
    examples = 300 if config.getoption("--deep") else 40
    settings.register_profile(
        "generated", derandomize=True, database=None, deadline=None, print_blob=False,
        max_examples=examples, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    settings.load_profile("generated")


def function_of(name: str) -> object:
    module, _, path = name.partition(":")
    if not path:
        raise pytest.UsageError(f"--against {name}: write module:function")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "binding" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--types")
        deep = metafunc.config.getoption("--deep")
        names = list(BINDINGS) if wanted == "all" or (deep and not wanted) else [
            wanted or next(iter(BINDINGS))
        ]
        for n in names:
            if n not in BINDINGS:
                raise pytest.UsageError(f"--types {n}: all, or one of {' '.join(BINDINGS)}")
        metafunc.parametrize("binding", names, scope="session", ids=[n or "-" for n in names])


@pytest.fixture(scope="session")
def deep(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--deep"))


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest, binding: str) -> Subject:
    name = request.config.getoption("--against")
    if not name:
        pytest.skip("name what is tested: --against module:function")
    function = function_of(name)
    option = request.config.getoption
    arrays = frame(option("--framework") or framework_of(function), option("--device"))
    spec = SPEC.typed(BINDINGS[binding])
    return Subject(function, spec, arrays, option("--views"), not option("--unordered"),
                   option("--refusals"))


@pytest.fixture(scope="session")
def recorded(subject: Subject) -> list:
    return load_cases(RECORDED, subject.spec)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):  # noqa: ANN201
    outcome = yield
    report = outcome.get_result()
    path = item.config.getoption("--record")
    if path and report.when == "call" and report.failed:
        subject = getattr(item, "funcargs", {}).get("subject")
        found = None
        if subject is not None and subject.failed is not None:
            found = minimised(subject, subject.failed)
        if found is not None:
            line = case_json(found, "test", f"{item.name}: {call.excinfo.value}")
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, sort_keys=True) + "\\n")
'''
