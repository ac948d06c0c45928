"""STAC as a source: item collections, catalogs, collections and API searches, as Items.

Everything is a stream: pages of a search and items of a catalog are read when they are needed.
What is asked for (collections, place, time, cloud cover) means the same for all of them; a server
that can select does, and what comes is looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from geoseg.batch.assets import choose_assets, listed_assets
from geoseg.batch.items import Item, Link, safe_name
from geoseg.config import Strict
from geoseg.errors import ContractError, MissingDependencyError, SceneError, UsageError
from geoseg.scene.files import is_remote, shown
from geoseg.spec import Band

if TYPE_CHECKING:
    import pystac
    from pystac_client.stac_api_io import StacApiIO

    Found = tuple[pystac.Item, str]  # and where it was read

_HEAD = 4096  # bytes of a URL that tell whether it is JSON
_WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError)  # in what was read
_JSON = "application/geo+json"
_BACKOFF = 0.5  # seconds before the second attempt; twice as long before each that follows


class Search(Strict):
    """What is wanted of a STAC source; all of it if nothing is said.

    collections: ids. bbox: west, south, east, north in degrees; west > east crosses 180°.
    datetime:    RFC 3339, its beginning (2024, 2024-05), or an interval with '/' (.. for open).
    max_cloud:   most clouds, in percent (eo:cloud_cover); items that do not tell are left out.
    max_items:   no more than so many.
    assets:      which assets to take: keys, common names or names of bands, one for each band of
                 the model in its order; or one that has them all. Chosen by the names of the
                 model's bands where not given.
    """

    collections: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    datetime: str | None = None
    max_cloud: Annotated[float, Field(ge=0, le=100)] | None = None
    max_items: Annotated[int, Field(ge=1)] | None = None
    assets: tuple[str, ...] = ()

    @field_validator("bbox")
    @classmethod
    def _on_earth(cls, bbox: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if bbox is not None:
            west, south, east, north = bbox
            if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
                raise ValueError("degrees are needed: west, south, east, north")
        return bbox

    @field_validator("datetime")
    @classmethod
    def _in_time(cls, value: str | None) -> str | None:
        if value is not None:
            _interval(value)
        return value

    @property
    def narrows(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.collections or self.bbox or self.datetime or self.max_items)


def is_stac(source: str) -> bool:
    """Whether a path or URL is a STAC document, by its content; False where it cannot be read."""
    return _document(source) is not None


def stac_items(source: str, bands: Sequence[Band], search: Search | None = None) -> Iterator[Item]:
    """The scenes of a STAC document or API, with the assets for a model's `bands` as parts.

    An item that cannot be read or lacks a band comes with its `problem`. Raises SceneError where
    the source cannot be read, UsageError where the search makes no sense for it.
    """
    search = search or Search()
    _stac_io()  # says what is not installed
    document = _document(source)
    if document is None:
        raise SceneError(f"{shown(source)}: is no STAC item, collection, catalog or API")
    if len(search.assets) not in (0, 1, len(bands)):
        raise UsageError(
            f"assets: {len(search.assets)} are given, the model takes {len(bands)} bands "
            f"({', '.join(b.name for b in bands)}): name one for each, or one that has them all"
        )
    base = source if is_remote(source) else str(Path(source).expanduser().absolute())
    found = 0
    with _one_sentence(source):
        for item in _items(base, document, search):
            if isinstance(item, Item):
                yield item
            elif _wanted(item[0], search):
                yield _scene(*item, bands, search)
            else:
                continue
            found += 1
            if found == search.max_items:
                return


# --- reading --------------------------------------------------------------------------------


def _document(source: str) -> dict[str, Any] | None:
    """The STAC document at a path or URL; None where there is none."""
    text = _web_text(source) if source.startswith(("http://", "https://")) else _file_text(source)
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) and _is_stac(document) else None


def _is_stac(document: Mapping[str, Any]) -> bool:
    if document.get("type") != "FeatureCollection":
        return "stac_version" in document
    features = document.get("features")
    first = features[0] if isinstance(features, list) and features else None
    return isinstance(first, dict) and "stac_version" in first


def _file_text(source: str) -> bytes | None:
    try:
        with Path(source).expanduser().open("rb") as file:
            head = file.read(_HEAD)
            return head + file.read() if _may_be_json(head) else None
    except OSError:
        return None


def _web_text(source: str) -> bytes | None:
    """The content of a URL, of which only the beginning is fetched where that is not JSON."""
    import requests

    try:
        session = _stac_io().session
        with session.get(source, stream=True, timeout=60) as answer:
            if not answer.ok:
                return None
            parts = answer.iter_content(_HEAD)
            head = next(parts, b"")
            return head + b"".join(parts) if _may_be_json(head) else None
    except requests.RequestException:
        return None


def _may_be_json(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _stac_io() -> StacApiIO:
    """Reads documents; asks again, with back-off, where a server fails for a moment."""
    try:
        from pystac_client.stac_api_io import StacApiIO
    except ImportError as e:
        raise MissingDependencyError("pystac-client", "stac") from e
    from urllib3 import Retry

    retry = Retry(
        total=5,
        backoff_factor=_BACKOFF,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,  # searches are POST
    )
    return StacApiIO(max_retries=retry, timeout=60)


@contextmanager
def _one_sentence(source: str) -> Iterator[None]:
    """What pystac and the network raise, as a SceneError that names the source."""
    import pystac
    import requests
    from pystac_client.exceptions import APIError

    try:
        yield
    except (APIError, requests.RequestException) as e:
        raise SceneError(f"{shown(source)}: the STAC API does not answer ({_reason(e)})") from e
    except (pystac.STACError, pystac.STACTypeError, OSError, *_WRONG) as e:
        raise SceneError(f"{shown(source)}: is no valid STAC ({_reason(e)})") from e


def _items(base: str, document: dict[str, Any], search: Search) -> Iterator[Found | Item]:
    """Every item that a document leads to; one that cannot be read as an Item with a problem."""
    kind, links = document.get("type"), _links(document)
    if kind == "FeatureCollection":
        yield from _pages(base, document)
    elif kind == "Feature":
        yield _item(document, base)
    elif "search" in links and "conformsTo" in document:
        yield from _search(base, search)
    elif "items" in links and "root" in links and kind == "Collection":
        narrowed = search.model_copy(update={"collections": (document["id"],)})
        yield from _search(_absolute(links["root"], base), narrowed)
    elif kind in ("Catalog", "Collection"):
        yield from _walk(base, document, search, {base})
    else:
        raise SceneError(f"{shown(base)}: is a STAC {kind}, not an item, collection or catalog")


def _links(document: Mapping[str, Any]) -> dict[str, str]:
    return {str(link["rel"]): str(link["href"]) for link in document.get("links") or ()}


def _home(feature: dict[str, Any], base: str) -> str:
    return _absolute(_links(feature).get("self", base), base)


def _absolute(href: str, base: str) -> str:
    from pystac.utils import make_absolute_href

    return make_absolute_href(href, base, start_is_dir=False)


def _item(feature: dict[str, Any], home: str) -> Found | Item:
    """An item that was read at `home`, which its relative links are relative to."""
    import pystac

    try:
        others = [link for link in feature.get("links") or () if link.get("rel") == "collection"]
        read = {**feature, "links": others}
        return pystac.Item.from_dict(read, href=home, preserve_dict=False), home
    except (pystac.STACError, pystac.STACTypeError, *_WRONG) as e:
        name = feature.get("id") if isinstance(feature, dict) else None
        return _unreadable(home, e, name)


def _pages(base: str, document: dict[str, Any]) -> Iterator[Found | Item]:
    """The items of an item collection, and of the pages that follow it."""
    seen = {base}
    while True:
        for feature in document.get("features", ()):
            yield _item(feature, _home(feature, base))
        following = _links(document).get("next")
        if following is None or following in seen:
            return
        seen.add(following)
        document = _stac_io().read_json(_absolute(following, base))


def _walk(
    base: str, document: dict[str, Any], search: Search, seen: set[str]
) -> Iterator[Found | Item]:
    """The items of a static catalog to its bottom, in the order of its links."""
    if document.get("type") == "Collection" and _other(document["id"], search):
        return
    from pystac_client.exceptions import APIError

    reader = _stac_io()
    for link in document.get("links") or ():
        href = _absolute(str(link["href"]), base)
        if link["rel"] not in ("item", "child") or href in seen:
            continue
        seen.add(href)
        try:
            below = reader.read_json(href)
        except (APIError, OSError, ValueError) as e:
            yield _unreadable(href, e)
            continue
        if below.get("type") in ("Catalog", "Collection"):
            yield from _walk(href, below, search, seen)
        else:
            yield _item(below, href)


def _unreadable(href: str, error: Exception, name: object = None) -> Item:
    known = str(name) if name else Path(urlsplit(href).path).stem
    problem = f"{shown(href)}: cannot be read as a STAC item ({_reason(error)})"
    return Item(safe_name(known), known if name else shown(href), problem=problem)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _search(url: str, search: Search) -> Iterator[Found | Item]:
    """The answers of a STAC API, page by page."""
    from pystac_client import Client

    if not search.narrows:
        raise UsageError(
            f"{shown(url)}: is a STAC API, with everything there is: say what is wanted, with "
            "--collection, --bbox or --datetime"
        )
    client = Client.open(url, stac_io=_stac_io())
    asked: dict[str, Any] = {
        "collections": list(search.collections) or None,
        "bbox": search.bbox,
        "datetime": search.datetime,
    }
    # A server without these selects less; what is too much is left out here.
    if search.max_cloud is not None and client.conforms_to("QUERY"):
        asked["query"] = {"eo:cloud_cover": {"lte": search.max_cloud}}
    elif search.max_cloud is not None and client.conforms_to("FILTER"):
        cover = {"property": "eo:cloud_cover"}
        asked["filter"] = {"op": "<=", "args": [cover, search.max_cloud]}
        asked["filter_lang"] = "cql2-json"
    for feature in client.search(**asked).items_as_dicts():
        yield _item(feature, _home(feature, url))


# --- choosing -------------------------------------------------------------------------------


def _wanted(item: pystac.Item, search: Search) -> bool:
    cover = item.properties.get("eo:cloud_cover")
    if search.max_cloud is not None and (cover is None or cover > search.max_cloud):
        return False
    if item.collection_id is not None and _other(item.collection_id, search):
        return False
    return _overlaps(item, search.bbox) and _in_interval(item, search.datetime)


def _other(collection: str, search: Search) -> bool:
    return bool(search.collections) and collection not in search.collections


def _overlaps(item: pystac.Item, bbox: tuple[float, float, float, float] | None) -> bool:
    """Whether the item's place meets the box; without a geometry it is nowhere."""
    if bbox is None:
        return True
    if item.geometry is None:
        return False
    from shapely.geometry import box, shape

    west, south, east, north = bbox
    parts = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    place = shape(item.geometry)
    return any(place.intersects(box(left, south, right, north)) for left, right in parts)


def _in_interval(item: pystac.Item, wanted: str | None) -> bool:
    if wanted is None:
        return True
    low, high = _interval(wanted)
    common = item.common_metadata
    start = common.start_datetime or item.datetime
    end = common.end_datetime or item.datetime
    if start is None or end is None:
        return False
    return _aware(start) <= high and _aware(end) >= low


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _interval(text: str) -> tuple[datetime, datetime]:
    """First and last moment of what is asked for; a ValueError where it makes no sense."""
    try:
        from pystac_client import ItemSearch
    except ImportError as e:
        raise MissingDependencyError("pystac-client", "stac") from e

    try:
        said = str(ItemSearch("", datetime=text).get_parameters()["datetime"])
    except Exception as e:
        raise ValueError(f"{text!r} is no date, time or interval (2024-05, 2024-05/..)") from e
    ends = said.split("/") if "/" in said else [said, said]
    least, most = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    low, high = (
        limit if end == ".." else _aware(datetime.fromisoformat(end))
        for end, limit in zip(ends, (least, most), strict=True)
    )
    if low > high:
        raise ValueError(f"{text!r} ends before it begins")
    return low, high


def _scene(item: pystac.Item, home: str, bands: Sequence[Band], search: Search) -> Item:
    """The Item of a STAC item: its assets for the bands, or what is wrong with it."""
    problem: str | None = None
    parts: tuple[str, ...] = ()
    try:
        parts = choose_assets(listed_assets(item, home), bands, search.assets)
    except ContractError as e:
        problem = f"{item.id}: {e}"
    start = item.properties.get("datetime") or item.properties.get("start_datetime")
    # One file that has all bands, which only it can tell apart, is opened as it is.
    whole = parts[0] if len(parts) == 1 and "#" not in parts[0] else None
    return Item(
        id=safe_name(item.id),
        source=whole or item.id,
        key=f"{item.collection_id or ''}/{item.id}",
        parts=() if whole else parts,
        datetime=start,
        footprint=item.geometry,
        properties={k: v for k, v in item.properties.items() if v is not None},
        links=(Link("derived_from", shown(home), _JSON, item.id),),
        problem=problem,
    )
