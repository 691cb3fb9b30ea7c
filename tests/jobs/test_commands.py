"""Commands that need no cluster.

`tests/e2e` covers the other commands, `tests/e2e/test_submit.py` covers `jobs/run.py`.

Covers `jobs/doctor.py` and `jobs/table.py` too.
"""

import json
import os
import signal
import time
from threading import Event

import pytest
import ray
import yaml

from diffmix.config import to_dict
from jobs.cli import main


def test_doctor_finds_a_machine_that_can_run(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("ray 2.", "torch 2.", "CPU cores", "attention", "deepspeed imports"):
        assert word in text


def test_doctor_says_what_cannot_be_built_and_what_to_install(capsys, monkeypatch):
    from jobs import doctor

    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr("engine.results.summary.versions", lambda: {"xformers": None})
    assert main(["doctor"]) == 0, "a machine without a compiler can run"
    text = capsys.readouterr().out
    assert "no C++ compiler (g++ or clang++): torch.compile cannot build its kernels" in text
    assert "pip install -e '.[attention]' -c constraints.txt" in text


@pytest.mark.parametrize("gone", ["gcc", "Python.h"])
def test_doctor_knows_what_triton_builds_with(monkeypatch, gone):
    from jobs import doctor

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(
        doctor.shutil, "which", lambda name: None if gone == name or name == "clang" else name
    )
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: not path.endswith(gone))
    (finding,) = doctor._compile()
    assert finding.state == "note"
    assert finding.what.startswith(f"no {'C compiler' if gone == 'gcc' else gone}")


def test_a_command_that_is_told_to_end_says_how_to_go_on(monkeypatch, capsys):
    """As `ray job stop` and batch systems tell it."""
    before = signal.getsignal(signal.SIGTERM)
    closed = []

    def plan(config):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            Event().wait(30)
        except Exception:
            raise AssertionError("it was taken for an error") from None
        finally:
            closed.append(True)

    monkeypatch.setattr("jobs.commands.plan", plan)
    assert main(["plan"]) == 143
    assert capsys.readouterr().err == "diffmix: told to end; the same command resumes from here.\n"
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_plan_counts_and_starts_nothing(tmp_path, small_config, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            to_dict(
                small_config(
                    tmp_path / "out", **{"placement.mixers": (3,), "placement.trainers": 2}
                )
            )
        )
    )
    assert main(["plan", "--config", str(recipe)]) == 0
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip()
        for line in capsys.readouterr().out.splitlines()
        if line.count("│") == 3
    }
    assert rows["mixes planned"] == "40"
    assert rows["classes"] == "4"
    assert rows["GPUs asked for"] == "5 (3 mix, 2 train; overlapped)"
    assert "unknown" in rows["expected time"]
    assert not ray.is_initialized()


