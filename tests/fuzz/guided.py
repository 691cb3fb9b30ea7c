"""Inputs that are changed toward code that was not run before: atheris sees which lines of
Pillow's readers and of ours an input has reached.

`python tests/fuzz/guided.py images -atheris_runs=100000`, or `weights`; the words after the name
are libFuzzer's. An error that nobody has foreseen, a stall of 10 s or 1 GB of memory ends it with
another code than 0, and what did it stays in the temporary folder.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "diffmix.images", "diffmix.formats.lora"]):
    from PIL import Image

    from diffmix import images
    from diffmix.errors import UserError
    from diffmix.formats import lora


def one_image(data: bytes) -> None:
    with contextlib.suppress(images.BadImage):
        assert images.decode(data, 1e6).mode == "RGB"


def one_file_of_weights(data: bytes) -> None:
    file = Path(tempfile.gettempdir(), "pytorch_lora_weights.safetensors")
    file.write_bytes(data)
    with contextlib.suppress(UserError):
        lora.read(file)


def first_images() -> list[bytes]:
    found = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        file = io.BytesIO()
        Image.effect_noise((9, 7), 60).convert("RGB").save(file, kind)
        found.append(file.getvalue())
    return found


def first_weights() -> list[bytes]:
    import torch
    from safetensors.torch import save

    down = {"unet.a.to_q.lora.down.weight": torch.zeros(2, 4)}
    return [save({**down, "unet.a.to_q.lora.up.weight": torch.zeros(4, 2)})]


TARGETS = {"images": (one_image, first_images), "weights": (one_file_of_weights, first_weights)}

if __name__ == "__main__":
    target, first = TARGETS[sys.argv[1]]
    folder = tempfile.mkdtemp(prefix="diffmix-fuzz-")  # it stays: libFuzzer ends the process
    tempfile.tempdir = folder
    corpus = Path(folder, "corpus")
    corpus.mkdir()
    for number, data in enumerate(first()):
        (corpus / str(number)).write_bytes(data)
    limits = ["-timeout=10", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *sys.argv[2:]], target)
    atheris.Fuzz()
