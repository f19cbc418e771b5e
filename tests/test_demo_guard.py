"""What stands in front of the demo's server, on its own; and Gradio without it, to see that it is needed."""

import asyncio
import json

import httpx
import pytest
from demos import TINY, free_port, outside_requests

import mirage_hf.demo
from mirage_hf.demo import DemoArguments, running_demo
from mirage_hf.demo_guard import HEADERS, MAX_BODY, Guard


def ask(path="/", method="POST", parts=(b"",), kind=b"application/json"):
    """Status, headers and body of an answer, and the body that reached the application behind the guard."""
    arrived, sent, waiting = [], [], [*parts]

    async def application(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        arrived.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"done"})

    async def receive():
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    headers = [] if kind is None else [(b"content-type", kind)]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(Guard(application)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"], arrived


def body_with(path, depth=3) -> bytes:
    value = {"path": path}
    for _ in range(depth):
        value = {"data": [1, value, "x"]}
    return json.dumps(value).encode()


@pytest.mark.parametrize("kind", [b"application/json", b"application/ld+json", b"text/plain", None])
@pytest.mark.parametrize("path", ["http://a.b/c", "HTTPS://a.b/c", "\thttps:a.b"])
def test_an_address_as_a_path_is_refused_at_any_depth(path, kind):
    body = body_with(path)
    for parts in ([body], [body[:10], body[10:]]):
        status, headers, said, arrived = ask(parts=parts, kind=kind)
        assert (status, said, arrived) == (403, b"this server fetches nothing from the web", [])
        assert headers[b"content-security-policy"].startswith(b"default-src 'self'")


@pytest.mark.parametrize(
    "body",
    [
        body_with("/tmp/x/http.jpg"),
        json.dumps({"data": [{"path": "a", "url": "http://127.0.0.1/a"}]}).encode(),  # what Gradio's own page sends
        b"no json http://a.b",
        b"[" * 100_000,
        b"",
    ],
)
def test_other_requests_arrive_as_they_are(body):
    status, headers, said, arrived = ask(parts=[body[:7], body[7:]])
    assert (status, said, arrived) == (200, b"done", [body])
    assert headers == {b"x-own": b"1"} | {name.encode(): value.encode() for name, value in HEADERS.items()}


def test_uploads_are_neither_held_nor_looked_into():
    body = body_with("http://a.b") + bytes(2 * MAX_BODY)
    assert ask(parts=[body], kind=b"multipart/form-data; boundary=x")[3] == [body]
    assert ask(parts=[bytes(MAX_BODY), b"x"])[0] == 413
    assert ask(parts=[bytes(MAX_BODY)])[0] == 200


@pytest.mark.parametrize("path", ["/gradio_api/file=http://a.b", "/gradio_api/proxy=HTTPS:/a.b"])
def test_an_address_in_the_place_of_a_file_is_refused(path):
    assert ask(path, "GET")[0] == 403
    assert ask("/gradio_api/file=/tmp/a", "GET")[0] == 200


def test_other_kinds_of_traffic_pass():
    passed = []

    async def application(scope, receive, send):
        passed.append(scope)

    asyncio.run(Guard(application)({"type": "lifespan"}, None, None))
    assert passed == [{"type": "lifespan"}]


def test_without_the_guard_gradio_would_look_names_up(monkeypatch):
    class Open:
        def __init__(self, app):
            self.app = app

        async def __call__(self, *arguments):
            await self.app(*arguments)

    monkeypatch.setattr(mirage_hf.demo, "Guard", Open)
    arguments = DemoArguments(str(TINY), port=free_port())
    with outside_requests() as asked, running_demo(arguments) as address:
        assert asked == []
        httpx.get(f"{address}gradio_api/file=http://name.invalid/a.jpg", timeout=60)
        assert any("name.invalid" in question for question in asked)
        asked.clear()
        sent = {"data": [[{"path": "http://name.invalid/b.jpg", "meta": {"_type": "gradio.FileData"}}]]}
        event = httpx.post(f"{address}gradio_api/call/score", json=sent).json()["event_id"]
        httpx.get(f"{address}gradio_api/call/score/{event}", timeout=60)
        assert any("name.invalid" in question for question in asked)
