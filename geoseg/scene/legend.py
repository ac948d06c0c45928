"""What the numbers of a class raster are called, by whatever the file tells.

In this order: geoseg's own masks (tags of the band), category names and attribute tables of GDAL
(in the file's .aux.xml, or a VRT), tables of ArcGIS (.vat.dbf).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from geoseg.scene.files import is_inline, is_remote

_OWN = re.compile(r"CLASS_(\d+)$")  # as geoseg.sinks.raster writes them
_VALUES = ("value", "val", "classvalue", "class_value", "class_id", "code", "id", "dn")
_NAMES = ("class_name", "classname", "class_names", "class", "name", "label", "category", "desc")
_IS_VALUE, _IS_NAME = "5", "2"  # GDAL's usages GFU_MinMax and GFU_Name


def class_names(dataset: Any, source: str, band: int) -> dict[int, str]:
    """Class number -> name; empty where the file tells none. A broken table tells none, too."""
    own = {
        int(match[1]): str(name)
        for key, name in dataset.tags(band).items()
        if (match := _OWN.match(key))
    }
    if own or is_inline(source) or is_remote(source) or not Path(source).is_file():
        return own
    path = Path(source)
    sidecars = [path.with_name(f"{path.name}.aux.xml"), path.with_suffix(".aux.xml")]
    if path.suffix.lower() == ".vrt":
        sidecars.insert(0, path)
    for sidecar in sidecars:
        if sidecar.is_file() and (names := _from_xml(sidecar, band)):
            return names
    tables = [path.with_name(f"{path.name}.vat.dbf"), path.with_suffix(".vat.dbf")]
    for table in tables:
        if table.is_file() and (names := _from_dbf(table)):
            return names
    return {}


def _from_xml(path: Path, number: int) -> dict[int, str]:
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, OSError):
        return {}
    for band in (b for tag in ("PAMRasterBand", "VRTRasterBand") for b in root.iter(tag)):
        if band.get("band") != str(number):
            continue
        categories = [c.text for c in band.iterfind("CategoryNames/Category")]
        if any(categories):
            return {k: name for k, name in enumerate(categories) if name}
        if (table := band.find("GDALRasterAttributeTable")) is not None:
            return _from_table(table)
    return {}


def _from_table(table: ET.Element) -> dict[int, str]:
    """Of an attribute table: its column of values and its column of names."""
    fields = [
        (int(f.get("index", k)), (f.findtext("Name") or "").lower(), f.findtext("Usage"))
        for k, f in enumerate(table.iterfind("FieldDefn"))
    ]
    value, name = _pick(fields, _VALUES, _IS_VALUE), _pick(fields, _NAMES, _IS_NAME)
    if value is None or name is None:
        return {}
    rows = [[cell.text or "" for cell in row.iterfind("F")] for row in table.iterfind("Row")]
    return _paired((row[value], row[name]) for row in rows if len(row) > max(value, name))


def _pick(fields: list[tuple[int, str, str | None]], known: tuple[str, ...], usage: str) -> Any:
    by_name = sorted((known.index(n), i) for i, n, _ in fields if n in known)
    meant = [i for i, _, use in fields if use == usage]
    return meant[0] if meant else by_name[0][1] if by_name else None


def _from_dbf(path: Path) -> dict[int, str]:
    import pyogrio
    from pyogrio.errors import DataSourceError

    try:
        table = pyogrio.read_dataframe(path, read_geometry=False)
    except (DataSourceError, ValueError, RuntimeError):
        return {}
    columns = {str(c).lower(): c for c in table.columns}
    value, name = (next((k for k in keys if k in columns), None) for keys in (_VALUES, _NAMES))
    if value is None or name is None:
        return {}
    return _paired(zip(table[columns[value]], table[columns[name]], strict=True))


def _paired(pairs: Any) -> dict[int, str]:
    names = {}
    for value, name in pairs:
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if number.is_integer() and name is not None and str(name).strip():
            names[int(number)] = str(name).strip()
    return names
