"""How shared memory may be written in CUDA texts: `static` beside it says nothing."""

from __future__ import annotations

import re

_STATIC = re.compile(r"\bstatic(\s+)(?=__shared__\b)|(?<=\b__shared__)(\s+)static\b")


def per_block(source: str) -> str:
    """The text without `static` before or after `__shared__`, every line as long as it was."""
    return _STATIC.sub(lambda m: m[0].replace("static", "      "), source)
