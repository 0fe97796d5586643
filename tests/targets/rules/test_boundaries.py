"""Where a rule begins and ends is where onnxruntime begins and ends to do what the rule says."""

import itertools

import pytest
from targets.rules.files import file, optimized, session
from targets.rules.wrong import COLUMNS, CONV, I8, IMAGE, K8, MATRIX, OUT, U8, VECTOR, W4, W8, X8, Y8, ZEROED

from comq_onnx.targets.findings import findings
from comq_onnx.targets.rules import onnxruntime as ort_rules

DYNAMIC_CUBE = "float[B,S,64] x -> float[B,S,32] y"
CUBE = "float[1,5,64] x -> float[1,5,32] y"
NEXT = "v = DequantizeLinear<axis=1>(p, o) y = MatMul(u, v)"


def is_found(proto, *rules):
    return any(finding.rule in rules for finding in findings(proto, ort_rules.RULES))


def is_unfused(proto, folder):
    graph = optimized(proto, folder).graph
    weights = {tensor.name for tensor in graph.initializer}
    return any(node.op_type == "DequantizeLinear" and node.input[0] in weights for node in graph.node)


@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("scale", [0.02, 0.0235294, 0.02353, 0.0236, 0.03])
@pytest.mark.parametrize("zero", ["uint8=0", "uint8=50", "uint8=51", "uint8=128", "int8=-128", "int8=0"])
def test_a_clip_is_absorbed_where_its_limits_are_the_ends_of_the_codes(zero, scale, low, tmp_path):
    body = f"{X8} {CONV.replace('t =', 'u =')} t = Clip(u, lo, hi) {Y8}"
    given = U8 if zero.startswith("u") else I8
    proto = file(IMAGE, body, **given, **K8, ys=f"float={scale}", yz=zero, lo=f"float={low}", hi="float=6")
    assert is_found(proto, "ORT-W25") == is_unfused(proto, tmp_path)


@pytest.mark.parametrize("shape", [MATRIX, CUBE, DYNAMIC_CUBE], ids=["matrix", "cube", "dynamic"])
@pytest.mark.parametrize("product", ["MatMul", "MatMul + Add", "Gemm"])
@pytest.mark.parametrize("between", ["Relu(t)", "Clip(t, lo, hi)", "Sigmoid(t)", "LeakyRelu(t)", "Tanh(t)"])
def test_what_keeps_two_products_apart(shape, product, between, tmp_path):
    if product == "Gemm" and shape != MATRIX:
        return
    first = {"MatMul": "t = MatMul(x, w)", "Gemm": "t = Gemm(x, w, c)"}.get(
        product, "m = MatMul(x, w) t = Add(m, c)"
    )
    specs = W4 | {"p": "int4[32,32]", "o": "float[32]", "lo": "float=0", "hi": "float=6"} | VECTOR
    proto = file(shape, f"{COLUMNS} {first} u = {between} {NEXT}", **specs)
    assert is_found(proto, "ORT-W16") == is_unfused(proto, tmp_path)


@pytest.mark.parametrize("added", ["[32]", "[1,32]", "[5,32]", "[5,1]", "[1]", "", "[1,5,32]"])
@pytest.mark.parametrize("rows", ["5", "1,5", "M", "B,S"])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_may_be_added(rows, added, bits, tmp_path):
    more = "" if rows != "5" or added != "[1,5,32]" else "1,"
    signature = f"float[{rows},64] x -> float[{more}{rows},32] y"
    start = COLUMNS if bits == 4 else f"{X8} {ZEROED}"
    body = f"{start} t = MatMul({'x' if bits == 4 else 'xd'}, w) y = Add(t, c)"
    proto = file(signature, body, **(W4 if bits == 4 else W8 | U8), c=f"float{added}")
    assert is_found(proto, "ORT-W15", "ORT-W23") == is_unfused(proto, tmp_path)


@pytest.mark.parametrize("added", ["[32]", "[1]", "[1,32]"])
@pytest.mark.parametrize(
    ("opset", "rows", "given"),
    list(itertools.product([20, 21, 23], ["5", "1,5", "2,3,5", "B,S", "1,S"], [I8, U8])),
)
def test_which_signed_activations_are_refused(opset, rows, given, added):
    body = f"{X8} {ZEROED} t = MatMul(xd, w) y = Add(t, c)"
    proto = file(f"float[{rows},64] x -> float[{rows},32] y", body, opset, **given, **W8, c=f"float{added}")
    if is_found(proto, "ORT-E03"):
        with pytest.raises(Exception, match="output_dtype INT8 does not match"):
            session(proto)
    else:
        session(proto)


