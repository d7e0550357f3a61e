"""Clips to train on: scenes rendered at whole seconds, in the size that the models' eyes see."""

import multiprocessing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import avg_pool2d

from jobs.world.model import PIXELS
from jobs.world.scenes import FRAME_PX, SECONDS, Rng, draw, make_scene
from jobs.world.splits import Split, seeds

Clips = npt.NDArray[np.uint8]


def render_clip(seed: int) -> Clips:
    """Return the pictures at whole seconds, scaled to what the eye sees, [T, PIXELS, PIXELS, 3]."""
    scene = make_scene(seed)
    whole = np.stack([draw(scene, float(second)) for second in range(SECONDS)])
    fold = FRAME_PX // PIXELS
    small = whole.reshape(SECONDS, PIXELS, fold, PIXELS, fold, 3).mean((2, 4))
    return np.round(small).astype(np.uint8)


def render(folder: Path, split: Split, count: int) -> Clips:
    """Return the clips of a split, [clips, T, PIXELS, PIXELS, 3], kept in a folder from one run to the next."""
    path = folder / f"{split}-{count}.npy"
    if not path.exists():
        shape = (count, SECONDS, PIXELS, PIXELS, 3)
        part = np.lib.format.open_memmap(f"{path}.part", "w+", np.uint8, shape)
        with multiprocessing.Pool() as pool:
            for place, clip in enumerate(pool.imap(render_clip, seeds(split, count), chunksize=16)):
                part[place] = clip
        part.flush()
        Path(f"{path}.part").rename(path)
    return np.load(path, mmap_mode="r")


def pixels(clips: Clips, rng: Rng | None) -> torch.Tensor:
    """Return pictures as the image processor makes them, [N, 3, H, W]; with `rng`, as compression might spoil them."""
    values = torch.tensor(clips).permute(0, 3, 1, 2).float()
    if rng is not None:
        blurred = avg_pool2d(values, 3, 1, 1, count_include_pad=False)
        grey = values.mean(1, keepdim=True)
        dull = avg_pool2d(values - grey, 3, 1, 1, count_include_pad=False) + grey
        soft = torch.from_numpy(rng.uniform(0, 0.35, (len(values), 1, 1, 1))).float()
        values = torch.where(torch.from_numpy(rng.random((len(values), 1, 1, 1)) < 0.5), dull, values)
        values = values * (1 - soft) + blurred * soft
        values = values + torch.randn_like(values) * 3
    return values / 127.5 - 1
