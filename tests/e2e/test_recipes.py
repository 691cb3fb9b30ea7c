"""Nano's recipes as they are shipped, from the command to the report. Minutes each: `pytest -m slow
tests/e2e/test_recipes.py`.
"""

import json
from pathlib import Path

import pytest

from jobs.cli import main

RECIPES = Path(__file__).parents[2] / "jobs" / "recipes" / "nano"
PROTOCOLS = ["few_shot", "conventional", "long_tail", "robustness"]
STRATEGIES = sorted(file.stem for file in (RECIPES / "strategies").glob("*-*.yaml"))

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.mark.parametrize(
    "name", [*PROTOCOLS, *(f"strategies/{strategy}" for strategy in STRATEGIES)]
)
def test_recipe_runs_and_reports(name, tmp_path):
    out = tmp_path / "out"
    assert main(["run", "--config", str(RECIPES / f"{name}.yaml"), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["plan"]["planned"] == summary["plan"]["stored"] + summary["plan"]["rejected"] > 0
    assert summary["trainer"]["synthetic_share"] > 0
    accuracy = summary["accuracy"]
    if (
        name != "strategies/real-mix"
    ):  # nine of ten of its mixes do not show what their labels say (docs/nano.md)
        assert accuracy["top1"] > 0.2, "chance is 0.1"
    assert set(accuracy["per_group"]) == {"china", "flower"}
    assert accuracy["worst_group"] == min(accuracy["per_group"].values())
    assert 0 <= accuracy["calibration"]["ece"] <= 1
    page = (out / "report.html").read_text()
    assert "Confusion" in page
    assert "Accuracy by group" in page
    if name == "long_tail":
        assert set(accuracy["per_size"]) == {"many", "medium", "few"}
