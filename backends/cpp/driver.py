"""Generated launch and allocation code of a C++ candidate: `opwright_run` for any plan.

The text joins the shim in `parallel.h` with declarations derived from the plan; a kernel, printed
or written by hand, is linked to it by its C name.
"""

from __future__ import annotations

from importlib import resources

from opwright.backends.cpp.scalar import Names, PrintError, Scalars, element, symbol
from opwright.ir.dtypes import DTYPES, DType
from opwright.ir.expr import Expr, leaves, param, show, size
from opwright.ir.kept import Kept
from opwright.ir.op import Operator, Tensor
from opwright.ir.plan import Launch, Plan
from opwright.ir.text import parse_expr

SMALL_WORK = 32768  # elements below which a parallel region costs more than it saves


class DriverError(ValueError):
    """The plan cannot be launched; the message names the launch and the text."""


def plan_names(op: Operator) -> dict[str, Expr]:
    """What identifiers of a plan's expressions mean: sizes, lets and params."""
    names: dict[str, Expr] = {s: size(s) for s in op.sizes}
    names |= dict(op.lets)
    return names | {p.name: param(p.name, p.dtype.kind) for p in op.params}


MOST_INPUTS = 64  # of an operator whose launches may be kept: bits of a word


def driver_source(
    plan: Plan, op: Operator, work: str | None = None, kept: Kept | None = None
) -> str:
    """C++ text of `opwright_run`, `opwright_abi` and `opwright_forget` for a plan of this operator.

    `work` is an expression for the element operations of a call (default: elements of all inputs
    and outputs); small work runs without a parallel region. With `kept` there is `opwright_part`
    too, which runs the launches that constant inputs determine apart from the others. Raises
    DriverError.
    """
    return Driver(plan, op, kept).text(work)


