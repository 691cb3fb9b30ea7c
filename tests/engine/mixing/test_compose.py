"""Mix stores and other people's folders put together, and taken apart again by `diffmix export`."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from diffmix.config import ComposeConfig, Config, DataConfig, ExportConfig, replace, to_dict
from diffmix.errors import UserError
from diffmix.format_version import with_version
from diffmix.formats import reference
from diffmix.storage import Folder
from engine.mixing.compose import compose
from engine.mixing.mix_source import ComposedMixes, PlannedMixes, find_mix_source
from engine.mixing.store import SCHEMA, MixStore
from engine.results.export import export
from jobs.cli import main

CLASS_NAMES = ["F/A-18", "707-320", "Großer Würger", "翠鸟"]


def image_file(seed: int, format: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(
        file, format
    )
    return file.getvalue()


def rows(count: int, strength: float, class_names=CLASS_NAMES, first: int = 0) -> list[dict]:
    """Every fifth mix is rejected; images are different in every store."""
    return [
        {
            "mix_id": first + i,
            "source_id": f"{i % 3}/{i}.png",
            "source_label": i % len(class_names),
            "target_label": (i * 3 + 1) % len(class_names),
            "strength": strength,
            "seed": 2**61 + i,
            "image": image_file(int(1000 * strength) + i),
            "score": i / 100 if i % 2 else None,
            "accepted": i % 5 != 4,
        }
        for i in range(count)
    ]


def fill(folder: Path, made: list[dict], class_names=CLASS_NAMES) -> Path:
    """A run folder with a store of parts of 10."""
    store = MixStore(str(folder / "mixes"))
    store.bind({"class_names": class_names, "plan": {"seed": 1}})
    for part in range(0, len(made), 10):
        store.write(part // 10, pa.Table.from_pylist(made[part : part + 10], schema=SCHEMA))
    return folder


def content(folder: Path) -> list[dict]:
    return [row for table in MixStore(str(folder / "mixes")).tables() for row in table.to_pylist()]


def same(row: dict, other: dict, but: tuple[str, ...] = ()) -> bool:
    row, other = (
        pa.Table.from_pylist([each], schema=SCHEMA).to_pylist()[0] for each in (row, other)
    )
    return all(row[name] == other[name] for name in row if name not in but)


@pytest.fixture
def config(tmp_path):
    """`config(out, *stores, **options)`: what compose is called with."""

    def make(out, *stores, **options) -> Config:
        chosen = ComposeConfig(stores=tuple(str(store) for store in stores), **options)
        return Config(out=str(tmp_path / out), compose=chosen)

    return make


def test_two_strengths_become_one_store(tmp_path, config):
    low, high = fill(tmp_path / "low", rows(70, 0.5)), fill(tmp_path / "high", rows(35, 0.9))
    made = compose(config("new", low, high / "mixes"))
    found = content(tmp_path / "new")
    assert [row["mix_id"] for row in found] == list(range(105))
    for row, was in zip(found, rows(70, 0.5) + rows(35, 0.9), strict=True):
        assert same(row, was, but=("mix_id",))
    assert with_version(made) == json.loads((tmp_path / "new" / "mixes" / "plan.json").read_text())
    assert made["planned"] == 105
    assert [(each["mixes"], each["taken"]) for each in made["composed"]] == [(70, 70), (35, 35)]
    assert sum(MixStore(str(tmp_path / "new" / "mixes")).counts()) == 105


def strengths(folder: Path) -> Counter:
    return Counter(round(row["strength"], 1) for row in content(folder))


def test_shares_and_counts(tmp_path, config):
    low, high = fill(tmp_path / "low", rows(40, 0.5)), fill(tmp_path / "high", rows(20, 0.9))
    compose(config("half", low, high, share=(0.5,)))
    assert strengths(tmp_path / "half") == {0.5: 20, 0.9: 10}
    compose(config("each", low, high, share=(0.25, 1.0)))
    assert strengths(tmp_path / "each") == {0.5: 10, 0.9: 20}
    compose(config("counted", low, high, count=(7, 3)))
    assert strengths(tmp_path / "counted") == {0.5: 7, 0.9: 3}


def test_the_seed_decides_what_is_taken(tmp_path, config):
    low = fill(tmp_path / "low", rows(40, 0.5))
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        compose(replace(config(out, low, low, count=(12,)), **{"run.seed": seed}))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    taken = {out: [row["seed"] for row in content(tmp_path / out)] for out in "ac"}
    assert len(set(taken["a"])) < 24, "the two inputs are drawn apart"
    assert taken["a"] != taken["c"]
    assert taken["a"][:12] == sorted(taken["a"][:12]), "in the input's own order"


def test_a_stopped_composition_goes_on(tmp_path, config):
    low = fill(tmp_path / "low", rows(150, 0.5))
    compose(config("new", low))
    parts = sorted((tmp_path / "new" / "mixes").glob("part-*"))
    assert len(parts) == 3
    before = {part: (part.read_bytes(), part.stat().st_mtime_ns) for part in parts}
    parts[1].unlink()
    compose(config("new", low))
    assert parts[1].read_bytes() == before[parts[1]][0]
    assert parts[2].stat().st_mtime_ns == before[parts[2]][1]
    with pytest.raises(UserError, match="belongs to another plan"):
        compose(config("new", low, count=(5,)))


@pytest.mark.parametrize("format", ["imagefolder", "webdataset", "reference"])
@pytest.mark.parametrize("rejected", [False, True])
def test_export_and_back(tmp_path, config, format, rejected):
    """What travels: everything, but that the reference's layout is PNG."""
    wanted = [row for row in rows(70, 0.7) if row["accepted"] or rejected]
    to = ExportConfig(format=format, to=str(tmp_path / "to"), rejected=rejected)
    options = replace(config("low"), export=to)
    fill(tmp_path / "low", rows(70, 0.7))
    assert export(options) == f"{len(wanted)} mixes"
    compose(config("new", tmp_path / "low", tmp_path / "to", count=(1, len(wanted))))
    found = content(tmp_path / "new")[1:]
    for row, was in zip(found, wanted, strict=True):
        assert same(row, was, but=("mix_id", "image") if format == "reference" else ("mix_id",))
        assert np.array_equal(
            *(np.asarray(Image.open(io.BytesIO(each["image"]))) for each in (row, was))
        )
    with pytest.raises(UserError, match=r"is not empty; choose another --export\.to"):
        export(options)


