"""The viewer in a real JupyterLab, with a real kernel, in Chromium: what the hand does moves the picture."""

import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from ies_helpers.figures.viewer import Place, Viewer, view
from tests.conftest import ROOT
from tests.pictures import click, point, subject_with_maps

pytestmark = pytest.mark.browser

CELLS = (
    "from ies_helpers.figures.viewer import view\nfrom tests.pictures import subject_with_maps",
    "viewer = view(*subject_with_maps())\nviewer",
)
WAIT, SOON = 90, 20
"""Seconds until JupyterLab must be there, and until a picture must have followed."""

READY = """const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
return context?.isReady && context.session?.kernel?.status === 'idle'"""

PICTURE = """const done = arguments[arguments.length - 1];
fetch(document.querySelector('.ies-stage img').src).then(r => r.blob()).then(blob => {
    const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(blob) })"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab of its own whose only notebook shows the viewer."""
    folder = tmp_path_factory.mktemp("lab")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "viewer.ipynb")
    homes = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    own = os.environ | homes | {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--no-browser", f"--port={port}", "--port-retries=0", "--IdentityProvider.token=", "--allow-root"]
    command = [sys.executable, "-m", "jupyterlab", *options, "--expose-app-in-browser", f"--notebook-dir={folder}"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=own, cwd=folder, stdout=log, stderr=log) as server,
    ):
        try:
            _wait(lambda: server.poll() is not None or _listens(port))
            assert server.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}/lab/tree/viewer.ipynb"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium with its own driver."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "needs Chromium: apt-get install chromium"
    assert driver, "needs its driver: apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1500,1100"):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        chrome.set_script_timeout(WAIT)
        yield chrome


@pytest.fixture(scope="module")
def page(lab: str, browser: webdriver.Chrome) -> webdriver.Chrome:
    """The notebook, run."""
    browser.get(lab)
    _until(browser, lambda b: b.execute_script(READY))
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    _until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".ies-stage img"))
    return browser


def _until(page: webdriver.Chrome, true: Callable[[webdriver.Chrome], object], seconds: float = WAIT) -> None:
    WebDriverWait(page, seconds).until(true)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(true: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def picture(page: webdriver.Chrome) -> np.ndarray:
    """What the screen shows, as an array."""
    encoded = page.execute_async_script(PICTURE)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded.split(",")[1]))))


def same(page: webdriver.Chrome, mirror: Viewer) -> None:
    """Wait until the screen shows, pixel for pixel, what the same viewer here would, and says the same."""
    want = np.asarray(Image.open(io.BytesIO(mirror.picture.value)))
    _until(page, lambda b: np.array_equal(picture(b), want), SOON)
    told = re.sub(r"\s+", " ", page.find_element(By.CSS_SELECTOR, ".ies-viewer [aria-live]").text)
    assert told == re.sub(r"<[^>]+>", "", unescape(mirror.caption.value.replace("<br>", " ")))


def control(page: webdriver.Chrome, name: str, part: str) -> WebElement:
    """A part of the control whose description is `name`."""
    path = f"//*[contains(@class, 'ies-viewer')]//label[text()='{name}']/.."
    return page.find_element(By.XPATH, path).find_element(By.CSS_SELECTOR, part)


def over(page: webdriver.Chrome, mirror: Viewer, plane: str, voxel: Place) -> tuple[WebElement, int, int]:
    """The glass, and how far from its middle lies the middle of a voxel (display order) of a plane, in pixels."""
    glass = page.find_element(By.CSS_SELECTOR, ".ies-glass")
    x, y = point(mirror, plane, voxel)
    return glass, round((x - 0.5) * glass.rect["width"]), round((y - 0.5) * glass.rect["height"])


def focus(page: webdriver.Chrome) -> str:
    """Where the keyboard is, and which cells there are."""
    return page.execute_script("return document.activeElement.className + document.querySelectorAll('.jp-Cell').length")


@pytest.fixture(scope="module")
def mirror() -> Viewer:
    """The same viewer without a browser, to which each test does the same."""
    return view(*subject_with_maps())


def test_the_screen_shows_the_viewer_and_hides_the_picture_for_readers_without_a_kernel(
    page: webdriver.Chrome, mirror: Viewer
) -> None:
    same(page, mirror)
    (static,) = page.find_elements(By.CSS_SELECTOR, ".ies-static")
    assert not static.is_displayed()
    assert page.find_element(By.CSS_SELECTOR, ".ies-stage img").is_displayed()


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("axial", [Keys.ARROW_RIGHT, Keys.ARROW_RIGHT], 14),
        ("coronal", [Keys.ARROW_DOWN], 11),
        ("sagittal", [Keys.HOME], 0),
        ("threshold", [Keys.ARROW_RIGHT] * 3, 0.08),
        ("opacity", [Keys.ARROW_LEFT] * 4, 0.7),
    ],
)
def test_arrow_keys_move_a_slider_and_the_picture_follows(
    page: webdriver.Chrome, mirror: Viewer, name: str, keys: list[str], value: float
) -> None:
    before, handle = picture(page), control(page, name, ".noUi-handle")
    handle.send_keys(keys[0])
    where = focus(page)
    for key in keys[1:]:
        handle.send_keys(key)
    mirror.controls[name].value = value
    same(page, mirror)
    assert not np.array_equal(picture(page), before)
    assert focus(page) == where


