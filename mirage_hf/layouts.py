r"""Folder layouts of the data sets of this field: which folder holds which split, generator and label.

A layout is a list of patterns over the paths of the folders that hold images. Names are mapped to labels one by one;
sorted order is never used (GenImage's `ai` sorts before `nature`, CIFAKE's `FAKE` before `REAL`). Labels are
`real` = 0 and `fake` = 1 everywhere.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

LABELS = ("real", "fake")
REAL_NAMES = frozenset("real reals nature natural authentic genuine pristine".split())
FAKE_NAMES = frozenset("fake fakes ai aigc ai_generated generated synthetic synthesized synth artificial".split())
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "train2017": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "val2017": "validation",
    "test": "test",
    "testing": "test",
    "test2017": "test",
}
UNKNOWN = "unknown"


def label_of(name: str) -> int | None:
    """Label of a folder or class name such as `0_real`, `Fake images`, `AI-generated`: 0, 1, or `None` for neither."""
    plain = re.sub(r"[\s\-._]+", "_", name.strip().lower())
    plain = re.sub(r"^\d+_", "", plain)
    plain = re.sub(r"_(images?|imgs?)$", "", plain)
    if plain in REAL_NAMES:
        return 0
    return 1 if plain in FAKE_NAMES else None


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test` for a folder or split name, `None` if it is neither."""
    return SPLIT_NAMES.get(name.strip().lower())


# Pieces of patterns; each ends with the slash after a path part. Paths are matched whole and without regard to case.
def _folder_of(names: frozenset[str]) -> str:
    alternatives = "|".join(sorted(re.escape(name).replace("_", r"[\s\-._]") for name in names))
    return rf"(?:\d+[\s\-._]+)?(?:{alternatives})(?:[\s\-._]+(?:images?|imgs?))?"


_CLASS = _folder_of(REAL_NAMES | FAKE_NAMES)
_REALS = _folder_of(REAL_NAMES)
_SPLIT = "|".join(SPLIT_NAMES)
_WORD = rf"(?!(?:{_CLASS}|{_SPLIT})/)[^/]+"
CLASS = rf"(?P<label>{_CLASS})/"
SPLIT = rf"(?P<split>{_SPLIT})/"
GENERATOR = rf"(?P<generator>{_WORD})/"
CATEGORY = rf"(?:{_WORD}/)"
BELOW = "(?:.*/)?"
# Below a class: not a split, whose images must not be mixed with those of the others.
WITHIN = rf"(?!(?:{_SPLIT})/){BELOW}"


@dataclass(frozen=True)
class Rule:
    """
    One pattern of a layout.

    Args:
        pattern (`str`):
            Regular expression for the whole folder path, with the groups `split`, `generator` and `label` it can tell.
        label (`int`, *optional*):
            The label where the pattern has no such group.
        shared_by (`tuple[str, ...]`, *optional*):
            Generators that use the real images found here, each with a row of its own; `("*",)` is all of them.
        bare_split (`str`, *optional*):
            The split of a folder that names none while others of the tree do.
    """

    pattern: str
    label: int | None = None
    shared_by: tuple[str, ...] = ()
    bare_split: str | None = None


@dataclass(frozen=True)
class Layout:
    """
    The layout of one data set.

    Args:
        name (`str`):
            What the argument `layout` selects.
        source (`str`):
            Where the data and the protocol come from.
        rules (`tuple[Rule, ...]`):
            The first rule that matches a folder decides.
        signature (`str`, *optional*):
            Regular expression that must be found in the list of folders, one a line, for the layout to be recognised
            unasked; without one it is a general layout, which gives way to those that have one.
        file_names (`str`, *optional*):
            Regular expression for every file name, for the layout to be recognised unasked.
        generator (`str`, *optional*, defaults to `"unknown"`):
            Name of the generator where the folders give none.
        validation_is_test (`bool`, *optional*, defaults to `False`):
            The validation split is what the protocol tests on, so it answers for `test` where there is none.
    """

    name: str
    source: str
    rules: tuple[Rule, ...]
    signature: str | None = None
    file_names: str | None = None
    generator: str = UNKNOWN
    validation_is_test: bool = False


class Placement(NamedTuple):
    """Where a folder belongs. `shared_by` is as in [`Rule`]."""

    split: str | None
    generator: str
    label: int
    shared_by: tuple[str, ...]


# As unzipped, GenImage has one more folder between the generator and the split.
GENIMAGE_INNER_FOLDERS = {
    "imagenet_ai_0419_sdv4": "stable_diffusion_v_1_4",
    "imagenet_ai_0424_sdv5": "stable_diffusion_v_1_5",
    "imagenet_midjourney": "Midjourney",
    "imagenet_ai_0508_adm": "ADM",
    "imagenet_ai_0424_wukong": "wukong",
    "imagenet_glide": "glide",
    "imagenet_ai_0419_vqdm": "VQDM",
    "imagenet_ai_0419_biggan": "BigGAN",
}
UNIVFD_LAION_GENERATORS = (
    "ldm_200",
    "ldm_200_cfg",
    "ldm_100",
    "glide_100_27",
    "glide_50_27",
    "glide_100_10",
    "dalle",
)
_DIFFUSION = f"(?:{BELOW}diffusion_datasets/)?"
# UniversalFakeDetect holds all of ForenSynths, and reads the folders that it adds in its own way.
_NOT_UNIVFD = r"\A(?s:(?!.*(?:^|/)diffusion_datasets/))"

