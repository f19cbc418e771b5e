"""The protocols of this field's benchmarks as one table: layout, test sets, headline metrics, what the means cover.

A protocol says which sets are scored and averaged, so that a number stands for the same thing everywhere. Where data
lie on disk is the business of `mirage_hf.layouts`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .published import PublishedTable


@dataclass(frozen=True)
class TestSet:
    """
    One test set of a protocol.

    Args:
        name (`str`):
            As tables print it.
        aliases (`tuple[str, ...]`):
            Names of its folder or generator, compared without case and punctuation; `name` itself counts as well.
    """

    __test__ = False  # no test class, whatever pytest thinks of the name

    name: str
    aliases: tuple[str, ...] = ()

    def matches(self, generator: str) -> bool:
        """Whether a generator's name, as a layout gives it, means this set."""
        return plain_name(generator) in {plain_name(name) for name in (self.name, *self.aliases)}


@dataclass(frozen=True)
class Protocol:
    """
    How a benchmark is run and averaged.

    Args:
        name (`str`):
            What `mirage-hf benchmark` takes.
        title (`str`):
            As tables print it.
        source (`str`):
            Paper or page.
        layout (`str`, *optional*, defaults to `"auto"`):
            Argument of [`load_detection_dataset`].
        split (`str`, *optional*, defaults to `"test"`):
            Argument of [`load_detection_dataset`].
        sets (`tuple[TestSet, ...]`, *optional*):
            The test sets in the order of the table; without them every generator found is one.
        metrics (`tuple[str, ...]`, *optional*, defaults to `("accuracy",)`):
            Headline metrics, keys of `benchmark_metrics.METRICS`.
        threshold (`float`, *optional*, defaults to 0.5):
            Score above which an image is called fake, for the accuracies that papers print.
        mean_over (`str`, *optional*, defaults to `"the sets"`):
            What the means are meant to cover.
        trained_on (`str`, *optional*):
            What published detectors were trained on.
        needs_reals (`bool`, *optional*, defaults to `False`):
            The set has fakes only; real images are given separately and are shared by all sets.
        free_reals (`bool`, *optional*, defaults to `False`):
            Real images belong to no generator and are shared by all sets.
        fake_id (`int`, *optional*):
            The number that means fake in the published data set, where labels are numbers.
        one_class_sets (`bool`, *optional*, defaults to `False`):
            A set with one class is kept outside the means instead of refused, such as resampled real images.
        published (`tuple[PublishedTable, ...]`, *optional*):
            Printed numbers for the same sets.
        published_views (`PublishedTable`, *optional*):
            Printed means for degraded images.
    """

    name: str
    title: str
    source: str
    layout: str = "auto"
    split: str = "test"
    sets: tuple[TestSet, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    threshold: float = 0.5
    mean_over: str = "the sets"
    trained_on: str = ""
    needs_reals: bool = False
    free_reals: bool = False
    fake_id: int | None = None
    one_class_sets: bool = False
    published: tuple[PublishedTable, ...] = ()
    published_views: PublishedTable | None = None

    def set_of(self, generator: str) -> str | None:
        """Name of the set that a generator's images belong to; `None` if the protocol leaves them out."""
        if not self.sets:
            return generator
        if len(self.sets) == 1:  # whatever the copy at hand calls it
            return self.sets[0].name
        return next((test_set.name for test_set in self.sets if test_set.matches(generator)), None)

    def order(self, names: Iterable[str]) -> list[str]:
        """The names of sets in the order of the table."""
        if not self.sets:
            return sorted(names, key=lambda name: (name.lower(), name))
        present = set(names)
        return [test_set.name for test_set in self.sets if test_set.name in present]


def plain_name(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[\W_]", "", name.lower())


_UNIVFD_FORENSYNTHS = (
    TestSet("ProGAN"),
    TestSet("CycleGAN"),
    TestSet("BigGAN"),
    TestSet("StyleGAN"),
    TestSet("GauGAN"),
    TestSet("StarGAN"),
    TestSet("Deepfakes", ("deepfake", "faceforensics")),
    TestSet("SITD", ("seeingdark",)),
    TestSet("SAN"),
    TestSet("CRN"),
    TestSet("IMLE"),
)
_UNIVFD_DIFFUSION = (
    TestSet("Guided"),
    TestSet("LDM_200"),
    TestSet("LDM_200_cfg"),
    TestSet("LDM_100"),
    TestSet("Glide_100_27"),
    TestSet("Glide_50_27"),
    TestSet("Glide_100_10"),
    TestSet("DALL-E"),
)

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "genimage",
        "GenImage",
        "Zhu et al., NeurIPS 2023, https://arxiv.org/abs/2306.08571",
        layout="genimage",
        sets=(
            TestSet("Midjourney", ("mj",)),
            TestSet("SDv1.4", ("stable_diffusion_v_1_4", "stable_diffusion_1_4", "sdv14", "sdv4", "sd14")),
            TestSet("SDv1.5", ("stable_diffusion_v_1_5", "stable_diffusion_1_5", "sdv15", "sdv5", "sd15")),
            TestSet("ADM"),
            TestSet("GLIDE"),
            TestSet("Wukong"),
            TestSet("VQDM"),
            TestSet("BigGAN"),
        ),
        mean_over="eight generators",
        trained_on="Stable Diffusion 1.4",
        published=(PublishedTable("genimage_sdv14", {"accuracy": "*"}),),
        published_views=PublishedTable("degradation_genimage", {"accuracy": "*"}),
    ),
    Protocol(
        "ufd",
        "UniversalFakeDetect",
        "Ojha et al., CVPR 2023, https://arxiv.org/abs/2302.10174",
        layout="universalfakedetect",
        sets=_UNIVFD_FORENSYNTHS + _UNIVFD_DIFFUSION,
        metrics=("average_precision", "accuracy"),
        mean_over="19 sets",
        trained_on="ProGAN",
        published=(
            PublishedTable("ufd_ap", {"average_precision": "*"}),
            PublishedTable("ufd_acc", {"accuracy": "*"}),
        ),
    ),
    Protocol(
        "crossdataset",
        "Sora, DALL-E 3, Infinity, FLUX.1-dev, SD 3.5",
        "MiraGe, https://arxiv.org/abs/2508.01525, Sections 6.2 and G: against 1000 images of COCO val2017",
        layout="shared-reals",
        sets=(
            TestSet("Sora"),
            TestSet("DALL-E 3", ("dalle3",)),
            TestSet("Infinity"),
            TestSet("FLUX.1-dev", ("flux", "fluxdev", "flux1")),
            TestSet("SD 3.5", ("sd35", "stable_diffusion_3_5", "stable_diffusion_3.5_large", "sd3_5_large")),
        ),
        metrics=("accuracy", "average_precision"),
        mean_over="five generators",
        trained_on="Stable Diffusion 1.4",
        published=(
            PublishedTable("cross_dataset_sdv14", {"accuracy": "accuracy", "average_precision": "ap"}, "generator"),
        ),
    ),
    Protocol(
        "chameleon",
        "Chameleon",
        "Yan et al., ICLR 2025, https://arxiv.org/abs/2406.19435",
        layout="chameleon",
        sets=(TestSet("Chameleon"),),
        metrics=("accuracy", "fake_accuracy", "real_accuracy"),
        mean_over="its one set",
        published=(
            PublishedTable(
                "chameleon",
                {name: name for name in ("accuracy", "fake_accuracy", "real_accuracy")},
                test_set="Chameleon",
            ),
        ),
    ),
    Protocol(
        "aigcdetectbenchmark",
        "AIGCDetectBenchmark",
        "Zhong et al., 2023, https://arxiv.org/abs/2311.12397",
        layout="aigcdetectbenchmark",
        sets=(
            TestSet("ProGAN"),
            TestSet("StyleGAN"),
            TestSet("BigGAN"),
            TestSet("CycleGAN"),
            TestSet("StarGAN"),
            TestSet("GauGAN"),
            TestSet("StyleGAN2"),
            TestSet("WFIR", ("whichfaceisreal",)),
            TestSet("ADM"),
            TestSet("Glide"),
            TestSet("Midjourney"),
            TestSet("SDv1.4", ("stable_diffusion_v_1_4",)),
            TestSet("SDv1.5", ("stable_diffusion_v_1_5",)),
            TestSet("VQDM"),
            TestSet("Wukong"),
            TestSet("DALLE2", ("dalle2",)),
        ),
        mean_over="16 generators",
        trained_on="ProGAN",
    ),
    Protocol(
        "aigibench",
        "AIGIBench",
        "Li et al., 2025, https://arxiv.org/abs/2505.12335",
        layout="aigibench",
        metrics=("accuracy", "real_accuracy", "fake_accuracy", "average_precision"),
        mean_over="every generator found",
    ),
    Protocol(
        "drct",
        "DRCT-2M",
        "Chen et al., ICML 2024, https://github.com/beibuwandeluori/DRCT",
        layout="drct-2m",
        mean_over="every generator found",
    ),
    Protocol(
        "synthbuster",
        "Synthbuster",
        "Bammey, IEEE OJSP 2024, https://doi.org/10.1109/OJSP.2023.3337714",
        layout="synthbuster",
        metrics=("balanced_accuracy", "roc_auc"),
        mean_over="every generator found",
        needs_reals=True,
    ),
    Protocol(
        "openfake",
        "OpenFake",
        "Livernoche et al., 2025, https://arxiv.org/abs/2509.09495",
        layout="openfake",
        metrics=("balanced_accuracy", "average_precision"),
        mean_over="every model found",
        free_reals=True,
    ),
    Protocol(
        "communityforensics",
        "CommunityForensics",
        "Park and Owens, CVPR 2025, https://arxiv.org/abs/2411.04125",
        layout="communityforensics",
        metrics=("average_precision", "accuracy"),
        mean_over="every model found",
        free_reals=True,
        fake_id=1,
    ),
    Protocol(
        "cifake",
        "CIFAKE",
        "Bird and Lotfi, IEEE Access 2024, https://arxiv.org/abs/2303.14126",
        layout="cifake",
        sets=(TestSet("CIFAKE"),),
        mean_over="its one set",
    ),
    Protocol(
        "folder",
        "own images",
        "any layout, manifest or Hub data set that load_detection_dataset reads",
        metrics=("balanced_accuracy", "average_precision"),
        mean_over="every generator with both classes",
        one_class_sets=True,
    ),
)


def find_protocol(name: str) -> Protocol:
    """
    The protocol of that name; case, `-` and `_` make no difference.

    Raises:
        ValueError: there is none.
    """
    for protocol in PROTOCOLS:
        if plain_name(protocol.name) == plain_name(name):
            return protocol
    names = ", ".join(protocol.name for protocol in PROTOCOLS)
    raise ValueError(f"unknown protocol {name!r}: choose one of {names}")


__all__ = ["PROTOCOLS", "Protocol", "TestSet", "find_protocol"]
