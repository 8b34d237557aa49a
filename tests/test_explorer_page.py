"""The explorer's page in a headless Chromium: by mouse and by keyboard, with 10,000 records."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from bench.pages import explorer
from bench.records.lines import encode
from bench.store import read
from tests import chromium
from tests.explorer_records import GRID, HOSTILE, large_store


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if chromium.BINARY is None:
        pytest.skip("no chromium")
    pytest.importorskip("vl_convert")
    folder = tmp_path_factory.mktemp("explorer")
    (folder / "all.jsonl").write_bytes(b"".join(map(encode, large_store())))
    (folder / "page.html").write_bytes(explorer.render(read(folder), [GRID]).encode())
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
    look_at(page, "status=&sort=")
    assert text(page, "#count") == "407 of 407 rows"
    assert text(page, "#page") == "page 1 of 5"
    assert len(cells(page, "cell")) == 100
    page.hover("#next", click=True)
    assert text(page, "#page") == "page 2 of 5"
    assert cells(page, "cell")[0] == f"learning_rate {94 / 1000}"


def test_the_first_view_has_the_rows_with_results_best_first(page: chromium.Page) -> None:
    assert text(page, "#count") == "404 of 407 rows"
    assert " ".join(text(page, "#hidden").split()) == "3 wait for records Show them"
    assert page.run("document.querySelector('#filter-status').value") == "with records"
    assert [one.split(" ")[0] for one in cells(page, "test")[:4]] == ["87.50", "62.50", "62.50", "3.99"]
    page.hover("#unhide", click=True)
    assert text(page, "#count") == "407 of 407 rows"
    assert page.run("document.querySelector('#hidden').hidden")
    assert page.run("location.hash") == "#status="
    look_at(page, "status=waiting")
    assert text(page, "#count") == "3 of 407 rows"


def test_at_1300_pixels_the_table_needs_no_scrolling_sideways(file: Path, page: chromium.Page) -> None:
    page.send("Emulation.setDeviceMetricsOverride", width=1300, height=900, deviceScaleFactor=1, mobile=False)
    try:
        usual = "experiment,test,validation,seeds,parameters,machine,images_per_s,train_s"  # where nothing failed
        look_at(page, f"experiment=grid&columns={usual}")
        wide = "(box => box.scrollWidth - box.clientWidth)(document.querySelector('#scroller'))"
        assert page.run(wide) == 0
        look_at(page, "")  # a row that failed has a status and a reason too
        right = "document.querySelector('[data-sort=test]').getBoundingClientRect().right"
        assert page.run(right) < page.run("document.querySelector('#scroller').getBoundingClientRect().right")
    finally:
        page.send("Emulation.clearDeviceMetricsOverride")


def test_the_plot_shows_what_the_filters_pass(page: chromium.Page) -> None:
    look_at(page, "x=train.learning_rate&y=test&colour=experiment&q=test>=1")
    # Basis points 100 to 399, and cell 0 on two machines, and cell 1.
    assert text(page, "#plotted") == "303 of 303 rows have both values."
    drawn = ("(() => { const c = document.querySelector('#scatter canvas');"
             "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
             "return p.some((v, i) => i % 4 === 0 && v === 0 && p[i + 1] === 114 && p[i + 2] === 178); })()")
    page.wait(drawn)  # the first colour of the palette, #0072B2
    look_at(page, "x=train.learning_rate&logy=1")  # 403 rows have a test accuracy, one of them 0 %
    assert text(page, "#plotted") == "402 of 404 rows have both values."


def test_an_axis_is_logarithmic_where_its_values_span_far(page: chromium.Page) -> None:
    ticked = "['x', 'y'].filter(axis => document.querySelector(`#log${axis}`).checked).join('')"
    look_at(page, "x=train.learning_rate")  # 0.001 to 0.4
    assert page.run(ticked) == "x"
    look_at(page, "x=train.learning_rate&q=learning_rate>=0.1")
    assert page.run(ticked) == ""
    page.hover("#logx", click=True)
    assert page.run(ticked) == "x"
    page.run("Object.assign(document.querySelector('#x'), {value: 'train_s'}).dispatchEvent(new Event('change'))")
    assert page.run(ticked) == ""  # a choice holds for its own column


def test_a_plot_of_times_of_several_machines_says_so(page: chromium.Page) -> None:
    assert text(page, "#clocks-text") == (
        "The values of “training (images/s)” come from 2 machines: compare them within one machine only. "
        "‡, no measurement of speed since other work ran beside: 1 of the values of “training (images/s)”.")
    assert page.run("document.querySelector('#colour').value") == "machine"  # each has its colour and shape
    look_at(page, "colour=model")
    page.hover("#recolour", click=True)
    assert page.run("document.querySelector('#colour').value") == "machine"
    assert page.run("document.querySelector('#recolour').hidden")
    second = page.run("[...document.querySelectorAll('#filter-machine option')].map(one => one.value)[3]")
    assert second.startswith("M2: A CPU")
    look_at(page, urlencode({"machine": second}))
    assert page.run("document.querySelector('#clocks').hidden")


def test_a_training_time_stands_beside_its_own_machine(page: chromium.Page) -> None:
    look_at(page, "experiment=grid&sort=")
    assert cells(page, "machine")[:3] == ["M1", "M2", "-"]
    assert cells(page, "train_s")[:3] == ["2.00 on M2"] * 3


def test_search_and_lists_narrow_the_rows(page: chromium.Page) -> None:
    page.run("document.querySelector('#q').focus()")
    page.send("Input.insertText", text="learning_rate>=0.01 learning_rate<0.02 -0.012 test<0.99")
    # Learning rates 0.01, 0.011 ... 0.019, without 0.012; test below 0.99 %: all of them.
    page.wait("document.querySelector('#count').textContent === '9 of 407 rows'")
    assert all("learning_rate 0.01" in cell for cell in cells(page, "cell"))
    page.hover("#clear", click=True)
    assert text(page, "#count") == "407 of 407 rows"
    page.run("document.querySelector('#filter-experiment').focus()")
    page.press("ArrowDown")
    page.wait("document.querySelector('#count').textContent === '7 of 407 rows'")
    assert set(cells(page, "experiment")) == {"grid"}
    assert "experiment=grid" in page.run("location.hash")


@pytest.mark.parametrize(("search", "problem"), [
    ("tset>90", "No column is called “tset”; the nearest is “test”, as in test>90."),
    ("kernel=3", "No column is called “kernel”; the nearest is “kernel_size”, as in kernel_size=3."),
    ("qqqqqqqq<1", "No column is called “qqqqqqqq”; Columns lists the names."),
    ("test>much", "test is a number, and “much” none."),
    ("test>=0 epochs=7 name=cnn -grid", ""),
])
def test_a_word_that_can_find_nothing_is_named(page: chromium.Page, search: str, problem: str) -> None:
    look_at(page, urlencode({"q": search}))
    assert text(page, "#problem") == problem


def test_headings_sort_by_keyboard_and_keep_the_focus(page: chromium.Page) -> None:
    look_at(page, "sort=")
    page.run("document.querySelector('[data-sort=test]').focus()")
    heading = "document.activeElement.closest('th').getAttribute('aria-sort')"
    page.press("Enter")
    assert page.run(heading) == "descending"  # more is better
    assert [one.split(" ")[0] for one in cells(page, "test")[:4]] == ["87.50", "62.50", "62.50", "3.99"]
    page.press("Enter")
    assert page.run(heading) == "ascending"
    assert [float(one.split(" ")[0]) for one in cells(page, "test")] == [i / 100 for i in range(100)]
    page.press("Enter")
    assert page.run(heading) == "none"
    for key in ("train_s", "parameters", "experiment"):
        page.run(f"document.querySelector('[data-sort={key}]').focus()")
        page.press("Enter")
        assert page.run(heading) == "ascending"


@pytest.mark.parametrize("direction", ["", "-"])
def test_texts_sort_as_people_count_and_nothing_comes_last(page: chromium.Page, direction: str) -> None:
    look_at(page, f"status=&experiment=grid&sort={direction}kernel_size&columns=kernel_size")
    assert cells(page, "kernel_size") == (["2"] * 3 + ["3"] * 2 + ["10"] * 2)[:: -1 if direction else 1]
    look_at(page, f"status=&experiment=grid&sort={direction}test")
    assert cells(page, "test")[3:] == ["-"] * 4


def test_a_row_shows_its_curves_its_times_and_its_command(page: chromium.Page) -> None:
    look_at(page, "sort=")
    page.hover("#rows tr:nth-child(2) td")
    page.wait("document.querySelectorAll('#detail canvas').length === 3")
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 1"
    assert "600 steps on M2: A CPU" in text(page, "#detail")
    command = "accelerate launch bench/run.py grid --only model.kernel_size=2 --only model.depth=1 --seeds 2"
    assert text(page, "#detail pre") == command
    page.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    page.run("document.querySelector('#copy').click()")
    page.wait("document.querySelector('#detail [role=status]').textContent === 'copied'")
    assert page.run("navigator.clipboard.readText()") == command


def test_rows_are_walked_and_kept_by_keyboard(file: Path, page: chromium.Page) -> None:
    look_at(page, "sort=")
    page.run("document.querySelector('#rows button').focus()")
    page.press("ArrowDown")
    page.press("ArrowDown")
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 2"
    page.press("Enter")
    assert page.run("location.hash") == "#sort=&row=2"
    page.press("ArrowDown")  # a kept row stays
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 2"
    page.press("Escape")
    assert page.run("location.hash") == "#sort="
    page.open(file, "row=2")
    assert text(page, "#detail h2") == "grid: kernel_size 2, depth 2"


def test_few_stops_lead_to_the_rows_the_axes_and_the_command(file: Path, page: chromium.Page) -> None:
    focus = "document.activeElement.id || document.activeElement.closest('tr')?.dataset.line"
    for steps, (stop, target) in enumerate({"to-rows": "0", "to-axes": "x", "to-detail": "copy"}.items(), start=1):
        page.open(file, "row=0&sort=")
        for _ in range(steps):
            page.press("Tab")
        assert page.run(focus) == stop
        page.press("Enter")
        assert page.run(focus) == target


def test_tab_stops_at_one_row(page: chromium.Page) -> None:
    in_rows = "document.activeElement.closest('#rows tr')?.sectionRowIndex"
    page.run("document.querySelector('#to-rows').click()")
    assert page.run(in_rows) == 0
    page.press("End")
    assert page.run(in_rows) == 99
    page.press("ArrowUp")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "x"
    page.run("document.querySelector('#to-rows').click()")
    assert page.run(in_rows) == 98
    page.press("Home")
    assert page.run(in_rows) == 0


def test_rows_that_move_below_a_resting_pointer_are_not_shown(page: chromium.Page) -> None:
    page.hover("#rows tr:nth-child(3) td")
    page.wait("document.querySelector('#rows tr:nth-child(3)').className === 'shown'")
    title = text(page, "#detail h2")
    look_at(page, "sort=learning_rate")
    page.run("new Promise(done => setTimeout(done, 400))")
    assert text(page, "#detail h2") == title


def test_foreign_text_is_shown_as_text(page: chromium.Page) -> None:
    look_at(page, "status=diverged&row=2&sort=__proto__&x=nothing&page=-7")
    assert HOSTILE in cells(page, "reason")[0]
    assert HOSTILE in text(page, "#detail")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('b, script').length") == 3


def test_every_control_has_a_name_and_can_be_reached(page: chromium.Page) -> None:
    nameless = ("[...document.querySelectorAll('button, input, select')]."
                "filter(control => control.tabIndex < 0 && !control.closest('#rows') || "
                "!(control.tagName === 'BUTTON' ? control : control.labels[0])?.textContent.trim()).length")
    assert page.run(nameless) == 0
    in_reach = "document.querySelectorAll('#rows [tabindex=\"0\"]').length"
    assert page.run(in_reach) == 1  # from which the arrow keys go to the others
    page.run("document.querySelector('#to-detail').focus()")
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
