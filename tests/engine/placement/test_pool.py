"""The pool of mixers on clusters of fixed and of growing size."""

from diffmix.config import PlacementConfig
from engine.placement.capacity import Capacity, Node
from engine.placement.pool import mixer_pool

GEN = Node(resources={"GPU": 1.0, "CPU": 4.0}, labels={"ray-subcluster": "gen"})
TRAIN = Node(resources={"GPU": 1.0, "CPU": 4.0}, labels={"ray-subcluster": "train"})


def growing(*nodes: Node) -> Capacity:
    return Capacity(nodes=nodes, grows=True)


def test_a_fixed_cluster_starts_with_the_least_and_has_no_limit():
    pool = mixer_pool(PlacementConfig(mixers=(2, 9)), Capacity(nodes=[GEN] * 9, grows=False))
    assert (pool.least, pool.first, pool.most, pool.gpus) == (2, 2, 9, None)
    assert str(pool) == "2..9"


def test_a_growing_cluster_is_asked_for_all_at_once_and_for_no_more_than_it_holds():
    placement = PlacementConfig(mixers=(1, 9), separate=True)
    pool = mixer_pool(placement, growing(GEN, GEN, GEN, TRAIN))
    assert (pool.least, pool.first, pool.most) == (1, 3, 3)
    assert (pool.gpus, pool.cpus) == (3.0, 12.0)


def test_without_labels_the_train_workers_share_is_left_out():
    placement = PlacementConfig(mixers=(1, 9), trainers=2)
    pool = mixer_pool(placement, growing(GEN, GEN, GEN, GEN))
    assert (pool.most, pool.gpus, pool.cpus) == (2, 2.0, 14.0)


def test_cpus_of_a_node_bound_its_mixers_and_half_gpus_double_them():
    placement = PlacementConfig(mixers=(1, 9), separate=True, gpus_per_mixer=0.5, cpus_per_mixer=3)
    assert mixer_pool(placement, growing(GEN, GEN, TRAIN)).most == 2
    placement = PlacementConfig(mixers=(1, 9), separate=True, gpus_per_mixer=0.5)
    assert mixer_pool(placement, growing(GEN, GEN, TRAIN)).most == 4
