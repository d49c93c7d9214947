"""The pages in a real browser: by mouse, by keyboard, without eyes, on a desk and on a phone."""

from __future__ import annotations

import itertools
import shutil

import pytest

from beit.evaluation.sweeps import Chosen, Probes
from beit.report.probes import write_probes
from beit.studies.tables import StudyTable, write_study_page
from served import NAMES, png, serving, wait_for, write_artifacts

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip
PANELS = ("image", "predict", "segment", "tokens", "reconstruct", "attention")
WIDTHS, THEMES = (390, 768, 1440), ("light", "dark")
NAMED = {"application", "button", "DisclosureTriangle", "region", "heading", "image", "link"}
"""Roles of the accessibility tree that say nothing without a name."""
FAULTS = """
const found = [], root = document.documentElement;
if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} pixels wide`);
const levels = [...document.querySelectorAll("h1, h2, h3")].map((one) => +one.tagName[1]);
levels.forEach((level, place) => {
  if (level > (levels[place - 1] ?? 0) + 1) found.push(`heading ${place} has level ${level}`);
});
for (const one of document.querySelectorAll("th")) {
  if (!one.textContent.trim()) found.push("a heading of a table is empty");
}
const channels = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
const light = (text) => {
  const [red, green, blue] = channels(text).slice(0, 3).map((value) => {
    const part = value / 255;
    return part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  });
  return .2126 * red + .7152 * green + .0722 * blue;
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const one = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
  if (!words || !one.checkVisibility() || one.closest("script, title")) continue;
  const ink = getComputedStyle(one)[one.closest("svg") ? "fill" : "color"];
  let under = one, paper;
  do {
    paper = getComputedStyle(under).backgroundColor;
    under = under.parentElement;
  } while (under && (channels(paper)[3] ?? 1) < 1);
  const shown = [light(ink), light(paper)];
  const contrast = (Math.max(...shown) + .05) / (Math.min(...shown) + .05);
  if (contrast < 4.5) found.push(`${contrast.toFixed(1)} is the contrast of ${words}`);
}
return found;
"""
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="there is no chromium with its chromedriver"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory, environment):
    artifacts = write_artifacts(tmp_path_factory.mktemp("artifacts"))
    named = [f"{name}={artifacts[name]}" for name in NAMES]
    with serving(*named, environment=environment) as running:
        yield running


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def text(browser, name):
    """Asked and answered by one script, so that no element grows stale in between."""
    return browser.execute_script("return document.getElementById(arguments[0])?.innerText", name)


def faults(browser):
    """What somebody on a phone, without a mouse or without eyes would stumble over."""
    found = []
    for width, theme in itertools.product(WIDTHS, THEMES):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": theme}]},
        )
        found += [f"{width}, {theme}: {one}" for one in browser.execute_script(FAULTS)]
    for node in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]:
        role = node.get("role", {}).get("value")
        if role in NAMED and not node["ignored"] and not node.get("name", {}).get("value"):
            found.append(f"{role} without a name")
    return found


def hidden(browser):
    """The image with its hidden patches, once it is there."""
    return browser.execute_script("return document.querySelector('#reconstruct img')?.src")


