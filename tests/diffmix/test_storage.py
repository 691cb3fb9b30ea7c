"""Folders on disks and in buckets.

Covers `diffmix/files/new_file.py` too; tests/engine/test_lease.py has many writers at once.
"""

import os

import pytest

from diffmix.errors import UserError
from diffmix.storage import Folder, filesystem, local_version


def test_write_read_and_list(tmp_path):
    folder = Folder(str(tmp_path / "a b" / "ü"))
    folder.create()
    folder.write("x.bin", b"123")
    folder.write("x.bin", b"45")
    assert folder.read("x.bin") == b"45"
    assert folder.names() == ["x.bin"]
    assert folder.exists("x.bin")
    assert not folder.exists("y")
    assert Folder(str(tmp_path / "none")).names() == []


def test_folders_are_told_from_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "c").write_text("")
    assert Folder(str(tmp_path)).folders() == ["a", "b"]
    for found in (Folder(str(tmp_path / "c")).names, Folder(str(tmp_path / "c")).folders):
        with pytest.raises(UserError, match="c is a file, but a folder is needed here"):
            found()


def test_append(tmp_path):
    folder = Folder(str(tmp_path))
    folder.append("log", b"a\n")
    folder.append("log", b"b\n")
    assert folder.read("log") == b"a\nb\n"


def test_a_uri_is_the_same_folder(tmp_path):
    Folder(str(tmp_path)).write("x", b"1")
    assert Folder(f"file://{tmp_path}").read("x") == b"1"


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        Folder(str(tmp_path / "file" / "run")).create()


def test_no_permission(tmp_path, monkeypatch):
    # Tests may run as root, to whom nothing is forbidden.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="no permission"):
        Folder(str(tmp_path)).create()


def test_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    folder = Folder(str(tmp_path))
    folder.write("x", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        folder.write("x", b"new")
    assert folder.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_unknown_scheme():
    with pytest.raises(UserError, match="use a path"):
        Folder("nosuch://bucket/x").create()


def test_an_object_store(object_store, tmp_path):
    folder = Folder("s3://bucket/a b/ü")
    assert not folder.is_local
    assert folder.names() == []
    folder.write("x", b"1")
    folder.append("x", b"2")
    assert folder.read("x") == b"12"
    assert (Folder("s3://bucket") / "a b" / "ü").names() == ["x"]
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "y").write_bytes(b"3")
    folder.upload(str(tmp_path / "up"))
    fetched = folder.fetch()
    assert sorted(os.listdir(fetched)) == ["x", "y"]
    assert folder.fetch() == fetched, "downloaded once"
    folder.write("x", b"345")
    with open(os.path.join(folder.fetch(), "x"), "rb") as file:
        assert file.read() == b"345"


def test_names_in_a_uri_are_not_parts_of_it():
    assert filesystem("s3://bucket/Vögel und #mehr?region=eu-west-1")[1] == "bucket/Vögel und #mehr"


def test_a_uri_has_a_local_version_that_keeps_its_name(object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / "cache"))
    folder = Folder("s3://bucket/loras")
    folder.write("lcm.safetensors", b"123")
    file = local_version("s3://bucket/loras/lcm.safetensors")
    assert os.path.basename(file) == "lcm.safetensors"
    with open(file, "rb") as opened:
        assert opened.read() == b"123"
    assert local_version("s3://bucket/loras/lcm.safetensors") == file
    assert os.listdir(local_version("s3://bucket/loras")) == ["lcm.safetensors"]
    assert local_version("some/path") == "some/path"
    assert local_version(f"file://{tmp_path}/x") == f"{tmp_path}/x"
    with pytest.raises(UserError, match="nothing at s3://bucket/none"):
        local_version("s3://bucket/none")


def test_a_part_of_a_folder_is_fetched(object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / "cache"))
    folder = Folder("s3://bucket/base")
    for name in ("index.json", "whole.ckpt"):
        folder.write(name, b"1")
    (folder / "unet").write("weights", b"2")
    fetched = folder.fetch(only={"index.json", "unet", "vae"})
    assert sorted(os.listdir(fetched)) == ["index.json", "unet"]
    assert os.listdir(f"{fetched}/unet") == ["weights"]
    assert sorted(os.listdir(folder.fetch())) == ["index.json", "unet", "whole.ckpt"]
