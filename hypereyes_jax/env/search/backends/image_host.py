"""Giving a crop a URL, for image engines that fetch what they search. Names come from content, so URLs are stable."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web
from PIL import Image

from hypereyes_jax.env.media.images import encode_image
from hypereyes_jax.env.types import FatalSearchError, SearchError
from hypereyes_jax.env.web.untrusted import one_line
from hypereyes_jax.errors import UserError

# What S3's kin say of a bucket, a key or a login with which no crop can be stored, as long as none has been.
_NEVER = (
    "NoSuchBucket", "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "NotSignedUp",
    "SignatureDoesNotMatch", "InvalidBucketName", "InvalidToken", "ExpiredToken", "PermanentRedirect", "403", "404",
)  # fmt: skip

# An image that was put into a bucket so many seconds ago is still there: rules that empty buckets count in days.
_STAYS_SECONDS = 3600.0
_MOST_NAMES = 65_536  # of images that are known to be there


class ImageHost(Protocol):
    """A place that gives images a public URL, for services that fetch them."""

    async def put(self, image: Image.Image) -> str:
        """Makes the image reachable and returns its URL. Raises SearchError when the host is out of order."""
        ...

    async def aclose(self) -> None: ...


class LocalImageHost:
    """Serves images from memory on this machine: for tests, or behind a tunnel that makes the port public.

    Args:
      public_url: the tunnel's address; default the local one, which only services on this machine can reach.
      keep, keep_bytes: images kept and their bytes; the longest unused go first.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        public_url: str | None = None,
        keep: int = 4096,
        keep_bytes: int = 512 << 20,
    ):
        self._address, self._public_url = (host, port), public_url
        self._keep, self._keep_bytes = keep, keep_bytes
        self._images: OrderedDict[str, bytes] = OrderedDict()
        self._total_bytes = 0  # bytes
        self._runner: web.AppRunner | None = None
        self._starting = asyncio.Lock()

    async def put(self, image: Image.Image) -> str:
        await self._start()
        data = encode_image(image)
        name = image_name(data)
        self._total_bytes += len(data) - len(self._images.get(name, b""))
        self._images[name] = data
        self._images.move_to_end(name)
        while len(self._images) > self._keep or (self._total_bytes > self._keep_bytes and len(self._images) > 1):
            self._total_bytes -= len(self._images.popitem(last=False)[1])
        return f"{self._public_url}/{name}"

    async def aclose(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _start(self) -> None:
        async with self._starting:
            if self._runner is not None:
                return
            app = web.Application()
            app.router.add_get("/{name}", self._get)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            try:
                await web.TCPSite(runner, *self._address).start()
            except OSError as error:
                await runner.cleanup()
                host, port = self._address
                raise UserError(
                    f"can't serve images on {host}:{port} ({error.strerror}). Choose another port."
                ) from error
            self._runner = runner
            if self._public_url is None:
                host, port = runner.addresses[0][:2]
                self._public_url = f"http://{host}:{port}"

    async def _get(self, request: web.Request) -> web.Response:
        data = self._images.get(request.match_info["name"])
        if data is None:
            raise web.HTTPNotFound
        return web.Response(body=data, content_type="image/jpeg")


@dataclass(frozen=True)
class S3Config:
    """A bucket that images are put into."""

    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    endpoint: str | None = None  # of an S3-compatible service (GCS, OSS, MinIO, ...); None = AWS
    region: str = "us-east-1"
    prefix: str = "crops/"
    public_url: str | None = None  # base under which the bucket is public; None = presigned URLs
    presigned_seconds: int = 3600


class S3ImageHost:
    """Puts images into a bucket of an S3-compatible service. Needs the package extra `s3`."""

    def __init__(self, config: S3Config):
        try:
            from aiobotocore.session import get_session
        except ImportError as error:
            raise UserError("the S3 image host needs: pip install 'hypereyes-jax[s3]'") from error
        self._config, self._session = config, get_session()
        self._client: Any = None
        self._context: Any = None
        self._starting = asyncio.Lock()
        self._uploaded: OrderedDict[str, float] = OrderedDict()  # name -> when it was last put there, longest ago first
        self._works = False  # an image has been stored

    async def put(self, image: Image.Image) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        data = encode_image(image)
        key = self._config.prefix + image_name(data)
        client = await self._connected()
        try:
            if time.monotonic() >= self._uploaded.get(key, -math.inf) + _STAYS_SECONDS:
                await client.put_object(Bucket=self._config.bucket, Key=key, Body=data, ContentType="image/jpeg")
                self._note(key)
            if self._config.public_url is not None:
                return f"{self._config.public_url.rstrip('/')}/{key}"
            url: str = await client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._config.bucket, "Key": key},
                ExpiresIn=self._config.presigned_seconds,
            )
            return url
        except (BotoCoreError, ClientError) as error:
            code, words = _code_and_words(getattr(error, "response", None))
            why = f"{code or type(error).__name__}{f': {words}' if words else ''}"
            if code in _NEVER and not self._works:
                message = f"the image host can store no crop in the bucket {self._config.bucket} ({why})"
                raise FatalSearchError(message, kind="image_host") from None
            message = f"the image host could not store a crop ({why})"
            raise SearchError(message, transient=True, kind="image_host") from None

    def _note(self, key: str) -> None:
        self._works = True
        self._uploaded[key] = time.monotonic()
        self._uploaded.move_to_end(key)
        if len(self._uploaded) > _MOST_NAMES:
            self._uploaded.popitem(last=False)

    async def aclose(self) -> None:
        context, self._context, self._client = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)

    async def _connected(self) -> Any:
        async with self._starting:
            if self._client is None:
                config = self._config
                self._context = self._session.create_client(
                    "s3",
                    region_name=config.region,
                    endpoint_url=config.endpoint,
                    aws_access_key_id=config.access_key,
                    aws_secret_access_key=config.secret_key,
                )
                self._client = await self._context.__aenter__()
        return self._client


def _code_and_words(response: Any) -> tuple[str, str]:
    """(code, words) of what a service says went wrong, "" for what it does not say."""
    error = response.get("Error") if isinstance(response, dict) else None
    error = error if isinstance(error, dict) else {}
    return one_line(str(error.get("Code") or ""), 60), one_line(str(error.get("Message") or ""), 200)


def image_name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32] + ".jpg"
