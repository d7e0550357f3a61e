"""Gives up, for good, what decoding does not need: a process that reads strangers' bytes keeps no way out.

A bug in a decoder can hand a file's author this process. After lock_down it can compute, use the descriptors it
has or is sent, and end; it cannot open a file, reach a network, start a process or signal one, so there is nothing
to steal and nobody to tell. The kernel holds this (seccomp): a list of the calls that decoding needs, per
architecture, put into a classic BPF program below; everything else fails with EPERM, which libraries meet as an
ordinary error. It is installed with ctypes, because libseccomp is a system library that not every machine has.

What is left: newfstatat serves fstat in C libraries from 2.33 to 2.38 and its path cannot be checked, so the size
and age of a file with a known name can be asked for, not its content. The limit on memory holds for what libraries
allocate; code of an attacker's own could fill pages and make them read-only, which stops their being counted, or
start threads without end. A container's limits on memory and pids bound both.

Numbers: Linux's asm/unistd_64.h (x86_64), asm-generic/unistd.h (aarch64), linux/{audit,filter,seccomp,prctl}.h.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys

OPEN_FILES = 256

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine: its AUDIT_ARCH, and its column in the tables below."""

_ALLOWED: dict[str, tuple[int, int | None]] = {
    # bytes from and to descriptors that are open
    "read": (0, 63), "readv": (19, 65), "pread64": (17, 67), "preadv": (295, 69), "lseek": (8, 62),
    "write": (1, 64), "writev": (20, 66), "fstat": (5, 80), "close": (3, 57),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "sendmsg": (46, 211), "recvmsg": (47, 212), "recvfrom": (45, 207), "shutdown": (48, 210),
    "getsockopt": (55, 209), "getsockname": (51, 204), "getpeername": (52, 205),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    # memory
    "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "brk": (12, 214),
    # threads, and the end
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "membarrier": (324, 283), "exit": (60, 93), "exit_group": (231, 94),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    # time, and signals to itself
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None), "alarm": (37, None),
    "setitimer": (38, 103), "getitimer": (36, 102), "pause": (34, None), "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "rt_sigpending": (127, 136), "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137),
    # who and where it is; without getcwd an optional import fails with PermissionError, not ImportError
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getrandom": (318, 278),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153),
    "getrlimit": (97, 163), "getcwd": (79, 17),
}  # fmt: skip

_CHECKED: dict[str, tuple[int, int]] = {
    "newfstatat": (262, 79), "mmap": (9, 222), "madvise": (28, 233), "clone": (56, 220), "prctl": (157, 167),
    "prlimit64": (302, 261), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "sendto": (44, 206), "fcntl": (72, 25), "ioctl": (16, 29),
}  # fmt: skip
"""Allowed where _checks says so."""

_CLONE3 = 435
_SECCOMP = (317, 277)

_Check = tuple[int, int, tuple[int, ...]]
"""32-bit word of the arguments (argument i: low half 2 i, high half 2 i + 1), mask, values allowed under it."""

_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_ALL = 0xFFFFFFFF

_Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true, if false, constant."""


class _Program(ctypes.Structure):
    """The kernel's sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def lock_down(memory_bytes: int) -> list[str]:
    """Give up, for good, what decoding does not need; return what this platform cannot take away.

    Call it once, when everything is imported, also what libraries import or look up at first use (PyAV's
    subtitles, torch's look at the processor): files are out of reach afterwards. Sockets that the process keeps
    must be of type stream or seqpacket, because a datagram socket can send to any address. Standard error must be
    a pipe or a socket, because writes to regular files fail.

    Args:
        memory_bytes: limit of the writable memory of this process, what it holds already included.

    Returns:
        One plain line per thing that does not hold; empty on Linux on x86_64 and aarch64.
    """
    # the C library loads it at the first pthread_exit and aborts if it cannot
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")
    return [*_limit(memory_bytes), *_filter()]


