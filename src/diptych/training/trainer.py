"""The training loop that every recipe shares: schedule, EMA, best model, early stopping, and a resume that is exact.

Why not a library's trainer: what happens in a step must be replayed exactly after a kill (weights, EMA, learnable scale
and random state together), validation must see the EMA weights, and frozen towers skip the model altogether.
Everything random in the data is drawn from hashes (`batches`), so the loop alone owns the global random state.
"""

from __future__ import annotations

import itertools
import json
import math
import pickle
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diptych.errors import ConfigError
from diptych.runtime.atomic import new_file, storing
from diptych.runtime.progress import Progress, silent

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
_NUMBERS = ("step", "best_epoch", "best", "history", "losses", "elapsed", "log_size")  # kept in a checkpoint

# What torch was seen to raise on files that are damaged or not a checkpoint.
_DAMAGED = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, RecursionError),
    pickle.UnpicklingError,
)


@dataclass
class Task:
    """What a recipe hands to the loop."""

    module: nn.Module  # holds every weight that is trained
    groups: list[dict[str, Any]]  # optimiser groups: params, lr
    steps_per_epoch: int
    batches: Callable[[int, int], Iterable[Any]]  # (epoch, first step) -> batches
    backward: Callable[[Any], Tensor]  # adds gradients, returns the detached loss
    validate: Callable[[], dict[str, float]]
    save: Callable[[dict[str, float]], None]  # writes the model as it is now, with its scores
    set_mode: Callable[[bool], None]  # training mode on or off


@dataclass
class Schedule:
    """The loop's settings, as the recipes name them."""

    epochs: int = 10
    max_steps: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    ema: float = 0.0
    patience: int = 0
    save_steps: int = 200
    metric: str = "rsum"
    tensorboard: bool = False


@dataclass
class Outcome:
    """How a training run ended."""

    steps: int
    best_epoch: int
    best: dict[str, float]
    seconds: float
    stopped_early: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of all steps, then half a cosine down to 0."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


