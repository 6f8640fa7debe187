"""The page: self-contained, escaped, complete."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from basicsr_unirestorer.inference.report import Example, image_source, write_report
from basicsr_unirestorer.inference.restorer import Decision

EVIL = '<script>alert("&")</script>'


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)


def page(folder, text: str = EVIL) -> str:
    decision = Decision('l2_00', 'l2_00', 0.75, 2, 0.5, {'noise': 3})
    example = Example(text, text, picture(), picture(1), picture(2), 20.0, 25.125, decision)
    row = {'dataset': text, 'caption': text, 'pictures': 3, 'input': 20.0, text: 21.5, 'levels': {0: 0.25, 2: 0.75}}
    write_report(folder / 'index.html', text, text, [row], ['input', text], [example], [text])
    return (folder / 'index.html').read_text()


def test_texts_are_escaped(tmp_path):
    text = page(tmp_path)
    assert '<script' not in text
    assert text.count('&lt;script&gt;') >= 8  # title, heading, intro, two cells, a column, the example, the tree


def test_page_shows_table_confidence_and_tree(tmp_path):
    text = page(tmp_path, 'large noise')
    for part in ('21.50', '0: 25%, 2: 75%', '20.00 dB', '25.12 dB', 'width:75%', '<pre>large noise</pre>'):
        assert part in text, part
    assert [path.name for path in tmp_path.iterdir()] == ['index.html']


def test_page_needs_no_other_file(tmp_path):
    text = page(tmp_path, 'x')
    assert 'http' not in text
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 3 and all(source.startswith('data:image/') for source in sources)


def test_pictures_are_embedded_whole():
    content = base64.b64decode(image_source(picture()).partition('base64,')[2])
    with Image.open(io.BytesIO(content)) as decoded:
        assert decoded.size == (10, 8)
