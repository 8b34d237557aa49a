"""The explorer's page in a headless Chromium: by mouse and by keyboard, with 10,000 records."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import explorer
from bench.record import encode
from tests import chromium
from tests.explorer_records import GRID, HOSTILE, large_store


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if chromium.BINARY is None:
        pytest.skip("no chromium")
    pytest.importorskip("vl_convert")
    folder = tmp_path_factory.mktemp("explorer")
    (folder / "all.jsonl").write_bytes(b"".join(map(encode, large_store())))
    explorer.write(folder, folder / "page.html", [GRID])
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as page:
        page.open(file)
        yield page


@pytest.fixture
def page(file: Path, browser: chromium.Page) -> Iterator[chromium.Page]:
    """The page with 10,000 records at its first view; no test may leave a complaint of the browser behind."""
    look_at(browser, "")
    yield browser
    assert browser.problems == []
    assert set(browser.requests) == {file.as_uri()}


def look_at(page: chromium.Page, view: str) -> None:
    """Write a view into the address, as a reader would."""
    if page.run("location.hash.slice(1)") != view:
        page.run("new Promise(done => { addEventListener('hashchange', () => done(), {once: true});"
                 f"location.hash = {json.dumps(view)}; }})")
    page.run("document.activeElement.blur()")


def cells(page: chromium.Page, key: str) -> list[str]:
    """A column of the table as it stands on the screen."""
    heads = page.run("[...document.querySelectorAll('#head button')].map(button => button.dataset.sort)")
    cell = f"row.children[{heads.index(key)}].textContent"
    return [str(one) for one in page.run(f"[...document.querySelectorAll('#rows tr')].map(row => {cell})")]


def text(page: chromium.Page, selector: str) -> str:
    return str(page.run(f"document.querySelector('{selector}').textContent"))


def test_ten_thousand_records_are_drawn_page_by_page(page: chromium.Page) -> None:
    assert text(page, "#summary") == "10,000 records, 407 rows"
    assert text(page, "#count") == "407 of 407 rows"
    assert text(page, "#page") == "page 1 of 5"
    assert len(cells(page, "cell")) == 100
    page.hover("#next", click=True)
    assert text(page, "#page") == "page 2 of 5"
    assert cells(page, "cell")[0] == f"name cnn, epochs 7, learning_rate {94 / 1000}"


def test_the_plot_shows_what_the_filters_pass(page: chromium.Page) -> None:
    look_at(page, "x=train.learning_rate&y=test&colour=experiment&q=test>=1")
    # Basis points 100 to 399, and cell 0 on two machines, and cell 1.
    assert text(page, "#plotted") == "303 of 303 rows have both values."
    drawn = ("(() => { const c = document.querySelector('#scatter canvas');"
             "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
             "return p.some((v, i) => i % 4 === 0 && v === 0 && p[i + 1] === 114 && p[i + 2] === 178); })()")
    page.wait(drawn)  # the first colour of the palette, #0072B2
    look_at(page, "x=train.learning_rate&log=y")  # 403 rows have a test accuracy, one of them 0 %
    assert text(page, "#plotted") == "402 of 407 rows have both values."


def test_search_and_lists_narrow_the_rows(page: chromium.Page) -> None:
    page.run("document.querySelector('#q').focus()")
    page.send("Input.insertText", text="learning_rate=0.01 -0.012 test<0.99")
    # By its words: learning rates 0.01, 0.011 ... 0.019, without 0.012; by the comparison, below 0.99 %: all of them.
    page.wait("document.querySelector('#count').textContent === '9 of 407 rows'")
    assert all("learning_rate 0.01" in cell for cell in cells(page, "cell"))
    page.hover("#clear", click=True)
    assert text(page, "#count") == "407 of 407 rows"
    page.run("document.querySelector('#filter-experiment').focus()")
    page.press("ArrowDown")
    page.wait("document.querySelector('#count').textContent === '7 of 407 rows'")
    assert set(cells(page, "experiment")) == {"grid"}
    assert "experiment=grid" in page.run("location.hash")


def test_headings_sort_by_keyboard_and_keep_the_focus(page: chromium.Page) -> None:
    page.run("document.querySelector('[data-sort=test]').focus()")
    heading = "document.activeElement.closest('th').getAttribute('aria-sort')"
    page.press("Enter")
    assert page.run(heading) == "ascending"
    assert [float(one.split(" ")[0]) for one in cells(page, "test")] == [i / 100 for i in range(100)]
    page.press("Enter")
    assert page.run(heading) == "descending"
    assert [one.split(" ")[0] for one in cells(page, "test")[:4]] == ["87.50", "62.50", "62.50", "3.99"]
    page.press("Enter")
    assert page.run(heading) == "none"


@pytest.mark.parametrize("direction", ["", "-"])
def test_texts_sort_as_people_count_and_nothing_comes_last(page: chromium.Page, direction: str) -> None:
    look_at(page, f"experiment=grid&sort={direction}kernel_size")
    assert cells(page, "kernel_size") == (["2"] * 3 + ["3"] * 2 + ["10"] * 2)[:: -1 if direction else 1]
    look_at(page, f"experiment=grid&sort={direction}test")
    assert cells(page, "test")[3:] == ["-"] * 4


def test_a_row_shows_its_curves_its_times_and_its_command(page: chromium.Page) -> None:
    page.hover("#rows tr:nth-child(2) td")
    page.wait("document.querySelectorAll('#detail canvas').length === 3")
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 1"
    assert "600 steps; one in 3 is shown" in text(page, "#detail")
    command = "accelerate launch bench/run.py grid --only model.kernel_size=2 --only model.depth=1 --seeds 2"
    assert text(page, "#detail pre") == command
    page.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    page.run("document.querySelector('#copy').click()")
    page.wait("document.querySelector('#detail [role=status]').textContent === 'copied'")
    assert page.run("navigator.clipboard.readText()") == command


def test_rows_are_walked_and_kept_by_keyboard(file: Path, page: chromium.Page) -> None:
    page.run("document.querySelector('#rows button').focus()")
    page.press("ArrowDown")
    page.press("ArrowDown")
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 2"
    page.press("Enter")
    assert page.run("location.hash") == "#row=2"
    page.press("ArrowDown")  # a kept row stays
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 2"
    page.press("Escape")
    assert page.run("location.hash") == ""
    page.open(file, "row=2")
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 2"


def test_foreign_text_is_shown_as_text(page: chromium.Page) -> None:
    look_at(page, "status=diverged&row=2&sort=__proto__&x=nothing&page=-7")
    assert HOSTILE in cells(page, "reason")[0]
    assert HOSTILE in text(page, "#detail")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('b, script').length") == 3


def test_every_control_has_a_name_and_can_be_reached(page: chromium.Page) -> None:
    nameless = ("[...document.querySelectorAll('button, input, select')].filter(control => control.tabIndex < 0 || "
                "!(control.tagName === 'BUTTON' ? control : control.labels[0])?.textContent.trim()).length")
    assert page.run(nameless) == 0
    page.press("Tab")
    assert page.run("document.activeElement.id") == "q"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_light_and_dark(page: chromium.Page, scheme: str) -> None:
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    colour = lambda name: page.run(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')")
    # WCAG 2.2, 1.4.3: at least 4.5.
    assert [name for name in ("fg", "quiet", "accent", "bad") for ground in ("bg", "panel", "mark")
            if contrast(colour(name), colour(ground)) < 4.5] == []
    assert (luminance(colour("bg")) < 0.1) == (scheme == "dark")


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `#rgb` or `#rrggbb`."""
    digits = colour.strip().lstrip("#")
    pairs = re.findall("..", digits if len(digits) == 6 else "".join(2 * one for one in digits))
    values = [int(pair, 16) / 255 for pair in pairs]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_may_not_ask_the_network(page: chromium.Page) -> None:
    blocked = page.run("new Promise(done => { fetch('http://127.0.0.1:9/').catch(() => {});"
                       "addEventListener('securitypolicyviolation', event => done(event.effectiveDirective)); })")
    assert blocked == "connect-src"
    page.problems.clear()
    page.requests[:] = [one for one in page.requests if not one.startswith("http:")]
