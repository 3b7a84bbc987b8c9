"""The HTML page as a reader has it: opened from disk in Chromium, used with mouse and keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from evals.bench import page as bench_page
from evals.bench.document import BENCH
from evals.report import page
from evals.store.folders import read_document, samples_of
from evals.viewer import Pages

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


def violations(browser: Any) -> list[str]:
    """What axe-core finds against WCAG 2.2 AA and its own best practices on the page as it is shown."""
    browser.execute_script(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const done = arguments[0];"
        "const runOnly = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];"
        "axe.run(document, {runOnly}).then(done);"
    )
    assert len(found["passes"]) > 20, "the rules were applied"
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


@pytest.fixture
def scheme(request: Any, browser: Any) -> Iterator[str]:
    """The page in the colour scheme that the test names."""
    media = {"features": [{"name": "prefers-color-scheme", "value": request.param}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    yield request.param
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


BOTH = pytest.mark.parametrize("scheme", ["light", "dark"], indirect=True)


@BOTH
def test_the_page_is_accessible(browser: Any, scheme: str) -> None:
    browser.execute_script("document.querySelectorAll('#results > details').forEach(one => { one.open = true; })")
    assert violations(browser) == []
    row = next(row for row in all_of(browser, ".main tbody tr") if "fastv" in row.text)
    row.find_elements("css selector", "button")[0].click()
    browser.execute_script("document.querySelectorAll('#detail details').forEach(one => { one.open = true; })")
    assert violations(browser) == [], "with an open dialog"
    browser.set_window_size(390, 800)
    assert violations(browser) == [], "on a phone"


def test_the_other_pages_are_accessible(chromium: Any, tmp_path: Path) -> None:
    analysis = tmp_path / "analysis.html"
    shutil.copy("results/analysis/mini-vanilla/report.html", analysis)
    bench = bench_page.write(
        BENCH.read(next(Path("results/bench").glob("bench-400m-*-t500-*.json"))), tmp_path / "b.html"
    )
    timed = [BENCH.read(path) for path in (next(Path("results/bench").glob("bench-400m-*-t500-*.json")),) * 2]
    speed = bench_page.measured_speed({Path(f"{number}.json"): one for number, one in enumerate(timed)})
    several = bench_page.write_several(speed, tmp_path / "c.html")
    viewed = tmp_path / "viewer.html"
    viewed.write_text(Pages(Path("results")).page("/") or "", encoding="utf-8")
    for path in (analysis, bench, several, viewed):
        chromium.get(path.as_uri())
        assert violations(chromium) == [], path.name


def all_of(browser: Any, css: str) -> list[Any]:
    return browser.find_elements("css selector", css)


def texts(browser: Any, css: str) -> list[str]:
    return [element.text for element in all_of(browser, css) if element.is_displayed()]


def until(holds: Callable[[], bool]) -> None:
    """Wait until the page, which may be drawing its cards again, is as it should be."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(None, 10, ignored_exceptions=[StaleElementReferenceException]).until(lambda _: holds())


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
    box = all_of(browser, "#filter input")[0]
    box.send_keys("plain fast")
    assert column(browser, 2) == ["fastv"]
    assert texts(browser, "#filter output") == ["1 of 5 rows"]
    all_of(browser, "#filter button")[0].click()
    # The form is emptied after its event: the page looks at it a moment later.
    until(lambda: len(column(browser, 2)) == 5)
    titles = [option.text for option in all_of(browser, "#filter option")]
    choose(browser, "#filter [name=section]", next(title for title in titles if title.endswith(", trained")))
    assert column(browser, 2) == ["trained"]
    heading(browser, "POPE").click()  # sorting does not bring the others back
    assert column(browser, 2) == ["trained"]
    # The tables below follow, and say how many rows they show.
    for details in all_of(browser, "#results > details"):
        assert details.find_element("css selector", "summary .count").text == "(1 of 6 rows)"
        details.find_element("css selector", "summary").click()
        assert texts(details, "tbody tr:not(.section) td:nth-child(2)") == ["trained"]
    # Their fields open the score that they are of.
    button = next(one for one in all_of(browser, "#results > details td button") if one.is_displayed())
    button.click()
    assert all_of(browser, "#detail-title")[0].text == "GQA: trained on tuned"
    assert "filters: [" in all_of(browser, "#detail")[0].text


def found_by(browser: Any, words: str) -> list[str]:
    """The methods in the table when these words are typed."""
    box = all_of(browser, "#filter input")[0]
    box.clear()
    box.send_keys(words)
    return column(browser, 2)


