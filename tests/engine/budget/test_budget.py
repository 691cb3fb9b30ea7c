import threading
from types import SimpleNamespace

import pytest

from diffmix.config import Config, LimitsConfig, MixConfig, PlacementConfig, TrainConfig, replace
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.options.markers import numbers
from engine import phases
from engine.budget.budget import Budget, is_limited, is_measured, keeping_limits
from engine.budget.spending import Sight
from engine.mixing.stages import stream
from engine.mixing.store import MixStore
from engine.testing import SleepingMixer, StoppedMixer, simulated_mix_job, temporary_session


class Heard:
    """A telemetry that only keeps what it is told."""

    def __init__(self, events=()):
        self.events, self.stopped = list(events), None

    def record(self, kind, **values):
        self.events.append({"event": kind, **values})

    def stop_mixing(self, limit):
        self.stopped = limit


def budget(limits: dict, events=(), **changes) -> tuple[Budget, Heard]:
    config = replace(Config(limits=LimitsConfig(**limits)), **changes)
    telemetry = Heard(events)
    return Budget(SimpleNamespace(config=config, telemetry=telemetry)), telemetry


def sight(hours: float, gpus: float = 1.0, **nodes: int) -> Sight:
    return Sight(time=1e9 + 3600 * hours, gpus=gpus, nodes=nodes)


@pytest.mark.parametrize(
    ("limits", "sees", "stops_at"),
    [
        ({"hours": 10.0}, {}, 8),
        ({"hours": 10.0, "for_training": 0.5}, {}, 5),
        ({"gpu_hours": 40.0}, {"gpus": 4.0}, 8),
        ({"usd": 20.0, "prices": ("gen=1.5", "other=0.5")}, {"gen": 1, "other": 1}, 8),
    ],
)
def test_mixing_stops_while_training_can_still_be_paid(limits, sees, stops_at):
    """No epoch is timed yet: a share of the limit is kept."""
    watched, telemetry = budget(limits)
    for hour in range(stops_at):
        watched.see(sight(hour, **sees))
        assert telemetry.stopped is None
    watched.see(sight(stops_at, **sees))
    assert telemetry.stopped == next(iter(limits))


def test_timed_epochs_say_how_much_is_kept():
    """By hand: 3 of 8 epochs of half an hour are done, 2.5 hours are left."""
    epochs = [
        {"event": "train", "rank": 0, "epoch": epoch, "start": 0.0, "end": 1800.0}
        for epoch in range(3)
    ]
    watched, telemetry = budget({"hours": 10.0}, **{"train.epochs": 8})
    telemetry.events += epochs
    watched.see(sight(0))
    watched.see(sight(7.4))
    assert telemetry.stopped is None
    watched.see(sight(7.6))
    assert telemetry.stopped == "hours"


def test_mixing_nodes_are_gone_when_training_ends():
    """By hand: 2 hours of training on a node of $3 are left; the mixing nodes' $8 end with them."""
    epoch = {"event": "train", "rank": 0, "epoch": 0, "start": 0.0, "end": 7200.0}
    limits = {"usd": 100.0, "prices": ("gen=2", "train=3")}
    for separate, stops_at in ((True, 94.0), (False, 78.0)):
        changes = {"train.epochs": 2, "placement.separate": separate}
        watched, telemetry = budget(limits, **changes)
        telemetry.events.append(epoch)
        watched.see(sight(0, gen=4, train=1))
        watched.see(sight((stops_at - 1) / 11, gen=4, train=1))
        assert telemetry.stopped is None
        watched.see(sight((stops_at + 1) / 11, gen=4, train=1))
        assert telemetry.stopped == "usd"


def test_a_later_attempt_goes_on_from_what_was_spent():
    watched, telemetry = budget({"hours": 10.0})
    watched.see(sight(0))
    watched.see(sight(7))
    watched.keep()
    again, heard = budget({"hours": 10.0}, telemetry.events)
    again.see(sight(100))
    assert heard.stopped is None
    again.see(sight(101.1))
    assert heard.stopped == "hours"


def test_a_stop_stays_until_a_limit_changes():
    """The epochs of an attempt that was cut short would leave room for more mixes."""
    watched, telemetry = budget({"hours": 10.0})
    watched.see(sight(0))
    watched.see(sight(8.1))
    epoch = {"event": "train", "rank": 0, "epoch": 0, "start": 0.0, "end": 1.0}
    for limit, stopped in ((10.0, "hours"), (20.0, None)):
        again, heard = budget({"hours": limit}, [*telemetry.events, epoch])
        again.see(sight(100))
        assert heard.stopped == stopped


def test_no_limit():
    assert not is_limited(Config())
    assert is_limited(Config(limits=LimitsConfig(usd=1.0)))
    priced = Config(limits=LimitsConfig(prices=("gen=0.5",)))
    assert (is_limited(priced), is_measured(priced)) == (False, True)
    assert not is_measured(Config())
    with keeping_limits(SimpleNamespace(config=Config())):
        assert "budget" not in {thread.name for thread in threading.enumerate()}


def test_dollars_need_prices():
    with pytest.raises(UserError, match=r"limits\.prices is empty, but it must be given where"):
        check(Config(limits=LimitsConfig(usd=1.0)))
    check(Config(limits=LimitsConfig(usd=1.0, prices=("gen=1",))))


@pytest.mark.usefixtures("cluster")
def test_what_is_begun_when_mixing_stops_is_stored_and_no_more():
    """Two chunks are made before the stop. The mixer holds one more, and another may wait."""
    with temporary_session(of_sixty(), 30, count=40) as session:
        job = simulated_mix_job(session, StoppedMixer(2, SleepingMixer(0.0, 9)))
        watched = Budget(session)
        watched.see(sight(0))
        mixes = stream(job, phases.missing_chunks(job, 30))
        passed = 0
        for table in mixes.iter_batches(batch_size=None, batch_format="pyarrow"):
            passed += len(table)
            watched.see(sight(2))
        store = MixStore(job.store)
        made = len(store.stored_numbers())
        assert 2 <= made <= 5
        assert store.counts() == (2 * made, 0)
        assert passed == 2 * made, "nothing that was made is lost"
        phases.make_mixes(session, job)
        assert len(store.stored_numbers()) == made, "none is begun after the stop"


@pytest.mark.usefixtures("cluster")
def test_a_stream_that_starts_after_the_stop_makes_nothing():
    with temporary_session(of_sixty(), 30, count=40) as session:
        job = simulated_mix_job(session, SleepingMixer(0.0, 9))
        session.telemetry.stop_mixing("hours")
        session.telemetry.stopped = None  # as where it stops a moment after the stream's start
        phases.make_mixes(session, job)
        assert len(MixStore(job.store).stored_numbers()) == 0


def of_sixty() -> Config:
    """30 chunks."""
    return Config(
        mix=MixConfig(count=60, batch=2, strategy="real-mix"),
        train=TrainConfig(epochs=1, batch_size=4),
        placement=PlacementConfig(cpus_per_mixer=0.5),
        limits=LimitsConfig(hours=1.0),
    )


def test_prices_are_words_or_a_mapping(tmp_path):
    from jobs.options import parse

    words = parse(["--limits.usd", "3", "--limits.prices", "gen=0.4", "train=2.1"]).limits
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("limits: {usd: 3, prices: {gen: 0.4, train: 2.1}}")
    assert parse(["--config", str(recipe)]).limits == words
    assert numbers(words.prices) == {"gen": 0.4, "train": 2.1}
    with pytest.raises(UserError, match=r"limits\.prices"):
        check(parse(["--limits.prices", "gen=cheap"]))
