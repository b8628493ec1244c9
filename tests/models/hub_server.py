"""A server on loopback that speaks the endpoints of the Hugging Face hub that downloads and commits use."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    revisions: tuple[str, ...] = ("main",)
    repository: str = "org/name"
    tokens: list[str | None] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    committed: dict[str, bytes] = field(default_factory=dict)
    summary: str = ""
    created: dict = field(default_factory=dict)
    endpoint: str = ""
    kind: str = "models"  # or "datasets"
    card: dict = field(default_factory=dict)

    SHA = "0123456789012345678901234567890123456789"


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status=200, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def json(self, value, status=200):
            self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

        def failed(self, status, code):
            self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            hub.tokens.append(self.headers.get("Authorization"))
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith(f"api/{hub.kind}/"):
                path, _, tree = path.removeprefix(f"api/{hub.kind}/").partition("/tree/")
                name, _, revision = path.partition("/revision/")
                revision = tree or revision
                if name != hub.repository:
                    return self.failed(404, "RepoNotFound")
                if (revision or "main") not in (*hub.revisions, hub.SHA):
                    return self.failed(404, "RevisionNotFound")
                if tree:
                    sizes = hub.files.items()
                    return self.json([{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in sizes])
                siblings = [{"rfilename": name} for name in hub.files]
                return self.json(
                    {
                        "id": name,
                        "modelId": name,
                        "sha": hub.SHA,
                        "siblings": siblings,
                        "private": False,
                        "cardData": hub.card,
                    }
                )
            repository, _, rest = path.removeprefix("datasets/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if repository != hub.repository or name not in hub.files:
                return self.failed(404, "EntryNotFound")
            if hub.gated:
                return self.failed(403, "GatedRepo")
            body = hub.files[name]
            if self.command == "GET":
                hub.fetched.append(name)
            etag = hashlib.sha1(body).hexdigest()
            return self.answer(200, body, ETag=f'"{etag}"', X_Repo_Commit=hub.SHA, Accept_Ranges="bytes")

        def do_POST(self):
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size) if size else self.chunks()
            path = unquote(urlsplit(self.path).path)
            if path == "/api/repos/create":
                hub.created = json.loads(body)
                return self.json({"url": f"{hub.endpoint}/{hub.repository}", "name": hub.repository})
            if path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            if path.endswith("/preupload/main"):
                names = [each["path"] for each in json.loads(body)["files"]]
                files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                return self.json({"files": files})
            if path.endswith("/commit/main"):
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.committed[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    else:
                        hub.summary = entry["value"]["summary"]
                url = f"{hub.endpoint}/{hub.repository}/commit/{hub.SHA}"
                return self.json({"success": True, "commitOid": hub.SHA, "commitUrl": url})
            return self.failed(404, "NoSuchEndpoint")

        def chunks(self):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
