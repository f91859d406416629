"""The server: requests that come together are answered together; whatever is sent ends in an answer or a sentence."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import httpx
import pytest
from helpers import make_task, sharp_teacher, texts

from kdtutor.cli import main
from kdtutor.deploy.onnx import export
from kdtutor.deploy.server import CLIENTS, Limits, _Limited, create_app
from kdtutor.deploy.session import OnnxModel
from kdtutor.hardware import release_freed_memory


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> OnnxModel:
    task = make_task()
    return OnnxModel(
        export(sharp_teacher(task), task, tmp_path_factory.mktemp("server") / "m").folder, threads=1
    )


def asked(app, *bodies, headers=None) -> list[httpx.Response]:
    """Send all bodies at once, and wait for what they get."""

    async def talk():
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                how = {"headers": {"content-type": "application/json"} | (headers or {})}
                sent = (client.post("/predict", content=body, **how) for body in bodies)
                return await asyncio.gather(*sent)

    return asyncio.run(talk())


def body(*texts: str) -> bytes:
    return json.dumps({"texts": texts}).encode()


def test_requests_that_come_together_are_one_batch_and_each_gets_its_own(exported):
    app, rows = create_app(exported, wait=0.2), texts(12, 30)
    answers = [
        r.json()["answers"]
        for r in asked(app, *(body(a, b) for a, b in zip(rows[::2], rows[1::2], strict=True)))
    ]
    assert app.state.batcher.batches == 1
    assert app.state.batcher.waiting == 0
    for i, logits in enumerate(exported.logits(rows)):
        answer = answers[i // 2][i % 2]
        assert answer["label"] == exported.labels[int(logits.argmax())]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_one_at_a_time_is_a_batch_for_each_request(exported):
    app = create_app(exported, most=1)
    assert [r.status_code for r in asked(app, *[body("fish")] * 5)] == [200] * 5
    assert app.state.batcher.batches == 5


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "🦦" * 50, "", "\x00\x07", "a" * 10_000, "ﷺ‮"])
def test_any_text_within_the_limits_is_answered(exported, text):
    [answer] = asked(create_app(exported), body(text))
    assert answer.status_code == 200
    assert len(answer.json()["answers"]) == 1


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        (body("a" * 100_000), 413, "text 1 has 100,000 characters, and at most 10,000 are read"),
        (body(*["a"] * 65), 413, "65 texts at once, and at most 64 are answered"),
        (b'{"texts": ["' + b"a" * 1_000_001 + b'"]}', 413, "the request is larger than 1,000,000 bytes"),
        (b'{"texts": ["\xff"]}', 400, "the request is not UTF-8: byte 12 is not part of a character"),
        (b'{"texts": ["\\ud800"]}', 400, "text 1 holds half a character (a lone surrogate)"),
        (b"{", 422, 'send {"texts": ["…"]} as JSON'),
        (b'{"texts": []}', 422, 'send {"texts": ["…"]} as JSON'),
        (b'{"texts": "one"}', 422, 'send {"texts": ["…"]} as JSON'),
        (b"", 422, 'send {"texts": ["…"]} as JSON'),
        (b"[" * 100_000, 400, "error parsing the body"),
    ],
)
def test_what_can_not_be_answered_is_said_in_a_sentence(exported, sent, status, sentence):
    app = create_app(exported)
    refused, answered = asked(app, sent, body("fish"))
    assert refused.status_code == status
    assert [*refused.json()] == ["error"]
    assert sentence in refused.json()["error"]
    assert "\n" not in refused.json()["error"]
    # Nobody else is the worse for it.
    assert answered.status_code == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_who_forgets_to_say_that_it_is_json_is_told_so(exported, kind):
    [refused] = asked(create_app(exported), body("fish"), headers={"content-type": kind})
    assert refused.status_code == 415
    assert refused.json() == {
        "error": f"the request is {kind}, and JSON is read: Content-Type: application/json"
    }


def test_a_text_that_holds_markup_comes_back_in_no_answer(exported):
    """An answer names labels and numbers, and a refusal says what is wrong: neither repeats what was sent."""
    sent = [
        body("<script>alert(1)</script>"),
        b'{"texts": ["\xff<script>"]}',
        b"<script>",
        b'{"texts": "<script>"}',
    ]
    answers = asked(create_app(exported), *sent)
    assert [r.status_code for r in answers] == [200, 400, 422, 422]
    assert not [r for r in answers if "<" in r.text]


def test_who_asks_too_often_waits(exported):
    app = create_app(exported, limits=Limits(per_minute=3))
    found = asked(app, *[body("fish")] * 5)
    assert sorted(r.status_code for r in found) == [200, 200, 200, 429, 429]
    assert "more than 3 requests a minute" in max(found, key=lambda r: r.status_code).json()["error"]


def test_a_full_queue_takes_no_more(exported):
    app = create_app(exported, wait=0.2, limits=Limits(waiting=4))
    found = asked(app, *[body("fish", "tree")] * 3)
    assert sorted(r.status_code for r in found) == [200, 200, 503]
    assert app.state.batcher.waiting == 0


def test_clients_that_never_come_back_are_forgotten():
    limited = _Limited(None, Limits())
    assert all(limited._is_allowed(str(i)) for i in range(3 * CLIENTS))
    assert len(limited.left) == CLIENTS


def test_a_model_that_fails_fails_its_requests_and_not_the_next(exported, monkeypatch):
    app = create_app(exported)
    run, calls = exported.logits, []

    def once(*given):
        calls.append(given)
        if len(calls) == 1:
            raise MemoryError
        return run(*given)

    monkeypatch.setattr(exported, "logits", once)

    async def talk():
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return [
                    (await client.post("/predict", json={"texts": ["fish"]})).status_code for _ in range(2)
                ]

    assert asyncio.run(talk()) == [500, 200]


@pytest.mark.skipif(
    not Path("/proc/self/statm").is_file(), reason="NOT TESTED: memory, which only Linux tells so"
)
def test_two_thousand_requests_sound_and_broken_take_no_memory(exported):
    app = create_app(exported, wait=0.0, limits=Limits(bytes=200_000, per_minute=10**6))
    odd = [
        body("<script>alert(1)</script>"),
        body("👩‍👩‍👧 " * 500),
        body("x" * 100_000),
        b'{"texts": ["\xff"]}',
        b"{",
    ]

    def resident() -> float:
        release_freed_memory()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    sent = [*(body(text) for text in texts(7, 0)), *odd, *odd, body(*texts(50, 1))]
    held = []

    async def talk() -> set[int]:
        statuses = set()
        how = {"headers": {"content-type": "application/json"}}
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")
        async with app.router.lifespan_context(app), client:
            for turn in range(2000 // len(sent)):
                answers = await asyncio.gather(*(client.post("/predict", content=one, **how) for one in sent))
                statuses |= {answer.status_code for answer in answers}
                if turn == 20:
                    held.append(resident())
        return statuses

    assert asyncio.run(talk()) == {200, 400, 413, 422}
    assert resident() < held[0] + 20
    assert app.state.batcher.waiting == 0


def test_it_listens_to_this_machine_alone_unless_told_otherwise(exported, monkeypatch):
    seen = []
    monkeypatch.setattr("kdtutor.deploy.server.uvicorn.run", lambda app, **how: seen.append(how))
    for flags in ([], ["--host", "0.0.0.0"]):
        assert main(["serve", str(exported.folder), *flags]) == 0
    assert [(how["host"], how["port"]) for how in seen] == [("127.0.0.1", 8000), ("0.0.0.0", 8000)]


def test_it_is_described(exported):
    described = create_app(exported).openapi()
    assert set(described["paths"]) == {"/health", "/predict"}


def test_a_folder_without_a_model_is_said_before_anything_listens(tmp_path, capsys):
    assert main(["serve", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "holds no exported model" in said.err
    assert "answers at" not in said.out
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "port must be a port, 1 to 65535" in capsys.readouterr().err