def test_the_filter_knows_or_and_not(browser: Any) -> None:
    everything = column(browser, 2)
    assert sorted(found_by(browser, "fastv | random")) == ["fastv", "random"]
    assert found_by(browser, "FastV|random -fast") == ["random"]
    assert found_by(browser, "plain -fastv -random") == [
        name for name in everything if name in ("vanilla", "downsample")
    ]
    assert found_by(browser, "-plain") == ["trained"]
    assert found_by(browser, "fastv |") == ["fastv"] and found_by(browser, " - ") == []
    assert found_by(browser, "nothing | -") == []


def address(browser: Any) -> str:
    return browser.execute_script("return decodeURIComponent(location.hash.replaceAll('+', ' '))")


def reopen(browser: Any) -> None:
    """Open the address of the page as it is in a new document."""
    there = browser.current_url
    browser.get("about:blank")
    browser.get(there)


def test_the_address_keeps_what_the_table_shows(browser: Any) -> None:
    assert address(browser) == "", "a page as it opens has no state"
    found_by(browser, "plain -random")
    heading(browser, "POPE").click()
    all_of(browser, "#filter .chooser summary")[0].click()
    next(box for box in all_of(browser, "#filter [name=column]") if box.get_attribute("value") == "GQA").click()
    shown, headings = column(browser, 2), texts(browser, ".main thead th")
    assert "GQA" not in headings and "sort=0:descending:POPE" in address(browser)
    reopen(browser)
    assert column(browser, 2) == shown and texts(browser, ".main thead th") == [*headings]
    assert all_of(browser, "#filter input")[0].get_attribute("value") == "plain -random"
    next(link for link in all_of(browser, "nav a") if link.text == "Figures").click()
    assert "find=plain -random" in address(browser), "a jump to a section keeps the state"
    all_of(browser, "#filter button")[0].click()
    until(lambda: "find" not in address(browser) and "hide" not in address(browser))
    assert "GQA" in texts(browser, ".main thead th")


def test_the_address_opens_a_score_and_a_sample(browser: Any, url: str) -> None:
    row = next(row for row in all_of(browser, ".main tbody tr") if "fastv" in row.text)
    row.find_elements("css selector", "button")[0].click()
    assert "detail=plain/fastv/gqa" in address(browser)
    reopen(browser)
    assert "GQA: fastv on plain" in all_of(browser, "#detail")[0].text
    all_of(browser, "#detail form button")[0].click()
    choose(browser, "#choice [name=task]", "POPE")
    choose(browser, "#choice [name=beside]", "plain: downsample")
    all_of(browser, "#choice [value=same]")[0].click()
    counted = texts(browser, "#choice .count")
    before = texts(browser, "#cards .card h3 a")
    all_of(browser, "#cards .card h3 a")[-1].click()
    name = before[-1]
    for step, shown in ((None, [name]), (browser.back, before), (browser.forward, [name])):
        if step:
            step()
        until(lambda shown=shown: texts(browser, "#cards .card h3 a") == shown)
    reopen(browser)
    assert texts(browser, "#cards .card h3 a") == [name] and len(texts(browser, "#cards .pair h4")) == 2
    assert "detail" not in address(browser) and "task=pope" in address(browser)
    all_of(browser, "#choice [name=all]")[0].click()
    assert texts(browser, "#choice .count") == counted and len(all_of(browser, "#cards .card")) > 0
    browser.get(f"{url}#row=no/such/row&sort=7:up:x&budget=none&sample=-1&detail=a&hide=b&category=c")
    assert len(column(browser, 2)) == 5 and texts(browser, "#cards .card") == []


