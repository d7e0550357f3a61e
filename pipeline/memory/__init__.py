"""Ways to remember an endless stream within bounds."""

from pipeline.memory import carriers, fifo, recent, stream_dycoke
from pipeline.methods import Method
from pipeline.streams import MakeMemory

MEMORIES: dict[str, MakeMemory] = {
    "recent": recent.make_recent,
    "fifo": fifo.make_fifo,
    "stream-dycoke": stream_dycoke.make_stream_dycoke,
    "carriers": carriers.make_carriers,
}

METHODS: dict[str, Method] = {
    "recent": recent.METHOD,
    "fifo": fifo.METHOD,
    "stream-dycoke": stream_dycoke.METHOD,
    "carriers": carriers.METHOD,
}
