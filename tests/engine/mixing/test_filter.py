"""What the gate refuses and remembers, without a cluster; and the accuracy gate with one. CLIP's
gate on a cluster is in tests/e2e/test_filter.py.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from diffmix import images
from diffmix.classifier.model import Classifier, bare_model, save_classifier
from diffmix.config import GateConfig
from diffmix.errors import UserError
from diffmix.gates import make_rule
from diffmix.storage import Folder
from diffmix.strategies.mix_spec import SPEC_COLUMNS, MixSpec
from engine.mixing.filter import Decision, check_streaming, filter_store
from engine.mixing.store import SCHEMA, MixStore
from engine.placement.preflight import check_inputs
from engine.run import run_mixing


def test_a_clip_that_is_not_there_is_said_before_anything_costly(tmp_path, small_config):
    with pytest.raises(UserError, match=r"There is no CLIP at .*nowhere; set --gate\.clip"):
        check_inputs(small_config(tmp_path / "out", **{"gate.clip": str(tmp_path / "nowhere")}))


def test_an_overlapped_run_needs_a_threshold(tmp_path, small_config):
    def ask(**changes):
        check_streaming(
            small_config(
                tmp_path / "out", **{"gate.clip": "openai/clip-vit-base-patch32", **changes}
            )
        )

    with pytest.raises(UserError, match=r"set --gate\.threshold .* or --run\.mode staged"):
        ask()
    for fine in (
        {"gate.threshold": 0.5},
        {"gate.quantile": 0.0},
        {"run.mode": "staged"},
        {"gate.clip": None},
        {"gate.clip": None, "gate.classifier": "nano"},  # its top_k is a threshold
    ):
        ask(**fine)


def test_scores_are_read_without_images_and_know_who_gave_them(tmp_path):
    store = MixStore(str(tmp_path))
    mix = {
        "mix_id": 0,
        "source_id": "",
        "source_label": 0,
        "target_label": 0,
        "strength": 1.0,
        "seed": 0,
        "image": b"-",
    }
    rows = pa.Table.from_pylist(
        [{**mix, "score": 0.25, "accepted": False}, {**mix, "score": None, "accepted": True}],
        schema=SCHEMA,
    )
    store.write(0, rows, "me")
    store.write(1, rows)
    found = store.scores([0])[0]
    assert found.scorer == "me"
    assert found.score[0] == 0.25
    assert np.isnan(found.score[1])
    assert found.accepted.tolist() == [False, True]
    assert store.scores([1])[1].scorer is None
    assert store.read(0).equals(rows)


def test_a_damaged_record_is_one_sentence(tmp_path, small_config):
    store = MixStore(str(tmp_path / "mixes"))
    store.write(0, pa.Table.from_pylist([], schema=SCHEMA))
    (tmp_path / "mixes" / "gate.json").write_text('{"gate": {}}')
    with pytest.raises(UserError, match=r"gate\.json cannot be read .* run diffmix filter again"):
        Decision.of(store)
    with pytest.raises(UserError, match=r"gate\.json cannot be read"):
        filter_store(small_config(tmp_path))


def test_a_clip_that_does_not_load_leaves_the_store_as_it_was(tmp_path, small_config, tiny_clip):
    store = MixStore(str(tmp_path / "mixes"))
    store.write(0, pa.Table.from_pylist([], schema=SCHEMA))
    broken = shutil.copytree(tiny_clip, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"The CLIP .*broken cannot be loaded"):
        filter_store(small_config(tmp_path, **{"gate.clip": str(broken)}))
    stored = [file.name for file in (tmp_path / "mixes").iterdir() if file.is_file()]
    assert stored == ["part-00000000.parquet"]


def test_a_record_of_the_first_format_is_read(tmp_path):
    store = MixStore(str(tmp_path))
    gate = {
        "clip": "openai/x",
        "prompts": ["with", "without"],
        "scorer": "abc",
        "threshold": None,
        "quantile": 0.1,
        "cut": 0.25,
    }
    (tmp_path / "gate.json").write_text(json.dumps({"gate": gate, "chunks": 7}))
    found = Decision.of(store)
    assert (found.chunks, found.gate.kind, found.gate.cut) == (7, "clip", 0.25)
    assert (found.gate.gate.clip, found.gate.gate.prompts) == ("openai/x", ("with", "without"))
    found.save(store)
    assert Decision.of(store) == found


# The accuracy gate


CLASS_NAMES = ["green", "blau", "红", "黄", "red one", "violet"]
"""A classifier of more classes than the images have, in another order."""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """The folder of a tiny classifier of random weights."""
    folder = tmp_path_factory.mktemp("classifier")
    description = Classifier(
        model_name="resnet10t",
        class_names=CLASS_NAMES,
        resolution=32,
        mean=[0.5] * 3,
        std=[0.2] * 3,
    )
    torch.manual_seed(1)
    model = bare_model(description)
    torch.nn.init.normal_(model.get_classifier().weight, std=4.0)
    save_classifier(Folder(str(folder)), model.state_dict(), description)
    return str(folder)


@pytest.mark.usefixtures("cluster")
def test_the_accuracy_gate_in_mixers_and_in_filter(tmp_path, small_config, classifier):
    changes = {"gate.classifier": classifier, "gate.top_k": 2, "mix.image_format": "png"}
    config = small_config(tmp_path / "out", **changes)
    plan = run_mixing(config)["plan"]
    store = MixStore(str(tmp_path / "out" / "mixes"))
    mixes = pa.concat_tables(store.tables())
    specs = [MixSpec(**spec) for spec in mixes.select(SPEC_COLUMNS).to_pylist()]
    options = GateConfig(classifier=classifier, top_k=2)
    rule = make_rule(options, "thing", store.class_names)
    scores = rule.load("cpu").score([images.decode(i) for i in mixes["image"].to_pylist()], specs)
    assert np.allclose(mixes["score"].to_numpy(), scores)
    assert mixes["accepted"].to_pylist() == [score >= 0.5 for score in scores.tolist()]
    assert plan == {
        "planned": 40,
        "stored": int((scores >= 0.5).sum()),
        "rejected": int((scores < 0.5).sum()),
        "set_aside": 0,
    }
    assert min(plan["stored"], plan["rejected"]) > 3, "a gate that decides nothing proves nothing"
    assert store.identity["gate"]["scorer"] == rule.scorer

    # The run's gate is known to a filter, which only decides again.
    again = filter_store(small_config(tmp_path / "out", **{"gate.top_k": 1}))
    assert (again["stored"], again["scored"]) == (int((scores == 1).sum()), 0)
    third = filter_store(small_config(tmp_path / "out", **{"gate.top_k": 3}))
    assert (third["stored"], third["scored"]) == (int((scores > 0.3).sum()), 0)
    assert json.loads((tmp_path / "out/mixes/gate.json").read_text())["gate"]["kind"] == "accuracy"

    # A store that another gate, or none, has scored is scored anew.
    shutil.rmtree(tmp_path / "out" / "mixes")
    plain = small_config(tmp_path / "out")
    assert run_mixing(plain)["plan"]["rejected"] == 0
    found = filter_store(small_config(tmp_path / "out", **{"gate.classifier": classifier}))
    assert (found["stored"], found["scored"]) == (40, 40)
    assert np.isclose(found["cut"], 0.1)


def test_a_classifier_of_other_classes_is_said_before_anything_costly(tmp_path, small_config):
    with pytest.raises(UserError, match="nano has no class, or several, called 'blau'"):
        check_inputs(small_config(tmp_path / "out", **{"gate.classifier": "nano"}))
