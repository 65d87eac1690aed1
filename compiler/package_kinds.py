"""What packages of the backends have in common and where they differ: files, extras, tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of package. `modules` are (template, file) of its Python files, `runtime` the files of
    the runtime that it needs, `test` the template of its smoke tests."""

    name: str
    extras: Mapping[str, tuple[str, ...]]
    modules: tuple[tuple[str, str], ...]
    runtime: frozenset[str]
    test: str
    readme: str
    platform: str = "any"

    @property
    def native(self) -> bool:
        """Whether variants are libraries."""
        return self.name == "cpp"


_JAX = ("jax>=0.4.31",)
_TABLES = frozenset(
    ("__init__.py", "arrays.py", "cases.py", "describe.py", "files.py", "formulas.py")
)
_ARRAYS = frozenset(("jaxop.py", "jaxgrad.py", "jaxmain.py", "transforms.py"))
_SHARED = _TABLES | {
    "binding.py",
    "cli.py",
    "engine.py",
    "kept.py",
    "machine.py",
    "selftest.py",
    "torchop.py",
}
_TORCH_MODULES = (
    ("init.py", "__init__.py"),
    ("traced.py", "_traced.py"),
    ("torch.py", "torch.py"),
    ("main.py", "__main__.py"),
)
UNIVERSAL = frozenset(("universal.py",))  # what a package for CPUs and GPUs needs besides
KINDS = {
    "cpp": Kind(
        "cpp",
        {"numpy": ("numpy>=1.22",), "torch": ("torch>=2.4",), "jax": _JAX},
        _TORCH_MODULES,
        _SHARED | _ARRAYS,
        "test_package.py",
        "README.md",
        "linux_x86_64",
    ),
    "triton": Kind(
        "triton",
        {"torch": ("torch>=2.4",), "triton": ("triton>=3.4",), "jax": _JAX},
        _TORCH_MODULES,
        _SHARED | _ARRAYS | {"device.py", "interpreter.py"},
        "test_device.py",
        "README_triton.md",
    ),
    "cuda": Kind(
        "cuda",
        {"torch": ("torch>=2.4",), "jax": _JAX},
        _TORCH_MODULES,
        _SHARED | _ARRAYS | {"device.py", "driver.py"},
        "test_cuda.py",
        "README_cuda.md",
    ),
    "binary": Kind(
        "binary",
        {"torch": ("torch>=2.4",)},
        _TORCH_MODULES,
        _SHARED | {"device.py", "driver.py"},
        "test_cuda.py",
        "README_cuda.md",
    ),
    "jax": Kind(
        "jax",
        {"jax": _JAX},
        (("init_jax.py", "__init__.py"), ("main_jax.py", "__main__.py")),
        _ARRAYS | _TABLES,
        "test_jax.py",
        "README_jax.md",
    ),
}  # fmt: skip


def templates() -> Environment:
    """Where the templates of packages are read from."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
