"""Programs that take pictures out of a video, ours and others, each behind the same few lines.

Each peer runs in a process of its own: `python -m jobs.decode_peers PEER` imports what it needs, says whether it
can be used, and then answers orders on standard input with what they cost. What a peer is not asked for is not
measured: imports, a child's or Ray's start and a first short clip are over before the clock starts.

CPU seconds are those of the process, of its children, and of processes below it that stay (our decoding child, Ray's
workers). Of Ray only the workers count: neither its own services nor the driver that takes the pictures in.

Nothing is imported here that a peer's own environment may lack: only the standard library and numpy.
"""

import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

BATCH = 16
"""Pictures asked for at a time where a peer takes lists."""
THUMB_PX = 4
"""Side of the squares that pictures are averaged over before they are compared."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of a peer."""

    path: str
    times_s: Sequence[float]
    """A grid from 0 on, `fps` a second."""
    fps: float
    height_px: int
    width_px: int


class UnableError(Exception):
    """A peer cannot do what is asked; the message says why."""


Delivered: TypeAlias = "list[tuple[float, npt.NDArray[np.uint8]]]"
"""Presentation times in seconds, and pictures as uint8 [height, width, 3] RGB."""
Deliver: TypeAlias = "Callable[[Order], Delivered]"


class Ours:
    """The product's own way: Reader, decoding child and pipe, one window after the other."""

    def __init__(self, policy: str) -> None:
        from jobs.bench_decode_rows import windows_of

        self._policy = policy
        self._windows_of = windows_of

    def ready(self, order: Order) -> None:
        """Probe the file, as another stage does once, and see to it that the child for this rate is running."""
        reader, windows = self._windows_of(order.path, self._policy, order.fps)
        reader.look(windows[0], [0.0], self._size(order))

    def __call__(self, order: Order) -> Delivered:
        """Sample every window."""
        from pipeline.stages import policy_for

        reader, windows = self._windows_of(order.path, self._policy, order.fps)
        found: Delivered = []
        for window in windows:
            policy = policy_for(reader.config, 1 / order.fps, window["key_gap_s"])
            frames, _ = reader.sample(window, self._size(order), policy)
            found += zip(frames.pts_s_N.tolist(), frames.data_NHWC, strict=True)
        return found

    def _size(self, order: Order) -> Any:
        from pipeline.frames import FrameSize

        return FrameSize(order.height_px, order.width_px)


def ffmpeg_floor() -> Deliver:
    """Return the ffmpeg program, which decodes everything with one thread and throws it away: the floor."""

    def deliver(order: Order) -> Delivered:
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", order.path, "-an", "-f", "null", "-"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return []

    subprocess.run(["ffmpeg", "-version"], check=True, stdout=subprocess.DEVNULL)
    return deliver


