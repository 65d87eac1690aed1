"""A jaxpr as JSON: calls inlined, dead equations dropped, every equation with its source line.

Runs in the candidate's process, beside `worker.py`; standard library and JAX only. Dimensions are
numbers or formulas in sizes (`N`, `2*N + 1`, `floordiv(N, 2)`); what calls of integer division
stand for is recognised by tracing JAX's own functions and comparing the result.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

INLINED = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "remat", "remat2", "checkpoint", "custom_lin", "xla_call",
    "core_closed_call", "run_state",
}  # fmt: skip
# accesses of a kernel to its blocks, and where their indices begin among their operands
ACCESSES = {"get": 1, "swap": 2, "masked_load": 1, "masked_swap": 2, "addupdate": 2}
CONSTANT_LIMIT = 65536  # elements of an array that the source holds


class Refusal(Exception):
    """Something in the jaxpr has no form in JSON."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.what, self.line = what, line


def line_of(traceback: Any, file: str) -> int:
    """The last line of a file in a Python traceback; 0 if it is not in it."""
    found = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            found = traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def trace(
    function: Any,
    request: dict[str, Any],
    file: str,
    numpy_type: Any,
    own: dict[str, list[Any]],
) -> dict[str, Any]:
    """The jaxpr of a function whose array arguments have the shapes of the request; a call of what
    traces like one of `own` is an equation of that name."""
    import jax

    scope = None
    symbols: dict[str, Any] = {}
    if request["symbols"]:
        names = ", ".join(request["symbols"])
        from jax import export

        wanted = [c for c in request["constraints"] if _understood(c, names)]
        for constraints in (wanted, wanted[:0]):
            try:
                scope = export.SymbolicScope(tuple(constraints))
                found = export.symbolic_shape(names, scope=scope)
                symbols = dict(zip(request["symbols"], found, strict=True))
                break
            except Exception:
                if not constraints:
                    raise

    def dims(shape: list[Any]) -> tuple[Any, ...]:
        if not any(isinstance(n, str) for n in shape):
            return tuple(shape)
        from jax import export

        text = ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "")
        return tuple(export.symbolic_shape(text, scope=scope))

    struct: Any = jax.ShapeDtypeStruct
    traced, given = [], {}
    for a in request["arrays"]:
        traced.append(struct(dims(a["shape"]), numpy_type(a["dtype"])))
    for name, value in request["values"].items():
        given[name] = symbols[value] if isinstance(value, str) else value

    def call(*arrays: Any) -> Any:
        named = {a["name"]: x for a, x in zip(request["arrays"], arrays, strict=True)}
        found = function(**named, **given)
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    with _decided(file), _any_blocks():
        closed = jax.make_jaxpr(call)(*traced)
    return _Writer(file, own).closed(closed)


@contextlib.contextmanager
def _decided(file: str) -> Iterator[None]:
    """While a function is traced, a question in its own text of whether two sizes are equal must
    have one answer for all sizes: JAX alone would say no."""
    from jax._src.export import shape_poly

    dimension: Any = shape_poly._DimExpr
    kept = dimension.__eq__, dimension.__ne__
    undecided = Refusal("whether a size is a certain number decides what is computed")

    def equal(self: Any, other: Any) -> bool:
        if sys._getframe(1).f_code.co_filename == file and _open(self, other, kept[0]):
            undecided.line = sys._getframe(1).f_lineno
            raise undecided
        return bool(kept[0](self, other))

    def unequal(self: Any, other: Any) -> bool:
        if sys._getframe(1).f_code.co_filename == file and _open(self, other, kept[0]):
            undecided.line = sys._getframe(1).f_lineno
            raise undecided
        return not kept[0](self, other)

    def true(self: Any) -> bool:
        if sys._getframe(1).f_code.co_filename == file and _open(self, 0, kept[0]):
            undecided.line = sys._getframe(1).f_lineno
            raise undecided
        return True

    dimension.__eq__, dimension.__ne__, dimension.__bool__ = equal, unequal, true
    try:
        yield
    finally:
        dimension.__eq__, dimension.__ne__ = kept
        del dimension.__bool__


def _any_blocks() -> Any:
    """While a function is traced, blocks of its kernels may have symbolic extents."""
    if "jax.experimental.pallas" not in sys.modules:
        return contextlib.nullcontext()
    from jax._src.pallas import core

    return core.pallas_export_experimental(dynamic_shapes=True)


def _open(a: Any, b: Any, equal: Any) -> bool:
    """Whether two sizes are equal for some values of the symbols, as far as JAX knows, but not for
    all."""
    if equal(a, b) is True:
        return False
    for sign in (1, -1):
        try:
            if sign * (a - b) >= 1:
                return False
        except Exception:
            continue
    return True


