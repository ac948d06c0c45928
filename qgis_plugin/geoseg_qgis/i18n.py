"""What users read, in their language."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsSettings
from qgis.PyQt.QtCore import QCoreApplication, QLocale, QTranslator

from . import runner

CONTEXT = "geoseg"  # of all strings in i18n/*.ts


def tr(text: str) -> str:
    """Return `text` in the user's language; it must be a literal, for the extraction."""
    return QCoreApplication.translate(CONTEXT, text)


def install_translator() -> QTranslator | None:
    """Load the language that QGIS runs in; to be kept, and handed to `remove_translator`."""
    settings = QgsSettings()
    name = str(settings.value("locale/userLocale", "") or "")
    if not settings.value("locale/overrideFlag", False, type=bool) or not name:
        name = QLocale.system().name()
    translator = QTranslator()
    folder = Path(__file__).parent / "i18n"
    for candidate in (name, name.split("_")[0]):
        if translator.load(str(folder / f"geoseg_{candidate}.qm")):
            QCoreApplication.installTranslator(translator)
            runner.translate = tr  # which has no Qt of its own
            return translator
    return None


def remove_translator(translator: QTranslator | None) -> None:
    """Undo `install_translator`."""
    if translator is not None:
        QCoreApplication.removeTranslator(translator)
        runner.translate = str
