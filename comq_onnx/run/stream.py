"""Two networks, float and quantized, run side by side from segment to segment over all batches.

What no quantized layer has touched is run and kept once for both.
"""

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from comq_onnx.errors import ComqError, MemoryExhaustedError, NotPairedError
from comq_onnx.graph.cut import Segment, cut, every_node
from comq_onnx.graph.tensors import Stored
from comq_onnx.records import Layer, Solution
from comq_onnx.run.astray import origin
from comq_onnx.run.data import Calibration
from comq_onnx.run.linear import linear
from comq_onnx.run.live import Live, Shape
from comq_onnx.run.parts import cut_out
from comq_onnx.run.replaced import float_weight, quantized_nodes, replaced_weights
from comq_onnx.run.session import Session, SessionOptions, open_session
from comq_onnx.run.store import Store
from comq_onnx.run.tapped import TappedModel
from comq_onnx.run.widen import widened

FLOAT, QUANTIZED, BOTH = "float", "quantized", "both"
_ASIDE = "aside"
"""The network of tensors that `Stream.replace` put aside"""
FLOATS = "use --inputs float"


class Stream:
    """The live tensors of both networks, and how they are moved on.

    Parameters
    ----------
    model
        In float32 or wider (`run.widen`), its nodes sorted and named; read, never changed.
    layers
        All layers that are or will be quantized.
    calibration
        Its batches are read once, here.
    options
        How the model is run.
    limit
        Bytes of tensors in memory; more go to disk.
    stops
        Tensors where segments end besides, see `graph.cut.cut`.
    held
        By layer, tensors kept until that layer is solved.
    paired
        Whether there is a quantized network; without, the float one is run alone, and layers never differ.
    """

    def __init__(
        self,
        model: ModelProto,
        layers: Sequence[Layer],
        calibration: Calibration,
        options: SessionOptions,
        limit: int,
        stops: Sequence[str] = (),
        held: Mapping[str, Sequence[str]] | None = None,
        paired: bool = True,
    ) -> None:
        self._model, self._options, self._paired = model, options, paired
        self._layers = {layer.name: layer for layer in layers}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._solutions: dict[str, Solution] = {}
        self._shelf: Mapping[str, Solution] = {}
        self._shelved: set[str] = set()
        self.store = Store(limit)
        self.segments = cut(model.graph, layers, stops, held)
        self.first = 0
        """Number of the first sample."""
        self.entries: list[int] = []
        """Samples in each batch."""
        self.node_runs = 0
        """Nodes executed so far, over all batches and both networks."""
        self._kind: dict[str, str] = {}
        self._types: dict[str, tuple[np.dtype, Shape | None]] = {}
        self.feed(calibration)

    def live(self) -> Live:
        """The live tensors, to go on from elsewhere: see `fork`."""
        return Live(self.first, tuple(self.entries), self.store.arrays(), dict(self._kind), dict(self._types))

    def fork(self, live: Live, limit: int) -> "Stream":
        """Another stream over the same model, with these live tensors and no quantized layer."""
        other = copy(self)
        other.first, other.entries, other.store = live.first, list(live.entries), Store(limit)
        other._kind, other._types = dict(live.kinds), dict(live.types)
        other._solutions, other._shelved = {}, set()
        for key, value in live.arrays.items():
            other.store.put(key, value)
        return other

    @property
    def batches(self) -> int:
        return len(self.entries)

    @property
    def passes(self) -> float:
        """Nodes executed so far, in forward passes of the whole model."""
        return self.node_runs / max(1, len(self._model.graph.node) * self.batches)

    def quantize(self, name: str, solution: Solution) -> None:
        """From now on the quantized network computes this layer with its codes, scales and bias."""
        self._solutions[name] = solution
        self._shelved.discard(name)

    def shelve(self, name: str, shelf: Mapping[str, Solution]) -> None:
        """From now on look a layer's solution up in `shelf`, by its name, instead of holding it."""
        self._solutions.pop(name, None)
        self._shelf = shelf
        self._shelved.add(name)

    def run(
        self,
        segment: Segment,
        extra: Iterable[str] = (),
        on_batch: Callable[[], object] | None = None,
    ) -> None:
        """Run the nodes of a segment on all batches, in both networks unless they agree there.

        `extra` names tensors to keep besides; who asks for them drops them. `on_batch` is called after each.
        """
        shared = segment.shared or not self._paired
        networks = (BOTH,) if shared else (FLOAT, QUANTIZED)
        keeps = list(dict.fromkeys((*segment.keeps, *extra)))
        self._kind |= dict.fromkeys(keeps, BOTH if shared else FLOAT)
        if segment.nodes and keeps:
            sessions = {network: self._session(segment, keeps, network) for network in networks}
            for batch in range(self.batches):
                for network, session in sessions.items():
                    feeds = {name: self.value(name, batch, network) for name in segment.reads}
                    for name, value in _answer(session, feeds, keeps, network).items():
                        self._put(name, batch, network, value)
                for name in segment.last_reads:
                    self._drop(name, batch)
                if on_batch:
                    on_batch()
            self.node_runs += len(segment.nodes) * len(networks) * self.batches

    def origin(self, tensor: str, feeds: Mapping[str, np.ndarray]) -> tuple[str, NodeProto] | None:
        """The network, and its node whose NaN or infinity ends in a tensor, on one batch of the data."""
        for network in (FLOAT, QUANTIZED):
            model = ModelProto()
            model.CopyFrom(self._model)
            if network == QUANTIZED:
                nodes = list(self._model.graph.node)
                solutions = self._solutions_of(nodes)
                replaced, given = replaced_weights(self._layers, solutions, self._options.device)
                replaced |= {name: numpy_helper.from_array(value, name) for name, value in given.items()}
                nodes, added = quantized_nodes(nodes, self._layers, solutions, replaced)
                constants = {**self._constants, **replaced, **added}
                del model.graph.node[:], model.graph.initializer[:]
                model.graph.node.extend(nodes)
                model.graph.initializer.extend(constants.values())
            wide = {name: widened(value) for name, value in feeds.items()}
            if node := origin(TappedModel(model), tensor, wide, self._options):
                return network, node
        return None

    def nodes_of(self, layer: Layer) -> tuple[NodeProto, ...]:
        """The node of a layer, to be run by `outputs`."""
        return tuple(node for node in self._model.graph.node if node.name == layer.name)

    def outputs(
        self, nodes: Sequence[NodeProto], read: str, made: Sequence[str], network: str
    ) -> Iterator[list[np.ndarray]]:
        """What `nodes`, run on the live tensor `read`, make in a network, by batch; nothing is kept."""
        segment = Segment(
            nodes=tuple(nodes),
            layers=(),
            residuals={},
            stops=(),
            reads=(read,),
            keeps=tuple(made),
            last_reads=(),
            frees=(),
            shared=False,
        )
        session = self._session(segment, made, network)
        for batch in range(self.batches):
            found = session.run({read: self.value(read, batch, network)}, made)
            self.node_runs += len(nodes)
            yield [found[name] for name in made]

    def replace(self, name: str, values: Iterable[np.ndarray]) -> None:
        """Put others, a batch each, in place of a live tensor of the quantized network, and that aside."""
        for batch, value in enumerate(values):
            self.store.move((QUANTIZED, name, batch), (_ASIDE, name, batch))
            self.store.put((QUANTIZED, name, batch), value)

    def settle(self, name: str, keep: bool) -> None:
        """After `replace`: keep what was put in place, or bring back what was put aside."""
        for batch in range(self.batches):
            if keep:
                self.store.drop((_ASIDE, name, batch))
            else:
                self.store.drop((QUANTIZED, name, batch))
                self.store.move((_ASIDE, name, batch), (QUANTIZED, name, batch))

    def value(self, name: str, batch: int, network: str) -> np.ndarray:
        """A live tensor of one batch in the ``FLOAT`` or the ``QUANTIZED`` network."""
        return self.store.get((BOTH if self._kind[name] == BOTH else network, name, batch))

    def agrees(self, name: str) -> bool:
        """Whether a tensor is the same in both networks."""
        return self._kind[name] == BOTH

    def shape(self, name: str) -> Shape | None:
        """Of a live tensor, with None where batches differ; None where they differ in rank."""
        return self._types[name][1]

    def shift(self, name: str, bias: np.ndarray) -> None:
        """Add `bias` to a live tensor of the quantized network, which differs from the float network's."""
        for batch in range(self.batches):
            key = (QUANTIZED, name, batch)
            value = self.store.get(key)
            self.store.drop(key)
            self.store.put(key, value + bias.astype(value.dtype))

    def gap_of(self, name: str, quantized: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """``W^T x - W'^T x'`` of a quantized layer, biases left out, at ``x' = quantized``, ``x = x' + gap``.

        The layer is linear, so these may be means over samples; the first axis is kept. Computed as
        ``W^T (x - x') + (W - W')^T x'``, where no near equal numbers are subtracted.
        """
        layer = self._layers[name]
        node = next(node for node in self._model.graph.node if node.name == name)
        weight = Stored(self._constants[layer.weight]).load()
        error = weight - float_weight(self._held(name), layer)
        moved = linear(node, layer, weight, gap, self._model, self._options)
        return moved + linear(node, layer, error, quantized, self._model, self._options)

    def free(self, names: Iterable[str]) -> None:
        """Forget these tensors."""
        for name in names:
            for batch in range(self.batches):
                self._drop(name, batch)

    def feed(self, calibration: Calibration) -> None:
        """Take the inputs of all batches that segments read."""
        inputs = {value.name for value in self._model.graph.input}
        read = {name for segment in self.segments for name in segment.reads} | {
            layer.input for segment in self.segments for layer in segment.layers
        }
        for number, batch in enumerate(calibration.batches()):
            self.entries.append(calibration.entries(batch))
            for name, value in batch.items():
                if name in read & inputs:
                    self._kind[name] = BOTH
                    self._put(name, number, BOTH, widened(value))

    def _put(self, name: str, batch: int, network: str, value: np.ndarray) -> None:
        self.store.put((network, name, batch), value)
        known = self._types[name][1] if name in self._types else value.shape
        shape = None
        if known is not None and len(known) == value.ndim:
            shape = tuple(a if a == b else None for a, b in zip(known, value.shape, strict=True))
        self._types[name] = (value.dtype, shape)

    def _drop(self, name: str, batch: int) -> None:
        for network in (BOTH,) if self._kind[name] == BOTH else (FLOAT, QUANTIZED):
            self.store.drop((network, name, batch))

    def _session(self, segment: Segment, outputs: Sequence[str], network: str) -> Session:
        nodes: list[NodeProto] = list(segment.nodes)
        constants: Mapping[str, TensorProto] = self._constants
        given: dict[str, np.ndarray] = {}
        if network == QUANTIZED:
            solutions = self._solutions_of(nodes)
            replaced, given = replaced_weights(self._layers, solutions, self._options.device)
            nodes, added = quantized_nodes(nodes, self._layers, solutions, replaced)
            constants = ChainMap(added, replaced, self._constants)
        infos = {name: self._info(name) for name in segment.reads}
        model = cut_out(self._model, nodes, (segment.reads, outputs), constants, infos)
        session = _opened(model, self._options, given)
        for spec in session.outputs:
            if spec.dtype == object:
                raise NotPairedError(f"'{spec.name}' is a sequence or an optional and no tensor", fix=FLOATS)
        return session

    def _info(self, name: str) -> onnx.ValueInfoProto:
        dtype, shape = self._types[name]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    def _solution(self, name: str) -> Solution | None:
        """Of a layer, None where it is not quantized."""
        return self._shelf[name] if name in self._shelved else self._solutions.get(name)

    def _solutions_of(self, nodes: Iterable[NodeProto]) -> dict[str, Solution]:
        """Of the quantized layers among some nodes and in their bodies."""
        names = [node.name for node in every_node(nodes) if node.name in self._layers]
        return {name: found for name in names if (found := self._solution(name)) is not None}

    def _held(self, name: str) -> Solution:
        found = self._solution(name)
        if found is None:
            raise KeyError(name)
        return found


def _opened(model: ModelProto, options: SessionOptions, given: Mapping[str, np.ndarray]) -> Session:
    """A part of the model, loaded. NotPairedError where it does not load: the whole model may."""
    try:
        return open_session(model, options, given)
    except MemoryExhaustedError:
        raise
    except ComqError as error:
        raise NotPairedError(f"a part of the model cannot be run alone, {error.what}", fix=FLOATS) from error


def _answer(
    session: Session, feeds: dict[str, np.ndarray], outputs: Sequence[str], network: str
) -> dict[str, np.ndarray]:
    """Outputs by name. NotPairedError where this part of the network cannot be run: the whole one may."""
    try:
        return session.run(feeds, outputs)
    except MemoryExhaustedError:
        raise
    except ComqError as error:
        which = "quantized" if network == QUANTIZED else "float"
        raise NotPairedError(f"in a part of the {which} network, {error.what}", fix=FLOATS) from error
