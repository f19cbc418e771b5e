"""Configuration of the MiraGe detector: everything that is needed to rebuild the model.

MiraGe (ACM MM 2025, https://arxiv.org/abs/2508.01525) adds learnable prompts to a frozen CLIP. This file travels
to the Hub beside the weights, so it imports nothing but transformers.
"""

from transformers import CLIPConfig
from transformers.configuration_utils import PreTrainedConfig

# "a photo of a real" and "a photo of a fake" in the vocabulary of OpenAI's CLIP, start and end of text included.
OPENAI_CLASS_INPUT_IDS = [
    [49406, 320, 1125, 539, 320, 1532, 49407],
    [49406, 320, 1125, 539, 320, 5777, 49407],
]

OPENAI_VOCAB_SIZE = 49408
CHOICES = {
    "prompt_position": ("inserted", "context"),
    "prompt_modality": ("multimodal", "text", "vision"),
    "mapping": ("linear", "mlp", "cross_attention", "reverse"),
    "base_model_dtype": ("float32", "float16", "bfloat16"),
}


class MiraGeConfig(PreTrainedConfig):
    r"""
    Configuration of [`MiraGeForImageDetection`].

    Args:
        clip_config (`CLIPConfig` or `dict`, *optional*):
            The frozen backbone's own configuration. Defaults to CLIP ViT-B/32's; the paper's is ViT-L/14.
        num_prompt_tokens (`int`, *optional*, defaults to 2):
            m, the number of learnable embeddings in each prompted layer. The paper does not state it.
        prompt_depth (`int`, *optional*):
            K, the number of layers that get prompts of their own. `None` means the depth of the shallower encoder
            (Appendix E, "unmatched depth"), which is also the largest value allowed.
        prompt_position (`str`, *optional*, defaults to `"inserted"`):
            `"inserted"` puts the text prompts between the start token and the template's words (Eq. 9);
            `"context"` overwrites the template's first m words with them, as MaPLe's code does.
        prompt_modality (`str`, *optional*, defaults to `"multimodal"`):
            `"multimodal"` (the method), `"text"` or `"vision"` (prompts in that encoder alone).
        mapping (`str`, *optional*, defaults to `"linear"`):
            How the prompts of one encoder give the other's (Table 12): `"linear"`, `"mlp"`, `"cross_attention"`
            (text to vision) or `"reverse"` (one linear layer, vision to text). Read when `prompt_modality` is
            `"multimodal"`.
        shared_mapping (`bool`, *optional*, defaults to `False`):
            One mapping for all layers instead of one for each.
        template (`str`, *optional*, defaults to `"a photo of a {}"`):
            The text around a class name; `{}` stands for the name.
        class_names (`list[str]`, *optional*, defaults to `["real", "fake"]`):
            The word for class 0 (real) and for class 1 (fake).
        class_input_ids (`list[list[int]]`, *optional*):
            Token ids of both class prompts, start and end of text included and nothing after the longer one's end, so
            that inference needs no tokenizer. Defaults to the ids of the default template in OpenAI's vocabulary.
        base_model_name_or_path (`str`, *optional*):
            The CLIP checkpoint that the prompts were learned on. When set, `save_pretrained` writes the prompts and
            mappings only and `from_pretrained` fetches the encoders from there.
        base_model_revision (`str`, *optional*):
            Git revision of the base checkpoint, when it is a Hub repository.
        base_model_fingerprint (`str`, *optional*):
            Hash over a sample of the base checkpoint's weights. An adapter loaded on other weights is refused; pass
            `None` to accept them.
        save_base_model (`bool`, *optional*, defaults to `False`):
            Write full checkpoints, encoders included, even when `base_model_name_or_path` is set.
        base_model_dtype (`str`, *optional*, defaults to `"float32"`):
            Type in which full checkpoints store the frozen encoders: `"float32"`, `"float16"` or `"bfloat16"`. They
            load as float32 whatever it is; float16 loses nothing of encoders that were published so.
        threshold (`float`, *optional*, defaults to 0.5):
            Probability above which an image is to be called fake; training can set it on validation images. The scores
            and the order of a `pipeline`'s labels know nothing of it.
        calibration (`dict`, *optional*):
            What `mirage-hf calibrate` learned, see [`~mirage_hf.calibration.Calibration`]: calibrated probabilities, a
            threshold on their scale, and when to answer "unsure". Neither `forward` nor a `pipeline` reads it.
        baked (`bool`, *optional*, defaults to `False`):
            The model holds computed text anchors and vision prompts in place of the text encoder and the prompt
            learner; set by [`MiraGeForImageDetection.bake`].
        tile_images (`bool`, *optional*, defaults to `False`):
            Accept `pixel_values` larger than the encoder's `image_size`: they are cut into as few evenly spaced tiles
            of that size as cover them, and the image's embedding is the unit-norm mean of its tiles'. More of an image
            is seen without resizing it, at so many times the cost.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial prompts and mapping weights.

    Raises:
        `ValueError`: If a field is out of range or contradicts another one; the message names the field.

    Example:

    ```python
    >>> from mirage_hf import MiraGeConfig, MiraGeForImageDetection

    >>> config = MiraGeConfig(num_prompt_tokens=2, prompt_depth=9)  # on a CLIP ViT-B/32 with random weights
    >>> model = MiraGeForImageDetection(config)
    >>> model.config.id2label
    {0: 'real', 1: 'fake'}

    ```"""

    model_type = "mirage"
    sub_configs_defaults = {"clip_config": CLIPConfig}
    keys_to_ignore_at_inference = ["image_embeds", "text_embeds"]

    # The fields typed without their default `None` hold a value once `__post_init__` has run.
    id2label: dict[int, str] = None  # type: ignore[assignment]
    clip_config: CLIPConfig = None
    num_prompt_tokens: int = 2
    prompt_depth: int = None  # type: ignore[assignment]
    prompt_position: str = "inserted"
    prompt_modality: str = "multimodal"
    mapping: str = "linear"
    shared_mapping: bool = False
    template: str = "a photo of a {}"
    class_names: list[str] | tuple[str, ...] = ("real", "fake")
    class_input_ids: list[list[int]] = None  # type: ignore[assignment]
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    base_model_fingerprint: str | None = None
    save_base_model: bool = False
    base_model_dtype: str = "float32"
    threshold: float = 0.5
    calibration: dict | None = None
    baked: bool = False
    tile_images: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.id2label = {0: "real", 1: "fake"} if self.id2label is None else self.id2label
        self.label2id = {name: int(index) for index, name in self.id2label.items()}
        self.class_names = list(self.class_names)
        if self.class_input_ids is None:
            self.class_input_ids = [list(row) for row in OPENAI_CLASS_INPUT_IDS]
        # All three Auto classes find the code beside the weights; `register_for_auto_class` would keep only the last.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_mirage.MiraGeConfig",
                "AutoModel": "modeling_mirage.MiraGeForImageDetection",
                "AutoModelForImageClassification": "modeling_mirage.MiraGeForImageDetection",
            },
        )
        super().__post_init__(**kwargs)
        if self.prompt_depth is None:
            self.prompt_depth = self.max_prompt_depth
        self.check()

    @property
    def max_prompt_depth(self) -> int:
        """`int`: Layers of the shallower encoder, the most that can be prompted jointly (Appendix E)."""
        text, vision = self.clip_config.text_config, self.clip_config.vision_config
        return min(text.num_hidden_layers, vision.num_hidden_layers)

    @property
    def has_text_prompts(self) -> bool:
        """`bool`: Whether prompts enter the text encoder."""
        return self.prompt_modality != "vision"

    @property
    def has_vision_prompts(self) -> bool:
        """`bool`: Whether prompts enter the vision encoder."""
        return self.prompt_modality != "text"

    @property
    def text_input_ids(self) -> list[list[int]]:
        """`list[list[int]]`: `class_input_ids` with m placeholders behind the start token if prompts are inserted."""
        if not self.has_text_prompts or self.prompt_position == "context":
            return self.class_input_ids
        # Any token would do, for its embedding is replaced; a word of the row is never mistaken for the end of text.
        return [[row[0], *[row[1]] * self.num_prompt_tokens, *row[1:]] for row in self.class_input_ids]

    def check(self) -> None:
        """
        Raises:
            `ValueError`: If a field is out of range or contradicts another one; the message names the field.
        """
        self._check_fields()
        self._check_classes()
        if not self.baked:  # a baked model reads no token ids
            self._check_class_input_ids()

    def _check_fields(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for name in ("num_prompt_tokens", "prompt_depth"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"`{name}` must be an integer, got {value!r}.")
        for name in ("shared_mapping", "save_base_model", "baked", "tile_images"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be true or false, got {getattr(self, name)!r}.")
        for name in ("base_model_name_or_path", "base_model_revision", "base_model_fingerprint"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ValueError(f"`{name}` must be a string or None, got {getattr(self, name)!r}.")
        if self.num_prompt_tokens < 1:
            raise ValueError(f"`num_prompt_tokens` must be at least 1, got {self.num_prompt_tokens}.")
        if not 1 <= self.prompt_depth <= self.max_prompt_depth:
            raise ValueError(
                f"`prompt_depth` must be between 1 and {self.max_prompt_depth}, the depth of the shallower encoder, "
                f"got {self.prompt_depth}."
            )
        if isinstance(self.threshold, bool) or not 0 <= self.threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {self.threshold}.")
        if not self.initializer_range > 0:
            raise ValueError(f"`initializer_range` must be positive, got {self.initializer_range}.")
        if self.calibration is not None:
            self._check_calibration(self.calibration)

    def _check_calibration(self, calibration):
        """What decides answers; `Calibration.from_dict`, which doesn't travel with the weights, checks the rest."""
        if not isinstance(calibration, dict):
            raise ValueError(f"`calibration` must be a mapping of names to values or None, got {calibration!r}.")
        for name in ("temperature", "bias", "threshold", "unsure_low", "unsure_high"):
            value = calibration.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
                raise ValueError(f"`calibration` must hold a finite number as `{name}`, got {value!r}.")
        if not calibration["temperature"] > 0:
            raise ValueError(f"`calibration` must hold a positive `temperature`, got {calibration['temperature']}.")
        if not 0 <= calibration["unsure_low"] <= calibration["threshold"] <= calibration["unsure_high"] <= 1:
            raise ValueError("`calibration` must hold 0 <= `unsure_low` <= `threshold` <= `unsure_high` <= 1.")

    def _check_classes(self):
        if set(self.id2label) != {0, 1}:
            raise ValueError(f"`id2label` must name the classes 0 (real) and 1 (fake), got {self.id2label}.")
        if len(self.class_names) != 2 or not all(isinstance(name, str) and name.strip() for name in self.class_names):
            raise ValueError(f"`class_names` must be two words, real's first, then fake's, got {self.class_names}.")
        if self.class_names[0] == self.class_names[1]:
            raise ValueError(f"`class_names` must differ, got {self.class_names[0]!r} twice.")
        if not isinstance(self.template, str) or self.template.count("{}") != 1:
            raise ValueError(f"`template` must hold `{{}}` once, in place of the class name, got {self.template!r}.")

    def _check_class_input_ids(self):
        rows, text = self.class_input_ids, self.clip_config.text_config
        if len(rows) != 2 or len(rows[0]) != len(rows[1]) or len(rows[0]) < 3:
            raise ValueError("`class_input_ids` must be two rows of equal length: start, words, end (padded by end).")
        if rows[0] == rows[1]:
            raise ValueError("`class_input_ids` holds the same ids twice; `class_names` must tell the classes apart.")
        # The legacy value 2 of OpenAI's published configurations means "the largest id in the row".
        eos_token_id = max(map(max, rows)) if text.eos_token_id == 2 else text.eos_token_id
        for row in rows:
            if not 0 <= min(row) <= max(row) < text.vocab_size:
                raise ValueError(
                    f"`class_input_ids` must lie in [0, {text.vocab_size}), the text encoder's vocabulary, got {row}. "
                    "For a backbone with a vocabulary of its own, pass its tokenizer to `from_clip`."
                )
            if eos_token_id not in row:
                raise ValueError(f"`class_input_ids` has a row without the end token {eos_token_id}: {row}.")
        if min(row.index(eos_token_id) for row in rows) < 2:
            raise ValueError("`class_input_ids` needs a start token and a word before the end token in each row.")
        if not self.has_text_prompts:
            return
        longest, limit = len(rows[0]), text.max_position_embeddings
        if self.prompt_position == "inserted" and longest + self.num_prompt_tokens > limit:
            raise ValueError(
                f"`num_prompt_tokens`={self.num_prompt_tokens} and the {longest} ids of `class_input_ids` exceed the "
                f"text encoder's {limit} positions."
            )
        # Tokens before the first one that tells the classes apart, without the start token.
        words = next(i for i, (real, fake) in enumerate(zip(*rows, strict=True)) if real != fake) - 1
        if self.prompt_position == "context" and self.num_prompt_tokens > words:
            raise ValueError(
                f"`num_prompt_tokens`={self.num_prompt_tokens} exceeds the {words} tokens of `template` before the "
                'class name, which `prompt_position="context"` overwrites.'
            )


MiraGeConfig.register_for_auto_class()

__all__ = ["MiraGeConfig"]
