"""What a page embeds, and the policy that lets a browser run and apply exactly that.

The policy names the page's own script and styles by their hash. Whatever else gets into the page, as a name, an answer
or a question of a data set, is not run and not applied, even if it were taken for markup.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"
STYLE = "page.css"
TAG, ID = re.compile(r"<[^>]*>"), re.compile(r'\sid="|url\(#|href="#')
STYLED = re.compile(r'\sstyle="([^"]*)"')
# matplotlib's own sheet, which would apply to the whole page. `inert` states it for the drawing.
SHEET = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)

# Black, white and grays of a drawing as the page has them, so that it follows the colour scheme. An element that a
# drawing uses several times is out of reach of the page's selectors, but not of its variables.
INKS = {
    "#000000": "currentColor",
    "#ffffff": "var(--back)",
    "#ededed": "var(--strip)",
    "#b0b0b0": "var(--grid)",
    "#6b6b6b": "var(--soft)",
}
INK = re.compile(rf' (fill|stroke)="({"|".join(INKS)})"')


def rendered(template: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """The page of a template with these values, with the style of all pages and its scripts, as one text, inside."""
    from jinja2 import Environment, FileSystemLoader

    style = (ASSETS / STYLE).read_text(encoding="utf-8")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in scripts)
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(
        **values, policy=policy(style=style, script=script or None), style=style, script=script
    )


def policy(*, style: str, script: str | None = None) -> str:
    """The Content-Security-Policy of a page with these texts in its style and script elements.

    `script` None: the page has no script. The element with the page's data is not run, so it needs no entry.
    """
    parts = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data:"]
    parts.append(f"style-src '{_hash(style)}'")
    if script is not None:
        parts.append(f"script-src '{_hash(script)}'")
    return "; ".join(parts)


def _hash(text: str) -> str:
    # A browser reads CR LF as LF before it computes the hash.
    digest = hashlib.sha256(text.replace("\r\n", "\n").encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def named(svg: str, name: str) -> str:
    """A drawing whose ids begin with `name`: those of two drawings on a page would be the same."""
    return TAG.sub(lambda tag: ID.sub(rf"\g<0>{name}-", tag[0]), svg)


def inert(svg: str) -> str:
    """A drawing of matplotlib without styles, which the policy would not apply: each becomes an attribute."""
    svg = SHEET.sub("", svg)
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    return STYLED.sub(lambda found: "".join(_attributes(found[1])), svg)


def themed(svg: str) -> str:
    """A drawing that `inert` made, or a symbol, in the inks and on the paper of the page."""
    return INK.sub(
        lambda found: f' {found[1]}="{INKS[found[2]]}"', svg.replace("<svg ", '<svg fill="currentColor" ', 1)
    )


def _attributes(style: str) -> list[str]:
    """ "fill: #fff; stroke: none" as attributes."""
    pairs = (part.split(":", 1) for part in style.split(";") if ":" in part)
    return [f' {name.strip()}="{value.strip()}"' for name, value in pairs]
