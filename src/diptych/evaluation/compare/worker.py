"""A process of its own for each model, so that its memory and its time to load are its own too."""

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

_MARK = "\x1e"  # begins a line of ours (RFC 7464); libraries may print others
_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, MissingExtra, ModelError)}


def measure_fresh(model: str, suite: Path, out: Path, *, device: str = "auto", progress: Progress = silent) -> None:
    """Measure `model` by the suite saved at `suite`, in a new Python, into the folder `out` (`Measured.load`).

    Raises:
        DiptychError: what it raised there, of the same type.
        ModelError: the process ended without a result, as when memory ran out; the message has its last words.
    """
    job = json.dumps({"model": model, "suite": str(suite), "out": str(out), "device": device})
    command = [sys.executable, "-P", "-c", f"from {__name__} import work; work()", job]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True, encoding="utf-8") as process,
    ):
        try:
            _follow(process, progress)
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        if code or not out.exists():
            words.seek(0)
            last = [line.strip() for line in words.read().splitlines() if line.strip()][-1:] or ["it said nothing"]
            raise ModelError(
                f"measuring '{model}' ended with code {code}: {last[0][:300]} (code -9: the system, short of memory)"
            )


def _follow(process: subprocess.Popen[str], progress: Progress) -> None:
    """Show the steps that the process reports, one a line, until it ends; an error that it reports is raised."""
    lines = _messages(process)
    for message in lines:
        if "error" in message:
            raise _reported(message)
        if "begins" in message:
            for _ in progress(_steps(lines), message["total"], message["begins"]):
                pass


def _messages(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        _, mark, told = line.partition(_MARK)  # what a library wrote without a line's end stands before it
        if mark:
            yield json.loads(told)


def _steps(lines: Iterator[dict[str, Any]]) -> Iterator[None]:
    for message in lines:
        if "error" in message:  # most are raised in the midst of something
            raise _reported(message)
        if "ends" in message:
            return
        yield None


def _reported(message: dict[str, Any]) -> DiptychError:
    return _ERRORS.get(message["error"], DiptychError)(message["says"])


class _Reported:
    """Progress as lines on standard output, for `_follow` in the process that waits."""

    def __call__(self, items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
        self.tell({"begins": label, "total": total})
        for item in items:
            yield item
            self.tell({"step": 1})
        self.tell({"ends": label})

    @staticmethod
    def tell(message: dict[str, Any]) -> None:
        sys.stdout.write(_MARK + json.dumps(message) + "\n")
        sys.stdout.flush()


def work() -> None:
    """What the new process runs: the job that its argument tells."""
    from diptych.evaluation.compare.measure import measure
    from diptych.evaluation.compare.suite import Suite

    job = json.loads(sys.argv[1])
    try:
        suite = Suite.load(Path(job["suite"]))
        measured = measure(job["model"], suite, device=job["device"], fresh=True, progress=_Reported())
        measured.save(Path(job["out"]))
    except DiptychError as error:
        _Reported.tell({"error": type(error).__name__, "says": str(error)})
