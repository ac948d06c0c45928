"""Scene: parity with rasterio, validity, bands, resampling, and one sentence per failure."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from geoseg.errors import ContractError, SceneError, UsageError
from geoseg.grid import Grid, Window
from geoseg.scene import Scene
from geoseg.scene.files import quiet
from geoseg.scene.gsd import ground_sample_distance
from geoseg.scene.resample import resample, weights
from geoseg.spec import Band

UTM = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
RGB = (Band("red"), Band("green"), Band("blue"))


def distinct(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    """Neighbours differ in both directions, and bands differ: a shift by one fails."""
    band, row, col = np.indices(shape)
    return ((band * 83 + row * 7 + col * 3) % 251 + 1).astype(dtype)


def write(path: Path, data: NDArray[Any], **profile: Any) -> Path:
    """A GeoTIFF in UTM with pixels of 0.5 m, unless `profile` says otherwise."""
    settings = {"crs": "EPSG:32610", "transform": UTM, **profile}
    after = {key: settings.pop(key) for key in ("colorinterp", "mask", "descriptions", "gcps")
             if key in settings}  # fmt: skip
    shape = {"count": data.shape[0], "height": data.shape[1], "width": data.shape[2]}
    with quiet(), rasterio.open(
        path, "w", driver="GTiff", dtype=data.dtype, **shape, **settings
    ) as f:  # fmt: skip
        f.write(data)
        if "colorinterp" in after:
            f.colorinterp = after["colorinterp"]
        if "mask" in after:
            f.write_mask(after["mask"])
        if "descriptions" in after:
            f.descriptions = after["descriptions"]
        if "gcps" in after:
            f.gcps = after["gcps"]
    return path


def read_all(source: Path | str, **options: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    with Scene.open(source, **options) as scene:
        return scene.read(scene.grid.window)


LAYOUTS: list[dict[str, Any]] = [
    {"tiled": True, "blockxsize": 64, "blockysize": 32, "compress": "deflate"},
    {"tiled": False, "compress": "lzw", "interleave": "pixel"},
    {"tiled": False, "interleave": "band", "blockysize": 7},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "BIGTIFF": "YES", "nodata": 7},
    {"transform": Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_000_000)},
    {"transform": Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000)},
    {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 7, 0, -1e-5, 60)},
    {"crs": None, "transform": Affine.identity()},
]
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32",
          "float64"]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda d: "-".join(map(str, d))[:40])
def test_reads_what_rasterio_reads(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = write(tmp_path / "a.tif", distinct(3, 90, 131), **layout)
    with quiet(), rasterio.open(path) as f:
        expected, mask = f.read(), f.dataset_mask() > 0
        affine = f.transform
    with Scene.open(path) as scene:
        data, valid = scene.read(scene.grid.window)
        part, part_valid = scene.read(Window(33, 60, 40, 70))
        assert scene.native.transform == affine
    np.testing.assert_array_equal(data, expected)
    np.testing.assert_array_equal(valid, mask)
    np.testing.assert_array_equal(part, expected[:, 33:73, 60:130])
    np.testing.assert_array_equal(part_valid, mask[33:73, 60:130])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype(tmp_path: Path, dtype: str) -> None:
    expected = distinct(2, 20, 30, dtype=dtype) // 2
    path = write(tmp_path / "a.tif", expected)
    data, valid = read_all(path)
    assert data.dtype == dtype
    assert valid.all()
    np.testing.assert_array_equal(data, expected)
    half, _ = read_all(path, scene_gsd=0.5, gsd=1.0)
    assert half.dtype == dtype
    means = expected.astype(float).reshape(2, 10, 2, 15, 2).mean((2, 4))
    np.testing.assert_allclose(half, means, atol=0.51 if np.dtype(dtype).kind in "iu" else 1e-4)


def test_windows_reach_beyond_the_scene(tmp_path: Path) -> None:
    expected = distinct(1, 20, 30)
    with Scene.open(write(tmp_path / "a.tif", expected)) as scene:
        data, valid = scene.read(Window(-5, -7, 40, 50))
        nothing, none_valid = scene.read(Window(100, 100, 4, 4))
    np.testing.assert_array_equal(data[:, 5:25, 7:37], expected)
    assert valid.sum() == 600
    assert not data[:, ~valid].any()
    assert not nothing.any()
    assert not none_valid.any()


def test_nodata_is_where_all_bands_say_so(tmp_path: Path) -> None:
    data = distinct(3, 8, 8)
    data[:, 2, 2] = 0
    data[0, 3, 3] = 0
    path = write(tmp_path / "a.tif", data, nodata=0)
    _, valid = read_all(path)
    assert not valid[2, 2]
    assert valid[3, 3]
    _, red_only = read_all(path, bands=[1])
    assert not red_only[3, 3]
    _, other = read_all(path, nodata=255)
    assert other.all()


@pytest.mark.parametrize(
    ("dtype", "value", "says"),
    [
        ("uint8", np.nan, r"nan is no value of uint8, .*a\.tif is stored: .* from 0 to 255"),
        ("uint8", 300, "300 is no value of uint8"),
        ("uint8", 7.5, "7.5 is no value of uint8"),
        ("uint8", -1, "-1 is no value of uint8"),
        ("int16", np.inf, "inf is no value of int16"),
        ("int16", 32768.0, "32768 is no value of int16, .* from -32768 to 32767"),
        ("float32", 1e300, r"1e\+300 is no value of float32"),
    ],
)
@pytest.mark.parametrize("bend", [0.0, 0.003], ids=["", "warped"])
def test_nodata_that_the_file_cannot_hold_is_refused(
    tmp_path: Path, dtype: str, value: float, says: str, bend: float
) -> None:
    place: dict[str, Any] = {"crs": None, "transform": Affine.identity()}
    place = {"gcps": control_points(bend), **place} if bend else {}
    path = write(tmp_path / "a.tif", distinct(1, 80, 100, dtype=dtype), nodata=0, **place)
    with pytest.raises(UsageError, match=says):
        Scene.open(path, nodata=value)


@pytest.mark.parametrize("value", [0, -9999, 1e38, np.nan, np.inf, -np.inf])
def test_nodata_of_floats(tmp_path: Path, value: float) -> None:
    data = distinct(1, 8, 8, dtype="float32")
    data[0, 2, 2] = value
    _, valid = read_all(write(tmp_path / "a.tif", data, nodata=7), nodata=value)
    np.testing.assert_array_equal(np.argwhere(~valid), [(2, 2)])


def test_nan_and_infinity_are_no_data(tmp_path: Path) -> None:
    data = distinct(2, 8, 8, dtype="float32")
    data[0, 1, 1], data[1, 2, 2], data[:, 3, 3] = np.nan, -np.inf, np.nan
    values, valid = read_all(write(tmp_path / "a.tif", data, nodata=np.nan))
    assert sorted(map(tuple, np.argwhere(~valid))) == [(1, 1), (2, 2), (3, 3)]
    assert not values[:, ~valid].any()
    lowest = np.full((1, 4, 4), np.finfo("float32").min, "float32")
    _, none = read_all(write(tmp_path / "b.tif", lowest, nodata=float(lowest[0, 0, 0])))
    assert not none.any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_zero_is_no_data_and_alpha_is_no_band(tmp_path: Path, dtype: str) -> None:
    data = distinct(4, 8, 8, dtype=dtype)
    data[3] = 1  # nearly transparent is still there
    data[3, 2:4] = 0
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    path = write(tmp_path / "a.tif", data, photometric="rgb", alpha="yes", colorinterp=colours)
    values, valid = read_all(path)
    np.testing.assert_array_equal(values, data[:3])
    np.testing.assert_array_equal(valid, data[3] > 0)


@pytest.mark.parametrize("internal", [True, False])
def test_mask_inside_and_beside_the_file(tmp_path: Path, internal: bool) -> None:
    mask = np.ones((64, 64), np.bool_)
    mask[10:20, 5:30] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write(tmp_path / "a.tif", distinct(3, 64, 64), mask=mask)
    assert (tmp_path / "a.tif.msk").exists() != internal
    np.testing.assert_array_equal(read_all(path)[1], mask)


def palette_file(path: Path) -> tuple[Path, NDArray[np.uint8]]:
    indexes = (np.indices((1, 20, 20)).sum(0) % 3).astype("uint8")
    write(path, indexes, photometric="palette")
    with rasterio.open(path, "r+") as f:
        f.write_colormap(1, {0: (200, 10, 0, 255), 1: (0, 100, 30, 255), 2: (7, 8, 9, 255)})
    return path, indexes


def test_palette_is_colours_when_colours_are_meant(tmp_path: Path) -> None:
    path, indexes = palette_file(tmp_path / "p.tif")
    table = np.array([[200, 10, 0], [0, 100, 30], [7, 8, 9]])
    raw, _ = read_all(path)
    np.testing.assert_array_equal(raw, indexes)
    coloured, valid = read_all(path, bands=RGB)
    np.testing.assert_array_equal(coloured, table[indexes[0]].transpose(2, 0, 1))
    assert valid.all()
    classes, _ = read_all(path, gsd=1.3)
    assert set(np.unique(classes)) <= {0, 1, 2}


def test_bands_by_index_name_colour_and_position(tmp_path: Path) -> None:
    data = distinct(4, 6, 6)
    c = ColorInterp
    bgr = write(tmp_path / "bgr.tif", data, colorinterp=[c.blue, c.green, c.red, c.undefined],
                descriptions=[None, None, None, "B08"])  # fmt: skip
    plain = write(tmp_path / "plain.tif", data, colorinterp=[c.undefined] * 4)

    def chosen(path: Path, bands: list[Any]) -> tuple[int, ...]:
        with Scene.open(path, bands=bands) as scene:
            assert scene.band_names == tuple(b.name if isinstance(b, Band) else str(b)
                                             for b in bands)  # fmt: skip
            return scene.bands

    assert chosen(bgr, [*RGB]) == (3, 2, 1)
    assert chosen(bgr, ["b08", "Red"]) == (4, 3)
    assert chosen(bgr, ["4", 2]) == (4, 2)
    assert chosen(bgr, [Band("B08", "nir"), Band("B04", "red")]) == (4, 3)
    assert chosen(bgr, [Band("near", "nir")]) == (4,)
    with Scene.open(plain, bands=RGB) as scene:
        assert scene.bands == (1, 2, 3)
        assert "by position" in scene.warnings[0]
        np.testing.assert_array_equal(scene.read(scene.grid.window)[0], data[:3])
    for path, bands, says in [
        (bgr, ["swir"], "no band 'swir'; there are bands 1 (blue)"),
        (bgr, [9], "no band 9"),
        (bgr, [Band("swir"), Band("red")], "cannot tell which band is swir"),
        (plain, [Band(f"x{i}") for i in range(5)], "5 bands are needed"),
        (plain, [], "no bands"),
    ]:
        with pytest.raises(ContractError, match=says.replace("(", r"\(").replace(")", r"\)")):
            Scene.open(path, bands=bands)
    for names in (["Red", "", "green"], [" "], [1, ""]):
        with pytest.raises(UsageError, match="has an empty name in it"):
            Scene.open(plain, bands=names)


def test_gray_stands_for_colours_with_a_note(tmp_path: Path) -> None:
    data = distinct(1, 6, 6)
    with Scene.open(write(tmp_path / "a.tif", data), bands=RGB) as scene:
        values, _ = scene.read(scene.grid.window)
        assert "stands for" in scene.warnings[0]
    np.testing.assert_array_equal(values, data.repeat(3, 0))


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32610", UTM, (0.5002, 0.5002)),  # the scale is 0.9996 on the central meridian
        ("EPSG:3857", Affine(0.5, 0, 1e6, 0, -0.5, 8_399_737.89), (0.2506, 0.2502)),  # 60° north
        ("EPSG:4326", Affine(1e-5, 0, 7, 0, -1e-5, 60), (0.5580, 1.1141)),
        ("EPSG:4326", Affine(0, 1e-5, 7, 1e-5, 0, 60), (1.1141, 0.5580)),  # rows run east
        ("EPSG:2263", Affine(1, 0, 980_000, 0, -1, 200_000), (0.3048, 0.3048)),  # US feet
        ("EPSG:32610", Affine(0.3, 0.4, 5e5, 0.4, -0.3, 5e6), (0.5002, 0.5002)),  # rotated
    ],
)
def test_gsd_is_metres_on_the_ground(
    tmp_path: Path, crs: str, transform: Affine, expected: tuple[float, float]
) -> None:
    path = write(tmp_path / "a.tif", distinct(1, 10, 10), crs=crs, transform=transform)
    with Scene.open(path, gsd=2 * expected[0]) as scene:
        assert scene.gsd == pytest.approx(expected, rel=5e-4)
        assert ground_sample_distance(scene.grid) == pytest.approx([2 * expected[0]] * 2, rel=2e-3)
        # Origin and axes stay, whatever the orientation.
        assert scene.grid.transform @ (0, 0) == transform @ (0, 0)
        assert scene.grid.transform.determinant * transform.determinant > 0


def test_local_crs_and_none_have_no_gsd(tmp_path: Path) -> None:
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    for crs in (local, None):
        path = write(tmp_path / "a.tif", distinct(1, 10, 10), crs=crs)
        with Scene.open(path, gsd=0.1) as scene:
            assert scene.gsd is None
            assert scene.grid == scene.native
            assert "--gsd" in scene.warnings[0]
        with Scene.open(path, gsd=1.0, scene_gsd=0.5) as scene:
            assert scene.grid.height == 5
            assert scene.grid.transform.a == 1.0


def test_nowhere_on_the_planet_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", distinct(1, 10, 10), crs="EPSG:4326")
    with pytest.raises(SceneError, match="lies outside of its CRS"):
        Scene.open(path)


@pytest.mark.parametrize("gsd", [-1, 0, 1e-300, 1e-7, 1e7, 1e300, np.inf, np.nan])
def test_pixels_of_no_sensible_size_are_refused(tmp_path: Path, gsd: float) -> None:
    path = write(tmp_path / "a.tif", distinct(1, 10, 10))
    for options in ({"gsd": gsd}, {"scene_gsd": gsd, "gsd": 0.5}):
        with pytest.raises(UsageError, match="from 1e-06 to 1e.06 metres large, not"):
            Scene.open(path, **options)


def test_nearly_the_same_gsd_is_the_native_grid(tmp_path: Path) -> None:
    with Scene.open(write(tmp_path / "a.tif", distinct(1, 10, 10)), gsd=0.503) as scene:
        assert scene.grid == scene.native


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = distinct(2, 97, 113)
    rng = np.random.default_rng(1)
    data[:, rng.random((97, 113)) < 0.2] = 0
    data[:, 40:60, 20:70] = 0
    return write(tmp_path_factory.mktemp("gaps") / "a.tif", data, nodata=0, blockysize=8)


@given(ratio=st.floats(0.37, 3.1), heights=st.lists(st.integers(1, 60), min_size=1), data=st.data())
def test_bands_of_rows_give_the_same_pixels(
    gaps: Path, ratio: float, heights: list[int], data: st.DataObject
) -> None:
    with Scene.open(gaps, gsd=0.5002 * ratio) as scene:
        whole, valid = scene.read(scene.grid.window)
        height, width = valid.shape
        col = data.draw(st.integers(0, width - 1))
        row, i = 0, 0
        while row < height:
            window = Window(row, col, heights[i % len(heights)], width - col + 3)
            part, part_valid = scene.read(window)
            rows = slice(row, min(height, window.row_stop))
            inside = rows.stop - rows.start
            np.testing.assert_array_equal(part[:, :inside, :-3], whole[:, rows, col:])
            np.testing.assert_array_equal(part_valid[:inside, :-3], valid[rows, col:])
            row, i = window.row_stop, i + 1


@given(length=st.integers(1, 50), factor=st.floats(0.2, 9), nearest=st.booleans(), data=st.data())
def test_weights_are_those_of_the_footprint(
    length: int, factor: float, nearest: bool, data: st.DataObject
) -> None:
    count = max(1, int(np.ceil(length / factor)))
    start = data.draw(st.integers(0, count - 1))
    w = weights(start, count, factor, length, "nearest" if nearest else "mean")
    np.testing.assert_allclose(w.weight.sum(1), 1, rtol=1e-5)
    assert w.start >= 0
    assert w.stop <= length
    assert (w.weight >= 0).all()
    # A ramp keeps its place: the mean of the pixel centres is the target's centre, but for
    # pixels being areas, not points (at most 1/8 of one).
    centres = [
        sum(w.weight[i, k] * (w.first[i] + k + 0.5) for k in range(w.count[i]))
        for i in range(count - start)
    ]
    target = (np.arange(start, count) + 0.5) * factor
    inner = (target - max(factor, 1) / 2 >= 0) & (target + max(factor, 1) / 2 <= length)
    np.testing.assert_allclose(
        np.array(centres)[inner], target[inner], atol=0.51 if nearest else 0.126
    )


def test_resampling_does_not_mix_in_what_is_not_valid() -> None:
    data = np.full((1, 8, 8), 100, np.uint16)
    valid = np.ones((8, 8), np.bool_)
    data[:, :, :3], valid[:, :3] = 60_000, False
    w = weights(0, 3, 8 / 3, 8, "mean")
    out, good = resample(data, valid, w, w, (0, 0))
    assert (out[0][good] == 100).all()
    assert good.tolist() == [[False, True, True]] * 3


def test_shrinking_is_the_mean_of_the_footprint(tmp_path: Path) -> None:
    data = distinct(1, 12, 12, dtype="float64")
    values, _ = read_all(write(tmp_path / "a.tif", data), scene_gsd=0.5, gsd=1.5)
    np.testing.assert_allclose(values[0], data.reshape(4, 3, 4, 3).mean((1, 3)), rtol=1e-6)


def test_south_up_and_rotated_resample_along_their_own_axes(tmp_path: Path) -> None:
    data = distinct(1, 12, 12)
    expected, _ = read_all(write(tmp_path / "n.tif", data), scene_gsd=0.5, gsd=1.1)
    for name, transform in [
        ("s", Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000)),
        ("r", Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_000_000)),
    ]:
        path = write(tmp_path / f"{name}.tif", data, transform=transform)
        values, _ = read_all(path, scene_gsd=0.5, gsd=1.1)
        np.testing.assert_array_equal(values, expected)


def control_points(bend: float) -> tuple[list[GroundControlPoint], Any]:
    corners = [(0, 0), (0, 100), (80, 0), (80, 100)]
    places = [(-123, 49), (-122.99, 49.001), (-123.001, 48.99), (-122.991 + bend, 48.991)]
    points = [
        GroundControlPoint(row=r, col=c, x=x, y=y)
        for (r, c), (x, y) in zip(corners, places, strict=True)
    ]
    return points, rasterio.crs.CRS.from_epsg(4326)


@pytest.mark.parametrize("bend", [0.0, 0.003])
def test_control_points(tmp_path: Path, bend: float) -> None:
    data = distinct(3, 80, 100)
    profile = {"crs": None, "transform": Affine.identity()}
    path = write(tmp_path / "a.tif", data, gcps=control_points(bend), **profile)
    with Scene.open(path) as scene:
        values, valid = scene.read(scene.grid.window)
        assert "control points" in scene.warnings[0]
        if bend:  # warped to UTM, with corners that have no data
            assert scene.crs is not None
            assert scene.crs.to_epsg() == 32610
            assert 0.5 < valid.mean() < 1
        else:  # exactly affine: no pixel is touched
            np.testing.assert_array_equal(values, data)
            assert scene.grid.transform @ (100, 0) == pytest.approx((-122.99, 49.001))
            assert scene.gsd == pytest.approx((7.40, 13.92), rel=0.01)


def test_control_points_with_alpha_and_degenerate_ones(tmp_path: Path) -> None:
    data = distinct(4, 80, 100)
    data[3, :40] = 0
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    profile = {"crs": None, "transform": Affine.identity()}
    path = write(tmp_path / "a.tif", data, gcps=control_points(0.003), photometric="rgb",
                 alpha="yes", colorinterp=colours, **profile)  # fmt: skip
    values, valid = read_all(path)
    assert len(values) == 3
    assert 0.3 < valid.mean() < 0.6
    one = [GroundControlPoint(row=i, col=i, x=7 + i, y=50 + i) for i in range(3)]
    crs = rasterio.crs.CRS.from_epsg(4326)
    path = write(tmp_path / "b.tif", data[:3], gcps=(one, crs), **profile)
    with pytest.raises(SceneError, match="span no area"):
        Scene.open(path)


def test_vrt_may_mix_dtypes_and_lose_its_files(tmp_path: Path) -> None:
    byte = write(tmp_path / "byte.tif", distinct(1, 20, 30))
    wide = write(tmp_path / "wide.tif", -distinct(1, 20, 30, dtype="int16"))
    bands = "".join(
        f"""<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource>
        <SourceFilename relativeToVRT="1">{path.name}</SourceFilename><SourceBand>1</SourceBand>
        </SimpleSource></VRTRasterBand>"""
        for i, (kind, path) in enumerate([("Byte", byte), ("Int16", wide)], 1)
    )
    vrt = tmp_path / "a.vrt"
    vrt.write_text(f"""<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>EPSG:32610</SRS>
        <GeoTransform>500000,0.5,0,5000000,0,-0.5</GeoTransform>{bands}</VRTDataset>""")
    data, _ = read_all(vrt)
    assert data.dtype == np.int16
    np.testing.assert_array_equal(data[0], -data[1])
    wide.unlink()
    with pytest.raises(SceneError, match=r"wide\.tif"):
        read_all(vrt, bands=[2])


REFUSED = {
    "missing.tif": "no such file",
    "folder": "is a folder",
    "zero.tif": r"is empty \(0 bytes\)",
    "text.tif": "not a raster that GDAL knows",
    "complex.tif": "complex",
    "header.tif": "damaged",
    "http://127.0.0.1:9/a.tif?secret=1": r"127.0.0.1:9/a.tif: cannot be reached",
    "": "is empty",
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_sources_get_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero.tif").touch()
    (tmp_path / "text.tif").write_text("not a raster")
    write(tmp_path / "complex.tif", np.ones((1, 4, 4), "complex64"))
    whole = write(tmp_path / "header.tif", distinct(1, 8, 8)).read_bytes()
    (tmp_path / "header.tif").write_bytes(whole[:20])
    source = name if "/" in name or not name else tmp_path / name
    with pytest.raises(SceneError, match=REFUSED[name]) as caught:
        Scene.open(source)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_truncated_file_is_found_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 255, (3, 256, 256)).astype("uint8")
    write(path, noise, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    path.write_bytes(path.read_bytes()[:90_000])
    with Scene.open(path) as scene, pytest.raises(SceneError, match=r"a\.tif: rows \d+ to \d+ "):
        scene.read(scene.grid.window)


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that knows byte ranges, as those of cloud stores do."""

    served: list[str] = []  # noqa: RUF012  one log for all requests is what is wanted

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        self.served.append(self.path)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    RangeHandler.served.clear()
    handler = functools.partial(RangeHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_reads_over_http_without_looking_for_side_files(tmp_path: Path, server: str) -> None:
    data = distinct(3, 128, 128)
    write(tmp_path / "a.tif", data, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    values, _ = read_all(f"{server}/a.tif")
    np.testing.assert_array_equal(values, data)
    assert set(RangeHandler.served) == {"/a.tif"}


def test_every_torture_file_reads_or_is_refused_in_one_sentence(shared_data: Path) -> None:
    files = sorted((shared_data / "torture").glob("*"))
    refused = {}
    for path in files:
        try:
            with Scene.open(path) as scene:
                data, valid = scene.read(scene.grid.window)
                assert data.shape[1:] == valid.shape == (scene.grid.height, scene.grid.width)
            with quiet(), rasterio.open(path) as f:
                if scene.native.transform == f.transform:
                    np.testing.assert_array_equal(data[:, valid], f.read(scene.bands)[:, valid])
                    np.testing.assert_array_equal(valid, scene_mask(f, scene.bands))
        except SceneError as e:
            refused[path.name] = str(e)
    assert set(refused) == {"RGB.nc", "compdcs.vrt", "corrupt.tif"}
    assert all("\n" not in message and len(message) < 250 for message in refused.values())
    assert len(files) > 40


def scene_mask(dataset: Any, bands: tuple[int, ...]) -> NDArray[np.bool_]:
    """Valid in any band, by GDAL's masks, and finite in all of them."""
    finite = np.isfinite(dataset.read(bands)).all(0)
    return (dataset.read_masks(bands) > 0).any(0) & finite


def test_grid_without_crs_keeps_its_affine(tmp_path: Path) -> None:
    transform = Affine(2, 0, 100, 0, -2, 50)
    with Scene.open(
        write(tmp_path / "a.tif", distinct(1, 4, 4), crs=None, transform=transform)
    ) as scene:
        assert scene.grid == Grid(None, transform, 4, 4)
        assert not scene.georeferenced
