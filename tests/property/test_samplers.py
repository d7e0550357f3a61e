"""What every sampler must keep, whatever the video shows."""

import importlib.util
import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import MAX_FRAMES, WindowConfig
from pipeline.frames import gather
from pipeline.sampling import SAMPLERS
from tests.drawn import DrawnVideo

NAMES = sorted(name for name in SAMPLERS if name != "scenes" or importlib.util.find_spec("scenedetect"))
TAKE_THE_LOWEST_RATE = ("adaptive", "scenes")


@st.composite
def greys(draw):
    """Return the grey of a picture by time: still, with cuts, flickering, or noise."""
    seed, loudness = draw(st.integers(0, 99)), draw(st.sampled_from([0.004, 0.02, 1.0]))
    cuts_s = draw(st.lists(st.floats(0, 100), max_size=6))
    return draw(
        st.sampled_from(
            [
                lambda _time_s: 0.5,
                lambda time_s: random.Random(seed + sum(time_s >= cut_s for cut_s in cuts_s)).random(),
                lambda time_s: 0.5 + loudness / 2 * (int(time_s * 7) % 2),
                lambda time_s: random.Random(f"{seed} {time_s}").random() * loudness,
            ]
        )
    )


@st.composite
def windows(draw):
    """Return (start_s, end_s, settings) as windows.spans may make them."""
    sample_fps = draw(st.sampled_from([0.2, 0.3, 1.0, 2.0, 7.5, 29.97]))
    config = {
        "length_s": draw(st.floats(0.5, 60)),
        "sample_fps": sample_fps,
        "min_fps": sample_fps / draw(st.floats(1, 20)),
        "count": draw(st.integers(1, 50)),
    }
    start_s = draw(st.sampled_from([0.0, 17.3, 9999.9]))
    tail_s = draw(st.floats(0, 1)) / sample_fps
    return start_s, start_s + draw(st.floats(0.1, 1)) * config["length_s"] + tail_s, config


@settings(max_examples=60)
@given(
    name=st.sampled_from(NAMES),
    window=windows(),
    grey=greys(),
    picture_s=st.sampled_from([0.04, 1.0, 30.0]),
    holes=st.lists(st.integers(0, 40), max_size=5),
)
def test_every_sampler(name, window, grey, picture_s, holes):
    start_s, end_s, values = window
    config = WindowConfig(sampler=name, **values)

    def video() -> DrawnVideo:
        return DrawnVideo(grey, picture_s, lambda time_s: int((time_s - start_s) * 3) in holes)

    looked = video()
    shots = list(SAMPLERS[name](start_s, end_s, config, looked.look))
    times_s = [sample.wanted_s for sample, _ in shots]
    assert shots, "a window is never without a shot"
    assert len(shots) <= MAX_FRAMES
    assert all(start_s <= time_s < end_s for time_s in times_s)
    assert all(before < after for before, after in pairwise(times_s))
    gather(iter(shots), MAX_FRAMES)  # refuses pictures that are not in the order shown

    again = [
        (sample.wanted_s, sample.quality)
        for sample, _ in SAMPLERS[name](start_s, end_s, config, video().look)
    ]
    assert again == [(sample.wanted_s, sample.quality) for sample, _ in shots]

    if any(sample.quality == "ok" for sample, _ in shots):
        assert shots[[sample.quality for sample, _ in shots].index("ok")][1] is not None
    if name != "count":
        period_s = 1 / config.sample_fps
        assert all(after - before > period_s * 0.99 for before, after in pairwise(times_s))
        assert max(map(len, looked.asked)) <= (end_s - start_s) * config.sample_fps + 1 + 1e-6


@settings(max_examples=60)
@given(name=st.sampled_from([n for n in NAMES if n in TAKE_THE_LOWEST_RATE]), window=windows(), grey=greys())
def test_no_gap_is_longer_than_the_lowest_rate_allows(name, window, grey):
    start_s, end_s, values = window
    config = WindowConfig(sampler=name, **values)
    times_s = [s.wanted_s for s, _ in SAMPLERS[name](start_s, end_s, config, DrawnVideo(grey).look)]
    longest_s = 1 / config.min_fps + 0.01 / config.sample_fps
    # the grid need not begin with the window
    edge_s = longest_s + 1 / config.sample_fps
    assert all(after - before <= longest_s for before, after in pairwise(times_s))
    assert times_s[0] - start_s <= edge_s
    assert end_s - times_s[-1] <= edge_s
