"""The loop in this process, as the only rank: what it reports, keeps and resumes. More ranks, mixes
that arrive meanwhile and the protocols are in tests/e2e/test_classifier.py and test_run.py.
"""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import ray
import ray.train
import torch
from safetensors.torch import load_file

from diffmix.classifier.metrics import evaluate_folder
from diffmix.config import images_of
from diffmix.datasets.prepare import prepare
from diffmix.errors import UserError
from diffmix.format_version import FORMAT_VERSION, KEY, without_version
from engine.mixing.store import MixStore
from engine.telemetry import Reporter
from engine.testing import mix_table
from engine.training import classifier_loop, position
from engine.training.arrivals import Arrivals
from engine.training.classifier_loop import ClassifierLoop
from engine.training.job import TrainJob
from engine.training.pool import PoolWriter

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="written for DeepSpeed's CPU accelerator"),
    pytest.mark.usefixtures("process_group"),
]


class Train:
    """What Ray Train is to a loop: it says who it is, and keeps its checkpoints."""

    def __init__(self, folder):
        self.folder, self.epochs, self.steps, self.checkpoint = folder, [], [], None
        self.keeps = True
        self.notice: ray.train.PreemptionInfo | None = None

    def report(self, metrics, checkpoint):
        if not self.keeps:
            return
        if metrics["step"]:
            self.steps.append((metrics["epoch"], metrics["step"]))
            kept = self.folder / f"checkpoint-{metrics['epoch']}-{metrics['step']}"
        else:
            self.epochs.append(metrics["epoch"])
            kept = self.folder / f"checkpoint-{metrics['epoch']}"
        with checkpoint.as_directory() as folder:
            shutil.copytree(folder, kept)

    def resume_from(self, *place: int) -> None:
        kept = self.folder / "-".join(["checkpoint", *map(str, place)])
        self.checkpoint = ray.train.Checkpoint.from_directory(kept)


@pytest.fixture
def ray_train(tmp_path, monkeypatch):
    train = Train(tmp_path)
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    node = SimpleNamespace(get_node_id=lambda: "node")
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: train.checkpoint)
    monkeypatch.setattr(ray.train, "report", train.report)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: train.notice)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: node)
    return train


class Kept(Reporter):
    """Keeps the events that are sent."""

    def __init__(self):
        self.events = []

    def send(self, kind, **values):
        self.events.append({"event": kind, **values})


def start(tmp_path, config, name="classifier", mixes=0) -> tuple[ClassifierLoop, list[dict]]:
    real = prepare(images_of(config), str(tmp_path / "data"))
    store = None
    if mixes:
        store = MixStore(str(tmp_path / "mixes"))
        store.write(0, mix_table(mixes, image=[real.train.image_bytes(0)] * mixes))
    reporter = Kept()
    job = TrainJob(
        config=config,
        train_path=real.train.path,
        val_path=real.val.path if real.val else None,
        test_path=real.test.path if real.test else None,
        store=store.folder.uri if store else None,
        planned=mixes,
        classifier=str(tmp_path / name),
        reporter=reporter,
        build=ClassifierLoop,
    )
    pool = PoolWriter(str(tmp_path / f"pool-{name}"))
    return job.build(job, pool, Arrivals(job.store, pool, streaming=False)), reporter.events


