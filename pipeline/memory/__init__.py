"""Ways to remember an endless stream within bounds."""

from pipeline.memory import carriers, clusters, fifo, recent, savemem, stream_dycoke
from pipeline.methods import Method
from pipeline.streams import MakeMemory

MEMORIES: dict[str, MakeMemory] = {
    "recent": recent.make_recent,
    "fifo": fifo.make_fifo,
    "stream-dycoke": stream_dycoke.make_stream_dycoke,
    "savemem": savemem.make_savemem,
    "clusters": clusters.make_clusters,
    "carriers": carriers.make_carriers,
}

METHODS: dict[str, Method] = {
    "recent": recent.METHOD,
    "fifo": fifo.METHOD,
    "stream-dycoke": stream_dycoke.METHOD,
    "savemem": savemem.METHOD,
    "clusters": clusters.METHOD,
    "carriers": carriers.METHOD,
}
