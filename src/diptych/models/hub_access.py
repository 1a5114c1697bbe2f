"""Access to the model hub: one quick question whether it can be reached, before anything is downloaded from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from diptych.errors import ModelError

_SECONDS = 5.0


@contextmanager
def quick_offline(name: str) -> Iterator[None]:
    """Load a model from the hub within the context; from its local cache alone if the hub cannot be reached.

    The hub's client retries each file five times, with pauses: without a network, loading a timm model failed after a
    minute and a half. Here it fails after at most 5 seconds.

    Raises:
        ModelError: the hub cannot be reached, or HF_HUB_OFFLINE is set, and loading from the cache failed.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    is_set = constants.is_offline_mode()
    if not is_set and _is_reachable():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except HFValidationError:
        raise  # not the name of a model on the hub
    except (OSError, RuntimeError, ValueError) as error:  # of the hub's client and of timm
        reason = "HF_HUB_OFFLINE is set" if is_set else f"{constants.ENDPOINT} cannot be reached"
        raise ModelError(f"'{name}' is not in the local cache of the model hub, and {reason}") from error
    finally:
        constants.HF_HUB_OFFLINE = is_set


def _is_reachable() -> bool:
    """Whether the hub answers at all, with whatever status."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except OSError:
        return False
    except transport_errors():
        return False
    return True


def transport_errors() -> tuple[type[Exception], ...]:
    """Network errors that the hub's client does not wrap: those of httpx2, or of httpx before it."""
    libraries = (sys.modules.get(name) for name in ("httpx2", "httpx"))
    return tuple(library.TransportError for library in libraries if library is not None)
