"""Each test locks down a process of its own; what is forbidden is also tried without the lock, to see it succeed."""

import errno
import json
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline import sandbox

ROOT = Path(__file__).parents[2]
GIB = 2**30
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"),
    reason="the filter is for Linux on x86_64 and aarch64",
)

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, subprocess, termios, threading, time, traceback
from pipeline.sandbox import lock_down
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    return check(libc.syscall(number, *(ctypes.c_long(a) for a in arguments)))

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

class Reader:  # a file over a descriptor, as a decoder wants it
    def __init__(self, fd):
        self.fd, self.at, self.size = fd, 0, os.fstat(fd).st_size
    def read(self, n=-1):
        data = os.pread(self.fd, self.size if n < 0 else n, self.at)
        self.at += len(data)
        return data
    def seek(self, offset, whence=0):
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at
    def tell(self):
        return self.at
"""
AV = "import av, av.subtitles.codeccontext, av.subtitles.stream\nfrom tests import videos"
"""What PyAV imports when a file needs it, too."""


def run(body, *, imports="", fds=(), memory_bytes=8 * GIB, locked=True, code=0):
    """Run `body` in a process that is locked down; return what it printed."""
    lock = f"assert lock_down({memory_bytes}) == []" if locked else ""
    source = "\n".join([PRELUDE, imports, lock, textwrap.dedent(body)])
    done = subprocess.run(
        [sys.executable, "-P", "-c", source],
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=1200,
        pass_fds=fds,
    )
    assert done.returncode == code, done.stderr
    assert code or not done.stderr
    return done.stdout.strip()


@pytest.fixture
def video(intact):
    """A descriptor of a video of 150 pictures."""
    fd = os.open(intact("h264.mp4")[0], os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("kind", ["h264.mp4", "hevc.mkv", "vp9.webm"])
def test_libav_decodes_and_scales(intact, kind):
    path, numbers = intact(kind)
    with path.open("rb") as file:
        body = f"""
            for threads in (1, 4):
                with av.open(Reader({file.fileno()})) as container:
                    stream = container.streams.video[0]
                    stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
                    for frame in container.decode(stream):
                        small = frame.reformat(80, 48, "rgb24", interpolation="AREA")
                        print(videos.number(small.to_ndarray()))
        """
        shown = run(body, imports=AV, fds=[file.fileno()])
    assert [int(line) for line in shown.split()] == numbers * 2


@pytest.mark.skipif(find_spec("decord") is None, reason="decord is not installed")
def test_decord_decodes(video):
    body = f"""
        reader = decord.VideoReader(open({video}, "rb"), num_threads=2)
        print([videos.number(picture) for picture in reader.get_batch([0, 40, 149]).asnumpy()])
    """
    assert run(body, imports="import decord\nfrom tests import videos", fds=[video]) == "[0, 40, 149]"


CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())

OPEN = """
SERVER = socket.create_server(("127.0.0.1", 0))
CLIENT = socket.create_connection(SERVER.getsockname())
DATAGRAM = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
"""
FORBIDDEN = {
    "reach a server": "socket.create_connection(SERVER.getsockname())",
    "make a socket": "socket.socket(socket.AF_UNIX)",
    "accept a connection": "SERVER.accept()",
    "send to an address": "DATAGRAM.sendto(b'x', SERVER.getsockname())",
    "fork": "os.fork() or os._exit(0)",
    "fork in C": "check(libc.fork()) or os._exit(0)",
    "clone a process": f"call({CLONE}, signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0)",
    "run a program": "subprocess.run(['/bin/echo'], stdout=subprocess.DEVNULL)",
    "spawn a program": "os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', ':'], {}), 0)",
    "become a program": "os.execv('/bin/echo', ['echo', 'done'])",
    "read a file": "open('/etc/passwd').read()",
    "read the environment of its parent": "open(f'/proc/{os.getppid()}/environ').read()",
    "read its own memory as a file": "open('/proc/self/mem', 'rb')",
    "write a file": "open(FOLDER + '/new', 'w')",
    "make a file without a name": "os.memfd_create('x')",
    "make a pipe": "os.pipe()",
    "delete a file": "os.unlink(FOLDER + '/file')",
    "rename a file": "os.rename(FOLDER + '/file', FOLDER + '/other')",
    "link a file": "os.link(FOLDER + '/file', FOLDER + '/other')",
    "list a folder": "os.listdir(FOLDER)",
    "change a mode": "os.chmod(FOLDER + '/file', 0o600)",
    "cut a file": "os.truncate(FOLDER + '/file', 0)",
    "stat a file": "os.stat(FOLDER + '/file')",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "signal its group": "os.kill(0, 0)",
    "have its parent signalled": "fcntl.fcntl(CLIENT, fcntl.F_SETOWN, os.getppid())",
    "give a device orders": "fcntl.ioctl(CLIENT, termios.TIOCOUTQ, b'    ')",
    "change a limit": "resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
    "change a limit by prlimit": "resource.prlimit(0, resource.RLIMIT_CPU, (1000, 1000))",
    "change a limit of its parent": "resource.prlimit(os.getppid(), 0, resource.prlimit(os.getppid(), 0))",
    "hold memory that no limit counts": "mmap.mmap(-1, 4096)",
    "hold a stack that no limit counts": "mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100)",
}


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    """What came of each attempt, (locked, unlocked): each in a process of its own, forked from one that has started."""
    folder = tmp_path_factory.mktemp("attempts")
    body = f"""
        import json, sys
        opened, forbidden, found = {OPEN!r}, {FORBIDDEN!r}, {{}}
        for name, attempt in forbidden.items():
            for is_locked in (True, False):
                FOLDER = {str(folder)!r} + f"/{{len(found)}}"
                os.mkdir(FOLDER)
                open(FOLDER + "/file", "w").close()
                says, said = os.pipe()
                pid = os.fork()
                if not pid:
                    os.dup2(said, 1)
                    exec(opened)
                    assert not is_locked or lock_down({8 * GIB}) == []
                    try:
                        exec(attempt)
                    except (PermissionError, ValueError) as error:
                        print(error)
                    else:
                        print("done")
                    sys.stdout.flush()
                    os._exit(0)
                os.close(said)
                with open(says) as file:
                    found[name + " " * is_locked] = file.read().strip()
                assert os.waitpid(pid, 0)[1] == 0
        print(json.dumps(found))
    """
    found = json.loads(run(body, locked=False))
    return {name: (found[name + " "], found[name]) for name in FORBIDDEN}


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_it_can_no_longer(attempts, attempt):
    locked, unlocked = attempts[attempt]
    assert any(says in locked for says in ("not permitted", "not allowed"))
    assert unlocked == "done"


RAW = {
    "x86_64": "ptrace 101 process_vm_readv 310 process_vm_writev 311 unshare 272 setns 308 mount 165 bpf 321 keyctl"
    " 250 execveat 322 seccomp 317 userfaultfd 323 perf_event_open 298 shmget 29 rt_sigqueueinfo 129 vfork 58"
    " prctl 157 tkill 200 x32 1073741863",
    "aarch64": "ptrace 117 process_vm_readv 270 process_vm_writev 271 unshare 97 setns 268 mount 40 bpf 280 keyctl 219"
    " execveat 281 seccomp 277 userfaultfd 282 perf_event_open 241 shmget 194 rt_sigqueueinfo 138"
    " prctl 167 tkill 130",
}
EVERYWHERE = "pidfd_send_signal 424 io_uring_setup 425 fsopen 430 pidfd_open 434 openat2 437 pidfd_getfd 438"


def test_calls_without_a_name_in_python_are_refused():
    words = f"{RAW[platform.machine()]} {EVERYWHERE}".split()
    body = f"""
        for name, number in {dict(zip(words[::2], words[1::2], strict=True))}.items():
            if libc.syscall(int(number), *[ctypes.c_long(0)] * 6) != -1 or ctypes.get_errno() != errno.EPERM:
                print(name, os.strerror(ctypes.get_errno()))
        print(libc.syscall(435, 0, 0), errno.errorcode[ctypes.get_errno()])
    """
    assert run(body) == "-1 ENOSYS"


def test_threads_that_were_there_are_locked_too():
    imports = """
