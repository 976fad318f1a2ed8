"""Take the network away from a runner before any native library is loaded.

A generation runner needs nothing but its pipes, yet the engine in it resolves and dials Microsoft's telemetry
host when its manager is made, whatever its settings say. On Linux a seccomp filter refuses every ``socket()``
(and ``io_uring_setup()``, which can make sockets too) with EACCES; the kernel keeps the filter for the life of
the process and its children, and nothing in the process can lift it. Elsewhere proxy variables point at a
port where nobody listens, which stops well-behaved clients only; ``deny_network`` says which of the two it was.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import sys
from typing import Final

__all__ = ["deny_network", "network_is_denied"]

# struct sock_filter codes: load a word, jump if equal, jump if greater or equal, return.
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW: Final = 0x7FFF0000
_DENY: Final = 0x00050000 | errno.EACCES
# Offsets in struct seccomp_data.
_SYSCALL_NUMBER, _ARCHITECTURE = 0, 4
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
# machine: (AUDIT_ARCH_*, socket, io_uring_setup)
_MACHINES: Final = {
    "x86_64": (0xC000003E, 41, 425),
    "aarch64": (0xC00000B7, 198, 425),
}
# Calls of the x32 interface of x86_64 kernels carry this bit; on aarch64 no call has so high a number.
_X32_BIT: Final = 0x40000000
_DEAD_PROXY: Final = "http://127.0.0.1:9"


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jump_true", ctypes.c_ubyte),
        ("jump_false", ctypes.c_ubyte),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def deny_network() -> str:
    """Deny this process the network, for good; call it before threads exist.

    Returns:
        ``denied`` when the kernel enforces it, ``discouraged`` when only proxy variables stand in the way.
    """
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = _DEAD_PROXY
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ""
    if sys.platform == "linux" and platform.machine() in _MACHINES and _install_filter():
        return "denied" if network_is_denied() else "discouraged"
    return "discouraged"


def network_is_denied() -> bool:
    """Whether making an internet socket is refused; tried, not assumed."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
        except PermissionError:
            continue
        except OSError:
            continue  # an address family that the kernel lacks is no way out either
        return False
    return True


def _install_filter() -> bool:
    architecture, socket_call, uring_call = _MACHINES[platform.machine()]
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, _SYSCALL_NUMBER),
        (_JUMP_GREATER_EQUAL, 2, 0, _X32_BIT),
        (_JUMP_EQUAL, 1, 0, socket_call),
        (_JUMP_EQUAL, 0, 1, uring_call),
        (_RETURN, 0, 0, _DENY),
        (_RETURN, 0, 0, _ALLOW),
    )
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)
