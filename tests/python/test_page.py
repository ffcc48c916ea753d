#!/usr/bin/env python3
"""Opens pages that reports became in Chromium, and looks at them as a reader would: does text overlap, is
any cut off, is the page wider than its window, does it load or say anything?

The pages are those that test_harness_page writes into the folder named by CATMERGE_PAGES; without it only
the checks themselves are tested, and without Chromium nothing:

    CATMERGE_PAGES=FOLDER test_harness_page && CATMERGE_PAGES=FOLDER python3 tests/python/test_page.py

Chromium is driven over a pipe by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/),
since its own window is never narrower than 500 pixels."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runner import Skipped, main, skip_all, test

FOLDER = os.environ.get("CATMERGE_PAGES", "")
PROGRAM = os.environ.get("CATMERGE_CHROMIUM") or shutil.which("chromium") or ""
WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
PATIENCE = 120  # seconds for an answer; the largest page takes one or two

# The faults of a page, one line each. Lines of text are the rectangles of the text nodes' ranges, one per
# line, of what is visible. Text in a box that scrolls may lie beyond the window but not beyond that box.
CHECK = r"""
(() => {
  const found = [], lines = [];
  document.querySelectorAll('details').forEach(d => d.open = true);
  const width = window.innerWidth, root = document.documentElement;
  if (root.scrollWidth > width) found.push(`the page is ${root.scrollWidth} wide, the window ${width}`);
  const loaded = performance.getEntriesByType('resource').map(r => r.name);
  if (loaded.length) found.push('loaded: ' + loaded.join(' '));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const inside = node.parentElement;
    if (!node.data.trim() || inside.closest('title, style, script')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const scrolls = inside.closest('.scroll'), svg = inside.closest('svg');
    for (const r of range.getClientRects()) {
      if (r.width < 1 || r.height < 1) continue;
      const line = {left: r.left, right: r.right, top: r.top + scrollY, bottom: r.bottom + scrollY,
                    text: node.data.trim().slice(0, 40), node};
      const place = `'${line.text}' at ${Math.round(line.left)}, ${Math.round(line.top)}`;
      const box = (svg || scrolls || root).getBoundingClientRect();
      // Content that a box has scrolled out of sight covers nothing.
      const shown = scrolls ? scrolls.getBoundingClientRect() : {left: -Infinity, right: Infinity};
      const seen = {...line, left: Math.max(line.left, shown.left), right: Math.min(line.right, shown.right)};
      if (seen.left < seen.right) lines.push(seen);
      const right = svg ? box.right : scrolls ? box.left + scrolls.scrollWidth : width;
      if (line.left < Math.max(box.left, 0) - 0.5 || line.right > right + 0.5)
        found.push('cut at the side: ' + place);
      if (svg && (r.top < box.top - 1 || r.bottom > box.bottom + 1)) found.push('cut above or below: ' + place);
      const size = parseFloat(getComputedStyle(inside).fontSize) *
                   (svg ? box.width / svg.viewBox.baseVal.width : 1);
      if (size < 9.5) found.push(`${size.toFixed(1)} pixels high: ` + place);
    }
  }
  // A pixel more or less is the rounding of ascenders that no letter reaches.
  lines.sort((a, b) => a.top - b.top);
  for (let i = 0; i < lines.length && found.length < 50; ++i)
    for (let j = i + 1; j < lines.length && lines[j].top < lines[i].bottom - 2; ++j) {
      const a = lines[i], b = lines[j];
      if (a.node !== b.node && a.left < b.right - 1 && b.left < a.right - 1 && b.top < a.bottom - 2)
        found.push(`overlap: '${a.text}' and '${b.text}' at ${Math.round(b.left)}, ${Math.round(b.top)}`);
    }
  return JSON.stringify({found, lines: lines.length, width: window.innerWidth});
})()
"""


class Browser:
    """One headless Chromium with one page."""

    def __init__(self, profile: Path) -> None:
        to_browser, our_end = os.pipe()
        answers, from_browser = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4, each message ended by a zero byte.
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
            "--disable-sync", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", command, PROGRAM, *options, "about:blank"],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.commands, self.answers = os.fdopen(our_end, "wb"), os.fdopen(answers, "rb")
        self.number, self.session, self.rest = 0, "", b""
        self.events: list[dict] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def close(self) -> None:
        """Ends the browser."""
        self.session = ""
        self.call("Browser.close")
        self.process.wait(timeout=60)
        self.commands.close()
        self.answers.close()

    def message(self) -> dict:
        """The next message from the browser."""
        while b"\0" not in self.rest:
            if not select.select([self.answers], [], [], PATIENCE)[0]:
                raise RuntimeError(f"Chromium has said nothing for {PATIENCE} seconds")
            more = os.read(self.answers.fileno(), 1 << 16)
            if not more:
                raise RuntimeError("Chromium ended")
            self.rest += more
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def call(self, method: str, **parameters: object) -> dict:
        """A command's result; events that come before it are kept."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        self.commands.write(json.dumps(command).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Loads a page into a window of that width and waits until it is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.message())

    def evaluate(self, script: str) -> str:
        """What a script in the page returns."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"]["value"]

    def screenshot(self, file: Path, full: bool = True) -> None:
        """A PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        file.write_bytes(base64.b64decode(data))

    def complaints(self, page: Path) -> list[str]:
        """Warnings, errors, exceptions, and requests for anything but the page, since it was opened."""
        found = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Log.entryAdded" and what["entry"]["level"] in ("warning", "error"):
                found.append("log: " + what["entry"]["text"])
            if method == "Runtime.consoleAPICalled" and what["type"] in ("warning", "error", "assert"):
                found.append("console: " + str(what["args"]))
            if method == "Runtime.exceptionThrown":
                found.append("exception: " + str(what["exceptionDetails"]))
            if method == "Network.requestWillBeSent" and what["request"]["url"] != page.as_uri():
                found.append("request: " + what["request"]["url"])
        return found

    def look(self, page: Path, width: int, scheme: str) -> list[str]:
        """Everything that is wrong with a page."""
        self.open(page, width, scheme)
        result = json.loads(self.evaluate(CHECK))
        assert result["width"] == width, result["width"]
        assert result["lines"] > 0, f"{page} shows no text"
        return result["found"] + self.complaints(page)


