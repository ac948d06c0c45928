"""Outputs: vector files in all usual formats, masks and probabilities as COG.

Everything appears atomically: complete under its final name, or not at all.
"""

from geoseg.sinks.raster import (
    PROBABILITY_NODATA,
    PROBABILITY_SCALE,
    RasterSink,
    encode_labels,
    encode_probabilities,
)
from geoseg.sinks.vector import FORMATS, VectorSink, read_metadata, vector_format

__all__ = [
    "FORMATS",
    "PROBABILITY_NODATA",
    "PROBABILITY_SCALE",
    "RasterSink",
    "VectorSink",
    "encode_labels",
    "encode_probabilities",
    "read_metadata",
    "vector_format",
]
