"""The entry point of `opwright` and `python -m opwright`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    try:
        from opwright.cli import run

        code = run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        # before or after a command; within one, its own handler says what was kept
        print("opwright: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
