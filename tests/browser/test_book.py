"""The built book in Chromium, from the disk: every page opens, asks nobody for anything, and can be read on a phone.

`make book` builds what is looked at here.
"""

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import ROOT

pytestmark = pytest.mark.browser

BOOK = ROOT / "notebooks" / "_build" / "html"
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
SMALLEST_TEXT = 14  # px
OURS = ("file:", "data:", "blob:", "about:", "chrome:")
WAIT = 30
PRINTED = ("book/instructor.html", "book/glossary.html", "book/cheat_sheet.html")
SURROUNDINGS = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer, .headerlink"

FACTS = """
const shown = e => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) && e.getClientRects().length;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let smallest = [99, ''];
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const e = node.parentElement;
    if (!node.data.trim() || e.closest('svg, mjx-container, sup, kbd, script, style') || !shown(e)) continue;
    const size = parseFloat(getComputedStyle(e).fontSize);
    if (size < smallest[0]) smallest = [size, e.tagName + ': ' + node.data.trim().slice(0, 60)];
}
const all = (selector, f) => Array.from(document.querySelectorAll(selector), f);
return {
    title: document.title,
    width: [document.documentElement.scrollWidth, window.innerWidth],
    smallest: smallest,
    mute: all('img', i => [i.src, (i.getAttribute('alt') || '').trim()]).filter(i => i[1].length < 10).map(i => i[0]),
    broken: all('img', i => [i.src, i.complete && !i.naturalWidth && i.loading != 'lazy'])
        .filter(i => i[1]).map(i => i[0]),
    nameless: all('iframe', f => f.title).filter(t => !t).length,
    links: all('a[href]', a => a.href),
    ids: all('[id]', e => e.id),
    figures: all('.cell_output img', i => i.alt),
    raw: all('.math', e => e.innerText).filter(t => t.includes('\\\\(') || t.includes('\\\\[')),
};"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium with its own driver, keeping a log of what it says and what it asks for."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "needs Chromium: apt-get install chromium"
    assert driver, "needs its driver: apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        chrome.set_page_load_timeout(WAIT)
        yield chrome


def sized(browser: webdriver.Chrome, size: str) -> None:
    """A window of that size; Chromium's own is never narrower than 500 pixels."""
    width, height = SIZES[size]
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def opened(browser: webdriver.Chrome, page: str) -> None:
    """Open a page, follow where it leads, and wait for its formulas."""
    browser.get(f"{BOOK.as_uri()}/{page}")
    there = (
        "return document.body && document.readyState == 'complete' && !document.querySelector('[http-equiv=Refresh]')"
    )
    WebDriverWait(browser, WAIT).until(lambda b: b.execute_script(there))
    browser.execute_async_script(
        "const done = arguments[0]; (window.MathJax?.startup?.promise ?? Promise.resolve()).then(() => done())"
    )


def told(browser: webdriver.Chrome) -> tuple[list[str], list[str]]:
    """What the console said, and what was asked of others, since the last call."""
    said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    failed = [str(e["params"]) for e in events if e["method"] == "Network.loadingFailed"]
    return said + failed, [url for url in urls if not url.startswith(OURS)]


@pytest.fixture(scope="module")
def pages(browser: webdriver.Chrome) -> dict[str, dict[str, dict[str, Any]]]:
    """What is to be known of every page, at each size."""
    names = sorted(p.relative_to(BOOK).as_posix() for p in BOOK.rglob("*.html") if "_static" not in p.parts)
    assert names, f"{BOOK} holds no book: run `make book`"
    known: dict[str, dict[str, dict[str, Any]]] = {size: {} for size in SIZES}
    for size in SIZES:
        sized(browser, size)
        for name in names:
            opened(browser, name)
            facts = browser.execute_script(FACTS)
            facts["said"], facts["asked"] = told(browser)
            known[size][name] = facts
    return known


def having(pages: dict[str, dict[str, dict[str, Any]]], fact: str) -> dict[str, Any]:
    """Pages and sizes where a fact is not empty."""
    return {f"{name}, {size}": f[fact] for size, known in pages.items() for name, f in known.items() if f[fact]}


def test_every_page_opens_and_the_console_stays_silent(pages: dict) -> None:
    assert having(pages, "said") == {}
    assert [name for name, facts in pages["desktop"].items() if "IES handbook" not in facts["title"]] == []


def test_nothing_is_asked_of_anybody_else(pages: dict) -> None:
    assert having(pages, "asked") == {}


