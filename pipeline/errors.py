"""Every error the project raises on purpose, as one tree.

    ReelsiftError
      RowError                this input is bad: the row says why, the job goes on
        ProbeError            not a video, or no video stream
        DecodeError           bytes end early, codec missing, no frame near a time
        AnswerError           the model refused, or cannot serve this kind of query
      JobError                this run cannot be right: stop, exit code 2 or 3
        ConfigError           a setting, a query file, a table name, a fingerprint (exit 2)
        ClusterError          reservations do not fit the cluster (exit 3)
        ModelError            weights missing, wrong format, wrong shapes (exit 3)
        StoreError            a bucket or folder that cannot be listed, read or written (exit 3)
      FatalWorkerError        this process is poisoned (broken CUDA context): exit it, Ray replaces it

A message says what happened, with which input, what was found and expected, and what to do.
"""


class ReelsiftError(Exception):
    """Root of the tree; catch it to catch everything raised on purpose."""


class RowError(ReelsiftError):
    """This input is bad; the row carries the reason and the job goes on."""


class ProbeError(RowError):
    """Not a video, or nothing in it that can be decoded."""

    status = "unreadable"
    """The file's status in rows.VIDEOS: unreadable or no_video."""


class DecodeError(RowError):
    """Frames that the plan asks for cannot be decoded."""


class AnswerError(RowError):
    """The model refused, or no model is there that can serve this kind of query."""


class JobError(ReelsiftError):
    """This run cannot be right; stop it."""


class ConfigError(JobError):
    """A setting, a query file or an output folder that does not fit; found before anything is decoded."""


class ClusterError(JobError):
    """The graph cannot be scheduled on this cluster."""


class ModelError(JobError):
    """Weights are missing, in a refused format, or do not fit the code."""


class StoreError(JobError):
    """A bucket or folder cannot be listed, read or written."""


class FatalWorkerError(ReelsiftError):
    """This process is poisoned; the actor must exit so that Ray replaces it."""
