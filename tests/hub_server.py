"""A Hub on this machine: the routes that a download uses, over real sockets, with faults.

Two servers: the Hub itself, which lists, resolves, and sends small files; and the storage that it
redirects to by signed addresses. `python -m tests.hub_server` is not needed: tests start it.
"""

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

REPO = "owner/name"
COMMIT = "c0ffee" + "0" * 34
LARGE = (".safetensors", "tokenizer.json")
BLOCK = 4_096


@dataclass
class Fault:
    """What goes wrong with answers for paths that contain `at`, `times` times."""

    at: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None  # bytes of the body, before what comes next
    then: str = "drop"  # drop | reset | stall | end | pause
    seconds: float = 0.0  # of a stall or a pause
    change: Callable[[bytes], bytes] | None = None  # of the body
    ignore_range: bool = False
    content_range: str | None = None
    chunked: bool = False  # no Content-Length: an early end does not show
    times: int = 1


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


def etag(name: str, data: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class Hub:
    """The state of both servers."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.repos = {REPO: {COMMIT: dict(files)}}
        self.branches = {"main": COMMIT}
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.private_token: str | None = None
        self.prefix = ""  # of every path, as of a mirror in a folder
        self.page = 1_000  # entries of a listing
        self.delay = 0.0  # seconds for each block of a body
        self.storage_tag: str | None = None  # of all there; None: the hash
        self.lock = threading.Lock()
        self.released = threading.Event()  # ends every stall
        self.signature = 0
        self.signed: set[str] = set()
        self.endpoint = self.storage = ""

    @property
    def files(self) -> dict[str, bytes]:
        return self.repos[REPO][COMMIT]

    def fail(self, at: str, **what: object) -> Fault:
        fault = Fault(at, **what)
        self.faults.append(fault)
        return fault

    def fault(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.at in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def gets(self, part: str) -> list[Asked]:
        """Requests whose path contains `part`."""
        return [asked for asked in self.asked if part in asked.path]

    def sign(self, sha256: str) -> str:
        with self.lock:
            self.signature += 1
            name = f"sig{self.signature}"
            self.signed.add(name)
        return f"{self.storage}/xet/{sha256}?X-Signature={name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    role = ""

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.asked.append(Asked(self.role, self.command, self.path, headers))
        fault = self.hub.fault(f"{self.role}:{self.path}")
        if fault is not None and fault.status is not None:
            self.send(fault.status, b"no", fault.headers)
            return
        parts = urlsplit(self.path)
        try:
            self.route(unquote(parts.path), parts.query, headers, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self.send(200, json.dumps(value).encode(), headers)

    def send_file(
        self, data: bytes, tag: str, headers: dict[str, str], asked: dict, fault: Fault | None
    ) -> None:
        """A body with ranges, as far as it is not cut, changed or held up."""
        fault = fault or Fault("")
        full = data
        if fault.change is not None:
            data = fault.change(data)
        status, begin = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        condition = asked.get("if-range")
        if wanted and not fault.ignore_range and condition in (None, tag):
            begin = int(wanted[1])
            if begin >= len(data):
                self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
        body = data[begin:]
        self.send_response(status)
        self.send_header("ETag", tag)
        self.send_header("Accept-Ranges", "bytes")
        for name, value in {**headers, **fault.headers}.items():
            self.send_header(name, value)
        if status == 206:
            said = fault.content_range or f"bytes {begin}-{len(data) - 1}/{len(data)}"
            self.send_header("Content-Range", said)
        if fault.chunked:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        assert full is not None
        cut = len(body) if fault.after is None else min(fault.after, len(body))
        for at in range(0, cut, BLOCK):
            self.wfile.write(body[at : min(at + BLOCK, cut)])
            if self.hub.delay:
                self.wfile.flush()
                time.sleep(self.hub.delay)
        if fault.after is None:
            return
        self.wfile.flush()
        if fault.then == "stall":
            self.hub.released.wait(fault.seconds)
        if fault.then == "pause":
            time.sleep(fault.seconds)
            self.wfile.write(body[cut:])
            return
        if fault.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def route(self, path: str, query: str, asked: dict, fault: Fault | None) -> None:
        raise NotImplementedError


class HubHandler(Handler):
    role = "hub"

    def route(self, path: str, query: str, asked: dict, fault: Fault | None) -> None:
        hub = self.hub
        path = path.removeprefix(hub.prefix)
        token = hub.private_token
        if token is not None and asked.get("authorization") != f"Bearer {token}":
            self.send(401, b"no", {"X-Error-Code": "RepoNotFound"})
        elif known := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/revision/(.+)", path):
            commit = hub.branches.get(known[2], known[2])
            if commit not in hub.repos.get(known[1], {}):
                self.send(404, b"no", {"X-Error-Code": "RevisionNotFound"})
            else:
                self.send_json({"id": known[1], "sha": commit})
        elif known := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/tree/([^/]+)", path):
            self.list_files(known[1], hub.branches.get(known[2], known[2]), query)
        elif known := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            commit = hub.branches.get(known[2], known[2])
            files = hub.repos.get(known[1], {}).get(commit, {})
            if known[3] not in files:
                self.send(404, b"no", {"X-Error-Code": "EntryNotFound"})
            else:
                self.resolve(commit, known[3], files[known[3]], asked, fault)
        else:
            self.send(404, b"no", {"X-Error-Code": "RepoNotFound"})

    def list_files(self, repo: str, commit: str, query: str) -> None:
        files = self.hub.repos.get(repo, {}).get(commit)
        if files is None:
            self.send(404, b"no", {"X-Error-Code": "RevisionNotFound"})
            return
        entries: list[dict] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "images"}]
        for name, data in sorted(files.items()):
            tag = etag(name, data)
            entry = {"type": "file", "oid": tag, "size": len(data), "path": name}
            if len(tag) == 64:
                entry["oid"] = hashlib.sha1(tag.encode()).hexdigest()
                entry["lfs"] = {"oid": tag, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        begin = int(query.removeprefix("cursor=")) if query.startswith("cursor=") else 0
        end = begin + self.hub.page
        here = f"{self.hub.endpoint}/api/models/{repo}/tree/{commit}"
        link = {"Link": f'<{here}?cursor={end}>; rel="next"'} if end < len(entries) else {}
        self.send_json(entries[begin:end], link)

    def resolve(
        self, commit: str, name: str, data: bytes, asked: dict, fault: Fault | None
    ) -> None:
        tag = etag(name, data)
        headers = {"X-Repo-Commit": commit}
        if len(tag) == 40:
            self.send_file(data, f'"{tag}"', headers, asked, fault)
            return
        headers |= {"X-Linked-ETag": f'"{tag}"', "X-Linked-Size": str(len(data))}
        self.send(302, b"", headers | {"Location": self.hub.sign(tag)})


class StorageHandler(Handler):
    role = "storage"

    def route(self, path: str, query: str, asked: dict, fault: Fault | None) -> None:
        hub = self.hub
        sha256 = path.removeprefix("/xet/")
        if query.removeprefix("X-Signature=") not in hub.signed:
            self.send(403, b"expired")
            return
        every = (
            data
            for commits in hub.repos.values()
            for files in commits.values()
            for data in files.values()
        )
        data = next((each for each in every if hashlib.sha256(each).hexdigest() == sha256), None)
        if data is None:
            self.send(404, b"no")
            return
        self.send_file(data, hub.storage_tag or f'"{sha256[:32]}"', {}, asked, fault)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away is what tests are about


def point_at(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process take `hub` for the Hub, without a token, and keep files in `cache`."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache.parent / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """Both servers, for as long as the block lasts."""
    hub = Hub(files)
    servers = []
    for kind in (HubHandler, StorageHandler):
        handler = type(kind.__name__, (kind,), {"hub": hub})
        server = _Server(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
    hub.endpoint, hub.storage = (  # hosts of different names, as the real ones
        f"http://{name}:{server.server_address[1]}"
        for name, (server, _) in zip(("127.0.0.1", "localhost"), servers, strict=True)
    )
    try:
        yield hub
    finally:
        hub.released.set()
        huggingface_hub.close_session()
        for server, thread in servers:
            server.shutdown()
            thread.join()
            server.server_close()
