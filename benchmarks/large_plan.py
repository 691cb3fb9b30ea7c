"""What a plan of ten million mixes costs: memory and time of the driver and of a reader, and of
listing its 625,000 parts in a folder and in an object store.

The object store is a stand-in on this machine that answers listings at once, a thousand names in
each. A real one adds its own time to each of the 625 answers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa

from benchmarks.record import parser, show, write
from diffmix.config import MixConfig
from diffmix.plan import MixPlan
from engine.mixing.stages import group_chunks
from engine.mixing.store import MixStore, part_name

_BATCH, _PAGE = 16, 1000


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--mixes", type=int, default=10_000_000)
    made.add_argument("--images", type=int, default=1_000_000)
    made.add_argument("--only", choices=["driver", "reader", "list"], help="of a child process")
    made.add_argument("--strengths", type=float, nargs="+", default=[0.7])
    made.add_argument("--uri", help="what a child process lists")
    options = made.parse_args()
    if options.only:
        print(json.dumps(_measured(options)))
        return
    figures: dict[str, float] = {}
    rows: list[list[object]] = []
    parts = options.mixes // _BATCH

    def measure(what: str, *arguments: str) -> None:
        found = _in_a_child([*arguments, "--mixes", str(options.mixes)], options.images)
        rows.append([what, found["megabytes"], found["seconds"]])
        for key, value in found.items():
            figures[f"{what.replace(' ', '_')}_{key}"] = value

    for strengths in (["0.7"], ["0.3", "0.5", "0.7", "0.9"]):
        for role in ("driver", "reader"):
            name = f"{role} {len(strengths)} strengths"
            measure(name, "--only", role, "--strengths", *strengths)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(parts):
            os.close(os.open(f"{folder}/{part_name(number)}", os.O_CREAT | os.O_WRONLY))
        measure("list folder", "--only", "list", "--uri", folder)
    with _bucket(parts) as uri:
        measure("list bucket", "--only", "list", "--uri", uri)
    title = f"{options.mixes:,} mixes of {options.images:,} images, {parts:,} parts"
    show(title, ["what", "MB at most", "seconds"], rows)
    write(options.json, {**figures, "mixes": options.mixes, "parts": parts})


def _in_a_child(arguments: list[str], images: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.large_plan", "--images", str(images), *arguments]
    return dict(json.loads(subprocess.check_output(command, text=True)))


def _measured(options: argparse.Namespace) -> dict[str, float]:
    """Seconds, and peak memory above that of the libraries and of the data set's own columns."""
    work = partial(_list, options) if options.only == "list" else _planning(options)
    gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {"megabytes": (_memory("VmHWM") - before) / 1e6, "seconds": seconds}


def _planning(options: argparse.Namespace) -> Callable[[], object]:
    labels = np.arange(options.images, dtype=np.int32) % 1000
    blocks = []
    for first in range(0, options.images, 10_000):
        last = min(first + 10_000, options.images)
        blocks.append(pa.array([f"class {i % 1000}/{i}.jpg" for i in range(first, last)]))
    ids = pa.chunked_array(blocks)
    config = MixConfig(
        count=options.mixes,
        batch=_BATCH,
        strength=tuple(options.strengths),
        strategy="real-mix",
    )
    MixPlan(replace(config, count=100), labels, ids, 1000, 0).chunk(0)  # imports

    def driver() -> object:
        plan = MixPlan(config, labels, ids, 1000, 0)
        missing = np.flatnonzero(np.ones(plan.num_chunks, dtype=bool))
        return plan, plan.settings, group_chunks(missing, 64, _BATCH * 100_000)

    def reader() -> object:
        plan = MixPlan(config, labels, ids, 1000, 0)
        return plan, [plan.chunk(i) for i in range(0, plan.num_chunks, plan.num_chunks // 16)]

    return driver if options.only == "driver" else reader


def _list(options: argparse.Namespace) -> None:
    found, parts = MixStore(options.uri).stored_numbers(), options.mixes // _BATCH
    if len(found) != parts:
        raise RuntimeError(f"{len(found)} of {parts} parts were listed")


def _memory(line: str) -> int:
    """Bytes that Linux says of this process: `VmRSS` now, `VmHWM` at most."""
    for text in Path("/proc/self/status").read_text().splitlines():
        name, _, value = text.partition(":")
        if name == line:
            return int(value.split()[0]) * 1024
    raise LookupError(line)


@contextlib.contextmanager
def _bucket(parts: int) -> Iterator[str]:
    """The URI of a mix store at a stand-in that only answers listings."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Listing, parts))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    yield "s3://bucket/run/mixes?region=us-east-1"
    server.shutdown()


class _Listing(BaseHTTPRequestHandler):
    """Answers ListObjectsV2 of a folder with so many parts."""

    protocol_version = "HTTP/1.1"

    def __init__(self, parts: int, *arguments: object):
        self._parts = parts
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        first = int(query.get("continuation-token", ["0"])[0])
        names = [part_name(number) for number in range(first, min(first + _PAGE, self._parts))]
        more = first + _PAGE < self._parts
        items = "".join(
            f"<Contents><Key>{escape(query['prefix'][0] + name)}</Key><Size>1</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in names
        )
        token = f"<NextContinuationToken>{first + _PAGE}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{items}"
            "</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main()
