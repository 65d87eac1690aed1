"""What this machine offers and lacks: `opwright doctor`. Nothing heavy is imported to find out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import opwright
from opwright.compiler.paths import cache_folder
from opwright.outcome import HOLDS, NO, print_json

# vector extensions that the C++ printer distinguishes, in the order of the kernel's flags
EXTENSIONS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "amx_bf16")
# distribution, whether compiling needs it, what is lost without it, how to get it
PACKAGES = (
    ("lark", True, "the syntax tables cannot be rebuilt", "pip install lark"),
    ("numpy", True, "nothing runs", "pip install numpy"),
    ("z3-solver", True, "nothing can be proved", "pip install z3-solver"),
    ("sympy", True, "no algebra over the reals", "pip install sympy"),
    (
        "torch",
        False,
        "no Torch operator, no eager and torch.compile baselines",
        "pip install torch",
    ),
    ("jax", False, "no --backend jax, no JAX baseline", "pip install jax"),
    (
        "triton",
        False,
        "no --backend triton, and no Triton candidate is verified",
        "pip install triton (Linux only)",
    ),
    (
        "libclang",
        False,
        "C++ texts of others are not read back: their safety is UNKNOWN",
        "pip install libclang",
    ),
    ("onnxruntime", False, "no ONNX Runtime baseline", "pip install onnxruntime"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `cure` is set when something is missing."""

    name: str
    value: str
    ok: bool = True
    required: bool = False
    cure: str = ""


def doctor_command(as_json: bool) -> int:
    """Print the report; the answer is no where something that is required is missing."""
    found = examine()
    if as_json:
        print_json({"findings": [asdict(one) for one in found]})
    else:
        width = max(len(one.name) for one in found)
        for one in found:
            mark = "ok" if one.ok else "MISSING" if one.required else "absent"
            print(f"{one.name:<{width}}  {mark:<7}  {one.value}")
            if not one.ok and one.cure:
                print(f"{'':<{width}}           cure: {one.cure}")
    return NO if any(one.required and not one.ok for one in found) else HOLDS


def examine() -> list[Finding]:
    """Look at the machine, the compiler, the packages and the cache folder."""
    return [
        Finding("opwright", opwright.__version__),
        Finding("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        *processor(),
        compiler(),
        sandbox(),
        *packages(),
        *device_tools(),
        device(),
        cache(),
    ]


def processor() -> list[Finding]:
    """Model, cores, caches, memory and vector extensions, as far as the system tells them."""
    facts = cpu_facts()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [
        Finding("machine", f"{platform.system()} {platform.release()} {platform.machine()}"),
        Finding("processor", f"{facts.get('model name', 'unknown')}, {usable} cores usable"),
    ]
    flags = facts.get("flags", "").split()
    have = [name for name in EXTENSIONS if name in flags]
    if platform.machine() == "x86_64" and not {"avx2", "fma"} <= set(have):
        lack = "runs on processors with AVX2 and FMA (x86-64-v3); this one reports neither or one"
        found.append(Finding("extensions", " ".join(have) or "none", False, True, lack))
    else:
        found.append(Finding("extensions", " ".join(have) or "unknown"))
    caches = cache_sizes()
    if caches:
        found.append(Finding("caches", ", ".join(caches)))
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found.append(Finding("memory", f"{total / 2**30:.1f} GiB"))
    except (ValueError, OSError):
        pass
    return found


def cpu_facts() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty elsewhere than on Linux."""
    facts: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return facts
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    return facts


def cache_sizes() -> list[str]:
    """Sizes of the first core's caches, smallest first, as `L1d 32K`."""
    sizes = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            sizes.append(f"L{level}{'d' if kind == 'Data' else ''} {size}")
    return sizes


def compiler() -> Finding:
    """The C++ compiler: found, and able to build a shared object with AVX2 code."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    cure = "install it (Debian: apt-get install g++), or name one in CXX"
    if path is None:
        return Finding("compiler", f"{name}: not found", False, True, cure)
    lines = output([path, "--version"]).splitlines()
    version = lines[0] if lines else "no version"
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "probe.cpp", Path(folder) / "probe.so"
        source.write_text('extern "C" int probe() { return 7; }\n')
        command = [path, "-O2", "-shared", "-fPIC", "-o", str(built), str(source)]
        message = output(command)
        if not built.exists():
            first = message.splitlines()[0] if message else "no output"
            return Finding("compiler", f"{path} builds nothing: {first}", False, True, cure)
    return Finding("compiler", f"{path}: {version}")


def sandbox() -> Finding:
    """What candidates run in, and what a probe in it was denied."""
    from opwright.backends import isolation

    try:
        found = isolation.sandbox()
    except isolation.Refused as error:
        return Finding("sandbox", str(error), False, True, error.cure)
    if found.kind == "none":
        return Finding("sandbox", found.text, False, False, "see docs/isolation.md")
    denied = ", ".join(name for name, how in found.probe.items() if how)
    stronger = f"; not used: {found.why}" if found.why else ""
    return Finding("sandbox", f"{found.detail}; denied to the probe: {denied}{stronger}")


def output(command: list[str]) -> str:
    """What a command prints, both streams; a message of our own when it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr


def packages() -> list[Finding]:
    """Installed versions, read from their metadata."""
    found = []
    for name, required, loss, cure in PACKAGES:
        try:
            found.append(Finding(name, importlib.metadata.version(name), required=required))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, f"not installed: {loss}", False, required, cure))
    return found


def device_tools() -> list[Finding]:
    """Assemblers and compilers for GPUs; those of Triton's package count."""
    found = []
    for name, loss, cure in (
        ("ptxas", "no registers and spills of Triton kernels", "pip install triton brings one"),
        ("nvcc", "nothing here needs it: CUDA texts are not compiled yet", "install CUDA"),
    ):
        path = triton_tool(name) or shutil.which(name)
        if path is None:
            found.append(Finding(name, f"not found: {loss}", False, False, cure))
            continue
        lines = output([path, "--version"]).strip().splitlines()
        release = next((line for line in lines if "release" in line), lines[-1] if lines else "")
        found.append(Finding(name, f"{path}: {release}"))
    return found


def triton_tool(name: str) -> str | None:
    """A program that the installed Triton brings along."""
    try:
        files = importlib.metadata.files("triton") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-2:] == ("bin", name):
            path = Path(str(file.locate()))
            return str(path) if path.exists() else None
    return None


def device() -> Finding:
    """The GPUs that their drivers report."""
    query = "--query-gpu=name,driver_version,memory.total"
    for tool, arguments in (
        ("nvidia-smi", [query, "--format=csv,noheader"]),
        ("rocm-smi", ["--showproductname", "--csv"]),
    ):
        path = shutil.which(tool)
        lines = output([path, *arguments]).strip().splitlines() if path else []
        named = [line for line in lines if "," in line and "fail" not in line.lower()]
        if named:
            return Finding("gpu", "; ".join(named))
    lack = (
        "none found: Triton kernels are proved and interpreted, not run; their times are modelled"
    )
    return Finding("gpu", lack, False, False, "run `make gpu` on a machine with an NVIDIA GPU")


def cache() -> Finding:
    """The cache folder: can it be written, and how much lies in it."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        cure = "make it writable, or name another folder in OPWRIGHT_CACHE"
        return Finding("cache", f"{folder}: {error.strerror}", False, True, cure)
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding("cache", f"{folder} ({used / 2**20:.1f} MiB)")
