"""`opwright fmt`: canonical text, written in one step or only compared."""

from __future__ import annotations

import sys
from pathlib import Path

from opwright.grammar.diagnostics import DiagnosticError
from opwright.grammar.format import format_module
from opwright.outcome import HOLDS, NO, write_atomically
from opwright.spec_files import print_diagnostics, read_text


def fmt(paths: list[Path], check_only: bool) -> int:
    """Format every file that parses; the answer is no if one does not, or would change."""
    code = HOLDS
    for path in paths:
        text = read_text(path)
        try:
            formatted = format_module(text, str(path))
        except DiagnosticError as error:
            print_diagnostics(error.diagnostics)
            print(f"{path}: left as it is", file=sys.stderr)
            code = NO
            continue
        if formatted == text:
            continue
        if check_only:
            print(f"{path}: would be formatted")
            code = NO
        else:
            write_atomically(path, formatted)
            print(f"{path}: formatted")
    return code
