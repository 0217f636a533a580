"""The report as a reader meets it: in Chromium, by mouse and by keyboard, at any width."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam
from nets import LAYERS, make_net
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.tasks.data.small_pictures import load_small_resnet
from captum_kmex import LayerKMeansAttribution
from captum_kmex.demo import DIGIT_LAYERS, load_digits_split
from captum_kmex.report import write_report
from captum_kmex.visualization import segment_color

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = pytest.mark.slow
N_IMAGES = 200
EVIL = "<img src=x onerror='window.evil=1'></script><b>"
SAMPLE = Path(__file__).parents[2] / "docs" / "_static" / "sample_report.html"
NAMES = [EVIL, *(f"digit {digit}" for digit in range(1, 10))]
SECONDS = 5  # until the page answers, with other work on the machine


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found:
        missing = "chromium and chromedriver are not both installed"
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-sync", "no-first-run",
                 "disable-background-networking", "disable-component-update"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(found[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> SimpleNamespace:
    """A trained ResNet on 200 test digits of MNIST, fitted on 300 training digits."""
    torch.set_num_threads(1)
    train, test = load_digits_split()
    model = load_small_resnet("mnist", 1, 10)
    train = TensorDataset(*(tensor[:300] for tensor in train.tensors))
    attr = LayerKMeansAttribution(model, DIGIT_LAYERS, n_prototypes=3)
    attr.fit(DataLoader(train, 100), n_init=2, n_representatives=3)
    images, labels = (tensor[:N_IMAGES] for tensor in test.tensors)
    path = write_report(
        attr,
        TensorDataset(images, labels),
        tmp_path_factory.mktemp("report") / "digits.html",
        train_set=train,
        class_names=NAMES,
        show_progress=False,
    )
    return SimpleNamespace(attr=attr, images=images, labels=labels, path=path)


class Reader:
    """Looks at a page and acts on it."""

    def __init__(self, driver, path: Path, width: int = 1000, scheme: str = "light") -> None:
        self.driver = driver
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme},
                    {"name": "prefers-reduced-motion", "value": "reduce"}]  # fmt: skip
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(path.as_uri())

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def js(self, script: str, *arguments: object):
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map(n => n.textContent)", selector)  # fmt: skip # noqa: E501

    def choose(self, name: str, value: object) -> None:
        self.js("arguments[0].click()", self.find(f"input[name='{name}'][value='{value}']"))

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, node) -> None:
        self.js("arguments[0].scrollIntoView({block: 'center'})", node)
        ActionChains(self.driver).move_to_element(node).perform()

    def wait(self, check) -> None:
        WebDriverWait(self.driver, SECONDS).until(lambda _: check())

    def number(self, selector: str) -> float:
        return value_of(self.find(selector).text)

    def evidence(self) -> list[float]:
        return [value_of(t) for t in self.texts("#ledger tbody td:nth-child(3)") if t]


def value_of(text: str) -> float:
    return float(text.replace("\u2212", "-"))


@pytest.fixture
def page(chromium, digits) -> Reader:
    return Reader(chromium, digits.path)


def test_two_hundred_images_are_ready_in_seconds(page):
    milliseconds = page.js("return performance.getEntriesByName('ready')[0].startTime")
    assert milliseconds < 1000 * SECONDS
    assert len(page.all("#strip button")) == N_IMAGES


def test_pictures_are_decoded_when_they_come_into_view(page):
    drawn = "return document.querySelectorAll('#strip img[src]').length"
    page.js("document.querySelector('#strip').scrollIntoView()")
    page.wait(lambda: page.js(drawn) > 10)
    assert page.js(drawn) < N_IMAGES
    page.js("document.querySelector('#strip').scrollTop = 1e6")
    last = "return document.querySelector('#strip button:last-child img').naturalWidth"
    page.wait(lambda: page.js(last) == 28)


def test_nothing_is_loaded_and_nothing_complains(page):
    page.js("for (const node of document.querySelectorAll('details')) node.open = true")
    page.wait(lambda: len(page.all(".card")) == 30)
    requests = re.findall(r'"url":"([^"]+)"', str(page.driver.get_log("performance")))
    outside = [url for url in requests if not url.startswith(("file:", "data:", "about:"))]
    assert outside == []
    assert page.driver.get_log("browser") == []


def test_policy_refuses_the_network(page):
    refused = page.driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective));"
        "fetch('https://example.invalid/').catch(() => {});"
    )
    assert refused == "connect-src"


def test_names_are_text(page):
    assert page.js("return window.evil") is None
    assert EVIL in page.texts("#class-filter option")
    assert page.texts(".group .name")[0] == EVIL


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("image", [0, 7, 150])
def test_ledger_ends_at_the_models_logit(page, digits, depth, image):
    page.js("arguments[0].click()", page.find(f"#strip [data-image='{image}']"))
    page.choose("depth", depth)
    with torch.no_grad():
        logits = digits.attr.model(digits.images[image : image + 1])[0]
    assert page.number("#ledger-output") == pytest.approx(float(logits.max()), abs=6e-4)
    assert page.find("#ledger-sum").text == page.find("#ledger-output").text
    more = page.all("#ledger .more")
    if more:
        more[0].click()
    rows = page.evidence()
    expected = digits.attr.explain(digits.images[image : image + 1], depth=depth)
    assert len(rows) == 1 + len(expected.ledger[0])
    assert rows[1] == pytest.approx(expected.ledger[0][0].evidence, abs=6e-4)
    assert sum(rows) == pytest.approx(page.number("#ledger-sum"), abs=6e-4 * len(rows))


def test_target_and_contrast_change_the_question(page, digits):
    targets = digits.attr.model(digits.images[:1])[0].argsort(descending=True)[:3].tolist()
    page.choose("target", targets[1])
    expected = digits.attr.explain(digits.images[:1], targets[1])
    assert page.number("#ledger-output") == pytest.approx(float(expected.output[0]), abs=6e-4)
    Select(page.find("#contrast")).select_by_value(str(targets[2]))
    expected = digits.attr.explain(digits.images[:1], targets[1], contrast=targets[2])
    assert page.number("#ledger-output") == pytest.approx(float(expected.output[0]), abs=6e-4)
    assert page.find("#ledger-sum").text == page.find("#ledger-output").text
    assert page.evidence()[1] == pytest.approx(expected.ledger[0][0].evidence, abs=6e-4)
    spoken = page.find("#status").get_attribute("textContent")
    assert spoken == page.find("#ledger caption").text
    page.choose("target", targets[2])  # a class is not contrasted with itself
    assert Select(page.find("#contrast")).first_selected_option.get_attribute("value") == ""


def test_hovered_segment_and_ledger_row_light_up_together(page):
    page.hover(page.find("#ledger tbody tr[data-segment='2'] td.bar"))
    assert page.find("#stage .segment[data-segment='2']").get_attribute("class") == "segment active"
    tag = page.find("#stage .tag")  # a number lies on its own segment
    page.hover(tag)
    s = int(tag.text) - 1
    active = page.js("return [...document.querySelectorAll('#viewer .active')].map(n => n.dataset.segment)")  # fmt: skip # noqa: E501
    assert set(active) == {str(s)}
    assert page.find("#detail .chip").text == str(s + 1)
    page.hover(page.find("#image-title"))
    assert page.find("#detail .chip").text == "1"  # back at what is selected


def test_clicked_segment_stays_selected_with_its_patches(page):
    tag = page.all("#stage .tag")[1]
    page.hover(tag)
    ActionChains(page.driver).click().perform()
    page.hover(page.find("#image-title"))
    assert page.find("#detail .chip").text == tag.text
    page.js("document.querySelector('#detail').scrollIntoView()")
    page.wait(lambda: page.js("return document.querySelector('#detail img').naturalWidth") == 28)
    assert page.find("#status").get_attribute("textContent").startswith(f"segment {tag.text}:")
    assert len(page.all("#ledger [aria-pressed='true']")) == 1


def test_arrow_keys_go_through_the_segments(page):
    page.js("document.querySelector('#stage .segment').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.js("return document.activeElement.dataset.segment") == "1"
    assert page.find("#detail .chip").text == "2"
    spoken = page.find("#status").get_attribute("textContent")
    assert spoken.startswith("segment 2: ")
    assert f"evidence {page.texts('#ledger tr.active td:nth-child(3)')[0]} for" in spoken
    page.press(Keys.END)
    last = len(page.all("#stage .segment")) - 1
    assert page.js("return document.activeElement.dataset.segment") == str(last)
    page.press(Keys.ESCAPE)
    assert page.texts("#detail") == [""]
    assert len(page.all("#stage .segment[tabindex='0']")) == 1


def test_keyboard_reaches_images_and_ledger(page):
    page.js("document.querySelector('#strip button').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ENTER)
    opened = page.js("return Number(document.activeElement.dataset.image)")
    assert opened > 2
    assert page.find("#image-title").text == f"Image {opened}"
    page.js("document.querySelectorAll('#ledger button.row')[3].focus()")
    assert page.find("#detail .chip").text == page.find("#ledger tr.active .chip").text
    page.js("document.querySelector('input[name=depth]:checked').focus()")
    page.press(Keys.ARROW_RIGHT)  # radio buttons, and the focus stays on them
    assert page.js("return document.activeElement.value") == "1"


def test_others_open_and_close_and_keep_the_focus(page):
    before = len(page.evidence())
    page.js("document.querySelector('#ledger .more').focus()")
    page.press(Keys.ENTER)
    assert len(page.evidence()) > before
    assert page.js("return document.activeElement.textContent") == "show fewer"
    page.press(Keys.ENTER)
    assert len(page.evidence()) == before


def test_overlay_paints_segments_and_map(page, digits):
    cell = "return [...document.querySelector('#stage canvas').getContext('2d').getImageData(...arguments, 1, 1).data]"  # noqa: E501
    result = digits.attr.explain(digits.images[:1])
    rank = {row.segment: i for i, row in enumerate(result.ledger[0])}
    for y, x in ((0, 0), (7, 7), (13, 3)):
        expected = [
            round(255 * part) for part in segment_color(rank[int(result.segments[0, y, x])])
        ]
        assert page.js(cell, x, y)[:3] == pytest.approx(expected, abs=1)
    page.choose("overlay", "map")
    for place in (result.attribution[0, 0].argmax(), result.attribution[0, 0].argmin()):
        y, x = divmod(int(place), 14)
        red, _, blue, _ = page.js(cell, x, y)
        value = float(result.attribution[0, 0, y, x])
        half_a_shade = float(result.attribution[0].abs().max()) / 14  # of seven a sign
        if abs(value) > half_a_shade:
            assert (red - blue) * value > 0
        else:  # white
            assert abs(red - blue) <= 20
    page.choose("overlay", "none")
    opacity = "return getComputedStyle(document.querySelector('#stage canvas')).opacity"
    assert page.js(opacity) == "0"


def test_filters_show_what_went_wrong(page, digits):
    with torch.no_grad():
        predicted = torch.cat(
            [digits.attr.model(part).argmax(1) for part in digits.images.split(50)]
        )
    wrong = (predicted != digits.labels).nonzero().flatten().tolist()
    shown = (
        "return [...document.querySelectorAll('#strip button')].map(n => Number(n.dataset.image))"
    )
    page.choose("kind", "wrong")
    assert page.js(shown) == wrong
    page.choose("kind", "all")
    Select(page.find("#class-filter")).select_by_value("4")
    assert page.js(shown) == (digits.labels == 4).nonzero().flatten().tolist()


def test_prototypes_lead_to_images_and_back(page):
    assert page.all(".card") == []  # drawn when a class is opened
    page.js("document.querySelector('#section-3 summary').click()")
    page.wait(lambda: len(page.all(".card")) == 3)
    page.js("document.querySelector('.card .users button').click()")
    chosen = page.find("#detail h4").text
    assert "digit 3 #1" in chosen
    page.js("document.querySelector('#detail .more').click()")
    assert page.js("return document.activeElement.querySelector('h3').textContent") == "digit 3 #1"


def test_every_control_has_a_name_and_every_table_its_headings(page):
    page.js("for (const node of document.querySelectorAll('details')) node.open = true")
    page.wait(lambda: len(page.all(".card")) == 30)
    nameless = page.js("""
      return [...document.querySelectorAll('button, input, select, [role=button]')].filter((node) =>
        !(node.textContent.trim() || node.getAttribute('aria-label') || node.closest('label')?.textContent.trim()))
        .map((node) => node.outerHTML);""")  # noqa: E501
    assert nameless == []
    assert page.js("return [...document.images].filter((n) => !n.hasAttribute('alt')).length") == 0
    assert page.js(
        "return [...document.querySelectorAll('fieldset')].every((n) => n.querySelector('legend'))"
    )
    for table in page.all("table"):
        assert table.find_elements("css selector", "caption")
        assert table.find_elements("css selector", "thead th[scope=col]")
        assert table.find_elements("css selector", "tbody th[scope=row]")


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(chromium, digits, scheme):
    page = Reader(chromium, digits.path, scheme=scheme)
    page.js("document.querySelector('#section-1').open = true")
    page.wait(lambda: page.all(".card"))
    pairs = page.js("""
      const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
          const { backgroundColor } = getComputedStyle(at);
          if (backgroundColor !== 'rgba(0, 0, 0, 0)') return backgroundColor;
        }
      };
      return [...document.querySelectorAll('main *, header *')].filter((node) =>
        node.getClientRects().length && !node.disabled && !node.closest('.tag') &&
        [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
        .map((node) => [node.tagName + '.' + node.className, getComputedStyle(node).color, ground(node)]);""")  # noqa: E501
    assert len(pairs) > 100
    for name, ink, paper in pairs:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ink, paper)


@pytest.mark.parametrize("width", [390, 1000, 1366])
def test_page_is_no_wider_than_the_screen(chromium, digits, width):
    page = Reader(chromium, digits.path, width)
    page.js("for (const node of document.querySelectorAll('details')) node.open = true")
    page.wait(lambda: len(page.all(".card")) == 30)
    assert page.js("return document.documentElement.scrollWidth") <= width
    assert page.js("return document.querySelector('#ledger table').scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1000, 1366])
def test_the_sample_of_the_site_shows_all_its_photographs(chromium, width):
    page = Reader(chromium, SAMPLE, width)
    photographs = page.all("#strip button")
    assert len(photographs) == 6
    for photograph in photographs:
        page.js("arguments[0].click()", photograph)
        assert page.js("return document.querySelector('#stage img').naturalWidth") >= 224
        for overlay in ("map", "segments"):
            page.choose("overlay", overlay)
        assert page.all("#ledger tbody tr")
    assert page.js("return document.documentElement.scrollWidth") <= width
    assert page.driver.get_log("browser") == []


WIDTHS = pytest.mark.parametrize("width", [390, 1000, 1366])


@WIDTHS
def test_picture_stands_first_with_its_probability(chromium, digits, width):
    page = Reader(chromium, digits.path, width)
    box = page.js("return document.querySelector('#stage').getBoundingClientRect().toJSON()")
    assert box["top"] < 320
    assert box["bottom"] < 1000  # all of it on the first screen
    with torch.no_grad():
        share = float(digits.attr.model(digits.images[:1]).softmax(1).max())
    sure = f"{100 * share:.1f}\u2009%"
    assert sure in page.texts("#verdict .verdict")[1]
    assert sure in page.texts("#question fieldset:nth-of-type(2) label")[0]


@WIDTHS
def test_answer_stands_beside_the_picture(chromium, digits, width):
    page = Reader(chromium, digits.path, width)
    page.js("document.querySelectorAll('#stage .segment')[1].dispatchEvent("
            "new MouseEvent('click', {bubbles: true}))")  # fmt: skip
    answer = page.find("#answer").text
    row = page.js("return document.querySelector(\"#ledger tr[data-segment='1']\").innerText")
    value = re.search("[+\u2212][0-9.]+", row).group()
    assert answer.startswith("2")
    assert value in answer
    boxes = [page.js(f"return document.querySelector('{s}').getBoundingClientRect().toJSON()")
             for s in ("#stage", "#answer")]  # fmt: skip
    assert 0 <= boxes[1]["top"] - boxes[0]["bottom"] < 30
    assert boxes[1]["bottom"] < 1000


@WIDTHS
def test_address_brings_the_same_view_back(chromium, digits, width):
    page = Reader(chromium, digits.path, width)
    assert "#" not in page.driver.current_url
    page.js("arguments[0].click()", page.find("#strip [data-image='7']"))
    page.choose("depth", 1)
    other = page.js("return [...document.getElementsByName('target')].map(n => n.value)")[1]
    page.choose("target", other)
    page.choose("overlay", "map")
    page.js("document.querySelectorAll('#ledger button.row')[1].click()")
    seen = [page.texts(s) for s in ("#image-title", "#ledger", "#answer", "#verdict")]
    url = page.driver.current_url
    assert f"#image=7&why={other}&depth=1&show=map&segment=" in url
    page.driver.get("about:blank")
    page.driver.get(url)
    assert [page.texts(s) for s in ("#image-title", "#ledger", "#answer", "#verdict")] == seen
    assert page.find("#stage").get_attribute("data-overlay") == "map"


def test_address_may_name_a_class_and_be_changed_in_place(page, digits):
    targets = digits.attr.model(digits.images[3:4])[0].argsort(descending=True)[:3].tolist()
    wanted = next(c for c in targets[1:] if c)  # the name of class 0 is no name for an address
    page.js(f"location.hash = '#image=3&why={NAMES[wanted]}'")
    page.wait(lambda: page.find("#image-title").text == "Image 3")
    assert page.js("return document.querySelector('[name=target]:checked').value") == str(wanted)
    page.js("location.hash = '#image=900&why=x'")  # there is none
    assert page.find("#image-title").text == "Image 3"
    page.js("document.querySelector(\"nav a[href='#overview']\").click()")
    assert page.find("#image-title").text == "Image 3"


@WIDTHS
def test_images_are_found_and_sorted(chromium, digits, width):
    page = Reader(chromium, digits.path, width)
    shown = (
        "return [...document.querySelectorAll('#strip button')].map(n => Number(n.dataset.image))"
    )
    with torch.no_grad():
        logits = torch.cat([digits.attr.model(part) for part in digits.images.split(50)])
    sure = logits.double().softmax(1).amax(1)
    Select(page.find("#sort-images")).select_by_value("unsure")
    order = page.js(shown)
    assert sorted(order) == list(range(N_IMAGES))
    found = sure[order]
    assert (found.diff() > -1.01e-4).all()  # the page has four digits
    find = page.find("#find-image")
    find.send_keys("digit 4")
    wanted = {i for i in range(N_IMAGES) if 4 in (int(digits.labels[i]), int(logits[i].argmax()))}
    assert set(page.js(shown)) == wanted
    assert page.find("#shown").text == f"{len(wanted)} of 200 images"
    find.clear()
    find.send_keys("17")
    assert page.js(shown) == [17]


def test_keys_go_through_the_images_that_are_shown(page, digits):
    Select(page.find("#class-filter")).select_by_value("4")
    fours = (digits.labels == 4).nonzero().flatten().tolist()
    page.js("document.activeElement.blur()")
    page.press("n")
    assert page.find("#image-title").text == f"Image {fours[0]}"
    page.press(Keys.ARROW_RIGHT)
    assert page.find("#image-title").text == f"Image {fours[1]}"
    assert page.find("#status").get_attribute("textContent") == f"Image {fours[1]}"
    page.press("p")
    assert page.find("#image-title").text == f"Image {fours[0]}"
    assert not page.find("#previous").is_enabled()
    page.find("#find-image").send_keys("n")  # where one types, a letter is a letter
    assert page.find("#image-title").text == f"Image {fours[0]}"


@WIDTHS
def test_map_has_its_scale(chromium, digits, width):
    page = Reader(chromium, digits.path, width)
    assert page.all("#scale canvas") == []
    page.choose("overlay", "map")
    values = digits.attr.explain(digits.images[:1]).attribution[0, 0] * 14 * 14
    ends = [value_of(text.replace("+", "")) for text in page.texts("#scale .ends span")]
    full = float(values.abs().max())
    is_signed = float(values.min()) < -0.01 * full
    expected = [-full, 0, full] if is_signed else [0, full]
    assert ends == pytest.approx(expected, rel=6e-3)
    assert page.js("return document.querySelector('#scale').scrollWidth") <= width


@WIDTHS
def test_view_is_saved_as_a_picture(chromium, digits, width):
    page = Reader(chromium, digits.path, width)
    page.js("""HTMLAnchorElement.prototype.click = function () { window.saved = [this.download, this.href]; };
               document.querySelector('#save').click();""")  # noqa: E501
    page.wait(lambda: page.js("return window.saved") is not None)
    name, data = page.js("return window.saved")
    assert name == "image-0.png"
    picture = Image.open(io.BytesIO(base64.b64decode(data.removeprefix("data:image/png;base64,"))))
    assert picture.width > 1000
    assert picture.height > 700
    drawn = np.asarray(picture.convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20
    assert page.driver.get_log("browser") == []


def test_printed_page_has_its_pictures_and_no_controls(page):
    page.js("document.querySelector('#section-3').open = true")
    page.wait(lambda: len(page.all(".card")) == 3)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    visible = "[...document.images].filter((n) => n.getClientRects().length)"
    page.wait(lambda: page.js(f"return {visible}.every((n) => n.complete && n.naturalWidth > 0)"))
    assert page.js(f"return {visible}.length") >= 10  # that of the image and patches
    for selector in ("#strip", "#previous", "#overlay", "nav", "#filters"):
        assert not page.find(selector).is_displayed(), selector
    for selector in ("#stage", "#ledger table", "#figures"):
        assert page.find(selector).is_displayed(), selector
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_prototypes_of_blank_ground_are_no_confusions(page):
    depth = page.js("return JSON.parse(document.querySelector('#report').textContent).depths[0]")
    assert depth["blank"] > 0
    assert page.find("#blank").text.startswith(f"{depth['blank']} prototype")


@pytest.fixture(scope="module")
def compared(tmp_path_factory, drawn_images) -> Path:
    net = make_net()
    methods = {
        "segments": LayerKMeansAttribution(net, LAYERS, n_clusters=5),
        "Grad-CAM": LayerGradCam(net, net.stage3),
        "input x gradient": InputXGradient(net),
    }
    path = tmp_path_factory.mktemp("compared") / "r.html"
    return write_report(methods, drawn_images[:3], path, evidence="measured", show_progress=False)


@WIDTHS
def test_methods_stand_side_by_side_and_open_on_the_stage(chromium, compared, width):
    page = Reader(chromium, compared, width)
    assert page.texts("#methods button > span:last-child") == [
        "segments",
        "Grad-CAM",
        "input x gradient",
    ]
    page.js("document.querySelectorAll('#methods button')[1].click()")
    assert page.find("#stage").get_attribute("data-overlay") == "method-0"
    assert page.js("return document.querySelector('#stage canvas').width") == 4
    assert "own units" in page.find("#scale").text
    assert page.js("return document.documentElement.scrollWidth") <= width
    assert page.driver.get_log("browser") == []


@WIDTHS
def test_measured_ledger_has_errors_and_the_fewest_segments(
    chromium, compared, drawn_images, width
):
    page = Reader(chromium, compared, width)
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_clusters=5)
    expected = attr.explain(drawn_images[:1], evidence="measured")
    assert page.texts("#ledger tbody th")[0] == "all removed"
    assert page.find("#ledger-sum").text == page.find("#ledger-output").text
    errors = [value_of(t) for t in page.texts("#ledger tbody td:nth-child(4)") if t]
    assert errors == pytest.approx([row.error for row in expected.ledger[0]], abs=6e-4)
    order = [row.segment for row in expected.ledger[0]]
    for word, found in (("enough", expected.sufficient()), ("needed", expected.necessary())):
        shown = [int(text) for text in page.texts(f"#{word} .chip")]
        assert shown == sorted(order.index(s) + 1 for s in found or ())


@WIDTHS
def test_maps_alone_need_no_segments(chromium, drawn_images, tmp_path, width):
    net = make_net()
    items = [(image, 1, f"{i}.png") for i, image in enumerate(drawn_images[:3])]
    path = write_report(LayerGradCam(net, net.stage3), items, tmp_path / "r.html",
                        show_progress=False)  # fmt: skip
    page = Reader(chromium, path, width)
    assert page.find("#image-title").text == "Image 0: 0.png"
    assert page.all("#stage .segment") == []
    assert page.all("#prototypes, #confusable") == []
    shown = page.texts("#ledger tbody th")
    assert len(shown) == 3
    page.js("document.getElementsByName('target')[1].click()")
    assert page.texts("#ledger tr.active th") == [shown[1]]
    assert page.find("#answer").text.startswith(shown[1])
    assert page.js("return document.documentElement.scrollWidth") <= width
    assert page.driver.get_log("browser") == []


def test_unfitted_report_says_how_to_fit(chromium, images, tmp_path):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_clusters=5)
    page = Reader(chromium, write_report(attr, images, tmp_path / "r.html", show_progress=False))
    assert "call attribution.fit(loader) first" in page.find("#prototypes").text
    assert page.all("#confusable") == []
    assert page.find("#ledger-sum").text == page.find("#ledger-output").text
    assert page.driver.get_log("browser") == []


class Bent(nn.Module):
    """Logits that no linear head gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make_net()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(200 * self.body(x))


def test_what_a_surrogate_misses_is_a_line_of_the_ledger(chromium, images, labels, tmp_path):
    attr = LayerKMeansAttribution(Bent().eval(), [f"body.{name}" for name in LAYERS])
    attr.n_prototypes = 1
    attr.fit([(images, labels)], n_init=1, n_representatives=1)
    path = write_report(attr, images, tmp_path / "r.html", batch_size=12, show_progress=False)
    expected = attr.explain(images)
    worst = int(expected.delta.abs().argmax())
    assert expected.delta[worst].abs() > 0.01
    page = Reader(chromium, path)
    assert f"{attr.bank_.surrogate.r2:.3f}" in page.find("#figures").text
    page.js("arguments[0].click()", page.find(f"#strip [data-image='{worst}']"))
    assert page.texts("#ledger tbody tr:last-child th") == ["not in the map"]
    assert page.evidence()[-1] == pytest.approx(-float(expected.delta[worst]), abs=6e-4)
    assert page.find("#ledger-sum").text == page.find("#ledger-output").text