def test_epochs_are_reported_and_the_best_weights_are_tested(tmp_path, small_config, ray_train):
    config = small_config(tmp_path, **{"mix.synthetic_p": 0.5, "train.freeze_epochs": 1})
    loop, events = start(tmp_path, config, mixes=8)
    loop.run()
    epochs = [event for event in events if event["event"] == "train"]
    assert [event["epoch"] for event in epochs] == [0, 1, 2, 3]
    images = loop.sampler.steps * config.train.batch_size
    assert all(event["images"] == images for event in epochs)
    assert 0 < sum(event["synthetic"] for event in epochs) < 4 * images
    assert all(event["pool"] == 8 for event in epochs)
    assert all(event["start"] <= event["first_step"] <= event["end"] for event in epochs)
    assert [event["epoch"] for event in events if event["event"] == "validation"] == [1, 3]
    assert ray_train.epochs == [2, 4]
    kept = json.loads((tmp_path / "classifier" / "model.json").read_text())["metrics"]
    best = max(event["top1"] for event in events if event["event"] == "validation")
    assert kept["top1"] == loop.best == best
    validation, _ = evaluate_folder(loop.job.classifier, loop.job.val_path)
    assert validation["top1"] == pytest.approx(best)
    result, confusion = evaluate_folder(loop.job.classifier, loop.job.test_path)
    assert result["chosen"] == kept
    assert confusion.sum() == result["images"]
    for name, wanted in (("result.json", result), ("confusion.json", confusion.tolist())):
        written = json.loads((tmp_path / "classifier" / name).read_text())
        if isinstance(written, dict):
            written = without_version(written, name)
        assert written == json.loads(json.dumps(wanted))
    assert evaluate_folder(loop.job.classifier, None) == ({"chosen": kept}, None)


