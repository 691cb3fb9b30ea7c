"""Files of others: nothing is run, nothing outside their folder is read or written, bombs are
bounded.
"""

import csv
import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch

from diffmix import images
from diffmix.errors import UserError
from diffmix.formats import imagefolder, lora, reference, reference_concept, webdataset
from diffmix.formats.named_mix import NamedMix
from diffmix.storage import Folder, filesystem
from jobs.options import load

ROOT = Path(__file__).parents[2]
NAMES = [
    "..",
    "../up",
    "/etc/passwd",
    "C:\\windows",
    "CON",
    "nul.txt",
    "a\nb\x1b[31m",
    "e\u0301 and \u00e9",
    "x" * 300,
    "<script>alert(1)</script>",
]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mknod, (str(self.path),))


def test_pickles_run_nothing(tmp_path):
    trap = tmp_path / "ran"
    for name in ("pytorch_lora_weights.bin", reference_concept.EMBEDS_FILE):
        torch.save({"weights": Touch(trap)}, tmp_path / name)
    with pytest.raises(UserError):
        lora.read(tmp_path / "pytorch_lora_weights.bin")
    torch.save({"a.lora.down.weight": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(UserError):
        reference_concept.embeds(tmp_path)
    (tmp_path / "plain.safetensors").write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(UserError):
        lora.read(tmp_path / "plain.safetensors")
    assert not trap.exists()


def test_no_source_unpickles_or_trusts_what_others_wrote():
    allowed = {"engine/mixing/stages.py": 1}  # its own options, as the key of a cache
    for top in ("diffmix", "engine", "jobs"):
        for path in (ROOT / top).rglob("*.py"):
            text, name = path.read_text(), str(path.relative_to(ROOT))
            assert "trust_remote_code=True" not in text, name
            assert "weights_only=False" not in text, name
            assert text.count("torch.load(") == text.count("weights_only=True)"), name
            assert text.count("pickle.load") <= allowed.get(name, 0), name
            assert "yaml.load(" not in text, name
            assert ".extractall(" not in text, name


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "images/../../secret.png"])
def test_tables_name_no_file_outside_their_folder(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(b"secret")
    fields = {"mix_id": 0, "source": "a", "target": "b", "strength": 0.5, "file_name": name}
    there = tmp_path / "there"
    there.mkdir()
    (there / "metadata.jsonl").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="leads out of its folder"):
        next(imagefolder.read(Folder(str(there)))).load()
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(reference.COLUMNS)
    writer.writerow(["a", "b", 0, 0.5, name])
    (there / reference.META).write_text(text.getvalue())
    with pytest.raises(UserError, match="leads out of its folder"):
        next(reference.read(Folder(str(there)))).load()


def test_archives_are_read_in_place(tmp_path):
    """A member's name is a label here, never a path; a link is no image."""
    with tarfile.open(tmp_path / "mixes-000000.tar", "w") as tar:
        for name, data in (
            ("../../up.json", b'{"mix_id": 0, "source": "a", "target": "b", "strength": 0.5}'),
            ("../../up.jpg", b"image"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(UserError):
        list(webdataset.read(Folder(str(tmp_path))))
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("format", [imagefolder, reference, webdataset])
@pytest.mark.parametrize("name", NAMES)
def test_exports_of_any_class_name_stay_in_their_folder(tmp_path, format, name):
    file = io.BytesIO()
    images.Image.new("RGB", (4, 4)).save(file, "PNG")
    mix = NamedMix(
        mix_id=0,
        source_id=name,
        source=name,
        target=name,
        strength=0.5,
        seed=1,
        score=None,
        accepted=True,
        load=file.getvalue,
    )
    out = tmp_path / "in" / "out"
    out.mkdir(parents=True)
    try:
        format.write(Folder(str(out)), [mix], [name])
    except UserError:
        return  # refused: nothing is written under this name
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    outside = [path for path in written if out not in path.parents]
    assert outside == []
    found = next(iter(format.read(Folder(str(out)))))
    if format is not reference:  # its file names cannot say every name
        assert (found.source, found.target) == (name, name)
    assert found.load()


def png_bomb(side: int) -> bytes:
    """A PNG of `side` x `side` black pixels, some KB in size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side * (side // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_image_bombs_are_refused_before_they_are_decoded():
    bomb = png_bomb(20_000)
    tracemalloc.start()
    with pytest.raises(images.BadImage, match="more than"):
        images.decode(bomb, 100e6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_yaml_bombs_are_one_sentence(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    for text, says in (
        ("\n".join(lines), "repeat others"),
        ("[" * 20_000, "not valid YAML"),
        ("a: " + "x" * 2_000_000, "larger than"),
        ("!!python/object/apply:os.mknod [ran]", "not valid YAML"),
        ("mix: &a {count: *a}", "is not|count|repeat|valid"),
    ):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(UserError, match=says):
            load(str(tmp_path / "recipe.yaml"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "uri", ["s3://key:secret-word@bucket/a", "s3://bucket/a?access_key=x&secret_key=secret-word"]
)
def test_a_uri_with_a_key_is_refused_without_repeating_it(uri):
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY") as caught:
        filesystem(uri)
    assert "secret-word" not in str(caught.value)
