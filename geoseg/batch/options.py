"""The options of a batch: those of predict, and how the archive is gone through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from geoseg.batch.outcome import Role
from geoseg.batch.stac import Search
from geoseg.batch.work import Work
from geoseg.config import Strict, check
from geoseg.errors import AoiError, ConfigError, UsageError
from geoseg.layer import flat_crs
from geoseg.loaded import Loaded, Model
from geoseg.options import Count, PredictOptions

DATASETS = (".parquet", ".geoparquet", ".gpkg", ".fgb")
# They say how fast a run is, not what comes out.
_NEUTRAL = {"device", "batch", "threads", "overwrite"}


class BatchOptions(Strict):
    """How an archive is gone through, and what is written.

    engine:        serial (one scene after the other), processes, or dask.
    workers:       scenes under way at once; chosen when not given.
    scheduler:     address of an existing Dask cluster (tcp://...); it must see the same folders.
    format:        of the polygons, one file per scene: gpkg, parquet, fgb, geojson, geojsonl or
                   shp; none for none.
    dataset:       all polygons in one file of that name in the output, too (.parquet, .gpkg, .fgb):
                   sorted by place, with a column that names the scene.
    dedupe:        in the dataset what overlapping scenes show is there once: polygons are merged
                   across the edges of scenes as across those of tiles (see geoseg.batch.dedupe).
    mask, probabilities: also these rasters of each scene, as COGs.
    split:         scenes of more tiles than this are done in parts, by several workers.
    retry_failed:  scenes that failed in an earlier run are tried again.
    overwrite:     forget what was done, and do all scenes anew.
    """

    engine: Literal["serial", "processes", "dask"] = "serial"
    workers: Count | None = None
    scheduler: str | None = None
    format: Literal["gpkg", "parquet", "fgb", "geojson", "geojsonl", "shp", "none"] | None = None
    dataset: str | None = None
    dedupe: bool = False
    mask: bool = False
    probabilities: bool = False
    split: Count | None = None
    retry_failed: bool = False
    overwrite: bool = False

    @model_validator(mode="after")
    def _together(self) -> BatchOptions:
        if self.scheduler is not None and self.engine != "dask":
            raise ValueError("scheduler: is of the engine dask: give --engine dask, too")
        if self.engine == "serial" and (self.workers or 1) > 1:
            raise ValueError("workers: the engine serial is one: give --engine processes or dask")
        if self.dedupe and self.dataset is None:
            raise ValueError("dedupe: merges the polygons of a dataset: give --dataset NAME, too")
        if self.dataset is not None:
            path = Path(self.dataset)
            if path.name != self.dataset or path.suffix.lower() not in DATASETS:
                raise ValueError(
                    f"dataset: a file name is needed that ends in {', '.join(DATASETS)}; it is "
                    "written into the output folder"
                )
            if self.format not in (None, "parquet"):
                raise ValueError("format: a dataset is made of parquet files: leave it out")
        if not self.roles:
            raise ValueError("nothing to write: leave out format none, or ask for masks")
        return self

    @property
    def roles(self) -> tuple[Role, ...]:
        """What is written of each scene."""
        asked: dict[Role, bool] = {
            "polygons": self.format != "none",
            "mask": self.mask,
            "probabilities": self.probabilities,
        }
        return tuple(role for role, wanted in asked.items() if wanted)

    @property
    def suffix(self) -> str:
        """Of the polygons of a scene."""
        return f".{self.format or ('parquet' if self.dataset else 'gpkg')}"


def sorted_options(values: Mapping[str, Any]) -> tuple[BatchOptions, PredictOptions, Search]:
    """The keywords of `batch`: its own, those of predict, and what is wanted of a STAC source.

    A wrong one is a ConfigError.
    """
    own = {k: v for k, v in values.items() if k in BatchOptions.model_fields}
    search = {k: v for k, v in values.items() if k in Search.model_fields}
    rest = {k: v for k, v in values.items() if k not in own and k not in search}
    if unknown := set(rest) - set(PredictOptions.model_fields):
        every = [*BatchOptions.model_fields, *Search.model_fields, *PredictOptions.model_fields]
        raise ConfigError(
            f"batch: unknown key {min(unknown)!r}; valid keys: {', '.join(dict.fromkeys(every))}"
        )
    return (
        check(own, BatchOptions, source="batch"),
        PredictOptions.of(rest),
        check(search, Search, source="batch"),
    )


def work_of(
    model: Model | Loaded, folder: Path, own: BatchOptions, options: PredictOptions
) -> Work:
    """What the workers do; a GeosegError where it makes no sense, whatever the scenes are."""
    loaded = model if isinstance(model, Loaded) else Loaded(model)
    given = options.model_dump(exclude_unset=True)
    rasters: dict[str, Path] = {role: Path("some.tif") for role in own.roles if role != "polygons"}
    PredictOptions.of({**given, **rasters}).must_suit(loaded.spec(options))
    if own.dedupe and options.dissolve:
        raise UsageError("dedupe: polygons that are dissolved cannot be merged: leave out dissolve")
    if options.crs is not None:
        flat_crs(options.crs)
    if options.aoi is not None:
        if not options.aoi.is_file():
            raise AoiError(f"{options.aoi}: no such file: check the path")
        given["aoi"] = options.aoi.absolute()
    return Work(
        models=tuple(str(path.absolute()) for path in loaded.paths),
        checksums=tuple(bundle.checksum for bundle in loaded.bundles),
        folder=str(folder.absolute()),
        suffix=own.suffix if "polygons" in own.roles else "",
        roles=own.roles,
        split=own.split,
        options=given,
    )


def config_of(work: Work, options: PredictOptions, search: Search) -> dict[str, Any]:
    """All that decides what comes out of a scene, as plain values: runs that differ do not mix."""
    config = options.model_dump(mode="json", exclude=_NEUTRAL)
    if options.aoi is not None:
        config["aoi"] = hashlib.sha256(options.aoi.read_bytes()).hexdigest()
    return {
        "model": list(work.checksums),
        **config,
        "assets": list(search.assets),
        "outputs": list(work.roles),
        "format": work.suffix,
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """What stands for a configuration, in the ledger and the catalog."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def must_match(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A UsageError where the scenes of a folder were made in another way."""
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if not changed:
        return
    said = []
    for key in changed:
        if key in ("model", "aoi"):
            said.append(f"another {'model' if key == 'model' else 'area of interest'}")
        else:
            said.append(f"{key} {before.get(key)!r}, now {now.get(key)!r}")
    raise UsageError(
        f"{folder}: its scenes were made with other settings ({'; '.join(said)}): name another "
        "folder, or --overwrite to do all anew"
    )