_GRID = Rule(f"(?:{SPLIT})?{GENERATOR}{CATEGORY}?{CLASS}{WITHIN}")
_GRID_OR_BARE_TRAIN = Rule(_GRID.pattern, bare_split="train")
_PAIR = (
    Rule(f"{CLASS}{SPLIT}{BELOW}"),
    Rule(f"(?:{SPLIT})?{CLASS}{WITHIN}"),
)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "universalfakedetect",
        "Ojha et al., CVPR 2023, https://arxiv.org/abs/2302.10174: 19 sets, mean AP and mean accuracy",
        (
            Rule(f"{_DIFFUSION}imagenet/{CLASS}{WITHIN}", shared_by=("guided",), bare_split="test"),
            Rule(f"{_DIFFUSION}laion/{CLASS}{WITHIN}", shared_by=UNIVFD_LAION_GENERATORS, bare_split="test"),
            Rule(f"{BELOW}diffusion_datasets/{GENERATOR}{CLASS}{WITHIN}", bare_split="test"),
            _GRID_OR_BARE_TRAIN,
        ),
        signature=r"(?:^|/)diffusion_datasets/|(?s:\A(?=(?:.*\n)?laion/)(?=(?:.*\n)?(?:ldm|glide)_\d+))",
    ),
    Layout(
        "drct-2m",
        "Chen et al., ICML 2024, https://github.com/beibuwandeluori/DRCT: fakes against COCO val2017",
        (
            Rule(f"{BELOW}MSCOCO/{SPLIT}", label=0, shared_by=("*",)),
            Rule(f"(?:{BELOW}DRCT-2M/)?{GENERATOR}{SPLIT}", label=1),
        ),
        signature=r"(?:^|/)DRCT-2M/",
        validation_is_test=True,
    ),
    Layout(
        "genimage",
        "Zhu et al., NeurIPS 2023, https://arxiv.org/abs/2306.08571: trained on one generator, accuracy on each val",
        (
            Rule(
                f"(?:{BELOW}(?P<generator>(?!imagenet){_WORD})/)?(?P<inner>imagenet[^/]*/){{0,2}}"
                f"{SPLIT}(?P<label>ai|nature)/{BELOW}"
            ),
            _GRID,
        ),
        signature=r"(?:^|/)(?:train|val)/(?:ai|nature)/",
        validation_is_test=True,
    ),
    Layout(
        "synthbuster",
        "Bammey, IEEE OJSP 2024, https://doi.org/10.1109/OJSP.2023.3337714: fakes only, reals are given separately",
        (Rule(f"(?:synthbuster/)?{GENERATOR}", label=1),),
        signature=rf"^(?:synthbuster/)?{_WORD}/$",
        file_names=r"r[0-9a-f]+t?\.png",
    ),
    Layout(
        "cifake",
        "Bird and Lotfi, IEEE Access 2024, https://arxiv.org/abs/2303.14126",
        (Rule(f"{SPLIT}{CLASS}{WITHIN}"),),
        signature=r"(?-i:^(?:train|test)/(?:REAL|FAKE)/)",
        generator="cifake",
    ),
    Layout(
        "aigcdetectbenchmark",
        "Zhong et al., 2023, https://arxiv.org/abs/2311.12397: mean accuracy over the sets",
        (_GRID,),
        signature=rf"{_NOT_UNIVFD}(?s:(?=.*(?:^|/)progan/)(?=.*(?:^|/)(?:wukong|VQDM|ADM)/))",
    ),
    Layout(
        "aigibench",
        "Li et al., 2025, https://arxiv.org/abs/2505.12335: accuracy on reals and fakes, AP",
        (_GRID,),
        signature=rf"{_NOT_UNIVFD}(?s:.*(?:^|/)(?:SocialRF|CommunityAI|R3GAN|Infinite-ID)/)",
    ),
    Layout(
        "forensynths",
        "Wang et al., CVPR 2020, https://arxiv.org/abs/1912.11035: AP and accuracy",
        (_GRID_OR_BARE_TRAIN,),
        signature=rf"{_NOT_UNIVFD}(?s:.*(?:^|/)(?:progan|crn|imle|san|seeingdark|whichfaceisreal)/)",
    ),
    Layout(
        "generic",
        "any [split/]<generator>/[category/]<class>, <generator>/<split>/<class> or <generator>/<class>/<split>",
        (_GRID, Rule(f"{GENERATOR}{SPLIT}{CLASS}{WITHIN}"), Rule(f"{GENERATOR}{CLASS}{SPLIT}{BELOW}")),
    ),
    Layout("pair", "any [split/]<class> or <class>/<split>", _PAIR),
    # Never recognised unasked: on disk it is a pair of folders. Asked for by name, it names its rows.
    Layout(
        "chameleon",
        "Yan et al., ICLR 2025, https://arxiv.org/abs/2406.19435: accuracy on reals and on fakes",
        _PAIR,
        signature=r"(?!)",
        generator="chameleon",
    ),
    # Never recognised unasked either: any folder of pictures would fit.
    Layout(
        "shared-reals",
        "a folder of fakes for each generator beside one folder of real images for all of them, such as COCO val2017",
        (
            Rule(rf"(?:{SPLIT})?(?P<label>{_REALS})/{BELOW}", shared_by=("*",)),
            Rule(rf"(?:{SPLIT})?(?:ms)?coco[^/]*/{BELOW}", label=0, shared_by=("*",)),
            _GRID,
            Rule(f"(?:{SPLIT})?{GENERATOR}{WITHIN}", label=1),
        ),
        signature=r"(?!)",
    ),
)


def find_layout(name: str) -> Layout:
    """
    The layout of that name; case, `-` and `_` make no difference.

    Raises:
        ValueError: there is none.
    """
    for layout in LAYOUTS:
        if _plain(layout.name) == _plain(name):
            return layout
    names = ", ".join(["auto", *(layout.name for layout in LAYOUTS), "manifest", "hub"])
    raise ValueError(f"unknown layout {name!r}: choose one of {names}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
