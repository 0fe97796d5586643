"""What a runtime's messages mean, in one line."""

import re

_NO_MEMORY = re.compile(
    "bad_alloc|bad allocation|failed to allocate memory|out of memory|cannot allocate memory", re.IGNORECASE
)


def reason(error: BaseException) -> str:
    """The essential part of a runtime's message: one line without error codes, source paths and stop."""
    text = str(error).strip()
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"Exception during (initialization|loading): ", "", text)
    # "/onnxruntime_src/onnxruntime/core/x.cc:123 onnxruntime::Status f(int) " says nothing to a user.
    text = re.sub(r"\S*/onnxruntime\S*\.(cc|h|cpp):\d+\s+", "", text)
    text = re.sub(r"[\w:&<>*, ]+ onnxruntime::\S+\([^)]*\)( const)?( \[[^]]*\])?\s*", "", text)
    text = re.sub(r"\bStatus Message: ", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(". ") if lines else type(error).__name__


def is_exhausted(error: BaseException) -> bool:
    """Whether memory ran out, as far as the message tells: the runtime has no exception of its own for it."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))
