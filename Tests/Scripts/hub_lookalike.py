"""A hub that is none: what a client of Hugging Face's sees of it, with the faults that networks have.

Two servers on this machine: the hub (listing, revisions, `resolve` with its redirects) and the store that signed URLs lead to. Protocol:
huggingface_hub 1.33 (file_download.py, hf_api.py, utils/_http.py) and hub-docs (xet/legacy-git-lfs.md, rate-limits.md).
"""
import hashlib
import json
import os
import random
import socket
import struct
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Repository:
    """Commits of one model: each a folder. The last one is `main`."""

    def __init__(self, name, folder, gated=False, token=None):
        self.name, self.gated, self.token = name, gated, token
        self.commits = {}
        self.push(folder)

    def push(self, folder):
        files = {}
        for root, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(root, name)
                files[os.path.relpath(path, folder)] = self._file(path)
        text = json.dumps({name: file["oid"] + file.get("sha256", "") for name, file in sorted(files.items())})
        self.head = hashlib.sha1((text + str(len(self.commits))).encode()).hexdigest()
        self.commits[self.head] = files

    @staticmethod
    def _file(path):
        data = open(path, "rb").read()
        file = {"path": path, "size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        if path.endswith((".safetensors", ".gguf", ".bin")) or os.path.basename(path) == "tokenizer.json":
            file["sha256"] = hashlib.sha256(data).hexdigest()
            file["oid"] = hashlib.sha1(file["sha256"].encode()).hexdigest()
        return file

    def commit(self, revision):
        return self.head if revision == "main" else revision if revision in self.commits else None


class Lookalike:
    """`faults`: probability of each kind for one request: 503, 429, reset, short (fewer bytes than promised), cut (a shorter range than asked
    for), refused (a signed URL that expired early), whole (the range ignored)."""

    def __init__(self, repositories, faults=None, lifetime=3600, seed=0, page=3, retry_after=0):
        self.repositories = {repository.name: repository for repository in repositories}
        self.faults, self.lifetime, self.page, self.retry_after = faults or {}, lifetime, page, retry_after
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.resolves, self.requests, self.sent, self.tokens_at_store, self.failed = {}, 0, 0, 0, 0
        self.corrupt = None  # (name of a file, place from its end) of a byte that is sent wrong
        self.renamed = {}  # old names of repositories
        self.forbidden = None  # a file that the plain web server does not give
        self.pages = False  # the plain web server answers with a page instead of 404
        self.on_request = None
        self.hub, self.store = self._server(HubHandler), self._server(StoreHandler)
        self.endpoint = f"http://127.0.0.1:{self.hub.server_port}"
        # Another name of this machine, so that it is another origin by more than its port.
        self.store_endpoint = f"http://localhost:{self.store.server_port}"

    def _server(self, handler):
        server = Server(("127.0.0.1", 0), type(handler.__name__, (handler,), {"outer": self}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self):
        self.hub.shutdown()
        self.store.shutdown()

    def fault(self, kinds):
        with self.lock:
            self.requests += 1
            for kind in kinds:
                if self.random.random() < self.faults.get(kind, 0):
                    self.failed += 1
                    return kind
        return None

    def sign(self, repository, commit, name):
        expires = int(time.time() + self.lifetime)
        key = hashlib.sha256(f"{repository}{commit}{name}{expires}".encode()).hexdigest()[:32]
        path = urllib.parse.quote(f"/xet-bridge/{repository}/{commit}/{name}")
        return f"{self.store_endpoint}{path}?response-content-disposition=inline%3B%20filename%3D%22a%2Bb%22&Expires={expires}&Signature={key}~&Key-Pair-Id=K1"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        # Clients are killed here, and that is no news.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, headers=None, body=b"", length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def do_HEAD(self):
        self.do_GET()

    def misbehave(self, kind):
        if kind == "503":
            self.reply(503, {"X-Request-Id": "req-1"}, b"busy")
        elif kind == "429":
            self.reply(429, {"RateLimit": f'"resolvers";r=0;t={self.outer.retry_after}', "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300'})
        elif kind == "reset":
            self.reset()


class HubHandler(Handler):
    def do_GET(self):
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def error(self, status, code, message):
        self.reply(status, {"X-Error-Code": code, "X-Error-Message": message}, json.dumps({"error": message}).encode())

    def answer(self):
        outer = self.outer
        if outer.on_request:
            outer.on_request(self)
        kind = outer.fault(["503", "429", "reset"])
        if kind:
            return self.misbehave(kind)
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            repository = self.repository("/".join(parts[2:4]))
            if repository:
                self.api(repository, parts[4:], urllib.parse.parse_qs(url.query))
        elif parts[:3] == ["api", "resolve-cache", "models"]:
            repository = self.repository("/".join(parts[3:5]))
            if repository:
                self.small(repository, parts[5], "/".join(parts[6:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            repository = self.repository("/".join(parts[:2]))
            if repository:
                self.resolve(repository, parts[3], "/".join(parts[4:]))
        else:
            self.error(404, "", "no such page")

    def repository(self, name):
        if name in self.outer.renamed:
            self.reply(307, {"Location": self.path.replace(name, self.outer.renamed[name])})
            return None
        repository = self.outer.repositories.get(name)
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repository and repository.token and given != repository.token:
            if repository.gated:
                self.error(401, "GatedRepo", f"Access to model {name} is restricted. You must be authenticated to access it.")
                return None
            repository = None
        if not repository:
            self.error(401, "RepoNotFound", "Repository not found")
        return repository

    def api(self, repository, rest, query):
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.commit(revision)
        if not commit:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if rest[:1] == ["tree"]:
            entries = []
            for name, file in sorted(files.items()):
                entry = {"type": "file", "oid": file["oid"], "size": file["size"], "path": name}
                if "sha256" in file:
                    entry["lfs"] = {"oid": file["sha256"], "size": file["size"], "pointerSize": 134}
                    entry["xetHash"] = file["sha256"]
                entries.append(entry)
            entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in {os.path.dirname(name) for name in files} if path]
            start = int(query.get("cursor", ["0"])[0])
            headers = {"Content-Type": "application/json"}
            if start + self.outer.page < len(entries):
                headers["Link"] = f'<{self.outer.endpoint}/api/models/{repository.name}/tree/{revision}?recursive=true&expand=false&cursor={start + self.outer.page}>; rel="next"'
            return self.reply(200, headers, json.dumps(entries[start:start + self.outer.page]).encode())
        siblings = [{"rfilename": name} for name in sorted(files)]
        body = {"_id": "1", "id": repository.name, "modelId": repository.name, "sha": commit, "siblings": siblings, "private": False, "gated": False, "tags": []}
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def file(self, repository, revision, name):
        commit = repository.commit(revision)
        if not commit:
            self.error(404, "RevisionNotFound", "no such revision")
            return None, None
        file = repository.commits[commit].get(name)
        if not file:
            self.error(404, "EntryNotFound", "Entry not found")
        return commit, file

    def resolve(self, repository, revision, name):
        commit, file = self.file(repository, revision, name)
        if not file:
            return
        with self.outer.lock:
            self.outer.resolves[name] = self.outer.resolves.get(name, 0) + 1
        headers = {"X-Repo-Commit": commit, "Access-Control-Expose-Headers": "X-Repo-Commit"}
        if "sha256" in file:
            headers |= {
                "X-Linked-Size": str(file["size"]), "X-Linked-Etag": f'"{file["sha256"]}"', "X-Xet-Hash": file["sha256"],
                "Link": f'<{self.outer.endpoint}/api/models/{repository.name}/xet-read-token/{commit}>; rel="xet-auth"',
                "Location": self.outer.sign(repository.name, commit, name)}
            return self.reply(302, headers)
        headers |= {"Location": f"/api/resolve-cache/models/{repository.name}/{commit}/{urllib.parse.quote(name)}", "ETag": f'"{file["oid"]}"'}
        self.reply(307, headers)

    def small(self, repository, revision, name):
        commit, file = self.file(repository, revision, name)
        if file:
            ranged(self, file, {"X-Repo-Commit": commit, "ETag": f'"{file["oid"]}"'}, None)


class StoreHandler(Handler):
    def do_GET(self):
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self):
        outer = self.outer
        if self.headers.get("Authorization"):
            outer.tokens_at_store += 1
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        parts = urllib.parse.unquote(url.path).strip("/").split("/")
        if parts[0] == "plain":
            # A web server that knows nothing of hubs.
            repository = outer.repositories["/".join(parts[1:3])]
            file = repository.commits[repository.head].get("/".join(parts[3:]))
            if outer.forbidden == "/".join(parts[3:]):
                return self.reply(403)
            if not file:
                return self.reply(200, {"Content-Type": "text/html; charset=utf-8", "ETag": '"page"'}, b"<html>") if outer.pages else self.reply(404)
            return ranged(self, file, {"ETag": f'"{file["oid"]}"'}, None)
        repository, commit, name = "/".join(parts[1:3]), parts[3], "/".join(parts[4:])
        if "Expires" not in query:
            return self.reply(404, {}, b"no such page")
        expires = int(query["Expires"][0])
        if self.path.split("?")[1] != outer_query(outer, repository, commit, name, expires):
            return self.reply(403, {}, b"<Error>SignatureDoesNotMatch</Error>")
        kind = outer.fault(["503", "reset", "short", "cut", "refused", "whole"])
        if kind in ("503", "reset"):
            return self.misbehave(kind)
        if kind == "refused" or time.time() > expires:
            return self.reply(403, {}, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>" + b" " * 5000)
        file = outer.repositories[repository].commits[commit][name]
        ranged(self, file, {"ETag": f'"{file["sha256"]}"'}, kind, outer.corrupt[1] if outer.corrupt and outer.corrupt[0] == name else None)


def outer_query(outer, repository, commit, name, expires):
    key = hashlib.sha256(f"{repository}{commit}{name}{expires}".encode()).hexdigest()[:32]
    return f"response-content-disposition=inline%3B%20filename%3D%22a%2Bb%22&Expires={expires}&Signature={key}~&Key-Pair-Id=K1"


def ranged(handler, file, headers, kind, corrupt=None):
    """A file or a range of it; `kind` is the fault to have."""
    size = file["size"]
    if handler.headers.get("If-Match") not in (None, headers.get("ETag")):
        return handler.reply(412)
    text = handler.headers.get("Range")
    start, end = 0, size - 1
    if text and kind != "whole":
        first, _, last = text.removeprefix("bytes=").partition("-")
        start, end = int(first), min(size - 1, int(last) if last else size - 1)
        if start >= size:
            return handler.reply(416, {"Content-Range": f"bytes */{size}"})
    with open(file["path"], "rb") as source:
        source.seek(start)
        body = source.read(end - start + 1)
    if corrupt is not None and start <= size - corrupt <= end:
        body = bytearray(body)
        body[size - corrupt - start] ^= 1
        body = bytes(body)
    status = 206 if text and kind != "whole" else 200
    if status == 206:
        headers = headers | {"Content-Range": f"bytes {start}-{end}/{size}"}
    headers |= {"Accept-Ranges": "bytes"}
    handler.outer.sent += len(body)
    if kind == "cut" and len(body) > 1:
        return handler.reply(status, headers, body[:-1])
    if kind == "short" and len(body) > 1:
        handler.reply(status, headers, body[:len(body) // 2], length=len(body))
        return handler.reset()
    handler.reply(status, headers, body)


class Proxy:
    """A proxy (CONNECT) that refuses some tunnels and cuts others after a random number of bytes."""

    def __init__(self, loss=0.0, seed=0):
        self.loss, self.random, self.lock = loss, random.Random(seed), threading.Lock()
        self.tunnels = self.cut = 0
        proxy = self

        class ProxyHandler(Handler):
            def do_CONNECT(self):
                with proxy.lock:
                    proxy.tunnels += 1
                    fails, length = proxy.random.random() < proxy.loss, proxy.random.choice((0, 100, 50_000, 3_000_000))
                    proxy.cut += fails
                if fails and not length:
                    return self.reply(503)
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=self.relay, args=(self.connection, upstream, None), daemon=True)
                    back.start()
                    self.relay(upstream, self.connection, length if fails else None)
                    # Another thread reads there: closing alone would wait for it.
                    try:
                        self.connection.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass
                    self.close_connection = True

            @staticmethod
            def relay(source, target, limit):
                try:
                    while data := source.recv(1 << 16):
                        if limit is not None:
                            data = data[:limit]
                            limit -= len(data)
                        target.sendall(data)
                        if limit == 0:
                            return
                except OSError:
                    pass

        self.server = Server(("127.0.0.1", 0), ProxyHandler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
