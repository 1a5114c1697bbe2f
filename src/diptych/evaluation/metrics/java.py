"""Java reference implementations of caption metrics, from the package pycocoevalcap; nothing is downloaded."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from diptych.errors import DiptychError

HOW = "install Java 8 or newer and pip install 'diptych[captions]'"

# UTF-8 input and output whatever the machine's locale.
_OPTIONS = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Djava.awt.headless=true", "-XX:+UseSerialGC")


@functools.cache
def java() -> str | None:
    """The path of a working `java`, or None (macOS has a `java` stub that only prints how to install it)."""
    home = os.environ.get("JAVA_HOME")
    for command in (shutil.which("java", path=str(Path(home, "bin"))) if home else None, shutil.which("java")):
        if command and subprocess.run([command, "-version"], capture_output=True).returncode == 0:
            return command
    return None


def program(*parts: str) -> Path | None:
    """The path of a file of the package pycocoevalcap, which is not imported, or None if it is not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, *parts)).is_file():
            return path
    return None


def runs(*parts: str) -> bool:
    """Whether both Java and this file of pycocoevalcap are installed."""
    return program(*parts) is not None and java() is not None


def java_command(*arguments: str) -> list[str]:
    """The command line of Java with `arguments`; requires that `runs` is true."""
    command = java()
    assert command
    return [command, *_OPTIONS, *arguments]


def run_java(*arguments: str, folder: Path | None = None) -> bytes:
    """Run a Java program in `folder` and return its standard output.

    Raises:
        DiptychError: it failed; the message has its last line of output.
    """
    done = subprocess.run(java_command(*arguments), cwd=folder, capture_output=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise DiptychError(f"the Java program {arguments} failed: {lines[-1] if lines else 'no output'}")
    return done.stdout
