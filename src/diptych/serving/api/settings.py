"""Settings of the API: size limits, rates, queues, batching, and allowed origins and hosts."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.errors import ConfigError
from diptych.serving.names import as_names

MIB = 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the API. A request beyond a limit gets an error that names it, with a status below 500.

    Raises:
        ConfigError: a number is out of range, or `cors` allows every origin.
    """

    max_bytes: int = 32 * MIB
    """Maximum size of a request body in bytes."""
    max_pixels: int = 50_000_000
    """Maximum number of pixels of an image, checked before it is decoded."""
    max_rows: int = 64
    """Maximum number of images, and of texts, in a request. /v1/embeddings accepts up to 2,048 texts and embeds this
    many at a time."""
    max_text: int = 2_000
    """Maximum length of a text in characters."""
    rate: float = 0.0
    """Maximum requests per second for each API key, or for each address without keys; 0 is unlimited."""
    wrong_keys: float = 1.0
    """Maximum wrong API keys per second from each address, after an initial ten; beyond that, its requests are refused
    without checking their keys. 0 is unlimited."""
    queue: int = 64
    """Maximum requests in flight; further ones get status 429."""
    memory: int = 256 * MIB
    """Maximum bytes of request bodies and fetched images in memory; requests beyond that get status 429."""
    per_client: int | None = None
    """Maximum requests in flight for each API key, or for each address without keys; three quarters of the queue by
    default."""
    batch: int = 32
    """Maximum number of images or texts in a forward pass."""
    wait: float = 0.02
    """Maximum seconds that a batch waits for requests whose images are still being decoded."""
    body_seconds: float = 30.0
    """Maximum seconds for a request body to arrive; it must also arrive at 4 kB/s or faster."""
    urls: bool = False
    """Fetch images given as http(s) URLs; private addresses are always refused."""
    url_ports: tuple[int, ...] = (80, 443)
    """Ports from which images may be fetched."""
    cors: tuple[str, ...] = ()
    """Origins whose web pages may send requests, such as https://example.org; none by default."""
    hosts: tuple[str, ...] = LOOPBACK
    """Accepted Host headers, besides the address that the server listens on; * accepts all."""

    def __post_init__(self) -> None:
        for name in ("cors", "hosts"):  # a single name is one name, not a sequence of letters
            object.__setattr__(self, name, as_names(getattr(self, name)))
        for name in ("max_bytes", "max_pixels", "max_rows", "max_text", "queue", "memory", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.per_client is not None and self.per_client < 1:
            raise ConfigError(f"per_client is {self.per_client}; it must be at least 1")
        for name in ("rate", "wait", "wrong_keys"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not self.body_seconds > 0:
            raise ConfigError(f"body_seconds is {self.body_seconds}; it must be more than 0")
        if "*" in self.cors:
            raise ConfigError("cors is '*', which allows every web page; name the origins, such as https://example.org")
