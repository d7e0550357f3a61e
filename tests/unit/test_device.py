import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from actors.device import (
    OutOfMemory,
    halve_on_out_of_memory,
    limit_gpu_memory,
    load_error,
    pick_device,
    pick_dtype,
    return_freed_memory,
    to_device,
)
from pipeline.errors import AnswerError, ModelError


def python(code, **settings):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, **settings)


def test_a_gpu_is_used_where_one_is_reserved_and_seen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device(0), pick_device(0.25), pick_device(1)) == ("cpu", "cuda", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(1) == "cpu"


def test_auto_is_bfloat16_only_where_the_device_computes_in_it(monkeypatch):
    for native in (True, False):
        auto = torch.bfloat16 if native else torch.float32
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, native=native, **__: native)
        assert (pick_dtype("auto", "cpu"), pick_dtype("auto", "cuda")) == (auto, auto)
    assert pick_dtype("float16", "cpu") == torch.float16
    with pytest.raises(ModelError, match="dtype 'int3' is not known; expected auto or one of float32"):
        pick_dtype("int3", "cpu")


class Memory:
    """Runs batches up to a size and notes their sizes."""

    def __init__(self, fits, error=torch.OutOfMemoryError):
        self.fits, self.error, self.sizes = fits, error, []

    def __call__(self, items):
        self.sizes.append(len(items))
        if len(items) > self.fits:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return [item * 2 for item in items]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_a_batch_that_does_not_fit_is_halved_once(error):
    memory = Memory(4, error)
    assert halve_on_out_of_memory(memory, range(7), "seven") == [0, 2, 4, 6, 8, 10, 12]
    assert memory.sizes == [7, 4, 3]
    memory = Memory(3, error)
    with pytest.raises(
        AnswerError, match=r"seven do not fit in memory, not even in two halves .* lower answer"
    ):
        halve_on_out_of_memory(memory, range(7), "seven")
    assert memory.sizes == [7, 4]
    with pytest.raises(AnswerError, match="one do not fit"):
        halve_on_out_of_memory(Memory(0, error), range(1), "one")


def test_halvings_are_counted():
    count = OutOfMemory()
    for size in (4, 7):
        halve_on_out_of_memory(Memory(4), range(size), "some", count)
    assert count == OutOfMemory(halved=1)
    with pytest.raises(AnswerError):
        halve_on_out_of_memory(Memory(3), range(7), "seven", count)
    assert count == OutOfMemory(halved=2)


def test_on_a_cpu_nothing_is_copied_and_nothing_limited():
    tensor = torch.arange(3)
    assert to_device(tensor, "cpu") is tensor
    limit_gpu_memory(0.25, "cpu")


@pytest.mark.needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_tensors_and_a_share():
    tensor = torch.arange(1000)
    there = to_device(tensor, "cuda")
    assert there.is_cuda
    assert there.cpu().equal(tensor)
    assert to_device(there, "cuda") is there
    done = python("""
        import torch
        from actors.device import is_out_of_memory, limit_gpu_memory
        limit_gpu_memory(0.01, "cuda")
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.empty(total_bytes // 200, dtype=torch.uint8, device="cuda")
        try:
            torch.empty(total_bytes // 50, dtype=torch.uint8, device="cuda")
        except RuntimeError as error:
            print(is_out_of_memory(error))
    """)
    assert done.stdout.split() == ["True"], done.stderr


def test_other_errors_are_not_taken_for_lack_of_memory():
    def broken(_):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        halve_on_out_of_memory(broken, range(2), "two")


def test_a_poisoned_process_exits_without_clean_up_and_says_why():
    """Three processes, forked from one that has loaded torch."""
    done = python("""
        import atexit, logging, os, sys, torch
        from actors.device import exit_on_poisoned_cuda
        from pipeline.errors import FatalWorkerError
        logging.basicConfig(format="%(message)s")
        for error in (torch.AcceleratorError, FatalWorkerError, ValueError):
            pid = os.fork()
            if not pid:
                atexit.register(print, "cleaned up after", error.__name__)
                try:
                    with exit_on_poisoned_cuda():
                        raise error(f"CUDA error: an illegal memory access of {error.__name__}")
                except ValueError:
                    sys.exit(7)
            print(error.__name__, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    """)
    assert done.stdout.splitlines() == [
        "AcceleratorError 1",
        "FatalWorkerError 1",
        "cleaned up after ValueError",
        "ValueError 7",
    ]
    assert "access of AcceleratorError" in done.stderr
    assert "access of FatalWorkerError" in done.stderr
    assert "access of ValueError" not in done.stderr


def test_load_errors_say_which_model_and_what_to_check():
    error = load_error("someone/tiny", "reading config.json", ValueError("bad\nlong story"))
    assert "model 'someone/tiny': reading config.json failed with ValueError: bad; expected" in str(error)
    assert "long story" not in str(error)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_tensors_leave_the_process():
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kept_after_use():
        """Return what stays when large tensors go and small ones between them stay."""
        before = resident_bytes()
        large, small = [], []
        for _ in range(40):
            large.append(torch.ones(1_000_000))
            small.append(torch.ones(1000))
        large.clear()
        kept_bytes = resident_bytes() - before
        small.clear()
        return kept_bytes

    for _ in range(2):  # glibc raises its threshold after the first
        kept_after_use()
    return_freed_memory()
    assert kept_after_use() < 10_000_000
