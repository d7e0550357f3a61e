"""Measured runs beside what the simulation says of them beforehand.

A run of a few windows tells what starting takes, a longer one what a window costs, both with one decoding task and one
scorer. The simulation then tells how long other runs take, longer ones and with more workers. Nothing of what is told
is measured on the run itself but what the machine was like meanwhile: the cores that others used, and what other guests
of the machine beneath took.
"""

from dataclasses import dataclass

from jobs.scale.measure import JobRun, share
from jobs.scale.model import Cluster, Store, Stream
from jobs.scale.simulation import simulate


@dataclass(frozen=True)
class Check:
    """One measured point beside what was simulated for it."""

    workers: int
    windows: int
    measured_s: float
    simulated_s: float
    foreign_cores: float
    stolen_cores: float

    @property
    def deviation(self) -> float:
        """Relative to what was measured."""
        return abs(self.simulated_s - self.measured_s) / self.measured_s


def check(short: JobRun, long: JobRun, told: JobRun) -> Check:
    """Return a measured run beside what two others say of it.

    What the simulated stream of the short run leaves of its time is the start of Ray and the driver's work before and
    behind the stream.
    """
    around_s = (short.use.wall_s - stream_s(short, long, short)) * short.speed
    simulated_s = around_s / told.speed + stream_s(short, long, told)
    use = told.use
    return Check(told.workers, told.windows, use.wall_s, simulated_s, use.foreign_cores, use.stolen_cores)


def stream_s(short: JobRun, long: JobRun, told: JobRun) -> float:
    """Return the simulated time of the answer stream of a run, with costs from two others."""
    import psutil

    counted, window_s = long.counted, told.video_s / told.windows
    second_s = sum(counted[f"{name}_cpu_s"] for name in ("score", "answer", "write"))
    scorer = share(short, long, "Scorer")
    stream = Stream(
        "answer",
        items=told.windows,
        items_per_unit=1,
        first_s=counted["decode_cpu_s"] / long.video_s * window_s
        + share(short, long, "task worker").window_s,
        second_s=second_s / long.video_s * window_s + scorer.window_s,
        beside_s=share(short, long, "driver", "Ray itself").window_s,
        second_start_s=scorer.start_s,
        spread=long.spread,
    )
    cores = psutil.cpu_count() or 1
    left = max(0.1, cores - told.use.foreign_cores) / cores
    machine = Cluster(
        1, cores, first_slots=told.workers, second_slots=told.workers, core_speed=left * told.speed
    )
    return simulate(stream, machine, Store()).wall_s
