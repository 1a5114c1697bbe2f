"""The training loop of every recipe: learning rate schedule, EMA, early stopping, best weights and exact resume.

A resumed run ends with the weights of an uninterrupted one: a checkpoint holds the weights, their moving average, the
optimizer and the random state. Data loading draws nothing from the global random state (see `batches`), so the loop
alone owns it. docs/design.md says why this is not the trainer of a library.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from diptych.errors import ConfigError, require
from diptych.runtime.atomic import new_file, storing
from diptych.runtime.progress import Progress, silent
from diptych.training.checkpoint import CHECKPOINT, COUNTERS, DAMAGED, read_checkpoint
from diptych.training.run_settings import RunSettings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Batch = TypeVar("Batch")

LOG = "log.jsonl"
_LOG_STEPS = 10


class ParameterGroup(TypedDict):
    """Parameters that share a peak learning rate."""

    params: list[nn.Parameter]
    lr: float


class OptimizerGroup(TypedDict):
    """A parameter group of AdamW; `lr` follows the schedule, up to `peak`."""

    params: list[nn.Parameter]
    lr: float
    peak: float
    weight_decay: float


@dataclass
class Task(Generic[Batch]):
    """What the loop trains: a recipe's module, data, loss and validation."""

    module: nn.Module
    """Holds every weight that is trained."""
    groups: list[ParameterGroup]
    steps_per_epoch: int
    batches: Callable[[int, int], Iterable[Batch]]
    """The batches of an epoch, from (epoch, first step)."""
    backward: Callable[[Batch], Tensor]
    """Adds the gradients of a batch and returns the detached loss, a 0-d tensor."""
    validate: Callable[[], dict[str, float]]
    """The validation scores of the current weights."""
    save: Callable[[dict[str, float]], None]
    """Saves the current weights, which have the best validation scores so far."""
    set_mode: Callable[[bool], None]
    """Switches training mode on or off."""
    metric: str = "rsum"
    """The validation score that selects the best epoch; higher is better."""


@dataclass
class Outcome:
    """The result of a training run."""

    steps: int
    best_epoch: int
    """From 0."""
    best: dict[str, float]
    """The validation scores of the best epoch."""
    seconds: float
    stopped_early: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    """The validation scores of every epoch."""


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """The learning rate at `step` of `total`, as a fraction of its peak, in [0, 1].

    Linear warm-up over the fraction `warmup` of all steps, then a half-cosine decay to 0.
    """
    warmup_steps = max(1, round(total * warmup))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total - warmup_steps)))


