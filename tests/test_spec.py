"""The contract goes to STAC MLM and comes back; senseless contracts are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from geoseg.errors import ModelError, UsageError
from geoseg.grid import Tiling
from geoseg.spec import Band, ClassInfo, ModelSpec, Scaling, from_item, to_item

SPEC = ModelSpec(
    name="buildings-v9",
    version="9.1",
    architecture="unet",
    bands=(Band("red", "red"), Band("green", "green"), Band("x")),
    scaling=Scaling((1.5, 2.5, 3.5), (10.0, 20.0, 30.0), clip=(0.0, 250.0)),
    gsd=0.3,
    classes=(ClassInfo(0, "background", "#000000"), ClassInfo(7, "building", "#aabbcc")),
    tiling=Tiling(512, 64, 32, fixed=True),
    activation="softmax",
    threshold=0.4,
    temperature=1.3,
    dtype="uint16",
    value_range=(0.0, 4000.0),
    arguments={"encoder": "resnet18"},
    description="Buildings.",
    license="MIT",
    created="2026-11-20T00:00:00Z",
    metrics={"Bern": {"IoU": 0.8}},
)


def test_comes_back_through_json() -> None:
    item = json.loads(json.dumps(to_item(SPEC, {})))
    assert from_item(item, source="model.json") == SPEC


@pytest.mark.parametrize(
    ("entries", "offset", "scale"),
    [
        (None, (0, 0, 0), (1, 1, 1)),
        ([{"type": "min-max", "minimum": 10, "maximum": 30}], (10, 10, 10), (20, 20, 20)),
        ([{"type": "scale", "value": 255}], (0, 0, 0), (255, 255, 255)),
        ([{"type": "offset", "value": 5}], (5, 5, 5), (1, 1, 1)),
    ],
)
def test_other_scalings_of_mlm(entries: Any, offset: Any, scale: Any) -> None:
    item = to_item(SPEC, {})
    item["properties"]["mlm:input"][0]["value_scaling"] = entries
    scaling = from_item(item, source="model.json").scaling
    assert (scaling.offset, scaling.scale) == (offset, scale)


@pytest.mark.parametrize("entries", [[{"type": "processing"}], [{"type": "scale", "value": 1}] * 2])
def test_scalings_that_cannot_be_followed(entries: Any) -> None:
    item = to_item(SPEC, {})
    item["properties"]["mlm:input"][0]["value_scaling"] = entries
    with pytest.raises(ModelError, match=r"^model.json: .*value_scaling"):
        from_item(item, source="model.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": (Band("red"),)}, "1 bands, but scaling for 3"),
        ({"gsd": float("nan")}, "not positive"),
        ({"classes": ()}, "no classes"),
        ({"activation": "sigmoid"}, "one class, not 2"),
        ({"activation": "tanh"}, "no activation 'tanh'; there are: sigmoid, softmax, none"),
        ({"task": "detection"}, "no task 'detection'"),
        ({"classes": (ClassInfo(1, "a"), ClassInfo(1, "b"))}, "the same id"),
        ({"classes": (ClassInfo(1, "a"), ClassInfo(2, "a"))}, "the same name"),
        ({"threshold": 1.0}, "threshold 1.0"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"gsd": float("inf")}, "a GSD of inf m"),
        ({"value_range": (1.0, 1.0)}, "is empty"),
        ({"value_range": (0.0, float("inf"))}, "or not finite"),
        ({"value_range": (0.0, 1e-300)}, "is empty"),
        ({"bands": (), "scaling": Scaling((), ())}, "no bands"),
        ({"classes": (ClassInfo(0, "nothing"),)}, "only class is 0, the background"),
        ({"arguments": {"classes": 4}}, "'classes' is no argument of an architecture"),
    ],
)
def test_senseless_contracts(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(SPEC, **change)


def test_senseless_parts() -> None:
    with pytest.raises(ModelError, match=r"not in 0..254"):
        ClassInfo(255, "nodata")
    with pytest.raises(ModelError, match="not #rrggbb"):
        ClassInfo(1, "a", "red")
    with pytest.raises(ModelError, match="divide by zero"):
        Scaling((0.0,), (0.0,))
    with pytest.raises(ModelError, match="finite"):
        Scaling((float("nan"),), (1.0,))
    for clip in ((255.0, 0.0), (0.0, 0.0), (0.0, 1e-300), (float("-inf"), float("inf"))):
        with pytest.raises(ModelError, match="is no range of values"):
            Scaling((0.0,), (1.0,), clip)
    with pytest.raises(ModelError, match="no name for a model"):
        to_item(replace(SPEC, name="../x"), {})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("gsd", "0.3", "gsd must be a number, not '0.3'"),
        ("gsd", True, "gsd must be a number, not True"),
        pytest.param("gsd", 10**400, "too large", id="gsd-huge"),
        ("mlm:name", None, "mlm:name must be text, not None"),
        ("mlm:name", "a\nb", r"mlm:name must be a line of text, not 'a\\nb'"),
        ("mlm:architecture", 5, "mlm:architecture must be text, not 5"),
        ("version", None, "version must be text"),
        ("license", [], "license must be text"),
        ("mlm:hyperparameters", None, "mlm:hyperparameters must be an object, not None"),
        ("mlm:hyperparameters", "x", "mlm:hyperparameters must be an object"),
        ("mlm:hyperparameters", {"bands": 4}, "'bands' is no argument"),
        ("geoseg:metrics", [1], "geoseg:metrics must be an object"),
        ("geoseg:clip", [0, 255, 3], "geoseg:clip must be two numbers"),
        ("geoseg:clip", ["0", "255"], "geoseg:clip must be a number"),
        ("geoseg:clip", [], "geoseg:clip must be two numbers"),
        ("geoseg:clip", [255, 0], "no range"),
        ("geoseg:value_range", "x", "geoseg:value_range must be two numbers"),
        ("geoseg:tiling/overlap", float("nan"), "overlap must be a whole number, not nan"),
        ("geoseg:tiling/size", 1e3, "size must be a whole number"),
        ("geoseg:tiling/fixed", "x", "fixed must be true or false, not 'x'"),
        ("geoseg:tiling", [], "geoseg:tiling must be an object"),
        ("bands/0/eo:common_name", 5, "eo:common_name must be text"),
        ("mlm:input/0/bands/0", "", "a band must be a line of text"),
        ("mlm:output/0/classification:classes/1/value", 1.7, "must be a whole number, not 1.7"),
        ("mlm:output/0/classification:classes/1/name", None, "name of a class must be text"),
        ("mlm:output/0/classification:classes/1/name", "\ud800", "must be a line of text"),
        ("mlm:output/0/classification:classes/1/color_hint", 5, "color_hint must be text"),
    ],
)
def test_values_of_the_wrong_kind(path: str, value: Any, message: str) -> None:
    item = json.loads(json.dumps(to_item(SPEC, {})))
    *way, last = (int(part) if part.isdigit() else part for part in path.split("/"))
    inner = item["properties"]
    for part in way:
        inner = inner[part]
    inner[last] = value
    with pytest.raises(ModelError, match=rf"^model.json: .*{message}"):
        from_item(item, source="model.json")


@pytest.mark.parametrize(
    ("low", "high"),
    [(3, 3), (5, 2), (0, float("inf")), (float("nan"), 1), (0, 1e-300), (-1e308, 1e308)],
)
def test_stretches_of_nothing(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="is no range of values; give two finite numbers"):
        Scaling((0.0,), (1.0,)).after(low, high, target=(0, 255))


def test_scaling_after_a_stretch() -> None:
    stretched = Scaling((100.0,), (50.0,)).after(1000, 3000, target=(0, 255))
    value, target = 2000, 127.5
    assert stretched.clip == (1000, 3000)
    assert (value - stretched.offset[0]) / stretched.scale[0] == pytest.approx((target - 100) / 50)
