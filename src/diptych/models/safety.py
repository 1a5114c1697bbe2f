"""Safety rules for the JSON files of a model directory: an allow-list for each kind of file.

A model's configuration may not name code, other files, other repositories or URLs. Whatever a library would open,
fetch or import must be in the directory under the name that the library expects; otherwise the model is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from diptych.errors import ModelError

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Module

_HEAD = "diptych.models.heads.ResidualHead"
_EXPORTED = "diptych.models.onnx.exported_tower.ExportedTower"
_OPEN_CLIP = ("diptych.models.open_clip.towers.OpenClipImage", "diptych.models.open_clip.towers.OpenClipText")
OUR_MODULES = {
    **{name: name for name in (_HEAD, _EXPORTED, *_OPEN_CLIP)},
    **{"diptych.heads.ResidualHead": _HEAD, "diptych.towers.ResidualHead": _HEAD},
    "diptych.export.tower.ExportedTower": _EXPORTED,
    "diptych.open_clip_towers.OpenClipImage": _OPEN_CLIP[0],
    "diptych.open_clip_towers.OpenClipText": _OPEN_CLIP[1],
}
"""Module classes of diptych by the dotted names in models; models saved before 0.1 use earlier names."""

THEIR_MODULES = frozenset(
    {
        *("Transformer", "Pooling", "Dense", "Normalize", "Router", "Asym", "Dropout", "LayerNorm"),
        *("WeightedLayerPooling", "CLIPModel", "StaticEmbedding"),
    }
)
"""Module classes of sentence-transformers that a model may name, by any path within that package."""

# Matches strings that could be a path, a file, a URL, a hub repository or a class. Names of activations, poolings and
# interpolations never match.
_POINTER = re.compile(r"[/\\~\0]|\.\.|[A-Za-z]:\S|\.[A-Za-z]")

# Keys that make transformers, sentence-transformers, peft, timm or open_clip read another file or repository, run code,
# or unpickle. They are refused unless their value is null, false or empty.
_FORBIDDEN = frozenset(
    {
        *("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate", "code_revision", "init_inputs"),
        *("configuration_files", "_configuration_file", "image_processor_filename", "feature_extractor_filename"),
        *("fast_tokenizer_files", "gguf_file", "tokenizer_object", "weights_only", "state_dict", "checkpoint_path"),
        *("base_model_name_or_path", "tokenizer_name_or_path", "pretrained_model_name_or_path", "adapter_kwargs"),
        *("audio_tokenizer", "audio_tokenizer_class", "audio_tokenizer_name_or_path", "_adapter_model_path"),
        *("quantization_config", "compression_config", "allow_all_kernels", "use_kernels", "kernel_config"),
        *("use_pretrained_backbone", "backbone", "repo_path", "index_path", "passages_path"),
        "pretrained_cfg_overlay",
    }
)
# Implementations of attention, experts and caches that are part of torch and transformers; others may be downloaded as
# native code.
_IMPLEMENTATIONS = ("eager", "sdpa", "batched_mm", "grouped_mm", "static", "dynamic", "hybrid", "sliding_window")
# Allowed values of the keys that name classes of transformers.
_CLASSES = {
    "tokenizer_class": re.compile(r"\w*(Tokenizer|TokenizerFast|Backend)"),
    "processor_class": re.compile(r"\w*Processor"),
    "image_processor_type": re.compile(r"\w*(ImageProcessor|FeatureExtractor)(Fast|Pil)?"),
    "feature_extractor_type": re.compile(r"\w*(ImageProcessor|FeatureExtractor)(Fast|Pil)?"),
    "video_processor_type": re.compile(r"\w*VideoProcessor"),
}

# Keys whose values no library opens: provenance, and texts.
_NOTES = frozenset(
    {
        *("_name_or_path", "name_or_path", "special_tokens_map_file", "transformers_version", "__version__"),
        *("_commit_hash", "hf_hub_id", "url", "origin_url", "license", "paper_ids", "paper_name", "notes", "tag"),
        *("description", "requirements", "framework", "diffusers_version", "hf_hub_filename"),
        *("first_conv", "classifier"),  # timm: names of layers, such as `patch_embed.proj` of every ViT
    }
)
_TEXTS = frozenset(
    {
        *("id2label", "label2id", "label_names", "label_descriptions", "task_specific_params", "prompts", "prefix"),
        *("added_tokens_decoder", "added_tokens", "chat_template", "stop_strings", "finetuning_task"),
    }
)
_TEXT_ENDS = ("_token", "_tokens", "_prompt", "_template", "_text")

# Arguments that `sentence_bert_config.json` may pass to the loaders of transformers.
_LOADER_SETTINGS = {
    "model": ("dtype", "torch_dtype", "add_pooling_layer", "use_cache", "attn_implementation"),
    "processor": (
        *("model_max_length", "max_length", "padding_side", "truncation_side", "use_fast", "do_lower_case"),
        *("min_pixels", "max_pixels", "clean_up_tokenization_spaces"),
    ),
    "config": ("use_cache", "num_labels", "output_hidden_states", "max_position_embeddings"),
}
_LOADERS = {
    **dict.fromkeys(("model_kwargs", "model_args"), "model"),
    **dict.fromkeys(("processor_kwargs", "tokenizer_kwargs", "tokenizer_args"), "processor"),
    **dict.fromkeys(("config_kwargs", "config_args"), "config"),
}
_TRANSFORMER_KEYS = frozenset(
    {
        *("transformer_task", "modality_config", "module_output_name", "processing_kwargs", "unpad_inputs"),
        *("query_length", "document_length", "query_expansion", "max_seq_length", "do_lower_case", *_LOADERS),
    }
)
_TASKS = ("feature-extraction", "text-generation", "fill-mask", "sequence-classification", "any-to-any")
_PROCESSING = ("common", "text", "audio", "image", "video", "chat_template")
_METHOD = re.compile(r"forward|get_[a-z]+_(features|embeds)")
_OPEN_CLIP_TOKENIZER = ("clean", "strip_sep_token", "language", "reduction_mask", "additional_special_tokens")
_TIMM_LOADING = ("pretrained", "pretrained_cfg", "pretrained_model_args", "cache_dir", "kwargs", "features_only")
_TIMM_NAME = re.compile(r"\w+(\.[\w-]+)?")
# Architectures whose loaders download or unpickle files besides the checkpoint.
_FETCHING = ("rag", "rwkv", "yoso", "mra", "sam3_video", "oneformer", "pix2struct", "qwen2_5_omni")

_NAMES = frozenset(
    {
        *("modules.json", "router_config.json", "config_sentence_transformers.json", "wordembedding_config.json"),
        *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
        *("video_preprocessor_config.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "audio_tokenizer_config.json", "adapter_config.json", "open_clip_config.json"),
        "exported.json",
    }
)
_NAMES_LIKE = re.compile(r"sentence_[\w-]+_config\.json|.*\.safetensors\.index\.json")

Setting = tuple[tuple[str, ...], object]
"""The path of keys to a value, and the value."""

Settings = dict[str, Any]
"""Parsed JSON of an untrusted file."""


def is_checked(name: str) -> bool:
    """Whether a file of this name (in lower case) holds settings that a library reads.

    There are no others, since a configuration that names another file is refused.
    """
    return name in _NAMES or bool(_NAMES_LIKE.fullmatch(name))


def refuse_config(file: Path) -> None:
    """Refuse a JSON file that breaks the rules for its name.

    Libraries read a configuration wherever it lies, so every one must obey the same rules, whatever module it belongs
    to.

    Raises:
        ModelError: It is damaged, or a setting is not allowed; the message names the file and the setting.
    """
    settings = _read(file)
    name = file.name.lower()
    if name.endswith(".safetensors.index.json"):
        _refuse_index(file, settings)
        return
    if module_types(file) and name != "config.json":
        return
    if name == "special_tokens_map.json":
        _refuse_unless(file, settings, lambda key: key.endswith(("_token", "_tokens")))
    if name == "adapter_config.json":
        raise ModelError(
            f"'{file}' makes this an adapter of another model, which would be downloaded unchecked; merge the two "
            "(peft: model.merge_and_unload().save_pretrained(folder)) and load the result"
        )
    for path, value in _settings({key: settings[key] for key in settings if key != "types"}):
        if reason := _reason(path, value):
            raise ModelError(f"'{file}' {reason}")
    if name.startswith("sentence_") and name.endswith("_config.json"):
        _refuse_transformer(file, settings)
    elif name == "open_clip_config.json":
        _refuse_open_clip(file, settings)
    elif name == "config.json":
        _refuse_architecture(file, settings)


def _read(file: Path) -> Any:
    try:
        settings = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' is not valid JSON; download the model again") from error
    expected = list if file.name.lower() == "modules.json" else dict
    if not isinstance(settings, expected):
        raise ModelError(f"'{file}' is not a JSON {'list' if expected is list else 'object'}; download the model again")
    return settings


def _settings(settings: object) -> Iterator[Setting]:
    """Every scalar value at any depth, and every forbidden one, with the path of keys to it."""
    waiting: list[Setting] = [((), settings)]
    while waiting:
        path, value = waiting.pop()
        if path and (path[-1] in _FORBIDDEN or path[-1].endswith("_implementation")):
            yield path, value
        elif isinstance(value, dict):
            waiting += [((*path, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(path, inner) for inner in value]
        elif path:
            yield path, value


def _reason(path: tuple[str, ...], value: object) -> str | None:
    """The reason why a setting is refused; None if it is allowed."""
    key, name = path[-1], ".".join(path)
    if key in _FORBIDDEN:
        return f"sets {name}, {_HARM}" if value else None
    if key.endswith("_implementation"):
        words = value.values() if isinstance(value, dict) else [value]
        if all(word in (*_IMPLEMENTATIONS, "", None) for word in words):
            return None
        return f"sets {name} to {value!r}; only {', '.join(_IMPLEMENTATIONS)} need no downloaded code"
    if "model_args" in path and any(part in _TIMM_LOADING for part in path):
        return f"sets {name}, {_HARM}"
    if not isinstance(value, str) or not value or _is_text(path):
        return None
    return _part_reason(key, name, value) or _pointer_reason(key, name, value)


def _part_reason(key: str, name: str, value: str) -> str | None:
    """The reason why a setting that names a part of the model is refused: a type, a class, a network or weights."""
    if key == "model_type" and value in _FETCHING:
        return f"builds a part of the type '{value}' ({name}), which fetches more than the checkpoint"
    if key == "activation_function":
        return _activation_reason(value)
    if key in _CLASSES and not _CLASSES[key].fullmatch(value):
        kind = key.partition("_")[0]
        return f"names the {kind} '{value}', which is from another package or of another kind; it is not imported"
    if key in ("architecture", "timm_model_name") and not _TIMM_NAME.fullmatch(value):
        return f"names the architecture '{value}', which is not one of timm's own; name one of those"
    if key == "transformers_weights" and not _is_safetensors(value):
        return (
            f"names the weights '{value}', which are not safetensors in its folder; convert them to model.safetensors"
        )
    return None


def _pointer_reason(key: str, name: str, value: str) -> str | None:
    """The reason why a setting that points to a file, a class or a repository is refused."""
    if key == "activation_function":
        return None
    if key.endswith(("_file", "_files", "_filename")):
        return f"sets {name}, {_HARM}"
    if _POINTER.search(value) and key not in _CHECKED:
        return f"sets {name} to '{value}', which looks like a file, a class or a repository; remove it from the file"
    return None


# Checked by rules of their own.
_CHECKED = (
    *("architecture", "timm_model_name", "transformers_weights", "hf_model_name", "hf_tokenizer_name"),
    "activation_function",
)
_HARM = (
    "which could run code, read pickles, or open files and repositories elsewhere; if you trust the model, "
    "remove the setting"
)


def _is_text(path: tuple[str, ...]) -> bool:
    if path[-1] in _NOTES or path[-1].endswith(_TEXT_ENDS):
        return True
    return any(key in _TEXTS or key in _NOTES or key.endswith(("_token", "_tokens")) for key in path)


def _activation_reason(name: str) -> str | None:
    """The reason why an activation function is refused; sentence-transformers imports what it names."""
    from torch import nn

    if not _POINTER.search(name):
        return None
    match = re.fullmatch(r"torch\.nn\.(?:modules\.[a-z_]+\.)?(\w+)", name)
    kind = getattr(nn, match[1], None) if match else None
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return None
    return (
        f"names the activation function '{name}', which is not a module of torch.nn and is not imported; train the "
        "model with one that is, such as torch.nn.modules.activation.GELU"
    )


def _refuse_unless(file: Path, settings: Settings, allowed: Callable[[str], bool], under: str = "") -> None:
    for key in settings:
        if not allowed(str(key)):
            raise ModelError(f"'{file}' sets {under}{key}, {_HARM}")


def _refuse_transformer(file: Path, settings: Settings) -> None:
    """Rules for `sentence_bert_config.json`, whose settings become arguments of transformers' loaders."""
    _refuse_unless(file, settings, _TRANSFORMER_KEYS.__contains__)
    for group, loader in _LOADERS.items():
        inner = _object(file, settings, group)
        _refuse_unless(file, inner, _LOADER_SETTINGS[loader].__contains__, f"{group}.")
    if settings.get("transformer_task", _TASKS[0]) not in _TASKS:
        raise ModelError(f"'{file}' names the task '{settings['transformer_task']}'; it may be {', '.join(_TASKS)}")
    for modality, method in _object(file, settings, "modality_config").items():
        if not isinstance(method, dict) or not _METHOD.fullmatch(str(method.get("method", "forward"))):
            raise ModelError(f"'{file}' names a method for {modality} that does not compute embeddings")
    _refuse_unless(file, _object(file, settings, "processing_kwargs"), _PROCESSING.__contains__, "processing_kwargs.")


