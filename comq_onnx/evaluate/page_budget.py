"""What a budget bought, and why: parts of the page that are there only where a budget chose the widths."""

from html import escape

from comq_onnx.allocate.allocation import Allocation
from comq_onnx.evaluate.charts import pareto_chart, prices_chart
from comq_onnx.evaluate.markup import bullets, figure, folded, paragraphs, table
from comq_onnx.evaluate.prices import CANDIDATES, COLUMNS, candidate_cells, price_cells, source, told
from comq_onnx.evaluate.svg import charts_missing

PARETO = (
    "Whole networks on calibration samples, with fast solutions of their layers; further down and to the "
    "left is better. The dashed line is the size of the file that was chosen."
)
PRICES = (
    "A price is the distortion of the network's outputs for each unit of a layer's relative distortion; its "
    "uncertainty is the standard error of its logarithm, so that 0.1 is about 10 per cent. An effect is "
    "the distortion that a way to store the layer makes of the outputs, as far as prices tell, and a loss "
    "that of the layer itself."
)
BARS = (
    "The price of each layer that had a choice, in graph order, from one standard error below to one above."
)


def size_against_fidelity(allocation: Allocation | None) -> list[str]:
    """What came of the budget, in sentences and as a picture; nothing without one."""
    if allocation is None:
        return []
    return [
        *paragraphs(told(allocation)),
        *bullets(map(escape, allocation.notes)),
        *([] if charts_missing() else _picture(allocation)),
    ]


def _picture(allocation: Allocation) -> list[str]:
    drawn = pareto_chart(allocation.points, allocation.file_bytes, allocation.measure)
    return figure(drawn, PARETO) if drawn else paragraphs(["No network was measured that can be drawn."])


def dual_prices(allocation: Allocation | None) -> list[str]:
    """A row for each layer with its price, what it could be and what it is; nothing without a budget."""
    if allocation is None:
        return []
    drawn = "" if charts_missing() else prices_chart(allocation.prices)
    every = [row for price in allocation.prices for row in candidate_cells(price)]
    return [
        *paragraphs([source(allocation), PRICES]),
        *(figure(drawn, BARS) if drawn else []),
        *table("prices", COLUMNS, map(price_cells, allocation.prices)),
        *folded("What each layer could have been", table("candidates", CANDIDATES, every)),
    ]
