"""How long a model takes in onnxruntime with every layer stored as chosen, told from layers timed alone.

The model is additive: what the float model takes, and for each layer what its storage takes more or less than
float. Times differ from run to run: what is chosen by them is not the same bit by bit in every run.
"""

from comq_onnx.latency.measure import latency_refusal, measure_latency
from comq_onnx.latency.model import FLOAT, FLOAT16, Latency, LatencyModel, parse_latency

__all__ = [
    "FLOAT",
    "FLOAT16",
    "Latency",
    "LatencyModel",
    "latency_refusal",
    "measure_latency",
    "parse_latency",
]
