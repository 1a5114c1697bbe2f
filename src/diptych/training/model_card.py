"""The model card that is written beside a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.runtime.quoting import code_block, code_span
from diptych.training.settings import to_yaml


def model_card(recipe: Any, pictures: dict[str, int], scores: dict[str, float]) -> str:
    """A model card in Markdown, with the metadata that the Hugging Face hub reads: data, recipe, measured recall."""
    towers = f"{code_span(recipe.image_tower)} and {code_span(recipe.text_tower)}"
    start = code_span(recipe.start) if recipe.start else towers
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{scores[f'{key}_r@{k}']:.1f}" for k in (1, 5, 10)) + " |"
        for name, key in (("text to image", "t2i"), ("image to text", "i2t"))
    )
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [diptych, dual-encoder, image-text-retrieval]
---
# A dual encoder for pictures and texts

Pictures and texts become unit vectors of one space; their cosine says how well they match. Trained with
[diptych](https://github.com/diptych/diptych) from {start}.

```python
import diptych

model = diptych.load("path/of/this/folder")
```

## Data

{code_span(Path(recipe.data).name or recipe.data)}: {pictures["train"]:,} pictures to train on, {pictures["val"]:,} to
choose the best epoch by.

## Measured

Recall in percent on the {pictures["val"]:,} validation pictures, by the Karpathy protocol. The best epoch was chosen
on them, so expect a little less elsewhere.

| | R@1 | R@5 | R@10 |
|---|---:|---:|---:|
{rows}

## Recipe

{code_block(to_yaml(recipe).strip(), "yaml")}
"""
