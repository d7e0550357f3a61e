"""Ways to bring a clip's visual tokens down to its plan."""

from pipeline.compress import dycoke, none, uniform
from pipeline.methods import Method
from pipeline.tokens import CompressFn

TOKEN_COMPRESSORS: dict[str, CompressFn] = {
    "none": none.keep_whole,
    "uniform": uniform.pool_to_plan,
    "dycoke": dycoke.prune_similar,
}

METHODS: dict[str, Method] = {
    "none": none.METHOD,
    "uniform": uniform.METHOD,
    "dycoke": dycoke.METHOD,
}
