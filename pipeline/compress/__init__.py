"""Ways to bring a clip's visual tokens down to its plan."""

from pipeline.compress.dycoke import prune_similar
from pipeline.compress.none import keep_whole
from pipeline.compress.uniform import pool_to_plan
from pipeline.tokens import CompressFn

TOKEN_COMPRESSORS: dict[str, CompressFn] = {
    "none": keep_whole,
    "uniform": pool_to_plan,
    "dycoke": prune_similar,
}
