"""The command behind ``datasets_prep/paired_folder.py``: any two folders of partners, whatever their names."""

from __future__ import annotations

import argparse
from pathlib import Path

from basicsr_unirestorer.data.family_command import add_options, options, run
from basicsr_unirestorer.data.layouts import Family, Folder, Found, Label, Part, pair_folders
from basicsr_unirestorer.data.pairing import NAME_RULES, NameRule, name_rule
from basicsr_unirestorer.data.pairs import JOIN, parse_label
from basicsr_unirestorer.data.plan import PrepareOptions
from basicsr_unirestorer.data.prepare_family import Prepared, prepare_found
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import find_pictures


def find_pairs(lq: str | Path, gt: str | Path, rule: NameRule, named: str, subset: str) -> Found:
    """Pair the pictures of two folders, sub-folders included.

    Args:
        lq, gt: The folders; one and the same where both kinds lie in it.
        rule: States the clean name.
        named: What the manifest calls the rule.
        subset: ``'train'`` or ``'test'``.

    Raises:
        DataError: A folder is missing or empty, or the rule pairs nothing, or pictures with themselves.
    """
    degraded = _folder(lq)
    clean = degraded if rule.halves or Path(lq).resolve() == Path(gt).resolve() else _folder(gt)
    names = pair_folders(rule, degraded, clean)
    if not names.pairs:
        wanted = f"wants '{names.alone[0][1]}' for {names.alone[0][0]}" if names.alone else 'describes no degraded name'
        raise DataError(
            f"No two pictures of {lq} and {gt} are partners: rule '{named}' {wanted}, and there are names such as "
            f'{degraded.files[0]} and {clean.files[0]}; choose another --rule ({", ".join(NAME_RULES)}, or a regex).'
        )
    if not rule.halves and any(lq_file == gt_file for lq_file, gt_file, _ in names.pairs if degraded is clean):
        raise DataError(
            f"Rule '{named}' makes every picture of {lq} its own partner; give the clean pictures' folder, or a --rule "
            'that tells the two kinds apart by name.'
        )
    part = Part('two folders', subset, '', () if rule.halves else ('gt',))
    return Found(part, subset, '', {}, degraded, clean, named, names, rule.halves)


def _folder(path: str | Path) -> Folder:
    files = tuple(file.relative_to(path).as_posix() for file in find_pictures(path))
    return Folder(Path(path), Path(path).resolve().name, files)


def prepare_pairs(
    lq: str | Path,
    gt: str | Path,
    output: str | Path,
    rule: str = 'same',
    gt_name: str | None = None,
    label: Label = ((), ()),
    options: PrepareOptions | None = None,
    dry_run: bool = False,
    tell=lambda line: None,
) -> Prepared:
    """Turn two folders of partners into ``output/train`` or ``output/test`` (``options.subset``, train by default).

    Args:
        lq, gt: Degraded and clean pictures.
        output: Folder to write into; its name becomes the data set's.
        rule, gt_name: See ``pairing.name_rule``.
        label: Degradation types and words of all pairs.
        options, dry_run, tell: See ``prepare_family``.

    Raises:
        OptionError: The rule means nothing.
        DataError: See ``find_pairs`` and ``prepare_family``.
    """
    options = options or PrepareOptions()
    made = name_rule(rule, gt_name)
    found = find_pairs(lq, gt, made, rule if gt_name is None else f'{rule} -> {gt_name}', options.subset or 'train')
    name = Path(output).resolve().name
    family = Family(name, name, JOIN.join(label[0]) or 'paired', (), label=lambda groups: label)
    return prepare_found(family, [found], output, options, dry_run, tell)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error or where something wrong was left out."""
    parser = argparse.ArgumentParser(
        prog='paired_folder.py',
        description='Prepare any two folders of degraded and clean pictures, as LMDBs for training or for testing.',
        epilog=r"example: python datasets_prep/paired_folder.py data gt OUT --rule '(\d+)_rain' --gt-name '\1_clean'",
    )
    parser.add_argument('lq', help='folder of degraded pictures')
    parser.add_argument('gt', help='folder of clean pictures; the same one where both lie in it')
    parser.add_argument('output', help='folder to write train/ or test/ into')
    parser.add_argument(
        '--rule',
        default='same',
        help=f"{', '.join(NAME_RULES)}; a filename_tmpl ('{{}}x4'); or a regex of the degraded name (default: same)",
    )
    parser.add_argument('--gt-name', help=r'clean name where --rule is a regex, with \1 for its group (default \1)')
    parser.add_argument('--task', default='-', help='degradation of all pairs, e.g. haze or low_light+rain')
    parser.add_argument('--word', default='-', help='its strength, e.g. thick')
    add_options(parser)
    args = parser.parse_args(argv)

    def prepare(tell):
        label = parse_label(args.task, args.word, '--task and --word')
        more = {'rule': args.rule, 'gt_name': args.gt_name, 'label': label, 'options': options(args)}
        return prepare_pairs(args.lq, args.gt, args.output, **more, dry_run=args.dry_run, tell=tell)

    return run('paired_folder', prepare, args)


if __name__ == '__main__':
    raise SystemExit(main())
