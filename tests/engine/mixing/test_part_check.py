"""Bad parts are named, and made again where the user wants that."""

from dataclasses import asdict
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffmix.config import Config, MixConfig
from diffmix.errors import UserError
from diffmix.plan import make_plan
from diffmix.strategies.mix_spec import SPEC_COLUMNS
from engine.mixer.tries import SetAside
from engine.mixing.part_check import PartCheck, check_of, repair
from engine.mixing.store import SCHEMA, MixStore, part_name


@pytest.fixture
def plan(tiny_real):
    config = Config(mix=MixConfig(count=20, batch=4, strategy="real-mix", num_inference_steps=4))
    return make_plan(config, tiny_real)


def fill(store: MixStore, plan) -> None:
    for number in range(plan.num_chunks):
        rows = [
            {**asdict(spec), "image": b"image", "score": None, "accepted": True}
            for spec in plan.chunk(number)
        ]
        store.write(number, pa.Table.from_pylist(rows, schema=SCHEMA))


def test_parts_of_the_plan_are_read(tmp_path, plan):
    store = MixStore(str(tmp_path))
    fill(store, plan)
    check = PartCheck(store, plan)
    ids = [check.read(chunk)["mix_id"].to_pylist() for chunk in range(plan.num_chunks)]
    assert sorted(chain.from_iterable(ids)) == list(range(20))


@pytest.mark.parametrize("there", [0, 99])
def test_a_part_of_another_plan_is_named(tmp_path, plan, there):
    store = MixStore(str(tmp_path))
    fill(store, plan)
    (tmp_path / part_name(there)).write_bytes((tmp_path / part_name(1)).read_bytes())
    if there == 0:
        (tmp_path / "checksums" / "00000000.sha256").unlink()
    with pytest.raises(UserError, match=rf"{part_name(there)} belongs to another plan"):
        PartCheck(store, plan).read(there)


@pytest.mark.parametrize("column", SPEC_COLUMNS)
def test_one_value_of_another_plan_is_found(tmp_path, plan, column):
    """In any of the columns, and in the last row."""
    store = MixStore(str(tmp_path))
    fill(store, plan)
    table = pq.read_table(tmp_path / part_name(2))
    values = table[column].to_pylist()
    values[-1] = values[-1] + "x" if column == "source_id" else values[-1] + 1
    place = table.schema.get_field_index(column)
    changed = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(place, column, changed), tmp_path / part_name(2))
    (tmp_path / "checksums" / "00000002.sha256").unlink()
    PartCheck(store, plan).read(1)
    with pytest.raises(UserError, match="belongs to another plan"):
        PartCheck(store, plan).read(2)


def test_repair_puts_the_bad_parts_away_and_no_other(tmp_path, plan, caplog):
    store = MixStore(str(tmp_path))
    fill(store, plan)
    half = tmp_path / part_name(1)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    (tmp_path / part_name(77)).write_bytes((tmp_path / part_name(0)).read_bytes())
    flipped = tmp_path / part_name(3)
    flipped.write_bytes(flipped.read_bytes().replace(b"image", b"imafe", 1))
    SetAside(store.folder).put(9, 4, "poisoned")
    assert repair(store, plan) == [1, 3, 77]
    assert store.stored_chunks() == {0, 2, 4}
    assert SetAside(store.folder).chunks() == set()
    for number in (1, 3, 77):
        assert part_name(number) in caplog.text
        assert (tmp_path / "damaged" / f"{part_name(number)}.damaged").exists()
    assert repair(store, plan) == []


def test_a_composed_store_has_no_plan_to_compare_with(tmp_path, tiny_real):
    store = MixStore(str(tmp_path))
    store.folder.write("plan.json", b'{"composed": [], "class_names": ["a"]}')
    rows = {name: [None] for name in SCHEMA.names}
    store.write(0, pa.table(rows, schema=SCHEMA))
    assert check_of(Config(), tiny_real.path, str(tmp_path))(0).num_rows == 1
