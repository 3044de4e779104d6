# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden report` in a real browser: loads nothing, complains of nothing, can be read and printed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from picturing import browser as browsing
from picturing.scenes import Scene, evil
from xenwarden_host.cli.page import page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from picturing.browser import Browser

pytestmark = pytest.mark.full

# WCAG 2.1's contrast of each text with what is behind it; what is drawn in a bar is left out.
CONTRAST = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parts(colour).slice(0, 3).map(value => value / 255)
    .map(value => value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [.2126, .7152, .0722][at], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return getComputedStyle(node).backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
    if (node.closest('title') || node.classList.contains('in')) continue;
    const style = getComputedStyle(node);
    const colours = [light(node.closest('svg') ? style.fill : style.color), light(behind(node))];
    const ratio = (Math.max(...colours) + .05) / (Math.min(...colours) + .05);
    if (ratio < 4.5) found.push(`${node.textContent.slice(0, 20)}: ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""
OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect();
  return boxes.flatMap(([text, box], at) => [
    ...(box.left < frame.left - 1 || box.right > frame.right + 1 ? [`${text} is cut`] : []),
    ...boxes.slice(at + 1).filter(([, other]) => box.left < other.right && other.left < box.right
      && box.top < other.bottom && other.top < box.bottom).map(([other]) => `${text} on ${other}`),
  ]);
})
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = browsing.missing()
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)
    assert not missing, missing
    with browsing.Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(tmp_path_factory.mktemp("browser") / "host", 2)
    scene.play()
    yield scene
    scene.close()


@pytest.fixture(scope="module")
def file(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "mallory.html"
    assert scene.world.command("report", "mallory", "-o", str(file)) == (0, "", "")
    return file


@pytest.mark.parametrize("width", [400, 1024, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_page_is_read_without_a_complaint_in_light_and_dark(
    browser: Browser, file: Path, width: int, dark: bool
) -> None:
    page = browser.open(file, width=width, dark=dark)
    assert page.complaints() == []
    assert page.requests() == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(OVERLAPS) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 30)" if dark else "rgb(255, 255, 255)")
    assert page.evaluate("document.querySelectorAll('svg').length") >= 4


@pytest.mark.parametrize("since", ["1m", "30d", "2020-01-01"])
def test_any_time_that_is_asked_for_is_drawn(
    browser: Browser, scene: Scene, tmp_path: Path, since: str
) -> None:
    file = tmp_path / "page.html"
    assert scene.world.command("report", "mallory", "-o", str(file), "--since", since)[0] == 0
    page = browser.open(file)
    assert page.complaints() == []
    assert page.evaluate(OVERLAPS) == []


def test_printed_it_is_dark_on_white(browser: Browser, file: Path) -> None:
    page = browser.open(file, dark=True, media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST) == []
    printed = page.printed()
    assert printed.startswith(b"%PDF-")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 2 <= pages <= 8


def test_what_guests_say_is_shown_and_never_run(browser: Browser, scene: Scene, tmp_path: Path) -> None:
    data: dict[str, Any] = scene.world.xenwarden("report", "mallory")
    file = tmp_path / "evil.html"
    file.write_text(page(evil(data), whole=False))
    shown = browser.open(file)
    assert shown.complaints() == []
    assert shown.requests() == [file.as_uri()]
    assert shown.evaluate("document.scripts.length + document.images.length + document.links.length") == 0
    assert "<script>alert(1)</script>" in shown.evaluate("document.body.innerText")


def test_page_would_run_and_load_nothing_even_if_a_text_slipped_through(
    browser: Browser, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.html"
    other.write_text("never read")
    slipped = tmp_path / "slipped.html"
    for evil_text in (
        "<script>window.ran = 1</script>",
        f"<img src='{other.as_uri()}'>",
        "<p onmouseover='window.ran = 2' id='p'></p><iframe src='data:text/html,x'></iframe>",
    ):
        slipped.write_text(file.read_text().replace("</body>", evil_text + "</body>"))
        shown = browser.open(slipped)
        shown.evaluate("document.getElementById('p')?.dispatchEvent(new Event('mouseover'))")
        assert shown.evaluate("window.ran") is None
        assert shown.complaints()
        assert all("Content Security Policy" in complaint for complaint in shown.complaints())
