"""Inputs that nobody thought of, made by hypothesis: there is a result or one sentence, never a
crash, and never a file outside its folder.

`FUZZ_EXAMPLES` (50) is the number of inputs of each test; `pytest -m slow tests/fuzz` has the long
ones.
"""

import io
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from PIL import Image

from diffmix import images
from diffmix.config import Config, MixConfig
from diffmix.errors import UserError
from diffmix.formats import lora
from diffmix.options import options
from diffmix.plan import MixPlan, denoising_steps
from engine.mixing.store import SCHEMA, MixStore, part_name
from engine.testing import mix_table
from jobs.options import load, parse

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

WORDS = st.one_of(
    st.text(max_size=40),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["None", "True", "0", "-1", "1e9999", "..", "/", "nano", "\x00", "[]", "{}"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)
NAMES = st.sampled_from(sorted(options(Config)))


def sentence(error: UserError) -> None:
    assert str(error).strip(), "an empty sentence"


@FUZZ
@given(st.lists(st.tuples(NAMES | st.text(max_size=20), st.lists(WORDS, max_size=3)), max_size=4))
def test_command_lines(named):
    arguments = []
    for name, words in named:
        arguments += [f"--{name}", *words]
    try:
        config = parse([word for word in arguments if not word.startswith("--config")])
        assert isinstance(config, Config)
    except UserError as error:
        sentence(error)


@FUZZ
@given(tree=st.dictionaries(NAMES | st.text(max_size=12), VALUES, max_size=5))
def test_config_trees(tree, tmp_path_factory):
    import yaml

    nested: dict = {}
    for name, value in tree.items():
        group, dot, leaf = name.partition(".")
        if dot and isinstance(nested.setdefault(group, {}), dict):
            nested[group][leaf] = value
        else:
            nested[name] = value
    file = tmp_path_factory.getbasetemp() / "tree.yaml"
    file.write_text(yaml.safe_dump(nested))
    try:
        assert isinstance(load(str(file)), Config)
    except UserError as error:
        sentence(error)


@FUZZ
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_yaml(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(data)
    try:
        assert isinstance(load(str(file)), Config)
    except UserError as error:
        sentence(error)


@FUZZ
@given(
    classes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    count=st.integers(1, 200),
    batch=st.integers(1, 33),
    seed=st.integers(0, 2**31),
    strengths=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
    strategy=st.sampled_from(["real-mix", "diff-aug", "real-gen"]),
    source_sampling=st.sampled_from(["class", "image"]),
)
def test_plans(classes, count, batch, seed, strengths, strategy, source_sampling):
    """Every id once, chunks disjoint, of equal steps and no larger than the batch, and any part of
    the plan alone is the same.
    """
    labels = np.repeat(np.arange(len(classes)), classes)
    config = MixConfig(
        count=count,
        batch=batch,
        strength=tuple(strengths),
        strategy=strategy,
        source_sampling=source_sampling,
        num_inference_steps=20,
    )
    plan = MixPlan(config, labels, [f"i{i}" for i in range(len(labels))], len(classes), seed)
    chunks = [plan.chunk_ids(number).tolist() for number in range(plan.num_chunks)]
    assert sorted(i for chunk in chunks for i in chunk) == list(range(count))
    assert max(map(len, chunks)) <= batch
    for number, chunk in enumerate(chunks):
        specs = plan.chunk(number)
        assert [spec.mix_id for spec in specs] == chunk
        assert len({int(denoising_steps(spec.strength, 20)) for spec in specs}) == 1
        assert specs[-1] == plan[chunk[-1]]
        for spec in specs:
            assert 0 <= spec.target_label < len(classes)
            assert 0 < spec.strength <= 1


class KilledStore(RuleBasedStateMachine):
    """Any sequence of writing, killing in the middle of it, damaging and resuming: what is stored
    stays, and a resumed run ends with the bytes of a run without faults.
    """

    CHUNKS = 6
    folder: Path

    def __init__(self):
        super().__init__()
        import tempfile

        self.folder = Path(tempfile.mkdtemp(prefix="diffmix-fuzz-"))
        self.store = MixStore(str(self.folder / "store"))
        self.store.folder.create()
        whole = MixStore(str(self.folder / "whole"))
        for chunk in range(self.CHUNKS):
            whole.write(chunk, self.mixes(chunk))
        self.whole = self.content("whole")
        self.acknowledged: set[int] = set()

    def mixes(self, chunk: int) -> pa.Table:
        return mix_table(2, 2 * chunk)

    def content(self, name: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (self.folder / name).glob("part-*")}

    @rule(chunk=st.integers(0, CHUNKS - 1))
    def write(self, chunk):
        self.store.write(chunk, self.mixes(chunk))
        self.acknowledged.add(chunk)

    @rule(chunk=st.integers(0, CHUNKS - 1), at=st.integers(0, 2))
    def killed_while_writing(self, chunk, at):
        """Before anything, after the checksum, and with half of a temporary file."""
        if at:
            (self.folder / "store" / "checksums").mkdir(exist_ok=True)
            from engine.mixing.store import checksum

            text = checksum(self.mixes(chunk))
            (self.folder / "store" / "checksums" / f"{chunk:08d}.sha256").write_text(text)
        if at == 2:
            half = self.whole[part_name(chunk)][:100]
            (self.folder / "store" / f".{chunk}.tmp").write_bytes(half)

    @rule()
    def resume(self):
        for chunk in set(range(self.CHUNKS)) - self.store.stored_chunks():
            self.write(chunk)
        assert self.content("store") == self.whole

    @rule(chunk=st.integers(0, CHUNKS - 1), keep=st.integers(0, 400))
    def damage_and_repair(self, chunk, keep):
        from engine.mixing.part_check import repair

        file = self.folder / "store" / part_name(chunk)
        if file.exists():
            file.write_bytes(file.read_bytes()[:keep])
            assert repair(self.store, None) == [chunk]
            self.acknowledged.discard(chunk)

    @invariant()
    def what_was_acknowledged_stays(self):
        assert self.store.stored_chunks() == self.acknowledged
        for chunk in self.acknowledged:
            assert self.store.read(chunk).equals(self.mixes(chunk))

    def teardown(self):
        import shutil

        shutil.rmtree(self.folder)


def test_any_sequence_of_kill_and_resume():
    run_state_machine_as_test(
        KilledStore,
        settings=settings(FUZZ, max_examples=max(10, EXAMPLES // 5), stateful_step_count=12),
    )


def seeds() -> list[bytes]:
    """A small image of each format and some modes."""
    found = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM"):
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            Image.effect_noise((9, 7), 60).convert(mode).save(file, kind)
            found.append(file.getvalue())
    return found


SEEDS = seeds()


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Files with some bytes replaced, cut off, or repeated."""
    edits = st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=6)), max_size=6)

    def edit(seed: bytes, edits: list[tuple[int, bytes]], length: int) -> bytes:
        data = bytearray(seed)
        for at, new in edits:
            at %= len(data)
            data[at : at + len(new)] = new
        return bytes(data[: length % (2 * len(data)) or 1])

    return st.builds(edit, st.sampled_from(seeds), edits, st.integers(1, 10**6))


def decode(data: bytes) -> None:
    try:
        image = images.decode(data, 1e6)
        assert image.mode == "RGB"
    except images.BadImage:
        pass


@FUZZ
@given(st.one_of(st.binary(max_size=200), mutated(SEEDS)))
def test_image_bytes(data):
    decode(data)


@pytest.mark.slow
def test_a_hundred_thousand_images_stall_nothing_and_leak_nothing(capsys):
    """The same mutations without hypothesis, which would take hours. SIGALRM ends the process where
    one takes 10 s. Decoders are written in C, so it is the process's memory that is looked at.
    """
    random, memory = np.random.default_rng(0), psutil.Process().memory_info
    start = most = 0
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        for number in range(100_000):
            data = bytearray(SEEDS[number % len(SEEDS)])
            for _ in range(random.integers(1, 8)):
                at = int(random.integers(0, len(data)))
                new = random.bytes(int(random.integers(0, 5)))
                data[at : at + int(random.integers(0, 5))] = new
                data = data or bytearray(b"x")
            signal.setitimer(signal.ITIMER_REAL, 10)
            decode(bytes(data[: int(random.integers(1, len(data) + 1))]))
            if number == 5_000:
                start = memory().rss
            most = max(most, memory().rss)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    grown, highest = (memory().rss - start) / 1e6, (most - start) / 1e6
    with capsys.disabled():
        print(f"memory grew by {grown:.1f} MB in 95,000 images, at most by {highest:.1f} MB")
    assert grown < 20
    assert highest < 100


def part_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="diffmix-fuzz-") as folder:
        MixStore(folder).write(0, mix_table(3))
        return [Path(folder, part_name(0)).read_bytes()]


PARTS = part_seeds()


@FUZZ
@given(st.one_of(st.binary(max_size=100), mutated(PARTS)))
def test_parquet_files_of_others(tmp_path_factory, data):
    """With the stored checksum, what is read is what was stored."""
    folder = tmp_path_factory.getbasetemp() / "parts"
    store = MixStore(str(folder))
    store.write(0, mix_table(3))
    (folder / part_name(0)).write_bytes(data)
    try:
        read = store.read(0).select(SCHEMA.names[:-2])
        assert read.equals(mix_table(3).select(SCHEMA.names[:-2]))
    except UserError as error:
        sentence(error)


def lora_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    down = {"unet.a.to_q.lora.down.weight": torch.zeros(2, 4)}
    return [save({**down, "unet.a.to_q.lora.up.weight": torch.zeros(4, 2)})]


@FUZZ
@given(st.one_of(st.binary(max_size=100), mutated(lora_seeds())))
def test_safetensors_files_of_others(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "pytorch_lora_weights.safetensors"
    file.write_bytes(data)
    try:
        for value in lora.read(file).values():
            assert value.dtype.is_floating_point
    except UserError as error:
        sentence(error)


@FUZZ
@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=3, unique=True))
def test_exports_of_any_names(tmp_path_factory, names):
    """`..`, absolute names, control characters, reserved names, mixed normalization."""
    import shutil

    from diffmix.formats import FORMATS
    from diffmix.formats.named_mix import NamedMix
    from diffmix.storage import Folder

    root = tmp_path_factory.getbasetemp() / "names"
    shutil.rmtree(root, ignore_errors=True)
    out = root / "in" / "out"
    out.mkdir(parents=True)
    mixes = [
        NamedMix(
            **{**asdict_of(number), "source": name, "target": names[0], "source_id": name},
            load=lambda: SEEDS[3],
        )
        for number, name in enumerate(names)
    ]
    for layout in FORMATS.values():
        try:
            layout.write(Folder(str(out)), mixes, names)
        except UserError as error:
            sentence(error)
        except UnicodeEncodeError:
            pass  # half of a surrogate pair, which no file system has
    inside = [path for path in root.rglob("*") if path.is_file() and out in path.parents]
    assert inside == [path for path in root.rglob("*") if path.is_file()]


def asdict_of(number: int) -> dict:
    return {"mix_id": number, "strength": 0.5, "seed": 1, "score": None, "accepted": True}