class Trainer(Generic[Batch]):
    """Trains a `Task` with AdamW.

    Args:
        task: what is trained.
        settings: schedule and optimizer; data and run folder are not read from here.
        folder: where `checkpoint.pt` (the last state, for resuming) and `log.jsonl` are written. The log has one line
            per 10 steps, with their mean loss, and one per validation.
        progress: wraps the batches of each epoch.
        on_start: called once the checkpoint, if there is one, has been restored.

    Raises:
        ConfigError: the task has no trainable weights.
    """

    def __init__(
        self,
        task: Task[Batch],
        settings: RunSettings,
        folder: Path,
        progress: Progress = silent,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.task, self.settings, self.folder, self.progress = task, settings, folder, progress
        self.on_start = on_start
        self.total = task.steps_per_epoch * settings.epochs
        if settings.max_steps:
            self.total = min(self.total, settings.max_steps)
        self.trained = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
        if not self.trained:
            raise ConfigError("nothing is left to train: every weight is frozen and there is no projection head")
        self.optimizer = torch.optim.AdamW(
            [{**group} for group in _decay_groups(task.groups, settings.weight_decay)], betas=(0.9, 0.98)
        )
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if settings.ema else {}
        self.step, self.best_epoch = 0, -1
        self.best: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []  # since the last line of the log
        self.elapsed, self.log_size = 0.0, 0
        self.last_checkpoint = 0.0  # by time.monotonic
        self.writer: SummaryWriter | None = None

    def fit(self, resume: bool = False) -> Outcome:
        """Train to the last step, or until validation has not improved for `patience` epochs.

        Args:
            resume: continue from the checkpoint in `folder`; without one, training starts at the first step.

        Raises:
            ConfigError: the checkpoint is damaged or belongs to another recipe, or the loss is not finite.
            StorageError: the disk is full or refuses to write; the last checkpoint stays.
        """
        with storing(self.folder, "the last checkpoint is kept, and resume continues from it"):
            return self._fit(resume)

    def _fit(self, resume: bool) -> Outcome:
        self.folder.mkdir(parents=True, exist_ok=True)
        restored = resume and self._restore()
        self.on_start()
        with (self.folder / LOG).open("a", encoding="utf-8", buffering=1) as log:
            log.truncate(min(self.log_size, log.tell()))  # drops the lines of steps that are repeated
            self.log, started = log, time.monotonic() - self.elapsed
            self._open_tensorboard()
            if not restored:  # from its first step on, a run that is killed can be resumed
                self._checkpoint()
            while self.step < self.total and not self._is_stale():
                epoch = self.step // self.task.steps_per_epoch
                self._train_epoch(epoch, started)
                self._validate(epoch)
                self.elapsed = time.monotonic() - started
                self._checkpoint()
        return Outcome(self.step, self.best_epoch, self.best, self.elapsed, self.step < self.total, self.history)

    def _train_epoch(self, epoch: int, started: float) -> None:
        self.task.set_mode(True)
        first = self.step % self.task.steps_per_epoch
        remaining = min(self.task.steps_per_epoch - first, self.total - self.step)
        best = f", best {self.task.metric} {self.best[self.task.metric]:.1f}" if self.best else ""
        label = f"epoch {epoch + 1}/{self.settings.epochs}{best}"
        batches = itertools.islice(self.task.batches(epoch, first), remaining)
        for batch in self.progress(batches, remaining, label):
            self._train_step(epoch, batch)
            if self.step % self.task.steps_per_epoch and self._is_due():
                self.elapsed = time.monotonic() - started
                self._checkpoint()

    def _is_due(self) -> bool:
        """Whether the last checkpoint is `save_steps` steps or `save_minutes` minutes old."""
        minutes = (time.monotonic() - self.last_checkpoint) / 60
        return self.step % self.settings.save_steps == 0 or minutes >= self.settings.save_minutes

    def _train_step(self, epoch: int, batch: Batch) -> None:
        factor = learning_rate_factor(self.step, self.total, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss = float(self.task.backward(batch))
        if not math.isfinite(loss):
            raise ConfigError(f"the loss became {loss} at step {self.step}; lower the learning rates")
        nn.utils.clip_grad_norm_(self.trained.values(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        self.losses.append(loss)
        if self.step % _LOG_STEPS == 0 or self.step == self.total:
            self._log(step=self.step, epoch=epoch, loss=statistics.fmean(self.losses), lr_factor=factor)
            self.losses = []

    def _validate(self, epoch: int) -> None:
        self.task.set_mode(False)
        with self._averaged():
            scores = self.task.validate()
            self._log(step=self.step, epoch=epoch, **scores)
            self.history.append({"epoch": epoch, **scores})
            metric = self.task.metric
            if not self.best or scores[metric] > self.best[metric]:
                self.best_epoch, self.best = epoch, scores
                self.task.save(scores)

    def _is_stale(self) -> bool:
        patience = self.settings.patience
        return bool(patience and self.history and self.history[-1]["epoch"] - self.best_epoch >= patience)

    def _update_average(self) -> None:
        """Update the EMA; its decay rises with the steps, so that the initial weights are soon forgotten."""
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.trained[name].detach(), 1 - decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the module its EMA weights within the context."""
        current = {name: self.trained[name].detach().clone() for name in self.average}
        _assign(self.trained, self.average)
        try:
            yield
        finally:
            _assign(self.trained, current)

    def _state(self) -> dict[str, Tensor]:
        """The tensors that training changes: trained weights, and buffers such as the statistics of BatchNorm."""
        trained = {name: p.detach() for name, p in self.trained.items()}
        return trained | {f"buffer:{name}": buffer for name, buffer in self.task.module.named_buffers()}

    def _checkpoint(self) -> None:
        """Write everything that the next step depends on, and replace the last checkpoint atomically."""
        self.log.flush()
        self.log_size = self.log.tell()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        state = {
            "state": self._state(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": cuda,
            "numbers": json.dumps({name: getattr(self, name) for name in COUNTERS}),
        }
        with new_file(self.folder / CHECKPOINT) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
        self.last_checkpoint = time.monotonic()

    def _restore(self) -> bool:
        """Continue from the checkpoint with the learning rates, weight decay and EMA of the settings.

        Returns:
            Whether there is a checkpoint.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        saved = read_checkpoint(path)
        state = self._state()
        other_recipe = f"'{path}' belongs to another recipe ({{}}); resume with the recipe that started the run"
        average = saved["average"] or saved["state"]  # the latter if EMA is switched on now
        if _shapes(state) != _shapes(saved["state"]) or not _shapes(self.average).items() <= _shapes(average).items():
            raise ConfigError(other_recipe.format("its weights differ"))
        current = [{name: group[name] for name in ("peak", "weight_decay")} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["random"])
            if saved["random_cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(saved["random_cuda"])
        except DAMAGED as error:
            raise ConfigError(other_recipe.format(error)) from error
        for group, values in zip(self.optimizer.param_groups, current, strict=True):
            group.update(values)
        _assign(state, saved["state"])
        _assign(self.average, {name: average[name] for name in self.average})
        for name, value in json.loads(saved["numbers"]).items():
            setattr(self, name, value)
        self.last_checkpoint = time.monotonic()
        return True

    def _open_tensorboard(self) -> None:
        if self.settings.tensorboard:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)

    def _log(self, step: int, **values: float) -> None:
        self.log.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)


def freeze_batch_norm(module: nn.Module) -> None:
    """Put the BatchNorm layers of a module into eval mode, so that their statistics are not updated."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


@torch.no_grad()
def _assign(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    for name, value in source.items():
        target[name].copy_(value)


def _decay_groups(groups: list[ParameterGroup], weight_decay: float) -> list[OptimizerGroup]:
    """Split each group by whether weight decay applies: not to biases, norms and scales, all below 2 dimensions."""
    split: list[OptimizerGroup] = []
    for group in groups:
        for decays in (True, False):
            params = [p for p in group["params"] if (p.ndim >= 2) == decays]
            if params:
                decay = weight_decay if decays else 0.0
                split.append({"params": params, "lr": group["lr"], "peak": group["lr"], "weight_decay": decay})
    return split
