"""Baselines through the training command: what each entry says, the flags it takes, and a run from data to scores."""

import json

import pytest
import torch
from conftest import make_clip_config
from reference import layer_norm, linear, transformer_layer
from test_baseline_models import OVERRIDES
from test_pretrained_mirage import make_tokenizer
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForImageClassification, CLIPModel, set_seed
from transformers.image_utils import OPENAI_CLIP_MEAN

from mirage_hf import BaselineForImageDetection, MiraGeForImageDetection
from mirage_hf.augmentations import AugmentationConfig
from mirage_hf.baselines import BASELINES, METHODS
from mirage_hf.data import load_detection_dataset
from mirage_hf.image_processing import EvalTransform
from mirage_hf.prediction import predict_scores
from mirage_hf.run_args import ModelArguments, parse_run_args
from mirage_hf.training_run import load_model, run_training

# The tiny CLIP's three text layers of 16 positions are too few for CoOp's 16 tokens and MaPLe's nine layers.
FEWER = {"coop": ["--num_prompt_tokens", 4], "maple": ["--prompt_depth", 3], "lora": ["--lora_rank", 2]}
DATA = ["--data", "images", "--use_cpu"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny CLIP with its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    CLIPModel(make_clip_config()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def backbone_flags(method, base):
    if method in OVERRIDES:
        return ["--backbone_overrides", json.dumps(OVERRIDES[method])]
    return ["--model_name_or_path", base]


def arguments(method, base, data, output_dir, *more):
    flags = ["--method", method, *backbone_flags(method, base), "--data", data, "--output_dir", output_dir]
    options = "--use_cpu --per_device_train_batch_size 8 --max_steps 2 --warmup_epochs 0 --disable_tqdm true"
    flags += [*options.split(), "--learning_rate", 0.01, *FEWER.get(method, []), *more]
    return parse_run_args([str(flag) for flag in flags])


def model_arguments(method, base, *more):
    flags = ["--method", method, *backbone_flags(method, base), *FEWER.get(method, []), *more, *DATA]
    return parse_run_args([str(flag) for flag in flags])[0]


# --------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("method", [name for name in METHODS if name != "mirage"])
def test_one_command_trains_saves_and_scores(method, base, pair, tmp_path):
    out = tmp_path / "out"
    flags = ["--eval_split", "train", "--threshold_fpr", 0.2]  # without splits in the layout, all is one
    metrics = run_training(*arguments(method, base, pair, out, *flags))
    assert 0 <= metrics["eval_accuracy"] <= 1
    assert ("train_loss" in metrics) == (method != "zero_shot")
    model = AutoModelForImageClassification.from_pretrained(out)
    family = BASELINES[method].family
    assert type(model) is (MiraGeForImageDetection if family == "prompts" else BaselineForImageDetection)
    assert model.config.threshold == metrics["threshold"]
    assert not (out / "adapter_config.json").exists()  # nothing is left to peft
    processor = AutoImageProcessor.from_pretrained(out)
    assert processor.crop_size["height"] == 32
    normalisation = OPENAI_CLIP_MEAN if family != "classifier" else [0.485, 0.456, 0.406]
    assert processor.image_mean == pytest.approx(normalisation)
    assert processor.do_resize == (BASELINES[method].arguments.get("geometry") != "crop")
    scores = predict_scores(model, load_detection_dataset(pair), EvalTransform(processor), quiet=True).scores
    assert scores.shape == (24,) and 0 <= scores.min() <= scores.max() <= 1
    fresh = load_model(model_arguments(method, base)).state_dict()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, fresh[name])]
    assert bool(moved) == (method != "zero_shot")
    if method == "lora":
        assert all("q_proj" in name or "v_proj" in name for name in moved)


def test_going_on_with_a_checkpoint(base, pair, tmp_path):
    first = tmp_path / "first"
    run_training(*arguments("adapter", base, pair, first))
    start = BaselineForImageDetection.from_pretrained(first)
    again = load_model(ModelArguments(method="adapter", model_name_or_path=str(first)))
    for name, value in start.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {"adapter.down.weight", "adapter.up.weight"}
    with pytest.raises(ValueError, match="is a checkpoint of method adapter, not of lora"):
        load_model(ModelArguments(method="lora", model_name_or_path=str(first), lora_rank=2))
    with pytest.raises(ValueError, match="is a checkpoint of method adapter, not of mirage"):
        load_model(ModelArguments(model_name_or_path=str(first)))
    with pytest.raises(ValueError, match="texts of its own; leave out template"):
        load_model(ModelArguments(method="adapter", model_name_or_path=str(first), template="{}"))
    run_training(*arguments("coop", base, pair, tmp_path / "coop"))
    prompted = str(tmp_path / "coop")
    assert load_model(ModelArguments(method="coop", model_name_or_path=prompted)).config.num_prompt_tokens == 4
    with pytest.raises(ValueError, match="is no checkpoint of maple: its `prompt_modality` is another"):
        load_model(ModelArguments(method="maple", model_name_or_path=prompted))
    with pytest.raises(ValueError, match="is a mirage checkpoint; method zero_shot needs one of clip"):
        load_model(ModelArguments(method="zero_shot", model_name_or_path=prompted))


