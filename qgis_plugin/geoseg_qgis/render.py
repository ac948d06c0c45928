"""Layers that are no files (WMS, XYZ, WCS …) as GeoTIFFs at the model's resolution.

Made in the main thread, where layers live; written in a background one, a block at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from osgeo import gdal
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCoordinateTransformContext,
    QgsCsException,
    QgsDistanceArea,
    QgsFeedback,
    QgsPointXY,
    QgsProcessingException,
    QgsRasterBlockFeedback,
    QgsRasterFileWriter,
    QgsRasterLayer,
    QgsRasterPipe,
    QgsRasterProjector,
    QgsRectangle,
    QgsUnitTypes,
)
from qgis.PyQt.QtCore import Qt

from .i18n import tr

LARGEST = 400_000_000  # pixels: 6 km × 6 km at 0.3 m, six thousand images from a server
PROBE = 10.0  # metres over which the ground is measured
METRES = QgsUnitTypes.DistanceUnit.DistanceMeters
CREATION = ["COMPRESS=DEFLATE", "TILED=YES", "BIGTIFF=IF_SAFER"]


def needs_rendering(layer: QgsRasterLayer) -> bool:
    """True where GDAL cannot open what the layer shows."""
    return layer.providerType() != "gdal"


@dataclass(frozen=True)
class Size:
    """A picture of the extent: edge of its pixels (units of the CRS), columns, rows."""

    pixel: float
    columns: int
    rows: int


class Rendering:
    """An extent of a layer, to be written at some resolution; make it in the main thread."""

    def __init__(
        self,
        layer: QgsRasterLayer,
        extent: QgsRectangle,
        crs: QgsCoordinateReferenceSystem,
        transforms: QgsCoordinateTransformContext,
    ) -> None:
        """extent: in `crs`, which may be any; transforms: the project's."""
        self._name = layer.name()
        self._transforms = transforms
        extent = _moved(extent, crs, layer.crs(), transforms)
        if not layer.dataProvider().extent().isEmpty():
            extent = extent.intersect(layer.dataProvider().extent())
        if extent.isEmpty():
            text = tr("The extent lies outside {layer}. Choose another extent.")
            raise QgsProcessingException(text.format(layer=self._name))
        self.crs = metric(layer.crs(), extent.center(), transforms)
        self.extent = _moved(extent, layer.crs(), self.crs, transforms)
        provider = layer.dataProvider().clone()
        # In the units of the layer, the finest first; [] for what has any resolution.
        finest = min(provider.nativeResolutions() or [0])
        self._finest = finest * ground(layer.crs(), extent.center(), transforms)
        self._pipe = QgsRasterPipe()
        self._pipe.set(provider)
        if self.crs != layer.crs():
            projector = QgsRasterProjector()
            projector.setCrs(layer.crs(), self.crs, transforms)
            self._pipe.set(projector)

    def size(self, gsd: float) -> Size:
        """At `gsd` metres on the ground per pixel; too large a picture is an error."""
        pixel = gsd / ground(self.crs, self.extent.center(), self._transforms)
        columns = max(1, round(self.extent.width() / pixel))
        rows = max(1, round(self.extent.height() / pixel))
        if columns * rows > LARGEST:
            text = tr(
                "{layer} would be {columns} × {rows} pixels at {gsd} m, too many to ask a server "
                "for. Zoom in, draw a smaller extent, or use a model with larger pixels."
            )
            raise QgsProcessingException(
                text.format(layer=self._name, columns=columns, rows=rows, gsd=f"{gsd:g}")
            )
        return Size(pixel, columns, rows)

    def coarse(self, gsd: float) -> str:
        """A warning where the layer has no pixels as fine as `gsd`, else ""."""
        if self._finest <= 1.5 * gsd:
            return ""
        text = tr("The layer's finest pixels are {finest} m; the model expects {gsd} m.")
        return text.format(finest=f"{self._finest:.2g}", gsd=f"{gsd:g}")

    def write(self, path: str, gsd: float, feedback: QgsFeedback) -> bool:
        """Write the GeoTIFF; False when canceled. In any thread, once; memory stays flat."""
        size = self.size(gsd)
        extent = QgsRectangle(
            self.extent.xMinimum(),
            self.extent.yMaximum() - size.rows * size.pixel,
            self.extent.xMinimum() + size.columns * size.pixel,
            self.extent.yMaximum(),
        )
        own = QgsRasterBlockFeedback()
        own.progressChanged.connect(feedback.setProgress, Qt.ConnectionType.DirectConnection)
        # This thread waits in the writer, so a queued signal would come too late.
        feedback.canceled.connect(own.cancel, Qt.ConnectionType.DirectConnection)
        writer = QgsRasterFileWriter(path)
        writer.setOutputFormat("GTiff")
        writer.setCreateOptions(CREATION)
        try:
            failed = writer.writeRaster(
                self._pipe, size.columns, size.rows, extent, self.crs, self._transforms, own
            )
        finally:
            feedback.canceled.disconnect(own.cancel)
        if feedback.isCanceled():
            return False
        if failed:
            text = tr("{path} could not be written. Is there space left on the disk?")
            raise QgsProcessingException(text.format(path=path))
        if _empty(path):
            text = tr(
                "{layer} delivered no image for this extent. Check that it is shown on the map "
                "there and that the server answers."
            )
            raise QgsProcessingException(text.format(layer=self._name))
        return True


