"""Fresh detectors on CLIP checkpoints, adapter-sized and full checkpoints, and what each must refuse."""

import json
import shutil

import pytest
import torch
from conftest import CLASS_INPUT_IDS, END, START, make_clip_config
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from mirage_hf import MiraGeForImageDetection
from mirage_hf.adapter_checkpoint import matches_sample, sample_weights
from mirage_hf.configuration_mirage import OPENAI_CLASS_INPUT_IDS

WORDS = "a photo of an image real fake original generated".split()


@pytest.fixture
def model(clip_dir):
    torch.manual_seed(1)
    return MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS).eval()


def make_tokenizer() -> CLIPTokenizer:
    """One token a word; ids 97 and 98 begin and end, as in the tiny CLIP."""
    vocab = {word + "</w>": index for index, word in enumerate(WORDS)}
    vocab |= {letter: 20 + index for index, letter in enumerate(sorted(set("".join(WORDS))))}
    vocab |= {letter + "</w>": 40 + index for index, letter in enumerate(sorted(set("".join(WORDS)) - {"a"}))}
    vocab |= {"<|startoftext|>": START, "<|endoftext|>": END}
    merges, known = [], set(vocab)
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
                known.add("".join(pair))
            parts = ["".join(pair), *parts[2:]]
    for index, token in enumerate(sorted(known - set(vocab))):
        vocab[token] = 60 + index
    return CLIPTokenizer(vocab=vocab, merges=merges)


def logits(model, pixel_values):
    with torch.no_grad():
        return model.eval()(pixel_values).logits


def test_fresh_detector_has_clips_weights_and_frozen_encoders(model, clip_dir):
    clip = CLIPModel.from_pretrained(clip_dir)
    for name, parameter in model.clip.named_parameters():
        assert torch.equal(parameter, clip.get_parameter(name)) and not parameter.requires_grad
    assert all(parameter.requires_grad for parameter in model.prompt_learner.parameters())
    assert 0.01 < model.prompt_learner.text_prompts.std() < 0.03
    torch.manual_seed(1)
    again = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    assert torch.equal(again.prompt_learner.text_prompts, model.prompt_learner.text_prompts)


def test_class_prompts_come_from_the_checkpoints_tokenizer(clip_dir, tmp_path):
    shutil.copytree(clip_dir, tmp_path / "clip")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "clip")
    model = MiraGeForImageDetection.from_clip(tmp_path / "clip")
    expected = [[START, *(WORDS.index(w) for w in f"a photo of a {name}".split()), END] for name in ("real", "fake")]
    assert model.config.class_input_ids == expected
    other = MiraGeForImageDetection.from_clip(
        tmp_path / "clip", template="an {} image", class_names=["original", "generated"], num_prompt_tokens=1
    )
    assert other.config.class_input_ids[0][1:-1] == [WORDS.index(w) for w in "an original image".split()]
    with pytest.raises(ValueError, match="does not know all words of 'a zebra'"):
        model.set_class_prompts(tokenizer, "a {}", ["zebra", "fake"])
    model.set_class_prompts(tokenizer, "an {} image", ["original", "generated"])
    assert model.config.class_input_ids == other.config.class_input_ids


def test_without_a_tokenizer_a_vocabulary_of_its_own_is_refused(clip_dir):
    with pytest.raises(ValueError, match="pass `tokenizer` or `class_input_ids`"):
        MiraGeForImageDetection.from_clip(clip_dir)


def test_default_class_prompts_need_no_tokenizer(tmp_path):
    config = make_clip_config(eos_token_id=2)
    config.text_config.vocab_size = 49408
    CLIPModel(config).save_pretrained(tmp_path)
    model = MiraGeForImageDetection.from_clip(tmp_path)
    assert model.config.class_input_ids == OPENAI_CLASS_INPUT_IDS
    for fields in ({"template": "an image of a {}"}, {"class_names": ["original", "generated"]}):
        with pytest.raises(ValueError, match="no tokenizer to read `template` and `class_names` with"):
            MiraGeForImageDetection.from_clip(tmp_path, **fields)


@pytest.mark.parametrize("eos_token_id", [2, 49407])
def test_openai_vocabulary_needs_no_tokenizer_and_both_end_ids_agree(tmp_path, eos_token_id):
    features = []
    for value in (eos_token_id, 49407):
        config = make_clip_config()
        config.text_config.vocab_size, config.text_config.eos_token_id = 49408, value
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(tmp_path / str(value))
        torch.manual_seed(1)
        model = MiraGeForImageDetection.from_clip(tmp_path / str(value))
        assert model.config.clip_config.text_config.eos_token_id == value
        assert model.config.class_input_ids[1] == [49406, 320, 1125, 539, 320, 5777, 49407]
        features.append(model.get_text_features())
    assert torch.equal(*features)


