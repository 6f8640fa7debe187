"""Real masks and depth maps: both conventions, three formats, places, and what is wrong with a folder."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from basicsr_unirestorer.degradations import DEGRADATION_TYPES, DegradationRecipe, Window, degrade, sample_rng
from basicsr_unirestorer.degradations.map_files import depth_from_folder, mask_from_folder
from basicsr_unirestorer.degradations.weather import haze_depth
from basicsr_unirestorer.errors import DataError, OptionError
from tests.degradations.samples import apply_only, make_record, scene

SIZE = 60, 80


def slope(height=SIZE[0], width=SIZE[1]):
    """Depth that grows to the right, (height, width), 0 to 1."""
    return np.repeat(np.linspace(0, 1, width)[None], height, axis=0)


@pytest.fixture
def folder(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.rint(slope() * 255).astype(np.uint8))
    np.save(tmp_path / 'b.npy', slope() * 37)  # metres, say
    savemat(
        tmp_path / 'c.mat', {'data_obj': slope(SIZE[0] // 4, SIZE[1] // 4) * 10}
    )  # a quarter of the size, as MiOIR's
    cv2.imwrite(str(tmp_path / 'd.png'), np.rint(slope() * 65535).astype(np.uint16))
    cv2.imwrite(
        str(tmp_path / 'e.png'), np.rint((1 - slope()) * 255).astype(np.uint8)[..., None].repeat(3, 2)
    )  # inverse
    return tmp_path


@pytest.mark.parametrize('key, tolerance', [('a', 0.003), ('b', 1e-6), ('c', 0.04), ('d', 1e-4), ('street/a', 0.003)])
def test_every_format_gives_the_depth_it_holds(folder, key, tolerance):
    depth = depth_from_folder(str(folder), False, 0, Window.whole(*SIZE, key))
    assert depth.dtype == np.float32 and depth.shape == SIZE
    np.testing.assert_allclose(depth, slope(), atol=tolerance)


def test_both_conventions_give_the_same_haze(folder):
    """MiOIR's far is bright, OneRestore's is dark: with the flag both put the haze to the right."""
    image = scene(*SIZE)
    straight, inverse, mixed_up = (
        apply_only(
            'haze',
            image,
            {'beta': 2, 'depth': 'file', 'depth_dir': str(folder), 'depth_inverse': flag},
            window=Window.whole(*SIZE, key),
        )
        for key, flag in (('a', False), ('e', True), ('e', False))
    )
    np.testing.assert_allclose(straight, inverse, atol=0.01)
    assert np.abs(straight - mixed_up).mean() > 0.1


def test_file_haze_has_its_closed_form(folder):
    image, params = scene(*SIZE), {'beta': 1.5, 'airlight': 0.8, 'depth': 'file', 'depth_dir': str(folder)}
    t = np.exp(-1.5 * slope())[..., None]
    result = apply_only('haze', image, params, window=Window.whole(*SIZE, 'b'))
    np.testing.assert_allclose(result, image * t + 0.8 * (1 - t), atol=1e-5)


def test_cap_and_box_follow_onerestore(folder):
    """d = min(1 - box(map), 0.7), the box on the map as it is in the file."""
    values = cv2.imread(str(folder / 'e.png'), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    expected = np.minimum(1 - cv2.blur(values, (22, 22), borderType=cv2.BORDER_REFLECT_101), 0.7)
    flags = {'depth': 'file', 'depth_dir': str(folder), 'depth_inverse': True, 'depth_cap': 0.7, 'depth_box': 22}
    image, params = scene(*SIZE), make_record(('haze', flags)).operations[0].params
    depth = haze_depth(image, params, Window.whole(*SIZE, 'e'))
    np.testing.assert_allclose(depth, expected, atol=1e-6)
    assert depth.max() == pytest.approx(0.7)


@pytest.mark.parametrize('full', [SIZE, (133, 200), (41, 47)])
def test_a_crop_of_the_map_is_that_of_its_picture(folder, full):
    whole = depth_from_folder(str(folder), False, 0, Window.whole(*full, 'c'))
    part = depth_from_folder(str(folder), False, 0, Window(11, 17, 25, 20, *full, 'c'))
    np.testing.assert_allclose(part, whole[11:36, 17:37], atol=0.01)
    np.testing.assert_allclose(whole.mean(axis=0), slope(*full)[0], atol=0.06)


@pytest.fixture
def masks(tmp_path):
    """Three masks, told apart by their level; the middle one sits in a subfolder."""
    for name, level in (('1', 51), ('sub/2', 102), ('3', 255)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        mask = np.zeros((30, 40), np.uint8)
        mask[10:20, 10:30] = level
        cv2.imwrite(str(tmp_path / f'{name}.png'), mask)
    return tmp_path


def test_the_number_of_a_record_chooses_the_mask(masks):
    levels = [mask_from_folder(str(masks), number, Window.whole(30, 40)).max() for number in range(6)]
    np.testing.assert_allclose(levels, [0.2, 1, 0.4, 0.2, 1, 0.4], atol=1e-6)
    drawn = {DEGRADATION_TYPES['rain'].draw({'mask_dir': str(masks)}, sample_rng(v))['mask'] % 3 for v in range(30)}
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize(
    'name, fixed, model',
    [
        ('rain', {'brightness': 0.7}, lambda image, mask: image + 0.7 * mask),
        ('rain', {'brightness': 0.7, 'blend': 'screen'}, lambda image, mask: 1 - (1 - image) * (1 - 0.7 * mask)),
        ('snow', {'brightness': 0.9}, lambda image, mask: image * (1 - mask) + 0.9 * mask),
    ],
)
def test_real_masks_are_composed_as_procedural_ones(masks, name, fixed, model):
    image = scene(30, 40)
    mask = mask_from_folder(str(masks), 1, Window.whole(30, 40))[..., None]
    result = apply_only(name, image, {**fixed, 'mask_dir': str(masks), 'mask': 1})
    np.testing.assert_allclose(result, model(image, mask), atol=1e-6)


def test_real_masks_are_stretched_over_the_picture_and_cut_with_the_crop(masks):
    image = scene(90, 120)
    params = {'mask_dir': str(masks), 'mask': 1, 'brightness': 0.5}
    whole = apply_only('rain', image, params)
    changed = np.abs(whole - image).max(axis=2) > 0.25
    assert changed[33:57, 33:87].all() and not changed[:26].any() and not changed[:, 94:].any()
    crop = apply_only('rain', image[20:60, 30:80], params, window=Window(20, 30, 40, 50, 90, 120))
    np.testing.assert_allclose(crop, whole[20:60, 30:80], atol=0.01)


def test_a_real_raindrop_changes_what_is_under_it_only(masks):
    image = scene(90, 120)
    result = apply_only('raindrop', image, {'mask_dir': str(masks), 'mask': 1, 'radius_px': 10})
    changed = np.abs(result - image).max(axis=2) > 1e-6
    assert changed[33:57, 33:87].mean() > 0.95 and not changed[:24].any()
    record = make_record(('raindrop', {'mask_dir': str(masks), 'mask': 1, 'radius_px': 10}))
    m, top, left = record.margin, 40, 45
    window = Window(top - m if top > m else 0, 0, 90 - max(0, top - m), 120, 90, 120)
    crop = degrade(np.ascontiguousarray(image[window.top :]), record, sample_rng(0), window, quantize=False)
    np.testing.assert_allclose(crop[top - window.top :, left:], result[top:, left:], atol=1e-3)


def test_recipe_with_real_masks_names_a_missing_folder(tmp_path):
    """When it is loaded, so that no training starts and stops."""
    with pytest.raises(DataError, match=r"no folder '.*absent' with masks or depth maps; correct mask_dir"):
        DegradationRecipe.from_dict({'degradations': {'rain': {'mask_dir': str(tmp_path / 'absent')}}})


def broken(folder):
    (folder / 'torn1.png').write_bytes(b'\x89PNG\r\n')
    (folder / 'torn3.npy').write_bytes(b'NUMPY')
    (folder / 'torn2.mat').write_bytes(b'MATLAB 5.0 MAT-file' + bytes(10))
    np.save(folder / 'nan.npy', np.full((4, 4), np.nan))
    np.save(folder / 'cube.npy', np.zeros((4, 4, 2)))
    np.save(folder / 'minus.npy', np.full((4, 4), -1.0))
    savemat(folder / 'other.mat', {'depth': np.ones((4, 4))})
    return folder


@pytest.mark.parametrize(
    'key, message',
    [
        ('bb', r"holds no depth map of the picture 'bb'; expected bb\.png, \.npy or \.mat"),
        ('', r"found by the picture's key, but this picture has none"),
        ('torn1', r'torn1\.png.* cannot be read; it is damaged'),
        ('torn2', r'torn2\.mat.* cannot be read'),
        ('torn3', r'torn3\.npy.* cannot be read'),
        ('nan', r'nan\.npy.* has negative, NaN or infinite values'),
        ('minus', r'minus\.npy.* has negative, NaN or infinite values'),
        ('cube', r'cube\.npy.* has shape \(4, 4, 2\) of float64, expected numbers \(height, width\)'),
        ('other', r'other\.mat.* cannot be read .*it holds depth, expected data_obj'),
    ],
)
def test_faulty_maps_are_named(tmp_path, key, message):
    with pytest.raises(DataError, match=message):
        depth_from_folder(str(broken(tmp_path)), False, 0, Window.whole(16, 16, key))


def test_two_files_of_one_name_are_named(tmp_path):
    np.save(tmp_path / 'a.npy', np.ones((4, 4)))
    cv2.imwrite(str(tmp_path / 'a.png'), np.ones((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"holds both 'a\.npy' and 'a\.png'; keep one"):
        depth_from_folder(str(tmp_path), False, 0, Window.whole(16, 16, 'a'))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r'holds no masks or depth maps, expected files \.png'):
        mask_from_folder(str(tmp_path), 0, Window.whole(16, 16))


def test_depth_from_a_recipe_needs_its_folder():
    with pytest.raises(OptionError, match=r'haze\.depth_dir is missing'):
        DegradationRecipe.from_dict({'degradations': {'haze': {'depth': 'file'}}})
