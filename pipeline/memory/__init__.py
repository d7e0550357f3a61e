"""Ways to remember an endless stream within bounds."""

from pipeline.memory import fifo, recent
from pipeline.methods import Method
from pipeline.streams import MakeMemory

MEMORIES: dict[str, MakeMemory] = {
    "recent": recent.make_recent,
    "fifo": fifo.make_fifo,
}

METHODS: dict[str, Method] = {
    "recent": recent.METHOD,
    "fifo": fifo.METHOD,
}