def pasted(browser: Any) -> str:
    """The clipboard, as somebody pastes it into a field of another page."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get("data:text/html,<textarea autofocus></textarea>")
    field = all_of(browser, "textarea")[0]
    field.click()
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    return str(field.get_property("value"))


@pytest.mark.parametrize("form", ["CSV", "LaTeX", "Markdown"])
def test_the_rows_and_columns_that_are_shown_can_be_copied(browser: Any, form: str) -> None:
    found_by(browser, "plain -random -downsample")
    all_of(browser, "#filter .chooser summary")[0].click()
    boxes = all_of(browser, "#filter [name=column]")
    for box in boxes:
        if box.get_attribute("value") not in ("GQA", "Share (tokens)"):
            box.click()
    assert texts(browser, ".main thead th") == ["Model", "Method", "Share (tokens)", "GQA"]
    rows = {name: column(browser, 4)[place] for place, name in enumerate(column(browser, 2))}
    next(button for button in all_of(browser, "#filter [name=copy]") if button.text == form).click()
    assert texts(browser, "#filter output") == [f"2 rows copied as {form}"]
    text = pasted(browser)
    assert text.endswith("\n") and "random" not in text and "POPE" not in text
    if form == "CSV":
        assert text.splitlines()[0] == "Budget,Model,Method,Share (tokens),GQA"
        assert f"All visual tokens,plain,vanilla,100.0 % (100.0),{rows['vanilla']}" in text.splitlines()
        assert "*" not in text, "numbers are numbers"
    elif form == "LaTeX":
        assert r"\begin{tabular}{llrr}" in text and r"plain & vanilla & 100.0 \% (100.0) & " in text
        assert r"\multicolumn{4}{l}{\textit{All visual tokens}}" in text and text.count(r"\midrule") == 2
    else:
        assert "| Model | Method | Share (tokens) | GQA |\n| :--- | :--- | ---: | ---: |" in text
        assert "| ***All visual tokens*** | | | |" in text


def test_headings_stay_in_sight_in_a_long_table(browser: Any) -> None:
    browser.set_window_size(1300, 420)
    browser.execute_script("document.querySelector('.main tbody:last-of-type, .main').scrollIntoView({block: 'end'})")
    browser.execute_script("window.scrollBy(0, 40); document.querySelector('.scroll').scrollTop = 60")
    top, box, first = browser.execute_script(
        "return [document.querySelector('.main thead th').getBoundingClientRect().top,"
        " document.querySelector('.scroll').getBoundingClientRect().top,"
        " document.querySelector('.main tbody tr').getBoundingClientRect().top]"
    )
    assert top == pytest.approx(max(box, 0), abs=2) and first < top, "rows have moved under the headings"


def test_a_score_opens_its_samples(browser: Any) -> None:
    row = next(row for row in all_of(browser, ".main tbody tr") if "fastv" in row.text)
    row.find_elements("css selector", "button")[0].click()
    shown = all_of(browser, "#detail")[0].text
    for words in (
        "GQA: fastv on plain",
        "against plain/vanilla/gqa",
        "McNemar",
        "weights",
        "batch size",
        "fastv: One cut, after the first few layers",
        "keep: 4, layer: 2",
        "run.py",
        "torch",
    ):
        assert words in shown
    all_of(browser, "#detail > div > details summary")[-1].click()
    assert '"layer": 2' in texts(browser, "#detail .raw")[0]
    next(button for button in all_of(browser, "#detail button") if button.text == "Show samples").click()
    assert not all_of(browser, "#detail")[0].is_displayed()
    assert all_of(browser, "#choice [name=row]")[0].get_attribute("value") == "plain/fastv/gqa"


def test_a_score_lists_the_samples_that_were_lost_and_shows_them(browser: Any, little: Path) -> None:
    scores = {
        cell["label"]: {row["doc_id"]: row["score"] for row in samples_of(little, cell) or ()}
        for cell in read_document(little)["cells"]
        if (cell["model"], cell["task"]) == ("plain", "gqa")
    }
    lost = [doc for doc, score in scores["vanilla"].items() if scores["downsample"][doc] < 0.5 <= score]
    assert len(lost) > 1
    row = next(row for row in all_of(browser, ".main tbody tr") if "downsample" in row.text)
    row.find_elements("css selector", "button")[0].click()
    there = browser.current_url
    summary = next(one for one in all_of(browser, "#detail .flips summary") if one.text.startswith("lost"))
    assert summary.text == f"lost: {len(lost)} samples"
    summary.click()
    assert texts(browser, "#detail .ids") == [", ".join(map(str, lost))]
    next(button for button in all_of(browser, "#detail .flips button") if button.text == "Copy").click()
    assert pasted(browser) == f"{', '.join(map(str, lost))}\n"
    browser.get(there)
    next(button for button in all_of(browser, "#detail button") if button.text.startswith("Show lost")).click()
    assert not all_of(browser, "#detail")[0].is_displayed()
    assert set(texts(browser, "#cards .card h3")) == {f"lost · sample {doc}" for doc in lost}
    assert "row=plain/downsample/gqa" in address(browser) and "flips=lost" in address(browser)
    browser.get(there)
    all_of(browser, "#detail .flips summary")[0].click()
    all_of(browser, "#detail .ids a")[0].click()
    until(lambda: texts(browser, "#cards .card h3 a") == [f"sample {lost[0]}"])
    assert "detail" not in address(browser)


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


def test_each_frame_is_shown_with_the_tokens_that_are_kept_of_it(chromium: Any, url: str, tmp_path: Path) -> None:
    """A sample whose square of tokens is said to be a video of four frames, two of which share a grid; then tiles."""
    text = Path(url.removeprefix("file://")).read_text(encoding="utf-8")
    found = page.DATA.search(text)
    assert found
    data = json.loads(found[1])
    film, tiles = len(data["shapes"]), len(data["shapes"]) + 1
    data["shapes"] += [[0, [[2, 5, 10, 0]], [[0], [0], [1]], 2], [0, [[1, 2, 2, 0]] * 25, None, 1]]
    rows, (first, second, *_) = data["tasks"]["gqa"]["rows"], data["tasks"]["gqa"]["samples"]
    labels = [f"frame {number}, {number / 4} s" for number in (1, 2, 3)]
    for sample, shape in ((first, film), (second, tiles)):
        sample["views"] = [{"pictures": [[0, label] for label in labels], "more": "1 more frame"}]
        for answer in sample["answers"]:
            answer[4] = shape
    changed = tmp_path / "film.html"
    changed.write_text(text.replace(found[1], json.dumps(data).replace("<", "\\u003c")), encoding="utf-8")
    chromium.set_window_size(390, 800)
    row, beside = (next(row for row in rows if name in row) for name in ("plain/fastv/", "plain/vanilla/"))
    chromium.get(f"{changed.as_uri()}#row={row}&beside={beside}&sample={first['doc']}")
    assert texts(chromium, ".pair .rest") == ["and 1 more frame"] * 2, "of each row"
    under = texts(chromium, ".pair > :first-child .shot p")
    counts = [text.split(": ")[1].split(" of ") for text in under[3:]]
    assert under[:3] == labels and [text.split(":")[0] for text in under[3:]] == ["frame 1", "frame 2", "frame 3"]
    assert counts[0] == counts[1] and int(counts[0][0]) + int(counts[2][0]) == 4 and {of for _, of in counts} == {"50"}
    covered = [path.get_attribute("d").count("z") for path in all_of(chromium, ".pair path")]
    assert covered == [50 - int(kept) for kept, _ in counts] and len(all_of(chromium, ".pair .fitted img")) == 3
    assert "4 kept after layer 2, a grid for 2 frames" in texts(chromium, ".pair figcaption")
    wide = chromium.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] and violations(chromium) == []
    chromium.get("about:blank")
    chromium.get(f"{changed.as_uri()}#row={row}&sample={second['doc']}")
    assert len(all_of(chromium, "#cards path")) == 20 and not all_of(chromium, "#cards .fitted img")
    said = all_of(chromium, "#cards .card")[0].text
    assert "It was not recorded which part of which picture each grid shows" in said and "first 20 of 25" in said
    assert chromium.get_log("browser") == []


def test_two_rows_are_compared_on_the_same_samples(browser: Any, little: Path) -> None:
    """Lost and gained are then between the two rows: what one loses to the other, the other gains."""
    choose(browser, "#choice [name=row]", "plain: downsample")
    choose(browser, "#choice [name=beside]", "plain: fastv")
    one = dict(zip(("lost", "gained", "changed", "same"), texts(browser, "#choice .count"), strict=False))
    cards = all_of(browser, "#cards .card")
    heads = [head.text for head in cards[0].find_elements("css selector", ".pair h4")]
    assert heads == ["plain: downsample", "plain: fastv"]
    choose(browser, "#choice [name=row]", "plain: fastv")
    choose(browser, "#choice [name=beside]", "plain: downsample")
    other = dict(zip(("lost", "gained", "changed", "same"), texts(browser, "#choice .count"), strict=False))
    assert (one["lost"], one["gained"], one["same"]) == (other["gained"], other["lost"], other["same"])
    scores = {
        method: {
            row["doc_id"]: row["score"]
            for cell in read_document(little)["cells"]
            if (cell["label"], cell["task"]) == (method, "gqa")
            for row in samples_of(little, cell) or ()
        }
        for method in ("fastv", "downsample")
    }
    lost = sum(scores["fastv"][doc] < 0.5 <= scores["downsample"][doc] for doc in scores["fastv"])
    assert other["lost"] == f"({lost})"


def test_samples_are_found_by_words_and_category(browser: Any) -> None:
    everything = texts(browser, "#cards .card pre")
    box = all_of(browser, "#choice [name=text]")[0]
    found = []
    for words in ("COLOR", "-color"):
        box.clear()
        box.send_keys(words)
        found.append(texts(browser, "#cards .card pre"))
    assert found[0] and all("color" in text.lower() for text in found[0])
    assert found[1] and not any("color" in text.lower() for text in found[1])
    assert len(found[0]) + len(found[1]) == len(everything) == 16
    assert texts(browser, "#choice output") == [f"{len(found[1])} of 16 samples on this page"]
    choose(browser, "#choice [name=task]", "POPE")
    box.clear()
    hidden = not all_of(browser, "#choice [name=category]")[0].is_displayed()
    categories = [option.text for option in all_of(browser, "#choice [name=category] option")]
    assert hidden == (len(categories) == 1)
    for name in categories[1:]:
        choose(browser, "#choice [name=category]", name)
        assert all(text.endswith(f" · {name}") for text in texts(browser, "#cards .card h3"))
        assert texts(browser, "#cards .card h3")


def test_a_mark_of_a_figure_has_its_numbers_where_a_pointer_is(browser: Any) -> None:
    browser.execute_script("document.querySelector('.drawing').scrollIntoView({block: 'center'})")
    found = browser.execute_script(
        "const point = [...document.querySelectorAll('.point')].find(p => p.textContent.includes('plain, fastv'));"
        " const box = point.getBoundingClientRect();"
        " const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);"
        " return [point.querySelector('title').textContent, hit.closest('.point')?.textContent ?? '']"
    )
    assert "% of vanilla" in found[0]
    assert "% of vanilla" in found[1], "the mark, or one that lies on it, is under the pointer"
    assert texts(browser, ".words") == []
    browser.execute_script(  # a finger next to the mark
        "const point = [...document.querySelectorAll('.point')].find(p => p.textContent.includes('tuned, trained'));"
        " const box = point.getBoundingClientRect(), drawing = point.closest('.drawing');"
        " drawing.dispatchEvent(new MouseEvent('click', {clientX: box.x - 5, clientY: box.y - 5, bubbles: true}))"
    )
    assert texts(browser, ".words")[0].startswith("tuned, trained\n")
    names = [entry.text for entry in all_of(browser, ".key li")]
    assert {"vanilla", "fastv", "random", "downsample"} <= set(names)
    inside = browser.execute_script(
        "const drawn = s => document.querySelector(s).outerHTML;"
        " return [drawn('.key li .symbol'), drawn('.main td .symbol')]"
    )
    assert inside[0] == inside[1], "vanilla has one symbol in the legend and in the table"


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


@BOTH
def test_it_can_be_read_on_a_phone_in_light_and_dark(browser: Any, scheme: str) -> None:
    phone = {"width": 375, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], "only tables scroll sideways"
        assert texts(browser, ".hint")[0].endswith(" more columns: scroll the table sideways →")
        browser.execute_script("const box = document.querySelector('.scroll'); box.scrollLeft = box.scrollWidth")
        until(lambda: texts(browser, ".hint")[0] == "← scroll the table back")
        small = browser.execute_script(
            "return [...document.querySelectorAll('button, select, input, summary')]"
            ".filter(one => one.checkVisibility())"
            ".map(one => [one.getBoundingClientRect(), one.outerHTML])"
            ".filter(([box]) => Math.min(box.width, box.height) < 24).map(([, html]) => html)"
        )
        assert small == [], "too small for a finger"
        # Text of the page and of a figure, on their ground.
        colours = browser.execute_script(
            "const body = getComputedStyle(document.body), text = document.querySelector('.drawing text');"
            " return [body.color, getComputedStyle(text).fill, body.backgroundColor]"
        )
        *inks, ground = (_luminance(colour) for colour in colours)
        for ink in inks:
            assert (ink < ground) == (scheme == "light")
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 7, "contrast"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


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


def test_a_page_without_samples_lists_the_flips(chromium: Any, little: Path, tmp_path: Path) -> None:
    written = page.write(read_document(little), little, samples=0, out=tmp_path)
    chromium.get(f"{written.as_uri()}#detail=plain/downsample/gqa")
    assert all_of(chromium, "#detail .flips summary") and "this page shows none" in all_of(chromium, "#detail")[0].text
    assert not all_of(chromium, "#samples") and chromium.get_log("browser") == []


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
