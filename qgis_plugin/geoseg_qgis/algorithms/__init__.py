"""Processing algorithms: each is a verb of the engine's command line."""

from .evaluate import Evaluate
from .predict import Predict
from .vectorize import Vectorize

ALGORITHMS = (Predict, Vectorize, Evaluate)
