"""configs/batch: each example is dry-run, on data as it names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from affine import Affine
from archive import make_archive
from click.testing import CliRunner
from models import bright_bundle

from geoseg import testing
from geoseg.cli import cli
from geoseg.registry import find
from geoseg.scene import Scene

CONFIGS = Path(__file__).parents[1] / "configs" / "batch"


def dry_run(name: str, *more: str) -> dict[str, Any]:
    arguments = ["batch", *more, "--config", str(CONFIGS / name), "--dry-run", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    plan: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return plan


def test_every_example_is_tested() -> None:
    assert {p.name for p in CONFIGS.iterdir()} == {"aerial.yaml", "sentinel2.yaml"}


def test_aerial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(yaml.safe_load((CONFIGS / "aerial.yaml").read_text())["model"]).exists()
    monkeypatch.chdir(tmp_path)
    make_archive(tmp_path / "aerial", 3, broken=False)
    bright = bright_bundle(tmp_path / "bright")
    planned = dry_run("aerial.yaml", "-m", str(bright), "--runtime", "fake")
    assert planned["engine"] == "processes"
    assert (planned["to_do"], planned["tiles"], planned["unusable"]) == (3, 3, 0)
    assert planned["read_bytes"] >= 3 * 3 * 96 * 96


def sentinel(folder: Path, name: str, cloud: float) -> dict[str, Any]:
    """A STAC Item with a file for each band."""
    pixels = np.full((1, 80, 80), 90, np.uint8)
    where = Affine(10, 0, 390_000, 0, -10, 5_820_000)
    for band in ("red", "green", "blue"):
        testing.write_scene(folder / f"{name}_{band}.tif", pixels, transform=where)
    with Scene.open(folder / f"{name}_red.tif") as scene:
        from geoseg.batch.footprint import footprint

        place = footprint(scene.grid)
    assert place is not None
    corners = np.array(place["coordinates"][0])
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": place,
        "bbox": [*corners.min(axis=0), *corners.max(axis=0)],
        "properties": {"datetime": "2024-07-01T10:00:00Z", "eo:cloud_cover": cloud},
        "links": [],
        "assets": {
            band: {"href": f"./{name}_{band}.tif", "type": "image/tiff", "roles": ["data"]}
            for band in ("red", "green", "blue")
        },
    }


def test_sentinel2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pystac_client")
    monkeypatch.chdir(tmp_path)
    asked = yaml.safe_load((CONFIGS / "sentinel2.yaml").read_text())
    bright_bundle(tmp_path / asked["model"], gsd=10.0)
    items = [sentinel(tmp_path, "clear", 3.0), sentinel(tmp_path, "cloudy", 50.0)]
    found = {"type": "FeatureCollection", "features": items}
    (tmp_path / "items.json").write_text(json.dumps(found))
    planned = dry_run("sentinel2.yaml", "items.json", "--runtime", "fake")
    assert (planned["engine"], planned["workers"]) == ("dask", 2)
    assert (planned["to_do"], planned["unusable"]) == (1, 0)
    assert planned["km2"] == pytest.approx(0.64, rel=0.01)
