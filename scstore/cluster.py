"""Where passes over many cells run: here, or on the workers of a Dask cluster, with the same results."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

from scstore.errors import FaultError, MissingExtraError, NetworkError, OptionError

T = TypeVar("T")
R = TypeVar("R")

LOCAL = "local"
PATIENCE = 30  # seconds in which a scheduler and a worker have to answer
AHEAD = 3  # pieces that are under way for each thread of the workers
GROUP = 16  # results that a worker adds up before they come here


@dataclass(frozen=True)
class Cluster:
    """A Dask client, and the bytes of memory of all workers together, 0 where that is not known."""

    client: Any
    memory: int

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Begin a piece; Dask begins it again where its worker is lost."""
        return self.client.submit(function, *args, pure=False)


_in_use: ContextVar[Cluster | None] = ContextVar("scstore_cluster", default=None)


def cluster_in_use() -> Cluster | None:
    """Return the cluster of the ``with`` block of :func:`on_cluster`, if this is inside one."""
    return _in_use.get()


@contextmanager
def on_cluster(dask: str | None, *sent: Any) -> Iterator[None]:
    """Use the workers of a scheduler, by its address or file, or one of this process, inside the ``with`` block."""
    if dask is None:
        yield
        return
    for one in sent:
        one.__reduce__()  # refuses what other processes cannot open
    try:
        import dask.config as settings
        import distributed  # noqa: F401  # which is an extra
    except ImportError:
        raise MissingExtraError("dask=", "dask") from None
    with ExitStack() as stack:
        # heads and lists of rows are sent as they are
        stack.enter_context(settings.set({"distributed.admin.large-graph-warning-threshold": "2GiB"}))
        client = stack.enter_context(_connected(dask))
        token = _in_use.set(Cluster(client, _memory_of_workers(client, dask)))
        try:
            yield
        finally:
            _in_use.reset(token)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    distributed: Any = import_module("distributed")
    with ExitStack() as stack:
        place: Any = address
        if address == LOCAL:
            how: dict[str, Any] = {"n_workers": os.cpu_count(), "threads_per_worker": 1, "dashboard_address": ":0"}
            place = stack.enter_context(distributed.LocalCluster(**how))
        try:
            if address.endswith(".json"):
                place = json.loads(Path(address).read_text())["address"]
            client = stack.enter_context(distributed.Client(place, timeout=PATIENCE, set_as_default=False))
        except (OSError, ValueError, KeyError) as error:
            why = f"no Dask scheduler answers there ({error})"
            raise NetworkError(f"dask={address!r}: {why}. Start `dask scheduler`, or use dask={LOCAL!r}.") from None
        yield client


def _memory_of_workers(client: Any, address: str) -> int:
    """Wait for a worker, refuse those of another version, and return what memory they have."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise NetworkError(f"dask={address!r}: no worker in {PATIENCE} s. Start `dask worker {address}`.") from None
    mine, memory = version("scstore"), 0
    for worker, about in client.run(_about_worker, on_error="return").items():
        if isinstance(about, Exception) and not isinstance(about, ImportError | AttributeError):
            continue  # it has just ended
        theirs, limit = ("none", 0) if isinstance(about, Exception) else about
        if theirs != mine:
            why = f"{worker} has scstore {theirs}, this is {mine}"
            raise OptionError(f"dask={address!r}: {why}. Start the workers in this environment.")
        memory += limit
    return memory


def _about_worker(dask_worker: Any) -> tuple[str, int]:
    return version("scstore"), int(dask_worker.memory_manager.memory_limit or 0)


def each(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the result of each item in order: here, or from workers, to which the function goes once."""
    cluster = _in_use.get()
    if cluster is None:
        yield from map(function, items)
        return
    job, ahead = cluster.submit(_same, function), AHEAD * sum(cluster.client.nthreads().values())
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(cluster.submit(_call, job, item))
            if len(waiting) > ahead:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        cluster.client.cancel(list(waiting))


@dataclass(frozen=True, eq=False)
class Held:
    """Pieces that lie on the workers of a cluster; what is lost with a worker is made again."""

    cluster: Cluster
    pieces: Sequence[Any]

    @classmethod
    def make(cls, function: Callable[[T], Any], items: Iterable[T]) -> Self:
        """Make a piece of each item, on the cluster in use."""
        cluster = _in_use.get()
        assert cluster is not None  # noqa: S101  # the caller looked
        job = cluster.submit(_same, function)
        return cls(cluster, [cluster.submit(_call, job, item) for item in items])

    def map(self, function: Callable[[Any, Any], Any], argument: Any) -> Self:
        """Return what a function makes of each piece and an argument, where the piece lies."""
        sent = self.cluster.submit(_same, argument)
        return type(self)(self.cluster, [self.cluster.submit(function, piece, sent) for piece in self.pieces])

    def total(self, add: Callable[[Sequence[R]], R]) -> R:
        """Return the sum of all pieces in their order; groups of them are added up over there."""
        found = self.pieces
        while len(found) > GROUP:
            groups = [list(found[first : first + GROUP]) for first in range(0, len(found), GROUP)]
            found = [self.cluster.submit(add, group) for group in groups]
        return add([_result(one) for one in found])


def _same(value: T) -> T:
    return value


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _result(future: Any) -> Any:
    import distributed

    try:
        return future.result()
    except distributed.KilledWorker as error:
        why = f"several workers ended at the same piece of work: more memory than they have? ({error})"
        raise FaultError(f"Dask: {why} See their logs.") from None
    except distributed.client.FutureCancelledError as error:
        raise NetworkError(f"Dask: the scheduler is gone ({error}). Run the same again.") from None
