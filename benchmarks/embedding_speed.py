"""Pictures a second: a model's image tower beside CLIP ViT-B/32 (random weights), alternated in one run, medians.

    python benchmarks/embedding_speed.py --model mini
    python benchmarks/embedding_speed.py --model mini --threads 1 --batch 16

Each takes the same decoded photographs, so what is timed is preprocessing and the forward pass, apart and together, on
the CPUs at hand; decoding is timed on its own, since an index pays for it too. Needs the extra `samples`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diptych.data.samples.library import photographs
from diptych.images.decode import decode
from diptych.models.dual_encoder import load

Prepare = Callable[[Sequence[Image.Image]], Any]


def ours(name: str) -> tuple[Prepare, Callable[[Any], Any], int]:
    model = load(name, "cpu")
    parameters = sum(weight.numel() for weight in model.tower_parameters("image").values())
    return model.preprocess_images, model.embed, parameters


def vit_b_32() -> tuple[Prepare, Callable[[Any], Any], int]:
    """transformers' own CLIP image tower and preprocessing, in the sizes of openai/clip-vit-base-patch32."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    network = CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=32, image_size=224)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})

    def prepare(images: Sequence[Image.Image]) -> torch.Tensor:
        return processor(list(images), return_tensors="pt")["pixel_values"]

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return network(pixel_values=pixels).image_embeds

    return prepare, forward, sum(weight.numel() for weight in network.parameters())


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    outcome = work()
    return time.perf_counter() - began, outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="a name or directory that diptych.load takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads")
    parser.add_argument("--batch", type=int, default=32, help="pictures in a batch")
    parser.add_argument("--rounds", type=int, default=15, help="batches of each, alternated")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    with tempfile.TemporaryDirectory() as folder:
        files = [row.image for row in photographs(Path(folder))]
        decoding = [seconds(lambda: [decode(file, min_side=224) for file in files])[0] for _ in range(5)]
        images = [decode(file) for file in files]
    batch = [images[at % len(images)] for at in range(arguments.batch)]

    models = {arguments.model: ours(arguments.model), "ViT-B/32 (random weights)": vit_b_32()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    with torch.inference_mode():
        for prepare, forward, _ in models.values():
            forward(prepare(batch))  # warm up
        for _ in range(arguments.rounds):
            for name, (prepare, forward, _) in models.items():
                preparing, prepared = seconds(lambda prepare=prepare: prepare(batch))
                forwarding, _ = seconds(lambda forward=forward, prepared=prepared: forward(prepared))
                times[name].append((preparing, forwarding))

    print(f"{arguments.threads} threads, batches of {arguments.batch}, medians of {arguments.rounds} alternated rounds")
    print(f"decoding alone: {len(files) / statistics.median(decoding):.0f} photographs/s in one thread\n")
    columns = ("preprocess/s", "forward/s", "together/s")
    print(f"{'image tower':<28}{'parameters':>12}" + "".join(f"{column:>14}" for column in columns))
    together = {}
    for name, rounds in times.items():
        spans = [statistics.median(values) for values in zip(*((p, f, p + f) for p, f in rounds), strict=True)]
        rates = [arguments.batch / span for span in spans]
        together[name] = rates[2]
        size = f"{models[name][2] / 1e6:.1f} M"
        print(f"{name[-26:]:<28}{size:>12}" + "".join(f"{rate:>14.1f}" for rate in rates))
    first, second = together.values()
    print(f"\n{arguments.model} is {first / second:.2f} times as fast as ViT-B/32")


if __name__ == "__main__":
    main()
