"""Scenes on other machines: servers that fail for a moment, that fail for good, and S3."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from models import bright_bundle
from numpy.typing import NDArray
from servers import Files, bucket, running

import geoseg
from geoseg.errors import SceneError
from geoseg.scene import Scene, files
from geoseg.scene.stack import stack
from geoseg.testing import planted_rectangles, planted_scene, write_scene

NOISE = np.random.default_rng(0).integers(1, 255, (3, 600, 600)).astype("uint8")
COG = {"driver": "COG", "blocksize": 128, "compress": "deflate", "overviews": "none"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has set stays: here, not to wait long."""
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    monkeypatch.setattr(files, "_WAITS", (0.01,) * 4)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Files, str]]:
    write_scene(tmp_path / "a.tif", NOISE, **COG)
    server = Files(tmp_path)
    with running(server.app) as url:
        yield server, f"{url}/a.tif"


def read(source: str) -> NDArray[Any]:
    with Scene.open(source) as scene:
        return scene.read(scene.grid.window)[0]


@pytest.mark.parametrize("status", [503, 429, 500, 502])
def test_three_failures_are_waited_out(served: tuple[Files, str], status: int) -> None:
    server, url = served
    with Scene.open(url) as scene:
        server.faults.extend([status] * 3)  # while blocks are read
        np.testing.assert_array_equal(scene.read(scene.grid.window)[0], NOISE)
    assert not server.faults


def test_three_failures_on_opening_are_waited_out(served: tuple[Files, str]) -> None:
    server, url = served
    server.faults.extend([503] * 3)
    np.testing.assert_array_equal(read(url), NOISE)
    assert not server.faults


def test_what_failed_for_good_can_be_tried_again(served: tuple[Files, str]) -> None:
    """GDAL itself would go on failing without asking."""
    server, url = served
    server.faults.extend([503] * 100)
    with pytest.raises(SceneError, match=r"a\.tif: cannot be reached \(HTTP response code: 503\)"):
        read(url)
    asked = len(server.requests)
    assert 5 <= asked < 20
    server.faults.clear()
    np.testing.assert_array_equal(read(url), NOISE)


def test_a_read_that_fails_for_good_names_file_and_rows(served: tuple[Files, str]) -> None:
    server, url = served
    with Scene.open(url) as scene:
        server.faults.extend([503] * 1000)
        with pytest.raises(SceneError, match=r"a\.tif: rows 0 to 599 cannot be read .* connection"):
            scene.read(scene.grid.window)
        server.faults.clear()
        np.testing.assert_array_equal(scene.read(scene.grid.window)[0], NOISE)


def test_what_does_not_exist_is_one_sentence_at_once(served: tuple[Files, str]) -> None:
    server, url = served
    with pytest.raises(SceneError) as caught:
        Scene.open(url.replace("a.tif", "b.tif?signature=secret"))
    address = url.replace("a.tif", "b.tif")
    assert str(caught.value) == f"{address}: does not exist (HTTP 404): check the address"
    assert len(server.requests) == 2  # no waiting for what is not there
    with pytest.raises(SceneError, match=r"b\.tif: does not exist \(HTTP 404\)"):
        stack([url, address])


