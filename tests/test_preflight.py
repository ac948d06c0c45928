"""Preflight: what differs between a scene and a model's contract is found, said, or refused."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from shapely import box

from geoseg.aoi import Aoi
from geoseg.errors import ContractError, SceneError
from geoseg.grid import Tiling, Window
from geoseg.preflight import Preflight, describe, open_for, preflight
from geoseg.reading import normalize
from geoseg.scene import Scene
from geoseg.scene.files import quiet
from geoseg.scene.sample import sample
from geoseg.spec import Band, ClassInfo, ModelSpec, Scaling

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
SPEC = ModelSpec(
    name="buildings",
    version="0",
    architecture="unet",
    bands=(Band("red", "red"), Band("green", "green"), Band("blue", "blue")),
    scaling=Scaling((120.0, 110.0, 100.0), (50.0, 50.0, 50.0)),
    gsd=0.5,
    classes=(ClassInfo(1, "building"),),
    tiling=Tiling(),
)


def noise(low: float, high: float, dtype: str, *, bands: int = 3, edge: int = 64) -> NDArray[Any]:
    values = np.random.default_rng(0).uniform(low, high, (bands, edge, edge))
    return np.clip(values, low, high).astype(dtype)


def write(path: Path, data: NDArray[Any], *, pixel: float = 0.5, **profile: Any) -> Path:
    colours = profile.pop("colours", RGB if len(data) == 3 else None)
    settings = {"crs": "EPSG:32610", "driver": "GTiff", "dtype": data.dtype, **profile}
    shape = {"count": data.shape[0], "height": data.shape[1], "width": data.shape[2]}
    transform = Affine(pixel, 0, 500_000, 0, -pixel, 5_000_000)
    with quiet(), rasterio.open(path, "w", transform=transform, **settings, **shape) as f:
        f.write(data)
        if colours:
            f.colorinterp = colours
    return path


def said(result: Preflight, topic: str) -> list[tuple[str, str]]:
    return [(f.level, f.message) for f in result.findings if f.topic == topic]


def check(path: Path, spec: ModelSpec, **options: Any) -> Preflight:
    with open_for(path, spec, **options) as scene:
        return preflight(scene, spec)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write(tmp_path / "a.tif", noise(1, 255, "uint8"))


def test_a_scene_that_fits_has_no_findings(image: Path) -> None:
    result = check(image, SPEC)
    assert result.findings == ()
    assert result.scaling == SPEC.scaling
    assert result.bands == (1, 2, 3)
    assert result.factor == (1, 1)
    assert result.valid_share == 1


@pytest.mark.parametrize(
    ("pixel", "level", "says"),
    [
        (0.45, "info", "nearly the same"),
        (0.2, "info", "resampled from 0.2 m to 0.5 m"),
        (0.05, "warning", "10 times finer"),
        (0.9, "info", "resampled from 0.9 m to 0.5 m"),
        (3.0, "warning", "6 times coarser .* expect missed objects"),
    ],
)
def test_gsd_is_said(tmp_path: Path, pixel: float, level: str, says: str) -> None:
    result = check(write(tmp_path / "a.tif", noise(1, 255, "uint8"), pixel=pixel), SPEC)
    [(found, message)] = said(result, "gsd")
    assert found == level
    assert re.search(says, message)
    assert result.factor[0] == pytest.approx(0.5 / pixel, rel=1e-3)


@pytest.mark.parametrize("pixel", [0.02, 10.1])
def test_gsd_far_off_is_refused(tmp_path: Path, pixel: float) -> None:
    path = write(tmp_path / "a.tif", noise(1, 255, "uint8"), pixel=pixel)
    with pytest.raises(ContractError, match=r"2\d\.?\d* times (finer|coarser) than the 0.5 m"):
        check(path, SPEC)
    fixed = check(path, SPEC, scene_gsd=0.5)
    assert fixed.grid == fixed.native
    for size in (1e-6, 1e6):
        with pytest.raises(ContractError, match="times (finer|coarser)"):
            check(path, SPEC, scene_gsd=size)


def test_no_crs_is_said(tmp_path: Path) -> None:
    result = check(write(tmp_path / "a.tif", noise(1, 255, "uint8"), crs=None), SPEC)
    [(level, message)] = said(result, "crs")
    assert level == "warning"
    assert "no CRS" in message


@pytest.mark.parametrize(
    ("dtype", "low", "high", "clip", "level"),
    [
        ("uint16", 1, 255, None, None),  # bytes in wider numbers
        ("float32", 1, 255, None, None),
        ("float32", 0, 1, (0.0, 1.0), "info"),
        ("uint16", 100, 10_000, "stretched", "warning"),
        ("int16", -500, 4000, "stretched", "warning"),
        ("float64", -9, -3, "stretched", "warning"),
    ],
)
def test_values_are_brought_to_the_models_range(
    tmp_path: Path, dtype: str, low: float, high: float, clip: Any, level: str | None
) -> None:
    data = noise(low, high, dtype)
    result = check(write(tmp_path / "a.tif", data), SPEC)
    assert [f for f, _ in said(result, "values")] == ([level] if level else [])
    if clip == "stretched":
        p2, p98 = np.percentile(data, (2, 98))
        assert result.scaling.clip == pytest.approx((p2, p98), rel=1e-6)
        low, high = p2, p98
    else:
        assert result.scaling.clip == clip
    as_bytes = (np.clip(data, low, high) - low) / (high - low) * 255 if clip else data
    valid = np.ones(data.shape[1:], np.bool_)
    np.testing.assert_allclose(
        normalize(data, valid, result.scaling),
        normalize(as_bytes.astype("float64"), valid, SPEC.scaling),
        atol=1e-3,
    )


def test_bytes_for_a_model_of_reflectance(image: Path) -> None:
    spec = dataclasses.replace(SPEC, dtype="float32", value_range=(0.0, 1.0))
    assert check(image, spec).scaling.clip == (0.0, 255.0)


def test_values_beyond_the_range_of_the_same_dtype_are_said(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, dtype="uint16", value_range=(0.0, 3000.0))
    result = check(write(tmp_path / "a.tif", noise(0, 9000, "uint16")), spec)
    assert result.scaling == spec.scaling
    assert "go beyond" in said(result, "values")[0][1]


def test_constant_image_is_said(tmp_path: Path) -> None:
    result = check(write(tmp_path / "a.tif", np.full((3, 9, 9), 7, "uint8")), SPEC)
    assert "same value" in said(result, "values")[0][1]


def test_bands_by_position_and_of_another_colour_are_said(tmp_path: Path, image: Path) -> None:
    data, undefined = noise(1, 255, "uint8"), (ColorInterp.undefined,) * 3
    plain = write(tmp_path / "plain.tif", data, colours=undefined)
    [(level, message)] = said(check(plain, SPEC), "bands")
    assert level == "warning"
    assert "by position: 1 = red" in message
    swapped = said(check(image, SPEC, bands=[3, 2, 1]), "bands")
    assert "band 3 is used as red, but the file says that it is blue" in swapped[0][1]
    reordered = check(write(tmp_path / "bgr.tif", data, colours=RGB[::-1]), SPEC)
    assert reordered.bands == (3, 2, 1)
    assert not said(reordered, "bands")


def test_wrong_number_of_bands_is_refused(tmp_path: Path, image: Path) -> None:
    with pytest.raises(ContractError, match=r"2 bands are given, buildings takes 3 \(red, green"):
        check(image, SPEC, bands=[1, 2])
    two = write(tmp_path / "b.tif", noise(1, 255, "uint8", bands=2))
    with pytest.raises(ContractError, match=r"3 bands are needed .* there are bands 1"):
        check(two, SPEC)


def test_nodata_share_and_undeclared_zeros(tmp_path: Path) -> None:
    data = noise(1, 255, "uint8")
    data[:, :16] = 0
    bare = check(write(tmp_path / "a.tif", data), SPEC)
    assert "--nodata 0" in said(bare, "nodata")[0][1]
    told = check(tmp_path / "a.tif", SPEC, nodata=0)
    assert said(told, "nodata") == [("info", "about 25 % of the scene has no data")]
    assert told.valid_share == 0.75


def test_nothing_to_predict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((3, 50, 50), "uint8"), nodata=0)
    with pytest.raises(SceneError, match="nothing to predict"):
        check(path, SPEC)
    # One lonely block of data in a large scene: no sample finds it, but it is there.
    path = tmp_path / "big.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 4096, "width": 4096,
               "tiled": True, "sparse_ok": True, "nodata": 0, "crs": "EPSG:32610"}  # fmt: skip
    with rasterio.open(path, "w", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5e6), **profile) as f:
        f.colorinterp = RGB
        f.write(np.full((3, 2, 2), 9, "uint8"), window=rasterio.windows.Window(777, 801, 2, 2))
    assert "hardly any" in said(check(path, SPEC), "nodata")[0][1]


@pytest.mark.parametrize("pixel", [0.5, 0.2])
def test_an_area_without_data_is_said(tmp_path: Path, pixel: float) -> None:
    data = noise(1, 255, "uint8", edge=700)
    data[:, :, :350] = 0
    data[:, 600, 3] = 9  # one lonely pixel
    path = write(tmp_path / "a.tif", data, nodata=0, pixel=pixel)
    with open_for(path, SPEC) as scene:
        x, y = scene.grid.transform @ (0, 0)

        def findings(left: int, top: int, right: int, bottom: int) -> list[tuple[str, str]]:
            """Of an area in pixels of the file."""
            area = box(x + left * pixel, y - bottom * pixel, x + right * pixel, y - top * pixel)
            return said(preflight(scene, SPEC, aoi=Aoi.open(area, scene.grid)), "aoi")

        [(level, message)] = findings(0, 0, 340, 590)
        assert level == "warning"
        assert message.endswith("no pixel of it has data (by nodata): nothing will be found")
        assert not findings(340, 0, 360, 700)
        if pixel == 0.5:  # not resampled: one pixel is enough
            assert not findings(0, 0, 340, 610)


@pytest.mark.parametrize("tiled", [True, False])
def test_a_sample_is_small_and_spread(
    tmp_path: Path, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    ramp = np.linspace(0, 255, 3000 * 2000).reshape(1, 3000, 2000).astype("uint8")
    write(path, ramp, tiled=tiled, compress="deflate")
    with Scene.open(path) as scene:
        windows: list[Window] = []
        read = scene.raster.read

        def note(window: Window) -> Any:
            windows.append(window)
            return read(window)

        monkeypatch.setattr(scene.raster, "read", note)
        looked = sample(scene.raster)
    assert len(windows) <= 64
    assert sum(w.pixels for w in windows) <= 64 * 128 * 128
    np.testing.assert_allclose(looked.percentiles(2, 50, 98), (5, 127, 250), atol=12)


def test_describe(image: Path) -> None:
    info = describe(image)
    plain = json.loads(json.dumps(info.as_dict()))
    assert plain["crs"] == "EPSG:32610"
    assert plain["bounds"] == [500_000, 4_999_968, 500_032, 5_000_000]
    assert plain["lonlat"][0] == pytest.approx(-123)
    assert [b["name"] for b in plain["bands"]] == ["red", "green", "blue"]
    assert 1 <= plain["bands"][0]["minimum"] < plain["bands"][0]["maximum"] <= 254
    assert plain["file_size"] == image.stat().st_size
    assert plain["gsd"] == pytest.approx([0.5002] * 2, rel=1e-4)


def test_describe_torture(shared_data: Path) -> None:
    described = 0
    for path in sorted((shared_data / "torture").glob("*")):
        if path.name in ("RGB.nc", "compdcs.vrt", "corrupt.tif"):
            with pytest.raises(SceneError):
                describe(path)
        else:
            json.dumps(describe(path).as_dict())
            described += 1
    assert described > 40