def test_plan_tells_what_became_of_each_file(tmp_path, small_config, write_images, capsys):
    photos = write_images(tmp_path / "photos", ["Train/[red] $", "Train/{}", "TEST/{}"], 4)
    (photos / "Train" / "[red] $" / "0.xmp").write_text("<x/>")
    (photos / "Train" / "{}" / "notes").write_text("no image")
    (photos / "Train" / "{}" / "0.png").write_bytes(b"no image")
    twin = (photos / "TEST" / "{}" / "1.png").read_bytes()
    (photos / "Train" / "{}" / "1.png").write_bytes(twin)
    config = small_config(tmp_path / "out", **{"data.train": str(photos)})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    assert main(["plan", "--config", str(recipe)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"training images: {photos}, Train/"
    assert lines[2] == f"test images: {photos}, TEST/"
    assert lines[3:11] == [
        "images used: 11 of 14 files and rows",
        "ignored: 2",
        "  1 no images: Train/{}/notes",
        "  1 side-cars of cameras and editors: Train/[red] $/0.xmp",
        "unreadable: 1",
        "  1 not a JPEG, PNG, WebP, BMP, TIFF, GIF, JPEG 2000 or PPM image: Train/{}/0.png",
        "note: 1 of 2 classes have no test images: '[red] $'",
        "note: test images that are training images too: 1 (1 with the same bytes, 0 with the same "
        "pixels in another file), such as 'TEST/{}/1.png' and 'Train/{}/1.png'; "
        "--data.drop_duplicates True leaves them out",
    ]


def test_plan_goes_by_the_rates_of_another_run(tmp_path, small_config, capsys):
    recipe, other = tmp_path / "recipe.yaml", tmp_path / "other"
    other.mkdir()
    # 40 mixes at 0.4 a second are 100 s on one mixer; training draws 4 epochs of 3 batches of 8 of
    # the 20 images: 100 s at 0.96
    summary = {
        "mixer": {"images_per_busy_second": 0.4},
        "trainer": {"workers": 1, "images_per_second": 0.96},
    }
    (other / "summary.json").write_text(json.dumps(summary))
    config = small_config(
        tmp_path / "out",
        **{"placement.auto": True, "placement.measured": str(other), "run.train_after": 0.0},
    )
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    assert main(["plan", "--config", str(recipe)]) == 0
    text = capsys.readouterr().out
    assert "2 (split by rates; overlapped)" in text
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in text.splitlines()
        if line.count("│") == 8
    ]
    assert ["2", "1", "1", "100.00", "100.00", "100.00", "0.06"] in rows


@pytest.fixture
def runs(tmp_path):
    """A folder with one run that has ended and one that does not exist any more."""
    (tmp_path / "birds").mkdir()
    now = time.time()
    events = [
        {"event": "start", "time": now - 90, "command": now - 90},
        {"event": "plan", "time": now - 89, "planned": 64, "stored": 64, "epochs": 3},
        {"event": "result", "time": now, "train": 0.75, "baseline": None},
        {"event": "end", "time": now, "outcome": "done", "error": ""},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (tmp_path / "birds" / "metrics.jsonl").write_text(lines)
    (tmp_path / "birds" / "summary.json").write_text(json.dumps({"accuracy": {"top1": 0.75}}))
    return tmp_path


def test_ls_has_a_line_for_each_run(runs, capsys):
    assert main(["ls", str(runs)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "birds" in line)
    assert line.split() == ["birds", "done", "75.0", "%", "64/64", "1", "min", "0", "s"]
    assert main(["ls", str(runs / "birds" / "..")]) == 0
    (runs / "empty").mkdir()
    assert main(["ls", "--out", str(runs / "empty")]) == 0
    assert "no runs below" in capsys.readouterr().out


def test_watch_shows_the_run_and_ends_as_it_ended(runs, capsys):
    assert main(["watch", str(runs / "birds"), "--run.display", "lines"]) == 0
    assert capsys.readouterr().err.endswith("] done: accuracy 75.0 %\n")
    assert main(["watch", str(runs / "birds"), "--run.display", "json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["event"] for line in out] == ["start", "plan", "result", "end"]
    failed = (runs / "birds" / "metrics.jsonl").read_text().replace('"done"', '"failed"')
    (runs / "birds" / "metrics.jsonl").write_text(failed)
    assert main(["watch", str(runs / "birds")]) == 1


@pytest.mark.parametrize("words", [["a", "b"], []])
def test_a_command_of_one_folder_takes_one(words, capsys):
    assert main(["watch", *words]) == 2
    assert "diffmix watch takes one folder, but got" in capsys.readouterr().err


def test_a_defect_says_where_to_look(monkeypatch, capsys, tmp_path):
    from jobs import commands

    def broken(config):
        raise ValueError("this cannot be")

    monkeypatch.setattr(commands, "plan", broken)
    assert main(["plan"]) == 1
    text = capsys.readouterr().err
    assert "ValueError: this cannot be" in text
    assert "what libraries printed here is in " in text
    assert "--run.verbose True prints all of it." in text


def test_json_keeps_standard_output_for_json(monkeypatch, capsys):
    from jobs import commands

    monkeypatch.setattr("engine.run.run", lambda *_, **__: {"accuracy": {"top1": 0.5}})
    monkeypatch.setattr(commands, "_require_shared_out", lambda _: None)
    assert main(["run", "--out", "x", "--run.display", "json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"event": "summary", "accuracy": {"top1": 0.5}}
