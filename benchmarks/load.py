"""How a served run or bundle bears many who ask at the same time, and what it costs to misbehave.

    python benchmarks/load.py runs/RUN --clients 200 --seconds 120 --out benchmarks/records/DATE_load

Every client asks about one test image after the other, on a connection of its own, as fast as it is answered; they are
a process of the same machine, and take processor time from the server. Then a part of the time is repeated
beside sixty that send half a header, a body that never ends, or 17 MiB, again and again. At the end SIGTERM comes while
all of them ask: each answer that has begun must be whole. load.json has the percentiles of the answers' times as a
client saw them, every status, and the server's largest memory.
"""

import argparse
import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json
from daybreak.data import open_dataset
from daybreak.data.picture import to_picture

IMAGES = 100
MISBEHAVING = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", type=Path, help="a run or a bundle")
    parser.add_argument("--data", default="cifar10", help="whose test images are sent")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    images = pictures(arguments.data)
    command = [sys.executable, "-m", "daybreak", "serve", arguments.subject, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    port = int(process.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])
    try:
        found = {
            "alone": asyncio.run(load(port, images, 1, arguments.seconds / 12)),
            "together": asyncio.run(load(port, images, arguments.clients, arguments.seconds)),
            "beside_misbehaviour": asyncio.run(beside(port, images, arguments.clients, arguments.seconds / 4)),
        }
        found["stopped"] = asyncio.run(stopped(process, port, images, arguments.clients))
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        process.kill()
    found |= {"exit": os.waitstatus_to_exitcode(status), "peak_bytes": 1024 * usage.ru_maxrss}
    what = {"subject": arguments.subject.name, "clients": arguments.clients, "image_bytes": len(images[0])}
    where = {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
    write_json(arguments.out / "load.json", what | found | where)
    print(json.dumps(found, indent=1))


def pictures(data: str) -> list[bytes]:
    found = []
    for image_HWC in open_dataset(data).test.images_NHWC[:IMAGES]:
        buffer = io.BytesIO()
        to_picture(np.asarray(image_HWC)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


async def load(port: int, images: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """So many clients for so long; what they saw."""
    until, rows = time.perf_counter() + seconds, list[tuple[int, float]]()
    await asyncio.gather(*(client(port, images[n % len(images) :] + images, until, rows) for n in range(clients)))
    return summary(rows, seconds)


async def client(port: int, images: list[bytes], until: float, rows: list[tuple[int, float]]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    n = 0
    while time.perf_counter() < until:
        begun = time.perf_counter()
        try:
            status = await ask(reader, writer, images[n % len(images)])
        except (ConnectionError, asyncio.IncompleteReadError):
            rows.append((0, time.perf_counter() - begun))
            return
        rows.append((status, time.perf_counter() - begun))
        n += 1
    writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, image: bytes) -> int:
    writer.write(f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(image)}\r\n\r\n".encode() + image)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
    return int(head.split()[1])


async def beside(port: int, images: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """The same, while others send half a header, a body that never ends, or one that is too large."""
    nuisances = [asyncio.create_task(misbehave(port, n)) for n in range(MISBEHAVING)]
    found = await load(port, images, clients, seconds)
    for task in nuisances:
        task.cancel()
    ended = await asyncio.gather(*nuisances, return_exceptions=True)
    unexpected = [repr(e) for e in ended if isinstance(e, Exception) and not isinstance(e, OSError)]
    return found | {"misbehaving": MISBEHAVING, "unexpected": unexpected}


async def misbehave(port: int, kind: int) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if kind % 3 == 0:
                writer.write(head)
            elif kind % 3 == 1:
                writer.write(head + b"Content-Length: 1000000\r\n\r\n" + bytes(300_000))
            else:
                writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(17):
                    writer.write(b"100000\r\n" + bytes(2**20) + b"\r\n")
                    await writer.drain()
            await reader.read()  # until it is closed
        except ConnectionError:
            pass
        finally:
            writer.close()
        await asyncio.sleep(1)


async def stopped(process: subprocess.Popen[str], port: int, images: list[bytes], clients: int) -> dict[str, Any]:
    """Everybody asks once, the signal comes at once, and everybody is answered."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
    for n, (reader, writer) in enumerate(connections):
        assert await ask(reader, writer, images[n % len(images)]) == 200
    begun = time.perf_counter()
    asked = [asyncio.create_task(ask(*connection, images[0])) for connection in connections]
    await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    ended = await asyncio.gather(*asked, return_exceptions=True)
    answers = Counter(str(one) if isinstance(one, int) else type(one).__name__ for one in ended)
    return {"answers": dict(answers), "seconds": time.perf_counter() - begun}


def summary(rows: list[tuple[int, float]], seconds: float) -> dict[str, Any]:
    milliseconds = 1000 * np.array([seconds for _, seconds in rows])
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
    times = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": milliseconds.max()}
    statuses = dict(Counter(str(status) for status, _ in rows))
    return {"requests": len(rows), "per_second": len(rows) / seconds, "statuses": statuses} | {
        name: float(value) for name, value in times.items()
    }


if __name__ == "__main__":
    main()
