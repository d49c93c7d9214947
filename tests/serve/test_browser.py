"""The page in a real browser: by mouse, by keyboard, on a desk and on a phone."""

from __future__ import annotations

import shutil

import pytest

from served import NAMES, png, serving, wait_for, write_artifacts

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip
PANELS = ("image", "predict", "segment", "tokens", "reconstruct", "attention")
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
