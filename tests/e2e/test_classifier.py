"""The classifier's protocols on a real cluster: what is trained when, which epoch is kept, and
whose weights a run folder holds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

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


def events(out: Path, kind: str) -> list[dict]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [event for event in found if event["event"] == kind]


def test_another_recipe_in_between_leaves_the_first_ones_classifier(tmp_path, small_config):
    def trained(lr: float) -> tuple[dict, bytes, bytes]:
        summary = run_training(small_config(tmp_path, **{"train.lr": lr, "train.epochs": 2}))
        folder = tmp_path / "classifier"
        return (
            summary["accuracy"],
            (folder / "model.safetensors").read_bytes(),
            (folder / "result.json").read_bytes(),
        )

    first, second = trained(0.02), trained(0.001)
    assert first[1] != second[1]
    epochs = len(events(tmp_path, "train"))
    assert trained(0.02) == first
    assert trained(0.001) == second
    assert len(events(tmp_path, "train")) == epochs == 4, "nothing is trained again"


@pytest.mark.parametrize(("freeze_epochs", "trainers", "zero_stage"), [(2, 1, 0), (1, 2, 2)])
def test_frozen_backbone(tmp_path, small_config, freeze_epochs, trainers, zero_stage):
    changes = {
        "train.freeze_epochs": freeze_epochs,
        "train.epochs": 2,
        "placement.trainers": trainers,
        "train.zero_stage": zero_stage,
    }
    config = small_config(tmp_path, **changes, **{"train.eval_every": 1, "data.val_fraction": 0.0})
    run_training(config)
    torch.manual_seed(config.run.seed)
    start = build_model(config.train, 4).state_dict()
    moved = {
        name for name, value in weights(tmp_path).items() if not torch.equal(value, start[name])
    }
    if freeze_epochs == 2:
        assert moved == {"fc.weight", "fc.bias"}
    else:
        assert {"conv1.0.weight", "layer4.0.conv1.weight", "bn1.running_mean", "fc.weight"} <= moved


@pytest.mark.parametrize("protocol", ["validation", "reference"])
def test_protocol_says_which_images_pick_the_epoch(tmp_path, small_config, protocol):
    config = small_config(
        tmp_path, **{"train.protocol": protocol, "train.epochs": 2, "train.eval_every": 1}
    )
    summary = run_training(config)
    chosen = summary["accuracy"]["chosen"]
    assert chosen["on_test_set"] == (protocol == "reference")
    assert chosen["top1"] == max(event["top1"] for event in events(tmp_path, "validation"))
    logged = json.loads((tmp_path / "summary.json").read_text())["accuracy"]["chosen"]
    assert logged == chosen
    page = (tmp_path / "report.html").read_text()
    assert ("picked on the test set" in page) == (protocol == "reference")
    if protocol == "reference":
        assert chosen["top1"] == pytest.approx(summary["accuracy"]["top1"]), (
            "the best epoch's figure is the test's"
        )


def test_long_tail_training_on_mixes(tmp_path, small_config):
    """LDAM, DRW, CMO and steps of the learning rate together, on a growing pool, with groups by
    class size.
    """
    changes = {
        "data.imbalance_factor": 0.2,
        "data.val_fraction": 0.0,
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
    """`TrainJob.build`: the real loop, which ends with an error when all is trained."""

    def __call__(self, job, pool, arrivals):
        loop = build_loop(job, pool, arrivals)
        loop._test = self.stop
        return loop

    def stop(self) -> None:
        raise RuntimeError("stopped")


def test_zero_goes_on_with_as_many_workers_only(tmp_path, small_config):
    def config(trainers: int):
        changes = {
            "placement.trainers": trainers,
            "placement.max_failures": 0,
            "train.zero_stage": 1,
            "train.epochs": 2,
        }
        return small_config(
            tmp_path, **changes, **{"train.loader_workers": trainers - 1}
        )  # which makes no other classifier of it

    with (
        open_session(config(2), trains=True) as session,
        pytest.raises(TrainingFailedError, match="stopped"),
    ):
        phases.train_classifier(session, None, streaming=False, build=StopsBeforeTheTest())
    with pytest.raises(
        UserError, match=r"trained on 2 workers up to epoch 2.*--placement\.trainers 2"
    ):
        run_training(config(1))