def _understood(constraint: str, names: str) -> bool:
    """Whether JAX takes a constraint on symbolic dimensions."""
    from jax import export

    try:
        export.symbolic_shape(names, scope=export.SymbolicScope((constraint,)))
    except Exception:
        return False
    return True


class _Writer:
    def __init__(self, file: str, own: dict[str, list[Any]]) -> None:
        self.file, self.own = file, own
        self.count = 0

    def closed(self, closed: Any) -> dict[str, Any]:
        """A closed jaxpr with all calls in it inlined."""
        env: dict[Any, Any] = {}
        eqns: list[dict[str, Any]] = []
        inputs = [self.fresh(v, env) for v in closed.jaxpr.invars]
        for v, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            env[v] = self.constant(value, v.aval)
        self.inline(closed.jaxpr, env, eqns)
        outputs = [self.atom(v, env) for v in closed.jaxpr.outvars]
        return {"in": inputs, "eqns": _live(eqns, outputs), "out": outputs}

    def fresh(self, v: Any, env: dict[Any, Any]) -> dict[str, Any]:
        self.count += 1
        env[v] = {"var": self.count, **self.type(v.aval)}
        found: dict[str, Any] = env[v]
        return found

    def type(self, aval: Any) -> dict[str, Any]:
        return {"shape": [self.dim(n) for n in aval.shape], "dtype": str(aval.dtype)}

    def dim(self, n: Any) -> Any:
        try:
            return n if isinstance(n, int) else int(n)
        except Exception:
            return str(n)

    def constant(self, value: Any, aval: Any) -> dict[str, Any]:
        import numpy as np

        if np.size(value) > CONSTANT_LIMIT:
            raise Refusal(f"an array constant of {np.size(value)} elements")
        array = np.asarray(value)
        plain = array.astype(np.float64) if array.dtype.kind not in "iub" else array
        return {"const": [_number(x) for x in plain.reshape(-1).tolist()], **self.type(aval)}

    def atom(self, v: Any, env: dict[Any, Any]) -> dict[str, Any]:
        if hasattr(v, "val"):
            return self.constant(v.val, v.aval)
        found: dict[str, Any] = env[v]
        return found

    def inline(
        self, jaxpr: Any, env: dict[Any, Any], eqns: list[dict[str, Any]], line: int = 0
    ) -> None:
        for eqn in jaxpr.eqns:
            here = self.line(eqn) or line
            name = eqn.primitive.name
            inner = _called(eqn) if name in INLINED else None
            known = _library(eqn, inner, self.own) if inner is not None else None
            if known is not None or inner is None:
                self.equation(known or name, eqn, env, eqns, here, known is None)
                continue
            body, consts = inner
            own: dict[Any, Any] = {}
            for v, value in zip(body.constvars, consts, strict=True):
                own[v] = self.constant(value, v.aval)
            arguments = [self.atom(v, env) for v in eqn.invars]
            for v, a in zip(body.invars, arguments[-len(body.invars) :] if body.invars else [],
                            strict=True):  # fmt: skip
                own[v] = a
            self.inline(body, own, eqns, here)
            for v, result in zip(eqn.outvars, body.outvars, strict=True):
                env[v] = self.atom(result, own)

    def equation(
        self, name: str, eqn: Any, env: dict[Any, Any], eqns: list[dict[str, Any]], line: int,
        with_params: bool,
    ) -> None:  # fmt: skip
        params = {}
        arguments = [self.atom(v, env) for v in eqn.invars]
        if name == "pallas_call":
            params = self.kernel(eqn.params, line)
        elif name in ACCESSES:
            params = {"index": self.indices(eqn, env, line)}
        elif with_params:
            params = {k: self.value(v, line) for k, v in eqn.params.items()}
        results = [self.fresh(v, env) for v in eqn.outvars]
        made = {"prim": name, "in": arguments, "out": results, "params": params, "line": line}
        if any(type(e).__name__ not in ("ReadEffect", "PallasReadEffect") for e in eqn.effects):
            made["kept"] = True  # it writes
        eqns.append(made)

    def kernel(self, params: Any, line: int) -> dict[str, Any]:
        """A kernel with its grid and the blocks that it sees."""
        grid = params["grid_mapping"]
        blocks = []
        for b in grid.block_mappings:
            kinds = {type(n).__name__ for n in b.block_shape} - {"int"}
            if kinds - {"Blocked", "Squeezed"}:
                raise Refusal(f"blocks that are {min(kinds)}", line)
            array = b.array_aval
            blocks.append(
                {
                    "block": [
                        None if type(n).__name__ == "Squeezed"
                        else self.dim(getattr(n, "block_size", n))
                        for n in b.block_shape
                    ],
                    "map": self.closed(b.index_map_jaxpr),
                    **self.type(array),
                }
            )  # fmt: skip
        return {
            "grid": [self.dim(n) for n in grid.grid],
            "blocks": blocks,
            "jaxpr": self.value(params["jaxpr"], line)["jaxpr"],
            "dynamic": int(grid.num_dynamic_grid_bounds),
            "outputs": int(grid.num_outputs),
            "more": int(grid.num_index_operands) + int(grid.num_scratch_operands),
            "aliases": bool(params["input_output_aliases"]),
        }

    def indices(self, eqn: Any, env: dict[Any, Any], line: int) -> list[Any]:
        """Where a reference is accessed: for every axis a slice, or one place."""
        import jax

        flat = eqn.invars[ACCESSES[eqn.primitive.name] :]
        found = jax.tree_util.tree_unflatten(eqn.params["tree"], flat)
        if not found:
            shape = eqn.invars[0].aval.shape
            return [{"start": 0, "size": self.dim(n), "stride": 1} for n in shape]
        if len(found) != 1 or type(found[0]).__name__ != "NDIndexer":
            raise Refusal("a reference that is transformed", line)

        def place(x: Any) -> Any:
            if isinstance(x, int):
                return x
            return self.atom(x, env) if hasattr(x, "aval") else self.dim(x)

        out: list[Any] = []
        for x in found[0].indices:
            if type(x).__name__ == "Slice":
                stride = self.dim(x.stride)
                out.append({"start": place(x.start), "size": self.dim(x.size), "stride": stride})
            else:
                out.append({"at": place(x)})
        return out

    def line(self, eqn: Any) -> int:
        try:
            frames = eqn.source_info.traceback.frames
        except AttributeError:
            return 0
        return next((f.line_num for f in frames if f.file_name == self.file), 0)

    def value(self, v: Any, line: int) -> Any:
        """A parameter of an equation."""
        if v is None or isinstance(v, bool | int | str):
            return v
        if isinstance(v, float):
            return _number(v)
        if hasattr(v, "jaxpr") and hasattr(v, "consts"):
            return {"jaxpr": self.closed(v)}
        if hasattr(v, "eqns"):
            from jax.extend.core import ClosedJaxpr

            return {"jaxpr": self.closed(ClosedJaxpr(v, ()))}
        if type(v).__name__ == "_DimExpr":
            return self.dim(v)
        if hasattr(v, "_asdict"):
            return {k: self.value(x, line) for k, x in v._asdict().items()}
        if isinstance(v, tuple | list):
            return [self.value(x, line) for x in v]
        if hasattr(v, "__dataclass_fields__"):
            return {k: self.value(getattr(v, k), line) for k in v.__dataclass_fields__}
        if hasattr(v, "shape") and hasattr(v, "dtype") and getattr(v, "size", 9) == 1:
            return _number(v.item() if hasattr(v, "item") else v)
        if hasattr(v, "name") and not callable(v):
            return str(v.name)  # enumerations
        number = self.dim(v)
        return number if isinstance(number, int) else str(v)


