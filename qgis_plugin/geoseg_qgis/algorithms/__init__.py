"""Processing algorithms: each is a verb of the engine's command line."""

from .batch import Batch
from .evaluate import Evaluate
from .predict import Predict
from .train import Train
from .vectorize import Vectorize

ALGORITHMS = (Predict, Vectorize, Evaluate, Batch, Train)