class Trainer:
    """Runs a `Task` in `folder`, which keeps `checkpoint.pt` (last, for resuming) and `log.jsonl`.

    The log has a line for every 10 steps, with the mean of their losses, and one for each validation.
    """

    def __init__(
        self,
        task: Task,
        schedule: Schedule,
        folder: Path,
        progress: Progress = silent,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.task, self.schedule, self.folder, self.progress = task, schedule, folder, progress
        self.on_start = on_start  # called when the checkpoint, if there is one, was accepted
        self.total = task.steps_per_epoch * schedule.epochs
        if schedule.max_steps:
            self.total = min(self.total, schedule.max_steps)
        self.trained = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
        if not self.trained:
            raise ConfigError("nothing is left to train: every weight is frozen and there is no projection head")
        self.optimizer = torch.optim.AdamW(_decay_groups(task.groups, schedule.weight_decay), betas=(0.9, 0.98))
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if schedule.ema else {}
        self.step, self.best_epoch = 0, -1
        self.best: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []  # of the steps since the last line of the log
        self.elapsed, self.log_size = 0.0, 0
        self.writer: Any = None

    def fit(self, resume: bool = False) -> Outcome:
        """Train to the end, or until validation has not improved for `patience` epochs."""
        with storing(self.folder, "the run goes on with resume from its last checkpoint"):
            return self._fit(resume)

    def _fit(self, resume: bool) -> Outcome:
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._restore()
        self.on_start()
        with (self.folder / LOG).open("a", encoding="utf-8", buffering=1) as log:
            log.truncate(min(self.log_size, log.tell()))  # lines of steps that will be run again
            self.log, started = log, time.monotonic() - self.elapsed
            self._open_tensorboard()
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
        left = min(self.task.steps_per_epoch - first, self.total - self.step)
        best = f", best {self.schedule.metric} {self.best[self.schedule.metric]:.1f}" if self.best else ""
        label = f"epoch {epoch + 1}/{self.schedule.epochs}{best}"
        batches = itertools.islice(self.task.batches(epoch, first), left)
        for batch in self.progress(batches, left, label):
            factor = learning_rate_factor(self.step, self.total, self.schedule.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            loss = float(self.task.backward(batch))
            if not math.isfinite(loss):
                raise ConfigError(f"the loss became {loss} at step {self.step}; lower the learning rates")
            nn.utils.clip_grad_norm_(self.trained.values(), self.schedule.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self._update_average()
            self.losses.append(loss)
            if self.step % 10 == 0 or self.step == self.total:
                self._log(step=self.step, epoch=epoch, loss=statistics.fmean(self.losses), lr_factor=factor)
                self.losses = []
            if self.step % self.schedule.save_steps == 0 and self.step % self.task.steps_per_epoch:
                self.elapsed = time.monotonic() - started
                self._checkpoint()

    def _validate(self, epoch: int) -> None:
        self.task.set_mode(False)
        with self._averaged():
            scores = self.task.validate()
            self._log(step=self.step, epoch=epoch, **scores)
            self.history.append({"epoch": epoch, **scores})
            metric = self.schedule.metric
            if not self.best or scores[metric] > self.best[metric]:
                self.best_epoch, self.best = epoch, scores
                self.task.save(scores)

    def _is_stale(self) -> bool:
        patience = self.schedule.patience
        return bool(patience and self.history and self.history[-1]["epoch"] - self.best_epoch >= patience)

    def _update_average(self) -> None:
        """EMA of the weights, its decay rising with the steps so that the random start is soon forgotten."""
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.trained[name].detach(), 1 - decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The module with its EMA weights."""
        kept = {name: self.trained[name].detach().clone() for name in self.average}
        _assign(self.trained, self.average)
        try:
            yield
        finally:
            _assign(self.trained, kept)

    def _state(self) -> dict[str, Tensor]:
        """What training changes: trained weights, and buffers such as BatchNorm's statistics."""
        trained = {name: p.detach() for name, p in self.trained.items()}
        return trained | {f"buffer:{name}": buffer for name, buffer in self.task.module.named_buffers()}

    def _checkpoint(self) -> None:
        """Everything that the next step depends on, written beside the last checkpoint and then put in its place."""
        self.log.flush()
        self.log_size = self.log.tell()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        state = {
            "state": self._state(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": cuda,
            "numbers": json.dumps({name: getattr(self, name) for name in _NUMBERS}),
        }
        with new_file(self.folder / CHECKPOINT) as temporary, temporary.open("wb") as file:
            torch.save(state, file)

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return  # killed before the first checkpoint: begin again
        saved = read_checkpoint(path)
        state = self._state()
        if _shapes(state) != _shapes(saved["state"]) or _shapes(self.average) != _shapes(saved["average"]):
            raise ConfigError(
                f"'{path}' is of another recipe: its weights differ; resume with the recipe it began with"
            )
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["random"])
            if saved["random_cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(saved["random_cuda"])
        except _DAMAGED as error:
            raise ConfigError(
                f"'{path}' is of another recipe ({error}); resume with the recipe it began with"
            ) from error
        _assign(state, saved["state"])
        _assign(self.average, saved["average"])
        for key, value in json.loads(saved["numbers"]).items():
            setattr(self, key, value)

    def _open_tensorboard(self) -> None:
        if self.schedule.tensorboard:
            from diptych.errors import require

            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)

    def _log(self, step: int, **values: float) -> None:
        self.log.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)


def read_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint that this trainer wrote; nothing is unpickled but tensors and plain values.

    `mapped` leaves the tensors on the disk, which is enough to see whether it is one.

    Raises:
        ConfigError: it is damaged, or another program's.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(saved, dict):
            raise TypeError("it holds no run")
        numbers = json.loads(saved["numbers"])
        known = set(numbers) == set(_NUMBERS) and all(type(numbers[name]) is int for name in ("step", "log_size"))
        whole = all(isinstance(saved[name], dict) for name in ("state", "average", "optimizer"))
        whole = whole and all(torch.is_tensor(value) for part in ("state", "average") for value in saved[part].values())
        if (
            not known
            or not whole
            or min(numbers["step"], numbers["log_size"]) < 0
            or not {"random", "random_cuda"} <= set(saved)
        ):
            raise ValueError("it lacks what a run needs")
    except _DAMAGED as error:
        raise ConfigError(
            f"'{path}' is no checkpoint of diptych, or is damaged ({type(error).__name__}); put back a copy of it, or "
            "begin again in another folder with out"
        ) from error
    return saved


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a phase that validated best, as safetensors.

    Raises:
        ConfigError: they are missing or damaged.
    """
    try:
        return load_file(path)
    except (*_DAMAGED, SafetensorError) as error:
        raise ConfigError(
            f"'{path}' is missing or damaged; remove the folder '{path.parent}' and resume: that part is trained again"
        ) from error


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


@torch.no_grad()
def _assign(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    for name, value in source.items():
        target[name].copy_(value)


def _decay_groups(groups: list[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    """Split each group by whether weight decay applies: it spares biases, norms and scales, all below 2 dimensions."""
    split = []
    for group in groups:
        for decays in (True, False):
            params = [p for p in group["params"] if (p.ndim >= 2) == decays]
            if params:
                decay = weight_decay if decays else 0.0
                split.append({"params": params, "lr": group["lr"], "peak": group["lr"], "weight_decay": decay})
    return split