def test_only_what_is_needed_is_fetched(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", np.tile(NOISE, (1, 4, 4)), **COG)
    server = Files(tmp_path)
    with running(server.app) as url, Scene.open(f"{url}/a.tif") as scene:
        scene.read(geoseg.grid.Window(1000, 1000, 50, 50))
    ranges = [r.removeprefix("bytes=").split("-") for _, _, r in server.requests if r]
    fetched = sum(int(last) - int(first) + 1 for first, last in ranges)
    assert fetched < 0.1 * (tmp_path / "a.tif").stat().st_size
    assert {path for _, path, _ in server.requests} == {"a.tif"}


def test_a_connection_that_breaks_is_made_again(tmp_path: Path) -> None:
    """A server that closes in the middle of what it promised, three times."""
    path = write_scene(tmp_path / "a.tif", NOISE[:, :256, :256], **COG)
    content, broken = path.read_bytes(), []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(65536).decode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n"
                body = content
                if (at := asked.lower().find("range: bytes=")) >= 0:
                    first, last = asked[at:].split("=")[1].split("\r")[0].split("-")
                    body = content[int(first) : int(last) + 1]
                    span = f"bytes {first}-{int(first) + len(body) - 1}/{len(content)}"
                    head = (
                        f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(body)}\r\n"
                        f"Content-Range: {span}\r\nConnection: close\r\n"
                    )
                    if opened and len(broken) < 3:
                        broken.append(span)
                        body = body[: len(body) // 2]
                connection.sendall(f"{head}Accept-Ranges: bytes\r\n\r\n".encode())
                if asked.startswith("GET"):
                    connection.sendall(body)

    opened: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with Scene.open(f"http://127.0.0.1:{listener.getsockname()[1]}/a.tif") as scene:
            opened.append(True)
            values, _ = scene.read(scene.grid.window)
        listener.shutdown(socket.SHUT_RDWR)
    np.testing.assert_array_equal(values, NOISE[:, :256, :256])
    assert len(broken) == 3


def test_settings_of_the_user_hold_in_all_threads(tmp_path: Path) -> None:
    """A run reads in a thread of its own; rasterio's settings belong to one thread."""
    model = bright_bundle(tmp_path / "bright")
    mask = planted_rectangles((300, 300), count=20, seed=1)
    local = planted_scene(tmp_path / "scene.tif", mask)
    server = Files(tmp_path, header=("authorization", "Bearer 1"))
    with running(server.app) as url:
        source = f"{url}/scene.tif"
        with pytest.raises(SceneError, match="HTTP response code: 401"):
            geoseg.predict(source, tmp_path / "no.gpkg", model=model)
        with rasterio.Env(GDAL_HTTP_HEADERS="Authorization: Bearer 1"):
            geoseg.predict(source, tmp_path / "remote.gpkg", model=model)
    geoseg.predict(local, tmp_path / "local.gpkg", model=model)
    one, two = (gpd.read_file(tmp_path / f"{name}.gpkg") for name in ("remote", "local"))
    assert len(one)
    assert one.geom_equals_exact(two, 0).all()


def test_what_the_user_has_set_is_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = files.settings("https://host/a.tif")
    assert ours["GDAL_HTTP_MAX_RETRY"] == "4"
    assert "GDAL_HTTP_RETRY_DELAY" not in ours  # in the environment, see above
    with rasterio.Env(GDAL_HTTP_MAX_RETRY=9, GDAL_CACHEMAX=1 << 20):
        theirs = files.settings("https://host/a.tif")
        assert (theirs["GDAL_HTTP_MAX_RETRY"], theirs["GDAL_CACHEMAX"]) == (9, 1 << 20)
        assert theirs["VSI_CACHE"] == "TRUE"
    monkeypatch.delenv("GDAL_HTTP_RETRY_DELAY")
    assert files.settings("a.tif")["GDAL_HTTP_RETRY_DELAY"] == "0.5"
    assert "VSI_CACHE" not in files.settings("a.tif")


def test_a_vrt_file_with_remote_parts_is_remote(served: tuple[Files, str], tmp_path: Path) -> None:
    server, url = served
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(stack([f"{url}#3,1", f"{url}#2"]))
    with Scene.open(vrt) as scene:
        server.faults.extend([503] * 3)
        np.testing.assert_array_equal(scene.read(scene.grid.window)[0], NOISE[[2, 0, 1]])
    assert not server.faults


@pytest.mark.parametrize("form", ["s3://imagery/{}", "/vsis3/imagery/{}"])
def test_scenes_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    folder = tmp_path / "bucket" / "2024"
    folder.mkdir(parents=True)
    write_scene(folder / "a.tif", NOISE, **COG)
    with bucket(tmp_path / "bucket", "imagery") as environment:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        np.testing.assert_array_equal(read(form.format("2024/a.tif")), NOISE)
        with Scene.open(stack([form.format("2024/a.tif#2")])) as scene:
            np.testing.assert_array_equal(scene.read(scene.grid.window)[0], NOISE[[1]])
        missing = form.format("2024/b.tif")
        with pytest.raises(SceneError, match="does not exist") as caught:
            Scene.open(missing)
        assert str(caught.value).startswith(missing)
        assert "\n" not in str(caught.value)
