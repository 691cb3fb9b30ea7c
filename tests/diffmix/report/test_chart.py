"""A chart's CSV file and its whole specification."""

import csv
import io

from diffmix.report.chart import Chart, ColorScale, Table


def test_a_csv_file_has_every_row_and_reads_back():
    table = Table(("name", "share"), [['a, "b"\n狐', 0.5], ["c", None]])
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["name", "share"],
        ['a, "b"\n狐', "0.5"],
        ["c", ""],
    ]


def test_a_name_that_looks_like_a_formula_is_text_to_a_spreadsheet():
    table = Table(("name", "gain"), [['=HYPERLINK("x")', -0.5], ["@sum", 1]])
    assert [row[0] for row in csv.reader(io.StringIO(table.csv()))][1:] == [
        '\'=HYPERLINK("x")',
        "'@sum",
    ]
    assert table.csv().splitlines()[1].endswith(",-0.5")


def test_a_specification_has_the_keys_that_all_share_and_its_own():
    table = Table((), [])
    chart = Chart(key="k", title="T", text="", spec={"mark": "bar"}, table=table, described="D.")
    assert chart.vega()["mark"] == "bar"
    assert chart.vega()["description"] == "D."
    assert chart.vega()["width"] == "container"


def test_numbers_on_a_horizontal_axis_fit_in_every_layer():
    x = {"field": "a", "type": "quantitative", "axis": {"format": "d"}}
    names = {"encoding": {"x": {"field": "b", "type": "nominal"}}}
    spec = {"encoding": {"y": {}}, "layer": [{"encoding": {"x": x}}, names]}
    found = Chart(key="k", title="T", text="", spec=spec, table=Table((), [])).vega()
    axis = found["layer"][0]["encoding"]["x"]["axis"]
    assert axis == {"tickCount": {"expr": "ceil(width / 80)"}, "format": "d"}
    assert found["layer"][1] == names
    assert x["axis"] == {"format": "d"}, "the chart's own stays as it is"


def test_colors_belong_to_names():
    encoding = ColorScale({"a": "red", "b": "blue"}).encoding("arm", legend=False)
    assert encoding["scale"] == {"domain": ["a", "b"], "range": ["red", "blue"]}
    assert encoding["legend"] is None
