"""Every field of the configuration is validated with an error that names it, and survives a round trip."""

import pytest
from conftest import END, START, make_clip_config, make_config

from mirage_hf import MiraGeConfig


def test_defaults_are_openai_clips():
    config = MiraGeConfig()
    assert config.clip_config.text_config.vocab_size == 49408
    assert config.class_input_ids[0] == [49406, 320, 1125, 539, 320, 1532, 49407]
    assert config.class_input_ids[1] == [49406, 320, 1125, 539, 320, 5777, 49407]
    assert config.prompt_depth == 12
    assert config.id2label == {0: "real", 1: "fake"} and config.label2id == {"real": 0, "fake": 1}


def test_depth_defaults_to_the_shallower_encoder():
    assert make_config(text_layers=2, vision_layers=5).prompt_depth == 2
    assert make_config(text_layers=5, vision_layers=3).prompt_depth == 3


def test_placeholders_are_inserted_behind_the_start():
    config = make_config(num_prompt_tokens=3)
    assert [len(row) for row in config.text_input_ids] == [10, 10]
    assert all(row[0] == START and row[-1] == END and END not in row[:-1] for row in config.text_input_ids)
    assert make_config(prompt_position="context").text_input_ids == config.class_input_ids
    assert make_config(prompt_modality="vision").text_input_ids == config.class_input_ids


def test_round_trip(tmp_path):
    config = make_config(num_prompt_tokens=3, prompt_depth=2, mapping="mlp", base_model_name_or_path="org/clip")
    config.save_pretrained(tmp_path)
    loaded = MiraGeConfig.from_pretrained(tmp_path)
    ours, theirs = config.to_dict(), loaded.to_dict()
    ours.pop("_name_or_path", None), theirs.pop("_name_or_path", None)
    assert ours == theirs
    assert set(config.auto_map) == {"AutoConfig", "AutoModel", "AutoModelForImageClassification"}


@pytest.mark.parametrize(
    "field, value",
    [
        ("num_prompt_tokens", 0),
        ("num_prompt_tokens", 2.5),
        ("num_prompt_tokens", True),
        ("num_prompt_tokens", 10),  # 7 ids and 10 prompts in 16 places
        ("prompt_depth", 0),
        ("prompt_depth", 4),  # the text encoder has 3 layers
        ("prompt_depth", "3"),
        ("prompt_position", "middle"),
        ("prompt_modality", "audio"),
        ("mapping", "quadratic"),
        ("shared_mapping", "yes"),
        ("template", "a photo"),
        ("template", "{} and {}"),
        ("class_names", ["real"]),
        ("class_names", ["real", "real"]),
        ("class_names", ["real", " "]),
        ("class_input_ids", [[97, 1, 98]]),
        ("class_input_ids", [[97, 1, 98], [97, 1, 2, 98]]),
        ("class_input_ids", [[97, 1, 98], [97, 1, 98]]),
        ("class_input_ids", [[97, 1, 98], [97, 99, 98]]),
        ("class_input_ids", [[97, 1, 98], [97, -1, 98]]),
        ("class_input_ids", [[97, 1, 2, 98], [97, 1, 3, 4]]),
        ("class_input_ids", [[97, 98, 98], [97, 1, 98]]),
        ("id2label", {0: "real"}),
        ("id2label", {1: "real", 2: "fake"}),
        ("base_model_name_or_path", 3),
        ("save_base_model", "no"),
        ("initializer_range", 0.0),
    ],
)
def test_errors_name_the_field(field, value):
    with pytest.raises(ValueError, match=f"`{field}`"):
        make_config(**{field: value})


def test_context_must_hold_the_prompts():
    assert make_config(prompt_position="context", num_prompt_tokens=4)
    with pytest.raises(ValueError, match="exceeds the 4 tokens of `template`"):
        make_config(prompt_position="context", num_prompt_tokens=5)
    assert make_config(num_prompt_tokens=5)  # inserted prompts have no such bound


def test_no_room_is_needed_without_text_prompts():
    clip_config = make_clip_config()
    clip_config.text_config.max_position_embeddings = 7
    assert make_config(clip_config=clip_config, prompt_modality="vision", num_prompt_tokens=9)
    with pytest.raises(ValueError, match="`num_prompt_tokens`"):
        make_config(clip_config=clip_config)
