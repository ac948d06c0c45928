"""How results look and what their layers say of themselves; for the main thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from osgeo import gdal
from qgis.core import (
    QgsCategorizedSymbolRenderer,
    QgsColorRampShader,
    QgsFillSymbol,
    QgsGraduatedSymbolRenderer,
    QgsLayerMetadata,
    QgsMapLayer,
    QgsPalettedRasterRenderer,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsRasterShader,
    QgsRendererCategory,
    QgsRendererRange,
    QgsSingleBandPseudoColorRenderer,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QColor

from .i18n import tr

# Of classes whose colour is not known: Okabe and Ito's, which the colour-blind tell apart.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442")
OTHER = "#808080"
FILL = 90  # alpha of 255: the image stays visible below
# Lower bound -> colour, the same in all layers, so that they compare.
CONFIDENCE = (
    (0.0, "#b2182b"),
    (0.5, "#ef8a62"),
    (0.6, "#fddbc7"),
    (0.7, "#d1e5f0"),
    (0.8, "#67a9cf"),
    (0.9, "#2166ac"),
)


def style_result(
    layer: QgsVectorLayer, result: dict[str, Any], model: dict[str, Any] | None
) -> None:
    """Give polygons a style by class and one by confidence, and tell where they come from.

    result: the engine's last event ({} where it is not known: the file says most of it, too);
    model: its record of `geoseg model list`. Users switch styles in the layer's context menu.
    """
    fields = layer.fields().names()
    said = provenance(layer, result)
    describe(layer, said, model)
    styles = layer.styleManager()
    by_class, by_confidence = tr("classes"), tr("confidence")
    styles.renameStyle(styles.currentStyle(), by_class)
    if "class" in fields:
        layer.setRenderer(_classes_renderer(layer, model))
    measure = next((name for name in ("score", "confidence") if name in fields), None)
    if measure is not None:
        layer.setMapTipTemplate(_map_tip(fields, measure))
        styles.addStyleFromLayer(by_confidence)
        styles.setCurrentStyle(by_confidence)
        layer.setRenderer(_confidence_renderer(measure))
        styles.setCurrentStyle(by_class)
    layer.triggerRepaint()


def style_mask(layer: QgsRasterLayer, result: dict[str, Any], model: dict[str, Any] | None) -> None:
    """Show a raster of class numbers in the classes' colours; the background is clear."""
    describe(layer, provenance(layer, result), model)
    provider = layer.dataProvider()
    colors = {int(entry.value): entry.color for entry in provider.colorTable(1)}
    names = _mask_names(layer)
    Entry = QgsPalettedRasterRenderer.Class
    entries = []
    for number, (name, color) in enumerate(model_classes(model), start=1):
        names.setdefault(number, name)
        colors.setdefault(number, QColor(color))
    for number, name in sorted(names.items()):
        entries.append(Entry(number, colors.get(number, QColor(_palette(number - 1))), name))
    if entries:
        renderer = QgsPalettedRasterRenderer(provider, 1, entries)
        renderer.setOpacity(0.6)
        layer.setRenderer(renderer)
    layer.triggerRepaint()


def style_probabilities(
    layer: QgsRasterLayer, result: dict[str, Any], model: dict[str, Any] | None
) -> None:
    """Show the first class's probability: clear at 0, in the class's full colour at 1."""
    describe(layer, provenance(layer, result), model)
    color = QColor(next((c for _, c in model_classes(model)), PALETTE[0]))
    clear = QColor(color)
    clear.setAlpha(0)
    ramp = QgsColorRampShader(0, 1)
    ramp.setColorRampType(QgsColorRampShader.Type.Interpolated)
    Item = QgsColorRampShader.ColorRampItem
    ramp.setColorRampItemList([Item(0, clear, "0 %"), Item(1, color, "100 %")])
    shader = QgsRasterShader(0, 1)
    shader.setRasterShaderFunction(ramp)
    renderer = QgsSingleBandPseudoColorRenderer(layer.dataProvider(), 1, shader)
    renderer.setClassificationMin(0)
    renderer.setClassificationMax(1)
    renderer.setOpacity(0.7)
    layer.setRenderer(renderer)
    layer.triggerRepaint()


# Classes


