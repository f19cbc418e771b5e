"""The words of the text anchors as token ids: "a photo of a" real / fake (Section 4, Table 14)."""

from transformers import AutoTokenizer, CLIPConfig

from .configuration_mirage import MiraGeConfig


def tokenize_class_prompts(tokenizer, template: str, class_names: list[str]) -> list[list[int]]:
    """
    Returns:
        `list[list[int]]`: Token ids of both class prompts, the shorter one padded with the end token.
    """
    rows = [tokenizer(template.format(name)).input_ids for name in class_names]
    longest = max(map(len, rows))
    return [row + [row[-1]] * (longest - len(row)) for row in rows]


def load_tokenizer(name: str, clip_config: CLIPConfig, template: str, class_names: list[str], **hub_kwargs):
    """
    The tokenizer of a CLIP checkpoint, or `None` where it lacks one and the known ids of the default prompts serve.

    Raises:
        `ValueError`: If there is no tokenizer and the prompts or the vocabulary are not the default ones.
    """
    try:
        return AutoTokenizer.from_pretrained(name, **hub_kwargs)
    except (OSError, ValueError) as error:
        default = (template, tuple(class_names)) == (MiraGeConfig.template, MiraGeConfig.class_names)
        if default and clip_config.text_config.vocab_size == 49408:
            return None
        raise ValueError(
            f"{name} has no tokenizer to read `template` and `class_names` with; pass `tokenizer` or "
            "`class_input_ids`."
        ) from error


__all__ = ["load_tokenizer", "tokenize_class_prompts"]
