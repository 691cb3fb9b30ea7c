"""report.html in headless Chromium: every filter filters, the keyboard works, names are text,
nothing is fetched. Needs `apt-get install chromium chromium-driver` and `pip install selenium`.

Covers `diffmix/report/html.py` with its page, style and script.
"""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from diffmix import images
from diffmix.config import Config, MixConfig
from diffmix.datasets.prepare import Prepared
from diffmix.datasets.real import Example, RealSet
from diffmix.plan import make_plan
from diffmix.storage import Folder
from engine.mixing.mix_source import find_mix_source
from engine.mixing.store import SCHEMA, MixStore
from engine.results.report import write_report

selenium = pytest.importorskip("selenium.webdriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no Chromium here"
    ),
]
CLASS_NAMES = ["<script>alert(1)</script>", "gray wolf", "Füchslein 狐", 'a "b" &amp;']


def picture(label: int) -> bytes:
    image = Image.new("RGB", (64, 64), (60 * label, 120, 200))
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill=(255, 255, 50 * label))
    return images.encode(image, "png", 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    """A run folder with a report of 96 mixes."""
    out = tmp_path_factory.mktemp("run")
    examples = [Example(f"{i}.png", picture(i % 4), i % 4) for i in range(24)]
    real = RealSet.write(str(out / "data" / "train.arrow"), examples, CLASS_NAMES, "animal")
    data = Prepared(real, None, real)
    mix = MixConfig(count=96, batch=8, strength=(0.5, 0.7, 0.9), strategy="real-mix")
    config = Config(out=str(out), mix=mix)
    plan, store = make_plan(config, real), MixStore(str(out / "mixes"))
    store.bind({"class_names": CLASS_NAMES, "plan": {}})
    for chunk in range(plan.num_chunks):
        rows = []
        for spec in plan.chunk(chunk):
            rest = {"score": spec.mix_id / 96, "accepted": spec.mix_id % 4 != 0}
            rows.append({**asdict(spec), "image": picture(spec.target_label), **rest})
        store.write(chunk, pa.Table.from_pylist(rows, schema=SCHEMA))
    predicted = real.labels.tolist()
    predicted[0] = predicted[4] = 2
    confusion = np.zeros((4, 4), dtype=int)
    np.add.at(confusion, (real.labels, predicted), 1)
    classifier = (Folder(str(out)) / "classifier").create()
    classifier.write("predictions.json", json.dumps(predicted).encode())
    classifier.write("confusion.json", json.dumps(confusion.tolist()).encode())
    skipped = [{"image_id": "broken <b>.png", "reason": "truncated"}]
    Folder(str(out / "data")).write("data.json", json.dumps({"skipped": skipped}).encode())
    per_class = {str(i): 0.25 * i for i in range(4)}
    result = {"top1": 0.75, "images": 24, "per_class": per_class}
    summary = {"plan": {"planned": 96, "stored": 72, "rejected": 24}, "accuracy": result}
    summary |= {"baseline": {**result, "top1": 0.5}, "gpu_hours": {"mix": 0.5}}
    events = [
        {"event": "start", "time": 0.0},
        {"event": "waiting", "time": 1.0, "text": "waiting for 1 GPUs (0 of 1)"},
        {"event": "waiting", "time": 3.0, "text": ""},
        *(
            {"event": "mix", "time": i + 4.0, "start": i + 3.0, "end": i + 4.0, "actor": "a"}
            | {"mixes": 8, "chunk": i}
            for i in range(12)
        ),
    ]
    source = find_mix_source(Folder(str(out)), real)
    write_report(config, Folder(str(out)), data, summary, events, source)
    return Folder(str(out))


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium for all tests."""
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = selenium.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, folder):
    """The report, freshly opened and drawn, 1000 px wide and light. Fails where the console has
    anything to say.
    """
    show(browser, folder, 1000, "light")
    yield browser
    assert browser.get_log("browser") == []


def show(browser, folder: Folder, width: int, theme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(f"file://{folder.path}/report.html")
    until(browser, "return document.querySelectorAll('.chart svg, .chart canvas').length >= 4")


def until(browser, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, 0.05).until(lambda driver: driver.execute_script(script))


def mixes(browser) -> list[dict]:
    """What the page knows of each mix that the grid shows, in its order."""
    return browser.execute_script(
        """
        const all = new Map(JSON.parse(document.getElementById("data").textContent)
            .gallery.mixes.map((mix) => [String(mix.id), mix]));
        let more;
        while (!(more = document.getElementById("more")).hidden) more.click();
        return [...document.querySelectorAll("#grid [data-mix]")]
            .map((tile) => ({ ...all.get(tile.dataset.mix), image: null }));
        """
    )


def choose(browser, name: str, value: str) -> list[dict]:
    browser.execute_script(
        """
        const field = document.getElementById("filters").elements[arguments[0]];
        field.value = arguments[1];
        field.dispatchEvent(new Event("input", { bubbles: true }));
        """,
        name,
        value,
    )
    return mixes(browser)


def press(browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def test_every_filter_filters(page):
    everything = mixes(page)
    assert len(everything) == 96
    for name, key, value in (("source", "s", 1), ("target", "t", 2), ("strength", "strength", 0.7)):
        found = choose(page, name, str(value))
        assert 0 < len(found) < 96
        assert found == [mix for mix in everything if mix[key] == value]
        choose(page, name, "")
    assert choose(page, "gate", "no") == [mix for mix in everything if not mix["ok"]]
    assert choose(page, "gate", "ok") == [mix for mix in everything if mix["ok"]]
    choose(page, "gate", "")
    choose(page, "low", "0.25")
    found = choose(page, "high", "0.5")
    assert found == [mix for mix in everything if 0.25 <= mix["score"] <= 0.5]
    shown = page.find_element("id", "count").text
    assert shown == f"{len(found)} of 96 mixes"
    page.find_element("css selector", "#filters button[type=reset]").click()
    until(page, "return document.getElementById('count').textContent === '96 of 96 mixes'")


def test_the_order_is_that_of_the_scores(page):
    scores = [mix["score"] for mix in choose(page, "order", "-score")]
    assert scores == sorted(scores, reverse=True)
    scores = [mix["score"] for mix in choose(page, "order", "score")]
    assert scores == sorted(scores)
    values = "return [...document.getElementById('filters').elements.order].map((o) => o.value)"
    assert page.execute_script(values) == ["id", "score", "-score"], "no loss was measured"


def test_the_keyboard_opens_a_mix_and_moves_on(page):
    from selenium.webdriver.common.keys import Keys

    page.execute_script("document.querySelector('#grid [data-mix]').focus()")
    press(page, Keys.ENTER)
    dialog = page.find_element("id", "zoom")
    assert dialog.get_attribute("open")
    text = dialog.text
    first = mixes(page)[0]
    assert text.startswith(f"mix {first['id']}: ")
    for fact in ("soft label", f"seed {first['seed']}", "prompt a photo of a", "source image"):
        assert fact in text
    assert len(dialog.find_elements("css selector", "img")) == 2
    press(page, Keys.ARROW_RIGHT)
    assert dialog.text.startswith(f"mix {mixes(page)[1]['id']}: ")
    press(page, Keys.ESCAPE)
    assert not dialog.get_attribute("open")


def test_a_confusion_leads_to_its_images(page):
    page.execute_script(
        "document.querySelector('[data-table=confusion]').closest('details').open = true"
    )
    page.find_element("css selector", "[data-table=confusion] button").click()
    said = page.find_element("id", "behind").text
    assert said.startswith("<script>alert(1)</script> taken for Füchslein 狐: 2 test images")
    shown = page.find_elements("css selector", "#behind-grid > div span")
    assert [one.text for one in shown] == ["0.png", "4.png"]


def test_a_cell_of_the_chart_leads_there_too(page):
    from selenium.webdriver import ActionChains

    label = "aria-label$='taken for Füchslein 狐: 2'"
    cell = page.find_element("css selector", f"[data-chart=confusion] path[{label}]")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
    ActionChains(page).move_to_element(cell).click().perform()
    assert "2 test images" in page.find_element("id", "behind").text


def test_names_are_text_and_nothing_is_fetched(page, folder):
    with pytest.raises(Exception, match="no such alert"):
        _ = page.switch_to.alert.text
    assert len(page.find_elements("css selector", "script")) == 3
    body = page.find_element("tag name", "body").text
    assert "broken <b>.png" in body
    urls = []
    for entry in page.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            urls.append(message["params"]["request"]["url"])
    outside = [url for url in urls if not url.startswith(("data:", "file:", "chrome:", "blob:"))]
    assert outside == []


@pytest.mark.parametrize("width", [400, 1000])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_as_wide_as_the_screen_in_both_themes(browser, folder, width, theme):
    show(browser, folder, width, theme)
    fits = "const root = document.documentElement; return root.scrollWidth <= root.clientWidth"
    assert browser.execute_script(fits)
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if theme == "light" else "rgb(22, 24, 26)")
    browser.find_element("id", "theme").click()
    other = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert other != ground
    assert browser.get_log("browser") == []


def test_charts_have_words_and_tables(page):
    for chart in page.find_elements("css selector", ".chart"):
        key = chart.get_attribute("data-chart")
        assert len(chart.get_attribute("aria-label")) > 10
        assert page.find_elements("css selector", f"a[download='{key}.csv']")
        assert page.find_elements("css selector", f"[data-table='{key}']")
