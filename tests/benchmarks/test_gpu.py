"""The measurement of a GPU: what its runner does with failing sections, and a rehearsal of all."""

import io
import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks.gpu import runner, table
from benchmarks.gpu.section import Goal, Section
from benchmarks.gpu.suite import counts
from benchmarks.gpu.timing import Kernel, busy_seconds, kind, shares

PART_SECONDS = 570  # of ten minutes, which is what a lent machine may give to one command
LINES = 40


def rehearse(out, part, *more):
    """What a rehearsal of a part prints."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", str(out)]
    done = subprocess.run(
        [*command, "--part", str(part), *more], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.trains
def test_a_rehearsal_runs_every_section_on_a_cpu(tmp_path):
    for part in (1, 2):
        assert len(rehearse(tmp_path, part)) <= LINES
    kept = json.loads((tmp_path / "gpu.json").read_text())
    verdicts = {name: section["verdict"] for name, section in kept["sections"].items()}
    assert verdicts == {section.name: "done" for section in table.SECTIONS}
    assert kept["rehearsal"]
    figures = kept["figures"]
    assert figures["bytes.same_after_another"] == 1
    assert figures["bytes.same_from_two_threads"] == 1
    assert figures["bytes.same_in_other_processes"] == 1
    assert figures["agreement.nano_fp32_psnr_db_min"] > 40
    assert not any(section["goals"] for section in kept["sections"].values()), "no claims"


def test_a_part_fits_its_time_and_its_lines():
    for part in (1, 2):
        sections = table.of_part(part)
        assert sum(section.seconds for section in sections) <= PART_SECONDS
        printed = sum(max(1, len(section.shown)) for section in sections)
        assert printed + 3 <= LINES  # what runs, the columns, and the last line
    names = [section.name for section in table.SECTIONS]
    assert len(set(names)) == len(names)


def test_sections_import_without_what_a_gpu_machine_may_lack():
    modules = sorted({section.run.partition(":")[0] for section in table.SECTIONS})
    imports = ", ".join(f"benchmarks.gpu.{name}" for name in modules)
    missing = ", ".join(f"{name}=None" for name in ("ray", "xformers", "deepspeed", "tyro"))
    code = f"import sys; sys.modules.update({missing}); import {imports}"
    subprocess.run([sys.executable, "-c", code], check=True)


class Failing(Section):
    """A section whose function is one of those below."""

    def function(self):
        return FUNCTIONS[self.name]


def _good(context):
    yield "figure", 2
    yield "remark", "seen"


def _raising(context):
    yield "figure", 1
    raise ValueError("a reason\nand more")


def _dying(context):
    yield "figure", 1
    os._exit(9)


def _hanging(context):
    yield "figure", 1
    time.sleep(600)


FUNCTIONS = {"good": _good, "raising": _raising, "dying": _dying, "hanging": _hanging}


@pytest.fixture
def running(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_GRACE", 0.5)
    return runner.Runner(str(tmp_path), rehearse=True, method="fork")


def section(name, **more):
    usual = {"part": 1, "run": "none:none", "shown": ("figure",), "seconds": 20}
    return Failing(name=name, **{**usual, **more})


def test_what_a_section_gave_before_it_failed_is_kept(running):
    good = running.run(section("good"), {})
    assert (good.verdict, good.figures, good.remarks) == ("done", {"figure": 2}, {"remark": "seen"})
    raised = running.run(section("raising"), {})
    assert (raised.verdict, raised.figures) == ("failed: ValueError: a reason", {"figure": 1})
    died = running.run(section("dying"), {})
    assert died.figures == {"figure": 1}
    assert "ended without a word" in died.verdict


def test_a_section_that_hangs_is_ended_and_the_next_one_runs(running):
    hung = running.run(section("hanging", seconds=0), {})
    assert hung.verdict == "stopped: its time was used up"
    assert not set(runner._children()) - set(running._own)
    assert running.run(section("good"), {}).verdict == "done"


def test_a_section_without_its_module_or_without_time_says_so(running):
    outcome = running.run(section("good", needs=("no_such_module",)), {})
    assert outcome.verdict == "skipped: no_such_module is not installed"
    running.end = time.monotonic() - 1
    assert running.run(section("good"), {}).verdict == "skipped: the part's time was used up"


def record(folder, gpus=("a card",), rehearse=False):
    printed = io.StringIO()
    machine = {"cpu": "a processor", "gpus": list(gpus)}
    return runner.Record(folder, machine, {"torch": "1"}, rehearse, printed), printed


def test_each_section_is_written_down_at_once_and_the_other_part_is_kept(tmp_path):
    kept, printed = record(tmp_path)
    goal = {"figure": Goal(4)}
    kept.keep(section("one", goals=goal), runner.Outcome(verdict="done", figures={"figure": 3.0}))
    assert "missed by 25%" in printed.getvalue()
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"] == {"one.figure": 3.0}
    again, printed = record(tmp_path)
    remarks = {"figure": "no DeepSpeed here"}
    again.keep(section("two"), runner.Outcome(verdict="done", remarks=remarks))
    assert "no DeepSpeed here" in printed.getvalue()
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert list(content["sections"]) == ["one", "two"]
    assert content["sections"]["one"]["goals"]["figure"]["goal"] == ">= 4"


def test_another_cards_figures_are_put_aside(tmp_path):
    kept, _ = record(tmp_path)
    kept.keep(section("one"), runner.Outcome(verdict="done", figures={"figure": 3.0}))
    other, printed = record(tmp_path, gpus=("another card",))
    assert "gpu.before.json" in printed.getvalue()
    assert other.figures == {}
    assert json.loads((tmp_path / "gpu.before.json").read_text())["figures"] == {"one.figure": 3.0}


def test_no_more_lines_are_printed_than_are_read(tmp_path):
    kept, printed = record(tmp_path)
    for number in range(60):
        kept.show(str(number))
    assert len(printed.getvalue().splitlines()) == LINES - 1  # and the last one
    assert kept.lines - kept.shown == 21


@pytest.mark.parametrize(
    ("goal", "figure", "verdict"),
    [
        (Goal(12, 15.5), 16, "stretch met"),
        (Goal(12, 15.5), 13, "met"),
        (Goal(12, 15.5), 9, "missed by 25%"),
        (Goal(15, 8, at_most=True), 7, "stretch met"),
        (Goal(15, 8, at_most=True), 30, "missed by 100%"),
        (Goal(0, at_most=True), 1, "missed"),
    ],
)
def test_verdicts(goal, figure, verdict):
    assert goal.verdict(figure) == verdict


def test_busy_time_counts_overlapping_kernels_once():
    ran = [
        Kernel("gemm", 0.0, 2.0, 2.0),
        Kernel("silu", 1.0, 3.0, 2.0),
        Kernel("sgemm", 5.0, 9.0, 4.0),
    ]
    assert busy_seconds(ran) == pytest.approx(7)
    assert shares(ran) == pytest.approx({"matmul": 0.75, "elementwise": 0.25})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("triton_poi_fused_convolution", "compiled"),
        ("pytorch_flash::flash_fwd_kernel", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "convolution"),
        ("nvjet_hsh_128x256", "matmul"),
        ("RowwiseMomentsCUDAKernel", "norm"),
        ("nchwToNhwcKernel", "layout and copy"),
        ("vectorized_elementwise_kernel", "elementwise"),
        ("something", "other"),
    ],
)
def test_kinds_of_kernels(name, expected):
    assert kind(name) == expected


def test_pytests_words_are_counted():
    text = (
        "tests/gpu/test_a.py::test_one PASSED\ntests/gpu/test_a.py::test_two[x] FAILED\n"
        "FAILED tests/gpu/test_a.py::test_two[x] - AssertionError: 1\n"
    )
    assert dict(counts(text)) == {
        "passed": 1,
        "failed": 1,
        "skipped": 0,
        "test_two[x]": "AssertionError: 1",
    }
    with pytest.raises(RuntimeError, match="no test"):
        next(counts("nothing"))


def test_without_a_gpu_nothing_is_measured(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--part", "1"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "no usable GPU" in done.stdout
    assert not (tmp_path / "gpu.json").exists()
