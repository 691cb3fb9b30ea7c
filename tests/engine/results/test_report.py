"""The report of a run folder: which mixes it shows, and that it works on whatever a run left
behind.
"""

import io
import json
import re
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from diffmix import images
from diffmix.config import Config, MixConfig, replace
from diffmix.datasets.prepare import Prepared
from diffmix.datasets.real import Example, RealSet
from diffmix.errors import UserError
from diffmix.plan import make_plan
from diffmix.storage import Folder
from engine.mixing.mix_source import MixSource, find_mix_source
from engine.mixing.store import SCHEMA, MixStore
from engine.results.report import MIXES_PER_ROW, ROWS, choose_rows, report, write_report

CLASS_NAMES = ["Red_Fox", "gray wolf", "Füchslein 狐", "lynx"]


@pytest.fixture
def data(tmp_path) -> Prepared:
    examples = [
        Example(f"{i}.png", images.encode(_colored(i, 0), "png", 100), i % 4) for i in range(16)
    ]
    real = RealSet.write(str(tmp_path / "data" / "train.arrow"), examples, CLASS_NAMES, "animal")
    return Prepared(real, None, real)


@pytest.fixture
def config(tmp_path) -> Config:
    mix = MixConfig(count=80, batch=8, strength=(0.5, 0.7, 0.9))
    return Config(out=str(tmp_path / "out"), mix=mix)


def _colored(red: int, green: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (10 * red, 50 * green, 0))


def fill(config: Config, data: Prepared, chunks=None, accepted=lambda spec: True) -> MixSource:
    """A run's own mixes, which have the target class's green."""
    plan, store = make_plan(config, data.train), MixStore(f"{config.out}/mixes")
    store.bind({"class_names": CLASS_NAMES, "plan": {}})
    for chunk in range(plan.num_chunks) if chunks is None else chunks:
        rows = [
            {
                **asdict(spec),
                "image": images.encode(_colored(0, spec.target_label), "png", 100),
                "score": None,
                "accepted": accepted(spec),
            }
            for spec in plan.chunk(chunk)
        ]
        store.write(chunk, pa.Table.from_pylist(rows, schema=SCHEMA))
    return find_mix_source(Folder(config.out), data.train)


def test_rows_spread_over_classes_targets_and_strengths(config, data):
    plan = make_plan(config, data.train)
    rows = choose_rows(config, data.train, fill(config, data))
    assert len(rows) == ROWS
    assert {row.source_class for row in rows} == set(CLASS_NAMES)
    for row in rows:
        source = row.source.getpixel((0, 0))[0] // 10
        assert data.train.labels[source] == CLASS_NAMES.index(row.source_class)
        planned = {
            CLASS_NAMES[spec.target_label]
            for spec in plan
            if spec.source_id == data.train.image_ids[source]
        }
        targets = [mix.target for mix in row.mixes]
        assert set(targets) == planned - {row.source_class}, "no target twice before all were shown"
        assert len(targets) <= MIXES_PER_ROW
        assert [mix.strength for mix in row.mixes] == sorted(mix.strength for mix in row.mixes)
        for mix in row.mixes:
            assert mix.image.getpixel((0, 0)) == (0, 50 * CLASS_NAMES.index(mix.target), 0)
    assert {round(mix.strength, 1) for row in rows for mix in row.mixes} == {0.5, 0.7, 0.9}


def test_only_stored_and_accepted_mixes_are_shown(config, data):
    source = fill(config, data, chunks=[1, 4], accepted=lambda spec: spec.target_label != 2)
    plan = make_plan(config, data.train)
    there = {
        (spec.source_label, spec.target_label)
        for chunk in (1, 4)
        for spec in plan.chunk(chunk)
        if spec.target_label != 2
    }
    shown = {
        (CLASS_NAMES.index(row.source_class), CLASS_NAMES.index(mix.target))
        for row in choose_rows(config, data.train, source)
        for mix in row.mixes
    }
    assert shown
    assert shown <= there


