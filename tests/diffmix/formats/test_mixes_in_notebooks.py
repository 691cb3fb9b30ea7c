"""What a notebook shows of mixes."""

import base64
import io
import re

from PIL import Image

from diffmix.formats.named_mix import SIDE, NamedMix, grid_html


def mix(**values) -> NamedMix:
    file = io.BytesIO()
    Image.new("RGB", (400, 200), "red").save(file, "JPEG")
    given = {
        "mix_id": 7,
        "source_id": "",
        "source": "001.Red_Fox",
        "target": "<script>alert(1)</script>",
        "strength": 0.7,
        "seed": 1,
        "score": None,
        "accepted": True,
        "load": file.getvalue,
    }
    return NamedMix(**given | values)


def test_a_mix_is_a_small_image_with_its_classes_as_text():
    shown = mix(score=0.25, accepted=False)._repr_html_()
    assert "7: Red Fox → &lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<script>" not in shown
    assert "strength 0.7, score 0.250, rejected" in shown
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (SIDE, SIDE // 2)


def test_a_grid_has_a_title_and_every_mix():
    shown = grid_html("a <folder>", [mix(mix_id=1), mix(mix_id=2)])
    assert "a &lt;folder&gt;" in shown
    assert shown.count("<figure") == 2
