"""Escaped output of warnings, log lines and tracebacks, for terminals and log files."""

from __future__ import annotations

import io
import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any

from diptych.runtime.quoting import printable, printable_lines


def guard_output() -> None:
    """Escape the warnings, log lines and tracebacks of this process.

    A character that the terminal's encoding lacks is written as an escape instead of raising an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _show_traceback
    threading.excepthook = _show_thread_traceback
    warnings.formatwarning = _format_warning
    logging.setLogRecordFactory(_log_record)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    lines = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
    sys.stderr.write(f"{printable_lines(lines)}\n")


def _show_thread_traceback(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None:
        _show_traceback(hook.exc_type, hook.exc_value, hook.exc_traceback)


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,  # noqa: ARG001 - as in `warnings.formatwarning`
) -> str:
    if category.__module__.startswith("diptych."):  # about the user's data, not about a line of code
        return f"diptych: {printable_lines(message)}\n"
    return f"{printable(filename)}:{lineno}: {category.__name__}: {printable_lines(message)}\n"


def _log_record(*arguments: Any, **more: Any) -> logging.LogRecord:
    """A log record whose message and traceback are escaped, whichever library logs it."""
    record = logging.LogRecord(*arguments, **more)
    try:
        record.msg, record.args = printable_lines(record.getMessage()), ()
    except (TypeError, ValueError, KeyError):  # arguments that do not match the message: logging reports those
        return record
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = "  " + printable_lines("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return record
