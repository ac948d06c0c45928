"""Real servers on loopback: files with byte ranges, a STAC API, S3."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn
from shapely.geometry import box, shape
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """The URL of a server that runs `app` in a thread."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Files:
    """A folder, served with byte ranges, as stores of COGs do.

    faults: statuses of the next answers, 0 for none. requests: method, path and range of all.
    header: (name, value) that a request must have; else 401.
    """

    def __init__(self, folder: Path, header: tuple[str, str] | None = None) -> None:
        self.folder, self.header = folder, header
        self.faults: deque[int] = deque()
        self.requests: list[tuple[str, str, str | None]] = []
        self.app = Starlette(routes=[Route("/{path:path}", self._serve, methods=["GET", "HEAD"])])

    def _serve(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.requests.append((request.method, path, request.headers.get("range")))
        if self.faults and (status := self.faults.popleft()):
            return Response(status_code=status)
        if self.header and request.headers.get(self.header[0]) != self.header[1]:
            return Response(status_code=401)
        file = self.folder / path
        return FileResponse(file) if file.is_file() else Response(status_code=404)


class StacApi:
    """A STAC API (core, item search, query) over items in memory, in pages of three.

    faults: statuses of the next answers to searches. searches: what was asked.
    """

    conforms: Sequence[str] = (
        "https://api.stacspec.org/v1.0.0/core",
        "https://api.stacspec.org/v1.0.0/item-search",
        "https://api.stacspec.org/v1.0.0/item-search#query",
    )

    def __init__(self, items: Sequence[Mapping[str, Any]], *, query: bool = True) -> None:
        self.items = list(items)
        self.query = query
        self.faults: deque[int] = deque()
        self.searches: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/", self._landing),
                Route("/collections/{id}", self._collection),
                Route("/collections/{id}/items", self._collection_items),
                Route("/search", self._search, methods=["POST"]),
            ]
        )

    def _landing(self, request: Request) -> Response:
        root = str(request.base_url).rstrip("/")
        search = {"rel": "search", "href": f"{root}/search", "type": "application/geo+json"}
        return JSONResponse(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "loopback",
                "description": "items in memory",
                "conformsTo": list(self.conforms if self.query else self.conforms[:2]),
                "links": [
                    {"rel": "self", "href": root},
                    {"rel": "root", "href": root},
                    {**search, "method": "GET"},
                    {**search, "method": "POST"},
                ],
            }
        )

    def _collection(self, request: Request) -> Response:
        root, name = str(request.base_url).rstrip("/"), request.path_params["id"]
        here = f"{root}/collections/{name}"
        everywhere = {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [[None, None]]},
        }
        links = {"self": here, "root": root, "items": f"{here}/items"}
        return JSONResponse(
            {
                "type": "Collection",
                "stac_version": "1.0.0",
                "id": name,
                "description": name,
                "license": "other",
                "extent": everywhere,
                "links": [{"rel": rel, "href": href} for rel, href in links.items()],
            }
        )

    def _collection_items(self, request: Request) -> Response:
        found = [i for i in self.items if i["collection"] == request.path_params["id"]]
        start = int(request.query_params.get("token", 0))
        here = str(request.url).split("?")[0]
        links = [{"rel": "next", "href": f"{here}?token={start + 3}"}]
        return _page(found, start, links)

    async def _search(self, request: Request) -> Response:
        asked = await request.json()
        self.searches.append(asked)
        if self.faults and (status := self.faults.popleft()):
            return Response(status_code=status)
        found = [item for item in self.items if self._fits(item, asked)]
        start = int(base64.b64decode(asked.get("token", "")) or 0)
        token = base64.b64encode(str(start + 3).encode()).decode()
        body = {**asked, "token": token}
        link = {"rel": "next", "href": str(request.url), "method": "POST", "body": body}
        return _page(found, start, [link])

    def _fits(self, item: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
        if asked.get("collections") and item["collection"] not in asked["collections"]:
            return False
        if asked.get("bbox") and not shape(item["geometry"]).intersects(box(*asked["bbox"])):
            return False
        if asked.get("datetime"):
            low, _, high = asked["datetime"].partition("/")
            moment = datetime.fromisoformat(item["properties"]["datetime"])
            if low != ".." and moment < datetime.fromisoformat(low):
                return False
            if high != ".." and moment > datetime.fromisoformat(high or low):
                return False
        limit = asked.get("query", {}).get("eo:cloud_cover", {}).get("lte")
        return limit is None or item["properties"].get("eo:cloud_cover", 101) <= limit


def _page(found: Sequence[Any], start: int, following: list[dict[str, Any]]) -> Response:
    return JSONResponse(
        {
            "type": "FeatureCollection",
            "features": found[start : start + 3],
            "links": following if start + 3 < len(found) else [],
        }
    )


@contextmanager
def bucket(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """A folder as an S3 bucket on loopback; what GDAL has to know of it, as environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=name)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                client.upload_file(str(file), name, str(file.relative_to(folder)))
        client.close()
        yield {
            **keys,
            "AWS_S3_ENDPOINT": f"{host}:{port}",
            "AWS_REGION": "us-east-1",
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }
    finally:
        server.stop()
