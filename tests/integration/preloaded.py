"""Imported once, by the process that `forked.py` forks commands from."""

import importlib
import os

from jobs.cluster import QUEUES, QUIET
from tests.integration import ray_head

os.environ.update(QUIET | QUEUES | ray_head.QUIET)  # Ray reads them when it is imported

for name in ("boto3", "ray.data", "torch", "jobs.answer", "jobs.archive", "jobs.flow", "jobs.summary"):
    importlib.import_module(name)
transformers = importlib.import_module("transformers")
for name in ("AutoModelForImageTextToText", "AutoProcessor"):  # imported only when they are asked for
    getattr(transformers, name)
