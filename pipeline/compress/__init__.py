"""Ways to bring a clip's visual tokens down to its plan."""

from pipeline.compress import dtd, dtd_pixels, dycoke, none, policy, savemem, stream_ttm, tome, uniform
from pipeline.methods import Method, Need
from pipeline.tokens import CompressFn

TOKEN_COMPRESSORS: dict[str, CompressFn] = {
    "none": none.keep_whole,
    "uniform": uniform.pool_to_plan,
    "dycoke": dycoke.prune_similar,
    "dtd": dtd.drop_like_before,
    "dtd-pixels": dtd_pixels.drop_unchanged,
    "evs": dtd.sample_video,
    "policy": policy.keep_by_policy,
    "savemem": savemem.drop_by_frame,
    "stream-ttm": stream_ttm.prune_stream,
    "tome": tome.merge_segments,
}

METHODS: dict[str, Method] = {
    "none": none.METHOD,
    "uniform": uniform.METHOD,
    "dycoke": dycoke.METHOD,
    "dtd": dtd.METHOD,
    "dtd-pixels": dtd_pixels.METHOD,
    "evs": dtd.EVS,
    "policy": policy.METHOD,
    "savemem": savemem.METHOD,
    "stream-ttm": stream_ttm.METHOD,
    "tome": tome.METHOD,
}


def needs_of(compress: CompressFn) -> tuple[Need, ...]:
    """Return what a compressor must be given beside tokens; nothing, if it is no entry of the table."""
    names = [name for name, entry in TOKEN_COMPRESSORS.items() if entry is compress]
    return METHODS[names[0]].needs if names else ()
