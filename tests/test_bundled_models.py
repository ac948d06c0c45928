"""What every model that comes along has to prove; the scores of each are tested beside this."""

from __future__ import annotations

from pathlib import Path

import pytest

import geoseg
from geoseg import runtime
from geoseg.bundle import Bundle

MODELS = sorted(p.name for p in (Path(geoseg.__file__).parent / "bundles").iterdir())


def test_these_are_all() -> None:
    assert MODELS == ["buildings-instances-v1", "buildings-v1", "landcover-v0"]


@pytest.mark.parametrize("name", MODELS)
def test_it_is_small_and_proves_itself(name: str) -> None:
    folder = Path(geoseg.__file__).parent / "bundles" / name
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 12.5e6
    bundle = Bundle.open(folder)
    report = bundle.check(runtime.load(bundle, precision="float32"))
    assert report.ok, str(report)


@pytest.mark.parametrize("name", MODELS)
def test_its_card_tells_data_licence_recipe_and_quality(name: str) -> None:
    card = (Path(geoseg.__file__).parent / "bundles" / name / "README.md").read_text().lower()
    for word in ("## training data", "licence", "geoseg train", "test", "validation"):
        assert word in card, word
    assert any(measure in card for measure in ("iou", "ap50"))
