"""A wheel from files in memory: reproducible bytes, standard library only."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def wheel_name(distribution: str, version: str, tag: str) -> str:
    return f"{distribution.replace('-', '_')}-{version}-{tag}.whl"


def metadata(
    distribution: str,
    version: str,
    summary: str,
    description: str,
    extras: Mapping[str, Sequence[str]],
    license_text: str | None,
) -> str:
    """The METADATA file; `description` is Markdown."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {distribution}",
        f"Version: {version}",
        f"Summary: {' '.join(summary.split())}",
        "Requires-Python: >=3.9",
    ]
    if license_text:
        lines.append(f"License: {' '.join(license_text.split())}")
    for extra, requirements in extras.items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {r} ; extra == "{extra}"' for r in requirements]
    lines.append("Description-Content-Type: text/markdown")
    return "\n".join(lines) + "\n\n" + description


def build_wheel(
    files: Mapping[str, bytes],
    distribution: str,
    version: str,
    tag: str,
    core_metadata: str,
    generator: str,
    pure: bool = False,
) -> bytes:
    """The wheel that holds `files` (path in site-packages to content) and its dist-info.

    `pure`: there is no native code in it.
    """
    info = f"{distribution.replace('-', '_')}-{version}.dist-info"
    content = dict(sorted(files.items()))
    content[f"{info}/METADATA"] = core_metadata.encode()
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {generator}\n"
        f"Root-Is-Purelib: {str(pure).lower()}\nTag: {tag}\n"
    ).encode()
    record = []
    for name, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}")
    content[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            archive.writestr(entry, data, compresslevel=9)
    return out.getvalue()
