"""The web page in a real browser: a running server, Chromium, and visitors who upload, search and compare.

    DIPTYCH_SCREENSHOTS=docs .venv/bin/pytest tests/serving/test_app_browser.py

also takes the screenshots of the docs, with `mini` and the sample library.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the page comes with the extra 'app'")
pytest.importorskip("lancedb", reason="the page comes with the extra 'app'")
pytest.importorskip("skimage", reason="the sample photographs come with the extra 'samples'")
pytest.importorskip("playwright.sync_api", reason="it comes with the dependency group 'dev'")

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from diptych.data.samples.library import photographs
from tests.page_models import mini_with_matcher, vit_gpt2

SCREENSHOTS = os.environ.get("DIPTYCH_SCREENSHOTS")
_PATIENCE = 60_000  # milliseconds: a machine may be busy with other things
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

expect.set_options(timeout=_PATIENCE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visitor")
    photographs(folder)
    return folder / "images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The page, served with a small ViT-GPT2 trained here and a matcher; `folder` may be indexed."""
    captioner, matcher = vit_gpt2(folder / "captioner"), mini_with_matcher(folder / "matcher")
    with serving(folder, "--captioner", captioner, "--matcher", matcher, "--root", folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as running:
        own = Path(running.chromium.executable_path)
        chromium = next(filter(None, map(shutil.which, _NAMES)), None) or (str(own) if own.exists() else None)
        if chromium is None:
            pytest.skip("no browser: install Debian's (apt-get install chromium), or `playwright install chromium`")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses to run as root
        opened = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if root else [])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page in a browser context of its own, as a separate visitor."""
    with contextlib.ExitStack() as visitors:

        def opened(path: str = "", **settings: object) -> Page:
            visitor = visitors.enter_context(browser.new_context(viewport={"width": 1200, "height": 860}, **settings))
            page = visitor.new_page()
            page.goto(f"{address}/{path}")
            expect(page.locator("h1")).to_be_visible()
            return page

        yield opened


@contextlib.contextmanager
def serving(folder: Path, *words: object) -> Iterator[str]:
    """Run `diptych app` in a process of its own with an empty cache folder; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "diptych", "app", "--no-browser", "--port", port, *words]
    environment = {**os.environ, "DIPTYCH_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file, env=environment, cwd=folder)
        try:
            _wait(f"http://127.0.0.1:{port}/_stcore/health", process, log)
            yield f"http://127.0.0.1:{port}"
            assert process.poll() is None, f"the server ended\n{log.read_text()}"
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


def _wait(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"the server did not come up\n{log.read_text()}")


def upload(page: Page, file: Path) -> None:
    field = page.locator('[data-testid="stFileUploader"] input[type="file"]')
    field.first.wait_for(state="attached", timeout=_PATIENCE)
    field.first.set_input_files(file)


def choose(page: Page, name: str) -> None:
    """Choose an image from the library with the keyboard."""
    button = page.get_by_role("button", name=f"Choose {name}")
    button.wait_for(state="attached", timeout=_PATIENCE)
    button.focus()
    page.keyboard.press("Enter")


def cards(page: Page) -> Locator:
    return page.locator(".d-name")


def test_a_picture_is_uploaded_and_captioned(visit: Callable[..., Page], photos: Path) -> None:
    page = visit()
    upload(page, photos / "cat.png")
    page.get_by_role("button", name="Generate caption").click()
    expect(page.locator(".d-caption")).to_have_text("a cat")
    expect(page.locator(".d-row").first).to_contain_text(re.compile(r"Confidence\s*\d+% · "))
    expect(page.get_by_text("Alternatives", exact=True)).to_be_visible()


def test_a_picture_is_chosen_and_captioned_without_a_mouse(visit: Callable[..., Page]) -> None:
    page = visit()
    choose(page, "coffee.png")
    expect(page.get_by_role("button", name="Generate caption")).to_be_visible()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".d-caption")).to_have_text("a cup of coffee")


def test_a_picture_on_the_clipboard_is_pasted(visit: Callable[..., Page], photos: Path) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    expect(page.get_by_test_id("stFileUploader")).to_be_visible()
    copy = """async (bytes) => navigator.clipboard.write(
        [new ClipboardItem({"image/png": new Blob([new Uint8Array(bytes)], {type: "image/png"})})])"""
    page.evaluate(copy, list((photos / "coins.png").read_bytes()))
    page.keyboard.press("Control+V")
    page.get_by_role("button", name="Generate caption").click()
    expect(page.locator(".d-caption")).to_have_text("old coins")


def test_results_update_while_typing(visit: Callable[..., Page]) -> None:
    page = visit("search")
    expect(cards(page)).to_have_count(15)
    page.get_by_placeholder("a dog on a beach").press_sequentially("a red motorcycle")
    expect(cards(page).first).to_have_text("motorcycle.png")
    expect(page).to_have_url(re.compile(r"q=a\+red\+motorcycle"))
    page.get_by_role("button", name="More like this").first.click()
    expect(page.get_by_text("Similar to motorcycle.png")).to_be_visible()
    expect(cards(page)).to_have_count(14)


def test_more_like_this_scrolls_to_the_top(visit: Callable[..., Page]) -> None:
    page = visit("search")
    expect(cards(page)).to_have_count(15)
    page.get_by_role("button", name="More like this").last.click()
    expect(page.get_by_text("Similar to temple.jpg")).to_be_in_viewport()


def test_a_picture_finds_pictures(visit: Callable[..., Page], photos: Path) -> None:
    page = visit("search")
    page.get_by_role("button", name="Image", exact=True).click()
    upload(page, photos / "temple.jpg")
    expect(page.get_by_text("Similar to temple.jpg")).to_be_visible()
    expect(cards(page).first).to_have_text("temple.jpg")


