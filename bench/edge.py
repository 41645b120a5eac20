"""What the HTTP edge costs alone: an application that answers a KV-like body at once.

`PYTHONPATH=src python -m bench.edge [--profile]`. First microseconds of CPU per request, in this
process and without sockets, step by step; then requests per second of a listener under wrk (plain,
TLS) and h2load (HTTP/2), which run on the same cores. No store, no tokens, no policies.
"""

import argparse
import asyncio
import cProfile
import multiprocessing
import pstats
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.connection import H2Connection

from undercroft.config import Listener as Settings
from undercroft.http.encode import encode
from undercroft.http.http1 import Http1
from undercroft.http.http2 import Http2
from undercroft.http.limits import Limits, Usage
from undercroft.http.listener import Listener
from undercroft.http.message import HttpRequest, HttpResponse
from undercroft.http.parse import parse_head
from undercroft.http.vault import request_ids, to_request
from undercroft.request.model import Response

DATA = msgspec.Raw(
    b'{"data":{"password":"0123456789012345678901234567890123456789","user":"app"},'
    b'"metadata":{"created_time":"2026-01-01T00:00:00Z","custom_metadata":null,'
    b'"deletion_time":"","destroyed":false,"version":1}}'
)
TARGET = "/v1/secret/data/app/config"
TOKEN = "s." + "t" * 24
HEAD = (
    f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1:8200\r\nX-Vault-Token: {TOKEN}\r\n"
    "X-Vault-Request: true\r\nUser-Agent: bench\r\nAccept-Encoding: gzip\r\n\r\n"
).encode()
CONNECTIONS = 32


def application() -> Callable[[HttpRequest], HttpResponse]:
    new_id = request_ids()

    def app(http: HttpRequest) -> HttpResponse:
        request = to_request(http, new_id())
        return encode(request.id, Response(data=DATA))

    return app


# without sockets


class Sink(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})

    def write(self, data: Any) -> None:
        pass

    def close(self) -> None:
        pass


def per_call(work: Callable[[], object], count: int = 30_000) -> float:
    """Microseconds of CPU, the best of five rounds: the others had company."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(count):
            work()
        best = min(best, time.process_time() - start)
    return best / count * 1e6


def http1_work() -> Callable[[], object]:
    connection = Http1(application(), Limits(), Usage(), time.monotonic, lambda _: None)
    connection.connection_made(Sink())
    return lambda: connection.data_received(HEAD)


def http2_work() -> Callable[[], object]:
    """As a client sends its second request and all others: headers stand in the table already."""
    connection = Http2(application(), Limits(), Usage(), time.monotonic, lambda _: None)
    connection.connection_made(Sink())
    client = H2Connection()
    client.initiate_connection()
    connection.data_received(client.data_to_send())
    fields = [(":method", "GET"), (":path", TARGET), (":scheme", "https"), (":authority", "a"),
              ("x-vault-token", TOKEN), ("user-agent", "bench")]  # fmt: skip
    headers = client.encoder.encode(fields)
    stream_id = -1

    def work() -> None:
        nonlocal stream_id
        stream_id += 2
        size = len(headers).to_bytes(3, "big")
        connection.data_received(size + b"\x01\x05" + stream_id.to_bytes(4, "big") + headers)
        opened = (1000).to_bytes(4, "big")  # the client has read the answer
        connection.data_received(b"\0\0\x04\x08\0\0\0\0\0" + opened)

    work()
    headers = client.encoder.encode(fields)
    return work


def steps() -> list[tuple[str, Callable[[], object]]]:
    head = HEAD[:-4]
    parsed, last = parse_head(head, None)
    http = HttpRequest("GET", parsed.target, parsed.headers, b"", ("127.0.0.1", 1))
    new_id = request_ids()
    response = Response(data=DATA)
    return [
        ("head, the connection's first", lambda: parse_head(head, None)),
        ("head, with headers as before", lambda: parse_head(head, last)),
        ("request id", new_id),
        ("to_request", lambda: to_request(http, "id")),
        ("encode", lambda: encode("id", response)),
        ("HTTP/1 in all", http1_work()),
        ("HTTP/2 in all", http2_work()),
    ]


# with sockets


def certificate(directory: Path) -> tuple[str, str]:
    """A self-signed P-256 certificate, as `-dev-tls` would make it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert, private = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(cert), str(private)


def serve(plain: socket.socket, tls: socket.socket, cert: str, key: str) -> None:
    """Both listeners in one process, for ever."""
    import uvloop

    async def run() -> None:
        app = application()
        await Listener(Settings(tls_disable=True), app, plain).start()
        await Listener(Settings(tls_cert_file=cert, tls_key_file=key), app, tls).start()
        await asyncio.Event().wait()

    uvloop.run(run())


def loads(plain_port: int, tls_port: int, seconds: int) -> dict[str, list[str]]:
    wrk = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H",
           f"X-Vault-Token: {TOKEN}"]  # fmt: skip
    h2 = ["h2load", f"-c{CONNECTIONS}", "-t2", f"-D{seconds}", "--warm-up-time=1", "-H",
          f"x-vault-token: {TOKEN}"]  # fmt: skip
    return {
        "HTTP/1.1": [*wrk, f"http://127.0.0.1:{plain_port}{TARGET}"],
        "HTTP/1.1, TLS": [*wrk, f"https://127.0.0.1:{tls_port}{TARGET}"],
        "HTTP/2, TLS, 1 stream each": [*h2, "-m1", f"https://127.0.0.1:{tls_port}{TARGET}"],
        "HTTP/2, TLS, 10 streams each": [*h2, "-m10", f"https://127.0.0.1:{tls_port}{TARGET}"],
    }


def rate(output: str) -> float:
    found = re.search(r"Requests/sec:\s+([\d.]+)|([\d.]+) req/s,", output)
    if found is None or re.search(r"Non-2xx|[1-9]\d* failed", output):
        sys.exit(f"the load failed:\n{output}")
    return float(found[1] or found[2])


def under_load(seconds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        cert, key = certificate(Path(directory))
        plain = socket.create_server(("127.0.0.1", 0), backlog=1024)
        tls = socket.create_server(("127.0.0.1", 0), backlog=1024)
        context = multiprocessing.get_context("fork")
        server = context.Process(target=serve, args=(plain, tls, cert, key), daemon=True)
        server.start()
        ports = plain.getsockname()[1], tls.getsockname()[1]
        for name, command in loads(*ports, seconds).items():
            if shutil.which(command[0]) is None:
                print(f"{name:32} {command[0]} is not installed")
                continue
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{name:32} {rate(done.stdout):10.0f} /s")
        server.terminate()
        server.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="where HTTP/2 spends its time")
    arguments = parser.parse_args()
    if arguments.profile:
        work, profile = http2_work(), cProfile.Profile()
        profile.runcall(lambda: [work() for _ in range(10_000)])
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    for name, work in steps():
        print(f"{name:32} {per_call(work):10.2f} µs")
    under_load(arguments.seconds)


if __name__ == "__main__":
    main()
