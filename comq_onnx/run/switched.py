"""One session of a model whose weights are fed: a network with any weights, without loading it again."""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from comq_onnx.records import Layer, Solution
from comq_onnx.run.data import Batch
from comq_onnx.run.session import Session, SessionOptions, open_session
from comq_onnx.run.stand_ins import broadcast_bias, float_weight
from comq_onnx.run.widen import widened

BIAS = "/switched_bias"
BARE = "/unbiased"


class Switched:
    """The outputs of a network in which some layers have other weights and biases.

    Parameters
    ----------
    model
        In float32 or wider (`run.widen`); changed.
    layers
        Those that can be switched, in the main graph.
    outputs
        Tensors to compute.
    options
        How it is run.
    """

    def __init__(
        self, model: ModelProto, layers: Sequence[Layer], outputs: Sequence[str], options: SessionOptions
    ) -> None:
        graph = model.graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        named = {layer.name: layer for layer in layers if layer.op != "Gather"}
        self._layers = {layer.name: layer for layer in layers}
        self._own = {layer.weight: numpy_helper.to_array(stored[layer.weight]) for layer in layers}
        for layer in layers:
            tensor = stored.pop(layer.weight)
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        nodes: list[NodeProto] = []
        for node in graph.node:
            nodes += self._biased(node, named[node.name]) if node.name in named else [node]
        for name, zero in self._own.items():
            if name.endswith(BIAS):
                kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, zero.shape))
        kept = list(stored.values())
        del graph.node[:], graph.output[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept)
        graph.output.extend(ValueInfoProto(name=name) for name in outputs)
        self._session: Session = open_session(model, options)

    def switch(
        self, solutions: Mapping[str, Solution], strength: Mapping[str, float] | None = None
    ) -> dict[str, np.ndarray]:
        """What is to be fed for these layers; of use for many batches.

        `strength` scales what a solution changes, by layer: with 0 the layer is float, with 1 it has the
        solution. The error of its output scales alike.
        """
        fed: dict[str, np.ndarray] = {}
        for name, solution in solutions.items():
            layer, part = self._layers[name], (strength or {}).get(name, 1.0)
            own, given = self._own[layer.weight], float_weight(solution, layer)
            fed[layer.weight] = given if part == 1 else (own + part * (given - own)).astype(own.dtype)
            if solution.bias is not None and layer.op != "Gather":
                fed[layer.output + BIAS] = broadcast_bias(part * solution.bias, layer)
        return fed

    def run_with(
        self, batch: Batch, fed: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name, where the layers that `switch` gave `fed` for have those weights and biases."""
        feeds = {name: widened(value) for name, value in batch.items()}
        return self._session.run({**self._own, **feeds, **fed}, outputs)

    def _biased(self, node: NodeProto, layer: Layer) -> list[NodeProto]:
        bare, name = NodeProto(), node.output[0]
        bare.CopyFrom(node)
        bare.output[0] = name + BARE
        zeros = np.zeros((layer.layout.groups, layer.layout.cols))
        self._own[layer.output + BIAS] = broadcast_bias(zeros, layer)
        return [
            bare,
            helper.make_node("Add", [bare.output[0], layer.output + BIAS], [name], node.name + BIAS),
        ]
