"""Video files of the world: what is decoded at a time is what was drawn for it."""

import av
import numpy as np

from jobs.world.scenes import FRAME_PX, SECONDS, draw, make_scene
from jobs.world.videos import FPS, write_video


def test_decoded_pictures_are_close_to_the_drawn_ones(tmp_path):
    path, seed = tmp_path / "scene.mp4", 3_000_000
    write_video(path, seed)
    scene = make_scene(seed)
    with av.open(str(path)) as container:
        frames = {frame.time: frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)}
    assert list(frames) == [number / FPS for number in range(SECONDS * FPS)]
    for second in range(SECONDS):
        seen, drawn = frames[float(second)].astype(float), draw(scene, float(second)).astype(float)
        assert seen.shape == (FRAME_PX, FRAME_PX, 3)
        error = np.abs(seen - drawn).mean()
        other = np.abs(seen - draw(scene, float((second + 7) % SECONDS))).mean()
        assert error < 12
        assert error < other