class Driver:
    """The text of a plan's launches; other languages that run on a CPU override `launch`."""

    backend = "cpp"

    def __init__(self, plan: Plan, op: Operator, kept: Kept | None = None) -> None:
        if plan.backend != self.backend:
            raise DriverError(f"the plan's backend is {plan.backend}, not {self.backend}")
        self.plan, self.op, self.names = plan, op, Names()
        names = [t.name for t in op.inputs]
        self.kept = kept if len(names) <= MOST_INPUTS else None
        self.bits = {n: 1 << k for k, n in enumerate(names)}
        self.known = plan_names(op)
        self.tensors: dict[str, Tensor] = {t.name: t for t in (*op.inputs, *op.outputs)}
        self.dtypes: dict[str, DType] = {n: t.dtype for n, t in self.tensors.items()}
        self.params = {p.name: p.dtype for p in op.params}
        for name, s in plan.scratch.items():
            if name in self.tensors:
                raise DriverError(f"scratch {name} has the name of a tensor of {op.name}")
            if s.dtype not in DTYPES:
                raise DriverError(f"scratch {name}: unknown dtype {s.dtype!r}")
            self.dtypes[name] = DTYPES[s.dtype]
        self.scalars = Scalars(self.leaf)

    # -- expressions ----------------------------------------------------------------------------

    def parse(self, text: str, where: str, kind: str | None = "int") -> Expr:
        try:
            e = parse_expr(text, self.known)
        except ValueError as error:
            raise DriverError(f"{where}: {error}") from None
        if kind is not None and e.kind != kind:
            raise DriverError(f"{where}: {text!r} is {e.kind}, not {kind}")
        for x in leaves(e, "stride"):
            buffer, axis = x.attr
            if buffer not in self.tensors or axis >= len(self.tensors[buffer].axes):
                raise DriverError(f"{where}: {show(x)} names no axis of an input or output")
        return e

    def leaf(self, e: Expr) -> str:
        name = self.names.give((e.op, e.attr), _name(e))
        return f"({name} != 0)" if e.kind == "bool" else name

    def number(self, text: str, where: str) -> str:
        return self.scalars.text(self.parse(text, where))

    # -- text -----------------------------------------------------------------------------------

    def text(self, work: str | None) -> str:
        shim = resources.files("opwright.backends.cpp").joinpath("parallel.h").read_text()
        for word in _SHIM_NAMES:
            self.names.give(("shim", word), word)
        body = [*self.arguments(), *self.workers(work), *self.scratch()]
        tasks: list[str] = []
        for n, launch in enumerate(self.plan.launches):
            task, call = self.launch(n, launch)
            tasks += task
            body += call
        visible = 'extern "C" __attribute__((visibility("default")))'
        lines = [f"  {x}" for x in body]
        ends = [
            f"{visible} i32 opwright_abi() {{ return 1; }}",
            f"{visible} void opwright_forget() {{ forget(); }}",
            "",
        ]
        given = "void *const *buffers, const i64 *ints, const double *reals, i32 threads"
        if self.kept is None:
            head = f"{visible} i32 opwright_run({given}) {{"
            return "\n".join([shim, *tasks, head, *lines, f"  return {self.ending()};", "}", *ends])
        # phases: 0 all, 1 what constant inputs determine, 2 the rest, 3 the bytes that 1 fills
        part = f"{given}, i32 phase, u64 constant, void *held"
        own = "buffers, ints, reals, threads"
        return "\n".join([
            shim,
            *tasks,
            f"{visible} i64 opwright_part({part}) {{",
            *lines,
            f"  return {self.ending()};",
            "}",
            f"{visible} i32 opwright_run({given}) {{",
            f"  return (i32)opwright_part({own}, 0, 0, nullptr);",
            "}",
            *ends,
        ])  # fmt: skip

    def ending(self) -> str:
        """What `opwright_run` returns after the last launch."""
        return "status"

    def arguments(self) -> list[str]:
        """Locals for every size, param, stride and pointer of the call."""
        out = ["i32 status = 0;"]
        at = 0
        for s in self.op.sizes:
            out.append(f"[[maybe_unused]] const i64 {self.leaf(size(s))} = ints[{at}];")
            at += 1
        reals = 0
        for p in self.op.params:
            name = self.names.give(("param", p.name), p.name)
            if p.dtype.kind == "real":
                out.append(f"[[maybe_unused]] const double {name} = reals[{reals}];")
                reals += 1
            else:
                out.append(f"[[maybe_unused]] const i64 {name} = ints[{at}];")
                at += 1
        for n, t in enumerate(self.tensors.values()):
            pointer = self.names.give(("buffer", t.name), t.name)
            kind = element(t.dtype)
            out.append(f"[[maybe_unused]] {kind} *const {pointer} = ({kind} *)buffers[{n}];")
            for axis in range(len(t.axes)):
                stride = self.names.give(("stride", (t.name, axis)), f"{t.name}_stride{axis}")
                out.append(f"[[maybe_unused]] const i64 {stride} = ints[{at}];")
                at += 1
        return out

    def workers(self, work: str | None) -> list[str]:
        if work is not None:
            total = f"(double){self.number(work, 'work')}"
        else:
            products = [
                " * ".join(["1.0", *(f"(double){self.scalars.text(e)}" for e in t.shape)])
                for t in self.tensors.values()
            ]
            total = " + ".join(products) or "0.0"
        return [
            f"const double elements = {total};",
            f"const i32 team_size = elements < {SMALL_WORK}.0 ? 1",
            "  : threads > 0 ? threads : default_threads();",
        ]

    def scratch(self) -> list[str]:
        out, frees, takes, shared = [], [], [], []
        if self.kept is not None:
            out += self.noted()
        for name, s in self.plan.scratch.items():
            where = f"scratch {name}"
            shape = ", ".join(self.number(t, where) for t in s.shape)
            v = self.names.give(("buffer", name), name)
            length = f"{v}_bytes"
            size_of = self.dtypes[name].bytes
            out.append(f"const i64 {v}_shape[] = {{{shape or '1'}}};")
            out.append(
                f"const i64 {length} = bytes_of({v}_shape, {max(1, len(s.shape))}, {size_of});"
            )
            copies = "team_size" if s.scope == "program" else "1"
            zero = "true" if s.init == "zero" else "false"
            kind = element(self.dtypes[name])
            fresh = f"take({length}, {copies}, {zero})"
            if self.kept is not None and name in self.kept.scratch:
                out += [
                    f"const bool {v}_held = phase && {self.determined(self.kept.scratch[name])};",
                    f"const i64 {v}_at = held_bytes;",
                    f"if ({v}_held && {length} < 0) return phase == 3 ? -1 : 1;",
                    f"if ({v}_held) held_bytes += {length};",
                ]
                fresh = f"({v}_held ? (char *)held + {v}_at : (char *){fresh})"
                frees.append(f"{v}_held ? nullptr : {v}")
            else:
                frees.append(v)
            takes.append(f"{kind} *const {v} = ({kind} *){fresh};")
            if s.scope != "program":
                shared.append(f'OPWRIGHT_SHARED({v}, {length}, "{v}");')
        if self.kept is not None:
            out.append("if (phase == 3) return held_bytes;")
        if frees:
            pointers = [self.names.give(("buffer", n), n) for n in self.plan.scratch]
            failed = " || ".join(f"!{p}" for p in pointers)
            takes.append(f"const release<{len(frees)}> scratch_held = {{{{{', '.join(frees)}}}}};")
            takes.append(f"if ({failed}) return 1;")
        return out + takes + shared

    def determined(self, inputs: frozenset[str]) -> str:
        """Whether all of these inputs are constant."""
        mask = sum(self.bits[n] for n in inputs)
        return f"({mask}ull & ~constant) == 0"

    def noted(self) -> list[str]:
        """The head of what is kept: the numbers that it was made for. A call for others gets 2."""
        assert self.kept is not None
        uses: dict[str, set[str]] = {}
        for n, inputs in self.kept.launches.items():
            launch = self.plan.launches[n]
            texts = [t for t in (*launch.grid, *launch.args) if t.strip() not in self.dtypes]
            names = [t.strip() for t in launch.args]
            texts += [t for k, s in self.plan.scratch.items() if k in names for t in s.shape]
            for text in texts:
                e = self.parse(text, f"launches[{n}] {launch.kernel}", None)
                for x in leaves(e, "size", "param", "stride"):
                    uses.setdefault(self.leaf(x), set()).add(self.determined(inputs))
        out = [f"i64 held_bytes = {-(-8 * (len(uses) + 1) // 64) * 64};"]
        keeps = ["((u64 *)held)[0] = constant;"]
        same = ["((const u64 *)held)[0] == constant"]
        for n, (name, conditions) in enumerate(sorted(uses.items()), 1):
            bits = f"bits_of({name})"
            keeps.append(f"((u64 *)held)[{n}] = {bits};")
            matters = " || ".join(sorted(conditions))
            same.append(f"(((const u64 *)held)[{n}] == {bits} || !({matters}))")
        out.append(f"if (phase == 1) {{ {' '.join(keeps)} }}")
        return [*out, f"if (phase == 2 && !({' && '.join(same)})) return 2;"]

    def launch(self, n: int, launch: Launch) -> tuple[list[str], list[str]]:
        """(text before the run function, statements in it) of one launch."""
        where = f"launches[{n}] {launch.kernel}"
        if launch.const or launch.extra:
            field = next(iter([*(["const"] if launch.const else []), *launch.extra]))
            raise DriverError(f"{where}: a C++ launch has no {field!r}")
        types: list[str] = []
        declared: list[str] = []
        values: list[str] = []
        passed: list[str] = []
        for i, text in enumerate(launch.args):
            kind, value, use = self.argument(text, f"{where}, argument {i}", f"c->a{i}")
            types.append(kind)
            part = kind.removeprefix("worker_part<")
            declared.append(kind if part == kind else f"{part.removesuffix('>')} *")
            values.append(value)
            passed.append(use)
        fields = " ".join(f"{t} a{i};" for i, t in enumerate(types))
        name = symbol(launch.kernel)
        task = [
            f'extern "C" void {name}({", ".join([*declared, "i64", "i64", "i64"])});',
            "namespace {",
            f"struct launch_{n} {{ i64 g0, g1; {fields} }};",
            f"void run_{n}(void *context, [[maybe_unused]] i64 worker, i64 begin, i64 end) {{",
            f"  const launch_{n} *c = (const launch_{n} *)context;",
            "  i64 p0 = begin % c->g0, p1 = begin / c->g0 % c->g1, p2 = begin / c->g0 / c->g1;",
            "  for (i64 g = begin; g < end; g++) {",
            "    OPWRIGHT_PROGRAM(g);",
            f"    {name}({', '.join([*passed, 'p0', 'p1', 'p2'])});",
            "    if (++p0 == c->g0) { p0 = 0; if (++p1 == c->g1) { p1 = 0; p2++; } }",
            "  }",
            "}",
            "}",
        ]
        grid = [self.number(g, f"{where}, grid") for g in launch.grid]
        shape = ", ".join(f"i_max(0, {g})" for g in [*grid, "1", "1"][:3])
        dynamic = "true" if launch.schedule == "dynamic" else "false"
        call = [
            f"{{ const i64 grid[] = {{{shape}}}; i64 count;",
            "  if (__builtin_mul_overflow(grid[0], grid[1], &count) ||",
            "      __builtin_mul_overflow(count, grid[2], &count)) return 1;",
            "  OPWRIGHT_LAUNCH();",
            f"  launch_{n} c = {{{', '.join(['grid[0]', 'grid[1]', *values])}}};",
            f"  run_all(run_{n}, &c, count, {dynamic}, team_size); }}",
        ]
        if self.kept is not None:
            inputs = self.kept.launches.get(n)
            when = "phase != 1"
            if inputs is not None:
                when = f"!phase || ({self.determined(inputs)}) == (phase == 1)"
            call.insert(0, f"if ({when})")
        return task, call

    def argument(self, text: str, where: str, field: str) -> tuple[str, str, str]:
        """(C type, value in the run function, how the task passes it)."""
        name = text.strip()
        if name in self.dtypes:
            kind = element(self.dtypes[name])
            pointer = self.names.give(("buffer", name), name)
            scratch = self.plan.scratch.get(name)
            constant = "const " if name in {t.name for t in self.op.inputs} else ""
            if scratch is None or scratch.scope != "program":
                return f"{constant}{kind} *", pointer, field
            step = f"{pointer}_bytes"
            return f"worker_part<{kind}>", f"{{{pointer}, {step}}}", f"{field}.of(worker)"
        e = self.parse(text, where, None)
        if e.kind == "real":
            f32 = (e.op == "param" and self.params[e.attr].name == "f32") or (
                e.op == "cast" and e.attr.name == "f32"
            )
            kind = "float" if f32 else "double"
            return kind, f"({kind}){self.scalars.text(e)}", field
        kind = "i32" if e.op == "cast" and e.attr.name == "i32" else "i64"
        return kind, f"({kind}){self.scalars.text(e)}", field


# locals of the run function and names of the shim that a spec's names must not hide
_SHIM_NAMES = """buffers ints reals threads status elements team_size count grid c release
    scratch_held take bytes_of run_all default_threads free memset phase constant held held_bytes
    bits_of give keep room spare forget least_kept most_kept large_page madvise
    i_min i_max i_div i_mod r_min r_max""".split()


def _name(e: Expr) -> str:
    if e.op == "stride":
        return f"{e.attr[0]}_stride{e.attr[1]}"
    if e.op not in ("size", "param"):
        raise PrintError(f"{show(e)} has no value in a launch")
    return str(e.attr)
