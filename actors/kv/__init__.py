"""What stays of a prompt in the language model's KV cache, and which of it a question is shown."""

from collections.abc import Callable
from typing import Any

from actors.kv import dycoke_dp, livevlm, none, quick_prefill, rekv, streaming_vlm
from actors.kv.cache import KvCache
from actors.kv.settings import KvSettings
from pipeline.methods import Method

KV_POLICIES: dict[str, Callable[[Any, KvSettings], KvCache]] = {
    "none": none.KeepAll,
    "quick-prefill": quick_prefill.QuickPrefill,
    "dycoke-dp": dycoke_dp.DyCokeDp,
    "livevlm": livevlm.LiveVlm,
    "rekv": rekv.ReKv,
    "streaming-vlm": streaming_vlm.StreamingVlm,
}
"""(text decoder, settings) -> an empty cache."""

METHODS: dict[str, Method] = {
    "none": none.METHOD,
    "quick-prefill": quick_prefill.METHOD,
    "dycoke-dp": dycoke_dp.METHOD,
    "livevlm": livevlm.METHOD,
    "rekv": rekv.METHOD,
    "streaming-vlm": streaming_vlm.METHOD,
}
