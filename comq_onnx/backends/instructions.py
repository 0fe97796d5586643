"""Processor instructions that numba has no name for, as its intrinsics."""

# The checker sees the bodies of intrinsics and not the functions they become.
# pyright: reportCallIssue=false

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 16
"""Rows looked at together when a sweep searches for one that moves: a vector of float32."""


@intrinsic
def nearest(_context, value):
    """`numpy.rint` as an instruction: NumPy's own is a call, and loops with calls are not vectorised."""

    def generate(_, builder, __, arguments):
        function = builder.module.declare_intrinsic("llvm.rint", [arguments[0].type])
        return builder.call(function, arguments)

    return value(value), generate


@intrinsic
def any_beyond(_context, rest, up, down, start):
    """Whether one of the `LANES` residuals from `start` on is above `up` or below `down`.

    As vector instructions: the compiler keeps such a loop with its early answer scalar, and sweeps that move
    little do nothing else.
    """

    def generate(context, builder, signature, arguments):
        array, *_ = signature.args
        vector = ir.VectorType(context.get_data_type(array.dtype), LANES)

        def load(kind, value):
            first = builder.gep(context.make_array(kind)(context, builder, value).data, [arguments[3]])
            return builder.load(
                builder.bitcast(first, ir.PointerType(vector)), align=array.dtype.bitwidth // 8
            )

        here, top, bottom = (load(kind, v) for kind, v in zip(signature.args[:3], arguments[:3], strict=True))
        above = builder.fcmp_ordered(">", here, top)
        beyond = builder.or_(above, builder.fcmp_ordered("<", here, bottom))
        bits = builder.bitcast(beyond, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(rest, up, down, types.intp), generate
