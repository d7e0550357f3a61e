"""Who spends a window's budget on which frames."""

from pipeline.methods import Method
from pipeline.select import clusters, curvature, events, relevance, scenes, segments, slow_fast, uniform
from pipeline.selection import SelectFn

FRAME_SELECTORS: dict[str, SelectFn] = {
    "relevance": relevance.show_relevant,
    "uniform": uniform.show_evenly,
    "slow-fast": slow_fast.show_slow_and_fast,
    "curvature": curvature.show_bends,
    "clusters": clusters.show_clusters,
    "scenes": scenes.show_scenes,
    "events": events.show_events,
    "segments": segments.show_segments,
}

METHODS: dict[str, Method] = {
    "relevance": relevance.METHOD,
    "uniform": uniform.METHOD,
    "slow-fast": slow_fast.METHOD,
    "curvature": curvature.METHOD,
    "clusters": clusters.METHOD,
    "scenes": scenes.METHOD,
    "events": events.METHOD,
    "segments": segments.METHOD,
}
