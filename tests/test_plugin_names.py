"""The QGIS plugin holds to names that Qt 6 has too, and every string of it is translated."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import qt_names
import translate


@pytest.fixture(scope="module")
def stubs() -> qt_names.Stubs:
    files = importlib.metadata.files("PyQt6") or []
    (core,) = [f for f in files if f.name == "QtCore.pyi"]
    return qt_names.Stubs(Path(str(core.locate())).parent)


def plugin(folder: Path, code: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "module.py").write_text(code, encoding="utf-8")
    return folder


def missing(stubs: qt_names.Stubs, folder: Path) -> list[str]:
    """Names of Qt that Qt 6 has not."""
    found = [u for u in qt_names.uses(folder) if u.module.startswith("qgis.PyQt.")]
    return [".".join(u.names) for u in found if not u.guarded and stubs.lacks(u)]


def test_all_names_of_qt_are_those_of_qt_6(stubs: qt_names.Stubs) -> None:
    assert len(list(qt_names.uses())) > 100
    assert missing(stubs, qt_names.PLUGIN) == []
    assert qt_names.removed() == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("from qgis.PyQt.QtCore import Qt\nQt.AlignRight", ["Qt.AlignRight"]),
        ("from qgis.PyQt.QtCore import Qt\nQt.AlignmentFlag.AlignRight", []),
        ("from qgis.PyQt.QtCore import Qt\nQt.AlignmentFlag.Odd", ["Qt.AlignmentFlag.Odd"]),
        (
            "from qgis.PyQt.QtCore import QRegExp, QVariant\nQVariant.Int",
            ["QRegExp", "QVariant.Int"],
        ),
        ("from qgis.PyQt.QtWidgets import QAction", ["QAction"]),
        ("try:\n    from qgis.PyQt.QtWidgets import QAction\nexcept ImportError: pass", []),
        ("from qgis.PyQt.QtWidgets import QFrame as F\nF.setEnabled\nF.Box", ["QFrame.Box"]),
        ("from qgis.PyQt.QtWidgets import QTableWidget as T\nT.SelectionMode.NoSelection", []),
    ],
)
def test_what_qt_6_has_not_is_found(
    stubs: qt_names.Stubs, tmp_path: Path, code: str, wrong: list[str]
) -> None:
    assert missing(stubs, plugin(tmp_path / "p", code)) == wrong


def test_gone_methods_are_found(tmp_path: Path) -> None:
    folder = plugin(tmp_path / "p", "dialog.exec()\ndialog.exec_()\n")
    assert qt_names.removed(folder) == ["module.py:2: .exec_()"]


def test_every_string_is_translated_and_the_catalogue_is_up_to_date() -> None:
    tool = Path(translate.__file__)
    ran = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_the_catalogue_keeps_what_is_translated_and_tells_what_is_not(tmp_path: Path) -> None:
    folder = plugin(tmp_path / "p", 'tr("{n} tiles")\ntr(\n    "a " "b & c")\ntr("new")\n')
    sources = translate.strings(folder)
    assert list(sources) == ["{n} tiles", "a b & c", "new"]
    catalogue = tmp_path / "x.ts"
    kept = {"{n} tiles": "{m} 个切片", "a b & c": "甲", "gone": "旧"}
    catalogue.write_text(translate.document(sources, kept), encoding="utf-8")
    again = translate.read(catalogue)
    assert again == {"{n} tiles": "{m} 个切片", "a b & c": "甲"}
    assert translate.problems(sources, again) == [
        "not translated: 'new'",
        "placeholders differ: '{n} tiles', '{m} 个切片'",
    ]
    with pytest.raises(SystemExit, match="one literal string"):
        translate.strings(plugin(tmp_path / "q", 'tr(f"{x}")'))
