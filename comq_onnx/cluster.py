"""A Dask cluster: the one module that imports `distributed`, an extra."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from comq_onnx.errors import ComqError

WAIT = 30
"""Seconds to wait for a scheduler, and for its first worker"""
LOCAL = "local:"


class Cluster:
    """Functions run on workers. What they are given may be what others will have answered.

    All of them are pure: a worker that dies takes nothing with it that another cannot compute again.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have ``function(*arguments)`` run on a worker; what stands for its answer."""
        with warnings.catch_warnings():
            # Models and samples are large, and sent so that they can be sent again.
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self._client.submit(function, *arguments, pure=False)

    def answers(self, promised: Sequence[Any]) -> list[Any]:
        """The answers, in order, as soon as all are there. What a function raised is raised."""
        return self._client.gather(list(promised))

    def as_completed(self, promised: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
        """Keys of `promised` and answers, in the order in which they come."""
        from distributed import as_completed

        names = {future: key for key, future in promised.items()}
        for future in as_completed(list(names), loop=self._client.loop):
            yield names[future], future.result()

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The answers of all workers that there are now."""
        return list(self._client.run(function, *arguments).values())


def check_installed() -> None:
    """ComqError where the extra is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ComqError(
            "Dask is not installed", where="--dask", fix='pip install "comq-onnx[dask]"'
        ) from error


@contextlib.contextmanager
def open_cluster(address: str) -> Iterator[Cluster]:
    """The cluster at a scheduler's address, or for ``local:4`` one of so many processes on this machine.

    ComqError where Dask is not installed, or the scheduler or its workers are not there.
    """
    check_installed()
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        where: Any = address
        if address.startswith(LOCAL):
            # One task at a time in a process: each uses the threads it has been given.
            count = int(address.removeprefix(LOCAL))
            where = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,  # pyright: ignore[reportArgumentType]
                    silence_logs=logging.ERROR,
                )
            )
        try:
            client = stack.enter_context(Client(where, timeout=WAIT, set_as_default=False))
            client.wait_for_workers(1, timeout=WAIT)
        except (OSError, TimeoutError, ValueError) as error:
            raise ComqError(
                f"no scheduler with a worker answers ({error})",
                where=f"--dask {address}",
                fix="start `dask scheduler` and `dask worker` first, or use local:2",
            ) from error
        yield Cluster(client)