def test_adapter_round_trip(model, tmp_path, pixel_values):
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == {f"prompt_learner.{name}" for name in model.prompt_learner.state_dict()}
    loaded = MiraGeForImageDetection.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, pixel_values), logits(model, pixel_values))
    assert not any(parameter.requires_grad for parameter in loaded.clip.parameters())
    loaded.save_pretrained(tmp_path / "again")  # still an adapter
    assert (tmp_path / "again" / "model.safetensors").stat().st_size == (tmp_path / "model.safetensors").stat().st_size


def test_full_checkpoint_on_request(model, tmp_path, clip_dir, pixel_values):
    model.config.save_base_model = True
    model.save_pretrained(tmp_path)
    loaded = MiraGeForImageDetection.from_pretrained(tmp_path, base_model_name_or_path="nowhere")
    torch.testing.assert_close(logits(loaded, pixel_values), logits(model, pixel_values), atol=1e-5, rtol=0)
    assert not any(parameter.requires_grad for parameter in loaded.clip.parameters())


def test_changed_encoders_are_saved_with_the_rest(model, tmp_path, pixel_values):
    with torch.no_grad():
        model.clip.vision_model.encoder.layers[0].mlp.fc1.weight.mul_(1.1)
    model.save_pretrained(tmp_path)
    loaded = MiraGeForImageDetection.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, pixel_values), logits(model, pixel_values), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_model_still_saves_an_adapter(model, tmp_path, dtype):
    assert matches_sample(model.clip, sample_weights(model.clip))
    model.to(dtype).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not any(name.startswith("clip.") for name in saved)
    assert {value.dtype for value in saved.values()} == {dtype}


def test_base_may_lie_beside_the_adapter(model, tmp_path, clip_dir, pixel_values):
    shutil.copytree(clip_dir, tmp_path / "clip")
    model.config.base_model_name_or_path = "../clip"
    model.save_pretrained(tmp_path / "adapter")
    loaded = MiraGeForImageDetection.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(loaded, pixel_values), logits(model, pixel_values))


def test_missing_base_is_named_with_the_way_out(model, tmp_path, clip_dir, pixel_values):
    model.config.base_model_name_or_path = str(tmp_path / "gone")
    model.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="gone.*base_model_name_or_path"):
        MiraGeForImageDetection.from_pretrained(tmp_path)
    loaded = MiraGeForImageDetection.from_pretrained(tmp_path, base_model_name_or_path=clip_dir)
    assert torch.equal(logits(loaded, pixel_values), logits(model, pixel_values))


def test_adapter_without_a_named_base_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["base_model_name_or_path"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no `base_model_name_or_path`"):
        MiraGeForImageDetection.from_pretrained(tmp_path)


def test_another_base_of_the_same_shape_is_refused(model, tmp_path, pixel_values):
    torch.manual_seed(9)
    CLIPModel(make_clip_config()).save_pretrained(tmp_path / "other")
    model.config.base_model_name_or_path = str(tmp_path / "other")
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="base_model_fingerprint"):
        MiraGeForImageDetection.from_pretrained(tmp_path / "adapter")
    accepted = MiraGeForImageDetection.from_pretrained(tmp_path / "adapter", base_model_fingerprint=None)
    assert (logits(accepted, pixel_values) - logits(model, pixel_values)).abs().max() > 1e-2


def test_config_fields_are_checked_with_the_backbone(clip_dir):
    with pytest.raises(ValueError, match="`prompt_depth`"):
        MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS, prompt_depth=4)


@pytest.mark.parametrize("base", [True, False])
def test_baked_round_trip(model, tmp_path, pixel_values, base):
    expected = logits(model, pixel_values)
    model.config.save_base_model = base
    model.bake().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not any("text_model" in name or "prompt_learner" in name for name in saved)
    assert base == any(name.startswith("clip.") for name in saved)
    loaded = MiraGeForImageDetection.from_pretrained(tmp_path)
    assert loaded.config.baked and loaded.clip.text_model is None
    torch.testing.assert_close(logits(loaded, pixel_values), expected, atol=1e-6, rtol=0)


def test_portable_checkpoints_name_no_folder_of_this_machine(model, clip_dir, tmp_path):
    names = ("base_model_name_or_path", "base_model_fingerprint", "save_base_model")
    before = {name: getattr(model.config, name) for name in names}
    with model.portable():
        model.save_pretrained(tmp_path)
    assert {name: getattr(model.config, name) for name in names} == before
    assert before["base_model_name_or_path"] == str(clip_dir) and before["base_model_fingerprint"]
    assert str(clip_dir) not in (tmp_path / "config.json").read_text()
    loaded = MiraGeForImageDetection.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
