"""The report, the drift page and the promotion page in a real browser: Debian's Chromium."""

from dataclasses import replace
from pathlib import Path

import pytest

from purchase_predict.evaluation.promo_codes import Money
from purchase_predict.report import drift_page, page
from tests.report.pages import FACTS, UNBROKEN, contents, prediction, promotion


def report() -> str:
    """The report with all its parts. Many names in it are `UNBROKEN`, which a browser cannot break into lines."""
    made = contents(suspicious={UNBROKEN: 0.9999}, money=Money(12, 3))
    weakest = replace(made.slices[0], name=UNBROKEN)
    steps = [replace(step, what=UNBROKEN) for step in made.origin.steps]
    return page.render(
        replace(made, slices=[weakest, *made.slices[1:]], origin=replace(made.origin, steps=steps, commit=UNBROKEN))
    )


#: A function for each page that returns its HTML. A page is made only if a test needs it.
PAGES = {
    "report": report,
    "drift": lambda: drift_page.render(prediction(), FACTS),
    "promotion": lambda: promotion(registry_name=UNBROKEN, approval={"by": UNBROKEN, "reason": UNBROKEN}),
}


@pytest.fixture(scope="module", params=PAGES)
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / f"{request.param}.html"
    file.write_text(PAGES[request.param](), encoding="utf-8")
    return file


#: JavaScript that lists the texts in drawings that are smaller than 11 px, cut off, or over another text.
BAD_TEXTS = """[...document.querySelectorAll('svg[role=img]')].flatMap(svg => {
  const frame = svg.getBoundingClientRect(), scale = frame.width / svg.viewBox.baseVal.width;
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect(),
    parseFloat(getComputedStyle(text).fontSize) * scale]);
  const small = texts.filter(([name, box, size]) => size < 11).map(([name]) => `small: ${name}`);
  const cut = texts.filter(([name, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1).map(([name]) => `cut off: ${name}`);
  const over = texts.flatMap(([name, a], n) => texts.slice(n + 1).filter(([_, b]) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
    .map(([other]) => `${name} over ${other}`));
  return [...small, ...cut, ...over];
})"""

#: JavaScript that lists the tables that do not fit into the element around them without scrolling.
TOO_WIDE = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"


@pytest.mark.parametrize("shown", ["many trials", "one trial", "drift", "promotion"])
def test_no_text_of_a_drawing_is_small_cut_off_or_under_another(browser: object, tmp_path: Path, shown: str) -> None:
    made = contents(money=Money(12, 3))
    if shown == "one trial":
        made = replace(made, trials=made.trials.head(1))
    names = {"price": "num_prev_product_purchases", "num_views_product": "seconds_since_prev_session"}
    made = replace(
        made,
        contributions=made.contributions.rename(columns=names),
        feature_ranks=made.feature_ranks.rename(columns=names),
    )
    (tmp_path / "report.html").write_text(PAGES[shown]() if shown in PAGES else page.render(made), encoding="utf-8")
    tab = browser.new_page()  # type: ignore[attr-defined]
    tab.goto((tmp_path / "report.html").as_uri())
    for width in (390, 514, 560, 700, 768, 1024, 1280):  # 514 px: the frame in MLflow's Artifacts tab
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate(BAD_TEXTS) == [], width
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(TOO_WIDE) == [], width
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_asks_nothing(
    browser: object, page_file: Path, pictures: Path, width: int, scheme: str
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[attr-defined]
    requests: list[str] = []
    messages: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("dialog", lambda dialog: messages.append(dialog.message))
    tab.goto(page_file.as_uri())

    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert messages == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    # No table needs scrolling, and no element extends beyond the right edge.
    assert tab.evaluate(TOO_WIDE) == []
    assert (
        tab.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        == []
    )
    # Text (`ink`) and background (`paper`) have a high contrast in both schemes.
    ink, paper = (
        tab.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert abs(sum(ink) - sum(paper)) > 500
    assert (sum(paper) > sum(ink)) == (scheme == "light")

    tab.screenshot(path=pictures / f"{page_file.stem}-{width}-{scheme}.png", full_page=True)
    tab.close()


def test_it_holds_in_the_sandboxed_frame_of_mlflows_artifacts_tab(browser: object, page_file: Path) -> None:
    """MLflow shows a page in a frame that is 514 px wide. The frame allows scripts and nothing else."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.set_content('<iframe sandbox="allow-scripts" style="width: 514px; height: 800px; border: 0"></iframe>')
    tab.evaluate("page => { document.querySelector('iframe').srcdoc = page }", page_file.read_text(encoding="utf-8"))
    frame = tab.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector("main")
    assert frame.evaluate("document.documentElement.scrollWidth") <= 514
    assert frame.evaluate(TOO_WIDE) == []
    assert frame.evaluate(BAD_TEXTS) == []
    assert messages == []
    tab.close()


def test_it_is_printed_as_dark_text_on_white_even_where_the_screen_is_dark(browser: object, page_file: Path) -> None:
    width = 718  # px: a page of A4 with margins of 1 cm, at 96 px per inch
    tab = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme="dark")  # type: ignore[attr-defined]
    tab.emulate_media(media="print")
    tab.goto(page_file.as_uri())
    ink, paper = (
        tab.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert sum(paper) - sum(ink) > 500
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(BAD_TEXTS) == []
    tab.close()
