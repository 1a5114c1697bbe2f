"""`/v1/embed` under load: requests a second of 1 and of 16 clients, alternated in one run; and of too many clients.

    python benchmarks/serving.py --data flickr8k_originals [--seconds 8] [--rounds 5]

A server process (`diptych serve` with mini) and this one, which asks it, share the machine's cores over the loopback.
Each request is one JPEG of `--data`, a folder of photographs (those of Flickr8k are about 500x375), in a form. A client
asks again as soon as it is answered. Throughputs are medians of the rounds, times are of all requests of a kind; an
answer that is not 200 is lost. Then a server with a queue of 8 has 100 clients: each request must get 200 or 429, and
its memory, sampled each second after a first round, must stay as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

_PICTURES = 400
_FEW, _MANY, _TOO_MANY = 1, 16, 100


@dataclass
class Load:
    """What so many clients saw: seconds of each request that was answered with 200, and answers of each kind."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    answers: Counter = field(default_factory=Counter)

    @property
    def a_second(self) -> float:
        return len(self.times) / self.seconds


@contextmanager
def serving(*flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server that is ready, and its process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "diptych", "serve", "--port", str(port), *flags], stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _is_ready(url):
            if process.poll() is not None:
                sys.exit("the server ended; start `diptych serve` by hand to see why")
            time.sleep(0.2)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def _form(image: bytes) -> dict[str, Any]:
    """A form with one picture, as bytes that can be sent many times."""
    head = b'Content-Disposition: form-data; name="images"; filename="picture.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    content = b"--edge\r\n" + head + image + b"\r\n--edge--\r\n"
    return {"content": content, "headers": {"Content-Type": "multipart/form-data; boundary=edge"}}


async def ask(url: str, images: list[bytes], clients: int, seconds: float) -> Load:
    """So many clients for so long."""
    load, began = Load(), time.perf_counter()
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        # made once: the clients share the cores with the server, and should take little of them
        requests = [client.build_request("POST", f"{url}/v1/embed", **_form(image)) for image in images]

        async def one(first: int) -> None:
            at = first
            while time.perf_counter() < began + seconds:
                start = time.perf_counter()
                answer = await client.send(requests[at % len(requests)])
                load.answers[answer.status_code] += 1
                if answer.status_code == 200:
                    load.times.append(time.perf_counter() - start)
                at += clients

        done = await asyncio.gather(*map(one, range(clients)), return_exceptions=True)
    for fault in filter(None, done):
        load.answers[type(fault).__name__] += 1
    load.seconds = time.perf_counter() - began
    return load


def throughput(images: list[bytes], seconds: float, rounds: int, model: str) -> None:
    """1 client and 16, alternated."""
    with serving("--model", model) as (url, _):
        asyncio.run(ask(url, images, _MANY, seconds / 2))  # warm up
        loads: dict[int, list[Load]] = {_FEW: [], _MANY: []}
        for _ in range(rounds):
            for clients, measured in loads.items():
                measured.append(asyncio.run(ask(url, images, clients, seconds)))
        figures = httpx2.get(f"{url}/metrics", trust_env=False).text
    print(f"{'clients':>8}{'requests/s':>12}{'p50 ms':>9}{'p95 ms':>9}{'answered':>10}{'lost':>6}")
    rates = {}
    for clients, measured in loads.items():
        rates[clients] = statistics.median(load.a_second for load in measured)
        times = sorted(each for load in measured for each in load.times)
        middle, late = (1_000 * times[int(share * (len(times) - 1))] for share in (0.5, 0.95))
        lost = sum(count for load in measured for status, count in load.answers.items() if status != 200)
        print(f"{clients:>8}{rates[clients]:>12.1f}{middle:>9.1f}{late:>9.1f}{len(times):>10,}{lost:>6}")
    print(f"\n{_MANY} clients get {rates[_MANY] / rates[_FEW]:.2f} times the throughput of {_FEW}")
    rows, batches = (_figure(figures, f"diptych_batch_rows_{name}") for name in ("sum", "count"))
    print(f"pictures in a batch, over all: {rows / batches:.1f}")


def _figure(figures: str, name: str) -> float:
    line = next(line for line in figures.splitlines() if line.startswith(f'{name}{{operation="embed_images"}}'))
    return float(line.split()[-1])


def overload(images: list[bytes], seconds: float, model: str) -> None:
    """100 clients at a queue of 8."""
    with serving("--model", model, "--queue", "8") as (url, process):
        asyncio.run(ask(url, images, _TOO_MANY, seconds))
        memory = [process.memory_info().rss / 2**20]
        answers: Counter = Counter()
        for _ in range(3):
            answers += asyncio.run(ask(url, images, _TOO_MANY, seconds)).answers
            memory.append(process.memory_info().rss / 2**20)
    told = ", ".join(f"{status}: {count:,}" for status, count in sorted(answers.items(), key=str))
    print(f"\n{_TOO_MANY} clients at a queue of 8: {told}")
    print(f"memory: {' -> '.join(f'{each:.0f}' for each in memory)} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--model", default="mini", help="a name or directory that diptych.load takes")
    parser.add_argument("--seconds", type=float, default=8, help="of each round")
    parser.add_argument("--rounds", type=int, default=5, help="of each number of clients, alternated")
    arguments = parser.parse_args()
    files = sorted(arguments.data.rglob("*.jpg"))[:_PICTURES]
    if not files:
        sys.exit(f"'{arguments.data}' holds no .jpg; name a folder of photographs")
    images = [file.read_bytes() for file in files]
    size = sum(map(len, images)) / len(images) / 1_000
    print(f"{len(images)} JPEGs of {size:.0f} kB, {os.cpu_count()} cores shared with the clients\n")
    throughput(images, arguments.seconds, arguments.rounds, arguments.model)
    overload(images, arguments.seconds, arguments.model)


if __name__ == "__main__":
    main()
