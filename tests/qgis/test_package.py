"""The zip of the plugin: as plugins.qgis.org wants it, as QGIS installs it, in Chinese too."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import qt_names
from qgis.PyQt.QtCore import QTranslator

TOOL = Path(__file__).parents[2] / "qgis_plugin" / "package.py"


def package(folder: Path, *options: str) -> Path:
    """Make the zip with the project's Python, which has bandit and detect-secrets."""
    command = [os.environ["GEOSEG_PYTHON"], str(TOOL), "-o", str(folder), *options]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (path,) = folder.glob("geoseg_qgis-*.zip")
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The zip, checked."""
    return package(tmp_path_factory.mktemp("zip"), "--check")


def test_the_same_sources_give_the_same_zip_without_tests_and_caches(archive, tmp_path):
    assert package(tmp_path).read_bytes() == archive.read_bytes()
    names = zipfile.ZipFile(archive).namelist()
    assert {name.split("/")[0] for name in names} == {"geoseg_qgis"}
    assert {Path(name).suffix for name in names} <= {".py", ".svg", ".txt", ".qm", ".qml", ""}
    assert "geoseg_qgis/setup_dialog.py" in names


def test_the_check_refuses_what_the_site_would(archive, tmp_path):
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(bad, "w") as out:
        for name in good.namelist():
            text = good.read(name)
            if name.endswith("metadata.txt"):
                text = text.replace(b"email=", b"mail=")
            if not name.endswith("LICENSE"):
                out.writestr(name, text)
        out.writestr("geoseg_qgis/.hidden", "")
        out.writestr("geoseg_qgis/worse.py", "import pickle\npickle.loads(b'')\n")
        key = "AKIA" + "IOSFODNN7REALKEY"
        out.writestr("geoseg_qgis/secret.py", f"key = '{key}'\n")
        out.writestr("geoseg_qgis/tool.txt", b"\0ELF")
    code = "import sys, package, pathlib; print(*package.problems(pathlib.Path(sys.argv[1])))"
    ran = subprocess.run(
        [os.environ["GEOSEG_PYTHON"], "-c", code, str(bad)],
        capture_output=True,
        text=True,
        cwd=TOOL.parent,
    )
    for what in ("email is missing", "LICENSE is missing", "hidden", "B301", "AWS", "is binary"):
        assert what in ran.stdout, ran.stdout + ran.stderr


def test_chinese_is_compiled_into_it(archive, tmp_path):
    zipfile.ZipFile(archive).extractall(tmp_path)
    translator = QTranslator()
    assert translator.load(str(tmp_path / "geoseg_qgis" / "i18n" / "geoseg_zh_CN.qm"))
    assert translator.translate("geoseg", "Segment this layer") == "分割此图层"


def taken(use: qt_names.Use):
    """What a name means in the QGIS that runs this test; None when it has none."""
    thing = __import__(use.module, fromlist=["_"])
    for name in use.names:
        thing = getattr(thing, name, None)
    return thing


def test_every_name_of_qgis_that_is_used_exists():
    """Names in a `try` may be newer; `iface` is None without windows."""
    uses = [use for use in qt_names.uses() if not use.guarded and use.names[0] != "iface"]
    assert len(uses) > 300
    assert [str(use) for use in uses if taken(use) is None] == []


def is_short(use: qt_names.Use) -> bool:
    """A member of an enum without the enum's name, which QGIS 4 does not know."""
    thing = taken(use)
    return len(use.names) == 2 and isinstance(thing, int) and type(thing) not in (int, bool)


def test_enums_have_their_full_names(tmp_path):
    assert [str(use) for use in qt_names.uses() if is_short(use)] == []
    code = (
        "from qgis.core import Qgis, QgsTask as T\nT.CanCancel, T.Flag.CanCancel, Qgis.devVersion"
    )
    (tmp_path / "module.py").write_text(code)
    assert [use.names[1:] for use in qt_names.uses(tmp_path) if is_short(use)] == [("CanCancel",)]
