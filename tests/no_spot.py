"""A provider of fake machines whose cloud has no spot capacity: what `ray start` of a fake cluster's head loads."""

from jobs.fake_machines import FakeMachines


class NoSpotProvider(FakeMachines):
    """Raises, as AWS's provider does when every zone has refused, for each machine labelled `market: spot`."""

    def create_node_with_resources_and_labels(self, node_config, tags, count, resources, labels):
        if labels.get("market") == "spot":
            msg = "InsufficientInstanceCapacity: no spot capacity"
            raise RuntimeError(msg)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
