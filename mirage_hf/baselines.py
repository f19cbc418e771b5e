"""What MiraGe is compared with: other detectors, trained by the same trainer on the same data.

    python training/train.py --method linear_probe --model_name_or_path openai/clip-vit-large-patch14 --data ROOT
    python training/train.py --method npr --data ROOT

[`BASELINES`] is the whole list. What an entry sets are defaults: a flag or a recipe overrides them, all but `fixed`,
which is what makes the method that method. Where an entry says nothing, MiraGe's own recipe holds
([`MiraGeTrainingArguments`]), its cosine schedule with one warm-up epoch included.
"""

from dataclasses import dataclass, field
from typing import Any

# Random crops of native pixels. The sources resize to 256 first, which leaves ProGAN's images as they are.
NO_AUGMENTATION = {
    "geometry": "crop",
    "rotation_probability": 0.0,
    "brightness_contrast_probability": 0.0,
    "grayscale_probability": 0.0,
    "blur_probability": 0.0,
    "noise_probability": 0.0,
    "jpeg_probability": 0.0,
}
# "Blur+JPEG (0.5)"; the paper's other detector has both at 0.1.
CNNDET_AUGMENTATION = NO_AUGMENTATION | {
    "blur_probability": 0.5,
    "blur_sigma": [0.0, 3.0],
    "jpeg_probability": 0.5,
    "jpeg_quality": [30, 100],
    "jpeg_subsampling": ["4:2:0"],
}
ADAM = {"optim": "adamw_torch", "weight_decay": 0.0}  # without weight decay AdamW is Adam


@dataclass(frozen=True)
class Baseline:
    """
    One method beside MiraGe.

    Args:
        title (`str`):
            Name in tables.
        sources (`tuple[str, ...]`):
            Where it comes from.
        note (`str`):
            What it is, and where it departs from its source.
        family (`str`):
            `"prompts"`: a [`MiraGeForImageDetection`] with other settings; `"clip"`: CLIP with another head or other
            trained weights; `"classifier"`: an image classifier of transformers. The last two are
            [`BaselineForImageDetection`].
        trainable (`tuple[str, ...]`, *optional*):
            Beginnings of the names of the parameters that learn (families `"clip"` and `"classifier"`).
        class_texts (`bool`, *optional*, defaults to `False`):
            Whether texts for the two classes are the classifier (family `"clip"`).
        backbone (`dict`, *optional*):
            `model_type` of the backbone, and the fields of its configuration for random weights.
        prompts (`dict`, *optional*):
            Fields of [`MiraGeConfig`] (family `"prompts"`).
        fixed (`tuple[str, ...]`, *optional*):
            Those of `prompts` that may not be changed.
        arguments (`dict`, *optional*):
            Defaults of [`ModelArguments`], [`DataArguments`] and [`MiraGeTrainingArguments`].
    """

    title: str
    sources: tuple[str, ...]
    note: str
    family: str
    trainable: tuple[str, ...] = ()
    class_texts: bool = False
    backbone: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


CLIPPING = "https://arxiv.org/abs/2402.12927"
CLIP = {"model_type": "clip"}

