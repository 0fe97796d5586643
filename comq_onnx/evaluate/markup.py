"""Pieces of HTML that the page is made of. Arguments are text, and escaped, unless they say otherwise."""

from collections.abc import Iterable, Sequence
from html import escape


def paragraphs(texts: Iterable[str], kind: str = "") -> list[str]:
    """A ``<p>`` for each text, of the class `kind`."""
    head = f'<p class="{kind}">' if kind else "<p>"
    return [f"{head}{escape(text)}</p>" for text in texts]


def bullets(items: Iterable[str]) -> list[str]:
    """A list; `items` are HTML, and without any there is nothing."""
    entries = [f"<li>{item}</li>" for item in items]
    return ["<ul>", *entries, "</ul>"] if entries else []


def table(
    name: str, headings: Sequence[str], rows: Iterable[Sequence[str]], words: Iterable[int] = ()
) -> list[str]:
    """A table in a box that scrolls by itself.

    `name` is its id and what the box is called; cells in the columns `words` break into lines.
    """
    broken = set(words)
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings)
    body = [
        "<tr>" + "".join(cell(text, at in broken) for at, text in enumerate(row)) + "</tr>" for row in rows
    ]
    return [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">',
        f'<table id="{escape(name)}"><thead><tr>{heads}</tr></thead>',
        "<tbody>",
        *body,
        "</tbody></table></div>",
    ]


def cell(text: str, broken: bool = False) -> str:
    return f'<td class="words">{escape(text)}</td>' if broken else f"<td>{escape(text)}</td>"


def figure(drawn: str, caption: str, wide: bool = True) -> list[str]:
    """A chart, which is HTML, with what it shows; a wide one scrolls in its box where the page is narrow."""
    box = f'<div class="scroll" tabindex="0">{drawn}</div>' if wide else drawn
    kind = ' class="wide"' if wide else ""
    return [f"<figure{kind}>{box}<figcaption>{escape(caption)}</figcaption></figure>"]


def folded(summary: str, inner: Iterable[str]) -> list[str]:
    """Details that open when the summary is clicked; `inner` is HTML."""
    return [f"<details><summary>{escape(summary)}</summary>", *inner, "</details>"]


def code(text: str) -> str:
    """Lines as they are typed."""
    return f'<pre tabindex="0">{escape(text)}</pre>'
