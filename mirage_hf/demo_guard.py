"""What stands in front of the demo's server: it keeps Gradio, and the visitor's browser, from asking other hosts.

Gradio fetches what visitors name: `/gradio_api/file=https://...` passes any public address on, and an address in the
place of an uploaded file is downloaded. Both are refused here, before Gradio sees them. And its pages may refer to
other hosts, which the browser is told not to ask.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Gradio's scripts need eval, and its styles are inline.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
SCHEMES = ("http:", "https:")
MAX_BODY = 1 << 20  # of a request that is no upload: it holds names of files and numbers


class Guard:
    """
    ASGI middleware: refuses requests that would make the server ask other hosts, and adds `HEADERS` to responses.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]):
        self.app = app
        self.headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        if any(scheme in scope["path"].lower() for scheme in SCHEMES):
            await _refuse(send_guarded, 403, b"this server fetches nothing from the web")
            return
        kind = dict(scope["headers"]).get(b"content-type", b"").lower()
        if scope["method"] == "POST" and not kind.startswith(b"multipart/form-data"):
            body = await _read(receive)
            if body is None:
                await _refuse(send_guarded, 413, b"the request is too long")
                return
            if _names_address(body):
                await _refuse(send_guarded, 403, b"this server fetches nothing from the web")
                return
            receive = _replayed(body, receive)
        await self.app(scope, receive, send_guarded)


async def _read(receive: Receive) -> bytes | None:
    """A request's body; `None` where it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _names_address(body: bytes) -> bool:
    """Whether there is an address on the web where Gradio expects a file's path, at any depth."""
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):  # Gradio can't read it either
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if str(value.get("path")).strip().lower().startswith(SCHEMES):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


async def _refuse(send: Send, status: int, reason: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(reason)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason})


__all__ = ["HEADERS", "Guard"]
