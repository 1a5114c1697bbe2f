"""Training a small decoder on a frozen dual encoder's patches: first the captions' words, then CIDEr itself."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diptych.captioning import strategies
from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.grid_captioner import NEVER, GridCaptionModel, save_captioner
from diptych.captioning.strategies import Caption, GenerationConfig
from diptych.captioning.vocabulary import END, PAD, START, UNKNOWN, Words, words_of
from diptych.data.pairs import Pairs
from diptych.evaluation.metrics.cider import CiderD
from diptych.models import dual_encoder as dual
from diptych.models.hidden_states import HiddenStates
from diptych.runtime.atomic import write_text
from diptych.runtime.device import computes_in_bfloat16
from diptych.runtime.progress import Progress
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.data import Part, store_part
from diptych.training.caption.phase import BEST, Judge, Phase, Turns, run_phase
from diptych.training.run_folder import Run
from diptych.training.trainer import Outcome, read_weights

WORDS_PHASE, REWARD_PHASE = "words", "reward"
_PENALTIES, _REPEATS = (0.0, 0.5, 1.0, 1.5), (2, 3)  # of beam search, tried when the weights are there
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the weights after self-critical training
_BLOCK = 64  # pictures captioned at once in validation
_STOP = "."  # a caption's end, as a word that CIDEr sees


def train_grid(run: Run, train: Pairs, val: Pairs, progress: Progress) -> tuple[dict[str, Outcome], dict[str, float]]:
    """Train and save a decoder: its phases' outcomes, and the validation scores of what was saved."""
    recipe: CaptionRecipe = run.recipe
    encoder = dual.load(recipe.model, recipe.device)
    words = Words.learn(train.flat_captions()[0], recipe.min_count)
    views = recipe.views if recipe.augment != "none" else 1
    lesson = store_part(encoder, train, augment=recipe.augment, views=views, seed=recipe.seed, progress=progress)
    exam = store_part(encoder, val, progress=progress)
    torch.manual_seed(recipe.seed)
    settings = decoder_settings(recipe, exam)
    writer = GridCaptionModel(encoder, CaptionDecoder(len(words), **settings), words, settings)
    outcomes = _phases(run, writer, lesson, exam, progress)
    writer.defaults, scores = choose_generation_config(recipe, writer, exam)
    _save(run, writer, scores, {"train": len(train), "val": len(val)})
    return outcomes, scores


def decoder_settings(recipe: CaptionRecipe, part: Part) -> dict[str, Any]:
    """The arguments that make a decoder of the recipe's kind for these pictures."""
    seen = part.images(np.arange(1))
    own = ("dim", "layers", "image_layers", "heads", "hidden", "dropout", "feature_dropout")
    return {
        "places": seen.states.shape[1],
        "image_width": seen.states.shape[2],
        "vector_dim": seen.vectors.shape[1],
        **{name: getattr(recipe, name) for name in own},
        "max_tokens": max(recipe.max_tokens, 40),
    }


def _phases(run: Run, writer: GridCaptionModel, lesson: Part, exam: Part, progress: Progress) -> dict[str, Outcome]:
    recipe: CaptionRecipe = run.recipe
    judge, turns, lessons = Judge(exam.pairs), Turns(lesson.pairs, recipe), Lessons(recipe, writer, lesson)

    def validate() -> dict[str, float]:
        return judge(
            captions_of_part(writer, exam, GenerationConfig(beams=recipe.beams, max_tokens=recipe.max_tokens + 1))
        )

    def train(name: str, backward: Any, epochs: int, lr: float, epochs_before: int) -> Outcome:
        load = partial(lessons.load, epochs_before=epochs_before)
        return run_phase(run, Phase(name, writer.decoder, load, backward, epochs, lr), turns, validate, progress)

    outcomes = {WORDS_PHASE: train(WORDS_PHASE, lessons.teach, recipe.epochs, recipe.lr, 0)}
    if recipe.reward_epochs:
        told = recipe.reward_epochs, recipe.reward_lr, recipe.epochs
        outcomes[REWARD_PHASE] = train(REWARD_PHASE, lessons.reward, *told)
        _mix(run.out, writer.decoder, validate)
    return outcomes


def _mix(out: Path, decoder: CaptionDecoder, validate: Callable[[], dict[str, float]]) -> None:
    """Give the decoder the mean of both phases' weights, in the share that writes the best captions.

    Between weights before and after a fine-tuning lie better ones than either (Wortsman et al. 2022): self-critical
    training makes captions that are surer and shorter, and knows the training pictures too well.
    """
    before, after = (read_weights(out / name / BEST) for name in (WORDS_PHASE, REWARD_PHASE))

    def take(share: float) -> None:
        decoder.load_state_dict({name: weight.lerp(after[name], share) for name, weight in before.items()})

    ciders = {}
    for share in _SHARES:
        take(share)
        ciders[share] = validate()["cider"]
    take(max(ciders, key=lambda share: ciders[share]))
    write_text(out / REWARD_PHASE / "shares.json", json.dumps(ciders, indent=2) + "\n")