def _refuse_open_clip(file: Path, settings: Settings) -> None:
    """Rules for `open_clip_config.json`; names of a text model and a tokenizer are ignored on loading."""
    model = _object(file, settings, "model_cfg")
    for tower in ("text_cfg", "multimodal_cfg"):
        config = _object(file, model, tower)
        extra = _object(file, config, "tokenizer_kwargs")
        _refuse_unless(file, extra, _OPEN_CLIP_TOKENIZER.__contains__, "tokenizer_kwargs.")


def _refuse_architecture(file: Path, settings: Settings) -> None:
    """Rules for `config.json`, by which transformers (and timm through it) chooses classes."""
    kind = settings.get("model_type")
    if kind is None:
        return
    from transformers import CONFIG_MAPPING

    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or kind in _FETCHING:
        raise ModelError(
            f"'{file}' is of the type '{kind}', which this version of transformers cannot load from the checkpoint "
            "alone; a newer one may"
        )


def _object(file: Path, settings: Settings, key: str) -> Settings:
    inner = settings.get(key) or {}
    if not isinstance(inner, dict):
        raise ModelError(f"'{file}' is damaged: its {key} is not a JSON object")
    return inner


def _refuse_index(file: Path, settings: Settings) -> None:
    for name in _object(file, settings, "weight_map").values():
        if not _is_safetensors(name):
            raise ModelError(
                f"'{file}' names the weights '{name}', which are not safetensors in its folder; convert them to "
                "model.safetensors"
            )