@pytest.mark.parametrize("product", ["MatMul", "MatMul + Add", "Gemm", "Conv", "ConvTranspose"])
@pytest.mark.parametrize("stored", [True, False])
def test_which_two_bit_weights_are_refused(product, stored):
    body, given, shape = "m = MatMul(xd, w) t = Add(m, c)", {"q": "int2[64,32]", "s": "float[32]"}, MATRIX
    if product in ("MatMul", "Gemm"):
        body = f"t = {product}(xd, w)"
    if product.startswith("Conv"):
        body = f"t = {product}<pads=[1,1,1,1]>(xd, w)"
        given, shape = {"q": "int2[16,16,3,3]", "s": "float[16]"}, "float[1,16,6,6] x -> float[1,16,6,6] y"
    tail = Y8 if stored else "y = Identity(t)"
    proto = file(shape, f"{X8} {COLUMNS} {body} {tail}", 25, **given, **U8, **OUT, **VECTOR)
    if not is_found(proto, "ORT-E04"):
        session(proto)
        assert is_found(proto, "ORT-W29", "ORT-W30")


@pytest.mark.parametrize("shared", ["nothing", "w", "q", "s", "z"])
def test_what_two_products_may_share(shared, tmp_path):
    names = {"q": "p", "s": "o", "z": "k"} | ({shared: shared} if shared in "qsz" else {})
    second = f"u = DequantizeLinear<axis=1>({names['q']}, {names['s']}, {names['z']})"
    use, second = ("w", "") if shared == "w" else ("u", second)
    specs = {"q": "int4[64,32]", "s": "float[32]", "z": "int4[32]=0"}
    specs |= {"p": specs["q"], "o": specs["s"], "k": specs["z"]}
    proto = file(
        "float[M,64] x -> float[M,32] y, float[M,32] v",
        f"{ZEROED} {second} r = Relu(x) y = MatMul(x, w) v = MatMul(r, {use})",
        **specs,
    )
    assert is_found(proto, "ORT-W05") == is_unfused(proto, tmp_path)


BEHIND = {
    "nothing": "t = Identity(u)",
    "Relu": "t = Relu(u)",
    "MaxPool": "t = MaxPool<kernel_shape=[2,2]>(u)",
    "Reshape": "t = Reshape(u, n)",
    "Transpose": "t = Transpose<perm=[0,2,3,1]>(u)",
    "Flatten": "t = Flatten(u)",
    "Sigmoid": "t = Sigmoid(u)",
    "AveragePool": "t = AveragePool<kernel_shape=[2,2]>(u)",
    "GlobalAveragePool": "t = GlobalAveragePool(u)",
    "Add": "t = Add(u, u)",
    "Unsqueeze": "t = Unsqueeze(u, n)",
    "Squeeze": "t = Squeeze(u, n)",
}


@pytest.mark.parametrize("behind", BEHIND)
def test_what_may_lie_between_a_conv_and_its_stored_output(behind, tmp_path):
    values = {"Reshape": "int64[1]=-1", "Unsqueeze": "int64[1]=0", "Squeeze": "int64[1]=0"}
    axes = "[1]" if behind == "Reshape" else "[1,8,6,6]"
    signature = f"float[1,16,6,6] x -> float{axes} y"
    body = f"{X8} {CONV.replace('t =', 'u =')} {BEHIND[behind]} {Y8}"
    proto = file(signature, body, **U8, **K8, **OUT | {"yz": "uint8=0"}, n=values.get(behind, "int64[1]=0"))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert is_found(proto, "ORT-W21") == is_unfused(proto, tmp_path)


BEFORE = {
    "Reshape": "xm = Reshape(xd, n)",
    "Transpose": "xm = Transpose<perm=[1,0]>(xd)",
    "Flatten": "xm = Flatten(xd)",
    "Squeeze": "xm = Squeeze(xd)",
    "Unsqueeze": "xm = Unsqueeze(xd, o)",
    "Relu": "xm = Relu(xd)",
    "Identity": "xm = Identity(xd)",
    "Gelu": "xm = Gelu(xd)",
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("bits", [4, 8])
def test_what_lies_between_a_stored_activation_and_a_product(before, bits, tmp_path):
    """In an 8-bit product 4-bit codes are left as they are, and 8-bit ones are fused to integers."""
    weights = W8 if bits == 8 else W4
    body = f"{X8} {BEFORE[before]} {ZEROED if bits == 8 else COLUMNS} y = MatMul(xm, w)"
    proto = file("float[64,64] x -> float y", body, **U8, **weights, n="int64[2]=64", o="int64[1]=0")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    if bits == 4:
        assert is_found(proto, "ORT-W29") == is_unfused(proto, tmp_path)
    else:
        assert not is_found(proto)
        assert not is_unfused(proto, tmp_path)
