"""The set-up window: an engine made, seen, repaired and removed, without a network."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from geoseg_qgis import environment, network, settings, setup_engine
from geoseg_qgis.algorithms.base import model_parameter
from geoseg_qgis.jobs import Job
from geoseg_qgis.model_box import ModelBox
from geoseg_qgis.runner import Engine
from geoseg_qgis.setup_dialog import SetupDialog
from qgis.core import QgsApplication, QgsSettings
from qgis.PyQt import sip
from qgis.PyQt.QtTest import QTest

# A geoseg that knows what the window asks for; its version is not the plugin's.
MAIN = """
import json, sys
match sys.argv[1:-1]:
    case ["doctor"]:
        print(json.dumps({"geoseg": "9.9", "python": sys.version[:6], "packages": {"torch": "2.0"},
            "devices": ["cpu (2 threads)", "cuda:0 Tesla"], "models": ["m-v1"],
            "trouble": ["PROJ_LIB is <set>"]}))
        sys.exit(1)
    case ["model", "list"]:
        print(json.dumps({"name": "m-v1", "source": "package", "gsd": 0.3, "classes": ["roof"]}))
        print(json.dumps({"name": "mine", "source": "user", "classes": [{"name": "tree"}]}))
    case ["model", "pull", source]:
        print(json.dumps({"event": "error", "message": f"{source} is no model"}))
        sys.exit(1)
    case ["model", "remove", name]:
        print(json.dumps({"event": "result", "name": name}))
