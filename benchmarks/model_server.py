"""A server on this machine that speaks the chat protocol of OpenAI and the messages protocol of
Anthropic, and misbehaves by plan."""

from __future__ import annotations

import contextlib
import email.utils
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# what a server does with a request: the text of an answer, or one of the words below in front
Plan = Callable[[int, str], str]
ERRORS = {
    "!429": 429,
    "!500": 500,
    "!503": 503,
    "!401": 401,
    "!400": 400,
    "!529": 529,
}


class Server(ThreadingHTTPServer):
    """`plan` gets the number of the request and its last message. `!429` asks to wait a moment,
    `!500`, `!503`, `!529`, `!400`, `!401` fail, `!hang` answers too late, `!drop` closes,
    `!garbage` is no JSON, `!empty` has no answer, `!nested` is JSON that nobody can read, `!refuse`
    refuses, `!cut TEXT` ends with the length, `!count TEXT` says impossible numbers of tokens,
    `!half` sends half of a body, `!flood` one without end, `!drip` one of a byte now and then,
    `!packed` one that is compressed, `!later` names a date to come again at."""

    daemon_threads = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan = plan
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.hang = 3.0

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def base(self, provider: str) -> str:
        """What the SDK of a provider is given."""
        return self.url if provider == "openai" else self.root

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that were killed or gave up


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            number = len(server.asked)
            server.asked.append(body)
        act = server.plan(number, body["messages"][-1]["content"])
        word = act.split(" ", 1)[0]
        if word in ERRORS:
            more = {"retry-after": "0.05"} if word == "!429" else {}
            self._send(ERRORS[word], json.dumps({"error": {"message": "not now"}}), more)
        elif word == "!hang":
            time.sleep(server.hang)
        elif word == "!drop":
            self.close_connection = True
        elif word == "!garbage":
            self._send(200, "<html>busy</html>")
        elif word == "!empty":
            self._send(200, json.dumps({"id": "x", "object": "chat.completion", "choices": []}))
        elif word == "!nested":
            self._send(200, "[" * 100_000)
        elif word == "!half":
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "5000")
            self.end_headers()
            self.wfile.write(b'{"id": "x", "choices": [{"mess')
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        elif word == "!later":
            at = email.utils.formatdate(time.time() + 30, usegmt=True)
            self._send(429, "{}", {"retry-after": at})
        elif word == "!packed":
            self._send(200, "x", {"content-encoding": "gzip"})
        elif word in ("!flood", "!drip"):
            self.send_response(200)
            self.send_header("content-length", str(1 << 40))
            self.end_headers()
            with contextlib.suppress(OSError):  # until whoever reads has had enough
                while True:
                    self.wfile.write(b" " * ((1 << 20) if word == "!flood" else 1))
                    self.wfile.flush()
                    time.sleep(0.0 if word == "!flood" else 0.05)
            self.close_connection = True
        elif word == "!refuse":
            self._answer("", "stop", refusal="I will not do that.")
        elif word == "!cut":
            self._answer(act.partition(" ")[2], "length")
        elif word == "!count":
            self._answer(act.partition(" ")[2], "stop", tokens=10**15)
        else:
            self._answer(act, "stop")

    def _answer(self, text: str, finish: str, refusal: str | None = None, tokens: int = 50) -> None:
        if self.path.endswith("/messages"):
            ends = {"length": "max_tokens", "stop": "refusal" if refusal else "end_turn"}
            said = {
                "id": "x",
                "type": "message",
                "role": "assistant",
                "model": "toy-1",
                "content": [{"type": "text", "text": refusal or text}],
                "stop_reason": ends[finish],
                "stop_sequence": None,
                "usage": {"input_tokens": 60, "cache_read_input_tokens": 40,
                          "cache_creation_input_tokens": 0, "output_tokens": tokens},
            }  # fmt: skip
            self._send(200, json.dumps(said))
            return
        message = {"role": "assistant", "content": text, "refusal": refusal}
        found = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "toy-1",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": tokens, "total_tokens": 150},
        }
        self._send(200, json.dumps(found))

    def _send(self, status: int, text: str, more: dict[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(plan: Plan) -> Iterator[Server]:
    """The server, until the end of the block."""
    server = Server(plan)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
