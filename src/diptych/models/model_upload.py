"""Uploading a model to the Hugging Face hub: safetensors, configurations and a model card, never pickles or code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from diptych.errors import ModelError
from diptych.models.checkpoints import refuse_unsafe
from diptych.models.hub_access import transport_errors

_EXCLUDED = {".py", ".pyc", ".pt", ".pth", ".bin", ".pkl", ".lock", ".tmp"}  # code, pickles, unfinished files


def upload_model(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    private: bool = False,
    licence: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Save a model to a temporary directory, upload its files in one commit, and return the repository's URL.

    A model card is written if `save` leaves none.

    Args:
        save: Writes the model to a directory.
        repo_id: `USER/NAME`; created if it does not exist.
        private: Whether a new repository is private.
        licence: Hub identifier of the licence (`apache-2.0`), needed if `save` writes no `README.md`.
        commit_message: Message of the commit.
        token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.
        tags: Tags of a new model card.

    Raises:
        ModelError: No licence is known, a saved file is unsafe, or the hub refuses.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save(folder)
        refuse_unsafe(folder)
        _complete_model_card(folder / "README.md", repo_id, licence, tags)
        files = {file.relative_to(folder).as_posix(): str(file) for file in uploaded_files(folder)}
        return upload_files(files, repo_id, private=private, commit_message=commit_message, token=token)


def upload_files(
    files: Mapping[str, str | bytes],
    repo_id: str,
    *,
    private: bool = False,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload files in one commit, and return the repository's URL.

    Args:
        files: Local path or content of each file, by its path in the repository.
        repo_id: `USER/NAME`; created if it does not exist.
        private: Whether a new repository is private.
        commit_message: Message of the commit.
        token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.

    Raises:
        ModelError: The hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    refusals: tuple[type[Exception], ...] = (HfHubHTTPError, HFValidationError, OSError, *transport_errors())
    try:
        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        message = commit_message or f"Upload {repo.repo_id} with diptych"
        api.create_commit(repo.repo_id, operations, commit_message=message)
    except refusals as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"cannot push to '{repo_id}': {reason}; check the name and the network, and log in with `hf auth login`"
        ) from error
    return str(repo)


def uploaded_files(folder: Path) -> Iterator[Path]:
    """The files of a model directory that are uploaded: not hidden ones, code, pickles or unfinished files."""
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in file.relative_to(folder).parts)
        excluded = file.suffix in _EXCLUDED and file.name != "graph.bin"  # the weights of an OpenVINO graph
        if file.is_file() and not hidden and not excluded:
            yield file


def _complete_model_card(card: Path, repo_id: str, licence: str | None, tags: Sequence[str]) -> None:
    """Write a minimal model card where there is none."""
    if card.exists():
        return
    if licence is None:
        raise ModelError(
            f"'{repo_id}' would have no licence; say under which one the model may be used, such as "
            "licence='apache-2.0', or save a README.md with the model"
        )
    head = f"license: {licence}\nlibrary_name: diptych\ntags: [{', '.join(['diptych', *tags])}]"
    name = repo_id.rpartition("/")[2]
    card.write_text(
        f"---\n{head}\n---\n\n# {name}\n\nA diptych model. Load it with the Python package diptych.\n", "utf-8"
    )
