"""Cases of instances.py: detections of tiles that overlap to objects, by geoseg and by others.

Runs in geoseg's environment, or for SAHI and torchvision in the peers'. All get the same
detections, of a model that sees planted objects perfectly, cut at the edges of tiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np

TILE, OVERLAP = 512, 128


def plant(out: str, size: int, count: int, longest: int, seed: int) -> dict[str, Any]:
    """Objects on size² pixels, and what is seen of them in each tile, as files."""
    import shapely
    from affine import Affine

    from geoseg.grid import Grid, Tiling, plan
    from geoseg.instances.features import outlines
    from geoseg.testing import planted_objects, see_planted

    if Path(out).exists():
        return {}
    rng = np.random.default_rng(seed)
    truth = planted_objects((size, size), count=count, longest=longest, seed=seed)
    tiles = plan(Grid(None, Affine.identity(), size, size), _tiling(Tiling))
    content: dict[str, Any] = {"numbers": len(np.unique(truth)) - 1}
    for name in ("tile", "row", "col", "scores", "windows", "pixels", "starts", "shapes"):
        content[name] = []
    for tile in tiles.tiles:
        seen = see_planted(truth, tile)
        content["tile"] += [tile.index] * len(seen)
        content["row"] += [tile.read.row] * len(seen)
        content["col"] += [tile.read.col] * len(seen)
        content["scores"].append(rng.uniform(0.5, 1, len(seen)))
        content["windows"].append(seen.masks.windows)
        content["pixels"].append(seen.masks.pixels)
        content["starts"].append(np.diff(seen.masks.starts))
        content["shapes"].append(shapely.to_wkb(outlines(seen.masks, Affine.identity())))
    for name in ("scores", "windows", "pixels", "starts", "shapes"):
        content[name] = np.concatenate(content[name])
    whole = see_planted(truth, _whole(size)).masks
    content["truth"] = shapely.to_wkb(outlines(whole, Affine.identity()))
    np.savez(out, **content, size=size)
    return {}


def _tiling(kind: Any) -> Any:
    return kind(TILE, OVERLAP, 32, exact=True)


def _whole(size: int) -> Any:
    from geoseg.grid import Tile, Window

    return Tile(0, Window(0, 0, size, size), Window(0, 0, size, size))


def geoseg(file: str, out: str) -> dict[str, Any]:
    """Tile after tile through the InstanceMosaic: masks, whole objects."""
    import shapely
    from affine import Affine

    from geoseg.grid import Grid, Tiling, plan
    from geoseg.instances.features import outlines
    from geoseg.instances.mosaic import InstanceMosaic
    from geoseg.predictions import InstancePrediction, Masks

    seen = np.load(file, allow_pickle=True)
    size = int(seen["size"])
    tiles = plan(Grid(None, Affine.identity(), size, size), _tiling(Tiling))
    ends = np.cumsum(np.concatenate([[0], seen["starts"]]))
    first = np.searchsorted(seen["tile"], np.arange(len(tiles) + 1))
    predictions = []
    scores, windows, pixels = (seen[k] for k in ("scores", "windows", "pixels"))
    for tile in tiles.tiles:
        a, b = first[tile.index : tile.index + 2]
        masks = Masks(windows[a:b], pixels[ends[a] : ends[b]], ends[a : b + 1] - ends[a])
        labels = np.ones(b - a, np.uint8)
        predictions.append(InstancePrediction(tile, labels, scores[a:b].astype(np.float32), masks))
    _merge(InstanceMosaic(tiles), predictions[:9])  # compiles
    result: dict[str, Any] = {"detections": len(scores)}
    with common.timed(result):
        found = _merge(InstanceMosaic(tiles), predictions)
    shapes = [s for o in found for s in outlines(o.masks, Affine.identity())]
    _keep(out, shapely.to_wkb(np.array(shapes, object)))
    return result | {"objects": len(shapes)}


def _merge(mosaic: Any, predictions: Any) -> list[Any]:
    return [o for p in predictions for o in mosaic.add(p)] + list(mosaic.finish())


def sahi(file: str, out: str, kind: str, masks: bool = True) -> dict[str, Any]:
    """SAHI's postprocess (metric IOS, threshold 0.5: its defaults), on masks or on boxes only."""
    import shapely
    from sahi.postprocess.combine import GreedyNMMPostprocess, NMSPostprocess
    from sahi.prediction import ObjectPrediction

    seen = np.load(file, allow_pickle=True)
    size = int(seen["size"])
    windows = seen["windows"].astype(int)
    rows, cols, scores = (seen[k].tolist() for k in ("row", "col", "scores"))
    shapes = shapely.from_wkb(seen["shapes"])
    predictions = []
    for i, (row, col, height, width) in enumerate(windows.tolist()):
        shift = [cols[i], rows[i]]
        box = [col - shift[0], row - shift[1], col + width - shift[0], row + height - shift[1]]
        outline = None
        if masks:
            outline = [
                (shapely.get_coordinates(part.exterior)[:-1] - shift).ravel().tolist()
                for part in shapely.get_parts(shapes[i])
            ]
        predictions.append(
            ObjectPrediction(
                bbox=box,
                category_id=0,
                category_name="thing",
                segmentation=outline,
                score=scores[i],
                shift_amount=shift,
                full_shape=[size, size],
            ).get_shifted_object_prediction()
        )
    make = {"GREEDYNMM": GreedyNMMPostprocess, "NMS": NMSPostprocess}[kind]
    postprocess = make(match_threshold=0.5, match_metric="IOS", class_agnostic=True)
    result: dict[str, Any] = {"detections": len(predictions)}
    with common.timed(result):
        found = postprocess(predictions)
    if masks:
        merged = [
            shapely.union_all(
                [
                    shapely.make_valid(_polygon(ring))
                    for ring in f.mask.segmentation
                    if len(ring) > 5
                ]
            )
            for f in found
        ]
        _keep(out, shapely.to_wkb(np.array(merged, object)))
    return result | {"objects": len(found)}


