"""The page, in a real browser: it needs nothing else, says the verdict first, fits a phone, prints, and nothing in it acts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report import reports

from deepport.conformance.result import Report
from deepport.conformance.verdict import verdict
from deepport.report import html, plot

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; apt install chromium")

ALL = {
    "references": reports.references,
    "conforming": reports.conforming,
    "troubled": reports.troubled,
    "hostile": reports.hostile,
    "many": reports.many,
    "empty": lambda: reports.report([]),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # CI runs as root
        yield started
        started.close()


Opened = Callable[..., Any]


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """Open a report's page; at the end nothing was fetched and nothing complained."""
    heard: list[str] = []
    contexts = []

    def open_page(report: Report, width: int = 1280, height: int = 800, **given: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_text(html.render(report), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **given))
        opened = contexts[-1].new_page()
        opened.on("request", lambda r: r.url.startswith("file:") or heard.append(f"fetched {r.url}"))
        opened.on("console", lambda m: heard.append(f"console: {m.text}"))
        opened.on("pageerror", lambda e: heard.append(f"error: {e}"))
        opened.goto(path.as_uri())
        return opened

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


@in_a_browser
@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", list(ALL))
def test_it_fits_every_width_and_says_the_verdict_first(name: str, width: int, page: Opened) -> None:
    report = ALL[name]()
    opened = page(report, width, 740)
    opened.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    headline = opened.locator("#headline")
    assert headline.bounding_box()["y"] < 600
    if name != "hostile":
        assert headline.inner_text() == verdict(report).headline
        assert headline.bounding_box()["y"] + headline.bounding_box()["height"] < 740


@in_a_browser
def test_nothing_that_a_report_says_acts(page: Opened) -> None:
    opened = page(reports.hostile())
    assert opened.title() != "owned"
    assert opened.locator("script").count() == 1
    assert opened.evaluate("[...document.links].filter((a) => !a.hash && !a.href.startsWith('http')).length") == 0
    assert "<script>document.title='owned'</script>\\x1b[31mred" in opened.locator("#failures").inner_text()


@in_a_browser
def test_the_fence_behind_escaping_holds(page: Opened, tmp_path: Path) -> None:
    """Were a script let through, the browser would refuse it."""
    opened = page(reports.conforming())
    path = tmp_path / "report.html"
    path.write_text(
        path.read_text("utf-8").replace("<main>", "<main><script>document.title = 'owned'</script>"), "utf-8"
    )
    heard: list[str] = []
    fresh = opened.context.new_page()
    fresh.on("console", lambda m: heard.append(m.text))
    fresh.goto(path.as_uri())
    assert fresh.title() != "owned"
    assert any("Content Security Policy" in text for text in heard)


@in_a_browser
def test_the_filter(page: Opened) -> None:
    opened = page(reports.troubled())
    opened.locator("#all summary").click()
    visible = opened.locator(".results tbody tr:visible")
    assert visible.count() == len(reports.troubled().results)
    opened.locator("input").fill("LINEAR bfloat16 onednn")
    assert visible.count() == 1
    assert opened.locator("output").inner_text() == "1 of 267"
    opened.locator("input").fill("")
    opened.locator("select").select_option("timeout")
    assert [row.split("\t")[1] for row in visible.all_inner_texts()] == ["moe_experts"]
    opened.locator("input").fill("nothing has this")
    assert visible.count() == 0


@in_a_browser
def test_it_is_complete_without_script(page: Opened) -> None:
    opened = page(reports.troubled(), java_script_enabled=False)
    assert not opened.locator(".filter").is_visible()
    opened.locator("#all summary").click()
    assert opened.locator(".results tbody tr:visible").count() == len(reports.troubled().results)


@in_a_browser
def test_printed_everything_is_open_and_nothing_is_cut(page: Opened) -> None:
    opened = page(reports.troubled(), 688, 1000)  # A4 between its margins
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("details:not([open])").count() == 0
    assert opened.locator(".results tbody tr").last.bounding_box()["height"] > 0
    assert (
        opened.evaluate(
            "[...document.querySelectorAll('.box')].filter((b) => b.scrollWidth > b.clientWidth + 1).length"
        )
        == 0
    )
    pdf = opened.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    assert 5 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 40