def test_a_slider_is_dragged_with_the_mouse(page: webdriver.Chrome, mirror: Viewer) -> None:
    handle, rail = (control(page, "axial", f".noUi-{part}") for part in ("handle", "target"))
    slider = mirror.controls["axial"]
    ActionChains(page).drag_and_drop_by_offset(handle, rail.rect["width"] * 2, 0).perform()
    slider.value = slider.max
    same(page, mirror)


def test_a_button_and_lists_work_with_the_keyboard_alone(page: webdriver.Chrome, mirror: Viewer) -> None:
    page.find_element(By.XPATH, "//button[text()='jump to the peak']").send_keys(Keys.ENTER)
    mirror.controls["peak"].click()
    same(page, mirror)
    lesions, group = control(page, "lesion", "select"), control(page, "group", "select")
    for keys, number in ((Keys.ARROW_DOWN, 2), (Keys.ARROW_DOWN, 3), (Keys.ARROW_UP, 2)):
        lesions.send_keys(keys)
        mirror.controls["lesion"].value = number
        same(page, mirror)
        assert page.switch_to.active_element == lesions
    group.send_keys("TP")
    mirror.controls["group"].value = "TP"
    same(page, mirror)
    _until(page, lambda _: len(Select(lesions).options) == 1, SOON)
    assert Select(lesions).options[0].text == "1 · TP · 33 voxels · p 0.50"
    group.send_keys(Keys.HOME)
    mirror.controls["group"].value = "all"
    _until(page, lambda _: len(Select(lesions).options) == 3, SOON)
    same(page, mirror)


def test_method_aggregation_and_modality_are_chosen(page: webdriver.Chrome, mirror: Viewer) -> None:
    for name, text, value in (
        ("aggregate", "mean", "mean"),
        ("method", "gradcam++", "gradcam++"),
        ("modality", "T1", 1),
        ("method", "smoothgrad", "smoothgrad"),
    ):
        Select(control(page, name, "select")).select_by_visible_text(text)
        mirror.controls[name].value = value
        same(page, mirror)


def test_a_click_moves_the_crosshair_and_chooses_the_lesion_it_hits(page: webdriver.Chrome, mirror: Viewer) -> None:
    for voxel in ((5, 6, 10), tuple(np.argwhere(mirror.planes.labels == 2).mean(axis=0).round().astype(int))):
        for plane in ("axial", "coronal", "sagittal"):
            ActionChains(page).move_to_element_with_offset(*over(page, mirror, plane, voxel)).click().perform()
            click(mirror, plane, voxel)
            same(page, mirror)
        assert mirror.state.at == voxel
    assert mirror.lesion.number == 2


def test_the_wheel_turns_slices_once_the_picture_was_clicked_and_else_scrolls_the_page(
    page: webdriver.Chrome, mirror: Viewer
) -> None:
    here = mirror.state.at
    place = over(page, mirror, "coronal", here)
    ActionChains(page).move_to_element_with_offset(*place).click().perform()
    for steps in (1, 1, -1):
        ActionChains(page).scroll_from_origin(ScrollOrigin.from_element(*place), 0, -120 * steps).perform()
        click(mirror, "coronal", here, "wheel", steps)
        same(page, mirror)
    page.execute_script("document.activeElement.blur()")
    ActionChains(page).scroll_from_origin(ScrollOrigin.from_element(*place), 0, -120).perform()
    time.sleep(0.5)
    same(page, mirror)


def test_the_whole_head_and_the_close_up_are_a_key_apart_and_colours_are_on_the_screen(
    page: webdriver.Chrome, mirror: Viewer, tmp_path: Path
) -> None:
    box = page.find_element(By.CSS_SELECTOR, ".ies-viewer input[type=checkbox]")
    for close in (False, True):
        box.send_keys(Keys.SPACE)
        mirror.controls["closeup"].value = close
        same(page, mirror)
    page.save_screenshot(str(tmp_path / "viewer.png"))
    stage = page.find_element(By.CSS_SELECTOR, ".ies-stage")
    seen = np.asarray(Image.open(io.BytesIO(stage.screenshot_as_png)).convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.ptp(seen, axis=1) > 100).mean() > 0.01, "the map and its bar have colours"
