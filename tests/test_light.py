"""The light engine: predicting where torch is not installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import geopandas as gpd
import pytest

import geoseg

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


@pytest.mark.parametrize("runtime", ["auto", "onnx"])
def test_the_same_polygons_without_torch(tmp_path: Path, runtime: str) -> None:
    right, light = tmp_path / "torch.gpkg", tmp_path / "light.gpkg"
    geoseg.predict(SCENE, right, runtime="torch")
    call = f"geoseg.predict({str(SCENE)!r}, {str(light)!r}, runtime={runtime!r})"
    done = without_torch(f"import geoseg; print({call}.device)", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("onnx", "openvino") if runtime == "auto" else "onnx")
    a, b = (gpd.read_file(path).union_all() for path in (right, light))
    assert a.intersection(b).area / a.union(b).area > 0.999


def test_a_model_that_needs_torch_says_so(tmp_path: Path) -> None:
    call = f"['predict', {str(SCENE)!r}, '-o', 'x.gpkg', '-m', 'buildings-instances-v1']"
    code = f"from geoseg.cli import cli; cli({call})"
    done = without_torch(code, tmp_path / "home")
    assert done.returncode == 1
    assert "it has no model.onnx, so it needs torch, which is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_misses_nothing(tmp_path: Path) -> None:
    hidden = "import geoseg.doctor, sys; d = sys.modules['geoseg.doctor']; real = d.version\n"
    hidden += "def version(p):\n    if p in d.TORCH: raise d.PackageNotFoundError(p)\n"
    hidden += "    return real(p)\nd.version = version\n"
    code = hidden + "r = d.examine(); print(r.trouble, *r.packages)"
    done = without_torch(code, tmp_path / "home")
    assert done.stdout.startswith("()"), done.stderr
    assert "onnxruntime" in done.stdout
    assert "torch" not in done.stdout


def test_its_requirements_are_those_of_the_package_without_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    full = set(project["dependencies"]) | set(project["optional-dependencies"]["onnx"])
    heavy = {name.replace("_", "-") for name in TORCH}
    wanted = {line for line in full if re.split("[><=]", line)[0] not in heavy}
    lines = (ROOT / "requirements-light.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted
