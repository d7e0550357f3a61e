"""What a process must know of its device: which one, which number format, how much of it, and how it fails.

Three ways to fail, three answers: out of memory is retried once with half the batch, weights that do not load
end the run, and a poisoned CUDA context ends the process.

Torch is imported where it is needed: an actor whose model does without is spared 150 MB and more than a second.
"""

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from actors.models import Device
from pipeline.errors import AnswerError, FatalWorkerError, ModelError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_M_MMAP_THRESHOLD = -3
_RETURNED_BYTES = 1 << 20
_SIGNS_OF_FULL_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_DTYPES = ("float32", "bfloat16", "float16")


def pick_device(num_gpus: float) -> Device:
    """Return `cuda` where a GPU is reserved for this process and torch sees one, else `cpu`."""
    if num_gpus <= 0:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(name: str, device: Device) -> "torch.dtype":
    """Return the number format of the weights; `auto` = bfloat16 where the device multiplies in it, else float32.

    A CPU without bfloat16 instructions emulates them: slower than float32 and less exact, so `auto` avoids it.

    Raises:
        ModelError: no such format.
    """
    import torch

    if name in _DTYPES:
        return getattr(torch, name)
    if name != "auto":
        msg = f"dtype {name!r} is not known; expected auto or one of {', '.join(_DTYPES)}"
        raise ModelError(msg)
    return torch.bfloat16 if _computes_bfloat16(device) else torch.float32


def _computes_bfloat16(device: Device) -> bool:
    """Return whether the device has instructions for bfloat16."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def to_device(tensor: "torch.Tensor", device: Device) -> "torch.Tensor":
    """Return the tensor on the device.

    To a GPU it goes through page-locked memory, and the copy runs while the CPU goes on. It is ordered before
    whatever the current stream is given next, and torch keeps the page-locked memory until it is done.
    """
    if device == "cpu" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def limit_gpu_memory(fraction: float, device: Device) -> None:
    """Keep torch, in this process, within its share of the GPU's memory, so that it does not starve its neighbours.

    Beyond it torch raises its usual out-of-memory error. The CUDA context itself, some hundred megabytes per
    process, is not torch's and comes on top. Where torch sees no GPU there is nothing to limit: a seat may have been
    reserved for a model that computes on the CPU.

    Args:
        fraction: of one GPU, as reserved; 1 and more = nothing to share.
        device: `cpu` has no limit.
    """
    if device != "cuda" or not 0 < fraction < 1:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(fraction)


def return_freed_memory() -> None:
    """Let the C library give freed tensors back to the system at once, so that a budget holds for what is resident.

    glibc begins so, but raises the size from which it does to 32 MB by itself, and keeps all that is smaller: resident
    memory was 6 to 13 % above what was alive (docs/log.md). Where there is no glibc, nothing is done.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _RETURNED_BYTES)


@dataclass(slots=True)
class OutOfMemory:
    """How often memory ran out in `halve_on_out_of_memory`."""

    halved: int = 0
    """Batches run again in two halves."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the GPU or (torch's CPU allocator has no type of its own) on the host."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_FULL_MEMORY)
    )


def halve_on_out_of_memory(
    run: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    what: str,
    count: OutOfMemory | None = None,
) -> list[Result]:
    """Return `run(items)`; when memory runs out, the results of its two halves instead.

    Halved once and not again: a batch that is twice too large is a bad setting, and anything beyond is a bad input.

    Args:
        run: returns one result per item; a result must not depend on its neighbours.
        items: the batch.
        what: names the batch in the error, e.g. "24 frames of 448 px".
        count: counts on, when given.

    Raises:
        AnswerError: half the batch does not fit either.
    """
    count = OutOfMemory() if count is None else count
    try:
        return run(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("out of memory on %s; trying again in two halves", what)
    count.halved += 1
    # out of the except block: its traceback would keep the failed batch alive
    empty_cache()
    middle = (len(items) + 1) // 2
    try:
        return [result for half in (items[:middle], items[middle:]) if half for result in run(half)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        empty_cache()
        msg = (
            f"{what} do not fit in memory, not even in two halves ({_first_line(error)});"
            " lower answer.frame_px or window.length_s, or reserve a larger device"
        )
        raise AnswerError(msg) from error


def empty_cache() -> None:
    """Give torch's unused GPU memory back."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def exit_on_poisoned_cuda() -> Generator[None]:
    """End this process when the block raises an error after which its CUDA context is unusable.

    After an illegal access or a device-side assert every later CUDA call of the process fails, so an actor that
    lives on would fail every row it is handed, fast, and empty the queue. An exception does not end a Ray actor;
    a dead process does: Ray starts another and gives it the same block. `os._exit`, not `sys.exit`: the latter is
    an exception too, and its clean-up would call into the broken context and may hang.
    """
    try:
        yield
    except (*_poison(), FatalWorkerError) as error:
        logger.critical("this process cannot go on, exiting so that it is replaced: %s", _first_line(error))
        logging.shutdown()
        os._exit(1)


@contextmanager
def poisoned_is_fatal() -> Generator[None]:
    """Turn an error after which the CUDA context is unusable into one that no guard of rows takes for a bug."""
    try:
        yield
    except _poison() as error:
        raise FatalWorkerError(_first_line(error)) from error


def _poison() -> tuple[type[Exception], ...]:
    """Return what torch raises then, nothing where it is not loaded; an `except` asks for it when there is an error."""
    torch = sys.modules.get("torch")
    return (torch.AcceleratorError,) if torch else ()


def load_error(model: str, doing: str, error: Exception) -> ModelError:
    """Return the ModelError that says which model could not be loaded, at what step, and what to check."""
    return ModelError(
        f"model {model!r}: {doing} failed with {type(error).__name__}: {_first_line(error)};"
        " expected a folder or hub id in the Hugging Face layout that transformers reads without extra code"
        " (config.json, *.safetensors, tokenizer and preprocessor files); check the name, the revision and,"
        " offline, that the model has been downloaded"
    )


def _first_line(error: BaseException) -> str:
    """Return the first line of a message; the libraries' own often run to a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
