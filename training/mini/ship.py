"""Copy a trained model into the package, in half precision: `python training/mini/ship.py runs/mini/mini`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from diptych.models import dual_encoder
from diptych.models.checkpoints import BUNDLED, METADATA
from diptych.models.dual_encoder import DualEncoder
from diptych.runtime.atomic import replaced_folder


def ship(source: Path, target: Path) -> None:
    """Write the model at `source` to `target` with float16 weights, which are converted to float32 when loaded."""
    model = dual_encoder.load(source, device="cpu")
    metadata = json.loads((source / METADATA).read_text("utf-8"))
    with replaced_folder(target, lambda folder: (folder / METADATA).is_file()) as folder:
        _write(model, metadata, folder)


def _write(model: DualEncoder, metadata: dict[str, Any], folder: Path) -> None:
    model.save(folder, metadata)
    for file in folder.rglob("*.safetensors"):
        weights = {name: t.half() if t.is_floating_point() else t for name, t in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text("utf-8"))
        if "architectures" in config or "architecture" in config:  # of a tower: load its weights as float32
            file.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of the model")
    target = BUNDLED / "mini"
    ship(parser.parse_args().source, target)
    shutil.copy(Path(__file__).with_name("METADATA.md"), target / "README.md")
    megabytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    print(f"{target}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
