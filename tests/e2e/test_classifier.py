"""Training the classifier on a real cluster: what is trained when, which epoch is kept, and whose
weights a run folder holds.
"""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import pytest
import timm
import torch
from ray.train import TrainingFailedError
from safetensors.torch import load_file

from diffmix.classifier.model import build_model
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from engine import phases
from engine.run import run, run_training
from engine.session import open_session
from engine.training.worker import build_loop

pytestmark = pytest.mark.usefixtures("cluster")


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "classifier" / "model.safetensors")


def check_protocol(out: Path, validation: list[dict], on_test_set: bool) -> None:
    accuracy = json.loads((out / "summary.json").read_text())["accuracy"]
    chosen = accuracy["chosen"]
    assert chosen["on_test_set"] == on_test_set
    assert chosen["top1"] == max(event["top1"] for event in validation)
    page = (out / "report.html").read_text()
    assert ("picked on the test set" in page) == on_test_set
    if on_test_set:
        assert chosen["top1"] == pytest.approx(accuracy["top1"]), "the best epoch's is the test's"


def test_validation_images_pick_the_epoch(staged, events):
    check_protocol(staged, events(staged, "validation"), on_test_set=False)


def test_another_recipe_in_between_leaves_the_first_ones_classifier(
    copy_of_staged, small_config, events
):
    out = copy_of_staged
    recipe = {"train.epochs": 2, "train.eval_every": 1}

    def trained(**changes) -> tuple[dict, bytes, bytes]:
        summary = run_training(small_config(out, **{"run.mode": "staged", **changes}))
        folder = out / "classifier"
        accuracy = json.loads((out / "summary.json").read_text())["accuracy"]
        assert accuracy == summary["accuracy"]
        return (
            accuracy,
            (folder / "model.safetensors").read_bytes(),
            (folder / "result.json").read_bytes(),
        )

    first = trained()
    validated = len(events(out, "validation"))
    second = trained(**recipe)
    assert first[1] != second[1]
    check_protocol(out, events(out, "validation")[validated:], on_test_set=False)
    assert trained() == first
    assert trained(**recipe) == second
    assert len(events(out, "train")) == 4 + 2, "a recipe was trained again"


def test_long_tail_training_on_mixes(tmp_path, small_config, events):
    """LDAM, DRW, CMO, weighted draws and learning rate drops together, on a growing pool, with
    groups by class size. The epoch is picked by the test images.
    """
    changes = {
        "data.imbalance_factor": 0.2,
        "mix.target_weighting": "inverse",
        "train.protocol": "reference",
        "train.last_batch": "short",
        "train.lr_per": "epoch",
        "train.loss": "ldam",
        "train.reweight": "drw",
        "train.drw_epoch": 2,
        "train.lr_drop_epochs": (3,),
        "train.cmo": True,
        "train.cmo_skip": (1, 0),
        "train.cmo_probability": 1.0,
        "evaluate.many_above": 3,
        "evaluate.few_below": 2,
    }
    config = small_config(tmp_path, **changes)
    summary = run(config)
    assert summary["plan"]["stored"] == 40
    assert summary["trainer"]["synthetic_share"] > 0
    validated = events(tmp_path, "validation")
    assert [event["epoch"] for event in validated] == [0, 2]
    check_protocol(tmp_path, validated, on_test_set=True)
    accuracy = summary["accuracy"]
    assert len(accuracy["per_size"]) > 1
    sizes = torch.bincount(
        torch.tensor(RealSet.open(str(tmp_path / "data" / "train.arrow")).labels)
    )
    assert sizes.max() > sizes.min()
    found = weights(tmp_path)
    torch.testing.assert_close(found["fc.weight"].norm(dim=1), torch.ones(4))
    timm.create_model("resnet10t", num_classes=4).load_state_dict(found)
    confusion = json.loads((tmp_path / "classifier" / "confusion.json").read_text())
    assert sum(map(sum, confusion)) == accuracy["images"]
    assert sum(confusion[i][i] for i in range(4)) == round(accuracy["top1"] * accuracy["images"])


@dataclass(frozen=True)
class StopsBeforeTheTest:
    """`TrainJob.build`: the real loop, which raises an error when its last checkpoint is kept."""

    def __call__(self, job, pool, arrivals):
        loop = build_loop(job, pool, arrivals)
        loop._test = partial(self.stop, Path(job.config.out, "checkpoints"))
        return loop

    def stop(self, checkpoints: Path) -> None:
        end = time.monotonic() + 60
        # Ray forgets a checkpoint of which it has not yet heard from all workers.
        while not list(checkpoints.glob("classifier-*/checkpoint_manager_snapshot.json")):
            assert time.monotonic() < end, "no checkpoint was kept"
            Event().wait(0.05)  # files of other processes send no event
        raise RuntimeError("stopped")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, cluster, small_config):
    """`stopped(trainers)`: the configuration of a run that was stopped after its last epoch. It
    trained the head alone, on 2 train workers.
    """
    out = tmp_path_factory.mktemp("stopped") / "out"

    def config(trainers: int):
        changes = {
            "placement.trainers": trainers,
            "placement.max_failures": 0,
            "train.zero_stage": 1,
            "train.freeze_epochs": 2,
            "train.epochs": 2,
        }
        # The number of loader workers makes no other classifier of it.
        return small_config(out, **changes, **{"train.loader_workers": trainers - 1})

    with (
        open_session(config(2), trains=True) as session,
        pytest.raises(TrainingFailedError, match="stopped"),
    ):
        phases.train_classifier(session, None, streaming=False, build=StopsBeforeTheTest())
    return config


def test_zero_resumes_with_as_many_workers_only(stopped):
    with pytest.raises(
        UserError, match=r"trained on 2 workers up to epoch 2.*--placement\.trainers 2"
    ):
        run_training(stopped(1))


def test_a_frozen_backbone_stays_as_it_was(stopped):
    config = stopped(2)
    (best,) = Path(config.out, "checkpoints").glob("classifier-*-best")
    torch.manual_seed(config.run.seed)
    start = build_model(config.train, 4).state_dict()
    found = load_file(best / "model.safetensors")
    moved = {name for name, value in found.items() if not torch.equal(value, start[name])}
    assert moved == {"fc.weight", "fc.bias"}
