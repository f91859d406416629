"""What batching requests buys a server: the same requests, by as many clients at once, collected and one by one.

    python benchmarks/serve.py exported                      32 clients, 20 requests each, three rounds
    python benchmarks/serve.py exported --clients 1          alone: what waiting for others costs

`exported` is a folder of `kdtutor export`. Servers are processes of their own on this machine, and take turns; each
client sends its next request when it has the answer to the last. A figure is the median over rounds; compare ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time

import httpx

from kdtutor import load_task

WAYS = {"batched": ["--most", "32", "--wait_ms", "5"], "one by one": ["--most", "1"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=20, help="of each client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", default="supersense", help="whose test texts are sent")
    a = parser.parse_args()
    texts = load_task(a.task).texts("test")[: a.clients * a.requests]
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    for _ in range(a.rounds):
        for way, flags in WAYS.items():
            found[way].append(measure(a.folder, flags, texts, a.clients))
    rows = {
        way: {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        for way, rounds in found.items()
    }
    for way, row in rows.items():
        times = f"median {row['median_ms']:.1f} ms, 95 % {row['p95_ms']:.1f} ms"
        print(f"{way:<12}{row['per_second']:8.0f} requests/s   {times}")
    ratio = rows["batched"]["per_second"] / rows["one by one"]["per_second"]
    print(json.dumps({"clients": a.clients, "batched / one by one": round(ratio, 2)}))


def measure(folder: str, flags: list[str], texts: list[str], clients: int) -> dict[str, float]:
    """Start a server, send everything, stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kdtutor", "serve", folder, "--port", str(port), *flags]
    server = subprocess.Popen([*command, "--per_minute", "1000000"], stdout=subprocess.DEVNULL)
    try:
        return asyncio.run(load(f"http://127.0.0.1:{port}", texts, clients))
    finally:
        server.terminate()
        server.wait()


async def load(address: str, texts: list[str], clients: int) -> dict[str, float]:
    """Send every text once, by so many clients: requests a second, and how long one waits."""
    times: list[float] = []
    left = iter(texts)
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        await ready(client)

        async def one() -> None:
            for text in left:
                start = time.perf_counter()
                (await client.post("/predict", json={"texts": [text]})).raise_for_status()
                times.append(time.perf_counter() - start)

        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        seconds = time.perf_counter() - start
    p95 = statistics.quantiles(times, n=20, method="inclusive")[-1]
    return {
        "per_second": len(times) / seconds,
        "median_ms": 1000 * statistics.median(times),
        "p95_ms": 1000 * p95,
    }


async def ready(client: httpx.AsyncClient, seconds: float = 60) -> None:
    """Wait until the server answers."""
    for _ in range(int(10 * seconds)):
        try:
            await client.get("/health")
            return
        except httpx.TransportError:
            await asyncio.sleep(0.1)
    raise SystemExit("the server does not answer")


if __name__ == "__main__":
    main()
