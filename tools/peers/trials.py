"""What is asked of whom: for each kind of quantization the options of every peer, and ours."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OURS = "comq-onnx"


@dataclass(frozen=True)
class Kind:
    """A width and a granularity. `options` names the options of each peer, its default and its best."""

    name: str
    told: str
    bits: int
    block_size: str
    """As comq-onnx's flag takes it"""
    options: dict[str, tuple[str, ...]]

    @property
    def block(self) -> int:
        """Elements of a block, -1 for a whole channel."""
        return -1 if self.block_size == "channel" else int(self.block_size)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "w4-block",
            "W4, blocks of 32",
            4,
            "32",
            {
                OURS: ("comq", "rtn", "comq_matmul"),
                "modelopt": ("rtn_dq", "awq_lite", "awq_clip"),
                "onnxruntime": ("nbits_qdq", "nbits_default", "nbits_hqq", "nbits_k_quant"),
                "nncf": ("int4_sym", "int4_awq_scales"),
                "aimet": ("blocks", "blocks_seq_mse_16", "blocks_seq_mse"),
                "onnxsim": ("int4", "awq", "quantease", "gptq"),
            },
        ),
        Kind(
            "w4-channel",
            "W4, per channel",
            4,
            "channel",
            {OURS: ("comq", "rtn"), "aimet": ("rtn", "seq_mse_16", "seq_mse")},
        ),
        Kind(
            "w8",
            "W8",
            8,
            "channel",
            {
                OURS: ("comq", "rtn"),
                "onnxruntime": ("nbits_default",),
                "nncf": ("int8_sym",),
                "aimet": ("rtn", "seq_mse_16", "seq_mse"),
                "onnxsim": ("int8", "int8_bias"),
            },
        ),
        Kind(
            "w8a8",
            "W8A8, static",
            8,
            "channel",
            {
                OURS: ("comq_int8",),
                "modelopt": ("entropy", "max"),
                "onnxruntime": ("static_minmax", "static_percentile"),
                "nncf": ("quantize", "quantize_bias"),
                "aimet": ("int8_activations", "int8_tf_enhanced"),
                "onnxsim": ("static_minmax", "static_entropy"),
            },
        ),
    )
}


@dataclass(frozen=True)
class Trial:
    """One file to be made."""

    kind: Kind
    peer: str
    option: str

    @property
    def key(self) -> str:
        return f"{self.kind.name}/{self.peer}/{self.option}"


def trials(kinds: list[str], peers: list[str]) -> list[Trial]:
    """All that are asked for, in the order of the table."""
    return [
        Trial(KINDS[kind], peer, option)
        for kind in kinds
        for peer, options in KINDS[kind].options.items()
        if peer in peers
        for option in options
    ]


def driver(peer: str) -> Path:
    """The script that runs in a peer's environment."""
    return Path(__file__).with_name(f"drive_{'ours' if peer == OURS else peer}.py")


@cache
def calls(peer: str) -> dict[str, str]:
    """The call that each option of a peer makes, as its driver says it. The driver is read, not imported."""
    tree = ast.parse(driver(peer).read_text(encoding="utf-8"))
    functions = {n.name: ast.get_docstring(n) for n in tree.body if isinstance(n, ast.FunctionDef)}
    (table,) = (
        n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "OPTIONS"
    )
    assert isinstance(table, ast.Dict)
    names = {ast.literal_eval(k): ast.unparse(v) for k, v in zip(table.keys, table.values, strict=True) if k}
    return {option: functions[name] or "" for option, name in names.items()}
