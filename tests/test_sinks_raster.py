"""Masks and probabilities as COG: exact, tiled, with overviews, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS

from geoseg.errors import OutputError, UsageError
from geoseg.grid import Grid
from geoseg.sinks import RasterSink, encode_labels, encode_probabilities
from geoseg.sinks.raster import PROBABILITY_NODATA, PROBABILITY_SCALE, commonest_of_four

UTM = CRS.from_epsg(32633)
COLORS = {1: "#e6550d", 2: "#00d5ff"}


def grid(height: int, width: int, size: float = 0.3, crs: CRS | None = UTM) -> Grid:
    return Grid(crs, Affine(size, 0, 500_000, 0, -size, 5_000_000), height, width)


def labels(height: int, width: int) -> np.ndarray:
    """Neighbours differ, so that a shift by one pixel fails."""
    return ((np.arange(height)[:, None] * 7 + np.arange(width) * 3) % 3).astype(np.uint8)


def write(path: Path, data: np.ndarray, over: Grid, step: int = 100, **options: object) -> None:
    with RasterSink.open(path, over, bands=len(data), **options) as sink:  # type: ignore[arg-type]
        for row in range(0, data.shape[1], step):
            sink.write(row, data[:, row : row + step])


@pytest.mark.parametrize(
    ("height", "width", "step"), [(1, 1, 1), (300, 200, 77), (513, 1027, 1000), (1500, 1100, 130)]
)
def test_a_mask_is_read_as_it_was_written(
    tmp_path: Path, height: int, width: int, step: int
) -> None:
    path, data = tmp_path / "mask.tif", labels(height, width)
    data[: height // 3] = 255
    write(path, data[None], grid(height, width), step)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), data)
        assert file.nodata == 255
        assert file.transform == grid(height, width).transform
        assert file.crs.to_epsg() == 32633
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(512, 512)]
        assert file.compression.name == "deflate"
        levels = int(np.ceil(np.log2(max(height, width, 512) / 512)))
        assert file.overviews(1) == [2**n for n in range(1, levels + 1)]
    assert [p.name for p in tmp_path.iterdir()] == ["mask.tif"]


def test_overviews_of_a_mask_show_the_commonest_class(tmp_path: Path) -> None:
    path, data = tmp_path / "mask.tif", labels(1100, 1300)
    write(path, data[None], grid(1100, 1300))
    expected = data[None]
    for level in range(2):
        expected = commonest_of_four(expected)
        with rasterio.open(path, overview_level=level) as file:
            np.testing.assert_array_equal(file.read(), expected)


PROBABILITY = {"dtype": "uint16", "nodata": PROBABILITY_NODATA, "overviews": "average"}
MASK = {"dtype": "uint8"}


def thin_and_odd() -> list[tuple[int, int, dict[str, object]]]:
    """Sizes whose halves are rounded; GDAL does it another way for thin images."""
    rng = np.random.default_rng(0)
    powers = 2 ** rng.integers(9, 13, 12) + rng.integers(-1, 2, 12)
    others = rng.integers(1, 40, 12) ** rng.choice([1, 2], 12)
    sizes = [(int(a), int(b)) for a, b in zip(powers, others, strict=True)]
    half = len(sizes) // 2
    tall = [(a, b, PROBABILITY if i % 2 else MASK) for i, (a, b) in enumerate(sizes[:half])]
    return [*tall, *((b, a, MASK if a % 2 else PROBABILITY) for a, b in sizes[half:])]


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (1025, 514, PROBABILITY),
        (2049, 333, PROBABILITY),
        (4100, 260, PROBABILITY),
        (8200, 500, PROBABILITY),
        (4097, 65, PROBABILITY),
        (65, 4097, PROBABILITY),
        (2051, 1027, PROBABILITY),
        (2000, 17, MASK),
        (1030, 5, MASK),
        (5, 1030, MASK),
        *thin_and_odd(),
    ],
)
@pytest.mark.parametrize("factor", [None, 0.7])
def test_every_size_is_written(
    tmp_path: Path, height: int, width: int, options: dict[str, object], factor: float | None
) -> None:
    """Also on another grid, here one with larger pixels that has the odd size."""
    path, target = tmp_path / "out.tif", grid(height, width)
    own = target if factor is None else grid(round(height / factor), round(width / factor), 0.21)
    data = np.ones((1, own.height, own.width), str(options["dtype"]))
    write(path, data, own, 1000, target=target, **options)
    with rasterio.open(path) as file:
        assert file.shape == (height, width)
        assert bool(file.overviews(1)) == (max(height, width) > 512)
        inner = file.read(1)[: max(1, height - 2), : max(1, width - 2)]
        assert (inner == 1).all()
        for level in range(len(file.overviews(1))):
            with rasterio.open(path, overview_level=level) as overview:
                assert (overview.read(1)[: max(1, overview.height - 2), :1] == 1).all()


def test_commonest_of_four() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 4, (2, 31, 44), dtype=np.uint8)
    found = commonest_of_four(data)
    assert found.shape == (2, 16, 22)
    padded = np.pad(data, ((0, 0), (0, 1), (0, 0)), mode="edge")
    for band, row, col in np.ndindex(found.shape):
        four = padded[band, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel()
        counts = np.bincount(four)
        assert counts[found[band, row, col]] == counts.max()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (33, 21), (2, 64)])
def test_commonest_of_four_at_odd_edges_and_ties(shape: tuple[int, int]) -> None:
    """The last row or column counts twice where it is alone; of a tie the first in reading."""
    data = np.random.default_rng(1).integers(0, 4, (3, *shape), dtype=np.uint8)
    found = commonest_of_four(data)
    assert found.shape == (3, -(-shape[0] // 2), -(-shape[1] // 2))
    assert found.dtype == np.uint8
    for band, row, col in np.ndindex(found.shape):
        rows = [2 * row, min(2 * row + 1, shape[0] - 1)]
        cols = [2 * col, min(2 * col + 1, shape[1] - 1)]
        four = [int(data[band, r, c]) for r in rows for c in cols]
        assert found[band, row, col] == max(four, key=four.count)


def test_commonest_of_four_is_the_first_of_the_commonest() -> None:
    every = list(np.ndindex(4, 4, 4, 4))
    found = commonest_of_four(np.array(every, np.uint8).reshape(-1, 2, 2))
    assert found.ravel().tolist() == [max(four, key=four.count) for four in every]


def test_layout_is_cloud_optimized(tmp_path: Path) -> None:
    """Directories at the head of the file, then overviews from coarse to fine, the image last."""
    path = tmp_path / "mask.tif"
    write(path, labels(1500, 1300)[None], grid(1500, 1300))
    with rasterio.open(path) as file:
        first = []
        for level in range(3):
            where = {} if level == 0 else {"ovr": level - 1}
            first.append(int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, **where)))
            assert int(file.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, **where)) < min(first)
    assert first == sorted(first, reverse=True)


def test_colors_names_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    write(
        path,
        labels(600, 600)[None],
        grid(600, 600),
        colors=COLORS,
        names={1: "roof", 2: "water"},
        descriptions=["class"],
        metadata={"model": "buildings-v0"},
    )
    with rasterio.open(path) as file:
        colors = file.colormap(1)
        assert colors[1] == (0xE6, 0x55, 0x0D, 255)
        assert colors[2] == (0x00, 0xD5, 0xFF, 255)
        assert colors[255][3] == 0
        assert file.tags(1)["CLASS_2"] == "water"
        assert file.tags()["geoseg"] == '{"model": "buildings-v0"}'
        assert file.descriptions == ("class",)


def test_rows_never_written_are_nodata(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    with RasterSink.open(path, grid(2000, 100)) as sink:
        sink.write(700, np.ones((1, 5, 100), np.uint8))
    with rasterio.open(path) as file:
        data = file.read(1)
    assert (data[700:705] == 1).all()
    assert (np.delete(data, slice(700, 705), axis=0) == 255).all()


def test_probabilities(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((2, 700, 900), dtype=np.float32)
    valid = np.ones((700, 900), bool)
    valid[:50] = False
    path = tmp_path / "probability.tif"
    write(
        path,
        encode_probabilities(scores, valid),
        grid(700, 900),
        dtype="uint16",
        nodata=PROBABILITY_NODATA,
        scale=PROBABILITY_SCALE,
        descriptions=["roof", "water"],
        overviews="average",
    )
    with rasterio.open(path) as file:
        data = file.read(masked=True)
        assert file.descriptions == ("roof", "water")
        assert file.scales == (PROBABILITY_SCALE,) * 2
        assert file.overviews(1) == [2]
        assert (data.mask == ~valid).all()
        np.testing.assert_allclose(data[:, valid] * file.scales[0], scores[:, valid], atol=1.1e-5)
        half = file.read(1, out_shape=(350, 450), masked=True)
    expected = scores[0].reshape(350, 2, 450, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(half[30:] * PROBABILITY_SCALE, expected[30:], atol=2e-5)


def test_encoding() -> None:
    scores = np.array([[[0.0, 1.0, 0.5]]], np.float32)
    valid = np.array([[True, True, False]])
    assert encode_probabilities(scores, valid).tolist() == [[[0, 50000, 65535]]]
    assert encode_labels(np.array([[0, 1, 1]]), valid).tolist() == [[[0, 1, 255]]]


@pytest.mark.parametrize("crs", [UTM, None])
@pytest.mark.parametrize("factor", [2, 0.5, 1.7])
def test_mask_on_another_grid(tmp_path: Path, factor: float, crs: CRS | None) -> None:
    own = grid(600, 500, crs=crs)
    target = grid(round(600 * factor), round(500 * factor), 0.3 / factor, crs)
    data = labels(600, 500)
    data[:90] = 255
    path = tmp_path / "mask.tif"
    write(path, data[None], own, target=target, colors=COLORS)
    rows = ((np.arange(target.height) + 0.5) / factor).astype(int)
    cols = ((np.arange(target.width) + 0.5) / factor).astype(int)
    with rasterio.open(path) as file:
        assert file.shape == (target.height, target.width)
        assert file.transform.almost_equals(target.transform)
        assert file.nodata == 255
        assert file.colormap(1)[1] == (0xE6, 0x55, 0x0D, 255)
        found, expected = file.read(1), data[np.ix_(rows, cols)]
    if factor == 0.5:  # the centre of a pixel lies on a corner of four
        assert set(np.unique(found)) == {0, 1, 2, 255}
    else:
        np.testing.assert_array_equal(found, expected)


def test_target_that_is_shifted(tmp_path: Path) -> None:
    """The scene's grid may begin before, and end after, the rows that were computed."""
    target = Grid(UTM, Affine(0.3, 0, 500_000 - 3, 0, -0.3, 5_000_000 + 6), 700, 600)
    path = tmp_path / "mask.tif"
    write(path, labels(600, 500)[None], grid(600, 500), target=target)
    with rasterio.open(path) as file:
        data = file.read(1)
    np.testing.assert_array_equal(data[20:620, 10:510], labels(600, 500))
    data[20:620, 10:510] = 255
    assert (data == 255).all()