def choose(browser, server, place):
    browser.get(f"http://127.0.0.1:{server.port}/")
    wait_for(lambda: "classifier" in (text(browser, "models") or ""))
    browser.find_element("id", "file").send_keys(str(place))
    wait_for(lambda: text(browser, "status") not in (None, "", "The model is looking…"))


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_everything_is_shown(browser, server, tmp_path, width, height):
    from selenium.webdriver.common.keys import Keys

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    place = tmp_path / "a.png"
    place.write_bytes(png(3, (120, 160)))
    choose(browser, server, place)
    assert text(browser, "status") == "Done."
    for name in PANELS:
        assert browser.find_element("id", name).is_displayed(), name
    assert "tiles" in text(browser, "predict")
    wait_for(
        lambda: browser.execute_script(
            "return [...document.images].every((one) => one.complete && one.naturalWidth)"
        )
    )
    images = browser.execute_script("return [...document.images].map((one) => one.alt)")
    assert len(images) == 6
    assert all(images)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width  # nothing sticks out

    looks = browser.find_element("id", "looks")
    before = (
        looks.get_attribute("aria-label"),
        browser.execute_script("return arguments[0].toDataURL()", looks),
    )
    looks.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_UP)
    assert "Row 2, column 1 of 4 \u00d7 4." in looks.get_attribute("aria-label")
    drawn = browser.execute_script("return arguments[0].toDataURL()", looks)
    assert (looks.get_attribute("aria-label"), drawn) != before
    before = hidden(browser)
    browser.find_element("css selector", "#reconstruct button").send_keys(Keys.ENTER)
    wait_for(lambda: hidden(browser) not in (None, before))
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    if width < 500:
        assert faults(browser) == []
    full = browser.execute_script("return document.documentElement.scrollHeight")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": full, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert browser.save_screenshot(str(tmp_path / f"page-{width}.png"))


def test_what_is_no_image_is_said(browser, server, tmp_path):
    place = tmp_path / "a.png"
    place.write_bytes(b"rubbish")
    choose(browser, server, place)
    assert text(browser, "status").startswith("This file is not an image that the model can read")


def test_of_several_files_the_first_is_shown_and_the_rest_are_named(browser, server, tmp_path):
    places = [tmp_path / name for name in ("a.png", "b.png")]
    for number, place in enumerate(places):
        place.write_bytes(png(number))
    browser.get(f"http://127.0.0.1:{server.port}/")
    wait_for(lambda: "classifier" in (text(browser, "models") or ""))
    browser.execute_script("document.getElementById('file').multiple = true")
    browser.find_element("id", "file").send_keys("\n".join(map(str, places)))
    wait_for(lambda: text(browser, "status") not in (None, "", "The model is looking…"))
    assert text(browser, "status") == "This is a.png, the first of 2 files. Choose one at a time."


def test_a_report_can_be_read_by_everybody(browser, tmp_path):
    """A wide table scrolls by itself, and by keyboard; a chart has a name and its numbers."""
    from selenium.webdriver.common.keys import Keys

    head = ["arm", *(f"a long measure number {number}" for number in range(12))]
    table = StudyTable("Scores", "What was found.", head, [["from scratch", *["25.0"] * 12]])
    write_study_page(tmp_path / "study.html", "Does it pay?", "It does.", [table], "")
    chosen = Chosen(method="linear", block=1, setting={"lr": 1e-3}, validation=0.3, test=None)
    found = Probes(
        images={"validation": 100}, blocks={"linear": [0.1, 0.3, 0.2]}, chosen=[chosen], few=[],
        baselines=[], few_baselines=[], unreadable={}, several=[], notes=[],
    )  # fmt: skip
    write_probes(tmp_path / "probe.html", "a model", found)
    browser.get((tmp_path / "probe.html").as_uri())
    assert faults(browser) == []
    browser.get((tmp_path / "study.html").as_uri())
    assert faults(browser) == []
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    focused = browser.switch_to.active_element
    assert focused.get_attribute("aria-label") == "Scores"
    assert focused.value_of_css_property("outline-width") == "3px"
    focused.send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: browser.execute_script("return arguments[0].scrollLeft", focused) > 0)


def test_a_page_of_a_locked_server_asks_for_the_key(browser, environment, tmp_path):
    place = write_artifacts(tmp_path / "artifacts")["classifier"]
    secret = environment | {"BEIT_API_KEY": "0123456789abcdef"}
    with serving(str(place), environment=secret) as running:
        browser.get(f"http://127.0.0.1:{running.port}/")
        wait_for(lambda: browser.find_element("id", "key").is_displayed())
        for typed, shown in (("wrong", "status"), ("0123456789abcdef", "models")):
            browser.find_element("id", "key").clear()
            browser.find_element("id", "key").send_keys(typed + "\n")
            wait_for(lambda shown=shown: text(browser, shown))
        assert text(browser, "models") == "classifier names what is in an image."
        assert text(browser, "status") == ""
        assert not browser.find_element("id", "key").is_displayed()
