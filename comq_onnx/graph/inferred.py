"""What ONNX's shape inference tells of a model, and what the model declares where it tells nothing."""

import onnx

from comq_onnx.graph.opset import without_weights


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` without its weights, with the types and shapes that inference adds to the declared.

    Where these contradict each other, which runtimes may let pass, the declared ones are all there is.
    """
    skeleton = without_weights(model)
    skeleton.graph.value_info.extend(model.graph.value_info)
    return followed(skeleton)


def followed(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """`skeleton` with what inference adds; itself where inference cannot follow it."""
    try:
        return onnx.shape_inference.infer_shapes(skeleton)
    except (onnx.shape_inference.InferenceError, ValueError):
        return skeleton
