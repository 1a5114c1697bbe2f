"""What the prompt recipe trains: head and tower, batches and the loss, put together as the training loop wants them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from diptych.data.pairs import Pairs, Row
from diptych.errors import ModelError
from diptych.evaluation.metrics.similarity import similarity_metrics
from diptych.images.augment import augmentation, sides_key
from diptych.models import dual_encoder as dual
from diptych.models import towers
from diptych.prompting.features import PictureFeatures
from diptych.prompting.prompter import Prompter, PromptHead
from diptych.prompting.text_space import load_text_space
from diptych.runtime.atomic import new_file
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress
from diptych.training.batches import Epochs, view
from diptych.training.objectives import cosine_loss, info_nce
from diptych.training.prompt.config import PromptRecipe
from diptych.training.trainer import Task, read_weights

BEST = "best.safetensors"
_MEASURED = 1024  # pictures from which the spread of a live tower's features is taken
_BATCH = 32


def new_prompter(recipe: PromptRecipe) -> Prompter:
    """A prompter that is yet to be trained: its image side, the text encoder, and a new head between them."""
    torch.manual_seed(recipe.seed)
    if recipe.model:
        pictures = PictureFeatures.of_encoder(dual.load(recipe.model, recipe.device))
    else:
        pictures = PictureFeatures.of_tower(_tower(recipe), recipe.device)
    space = load_text_space(recipe.text_encoder, recipe.device)
    settings: dict[str, Any] = {
        "width": pictures.width,
        "dim": space.dim,
        "hidden": recipe.hidden,
        "dropout": recipe.dropout,
    }
    return Prompter(pictures, PromptHead(**settings), name=recipe.out, space=lambda: space, settings=settings)


def _tower(recipe: PromptRecipe) -> list[Module]:
    try:
        return towers.image_tower(
            recipe.image_tower,
            pretrained=recipe.pretrained,
            image_size=recipe.image_size,
            arguments=recipe.image_arguments or None,
        )
    except ModelError as error:
        raise ModelError(f"{error}. Without a network, set model to mini, which is in the box") from error


def prompt_task(recipe: PromptRecipe, prompter: Prompter, train: Pairs, val: Pairs, progress: Progress) -> Task:
    """Train the prompter on the training part; its best weights go to `recipe.out`."""
    epochs = Epochs(train, recipe.batch_size, recipe.seed)
    captions = prompter.space.vectors(epochs.captions, progress=progress, label="embedding the prompts")
    known, owner = val.flat_captions()
    truth = prompter.space.vectors(known, progress=progress, label="embedding the prompts to validate by")
    means = _means(captions, train.flat_captions()[1], len(train))
    pictures = (_LivePictures if recipe.train_tower else _StoredPictures)(recipe, prompter, train, val, progress)
    device = prompter.pictures.device

    def prepare(batch: tuple[int, np.ndarray, np.ndarray]) -> tuple[Any, Tensor, Tensor, Tensor]:
        epoch, rows, chosen = batch
        targets = means[rows] if recipe.target == "mean" else captions[chosen]
        return pictures.load(epoch, rows), torch.from_numpy(targets), torch.from_numpy(rows), epochs.caption_ids(chosen)

    def backward(batch: tuple[Any, Tensor, Tensor, Tensor]) -> Tensor:
        inputs, *known = batch
        targets, image_ids, caption_ids = (value.to(device) for value in known)
        predicted = prompter.head(pictures.features(inputs))  # (batch, dim)
        loss = cosine_loss(predicted, targets)
        if recipe.contrast:
            ids: dict[str, Any] = {
                "image_ids": image_ids,
                "caption_ids": caption_ids if recipe.target == "each" else None,
            }
            loss = loss + recipe.contrast * info_nce(predicted, targets, logit_scale=recipe.contrast_scale, **ids)
        loss.backward()
        return loss.detach()

    def validate() -> dict[str, float]:
        scores = similarity_metrics(prompter.predict_features(pictures.validation()), truth, owner)
        return {"cosine": 100 * scores.mean, "median_rank": scores.median_rank, "first_rank": scores.median_first_rank}

    module = trained_module(prompter, recipe)
    groups = [{"params": list(prompter.head.parameters()), "lr": recipe.lr}]
    if recipe.train_tower:
        groups.append({"params": list(prompter.pictures.model.parameters()), "lr": recipe.lr_tower})
    return Task(
        module=module,
        groups=groups,
        steps_per_epoch=epochs.steps,
        batches=lambda epoch, first: prefetch(epochs(epoch, first), prepare, recipe.workers),
        backward=backward,
        validate=validate,
        save=lambda scores: _save(module, Path(recipe.out) / BEST),
        set_mode=partial(_set_mode, recipe, prompter),
    )


def trained_module(prompter: Prompter, recipe: PromptRecipe) -> nn.ModuleDict:
    """What is trained: the head, and the image tower where the recipe says so."""
    tower = {"tower": prompter.pictures.model} if recipe.train_tower else {}
    return nn.ModuleDict({"head": prompter.head, **tower})


def load_best(prompter: Prompter, recipe: PromptRecipe, path: Path) -> None:
    """Give the prompter the weights that validated best."""
    trained_module(prompter, recipe).load_state_dict(read_weights(path))
    prompter.head.eval()
    prompter.pictures.model.eval()


class _StoredPictures:
    """Features of the pictures as a frozen tower gave them once, view by view."""

    def __init__(self, recipe: PromptRecipe, prompter: Prompter, train: Pairs, val: Pairs, progress: Progress) -> None:
        def augmented(row: Row, number: int) -> Any:
            size = prompter.pictures.image_size or 224
            return view(row, augmentation(recipe.augment), size, recipe.seed, number)

        views = recipe.views if recipe.augment != "none" else 1
        stored = prompter.pictures.stored
        sides = sides_key(train.values("captions"))  # pictures whose captions speak of one are not mirrored
        name = f"{recipe.augment}-{recipe.seed}-{sides}" if views > 1 else "clean"
        self.train = stored(train, views=views, view=augmented, name=name, progress=progress)
        self.val = stored(val, progress=progress)[:, 0]
        self.device = prompter.pictures.device
        prompter.head.fit(self.train[:, 0])

    def load(self, epoch: int, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.train[rows, epoch % self.train.shape[1]].astype(np.float32))

    def features(self, loaded: Tensor) -> Tensor:
        return loaded.to(self.device)

    def validation(self) -> np.ndarray:
        return self.val


class _LivePictures:
    """Pictures decoded, augmented and passed through their tower at every step."""

    def __init__(self, recipe: PromptRecipe, prompter: Prompter, train: Pairs, val: Pairs, progress: Progress) -> None:
        self.recipe, self.pictures, self.train, self.val = recipe, prompter.pictures, train, val
        self.change = augmentation(recipe.augment)
        some = range(0, len(train), max(1, len(train) // _MEASURED))
        prompter.head.fit(self._encoded(train.select(some)))

    def load(self, epoch: int, rows: np.ndarray) -> dict[str, Any]:
        size = self.pictures.image_size or 224
        views = [view(self.train[int(row)], self.change, size, self.recipe.seed, epoch) for row in rows]
        return self.pictures.preprocess(views)

    def features(self, loaded: dict[str, Any]) -> Tensor:
        return self.pictures.forward(loaded)

    def validation(self) -> np.ndarray:
        return self._encoded(self.val)

    def _encoded(self, pairs: Pairs) -> np.ndarray:
        batches = (pairs[at : at + _BATCH] for at in range(0, len(pairs), _BATCH))
        size = self.pictures.image_size or 224
        return np.concatenate(
            [self.pictures.encode([view(row, None, size, 0, 0) for row in batch], _BATCH) for batch in batches]
        )


def _means(vectors: np.ndarray, owner: np.ndarray, pictures: int) -> np.ndarray:
    """The mean of each picture's prompt vectors, made a unit vector: (pictures, dim)."""
    sums = np.zeros((pictures, vectors.shape[1]), np.float32)
    np.add.at(sums, owner, vectors)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)


def _save(module: nn.Module, path: Path) -> None:
    with new_file(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, temporary)


def _set_mode(recipe: PromptRecipe, prompter: Prompter, training: bool) -> None:
    """Training mode for what learns; BatchNorm keeps the statistics of a pretrained tower."""
    prompter.head.train(training)
    prompter.pictures.model.train(training and recipe.train_tower)
    if recipe.pretrained:
        for layer in prompter.pictures.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
