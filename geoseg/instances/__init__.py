"""Objects of instance models: from the boxes of a tile to whole objects of a scene.

paste   a network's small masks to pixels in their boxes
"""
