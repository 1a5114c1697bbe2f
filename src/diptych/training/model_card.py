"""The model card of a trained dual encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diptych.runtime.quoting import code_block, code_span
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.recipe_files import to_yaml


def model_card(
    recipe: ContrastiveRecipe, sizes: dict[str, int], scores: dict[str, float], changes: Sequence[str] = ()
) -> str:
    """A model card in Markdown with the metadata of the Hugging Face Hub: data, recipe and validation recall.

    Args:
        recipe: the settings of the run; they are quoted, so that no value becomes markup.
        sizes: number of images by split, `train` and `val`.
        scores: validation scores, `t2i_r@1` to `i2t_r@10` in percent.
        changes: the settings that were changed when the run was resumed, in words.
    """
    towers = f"{code_span(recipe.image_tower)} and {code_span(recipe.text_tower)}"
    start = code_span(recipe.start) if recipe.start else towers
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{scores[f'{key}_r@{k}']:.1f}" for k in (1, 5, 10)) + " |"
        for name, key in (("text to image", "t2i"), ("image to text", "i2t"))
    )
    resumed = "".join(f"- {code_span(change)}\n" for change in changes)
    resumed = f"\nThe run was resumed with other settings:\n\n{resumed}" if changes else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [diptych, dual-encoder, image-text-retrieval]
---
# Dual encoder for images and texts

It maps images and texts to unit embeddings in a shared space; their cosine similarity measures how well they match.
Trained with [diptych](https://github.com/diptych/diptych) from {start}.

```python
import diptych

model = diptych.load("path/of/this/folder")
```

## Data

{code_span(Path(recipe.data).name or recipe.data)}: {sizes["train"]:,} training images and {sizes["val"]:,} validation
images.

## Evaluation

Recall in percent on the {sizes["val"]:,} validation images (Karpathy protocol). The best epoch was selected on these
images, so expect slightly lower recall on others.

| | R@1 | R@5 | R@10 |
|---|---:|---:|---:|
{rows}

## Recipe

{code_block(to_yaml(recipe).strip(), "yaml")}
{resumed}"""
