import html.parser
import re
from pathlib import Path

import pytest

from assets import FOLDER, Assets
from errors import UsageError

SAID = {
    name: f"<{name}&'\">"
    for name in ("host", "hostname", "port", "cacert", "name", "ends", "fingerprint", "thumbprint", "live", "why")
}


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and those that are still open."""

    EMPTY = frozenset(("meta", "link", "img", "input", "br"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())


def page(trust: bool = True) -> str:
    return Assets().index(SAID, trust).body.decode()


@pytest.mark.parametrize("trust", [True, False])
def test_the_page_is_whole(trust: bool) -> None:
    text = page(trust)
    elements = Elements(text)
    assert elements.open == []
    assert "{{" not in text
    identities = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(identities) == len(set(identities))
    for tag, attributes in elements.found:  # the Content-Security-Policy would block these anyway
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), attributes
        if tag == "script":
            assert attributes.get("src")
        if tag == "a" and (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in identities


def test_what_is_said_is_no_markup() -> None:
    text = page()
    for value in SAID.values():
        assert value not in text
    assert "curl -x http://&lt;host&amp;&#x27;&quot;&gt; &lt;cacert&amp;" in text


def test_a_container_gets_all_that_node_needs() -> None:
    """Without the second variable, Node.js knows the CA but bypasses the proxy."""
    (command,) = re.findall(r"<code>(docker run .*)</code>", page())
    assert {"NODE_EXTRA_CA_CERTS", "NODE_USE_ENV_PROXY"} <= set(re.findall(r"-e (\w+)=", command))


def test_every_file_that_is_named_is_there() -> None:
    assets = Assets()
    named = set(re.findall(r'(?:src|href)="(/[a-z]+\.(?:js|css|svg))"', page()))
    for path in FOLDER.glob("*.js"):
        named |= {f"/{name}" for name in re.findall(r'from "\./([a-z]+\.js)"', path.read_text())}
    assert named == {f"/{path.name}" for path in FOLDER.iterdir() if path.suffix != ".html"}
    for path in named:
        found = assets.find(path)
        assert found
        assert found.body == (FOLDER / path[1:]).read_bytes()
    assert assets.find("/index.html") is None
    assert assets.find("/../assets.py") is None


def test_a_tag_changes_with_its_body() -> None:
    one, other = Assets().index(SAID, True), Assets().index({**SAID, "host": "another"}, True)
    assert one.tag == Assets().index(SAID, True).tag != other.tag
    assert re.fullmatch(r'"[0-9a-f]{32}"', one.tag)


def test_a_folder_that_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the page's files in .*none are incomplete"):
        Assets(tmp_path / "none")
    (tmp_path / "index.html").write_text("{{trust}}")
    with pytest.raises(UsageError, match=r"no-ca\.html"):
        Assets(tmp_path)
