"""Faults in real runs on a cluster of three nodes: every mix is made once, in the bytes of a run
without faults, and the classifier ends with the same weights.
"""

import os
import re
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import pytest
import ray
from safetensors.torch import load_file
from torch import equal

from diffmix.errors import UserError
from engine import phases
from engine.mixing.job import MixJob, build_mixer
from engine.run import run, run_mixing, run_training

COMMON = {
    "placement.separate": True,
    "placement.mixers": (2,),
    "mix.count": 160,
    "train.epochs": 12,
    "train.eval_every": 12,
    "train.checkpoint_minutes": 1e-9,
}


@dataclass(frozen=True)
class Faulty:
    """`MixJob.build` of real mixers, of which one hangs once at the mix `hangs`, and each raises at
    the mix `poison`.
    """

    folder: str
    hangs: int = -1
    poison: int = -1

    def __call__(self, job: MixJob) -> "_FaultyMixer":
        return _FaultyMixer(self, build_mixer(job))


@dataclass(frozen=True)
class _FaultyMixer:
    settings: Faulty
    mixer: object

    def mix(self, specs, sources):
        ids = [spec.mix_id for spec in specs]
        if self.settings.poison in ids:
            raise ValueError("poisoned")
        hung = Path(self.settings.folder, "hung")
        if self.settings.hangs in ids and not hung.exists():
            hung.touch()
            Event().wait()
        return self.mixer.mix(specs, sources)


