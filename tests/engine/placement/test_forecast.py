"""The table of splits. `diffmix plan` as a whole is in tests/jobs/test_commands.py."""

from diffmix.config import Config, PlacementConfig, TrainConfig
from engine.placement.forecast import splits
from engine.placement.split import Rates


def test_each_number_of_gpus_has_its_best_split_and_cost():
    config = Config(
        placement=PlacementConfig(mixers=(2,), trainers=1), train=TrainConfig(batch_size=64)
    )
    rows = splits(config, Rates(2.0, {1: 600.0, 2: 300.0}, "measured"), 8000)
    assert [row["GPUs"] for row in rows] == [2, 3, 4, 8, 16, 32, 64, 128]
    eight = rows[3]  # 7 mixers take 571 s, and a worker trains 600 s from their 29th second on
    assert (eight["mixers"], eight["trainers"]) == (7, 1)
    assert eight["GPU-hours"] == eight["wall s"] * 8 / 3600


def test_too_few_gpus_have_no_row():
    config = Config(placement=PlacementConfig(gpus_per_mixer=4.0))
    rows = splits(config, Rates(2.0, {1: 600.0}, "measured"), 100)
    assert rows[0]["GPUs"] == 5
