"""Whether a file may be run as a whole in the memory there is, and how it is run where it may not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.evaluate.agreement import Outputs
from comq_onnx.graph.external import name_absolutely, tensors_of
from comq_onnx.graph.io import read_message
from comq_onnx.graph.spill import bytes_to_write
from comq_onnx.graph.tensors import stored_bytes
from comq_onnx.recipe import Recipe
from comq_onnx.run.parts import outputs_in_parts, unpacked_bytes
from comq_onnx.run.session import SessionOptions, open_session, outputs_on
from comq_onnx.stats.memory import memory_limit

TIMES = 3
"""Bytes that a runtime may take for each of the file's: as read, as rearranged for its kernels, as packed"""
FLOOR = 1 << 26
"""Bytes that are run as a whole whatever the limit"""
PACKED = 4
"""The same of a part's weights in float32"""
TOLD = 6
"""Times the bytes of a file that it takes to have its optimised graph beside the session"""
WEIGHTS, TENSORS = 16, 4
"""Parts of the limit for the weights of a part of the model, and for the tensors between parts"""


@dataclass(frozen=True)
class Room:
    """Memory to run files in."""

    limit: int
    """Bytes"""

    def holds(self, size: int, times: int = TIMES) -> bool:
        """Whether a file of `size` bytes may be run as a whole."""
        return size * times <= max(self.limit, FLOOR)

    def taken(self, size: int) -> int:
        """About what checking a written file of `size` bytes takes, as a whole where that may be."""
        whole = next((times * size for times in (TOLD, TIMES) if self.holds(size, times)), self.limit // 2)
        return max(whole, PACKED * self.limit // WEIGHTS) + FLOOR

    def outputs(
        self,
        model: onnx.ModelProto | Path,
        batches: Sequence[Mapping[str, np.ndarray]],
        options: SessionOptions,
    ) -> Outputs:
        """What a model answers: as a whole where there is room, else part by part.

        Without optimisation the runtime makes floats of all codes before it multiplies with the first.
        """
        located = located_message(model) if isinstance(model, Path) else model
        size = bytes_to_write(located.graph)
        if not options.optimize:
            size = sum(map(unpacked_bytes, tensors_of(located.graph)))
        if self.holds(size):
            return outputs_on(open_session(model, options), batches)
        return outputs_in_parts(located, batches, options, (self.limit // WEIGHTS, self.limit // TENSORS))


def model_bytes(model: onnx.ModelProto | Path) -> int:
    """Bytes a model takes on disk, its external data included."""
    if isinstance(model, onnx.ModelProto):
        return model.ByteSize()
    tensors = onnx.load(model, load_external_data=False).graph.initializer
    places = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    return model.stat().st_size + sum((model.parent / place).stat().st_size for place in places)


def room_of(recipe: Recipe) -> Room:
    """What is left of the memory that a run may take."""
    return Room(memory_limit(recipe.memory_gib))


def located_message(path: Path) -> onnx.ModelProto:
    """The model in a file, its external tensors named by absolute paths and not read.

    ComqError where it is damaged, or its external data lie outside its folder.
    """
    proto = read_message(path)
    name_absolutely(proto.graph, path, stored_bytes)
    return proto
