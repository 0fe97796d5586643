"""A name of its own for every node and every constant."""

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, graphs_of, nodes_of
from comq_onnx.graph.tensors import Tensor


def name_uniquely(model: Model) -> None:
    """Name nodes that have no name, and rename all but the first bearer of a name that occurs twice.

    A nameless node is named after its operator and its first output. Tensors of sibling subgraphs may bear
    one name too; the later ones are renamed, so that a name says which weight is meant.
    """
    taken = {node.name for node, _ in nodes_of(model) if node.name}
    seen: set[str] = set()
    for node, _ in nodes_of(model):
        if not node.name:
            output = next((t.name for t in node.outputs if t.name), "")
            node.name = free_name(f"{node.op}_{output}" if output else node.op, taken)
        elif node.name in seen:
            node.name = free_name(node.name, taken)
        seen.add(node.name)
    _name_tensors(model)


def _name_tensors(model: Model) -> None:
    tensors: dict[int, Tensor] = {}
    # Inputs and outputs of the model come first: their names are its interface and stay.
    for tensor in (*model.graph.inputs, *model.graph.outputs):
        tensors[id(tensor)] = tensor
    for graph in graphs_of(model):
        local = (
            *graph.inputs,
            *(t for node in graph.nodes for t in (*node.outputs, *node.inputs)),
            *graph.outputs,
        )
        tensors.update((id(tensor), tensor) for tensor in local if not tensor.is_empty())
    taken = {tensor.name for tensor in tensors.values()}
    seen: set[str] = set()
    for tensor in tensors.values():
        if tensor.name in seen:
            tensor.name = free_name(tensor.name, taken)
        seen.add(tensor.name)
