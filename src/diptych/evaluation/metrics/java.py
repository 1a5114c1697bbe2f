"""Java programs that the field's scores are defined by, found in the package pycocoevalcap; nothing is downloaded."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from diptych.errors import DiptychError

HOW = "install Java 8 or newer and pip install 'diptych[captions]'"

# Whatever the machine's locale: the program reads and writes UTF-8.
_OPTIONS = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Djava.awt.headless=true", "-XX:+UseSerialGC")


@functools.cache
def java() -> str | None:
    """The command that runs Java, or None where there is none that starts (macOS has a `java` that only says so)."""
    home = os.environ.get("JAVA_HOME")
    for command in (shutil.which("java", path=str(Path(home, "bin"))) if home else None, shutil.which("java")):
        if command and subprocess.run([command, "-version"], capture_output=True).returncode == 0:
            return command
    return None


def program(*parts: str) -> Path | None:
    """A file of the package pycocoevalcap, which is not imported, or None where it is not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, *parts)).is_file():
            return path
    return None


def runs(*parts: str) -> bool:
    """Whether both Java and this file of pycocoevalcap are there."""
    return program(*parts) is not None and java() is not None


def java_command(*words: str) -> list[str]:
    """The command that runs Java with `words`; call it only where `runs` says so."""
    command = java()
    assert command
    return [command, *_OPTIONS, *words]


def run_java(*words: str, folder: Path | None = None) -> bytes:
    """Run a program to its end, in `folder`, and return what it wrote.

    Raises:
        DiptychError: it failed; the message has the last line that it said.
    """
    done = subprocess.run(java_command(*words), cwd=folder, capture_output=True)
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise DiptychError(f"the Java program {words} failed: {said[-1] if said else 'it said nothing'}")
    return done.stdout