def test_probabilities_on_another_grid_are_bilinear(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 400, dtype=np.float32), (300, 1))[None]
    path = tmp_path / "probability.tif"
    write(
        path,
        encode_probabilities(ramp, np.ones((300, 400), bool)),
        grid(300, 400),
        target=grid(900, 1200, 0.1),
        dtype="uint16",
        nodata=PROBABILITY_NODATA,
        scale=PROBABILITY_SCALE,
        overviews="average",
    )
    with rasterio.open(path) as file:
        found = file.read(1) * PROBABILITY_SCALE
        assert file.scales == (PROBABILITY_SCALE,)
    expected = (np.arange(1200) + 0.5) / 3 - 0.5
    np.testing.assert_allclose(found[450, 3:-3], expected[3:-3] / 399, atol=1e-4)


def test_target_that_is_not_parallel(tmp_path: Path) -> None:
    target = Grid(UTM, Affine.rotation(30), 10, 10)
    with pytest.raises(ValueError, match="parallel"):
        write(tmp_path / "mask.tif", labels(10, 10)[None], grid(10, 10), target=target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pixel_coordinates(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    write(path, labels(600, 500)[None], Grid(None, Affine.identity(), 600, 500))
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), labels(600, 500))
        assert file.crs is None


def test_rows_must_come_in_order(tmp_path: Path) -> None:
    data = labels(100, 50)[None]
    with RasterSink.open(tmp_path / "mask.tif", grid(100, 50)) as sink:
        sink.write(0, data[:, :20])
        with pytest.raises(ValueError, match="after row 20"):
            sink.write(10, data[:, :20])
        with pytest.raises(ValueError, match="of 100"):
            sink.write(90, data[:, :20])
        with pytest.raises(ValueError, match="expected"):
            sink.write(20, data[:, :20, :30])
        sink.write(20, data[:, 20:])


