"""A bucket that answers 500, 503 SlowDown, late, or with half of an object: a proxy on this machine
stands in front of the S3 server and does so.
"""

import logging
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.lease import held
from engine.mixing.store import MixStore
from engine.testing import mix_table

BUCKET = "mixes"


class Proxy(ThreadingHTTPServer):
    """Passes requests on. Each request of `faults[method]` meets the next of its faults instead: a
    status code, "cut" for half an answer, "late" for none within the client's patience.
    """

    daemon_threads = True

    def __init__(self, server: tuple[str, int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server, self.faults, self.met = server, {}, []
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, method: str) -> object:
        with self.lock:
            faults = self.faults.get(method)
            fault = faults.pop(0) if faults else None
            if fault:
                self.met.append(fault)
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self._body()
        fault = self.server.next_fault(self.command)
        if isinstance(fault, int):
            code = "SlowDown" if fault == 503 else "InternalError"
            text = f"<Error><Code>{code}</Code><Message>a fault</Message></Error>".encode()
            return self._answer(fault, [("Content-Type", "application/xml")], text)
        if fault == "late":
            self.server.over.wait(20)
            self.close_connection = True
            return None
        connection = HTTPConnection(*self.server.server, timeout=60)
        given = {name: text for name, text in self.headers.items() if name.lower() not in _FRAMING}
        connection.request(self.command, self.path, body, given)
        answer = connection.getresponse()
        content = answer.read()
        headers = [item for item in answer.getheaders() if item[0].lower() not in _OWN]
        self._answer(
            answer.status,
            headers,
            content,
            cut=fault == "cut",
            length=answer.getheader("Content-Length"),
        )
        connection.close()
        return None

    def _body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(length) if length else None
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _answer(self, status, headers, content, cut=False, length=None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", (length or "0") if is_head else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815 (http.server's names)

    def log_message(self, *_) -> None: ...


_FRAMING = ("transfer-encoding", "content-length", "connection", "expect")
_OWN = ("content-length", "transfer-encoding", "connection", "date", "server")


@pytest.fixture(scope="module")
def proxy(bucket_settings) -> Iterator[Proxy]:
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        proxy = Proxy(server.get_host_and_port())
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        for name, value in bucket_settings.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", proxy.address)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield proxy
        proxy.over.set()
        proxy.shutdown()
    server.stop()


@pytest.fixture(autouse=True)
def _no_faults_left(proxy):
    proxy.met.clear()
    yield
    proxy.faults.clear()


@pytest.mark.parametrize(
    "faults",
    [
        {"PUT": [500, 503]},
        {"GET": [500, 503]},
        {"HEAD": [503, 500]},
        {"GET": ["cut"]},
        {"PUT": [503], "GET": ["cut", 503], "HEAD": [500]},
        # The client's patience is 3 s.
        pytest.param({"GET": ["late"]}, marks=pytest.mark.slow),
        pytest.param({"PUT": ["late"]}, marks=pytest.mark.slow),
        pytest.param({"HEAD": ["late"]}, marks=pytest.mark.slow),
    ],
)
def test_a_bad_moment_costs_nothing(proxy, faults):
    """Answers of 500 and 503, half an object, and none in time: the same request again gives all of
    it.
    """
    store = MixStore(f"s3://{BUCKET}/bad moments")
    proxy.faults.update({method: list(what) for method, what in faults.items()})
    wanted = mix_table(4, 100)
    store.write(1, wanted)
    assert 1 in store.stored_chunks()
    assert store.holds(1)
    assert store.read(1).equals(wanted)
    assert len(proxy.met) == sum(map(len, faults.values())), "a fault was not met"


@pytest.mark.slow
def test_a_bucket_that_stays_broken_is_one_sentence(proxy):
    store = MixStore(f"s3://{BUCKET}/broken")
    store.write(1, mix_table(2))
    proxy.faults["PUT"] = [500] * 100
    with pytest.raises(UserError, match=r"00000002.*cannot be written"):
        store.write(2, mix_table(2))
    proxy.faults.clear()
    assert store.stored_chunks() == {1}, "a part that was not stored is not there in halves"
    proxy.faults["GET"] = ["cut"] * 100
    with pytest.raises(UserError, match=r"part-00000001\.parquet cannot be read"):
        store.read(1)


def test_a_lease_survives_bad_moments(proxy):
    out = Folder(f"s3://{BUCKET}/leases")
    proxy.faults.update({"PUT": [503, 500], "GET": [500]})
    refused = pytest.raises(UserError, match="in use by another run")
    with held(out), refused, held(out):
        pass
    assert [name for name in out.names() if name.startswith("lease-")] == []
    assert len(proxy.met) == 3


def test_the_proxy_passes_on(proxy):
    with urllib.request.urlopen(proxy.address) as answer:
        assert answer.status == 200