def pyav_all() -> Deliver:
    """Return PyAV decoding everything, as most programs that use it do; wanted pictures are resized."""
    import av
    from av.video.reformatter import Interpolation

    def deliver(order: Order) -> Delivered:
        found: Delivered = []
        place = 0
        with av.open(order.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            before: Any = None

            def take() -> None:
                small = before.reformat(
                    order.width_px, order.height_px, "rgb24", interpolation=Interpolation.AREA
                )
                found.append((before.time, small.to_ndarray()))

            for frame in container.decode(stream):
                while place < len(order.times_s) and order.times_s[place] < frame.time - 1e-6:
                    take()
                    place += 1
                before = frame
            if place < len(order.times_s):
                take()
        return found

    return deliver


def decord_batches() -> Deliver:
    """Return decord's get_batch, pictures found by number, resized as it decodes."""
    import decord

    def deliver(order: Order) -> Delivered:
        reader: Any = decord.VideoReader(
            order.path, width=order.width_px, height=order.height_px, num_threads=1
        )
        rate = reader.get_avg_fps()
        numbers = [min(int(time_s * rate + 1e-4), len(reader) - 1) for time_s in order.times_s]
        found: Delivered = []
        for first in range(0, len(numbers), BATCH):
            some = numbers[first : first + BATCH]
            pictures_NHWC = reader.get_batch(some).asnumpy()
            pts_s_N = reader.get_frame_timestamp(some)[:, 0]
            found += zip(pts_s_N.tolist(), pictures_NHWC, strict=True)
        return found

    return deliver


def torchcodec(seek_mode: str) -> Callable[[], Deliver]:
    """Return TorchCodec, asked for the pictures played at times, resized as it decodes."""

    def prepare() -> Deliver:
        import torch

        # looked up by name, because they are optional
        open_video: Any = import_module("torchcodec.decoders").VideoDecoder
        resize_to: Any = import_module("torchcodec.transforms").Resize

        torch.set_num_threads(1)

        def deliver(order: Order) -> Delivered:
            resize = resize_to((order.height_px, order.width_px))
            decoder = open_video(order.path, dimension_order="NHWC", seek_mode=seek_mode, transforms=[resize])
            batch = decoder.get_frames_played_at(seconds=list(order.times_s))
            return list(zip(batch.pts_seconds.tolist(), batch.data.numpy(), strict=True))

        return deliver

    return prepare


def ray_read_videos() -> Deliver:
    """Return Ray Data's reader, which decodes everything and keeps every so many pictures."""
    import ray
    import ray.data

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def deliver(order: Order) -> Delivered:
        if order.fps != int(order.fps):
            msg = f"fps must be a whole number, {order.fps:g} is none"
            raise UnableError(msg)
        resize = order.height_px, order.width_px
        videos = ray.data.read_videos(order.path, fps=int(order.fps), resize=resize, include_timestamps=True)
        return [(float(row["frame_timestamp"][0]), row["frame"]) for row in videos.iter_rows()]

    return deliver


def daft_frames() -> Deliver:
    """Return Daft's reader, which decodes everything and keeps a picture when its interval has passed."""
    daft: Any = import_module("daft")

    def deliver(order: Order) -> Delivered:
        frames = daft.read_video_frames(
            order.path,
            image_height=order.height_px,
            image_width=order.width_px,
            sample_interval_seconds=1 / order.fps,
        )
        found = frames.select("frame_time", "data").to_pydict()
        return list(zip(found["frame_time"], map(np.asarray, found["data"]), strict=True))

    return deliver


PEERS: dict[str, Callable[[], Deliver]] = {
    "ours exact": lambda: Ours("exact"),
    "ours auto": lambda: Ours("auto"),
    "ours near": lambda: Ours("near"),
    "ffmpeg to null": ffmpeg_floor,
    "PyAV decode all": pyav_all,
    "decord get_batch": decord_batches,
    "torchcodec exact": torchcodec("exact"),
    "torchcodec approximate": torchcodec("approximate"),
    "ray read_videos": ray_read_videos,
    "daft read_video_frames": daft_frames,
}


def cpu_by_process(below: Callable[[str], bool]) -> dict[int, float]:
    """Return the CPU seconds so far of the processes below this one whose title `below` accepts."""
    import psutil

    found: dict[int, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if below(" ".join(process.cmdline())):
                # the clock of another process's CPU time, in nanoseconds (Linux: MAKE_PROCESS_CPUCLOCK, CPUCLOCK_SCHED)
                found[process.pid] = time.clock_gettime(~process.pid << 3 | 2)
        except (psutil.NoSuchProcess, OSError):
            continue
    return found


def measured(deliver: Deliver, order: Order, *, is_ray: bool = False) -> tuple[Delivered, float, float]:
    """Return what was delivered, the CPU seconds that it cost, and the wall seconds."""

    def is_counted(title: str) -> bool:
        return title.startswith("ray::") if is_ray else True

    before, ended_before = cpu_by_process(is_counted), resource.getrusage(resource.RUSAGE_CHILDREN)
    own, started = time.process_time(), time.perf_counter()
    found = deliver(order)
    wall_s = time.perf_counter() - started
    cpu_s = 0.0 if is_ray else time.process_time() - own
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not is_ray:
        cpu_s += ended.ru_utime + ended.ru_stime - ended_before.ru_utime - ended_before.ru_stime
    for pid, after_s in cpu_by_process(is_counted).items():
        cpu_s += after_s - before.get(pid, 0.0)
    return found, cpu_s, wall_s


def thumb(picture_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a picture averaged over squares of 4 pixels, so that resizers matter little and pictures much."""
    height_px, width_px = (length // THUMB_PX * THUMB_PX for length in picture_HWC.shape[:2])
    squares = picture_HWC[:height_px, :width_px].reshape(
        height_px // THUMB_PX, THUMB_PX, width_px // THUMB_PX, THUMB_PX, 3
    )
    return np.rint(squares.mean((1, 3))).astype(np.uint8)


def thumbs(pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Return thumbs of pictures, [N, height, width, 3] uint8."""
    return np.stack([thumb(picture_HWC) for picture_HWC in pictures])


def main() -> None:
    """Serve one peer: one order per line of standard input, one answer per line of what was standard output."""
    name = sys.argv[1]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    try:
        deliver = PEERS[name]()
    except (ImportError, OSError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        is_missing = isinstance(error, ModuleNotFoundError | FileNotFoundError)
        say(trouble=f"not installed ({why})" if is_missing else f"cannot be used ({why})")
        return
    say(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        order = Order(**request["order"])
        try:
            if isinstance(deliver, Ours):
                deliver.ready(order)
            found, cpu_s, wall_s = measured(deliver, order, is_ray=name.startswith("ray"))
        except UnableError as error:
            say(unable=str(error))
            continue
        except Exception as error:  # noqa: BLE001 a peer may fail in any way, and that is a finding
            say(unable=f"{type(error).__name__}: {error}".splitlines()[0][:200])
            continue
        if request["save"] and found:
            np.save(request["save"], thumbs([picture_HWC for _, picture_HWC in found]))
        say(cpu_s=cpu_s, wall_s=wall_s, pts_s=[pts_s for pts_s, _ in found])


def as_request(order: Order, save: str = "") -> str:
    """Return one line of standard input; pictures are saved as thumbs to the .npy file `save`, if it is given."""
    return json.dumps({"order": asdict(order), "save": save}) + "\n"


if __name__ == "__main__":
    main()
