"""Processing algorithms: each is a verb of the engine's command line."""

from .predict import Predict

ALGORITHMS = (Predict,)
