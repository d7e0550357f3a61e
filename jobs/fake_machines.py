"""What a fake cluster's head loads: Ray's fake provider of machines, for types that say how much memory they have."""

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class FakeMachines(FakeMultiNodeProvider):
    """Starts a raylet per machine; how much memory it has, it finds out itself: Ray's provider cannot tell it."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        """Start machines of a type."""
        told = {name: amount for name, amount in resources.items() if name != "memory"}
        super().create_node_with_resources_and_labels(node_config, tags, count, told, labels)
