"""How the figures of several seeds become one summary. The runs themselves:
tests/e2e/test_seeds.py.
"""

import statistics

import pytest

from diffmix.config import Config, RunConfig
from engine.seeds import aggregate, of_seed


def summary(top1: float, wall: float = 10.0, **accuracy) -> dict:
    return {
        "plan": {"planned": 20, "stored": 20, "rejected": 0, "set_aside": 0},
        "seconds": {"wall": wall, "to_first_mix": wall / 5},
        "mixer": {"images_per_second": top1},
        "trainer": {"synthetic_share": 0.1},
        "overlap": {"concurrent_fraction": 1.0},
        "versions": {"python": "3"},
        "accuracy": {
            "top1": top1,
            "top5": 1.0,
            "images": 8,
            "chosen": {"epoch": 3, "top1": 0.9, "on_test_set": False},
            **accuracy,
        },
    }


def test_means_deviations_and_sums():
    shares = [0.5, 0.6, 0.85]
    found = aggregate(
        {seed: summary(share, per_group={"land": share / 2}) for seed, share in enumerate(shares)}
    )
    assert found["accuracy"]["top1"] == pytest.approx(statistics.mean(shares))
    assert found["std"]["accuracy"]["top1"] == pytest.approx(statistics.stdev(shares))
    assert found["std"]["accuracy"]["per_group"]["land"] == pytest.approx(
        statistics.stdev(shares) / 2
    )
    assert found["plan"] == {"planned": 60, "stored": 60, "rejected": 0, "set_aside": 0}
    assert found["seconds"] == {"wall": 30, "to_first_mix": 2}, "each seed has its own first mix"
    assert found["mixer"]["images_per_second"] == pytest.approx(statistics.mean(shares))
    assert found["seeds"] == {
        "0": {"accuracy": 0.5},
        "1": {"accuracy": 0.6},
        "2": {"accuracy": 0.85},
    }
    assert found["accuracy"]["chosen"] == {"on_test_set": False}, "a mean epoch means nothing"
    assert "baseline" not in found


def test_one_seed_deviates_by_nothing():
    found = aggregate({7: summary(0.5)})
    assert found["std"]["accuracy"]["top1"] == 0.0


def test_what_a_run_lacks_is_left_out_and_the_protocol_is_kept():
    both = {
        0: summary(0.5, per_size={"many": 0.5}, calibration={"ece": 0.2, "bins": []}),
        1: summary(0.7, calibration={"ece": 0.4, "bins": []}),
    }
    both[1]["accuracy"]["chosen"]["on_test_set"] = True
    found = aggregate(both)["accuracy"]
    assert "per_size" not in found
    assert found["calibration"] == {"ece": pytest.approx(0.3)}
    assert found["chosen"] == {"on_test_set": True}


def test_leaks_are_added_up():
    runs = {
        seed: summary(0.5) | {"leak": {"unseen_images": 3, "test_images": seed}} for seed in (1, 2)
    }
    assert aggregate(runs)["leak"] == {"unseen_images": 6, "test_images": 3}
    assert "leak" not in aggregate({0: summary(0.5)})


def test_a_seeds_configuration():
    config = Config(out="s3://bucket/run/", run=RunConfig(seeds=(3, 4)))
    one = of_seed(config, 4)
    assert (one.out, one.run.seed, one.run.seeds) == ("s3://bucket/run/seed-4", 4, ())
    assert config.run.seeds == (3, 4)
