"""A server of map tiles on loopback, made by code: `with TileServer() as server: server.uri`."""

from __future__ import annotations

import math
import struct
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from osgeo import gdal

EDGE = 256


def png(rows: list[bytes]) -> bytes:
    """A picture of EDGE columns, RGB or RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    kind = {3: 2, 4: 6}[len(rows[0]) // EDGE]
    head = struct.pack(">IIBBBBB", EDGE, len(rows), 8, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = (chunk(b"IHDR", head), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def color(z: int, x: int, y: int) -> tuple[int, int, int]:
    """What a tile is filled with."""
    return (x * 40 + 20) % 256, (y * 40 + 20) % 256, z * 10


def plain(z: int, x: int, y: int) -> bytes:
    """A tile of one colour."""
    return png([bytes(color(z, x, y)) * EDGE] * EDGE)


def photo(path: str) -> Callable[[int, int, int], bytes]:
    """Tiles of a raster, warped to web mercator; clear where it has nothing."""
    half = math.pi * 6378137

    def picture(z: int, x: int, y: int) -> bytes:
        edge = 2 * half / 2**z
        left, top = x * edge - half, half - y * edge
        options = {
            "format": "MEM",
            "dstSRS": "EPSG:3857",
            "width": EDGE,
            "height": EDGE,
            "dstAlpha": True,
        }
        bounds = [left, top - edge, left + edge, top]
        tile = gdal.Warp("", path, outputBounds=bounds, resampleAlg="average", **options)
        array = tile.ReadAsArray().transpose(1, 2, 0)
        return png([row.tobytes() for row in array])

    return picture


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        z, x, y = (int(part) for part in self.path.split(".")[0].strip("/").split("/"))
        self.server.asked.append((z, x, y))
        time.sleep(self.server.delay)
        body = self.server.picture(z, x, y)
        self.send_response(self.server.status)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


class TileServer:
    """Serves what `picture` makes of z, x, y; `asked` are the tiles that were fetched."""

    def __init__(
        self,
        picture: Callable[[int, int, int], bytes] = plain,
        *,
        delay: float = 0,
        status: int = 200,
        zmax: int = 22,
    ) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.delay, self._server.status, self._server.asked = delay, status, []
        self._server.picture = picture
        self.asked = self._server.asked
        url = f"http://127.0.0.1:{self._server.server_port}/%7Bz%7D/%7Bx%7D/%7By%7D.png"
        self.uri = f"type=xyz&url={url}&zmin=0&zmax={zmax}"

    def __enter__(self) -> TileServer:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._server.shutdown()
        self._server.server_close()
