import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from data.workers import worker_results


def divide(unit: int) -> tuple[float, int]:
    return 60 / unit, os.getpid()


def divider():
    return divide


def killed():
    return lambda unit: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_results_come_in_the_order_of_the_units(method):
    units = list(range(1, 31))  # more than wait at a time
    for workers in (1, 2):
        with worker_results(divider, units, workers, method) as results:
            quotients, processes = zip(*results, strict=True)
        assert list(quotients) == [60 / unit for unit in units]
        assert (os.getpid() in processes) == (workers == 1) and len(set(processes)) <= workers


def test_the_first_error_in_that_order_is_raised():
    with pytest.raises(ZeroDivisionError), worker_results(divider, [5, 0, "x"], 2, "fork") as results:
        assert next(results)[0] == 12
        next(results)


def test_a_killed_worker_is_told():
    with pytest.raises(BrokenProcessPool), worker_results(killed, [1, 2], 2, "fork") as results:
        list(results)