def test_report_files_are_written_and_the_same_each_time(config, data):
    source, out = fill(config, data), Folder(config.out)
    summary = {
        "plan": {"planned": 80, "stored": 80, "rejected": 0, "set_aside": 0},
        "accuracy": {"top1": 0.5, "per_class": {"0": 0.5, "2": 1.0}},
    }
    events = [
        {
            "event": "mix",
            "time": 3.0,
            "actor": "a",
            "start": 1.0,
            "end": 3.0,
            "mixes": 8,
            "chunk": 0,
        }
    ]
    path = write_report(config, out, data, summary, events, source)
    assert path == f"{out.uri}/report/mixes.png"
    first = (out / "report").read("mixes.png")
    assert Image.open(io.BytesIO(first)).mode == "RGB"
    page = out.read("report.html").decode()
    assert page.count("data:image/png;base64,") == 80 + 16, "every mix, and every source once"
    assert page.count('<div class="chart"') == 3
    assert "80 of 80 planned" in page
    assert "strength:\n  - 0.5" in page.replace("    ", "  ")
    write_report(config, out, data, summary, events, source)
    assert (out / "report").read("mixes.png") == first
    assert out.read("report.html").decode() == page


@pytest.mark.parametrize("strategy", ["diff-gen", "real-aug"])
def test_strategies_without_a_source_or_another_class(config, data, strategy):
    config = replace(config, **{"mix.strategy": strategy})
    rows = choose_rows(config, data.train, fill(config, data))
    assert {row.source_class for row in rows} == set(CLASS_NAMES)
    assert all((row.source is None) == (strategy == "diff-gen") for row in rows)
    assert all(mix.target == row.source_class for row in rows for mix in row.mixes)


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_mixes(config, data, count):
    config = replace(config, **{"mix.batch": 1})
    path = write_report(
        config, Folder(config.out).create(), data, {}, [], fill(config, data, chunks=range(count))
    )
    assert path.endswith("report/mixes.png" if count else "report.html")


def test_a_run_without_mixes_gets_a_page(config, data):
    assert write_report(
        config, Folder(config.out), data, {"accuracy": {"top1": 0.25}}, [], None
    ).endswith("report.html")
    assert "25.0 %" in Folder(config.out).read("report.html").decode()


def test_report_of_a_finished_run_folder(config, tmp_path):
    rng = np.random.default_rng(0)
    for name in CLASS_NAMES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
                tmp_path / "images" / name / f"{i}.png"
            )
    config = replace(config, **{"data.train": str(tmp_path / "images")})
    with pytest.raises(UserError, match=r"no summary\.json"):
        report(config)
    out = Folder(config.out)
    out.write("summary.json", json.dumps({"accuracy": {"top1": 0.75}}).encode())
    epoch = {
        "event": "train",
        "time": 2.0,
        "start": 1.0,
        "end": 2.0,
        "rank": 0,
        "epoch": 0,
        "pool": 0,
        "loss": 1.0,
    }
    out.write("metrics.jsonl", (json.dumps(epoch) + "\n").encode())
    assert report(config) == f"{out.uri}/report.html"
    page = out.read("report.html").decode()
    assert "75.0 %" in page
    assert "When what ran" in page


def test_the_cost_is_that_of_measured_nodes_at_the_prices_given(config, data):
    """By hand: two hours of a node at 0.5, in the second of which training held a GPU."""
    phase = {"event": "phase", "phase": "train", "workers": 1, "gpus": 1}
    events = [
        {"event": "spent", "time": 0.0, "node_hours": {}},
        {"event": "spent", "time": 3600.0, "node_hours": {"other": 1.0}},
        {**phase, "time": 3600.0, "state": "begin"},
        {**phase, "time": 7200.0, "state": "end"},
        {"event": "spent", "time": 7200.0, "node_hours": {"other": 2.0}},
    ]
    summary, out = {"gpu_hours": {"train": 1.0}}, Folder(config.out)

    def rows(config: Config) -> list[list]:
        write_report(config, out, data, summary, events, None)
        table = out.read("report.html").decode().partition('data-table="gpu-hours"')[2]
        found = table.partition("</table>")[0].split("<tr>")[2:]
        return [re.findall("<td>([^<]*)</td>", row) for row in found]

    assert rows(config) == [["training with mixes", "1"], ["together", "1"]]
    assert rows(replace(config, **{"limits.prices": ("other=0.5",)})) == [
        ["training with mixes", "1", "0.5"],
        ["nodes without work", "0", "0.5"],
        ["together", "1", "1"],
    ]