def test_large_evaluation_images_are_tiled(base, pair, tmp_path):
    flags = ["--eval_size", 40, "--geometry", "crop"]
    run_training(*arguments("npr", base, pair, tmp_path, *flags))
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.tile_images and model.config.image_size == 32
    assert AutoImageProcessor.from_pretrained(tmp_path).crop_size["height"] == 40
    with pytest.raises(ValueError, match="`eval_size` must be at least the encoder's 32"):
        run_training(*arguments("npr", base, pair, tmp_path, "--eval_size", 16))


# ----------------------------------------------------------------------------------------------------- prompt methods


def test_coop_is_clip_with_a_longer_vocabulary(base, pixel_values):
    """Its prompts are new words in front of the class name: plain CLIP reads them as such."""
    model = load_model(model_arguments("coop", base)).eval()
    with torch.no_grad():
        model.prompt_learner.text_prompts[0].normal_(std=0.5)
        prompts = model.prompt_learner.text_prompts[0]  # (m, d)
        words = model.clip.text_model.embeddings.token_embedding.weight
        clip = CLIPModel.from_pretrained(base).eval()
        clip.text_model.embeddings.token_embedding = torch.nn.Embedding.from_pretrained(torch.cat([words, prompts]))
        start, real, end = make_tokenizer()("real").input_ids
        fake = make_tokenizer()("fake").input_ids[1]
        new = list(range(len(words), len(words) + 4))
        ids = torch.tensor([[start, *new, word, end] for word in (real, fake)])
        expected = clip(input_ids=ids, pixel_values=pixel_values).logits_per_image
        torch.testing.assert_close(model(pixel_values).logits, expected, atol=1e-5, rtol=0)
        without = clip(input_ids=ids[:, [0, 5, 6]], pixel_values=pixel_values).logits_per_image
        assert (without - expected).abs().max() > 1e-3
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"prompt_learner.text_prompts"}


def test_maple_by_hand(base, pixel_values):
    """Prompts in place of two words and, mapped, behind the patches; new ones in every layer."""
    model = load_model(model_arguments("maple", base)).eval()
    with torch.no_grad():
        for parameter in model.prompt_learner.parameters():
            parameter.normal_(std=0.3)
        text, vision, learner = model.clip.text_model, model.clip.vision_model, model.prompt_learner
        x = text.embeddings.token_embedding(torch.tensor(model.config.class_input_ids))
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        for j, layer in enumerate(text.encoder.layers):
            x = torch.cat([x[:, :1], learner.text_prompts[j].expand(2, -1, -1), x[:, 3:]], dim=1)
            x = x + text.embeddings.position_embedding.weight[: x.shape[1]] if j == 0 else x
            x = transformer_layer(x, layer, 4, mask)
        texts = linear(layer_norm(x[:, -1], text.final_layer_norm), model.clip.text_projection)
        patches = vision.embeddings(pixel_values)
        for j, layer in enumerate(vision.encoder.layers):
            if j < 3:
                mapped = linear(learner.text_prompts[j], learner.mappings[j]).expand(len(pixel_values), -1, -1)
                patches = torch.cat([patches[:, :17], mapped], dim=1)
                patches = layer_norm(patches, vision.pre_layrnorm) if j == 0 else patches
            patches = transformer_layer(patches, layer, 4, 0.0)
        images = linear(layer_norm(patches[:, 0], vision.post_layernorm), model.clip.visual_projection)
        expected = model.clip.logit_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
        torch.testing.assert_close(model(pixel_values).logits, expected, atol=1e-5, rtol=0)
        plain = CLIPModel.from_pretrained(base)(torch.tensor(model.config.class_input_ids), pixel_values)
        assert (plain.logits_per_image - expected).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["coop", "maple"])
def test_all_prompts_move_and_clip_does_not(method, base, pair, tmp_path):
    model_args, data, args = arguments(method, base, pair, tmp_path, "--optim", "adamw_torch", "--seed", 3)
    set_seed(3)
    before = load_model(model_args).state_dict()
    run_training(model_args, data, args)
    after = AutoModelForImageClassification.from_pretrained(tmp_path).state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("clip."), name


# ----------------------------------------------------------------------------------------------------------- arguments


def test_entries():
    assert set(METHODS) == {"mirage", *BASELINES} and len(METHODS) == 12
    for baseline in BASELINES.values():
        assert baseline.sources and all(url.startswith("https://arxiv.org/abs/") for url in baseline.sources)
        assert baseline.family in ("prompts", "clip", "classifier")
        assert set(baseline.fixed) <= set(baseline.prompts)
        assert bool(baseline.prompts) == (baseline.family == "prompts")


