"""geoseg in QGIS: polygons out of imagery, made by an engine in an environment of its own."""


def classFactory(iface):
    """Return the plugin; QGIS's own modules are imported only here."""
    from .plugin import GeosegPlugin

    return GeosegPlugin(iface)
