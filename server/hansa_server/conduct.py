"""Conducts a study from its last checkpoint to its files, whatever carries its messages."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hansa_common.errors import StudyFailed, StudyInterrupted
from hansa_server.outcome import Status, results_of, write_results
from hansa_server.results import Results
from hansa_server.store import RunFolder
from hansa_server.study import Study


def conduct(study: Study, folder: RunFolder, start: Callable[[], None]) -> Results:
    """Have ``start`` conduct a study, from its last checkpoint where there is one; write what it reached, in any case.

    Raises:
        StudyFailed: It could not go on or was stopped.
        StorageError: The disk is full or fails.
    """
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        study.restore(checkpoint)
        del checkpoint  # a whole model
    status: Status = "completed"
    problem: StudyFailed | None = None
    try:
        start()
    except StudyInterrupted as error:
        status, problem = "stopped", error
    except StudyFailed as error:
        status, problem = "failed", error
    results = results_of(study, run=str(folder.path), status=status, reason=problem.message if problem else "")
    write_results(folder, study, results)
    if problem is not None:
        raise problem
    return results


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; the second ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[signal.Signals, Any] = {}

    def request(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        _restore(before)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
