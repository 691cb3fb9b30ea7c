"""Covers docs/clusters.md: what it names exists, and its arithmetic is right."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/clusters.md").read_text()


def test_every_file_and_folder_that_the_page_names_exists():
    names = set(re.findall(r"\b(?:clusters|jobs)/[\w./-]+", PAGE))
    assert len(names) > 15
    missing = [name for name in names if not (ROOT / name.rstrip(".")).exists()]
    assert not missing


def test_every_file_of_clusters_that_a_user_calls_is_on_the_page():
    for name in ("aws/prepare.py", "aws/down.py", "gcp/prepare.sh", "gcp/down.sh"):
        assert f"clusters/{name}" in PAGE
    for overlay in (ROOT / "clusters/kuberay").glob("*/kustomization.yaml"):
        kind = "Component" if "kind: Component" in overlay.read_text() else "Kustomization"
        if kind == "Kustomization" and overlay.parent.name != "base":
            assert f"`{overlay.parent.name}`" in PAGE


def test_the_costs_arithmetic():
    personalize = 35_000 * 8 * (0.28 + 0.03 + 0.21)
    mix = 5 * 5_994 * 30.0
    train = 120 * 5_994 * 0.098
    for phase, work in {"personalize": personalize, "mix": mix, "train": train}.items():
        row = re.search(rf"\| {phase} \|.*\| ([\d,]+) \|", PAGE).group(1)
        assert int(row.replace(",", "")) == round(work, -3)
    for gpu, peak in {"L4": 121, "L40S": 362, "H100 SXM": 989}.items():
        row = re.search(rf"\| {gpu} \| {peak} \| (.*) \|", PAGE).group(1)
        hours = [float(cell.split()[0]) for cell in row.split("|")]
        expected = [work / (0.35 * peak) / 3600 for work in (personalize, mix, train)]
        assert hours == [round(hour, 1) for hour in [*expected, sum(expected)]]
    run = 0.3 + 0.2 + 2.0 / 4 + 0.2
    assert f"= {round(run * 1.00 + 2.0 * 0.40 + 4 * 0.2 * 0.40 + run * 0.10, 2)} of that" in PAGE
