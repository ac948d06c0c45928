"""Stacks: bands of several files on the pixels of the finest, to the pixel."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoseg.errors import ContractError, SceneError, UsageError
from geoseg.grid import Window
from geoseg.scene import Scene
from geoseg.scene.files import is_remote, shown, vsi
from geoseg.scene.stack import stack
from geoseg.spec import Band
from geoseg.testing import write_scene

CRS = "EPSG:32633"


def distinct(height: int, width: int, seed: int = 0, dtype: str = "uint16") -> NDArray[Any]:
    """(1, H, W) in which neighbours differ in both directions: a shift by one fails."""
    rows, cols = np.indices((height, width))
    return (1 + (rows * 131 + cols * 17 + seed * 1009) % 9973).astype(dtype)[None]


def at(metres: float, left: float = 500_000, top: float = 5_000_000) -> Affine:
    return Affine(metres, 0, left, 0, -metres, top)


def band(path: Path, data: NDArray[Any], metres: float, **profile: Any) -> Path:
    settings = {"crs": CRS, "transform": at(metres), "tiled": True, "blockxsize": 32,
                "blockysize": 16, "compress": "deflate", **profile}  # fmt: skip
    return write_scene(path, data, **settings)


def repeated(data: NDArray[Any], times: int) -> NDArray[Any]:
    return data.repeat(times, axis=1).repeat(times, axis=2)


@pytest.fixture
def sentinel(tmp_path: Path) -> dict[str, Path]:
    """Bands of 10, 20 and 60 m of the same ground."""
    sizes = {"B04": 10, "B08": 10, "B11": 20, "B01": 60}
    return {
        name: band(tmp_path / f"{name}.tif", distinct(720 // m, 960 // m, i), m, nodata=0)
        for i, (name, m) in enumerate(sizes.items())
    }


def expected(files: dict[str, Path]) -> NDArray[Any]:
    bands = []
    for path in files.values():
        with rasterio.open(path) as f:
            bands.append(repeated(f.read(), round(f.transform.a / 10)))
    return np.concatenate(bands)


def test_coarser_bands_lie_on_the_pixels_of_the_finest(sentinel: dict[str, Path]) -> None:
    truth = expected(sentinel)
    xml = stack(list(sentinel.values()))
    with Scene.open(xml) as scene:
        assert scene.grid.transform == at(10)
        assert scene.crs is not None
        assert scene.crs.to_epsg() == 32633
        assert scene.band_names == ("B04", "B08", "B11", "B01")
        assert scene.nodata == (0, 0, 0, 0)
        assert scene.source == f"stack of {sentinel['B04']}"
        values, valid = scene.read(scene.grid.window)
        np.testing.assert_array_equal(values, truth)
        assert valid.all()
        for window in (Window(7, 13, 30, 41), Window(5, 95, 1, 1), Window(71, 0, 1, 96)):
            part, _ = scene.read(window)
            np.testing.assert_array_equal(part, truth[:, *window.slices()])


def test_it_is_read_at_a_models_gsd(sentinel: dict[str, Path]) -> None:
    """Means of repeated pixels are the pixels themselves: 20 m is exact."""
    xml = stack([sentinel["B11"], sentinel["B04"]], names=["swir16", "red"])
    wanted = (Band("B4", "red"), Band("B11", "swir16"))
    with Scene.open(xml) as scene:
        assert scene.gsd is not None
        twice = 2 * scene.gsd[0]  # metres on the ground: not quite those of the map
    with Scene.open(xml, bands=wanted, gsd=twice) as scene:
        assert scene.bands == (2, 1)
        values, _ = scene.read(scene.grid.window)
    with rasterio.open(sentinel["B11"]) as f:
        np.testing.assert_array_equal(values[1], f.read(1))


@given(
    places=st.lists(st.tuples(st.integers(0, 65), st.integers(0, 90)), min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 7), st.integers(1, 9)),
)
def test_windows_are_parts_of_the_whole(
    stacked: tuple[str, NDArray[Any]], places: list[tuple[int, int]], size: tuple[int, int]
) -> None:
    xml, truth = stacked
    with Scene.open(xml) as scene:
        for row, col in places:
            window = Window(row, col, *size).intersection(scene.grid.window)
            values, _ = scene.read(window)
            np.testing.assert_array_equal(values, truth[:, *window.slices()])


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, NDArray[Any]]:
    folder = tmp_path_factory.mktemp("bands")
    fine, coarse = distinct(72, 96), distinct(12, 16, 1)
    files = [band(folder / "fine.tif", fine, 10), band(folder / "coarse.tif", coarse, 60)]
    return stack(files), np.concatenate([fine, repeated(coarse, 6)])


def test_a_part_lies_where_its_georeference_says(tmp_path: Path) -> None:
    """Landsat's way: pixels of 15 m begin half a pixel of 30 m away from those of 30 m."""
    fine, coarse = distinct(20, 30), distinct(10, 15, 1)
    one = band(tmp_path / "pan.tif", fine, 15, transform=at(15, 500_015, 4_999_985))
    two = band(tmp_path / "red.tif", coarse, 30, nodata=0)
    with Scene.open(stack([one, two])) as scene:
        values, _ = scene.read(scene.grid.window)
    shifted = repeated(coarse, 2)[0]
    np.testing.assert_array_equal(values[0], fine[0])
    np.testing.assert_array_equal(values[1, :19, :29], shifted[1:, 1:])
    assert (values[1, 19:] == 0).all()  # beyond the part: its nodata
    assert (values[1, :, 29:] == 0).all()


