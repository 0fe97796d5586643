"""A preview as a picture, or as a page of its own: one file without scripts, which loads nothing."""

from base64 import b64encode
from html import escape

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.preview import InputView, Preview
from comq_onnx.evaluate.preview_table import COLUMNS, cells, sentences
from comq_onnx.evaluate.sheet import grid, picture_tile, png, stacked, wave_tile

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: 2px 8px; text-align: left; border-bottom: 1px solid #8884; white-space: nowrap }
p.warning { color: #c33; font-weight: bold }
p { overflow-wrap: anywhere }
div.sheet { display: flex; flex-wrap: wrap; gap: 8px }
figure { margin: 0; font-size: 12px }
img { display: block; max-width: 100% }
"""
PICTURES = (
    "The first samples as they are fed: from the least to the greatest value of all samples, black to white; "
    "channels one to three as red, green and blue. For a model of BGR red and blue look swapped here, as "
    "they should; for any other model that is wrong."
)
SOUNDS = "The first samples as they are fed: least and greatest value along time."


def tiles(view: InputView) -> list[np.ndarray]:
    """A small picture for each of the first samples; none for what is neither picture nor sound."""
    if view.kind == "picture" and view.axis is not None:
        return [picture_tile(sample, view.axis - 1, view.low, view.high) for sample in view.kept]
    if view.kind == "sound":
        return [wave_tile(sample, view.low, view.high) for sample in view.kept]
    return []


def contact_sheet(preview: Preview) -> bytes:
    """All tiles as a PNG file. ComqError where there is nothing to draw."""
    sheets = [grid(drawn) for view in preview.inputs if (drawn := tiles(view))]
    if not sheets:
        raise ComqError(
            "the samples are neither pictures nor sounds, so there is nothing to draw",
            where="--preview-data",
            fix="leave the file out, or name it .html",
        )
    return png(stacked(sheets))


def page(preview: Preview) -> str:
    """The table, remarks and samples as an HTML document."""
    title = f"comq-onnx: what is fed, {preview.samples} samples"
    heads = "".join(f"<th>{escape(text)}</th>" for text in COLUMNS)
    rows = [
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in cells(view)) + "</tr>"
        for view in preview.inputs
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(_sentence(text) for text in sentences(preview)),
        f"<table><thead><tr>{heads}</tr></thead><tbody>",
        *rows,
        "</tbody></table>",
        *(part for view in preview.inputs for part in _samples(view)),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}<title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _sentence(text: str) -> str:
    kind = ' class="warning"' if text.startswith("WARNING") else ""
    return f"<p{kind}>{escape(text)}</p>"


def _samples(view: InputView) -> list[str]:
    drawn = tiles(view)
    if not drawn:
        return []
    legend = PICTURES if view.kind == "picture" else SOUNDS
    figures = [
        f'<figure><img alt="sample {index}" src="data:image/png;base64,{b64encode(png(tile)).decode()}">'
        f"<figcaption>{index}: {sample.min():.3g} to {sample.max():.3g}</figcaption></figure>"
        for index, (tile, sample) in enumerate(zip(drawn, view.kept, strict=True), 1)
    ]
    return [
        f"<h2>{escape(view.spec.name)}</h2>",
        f"<p>{legend}</p>",
        '<div class="sheet">',
        *figures,
        "</div>",
    ]
