"""A preview as a person reads it in a terminal."""

from rich.console import Console
from rich.table import Table

from comq_onnx.evaluate.preview import InputView, Preview
from comq_onnx.evaluate.table import add
from comq_onnx.run.session import is_float

COLUMNS = ("input", "type", "the model's shape", "fed", "range", "mean +- deviation, by channel", "zeros")


def print_preview(preview: Preview, console: Console) -> None:
    """A line for each input, then samples, remarks and warnings."""
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    for view in preview.inputs:
        add(table, *cells(view))
    console.print(table)
    for text in ("", *sentences(preview)):
        console.print(text, highlight=False, soft_wrap=True, markup=False)


def cells(view: InputView) -> tuple[str, ...]:
    """What one input is fed, under `COLUMNS`."""
    declared = "x".join("?" if side is None else str(side) for side in view.spec.shape) or "scalar"
    fed = ", ".join(f"{count} of {'x'.join(map(str, shape)) or 'scalar'}" for shape, count in _most(view))
    if not view.count:
        return view.spec.name, str(view.spec.dtype), declared, fed, "", "", ""
    means = "; ".join(f"{mean:.4g} +- {deviation:.4g}" for mean, deviation in view.channels)
    share = f"{view.zeros / view.count:.1%}"
    reach = " to ".join(
        f"{value:.4g}" if is_float(view.spec.dtype) else f"{value:.0f}" for value in (view.low, view.high)
    )
    return (
        view.spec.name,
        str(view.spec.dtype),
        declared,
        fed,
        reach,
        means,
        share,
    )


def _most(view: InputView) -> list[tuple[tuple[int, ...], int]]:
    """The commonest shapes of batches; of the others the last says how many."""
    return view.shapes.most_common(3)


def sentences(preview: Preview) -> list[str]:
    """All that there is to say beside the table."""
    shapes = max((len(view.shapes) for view in preview.inputs), default=0)
    more = f", in {shapes} shapes" if shapes > 3 else ""
    return [
        f"{preview.description}{more}. Nothing was run or written.",
        *(f"note: {note}" for note in preview.notes),
        *(f"WARNING: {text}" for text in preview.warnings),
        *(f"fed: {line}" for line in preview.lines),
    ]