"""


def wheel(folder: Path) -> Path:
    """A folder with the wheel of that geoseg."""
    folder.mkdir()
    info = "geoseg-9.9.dist-info"
    files = {
        "geoseg/__init__.py": "",
        "geoseg/__main__.py": MAIN,
        f"geoseg/{environment.REQUIREMENTS}": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: geoseg\nVersion: 9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / "geoseg-9.9-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return folder


def until(condition, seconds: float = 90) -> None:
    """Let QGIS work until something is so."""
    for _ in range(int(seconds * 20)):
        if condition():
            return
        QTest.qWait(50)
    raise AssertionError("it did not happen")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No engine and no settings but what the test makes."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("GEOSEG_PYTHON", "GEOSEG_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", os.defpath)
    QgsSettings().remove("geoseg")
    yield tmp_path
    QgsSettings().remove("geoseg")
    QgsSettings().remove("proxy")


@pytest.fixture
def dialog(fresh):
    """The window, when it has looked for an engine."""
    window = SetupDialog()
    window.show()
    until(lambda: window._looking is None)
    yield window
    if not sip.isdeleted(window):
        window.done(0)
        window.deleteLater()
    until(lambda: setup_engine._current is None)


def log(dialog: SetupDialog) -> str:
    return dialog.engine_page.log.toPlainText()


def finished(dialog: SetupDialog) -> bool:
    return setup_engine._current is None and dialog._looking is None


def test_an_engine_is_made_shown_repaired_and_removed(dialog, fresh):
    page = dialog.engine_page
    assert "No engine yet." in page.status.text()
    assert "not set up yet" in page.status.text()
    assert page.make.text() == "Set up"
    assert not page.delete.isEnabled()
    assert not dialog.models_page.isEnabled()

    page.local.setChecked(True)
    page.wheels.setFilePath(str(wheel(fresh / "wheel house")))
    seen = []
    page.log.textChanged.connect(lambda: seen.append((log(dialog), page.cancel.isVisible())))
    page.make.click()
    assert not page.make.isEnabled()
    until(lambda: finished(dialog))
    assert any("Processing" in text and "ready" not in text for text, _ in seen)  # pip, live
    assert all(visible for text, visible in seen if "Processing" in text and "ready" not in text)
    assert "The engine is ready." in log(dialog)

    text = page.status.text()
    assert str(environment.default_folder()) in text
    assert "geoseg 9.9, PyTorch 2.0" in text
    assert "<b>Runs on:</b> cuda:0 Tesla" in text
    assert "PROJ_LIB is &lt;set&gt;" in text
    assert f"The plugin is version {settings.plugin_version()}, the engine 9.9" in text
    assert settings.known_models()[0]["name"] == "m-v1"
    assert page.make.text() == "Repair or update"
    assert page.cancel.isHidden()

    page.source.setFilePath("geoseg==10")  # a repair that fails leaves what was there
    page.make.click()
    until(lambda: finished(dialog))
    assert "No matching distribution" in log(dialog)
    assert log(dialog).endswith("Advanced ▸ geoseg itself.")
    assert "geoseg 9.9" in page.status.text()

    page.remove()
    until(lambda: finished(dialog))
    assert not environment.default_folder().exists()
    assert "No engine yet." in page.status.text()


def test_light_or_full(dialog, fresh):
    page = dialog.engine_page
    assert page.light.isChecked()
    assert not page.cuda.isEnabled()
    page.full.setChecked(True)
    assert page.cuda.isEnabled()
    page.cuda.setChecked(True)
    page.light.setChecked(True)
    assert page.cpu.isChecked()

    page.full.setChecked(True)
    page.local.setChecked(True)
    page.wheels.setFilePath(str(wheel(fresh / "wheels")))
    page.make.click()
    until(lambda: finished(dialog))
    assert environment.kind_of(environment.default_folder()) == environment.FULL
    again = SetupDialog()  # a repair leaves the kind
    until(lambda: again._looking is None)
    assert again.engine_page.full.isChecked()
    again.done(0)
    again.deleteLater()
    light = setup_engine.described(Engine(("geoseg",)), {"geoseg": "1", "engine": "light"})
    assert "geoseg 1, light engine: no training, Python" in light


def test_models_that_the_engine_is_too_light_for_are_marked(dialog):
    models = [{"name": "a", "runtimes": ["onnx"]}, {"name": "b", "runtimes": []}, {"name": "old"}]
    dialog.models_page.show_models(models)
    names = [dialog.models_page.table.item(i, 0).text() for i in range(3)]
    assert names == ["a", "b (needs the full engine)", "old"]
    box = ModelBox()
    box.fill(models)
    assert box.combo.itemText(1) == names[1]
    assert box.combo.itemData(1) == "b"
    settings.remember_models(models)
    hints = model_parameter().metadata()["widget_wrapper"]["value_hints"]
    assert hints == ["a", "old"]


def test_cancel_leaves_nothing_and_a_closed_window_does_not_end_a_set_up(dialog, fresh):
    page = dialog.engine_page
    page.local.setChecked(True)
    page.wheels.setFilePath(str(wheel(fresh / "wheels")))
    page.folder.setFilePath(str(fresh / "own place"))
    page.make.click()
    until(lambda: log(dialog) != "")
    page.cancel.click()
    until(lambda: finished(dialog), 15)
    assert "Canceled; all is as it was before." in log(dialog)
    assert not (fresh / "own place").exists()

    page.make.click()
    until(lambda: log(dialog).startswith("/"))
    dialog.done(0)
    dialog.deleteLater()
    QTest.qWait(50)
    other = SetupDialog()
    other.show()
    assert other.engine_page.cancel.isVisible()
    until(lambda: finished(other))
    assert "Processing" in log(other)
    assert "The engine is ready." in log(other)
    assert QgsSettings().value(settings.ENGINE) == str(fresh / "own place")
    assert str(fresh / "own place") in other.engine_page.status.text()
    other.engine_page.remove()
    other.done(0)
    other.deleteLater()
    until(lambda: setup_engine._current is None)  # without any window
    assert QgsSettings().value(settings.ENGINE) == ""
    assert not (fresh / "own place").exists()


def program(folder: Path) -> Path:
    """The same geoseg as one file."""
    path = folder / "geoseg"
    python = environment.base_python()
    path.write_text(f"#!{python}\n{MAIN}")
    path.chmod(0o755)
    return path


def test_another_engine_by_its_path_and_its_models(dialog, fresh):
    dialog.engine_page.path.setFilePath(str(program(fresh)))
    dialog.engine_page.use.click()
    until(lambda: dialog._looking is None)
    assert "geoseg 9.9" in dialog.engine_page.status.text()
    page = dialog.models_page
    cells = [[page.table.item(i, j).text() for j in (0, 4)] for i in range(2)]
    assert cells == [["m-v1", "roof"], ["mine", "tree"]]
    page.table.selectRow(0)
    assert not page.delete.isEnabled()  # it comes with geoseg
    page.table.selectRow(1)
    page.delete.click()
    until(lambda: page._job is None and dialog._looking is None)
    assert page.said.text() == ""
    page.source.setText("thing.zip")
    page.add.click()
    until(lambda: page._job is None)
    assert page.said.text() == "thing.zip is no model"

    dialog.engine_page.path.setFilePath("/nowhere/python")
    dialog.engine_page.use.click()
    until(lambda: dialog._looking is None)
    assert "the setting names /nowhere/python, which does not exist" in (
        dialog.engine_page.status.text()
    )


def test_diagnostics_are_copied_without_passwords(dialog, fresh, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    QgsSettings().setValue(settings.ENGINE, str(program(fresh)))
    dialog.copy.click()
    until(lambda: dialog._copying is None)
    text = QgsApplication.clipboard().text()
    assert f"plugin {settings.plugin_version()}" in text
    assert '"geoseg": "9.9"' in text
    assert "http://…@proxy:3128" in text
    assert "secret" not in text
    assert "clipboard" in dialog.said.text()


def test_qgis_proxy_reaches_pip_and_the_engine(fresh):
    assert network.variables() == {}
    values = {"proxyEnabled": True, "proxyType": "HttpProxy", "proxyHost": "proxy.office"}
    values.update(proxyPort="3128", proxyUser="me", proxyPassword="a/b@c")
    for name, value in values.items():
        QgsSettings().setValue(f"proxy/{name}", value)
    address = "http://me:a%2Fb%40c@proxy.office:3128"
    assert network.proxy() == address
    assert network.variables()["https_proxy"] == address
    QgsSettings().setValue(settings.ENGINE, str(program(fresh)))
    assert settings.engine().variables["HTTPS_PROXY"] == address
    assert "a%2Fb" not in repr(settings.engine())
    QgsSettings().setValue("proxy/proxyType", "DefaultProxy")
    assert network.proxy() == ""


def test_authorities_that_qgis_was_given_become_a_file(fresh, monkeypatch):
    class Manager:
        def isDisabled(self):
            return False

        def databaseCAs(self):
            return ["one"]

        def trustedCaCertsPemText(self):
            return b"PEM"

    monkeypatch.setattr(QgsApplication, "authManager", lambda: Manager())
    path = network.variables()["SSL_CERT_FILE"]
    assert Path(path).read_bytes() == b"PEM"
    assert Path(path).parent == environment.default_folder().parent


def test_what_a_job_does_wrong_is_told_and_does_not_end_qgis(fresh):
    def fail(job):
        raise ZeroDivisionError("of mine")

    jobs = [Job("a", fail), Job("b", lambda job: "fine")]
    ended = []
    for job in jobs:
        job.ended.connect(lambda job=job: ended.append((job.result, job.error)))
        job.start()
    until(lambda: len(ended) == 2)
    (_, error), *_ = [e for e in ended if e[1]]
    assert "ZeroDivisionError: of mine" in error
    assert ("fine", "") in ended


def test_the_version_is_that_of_the_engine_of_this_repository():
    text = (Path(__file__).parents[2] / "geoseg" / "__init__.py").read_text()
    assert f"__version__ = {json.dumps(settings.plugin_version())}" in text
