"""A server of the part of Google Cloud Storage's JSON API that TensorStore, gcsfs and google-cloud-storage use.

One bucket, kept in memory. Objects have generations, which conditions of a request are compared with, as in
https://cloud.google.com/storage/docs/json_api/v1/objects.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

import pytest
from aiohttp import web

BUCKET = "bucket"


@dataclass
class Bucket:
    """Objects by name: (generation, content). 403 is the answer to writing what has `refuse` in its name, and to
    reading what has `refuse_reading` in it.
    """

    objects: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    generation: int = 1000
    uploads: dict[str, tuple[str, str | None, bytearray]] = field(default_factory=dict)
    refuse: str = ""
    refuse_reading: str = ""

    def write(self, name: str, data: bytes, condition: str | None = None) -> dict[str, str]:
        if self.refuse and self.refuse in name:
            raise web.HTTPForbidden(text="no permission")
        if condition is not None and int(condition) != self.objects.get(name, (0,))[0]:
            raise web.HTTPPreconditionFailed
        self.generation += 1
        self.objects[name] = (self.generation, data)
        return self.resource(name)

    def resource(self, name: str) -> dict[str, str]:
        generation, data = self.objects[name]
        return {
            "kind": "storage#object", "id": f"{BUCKET}/{name}/{generation}", "name": name, "bucket": BUCKET,
            "generation": str(generation), "metageneration": "1", "size": str(len(data)),
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(), "contentType": "application/octet-stream",
            "timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip

    def get(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if self.refuse_reading and self.refuse_reading in name:
            raise web.HTTPForbidden(text="no permission")
        if name not in self.objects:
            raise web.HTTPNotFound
        generation, data = self.objects[name]
        query = request.query
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            raise web.HTTPNotModified
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != generation:
            raise web.HTTPPreconditionFailed
        if query.get("alt") != "media":
            return web.json_response(self.resource(name))
        headers = {"x-goog-generation": str(generation)}
        part = request.http_range
        if part.start is None:
            return web.Response(body=data, headers=headers)
        content = data[part]
        if not content:
            raise web.HTTPRequestRangeNotSatisfiable
        start = part.start if part.start >= 0 else len(data) + part.start
        headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{len(data)}"
        return web.Response(status=206, body=content, headers=headers)

    def list(self, request: web.Request) -> web.StreamResponse:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix) or not request.query.get("startOffset", "") <= name:
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(self.resource(name))
        return web.json_response({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def delete(self, name: str, condition: str | None = None) -> web.Response:
        if name not in self.objects:
            raise web.HTTPNotFound
        if condition is not None and int(condition) != self.objects[name][0]:
            raise web.HTTPPreconditionFailed
        del self.objects[name]
        return web.Response(status=204)


def application(bucket: Bucket) -> web.Application:
    async def upload(request: web.Request) -> web.StreamResponse:
        query, kind = request.query, request.query["uploadType"]
        condition = query.get("ifGenerationMatch")
        if kind == "media":
            return web.json_response(bucket.write(query["name"], await request.read(), condition))
        if kind == "multipart":
            head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
            metadata, data = email.message_from_bytes(head + await request.read()).get_payload()
            name = json.loads(metadata.get_payload())["name"]
            return web.json_response(bucket.write(name, data.get_payload(decode=True), condition))
        name = query.get("name") or json.loads(await request.read())["name"]
        key = str(len(bucket.uploads))
        bucket.uploads[key] = (name, condition, bytearray())
        return web.Response(headers={"Location": f"{request.url.origin()}/resumable/{key}"})

    async def resume(request: web.Request) -> web.StreamResponse:
        name, condition, data = bucket.uploads[request.match_info["key"]]
        data += await request.read()
        if request.headers.get("Content-Range", "").endswith("/*"):
            return web.Response(status=308, headers={"Range": f"bytes=0-{len(data) - 1}"})
        return web.json_response(bucket.write(name, bytes(data), condition))

    async def rewrite(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in bucket.objects:
            raise web.HTTPNotFound
        resource = bucket.write(request.match_info["target"], bucket.objects[name][1])
        return web.json_response({"kind": "storage#rewriteResponse", "done": True, "resource": resource})

    async def batch(request: web.Request) -> web.StreamResponse:
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        answers = []
        for part in email.message_from_bytes(head + await request.read()).get_payload():
            path = part.get_payload().split()[1].split("?")[0]
            try:
                status = bucket.delete(unquote(path.rsplit("/o/", 1)[1])).status
            except web.HTTPNotFound:
                status = 404
            answers.append(
                f"--answer\r\nContent-Type: application/http\r\nContent-ID: <response-{part['Content-ID']}>\r\n\r\n"
                f"HTTP/1.1 {status} {'No Content' if status == 204 else 'Not Found'}\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        body = "".join(answers) + "--answer--"
        return web.Response(body=body.encode(), headers={"Content-Type": "multipart/mixed; boundary=answer"})

    async def get(request: web.Request) -> web.StreamResponse:
        return bucket.get(request)

    async def delete(request: web.Request) -> web.StreamResponse:
        return bucket.delete(request.match_info["name"], request.query.get("ifGenerationMatch"))

    async def names(request: web.Request) -> web.StreamResponse:
        return bucket.list(request)

    async def about(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "storage#bucket", "id": BUCKET, "name": BUCKET, "location": "US"})

    app = web.Application(client_max_size=1 << 30)
    of_bucket = f"/storage/v1/b/{BUCKET}"
    app.router.add_get(of_bucket, about)
    app.router.add_get(f"{of_bucket}/o", names)
    app.router.add_get(f"{of_bucket}/o/", names)
    app.router.add_post(f"{of_bucket}/o/{{name:.+}}/rewriteTo/b/{BUCKET}/o/{{target:.+}}", rewrite)
    for start in ("", "/download"):
        app.router.add_get(f"{start}{of_bucket}/o/{{name:.+}}", get)
    app.router.add_delete(f"{of_bucket}/o/{{name:.+}}", delete)
    app.router.add_post(f"/upload{of_bucket}/o", upload)
    app.router.add_put("/resumable/{key}", resume)
    app.router.add_post("/resumable/{key}", resume)
    app.router.add_post("/batch/storage/v1", batch)
    return app


def environment(address: str) -> dict[str, str]:
    """Variables by which the three clients ask the server at `address`, without a login."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "GOOGLE_CLOUD_PROJECT": "project",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks by gRPC, of Google alone
    }


@contextlib.contextmanager
def serving(bucket: Bucket) -> Iterator[str]:
    """Serves the bucket from a thread; gives the server's address."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), [0]

    async def start() -> web.AppRunner:
        runner = web.AppRunner(application(bucket))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port[0] = runner.addresses[0][1]
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextlib.contextmanager
def served_bucket() -> Iterator[Bucket]:
    """An empty bucket that the clients of this process, and of those it starts, find behind gs://bucket."""
    bucket = Bucket()
    with pytest.MonkeyPatch.context() as patch, serving(bucket) as address:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        yield bucket
