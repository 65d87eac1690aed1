"""Tries what a sandbox has to deny, and says how each attempt went; started by path, confined.

Standard library only. Argument: JSON with a file outside, one in the home folder, a port that
listens, an abstract socket that listens, the parent's process id.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

FORKS = 8
libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def write(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def connect(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect(("127.0.0.1", port))


def abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect("\0" + name)


def fork() -> None:
    for _ in range(FORKS):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def memory(pid: int) -> None:
    own = ctypes.create_string_buffer(8)
    piece = (ctypes.c_size_t * 2)(ctypes.addressof(own), 8)
    if libc.process_vm_readv(pid, piece, 1, piece, 1, 0) >= 0:
        return
    with open(f"/proc/{pid}/mem", "rb"):
        pass


def trace(pid: int) -> None:
    checked(libc.ptrace(16, pid, 0, 0))  # PTRACE_ATTACH
    libc.ptrace(17, pid, 0, 0)


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    parent = int(asked["parent"])
    attempts: dict[str, Callable[[], Any]] = {
        "read a file outside": lambda: read(asked["outside"]),
        "read a file in the home folder": lambda: read(asked["home"] or asked["outside"]),
        "write a file outside": lambda: write(asked["outside"]),
        "read /etc/passwd": lambda: read("/etc/passwd"),
        "connect to a port": lambda: connect(asked["port"]),
        "connect to an abstract socket": lambda: abstract(asked["abstract"]),
        "fork": fork,
        "run a program": lambda: subprocess.run(["/bin/sh", "-c", ":"], check=True),
        "read the parent's memory": lambda: memory(parent),
        "trace the parent": lambda: trace(parent),
        "signal the parent": lambda: os.kill(parent, signal.SIGCONT),
        "open a session": os.setsid,
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = ""
        except OSError as e:
            found[name] = e.strerror or type(e).__name__
        except (ValueError, subprocess.SubprocessError) as e:
            found[name] = type(e).__name__
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
