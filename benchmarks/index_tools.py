"""diptych, rclip and clip-retrieval over the same folder of pictures, with the same network.

    python benchmarks/index_tools.py --data flickr8k [--images 1000] [--rounds 3] [--home FOLDER]

The network is rclip's, ViT-B/32 at 256 pixels, with random weights, since speed does not depend on them and no hub is
asked; it is made once, in the form that each tool reads: open_clip's for clip-retrieval, transformers' for diptych,
ONNX for rclip and for diptych's own ONNX Runtime. uv installs the two others into environments of their own. The tools
take turns; every command is a process of its own, and its peak memory that of its largest process; medians of the
rounds. A warm query goes over HTTP to the tool's own server, where it has one. Needs the extras `open-clip`, `export`,
`search` and `api`. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NETWORK = "ViT-B-32-256"
WEIGHTS = "open_clip.safetensors"
QUERY = "a dog runs on the beach"
_WARM = 30
# Runs a command and says, on the last line, how long it took and the most memory that one of its processes held.
_METER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
print(json.dumps([code, time.perf_counter() - began, peak]))
"""


@dataclass
class Tool:
    """What one tool is told to do in a fresh `folder` of its own."""

    name: str
    index: Callable[[Path], list[list[str]]]  # commands, in turn
    query: Callable[[Path], list[str]] | None  # one query, a process of its own
    serve: Callable[[Path, int], list[str]] | None  # a server at that port
    ask: Callable[[int], urllib.request.Request] | None
    kept: Callable[[Path], list[Path]]  # what makes up the index
    environment: Callable[[Path], dict[str, str]]
    cwd: Callable[[Path], Path] = lambda folder: folder


def metered(tool: Tool, folder: Path, command: list[str]) -> tuple[float, float]:
    """(seconds, MB) of a command."""
    done = subprocess.run(
        [sys.executable, "-c", _METER, *command],
        cwd=tool.cwd(folder),
        env={**os.environ, **tool.environment(folder)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    code, seconds, peak = json.loads(done.stdout.splitlines()[-1])
    if code:
        raise SystemExit(f"{tool.name}: {' '.join(command)}\n{done.stderr[-3_000:]}")
    return seconds, peak


@contextmanager
def serving(tool: Tool, folder: Path, port: int) -> Iterator[None]:
    assert tool.serve is not None
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            tool.serve(folder, port),
            cwd=folder,
            env={**os.environ, **tool.environment(folder)},
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            if server.poll() is not None:
                raise SystemExit(f"{tool.name}'s server: {(folder / 'server.log').read_text()[-3_000:]}")
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(120)


def warm_query(tool: Tool, folder: Path) -> float:
    """Milliseconds from a text to its answer over HTTP, the median of many after the first five."""
    assert tool.ask is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seconds = []
    with serving(tool, folder, port):
        for _ in range(_WARM + 5):
            began = time.perf_counter()
            with urllib.request.urlopen(tool.ask(port), timeout=300) as answer:
                found = json.load(answer)
            seconds.append(time.perf_counter() - began)
            assert found, tool.name
    return statistics.median(seconds[5:]) * 1e3


def post(path: str, body: dict[str, object]) -> Callable[[int], urllib.request.Request]:
    return lambda port: urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )


def network(folder: Path) -> None:
    """Random weights: open_clip's, ONNX graphs under rclip's names, transformers' CLIP, and diptych's ONNX of that."""
    import open_clip
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    model = open_clip.create_model(NETWORK).eval()
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    graphs = folder / "rclip" / f"{NETWORK}-datacomp_s34b_b86k"
    graphs.mkdir(parents=True)

    class Side(torch.nn.Module):
        def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.model, self.encode = model, encode

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.encode(batch)

    for name, encode, example in (
        ("visual", model.encode_image, torch.zeros(2, 3, 256, 256)),
        ("textual", model.encode_text, torch.zeros(2, 77, dtype=torch.int64)),
    ):
        torch.onnx.export(
            Side(encode).eval(), (example,), str(graphs / f"{name}.onnx"),
            input_names=["input"], output_names=["output"], dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    (folder / "rclip" / "tokenizer").mkdir()
    vocabulary = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    shutil.copy(vocabulary, folder / "rclip" / "tokenizer")
    tokens = open_clip.tokenizer.SimpleTokenizer()
    marks = {"bos_token": "<start_of_text>", **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<end_of_text>")}
    tokenizer = CLIPTokenizer(vocab=tokens.encoder, merges=list(tokens.bpe_ranks), model_max_length=77, **marks)
    ids = {
        "bos_token_id": tokens.sot_token_id,
        "eos_token_id": tokens.eot_token_id,
        "pad_token_id": tokens.eot_token_id,
    }
    CLIPModel(CLIPConfig(text_config=ids, vision_config={"image_size": 256})).save_pretrained(folder / "diptych")
    images = CLIPImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 256, "width": 256})
    CLIPProcessor(images, tokenizer).save_pretrained(folder / "diptych")
    export = ["export", "onnx", str(folder / "diptych"), "--out", str(folder / "diptych-onnx")]
    subprocess.run([sys.executable, "-m", "diptych", *export], check=True, stdout=sys.stderr)


def tools(home: Path, images: Path) -> list[Tool]:
    rclip, retrieval = (
        installed(home, "rclip", "rclip"),
        installed(home, "clip-retrieval", "clip-retrieval", "setuptools<81"),
    )
    weights = home / "network" / WEIGHTS
    clip = f"open_clip:{NETWORK}/{weights}"

    def diptych(name: str, model: Path) -> Tool:
        run = [sys.executable, "-m", "diptych"]
        return Tool(
            name,
            lambda folder: [[*run, "index", str(images), "--index", str(folder / "index"), "--model", str(model)]],
            lambda folder: [*run, "search", QUERY, "--index", str(folder / "index"), "--nearest", "--paths"],
            lambda folder, port: [
                *[*run, "serve", "--index", str(folder / "index"), "--model", str(model), "--port", str(port)],
            ],
            post("/v1/search", {"texts": [QUERY], "keep": None}),
            lambda folder: [folder / "index"],
            lambda folder: {"DIPTYCH_CACHE": str(folder / "cache")},
        )

    def data(folder: Path) -> Path:
        """rclip's data folder: the network beside its database."""
        made = folder / "data"
        if not made.exists():
            made.mkdir()
            for part in (home / "network" / "rclip").iterdir():
                (made / part.name).symlink_to(part.resolve())
        return made

    def retrieved(folder: Path) -> list[list[str]]:
        (folder / "indices.json").write_text(json.dumps({"pictures": str(folder / "index")}))
        embed = [
            "inference",
            f"--input_dataset={images}",
            f"--output_folder={folder / 'out'}",
            f"--clip_model={clip}",
        ]
        index = ["index", f"--embeddings_folder={folder / 'out'}", f"--index_folder={folder / 'index'}"]
        return [[retrieval, *embed, "--enable_text=False"], [retrieval, *index]]

    return [
        diptych("diptych, torch", home / "network" / "diptych"),
        diptych("diptych, ONNX Runtime", home / "network" / "diptych-onnx"),
        Tool(
            "rclip (ONNX Runtime)",
            lambda folder: [[rclip, "--filepath-only", QUERY]],
            lambda folder: [rclip, "--filepath-only", "--no-indexing", QUERY],
            None,
            None,
            lambda folder: [*data(folder).glob("*.sqlite*"), *data(folder).glob("*.db*")],
            lambda folder: {"RCLIP_DATADIR": str(data(folder))},
            lambda folder: images,
        ),
        Tool(
            "clip-retrieval (torch)",
            retrieved,
            None,
            lambda folder, port: [
                *[retrieval, "back", f"--indices_paths={folder / 'indices.json'}", f"--port={port}"],
                *[f"--clip_model={clip}", "--use_jit=False", "--enable_mclip_option=False"],
                "--provide_aesthetic_embeddings=False",
            ],
            post("/knn-service", {"text": QUERY, "modality": "image", "num_images": 20, "indice_name": "pictures"}),
            lambda folder: [folder / "out", folder / "index"],
            lambda folder: {"HF_HUB_OFFLINE": "1"},
        ),
    ]


def installed(home: Path, name: str, *packages: str) -> str:
    """Path of the program `name`, from the newest of its packages."""
    environment = home / name
    if (environment / "bin" / name).exists():
        return str(environment / "bin" / name)
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *packages], check=True)
    return str(environment / "bin" / name)


