"""What docs/cluster.md says of how Ray Data's pools shrink is what the installed Ray does."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ray.data._internal.actor_autoscaler import create_actor_autoscaler
from ray.data._internal.execution.operators.actor_pool_map_operator import _ActorPool
from ray.data.context import AutoscalingConfig


@pytest.mark.parametrize(
    ("size", "starting", "tasks_per_actor", "expected"),
    [(3, 0, 0.5, -1), (3, 0, 0.6, 0), (3, 1, 0.0, 0), (2, 0, 0.0, 0), (3, 0, 0.0, -1)],
)
def test_a_pool_gives_one_idle_actor_back_at_a_time_down_to_its_smallest_size(
    size, starting, tasks_per_actor, expected
):
    pool = MagicMock()
    pool.min_size.return_value, pool.max_size.return_value = 2, 4
    pool.current_size.return_value, pool.num_pending_actors.return_value = size, starting
    pool.get_pool_util.return_value = tasks_per_actor
    pool.max_tasks_in_flight_per_actor.return_value, pool.max_actor_concurrency.return_value = 4, 1
    stage = MagicMock(_inputs_complete=False, metrics=SimpleNamespace(num_inputs_received=5))
    stage.has_completed.return_value = False
    stage.get_autoscaling_actor_pools.return_value = [pool]
    resources = MagicMock()
    resources.get_allocation.return_value = None
    create_actor_autoscaler({stage: MagicMock()}, resources, AutoscalingConfig()).try_trigger_scaling()
    [request] = pool.scale.call_args.args
    assert request.delta == expected


def test_it_waits_after_it_has_grown():
    assert _ActorPool._ACTOR_POOL_SCALE_DOWN_DEBOUNCE_PERIOD_S == 10
