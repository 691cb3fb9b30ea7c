"""`mix.batch: auto` on a real cluster."""

import os

import pyarrow.parquet as pq
import pytest

from diffmix.config import Config, MixConfig
from diffmix.errors import UserError
from diffmix.generator.device.batch_size import LARGEST
from diffmix.storage import Folder
from engine import phases
from engine.mixing import batch_size
from engine.mixing.batch_size import measure_batch, stored_batch
from engine.run import run_mixing
from engine.testing import CopyingMixer

pytestmark = pytest.mark.usefixtures("cluster")


def test_measured_once_and_kept_by_the_store(tmp_path, small_config, monkeypatch):
    # The real model is measured; a stand-in makes the mixes.
    monkeypatch.setattr(phases, "build_mixer", CopyingMixer())
    config = small_config(tmp_path, **{"mix.batch": "auto", "mix.count": 16})
    assert stored_batch(Folder(str(tmp_path))) is None
    run_mixing(config)
    batch = stored_batch(Folder(str(tmp_path)))
    assert config.mix.batch == "auto", "a run changes no configuration of the caller"
    assert batch in (1, 2, 4)  # 16 mixes are at least 4 chunks for the mixer
    assert f"batch: {batch}\n" in (tmp_path / "config.yaml").read_text()
    parts = {file.name: file.read_bytes() for file in (tmp_path / "mixes").glob("part-*")}
    rows = [pq.read_metadata(tmp_path / "mixes" / name).num_rows for name in parts]
    assert max(rows) == batch

    # A resumed run takes the store's number and measures nothing.
    monkeypatch.setattr(batch_size, "measure_batch", None)
    for name in sorted(parts)[:2]:
        (tmp_path / "mixes" / name).unlink()
    run_mixing(small_config(tmp_path, **{"mix.batch": "auto", "mix.count": 16}))
    assert {file.name: file.read_bytes() for file in (tmp_path / "mixes").glob("part-*")} == parts


def test_a_base_that_cannot_be_used_is_one_sentence(tmp_path, small_config):
    config = small_config(tmp_path, **{"mix.batch": "auto", "model.resolution": 33})
    with pytest.raises(UserError, match="multiple of"):
        measure_batch(config, 16)


@pytest.mark.parametrize(
    ("text", "says"),
    [("not JSON", "not valid JSON"), ('{"plan": null}', "identity"), ("[]", "identity")],
)
def test_a_broken_plan_is_refused_in_one_sentence(tmp_path, text, says):
    (tmp_path / "mixes").mkdir()
    (tmp_path / "mixes" / "plan.json").write_text(text)
    with pytest.raises(UserError, match=says):
        stored_batch(Folder(str(tmp_path)))


def test_two_measurements_have_two_processes(tmp_path, small_config, monkeypatch):
    """A process that stayed would hold its CUDA context on the GPU that a mixer gets next."""
    monkeypatch.setattr(batch_size, "_measure", lambda config, largest: os.getpid())
    config = small_config(tmp_path, **{"mix.batch": "auto"})
    assert measure_batch(config, 16) != measure_batch(config, 16)


def test_the_sources_of_a_chunk_are_bounded_by_bytes(monkeypatch):
    """Of 5 MB photographs 53 are 256 MiB, and of small ones any number may be."""
    asked = []
    monkeypatch.setattr(
        batch_size, "on_a_mixing_node", lambda *given: asked.append(given[-1]) or given[-1]
    )
    config = Config(mix=MixConfig(batch="auto"))
    for image_bytes in (5e6, 1e3, 1e9):
        measure_batch(config, 10_000_000, image_bytes)
    assert asked == [53, LARGEST, 1]