@pytest.fixture(scope="module")
def undisturbed(nodes, tmp_path_factory, small_config) -> Path:
    """The folder of a staged run without faults."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name in KEYS:
            patch.setenv(name, f"secret-{name}")
        run(small_config(out, **COMMON, **{"run.mode": "staged"}))
    return out


KEYS = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY")


def test_no_file_of_a_run_holds_a_key_of_the_environment(undisturbed):
    files = [file for file in undisturbed.rglob("*") if file.is_file()]
    assert len(files) > 20
    for file in files:
        assert b"secret-" not in file.read_bytes(), file


def test_a_killed_a_hanging_and_a_poisoned_mixer(
    nodes, undisturbed, tmp_path, small_config, monkeypatch, when, record, events, parts
):
    """SIGKILL, a call that never returns, and a chunk that raises every time, in one run. A second
    run in the folder is refused meanwhile.
    """
    out = tmp_path / "out"
    config = small_config(out, **COMMON, **{"run.chunk_deadline": 10.0})
    make_job = phases.mix_job
    build = Faulty(str(tmp_path), hangs=50, poison=30)
    monkeypatch.setattr(phases, "mix_job", lambda *given: replace(make_job(*given), build=build))
    refusals = []

    def second_run() -> None:
        try:
            run_mixing(config)
        except UserError as error:
            refusals.append(str(error))

    def kill() -> None:
        ready = [event for event in events(out) if event["event"] == "mixer_ready"]
        os.kill(ready[0]["pid"], signal.SIGKILL)

    when(lambda: len(parts(out)) >= 2, second_run)
    killed = when(lambda: len(parts(out)) >= 5, kill)
    hung = when(lambda: (tmp_path / "hung").exists(), lambda: None)
    summary = run_mixing(config)
    assert len(refusals) == 1
    assert "is in use by another run" in refusals[0]
    wanted = parts(undisturbed)
    poisoned = next(event["chunk"] for event in events(out) if event["event"] == "set_aside")
    aside = f"part-{poisoned:08d}.parquet"
    made = parts(out)
    assert made == {name: data for name, data in wanted.items() if name != aside}
    count = summary["plan"]["set_aside"]
    assert 1 <= count <= config.mix.batch
    assert summary["plan"] == {
        "planned": 160,
        "stored": 160 - count,
        "rejected": 0,
        "set_aside": count,
    }
    assert record("SIGKILL of a mixer", out, killed.moment)["lost"] == 0
    assert record("a mixer that hangs (deadline 10 s)", out, hung.moment)["lost"] == 0
    assert record("a chunk that raises every time", out, killed.moment, seconds=0.0)["lost"] == 0
    # Without its cause the chunk is made, and the store is that of the run without faults.
    monkeypatch.setattr(phases, "mix_job", make_job)
    run_mixing(small_config(out, **COMMON, **{"run.repair": True}))
    assert parts(out) == wanted


def test_a_killed_train_worker_goes_on_within_its_epoch(
    nodes, undisturbed, tmp_path, small_config, when, record, events, parts
):
    """The loss curve and the weights are those of the run without faults, bit by bit."""
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    for name in ("classifier", "checkpoints", "metrics.jsonl", "summary.json"):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = small_config(out, **COMMON, **{"run.mode": "staged"})

    def epochs(folder: Path) -> list[dict]:
        return [event for event in events(folder) if event["event"] == "train"]

    killed = when(
        lambda: len(epochs(out)) >= 2, lambda: os.kill(epochs(out)[-1]["pid"], signal.SIGKILL)
    )
    run_training(config)
    assert record("SIGKILL of a train worker (staged)", out, killed.moment)["lost"] == 0
    assert len({event["pid"] for event in epochs(out)}) == 2
    found, wanted = curve(epochs(out)), curve(epochs(undisturbed))
    # The event of the epoch in which the worker dies may die with it.
    assert found.items() <= wanted.items()
    assert len(found) >= len(wanted) - 1
    one, other = (
        load_file(folder / "classifier/model.safetensors") for folder in (out, undisturbed)
    )
    assert all(equal(one[name], other[name]) for name in one)


def curve(epochs: list[dict]) -> dict[int, tuple]:
    """What each epoch has seen; of one that was repeated, both must be the same."""
    found: dict[int, tuple] = {}
    for event in epochs:
        seen = (event["loss"], event["images"], event["synthetic"])
        assert found.setdefault(event["epoch"], seen) == seen
    return found


def test_a_mixing_node_dies_and_every_mix_is_made(
    nodes, undisturbed, tmp_path, small_config, when, record, events, parts
):
    out = tmp_path / "out"
    kept: dict[str, int] = {}

    def kill() -> None:
        nodes.kill_mixing_node()
        # A part that is written again gets another inode.
        kept.update({file.name: file.stat().st_ino for file in (out / "mixes").glob("part-*")})

    killed = when(lambda: len(parts(out)) >= 5, kill)
    summary = run(small_config(out, **COMMON, **{"run.train_after": 0.2}))
    killed.thread.join()
    nodes.add_mixing_node()
    assert kept
    assert all((out / "mixes" / name).stat().st_ino == inode for name, inode in kept.items()), (
        "a stored part was made again"
    )
    assert summary["plan"] == {"planned": 160, "stored": 160, "rejected": 0, "set_aside": 0}
    assert parts(out) == parts(undisturbed)
    assert record("a mixing node dies (overlapped)", out, killed.moment)["lost"] == 0


@dataclass(frozen=True)
class Held:
    """`MixJob.build` of real mixers, none of which finishes a chunk before the file `go` is there.
    Each that has begun one leaves a file `begun-`, with its node's id.
    """

    folder: str

    def __call__(self, job: MixJob) -> "_HeldMixer":
        return _HeldMixer(self.folder, build_mixer(job))


@dataclass(frozen=True)
class _HeldMixer:
    folder: str
    mixer: object

    def mix(self, specs, sources):
        node = ray.get_runtime_context().get_node_id()
        Path(self.folder, f"begun-{node}").touch()
        while not Path(self.folder, "go").exists():
            Event().wait(0.05)  # files send no event
        return self.mixer.mix(specs, sources)


def test_a_mixing_node_that_is_going_away_takes_no_more_chunks(
    nodes, undisturbed, tmp_path, small_config, monkeypatch, when, record, events, parts, drain
):
    """One of two mixers gets the notice. Its chunk is finished, its other tasks go to others, and a
    third mixer starts on a spare node at once, while the first one still holds its own.
    """
    nodes.add_mixing_node()
    out = tmp_path / "out"
    make_job = phases.mix_job
    build = Held(str(tmp_path))
    monkeypatch.setattr(phases, "mix_job", lambda *given: replace(make_job(*given), build=build))
    leaving: list[str] = []

    def ready() -> list[dict]:
        return [event for event in events(out) if event["event"] == "mixer_ready"]

    def notice() -> None:
        leaving.append(next(tmp_path.glob("begun-*")).name.removeprefix("begun-"))
        drain(nodes.cluster, leaving[0], 600)

    both = when(lambda: len(list(tmp_path.glob("begun-*"))) >= 2, notice)
    when(lambda: len(ready()) >= 3, (tmp_path / "go").touch)
    summary = run_mixing(small_config(out, **COMMON))
    assert both.moment is not None
    assert summary["plan"] == {"planned": 160, "stored": 160, "rejected": 0, "set_aside": 0}
    assert parts(out) == parts(undisturbed)
    made = [event for event in events(out) if event["event"] == "mix"]
    assert len(made) == len({event["chunk"] for event in made}), "a chunk was made twice"
    by_node = {event["actor"]: event["node"] for event in ready()}
    assert len(set(by_node.values())) == 3
    assert len([event for event in made if by_node[event["actor"]] == leaving[0]]) == 1
    (note,) = [event for event in events(out) if event["event"] == "note"]
    assert re.match(
        r"node [\d.]+ is going away in \d+ s: its mixer finishes its chunk and takes no more; its "
        r"\d+ tasks go to other mixers",
        note["text"],
    )
    assert record("a mixing node's notice", out, both.moment)["repeated"] == 0
    nodes.end(leaving[0])


def test_bad_parts_are_named_and_made_again(nodes, undisturbed, tmp_path, small_config, parts):
    """A part cut in half, a part of another plan and a flipped bit in an image."""
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    shutil.rmtree(out / "checkpoints")
    shutil.rmtree(out / "classifier")
    names = sorted(parts(out))
    half, foreign, flipped = (out / "mixes" / names[number] for number in (1, 3, 5))
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    foreign.write_bytes((out / "mixes" / names[8]).read_bytes())
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 1
    flipped.write_bytes(content)
    config = small_config(out, **COMMON, **{"run.mode": "staged", "placement.max_failures": 0})
    with pytest.raises(UserError, match=rf"{half.name} .*--run\.repair True"):
        run_training(config)
    run(small_config(out, **COMMON, **{"run.mode": "staged", "run.repair": True}))
    assert parts(out) == parts(undisturbed)
    damaged = sorted(file.name for file in (out / "mixes" / "damaged").iterdir())
    assert damaged == [f"{part.name}.damaged" for part in (half, foreign, flipped)]
