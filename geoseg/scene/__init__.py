"""Reading rasters of any kind, at the model's ground sample distance, window by window.

files.py     paths and URLs, GDAL's settings, opening, one clear sentence for each failure
bands.py     which bands of a file are meant: by index, name, colour, position
raster.py    windows of the chosen bands on the file's own grid, and where they have data
gsd.py       metres per pixel in any CRS; the grid at another GSD
resample.py  area averages and bilinear weights: the same pixels whatever the window
stack.py     several files of one scene as one VRT: bands of different resolutions
scene.py     Scene: all of the above behind `.grid` and `.read(window)`
"""

from __future__ import annotations

from geoseg.scene.bands import BandChoice, choose_bands
from geoseg.scene.scene import Scene

__all__ = ["BandChoice", "Scene", "choose_bands"]
