"""Charts and formulas of the pages, as a browser shows them: by Mermaid and KaTeX, which others use too.

Markdown itself is read by markdown-it: what it leaves of a formula is what is set.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Screen, browser_missing, chromium
from markdown_it import MarkdownIt
from test_docs import PAGES, ROOT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.node,
    pytest.mark.skipif(bool(browser_missing()), reason=browser_missing() or "there is one"),
]
SCRIPTS = ("@mermaid-js/tiny/dist/mermaid.tiny.js", "katex/dist/katex.min.js")
COLUMN = 830
"""Width of a page's text where it is read most, pixels"""
SMALLEST = 0.75
"""A chart that is shrunk further to fit the column has letters of less than 12 pixels"""
NODE = re.compile(r'\b(\w+)[\[{]"?(.+?)"?[\]}](?= |$)', re.MULTILINE)
DRAWN = """
const texts = kind => [...document.querySelectorAll(kind)].map(one => one.textContent).filter(Boolean);
const svg = document.querySelector("svg");
return [texts(".node"), texts("g.edgeLabel"), document.querySelectorAll(".edgePaths path").length,
  svg.getBoundingClientRect().width / svg.viewBox.baseVal.width]
"""
SET = """
return FORMULAS.map(([text, displayMode]) => {
  try { katex.renderToString(text, {displayMode, throwOnError: true, strict: "error"}) }
  catch (error) { return `${text}: ${error.message}` } }).filter(Boolean)
"""


def fenced(kind: str) -> list[tuple[str, str]]:
    """Name of the page and content of every block of a kind."""
    pages = [(page, MarkdownIt().parse(page.read_text(encoding="utf-8"))) for page in PAGES]
    return [
        (page.relative_to(ROOT).as_posix(), token.content)
        for page, tokens in pages
        for token in tokens
        if token.type == "fence" and token.info.strip() == kind
    ]


def in_lines(text: str) -> tuple[list[str], list[str]]:
    """Formulas between dollars as they are written, and as Markdown leaves them."""
    written: list[str] = []
    left: list[str] = []
    for token in MarkdownIt().enable("table").parse(text):
        children = token.children or []
        prose = [child for child in children if "code" not in child.type]
        shown = "".join("\n" if child.type.endswith("break") else child.content for child in prose)
        source = re.sub(r"(`+).+?\1", "", token.content) if children else ""
        for found, where in ((written, source), (left, shown)):
            found += re.findall(r"(?<![\w$\\])\$(?=[^\s$])([^$]*[^\s$])\$(?!\w)", where)
    return written, left


CHARTS = fenced("mermaid")
LINES = {page.relative_to(ROOT).as_posix(): in_lines(page.read_text(encoding="utf-8")) for page in PAGES}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(browser: Browser, node_folder: Path, tmp_path: Path) -> Browser:
    """An empty page with both programs."""
    files = [node_folder / "node_modules" / name for name in SCRIPTS]
    if not all(file.is_file() for file in files):
        pytest.skip("no Mermaid or no KaTeX: npm ci --ignore-scripts --prefix tests/node")
    tags = "".join(f'<script src="{file.resolve().as_uri()}"></script>' for file in files)
    page = tmp_path / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><title>-</title>{tags}', encoding="utf-8")
    browser.open(page, Screen(COLUMN, 900))
    return browser


def draw(browser: Browser, chart: str) -> str:
    """Draw a chart into the page; the error where it is none."""
    return browser.run(
        "document.body.style.margin = 0; document.body.innerHTML = '<pre></pre>';"
        f"const nodes = [document.querySelector('pre')]; nodes[0].textContent = {json.dumps(chart)};"
        "mermaid.initialize({startOnLoad: false});"
        "return mermaid.run({nodes}).then(() => '', error => error.message || String(error))"
    )


def bare(texts: list[str]) -> list[str]:
    return sorted(re.sub(r"<br>|\s", "", text) for text in texts)


@pytest.mark.parametrize("chart", [chart for _, chart in CHARTS], ids=[page for page, _ in CHARTS])
def test_charts_are_drawn_with_all_their_words(opened: Browser, chart: str) -> None:
    assert draw(opened, chart) == ""
    nodes, labels, arrows, scale = opened.run(DRAWN)
    assert bare(nodes) == bare(list(dict(NODE.findall(chart)).values()))
    assert bare(labels) == bare(re.findall(r"\|(.+?)\|", chart))
    assert arrows == chart.count("-->")
    assert scale >= SMALLEST
    assert opened.console() == []


def test_a_broken_chart_is_seen(opened: Browser) -> None:
    assert "Parse error" in draw(opened, "flowchart TD\n    a[one] --> b{two\n")


def test_the_pages_have_charts_and_formulas() -> None:
    assert {page for page, _ in CHARTS} >= {"docs/choosing.md", "docs/how-it-works.md"}
    assert len(LINES["docs/how-it-works.md"][0]) > 30
    assert len(fenced("math")) >= 6


def test_markdown_leaves_formulas_alone() -> None:
    r"""It takes the backslash of ``\,``, and what is set has a comma."""
    for page, (written, left) in LINES.items():
        assert left == written, page
    assert in_lines(r"The codes $d\,p$ and `$HOME` here, 3 $ and 4 $.") == ([r"d\,p"], ["d,p"])


def test_formulas_are_set(opened: Browser) -> None:
    formulas = [(text, True) for _, text in fenced("math")]
    formulas += [(text, False) for written, _ in LINES.values() for text in written]
    assert opened.run(SET.replace("FORMULAS", json.dumps(formulas))) == []
    wrong = [(r"\hat W = \frac{1", False), (r"\nosuch x", True)]
    assert len(opened.run(SET.replace("FORMULAS", json.dumps(wrong)))) == 2
