"""Clients of model servers, with the official SDKs: `openai` (and every server that speaks its chat
protocol), `anthropic`. SDKs are an extra and imported when a client is made.

Retries, waiting and budgets are not theirs (`search/accounts.py`): a client asks once.
"""

from __future__ import annotations

import math
import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from opwright.search.llm import (
    LARGEST_TEXT,
    LLMClient,
    LLMError,
    Request,
    Response,
    Usage,
    estimated,
    printable,
)

PROVIDERS = ("openai", "anthropic")
CONFIG = "opwright.toml"  # in the working folder; OPWRIGHT_CONFIG names another file
LARGEST_BODY = 16 << 20  # bytes of a server's reply that are read
OVERHEAD = 20_000  # tokens that a server may add to a request or an answer
EFFORTS = ("", "none", "minimal", "low", "medium", "high", "xhigh", "max")
_ERRORS = {400: "request", 401: "auth", 403: "auth", 404: "request", 408: "timeout", 409: "server",
           413: "request", 422: "request", 429: "rate_limit"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach a model. Empty fields are the SDK's or the server's defaults; `key` is never
    printed. `prices`: model -> {input, output, cached} in USD for a million tokens."""

    provider: str
    model: str
    base_url: str = ""
    effort: str = ""
    key: str = field(default="", repr=False)
    timeout: float = 600.0
    max_tokens: int = 16384
    temperature: float | None = None
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def settings(
    provider: str,
    model: str = "",
    base_url: str = "",
    effort: str = "",
    environment: Mapping[str, str] = os.environ,
    config: Path | None = None,
) -> Settings:
    """What the command line says, else the environment, else the configuration file.

    Environment: OPWRIGHT_MODEL, OPWRIGHT_EFFORT, and OPENAI_ or ANTHROPIC_ with MODEL, BASE_URL,
    API_KEY. The file has tables [llm], [llm.openai], [llm.anthropic], [llm.prices."MODEL"].
    LLMError `missing` without a model; `request` for a damaged file.
    """
    named = environment.get("OPWRIGHT_CONFIG")
    path = config or Path(named or CONFIG)
    held: dict[str, Any] = {}
    if path.exists():
        try:
            data = tomllib.loads(path.read_text()).get("llm", {})
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise LLMError("request", f"{path}: {e}") from None
        held = {k: v for k, v in data.items() if not isinstance(v, dict)}
        held |= data.get(provider, {})
        held["prices"] = data.get("prices", {})
        unknown = sorted(set(held) - {f for f in Settings.__slots__ if f != "provider"})
        if unknown:
            raise LLMError("request", f"{path}: unknown setting {unknown[0]!r} in [llm]")
    prefix = provider.upper()
    found = {
        "model": environment.get("OPWRIGHT_MODEL") or environment.get(f"{prefix}_MODEL"),
        "base_url": environment.get(f"{prefix}_BASE_URL"),
        "effort": environment.get("OPWRIGHT_EFFORT"),
        "key": environment.get(f"{prefix}_API_KEY"),
    }
    held |= {k: v for k, v in found.items() if v}
    held |= {k: v for k, v in (("model", model), ("base_url", base_url), ("effort", effort)) if v}
    if not held.get("model"):
        raise LLMError(
            "missing", f"no model is named: give --model, or set OPWRIGHT_MODEL, or {path}"
        )
    if held.get("effort", "") not in EFFORTS:
        raise LLMError("request", f"there is no effort {held['effort']}: {', '.join(EFFORTS[1:])}")
    return Settings(provider, **held)


def connect(chosen: Settings) -> LLMClient:
    """The client of a provider; LLMError `missing` without its SDK, `auth` without a key."""
    if chosen.provider == "openai":
        return OpenAI(chosen)
    if chosen.provider == "anthropic":
        return Anthropic(chosen)
    raise LLMError("missing", f"there is no provider {chosen.provider}: {', '.join(PROVIDERS)}")


def _key(chosen: Settings) -> str:
    if chosen.key:
        return chosen.key
    if chosen.base_url:  # local servers want none, the SDK wants some text
        return "none"
    name = f"{chosen.provider.upper()}_API_KEY"
    raise LLMError("auth", f"no key: set {name}, or --base-url of a server that needs none")


def _bounded(sdk: Any, limit: float) -> Any:
    """The SDK's own HTTP client, which reads of a reply no more than LARGEST_BODY and for no longer
    than `limit` seconds. What is packed is not unpacked: it has no size before."""

    def sent(request: Any) -> None:
        request.headers["accept-encoding"] = "identity"

    def came(reply: Any) -> None:
        packed = reply.headers.get("content-encoding", "identity")
        if packed.strip().lower() not in ("", "identity"):
            what = f"the reply is packed ({packed[:40]}), which was not asked for"
            raise LLMError("malformed", what, billed=True)
        base = next(c for c in type(reply.stream).__mro__ if c.__name__ == "SyncByteStream")
        kind = type("Bounded", (_Bounded, base), {})
        reply.stream = kind(reply.stream, time.monotonic() + limit)

    return sdk.DefaultHttpxClient(event_hooks={"request": [sent], "response": [came]})


class _Bounded:
    """A stream of bytes that ends with an error where it is too long or too slow."""

    def __init__(self, inner: Any, end: float) -> None:
        self.inner, self.end = inner, end

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self.inner:
            size += len(part)
            if size > LARGEST_BODY:
                what = f"the reply is larger than {LARGEST_BODY >> 20} MiB"
                raise LLMError("malformed", what, billed=True)
            if time.monotonic() > self.end:
                raise LLMError("timeout", "no whole answer in time", billed=True)
            yield part

    def close(self) -> None:
        self.inner.close()


class OpenAI:
    """Any server that speaks the chat protocol of OpenAI."""

    paid = True

    def __init__(self, chosen: Settings) -> None:
        try:
            import openai
        except ImportError:
            raise LLMError(
                "missing", "the package openai is absent: install opwright[llm]"
            ) from None
        self.settings = chosen
        self._sdk: Any = openai
        self._client: Any = openai.OpenAI(
            api_key=_key(chosen),
            base_url=chosen.base_url or None,
            timeout=chosen.timeout,
            max_retries=0,
            http_client=_bounded(openai, chosen.timeout),
        )

    @property
    def name(self) -> str:
        return f"openai:{self.settings.model}"

    def complete(self, request: Request) -> Response:
        messages = [{"role": "system", "content": request.system}] if request.system else []
        messages += [{"role": m.role, "content": m.content} for m in request.messages]
        # the vendor's own newer models know the second name alone, other servers often the first
        limit = "max_tokens" if self.settings.base_url else "max_completion_tokens"
        more: dict[str, Any] = {limit: request.max_tokens}
        if request.effort:
            more["reasoning_effort"] = request.effort
        if request.temperature is not None:
            more["temperature"] = request.temperature
        found, seconds = _guarded(
            self._sdk,
            lambda: self._client.chat.completions.create(
                model=request.model or self.settings.model, messages=messages, **more
            ),
        )
        try:
            choice = found.choices[0]
            message = choice.message
            text, refusal = message.content, getattr(message, "refusal", None)
            finish = str(choice.finish_reason or "stop")
        except (AttributeError, IndexError, TypeError) as e:
            raise LLMError("malformed", f"the answer has no choice: {e}", billed=True) from None
        if not isinstance(text, str) and text is not None:
            raise LLMError("malformed", "the answer's content is no text", billed=True)
        kind = {"length": "length", "content_filter": "refusal"}.get(finish, "stop")
        if refusal:
            kind, text = "refusal", str(refusal)
        usage = getattr(found, "usage", None)
        details = getattr(usage, "prompt_tokens_details", None)
        counted = (
            getattr(usage, "prompt_tokens", None),
            getattr(usage, "completion_tokens", None),
            getattr(details, "cached_tokens", 0),
        )
        return _response(request, text or "", kind, found, counted, seconds)


class Anthropic:
    """The messages protocol of Anthropic."""

    paid = True

    def __init__(self, chosen: Settings) -> None:
        try:
            import anthropic
        except ImportError:
            what = "the package anthropic is absent: install opwright[llm]"
            raise LLMError("missing", what) from None
        self.settings = chosen
        self._sdk: Any = anthropic
        self._client: Any = anthropic.Anthropic(
            api_key=_key(chosen),
            base_url=chosen.base_url or None,
            timeout=chosen.timeout,
            max_retries=0,
            http_client=_bounded(anthropic, chosen.timeout),
        )

    @property
    def name(self) -> str:
        return f"anthropic:{self.settings.model}"

    def complete(self, request: Request) -> Response:
        more: dict[str, Any] = {}
        if request.system:
            more["system"] = request.system
        if request.effort:
            more["output_config"] = {"effort": request.effort}
        if request.temperature is not None:
            # not an argument of every version of the SDK
            more["extra_body"] = {"temperature": request.temperature}
        found, seconds = _guarded(
            self._sdk,
            lambda: self._client.messages.create(
                model=request.model or self.settings.model,
                max_tokens=request.max_tokens,
                messages=[{"role": m.role, "content": m.content} for m in request.messages],
                timeout=self.settings.timeout,
                **more,
            ),
        )
        blocks = getattr(found, "content", None)
        if not isinstance(blocks, list):
            raise LLMError("malformed", "the answer has no content", billed=True)
        parts = [getattr(b, "text", None) for b in blocks if getattr(b, "type", "") == "text"]
        text = "".join(p for p in parts if isinstance(p, str))
        finish = str(getattr(found, "stop_reason", "") or "end_turn")
        kind = {"max_tokens": "length", "refusal": "refusal"}.get(finish, "stop")
        usage = getattr(found, "usage", None)
        cached = getattr(usage, "cache_read_input_tokens", 0) or 0
        made = getattr(usage, "cache_creation_input_tokens", 0) or 0
        given: Any = getattr(usage, "input_tokens", None)
        numbers = all(isinstance(n, int) for n in (given, cached, made))
        total = given + cached + made if numbers else None
        counted = (total, getattr(usage, "output_tokens", None), cached)
        return _response(request, text, kind, found, counted, seconds)


def _response(
    request: Request,
    text: str,
    kind: str,
    found: Any,
    counted: tuple[Any, Any, Any],
    seconds: float,
) -> Response:
    """What both protocols say, kept as it can be written down and read again."""
    text = text[:LARGEST_TEXT].encode("utf-8", "replace").decode()  # no halves of characters
    model = printable(str(getattr(found, "model", "") or ""))[:200]
    return Response(
        text, kind, model, _usage(request, *counted) or estimated(request, text), seconds
    )


def _usage(request: Request, given: Any, made: Any, cached: Any) -> Usage | None:
    """What the server counted, where it says numbers that can be true: no token is shorter than a
    byte, and an answer has few more than were asked for."""
    if not all(type(n) is int and n >= 0 for n in (given, made)) or given + made == 0:
        return None
    most = len(request.text.encode("utf-8", "replace")) + OVERHEAD
    if given > most or made > 2 * request.max_tokens + OVERHEAD:
        return None
    return Usage(given, made, min(cached, given) if type(cached) is int and cached > 0 else 0)


def _guarded(sdk: Any, call: Any) -> tuple[Any, float]:
    """What the call gives, with the SDK's errors as ours, and its seconds."""
    begin = time.monotonic()
    try:
        return call(), time.monotonic() - begin
    except sdk.APITimeoutError:
        raise LLMError("timeout", "no answer in time", billed=True) from None
    except sdk.APIConnectionError as e:
        if isinstance(e.__cause__, LLMError):
            raise e.__cause__ from None
        why = str(e.__cause__ or e).splitlines()[:1]
        raise LLMError("connection", f"no connection: {''.join(why)[:200]}", billed=True) from None
    except sdk.APIStatusError as e:
        status = int(e.status_code)
        kind = _ERRORS.get(status, "server" if status >= 500 else "request")
        message = f"the server says {status}: {_brief(e)}"
        raise LLMError(kind, message, _retry_after(e.response.headers)) from None
    except sdk.APIError as e:
        raise LLMError("malformed", f"not an answer: {_brief(e)}", billed=True) from None
    # what SDKs make of garbage
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        what = f"not an answer ({type(e).__name__}: {str(e)[:200]})"
        raise LLMError("malformed", what, billed=True) from None


def _brief(e: Exception) -> str:
    return next(iter(str(getattr(e, "message", e)).splitlines()), "")[:200]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: a number, or until a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        told = headers.get(name)
        if told is None:
            continue
        try:
            seconds = float(told) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(told).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError, OSError):
                continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None


def with_model(chosen: Settings, model: str) -> Settings:
    """The same server and another of its models."""
    return replace(chosen, model=model)
