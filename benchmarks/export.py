"""Exported towers against torch: parity on pictures, size, and pictures and texts a second, alternated, medians.

    python benchmarks/export.py --data flickr8k
    python benchmarks/export.py --data flickr8k --models mini --threads 1

`mini`, and CLIP ViT-B/32 with random weights (its speed is a trained one's, its int8 parity is not), each in ONNX
Runtime and OpenVINO, in fp32 and int8. Int8 is calibrated on every second of 128 training pictures and checked on the
others. What is timed is the network alone: preprocessing is the same for all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.export.exporter import Export, export_model
from diptych.export.parity import Tolerance, preprocess
from diptych.images.decode import decode
from diptych.models.dual_encoder import DualEncoder, load

FORMS = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8")]
ANY = Tolerance(min_cosine=-1, mean_cosine=-1, largest_difference=2)  # here parity is told, whatever it is
BATCH = {"image": 16, "text": 32}


def vit_b_32(folder: Path) -> Path:
    """CLIP in the sizes of openai/clip-vit-base-patch32, random weights, byte-level tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: at for at, word in enumerate(words)}, merges=[], model_max_length=77)
    ids = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config={**ids, "vocab_size": 49408})).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


def rates(models: dict[str, DualEncoder], modality: str, inputs: list, rounds: int) -> dict[str, float]:
    """Inputs a second of each model, in turn."""
    features = preprocess(next(iter(models.values())), modality, inputs)
    spans: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, model in models.items():
                began = time.perf_counter()
                model.embed(dict(features))
                if turn:  # the first warms up
                    spans[name].append(time.perf_counter() - began)
    return {name: len(inputs) / statistics.median(times) for name, times in spans.items()}


def table(title: str, source: str | Path, data: Pairs, folder: Path, rounds: int) -> None:
    exports: dict[str, Export] = {}
    models = {"torch": load(source, "cpu")}
    for engine, precision in FORMS:
        name = f"{engine} {precision}"
        exports[name] = export_model(
            source, folder / name.replace(" ", "-"), data=data, engine=engine, precision=precision, tolerance=ANY
        )
        models[name] = load(exports[name].out, "cpu")
    size = models["torch"].image_size
    inputs = {
        "image": [decode(data[at % len(data)].image, min_side=size) for at in range(BATCH["image"])],
        "text": [data[at % len(data)].captions[0] for at in range(BATCH["text"])],
    }
    print(f"\n{title}\n{'':<16}{'tower':<7}{'MB':>7}{'least cos':>11}{'mean cos':>10}{'max diff':>10}{'a second':>10}")
    for at, modality in enumerate(BATCH):
        found = rates(models, modality, inputs[modality], rounds)
        weights = sum(
            w.numel() * w.element_size() for module in models["torch"].route(modality) for w in module.parameters()
        )
        print(f"{'torch':<16}{modality:<7}{weights / 1e6:>7.1f}{'':>31}{found['torch']:>10.1f}")
        for name, export in exports.items():
            tower = export.graphs[at]
            megabytes = sum(file.stat().st_size for file in export.out.glob(f"{modality}_*/graph.*")) / 1e6
            figures = f"{tower.min_cosine:>11.5f}{tower.mean_cosine:>10.5f}{tower.largest_difference:>10.1e}"
            ratio = f"{found[name] / found['torch']:.2f} times"
            print(f"{name:<16}{modality:<7}{megabytes:>7.1f}{figures}{found[name]:>10.1f}{ratio:>12}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="captioned pictures")
    parser.add_argument("--models", nargs="+", default=["mini", "vit-b-32"], help="names that diptych.load takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of every engine")
    parser.add_argument("--rounds", type=int, default=9, help="batches of each, alternated")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = read_pairs(arguments.data)
    data = data.split("train" if "train" in data.split_sizes else "all")[:128]  # they calibrate: not for measuring
    print(f"{arguments.threads} threads, medians of {arguments.rounds} alternated rounds, {len(data)} pictures")
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models:
            folder = Path(scratch) / name.replace("/", "-")
            folder.mkdir()
            if name == "vit-b-32":
                table("CLIP ViT-B/32, random weights", vit_b_32(folder / "torch"), data, folder, arguments.rounds)
            else:
                table(name, name, data, folder, arguments.rounds)


if __name__ == "__main__":
    main()
