"""Objects across tiles: what tiles, or scenes, see of one object becomes one object.

    paste      a network's small masks to pixels in their boxes
    rule       when two detections are one object, on tables of pairs
    mosaic     InstanceMosaic: predictions of tiles in, finished objects out as rows pass
    frames     merge_instances: the same for layers of polygons
    masks      masks in their boxes, many in one array: overlaps, unions, anchors
    features   finished objects -> GeoDataFrame on the map
    split      objects of a class that touch, told apart at their necks (watershed)
    cut        the same for the polygons of a run, each by itself

Masks are never larger than their box; what is held is what reaches into the next row of tiles.
"""