def test_no_link_within_the_book_is_dead(pages: dict) -> None:
    known, dead = pages["desktop"], {}
    for name, facts in known.items():
        for link in facts["links"]:
            address, anchor = urldefrag(link)
            if not address.startswith(BOOK.as_uri()):
                assert address.startswith(("https://", "mailto:")), f"{link} leaves the book for this machine"
                continue
            target = unquote(address.removeprefix(f"{BOOK.as_uri()}/")).split("?")[0]
            lost = not (BOOK / target).is_file()
            if lost or (anchor and target in known and unquote(anchor) not in known[target]["ids"]):
                dead.setdefault(name, []).append(link.removeprefix(BOOK.as_uri()))
    assert dead == {}


def test_every_picture_is_there_and_says_what_it_shows(pages: dict) -> None:
    assert having(pages, "mute") == {}
    assert having(pages, "broken") == {}
    assert having(pages, "nameless") == {}


def test_every_chapter_shows_figures_with_texts_of_their_own(pages: dict) -> None:
    chapters = {name: facts["figures"] for name, facts in pages["desktop"].items() if name[:2].isdigit()}
    assert len(chapters) >= 11
    assert [name for name, texts in chapters.items() if not texts] == []
    assert {name: texts for name, texts in chapters.items() if len(set(texts)) < len(texts)} == {}


def test_formulas_are_drawn(pages: dict) -> None:
    assert having(pages, "raw") == {}


def test_a_page_is_as_wide_as_the_screen(pages: dict) -> None:
    wide = {
        f"{n}, {s}": f["width"] for s, known in pages.items() for n, f in known.items() if f["width"][0] > SIZES[s][0]
    }
    assert wide == {}


def test_text_is_large_enough_to_read(pages: dict) -> None:
    small = {n: f["smallest"] for known in pages.values() for n, f in known.items() if f["smallest"][0] < SMALLEST_TEXT}
    assert small == {}


def test_the_search_finds_a_word(browser: webdriver.Chrome) -> None:
    opened(browser, "search.html?q=SmoothGrad")
    found = WebDriverWait(browser, WAIT).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    assert any("04_smoothgrad" in str(link.get_attribute("href")) for link in found)
    assert told(browser) == ([], [])


def test_a_timetable_fits_a_phone(browser: webdriver.Chrome) -> None:
    sized(browser, "phone")
    opened(browser, "book/instructor.html")
    rights = browser.execute_script(
        "return Array.from(document.querySelectorAll('.bd-article table'), t => t.getBoundingClientRect().right)"
    )
    assert len(rights) == 3
    assert max(rights) <= SIZES["phone"][0]


@pytest.mark.parametrize("page", PRINTED)
def test_a_page_to_teach_from_prints_without_what_surrounds_it(browser: webdriver.Chrome, page: str) -> None:
    sized(browser, "desktop")
    opened(browser, page)
    shown = "return Array.from(document.querySelectorAll(arguments[0])).filter(e => e.checkVisibility()).length"
    before = browser.execute_script(shown, SURROUNDINGS)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert before > 0
        assert browser.execute_script(shown, SURROUNDINGS) == 0
        assert browser.execute_script(shown, ".bd-article h1, #jb-print-docs-body h1") == 1
        assert browser.execute_script(shown, ".bd-article p") > 10
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("size", SIZES)
def test_a_click_into_a_plane_moves_the_others(browser: webdriver.Chrome, size: str) -> None:
    sized(browser, size)
    opened(browser, "book/gallery.html")
    frame = browser.find_element(By.CSS_SELECTOR, ".cell_output iframe")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", frame)
    assert frame.size["width"] <= SIZES[size][0]
    browser.switch_to.frame(frame)
    canvas = WebDriverWait(browser, WAIT).until(
        lambda b: [c for c in b.find_elements(By.TAG_NAME, "canvas") if c.size["width"] > 100]
    )[0]
    before = WebDriverWait(browser, WAIT).until(lambda b: picture(b, canvas))
    third = canvas.size["width"] // 3
    ActionChains(browser).move_to_element_with_offset(canvas, -third + 15, -10).click().perform()
    end = time.monotonic() + WAIT
    while picture(browser, canvas) == before:
        assert time.monotonic() < end, "nothing moved"
        time.sleep(0.1)
    browser.switch_to.default_content()


def picture(browser: webdriver.Chrome, canvas: Any) -> str:
    """The canvas as a PNG, empty while it is blank."""
    whole = "arguments[0].getContext('2d').getImageData(0, 0, arguments[0].width, arguments[0].height).data"
    return browser.execute_script(f"return {whole}.some(v => v) ? arguments[0].toDataURL() : ''", canvas)
