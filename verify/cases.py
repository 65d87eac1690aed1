"""Growing cases: what once showed a wrong implementation, one JSON document a line.

A case is kept in `cases/<op>.jsonl` beside the spec, in the folder that OPWRIGHT_CASES names, or,
where a spec lies in a read-only place, in the user's data folder. Gates, generated tests and
packages run what is kept; only a command removes a case.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from opwright.ir.binding import InputError
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator
from opwright.verify.draw import draw_inputs, holds
from opwright.verify.sizes import Sampler, all_params, shape_of
from opwright.verify.testkit_spec import array_json, stored_array

ELEMENTS = 1 << 14  # of all inputs: a larger call is kept by its family and seed, or not at all
TRIES = 80  # smaller calls that are tried while a case is minimised
SECONDS = 20.0
FIELDS = ("op", "types", "sizes", "params", "inputs", "source", "shows", "subject", "date", "hard")
Array = Any


class CaseError(ValueError):
    """A line that is no case, or a case that does not fit: file, line, what is wrong."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One recorded case; `inputs` are arrays as {"shape", "kind", "data"}, or the `family` and
    `seed` that they are drawn from. `shows` says what it showed of which `subject`."""

    op: str
    sizes: Mapping[str, int]
    inputs: Mapping[str, Any]
    types: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    shows: str = ""
    subject: str = ""
    date: str = ""
    hard: bool = False  # inputs that lose precision in any order of evaluation

    @property
    def id(self) -> str:
        """The name of its content: the call alone."""
        content = [self.op, self.types, self.sizes, self.params, self.inputs]
        plain = [dict(c) if isinstance(c, Mapping) else c for c in content]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, **{f: _plain(getattr(self, f)) for f in FIELDS}}

    @property
    def elements(self) -> int:
        return sum(len(v["data"]) for v in self.inputs.values() if isinstance(v, Mapping))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def from_json(data: Any) -> Kept:
    """A case from its document; CaseError says what is missing or malformed."""
    if not isinstance(data, Mapping):
        raise CaseError("a case is an object")
    for key, kind in (("op", str), ("sizes", Mapping), ("inputs", Mapping)):
        if not isinstance(data.get(key), kind):
            raise CaseError(f"{key!r} is missing")
    if not all(type(v) is int and v >= 0 for v in data["sizes"].values()):
        raise CaseError("sizes are integers from 0")
    inputs = data["inputs"]
    if "family" in inputs and "seed" in inputs:
        if not isinstance(inputs["family"], str) or type(inputs["seed"]) is not int:
            raise CaseError("inputs: a family is text, a seed an integer")
    else:
        for name, value in inputs.items():
            try:
                stored_array(value)
            except (KeyError, TypeError, ValueError) as e:
                raise CaseError(f"inputs: {name}: {type(e).__name__}: {e}") from None
    if not isinstance(data.get("hard", False), bool):
        raise CaseError("'hard' is true or false")
    for key in ("types", "params"):
        if not isinstance(data.get(key, {}), Mapping):
            raise CaseError(f"{key!r} is not an object")
    return Kept(**{f: data[f] for f in FIELDS if f in data})


# -- files -----------------------------------------------------------------------------------------


def read_cases(path: Path) -> list[Kept]:
    """The cases of a file; none where there is none. CaseError for a malformed line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as e:
        raise CaseError(f"{path}: not UTF-8: {e}") from None
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            out.append(from_json(json.loads(line)))
        except (ValueError, RecursionError) as e:
            raise CaseError(f"{path}:{number}: {e}") from None
    return out


def write_cases(path: Path, cases: Sequence[Kept]) -> None:
    """Replace a file at once: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(c.to_json(), sort_keys=True) + "\n" for c in cases)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def add_case(path: Path, case: Kept) -> bool:
    """Keep a case; no when it is there already."""
    with _locked(path):
        known = read_cases(path)
        if any(k.id == case.id for k in known):
            return False
        dated = replace(case, date=case.date or datetime.now(UTC).strftime("%Y-%m-%d"))
        write_cases(path, [*known, dated])
    return True


def remove_case(path: Path, name: str) -> bool:
    """Forget a case by its id, or by the beginning of it."""
    with _locked(path):
        known = read_cases(path)
        left = [k for k in known if not k.id.startswith(name)]
        if not name or len(left) == len(known):
            return False
        write_cases(path, left)
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; a lock that is a minute old was left by one that died."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    for _ in range(600):
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time.time() - lock.stat().st_mtime > 60:
                    lock.unlink()
            time.sleep(0.05)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()


def own_folder() -> Path:
    """Where cases of specs in read-only places are kept."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "opwright" / "cases"


