"""A file as rules look at it: nodes with their scopes, constants, and shapes where they can be known."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from comq_onnx.graph.opset import without_weights
from comq_onnx.graph.scopes import Scope, scopes

DEFAULT_DOMAINS = ("", "ai.onnx")


class View:
    """An indexed `ModelProto`. Read, never changed."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.scopes = tuple(scopes(proto.graph))

    @property
    def opset(self) -> int:
        """Version of the default domain; 0 where the file does not import it."""
        return next((o.version for o in self.proto.opset_import if o.domain in DEFAULT_DOMAINS), 0)

    def nodes(self, *ops: str) -> Iterator[tuple[onnx.NodeProto, Scope]]:
        """Nodes of the default domain of one of these operators (all nodes where none is named)."""
        for scope in self.scopes:
            for node in scope.graph.node:
                if not ops or (node.op_type in ops and node.domain in DEFAULT_DOMAINS):
                    yield node, scope

    def constant(self, name: str, scope: Scope) -> onnx.TensorProto | None:
        """The constant called `name`: an initializer, or the value of a Constant node."""
        if (tensor := scope.tensor(name)) is not None:
            return tensor
        node = scope.producer(name)
        if node is None or node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
            return None
        return next((a.t for a in node.attribute if a.name == "value"), None)

    def values(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The values of a constant."""
        return numpy_helper.to_array(tensor)

    @cached_property
    def _infos(self) -> dict[str, onnx.TypeProto.Tensor]:
        skeleton = without_weights(self.proto)
        skeleton.graph.value_info.extend(self.proto.graph.value_info)
        inferred = onnx.shape_inference.infer_shapes(skeleton)
        return {
            info.name: info.type.tensor_type
            for scope in scopes(inferred.graph)
            for info in (*scope.graph.input, *scope.graph.output, *scope.graph.value_info)
        }

    def element_type(self, name: str, scope: Scope) -> int:
        """`TensorProto` element type of a tensor; 0 where it is not known."""
        if (tensor := self.constant(name, scope)) is not None:
            return tensor.data_type
        return self._infos[name].elem_type if name in self._infos else 0

    def shape(self, name: str, scope: Scope) -> tuple[int | None, ...] | None:
        """Shape of a tensor, None for an axis that is not known; None where the rank is not."""
        if (tensor := self.constant(name, scope)) is not None:
            return tuple(tensor.dims)
        info = self._infos.get(name)
        if info is None or not info.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in info.shape.dim)


def named(node: onnx.NodeProto) -> str:
    """What to call a node: its name, or what it makes where it has none."""
    return node.name or (node.output[0] if node.output else node.op_type)
