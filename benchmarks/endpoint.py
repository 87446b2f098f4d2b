"""Throughput of one endpoint, journal and accounting included, beside a bare asyncio client of the same SDK.

Both send the same requests to the same local server, as many at a time; the runs take turns. A target of 0.9: no more
than a tenth of the throughput goes into concurrency control, the journal on the disk, and accounts.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from posttrain.inference.journal import Journal, stream
from posttrain.inference.openai import OpenAIEndpoint, Server
from posttrain.inference.protocols import ChatRequest, SamplingParameters

SERVER = Path(__file__).parents[1] / "tests" / "inference" / "fault_server.py"
TARGET = 0.9


def bare(url: str, count: int, concurrency: int) -> float:
    """Requests a second of `concurrency` coroutines that take from one counter."""

    async def load() -> None:
        client = AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                messages: Any = [{"role": "user", "content": f"q{number}"}]
                found = await client.chat.completions.create(
                    model="m", messages=messages, temperature=1.0, top_p=1.0, max_tokens=8, seed=number
                )
                assert found.choices[0].message.content == f"re: q{number}"

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        await client.close()

    began = time.perf_counter()
    asyncio.run(load())
    return count / (time.perf_counter() - began)


def ours(url: str, count: int, concurrency: int) -> float:
    requests = (
        ChatRequest(f"r{i}", ({"role": "user", "content": f"q{i}"},), SamplingParameters(max_tokens=8))
        for i in range(count)
    )
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        began = time.perf_counter()
        endpoint = OpenAIEndpoint(Server(url, "m", concurrency=concurrency))
        answered = sum(1 for _ in stream(endpoint, requests, journal))
        endpoint.close()
        seconds = time.perf_counter() - began
        assert answered == count
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    figures: dict[str, float] = {}
    print(f"{'answer takes':>12} {'at a time':>9} {'bare/s':>8} {'ours/s':>8} {'ratio':>6} {'spread':>7}")
    for delay, concurrency, count in ((0.5, 64, 2000), (0.1, 64, 3000), (0.0, 64, 3000)):
        with subprocess.Popen(
            [sys.executable, str(SERVER), "--delay", str(delay)], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
            # What the server logs goes nowhere, or the pipe fills up.
            drain = subprocess.Popen(["cat"], stdin=server.stdout, stdout=subprocess.DEVNULL)
            rates = [(bare(url, count, concurrency), ours(url, count, concurrency)) for _ in range(args.rounds)]
            server.kill()
            drain.wait()
        ratios = [mine / theirs for theirs, mine in rates]
        ratio = statistics.median(ratios)
        theirs, mine = (statistics.median(column) for column in zip(*rates, strict=True))
        spread = max(ratios) - min(ratios)
        print(f"{delay:>10} s {concurrency:>9} {theirs:>8.0f} {mine:>8.0f} {ratio:>6.2f} {spread:>7.2f}")
        figures[f"ratio_at_{delay:g}_s"] = round(ratio, 3)
    met = min(figures.values()) >= TARGET
    print(json.dumps({"bench": "endpoint", "figures": figures, "targets": {"least_ratio": TARGET}, "met": met}))


if __name__ == "__main__":
    main()
