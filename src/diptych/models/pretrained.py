"""Pretrained models: what a dual encoder, a matcher, a captioner and a prompter share to be saved and published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from diptych.models.model_upload import upload_model


class Pretrained(ABC):
    """A model that is saved to a directory and uploaded to the Hugging Face hub."""

    hub_tags: ClassVar[tuple[str, ...]] = ()
    """Tags of a new model card on the hub."""

    @abstractmethod
    def save_pretrained(self, path: str | Path) -> None:
        """Write the model to a directory that `from_pretrained` reads."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        licence: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face hub and return its URL; `diptych.push` also writes a full model card.

        Args:
            repo_id: `USER/NAME`; created if it does not exist.
            private: Whether a new repository is private.
            licence: Hub identifier of the licence (`apache-2.0`), needed if the model has no model card that names one.
            commit_message: Message of the commit.
            token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.

        Raises:
            ModelError: No licence is known, or the hub refuses.
        """
        return upload_model(
            self.save_pretrained,
            repo_id,
            private=private,
            licence=licence,
            commit_message=commit_message,
            token=token,
            tags=self.hub_tags,
        )
