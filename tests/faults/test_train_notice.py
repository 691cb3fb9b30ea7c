"""The notice that the train worker's node is going away: a checkpoint within the epoch, from which
training goes on elsewhere.
"""

from functools import partial
from threading import Event

import pytest
import ray
from ray.cluster_utils import Cluster
from safetensors.torch import load_file
from torch import equal

from engine import phases
from engine.run import run, run_training
from engine.training.worker import build_loop

pytestmark = pytest.mark.slow

EPOCHS, SECONDS = 20, 12
STEP_SECONDS = 0.3


class Paced:
    """`TrainJob.build` of the usual loop, whose steps take longer: the notice needs some seconds to
    reach it.
    """

    def __call__(self, *given):
        loop = build_loop(*given)
        step = loop._step

        def slow(*arguments):
            Event().wait(STEP_SECONDS)
            return step(*arguments)

        loop._step = slow
        return loop


@pytest.fixture(scope="module")
def train_nodes(own_clusters):
    """A head without GPUs, a node for mixers and two for training."""
    common = {"num_cpus": 4, "object_store_memory": 200_000_000}
    with own_clusters(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
        cluster = Cluster()
        cluster.add_node(num_gpus=0, include_dashboard=False, **common)
        cluster.add_node(num_gpus=1, labels={"ray-subcluster": "gen"}, **common)
        for _ in range(2):
            cluster.add_node(num_gpus=1, labels={"ray-subcluster": "train"}, **common)
        ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
        cluster.wait_for_nodes()
        yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_training_goes_on_from_the_checkpoint_that_the_notice_asked_for(
    train_nodes, tmp_path, small_config, monkeypatch, when, record, events, drain, untrained
):
    """No other checkpoint is kept before the last epoch."""
    changes = {
        "placement.separate": True,
        "placement.max_failures": 0,
        "mix.count": 32,
        "run.mode": "staged",
        "train.epochs": EPOCHS,
        "train.eval_every": EPOCHS,
        "train.checkpoint_minutes": 0,
    }
    whole = tmp_path / "whole"
    run(small_config(whole, **changes))
    out = untrained(whole, tmp_path / "out")
    paced = partial(phases.train_classifier, build=Paced())
    monkeypatch.setattr(phases, "train_classifier", paced)

    def epochs(folder):
        return [event for event in events(folder) if event["event"] == "train"]

    notice = when(
        lambda: len(epochs(out)) >= 2,
        lambda: drain(train_nodes, epochs(out)[-1]["node"], SECONDS),
    )
    run_training(small_config(out, **changes))
    assert record("a train node's notice (staged)", out, notice.moment)["lost"] == 0
    (note,) = [event for event in events(out) if event["event"] == "note"]
    assert "is going away in" in note["text"]
    assert "training has kept a checkpoint" in note["text"]
    first, second = epochs(out)[0]["node"], epochs(out)[-1]["node"]
    assert first == note["node"] != second
    kept = sum(event["end"] < note["time"] for event in epochs(out))
    again = [event["epoch"] for event in epochs(out) if event["node"] == second]
    assert kept <= again[0], "an epoch before the checkpoint was trained again"
    assert again == list(range(again[0], EPOCHS))
    one, other = (load_file(folder / "classifier/model.safetensors") for folder in (out, whole))
    assert all(equal(one[name], other[name]) for name in one)
