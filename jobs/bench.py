"""Measured comparisons: `reelsift bench NAME ...`. The last stdout line is one JSON document, tables go to stderr."""

import sys
from collections.abc import Callable

from jobs import (
    bench_autoscale,
    bench_chaos,
    bench_compress,
    bench_cost,
    bench_decode,
    bench_gpu,
    bench_kv,
    bench_methods,
    bench_mutate,
    bench_overhead,
    bench_questions,
    bench_retrieval,
    bench_route,
    bench_scale,
    bench_stream,
)
from pipeline.errors import ConfigError

BENCHES: dict[str, Callable[[list[str]], int]] = {
    "autoscale": bench_autoscale.main,
    "chaos": bench_chaos.main,
    "compress": bench_compress.main,
    "cost": bench_cost.main,
    "decode": bench_decode.main,
    "gpu": bench_gpu.main,
    "kv": bench_kv.main,
    "methods": bench_methods.main,
    "mutate": bench_mutate.main,
    "overhead": bench_overhead.main,
    "questions": bench_questions.main,
    "retrieval": bench_retrieval.main,
    "route": bench_route.main,
    "scale": bench_scale.main,
    "stream": bench_stream.main,
}


def main(argv: list[str]) -> int:
    """Run the comparison that the first argument names; return its exit code.

    Raises:
        ConfigError: no such comparison, or its arguments do not fit.
    """
    known = ", ".join(BENCHES)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: reelsift bench NAME ...\n\n{__doc__}\n\nNAME is one of: {known}", file=sys.stderr)
        return 0 if argv else 2
    if argv[0] not in BENCHES:
        msg = f"no comparison {argv[0]!r}; known: {known}"
        raise ConfigError(msg)
    return BENCHES[argv[0]](argv[1:])