def places(spec: Path, op: str) -> tuple[Path, ...]:
    """The files that may hold cases of an operator; the first one is where new ones go."""
    beside = spec.resolve().parent / "cases" / f"{op}.jsonl"
    named = os.environ.get("OPWRIGHT_CASES")
    if named:
        return Path(named) / f"{op}.jsonl", beside
    folder = beside.parent if beside.parent.is_dir() else spec.resolve().parent
    own = own_folder() / f"{op}.jsonl"
    return (beside, own) if os.access(folder, os.W_OK) else (own, beside)


def kept_cases(spec: Path, op: str) -> list[Kept]:
    """All cases of an operator, each once."""
    found: dict[str, Kept] = {}
    for path in places(spec, op):
        for case in read_cases(path):
            if case.op == op:
                found.setdefault(case.id, case)
    return list(found.values())


# -- what gates run --------------------------------------------------------------------------------

_SPECS: dict[str, Path] = {}  # operator -> the spec file that was read last


def know(spec: Path, names: Sequence[str]) -> None:
    """Say where the spec of these operators lies, so that gates find their cases."""
    for name in names:
        _SPECS[name] = spec


def known_cases(op: Operator) -> list[Kept]:
    """The cases that are kept for an operator whose spec was read from a file."""
    path = _SPECS.get(op.name)
    return [] if path is None else kept_cases(path, op.name)


@dataclass(frozen=True, slots=True)
class Call:
    """A kept case as a call: inputs in stored form."""

    kept: Kept
    sizes: Mapping[str, int]
    params: Mapping[str, Any]
    inputs: Mapping[str, Array]


def call_of(op: Operator, kept: Kept) -> Call:
    """A kept case at an operator's types; CaseError where it is no legal call of it any more."""
    try:
        sizes = {s: int(kept.sizes[s]) for s in op.sizes}
        params = all_params(op, sizes, kept.params)
        if not Sampler(op, _no_random()).legal(sizes, params):
            raise CaseError(f"case {kept.id} is against `where`")
        if "family" in kept.inputs:
            inputs = draw_inputs(op, sizes, params, str(kept.inputs["family"]),
                                 int(kept.inputs["seed"]))  # fmt: skip
            return Call(kept, sizes, params, inputs)
        inputs = {}
        for t in op.inputs:
            values = stored_array(kept.inputs[t.name])
            shape = shape_of(t, sizes, params)
            if values.shape != shape:
                raise CaseError(f"case {kept.id}: {t.name} has shape {values.shape}, not {shape}")
            inputs[t.name] = encode(values, t.dtype).reshape(shape)
    except (KeyError, ExprError, InputError) as e:
        raise CaseError(f"case {kept.id} does not fit {op.name}: {e}") from None
    broken = holds(op, inputs, sizes, params)
    if broken:
        raise CaseError(f"case {kept.id} breaks {broken[0]}")
    return Call(kept, sizes, params, inputs)


def _no_random() -> Any:
    from random import Random

    return Random(0)


def keep(
    op: Operator,
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    inputs: Mapping[str, Array],
    source: str,
    shows: str,
    subject: str = "",
    hard: bool = False,
) -> Kept:
    """A call with inputs in stored form as a case."""
    arrays = {t.name: array_json(decode(inputs[t.name], t.dtype)) for t in op.inputs}
    text = " ".join(shows.split())[:300]
    return Kept(op.name, dict(sizes), arrays, dict(op.types), _numbers(params), source, text,
                subject, hard=hard)  # fmt: skip


def _numbers(params: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in params.items()}


# -- refutations that are noticed ------------------------------------------------------------------

