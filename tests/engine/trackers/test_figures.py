"""What trackers are told of a run."""

import pytest

from diffmix.config import Config
from diffmix.storage import Folder
from engine.trackers.figures import MOST_IMAGES, Figures, mixes, options


def test_figures_have_a_name_a_value_and_a_step(run_events):
    figures = Figures()
    found = list(figures.of(run_events[:6])) + list(figures.of(run_events[6:]))
    assert [tuple(figure) for figure in found] == [
        ("personalize/loss", 0.5, 50),
        ("mix/made", 48, 48),
        ("mix/per_mixer_and_second", 8.0, 48),
        ("mix/made", 64, 64),
        ("mix/per_mixer_and_second", 4.0, 64),
        ("train/loss", 2.0, 1),
        ("train/data_wait", 0.25, 1),
        ("train/images_per_second", 40.0, 1),
        ("train/mixes_available", 64, 1),
        ("train/synthetic_share", 0.25, 1),
        ("train/validation_top1", 0.25, 1),
        ("train/loss", 1.0, 2),
        ("train/data_wait", 0.25, 2),
        ("train/images_per_second", 40.0, 2),
        ("train/mixes_available", 64, 2),
        ("train/synthetic_share", 0.25, 2),
        ("train/test_top1", 0.75, 0),
    ]


def test_options_are_plain_values_by_dotted_name():
    found = options(Config(out="runs/birds"))
    assert found["out"] == "runs/birds"
    assert found["mix.gamma"] == Config().mix.gamma
    assert found["run.seeds"] in ("()", "[]")
    assert {type(value) for value in found.values()} <= {str, int, float, bool}


def test_images_are_accepted_mixes_spread_over_the_store(run_folder):
    shown = mixes(run_folder)
    assert len(shown) == MOST_IMAGES
    assert shown[0].caption == "mix 0: Red Fox → 狐, strength 0.7"
    numbers = [int(one.caption.split(":")[0].removeprefix("mix ")) for one in shown]
    assert all(number % 2 == 0 for number in numbers), "accepted ones"
    assert {number // 8 for number in numbers} >= {0, 1, 2, 3}


@pytest.mark.parametrize("named", [True, False])
def test_a_run_without_mixes_has_no_images(tmp_path, named):
    out = Folder(str(tmp_path))
    if named:
        (out / "mixes").create()
    assert mixes(out) == []