def program(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """Return the filter as BPF instructions (code, skip if true, skip if false, constant).

    Args:
        machine: a machine of the tables, as in platform.machine().
        pid: the process that may be signalled.
    """
    arch, column = _MACHINES[machine]
    # no call of another ABI gets past this: a foreign one has another arch, x32 has bit 30 set in every number
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for name, checks in _checks(pid).items():
        body = [step for check in checks for step in _check(*check)]
        code += [(_EQUAL, 0, len(body) + 1, _CHECKED[name][column]), *body, (_RETURN, 0, 0, _ALLOW)]
    # the flags of clone3 lie behind a pointer; "no such call" makes the C library start threads with clone
    code += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    return [*code, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _checks(pid: int) -> dict[str, tuple[_Check, ...]]:
    """Return, per call, what its arguments must satisfy, all of it."""
    thread, namespaces = 0x00010000, 0x7E020000
    f_dupfd_cloexec = 1030
    tcgets, fionread, fionbio, fionclex, fioclex = 0x5401, 0x541B, 0x5421, 0x5450, 0x5451
    pr_set_name, pr_get_name, pr_set_vma = 15, 16, 0x53564D41
    no_address = ((8, _ALL, (0,)), (9, _ALL, (0,)))
    no_new_limit = ((4, _ALL, (0,)), (5, _ALL, (0,)))
    at_empty_path = 0x1000
    map_shared, map_anonymous, map_growsdown = 0x01, 0x20, 0x100
    return {
        "newfstatat": ((6, _ALL, (at_empty_path,)),),
        # RLIMIT_DATA counts neither shared memory without a file nor stacks that grow
        "mmap": ((6, map_shared | map_anonymous | map_growsdown, (0, map_shared, map_anonymous)),),
        # advice on memory, less the kinds that merge it with other processes' or retire the machine's pages
        "madvise": ((4, _ALL, (0, 1, 2, 3, 4, 8, 14, 15, 16, 17, 20, 21, 22, 23, 25, 102, 103)),),
        "clone": ((0, thread | namespaces, (thread,)),),
        "prctl": ((0, _ALL, (pr_set_name, pr_get_name, pr_set_vma)),),
        "prlimit64": no_new_limit,
        "kill": ((0, _ALL, (pid,)),),
        "tkill": ((0, _ALL, (pid,)),),
        "tgkill": ((0, _ALL, (pid,)),),
        "sendto": no_address,
        # F_DUPFD, flags, and no F_SETOWN, which names a process to signal
        "fcntl": ((2, _ALL, (0, 1, 2, 3, 4, f_dupfd_cloexec)),),
        "ioctl": ((2, _ALL, (tcgets, fionread, fionbio, fionclex, fioclex)),),
    }


def _check(word: int, mask: int, values: tuple[int, ...]) -> list[_Instruction]:
    """Return instructions that refuse the call unless the word of its arguments has one of the values."""
    tests = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    load: _Instruction = (_LOAD, 0, 0, _ARGUMENTS_AT + 4 * word)
    return [load, (_AND, 0, 0, mask), *tests, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _limit(memory_bytes: int) -> list[str]:
    """Set the limits of this process; return a line per limit that does not hold."""
    limits = {
        # not AS: threads, allocators and torch reserve tens of GB of addresses that they never fill
        "memory": (resource.RLIMIT_DATA, memory_bytes),
        "core dumps": (resource.RLIMIT_CORE, 0),
        "written files": (resource.RLIMIT_FSIZE, 0),
        "open files": (resource.RLIMIT_NOFILE, OPEN_FILES),
    }
    open_ends: list[str] = []
    for name, (kind, value) in limits.items():
        try:
            hard = resource.getrlimit(kind)[1]
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (least, least))
        except (OSError, ValueError) as error:
            open_ends.append(f"no limit on the decoder's {name}: {error}")
    if not sys.platform.startswith("linux"):
        open_ends.append(f"no limit on the decoder's memory: {sys.platform} does not count what is mapped")
    return open_ends


def _filter() -> list[str]:
    """Install the filter on every thread of this process; return a line if it does not hold."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in _MACHINES or sys.maxsize < 2**32:
        return [
            f"sockets, files and processes stay open to the decoder: no filter for {sys.platform}/{machine}"
        ]
    set_dumpable, set_no_new_privs = 4, 38
    set_mode_filter, every_thread = 1, 1
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    libc.syscall.argtypes = [ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong, ctypes.POINTER(_Program)]
    libc.syscall.restype = ctypes.c_long
    # a core that is piped to a program ignores RLIMIT_CORE
    libc.prctl(set_dumpable, 0, 0, 0, 0)
    code = program(machine, os.getpid())
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    filter_ = _Program(len(code), packed)
    number = _SECCOMP[_MACHINES[machine][1]]
    if libc.prctl(set_no_new_privs, 1, 0, 0, 0):
        why = os.strerror(ctypes.get_errno())
    elif (thread := libc.syscall(number, set_mode_filter, every_thread, ctypes.byref(filter_))) > 0:
        why = f"thread {thread} has a filter of its own"
    elif thread < 0:
        why = os.strerror(ctypes.get_errno())
    else:
        return []
    return [f"sockets, files and processes stay open to the decoder: the kernel refused the filter ({why})"]
