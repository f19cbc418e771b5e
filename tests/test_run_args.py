"""Flags and recipes: what is read, what overrides what, and what is refused."""

from pathlib import Path

import pytest

from mirage_hf.augmentations import AugmentationConfig
from mirage_hf.run_args import parse_run_args

RECIPES = Path(__file__).parent.parent / "training" / "recipes"
REQUIRED = ["--model_name_or_path", "org/clip", "--data", "images", "--use_cpu"]


def test_flags_alone():
    model, data, args = parse_run_args([*REQUIRED, "--generators", "a", "b", "--class_names", "true", "made"])
    assert model.model_name_or_path == "org/clip" and data.data == "images"
    assert data.generators == ["a", "b"]
    assert model.prompt_fields() == {"class_names": ["true", "made"]}
    assert args.learning_rate == 0.002 and args.optim == "sgd"
    assert data.augmentation_config == AugmentationConfig()
    assert data.loading_options()["check_images"] == "header"


def test_flags_override_a_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model_name_or_path: org/clip\ndata: images\nlearning_rate: 1e-4\nprompt_depth: 3\nfp16: false\n"
        "memory_as_anchors: true\naugmentation: {jpeg_probability: 0.25, jpeg_quality: [60, 90]}\nuse_cpu: true\n"
    )
    model, data, args = parse_run_args([str(recipe)])
    assert (args.learning_rate, args.memory_as_anchors, model.prompt_depth) == (1e-4, True, 3)
    assert data.augmentation_config == AugmentationConfig(jpeg_probability=0.25, jpeg_quality=(60, 90))
    model, data, args = parse_run_args([str(recipe), "--learning_rate", "0.5", "--data", "others"])
    assert (args.learning_rate, model.prompt_depth, data.data) == (0.5, 3, "others")


@pytest.mark.parametrize(
    "text, match",
    [
        ("- a list", "name: value"),
        ("model_name_or_path: x\nlerning_rate: 1", "lerning_rate"),
        ("model_name_or_path: x\ndata: y\naugmentation: {jpeg: 1}", "`augmentation`"),
        ("model_name_or_path: x\ndata: y\naugmentation: {jpeg_probability: 2}", "`jpeg_probability`"),
        ("model_name_or_path: x\ndata: y\nlora_rank: -1", "`lora_rank`"),
        ("model_name_or_path: x\ndata: y\ngenerator_repeats: {a: 0}", "`generator_repeats`"),
        ("model_name_or_path: x\ndata: y\ngenerator_repeats: [a]", "`generator_repeats` must be a mapping"),
        ("model_name_or_path: x\ndata: y\ntemperature: 0.0\nuse_cpu: true", "`temperature`"),
    ],
)
def test_a_bad_recipe_is_named(tmp_path, text, match):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(ValueError, match=match):
        parse_run_args([str(recipe)])


def test_bad_json_is_named():
    with pytest.raises(ValueError, match="`augmentation` is not valid JSON"):
        parse_run_args([*REQUIRED, "--augmentation", "{jpeg"])


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_readable(recipe):
    model, data, args = parse_run_args([str(recipe), "--data", "images", "--fp16", "false", "--use_cpu"])
    assert data.data == "images" and args.output_dir.startswith("outputs/")


def test_the_papers_recipes_keep_its_protocols():
    overrides = ["--data", "images", "--fp16", "false", "--use_cpu"]
    _, genimage, args = parse_run_args([str(RECIPES / "genimage_sdv14.yaml"), *overrides])
    assert (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size) == (0.002, 10, 128)
    assert genimage.generators == ["stable_diffusion_v_1_4"] and genimage.max_per_class is None
    _, ufd, _ = parse_run_args([str(RECIPES / "ufd_progan_20k.yaml"), *overrides])
    assert ufd.generators == ["progan"] and ufd.max_per_class == 10_000