def model_classes(model: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Names and colours (#rrggbb) of a model's record, in the classes' order."""
    entries = (model or {}).get("classes")
    return list(_named_colors(entries)) if isinstance(entries, list) else []


def _named_colors(entries: list[Any]) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(entries):
        known = entry if isinstance(entry, dict) else {"name": entry}
        yield str(known.get("name")), str(known.get("color") or _palette(number))


def _palette(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _fill(color: str, width: float = 0.5) -> QgsFillSymbol:
    """A half-transparent fill with an outline of `width` millimetres."""
    fill = QColor(color)
    fill.setAlpha(FILL)
    outline = QColor(color).darker(115)
    return QgsFillSymbol.createSimple(
        {
            "color": ",".join(map(str, fill.getRgb())),
            "outline_color": ",".join(map(str, outline.getRgb())),
            "outline_width": str(width),
            "joinstyle": "miter",
        }
    )


def _classes_renderer(layer: QgsVectorLayer, model) -> QgsCategorizedSymbolRenderer:
    classes = dict(model_classes(model))
    if not classes:  # a model that is gone
        index = layer.fields().lookupField("class")
        found = sorted(str(value) for value in layer.uniqueValues(index, 100))
        classes = dict(_named_colors(found))
    categories = [QgsRendererCategory(n, _fill(c), n) for n, c in classes.items()]
    return QgsCategorizedSymbolRenderer("class", categories)


def _confidence_renderer(measure: str) -> QgsGraduatedSymbolRenderer:
    bounds = [low for low, _ in CONFIDENCE] + [1.0]
    ranges = [
        QgsRendererRange(low, high, _fill(color), f"{low:.0%} – {high:.0%}")
        for (low, color), high in zip(CONFIDENCE, bounds[1:])
    ]
    return QgsGraduatedSymbolRenderer(measure, ranges)


def _map_tip(fields: list[str], measure: str) -> str:
    """HTML that shows beside the mouse."""
    tip = '<b>[% "class" %]</b><br>' if "class" in fields else ""
    tip += f'[% round(100 * "{measure}") %] %'
    if "area_m2" in fields:
        tip += ' · [% format_number("area_m2", 0) %] m²'
    return tip


def _mask_names(layer: QgsRasterLayer) -> dict[int, str]:
    """Class number -> name, as the engine wrote them to the band."""
    dataset = gdal.Open(_path(layer))
    found = dataset.GetRasterBand(1).GetMetadata() if dataset else {}
    return {int(k[6:]): v for k, v in found.items() if k.startswith("CLASS_") and k[6:].isdigit()}


# Where it comes from


def provenance(layer: QgsMapLayer, result: dict[str, Any]) -> dict[str, str]:
    """What the file says (version, model, scene, device, options), else what the run said."""
    said: dict[str, Any] = {}
    try:
        dataset = gdal.OpenEx(_path(layer))
        # GeoPackages keep it with the layer, rasters with the file.
        holders = [dataset, dataset.GetLayer(0)] if dataset else []
        texts = [holder.GetMetadataItem("geoseg") for holder in holders if holder]
        said = json.loads(next(filter(None, texts), "{}"))
    except (RuntimeError, ValueError):
        said = {}
    found = {k.split(":")[-1]: str(v) for k, v in said.items()} if isinstance(said, dict) else {}
    told = {k: str(result[k]) for k in ("model", "scene", "device") if result.get(k)}
    return {**told, **found}


def _path(layer: QgsMapLayer) -> str:
    parts = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
    return str(parts.get("path") or layer.source())


def describe(layer: QgsMapLayer, said: dict[str, str], model: dict[str, Any] | None) -> None:
    """Keep the origin in the layer's metadata, which QGIS shows and saves with the project."""
    model = model or {}
    metadata = QgsLayerMetadata()
    metadata.setType("dataset")
    metadata.setTitle(layer.name())
    abstract = tr("Made by geoseg {version} with the model {model}.").format(
        version=said.get("version", "?"), model=said.get("model", "?")
    )
    metadata.setAbstract(f"{abstract} {model.get('description') or ''}".strip())
    metadata.setHistory([f"{key}: {value}" for key, value in _history(said)])
    if model.get("license"):
        metadata.setLicenses([tr("Model: {license}").format(license=model["license"])])
    metadata.setKeywords({"geoseg": [name for name, _ in model_classes(model)]})
    metadata.setCrs(layer.crs())
    layer.setMetadata(metadata)


def _history(said: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Facts in a fixed order, then the options that were set."""
    for key in ("version", "model", "scene", "device"):
        if key in said:
            yield (f"geoseg {key}" if key in ("version", "model") else key), said[key]
    try:
        options = json.loads(said.get("options", "{}"))
    except ValueError:
        return
    for name, value in sorted(options.items()):
        if value not in (None, False, 0, "", "auto", []):
            yield name, str(value)