def test_a_match_is_shown_in_words(visit: Callable[..., Page]) -> None:
    page = visit("match")
    choose(page, "cat.png")
    page.get_by_label("Descriptions, one per line").fill("a rocket on a launch pad\na cat")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".d-row")).to_have_count(2)
    expect(page.locator(".d-row").first).to_have_text(re.compile("a cat.*very likely"))


def test_a_folder_is_indexed_and_searched(visit: Callable[..., Page], folder: Path) -> None:
    library = folder / "mine"
    library.mkdir()
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (90, 60), colour).save(library / name)
    (library / "broken.jpg").write_bytes(b"no image")
    page = visit("index")
    page.get_by_label("Image folder").fill(str(library))
    page.get_by_role("button", name="Index", exact=True).click()
    expect(page.get_by_text("2 new, 1 skipped")).to_be_visible()
    page.get_by_role("link", name="Search").click()
    expect(cards(page)).to_have_text(["blue.png", "red.png"])


def test_a_page_without_an_index_links_to_the_index_page(browser: Browser, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(photos / "cat.png", tmp_path / "mine")
    with serving(tmp_path, "--index", tmp_path / "index", "--root", tmp_path / "mine") as address:
        page = browser.new_page()
        page.goto(f"{address}/search")
        expect(page.get_by_text("has no images yet")).to_be_visible()
        page.get_by_role("link", name="Index a folder").click()
        page.get_by_label("Image folder").fill(str(tmp_path / "mine"))
        page.get_by_role("button", name="Index", exact=True).click()
        expect(page.get_by_text("1 new")).to_be_visible()
        page.get_by_role("link", name="Search").click()
        expect(cards(page)).to_have_text(["cat.png"])


def test_an_upload_that_is_not_a_picture_is_refused(visit: Callable[..., Page], tmp_path: Path, photos: Path) -> None:
    page = visit()
    (tmp_path / "notes.png").write_text("these are words")
    upload(page, tmp_path / "notes.png")
    expect(page.get_by_role("alert")).to_contain_text("cannot be decoded as an image")
    (tmp_path / "notes.txt").write_text("these are words")
    upload(page, tmp_path / "notes.txt")
    expect(page.get_by_text("files are not allowed")).to_be_visible()
    upload(page, photos / "cat.png")
    expect(page.get_by_role("button", name="Generate caption")).to_be_visible()


def test_an_upload_of_100_mb_is_refused_and_costs_the_server_nothing(
    visit: Callable[..., Page], address: str, tmp_path: Path
) -> None:
    page = visit()
    expect(page.get_by_test_id("stFileUploader")).to_be_visible()
    before = memory(address)
    big = tmp_path / "big.png"
    with big.open("wb") as file:
        file.truncate(100 * 2**20)
    upload(page, big)
    expect(page.get_by_text(re.compile("File must be 64.*MB or smaller"))).to_be_visible()
    assert memory(address) - before < 50 * 2**20


def memory(address: str) -> int:
    """Resident memory, in bytes, of the server that listens at an address."""
    port = int(address.rsplit(":", 1)[1])
    [server] = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    return psutil.Process(server).memory_info().rss


def test_two_visitors_at_once_each_get_their_own_answer(visit: Callable[..., Page]) -> None:
    visitors = {"clock.png": visit(), "motorcycle.png": visit()}
    for name, page in visitors.items():
        choose(page, name)
    for page in visitors.values():
        page.get_by_role("button", name="Generate caption").click()
    expect(visitors["clock.png"].locator(".d-caption")).to_have_text("a clock")
    expect(visitors["motorcycle.png"].locator(".d-caption")).to_have_text("a red motorcycle")


def test_a_narrow_screen_scrolls_down_and_never_sideways(visit: Callable[..., Page]) -> None:
    page = visit("search")
    page.set_viewport_size({"width": 390, "height": 800})
    expect(cards(page)).to_have_count(15)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".stMain").evaluate("main => main.scrollWidth - main.clientWidth") <= 0


@pytest.mark.skipif(not SCREENSHOTS, reason="set DIPTYCH_SCREENSHOTS to the folder that they go to")
def test_the_screenshots_of_the_docs(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as address:
        page = browser.new_page(viewport={"width": 1160, "height": 900}, color_scheme="light")
        page.goto(address)
        choose(page, "motorcycle.png")
        page.get_by_role("button", name="Generate caption").click()
        expect(page.get_by_text("Prompt", exact=True)).to_be_visible()
        shoot(page, "caption")
        page = browser.new_page(viewport={"width": 1160, "height": 760}, color_scheme="dark")
        page.goto(f"{address}/search")
        expect(cards(page)).to_have_count(15)
        page.get_by_role("button", name="More like this").nth(5).click()
        expect(cards(page)).to_have_count(14)
        shoot(page, "search")
        page = browser.new_page(viewport={"width": 390, "height": 780}, color_scheme="light")
        page.goto(f"{address}/search?q=a+red+motorcycle")
        expect(cards(page)).to_have_count(1)
        shoot(page, "narrow")


def shoot(page: Page, name: str) -> None:
    """Save a screenshot once the page is idle, with as many colours as fit into 200 kB."""
    page.locator('[data-test-script-state="notRunning"]').wait_for(timeout=_PATIENCE)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1_500)  # images fade in
    file = Path(SCREENSHOTS or ".") / f"app-{name}.png"
    page.screenshot(path=file)
    with Image.open(file) as image:
        rgb = image.convert("RGB")
    for colours in (256, 128, 64, 32):
        few = rgb.quantize(colours)
        rgb.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)
        if file.stat().st_size < 200_000:
            return
    pytest.fail(f"'{file}' has {file.stat().st_size:,} bytes")
