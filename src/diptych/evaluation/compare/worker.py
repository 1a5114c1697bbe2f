"""Measuring a model in a separate process, so that memory and load time are those of this model alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from diptych.errors import ConfigError, DataError, DiptychError, MissingExtra, ModelError
from diptych.runtime.progress import Progress, silent

Item = TypeVar("Item")

Message = dict[str, Any]
"""A line of the protocol, parsed."""

_MARK = "\x1e"  # starts a line of this protocol (RFC 7464); libraries may print other lines
_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, MissingExtra, ModelError)}


def measure_fresh(model: str, suite: Path, out: Path, *, device: str = "auto", progress: Progress = silent) -> None:
    """Measure a model in a new Python process.

    Args:
        model: path or hub name of the model.
        suite: folder of a saved `Suite`.
        out: folder to write (`Measured.load` reads it).
        device: auto, cpu, cuda or mps.
        progress: reports the progress of the process.

    Raises:
        DiptychError: the process raised it; the type is kept.
        ModelError: the process ended without a result, such as when memory ran out; the message has its last output.
    """
    job = json.dumps({"model": model, "suite": str(suite), "out": str(out), "device": device})
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()", job]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8") as process,
    ):
        try:
            _follow(process, progress)
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        if code or not out.exists():
            errors.seek(0)
            last = [line.strip() for line in errors.read().splitlines() if line.strip()][-1:] or ["no output"]
            raise ModelError(
                f"measuring '{model}' ended with code {code}: {last[0][:300]} (code -9: killed, short of memory)"
            )


def _follow(process: subprocess.Popen[str], progress: Progress) -> None:
    """Show the progress that the process reports until it ends, and raise the error that it reports."""
    lines = _messages(process)
    for message in lines:
        if "error" in message:
            raise _reported(message)
        if "begins" in message:
            for _ in progress(_steps(lines), message["total"], message["begins"]):
                pass


def _messages(process: subprocess.Popen[str]) -> Iterator[Message]:
    assert process.stdout is not None
    for line in process.stdout:
        _, mark, message = line.partition(_MARK)  # library output without a line end may precede the mark
        if mark:
            yield json.loads(message)


def _steps(lines: Iterator[Message]) -> Iterator[None]:
    for message in lines:
        if "error" in message:
            raise _reported(message)
        if "ends" in message:
            return
        yield None


def _reported(message: Message) -> DiptychError:
    return _ERRORS.get(message["error"], DiptychError)(message["says"])


class _Reported:
    """Progress as lines on standard output, which `_follow` reads in the parent process."""

    def __call__(self, items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
        self.send({"begins": label, "total": total})
        for item in items:
            yield item
            self.send({"step": 1})
        self.send({"ends": label})

    @staticmethod
    def send(message: Message) -> None:
        sys.stdout.write(_MARK + json.dumps(message) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Entry point of the new process: runs the job in its argument."""
    from diptych.evaluation.compare.measure import measure
    from diptych.evaluation.compare.suite import Suite

    job = json.loads(sys.argv[1])
    try:
        suite = Suite.load(Path(job["suite"]))
        measured = measure(job["model"], suite, device=job["device"], fresh=True, progress=_Reported())
        measured.save(Path(job["out"]))
    except DiptychError as error:
        _Reported.send({"error": type(error).__name__, "says": str(error)})
