"""An exported model behind HTTP: requests that come together are answered together, and none can take all memory.

serve("my-student")                                        # http://127.0.0.1:8000, described at /docs
curl -d '{"texts": ["a warm and funny film"]}' -H 'Content-Type: application/json' 127.0.0.1:8000/predict
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kdtutor.deploy.session import OnnxModel, is_text

CLIENTS = 1000  # whose rates are remembered


@dataclass(frozen=True)
class Limits:
    """What a request may ask for. waiting: texts in the queue, over all clients. per_minute: requests of one client."""

    bytes: int = 1_000_000
    texts: int = 64
    characters: int = 10_000
    waiting: int = 1024
    per_minute: int = 600


class Texts(BaseModel):
    """What is asked."""

    texts: list[str] = Field(min_length=1, examples=[["a warm and funny film"]])


class Answer(BaseModel):
    """What one text is, and how sure the model is of each label. Numbers have no probability: value is theirs."""

    label: str | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None


class Answers(BaseModel):
    answers: list[Answer]


class Batcher:
    """Collects the texts of all requests that come within `wait` seconds, at most `most`, and runs the model once."""

    def __init__(self, model: OnnxModel, wait: float = 0.005, most: int = 32, waiting: int = 1024):
        self.model, self.wait, self.most, self.limit = model, wait, most, waiting
        self.waiting = self.batches = 0
        self.queue: asyncio.Queue[tuple[Sequence[str], asyncio.Future]] = asyncio.Queue()

    async def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Wait for the logits of some texts: (n, C). HTTPException 503 if too many wait already."""
        if self.waiting + len(texts) > self.limit:
            raise HTTPException(503, f"{self.waiting} texts are waiting already: try again in a moment")
        future = asyncio.get_running_loop().create_future()
        self.waiting += len(texts)
        try:
            self.queue.put_nowait((texts, future))
            return await future
        finally:
            self.waiting -= len(texts)

    async def work(self) -> None:
        """Answer for ever."""
        while True:
            asked = [await self.queue.get()]
            if self.most > 1:
                await asyncio.sleep(self.wait)
            while not self.queue.empty() and sum(len(texts) for texts, _ in asked) < self.most:
                asked.append(self.queue.get_nowait())
            # Who has gone away is not computed for.
            asked = [(texts, future) for texts, future in asked if not future.done()]
            if asked:
                await self._answer(asked)

    async def _answer(self, asked: list[tuple[Sequence[str], asyncio.Future]]) -> None:
        self.batches += 1
        try:
            # In a thread, so that requests are taken meanwhile.
            together = [text for texts, _ in asked for text in texts]
            logits = await asyncio.to_thread(self.model.logits, together, self.most)
        except Exception as error:
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for texts, future in asked:
            mine, logits = logits[: len(texts)], logits[len(texts) :]
            if not future.done():
                future.set_result(mine)


def create_app(
    model: OnnxModel, wait: float = 0.005, most: int = 32, limits: Limits | None = None
) -> FastAPI:
    """Make the application: POST /predict and GET /health, described at /docs and /openapi.json.

    wait: seconds for which requests are collected. most: texts in a batch; 1: each request alone.
    """
    limits = limits or Limits()
    batcher = Batcher(model, wait, most, limits.waiting)

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.work())
        yield
        task.cancel()

    app = FastAPI(title=f"kdtutor: {model.folder.name}", lifespan=working)
    app.state.batcher = batcher
    app.add_middleware(_Limited, limits=limits)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"labels": model.labels, "waiting": batcher.waiting}

    @app.post("/predict")
    async def predict(asked: Texts) -> Answers:
        _check(asked.texts, limits)
        return Answers(answers=_answers(await batcher.logits(asked.texts), model))

    return app


def serve(
    folder: str | os.PathLike,
    host: str = "127.0.0.1",
    port: int = 8000,
    wait: float = 0.005,
    most: int = 32,
    limits: Limits | None = None,
) -> None:
    """Serve an exported folder until Ctrl-C; by default to this machine alone. KDTutorError if it holds no model."""
    app = create_app(OnnxModel(folder), wait, most, limits)
    print(f"{folder} answers at http://{host}:{port}/docs until Ctrl-C", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")


def _check(texts: Sequence[str], limits: Limits) -> None:
    if len(texts) > limits.texts:
        raise HTTPException(413, f"{len(texts):,} texts at once, and at most {limits.texts} are answered")
    for number, text in enumerate(texts, 1):
        if len(text) > limits.characters:
            raise HTTPException(
                413, f"text {number} has {len(text):,} characters, and at most {limits.characters:,} are read"
            )
        if not is_text(text):
            raise HTTPException(400, f"text {number} holds half a character (a lone surrogate)")


def _answers(logits: np.ndarray, model: OnnxModel) -> list[Answer]:
    """Turn logits (n, C) into answers: of one label, of several, or numbers."""
    problem = model.problem_type
    if problem == "regression":
        return [Answer(value=float(row[0])) for row in logits]
    if problem == "multi_label_classification":
        probabilities = 1 / (1 + np.exp(-logits))
    else:
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
    named = [dict(zip(model.labels, map(float, row), strict=True)) for row in probabilities]
    return [Answer(label=max(row, key=row.__getitem__), probabilities=row) for row in named]


class _Limited:
    """Refuses a body that is too large before it is in memory, and a client that asks too often."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app, self.limits = app, limits
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client → requests, when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if not self._is_allowed(str((scope.get("client") or ("?",))[0])):
            said = f"more than {self.limits.per_minute} requests a minute: wait a little"
            return await _say(429, said)(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limits.bytes:
                said = f"the request is larger than {self.limits.bytes:,} bytes"
                return await _say(413, said)(scope, receive, send)
        try:
            body.decode()
        except UnicodeDecodeError as error:
            said = f"the request is not UTF-8: byte {error.start} is not part of a character"
            return await _say(400, said)(scope, receive, send)
        kept: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return kept.pop() if kept else await receive()

        return await self.app(scope, replay, send)

    def _is_allowed(self, client: str) -> bool:
        """Count a request: a client has a minute's requests in hand, which come back as time goes by."""
        now, most = time.monotonic(), self.limits.per_minute
        left, when = self.left.pop(client, (float(most), now))
        left = min(most, left + (now - when) * most / 60)
        self.left[client] = (left - 1 if left >= 1 else left, now)
        if len(self.left) > CLIENTS:
            self.left.popitem(last=False)
        return left >= 1


def _say(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return _say(error.status_code, str(error.detail))


async def _invalid(request: Request, error: Any) -> JSONResponse:
    """Say in a sentence what pydantic says in a list."""
    kind = request.headers.get("content-type", "")
    # What curl -d says unless it is told otherwise, and then the body is not read as JSON.
    if "json" not in kind:
        return _say(
            415, f"the request is {kind or 'of no type'}, and JSON is read: Content-Type: application/json"
        )
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:])) or "the request"
    return _say(422, f'{where}: {first["msg"]}; send {{"texts": ["…"]}} as JSON')
