"""The page: self-contained, escaped, complete, of bounded size."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference import report
from basicsr_unirestorer.inference.journal import write_aside
from basicsr_unirestorer.inference.photo import Photo
from basicsr_unirestorer.inference.photo_writing import encode_photo, write_whole
from basicsr_unirestorer.inference.report import report_page
from basicsr_unirestorer.inference.report_charts import histogram_svg, knows, through, tree_svg
from basicsr_unirestorer.inference.report_pictures import ReportEntry, choose, detail, embed, main_labels
from tests.inference.report_samples import COLUMNS, LEAVES, noisy, record, small_tree, smooth_picture

EVIL = '<script>alert("&")</script>'


class Page(HTMLParser):
    """Tags of a page with their attributes, and tags that were closed in another order than opened."""

    VOID = ('meta', 'img', 'input')

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(folder, records, columns=COLUMNS, **more) -> str:
    text = report_page(records, **{'title': 'A title', 'tree': small_tree(), **more}, columns=columns)
    write_aside(folder / 'report.html', text)
    return (folder / 'report.html').read_text()


def decode(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition('base64,')[2])))


def test_texts_are_escaped(tmp_path):
    evil = ReportEntry(EVIL, record(0).decision, record(0).pictures, EVIL, EVIL, record(0).psnr, True)
    text = page(tmp_path, [evil], title=EVIL, intro=EVIL, facts={EVIL: EVIL})
    assert text.count('<script>') == 1 and 'alert("' not in text  # the one of the sliders
    # title, heading, intro, name, alt texts and label, test set and degradation twice, fact
    assert text.count('&lt;script&gt;') >= 12


def test_page_is_well_formed_and_needs_nothing_else(tmp_path):
    text = page(tmp_path, [record(i) for i in range(9)], facts={'Bundle': 'here'})
    parsed = Page(text)
    assert not parsed.wrong and not parsed.open
    assert 'http:' not in text and 'https:' not in text and '@import' not in text
    assert all(image['src'].startswith('data:image/webp;base64,') for image in parsed.all('img'))
    assert "default-src 'none'" in text
    assert [path.name for path in tmp_path.iterdir()] == ['report.html']


def test_page_has_landmarks_labels_and_alternatives(tmp_path):
    parsed = Page(page(tmp_path, [record(i) for i in range(9)]))
    assert all(len(parsed.all(tag)) == 1 for tag in ('main', 'header', 'nav', 'footer', 'h1'))
    ids = [attributes['id'] for _, attributes in parsed.tags if 'id' in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.tags:
        if tag == 'section' or attributes.get('role') == 'img':
            assert attributes['aria-labelledby'] in ids
    assert {link['href'].removeprefix('#') for link in parsed.all('a')} <= set(ids)
    assert all(image['alt'] for image in parsed.all('img'))
    sliders = parsed.all('input')
    assert sliders and all(slider['type'] == 'range' and slider['aria-label'] for slider in sliders)


def test_measured_pictures_show_tables_traffic_and_worst_cases(tmp_path):
    text = page(tmp_path, [record(i) for i in range(8)])
    for part in (
        'By degradation',
        'How sure the router was',
        'Worst cases',
        'dB below the best expert',
        '20.00 → 25.00',
    ):
        assert part in text, part
    assert '7.50 dB below the best expert' in text  # the worst of them
    assert 'leaf of another type' in text
    assert '8 pictures went to 3 of 3 experts' in text


def test_other_metrics_have_tables_of_their_own(tmp_path):
    first = record(0)
    more = {'ssim': {'input': 0.5, 'routed': 0.75}, 'lpips': {'input': 0.3, 'routed': 0.2}}
    entry = ReportEntry('x', first.decision, None, 'photos', 'large noise', first.psnr, True, more)
    text = page(tmp_path, [entry], columns=('input', 'routed'))
    assert '<summary>SSIM</summary>' in text and '<summary>LPIPS (lower is better)</summary>' in text
    best = re.findall(r'<td class="best" data-label="(\w+)">([\d.]+)</td>', text)
    assert set(best) == {('routed', '25.00'), ('routed', '0.7500'), ('routed', '0.2000')}
    assert not Page(text).wrong


def test_restored_pictures_need_no_measurement(tmp_path):
    """What ``restore --report`` has: files before and after, and decisions."""
    records = []
    for number in range(5):
        before, after = tmp_path / f'{number}.png', tmp_path / f'{number}_restored.png'
        Image.fromarray(noisy(smooth_picture(number))).save(before)
        Image.fromarray(smooth_picture(number)).save(after)
        records.append(ReportEntry.of_files(before, after, record(number).decision))
    text = page(tmp_path, records, columns=())
    assert 'By expert' in text and 'By degradation' not in text and ' dB' not in text
    assert 'Where the router was least sure' in text
    assert len(Page(text).all('figure')) == 6  # all five, and the least sure once more
    shown = decode(re.findall(r'class="after" src="([^"]*)"', text)[0]).convert('RGB')
    assert np.abs(np.asarray(shown, float) - smooth_picture(0)).mean() < 6


@pytest.mark.parametrize('records', [[], [record(0)], [record(0, measured=False)]], ids=['none', 'one', 'unmeasured'])
def test_few_pictures_still_make_a_page(tmp_path, records):
    columns = COLUMNS if records and records[0].psnr else ()
    parsed = Page(page(tmp_path, records, columns=columns))
    assert not parsed.wrong and len(parsed.all('figure')) == len(records)


def test_infinite_psnr_of_untouched_pictures_is_shown(tmp_path):
    clean = ReportEntry(
        'x', record(0).decision, record(0).pictures, 'clean', 'clean', {'input': float('inf'), 'routed': 55.0}
    )
    text = page(tmp_path, [clean, record(0)], columns=('input', 'routed'))
    assert '∞ → 55.00 dB' in text and 'nan' not in text
    assert '<dt>PSNR, input</dt><dd>20.00<' in text  # the average of what was degraded


def test_size_of_the_page_is_bounded_however_many_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(report, 'PICTURE_BYTES', 2**20)
    text = page(tmp_path, [record(i, False, (120, 160)) for i in range(70)], columns=(), max_shown=60)
    assert len(Page(text).all('figure')) == 60
    assert 2**19 < len(text) < 4 / 3 * 2**20 + 60_000  # base64 makes four bytes of three
    assert '70 pictures went to' in text


def test_pictures_are_made_smaller_rather_than_coarser():
    """The sharper of the two decides: a slider needs both in one size."""
    sharp = noisy(smooth_picture(0, 240, 320))
    for pictures in ([sharp, smooth_picture(0, 240, 320)], [smooth_picture(0, 240, 320), sharp]):
        urls, size = embed(pictures, budget=12_000)
        contents = [base64.b64decode(url.partition('base64,')[2]) for url in urls]
        assert 6_000 < sum(map(len, contents)) <= 12_000
        assert size[0] < 320 and abs(size[0] / size[1] - 4 / 3) < 0.05
        assert {decode(url).size for url in urls} == {size}
    assert embed([smooth_picture(0)], budget=30_000)[1] == (64, 48)  # a small one keeps its size


def test_large_pictures_also_show_a_detail_where_most_changed(tmp_path):
    before = smooth_picture(0, 1000, 1600)
    after = before.copy()
    after[700:740, 1200:1260] ^= 64
    rows, columns = detail(before, after)
    assert rows.stop - rows.start == 400 and columns.stop - columns.start == 600
    assert rows.start <= 700 and rows.stop >= 740 and columns.start <= 1200 and columns.stop >= 1260
    assert detail(before[:600, :900], after[:600, :900]) is None  # shown at its own size anyway
    text = page(tmp_path, [ReportEntry('x', record(0).decision, lambda: (before, after, None))], columns=())
    assert text.count('class="compare"') == 2 and 'alt="x, detail, restored"' in text
    assert (600, 400) in {decode(url).size for url in re.findall('src="([^"]*)"', text)}


@pytest.mark.parametrize('shape', [(1, 3000), (3000, 1), (399, 2000), (8000, 8)])
def test_detail_of_odd_shapes_lies_inside(shape):
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (*shape, 3), np.uint8) for _ in range(2))
    rows, columns = detail(one, other)
    assert 0 <= rows.start < rows.stop <= shape[0] and 0 <= columns.start < columns.stop <= shape[1]


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (300, 1)])
def test_odd_sizes_are_embedded(size):
    urls, shown = embed([np.zeros((*size, 3), np.uint8)], budget=10_000)
    assert decode(urls[0]).size == shown == size[::-1]


def test_examples_show_every_kind_once_before_any_twice():
    records = [record(0) for _ in range(6)] + [record(1)]
    worst, shown = choose(records, most=3)
    assert worst == [records[6]] and {r.degradation for r in shown} == set(LEAVES.values()) and len(shown) == 2
    assert choose(records, most=0) == ([], [])


def test_picture_that_vanished_is_told_and_does_not_stop_the_others(tmp_path):
    gone = ReportEntry.of_files(tmp_path / 'gone.png', tmp_path / 'gone_too.png', record(0).decision)
    text = page(tmp_path, [gone, record(1, measured=False)], columns=())
    assert not Page(text).wrong and text.count('<figure>') == 2 and text.count('class="compare"') == 1
    assert f'There is no picture {tmp_path / "gone.png"}' in text


def test_picture_that_was_changed_since_is_told(tmp_path):
    for name, height in (('a.png', 20), ('b.png', 21)):
        Image.fromarray(smooth_picture(0, height)).save(tmp_path / name)
    text = page(tmp_path, [ReportEntry.of_files(tmp_path / 'a.png', tmp_path / 'b.png', record(0).decision)], ())
    assert 'have different sizes by now' in text and text.count('<figure>') == 1


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_files_of_any_depth_are_shown_as_they_are_restored(tmp_path, channels, dtype):
    """16 bit are reduced to 8 by scaling, grey is repeated, alpha left out."""
    path = tmp_path / 'a.tif'
    values = np.random.default_rng(0).integers(0, 256, (20, 30, channels))
    stored = values.astype(dtype) * (257 if dtype == np.uint16 else 1)
    write_whole(path, encode_photo(Photo(stored.astype(dtype), 'TIFF'), path)[0])
    before, after, clean = ReportEntry.of_files(path, path, record(0).decision).pictures()
    expected = values[..., :3] if channels > 2 else values[..., :1].repeat(3, 2)
    assert clean is None and before.dtype == np.uint8
    assert np.array_equal(before, expected) and np.array_equal(after, expected)


def test_failed_pictures_are_listed_up_to_a_number(tmp_path):
    failed = [f'{EVIL} number {i} is empty.' for i in range(report.MOST_FAILED + 7)]
    text = page(tmp_path, [record(0, measured=False)], (), failed=failed)
    assert not Page(text).wrong and text.count('is empty.') == report.MOST_FAILED and 'and 7 more' in text
    assert text.count('<script>') == 1 and 'Not restored' in text
    assert 'Not restored' not in page(tmp_path, [record(0)])


def test_report_that_cannot_be_made_leaves_the_earlier_one(tmp_path):
    page(tmp_path, [record(0)])
    before = (tmp_path / 'report.html').read_text()

    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        page(tmp_path, [ReportEntry('x', record(0).decision, broken)], columns=())
    assert (tmp_path / 'report.html').read_text() == before
    with pytest.raises(DataError, match='cannot be written'):
        write_aside(tmp_path / 'nowhere' / 'report.html', 'page')


# ----------------------------------------------------------------------------------------------- drawings


def test_traffic_adds_up_along_the_tree():
    assert through(small_tree(), {'l0_00': 1, 'l1_00': 2, 'l1_01': 4}) == [7, 2, 4]


def test_experts_are_told_by_what_they_were_mainly_trained_on():
    assert main_labels({'low_light': 10, 'rain': 3, 'noise': 2}) == ['low light', 'rain']
    assert main_labels({}) == []


def test_nodes_are_called_by_what_they_know():
    root, leaf, _ = small_tree().nodes
    assert knows(root) == 'noise, haze' and knows(leaf) == 'large noise'


@pytest.mark.parametrize('width', [1000, 310])
def test_tree_draws_every_node_inside_its_frame(width):
    drawing = tree_svg(small_tree(), {'l1_00': 3}, width, 'x')
    assert drawing.count('<circle') == 3 and drawing.count('<path') == 2
    assert drawing.count('class="flow"') == 1 and drawing.count('class="idle"') == 1
    assert all(0 < float(x) < width for x in re.findall(r' c?x="([\d.]+)"', drawing))


def test_histogram_counts_every_picture():
    drawing = histogram_svg([0.05, 0.95, 1.0, 0.92], [True, False, True, None], 'x', 'confidence')
    assert re.findall(r'class="soft"[^>]*>(\d)</text>', drawing) == ['1', '3']
    assert drawing.count('class="wrong"') == 1
