"""Ray's AWS provider, with on-demand machines where there is no spot capacity.

Ray 2.60's autoscaler (v2) prefers another group only after a node timed out while it was being
allocated (`CloudResourceMonitor`). A refused request (`InsufficientInstanceCapacity`) is repeated
for ever. So the second try is made here, within the same request.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

logger = logging.getLogger(__name__)

NO_CAPACITY = {
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
}


class SpotFirst(AWSNodeProvider):
    """Asks for spot machines, then for up to `provider.max_on_demand_mixers` on-demand ones.

    The limit holds for each group and counts the machines that stand in at the moment.
    """

    def _create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        """Start `count` machines; raises `NodeLaunchException` when neither kind can be had."""
        try:
            return super()._create_node(node_config, tags, count)
        except NodeLaunchException as error:
            spot = node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
            if not spot or error.category not in NO_CAPACITY:
                raise
            allowed = self.provider_config.get("max_on_demand_mixers", 0) - self._on_demand(tags)
            if allowed < 1:
                raise
            logger.warning("No spot capacity (%s): asking on demand instead.", error.category)
            plain = {k: v for k, v in node_config.items() if k != "InstanceMarketOptions"}
            return super()._create_node(plain, tags, min(count, allowed))

    def _on_demand(self, tags: dict[str, str]) -> int:
        """On-demand machines of the same group that have not ended."""
        group = {TAG_RAY_USER_NODE_TYPE: tags[TAG_RAY_USER_NODE_TYPE]}
        nodes = [self._get_cached_node(node) for node in self.non_terminated_nodes(group)]
        return sum(not node.spot_instance_request_id for node in nodes)
