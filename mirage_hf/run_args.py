"""Arguments of a training run beside the trainer's: which model, which data. Read from flags or a YAML recipe."""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from .augmentations import AugmentationConfig
from .baselines import BASELINES, METHODS, Baseline
from .image_processing import PROCESSOR_GEOMETRIES
from .training_args import MiraGeTrainingArguments


@dataclass
class ModelArguments:
    """
    The detector to train. `None` leaves a field of [`MiraGeConfig`] at its default, or a checkpoint's at its own.

    Args:
        method (`str`, *optional*, defaults to `"mirage"`):
            `"mirage"`, or the name of one of the [`BASELINES`], whose own defaults then come before the flags.
        model_name_or_path (`str`, *optional*):
            A CLIP checkpoint to start from, or a checkpoint of the same method to go on with. Methods without CLIP
            take an image classifier's checkpoint, and have random weights if it is left out.
        model_revision (`str`, *optional*):
            Its Git revision, where it is a Hub repository.
        num_prompt_tokens, prompt_depth, prompt_position, prompt_modality, mapping, shared_mapping, template, \
class_names (*optional*):
            See [`MiraGeConfig`].
        save_base_model (`bool`, *optional*, defaults to `False`):
            Write full checkpoints instead of prompts and mappings only.
        base_model_dtype (*optional*):
            See [`MiraGeConfig`].
        attn_implementation (`str`, *optional*):
            `"sdpa"`, `"eager"` or `"flash_attention_2"`.
        lora_rank (`int`, *optional*, defaults to 0):
            Rank of LoRA adapters on the encoders' query and value projections, trained beside the prompts through
            peft and merged in the final, full checkpoint. 0 keeps the encoders frozen, as the paper does.
        backbone_overrides (`dict` or JSON `str`, *optional*):
            Fields of the backbone's configuration, for methods with random weights, such as
            `{"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16, "image_size": 96}` for a small ResNet.

    Raises:
        `ValueError`: If a value is out of range, or contradicts the method.
    """

    method: str = field(default="mirage", metadata={"help": "mirage, or a baseline.", "choices": list(METHODS)})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "CLIP checkpoint, or checkpoint of the method to go on with."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Git revision of the checkpoint."})
    num_prompt_tokens: int | None = field(default=None, metadata={"help": "Prompts in each layer (m)."})
    prompt_depth: int | None = field(default=None, metadata={"help": "Prompted layers (K)."})
    prompt_position: str | None = field(default=None, metadata={"help": "inserted or context."})
    prompt_modality: str | None = field(default=None, metadata={"help": "multimodal, text or vision."})
    mapping: str | None = field(default=None, metadata={"help": "linear, mlp, cross_attention or reverse."})
    shared_mapping: bool | None = field(default=None, metadata={"help": "One mapping for all layers."})
    template: str | None = field(default=None, metadata={"help": "Text with {} in place of the class name."})
    class_names: list[str] | None = field(default=None, metadata={"help": "Word for real, word for fake."})
    save_base_model: bool = field(default=False, metadata={"help": "Write full checkpoints."})
    base_model_dtype: str | None = field(default=None, metadata={"help": "Type of stored encoders."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager or flash_attention_2."})
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA on q and v; 0 turns it off."})
    backbone_overrides: str | None = field(
        default=None, metadata={"help": "JSON: fields of a backbone with random weights."}
    )

    PROMPT_FIELDS = (
        "num_prompt_tokens",
        "prompt_depth",
        "prompt_position",
        "prompt_modality",
        "mapping",
        "shared_mapping",
        "template",
        "class_names",
    )

    def __post_init__(self):
        if self.lora_rank < 0:
            raise ValueError(f"`lora_rank` must not be negative, got {self.lora_rank}.")
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {self.method!r}.")
        self.overrides = _mapping("backbone_overrides", self.backbone_overrides)
        family = "prompts" if self.baseline is None else self.baseline.family
        if self.model_name_or_path is None and family != "classifier":
            raise ValueError("`model_name_or_path` must name a CLIP checkpoint.")
        if self.overrides and (family != "classifier" or self.model_name_or_path is not None):
            raise ValueError("`backbone_overrides` is for methods with random weights, without `model_name_or_path`.")
        if self.baseline is not None:
            self._check_against(self.baseline)

    def _check_against(self, baseline: Baseline):
        given = self.prompt_fields()
        for name in baseline.fixed:
            if name in given and given[name] != baseline.prompts[name]:
                raise ValueError(f"`{name}` of method {self.method} is {baseline.prompts[name]!r}; leave it out.")
        usable = ("template", "class_names") if baseline.class_texts else ()
        surplus = [] if baseline.family == "prompts" else [name for name in given if name not in usable]
        if baseline.family != "prompts" and self.base_model_dtype is not None:
            surplus.append("base_model_dtype")
        if self.lora_rank > 0 and self.method != "lora":
            surplus.append("lora_rank")
        if surplus:
            raise ValueError(f"Method {self.method} has no {', '.join(surplus)}; leave it out.")
        if self.lora_rank == 0 and self.method == "lora":
            raise ValueError("`lora_rank` of method lora must be at least 1.")

    @property
    def baseline(self) -> Baseline | None:
        """[`Baseline`]: The entry of the method; `None` for MiraGe itself."""
        return BASELINES.get(self.method)

    def prompt_fields(self) -> dict[str, Any]:
        """The fields of [`MiraGeConfig`] that were given."""
        return {name: getattr(self, name) for name in self.PROMPT_FIELDS if getattr(self, name) is not None}


@dataclass
class DataArguments:
    """
    The images to train on. See [`load_detection_dataset`] for the first eight.

    Args:
        data (`str`):
            Folder, archive, manifest or Hub id.
        layout, generators, fake_id, label_column, real_root (*optional*):
            How to read it.
        train_split (`str`, *optional*, defaults to `"train"`):
            Split to train on.
        max_per_class (`int`, *optional*):
            Train on so many real and as many fake images (Table 6).
        generator_repeats (`dict` or JSON `str`, *optional*):
            How often an epoch has the images of a generator, its real ones included: `{"photos": 3}`. Each time they
            are augmented anew.
        balance_classes (`bool`, *optional*, defaults to `False`):
            Repeat images of the smaller class, behind `generator_repeats`, until both are equally many.
        eval_split (`str`, *optional*):
            Split that is evaluated when `eval_strategy` says so, and once after training.
        threshold_fpr (`float`, *optional*):
            Set the checkpoint's `threshold` on `eval_split`, after training: the smallest at which no more than this
            share of the real images is called fake, in the real images of every generator there.
        geometry (`str`, *optional*):
            Test geometry, stored in the image processor: `"resize"` (CLIP's) or `"crop"` (native resolution). Defaults
            to what the checkpoint's own processor does.
        eval_size (`int`, *optional*):
            Height and width of evaluation images, stored in the image processor. Larger than what the encoder takes,
            they are tiled (`MiraGeConfig.tile_images`); training still takes single tiles. Defaults to the encoder's
            size, or to a MiraGe checkpoint's own.
        augmentation (`dict` or JSON `str`, *optional*):
            Fields of [`AugmentationConfig`].
        check_images (`str`, *optional*, defaults to `"header"`):
            `"header"`, `"full"` or `"none"`: how images are checked before training.
    """

    data: str = field(metadata={"help": "Folder, zip, manifest or Hub id of the training images."})
    layout: str = field(default="auto", metadata={"help": "Layout of the data; recognised if left at auto."})
    generators: list[str] | None = field(default=None, metadata={"help": "Train on these generators only."})
    fake_id: int | None = field(default=None, metadata={"help": "Number that means fake, where labels are numbers."})
    label_column: str | None = field(default=None, metadata={"help": "Label column of a manifest or Hub data set."})
    real_root: str | None = field(default=None, metadata={"help": "Folder of real images for sets of fakes only."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    max_per_class: int | None = field(default=None, metadata={"help": "Real, and fake, images to train on."})
    generator_repeats: str | None = field(
        default=None, metadata={"help": "JSON: generator to number of times an epoch has its images."}
    )
    balance_classes: bool = field(default=False, metadata={"help": "Repeat the smaller class up to the larger."})
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate during and after training."})
    threshold_fpr: float | None = field(
        default=None, metadata={"help": "False-positive rate on eval_split that fixes the checkpoint's threshold."}
    )
    geometry: str | None = field(
        default=None, metadata={"help": "Test geometry of the processor.", "choices": list(PROCESSOR_GEOMETRIES)}
    )
    eval_size: int | None = field(default=None, metadata={"help": "Size of evaluation images; tiled if larger."})
    augmentation: str | None = field(default=None, metadata={"help": "JSON: fields of AugmentationConfig."})
    check_images: str = field(
        default="header", metadata={"help": "How images are checked first.", "choices": ["header", "full", "none"]}
    )

    def __post_init__(self):
        try:
            self.augmentation_config = AugmentationConfig(**_mapping("augmentation", self.augmentation))
        except TypeError as error:
            raise ValueError(f"`augmentation` must hold fields of AugmentationConfig: {error}") from error
        self.repeats = _mapping("generator_repeats", self.generator_repeats)
        if self.threshold_fpr is not None and self.eval_split is None:
            raise ValueError("`threshold_fpr` needs an `eval_split` to fix the threshold on.")
        if not all(isinstance(count, int) and count >= 1 for count in self.repeats.values()):
            raise ValueError(f"`generator_repeats` must hold numbers of at least 1, got {self.repeats}.")

    def loading_options(self) -> dict[str, Any]:
        """Arguments of [`load_detection_dataset`] that all splits share."""
        options = {
            name: getattr(self, name) for name in ("layout", "generators", "fake_id", "label_column", "real_root")
        }
        return options | {"check_images": False if self.check_images == "none" else self.check_images}


def _mapping(name: str, value: Any) -> dict[str, Any]:
    """What a flag gives as JSON and a recipe as a mapping."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"`{name}` is not valid JSON: {error}") from error
    if not isinstance(value or {}, dict):
        raise ValueError(f"`{name}` must be a mapping of names to values, got {value!r}.")
    return value or {}


def parse_run_args(
    arguments: list[str] | None = None, prog: str | None = None
) -> tuple[ModelArguments, DataArguments, MiraGeTrainingArguments]:
    """
    Reads flags, or a YAML recipe followed by flags that override it. Below both lie the defaults of the method.

    Args:
        arguments (`list[str]`, *optional*, defaults to `sys.argv[1:]`):
            `["recipe.yaml", "--data", "GenImage"]`, or flags alone.
        prog (`str`, *optional*):
            Name of the program in its help; that of the script by default.

    Raises:
        `ValueError`: If the recipe is not a mapping, or holds a name that is no argument; or if a baseline is given a
            `discriminative_weight`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = HfArgumentParser((ModelArguments, DataArguments, MiraGeTrainingArguments), prog=prog)
    recipe: dict[str, Any] = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
        if not isinstance(recipe, dict):
            raise ValueError(f"{arguments[0]} must hold `name: value` lines.")
        actions = {action.dest: action for action in parser._actions}
        unknown = sorted(set(recipe) - set(actions))
        if unknown:
            raise ValueError(f"{arguments[0]} holds names that are no arguments: {', '.join(unknown)}.")
        for name in recipe:
            actions[name].required = False
        arguments = arguments[1:]
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--method", default=recipe.get("method", "mirage"))
    method = finder.parse_known_args(arguments)[0].method
    defaults: dict[str, Any] = {}
    if method in BASELINES:
        defaults = {"discriminative_weight": 0.0} | BASELINES[method].arguments
    # argparse converts defaults that are strings only; YAML reads 1e-5 as one.
    parser.set_defaults(**{name: str(v) if isinstance(v, float) else v for name, v in (defaults | recipe).items()})
    model, data, args = parser.parse_args_into_dataclasses(args=arguments)
    if model.baseline is not None and args.discriminative_weight > 0:
        raise ValueError(f"Method {model.method} has no `discriminative_weight`; leave it out.")
    return model, data, args


__all__ = ["DataArguments", "ModelArguments", "parse_run_args"]
