"""Mixing nodes are asked for when personalization is nearly done, so that they come in time and are
not paid for before.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from diffmix.config import PlacementConfig
from engine.placement.capacity import Capacity
from engine.placement.cluster import MIX_LABEL
from engine.placement.pool import mixer_pool


class AskAhead:
    """Holds a place for each mixer from shortly before personalization ends until mixing starts.

    A place that no node has room for makes the autoscaler start one. Owned by the run's session,
    which closes it.
    """

    def __init__(self, placement: PlacementConfig, has: Capacity):
        self._placement, self._has = placement, has
        self._first: dict | None = None
        self._places: list[PlacementGroup] = []
        self._done = not has.grows

    def on_events(self, events: Sequence[dict]) -> None:
        """Take the newest events. At a rate of `personalize_step` that leaves at most
        `placement.ask_ahead_minutes`, ask for the places.
        """
        for event in events:
            if event["event"] == "personalize_step" and not self._done:
                self._first = self._first or event
                if self._seconds_left(event) <= 60 * self._placement.ask_ahead_minutes:
                    self._ask()

    def close(self) -> None:
        """Give the places to the mixers."""
        self._done = True
        for place in self._places:
            remove_placement_group(place)
        self._places = []

    def _seconds_left(self, event: dict) -> float:
        """What personalization still takes; at its first event, with a rate unknown, for ever."""
        first = self._first or event
        done = event["step"] - first["step"]
        if done <= 0:
            return 0.0 if event["step"] >= event["steps"] else float("inf")
        return (event["time"] - first["time"]) / done * (event["steps"] - event["step"])

    def _ask(self) -> None:
        self._done = True
        place = self._placement
        each = {"GPU": place.gpus_per_mixer, "CPU": place.cpus_per_mixer}
        bundle = {name: amount for name, amount in each.items() if amount}
        labels = [MIX_LABEL] if place.separate else None
        for _ in range(mixer_pool(place, self._has).first):
            # One group each: the bundles of a group come together or not at all.
            self._places.append(placement_group([bundle], bundle_label_selector=labels))
