"""No policy: every key and value stays, as the model was trained."""

from actors.kv.cache import KvCache
from pipeline.methods import Method

METHOD = Method(
    source="-",
    stage="cache",
    what="keeps the keys and values of every token; frames still go through the decoder in groups, so that a pass"
    " takes no more memory than a group does",
    needs=("keys-and-values",),
    stateful=True,
)

KeepAll = KvCache