def _number(x: Any) -> Any:
    """JSON has no infinities."""
    return str(x) if isinstance(x, float) and (x != x or x in (float("inf"), -float("inf"))) else x


def _called(eqn: Any) -> tuple[Any, list[Any]] | None:
    """The jaxpr that a call executes, with its constants."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            closed = hasattr(inner, "consts")
            return (inner.jaxpr, list(inner.consts)) if closed else (inner, [])
    return None


def _library(eqn: Any, inner: tuple[Any, list[Any]], own: dict[str, list[Any]]) -> str | None:
    """A call whose body is what a known function of that name traces to: JAX's own, or one of
    `own`."""
    import jax
    import jax.numpy as jnp

    name = eqn.params.get("name")
    library = {"floor_divide": [jnp.floor_divide], "remainder": [jnp.remainder]}
    functions = library.get(name) or own.get(name)
    if not functions or inner[1]:
        return None
    avals = [v.aval for v in eqn.invars]
    if any(a.dtype.kind not in "iu" for a in avals):
        return None
    struct: Any = jax.ShapeDtypeStruct
    types = [struct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    for f in functions:
        try:
            (call,) = jax.make_jaxpr(f)(*types).jaxpr.eqns
            if str(call.params["jaxpr"].jaxpr) == str(inner[0]):
                return f"jnp.{name}" if name in library else str(name)
        except Exception:
            continue
    return None


def _live(eqns: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equations that some output needs."""
    wanted = {o["var"] for o in outputs if "var" in o}
    kept = []
    for e in reversed(eqns):
        if e.get("kept") or any(o["var"] in wanted for o in e["out"]):
            kept.append(e)
            wanted |= {a["var"] for a in e["in"] if "var" in a}
    return kept[::-1]
