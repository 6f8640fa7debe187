"""Which pictures are restored, and where each result goes."""

from __future__ import annotations

import pytest

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference.restore_plan import plan_files


@pytest.fixture
def source(tmp_path):
    names = ('a.png', 'b.JPG', 'deep/er/b.jpg', 'deep/c.png', 'notes.txt', '._a.png', 'deep/.hidden.png')
    for name in names:
        path = tmp_path / 'in' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return tmp_path / 'in'


def relative(pairs, source, target) -> list[tuple[str, str]]:
    return [(a.relative_to(source).as_posix(), b.relative_to(target).as_posix()) for a, b in pairs]


def test_tree_of_a_folder_is_mirrored_without_hidden_files(source, tmp_path):
    names = ['a.png', 'b.JPG', 'deep/c.png', 'deep/er/b.jpg']
    assert relative(plan_files(source, tmp_path / 'out'), source, tmp_path / 'out') == [(name, name) for name in names]


def test_one_picture_goes_to_a_folder_or_a_file(source, tmp_path):
    assert plan_files(source / 'a.png', tmp_path / 'out') == [(source / 'a.png', tmp_path / 'out' / 'a.png')]
    assert plan_files(source / 'a.png', tmp_path / 'b.jpg') == [(source / 'a.png', tmp_path / 'b.jpg')]


@pytest.mark.parametrize(
    ('pattern', 'expected'),
    [
        ('*.png', [('a.png', 'a.png')]),
        ('**/*.jpg', [('deep/er/b.jpg', 'deep/er/b.jpg')]),
        ('deep/*/*', [('deep/er/b.jpg', 'er/b.jpg')]),
        ('d*/**/*', [('deep/c.png', 'deep/c.png'), ('deep/er/b.jpg', 'deep/er/b.jpg')]),
    ],
)
def test_pattern_mirrors_what_lies_below_its_fixed_part(source, tmp_path, pattern, expected):
    out = tmp_path / 'out'
    assert relative(plan_files(f'{source}/{pattern}', out), source, out) == expected


def test_results_of_an_earlier_run_are_no_input_of_a_pattern(source):
    (source / 'out' / 'deep').mkdir(parents=True)
    (source / 'out' / 'a.png').write_bytes(b'')
    pairs = plan_files(f'{source}/**/*.png', source / 'out')
    assert relative(pairs, source, source / 'out') == [('a.png', 'a.png'), ('deep/c.png', 'deep/c.png')]


@pytest.mark.parametrize(
    ('sources', 'target', 'message'),
    [
        (['in'], 'in/deep/out', 'lies inside the input'),
        (['in'], 'in', 'lies inside the input'),
        (['in/a.png'], 'in', 'is the input itself; choose another folder'),
        (['in/*.png'], 'in', 'matches no pictures|is the input itself'),
        (['nowhere.png'], 'out', 'does not exist; give a picture, a folder of pictures, or a pattern'),
        (['in/*.webp'], 'out', r"The pattern '.*in/\*\.webp' matches no pictures"),
        (['in/notes.txt'], 'out', r'has no suffix of a picture; name the output, e\.g\. .*notes\.png'),
        (['in/a.png', 'in/deep/c.png'], 'out.png', 'is one picture but several are to be restored; give a folder'),
        (['in/b.JPG', 'in/deep/er'], 'out', None),
        (['in/deep/er', 'in/deep/er/b.jpg'], 'out', r'would both become .*b\.jpg'),
    ],
)
def test_places_that_would_lose_something_are_refused(source, tmp_path, sources, target, message):
    given = [str(tmp_path / name) for name in sources]
    if message is None:
        assert len(plan_files(given, tmp_path / target)) == 2
        return
    with pytest.raises(DataError, match=message):
        plan_files(given, tmp_path / target)
