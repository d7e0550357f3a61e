"""Ways to bring a clip's visual tokens down to its plan."""

from pipeline.compress import dtd, dtd_pixels, dycoke, none, stream_ttm, uniform
from pipeline.methods import Method
from pipeline.tokens import CompressFn

TOKEN_COMPRESSORS: dict[str, CompressFn] = {
    "none": none.keep_whole,
    "uniform": uniform.pool_to_plan,
    "dycoke": dycoke.prune_similar,
    "dtd": dtd.drop_like_before,
    "dtd-pixels": dtd_pixels.drop_unchanged,
    "evs": dtd.sample_video,
    "stream-ttm": stream_ttm.prune_stream,
}

METHODS: dict[str, Method] = {
    "none": none.METHOD,
    "uniform": uniform.METHOD,
    "dycoke": dycoke.METHOD,
    "dtd": dtd.METHOD,
    "dtd-pixels": dtd_pixels.METHOD,
    "evs": dtd.EVS,
    "stream-ttm": stream_ttm.METHOD,
}
