"""The page in a real browser: a silent console, no network, readable by day, by night and on a phone."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import DESKTOP, NIGHT, PHONE, Browser, Screen, browser_missing, chromium
from evaluate.allocating import allocation, price
from evaluate.reporting import halved, kept, line, report

from comq_onnx.evaluate.page import page
from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.spread import Histogram, Spread
from comq_onnx.evaluate.table import cells
from comq_onnx.records import ActivationKind, ValueGrid

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(browser_missing()), reason=browser_missing() or "there is one"),
]
SCREENS = {"desktop": DESKTOP, "night": NIGHT, "phone": PHONE, "phone at night": replace(PHONE, dark=True)}
LONG = "/encoder/" + "very_long_name_without_a_space/" * 12
ROWS = """
return [...document.querySelector(arguments_id).tBodies[0].rows].map(
  row => [...row.cells].map(cell => cell.textContent))
"""
CONTRAST = """
const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = color => {
  const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const behind = element => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color }
  return "rgb(255, 255, 255)" };
const ratio = (element, property) => {
  const pair = [getComputedStyle(element)[property], behind(element)].map(light).sort((p, q) => q - p);
  return (pair[0] + 0.05) / (pair[1] + 0.05) };
const found = [];
const texts = "h1, h2, p, dt, dd, td, th, li, a, pre, span, figcaption, svg text";
for (const element of document.querySelectorAll(texts))
  found.push([ratio(element, element.closest("svg") ? "fill" : "color"), element.textContent.slice(0, 40)]);
for (const mark of document.querySelectorAll("svg use"))
  if (!mark.closest("[id*=tick]")) found.push([ratio(mark, "fill") * 1.5, "a mark"]);
return found.sort((a, b) => a[0] - b[0])[0]
"""
"""The lowest contrast with what is behind, and where it is; WCAG 2 asks for 4.5 of text and 3 of marks"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def full() -> Report:
    """A report with every section."""
    lines = [line(f"l{i}", 10.0 + i % 7, 15.0 + i % 5, 0.001 * i) for i in range(40)]
    made = report(*lines, line(LONG, 12.0, 13.0, 0.1), halved("h"), kept("k<&>"))
    grid = ValueGrid(0.5, 3, ActivationKind(signed=False, symmetric=False))
    spread = Spread(
        "l1", Histogram(-9.0, 8.0, (1, 5, 9, 4)), -8, (3,) * 16, 0.1, Histogram(-3, -1, (2, 1)), 3
    )
    return replace(
        made,
        allocation=allocation(*(price(f"l{i}") for i in range(5)), notes=("rough",)),
        activations={LONG: grid},
        spreads=(spread, replace(spread, layer=LONG)),
        command=f"comq-onnx net.onnx --keep-float '{LONG}' -o small.onnx",
        recipe={"keep_float": (LONG,)},
        versions={"numpy": "2.0"},
    )


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(full()), encoding="utf-8")
    return path


def rows(browser: Browser, name: str) -> list[list[str]]:
    return browser.run(ROWS.replace("arguments_id", f"'#{name}'"))


@pytest.mark.parametrize("screen", SCREENS.values(), ids=SCREENS)
def test_it_is_quiet_fits_and_can_be_read(browser: Browser, html: Path, screen: Screen) -> None:
    browser.open(html, screen)
    assert browser.console() == []
    assert browser.requests() == [html.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= screen.width
    assert browser.run("return innerWidth") == screen.width
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == screen.dark
    ratio, where = browser.run(CONTRAST)
    assert ratio >= 4.5, where


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_chart_is_there_and_its_text_is_large_enough(
    browser: Browser, html: Path, screen: Screen
) -> None:
    browser.open(html, screen)
    charts = browser.run(
        "return [...document.querySelectorAll('svg')].map(s => [s.querySelector('g').id.split('-')[0],"
        " s.getBoundingClientRect().width, s.getBoundingClientRect().height,"
        " Math.min(...[...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height))])"
    )
    assert [name for name, *_ in charts] == ["sqnr", "depth", "spread0", "spread1", "pareto", "prices"]
    for name, width, height, text in charts:
        assert min(width, height) > 100, name
        assert text >= 9, name


def test_wide_things_scroll_in_their_own_boxes(browser: Browser, html: Path) -> None:
    browser.open(html, PHONE)
    boxes = browser.run(
        "return [...document.querySelectorAll('.scroll')].map(b => [b.scrollWidth > b.clientWidth,"
        " getComputedStyle(b).overflowX, b.getBoundingClientRect().right])"
    )
    assert any(wide for wide, *_ in boxes)
    assert {overflow for _, overflow, _ in boxes} == {"auto"}
    assert max(right for *_, right in boxes) <= PHONE.width


def test_the_rows_of_the_tables_are_those_of_the_report(browser: Browser, html: Path) -> None:
    made = full()
    browser.open(html, DESKTOP)
    lines = (*made.quantized, *made.halved, *made.kept)
    assert [row[1:] for row in rows(browser, "layers")] == [list(cells(one, True)) for one in lines]
    assert [row[0] for row in rows(browser, "layers")] == [*map(str, range(1, 42)), "", ""]
    assert rows(browser, "kept") == [["its op is not quantized", "1", "64", "k<&>"]]
    assert [row[0] for row in rows(browser, "prices")] == [f"l{i}" for i in range(5)]
    assert len(rows(browser, "candidates")) == 15
    assert rows(browser, "activations") == [[LONG, "uint8", "0.5", "3", "-1.5", "126"]]
    assert rows(browser, "versions") == [["numpy", "2.0"]]


def test_links_lead_to_sections(browser: Browser, html: Path) -> None:
    browser.open(html, DESKTOP)
    dead = browser.run(
        "return [...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
    )
    assert dead == 0
    assert len(browser.run("return [...document.querySelectorAll('nav a')].map(a => a.text)")) == 12