@pytest.mark.parametrize("format", ["imagefolder", "webdataset", "reference"])
def test_on_an_object_store(tmp_path, config, object_store, format):
    to = ExportConfig(format=format, to="s3://bucket/Vögel/to")
    options = replace(config("low"), export=to)
    fill(tmp_path / "low", rows(30, 0.7))
    assert export(options) == "24 mixes"
    composed = config("", tmp_path / "low", "s3://bucket/Vögel/to", count=(1, 24))
    composed = replace(composed, out="s3://bucket/new")
    assert compose(composed)["planned"] == 25
    found = [
        row for table in MixStore("s3://bucket/new/mixes").tables() for row in table.to_pylist()
    ]
    assert [row["seed"] for row in found[1:]] == [
        row["seed"] for row in rows(30, 0.7) if row["accepted"]
    ]


def test_ids_of_a_whole_store_stay(tmp_path, config, photos):
    names = ["red one", "green", "blau", "黄"]
    fill(tmp_path / "low", rows(23, 0.7, names), names)
    to = ExportConfig(format="webdataset", to=str(tmp_path / "to"), rejected=True)
    export(replace(config("low"), export=to))
    compose(
        replace(config("back", tmp_path / "to"), data=DataConfig(train=str(photos), val_fraction=0))
    )
    order = MixStore(str(tmp_path / "back" / "mixes")).class_names
    assert order == sorted(names)
    for row, was in zip(content(tmp_path / "back"), rows(23, 0.7, names), strict=True):
        assert same(row, was, but=("source_label", "target_label"))
        assert order[row["target_label"]] == names[was["target_label"]]


