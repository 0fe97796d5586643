"""A network from one of its nodes on: what a layer's change does to the outputs, without running what comes
before the layer again.

The graph has cuts, a few layers apart. Samples are brought from cut to cut once, and the layers between two
cuts are changed in the network that begins at the first of them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from comq_onnx.graph.cut import NOT_TENSORS, reads_of
from comq_onnx.records import Layer, Solution
from comq_onnx.run.data import Batch
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.switched import Switched

LAYERS = 4
"""From cut to cut"""
Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Onward:
    """Samples on their way through a float network, and what changed layers make of them.

    Parameters
    ----------
    model
        In float32 or wider (`run.widen`), topologically sorted.
    layers
        Those to be changed, in the order of their nodes, in the main graph.
    outputs
        Tensors to compute.
    batches
        The samples.
    how
        A sample is run, and what maps over samples: ``map``, or one that uses threads.
    """

    def __init__(
        self,
        model: ModelProto,
        layers: Sequence[Layer],
        outputs: Sequence[str],
        batches: Sequence[Batch],
        how: tuple[SessionOptions, Spread],
    ) -> None:
        self._model, self._outputs, (self._options, self._spread) = model, set(outputs), how
        place = {node.name: at for at, node in enumerate(model.graph.node)}
        self._layers = [(place[layer.name], layer) for layer in layers]
        self._starts = self._cuts()
        self._live = [dict(batch) for batch in batches]
        self._number = -1
        self._next()

    def changed(self, layer: Layer, solution: Solution) -> list[dict[str, np.ndarray]]:
        """The outputs, by sample, where `layer` alone has this solution.

        Layers are asked for in order. Outputs that come before the last cut are not among them: nothing
        changes those.
        """
        while layer not in self._own:
            self._next()
        if not self._told:
            return [{} for _ in self._live]
        fed = self._part.switch({layer.name: solution})
        return list(self._spread(lambda one: self._part.run_with(one, fed, self._told), self._live))

    def _next(self) -> None:
        """Bring the samples to the next cut."""
        if self._number >= 0:
            ahead = self._live_at(self._end)
            self._live = list(self._spread(lambda one: self._brought(one, ahead), self._live))
        self._number += 1
        begin = self._starts[self._number]
        nodes = self._model.graph.node
        last = self._number + 1 == len(self._starts)
        self._end = len(nodes) if last else self._starts[self._number + 1]
        self._own = [layer for at, layer in self._layers if begin <= at < self._end]
        made = {name for node in nodes[begin:] for name in node.output}
        self._told = sorted(self._outputs & made)
        ahead = set() if last else self._live_at(self._end) & made
        told = sorted(ahead.union(self._told))
        self._part = Switched(self._behind(begin), self._own, told, self._options)

    def _brought(self, one: Batch, ahead: set[str]) -> Batch:
        """A sample with the tensors that are read from the next cut on, and no others."""
        kept = {name: one[name] for name in ahead & one.keys()}
        made = sorted(ahead - kept.keys())
        return kept | (self._part.run_with(one, {}, made) if made else {})

    def _cuts(self) -> list[int]:
        """Places of the nodes at which parts begin; none where a value other than a tensor would cross it."""
        nodes = self._model.graph.node
        odd = {name for node in nodes if node.op_type in NOT_TENSORS for name in node.output}
        return [
            0,
            *(at for at, _ in self._layers[LAYERS::LAYERS] if at and odd.isdisjoint(self._live_at(at))),
        ]

    def _live_at(self, at: int) -> set[str]:
        """Tensors that come before node `at` and are read from there on."""
        graph = self._model.graph
        stored = {tensor.name for tensor in graph.initializer}
        before = {value.name for value in graph.input} - stored
        before |= {name for node in graph.node[:at] for name in node.output if name}
        return before & {name for node in graph.node[at:] for name in reads_of(node)}

    def _behind(self, at: int) -> ModelProto:
        """The network from node `at` on; its inputs are the tensors that come before."""
        graph, part = self._model.graph, ModelProto()
        part.ir_version = self._model.ir_version
        part.opset_import.extend(self._model.opset_import)
        part.graph.name = graph.name
        part.graph.node.extend(graph.node[at:])
        read = {name for node in graph.node[at:] for name in reads_of(node)}
        part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
        for name in sorted(self._live_at(at)) if at else ():
            value = self._live[0][name]
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            part.graph.input.append(helper.make_tensor_value_info(name, kind, [None] * value.ndim))
        if not at:
            part.graph.input.extend(graph.input)
        return part
