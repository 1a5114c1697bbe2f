"""The directory that a Hugging Face Inference Endpoint serves.

An endpoint imports `handler.py` from the directory, creates `EndpointHandler(path)` once, and calls it with the JSON of
each request: `{"inputs": ..., "parameters": {...}}`. The return value is sent back as JSON.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

from diptych.errors import ConfigError
from diptych.models.checkpoints import bundled_models, model_directory
from diptych.runtime.atomic import new_folder
from diptych.runtime.quoting import markdown

MODEL = "model"
"""The folder of the model in the endpoint's directory."""

MAX_INPUTS = 64
"""The maximum number of images, and of texts, in a request."""

_HANDLER = '''"""The handler that an Inference Endpoint imports and calls with each request."""

from diptych.serving.endpoint import Endpoint as EndpointHandler

__all__ = ["EndpointHandler"]
'''


def write_endpoint(name: str | Path, out: str | Path) -> Path:
    """Write the new directory `out`: `handler.py`, `requirements.txt`, `README.md`, and the model in `model/`.

    Once pushed to the hub, the repository can be deployed as an endpoint. `diptych.load` reads the directory too.

    Raises:
        ModelError: there is no such model.
        ConfigError: `out` exists.
    """
    out, source = Path(out), model_directory(name)
    if out.exists():
        raise ConfigError(f"'{out}' exists already; choose a new folder")
    requirement = f"diptych{_extras(source)}=={version('diptych')}\n"
    title = str(name) if str(name) in bundled_models() else Path(name).name
    card = source / "README.md"
    readme = _readme(title, card.read_text("utf-8") if card.exists() else "")
    with new_folder(out) as folder:
        shutil.copytree(source, folder / MODEL, ignore=shutil.ignore_patterns("*.py", "__pycache__", ".*"))
        (folder / "handler.py").write_text(_HANDLER, "utf-8")
        (folder / "requirements.txt").write_text(requirement, "utf-8")
        (folder / "README.md").write_text(readme, "utf-8")
    return out


def _extras(model: Path) -> str:
    """The extras of diptych that a model needs, in the syntax of a requirement."""
    exported = any(model.rglob("exported.json"))
    open_clip = any(model.rglob("open_clip_config.json"))
    names = ["search", *["export"] * exported, *["open-clip"] * open_clip]
    return f"[{','.join(names)}]"


def _readme(title: str, card: str) -> str:
    """The endpoint's model card: the hub metadata of the model, how to deploy and call it, and the model's own card."""
    head, body = split_metadata(card)
    metadata = head or "library_name: diptych\n"
    metadata = "".join(line for line in metadata.splitlines(True) if not line.startswith("pipeline_tag"))
    request = json.dumps({"inputs": "<base64 of an image>", "parameters": {"candidate_labels": ["a dog", "a cat"]}})
    return f"""---
{metadata}---
# {markdown(title)}, as an Inference Endpoint

`handler.py` answers the requests, `requirements.txt` lists what the endpoint installs, and `model/` is the model. If
the endpoint cannot download diptych, put its wheel into the directory and name the file in `requirements.txt`. Push the
directory to the hub (`diptych hub push DIRECTORY USER/NAME`) and deploy the repository as an endpoint of type Custom.

```sh
curl $ENDPOINT -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{request}'
```

| task | inputs | parameters | answer |
|---|---|---|---|
| `embed` | a text, a list of texts, or `{{"texts": [...], "images": [...]}}` | | embeddings (unit vectors) |
| `classify` | an image | `candidate_labels` | labels and scores, best first |
| `caption` | an image | `count` | captions, best first |
| `match` | an image | `texts` | the match probability of each text |

An image is base64 or a data URL; a request body of type `image/*` works too. A request may have at most {MAX_INPUTS}
images and texts each.

{body}"""


def split_metadata(card: str) -> tuple[str, str]:
    """Split a model card into its metadata (YAML without the `---` lines; empty if there is none) and its body."""
    if not card.startswith("---\n") or "\n---\n" not in card[4:]:
        return "", card
    head, _, body = card[4:].partition("\n---\n")
    return f"{head}\n", body
