"""Holding back AMX, the matrix unit of some server processors, which the machines that this project is for do not have.

A process on Linux must ask for AMX's registers before it uses them: arch_prctl(ARCH_REQ_XCOMP_PERM), see the kernel's
Documentation/arch/x86/xstate.rst. A seccomp filter refuses that request, so a library takes what it would take on a
processor without AMX, whatever way it asks. Environment variables (ONEDNN_MAX_CPU_ISA) exist for some libraries only.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from pathlib import Path

ARCH_PRCTL = 158
ARCH_GET_XCOMP_PERM = 0x1022
ARCH_REQ_XCOMP_PERM = 0x1023
TILE_DATA = 1 << 18
AUDIT_ARCH_X86_64 = 0xC000003E
EPERM = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_ALLOW = 0x7FFF0000
SECCOMP_ERRNO = 0x00050000
LOAD_WORD = 0x20
JUMP_IF_EQUAL = 0x15
RETURN = 0x06
NUMBER_OFFSET, ARCH_OFFSET, ARGUMENT_OFFSET = 0, 4, 16
"""Offsets of the fields of seccomp_data."""


class _Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def has_amx() -> bool:
    """Whether this is Linux on a processor with AMX for int8."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return " amx_int8" in Path("/proc/cpuinfo").read_text("ascii")


def refuse_amx() -> None:
    """Keeps this process, its threads and children from AMX for good. Does nothing where there is none.

    Raises:
        OSError: The filter could not be installed, or the process may use AMX already.
    """
    if not has_amx():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # (code, jump if equal, jump if not, value); jumps count from the next instruction.
    instructions = [
        (LOAD_WORD, 0, 0, ARCH_OFFSET),
        (JUMP_IF_EQUAL, 0, 5, AUDIT_ARCH_X86_64),
        (LOAD_WORD, 0, 0, NUMBER_OFFSET),
        (JUMP_IF_EQUAL, 0, 3, ARCH_PRCTL),
        (LOAD_WORD, 0, 0, ARGUMENT_OFFSET),
        (JUMP_IF_EQUAL, 0, 1, ARCH_REQ_XCOMP_PERM),
        (RETURN, 0, 0, SECCOMP_ERRNO | EPERM),
        (RETURN, 0, 0, SECCOMP_ALLOW),
    ]
    program = _Program(len(instructions), b"".join(struct.pack("HBBI", *one) for one in instructions))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot set no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot install the seccomp filter")
    permitted = ctypes.c_uint64()
    if libc.syscall(ARCH_PRCTL, ARCH_GET_XCOMP_PERM, ctypes.byref(permitted)) == 0 and permitted.value & TILE_DATA:
        raise OSError(EPERM, "the process may use AMX already")
    if libc.syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, 18) == 0:
        raise OSError(EPERM, "the filter did not refuse AMX")