def fail(path: Path, error: BaseException, **options: bool) -> None:
    with RasterSink.open(path, grid(900, 900), **options) as sink:
        sink.write(0, labels(900, 900)[None, :700])
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "mask.tif"
    with pytest.raises(error):
        fail(path, error())
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(error):
        fail(path, error(), overwrite=True)
    assert path.read_text() == "old"


def test_overwriting_takes_the_old_statistics_away(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    for name in ("mask.tif", "mask.tif.aux.xml", "mask.tif.ovr", "other.tif"):
        (tmp_path / name).write_text("old")
    write(path, labels(60, 50)[None], grid(60, 50), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.tif", "other.tif"]


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "old.tif").write_text("old")
    cases = {
        "mask.png": (UsageError, r"raster outputs end in \.tif"),
        "old.tif/mask.tif": (OutputError, "old.tif is not a folder"),
        "old.tif": (OutputError, "already exists: pass --overwrite"),
    }
    for name, (error, match) in cases.items():
        with pytest.raises(error, match=match):
            write(tmp_path / name, labels(10, 10)[None], grid(10, 10))


@pytest.mark.parametrize(
    "sidecar", ["mask.tif.aux.xml", "mask.aux.xml", "mask.tif.ovr", "mask.tif.msk"]
)
def test_sidecars_of_another_file_are_a_reason_to_refuse(tmp_path: Path, sidecar: str) -> None:
    (tmp_path / sidecar).write_text("old")
    with pytest.raises(OutputError, match=f"{sidecar} already exists and would be taken for"):
        write(tmp_path / "mask.tif", labels(10, 10)[None], grid(10, 10))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(sidecar, "old")]