def choose_generation_config(
    recipe: CaptionRecipe, writer: GridCaptionModel, exam: Part
) -> tuple[dict[str, Any], dict[str, float]]:
    """The length penalty and what may not be repeated with which the validation part scores best, and its scores."""
    judge = Judge(exam.pairs)
    tried = []
    for length_penalty, no_repeat in itertools.product(_PENALTIES, _REPEATS):
        habits: dict[str, Any] = {"length_penalty": length_penalty, "no_repeat": no_repeat}
        tried.append((habits, judge(captions_of_part(writer, exam, GenerationConfig(beams=recipe.beams, **habits)))))
    return max(tried, key=lambda pair: pair[1]["cider"])


@torch.inference_mode()
def captions_of_part(writer: GridCaptionModel, part: Part, wish: GenerationConfig) -> Iterator[list[Caption]]:
    """Captions of a part's pictures, in their order."""
    for start in range(0, len(part.pairs), _BLOCK):
        states = part.images(np.arange(start, min(start + _BLOCK, len(part.pairs))))
        memory = writer.decoder.encode(states.to(writer.encoder.device))
        yield from writer.from_memory(memory, wish)


def _save(run: Run, writer: GridCaptionModel, scores: dict[str, float], sizes: dict[str, int]) -> None:
    with run.publishing() as fresh:
        writer.encoder.save(fresh)
        save_captioner(writer, fresh, {"recipe": asdict(run.recipe), "pictures": sizes, "validation": scores})


@dataclass
class Batch:
    """Pictures of a step, `recipe.captions` captions of each, one picture's after another's."""

    epoch: int
    rows: np.ndarray
    states: HiddenStates
    words: Tensor  # (captions, length)


class Lessons:
    """The two ways in which a decoder learns from its training pictures."""

    def __init__(self, recipe: CaptionRecipe, writer: GridCaptionModel, part: Part) -> None:
        self.recipe, self.part, self.words, self.decoder = recipe, part, writer.words, writer.decoder
        self.device = writer.encoder.device
        self.half = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=computes_in_bfloat16(self.device))
        self.cider: CiderD | None = None

    def load(self, turn: tuple[int, np.ndarray, list[str]], epochs_before: int = 0) -> Batch:
        """A batch of a phase before which the pictures' views took so many turns."""
        epoch, rows, captions = turn
        states = self.part.images(rows, epochs_before + epoch)
        return Batch(epoch, rows, states, self.words.batch(captions, self.recipe.max_tokens))

    def teach(self, batch: Batch) -> Tensor:
        """Cross-entropy of each next word, with label smoothing."""
        words = batch.words.to(self.device)
        with self.half():
            logits = self.decoder(self.decoder.encode(batch.states.to(self.device)), words[:, :-1]).float()
        target = words[:, 1:].masked_fill(words[:, 1:] == UNKNOWN, PAD)  # nobody is to write a word that has no name
        loss = functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()
        return loss.detach()

    def reward(self, batch: Batch) -> Tensor:
        """Self-critical training: captions drawn become likelier by as much as they are better than the others drawn.

        The baseline is the mean reward of the picture's other captions (Luo 2020), and each caption is judged with its
        end, or it would learn to stop in the middle of a phrase (Rennie et al. 2017, appendix).
        """
        states = batch.states.to(self.device)
        drawn = self.drawn(states, batch)
        rewards = self.rewards(drawn, batch.rows)  # (pictures, samples)
        others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        better = (rewards - others).flatten().to(self.device)
        words = _padded([[START, *tokens, END] for of_one in drawn for tokens in of_one]).to(self.device)
        with self.half():
            logits = self.decoder(self.decoder.encode(states), words[:, :-1]).float()
        logits[..., list(NEVER)] = -torch.inf
        target = words[:, 1:]
        spoken = target != PAD
        surprise = functional.cross_entropy(logits.transpose(1, 2), target, reduction="none", ignore_index=PAD)
        loss = (surprise * better[:, None]).sum() / spoken.sum()
        loss.backward()
        return rewards.mean().neg()

    @torch.inference_mode()
    def drawn(self, states: HiddenStates, batch: Batch) -> list[list[tuple[int, ...]]]:
        """Captions drawn of each picture, as words' numbers; the same ones until the decoder changes."""
        samples, longest = self.recipe.reward_samples, self.recipe.max_tokens
        wish = GenerationConfig("nucleus", count=samples, top_p=1.0, max_tokens=longest, no_repeat=0)
        first = (self.recipe.seed * 10_000 + batch.epoch) * len(self.part.pairs) + int(batch.rows[0]) * _BLOCK
        self.decoder.eval()
        with self.half():
            memory = self.decoder.encode(states)
            spelling = self.decoder.start(memory)
            logits = strategies.read(spelling, len(memory) * wish.width, (START,))
            found = strategies.draw(spelling, logits, range(first, first + len(memory)), wish, END, NEVER)
        self.decoder.train()
        return [[written.tokens for written in of_one] for of_one in found]

    def rewards(self, drawn: list[list[tuple[int, ...]]], rows: np.ndarray) -> Tensor:
        """CIDEr-D of each caption: (pictures, samples)."""
        if self.cider is None:
            self.cider = CiderD([[[*words_of(text), _STOP] for text in row.captions] for row in self.part.pairs])
        texts = [[*words_of(self.words.decode(tokens)), _STOP] for of_one in drawn for tokens in of_one]
        scores = self.cider(texts, np.repeat(rows, self.recipe.reward_samples).tolist())
        return torch.from_numpy(scores.astype(np.float32)).view(len(rows), -1)


def _padded(rows: list[list[int]]) -> Tensor:
    """(rows, length) int64."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)
