"""Brings i18n/geoseg_zh_CN.ts up to the strings of the code: python translate.py [--check].

Every string for users is a literal in tr("…"), from i18n.py. Translations that exist are kept;
strings that are gone go. `--check` changes nothing and fails when there is something to do.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

PLUGIN = Path(__file__).parent / "geoseg_qgis"
CATALOGUE = PLUGIN / "i18n" / "geoseg_zh_CN.ts"
CONTEXT = "geoseg"


def strings(plugin: Path = PLUGIN) -> dict[str, str]:
    """String -> the first file that has it, in the order of the files."""
    found: dict[str, str] = {}
    for path in sorted(plugin.rglob("*.py")):
        for text in _literals(path):
            found.setdefault(text, path.relative_to(plugin).as_posix())
    return found


def _literals(path: Path) -> Iterator[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    calls = [n for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "tr"]
    for node in sorted(calls, key=lambda n: (n.lineno, n.col_offset)):
        (argument,) = node.args
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            sys.exit(f"{path}:{node.lineno}: tr() takes one literal string, and no f-string")
        yield argument.value


def read(catalogue: Path = CATALOGUE) -> dict[str, str]:
    """String -> translation, without those that have none."""
    if not catalogue.exists():
        return {}
    messages = ElementTree.parse(catalogue).iter("message")
    pairs = {m.findtext("source", ""): m.findtext("translation", "") for m in messages}
    return {source: text for source, text in pairs.items() if text}


def document(sources: dict[str, str], translations: dict[str, str]) -> str:
    """What Qt's tools read: one context."""
    root = ElementTree.Element("TS", version="2.1", language="zh_CN", sourcelanguage="en")
    context = ElementTree.SubElement(root, "context")
    ElementTree.SubElement(context, "name").text = CONTEXT
    for source, file in sources.items():
        message = ElementTree.SubElement(context, "message")
        ElementTree.SubElement(message, "location", filename=f"../{file}")
        ElementTree.SubElement(message, "source").text = source
        target = ElementTree.SubElement(message, "translation")
        target.text = translations.get(source, "")
        if not target.text:
            target.set("type", "unfinished")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE TS>\n{text}\n'


def problems(sources: dict[str, str], translations: dict[str, str]) -> list[str]:
    """What is not translated, and translations that lose a {placeholder}."""
    found = [f"not translated: {source!r}" for source in sources if source not in translations]
    found += [
        f"placeholders differ: {source!r}, {translations[source]!r}"
        for source in sources.keys() & translations.keys()
        if _placeholders(source) != _placeholders(translations[source])
    ]
    return found


def _placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{.*?\}", text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    sources, translations = strings(), read()
    trouble = problems(sources, translations)
    text = document(sources, translations)
    if not check:
        CATALOGUE.parent.mkdir(exist_ok=True)
        CATALOGUE.write_text(text, encoding="utf-8")
    elif CATALOGUE.read_text(encoding="utf-8") != text:
        trouble.append(f"{CATALOGUE} is not up to date: run qgis_plugin/translate.py")
    print("\n".join(trouble) or f"{len(sources)} strings, all translated")
    sys.exit(1 if trouble else 0)


if __name__ == "__main__":
    main()
