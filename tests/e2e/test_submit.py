"""The real `ray job submit` client against the cluster that `clusters.local.start` starts, whose
workers start in the usual way and are no forks.

Covers `jobs/run.py` too.
"""

import json

import pytest
import yaml

from diffmix.config import to_dict


@pytest.fixture(scope="module")
def dashboard(own_clusters, local_cluster):
    """Address of a cluster of two local nodes that the project's commands start and stop. The
    shared cluster must not run: its agent has the port that this one's needs to take jobs.
    """
    with local_cluster("clusters.local.start", "--nodes", "2", "--gpus", "1") as (address, _):
        yield address


def test_good_job_makes_a_run_folder_and_bad_jobs_say_why(
    dashboard, submit, tmp_path, small_config
):
    """All three at the same time."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(to_dict(small_config("", **{"mix.count": 8, "train.epochs": 1})))
    )
    config, out = ("--config", str(recipe), "--out"), tmp_path / "out"
    good = submit(dashboard, *config, str(out))
    bad = submit(dashboard, *config, str(tmp_path / "bad"), "--mix.strength", "1.5")
    relative = submit(dashboard, *config, "runs/lost")

    for job, sentence in (
        (
            bad,
            "diffmix: --mix.strength is 1.5, "
            "but it must be one or more numbers above 0 and at most 1.",
        ),
        (relative, "give an absolute path or a URI"),
    ):
        output, _ = job.communicate(timeout=600)
        assert job.returncode != 0
        assert sentence in output

    output, _ = good.communicate(timeout=600)
    assert good.returncode == 0, output
    assert json.loads((out / "summary.json").read_text())["plan"]["stored"] == 8
    for name in ("config.yaml", "metrics.jsonl", "classifier/model.safetensors", "mixes/plan.json"):
        assert (out / name).exists()
