"""Thumbnails are as large as the page allows.

Covers `diffmix/report/data_uri.py` and `diffmix/report/vega.py` too.
"""

import base64
import io

import numpy as np
from PIL import Image

from diffmix.report import gallery, vega
from diffmix.report.gallery import Gallery, ShownMix, ShownTest, thumbnail


def noise(side: int, format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, quality=95)
    return file.getvalue()


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def mix(number: int, image: bytes, **values) -> ShownMix:
    given = {
        "mix_id": number,
        "source": 0,
        "target": 1,
        "strength": 0.7,
        "target_share": 0.8,
        "label_sum": 1.0,
        "seed": 2**61 + number,
        "score": None,
        "accepted": True,
        "image": image,
    }
    return ShownMix(**given | values)


def test_a_small_file_stays_as_it_is_and_a_large_one_becomes_a_jpeg():
    small = noise(16, "PNG")
    assert thumbnail(small, 96) == "data:image/png;base64," + base64.b64encode(small).decode()
    shown = thumbnail(noise(512), 128)
    assert shown.startswith("data:image/jpeg;base64,")
    assert opened(shown).size == (128, 128)


def test_thumbnails_shrink_until_the_page_is_small(monkeypatch):
    monkeypatch.setattr(gallery, "MOST_BYTES", 400_000)
    sides = []
    for count in (2, 20, 40):
        shown = Gallery(mixes=[mix(i, noise(256)) for i in range(count)]).data()
        assert sum(len(one["image"]) for one in shown["mixes"]) < 400_000
        sides.append(shown["side"])
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == 3


def test_what_the_page_gets_of_a_mix():
    file = noise(16, "PNG")
    shown = Gallery(
        mixes=[
            mix(3, file, source_id="a/1.png", score=0.25, accepted=False, prompt="a photo"),
            mix(4, file, source_id="not here", loss=0.5),
        ],
        sources={"b.png": file, "a/1.png": file},
        tests=[ShownTest(image_id="t", label=1, taken_for=2, image=file)],
    ).data()
    first, second = shown["mixes"]
    assert first["source"] == 1
    assert first["label"] == [0.8, 0.2]
    assert first["seed"] == str(2**61 + 3), "as text: JavaScript would round it"
    assert (first["score"], first["ok"], first["prompt"]) == (0.25, False, "a photo")
    assert (second["source"], second["from"], second["loss"]) == (None, "not here", 0.5)
    assert (shown["tests"][0]["i"], shown["tests"][0]["j"]) == (1, 2)
    assert len(shown["sources"]) == 2


def test_vega_is_one_script_that_asks_for_nothing():
    text = vega.script()
    assert 500_000 < len(text) < 1_500_000
    assert "window.vegaEmbed" in text
    assert vega.script() is text
