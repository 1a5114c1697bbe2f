"""open_clip's model names: which exist, and downloading their weights from the hub as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.errors import ModelError, did_you_mean
from diptych.models.hub_access import quick_offline

PREFIX = "open_clip/"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")


def is_named(name: object) -> bool:
    """Whether a name is `open_clip/NAME` and not an existing path."""
    return str(name).startswith(PREFIX) and not Path(str(name)).exists()


def fetch_named(name: str) -> tuple[dict[str, Any], dict[str, Any], Path, Any]:
    """Model and preprocessing configurations, weights file and tokenizer of `NAME` or `NAME@TAG`, from the hub.

    Without a tag the weights are `openai`'s or the only ones.

    Raises:
        ModelError: There is no such model or tag, its weights are a pickle, or it cannot be downloaded.
    """
    import open_clip

    name, _, tag = name.partition("@")
    if name not in open_clip.list_models():
        raise ModelError(f"open_clip has no model '{name}'; {did_you_mean(name, open_clip.list_models())}")
    tag = tag or _usual_tag(name)
    known = open_clip.get_pretrained_cfg(name, tag)
    if not known:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise ModelError(f"open_clip's '{name}' has no weights '{tag}'; {did_you_mean(tag, tags)}")
    try:
        weights, tokenizer = _fetched(known.get("hf_hub", "")), open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ModelError) as error:
        raise ModelError(
            f"cannot fetch open_clip's '{name}@{tag}' ({str(error).splitlines()[0]}); check the network, or give a "
            f"folder with {CONFIG} and safetensors"
        ) from error
    if weights is None:
        raise ModelError(
            f"the weights '{tag}' of open_clip's '{name}' are a pickle, which can run code; they are not loaded"
        )
    return open_clip.get_model_config(name) | {"quick_gelu": known.get("quick_gelu", False)}, known, weights, tokenizer


def _fetched(place: str) -> Path | None:
    """Download the safetensors at `user/name/` or `user/name/file` (open_clip's notation); None if there are none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, file = place.rpartition("/")
    names = (str(Path(file).with_suffix(".safetensors")),) if file else WEIGHTS
    for name in names if repository else ():
        try:
            with quick_offline(repository):
                return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError:  # neither in the cache nor reachable
            raise
        except EntryNotFoundError:
            continue
    return None


def _usual_tag(name: str) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if "openai" in tags or len(tags) == 1:
        return "openai" if "openai" in tags else tags[0]
    raise ModelError(
        f"open_clip has several weights for '{name}' ({', '.join(tags) or 'none'}); "
        f"name one: '{PREFIX}{name}@{tags[0] if tags else 'TAG'}'"
    )
