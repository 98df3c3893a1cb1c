"""What every page has to keep to: known tags, no script, no handler, nothing loaded, one style sheet and its hash."""

import base64
import hashlib
import re
from html.parser import HTMLParser

TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "h4", "p", "main", "dl", "div", "dt",
    "dd", "b", "span", "section", "i", "svg", "rect", "text", "path", "circle", "a", "figure", "figcaption", "footer",
    "table", "caption", "thead", "tbody", "tr", "th", "td", "img", "details", "summary", "article", "ol", "li", "q",
}  # fmt: skip


class Page(HTMLParser):
    """The tags and attributes of a page, and the text of its tokens."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.tokens, self.depth = [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        classes = (dict(attrs).get("class") or "").split()
        if "t" in classes and tag == "span":
            self.tokens.append("")
            self.depth = 1
        elif self.depth and "d" in classes:
            self.depth = 0  # the panel: no longer the token's own text

    def handle_data(self, data):
        if self.depth:
            self.tokens[-1] += data


def check_safe(text):
    page = Page(text)
    assert set(page.tags) <= TAGS
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "style"  # which the policy would refuse
        if name in ("href", "src"):
            assert value.startswith("#") or (tag == "img" and value.startswith("data:image/svg+xml;base64,"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src &#39;none&#39;; style-src &#39;sha256-{digest}&#39;" in text
    return page