def size(paths: list[Path]) -> float:
    """MB on disk."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def measure(tool: Tool, folder: Path) -> dict[str, float]:
    folder.mkdir()
    indexing = [metered(tool, folder, command) for command in tool.index(folder)]
    figures = {
        "index": sum(seconds for seconds, _ in indexing),
        "peak": max(peak for _, peak in indexing),
        "disk": size(tool.kept(folder)),
    }
    if tool.query:
        figures["query"] = metered(tool, folder, tool.query(folder))[0]
    if tool.serve:
        figures["warm"] = warm_query(tool, folder)
    return figures


def report(rounds: dict[str, list[dict[str, float]]], count: int) -> None:
    def median(name: str, figure: str) -> float | None:
        values = [each[figure] for each in rounds[name] if figure in each]
        return statistics.median(values) if values else None

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    baseline = median("rclip (ONNX Runtime)", "index") or 1.0
    print(
        "| tool | pictures a second | to rclip | one query, a process, s | warm query over HTTP, ms "
        "| peak memory, MB | index, MB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in rounds:
        seconds = median(name, "index") or 1.0
        print(
            f"| {name} | {count / seconds:.1f} | {baseline / seconds:.2f} | {cell(median(name, 'query'), '.1f')} "
            f"| {cell(median(name, 'warm'), '.0f')} | {cell(median(name, 'peak'), ',.0f')} "
            f"| {cell(median(name, 'disk'), '.1f')} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, help="keep the network and the environments here, and use them again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diptych-tools-") as folder:
        home, images = arguments.home or Path(folder), Path(folder) / "pictures"
        images.mkdir()
        source = arguments.data / "images" if (arguments.data / "images").is_dir() else arguments.data
        for path in sorted(source.glob("*.jpg"))[: arguments.images]:
            shutil.copy(path, images)
        if not (home / "network").exists():
            network(home / "making")
            (home / "making").rename(home / "network")
        found = tools(home, images)
        rounds: dict[str, list[dict[str, float]]] = {tool.name: [] for tool in found}
        for turn in range(arguments.rounds):
            for number, tool in enumerate(found):
                run = Path(folder) / f"run-{turn}-{number}"
                rounds[tool.name].append(measure(tool, run))
                print(tool.name, rounds[tool.name][-1], file=sys.stderr, flush=True)
                shutil.rmtree(run)
        count = len(list(images.iterdir()))
    print(f"{count:,} pictures, {NETWORK} with random weights; {os.cpu_count()} cores, {arguments.rounds} rounds\n")
    report(rounds, count)


if __name__ == "__main__":
    main()
