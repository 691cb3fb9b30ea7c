"""Predictions against numbers worked by hand."""

import json

import pytest

from diffmix.config import Config, PlacementConfig, RunConfig, TrainConfig, replace
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.placement.split import Rates, choose, measured, predict

RATES = Rates(
    2.0, {1: 600.0, 2: 300.0, 4: 200.0}, "measured"
)  # 2 mixes/s a mixer; 4 workers train no longer 4 times as fast


def config(mode="overlapped", train_after=0.1, **placement) -> Config:
    return Config(
        run=RunConfig(mode=mode, train_after=train_after),
        placement=PlacementConfig(**placement),
        train=TrainConfig(batch_size=64),
    )


def test_overlapped_is_the_longer_phase_and_staged_both():
    split = predict(
        config(), RATES, 4000, mixers=4, trainers=1
    )  # mixing 500 s, training 600 s from its 50th on
    assert (split.generate, split.train, split.wall, split.gpus) == (500.0, 600.0, 650.0, 5.0)
    assert predict(config(), RATES, 8000, mixers=4, trainers=1).wall == 1000.0
    staged = predict(config("staged"), RATES, 4000, mixers=4, trainers=1)
    assert (staged.wall, staged.gpus) == (1100.0, 4.0)


def test_best_split_of_eight_gpus():
    # mixing 8000 takes 4000 mixer-seconds: 7+1 is max(571, 57+600) = 657, 6+2 is 667, 4+4 is 1000
    split = choose(config(), RATES, 8000, 8)
    assert (split.mixers, split.trainers) == (7, 1)
    # 16,000: 7+1 is 1143, 6+2 is 1333
    assert (
        choose(config(), RATES, 16_000, 8).mixers,
        choose(config(), RATES, 16_000, 8).trainers,
    ) == (7, 1)
    # 2000: 1000 mixer-seconds; 4+4 is max(250, 25+200) = 250
    assert (choose(config(), RATES, 2000, 8).mixers, choose(config(), RATES, 2000, 8).trainers) == (
        4,
        4,
    )


def test_no_more_gpus_than_help():
    # 100 mixes are 50 mixer-seconds: whatever more than one mixer beside 4 workers does not shorten
    # 205 s by 1 %
    rates = Rates(2.0, {4: 200.0}, "measured")
    split = choose(config(train_after=0.0), rates, 100, 64)
    assert (split.mixers, split.trainers) == (1, 4)


def test_workers_divide_the_batch_and_fractions_of_gpus_count():
    made = replace(config(gpus_per_mixer=0.5), **{"train.batch_size": 63})
    assert choose(made, RATES, 8000, 3).trainers == 1
    assert choose(made, RATES, 8000, 3).mixers == 4


def test_too_few_gpus():
    with pytest.raises(UserError, match="1 GPUs are too few for a mixer and a train worker"):
        choose(config(), RATES, 100, 1)


def test_a_folder_without_rates_that_was_named_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        made = config(measured=str(tmp_path / name))
        with pytest.raises(UserError, match=f"measured {tmp_path}/{name} holds no measured rates"):
            measured(made, Folder(str(tmp_path)), 1000)


def test_rates_of_an_earlier_run(tmp_path):
    made = replace(config(), **{"train.epochs": 10})
    assert measured(made, Folder(str(tmp_path)), 1000) is None
    calibration = {
        "event": "calibration",
        "time": 0.0,
        "mixer": 3.0,
        "step_seconds": {"1": 0.5, "2": 0.25},
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(calibration) + "\n")
    # 1000 images in batches of 64 are 16 steps an epoch
    assert measured(made, Folder(str(tmp_path)), 1000).train_seconds == {1: 80.0, 2: 40.0}
    summary = {
        "mixer": {"images_per_busy_second": 5.0},
        "trainer": {"workers": 2, "images_per_second": 102.4},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    rates = measured(made, Folder(str(tmp_path)), 1000)
    assert rates.mixer == 5.0
    assert rates.train_seconds == {2: 100.0}  # 10 epochs of 16 batches of 64


def test_auto_and_separate_exclude_each_other():
    with pytest.raises(
        UserError,
        match=r"placement\.auto is True, but it must be off where placement\.separate is on",
    ):
        check(config(auto=True, separate=True))
