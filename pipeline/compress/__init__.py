"""Ways to bring a clip's visual tokens down to its plan."""

from pipeline.compress import dtd, dycoke, none, uniform
from pipeline.methods import Method
from pipeline.tokens import CompressFn

TOKEN_COMPRESSORS: dict[str, CompressFn] = {
    "none": none.keep_whole,
    "uniform": uniform.pool_to_plan,
    "dycoke": dycoke.prune_similar,
    "dtd": dtd.drop_like_before,
    "evs": dtd.sample_video,
}

METHODS: dict[str, Method] = {
    "none": none.METHOD,
    "uniform": uniform.METHOD,
    "dycoke": dycoke.METHOD,
    "dtd": dtd.METHOD,
    "evs": dtd.EVS,
}
