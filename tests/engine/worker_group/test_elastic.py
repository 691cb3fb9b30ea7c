"""With how many workers training may go on, and what a restart saves."""

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from diffmix.config import Config, PlacementConfig, TrainConfig, replace
from diffmix.config_check import check
from diffmix.errors import UserError
from engine.worker_group.elastic import more_mixers, most, places, possible_workers, room, saved


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({}, (1, 2, 3, 4, 6, 12)),
        ({"mixup_alpha": 0.2}, (1, 2, 3, 6)),  # each share is even
        ({"cutmix_alpha": 0.2, "mix_form": "reference"}, (1, 2, 3, 4, 6, 12)),
        # 100 images end in a batch of 4, which the workers share too.
        ({"last_batch": "short"}, (1, 2, 4)),
    ],
)
def test_workers_share_the_same_batches_evenly(changes, numbers):
    assert possible_workers(TrainConfig(batch_size=12, **changes), 100, 1) == numbers


def test_a_set_smaller_than_its_batch_keeps_its_one_batch():
    options = TrainConfig(batch_size=12, last_batch="skip")
    # One worker has a batch of 10; three would leave an image out.
    assert possible_workers(options, 10, 1) == (1, 2, 5, 10)


def test_the_most_workers_that_fit():
    assert [most((1, 2, 3, 6), room) for room in (0, 1, 5, 6, 9)] == [0, 1, 3, 6, 6]


def test_three_workers_instead_of_one_save_two_thirds():
    assert saved(0.5, 120, 1, 3) == pytest.approx(40)
    assert saved(0.5, 120, 3, 2) < 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run.mode": "staged"}, "run.mode staged"),
        ({"train.zero_stage": 2}, "train.zero_stage 2"),
        ({"placement.gpus_per_trainer": 0.5}, "gpus_per_trainer 0.5"),
    ],
)
def test_what_elastic_cannot_be_with(changes, words):
    config = Config(placement=PlacementConfig(elastic=True))
    check(config)
    check(replace(config, **changes, **{"placement.elastic": False}))
    with pytest.raises(UserError, match=f"placement.elastic is True.*{words}"):
        check(replace(config, **changes))


def test_mixers_in_the_place_of_train_workers():
    half = PlacementConfig(gpus_per_mixer=0.5)
    assert (more_mixers(PlacementConfig(), 3), more_mixers(half, 3)) == (3, 6)
    assert more_mixers(PlacementConfig(separate=True), 3) == 0
    assert more_mixers(PlacementConfig(gpus_per_mixer=0.0), 3) == 0


@pytest.mark.usefixtures("cluster")
def test_room_counts_what_is_free_and_what_the_group_keeps():
    placement = PlacementConfig(cpus_per_trainer=0.25)
    gpus = int(ray.cluster_resources()["GPU"])
    assert room(placement, {}) == gpus
    group = placement_group([{"GPU": 1, "CPU": 0.25}])
    ray.get(group.ready())
    assert room(placement, {}) == gpus - 1
    assert room(placement, places(group)) == gpus
    assert room(PlacementConfig(separate=True), places(None)) == 0  # no node has the label
    remove_placement_group(group)
    assert places(group) == {}
