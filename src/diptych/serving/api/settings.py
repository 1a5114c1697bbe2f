"""What the API allows: sizes, rates, queues, and for whom."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.errors import ConfigError

MIB = 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits of the API; each refuses with one sentence and a status below 500.

    Raises:
        ConfigError: a number is out of range.
    """

    max_bytes: int = 32 * MIB
    """Bytes of a request's body."""
    max_pixels: int = 50_000_000
    """Pixels of a picture, by its header, before any is decoded."""
    max_rows: int = 64
    """Pictures, and texts, in a request."""
    max_text: int = 2_000
    """Characters of a text."""
    rate: float = 0.0
    """Requests a second for each key, or for each address where there are no keys; 0 sets no limit."""
    wrong_keys: float = 1.0
    """Wrong API keys a second from each address, after ten at once; then none of its keys is looked at. 0: no limit."""
    queue: int = 64
    """Requests that may be read, wait or be worked on at once; what comes then gets 429."""
    memory: int = 256 * MIB
    """Bytes of bodies and fetched pictures that may be held at once; what comes then gets 429."""
    per_client: int | None = None
    """Requests that each key, or each address where there are no keys, may have in hand; three quarters of the queue
    when not given."""
    batch: int = 32
    """Pictures or texts that go through a model at once."""
    wait: float = 0.02
    """Seconds that a batch waits at most for requests which are still being read."""
    body_seconds: float = 30.0
    """Seconds that a request's body may take to arrive; it may not be slower than 4 kB a second either."""
    urls: bool = False
    """Fetch pictures that are given as URLs; private addresses stay refused."""
    url_ports: tuple[int, ...] = (80, 443)
    """Ports from which they are fetched."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser, such as https://example.org; none as it comes."""
    hosts: tuple[str, ...] = LOOPBACK
    """Names by which the server may be asked for (the Host header), beside the address that it is reached at; * allows
    every name."""

    def __post_init__(self) -> None:
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
            raise ConfigError(
                "cors is '*', which lets every web page ask; name the origins, such as https://example.org"
            )
