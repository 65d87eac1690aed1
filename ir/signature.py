"""What a kernel takes, as its text says it: the parameters of a plan that has yet to be written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. `kind` is pointer, scalar or constant; what is not known stays empty."""

    name: str
    kind: str
    reads: bool = False
    writes: bool = False
    dtype: str = ""  # of a scalar, where the text says it
    default: str = ""  # of a constant


@dataclass(frozen=True, slots=True)
class Signature:
    """A kernel's parameters in order, and along how many axes its programs count."""

    kernel: str
    parameters: tuple[Parameter, ...]
    axes: int = 1