def reference_folder(folder: Path, classes=("F A-18", "Großer Würger")) -> Path:
    """As the reference leaves it, without ids, seeds and scores."""
    lines = ["First Directory,Second Directory,Number,Strength,Path"]
    for number in range(6):
        source, target = classes[number % 2], classes[(number + 1) % 2]
        path = f"{source.replace(' ', '_')}/{target.replace(' ', '_')}-{number:06d}-0.7.png"
        (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / path).write_bytes(image_file(number, "PNG"))
        lines.append(f"{source},{target},{number},0.7,{path}")
    (folder / "meta.csv").write_text("\n".join(lines))
    return folder


def test_the_references_folder_beside_our_store(tmp_path, config):
    theirs = reference_folder(tmp_path / "theirs")
    compose(config("new", fill(tmp_path / "low", rows(4, 0.5)), theirs))
    found = content(tmp_path / "new")[4:]
    assert [(row["source_label"], row["target_label"]) for row in found] == [(0, 2), (2, 0)] * 3
    assert {(row["source_id"], row["seed"], row["score"], row["accepted"]) for row in found} == {
        ("", None, None, True)
    }
    assert [row["image"] for row in found] == [image_file(number, "PNG") for number in range(6)]


def refused(config: Config, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose(config)


def test_other_classes(tmp_path, config):
    low = fill(tmp_path / "low", rows(10, 0.5))
    names = ["F/A-18", "lynx", "Großer Würger", "翠鸟"]
    refused(
        config("a", low, fill(tmp_path / "other", rows(10, 0.5, names), names)),
        "other.* has mixes of the class 'lynx'",
    )
    refused(
        config("b", low, reference_folder(tmp_path / "theirs", ("F A-18", "moose"))),
        "theirs has mixes of the class 'moose'",
    )
    assert not (tmp_path / "a").exists()


def test_nothing_to_compose(tmp_path, config):
    low = fill(tmp_path / "low", rows(10, 0.5))
    refused(config("new"), "--compose.stores is not set")
    refused(config("new", low, fill(tmp_path / "empty", [])), "empty holds no mixes")
    (tmp_path / "else").mkdir()
    refused(config("new", low, tmp_path / "else"), "else holds no mixes: it is no run folder")
    refused(config("new", tmp_path / "nowhere"), "nowhere holds no mixes")
    refused(
        config("new", reference_folder(tmp_path / "theirs")), "--data.train is not set, and none"
    )
    refused(config("new", low, count=(11,)), "asks for 11 mixes of .*low, which has 10")
    assert not (tmp_path / "new").exists()


def test_damaged_inputs(tmp_path, config):
    low = fill(tmp_path / "low", rows(20, 0.5))
    part = low / "mixes" / "part-00000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    refused(config("a", low), r"part-00000001\.parquet cannot be read")
    theirs = reference_folder(tmp_path / "theirs")
    image = next((theirs / "data").rglob("*-000003-*.png"))
    image.write_bytes(image.read_bytes()[:60])
    fine = fill(tmp_path / "fine", rows(4, 0.5))
    refused(config("b", fine, theirs), "The image of mix 3 in .*theirs cannot be used")
    (low / "mixes" / "plan.json").write_text("{")
    refused(config("c", low), r"plan\.json is not valid JSON")
    options = replace(config("fine"), **{"export.to": str(tmp_path / "to")})
    (fine / "mixes" / "part-00000000.parquet").unlink()
    with pytest.raises(UserError, match="has no mixes to export"):
        export(options)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--compose.share", "0"],
            "--compose.share is 0, but it must be a list of numbers above 0",
        ),
        (["--compose.count", "0"], "--compose.count is 0"),
        (["--compose.share", "0.5", "--compose.count", "3"], "left out where compose.count is set"),
        (["--compose.share", "0.5", "0.5", "0.5"], "one number, or one for each of compose.stores"),
    ],
)
def test_numbers_that_cannot_be_meant(arguments, sentence, capsys):
    assert main(["compose", "--compose.stores", "a", "b", "--out", "x", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_the_commands(tmp_path, capsys):
    low = fill(tmp_path / "low", rows(20, 0.5))
    assert (
        main(
            [
                "compose",
                "--compose.stores",
                str(low),
                str(low),
                "--compose.share",
                "0.5",
                "--out",
                str(tmp_path / "new"),
            ]
        )
        == 0
    )
    assert "20 mixes of 4 classes are in" in capsys.readouterr().out
    assert (
        main(
            [
                "export",
                "--out",
                str(tmp_path / "new"),
                "--export.format",
                "reference",
                "--export.to",
                str(tmp_path / "to"),
            ]
        )
        == 0
    )
    assert (
        len(list(reference.read(Folder(str(tmp_path / "to")))))
        == MixStore(str(tmp_path / "new" / "mixes")).counts()[0]
    )
    for arguments in (
        ["--out", str(tmp_path / "new")],
        ["--export.to", "x"],
        ["--out", str(tmp_path / "none"), "--export.to", "x"],
    ):
        assert main(["export", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


class Real:
    path, class_names = "train.arrow", CLASS_NAMES


def test_a_composed_store_says_what_a_plan_says(tmp_path, config):
    compose(
        config("new", fill(tmp_path / "low", rows(70, 0.5)), reference_folder(tmp_path / "theirs"))
    )
    source = find_mix_source(Folder(str(tmp_path / "new")), Real())
    assert isinstance(source, ComposedMixes)
    plan, found = source.plan(Config()), content(tmp_path / "new")
    assert (len(plan), plan.num_chunks) == (76, 2)
    ids = np.array([75, 3, 64])
    columns = plan.columns(ids)
    for name in ("mix_id", "source_label", "target_label", "strength"):
        assert columns[name].tolist() == [found[i][name] for i in ids]
    sources = plan.columns(np.arange(76))["source"]
    for i in range(70):
        assert [j for j in range(70) if sources[j] == sources[i]] == [
            j for j in range(70) if found[j]["source_id"] == found[i]["source_id"]
        ]
    assert len(set(sources[70:])) == 2, "unknown sources count as one for each class"
    assert [plan.chunk_ids(i).tolist() for i in (0, 1)] == [list(range(64)), list(range(64, 76))]
    assert isinstance(find_mix_source(Folder(str(tmp_path / "low")), Real()), PlannedMixes)


def test_a_composed_store_of_other_classes_or_incomplete_is_not_trained_on(tmp_path, config):
    compose(config("new", fill(tmp_path / "low", rows(70, 0.5))))

    class Other(Real):
        class_names = CLASS_NAMES[::-1]

    with pytest.raises(UserError, match="composed for other classes"):
        find_mix_source(Folder(str(tmp_path / "new")), Other()).check(Config())
    (tmp_path / "new" / "mixes" / "part-00000001.parquet").unlink()
    with pytest.raises(UserError, match="incomplete"):
        find_mix_source(Folder(str(tmp_path / "new")), Real()).check(Config())


def test_nothing_is_added_to_a_composed_store(tmp_path, small_config, photos, capsys):
    names = sorted(["red one", "green", "blau", "黄"])
    fill(tmp_path / "low", rows(10, 0.5, names), names)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(small_config(tmp_path / "new"))))
    assert (
        main(["compose", "--config", str(recipe), "--compose.stores", str(tmp_path / "low")]) == 0
    )
    assert main(["plan", "--config", str(recipe)]) == 0
    assert "10" in next(
        line for line in capsys.readouterr().out.splitlines() if "mixes planned" in line
    )
