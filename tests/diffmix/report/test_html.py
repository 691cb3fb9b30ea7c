"""The page (`html.py`) is complete, well formed and self-contained.

Covers `diffmix/report/headline.py` too.
"""

import base64
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from PIL import Image

from diffmix.report import vega
from diffmix.report.accuracy import group_accuracy
from diffmix.report.chart import Table
from diffmix.report.gallery import Gallery, ShownMix
from diffmix.report.headline import headline
from diffmix.report.html import Report, Section, render_report

SUMMARY = {
    "plan": {"planned": 50, "stored": 47, "rejected": 3},
    "accuracy": {"top1": 0.815, "worst_group": 0.6},
    "baseline": {"top1": 0.7, "worst_group": 0.4},
    "seconds": {
        "personalize": 90.2,
        "generate": 30.0,
        "train": 40.0,
        "baseline": 0.0,
        "wall": 130.0,
    },
    "mixer": {"images_per_second": 9.87, "oracle_share": 0.75},
    "trainer": {"synthetic_share": 0.3},
    "overlap": {"concurrent_fraction": 0.9},
    "versions": {"python": "3.11", "xformers": None},
}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The tags, what is linked to, and the text. Asserts that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.sources, self.links, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name == "src"]
        self.links += [value for name, value in attributes if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def mix(number: int, image: bytes, **values) -> ShownMix:
    return ShownMix(
        mix_id=number,
        source=0,
        target=1,
        strength=0.7,
        target_share=0.8,
        label_sum=1.0,
        seed=7,
        score=None,
        accepted=True,
        image=image,
        **values,
    )


def data_of(text: str) -> dict:
    """What the page's script reads."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_page_has_figures_charts_tables_configuration_and_needs_nothing_else():
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "PNG")
    section = Section(
        key="left-out", title="Left out", text="Some.", table=Table(("image",), [["<img>"]] * 300)
    )
    text = render_report(
        Report(
            title="A <run>",
            summary=SUMMARY,
            notes=["a note & more"],
            class_names=["<script>alert(1)</script>", "狐"],
            charts=[group_accuracy({"per_group": {"</script>": 0.5}}, {})],
            gallery=Gallery(mixes=[mix(0, file.getvalue())], rule="All 1 are here."),
            sections=[section],
            config="mix:\n  prompt: <fox> & 狐\n",
        )
    )
    page = Page(text)
    words = "".join(page.words)
    for expected in (
        "A <run>",
        "81.5 %",
        "70.0 %",
        "47 of 50 planned, 3 rejected",
        "9.9",
        "90.0 %",
        "<fox> & 狐",
        "a note & more",
        "Lowest: </script> with mixes, 50.0 %.",
        "All 1 are here.",
        "the first 200 are shown",
        "3.11",
    ):
        assert expected in words
    assert "xformers" not in words, "what is not installed has no version"
    data = data_of(text)
    assert data["classes"] == ["<script>alert(1)</script>", "狐"]
    assert data["charts"]["groups"]["data"]["values"][0]["group"] == "</script>"
    assert data["gallery"]["mixes"][0]["image"].startswith("data:image/png;base64,")
    # Three scripts are closed where they end, and nothing is fetched.
    assert text.count("</script>") == page.tags.count("script") == 3
    assert all(source.startswith("data:image/svg+xml") for source in page.sources)
    links = [link for link in page.links if not link.startswith("data:")]
    assert links == []
    (whole,) = [
        link for link in page.links if link.startswith("data:text/csv") and len(link) > 2000
    ]
    table = base64.b64decode(whole.partition(",")[2]).decode()
    assert table.count("<img>") == 300
    assert words.count("<img>") == 200


def test_page_of_a_run_with_nothing_to_show():
    text = render_report(Report(title="Empty", summary={}))
    page = Page(text)
    assert data_of(text) == {"charts": {}, "classes": [], "gallery": None}
    assert "vegaEmbed=" not in text, "without charts there is no library"
    assert "section" not in page.tags


def test_headline_puts_the_comparison_first_and_leaves_out_what_is_not_there():
    rows = headline(SUMMARY)
    assert rows[:4] == [
        ("accuracy without mixes", "70.0 %"),
        ("accuracy with mixes", "81.5 %"),
        ("accuracy in the worst group without mixes", "40.0 %"),
        ("accuracy in the worst group with mixes", "60.0 %"),
    ]
    assert dict(rows)["seconds"] == "personalize 90, generate 30, train 40, wall 130"
    no_mixes = {"planned": 0, "stored": 0, "rejected": 0, "set_aside": 0}
    plain = headline({"plan": no_mixes, "accuracy": {"top1": 0.5}})
    assert plain == [("accuracy", "50.0 %")]
    assert headline({}) == []
    left = {**no_mixes, "planned": 9, "stored": 2, "set_aside": 1}
    made = "2 of 9 planned, 1 set aside"
    assert ("mixes made", f"{made}, 6 left out by a limit") in headline({"plan": left | {"cut": 6}})
    assert ("mixes made", f"{made}, 6 not made yet") in headline({"plan": left | {"missing": 6}})


def test_the_references_protocol_is_said_in_the_table_and_on_the_page():
    honest = {"accuracy": {"top1": 0.5, "chosen": {"epoch": 3, "on_test_set": False}}}
    optimistic = {"accuracy": {"top1": 0.5, "chosen": {"epoch": 3, "on_test_set": True}}}
    assert "epoch picked on" not in dict(headline(honest))
    assert dict(headline(optimistic))["epoch picked on"].startswith("the test set")
    assert "picked on the test set" not in render_report(Report(title="x", summary=honest))
    words = "".join(Page(render_report(Report(title="x", summary=optimistic))).words)
    assert "The epoch was picked on the test set" in words
    assert headline({"accuracy": {"top1": 0.5, "chosen": None}}) == [("accuracy", "50.0 %")]


def test_a_leak_is_said_in_the_table():
    found = {"accuracy": {"top1": 0.5}, "leak": {"unseen_images": 30, "test_images": 2}}
    row = dict(headline(found))["concept has seen"]
    assert row.startswith("30 images that the classifier is not given, 2 of them test images")


def test_class_sizes_calibration_and_several_seeds():
    summary = {
        "accuracy": {
            "top1": 0.5,
            "per_size": {"many": 0.75, "few": 0.25},
            "calibration": {"ece": 0.1},
        },
        "std": {"accuracy": {"top1": 0.0125}},
        "seeds": {"2020": {}, "2021": {}},
    }
    assert headline(summary) == [
        ("accuracy", "50.0 % ± 1.2"),
        ("accuracy in many, few shot classes", "75.0 %, 25.0 %"),
        ("mean and standard deviation of", "2 seeds (2020, 2021)"),
        ("calibration error (ECE)", "10.0 %"),
    ]


def words_of(uri: str) -> list[str]:
    """The texts of an SVG image, by a parser of XML."""
    svg = ElementTree.fromstring(base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")))
    return [text.text or "" for text in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_charts_are_images_without_javascript(monkeypatch):
    """Class names stand there as they are; what is too large for a page is left out."""
    names = ["$", "$$", "$5 to $10", "\ud800 50 %", "أسد"]
    chart = group_accuracy({"per_group": dict.fromkeys(names, 0.5)}, {})
    (image,) = Page(render_report(Report(title="", summary={}, charts=[chart]))).sources
    assert {*names} - {*words_of(image)} == {"\ud800 50 %"}
    assert "\ufffd 50 %" in words_of(image)
    monkeypatch.setattr(vega, "MOST_BYTES", 100)
    assert Page(render_report(Report(title="", summary={}, charts=[chart]))).sources == []


def test_user_text_is_escaped():
    """A class or a group called `<script>` is text, in the page, in attributes and in charts."""
    hostile = "</svg><script>alert(1)</script>\"' onerror=alert(1)"
    chart = group_accuracy({"per_group": {hostile: 0.5}}, {"per_group": {hostile: 0.2}})
    accuracy = {"top1": 0.5, "per_group": {hostile: 0.5}, "worst_group": 0.5}
    text = render_report(
        Report(
            title=hostile,
            summary={**SUMMARY, "accuracy": accuracy, "versions": {hostile: hostile}},
            notes=[hostile],
            class_names=[hostile],
            charts=[chart],
            config=f"out: {hostile}\n",
        )
    )
    page = Page(text)
    assert page.tags.count("script") == 3
    assert "svg" not in page.tags
    (image,) = page.sources
    assert hostile[:25] in "".join(words_of(image)), "a long name is cut off"
    assert hostile in "".join(page.words)
    assert data_of(text)["charts"]["groups"]["data"]["values"][0]["group"] == hostile