BASELINES: dict[str, Baseline] = {
    "zero_shot": Baseline(
        title="CLIP, zero-shot",
        sources=("https://arxiv.org/abs/2103.00020",),
        note="The cosine with the texts of the two classes decides. Nothing is trained.",
        family="clip",
        class_texts=True,
        backbone=CLIP,
    ),
    "linear_probe": Baseline(
        title="UnivFD (linear probe)",
        sources=("https://arxiv.org/abs/2302.10174", CLIPPING),
        note="One linear layer with one output on frozen, unnormalised image features. The augmentation is that of "
        "UnivFD's code, without its horizontal flip; the rate is divided by 10 there when validation stalls.",
        family="clip",
        trainable=("head.",),
        backbone=CLIP,
        arguments=ADAM | {"learning_rate": 1e-4, "augmentation": CNNDET_AUGMENTATION, "geometry": "crop"},
    ),
    "coop": Baseline(
        title="CoOp (text prompts)",
        sources=("https://arxiv.org/abs/2109.01134", CLIPPING),
        note="16 learnable tokens in front of the class name, in the text encoder's first layer; no full stop behind "
        "the name. CoOp's optimizer and schedule are the recipe's.",
        family="prompts",
        prompts={
            "prompt_modality": "text",
            "prompt_position": "inserted",
            "prompt_depth": 1,
            "num_prompt_tokens": 16,
            "template": "{}",
        },
        fixed=("prompt_modality", "prompt_position", "prompt_depth"),
    ),
    "adapter": Baseline(
        title="CLIP-Adapter",
        sources=("https://arxiv.org/abs/2110.04544", CLIPPING),
        note="A bottleneck of a quarter of the width on the image features, mixed in at a ratio of 0.2, before the "
        "zero-shot classifier. Its code trains with CoOp's settings, which are the recipe's.",
        family="clip",
        trainable=("adapter.",),
        class_texts=True,
        backbone=CLIP,
    ),
    "full_finetuning": Baseline(
        title="CLIP, fine-tuned",
        sources=(CLIPPING,),
        note="All weights of both encoders, the texts of the two classes being the classifier. Optimizer and learning "
        "rate are ours.",
        family="clip",
        trainable=("clip.",),
        class_texts=True,
        backbone=CLIP,
        arguments={"optim": "adamw_torch", "learning_rate": 1e-5, "warmup_learning_rate": 1e-6},
    ),
    "maple": Baseline(
        title="MaPLe",
        sources=("https://arxiv.org/abs/2210.03117",),
        note="MiraGe without its contrastive term; in nine layers, two prompts in place of the template's first two "
        "words. They start at random, in MaPLe at those words' embeddings.",
        family="prompts",
        prompts={
            "prompt_modality": "multimodal",
            "prompt_position": "context",
            "mapping": "linear",
            "shared_mapping": False,
            "num_prompt_tokens": 2,
            "prompt_depth": 9,
        },
        fixed=("prompt_modality", "prompt_position", "mapping", "shared_mapping"),
        arguments={"learning_rate": 3.5e-3},
    ),
    "lora": Baseline(
        title="CLIP, LoRA",
        sources=("https://arxiv.org/abs/2106.09685",),
        note="LoRA on all query and value projections of both encoders, merged in the final checkpoint; the texts of "
        "the two classes are the classifier. Optimizer, learning rate and rank are ours.",
        family="clip",
        class_texts=True,
        backbone=CLIP,
        arguments=ADAM | {"learning_rate": 1e-4, "lora_rank": 8},
    ),
    "resnet50": Baseline(
        title="CNNDet (ResNet-50)",
        sources=("https://arxiv.org/abs/1912.11035", "https://arxiv.org/abs/1512.03385"),
        note="Blur and JPEG compression at a probability of 0.5 each, no horizontal flip. CNNDet starts from "
        "ImageNet: name such a checkpoint, such as microsoft/resnet-50; without one the weights are random.",
        family="classifier",
        trainable=("classifier.",),
        backbone={"model_type": "resnet"},
        arguments=ADAM | {"learning_rate": 1e-4, "augmentation": CNNDET_AUGMENTATION, "geometry": "crop"},
    ),
    "swin_t": Baseline(
        title="Swin-T",
        sources=("https://arxiv.org/abs/2103.14030", "https://arxiv.org/abs/2306.08571"),
        note="A baseline of GenImage. The learning rate is Swin's own for a batch of 128.",
        family="classifier",
        trainable=("classifier.",),
        backbone={"model_type": "swin"},
        arguments={"optim": "adamw_torch", "learning_rate": 1.25e-4, "weight_decay": 0.05},
    ),
    "deit_s": Baseline(
        title="DeiT-S",
        sources=("https://arxiv.org/abs/2012.12877", "https://arxiv.org/abs/2306.08571"),
        note="A baseline of GenImage: a ViT-S/16 without distillation, as facebook/deit-small-patch16-224. The "
        "learning rate is DeiT's own for a batch of 128.",
        family="classifier",
        trainable=("classifier.",),
        backbone={
            "model_type": "vit",
            "hidden_size": 384,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
        },
        arguments={"optim": "adamw_torch", "learning_rate": 1.25e-4, "weight_decay": 0.05},
    ),
    "npr": Baseline(
        title="NPR",
        sources=("https://arxiv.org/abs/2312.10461",),
        note="What each pixel adds to the upper left one of its 2 x 2 block, into a ResNet-50 that ends after its "
        "second stage, with a 3 x 3 stem. Crops at native resolution, no horizontal flip.",
        family="classifier",
        trainable=("classifier.",),
        backbone={"model_type": "resnet", "hidden_sizes": [256, 512], "depths": [3, 4]},
        arguments=ADAM | {"learning_rate": 2e-4, "augmentation": NO_AUGMENTATION, "geometry": "crop"},
    ),
}
METHODS = ("mirage", *BASELINES)

__all__ = ["BASELINES", "METHODS", "Baseline"]