def test_the_reference_protocol(tmp_path, small_config, ray_train):
    """Nothing is held out, an incomplete batch is left out with its step, and of epochs 0 and 4 the
    test set picks one.
    """
    changes = {
        "train.protocol": "reference",
        "train.eval_every": None,
        "train.epochs": 6,
        "train.batch_size": 7,
        "mix.target_weighting": "inverse",
        "mix.synthetic_p": 0.5,
    }
    config = small_config(tmp_path, **changes)
    loop, events = start(tmp_path, config, mixes=8)
    assert loop.val is not None
    assert loop.val.path == loop.job.test_path
    assert loop.job.val_path is None
    size = len(loop.real)
    assert size % 7, "some images are left out"
    rates = []
    step = loop.engine.step
    loop.engine.step = lambda: (rates.append(loop.engine.optimizer.param_groups[0]["lr"]), step())
    loop.run()
    assert [event["epoch"] for event in events if event["event"] == "validation"] == [0, 4]
    assert ray_train.epochs == [1, 5]
    epochs = [event for event in events if event["event"] == "train"]
    assert [event["images"] for event in epochs] == [7 * (size // 7)] * 6
    assert sum(event["synthetic"] for event in epochs)
    total, warmup = 6 * size // 7, max(1, int(0.1 * (6 * size // 7)))
    expected = [
        0.02 * min(1, (t + 1) / warmup) * (1 + math.cos(math.pi * t / total)) / 2
        for t in range(6 * (size // 7))
    ]
    assert rates == pytest.approx(expected)
    kept = json.loads((tmp_path / "classifier" / "model.json").read_text())["metrics"]
    assert kept["epoch"] in (1, 5)
    assert kept["on_test_set"]


def test_the_classifiers_own_seed(tmp_path, small_config, ray_train):
    """It is `run.seed` where it is not set, and it changes start and samples."""
    found = {}
    for name, changes in {
        "run": {"run.seed": 5},
        "own": {"run.seed": 1, "train.seed": 5},
        "other": {"run.seed": 5, "train.seed": 6},
    }.items():
        loop, _ = start(tmp_path, small_config(tmp_path, **changes), name)
        found[name] = list(loop.sampler), loop.engine.module.fc.weight[0].tolist()
    assert found["run"] == found["own"]
    assert found["run"][0] != found["other"][0]
    assert found["run"][1] != found["other"][1]


def test_a_resumed_loop_ends_like_an_uninterrupted_one(tmp_path, small_config, ray_train):
    config = small_config(tmp_path, **{"train.epochs": 3, "train.eval_every": 1})
    loop, _ = start(tmp_path, config, "whole")
    loop.run()
    whole = {name: value.clone() for name, value in loop.engine.module.state_dict().items()}

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    ray_train.epochs.clear()
    ray_train.resume_from(2)
    shutil.rmtree(tmp_path / "checkpoint-3")
    loop, events = start(tmp_path, config, "resumed")
    assert loop.start.epoch == 2
    loop.run()
    assert ray_train.epochs == [3]
    assert [event["epoch"] for event in events if event["event"] == "train"] == [2]
    for name, value in loop.engine.module.state_dict().items():
        assert torch.equal(value, whole[name]), name
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_nodes_notice_keeps_one_checkpoint_at_the_next_step(
    tmp_path, small_config, ray_train, monkeypatch
):
    monkeypatch.setattr(position, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(ray, "nodes", list)
    changes = {"train.checkpoint_minutes": 0, "train.epochs": 2}
    loop, events = start(tmp_path, small_config(tmp_path, **changes))
    ray_train.notice = ray.train.PreemptionInfo(None, {"node": [0]})
    loop.run()
    assert ray_train.steps == [(0, 1)]
    (note,) = [event["text"] for event in events if event["event"] == "note"]
    assert note.startswith("node node is going away: training has kept a checkpoint")


def test_an_epoch_goes_on_with_the_step_after_its_checkpoint(
    tmp_path, small_config, ray_train, monkeypatch
):
    """The loss curve, what was counted and the weights are those of the uninterrupted run, bit by
    bit, with random numbers that only the model draws (dropout).
    """
    changes = {
        "train.epochs": 2,
        "train.eval_every": 2,
        "mix.synthetic_p": 0.5,
    }
    config = small_config(tmp_path, **{**changes, "train.checkpoint_minutes": 1e-9})
    build = classifier_loop.build_model
    monkeypatch.setattr(classifier_loop, "build_model", lambda *given: with_dropout(build(*given)))
    bare = classifier_loop.bare_model
    monkeypatch.setattr(classifier_loop, "bare_model", lambda *given: with_dropout(bare(*given)))
    loop, events = start(tmp_path, config, "whole", mixes=8)
    steps = loop.sampler.steps
    assert steps > 2
    loop.run()
    assert ray_train.steps == [(epoch, step) for epoch in range(2) for step in range(1, steps)]
    whole = {name: value.clone() for name, value in loop.engine.module.state_dict().items()}
    for epoch, step in ((0, 1), (1, steps - 1)):
        ray_train.keeps = False
        ray_train.resume_from(epoch, step)
        resumed, again = start(tmp_path, config, f"resumed-{epoch}", mixes=8)
        assert (resumed.start.epoch, resumed.start.step) == (epoch, step)
        resumed.run()
        for one, other in zip(curve(events)[epoch:], curve(again), strict=True):
            assert one == other
        for name, value in resumed.engine.module.state_dict().items():
            assert torch.equal(value, whole[name]), name


def with_dropout(model: torch.nn.Module) -> torch.nn.Module:
    model.drop_rate = 0.5
    return model


def curve(events: list[dict]) -> list[tuple]:
    return [
        (event["epoch"], event["loss"], event["images"], event["synthetic"])
        for event in events
        if event["event"] == "train"
    ]


def test_which_checkpoints_are_resumed(tmp_path, small_config, ray_train):
    """Not one whose best weights are gone, and none of a newer format version."""
    config = small_config(tmp_path, **{"train.epochs": 1, "train.eval_every": 1})
    start(tmp_path, config)[0].run()
    ray_train.resume_from(1)
    assert start(tmp_path, config)[0].start.epoch == 1
    assert start(tmp_path, config, "another folder")[0].start.epoch == 0
    epoch = ray_train.folder / "checkpoint-1" / "epoch.json"
    state = json.loads(epoch.read_text())
    assert state.pop(KEY) == FORMAT_VERSION
    epoch.write_text(json.dumps(state))  # version 1
    assert start(tmp_path, config)[0].start.epoch == 1
    epoch.write_text(json.dumps({**state, KEY: FORMAT_VERSION + 1}))
    with pytest.raises(UserError, match=r"epoch\.json has format version"):
        start(tmp_path, config)