def metric(
    crs: QgsCoordinateReferenceSystem,
    place: QgsPointXY,
    transforms: QgsCoordinateTransformContext,
) -> QgsCoordinateReferenceSystem:
    """`crs` itself if it counts in metres, else the UTM zone (or polar CRS) of `place`."""
    if not crs.isGeographic() and crs.mapUnits() == METRES:
        return crs
    world = QgsCoordinateReferenceSystem("EPSG:4326")
    at = QgsCoordinateTransform(crs, world, transforms).transform(place)
    zone = min(int((at.x() + 180) // 6) + 1, 60)
    code = (32600 if at.y() >= 0 else 32700) + zone
    if at.y() > 84:
        code = 32661
    elif at.y() < -80:
        code = 32761
    return QgsCoordinateReferenceSystem(f"EPSG:{code}")


def ground(
    crs: QgsCoordinateReferenceSystem,
    place: QgsPointXY,
    transforms: QgsCoordinateTransformContext,
) -> float:
    """Metres on the ground that one unit of `crs` is at `place`: 0.5 for web mercator at 60°."""
    measure = QgsDistanceArea()
    measure.setSourceCrs(crs, transforms)
    measure.setEllipsoid(crs.ellipsoidAcronym() or "EPSG:7030")
    step = PROBE / (111_000 if crs.isGeographic() else 1)
    x, y = place.x(), place.y()
    east = measure.measureLine(QgsPointXY(x - step / 2, y), QgsPointXY(x + step / 2, y))
    north = measure.measureLine(QgsPointXY(x, y - step / 2), QgsPointXY(x, y + step / 2))
    return math.sqrt(east * north) / step


def _moved(
    extent: QgsRectangle,
    source: QgsCoordinateReferenceSystem,
    target: QgsCoordinateReferenceSystem,
    transforms: QgsCoordinateTransformContext,
) -> QgsRectangle:
    try:
        return QgsCoordinateTransform(source, target, transforms).transformBoundingBox(extent)
    except QgsCsException as e:
        text = tr("The extent cannot be told in {crs}. Choose a smaller one.")
        raise QgsProcessingException(text.format(crs=target.authid())) from e


def _empty(path: str) -> bool:
    """True where nothing at all came: the provider says so only in its log."""
    dataset = gdal.Open(path)
    band = dataset.GetRasterBand(dataset.RasterCount)
    if band.GetColorInterpretation() != gdal.GCI_AlphaBand:
        return False
    columns, rows = min(512, dataset.RasterXSize), min(512, dataset.RasterYSize)
    return not any(band.ReadRaster(buf_xsize=columns, buf_ysize=rows))
