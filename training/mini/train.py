"""Train `mini`, the dual encoder that diptych ships: `python training/mini/train.py --data PATH/flickr8k`.

EfficientNet-Lite0 (ImageNet) and a small MiniLM: first heads and text tower on stored picture features, then the image
tower's later blocks with them; that second phase three times, each taught by what came before it, and the mean of the
three models' weights ships. Everything is chosen on a validation part hashed out of Flickr8k's training split. Run
again with the same `--out`, it goes on where it was. README.md beside it says what each idea brought.
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
from small_text_tower import small_text_tower
from study import Study, class_names, split
from teachers import Lessons, agreement, classifier
from torch import Tensor, nn

from diptych.cli.show import progress
from diptych.data.formats.read import read_pairs
from diptych.evaluation.evaluators import RetrievalEvaluator
from diptych.images.augment import augmentation
from diptych.models import dual_encoder as dual
from diptych.models.bundled import PYPI_TEXT_TOWERS
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import picture_vectors
from diptych.runtime.background import prefetch
from diptych.runtime.cache import staged
from diptych.training.batches import Epochs, stored_pictures, view
from diptych.training.contrastive.task import Scale
from diptych.training.objectives import false_negative_mask
from diptych.training.trainer import Schedule, Task, Trainer

PHRASES = ("a photo of a {}", "a picture of a {}", "a {}", "there is a {} in the picture")


@dataclass
class Settings:
    """One phase; learning rates of 0 freeze."""

    epochs: int
    lr_head: float
    lr_text: float
    lr_image: float = 0.0
    batch_size: int = 128
    size: int = 176  # side of training pictures; crops make things larger, so the full 224 is right for use
    classes: int = 48  # class prototypes in a batch
    words: int = 32  # general words in a batch, for which the text tower is to agree with MiniLM
    feature_dropout: float = 0.4
    agree_with_text_teacher: float = 2.0
    agree_with_classifier: float = 0.1
    agree_with_teacher: float = 0.0
    seed: int = 0


WARM_UP = Settings(epochs=7, lr_head=1e-3, lr_text=2e-4, batch_size=128)
FINE_TUNE = Settings(epochs=10, lr_head=1e-3, lr_text=2e-4, lr_image=3e-4, feature_dropout=0.2)
TAUGHT = replace(FINE_TUNE, epochs=12, agree_with_teacher=1.0, agree_with_classifier=0.2, seed=1)
BROAD = replace(TAUGHT, epochs=10, classes=128, seed=2)  # knows more of ImageNet's classes, and less of Flickr8k
TEACHER = {"fine_tune": 0.3, "taught": 0.7}  # shares of the phases' weights
SHIPPED = {"fine_tune": 0.15, "taught": 0.35, "broad": 0.5}
AUGMENT = "light"
LEARNING = tuple(f"image.{part}" for part in ("blocks.3", "blocks.4", "blocks.5", "blocks.6", "conv_head", "bn2"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of Flickr8k")
    parser.add_argument("--out", type=Path, default=Path("runs/mini"))
    arguments = parser.parse_args()
    train_pairs, val_pairs = split(read_pairs(arguments.data))
    print(f"{len(train_pairs)} pictures to learn from, {len(val_pairs)} to choose by", flush=True)
    study = Study(train_pairs, val_pairs, arguments.out)
    out = arguments.out
    warm = fit(study, build(out), WARM_UP, out / "warm_up")
    teacher = fit(study, warm, FINE_TUNE, out / "fine_tune")
    fit(study, dual.load(out / "warm_up"), TAUGHT, out / "taught", teacher)
    teacher = mean_of(TEACHER, study, out, "teacher")
    fit(study, dual.load(out / "warm_up"), BROAD, out / "broad", teacher)
    mean_of(SHIPPED, study, out, "mini")


def fit(
    study: Study, model: DualEncoder, settings: Settings, folder: Path, teacher: DualEncoder | None = None
) -> DualEncoder:
    """Train one phase, unless it is done, and load what it ended with."""
    if not (folder / "done").exists():
        lessons = Lessons(teacher, study.train) if teacher else None
        schedule = Schedule(epochs=settings.epochs, warmup=0.05, weight_decay=0.1, ema=0.995, save_steps=50)
        outcome = Trainer(Phase(study, model, settings, folder, lessons).task(), schedule, folder, progress).fit(
            resume=True
        )
        print(f"{folder.name}: validation rsum {outcome.best['rsum']:.1f}", flush=True)
        (folder / "done").touch()
    return dual.load(folder / "model")


def mean_of(shares: dict[str, float], study: Study, out: Path, name: str) -> DualEncoder:
    """Save the weighted mean of phases that were fine-tuned from the same weights (Wortsman et al. 2022)."""
    weights = [(share, dual.load(out / phase).model.state_dict()) for phase, share in shares.items()]
    model = dual.load(out / list(shares)[-1])
    mean = {
        key: sum(share * each[key] for share, each in weights) if value.is_floating_point() else value
        for key, value in model.model.state_dict().items()
    }
    model.model.load_state_dict(mean)
    images = picture_vectors(model, study.val, cache=False)
    scores = RetrievalEvaluator(study.val)(images, model.encode_texts(study.val.flat_captions()[0])).as_dict()
    model.save(out / name, {"training": {"mean of weights": shares}, "validation": scores})
    print(f"{name}: validation rsum {scores['rsum']:.1f}", flush=True)
    return model


def build(out: Path) -> DualEncoder:
    """The towers with new heads."""
    names = class_names()
    small = out / "text_tower"
    if not small.exists():
        source = Path(PYPI_TEXT_TOWERS["pypi/all-minilm-l6-v2"]())
        with staged(small) as new:
            small_text_tower(source, new, names, layers=(0, 1, 3, 5), tokens=9500, positions=64)
    torch.manual_seed(0)
    return dual.build(
        "pypi/efficientnet-lite0", str(small), projection="mlp", dim=256, dropout=0.3, image_size=224, crop="squash"
    )


@dataclass
class Batch:
    rows: np.ndarray
    texts: np.ndarray  # captions, then class names, then phrases: indices of `Study.texts`
    pixels: Tensor | None  # None while the image tower is frozen: then `features`
    features: Tensor | None
    clean: Tensor  # (batch, width): the frozen tower's features of the clean pictures
    prototypes: Tensor
    classes: np.ndarray
    tokens: list[dict[str, Tensor]]  # the texts by length, in a few chunks: less padding, half the time
    places: np.ndarray  # where each text stands among them
    caption_ids: Tensor


class Phase:
    """One phase of training, as the loop wants it."""

    def __init__(
        self, study: Study, model: DualEncoder, settings: Settings, folder: Path, lessons: Lessons | None
    ) -> None:
        self.study, self.model, self.settings, self.folder, self.lessons = study, model, settings, folder, lessons
        self.epochs = Epochs(study.train, settings.batch_size, settings.seed)
        # of the tower as this phase finds it: the clean picture and one view of each
        self.stored = stored_pictures(
            model, study.train, study.val, augment=AUGMENT, views=2, seed=0, progress=progress
        )
        self.prototypes = ClassPrototypes(*classifier(), self.stored.train[:, 0])
        self.scale = Scale(20.0, 0.0)
        self.evaluator = RetrievalEvaluator(study.val)
        self.augment = augmentation(AUGMENT)

    def task(self) -> Task:
        self.scale.bias.requires_grad_(False)
        groups = [
            {"params": self._learning("image"), "lr": self.settings.lr_image},
            {"params": [*self.model.tower_parameters("text").values()], "lr": self.settings.lr_text},
            {
                "params": [p for kind in dual.MODALITIES for m in self.model.head(kind) for p in m.parameters()],
                "lr": self.settings.lr_head,
            },
            {"params": [self.scale.log_scale], "lr": self.settings.lr_head},
        ]
        return Task(
            module=nn.ModuleDict({"model": self.model.model, "scale": self.scale}),
            groups=[group for group in groups if group["params"]],
            steps_per_epoch=self.epochs.steps,
            batches=lambda epoch, first: prefetch(self.epochs(epoch, first), self.load, 1, 2),
            backward=self.backward,
            validate=self.validate,
            save=self.save,
            set_mode=self.set_mode,
        )

    def _learning(self, modality: str) -> list[nn.Parameter]:
        learning = []
        for name, weight in self.model.tower_parameters(modality).items():
            weight.requires_grad_(self.settings.lr_image > 0 and name.startswith(LEARNING))
            learning += [weight] if weight.requires_grad else []
        return learning

    def load(self, batch: tuple[int, np.ndarray, np.ndarray]) -> Batch:
        epoch, rows, captions = batch
        study, settings = self.study, self.settings
        random = np.random.default_rng([epoch, *rows[:4]])
        prototypes, classes = self.prototypes.draw(settings.classes, random)
        phrases = study.first_phrase + random.choice(
            len(study.texts) - study.first_phrase, settings.words, replace=False
        )
        names = [PHRASES[random.integers(len(PHRASES))].format(study.classes[index]) for index in classes]
        words = [*(study.texts[index] for index in captions), *names, *(study.texts[index] for index in phrases)]
        by_length = np.argsort([len(text) for text in words], kind="stable")
        live = settings.lr_image > 0
        stored = torch.from_numpy(self.stored.train[rows, epoch % 2].astype(np.float32))
        return Batch(
            rows=rows,
            texts=np.concatenate([captions, study.first_class + classes, phrases]),
            pixels=self._pixels(rows, epoch) if live else None,
            features=None if live else stored,
            clean=torch.from_numpy(self.stored.train[rows, 0].astype(np.float32)),
            prototypes=prototypes,
            classes=classes,
            tokens=[
                self.model.preprocess_texts(words[index] for index in part) for part in np.array_split(by_length, 4)
            ],
            places=np.argsort(by_length),
            caption_ids=self.epochs.caption_ids(captions),
        )

    def _pixels(self, rows: np.ndarray, epoch: int) -> Tensor:
        views = [
            view(self.study.train[int(row)], self.augment, self.settings.size, self.settings.seed, epoch)
            for row in rows
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in views])).permute(0, 3, 1, 2)
        return pixels.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)

    def backward(self, batch: Batch) -> Tensor:
        study, settings = self.study, self.settings
        if batch.pixels is not None:
            features = run(self.model.tower("image"), {"pixel_values": batch.pixels, "modality": "image"})
            agree = agreement(self.prototypes, features, batch.clean)
        else:
            features, agree = batch.features, torch.zeros(())
        features = F.dropout(torch.cat([features, batch.prototypes]), settings.feature_dropout)
        images = run(self.model.head("image"), {"sentence_embedding": features})  # (pictures + classes, dim)
        chunks = [run(self.model.tower("text"), tokens) for tokens in batch.tokens]
        meanings = torch.cat(chunks)[batch.places]  # (pictures + classes + phrases, 384)
        texts = run(self.model.head("text"), {"sentence_embedding": meanings[: len(images)]})
        images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
        loss = self._contrast(images, texts, batch)
        if self.lessons:
            count = len(batch.rows)
            disagreement = self.lessons.disagreement(images[:count], texts[:count], batch.rows, batch.texts[:count])
            loss = loss + settings.agree_with_teacher * disagreement
        target = torch.from_numpy(study.meanings[batch.texts])
        alike = 1 - F.cosine_similarity(meanings, target, dim=1).mean()
        total = loss + settings.agree_with_text_teacher * alike + settings.agree_with_classifier * agree
        total.backward()
        return loss.detach()

    def _contrast(self, images: Tensor, texts: Tensor, batch: Batch) -> Tensor:
        """InfoNCE over pictures and prototypes; pairs of a picture and a class that it may show are no negatives."""
        logits = self.scale() * images @ texts.T
        pictures = len(batch.rows)
        same = torch.zeros(logits.shape, dtype=torch.bool)
        same[:pictures, :pictures] = false_negative_mask(torch.from_numpy(batch.rows), batch.caption_ids)
        alike = torch.from_numpy(self.study.alike[batch.rows][:, batch.classes])
        same[:pictures, pictures:], same[pictures:, :pictures] = alike, alike.T
        logits = logits.masked_fill(same, -torch.inf)
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def validate(self) -> dict[str, float]:
        study = self.study
        if self.settings.lr_image > 0:
            images = picture_vectors(self.model, study.val, cache=False)
        else:
            with torch.inference_mode():
                clean = torch.from_numpy(self.stored.val[:, 0].astype(np.float32))
                images = F.normalize(run(self.model.head("image"), {"sentence_embedding": clean}), dim=-1).numpy()
        return self.evaluator(images, self.model.encode_texts(study.val.flat_captions()[0])).as_dict()

    def save(self, scores: dict[str, float]) -> None:
        self.model.logit_scale = float(self.scale().detach())
        self.model.save(self.folder / "model", {"training": asdict(self.settings), "validation": scores})

    def set_mode(self, training: bool) -> None:
        self.model.model.train(training)
        for layer in self.model.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()


def run(modules: list[nn.Module], features: dict[str, Any]) -> Tensor:
    for module in modules:
        features = module(features)
    return features["sentence_embedding"]


if __name__ == "__main__":
    main()
