"""A mix store as a table, as a data set, in a notebook."""

import io

import pytest
from PIL import Image

from engine.mixing.store import MixStore
from engine.testing import mix_table


@pytest.fixture
def pictures(tmp_path) -> MixStore:
    """Two chunks of three images; every third mix is rejected."""
    store = MixStore(str(tmp_path / "pictures"))
    store.bind({"class_names": ["fox", "狐"]})
    for chunk in (0, 1):
        files = []
        for number in range(3):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(file, "PNG")
            files.append(file.getvalue())
        store.write(chunk, mix_table(3, 3 * chunk, image=files, accepted=[True, True, False]))
    return store


def test_a_store_as_a_table_of_pandas(pictures):
    frame = pictures.to_pandas()
    assert frame["mix_id"].tolist() == list(range(6))
    assert set(frame["source"]) == {"fox"}
    assert set(frame["target"]) == {"狐"}
    assert "image" not in frame
    assert len(pictures.to_pandas(images=True)["image"][0]) > 8
    assert frame["accepted"].sum() == 4


def test_a_store_as_a_dataset_of_hugging_face(pictures):
    found = pictures.to_dataset()
    assert found["mix_id"][:] == [0, 1, 3, 4]
    assert found[1]["image"].getpixel((0, 0)) == (20, 0, 0)
    assert found.features["target_label"].names == ["fox", "狐"]
    assert len(pictures.to_dataset(rejected=True)) == 6


def test_a_store_shows_itself_in_a_notebook(pictures, tmp_path):
    shown = pictures._repr_html_()
    assert f"{tmp_path}/pictures: 4 mixes, 2 rejected" in shown
    assert shown.count("<figure") == 6
    assert repr(pictures) == f"MixStore('{tmp_path}/pictures')"
    empty = MixStore(str(tmp_path / "empty"))
    assert "0 mixes, 0 rejected" in empty._repr_html_()