@pytest.mark.parametrize("options", [MASK, PROBABILITY])
def test_long_names(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / ("x" * 243 + ".tif")  # as long as its sidecars can be
    data = np.ones((1, 600, 600), str(options["dtype"]))
    write(path, data, grid(600, 600), **options)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(OutputError, match=r"x\.tif: cannot be written \(.*too long"):
        write(tmp_path / ("x" * 252 + ".tif"), data, grid(600, 600), **options)


LIMITED = """
    import resource
    folder, noise = Path(sys.argv[2]), np.random.default_rng(0).integers(0, 200, (1, 1200, 1100))
    noise = noise.astype(np.uint8)
    path = folder / "mask.tif"
    write(path, noise, grid(1200, 1100))
    whole = path.read_bytes()
    path.unlink()
    limits = [9000, *(len(whole) * n // 12 for n in range(1, 12))]
    for limit in [*limits, *(len(whole) - n for n in (9000, 3000, 500, 1))]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write(path, noise, grid(1200, 1100))
            outcome = "silently incomplete"
        except OutputError as e:
            told = "could not be written" in str(e) and ".tmp" not in str(e)
            outcome = "told" if told else str(e)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(outcome, [p.name for p in folder.iterdir()])
        path.unlink(missing_ok=True)
    """


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_full_disk_is_noticed_whenever_it_comes(tmp_path: Path) -> None:
    header = "import sys; sys.path.insert(0, sys.argv[1]); from test_sinks_raster import *\n"
    script = header + textwrap.dedent(LIMITED)
    done = subprocess.run(
        [sys.executable, "-c", script, Path(__file__).parent, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["told []"] * 16