Inputs = Mapping[str, Array]
Fails = Callable[[Mapping[str, int], Mapping[str, Any], Inputs], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Refuted:
    """A call with inputs in stored form that refutes a candidate, and what it shows; `fails` runs
    the candidate on other calls."""

    op: Operator
    sizes: Mapping[str, int]
    params: Mapping[str, Any]
    inputs: Inputs
    fails: Fails
    shows: str
    subject: str = ""
    hard: bool = False


Noticed = Callable[[Refuted], None]
_WATCHERS: list[Noticed] = []


@contextlib.contextmanager
def watching(notice: Noticed) -> Iterator[None]:
    """Be told of every call that refutes a candidate, while the block runs."""
    _WATCHERS.append(notice)
    try:
        yield
    finally:
        _WATCHERS.remove(notice)


def tell(found: Callable[[], Refuted]) -> None:
    """Tell those who watch of a call that refutes a candidate; it is made up when one does."""
    for notice in list(_WATCHERS):
        notice(found())


# -- minimising ------------------------------------------------------------------------------------


def minimise(
    op: Operator,
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    inputs: Inputs,
    fails: Fails,
    tries: int = TRIES,
) -> tuple[dict[str, int], dict[str, Array]]:
    """A legal call that still fails, with smaller sizes first and then with simpler values."""
    search = _Minimiser(op, dict(sizes), dict(params), dict(inputs), fails, tries)
    search.sizes_down()
    search.values_down()
    return search.sizes, search.inputs


@dataclass(slots=True)
class _Minimiser:
    op: Operator
    sizes: dict[str, int]
    params: dict[str, Any]
    inputs: dict[str, Array]
    fails: Fails
    tries: int
    begin: float = field(default_factory=time.monotonic)

    def accept(self, sizes: dict[str, int], inputs: dict[str, Array]) -> bool:
        """Take a call where it is legal and fails."""
        if self.tries <= 0 or time.monotonic() - self.begin > SECONDS:
            return False
        try:
            params = all_params(self.op, sizes, self.params)
            legal = Sampler(self.op, _no_random()).legal(sizes, params)
            if not legal or holds(self.op, inputs, sizes, params):
                return False
            self.tries -= 1
            if not self.fails(sizes, params, inputs):
                return False
        except (ExprError, InputError, ArithmeticError, ValueError, IndexError, KeyError):
            return False
        self.sizes, self.params, self.inputs = sizes, params, inputs
        return True

    def sizes_down(self) -> None:
        """Every size as small as it goes, by leaving out what comes last."""
        changed = True
        while changed and self.tries > 0:
            changed = False
            for s in sorted(self.sizes, key=lambda s: -self.sizes[s]):
                old = self.sizes[s]
                smaller = sorted({0, 1, 2, old // 4, old // 2, old * 3 // 4, old - 1})
                for n in [n for n in smaller if 0 <= n < old]:
                    if self._resized({**self.sizes, s: n}):
                        changed = True
                        break

    def _resized(self, sizes: dict[str, int]) -> bool:
        try:
            params = all_params(self.op, sizes, self.params)
            cut = {}
            for t in self.op.inputs:
                shape, old = shape_of(t, sizes, params), self.inputs[t.name]
                if any(n > m for n, m in zip(shape, old.shape, strict=True)):
                    return False
                cut[t.name] = np.ascontiguousarray(old[tuple(slice(0, n) for n in shape)]).reshape(
                    shape
                )
        except (ExprError, InputError, ArithmeticError, ValueError):
            return False
        return self.accept(sizes, cut)

    def values_down(self) -> None:
        """Every input with simpler values: constants, whole numbers, few digits, single zeros."""
        for t in self.op.inputs:
            values = decode(self.inputs[t.name], t.dtype)
            if not values.size:
                continue
            for simple in self._simpler(values):
                if np.array_equal(simple, values, equal_nan=t.kind == "real"):
                    break  # nothing further is simpler
                stored = encode(simple, t.dtype).reshape(values.shape)
                if self.accept(self.sizes, {**self.inputs, t.name: stored}):
                    break
            self._zeros(t.name)

    def _simpler(self, values: Array) -> Iterator[Array]:
        if values.dtype.kind == "f":
            yield np.zeros_like(values)
            yield np.ones_like(values)
            yield np.where(np.isfinite(values), np.sign(values), values)
            yield np.rint(values)
            yield np.rint(values * 8) / 8
            yield np.rint(values * 1024) / 1024
        else:
            yield np.zeros_like(values)
            yield np.ones_like(values)

    def _zeros(self, name: str) -> None:
        """Halves, quarters, ... of an input as zeros."""
        dtype = next(t.dtype for t in self.op.inputs if t.name == name)
        n = self.inputs[name].size
        step = n // 2
        while step >= 1 and n // step <= 16:
            for start in range(0, n, step):
                flat = decode(self.inputs[name], dtype).reshape(-1).copy()
                part = flat[start : start + step]
                if not np.any(part != 0):
                    continue
                part[...] = 0
                stored = encode(flat, dtype).reshape(self.inputs[name].shape)
                self.accept(self.sizes, {**self.inputs, name: stored})
            step //= 2
