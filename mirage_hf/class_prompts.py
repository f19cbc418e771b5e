"""The words of the text anchors as token ids: "a photo of a" real / fake (Section 4, Table 14)."""

from transformers import AutoTokenizer, CLIPConfig
from transformers.utils import cached_file

from .configuration_mirage import OPENAI_VOCAB_SIZE, MiraGeConfig


def tokenize_class_prompts(tokenizer, template: str, class_names: list[str]) -> list[list[int]]:
    """
    Returns:
        `list[list[int]]`: Token ids of both class prompts, the shorter one padded with the end token.

    Raises:
        `ValueError`: If the tokenizer does not know a word.
    """
    rows = [tokenizer(template.format(name)).input_ids for name in class_names]
    for name, row in zip(class_names, rows, strict=True):
        if row[-1] in row[:-1]:  # CLIP's tokenizers put the end token in place of what they do not know
            raise ValueError(
                f"The tokenizer does not know all words of {template.format(name)!r} (`template`, `class_names`)."
            )
    longest = max(map(len, rows))
    return [row + [row[-1]] * (longest - len(row)) for row in rows]


def load_tokenizer(name: str, clip_config: CLIPConfig, template: str, class_names: list[str], **hub_kwargs):
    """
    The tokenizer of a CLIP checkpoint, or `None` where it lacks one and the known ids of the default prompts serve.

    Raises:
        `ValueError`: If there is no tokenizer and the prompts or the vocabulary are not the default ones.
    """
    files = ("tokenizer.json", "vocab.json")
    # Asked of a checkpoint without any of its files, AutoTokenizer returns one that knows no word.
    if any(cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub_kwargs) for file in files):
        return AutoTokenizer.from_pretrained(name, **hub_kwargs)
    default = (template, tuple(class_names)) == (MiraGeConfig.template, MiraGeConfig.class_names)
    if default and clip_config.text_config.vocab_size == OPENAI_VOCAB_SIZE:
        return None
    raise ValueError(
        f"{name} has no tokenizer to read `template` and `class_names` with; pass `tokenizer` or `class_input_ids`."
    )


__all__ = ["load_tokenizer", "tokenize_class_prompts"]
