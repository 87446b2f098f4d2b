"""An OpenAI-compatible server that fails on purpose. Run as a program: prints its port, then one line per request.

Lines: ``ok KEY`` when an answer was sent whole, ``fault KIND KEY`` otherwise. The answer to a question is "re: " and
the question. Standard library alone.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys

FAULTS = ("429", "500", "cut", "malformed", "two_choices", "no_choice", "reset") * 4 + ("slow",)


class FaultServer:
    def __init__(self, share: float, delay: float, seed: int, storms: bool, down_every: float, context: int):
        self.share, self.delay, self.storms, self.down_every = share, delay, storms, down_every
        self.context = context
        self.random = random.Random(seed)
        self.due = list(dict.fromkeys(FAULTS)) if share else []  # each kind once, whatever is drawn
        self.flying = self.peak = 0
        self.storm_until = 0.0

    async def serve(self) -> None:
        self.server = await asyncio.start_server(self.connection, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        print(port, flush=True)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.down_every or 3600)
            if self.down_every:  # refused connections for a while
                self.server.close()
                await asyncio.sleep(0.3)
                self.server = await asyncio.start_server(self.connection, "127.0.0.1", port)
            if self.storms:
                self.storm_until = loop.time() + 0.4

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                body = json.loads(await reader.readexactly(length))
                self.flying += 1
                self.peak = max(self.peak, self.flying)
                try:
                    if not await self.respond(body, writer):
                        break
                finally:
                    self.flying -= 1
        writer.close()

    async def respond(self, body: dict, writer: asyncio.StreamWriter) -> bool:
        question = body["messages"][-1]["content"]
        fault = None
        if asyncio.get_running_loop().time() < self.storm_until:
            fault = "429"
        elif self.random.random() < self.share:
            fault = self.due.pop() if self.due else self.random.choice(FAULTS)
        if len(question) > (40 if body["model"] == "short" else self.context):
            fault = "400"
        if fault:
            print("fault", fault, question, flush=True)
        if fault == "400":
            error = {"message": f"This model's maximum context length is {self.context}", "code": "context_length"}
            self.send(writer, 400, {"error": error})
        elif fault == "429":
            self.send(writer, 429, {"error": {"message": "slow down"}}, "retry-after: 0.05\r\n")
        elif fault == "500":
            self.send(writer, 500, {"error": {"message": "oops"}})
        elif fault == "malformed":
            self.send(writer, 200, b'{"choices": [{"mess')
        elif fault in ("two_choices", "no_choice"):
            self.send(writer, 200, self.answer(body, 2 if fault == "two_choices" else 0))
        elif fault == "reset":
            writer.transport.abort()
            return False
        elif fault == "cut":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n" + b'{"ch')
            await writer.drain()
            return False
        elif fault == "slow":  # a byte at a time: no read ever times out, the whole must
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n")
            for _ in range(200):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
            return False
        else:
            await asyncio.sleep(self.delay)
            self.send(writer, 200, self.answer(body, 1))
            print("ok", question, flush=True)
        await writer.drain()
        return True

    def answer(self, body: dict, count: int) -> dict:
        question = body["messages"][-1]["content"]
        text = f"re: {question}" + ("" if body["model"] == "m" else f" by {body['model']} {body.get('seed', 0) % 7}")
        if "response_format" in body:
            text = ratings(question, body["response_format"]["json_schema"]["schema"], body["model"])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice] * count, "usage": usage}

    def send(self, writer: asyncio.StreamWriter, status: int, body: dict | bytes, headers: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)


def ratings(question: str, schema: dict, model: str) -> str:
    """A judge's answer to the schema: rates a text by the digits in it; the model "tie" rates all alike."""
    found = {}
    for key, entry in schema["properties"].items():
        shown = question.split(f"# Text {key.removeprefix('text_')}\n\n")[1].split("\n\n# ")[0]
        value = 3 if model == "tie" else 1 + sum(ord(letter) for letter in shown) % 5
        found[key] = {name: {"rationale": "so", "rating": value} for name in entry["required"]}
    return json.dumps(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=0.0, help="share of requests that fail")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds to an answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storms", action="store_true", help="now and then everybody gets 429")
    parser.add_argument("--down-every", type=float, default=0.0, help="seconds between refusals of all connections")
    parser.add_argument("--context", type=int, default=10**9, help="most letters of a question")
    args = parser.parse_args()
    try:
        asyncio.run(FaultServer(**vars(args)).serve())
    except KeyboardInterrupt:
        sys.exit(0)
