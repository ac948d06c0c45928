"""How good a model or a prediction is: measures, intervals, and a report that can be looked at.

places.py       what is compared with what: scenes and truth, from arguments or a recipe
predictions.py  masks, probabilities and polygons as labels on one grid
subjects.py     models that run on the scenes, or finished predictions
objects.py      polygons of both sides: what overlaps, is found, split, merged
count.py        pixels by windows, and objects, kept per block of ground
tally.py        measures out of counts and rankings, and intervals by resampling blocks
summary.py      the plain values of a report; detection.py: of objects with scores; records.py: of
                each block, read again by compare.py
page.py         how a report looks: charts.py, pictures.py, sketch.py; tables.py; map.py: for a GIS
run.py          `evaluate`; compare.py: several reports in one table
"""

from __future__ import annotations

from geoseg.evaluate.compare import Comparison, compare
from geoseg.evaluate.options import EvaluateOptions
from geoseg.evaluate.run import Evaluation, evaluate

__all__ = ["Comparison", "EvaluateOptions", "Evaluation", "compare", "evaluate"]
