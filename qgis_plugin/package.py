"""Makes the zip that QGIS's plugin manager installs: python package.py [-o FOLDER] [--check].

The version is geoseg's own; the same sources give the same bytes. `--check` looks at the zip as
plugins.qgis.org does, with bandit and detect-secrets, and needs geoseg's dev extra.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "qgis_plugin" / "geoseg_qgis"
NAME = PLUGIN.name
TEXTS = {".py", ".svg", ".txt", ".qml", ".json", ""}  # "": LICENSE
PICTURES = {".png", ".jpg"}
COMPILED = ".qm"  # a few KB each, from the .ts beside them
EPOCH = (1980, 1, 1, 0, 0, 0)
MANDATORY = (
    "name qgisMinimumVersion description version author email about tracker repository".split()
)
LARGEST = 20 << 20


def version() -> str:
    """geoseg's, from the place where it is written."""
    text = (ROOT / "geoseg" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else sys.exit("geoseg/__init__.py has no __version__")


def build(folder: Path) -> Path:
    """Write geoseg_qgis-VERSION.zip into `folder`; its path."""
    contents = {**_files(), **_translations()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-{version()}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(f"{NAME}/{name}", EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, contents[name])
    return path


def _files() -> dict[str, bytes]:
    contents = {}
    for path in sorted(PLUGIN.rglob("*")):
        name = path.relative_to(PLUGIN).as_posix()
        if path.is_dir() or "__pycache__" in name or path.suffix in (".ts", COMPILED):
            continue
        if path.suffix not in TEXTS | PICTURES or path.name.startswith("."):
            sys.exit(f"{path} is none of the plugin's kinds of files: remove it, or name its kind")
        contents[name] = path.read_bytes()
    line = re.compile(rb"^version=.*$", re.MULTILINE)
    contents["metadata.txt"] = line.sub(b"version=" + version().encode(), contents["metadata.txt"])
    return contents


def _translations() -> dict[str, bytes]:
    """Compiled by Qt's own tool."""
    tool = shutil.which("lrelease") or shutil.which("lrelease6") or shutil.which("lrelease-qt5")
    if tool is None:
        sys.exit("lrelease is missing: apt-get install qttools5-dev-tools, or your Qt's tools")
    contents = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted((PLUGIN / "i18n").glob("*.ts")):
            target = Path(folder) / source.with_suffix(COMPILED).name
            subprocess.run([tool, "-silent", source, "-qm", target], check=True)
            contents[f"i18n/{target.name}"] = target.read_bytes()
    return contents


def problems(path: Path) -> list[str]:
    """Why plugins.qgis.org would refuse the zip."""
    found = []
    if path.stat().st_size > LARGEST:
        found.append(f"{path} has more than {LARGEST >> 20} MB")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        archive.extractall(folder)
        plugin = Path(folder) / NAME
        found += [f"{n} is outside {NAME}/" for n in names if not n.startswith(f"{NAME}/")]
        found += [f"{n} is hidden or a cache" for n in names if re.search(r"/(\.|__pycache__)", n)]
        found += [
            f"{NAME}/{name} is missing"
            for name in ("__init__.py", "metadata.txt", "LICENSE")
            if not (plugin / name).is_file()
        ]
        found += [
            f"{file} is binary"
            for file in plugin.rglob("*")
            if file.suffix in TEXTS and file.is_file() and b"\0" in file.read_bytes()
        ]
        found += _metadata(plugin / "metadata.txt")
        found += _bandit(plugin)
        found += _secrets(plugin)
    return found


def _metadata(path: Path) -> list[str]:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(path, encoding="utf-8")
    general = dict(parser["general"])
    found = [f"metadata.txt: {key} is missing" for key in MANDATORY if not general.get(key)]
    found += [
        f"metadata.txt: {key} is no address"
        for key in ("tracker", "repository", "homepage")
        if not general.get(key, "").startswith("https://")
    ]
    if "icon" in general and not (path.parent / general["icon"]).is_file():
        found.append(f"metadata.txt: icon {general['icon']} is missing")
    if "description[zh_CN]" not in general or "about[zh_CN]" not in general:
        found.append("metadata.txt: description and about are not in Chinese too")
    return found


def _bandit(plugin: Path) -> list[str]:
    report = _report("bandit", "-q", "-r", "-f", "json", ".", cwd=plugin)
    return [
        f"bandit: {r['filename']}:{r['line_number']}: {r['test_id']} {r['issue_text']}"
        for r in [*report["results"], *report["errors"]]
    ]


def _secrets(plugin: Path) -> list[str]:
    report = _report("detect_secrets", "scan", "--all-files", ".", cwd=plugin)
    return [
        f"detect-secrets: {name}:{secret['line_number']}: {secret['type']}"
        for name, secrets in report["results"].items()
        for secret in secrets
    ]


def _report(module: str, *arguments: str, cwd: Path) -> dict:
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, capture_output=True, text=True
    )
    if not ran.stdout.strip():
        sys.exit(f"{module} does not run: {ran.stderr.strip()}")
    return json.loads(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    path = build(arguments.output)
    print(f"{path}: {path.stat().st_size >> 10} KB")
    trouble = problems(path) if arguments.check else []
    print("\n".join(trouble), end="\n" if trouble else "")
    sys.exit(1 if trouble else 0)


if __name__ == "__main__":
    main()
