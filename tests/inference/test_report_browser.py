"""The page in a real browser: wide and narrow, light and dark, by keyboard, without a network or JavaScript."""

from __future__ import annotations

import shutil

import pytest

from basicsr_unirestorer.inference.report import report_page
from tests.inference.report_samples import COLUMNS, record, small_tree

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install -e ".[dev]"')
CHROMIUM = next(
    (path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed: apt-get install chromium')
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--no-first-run',
]
LIGHT = {'width': 1280, 'height': 800}
PHONE = {'width': 360, 'height': 740}


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    """A page with long names, every section and several kinds of pictures."""
    path = tmp_path_factory.mktemp('page') / 'report.html'
    records = [record(i, size=((48, 64), (90, 40))[i % 2]) for i in range(12)]
    records.append(record(5, name='a_very_long_name_without_any_blank_' * 4))
    facts = {'Bundle': 'experiments/' + 'a_very_long_folder' * 6, 'Versions': 'torch 2.0'}
    title = 'A benchmark with_a_very_long_title_' + 'x' * 60
    failed = ['photos/' + 'a_very_long_folder' * 6 + '/a.png cannot be read as a picture (it is empty).']
    path.write_text(report_page(records, title, 'Intro.', small_tree(), COLUMNS, facts, failed=failed))
    return path


@pytest.fixture
def open_page(browser, report):
    """Open the page offline; anything that it asks the network for, or complains about, fails the test."""
    contexts, wrong = [], []

    def open_it(**options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on('pageerror', lambda error: wrong.append(str(error)))
        page.on('console', lambda message: wrong.append(message.text))
        page.on(
            'request', lambda request: wrong.append(request.url) if request.url[:5] not in ('file:', 'data:') else None
        )
        page.goto(report.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('viewport', [LIGHT, PHONE], ids=['wide', 'phone'])
def test_nothing_scrolls_sideways_and_every_picture_shows(open_page, viewport, scheme):
    page = open_page(viewport=viewport, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate('document.documentElement.scrollWidth') <= viewport['width']
    outside = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f'{outside}.map(e => e.outerHTML.slice(0, 80))') == []
    assert page.evaluate('[...document.images].every(image => image.naturalWidth > 0)')


def test_colours_follow_the_system_and_can_be_read(open_page):
    """Text against its ground, by the contrast formula of WCAG 2, which asks for 4.5."""
    contrast = """() => {
      const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = e => { for (; e; e = e.parentElement) {
        const colour = getComputedStyle(e).backgroundColor;
        if (colour.startsWith('rgb(')) return colour; } };
      return ['h1', '.lead', 'nav a', '.tiles dt', 'figcaption .why', 'figcaption .reason', 'td.best', 'thead th',
              'button', 'summary', 'footer'].map(s => document.querySelector(s)).map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05); });
    }"""
    grounds = []
    for scheme in ('light', 'dark'):
        page = open_page(viewport=LIGHT, color_scheme=scheme)
        assert min(page.evaluate(contrast)) >= 4.5
        grounds.append(page.evaluate('getComputedStyle(document.body).backgroundColor'))
    assert grounds[0] != grounds[1]


def test_sliders_obey_the_keyboard(open_page):
    page = open_page(viewport=LIGHT)
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.className') == 'skip'
    for _ in range(40):
        page.keyboard.press('Tab')
        if page.evaluate('document.activeElement.type') == 'range':
            break
    frame = "getComputedStyle(document.activeElement.closest('.compare')).getPropertyValue('--pos')"
    assert page.evaluate(frame) == '50%'
    page.keyboard.press('ArrowRight')
    assert page.evaluate(frame) == '51%'
    page.keyboard.press('Home')
    assert page.evaluate(frame) == '0%'
    assert page.evaluate('document.activeElement.getAttribute("aria-valuetext")') == '0 % before'
    bar = "getComputedStyle(document.activeElement.closest('.compare').querySelector('.bar'), '::after').outlineStyle"
    assert page.evaluate(bar) == 'solid'  # the focus can be seen


def test_every_control_shows_its_focus(open_page):
    """Walk through the page by Tab: each stop has an outline, on itself or on its slider's handle."""
    page = open_page(viewport=PHONE)
    stops = page.evaluate("document.querySelectorAll('a, button, summary, input').length")
    seen = 0
    for _ in range(stops):
        page.keyboard.press('Tab')
        seen += page.evaluate("""() => {
          const e = document.activeElement, bar = e.type === 'range' && e.closest('.compare').querySelector('.bar');
          return getComputedStyle(bar || e, bar ? '::after' : null).outlineStyle !== 'none'; }""")
    assert seen == stops


def test_slider_moves_what_is_seen(open_page):
    page = open_page(viewport=LIGHT)
    frame = page.locator('.compare').first
    frame.scroll_into_view_if_needed()
    left = page.evaluate("document.querySelector('.compare input').value = 0")
    page.evaluate("document.querySelector('.compare input').dispatchEvent(new Event('input'))")
    restored = frame.screenshot()
    box = frame.bounding_box()
    page.mouse.click(box['x'] + box['width'] - 3, box['y'] + box['height'] / 2)
    assert left == 0 and frame.screenshot() != restored
    assert float(page.evaluate("document.querySelector('.compare input').value")) > 95


def test_original_takes_the_place_of_the_restored_picture(open_page):
    page = open_page(viewport=LIGHT)
    button = page.locator('button').first
    shown = "getComputedStyle(document.querySelector('.compare .clean')).visibility"
    assert button.is_visible() and page.evaluate(shown) == 'hidden'
    button.click()
    assert page.evaluate(shown) == 'visible' and button.get_attribute('aria-pressed') == 'true'
    assert page.locator('.compare .tag.right').first.inner_text() == 'original'


def test_page_is_whole_without_javascript(open_page):
    page = open_page(viewport=LIGHT, java_script_enabled=False)
    assert page.locator('figure').count() > 0 and page.locator('button').first.is_hidden()
    assert page.locator('svg[role=img]').first.is_visible()


def test_tables_become_cards_on_a_phone(open_page):
    for viewport, shown in ((LIGHT, 'table-cell'), (PHONE, 'flex')):
        page = open_page(viewport=viewport)
        assert page.evaluate("getComputedStyle(document.querySelector('table.cards td')).display") == shown
        named = "getComputedStyle(document.querySelector('table.cards td'), '::before').content"
        assert (page.evaluate(named) == '"pictures"') == (viewport is PHONE)
