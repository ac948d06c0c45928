"""An archive for tests of batches: many small scenes, five of them broken in different ways."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from affine import Affine

from geoseg import testing
from geoseg.batch.items import Item
from geoseg.batch.ledger import NAME, Ledger
from geoseg.batch.outcome import Outcome

SIZE, GSD, ACROSS = 96, 0.3, 8
LEFT, TOP = 500_000.0, 5_800_000.0
# What the reason of each failure says.
BROKEN = {
    "corrupt": "damaged",
    "empty": "0 bytes",
    "nocrs": "has no CRS",
    "noband": "band",
    "nodata": "no pixel with data",
}


def make_archive(folder: Path, scenes: int, *, broken: bool = True, size: int = SIZE) -> Path:
    """Scenes side by side, in rows of eight; of each the polygons are known from its seed."""
    folder.mkdir(parents=True)
    step = size * GSD
    for i in range(scenes):
        mask = testing.planted_rectangles((size, size), count=6, seed=i)
        x, y = LEFT + step * (i % ACROSS), TOP - step * (i // ACROSS)
        transform = Affine(GSD, 0, x, 0, -GSD, y)
        testing.planted_scene(folder / f"s{i:03}.tif", mask, seed=i, transform=transform)
    if broken:
        break_some(folder)
    return folder


def break_some(folder: Path) -> None:
    mask = testing.planted_rectangles((SIZE, SIZE), count=6, seed=0)
    whole = testing.planted_scene(folder / "corrupt.tif", mask, compress="deflate")
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    (folder / "empty.tif").touch()
    testing.planted_scene(folder / "nocrs.tif", mask, crs=None)
    testing.write_scene(folder / "noband.tif", np.full((2, SIZE, SIZE), 90, np.uint8))
    testing.write_scene(folder / "nodata.tif", np.zeros((3, SIZE, SIZE), np.uint8), nodata=0)


def states(folder: Path) -> dict[str, str]:
    """State of each scene of a batch, by its id."""
    with Ledger.open(folder / NAME, create=False) as ledger:
        return {entry.item.id: entry.state for entry in ledger.entries()}


def features(folder: Path) -> list[tuple[Any, ...]]:
    """All features of all scenes of a batch, sorted."""
    found = []
    for path in sorted((folder / "polygons").iterdir()):
        frame = gpd.read_file(path) if path.suffix != ".parquet" else gpd.read_parquet(path)
        for row in frame.drop(columns="bbox", errors="ignore").itertuples(index=False):
            values = row._asdict()
            shape = values.pop("geometry")
            found.append((path.name, shape.wkb, *values.values()))
    return sorted(found, key=repr)


def leftovers(folder: Path) -> list[Path]:
    """Hidden folders of writes that were broken off."""
    return list(folder.rglob(".geoseg-*"))


def deadly(item: Item) -> Outcome:
    """Work of which 'poison' kills its worker each time, and 'once' the first time."""
    if item.id == "poison" or (item.id == "once" and not Path(item.source).exists()):
        if item.id == "once":
            Path(item.source).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome("done", worker=str(os.getpid()))