def read():
    locked.wait()
    try:
        open("/etc/passwd")
    except PermissionError:
        print("refused")
locked = threading.Event()
threading.Thread(target=read).start()
"""
    assert run("locked.set()", imports=imports) == "refused"


def test_descriptors_that_arrive_are_read_and_answered(tmp_path):
    (tmp_path / "file").write_bytes(b"some bytes")
    ours, theirs = socket.socketpair()
    body = f"""
        ours = socket.socket(fileno={theirs.fileno()})
        ours.settimeout(30)
        _, [fd], _, _ = socket.recv_fds(ours, 1, 1)
        with open(fd, "rb") as file, mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as mapped:
            file.seek(5)
            copy = os.dup(fd)
            socket.send_fds(ours, [mapped[:4] + file.read() + b"%d" % os.fstat(fd).st_size], [copy])
    """
    with ours, theirs, (tmp_path / "file").open("rb") as file:
        socket.send_fds(ours, [b"x"], [file.fileno()])
        run(body, fds=[theirs.fileno()])
        data, [copy], _, _ = socket.recv_fds(ours, 100, 1)
    assert data == b"somebytes10"
    assert os.pread(copy, 4, 0) == b"some"
    os.close(copy)


BOMBS = {
    "many small ones": "held = [bytes(10**6) for _ in range(1000)]",
    "one large one": "bytes(GIB)",
    "an array": "numpy.ones(GIB, numpy.uint8)",
    "a mapping": "held = mmap.mmap(-1, GIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); held.write(bytes(GIB))",
    "threads": "threading.stack_size(GIB)\nthreading.Thread(target=print).start()",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_memory_ends_at_the_limit(bomb):
    body = f"""
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
{textwrap.indent(BOMBS[bomb], " " * 12)}
        except (MemoryError, OSError, RuntimeError) as error:
            held = None
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)
    """
    grown_kib = int(run(body, imports=f"import numpy\nGIB = {GIB}", memory_bytes=GIB // 2))
    assert grown_kib < GIB // 2 // 1024


def test_threads_still_start_and_end():
    body = """
        threads = [threading.Thread(target=found.append, args=[k]) for k in range(20)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(sorted(found) == list(range(20)))
        threading.Thread(target=signal.pause, daemon=True).start()
    """
    assert run(body, imports="found = []") == "True"


def test_abort_ends_it():
    run("os.abort()", code=-signal.SIGABRT)


def test_it_may_signal_itself():
    body = """
        seen = []
        for kind in (signal.SIGALRM, signal.SIGUSR1):
            signal.signal(kind, lambda number, _: seen.append(number))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while len(seen) < 2: time.sleep(0.01)
        print(seen == [signal.SIGUSR1, signal.SIGALRM])
    """
    assert run(body) == "True"


def test_errors_are_shown_as_ever():
    body = """
        try:
            import nothing_of_this_name
        except ImportError:
            print(traceback.format_exc())
    """
    assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in run(body)


def test_limits_are_set_and_never_raised():
    body = """
        for name in ("DATA", "CORE", "FSIZE", "NOFILE"):
            print(*resource.getrlimit(getattr(resource, "RLIMIT_" + name)))
    """
    imports = "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))"
    assert run(body, imports=imports, memory_bytes=GIB).split("\n") == [
        f"{GIB} {GIB}",
        "0 0",
        "0 0",
        "100 100",
    ]


def test_on_another_machine_it_says_what_stays_open():
    body = """
        import platform
        platform.machine = lambda: "riscv64"
        print(*lock_down(10**9), sep="\\n")
        print(resource.getrlimit(resource.RLIMIT_DATA)[1], open("/etc/passwd").readable())
    """
    assert run(body, locked=False).splitlines() == [
        "sockets, files and processes stay open to the decoder: no filter for linux/riscv64",
        "1000000000 True",
    ]


def test_a_kernel_that_refuses_is_reported_not_raised():
    found = run(f"print(lock_down({GIB}))")
    assert "no limit on the decoder's memory: " in found
    assert "stay open to the decoder: the kernel refused the filter (Operation not permitted)" in found


PID = 4242
AARCH64 = {
    "read": (63, [3], 0),
    "openat": (56, [], errno.EPERM),
    "socket": (198, [], errno.EPERM),
    "execve": (221, [], errno.EPERM),
    "clone3": (435, [], errno.ENOSYS),
    "clone for a thread": (220, [0x3D0F00], 0),
    "clone for a process": (220, [signal.SIGCHLD], errno.EPERM),
    "clone with a namespace": (220, [0x3D0F00 | 0x40000000], errno.EPERM),
    "tgkill itself": (131, [PID, 5, 6], 0),
    "tgkill another": (131, [PID + 1, 5, 6], errno.EPERM),
    "kill everybody": (129, [2**64 - 1, 9], errno.EPERM),
    "prlimit64 to read": (261, [0, 7, 0, 2**40], 0),
    "prlimit64 to set": (261, [0, 7, 2**40, 0], errno.EPERM),
    "fstat": (79, [3, 2**40, 2**40, 0x1000], 0),
    "stat": (79, [3, 2**40, 2**40, 0], errno.EPERM),
    "mmap of a shared file": (222, [0, 4096, 3, 0x01, 5, 0], 0),
    "mmap of shared memory": (222, [0, 4096, 3, 0x21, 2**64 - 1, 0], errno.EPERM),
    "madvise that frees": (233, [0, 4096, 4], 0),
    "madvise that breaks the machine's memory": (233, [0, 4096, 100], errno.EPERM),
}


@pytest.mark.parametrize("call", AARCH64)
def test_the_filter_for_aarch64_answers(call):
    number, arguments, expected = AARCH64[call]
    assert answer(sandbox.program("aarch64", PID), 0xC00000B7, number, arguments) == expected


@pytest.mark.parametrize(
    ("machine", "foreign", "read"), [("x86_64", 0x40000003, 0), ("aarch64", 0x40000028, 63)]
)
def test_calls_of_another_architecture_are_refused(machine, foreign, read):
    assert answer(sandbox.program(machine, PID), foreign, read, []) == errno.EPERM


def answer(program, arch, number, arguments):
    """Run the program as the kernel does on its seccomp_data; return the errno, 0 where the call is allowed."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, constant = program[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, constant)
            case 0x54:
                accumulator &= constant
            case 0x15:
                at += if_true if accumulator == constant else if_false
            case 0x06:
                return 0 if constant == 0x7FFF0000 else constant & 0xFFFF
