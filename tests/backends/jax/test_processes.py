"""What a candidate may contain, and what happens to one that fails, hangs or dies."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support.operators import row_sum

from opwright.backends.jax.policy import check_policy
from opwright.backends.jax.run import Process, RunError
from opwright.ir.launch import ImportRefusal
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan

jax = pytest.importorskip("jax")

HEAD = "import jax\nimport jax.numpy as jnp\nfrom jax import lax\n"


def plan(op: Operator) -> Plan:
    names = tuple(t.name for t in op.inputs)
    return Plan(f"{op.name}@1.0", "cpu(jax)", "jax", "kernel.py", (Launch(op.name, names),))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("import os\n", 1, "import of os"),
        ("from subprocess import run\n", 1, "import from subprocess"),
        (HEAD + "x = open('/etc/passwd')\n", 4, "constant"),
        (HEAD + "def f(x):\n    return eval('x')\n", 5, "eval"),
        (HEAD + "def f(x):\n    return x.__class__\n", 5, "__class__"),
        (HEAD + "def f(x):\n    return jax.pure_callback(f, x, x)\n", 5, "pure_callback"),
        (HEAD + "jax.config.update('jax_enable_x64', True)\n", 4, "Expr"),
        (HEAD + "for k in range(3):\n    pass\n", 4, "For"),
        (HEAD + "class A:\n    pass\n", 4, "ClassDef"),
        (HEAD + "@open\ndef f(x):\n    return x\n", 4, "decorator"),
        (HEAD + "def f(x):\n    return jnp.ndarray._x\n", 5, "_x"),
        (HEAD + "import jax.experimental\n", 4, "jax.experimental"),
        ("def f(x:\n", 1, "not Python"),
    ],
)
def test_policy_names_the_line(text: str, line: int, what: str) -> None:
    with pytest.raises(ImportRefusal) as found:
        check_policy(text, "kernel.py")
    assert found.value.line == line and what in str(found.value)


def test_policy_lets_ordinary_code_pass() -> None:
    check_policy(
        '"""Doc."""\nimport math\nfrom functools import partial\n' + HEAD
        + "SCALE = math.sqrt(2 / 3)\nSIZES = (1, -2)\n\n"
        "def helper(x):\n    return x * SCALE\n\n"
        "@partial(jax.jit, static_argnames=('n',))\n"
        "def f(x, n=2):\n    return jax.nn.relu(helper(x)) + lax.rsqrt(x) * n\n",
        "kernel.py",
    )  # fmt: skip


def run(body: str, limit: float = 30.0) -> np.ndarray:
    op = row_sum()
    source = HEAD + f"def row_sum(x):\n    {body}\n"
    with Process(source, plan(op), op) as p:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        return p.call({"x": x}, {}, {"B": 2, "N": 3}, limit)["y"]


def test_a_call_returns_stored_arrays() -> None:
    assert run("return jnp.sum(x, axis=1)").tolist() == [3.0, 12.0]


def test_an_exception_names_its_line() -> None:
    with pytest.raises(RunError) as found:
        run("return jnp.reshape(x, (7,))")
    assert found.value.kind == "raised" and found.value.line == 5


def test_a_wrong_type_is_said() -> None:
    with pytest.raises(RunError, match="y is int32, not float32"):
        run("return jnp.argmax(x, axis=1).astype(jnp.int32)")


def test_a_wrong_number_of_results_is_said() -> None:
    with pytest.raises(RunError, match="2 results, 1 outputs"):
        run("return x, x")


def test_a_hang_is_ended() -> None:
    begin = time.monotonic()
    with pytest.raises(RunError) as found:
        run("return lax.while_loop(lambda c: c < 2, lambda c: c * -0.5, x[0, 1])", 4.0)
    assert found.value.kind == "timeout" and time.monotonic() - begin < 30


def test_a_process_that_ends_is_a_result() -> None:
    op = row_sum()
    with Process(HEAD + "def row_sum(x):\n    return jnp.sum(x, 1)\n", plan(op), op) as p:
        p.start()
        assert p._process is not None
        p._process.kill()
        with pytest.raises(RunError, match="ended with signal 9"):
            p.call({"x": np.zeros((1, 1), np.float32)}, {}, {"B": 1, "N": 1})
