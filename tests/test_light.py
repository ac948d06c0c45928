"""The light engine: predicting where torch is not installed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import geopandas as gpd
import pytest
from models import bright_bundle

import geoseg
from geoseg.doctor import examine
from geoseg.registry import list_models

ROOT = Path(geoseg.__file__).parent.parent
SCENE = Path(__file__).parent / "data" / "banepa_center.tif"
TORCH = ("torch", "torchvision", "segmentation_models_pytorch", "torchgeo", "timm")
WITHOUT_TORCH = f"import sys; sys.modules.update(dict.fromkeys({TORCH}));"


def without_torch(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Python code in a process that cannot import torch."""
    return subprocess.run(
        [sys.executable, "-c", f"{WITHOUT_TORCH}\n{code}"],
        capture_output=True,
        text=True,
        env={"GEOSEG_HOME": str(home), "OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("runtime", "model"),
    [("auto", "buildings-v1"), ("onnx", "buildings-v1"), ("onnx", "buildings-instances-v1")],
)
def test_the_same_polygons_without_torch(tmp_path: Path, runtime: str, model: str) -> None:
    right, light = tmp_path / "torch.gpkg", tmp_path / "light.gpkg"
    geoseg.predict(SCENE, right, model=model, runtime="torch", precision="float32")
    options = f"model={model!r}, runtime={runtime!r}"
    call = f"geoseg.predict({str(SCENE)!r}, {str(light)!r}, {options})"
    done = without_torch(f"import geoseg; print({call}.device)", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("onnx", "openvino") if runtime == "auto" else "onnx")
    a, b = (gpd.read_file(path) for path in (right, light))
    assert len(a) == len(b) or runtime == "auto"  # which may take fewer bits
    a, b = a.union_all(), b.union_all()
    assert a.intersection(b).area / a.union(b).area > 0.999


def test_a_model_that_needs_torch_says_so(tmp_path: Path) -> None:
    plain = bright_bundle(tmp_path / "bright")
    call = f"['predict', {str(SCENE)!r}, '-o', 'x.gpkg', '-m', {str(plain)!r}]"
    code = f"from geoseg.cli import cli; cli({call})"
    done = without_torch(code, tmp_path / "home")
    assert done.returncode == 1
    assert "it has no model.onnx, so it needs torch, which is not installed" in done.stderr
    assert "geoseg model export bright --to bundle" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "what", "extra"),
    [
        (["train", "recipe.yaml"], "training", "geoseg[train]"),
        (
            ["model", "export", "buildings-v1", "--to", "onnx", "-o", "x.onnx"],
            "export",
            "geoseg[export]",
        ),
        (["model", "import", "weights.pt"], "importing a file of torch", ""),
        (["predict", str(SCENE), "-o", "x.gpkg", "--runtime", "torch"], "the runtime torch", ""),
    ],
)
def test_what_needs_torch_is_one_sentence(
    tmp_path: Path, arguments: list[str], what: str, extra: str
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"PK")
    code = "import sys; sys.argv = ['geoseg', '--json']; from geoseg.cli import cli; "
    code += f"import os; os.chdir({str(tmp_path)!r}); cli({arguments})"
    done = without_torch(code, tmp_path / "home")
    assert done.returncode == 1
    error = json.loads(done.stdout.splitlines()[-1])
    assert error["kind"] == "NeedsTorchError"
    assert f"{what} needs torch, which is not installed (light engine)" in error["message"]
    assert error["message"].endswith(f"pip install '{extra}'" if extra else "pip install geoseg")
    assert "Traceback" not in done.stderr


def test_the_item_alone_needs_no_torch(tmp_path: Path) -> None:
    target = tmp_path / "item.json"
    call = f"geoseg.export_model('buildings-v1', 'mlm', {str(target)!r})"
    done = without_torch(f"import geoseg; {call}", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_text())["properties"]["mlm:name"] == "buildings-v1"


def test_a_missing_package_is_named_alone_where_the_extra_would_bring_torch(tmp_path: Path) -> None:
    code = """
import importlib.util
from importlib.util import find_spec
importlib.util.find_spec = lambda name: None if name == "torch" else find_spec(name)
from geoseg.errors import MissingDependencyError
print(MissingDependencyError("openvino", "openvino"))
"""
    done = without_torch(code, tmp_path)
    assert done.stdout == "openvino is not installed: pip install 'openvino>=2025.0'\n", done.stderr


def test_lists_say_which_models_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bright_bundle(tmp_path / "home" / "models" / "bright")
    monkeypatch.setenv("GEOSEG_HOME", str(tmp_path / "home"))
    code = "import geoseg.registry as r; print({m.name: m.runtimes for m in r.list_models()})"
    runtimes = ast.literal_eval(without_torch(code, tmp_path / "home").stdout)
    assert runtimes["bright"] == ()
    assert "onnx" in runtimes["buildings-v1"]
    full = {m.name: m.runtimes for m in list_models()}
    assert full["bright"] == ("torch",)
    assert {"torch", "onnx"} <= set(full["buildings-v1"])


def test_predicting_needs_no_scipy(tmp_path: Path) -> None:
    """Which the light engine has not."""
    out = tmp_path / "x.gpkg"
    options = "regularize=1.0, runtime='onnx'"
    code = "import geoseg, geoseg.instances.mosaic, geoseg.batch.dedupe, geoseg.evaluate\n"
    code += f"geoseg.predict({str(SCENE)!r}, {str(out)!r}, {options})"
    done = without_torch(f"sys.modules['scipy'] = None\n{code}", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert len(gpd.read_file(out)) > 100


def test_what_needs_scipy_says_so(tmp_path: Path) -> None:
    code = "import sys; sys.modules['scipy'] = None; sys.argv = ['geoseg', '--json']\n"
    code += "from geoseg.cli import cli; cli(['data', 'check', 'recipe.yaml'])"
    done = without_torch(code, tmp_path / "home")
    assert done.returncode == 1
    error = json.loads(done.stdout.splitlines()[-1])
    assert error["message"] == "scipy is not installed: pip install scipy"
    assert not done.stderr


def test_doctor_misses_nothing(tmp_path: Path) -> None:
    bright_bundle(tmp_path / "home" / "models" / "bright")
    hidden = "import geoseg.doctor, sys; d = sys.modules['geoseg.doctor']; real = d.version\n"
    hidden += "def version(p):\n    if p in d.TORCH: raise d.PackageNotFoundError(p)\n"
    hidden += "    return real(p)\nd.version = version\n"
    code = hidden + "r = d.examine(); print(r.trouble, *r.packages, r.engine, r.without_runtime)"
    done = without_torch(code, tmp_path / "home")
    assert done.stdout.startswith("()"), done.stderr
    assert "onnxruntime" in done.stdout
    assert "torch" not in done.stdout
    assert "light ('bright',)" in done.stdout
    assert examine().engine == "full"
    assert examine().without_runtime == ()


def test_its_requirements_are_those_of_the_package_without_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    full = set(project["dependencies"]) | set(project["optional-dependencies"]["onnx"])
    heavy = {name.replace("_", "-") for name in TORCH} | {"scipy"}
    wanted = {line for line in full if re.split("[><=]", line)[0] not in heavy}
    lines = (ROOT / "requirements-light.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted
