"""QGIS's proxy and certificates, for the processes that the plugin starts."""

from __future__ import annotations

import os
from urllib.parse import quote

from qgis.core import QgsApplication, QgsAuthMethodConfig, QgsSettings

from .environment import default_folder

CERTIFICATES = "qgis-certificates.pem"  # beside the private environment


def proxy() -> str:
    """The address of QGIS's own proxy, with its password; "" when it uses the system's.

    The system's reaches pip and geoseg by itself: they read the same settings.
    """
    settings = QgsSettings()
    if not settings.value("proxy/proxyEnabled", False, type=bool):
        return ""
    host = str(settings.value("proxy/proxyHost", "") or "").strip()
    kind = str(settings.value("proxy/proxyType", "") or "")
    if not host or kind == "DefaultProxy":
        return ""
    port = str(settings.value("proxy/proxyPort", "") or "")
    user, password = _credentials(settings)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
    scheme = "socks5h" if kind == "Socks5Proxy" else "http"
    return f"{scheme}://{login}{host}{':' + port if port and port != '0' else ''}"


def _credentials(settings: QgsSettings) -> tuple[str, str]:
    """User and password, which may lie in QGIS's encrypted store."""
    entry = str(settings.value("proxy/authcfg", "") or "")
    manager = QgsApplication.authManager()
    if entry and manager.masterPasswordIsSet():  # else it would ask, which a thread may not
        config = QgsAuthMethodConfig()
        if manager.loadAuthenticationConfig(entry, config, True):
            return config.config("username"), config.config("password")
    user = settings.value("proxy/proxyUser", "") or ""
    return str(user), str(settings.value("proxy/proxyPassword", "") or "")


def certificate() -> str:
    """A file of all authorities that QGIS trusts; "" when the user has added none to it.

    It is written anew when they have changed.
    """
    manager = QgsApplication.authManager()
    if manager.isDisabled() or not (manager.databaseCAs() or manager.extraFileCAs()):
        return ""
    pem = bytes(manager.trustedCaCertsPemText())
    path = default_folder().with_name(CERTIFICATES)
    if not path.exists() or path.read_bytes() != pem:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_bytes(pem)
        partial.replace(path)
    return str(path)


def variables() -> dict[str, str]:
    """What tells the engine, and GDAL in it, of both; where QGIS has none, the system's stay."""
    found: dict[str, str] = {}
    if address := proxy():
        names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        found.update(dict.fromkeys(names, address))
    if path := certificate():
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        found.update(dict.fromkeys(names, path))
    return found
