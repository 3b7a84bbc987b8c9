"""The HTML page as a reader has it: opened from disk in Chromium, used with mouse and keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.report import page
from evals.store.folders import read_document

CHROMIUM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def url(little: Path) -> str:
    return page.write(read_document(little), little).as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, url: str) -> Iterator[Any]:
    """The page, freshly opened; at the end nothing may have been written to the console."""
    chromium.set_window_size(1300, 1000)
    chromium.get(url)
    yield chromium
    assert chromium.get_log("browser") == []


def all_of(browser: Any, css: str) -> list[Any]:
    return browser.find_elements("css selector", css)


def texts(browser: Any, css: str) -> list[str]:
    return [element.text for element in all_of(browser, css) if element.is_displayed()]


def column(browser: Any, number: int) -> list[str]:
    return texts(browser, f".main tbody tr:not(.section) td:nth-child({number})")


def choose(browser: Any, css: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(all_of(browser, css)[0]).select_by_visible_text(text)


def heading(browser: Any, text: str) -> Any:
    return next(button for button in all_of(browser, ".main thead button") if button.text.startswith(text))


def test_a_heading_sorts_both_ways_and_back(browser: Any) -> None:
    before, methods = column(browser, 4), column(browser, 2)
    assert methods[0] == "vanilla" and len(methods) == 5
    heading(browser, "GQA").click()
    found = [float(text.split()[0]) for text in column(browser, 4)]
    assert found == sorted(found, reverse=True)
    assert all_of(browser, ".main th[aria-sort=descending]")[0].text.startswith("GQA")
    heading(browser, "GQA").click()
    assert [float(text.split()[0]) for text in column(browser, 4)] == sorted(found)
    heading(browser, "GQA").click()
    assert (column(browser, 4), column(browser, 2)) == (before, methods)
    assert texts(browser, ".main tr.section") != []
    heading(browser, "Method").click()
    assert column(browser, 2) == sorted(methods)


def test_rows_are_found_by_name_and_by_budget(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    box = all_of(browser, "#filter input")[0]
    box.send_keys("plain fast")
    assert column(browser, 2) == ["fastv"]
    assert texts(browser, "#filter output") == ["1 of 5 rows"]
    all_of(browser, "#filter button")[0].click()
    # The form is emptied after its event: the page looks at it a moment later.
    WebDriverWait(browser, 10).until(lambda _: len(column(browser, 2)) == 5)
    titles = [option.text for option in all_of(browser, "#filter option")]
    choose(browser, "#filter [name=section]", next(title for title in titles if title.endswith(", trained")))
    assert column(browser, 2) == ["trained"]
    heading(browser, "POPE").click()  # sorting does not bring the others back
    assert column(browser, 2) == ["trained"]


def test_a_score_opens_its_samples(browser: Any) -> None:
    row = next(row for row in all_of(browser, ".main tbody tr") if "fastv" in row.text)
    row.find_elements("css selector", "button")[0].click()
    shown = all_of(browser, "#detail")[0].text
    for words in (
        "GQA: fastv on plain",
        "against plain/vanilla/gqa",
        "McNemar",
        "weights",
        "batch_size",
        "run.py",
        "torch",
    ):
        assert words in shown
    next(button for button in all_of(browser, "#detail button") if button.text == "Show samples").click()
    assert not all_of(browser, "#detail")[0].is_displayed()
    assert all_of(browser, "#choice [name=row]")[0].get_attribute("value") == "plain/fastv/gqa"


def test_seeds_are_one_row_with_a_record_for_each(browser: Any) -> None:
    row = next(row for row in all_of(browser, ".main tbody tr") if "random" in row.text)
    assert "±" in row.text
    row.find_elements("css selector", "button")[0].click()
    assert [text for text in texts(browser, "#detail h3") if "random" in text] == ["random-s0", "random-s1"]


def test_samples_show_the_tokens_kept_at_each_filter(browser: Any) -> None:
    choose(browser, "#choice [name=task]", "POPE")
    choose(browser, "#choice [name=row]", "tuned: trained")
    cards = all_of(browser, "#cards .card")
    assert len(cards) == 16
    kinds = [card.get_attribute("class").split()[-1] for card in cards]
    assert kinds == sorted(kinds, key=["lost", "gained", "changed", "same"].index), "flips first"
    captions = [caption.text for caption in cards[0].find_elements("css selector", "figcaption")]
    assert "enter before layer" in captions[0]
    for caption, covered in zip(captions[1:], cards[0].find_elements("css selector", "path"), strict=True):
        kept = int(caption.split()[0])
        assert covered.get_attribute("d").count("z") == 100 - kept, caption
    pictures = cards[0].find_elements("css selector", "img")
    assert pictures and all(browser.execute_script("return arguments[0].naturalWidth", one) > 20 for one in pictures)
    boxes = {box.get_attribute("value"): box for box in all_of(browser, "#choice [name=kind]")}
    boxes["same"].click()
    assert len(all_of(browser, "#cards .card")) == len(kinds) - kinds.count("same")
    assert not all_of(browser, "#cards .card.same")


def test_everything_can_be_done_by_keyboard(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def focused() -> Any:
        return browser.switch_to.active_element

    def press(key: str) -> None:
        ActionChains(browser).send_keys(key).perform()

    press(Keys.TAB)
    assert focused().text == "Skip to the results"
    for _ in range(40):
        press(Keys.TAB)
        if focused().text.startswith("GQA"):
            break
    press(Keys.ENTER)
    assert all_of(browser, ".main th[aria-sort=descending]")
    while focused().tag_name != "button" or not focused().text[0].isdigit():
        press(Keys.TAB)
    press(Keys.SPACE)
    assert all_of(browser, "#detail")[0].is_displayed()
    press(Keys.ESCAPE)
    assert not all_of(browser, "#detail")[0].is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone_in_light_and_dark(browser: Any, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    phone = {"width": 375, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], "only tables scroll sideways"
        colours = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        )
        text, ground = (_luminance(colour) for colour in colours)
        assert (text < ground) == (scheme == "light")
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 7, "contrast"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG) of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_without_scripts_tables_and_figures_are_there(browser: Any, url: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(url)
        assert len(texts(browser, ".main tbody tr:not(.section)")) == 5
        assert texts(browser, "figcaption")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_policy_stops_what_is_not_the_pages_own(chromium: Any, url: str, tmp_path: Path) -> None:
    """A page into which somebody wrote a script, a handler and a style of theirs: none acts, and the page works."""
    text = Path(url.removeprefix("file://")).read_text(encoding="utf-8")
    added = "<script>document.title = 'ran'</script><img src='x' onerror=\"document.title = 'ran'\">"
    added += "<style>h1 { display: none }</style><p id='styled' style='display: none'>there</p>"
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace("<header>", f"{added}<header>"), encoding="utf-8")
    chromium.get(changed.as_uri())
    assert chromium.title != "ran"
    assert texts(chromium, "h1") and texts(chromium, "#styled") == ["there"]
    assert len(texts(chromium, ".main tbody tr:not(.section)")) == 5
    chromium.get_log("browser")  # what was refused


def test_drawings_keep_their_colours_and_lines(browser: Any, url: str) -> None:
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.drawing svg *')].map(e => { const s = getComputedStyle(e);"
        " return [e.getAttribute('fill'), s.fill, e.getAttribute('stroke-linecap'), s.strokeLinecap] })"
    )
    filled = [(asked, got) for asked, got, _, _ in drawn if asked and asked.startswith("#")]
    assert filled and all(got.startswith("rgb(") for _, got in filled)
    assert all(got == asked for _, _, asked, got in drawn if asked)
    assert {got for _, _, asked, got in drawn if not asked} >= {"butt"}
