"""Class names with every kind of awkward character, in plots, pages, sheets, prompts and exports.

Covers how `diffmix/report`, `diffmix/formats` and `diffmix/generator` treat names.
"""

import base64
import html
import logging
import re
import unicodedata
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from diffmix.datasets.class_names import spoken
from diffmix.errors import UserError
from diffmix.formats import FORMATS
from diffmix.formats.named_mix import NamedMix
from diffmix.generator.concept import prompt
from diffmix.images import encode
from diffmix.report import plots
from diffmix.report.contact_sheet import Mixed, Row, describe, mix_sheet
from diffmix.report.html import Plot, render_report
from diffmix.storage import Folder

NAMES = [
    *("$", "$$", "$5_to_$10", r"$\frac{1}{2}$", "100%", "%s", "%(name)s", "{}", "{class_name}"),
    *("a\\b", "C:\\birds", "_hidden", "__", "<b>&amp;", '"quoted"', "[red]", ":smile:", "#1"),
    *("1", "01", "007", "1.0", "-1", "a-1", "null", "True", "Red Fox", "red fox", "RED FOX"),
    *("caf\u00e9", "cafe\u0301", "עורב", "غراب אב", "a\u202eb", "🦊", "日本語", "ﬁ", "İ"),
    *("tab\there", "new\nline", "x" * 200, "ж" * 100, "train", "test", ".hidden", "a.tar"),
]


def shown_in(svg: bytes) -> set[str]:
    """The texts of an SVG as an XML parser reads them."""
    root = ElementTree.fromstring(svg)
    return {"".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")}


def accuracy(names) -> dict:
    return {"per_class": {str(label): 0.5 for label in range(len(names))}}


def test_plots_show_names_as_they_are():
    first, last = NAMES[:40], NAMES[-40:]
    few = [NAMES[0], NAMES[3], NAMES[20], NAMES[-6], *NAMES[-9:-7]]
    figures = [
        (plots.class_accuracy(accuracy(first), {}, first), map(spoken, first), 40),
        (plots.group_accuracy({"per_group": dict.fromkeys(last, 0.5)}, {}), last, 40),
        (plots.confusion_matrix(np.eye(len(few), dtype=int).tolist(), few), map(spoken, few), 24),
    ]
    for figure, names, most in figures:
        texts = {text.strip() for text in shown_in(plots.svg(figure))}
        for name in names:
            wanted = name if len(name) <= most else name[: most - 1] + "…"
            assert {line.strip() for line in wanted.split("\n")} <= texts, (name, texts)


def test_what_no_svg_can_hold_is_replaced():
    names = ["bell\x07", "null\x00", "lone \udce9"]
    texts = shown_in(plots.svg(plots.class_accuracy(accuracy(names), {}, names)))
    assert {"bell\ufffd", "null\ufffd", "lone \ufffd"} <= texts


def test_the_page_shows_names_as_they_are():
    figure = plots.class_accuracy(accuracy(NAMES[:9]), {}, NAMES[:9])
    listed = "\n".join(NAMES)
    rows = [Row(None, name, [Mixed(Image.new("RGB", (8, 8)), name, 0.5)]) for name in NAMES]
    page = render_report(f"{NAMES[3]} {NAMES[13]}", {}, listed, [Plot("a", "b", figure)])
    page += f'<img alt="{html.escape(describe(rows))}">'
    assert html.escape(listed, quote=False).replace('"', "&#34;").replace("'", "&#39;") in page
    assert "<b>&amp;" not in page
    assert f"<h1>{NAMES[3]} &lt;b&gt;&amp;amp;</h1>" in page
    (svg,) = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert "$5 to $10" in shown_in(base64.b64decode(svg))


def test_sheets_can_be_drawn():
    image = Image.new("RGB", (32, 32))
    rows = [Row(image, name, [Mixed(image, name, 0.5)]) for name in NAMES]
    sheet = mix_sheet(rows, NAMES[-6])
    assert sheet.height > 32 * len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_say_names_as_they_are(name):
    said = prompt("a {class_name}, a {superclass}", None, name, "{odd} $")
    assert said == f"a {spoken(name)}, a {{odd}} $"
    assert spoken(name)


def mixes(names) -> list[NamedMix]:
    image = encode(Image.new("RGB", (4, 4)), "png", 100)
    return [
        NamedMix(
            mix_id=i,
            source_id=f"{name}/{name}.jpg",
            source=name,
            target=names[i - 1],
            strength=1e-05 if i % 2 else 0.5,
            seed=i,
            score=None,
            accepted=True,
            load=lambda: image,
        )
        for i, name in enumerate(names)
    ]


@pytest.mark.parametrize("layout", FORMATS)
def test_exports_keep_names(tmp_path, layout):
    names = NAMES
    if layout == "reference":  # which has one folder for "a b" and "a_b"
        names = [n for n in NAMES if len(n.encode()) <= 150 and n != "red fox"]
    folder, made = Folder(str(tmp_path / "a $%{}\\ folder")), mixes(names)
    assert FORMATS[layout].write(folder, iter(made), names) == len(names)
    read = list(FORMATS[layout].read(folder))
    assert [(mix.source, mix.target, mix.source_id) for mix in read] == [
        (mix.source, mix.target, mix.source_id) for mix in made
    ]
    assert all(mix.load() == made[0].load() for mix in read)
    for file in tmp_path.rglob("*"):
        assert len(file.name.encode()) <= 255


def test_names_that_other_disks_do_not_tell_apart_are_said(tmp_path, caplog):
    names = ["Fox", "fox", "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9"), "owl"]
    with caplog.at_level(logging.WARNING):
        FORMATS["reference"].write(Folder(str(tmp_path)), mixes(names), names)
    assert "4 classes differ from another in case or Unicode form alone" in caplog.text
    assert [mix.source for mix in FORMATS["reference"].read(Folder(str(tmp_path)))] == names


@pytest.mark.parametrize("name", ["", ".", "..", "nul\0l", "x" * 250])
def test_names_that_no_folder_can_have_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="export to imagefolder or webdataset instead"):
        FORMATS["reference"].write(Folder(str(tmp_path)), mixes([name, "b"]), [name, "b"])
