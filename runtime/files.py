"""The files of the installed package: what metadata.json says of them, and whether it holds."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any


def metadata(folder: str) -> dict[str, Any]:
    with open(os.path.join(folder, "metadata.json"), encoding="utf-8") as file:
        data: dict[str, Any] = json.load(file)
    return data


def file_problems(folder: str, digests: dict[str, str]) -> list[str]:
    """What differs between the installed files and the digests of metadata.json."""
    problems = []
    for name, digest in sorted(digests.items()):
        try:
            with open(os.path.join(folder, name), "rb") as file:
                found = hashlib.sha256(file.read()).hexdigest()
        except OSError as error:
            problems.append(f"{name}: cannot be read ({error.strerror})")
            continue
        if found != digest:
            problems.append(f"{name}: changed since the package was made")
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for file_name in sorted(files):
            path = os.path.relpath(os.path.join(root, file_name), folder).replace(os.sep, "/")
            if path not in digests and path != "metadata.json" and path.endswith((".py", ".so")):
                problems.append(f"{path}: is no part of the package")
    return problems
