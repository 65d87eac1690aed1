"""Options and fixtures for every layer: golden files."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from opwright.backends import isolation

# commands under test keep what they find in no source folder
os.environ["OPWRIGHT_CASES"] = tempfile.mkdtemp(prefix="opwright-test-cases-")

# whoever starts the tests in the background lets them, and all that they start, ignore Ctrl-C
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens",
        action="store_true",
        help="write what the tests produce to the golden files instead of comparing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """A machine without any sandbox tests everything but the sandbox; what passed before and is as
    it was may be left out."""
    if os.environ.get("OPWRIGHT_TEST_CACHE"):
        from support.cached import Cached

        config.pluginmanager.register(Cached(Path(os.environ["OPWRIGHT_TEST_CACHE"])), "cached")
    try:
        isolation.sandbox()
    except isolation.Refused:
        isolation.permit_unsafe()


def pytest_report_header() -> str:
    return f"candidates are {isolation.describe()}"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with a golden file, which must exist."""
    update = bool(request.config.getoption("--update-goldens"))

    def check(path: Path, text: str) -> None:
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path} is missing: run pytest --update-goldens"
        assert text == path.read_text(encoding="utf-8")

    return check
