"""Layers of QGIS as what the engine can open: paths, and small files in a run's folder."""

from __future__ import annotations

import re
from pathlib import Path

from osgeo import gdal
from qgis.core import (
    QgsCoordinateTransformContext,
    QgsFeatureRequest,
    QgsMapLayer,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsVectorFileWriter,
)

from .i18n import tr


def raster_source(layer: QgsRasterLayer) -> str:
    """What GDAL calls this layer: a file, URL, /vsi path or subdataset.

    A QgsProcessingException where GDAL does not read it, or only this process could.
    """
    if layer.providerType() != "gdal":
        raise QgsProcessingException(
            tr(
                "{layer} comes from {provider}, not from a file. Export it to a GeoTIFF first; "
                "“Segment a raster” does so by itself."
            ).format(layer=layer.name(), provider=layer.providerType())
        )
    source = re.split(r"\|(?:option|credential):", str(layer.source()))[0]
    if "/vsimem/" in source:
        text = tr("{layer} is only in QGIS's memory. Export it to a GeoTIFF first.")
        raise QgsProcessingException(text.format(layer=layer.name()))
    return source


def layer_file(layer: QgsMapLayer | None) -> str:
    """The path that a layer is read from; "" where it has none."""
    if layer is None:
        return ""
    parts = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
    return str(parts.get("path") or "")


def same_file(path: str, other: str) -> bool:
    """Whether both name one file that exists."""
    try:
        return bool(path and other) and Path(path).samefile(other)
    except (OSError, ValueError):
        return False


def raster_file(source: str, name: str, folder: str | Path) -> str:
    """A local file of this source, for verbs that take nothing else.

    Of URLs and subdatasets it is a VRT in `folder`, named after the layer.
    """
    if Path(source).is_file():
        return source
    path = Path(folder) / (re.sub(r"[^\w-]+", "_", name).strip("_") + ".vrt")
    try:
        dataset = gdal.Open(source)
        copy = gdal.Translate(str(path), dataset, format="VRT") if dataset else None
        error = gdal.GetLastErrorMsg()
    except RuntimeError as e:  # how newer QGIS set GDAL up
        copy, error = None, str(e)
    if copy is None:
        text = tr("{layer} cannot be opened by GDAL: {error}")
        raise QgsProcessingException(text.format(layer=name, error=error))
    del copy  # writes it
    return str(path)


def save_features(source: QgsProcessingFeatureSource, path: str | Path) -> str:
    """Write what the user chose (selection, filter, any provider) to a .gpkg or .fgb; its path.

    The latter's bytes are the same each time: batch takes it for the same area. Invalid polygons
    go in as they are, as the engine repairs them.
    """
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "FlatGeobuf" if Path(path).suffix == ".fgb" else "GPKG"
    if options.driverName == "GPKG":  # a field fid, of a merged layer, may hold anything
        options.layerOptions = ["FID=geoseg_fid"]
    writer = QgsVectorFileWriter.create(
        str(path),
        source.fields(),
        source.wkbType(),
        source.sourceCrs(),
        QgsCoordinateTransformContext(),
        options,
    )
    trouble = writer.errorMessage()
    features = source.getFeatures()
    if isinstance(source, QgsProcessingFeatureSource):
        unchecked = QgsProcessingFeatureSource.Flag.FlagSkipGeometryValidityChecks
        features = source.getFeatures(QgsFeatureRequest(), unchecked)
    for feature in features:
        if not writer.addFeature(feature):
            trouble = writer.errorMessage()
    del writer  # closes the file
    if trouble:
        raise QgsProcessingException(f"{path}: {trouble}")
    return str(path)
