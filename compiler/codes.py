"""The diagnostics of the elaborator and of the spec's own obligations: one row per mistake.

E02xx names, E03xx types, E04xx shapes and obligations. A code never changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches

from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import Diagnostic, DiagnosticError, diagnose, in_order, register

# -- names ----------------------------------------------------------------------------------------
UNKNOWN_NAME = register(
    "E0201", "`{name}` is not declared", "{hint}declare it, or bind it as an index"
)
DECLARED_TWICE = register(
    "E0202", "`{name}` is declared twice, first as {first}", "rename one of them"
)
UNKNOWN_FUNCTION = register(
    "E0203",
    "there is no function or operator `{name}`",
    "{hint}functions are {known}; operators are imported or stand in the same file",
)
UNKNOWN_MODULE = register(
    "E0204",
    "no module `{name}` was found",
    "put {path} beside this file, in a folder above it, or use one of the shipped modules",
)
UNKNOWN_OPERATOR = register(
    "E0205", "there is no operator `{name}` in {place}", "{hint}its operators are {known}"
)
WRONG_VERSION = register(
    "E0206",
    "`{name}` @{wanted} is required, the module has @{found}",
    "require a version with the same major number and at most that minor number",
)
WRONG_ROLE = register("E0207", "`{name}` is {found}, not {wanted}", "use {wanted} here")
UNDEFINED_OUTPUT = register(
    "E0208", "output `{name}` is never defined", "add an equation `{name}{index} = ...` to `def`"
)
DEFINED_INPUT = register(
    "E0209",
    "`{name}` is {found} and cannot be defined by an equation",
    "give the left side another name",
)
CYCLE = register(
    "E0210",
    "the definitions of {names} need each other",
    "break the cycle, or state a recurrence over one axis with `rec`",
)
UNKNOWN_RESULT = register("E0211", "`{op}` has no result `{name}`", "its results are {known}")
UNKNOWN_ARGUMENT = register(
    "E0212",
    "`{op}` has no input, param or size `{name}`",
    "its names are {known}",
)
IMPORT_CYCLE = register(
    "E0213", "the import of `{name}` comes back to this file", "move what both need to a third file"
)
UNKNOWN_BINDING = register(
    "E0214",
    "workload `{workload}` binds `{name}`, which is {found}",
    "a workload binds sizes, params, types and, with `~`, inputs",
)
MISSING_SIZE = register(
    "E0215", "workload `{workload}` gives no value for size `{name}`", "add `{name} = ...`"
)
UNKNOWN_DISTRIBUTION = register(
    "E0216", "there is no distribution `{name}`", "{hint}distributions are {known}"
)
BAD_TRACE = register(
    "E0217",
    "the trace `{path}` cannot be used: {why}",
    'a trace has one JSON object of bindings a line, as {{"B": 4, "N": 128, "T": "f32"}}',
)
UNKNOWN_TARGET = register("E0218", "there is no target family `{name}`", "families are cpu and gpu")
NO_SUCH_OPERATOR = register(
    "E0219", "the file has no operator `{name}`", "{hint}its operators are {known}"
)

# -- types ----------------------------------------------------------------------------------------
WRONG_KIND = register("E0301", "{what} needs {wanted}, not {found}", "{cure}")
MIXED_KINDS = register(
    "E0302",
    "{what} mixes {a} with {b}",
    "make both sides numbers or both truth values",
)
NOT_INTEGER = register(
    "E0303",
    "{what} must be an integer, not {found}",
    "take `floor`, `trunc` or `nearest` of a real value",
)
WRONG_DEFINITION = register(
    "E0304", "`{name}` is declared {declared}, its definition is {found}", "{cure}"
)
TENSOR_AS_NUMBER = register(
    "E0305",
    "{what} has {rank} axes and stands where a single value is needed",
    "index it, as in `{example}`",
)
NUMBER_AS_TENSOR = register(
    "E0306", "{what} is a single value, not a tensor", "leave the indices out"
)
WRONG_ARITY = register("E0307", "`{name}` takes {wanted} arguments, not {found}", "{cure}")
REAL_TO_INT = register(
    "E0308",
    "a {found} becomes {to} only through a stated rounding",
    "write `{to}(floor(x))`, `trunc` or `nearest`, or `if c then 1 else 0` for a truth value",
)
ROUND_TO_INT = register(
    "E0309", "`round.{to}` needs a float type", "write `round.f32`, `round.bf16` or another float"
)
WRONG_DEFAULT = register(
    "E0310", "the default of `{name}` is {found}, its type is {declared}", "give a {declared} value"
)
NOT_CONDITION = register(
    "E0311", "{what} must be a truth value, not {found}", "compare it, as in `x > 0`"
)
WRONG_BINDING = register(
    "E0312", "type variable `{name}` cannot be {given}", "it is one of {known}"
)
WRONG_REDUCTION = register(
    "E0313",
    "`{kind}` cannot reduce {found}",
    "`sum`, `prod`, `max`, `min`, `argmax` reduce numbers, `any` and `all` truth values",
)
WRONG_ACCUMULATOR = register(
    "E0314", "`{kind}.{acc}` cannot accumulate {found}", "use an accumulator of the same kind"
)
MANY_BINDERS = register(
    "E0315", "`{kind}` runs over one index, not {found}", "nest two of them, or flatten the index"
)
MANY_RESULTS = register(
    "E0316", "`{op}` has the results {known}", "name one of them, as in `{example}`"
)
SECTION_TWICE = register("E0317", "{section} stands twice", "keep one")
NOT_CONSTANT = register("E0318", "{what} must be a constant", "write a number")
LARGE_INTEGER = register(
    "E0319", "{text} does not fit in 64 bits", "write a real number with a point, as `1.0e30`"
)

WRONG_UNIT = register(
    "E0320", "a bound of {metric} is not measured in {unit}", "write one of: {known}"
)
SHADOWED = register(
    "E0220",
    "index `{name}` hides {what} of the same name",
    "give the index another name",
)

# -- shapes and obligations -----------------------------------------------------------------------
OUT_OF_RANGE = register(
    "E0401",
    "{witness}: read {read} outside {range}",
    "guard the read, state a bound with `where` or `requires`, or give a fill with `??`",
)
WRONG_RANK = register("E0402", "`{name}` has {rank} axes, not {found}", "write one index per axis")
UNKNOWN_RANGE = register(
    "E0403",
    "the range of index `{index}` of `{name}` follows from nothing",
    "read an input at `{index}` alone, or read `{name}` at an index with a range, or declare it an "
    "output",
)
AMBIGUOUS_RANGE = register(
    "E0404",
    "the range of index `{index}` of `{name}` could be {choices}",
    "make them one size, or declare `{name}` an output, whose shape is stated",
)
REPEATED_INDEX = register(
    "E0405", "index `{index}` stands twice on the left of `{name}`", "give every axis its own index"
)
NEGATIVE_EXTENT = register(
    "E0406",
    "{witness}: axis {axis} of `{name}` has extent {extent}",
    "state with `where` that the extent is not negative",
)
WRONG_SHAPE = register(
    "E0407", "{what} has shape [{found}], wanted [{wanted}]", "make the shapes agree"
)
UNKNOWN_SIZE = register(
    "E0408",
    "size `{name}` of `{op}` follows from no argument",
    "pass it by name: `{op}(..., {name} = ...)`",
)
EMPTY_REDUCTION = register(
    "E0409",
    "{witness}: `{kind}` over nothing",
    "state that the range is not empty with `where`, or give the empty case a value with `if`",
)
BAD_DIVISOR = register(
    "E0410",
    "{witness}: the divisor of `{op}` is {value}",
    "state with `where` that the divisor is positive",
)
CONTRADICTION = register(
    "E0411", "no sizes and params satisfy `where`", "the constraints exclude each other: drop one"
)
BROKEN_PRECONDITION = register(
    "E0412",
    "{witness}: the call of `{op}` breaks its `where {fact}`",
    "state a bound that implies it",
)
BAD_RECURRENCE = register("E0413", "{what}", "{cure}")
NOT_A_SIZE = register(
    "E0414",
    "{what} reads the tensor `{name}`",
    "{what} is an expression over sizes and params; a condition on values is a `requires`",
)
BROKEN_WORKLOAD = register(
    "E0415",
    "workload `{workload}` breaks `where {fact}`: {values}",
    "change the workload or the bound",
)
BAD_VARIADIC = register("E0416", "{what}", "write `{name}...` once, as the first axis")
DIVISION_BY_ZERO = register(
    "E0418", "the divisor is always 0", "divide by something that can differ from 0"
)
WRONG_GRADIENT = register(
    "E0419",
    "the gradient of `{name}` is not the derivative of `def`: {values}",
    "correct it, or write `grad {name} auto`",
)
NO_GRADIENT = register(
    "E0420",
    "no gradient of `{name}` can be derived: {reason}",
    "write it out, or `grad {name} none`",
)
FALSE_ENSURES = register(
    "E0421",
    "`ensures {name}` does not follow from `def`: {witness}",
    "correct the claim or the definition, or state with `requires` when it holds",
)
FALSE_LAW = register(
    "E0422",
    "the law `{name}` does not hold: {witness}",
    "correct the law or the definition, or narrow what its arguments may be",
)
UNKNOWN_EXTENT = register(
    "E0430",
    "how far {what} runs follows from nothing",
    "write an index alone, or one position that you compute",
)
NEVER_IN_DOMAIN = register(
    "E0423",
    "`{function}` has no value here, whatever the inputs are",
    "give it an argument that can lie in its domain",
)
BROKEN_DEFAULT = register(
    "E0424",
    "the default of `{name}` breaks `where {fact}`: {values}",
    "give it a default that the constraint allows, or none",
)
NO_VALUE = register(
    "W0401",
    "{what} can be {value}: {witness}",
    "exclude it with `requires`, or give the case a value with `if`",
    "warning",
)
UNSUPPORTED = register("E0499", "not supported by this version: {what}", "{cure}")


@dataclass(slots=True)
class Findings:
    """What was found wrong in one file so far."""

    filename: str
    found: list[Diagnostic] = field(default_factory=list)

    def add(self, code: str, span: Span, **fields: object) -> None:
        self.found.append(diagnose(code, span, self.filename, **fields))

    def raise_all(self) -> None:
        """Raise DiagnosticError when anything was found."""
        if self.found:
            raise DiagnosticError(in_order(self.found))


def did_you_mean(name: str, known: list[str]) -> str:
    """The start of a cure: the nearest known name, or nothing."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`? otherwise " if near else ""


KINDS = {"int": "an integer", "real": "a real number", "bool": "a truth value"}
