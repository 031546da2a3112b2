"""Processes that share units of work: they leave Ctrl-C to their parent and end when it does, however that ends."""

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from common.script import interrupts_held

_AHEAD = 4  # units for each process that wait or are done before their turn
_work: Callable  # of a worker


@contextmanager
def worker_results(
    make_work: Callable[[], Callable], units: Sequence, workers: int, method: str
) -> Iterator[Iterator]:
    """The results of `make_work()`, called once in each process, for all units in their order.

    The first error in that order is raised. Fewer than two workers or units are done in this process.
    method: fork shares what is loaded already, and wants a process without threads; spawn begins anew.

    Raises:
        BrokenProcessPool: a worker was killed.
    """
    workers = min(workers, len(units))
    if workers < 2:
        yield map(make_work(), units)
        return
    if method == "fork":
        gc.freeze()  # a collection in a worker would copy every shared page
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (make_work,))
    try:
        yield _in_order(pool, units, _AHEAD * workers)
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()


def _in_order(pool: ProcessPoolExecutor, units: Sequence, ahead: int) -> Iterator:
    """Results as they come; no more than `ahead` wait at a time, however many units there are."""
    waiting = deque()
    for unit in units:
        with interrupts_held():  # it may start a process
            waiting.append(pool.submit(_run_worker, unit))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start_worker(make_work: Callable[[], Callable]) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _work = make_work()


def _run_worker(unit):
    return _work(unit)