def test_bands_of_one_file_in_another_order(tmp_path: Path) -> None:
    picture = np.concatenate([distinct(20, 30, i, "uint8") for i in range(4)])
    path = band(tmp_path / "image.tif", picture, 10, photometric="RGB", alpha="YES")
    with Scene.open(stack([f"{path}#3,1"])) as scene:
        np.testing.assert_array_equal(scene.read(scene.grid.window)[0], picture[[2, 0]])
        assert scene.band_names == ("blue", "red")
    odd = path.rename(tmp_path / "image#2")  # a file's name comes before what it might mean
    assert stack([odd]).count("<SimpleSource") == 4  # three bands and the mask
    path = odd.rename(path)
    with Scene.open(stack([path])) as scene:  # alpha is no band, but says where there is data
        values, valid = scene.read(scene.grid.window)
        np.testing.assert_array_equal(values, picture[:3])
        np.testing.assert_array_equal(valid, picture[3] > 0)


def test_dtypes_nodata_scale_offset_and_masks_are_kept(tmp_path: Path) -> None:
    one = band(tmp_path / "a.tif", distinct(8, 8, dtype="int16"), 10, nodata=-9999)
    two = band(tmp_path / "b.tif", distinct(4, 4, dtype="float32"), 20, nodata=float("nan"))
    with rasterio.open(one, "r+") as f:
        f.scales, f.offsets, f.units, f.descriptions = [0.0001], [-0.1], ["1"], ["surface red"]
    with rasterio.open(stack([one, two])) as f:
        assert f.dtypes == ("int16", "float32")
        assert f.nodatavals[0] == -9999
        assert np.isnan(f.nodatavals[1])
        assert (f.scales[0], f.offsets[0], f.units[0]) == (0.0001, -0.1, "1")
        assert f.descriptions == ("surface red", "b")
    three = band(tmp_path / "c.tif", distinct(8, 8), 10)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(three, "r+") as f:
        f.write_mask(np.eye(8, dtype="uint8") * 255)
    with Scene.open(stack([three, two])) as scene:
        np.testing.assert_array_equal(scene.read(scene.grid.window)[1], np.eye(8, dtype=bool))


def test_a_vrt_file_is_opened_as_well(sentinel: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "scene.vrt"
    path.parent.mkdir()
    path.write_text(stack(list(sentinel.values())))
    with Scene.open(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.grid.window)[0], expected(sentinel))


def test_it_is_read_in_other_threads(sentinel: dict[str, Path]) -> None:
    found = []
    with Scene.open(stack(list(sentinel.values()))) as scene:
        thread = threading.Thread(target=lambda: found.append(scene.read(scene.grid.window)[0]))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(found[0], expected(sentinel))


def test_what_does_not_fit_is_one_sentence(sentinel: dict[str, Path], tmp_path: Path) -> None:
    red, data = sentinel["B04"], distinct(72, 96)
    other_crs = band(tmp_path / "zone.tif", data, 10, crs="EPSG:32632")
    no_crs = band(tmp_path / "none.tif", data, 10, crs=None)
    moved = band(tmp_path / "moved.tif", data, 10, transform=at(10, 500_011))
    larger = band(tmp_path / "larger.tif", distinct(74, 96), 10)
    turned = band(tmp_path / "turned.tif", data, 10, transform=at(10) @ Affine.rotation(1))
    for wrong, says in (
        (other_crs, r"zone\.tif: its CRS \(EPSG:32632\) is not that of .*B04.tif \(EPSG:32633\)"),
        (no_crs, r"none\.tif: its CRS \(none\) is not that of"),
        (moved, r"moved\.tif: does not cover the same ground as"),
        (larger, r"larger\.tif: does not cover the same ground as"),
        (turned, r"turned\.tif: does not cover the same ground as"),
        (tmp_path / "missing.tif", r"missing\.tif: no such file"),
    ):
        with pytest.raises(SceneError, match=says) as caught:
            stack([red, wrong])
        assert "\n" not in str(caught.value)
    with pytest.raises(ContractError, match=r"B04\.tif: has no band 2: it has 1"):
        stack([f"{red}#2"])
    with pytest.raises(ContractError, match=r"S2: .*B04\.tif have 1 bands together, but 2 are"):
        stack([red], names=["red", "nir"], name="S2")
    with pytest.raises(UsageError, match="no rasters"):
        stack([])


def test_a_part_that_vanishes_fails_while_reading(sentinel: dict[str, Path]) -> None:
    xml = stack(list(sentinel.values()), name='"S2" <a> & b')
    sentinel["B11"].unlink()
    with Scene.open(xml) as scene:
        assert scene.source == '"S2" <a> & b'
        with pytest.raises(SceneError, match=r'"S2" <a> & b: rows 0 to 71 .*B11\.tif'):
            scene.read(scene.grid.window)
    with pytest.raises(SceneError, match="scene: is a VRT that cannot be opened") as caught:
        Scene.open(f'<VRTDataset><MDI key="geoseg:name">scene</MDI>{"/long" * 2000}</VRT>')
    assert len(str(caught.value)) < 250


def test_names_of_urls() -> None:
    assert vsi("s3://bucket/a.tif") == "/vsis3/bucket/a.tif"
    assert vsi("gs://bucket/a.tif") == "/vsigs/bucket/a.tif"
    assert vsi("https://host/a.tif?x=1") == "/vsicurl/https://host/a.tif?x=1"
    assert vsi("/vsis3/bucket/a.tif") == "/vsis3/bucket/a.tif"
    assert vsi("C:/a.tif") == "C:/a.tif"
    remote = '<VRTDataset><SourceFilename relativeToVRT="0">/vsis3/b/a.tif</SourceFilename>'
    assert is_remote(remote)
    assert not is_remote(remote.replace("/vsis3", "/data"))
    assert shown(remote) == "a VRT"
