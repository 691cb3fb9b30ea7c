"""What the gate refuses and remembers, without a cluster."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from diffmix.errors import UserError
from engine.mixing.filter import Decision, check_streaming, filter_store
from engine.mixing.store import SCHEMA, MixStore
from engine.placement.preflight import check_inputs


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
    assert [file.name for file in (tmp_path / "mixes").iterdir()] == ["part-00000000.parquet"]