def _is_safetensors(name: object) -> bool:
    """Whether a name is that of a safetensors file in the same folder."""
    if not isinstance(name, str) or re.search(r"[/\\\0]", name):
        return False
    return name.endswith((".safetensors", ".safetensors.index.json"))


def module_types(file: Path) -> list[str]:
    """The module classes that a `modules.json` or a Router's configuration names; none for other files.

    Raises:
        ModelError: A class is neither one of sentence-transformers nor one of `OUR_MODULES`, a folder is not below the
            model's own, or the file is malformed.
    """
    settings = _read(file)
    name = file.name.lower()
    try:
        if name == "modules.json":
            types, folders = [entry["type"] for entry in settings], [entry["path"] for entry in settings]
        elif name in ("router_config.json", "config.json"):
            types, folders = [*settings.get("types", {}).values()], [*settings.get("types", {})]
        else:
            return []
    except (LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"'{file}' is not a list of modules; download the model again") from error
    for kind in types:
        if not isinstance(kind, str) or (kind not in OUR_MODULES and _their_module(kind) is None):
            raise ModelError(
                f"'{file}' needs code that is not part of diptych or sentence-transformers ({kind}); it is not run"
            )
    for folder in folders:
        if not _is_below(folder):
            raise ModelError(
                f"'{file}' names the folder '{folder}', which lies outside the model's own; it is not read"
            )
    return types


def _is_below(folder: object) -> bool:
    if not isinstance(folder, str) or re.search(r"[\\:\0]", folder):
        return False
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts


def _their_module(name: str) -> str | None:
    """The class of sentence-transformers that a dotted name refers to, by any of its paths; None if it is another."""
    match = re.fullmatch(r"sentence_transformers(?:\.[A-Za-z_]\w*)*\.(\w+)", name)
    return match[1] if match and match[1] in THEIR_MODULES else None


def module_class(name: str) -> type[Module]:
    """The class that an allowed dotted name refers to; only diptych and sentence-transformers are imported.

    Raises:
        ModelError: The name is not allowed.
    """
    import importlib

    if name in OUR_MODULES:
        module, _, kind = OUR_MODULES[name].rpartition(".")
        return getattr(importlib.import_module(module), kind)
    if (theirs := _their_module(name)) is None:
        raise ModelError(f"'{name}' is not a module of diptych or sentence-transformers; it is not run")
    from sentence_transformers.base import modules as base
    from sentence_transformers.sentence_transformer import modules

    theirs = "Router" if theirs == "Asym" else theirs
    return getattr(base, theirs, None) or getattr(modules, theirs)
