"""What a machine refuses, in one sentence: a full disk, a disk that is read only, memory that ran out."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from comq_onnx.errors import ComqError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
REFUSED |= {errno.ENAMETOOLONG, errno.ELOOP}


@contextmanager
def faults_explained() -> Iterator[None]:
    """ComqError for what the machine refuses within the block. Other errors are bugs and pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL | REFUSED:
            raise
        full = "make room there, or set TMPDIR to a larger disk"
        raise ComqError(
            f"the system refuses it ({error.strerror})",
            where=str(error.filename or "a file that is written"),
            fix=full if error.errno in FULL else "choose another folder",
        ) from error
    except MemoryError as error:
        raise ComqError(
            "memory ran out", fix="lower --batch-size or --memory, or use a machine with more"
        ) from error
