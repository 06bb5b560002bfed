"""What an HTML page would load from elsewhere."""

import re
from html.parser import HTMLParser

_LOADING = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_CSS_LOAD = re.compile(r"""url\(\s*["']?(?!data:|#)([^"')\s]+)|@import\s+["']?([^"';\s]+)""", re.IGNORECASE)
_MODULE_LOAD = re.compile(r"""\bimport\b[^;'"]*["']([^"']+)["']""")


def external_loads(text: str) -> list[str]:
    """What a page would load from elsewhere as it is opened: addresses in its elements and style sheets.

    Links that a reader may follow are none; nor is what a script may ask for, which the page's policy has the
    browser refuse.
    """
    parser = _Loads()
    parser.feed(text)
    parser.close()
    return parser.found


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name in _LOADING.get(tag, ()):
            address = given.get(name, "")
            if address and not address.startswith(("data:", "blob:", "#")):
                self.found.append(f"{tag} {name}={address[:200]}")
        if tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            self.found.append("meta refresh")
        self._css(given.get("style", ""))
        self.found += external_loads(given.get("srcdoc", ""))
        self._inside = "module" if tag == "script" and given.get("type") == "module" else tag

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self._css(data)
        elif self._inside == "module":
            self.found += [f"import {name}" for name in _MODULE_LOAD.findall(data)]

    def _css(self, text: str) -> None:
        self.found += [f"CSS {address or imported}" for address, imported in _CSS_LOAD.findall(text)]
