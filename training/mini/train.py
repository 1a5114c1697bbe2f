"""Train `mini`, the bundled dual encoder: `python training/mini/train.py --data PATH/flickr8k`.

EfficientNet-Lite0 (ImageNet) and a small MiniLM. The first phase trains heads and text tower on stored image features.
The next phases also fine-tune the later blocks of the image tower: three times, each distilled from the models before
it. The shipped weights are the mean of the three models. All choices are made on a validation split that a hash holds
out of Flickr8k's training split. With the same `--out`, an interrupted run is resumed. README.md has the measurements.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from class_prototypes import ClassPrototypes
from numpy.typing import NDArray
from small_text_tower import small_text_tower
from teachers import DistillationTeacher, classifier, classifier_loss
from torch import Tensor, nn
from training_data import TrainingData, class_names, split

from diptych.cli.show import progress
from diptych.data.formats.read import read_pairs
from diptych.evaluation.evaluators import RetrievalEvaluator
from diptych.images.augment import augmentation
from diptych.models import builder, dual_encoder
from diptych.models.bundled import PYPI_TEXT_TOWERS
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.models.two_towers import MODALITIES
from diptych.runtime.atomic import new_folder
from diptych.runtime.background import prefetch
from diptych.training.batches import PairBatch, PairSampler, load_view, store_image_features
from diptych.training.contrastive.task import LogitScale
from diptych.training.objectives import false_negative_mask
from diptych.training.run_settings import RunSettings
from diptych.training.trainer import ParameterGroup, Task, Trainer, freeze_batch_norm

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}", "there is a {} in the picture")


@dataclass
class Settings:
    """The settings of a phase; a learning rate of 0 freezes."""

    epochs: int
    lr_head: float
    lr_text: float
    lr_image: float = 0.0
    batch_size: int = 128
    size: int = 176  # of training images in pixels; crops magnify objects, so that the full 224 is right in inference
    classes: int = 48  # class prototypes per batch
    words: int = 32  # common words per batch, for the agreement with MiniLM
    feature_dropout: float = 0.4
    minilm_weight: float = 2.0
    classifier_weight: float = 0.1
    distillation_weight: float = 0.0
    seed: int = 0


WARM_UP = Settings(epochs=7, lr_head=1e-3, lr_text=2e-4, batch_size=128)
FINE_TUNE = Settings(epochs=10, lr_head=1e-3, lr_text=2e-4, lr_image=3e-4, feature_dropout=0.2)
TAUGHT = replace(FINE_TUNE, epochs=12, distillation_weight=1.0, classifier_weight=0.2, seed=1)
BROAD = replace(TAUGHT, epochs=10, classes=128, seed=2)  # better on ImageNet classes, worse on Flickr8k
TEACHER = {"fine_tune": 0.3, "taught": 0.7}  # weights of the phases in the mean
SHIPPED = {"fine_tune": 0.15, "taught": 0.35, "broad": 0.5}
AUGMENT = "light"
TRAINED = tuple(f"image.{part}" for part in ("blocks.3", "blocks.4", "blocks.5", "blocks.6", "conv_head", "bn2"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of Flickr8k")
    parser.add_argument("--out", type=Path, default=Path("runs/mini"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    train_pairs, val_pairs = split(read_pairs(arguments.data))
    print(f"{len(train_pairs)} training images, {len(val_pairs)} validation images", flush=True)
    data = TrainingData(train_pairs, val_pairs, out)
    warm = fit(data, build(out), WARM_UP, out / "warm_up")
    teacher = fit(data, warm, FINE_TUNE, out / "fine_tune")
    fit(data, dual_encoder.load(out / "warm_up"), TAUGHT, out / "taught", teacher)
    teacher = mean_of(TEACHER, data, out, "teacher")
    fit(data, dual_encoder.load(out / "warm_up"), BROAD, out / "broad", teacher)
    mean_of(SHIPPED, data, out, "mini")


def fit(
    data: TrainingData, model: DualEncoder, settings: Settings, folder: Path, teacher: DualEncoder | None = None
) -> DualEncoder:
    """Train a phase unless it is done, and load its best model."""
    if not (folder / "done").exists():
        distillation = DistillationTeacher(teacher, data.train) if teacher else None
        schedule = RunSettings(epochs=settings.epochs, warmup=0.05, weight_decay=0.1, ema=0.995, save_steps=50)
        phase = PhaseTraining(data, model, settings, folder, distillation)
        outcome = Trainer(phase.task(), schedule, folder, progress).fit(resume=True)
        print(f"{folder.name}: validation rsum {outcome.best['rsum']:.1f}", flush=True)
        (folder / "done").touch()
    return dual_encoder.load(folder / "model")


def mean_of(shares: dict[str, float], data: TrainingData, out: Path, name: str) -> DualEncoder:
    """Save the weighted mean of models that were fine-tuned from the same weights (Wortsman et al. 2022)."""
    states = [(share, dual_encoder.load(out / phase).model.state_dict()) for phase, share in shares.items()]
    model = dual_encoder.load(out / list(shares)[-1])
    mean = {
        key: sum(share * state[key] for share, state in states) if value.is_floating_point() else value
        for key, value in model.model.state_dict().items()
    }
    model.model.load_state_dict(mean)
    images = dataset_image_embeddings(model, data.val, cache=False)
    scores = RetrievalEvaluator(data.val)(images, model.encode_texts(data.val.flat_captions()[0])).to_dict()
    model.save(out / name, {"training": {"mean of weights": shares}, "validation": scores})
    print(f"{name}: validation rsum {scores['rsum']:.1f}", flush=True)
    return model


def build(out: Path) -> DualEncoder:
    """The pretrained towers with new heads."""
    tower = out / "text_tower"
    if not tower.exists():
        source = Path(PYPI_TEXT_TOWERS["pypi/all-minilm-l6-v2"]())
        with new_folder(tower) as folder:
            small_text_tower(source, folder, class_names(), layers=(0, 1, 3, 5), tokens=9500, positions=64)
    torch.manual_seed(0)
    return builder.build(
        "pypi/efficientnet-lite0", str(tower), projection="mlp", dim=256, dropout=0.3, image_size=224, crop="squash"
    )


@dataclass
class Batch:
    """A loaded batch. Its texts are captions, then class names, then phrases."""

    rows: NDArray[np.int64]
    texts: NDArray[np.int64]  # indices of `TrainingData.texts`
    pixels: Tensor | None  # None while the image tower is frozen
    features: Tensor | None  # (images, width) stored features; None while the image tower is trained
    original: Tensor  # (images, width) features without augmentation, of the tower at the start of the phase
    prototypes: Tensor  # (classes, width)
    classes: NDArray[np.int64]
    tokens: list[dict[str, Tensor]]  # the texts by length in a few chunks: less padding, half the time
    places: NDArray[np.int64]  # the position of each text among them
    caption_ids: Tensor


class PhaseTraining:
    """The training task of a phase."""

    def __init__(
        self,
        data: TrainingData,
        model: DualEncoder,
        settings: Settings,
        folder: Path,
        distillation: DistillationTeacher | None,
    ) -> None:
        self.data, self.model, self.settings, self.folder = data, model, settings, folder
        self.distillation = distillation
        self.sampler = PairSampler(data.train, settings.batch_size, settings.seed)
        # Of the tower at the start of the phase: the original image and one augmented view.
        self.stored = store_image_features(
            model, data.train, data.val, augment=AUGMENT, views=2, seed=0, progress=progress
        )
        self.prototypes = ClassPrototypes(*classifier(), self.stored.train[:, 0])
        self.scale = LogitScale(20.0, 0.0)
        self.evaluator = RetrievalEvaluator(data.val)
        self.augment = augmentation(AUGMENT)

    def task(self) -> Task:
        self.scale.bias.requires_grad_(False)
        heads = [p for modality in MODALITIES for module in self.model.head(modality) for p in module.parameters()]
        groups: list[ParameterGroup] = [
            {"params": self._trained_image_weights(), "lr": self.settings.lr_image},
            {"params": [*self.model.tower_parameters("text").values()], "lr": self.settings.lr_text},
            {"params": heads, "lr": self.settings.lr_head},
            {"params": [self.scale.log_scale], "lr": self.settings.lr_head},
        ]
        return Task(
            module=nn.ModuleDict({"model": self.model.model, "scale": self.scale}),
            groups=[group for group in groups if group["params"]],
            steps_per_epoch=self.sampler.steps,
            batches=lambda epoch, first: prefetch(self.sampler(epoch, first), self.load, 1, 2),
            backward=self.backward,
            validate=self.validate,
            save=self.save,
            set_mode=self.set_mode,
        )

    def _trained_image_weights(self) -> list[nn.Parameter]:
        weights = self.model.tower_parameters("image")
        for name, weight in weights.items():
            weight.requires_grad_(self.settings.lr_image > 0 and name.startswith(TRAINED))
        return [weight for weight in weights.values() if weight.requires_grad]

    def load(self, batch: PairBatch) -> Batch:
        epoch, rows, captions = batch
        data, settings = self.data, self.settings
        random = np.random.default_rng([epoch, *rows[:4]])
        prototypes, classes = self.prototypes.draw(settings.classes, random)
        phrases = data.first_phrase + random.choice(len(data.texts) - data.first_phrase, settings.words, replace=False)
        names = [TEMPLATES[random.integers(len(TEMPLATES))].format(data.classes[index]) for index in classes]
        texts = [*(data.texts[index] for index in captions), *names, *(data.texts[index] for index in phrases)]
        by_length = np.argsort([len(text) for text in texts], kind="stable")
        live = settings.lr_image > 0
        stored = torch.from_numpy(self.stored.train[rows, epoch % 2].astype(np.float32))
        return Batch(
            rows=rows,
            texts=np.concatenate([captions, data.first_class + classes, phrases]),
            pixels=self._pixels(rows, epoch) if live else None,
            features=None if live else stored,
            original=torch.from_numpy(self.stored.train[rows, 0].astype(np.float32)),
            prototypes=prototypes,
            classes=classes,
            tokens=[
                self.model.preprocess_texts(texts[index] for index in part) for part in np.array_split(by_length, 4)
            ],
            places=np.argsort(by_length),
            caption_ids=self.sampler.caption_ids(captions),
        )

    def _pixels(self, rows: NDArray[np.int64], epoch: int) -> Tensor:
        views = [
            load_view(self.data.train[int(row)], self.augment, self.settings.size, self.settings.seed, epoch)
            for row in rows
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in views])).permute(0, 3, 1, 2)
        return pixels.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)

    def backward(self, batch: Batch) -> Tensor:
        settings = self.settings
        if batch.pixels is not None:
            features = run(self.model.tower("image"), {"pixel_values": batch.pixels, "modality": "image"})
            forgetting = classifier_loss(self.prototypes, features, batch.original)
        else:
            features, forgetting = batch.features, torch.zeros(())
        features = F.dropout(torch.cat([features, batch.prototypes]), settings.feature_dropout)
        images = run(self.model.head("image"), {"sentence_embedding": features})  # (images + classes, dim)
        chunks = [run(self.model.tower("text"), tokens) for tokens in batch.tokens]
        text_features = torch.cat(chunks)[batch.places]  # (images + classes + phrases, 384)
        texts = run(self.model.head("text"), {"sentence_embedding": text_features[: len(images)]})
        images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
        loss = self._info_nce(images, texts, batch)
        if self.distillation:
            count = len(batch.rows)
            distilled = self.distillation.loss(images[:count], texts[:count], batch.rows, batch.texts[:count])
            loss = loss + settings.distillation_weight * distilled
        target = torch.from_numpy(self.data.embeddings[batch.texts])
        minilm = 1 - F.cosine_similarity(text_features, target, dim=1).mean()
        total = loss + settings.minilm_weight * minilm + settings.classifier_weight * forgetting
        total.backward()
        return loss.detach()

    def _info_nce(self, images: Tensor, texts: Tensor, batch: Batch) -> Tensor:
        """InfoNCE over images and prototypes; an image and a class similar to its captions are not negatives."""
        logits = self.scale() * images @ texts.T
        count = len(batch.rows)
        ignored = torch.zeros(logits.shape, dtype=torch.bool)
        ignored[:count, :count] = false_negative_mask(torch.from_numpy(batch.rows), batch.caption_ids)
        similar = torch.from_numpy(self.data.similar[batch.rows][:, batch.classes])
        ignored[:count, count:], ignored[count:, :count] = similar, similar.T
        logits = logits.masked_fill(ignored, -torch.inf)
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def validate(self) -> dict[str, float]:
        val = self.data.val
        if self.settings.lr_image > 0:
            images = dataset_image_embeddings(self.model, val, cache=False)
        else:
            with torch.inference_mode():
                stored = torch.from_numpy(self.stored.val[:, 0].astype(np.float32))
                images = F.normalize(run(self.model.head("image"), {"sentence_embedding": stored}), dim=-1).numpy()
        return self.evaluator(images, self.model.encode_texts(val.flat_captions()[0])).to_dict()

    def save(self, scores: dict[str, float]) -> None:
        self.model.logit_scale = float(self.scale().detach())
        self.model.save(self.folder / "model", {"training": asdict(self.settings), "validation": scores})

    def set_mode(self, training: bool) -> None:
        self.model.model.train(training)
        freeze_batch_norm(self.model.model)


def run(modules: list[nn.Module], features: dict[str, Any]) -> Tensor:
    """The output of modules in sequence, (batch, width)."""
    for module in modules:
        features = module(features)
    return features["sentence_embedding"]


if __name__ == "__main__":
    main()
