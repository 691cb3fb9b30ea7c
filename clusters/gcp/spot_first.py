"""Ray's Google Cloud provider, with on-demand machines where there is no spot capacity.

Ray 2.60's autoscaler (v2) prefers another group only after a node timed out while it was being
allocated (`CloudResourceMonitor`). A refused request (`ZONE_RESOURCE_POOL_EXHAUSTED`) is repeated
for ever. So the second try is made here, within the same request.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

logger = logging.getLogger(__name__)

# Parts of what Compute Engine says; QUOTA: spot GPUs have a quota of their own.
NO_CAPACITY = ("RESOURCE_POOL_EXHAUSTED", "STOCKOUT", "QUOTA")


class SpotFirst(GCPNodeProvider):
    """Asks for spot machines, then for up to `provider.max_on_demand_mixers` on-demand ones.

    The limit holds for each group and counts the machines that stand in at the moment.
    """

    def create_node(
        self, base_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, dict]:
        """Start `count` machines one by one; raises what Compute Engine says of the first that
        cannot be had in either way.
        """
        created: dict[str, dict] = {}
        for _ in range(count):
            # One by one: of several, Ray's provider does not tell which were made and which not.
            created.update(self._create_one(base_config, tags))
        return created

    def _create_one(self, base_config: dict[str, Any], tags: dict[str, str]) -> dict[str, dict]:
        try:
            return super().create_node(base_config, tags, 1)
        except Exception as error:
            if not _is_spot(base_config) or not any(part in str(error) for part in NO_CAPACITY):
                raise
            if self._on_demand(tags) >= self.provider_config.get("max_on_demand_mixers", 0):
                raise
            logger.warning("No spot capacity (%s): asking on demand instead.", error)
            scheduling = {"provisioningModel": "STANDARD", "onHostMaintenance": "TERMINATE"}
            return super().create_node({**base_config, "scheduling": scheduling}, tags, 1)

    def _on_demand(self, tags: dict[str, str]) -> int:
        """On-demand machines of the same group that have not ended."""
        group = {TAG_RAY_USER_NODE_TYPE: tags[TAG_RAY_USER_NODE_TYPE]}
        nodes = [self._get_cached_node(name) for name in self.non_terminated_nodes(group)]
        return sum(not _is_spot(node) for node in nodes)


def _is_spot(config: Any) -> bool:
    return config.get("scheduling", {}).get("provisioningModel") == "SPOT"