@pytest.mark.parametrize("method", list(BASELINES))
def test_defaults_of_a_method_lie_below_recipe_and_flags(method, tmp_path):
    name = [] if method in OVERRIDES else ["--model_name_or_path", "org/clip"]
    model, data, args = parse_run_args(["--method", method, *name, *DATA])
    assert model.method == method and args.discriminative_weight == 0
    given = BASELINES[method].arguments
    for holder in (model, data, args):
        for key in given.keys() & vars(holder).keys() - {"augmentation"}:
            assert getattr(holder, key) == given[key], key
    assert data.augmentation_config == AugmentationConfig(**given.get("augmentation", {}))
    assert args.learning_rate == given.get("learning_rate", 0.002)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"method: {method}\nmodel_name_or_path: org/clip\ndata: images\nlearning_rate: 0.5\nuse_cpu: true\n"
        "augmentation: {jpeg_probability: 0.25}\n"
    )
    model, data, args = parse_run_args([str(recipe), "--weight_decay", "0.125"])
    assert (model.method, args.learning_rate, args.weight_decay) == (method, 0.5, 0.125)
    assert data.augmentation_config == AugmentationConfig(jpeg_probability=0.25)
    assert parse_run_args([str(recipe), "--method", "mirage"])[2].discriminative_weight == 0.5


def test_cnndets_augmentation():
    config = parse_run_args(["--method", "resnet50", *DATA])[1].augmentation_config
    assert (config.geometry, config.blur_probability, config.jpeg_probability) == ("crop", 0.5, 0.5)
    assert (config.blur_sigma, config.jpeg_quality) == ((0.0, 3.0), (30, 100))
    others = ("rotation", "brightness_contrast", "grayscale", "noise")
    assert not any(getattr(config, f"{name}_probability") for name in others)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"method": "mira"}, "`method` must be one of mirage, zero_shot"),
        ({"model_name_or_path": None}, "`model_name_or_path` must name a CLIP checkpoint"),
        ({"method": "lora", "model_name_or_path": None, "lora_rank": 2}, "`model_name_or_path` must name"),
        ({"method": "lora"}, "`lora_rank` of method lora must be at least 1"),
        ({"method": "adapter", "lora_rank": 2}, "Method adapter has no lora_rank; leave it out"),
        ({"method": "coop", "lora_rank": 2}, "Method coop has no lora_rank"),
        ({"method": "linear_probe", "template": "{}"}, "Method linear_probe has no template"),
        ({"method": "zero_shot", "num_prompt_tokens": 2}, "Method zero_shot has no num_prompt_tokens"),
        ({"method": "npr", "mapping": "mlp", "template": "{}"}, "Method npr has no mapping, template"),
        ({"method": "resnet50", "base_model_dtype": "float16"}, "has no base_model_dtype"),
        ({"method": "coop", "prompt_modality": "vision"}, "`prompt_modality` of method coop is 'text'; leave it out"),
        ({"method": "maple", "prompt_position": "inserted"}, "`prompt_position` of method maple is 'context'"),
        ({"backbone_overrides": '{"depths": [1]}'}, "`backbone_overrides` is for methods with random weights"),
        ({"method": "npr", "backbone_overrides": '{"depths": [1]}'}, "`backbone_overrides` is for"),
        ({"method": "npr", "backbone_overrides": "[1]"}, "`backbone_overrides` must be a mapping"),
    ],
)
def test_contradictions_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        ModelArguments(**({"model_name_or_path": "org/clip"} | fields))


def test_what_a_method_can_be_given():
    assert ModelArguments(
        method="zero_shot", model_name_or_path="a", class_names=["true", "made"]
    ).baseline.class_texts
    assert ModelArguments(method="maple", model_name_or_path="a", prompt_position="context").prompt_fields()
    assert ModelArguments(model_name_or_path="a").baseline is None


@pytest.mark.parametrize("method", ["coop", "full_finetuning", "npr"])
def test_a_contrastive_term_is_refused(method):
    name = [] if method == "npr" else ["--model_name_or_path", "org/clip"]
    with pytest.raises(ValueError, match=f"Method {method} has no `discriminative_weight`; leave it out"):
        parse_run_args(["--method", method, *name, *DATA, "--discriminative_weight", "0.5"])


def test_an_unknown_method_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_run_args(["--method", "mira", *DATA])
    assert "invalid choice: 'mira'" in capsys.readouterr().err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: mira\nmodel_name_or_path: org/clip\ndata: images\nuse_cpu: true\n")
    with pytest.raises(ValueError, match="`method` must be one of mirage"):
        parse_run_args([str(recipe)])
