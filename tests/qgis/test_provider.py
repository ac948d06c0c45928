"""What Processing shows of the plugin: algorithms, their help, parameters and outputs."""

from __future__ import annotations

import pytest
from conftest import Feedback
from qgis.core import (
    QgsApplication,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingParameterDefinition,
)

# Outputs that other algorithms of a model can go on with.
OUTPUTS = {
    "predict": {"OUTPUT", "MASK", "PROBABILITIES", "POLYGONS"},
    "vectorize": {"OUTPUT", "POLYGONS"},
    "evaluate": {"OUTPUT", "REPORT", "PLACES", "IOU", "F1", "OBJECT_F1"},
    "batch": {"OUTPUT", "REPORT", "DATASET_FILE", "DONE", "FAILED", "SKIPPED", "POLYGONS"},
    "train": {"OUTPUT", "MODEL", "BUNDLE", "SCORE"},
}
ASKED = {  # what must be given; all else has a default, or is optional
    "predict": {"INPUT"},
    "vectorize": {"INPUT"},
    "evaluate": {"INPUT", "TRUTH", "SCENE"},
    "batch": set(),
    "train": {"INPUT", "LABELS"},
}


def algorithm(name: str) -> QgsProcessingAlgorithm:
    return QgsApplication.processingRegistry().createAlgorithmById(f"geoseg:{name}")


def test_the_provider_has_them_all():
    provider = QgsApplication.processingRegistry().providerById("geoseg")
    assert {a.name() for a in provider.algorithms()} == set(OUTPUTS)
    assert provider.defaultVectorFileExtension() == "gpkg"


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_they_ask_and_give(name):
    made = algorithm(name)
    Flag = QgsProcessingAlgorithm.Flag
    assert made.flags() & Flag.FlagSupportsBatch
    assert made.flags() & Flag.FlagCanCancel
    assert len(made.shortHelpString()) > 200
    assert 20 < len(made.shortDescription()) < len(made.shortHelpString())
    assert not made.icon().isNull()
    assert OUTPUTS[name] <= {o.name() for o in made.outputDefinitions()}
    Optional = QgsProcessingParameterDefinition.Flag.FlagOptional
    definitions = made.parameterDefinitions()
    asked = {
        p.name()
        for p in definitions
        if not p.flags() & Optional and p.defaultValue() is None and not p.isDestination()
    }
    assert asked == ASKED[name]
    assert all(p.description() for p in definitions)


@pytest.mark.parametrize("name", OUTPUTS)
def test_in_the_model_designer(name):
    """A model with it can be saved and read again."""
    child = QgsProcessingModelChildAlgorithm(f"geoseg:{name}")
    child.setChildId("one")
    model = QgsProcessingModelAlgorithm("m", "tests")
    model.addChildAlgorithm(child)
    again = QgsProcessingModelAlgorithm()
    assert again.loadVariant(model.toVariant())
    assert again.childAlgorithm("one").algorithm().name() == name


def test_one_after_the_other_as_batch_mode_does(part, tmp_path, fake):
    fake('print(json.dumps({"event": "result", "polygons": {"a": len(sys.argv)}}))')
    made, context = algorithm("predict"), QgsProcessingContext()
    counts = []
    for more in ({}, {"SIMPLIFY": 1}, {}):
        given = {"INPUT": part, "OUTPUT": f"{tmp_path}/o.gpkg", **more}
        results, fine = made.run(given, context, Feedback())
        assert fine
        counts.append(results["POLYGONS"])
    assert counts[0] == counts[2] == counts[1] - 1  # nothing is left over from another row
