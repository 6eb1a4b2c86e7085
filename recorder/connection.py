"""Talking to a server: JSON over HTTP, a key that goes nowhere else, and what went wrong in one line."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, Any

from lrcsim.base.errors import ConfigError, brief

TIMEOUT = 600.0
"""Seconds to wait for one answer."""

LARGEST = 1 << 30
"""Bytes of one answer, at most."""

DEFAULT_KEY = "LRCSIM_SERVER_KEY"
"""The environment variable whose key is sent, if it is set and no other is named."""

ABOUT_THE_PROMPT = (400, 413, 422)
"""Statuses with which servers refuse one prompt: too long, malformed."""


class RefusedError(ConfigError):
    """A server refuses one prompt; others may do."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the prompts, and the key, to a place that nobody named."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        raise ConfigError(f"{req.full_url} redirects to {_plain(newurl)}: give that server's address if it is meant")


@dataclass(frozen=True)
class Connection:
    """One server.

    Attributes:
        url: its address without a path or a slash at the end: ``http://localhost:8000``.
        key: sent as a bearer token, or None. It is shown nowhere.
    """

    url: str
    key: str | None = None

    @classmethod
    def to(cls, url: str, key_name: str | None) -> Connection:
        """Take a server's address, and the key from the environment.

        Args:
            url: as the user gives it.
            key_name: of the environment variable that holds the key; None: `DEFAULT_KEY`, if it is set.

        Raises:
            ConfigError: the address is none, or there is no key under that name, or it cannot be sent.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no address of a server, write for example http://localhost:8000")
        key = os.environ.get(key_name or DEFAULT_KEY)
        if key_name is not None and not key:
            raise ConfigError(f"--api-key-env {key_name}: there is no such environment variable, or it is empty")
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError(f"the key in {key_name or DEFAULT_KEY} has characters that cannot be sent")
        return cls(url.rstrip("/"), key or None)

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path.

        Raises:
            ConfigError: the server does not answer, refuses, or answers with something else.
        """
        return self._fetch(urllib.request.Request(self.url + path))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON object to a path and return the one that is answered.

        Raises:
            RefusedError: the server refuses this body, not the client.
            ConfigError: the server does not answer, refuses, or answers with something else.
        """
        data = json.dumps(body).encode()
        return self._fetch(urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}))

    def _fetch(self, request: urllib.request.Request) -> dict[str, Any]:
        if self.key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                data = answer.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise ConfigError(f"{request.full_url} answers with more than {LARGEST >> 30} GiB")
            value = json.loads(data)
        except urllib.error.HTTPError as error:
            with error:
                text = _message(error.read(1 << 16).decode(errors="replace"))
            kind = RefusedError if error.code in ABOUT_THE_PROMPT and request.data is not None else ConfigError
            raise kind(f"{request.full_url} refuses: {error.code} {_plain(str(error.reason))} {text}".strip()) from None
        except ConfigError:
            raise
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            raise ConfigError(f"{request.full_url} does not answer as a server should ({brief(error)})") from None
        if not isinstance(value, dict):
            raise ConfigError(f"{request.full_url} answers with no JSON object")
        return value


def _message(text: str) -> str:
    """Return what a server says of a refusal: the message in its JSON, or its text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _plain(text)[:300]
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    return _plain(value if isinstance(value, str) else text)[:300]


def _plain(text: str) -> str:
    """Return text of a stranger as one line without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
