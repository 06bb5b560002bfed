"""The HTML page of a widget, read for its tables."""

from html.parser import HTMLParser


class Tables(HTMLParser):
    """The tables of a page as rows of cells (attributes, tag, text), all its elements, and its text."""

    def __init__(self, browser):
        super().__init__()
        self.tables, self.elements, self.text = [], set(), ""
        self._inside = None
        self.feed(str(browser.page.value))

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        attrs = dict(attrs)
        assert not [name for name in attrs if name.startswith("on")], attrs
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self._inside = dict(attrs, tag=tag, text="")
            self.tables[-1][-1].append(self._inside)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._inside = None

    def handle_data(self, data):
        self.text += data
        if self._inside is not None:
            self._inside["text"] += data