def screenshots(pages: list[Path], folder: Path) -> None:
    """PNGs of pages as they open, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        for page in pages:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    browser.open(page.resolve(), width, scheme)
                    browser.screenshot(folder / f"{page.stem}-{width}-{scheme}.png")
        browser.close()


BROWSER: Browser


def write(folder: Path, body: str) -> Path:
    """A page of that body."""
    page = folder / "page.html"
    page.write_text("<!DOCTYPE html><meta charset=utf-8><style>body{margin:8px}</style><title>t</title>" + body)
    return page


def has(found: list[str], what: str) -> bool:
    """Whether one of these lines begins so."""
    return any(line.startswith(what) for line in found)


@test
def a_good_page_passes(folder: Path) -> None:
    """What is right is not complained about."""
    page = write(folder, "<p>One line.</p><p>Another <b>line</b> that goes on.</p><svg viewBox='0 0 200 40' "
                 "width='200'><text x='4' y='20'>left</text><text x='90' y='20'>right</text></svg>")
    assert BROWSER.look(page, 400, "light") == []


@test
def overlapping_text_is_found(folder: Path) -> None:
    """In HTML, in SVG, and between them."""
    page = write(folder, "<p>One line.</p><p style='margin-top:-26px'>Over it.</p>")
    assert has(BROWSER.look(page, 400, "light"), "overlap: 'One line.' and 'Over it.'")
    page = write(folder, "<svg viewBox='0 0 200 40' width='200'><text x='4' y='20'>left</text>"
                 "<text x='20' y='20'>right</text></svg>")
    assert has(BROWSER.look(page, 400, "light"), "overlap: 'left' and 'right'")
    page = write(folder, "<p style='margin:0'>One line.</p><svg viewBox='0 0 200 40' width='200' "
                 "style='position:absolute;top:0;left:0'><text x='20' y='20'>right</text></svg>")
    assert has(BROWSER.look(page, 400, "light"), "overlap")


@test
def cut_and_wide_and_small_text_is_found(folder: Path) -> None:
    """What the window's or the drawing's edge cuts, what makes the page scroll, what nobody can read."""
    page = write(folder, "<p style='margin-left:-40px'>Cut.</p>")
    assert has(BROWSER.look(page, 400, "light"), "cut at the side")
    page = write(folder, "<svg viewBox='0 0 50 40' width='50'><text x='4' y='20'>much too long</text></svg>")
    assert has(BROWSER.look(page, 400, "light"), "cut at the side")
    page = write(folder, "<svg viewBox='0 0 50 40' width='50'><text x='4' y='60'>low</text></svg>")
    assert has(BROWSER.look(page, 400, "light"), "cut above or below")
    page = write(folder, "<p style='width:600px'>Wide.</p>")
    assert has(BROWSER.look(page, 400, "light"), "the page is 608 wide")
    assert BROWSER.look(page, 1280, "light") == []
    page = write(folder, "<svg viewBox='0 0 1200 40' width='360'><text x='4' y='20'>shrunk</text></svg>")
    assert has(BROWSER.look(page, 400, "light"), "4.8 pixels high")


@test
def messages_and_requests_are_found(folder: Path) -> None:
    """What a page must not do."""
    page = write(folder, "<p>Text.</p><script>console.warn('careful')</script>")
    assert has(BROWSER.look(page, 400, "light"), "console: ")
    page = write(folder, "<p>Text.</p><script>undefinedFunction()</script>")
    assert has(BROWSER.look(page, 400, "light"), "exception: ")
    page = write(folder, "<p>Text.</p><img src='picture.png'>")
    assert has(BROWSER.look(page, 400, "light"), "request: ")


@test
def pages_are_readable() -> None:
    """Every page, at both widths, light and dark."""
    if not FOLDER:
        raise Skipped("CATMERGE_PAGES is not set")
    pages = sorted(Path(FOLDER).resolve().glob("*.html"))
    assert pages, f"there are no pages in {FOLDER}"
    found = []
    for page in pages:
        for width in WIDTHS:
            for scheme in SCHEMES:
                lines = BROWSER.look(page, width, scheme)
                found += [f"{page.name}, {width} pixels, {scheme}: {line}" for line in lines]
    assert not found, "\n".join(found)


if __name__ == "__main__":
    if not PROGRAM:
        skip_all("pages in a browser", "there is no chromium")
    with tempfile.TemporaryDirectory() as profile_folder:
        BROWSER = Browser(Path(profile_folder))
        status = main()
        BROWSER.close()
    sys.exit(status)