LUMINANCE = """(selector) => [...document.querySelectorAll(selector)].filter((e) => e.textContent.trim() && e.checkVisibility())
.map((e) => {
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let under = e;
  while (under && (rgb(getComputedStyle(under).backgroundColor)[3] ?? 1) === 0) under = under.parentElement;
  const style = getComputedStyle(e);
  const ink = light(rgb(e instanceof SVGElement ? style.fill : style.color));
  const paper = light(rgb(getComputedStyle(under ?? document.body).backgroundColor));
  return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), e.textContent.trim().slice(0, 40)];
})"""


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_paper(scheme: str, page: Opened) -> None:
    """WCAG 2.2 AA asks for a contrast of 4.5, also of the plot's text."""
    opened = page(reports.troubled(), color_scheme=scheme)
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
    found = opened.evaluate(
        LUMINANCE, "h1, h2, h3, p, dt, dd, small, td, th, td b, .s, .mark, li, a, code, summary, footer, .plot text"
    )
    assert len(found) > 500
    assert [pair for pair in found if pair[0] < 4.5] == []


def test_it_asks_for_nothing() -> None:
    text = html.render(reports.troubled())
    assert not re.findall(r"<(?:link|img|iframe|script src|object|embed)\b", text)
    assert not re.findall(r"@import|url\((?!#)", text)
    # Names of SVG's vocabulary, and the link of a gap, are all that looks like an address.
    assert set(re.findall(r"https?://[^/\"']+", text)) == {"http://www.w3.org", "https://example.org"}


class _Balance(HTMLParser):
    """Elements that are left open at the end."""

    open_tags: list[str]
    _IMPLIED = ("td", "th", "tr", "tbody")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open_tags = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "input", "br", *self._IMPLIED):
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._IMPLIED:
            assert self.open_tags.pop() == tag


@pytest.mark.parametrize("name", list(ALL))
def test_its_elements_are_closed(name: str) -> None:
    assert _Balance(html.render(ALL[name]())).open_tags == []


def test_it_says_what_was_found() -> None:
    report, text = reports.troubled(), html.render(reports.troubled())
    for r in report.results:
        assert r.id in text
        if r.status in ("fail", "error", "timeout"):
            assert f'<code class="command">{r.command}</code>' in text
    for expected in (
        "<strong>38</strong> of 39",
        "by gate: G0 9 · G1 9 · G2 10 · G3 10",
        "the vendor&#39;s to do",
        "numbers were computed",
    ):
        assert expected.lower() in text.lower()
    assert all(k.name in text and k.hash[:12] in text for k in report.kernels)


def test_references_are_never_kernels() -> None:
    text = html.render(reports.references())
    assert "npu conforms, as references only</h1>" in text
    assert "no kernel was tested" in text
    assert "references alone were tested, and gates on accuracy are not applicable" in text
    assert 'class="kernels"' not in text
    assert html.render(reports.conforming()).count('class="kernels"') > 10


@pytest.mark.parametrize("failing", [False, True])
def test_a_large_report_is_a_small_page_and_loses_no_failure(failing: bool) -> None:
    report = reports.many(1500, failing)
    text = html.render(report)
    assert len(text.encode()) < 2_000_000
    assert text.count("<article>") == (1500 if failing else 0)
    assert text.count("<tr data-s=") == 1500


def test_it_is_the_same_each_time() -> None:
    assert html.render(reports.troubled()) == html.render(reports.troubled())


def test_a_changed_file_says_so() -> None:
    text = html.render(reports.conforming().model_copy(update={"seconds": 1.0}))
    assert "its digest is not that of its content" in text


def test_the_plot_is_text_and_has_the_pages_colours() -> None:
    svg = plot.margins(reports.troubled())
    assert svg.startswith("<svg role=")
    assert ">sparse_attention</text>" in svg
    assert ">the bound</text>" in svg
    assert "<metadata" not in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000", "#ffffff"}


def test_no_failing_point_is_lost_or_moved_to_the_passing_side() -> None:
    def points(shares: list[float]) -> int:
        results = [
            reports.result(
                label=str(i), kernel="cpu/k", gates=(reports.FAILING_GATE.model_copy(update={"value": 0.0024 * s}),)
            )
            for i, s in enumerate(shares)
        ]
        return len(re.findall(r"<use [^>]*y=\"(?!0\")", plot.margins(reports.report(results))))

    assert points([1.001, 1.002, 1.003, 5.0]) - points([5.0]) == 3


def test_a_passing_point_stays_left_of_the_bound() -> None:
    assert plot._placed(0.9999, True) < 0.99
    assert plot._placed(1.0001, False) == 1.0001
    assert plot._placed(float("inf"), False) == plot.MOST
    assert plot._placed(0.0, True) == plot.LEAST