def torchvision(file: str) -> dict[str, Any]:
    """Plain suppression of boxes, IoU 0.5."""
    import torch
    from torchvision.ops import batched_nms

    seen = np.load(file, allow_pickle=True)
    windows, scores = seen["windows"].astype(np.float32), seen["scores"].astype(np.float32)
    low = windows[:, 1::-1]
    boxes = torch.from_numpy(np.hstack([low, low + windows[:, :1:-1]]))
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    result: dict[str, Any] = {"detections": len(boxes)}
    with common.timed(result):
        kept = batched_nms(boxes, torch.from_numpy(scores.copy()), labels, 0.5)
    return result | {"objects": len(kept)}


def _polygon(ring: list[float]) -> Any:
    import shapely

    return shapely.Polygon(np.array(ring).reshape(-1, 2))


def _keep(out: str, shapes: Any) -> None:
    np.savez(out, shapes=shapes)


def accuracy(file: str, found: str) -> dict[str, Any]:
    """Recall and precision of objects at IoU 0.95, against what was planted."""
    import shapely

    from geoseg.metrics import match_polygons

    with np.load(file, allow_pickle=True) as seen:
        truth = shapely.from_wkb(seen["truth"])
    with np.load(found, allow_pickle=True) as kept:
        shapes = shapely.from_wkb(kept["shapes"])
    scores = match_polygons(shapes, truth, 0.95)
    return {"recall": scores.recall, "precision": scores.precision, "planted": len(truth)}


def predict(scene: str, out: str, model: str, **options: Any) -> dict[str, Any]:
    """geoseg.predict with a model of objects, a clock around its network."""
    from nets import Clock

    from geoseg.models.mask_rcnn import MaskRCNN
    from geoseg.predict import predict as run

    forward = MaskRCNN.forward

    def clocked(self: Any, *arguments: Any) -> Any:
        import time

        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return forward(self, *arguments)
        finally:
            Clock.wall += time.perf_counter() - wall
            Clock.cpu += time.thread_time() - cpu

    MaskRCNN.forward = clocked
    result: dict[str, Any] = {}
    with common.timed(result):
        done = run(scene, out, model=model, overwrite=True, listener=_restart(Clock), **options)
    taken = Clock.take()
    return result | taken | {"objects": sum(done.polygons.values()), "tiles": done.tiles}


def _restart(clock: Any) -> Any:
    """Choosing a precision runs the network, too: the clock starts with the first tile."""

    def listen(event: Any) -> None:
        if event["event"] == "start":
            clock.take()

    return listen


CASES = {
    "plant": plant,
    "geoseg": geoseg,
    "sahi": sahi,
    "torchvision": torchvision,
    "accuracy": accuracy,
    "predict": predict,
}

if __name__ == "__main__":
    common.child(CASES)
