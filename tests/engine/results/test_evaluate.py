"""`diffmix evaluate --evaluate.mixes N` over a store, without a cluster."""

import json

import pyarrow as pa
import pytest

from diffmix.datasets.prepare import prepare
from engine.mixing.store import SCHEMA, MixStore
from engine.results.evaluate import sample_mixes
from jobs.cli import main


@pytest.fixture
def store(tmp_path, small_config) -> MixStore:
    """Parts of three mixes, the real images under other names; the second of each part was
    rejected.
    """
    real = prepare(small_config(tmp_path / "out").data, str(tmp_path / "out")).train
    store = MixStore(str(tmp_path / "out" / "mixes"))
    for chunk in range(4):
        rows = [
            {
                "mix_id": 3 * chunk + place,
                "source_id": real.image_ids[chunk],
                "source_label": int(real.labels[chunk]),
                "target_label": place,
                "strength": 0.5,
                "seed": 0,
                "image": real.image_bytes(3 * chunk + place),
                "score": None,
                "accepted": place != 1,
            }
            for place in range(3)
        ]
        store.write(chunk, pa.Table.from_pylist(rows, schema=SCHEMA))
    return store


def test_a_sample_is_drawn_by_seed_from_accepted_mixes(store):
    def drawn(count: int, seed: int) -> list[bytes]:
        return [mix.image for batch in sample_mixes(store, count, seed) for mix in batch]

    assert len(drawn(100, 0)) == 8
    assert len(drawn(3, 0)) == 3
    assert drawn(3, 0) == drawn(3, 0)
    assert len({tuple(drawn(3, seed)) for seed in range(8)}) > 1
    assert all(mix.target_label != 1 for batch in sample_mixes(store, 100, 0) for mix in batch)


def test_figures_are_printed_as_json(store, tmp_path, photos, tiny_clip, capsys):
    arguments = [
        "evaluate",
        "--out",
        str(tmp_path / "out"),
        "--data.train",
        str(photos),
        "--data.superclass",
        "thing",
    ]
    arguments += ["--data.val_fraction", "0.2", "--gate.clip", str(tiny_clip)]
    assert main([*arguments, "--evaluate.mixes", "6"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["mixes"], "there is no classifier to test"
    assert found["mixes"]["mixes"] == 6
    assert found["mixes"]["frechet_distance"] > 0
    assert main(arguments) == 2
    assert "holds no classifier" in capsys.readouterr().err
