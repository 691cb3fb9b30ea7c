"""The gate on a real cluster: in the mixer actors, after mixing is finished, and by `diffmix
filter`.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffmix import images
from diffmix.errors import UserError
from engine.mixing.filter import Decision, filter_store
from engine.mixing.store import SCHEMA, MixStore, part_name
from engine.run import run, run_mixing
from jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")

THRESHOLD = 0.5


def parts(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "mixes").glob("part-*.parquet"))}


def columns(out: Path) -> dict[str, np.ndarray]:
    """The store's scores, decisions and images by mix id, read with pyarrow alone."""
    rows = [
        row
        for file in sorted((out / "mixes").glob("part-*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
    rows.sort(key=lambda row: row["mix_id"])
    assert [row["mix_id"] for row in rows] == list(range(len(rows)))
    return {name: np.array([row[name] for row in rows]) for name in ("score", "accepted")} | {
        "image": [row["image"] for row in rows]
    }


def stock_scores(clip: Path, files: list[bytes]) -> np.ndarray:
    from transformers import CLIPModel, CLIPProcessor

    prompts = ["a photo with a thing on it", "a photo without a thing on it"]
    inputs = CLIPProcessor.from_pretrained(clip)(
        text=prompts, images=[images.decode(f) for f in files], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        return (
            CLIPModel.from_pretrained(clip)(**inputs).logits_per_image.softmax(dim=1)[:, 0].numpy()
        )


def pool_of_last_epoch(out: Path) -> int:
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [event["pool"] for event in events if event["event"] == "train"][-1]


@pytest.fixture(scope="module")
def gated(tmp_path_factory, small_config, tiny_clip):
    """(configuration, summary) of a finished overlapped run whose mixers reject by threshold.
    Training begins when all mixes are there. PNG, so that stored pixels are the scored ones.
    """
    changes = {
        "gate.clip": str(tiny_clip),
        "gate.threshold": THRESHOLD,
        "mix.image_format": "png",
        "mix.batch": 8,
        "train.epochs": 2,
        "run.train_after": 1.0,
    }
    config = small_config(tmp_path_factory.mktemp("gated") / "out", **changes)
    return config, run(config)


def test_mixers_score_and_reject_and_training_sees_only_what_is_accepted(gated, tiny_clip):
    config, summary = gated
    stored = columns(Path(config.out))
    assert np.allclose(stored["score"], stock_scores(tiny_clip, stored["image"]), atol=1e-4)
    assert stored["accepted"].tolist() == (stored["score"] >= THRESHOLD).tolist()
    plan = summary["plan"]
    assert plan == {
        "planned": 40,
        "stored": int(stored["accepted"].sum()),
        "rejected": int((~stored["accepted"]).sum()),
        "set_aside": 0,
    }
    assert min(plan["stored"], plan["rejected"]) > 3, (
        "a gate that keeps or rejects all would prove nothing"
    )
    assert pool_of_last_epoch(Path(config.out)) == plan["stored"]


def test_another_inline_gate_is_refused_and_leads_to_filter(gated, capsys):
    config, _ = gated
    other = replace(config, gate=replace(config.gate, threshold=0.6))
    with pytest.raises(
        UserError,
        match=r"gate\.threshold is 0\.5 there and 0\.6 now\); decide again with diffmix filter",
    ):
        run(other)
    with pytest.raises(UserError, match="went through another gate"):
        run(replace(config, gate=replace(config.gate, clip=None)))


def test_filter_by_quantile_then_the_run_goes_on(gated, capsys, caplog):
    config, _ = gated
    out = Path(config.out)
    before = columns(out)
    assert main(["filter", "--out", str(out), "--gate.quantile", "0.25"]) == 0
    assert "30 mixes of" in (words := capsys.readouterr().out)
    assert "(0 were scored now)" in words, "the mixers' scores serve"
    after = columns(out)
    expected = before["score"].astype(float) >= np.percentile(before["score"].astype(float), 25)
    assert after["accepted"].tolist() == expected.tolist()
    assert expected.sum() == 30
    assert (after["score"] == before["score"]).all()
    assert after["image"] == before["image"]
    assert json.loads((out / "summary.json").read_text())["plan"] == {
        "planned": 40,
        "stored": 30,
        "rejected": 10,
        "set_aside": 0,
    }

    times = {file: file.stat().st_mtime_ns for file in (out / "mixes").glob("part-*")}
    assert main(["filter", "--out", str(out), "--gate.quantile", "0.25"]) == 0
    caplog.set_level(logging.WARNING)
    again = run(config)
    assert {file: file.stat().st_mtime_ns for file in times} == times, (
        "nothing is written or made again"
    )
    assert again["plan"] == {"planned": 40, "stored": 30, "rejected": 10, "set_aside": 0}
    assert pool_of_last_epoch(out) == 30, "the classifier is trained anew on what is accepted now"
    assert "stays as diffmix filter decided (quantile 0.25)" in caplog.text

    (out / "mixes" / part_name(0)).unlink()
    others = parts(out)
    run_mixing(config)
    assert columns(out)["accepted"].tolist() == expected.tolist(), (
        "what is made later goes through the filter's gate"
    )
    assert {name: parts(out)[name] for name in others} == others


def test_a_stopped_filter_goes_on(gated):
    config, _ = gated
    out, store = Path(config.out), MixStore(f"{config.out}/mixes")
    filter_store(config)
    whole = parts(out)
    for chunk in (1, 3):  # as another CLIP, or none, had left them
        store.write(chunk, store.read(chunk), "another" if chunk == 1 else None)
    rows = sum(len(store.read(chunk)) for chunk in (1, 3))
    decision = Decision.of(store)
    Decision(decision.gate, 0).save(store)
    assert filter_store(config)["scored"] == rows
    assert parts(out) == whole
    Decision(decision.gate, 0).save(store)
    run_mixing(config)
    assert Decision.of(store) == decision, "the next command finishes it too"


def test_a_quantile_is_decided_when_all_mixes_are_there(tmp_path, small_config, tiny_clip):
    changes = {"gate.clip": str(tiny_clip), "gate.quantile": 0.3, "mix.batch": 8}
    config = small_config(tmp_path / "out", **changes)
    with pytest.raises(UserError, match=r"--gate\.quantile 0\.3 needs the scores of all mixes"):
        run(config)
    assert not (tmp_path / "out" / "mixes").exists()
    assert run_mixing(config)["plan"] == {
        "planned": 40,
        "stored": 28,
        "rejected": 12,
        "set_aside": 0,
    }
    found = columns(tmp_path / "out")
    assert (
        found["accepted"].tolist()
        == (
            found["score"].astype(float) >= np.percentile(found["score"].astype(float), 30)
        ).tolist()
    )


def test_filter_of_a_store_that_was_never_scored(
    tmp_path, small_config, tiny_clip, tiny_real, capsys
):
    out = tmp_path / "out"
    mix = {
        "source_id": "",
        "source_label": 0,
        "target_label": 1,
        "strength": 0.5,
        "seed": 0,
        "score": None,
        "accepted": True,
    }
    rows = [{**mix, "mix_id": row, "image": tiny_real.image_bytes(row)} for row in range(12)]
    store = MixStore(str(out / "mixes"))
    for chunk in range(2):
        store.write(chunk, pa.Table.from_pylist(rows[6 * chunk : 6 * chunk + 6], schema=SCHEMA))
    assert main(["filter", "--out", str(out)]) == 2
    assert "were never scored; set --gate.clip" in capsys.readouterr().err
    assert (
        main(
            [
                "filter",
                "--out",
                str(out),
                "--gate.clip",
                str(tiny_clip),
                "--data.superclass",
                "thing",
            ]
        )
        == 0
    )
    found = columns(out)
    assert np.allclose(found["score"], stock_scores(tiny_clip, found["image"]), atol=1e-4)
    assert (~found["accepted"]).sum() == 2, "the paper's tenth of 12, rounded up"
    assert (
        found["accepted"].tolist()
        == (
            found["score"].astype(float) >= np.percentile(found["score"].astype(float), 10)
        ).tolist()
    )
    assert main(["filter", "--out", str(tmp_path / "nothing")]) == 2
    assert "holds no mixes" in capsys.readouterr().err
