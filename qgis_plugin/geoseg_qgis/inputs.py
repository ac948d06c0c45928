"""Layers of QGIS as what the engine can open: paths, and small files in a run's folder."""

from __future__ import annotations

from qgis.core import (
    QgsCoordinateTransformContext,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsRasterLayer,
    QgsVectorFileWriter,
)

from .i18n import tr


def raster_source(layer: QgsRasterLayer) -> str:
    """What GDAL calls this layer; a QgsProcessingException where GDAL does not read it."""
    if layer.providerType() != "gdal":
        raise QgsProcessingException(
            tr(
                "{layer} comes from {provider}, not from a file. Choose it in geoseg's dock, which "
                "renders such layers, or export it to a GeoTIFF first."
            ).format(layer=layer.name(), provider=layer.providerType())
        )
    return str(layer.source()).split("|option:")[0]


def save_features(source: QgsProcessingFeatureSource, path: str) -> str:
    """Write what the user chose (selection, filter, any provider) to a GeoPackage; its path."""
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    writer = QgsVectorFileWriter.create(
        path,
        source.fields(),
        source.wkbType(),
        source.sourceCrs(),
        QgsCoordinateTransformContext(),
        options,
    )
    trouble = writer.errorMessage()
    for feature in source.getFeatures():
        if not writer.addFeature(feature):
            trouble = writer.errorMessage()
    del writer  # closes the file
    if trouble:
        raise QgsProcessingException(f"{path}: {trouble}")
    return path
