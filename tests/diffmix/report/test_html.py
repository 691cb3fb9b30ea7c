"""The page (`html.py`) is complete, well formed and self-contained.

Covers `diffmix/report/headline.py` too.
"""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

from diffmix.report import plots
from diffmix.report.headline import headline
from diffmix.report.html import Plot, render_report

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
    """The tags, the attributes of images, and the text. Asserts that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.images, self.tags, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_has_figures_images_configuration_and_needs_nothing_else():
    sheet = Image.new("RGB", (60, 40), "red")
    figure = plots.group_accuracy({"per_group": {"land": 0.5}}, {})
    text = render_report(
        "A <run>",
        SUMMARY,
        "mix:\n  prompt: <fox> & 狐\n",
        [Plot("Groups", "By group.", figure)],
        sheet,
        'one → "two"',
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
        "By group.",
        "3.11",
    ):
        assert expected in words
    assert "xformers" not in words, "what is not installed has no version"
    mixes, plot = page.images
    kind, data = mixes["src"].split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (60, 40)
    assert mixes["alt"] == 'one → "two"'
    assert plot["src"].startswith("data:image/svg+xml;base64,")
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "http" not in text.replace(plot["src"], "")


def test_page_of_a_run_with_nothing_to_show():
    page = Page(render_report("Empty", {}, ""))
    assert page.images == []


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


def test_the_references_protocol_is_said_in_the_table_and_on_the_page():
    honest = {"accuracy": {"top1": 0.5, "chosen": {"epoch": 3, "on_test_set": False}}}
    optimistic = {"accuracy": {"top1": 0.5, "chosen": {"epoch": 3, "on_test_set": True}}}
    assert "epoch picked on" not in dict(headline(honest))
    assert dict(headline(optimistic))["epoch picked on"].startswith("the test set")
    assert "picked on the test set" not in render_report("x", honest, "")
    words = "".join(Page(render_report("x", optimistic, "")).words)
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


def test_user_text_is_escaped():
    """A class or a group called `<script>` is text, in the page, in attributes and in figures."""
    hostile = "</svg><script>alert(1)</script>\"' onerror=alert(1)"
    figure = plots.group_accuracy({"per_group": {hostile: 0.5}}, {hostile: 0.2})
    accuracy = {"top1": 0.5, "per_group": {hostile: 0.5}, "worst_group": 0.5}
    text = render_report(
        hostile,
        {**SUMMARY, "accuracy": accuracy, "versions": {hostile: hostile}},
        f"out: {hostile}\n",
        [Plot(hostile, hostile, figure)],
        Image.new("RGB", (6, 4), "red"),
        hostile,
    )
    page = Page(text)
    assert "script" not in page.tags
    assert all("onerror" not in image for image in page.images)
    assert any(image.get("alt") == hostile for image in page.images)
    assert hostile in "".join(page.words)
    for image in page.images:
        kind, _, data = image["src"].partition(";base64,")
        if kind == "data:image/svg+xml":
            assert b"<script" not in base64.b64decode(data)
