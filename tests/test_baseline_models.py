"""The baselines' models: each against its formula written out, what is trained, and what a checkpoint restores."""

import json

import pytest
import torch
from conftest import CLASS_INPUT_IDS, END, START, make_clip_config
from safetensors.torch import save_file
from test_pretrained_mirage import make_tokenizer
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    CLIPModel,
    ResNetConfig,
    ResNetForImageClassification,
    pipeline,
)

from mirage_hf import BaselineConfig, BaselineForImageDetection
from mirage_hf.baseline_config import OWN_MODELS
from mirage_hf.baseline_models import load_univfd_head, upsampling_residual
from mirage_hf.baselines import BASELINES
from mirage_hf.image_processing import build_image_processor
from mirage_hf.modeling_mirage import cut_tiles
from mirage_hf.trainer import MiraGeTrainer
from mirage_hf.training_args import MiraGeTrainingArguments
from mirage_hf.training_run import add_lora

SMALL_RESNET = {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16, "image_size": 32}
OVERRIDES = {
    "resnet50": SMALL_RESNET,
    "npr": SMALL_RESNET,
    "swin_t": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32},
    "deit_s": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
}
CLASS_TEXTS = [name for name in OWN_MODELS if BASELINES[name].class_texts]
LABELS = torch.tensor([0, 1, 0, 1])


@pytest.fixture(scope="module")
def clip(clip_dir):
    return CLIPModel.from_pretrained(clip_dir).eval()


def make(method, clip_dir, **fields):
    torch.manual_seed(4)
    if method in OVERRIDES:
        return BaselineForImageDetection.from_classifier(method, overrides=OVERRIDES[method], **fields)
    if method != "linear_probe":
        fields = {"class_input_ids": CLASS_INPUT_IDS} | fields
    return BaselineForImageDetection.from_clip(method, clip_dir, **fields)


def make_random(method, clip_dir, **fields):
    """No parameter at a neutral value: biases, norms and the heads all matter."""
    model = make(method, clip_dir, **fields)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.startswith(("head.", "adapter.")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def logits_of(model, pixel_values):
    return model(pixel_values=pixel_values).logits


@torch.no_grad()
def features_of(clip, pixel_values):
    images = clip.get_image_features(pixel_values).pooler_output
    return images, clip.get_text_features(torch.tensor(CLASS_INPUT_IDS)).pooler_output


def cosine_logits(clip, images, texts):
    cosine = torch.stack([torch.stack([F.cosine_similarity(i, t, dim=0) for t in texts]) for i in images])
    return (clip.logit_scale.exp() * cosine).detach()


# ------------------------------------------------------------------------------------------------------------ forward


@pytest.mark.parametrize("method", ["zero_shot", "full_finetuning", "lora"])
def test_class_texts_are_clips_own_answer(method, clip, clip_dir, pixel_values):
    with torch.no_grad():
        expected = clip(input_ids=torch.tensor(CLASS_INPUT_IDS), pixel_values=pixel_values).logits_per_image
    actual = logits_of(make(method, clip_dir), pixel_values)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert (actual.flip(1) - expected).abs().max() > 1e-3  # real comes first


def test_adapter_formula(clip, clip_dir, pixel_values):
    model = make_random("adapter", clip_dir)
    clip = model.clip
    images, texts = features_of(clip, pixel_values)
    down, up = model.adapter.down.weight.detach(), model.adapter.up.weight.detach()
    assert down.shape == (24 // 4, 24) and up.shape == (24, 24 // 4)
    adapted = (up @ (down @ images.T).clamp(min=0)).clamp(min=0).T
    for ratio, close in ((0.2, True), (0.8, False)):
        expected = cosine_logits(clip, ratio * adapted + (1 - ratio) * images, texts)
        assert torch.allclose(logits_of(model, pixel_values), expected, atol=1e-5) == close
    half = make_random("adapter", clip_dir, adapter_ratio=0.5, adapter_reduction=2)
    assert half.adapter.ratio == 0.5 and half.adapter.down.out_features == 12


def test_adapter_starts_with_torchs_own_weights():
    bound = 64**-0.5
    config = make_clip_config()
    config.projection_dim = 64
    torch.manual_seed(0)
    weight = BaselineForImageDetection(
        BaselineConfig(method="adapter", backbone_config=config, class_input_ids=CLASS_INPUT_IDS)
    ).adapter.down.weight.detach()
    assert weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_linear_probe_is_a_sigmoid_on_unnormalised_features(clip, clip_dir, pixel_values):
    model = make_random("linear_probe", clip_dir)
    model.clip.load_state_dict({key: clip.state_dict()[key] for key in model.clip.state_dict()})
    images, _ = features_of(clip, pixel_values)
    weight, bias = model.head.weight.detach()[0], model.head.bias.detach()
    expected = torch.sigmoid((images * weight).sum(dim=1) + bias)
    torch.testing.assert_close(logits_of(model, pixel_values).softmax(-1)[:, 1], expected, atol=1e-6, rtol=0)
    unit = torch.sigmoid((F.normalize(images, dim=1) * weight).sum(dim=1) + bias)
    assert (unit - expected).abs().max() > 1e-3
    loss = model(pixel_values, labels=LABELS).loss
    binary = F.binary_cross_entropy(expected, LABELS.float())
    assert loss.item() == pytest.approx(binary.item(), abs=1e-6)
    assert not any("text" in name for name, _ in model.named_parameters())
    fresh = make("linear_probe", clip_dir).head
    assert fresh.bias.item() == 0 and 0.005 < fresh.weight.std() < 0.04


def test_published_head(clip, clip_dir, pixel_values, tmp_path):
    model = make("linear_probe", clip_dir)
    weights = {"weight": torch.randn(1, 24), "bias": torch.randn(1)}
    save_file(weights, tmp_path / "head.safetensors")
    load_univfd_head(model, tmp_path / "head.safetensors")
    images, _ = features_of(clip, pixel_values)
    expected = torch.sigmoid(images @ weights["weight"][0] + weights["bias"])
    torch.testing.assert_close(logits_of(model, pixel_values).softmax(-1)[:, 1], expected, atol=1e-6, rtol=0)

    torch.save(weights, tmp_path / "fc_weights.pth")
    with pytest.raises(ValueError, match="no safetensors file; convert it with .*weights_only=True"):
        load_univfd_head(model, tmp_path / "fc_weights.pth")
    save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "large.safetensors")
    with pytest.raises(ValueError, match=r"holds .*768.* needs .*24"):
        load_univfd_head(model, tmp_path / "large.safetensors")
    with pytest.raises(ValueError, match="this model is a zero_shot"):
        load_univfd_head(make("zero_shot", clip_dir), tmp_path / "head.safetensors")


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_npr_residual(size):
    images = torch.randn(2, 3, *size)
    expected = torch.zeros_like(images)
    for row in range(size[0]):
        for column in range(size[1]):
            corner = images[:, :, row - row % 2, column - column % 2]
            expected[:, :, row, column] = images[:, :, row, column] - corner
    assert torch.equal(upsampling_residual(images), expected)
    assert expected.abs().max() > 0.1


def test_npr_is_a_cut_resnet_on_residuals(clip_dir, pixel_values):
    model = make_random("npr", clip_dir)
    residual = (pixel_values - pixel_values[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)) * 2 / 3
    torch.testing.assert_close(
        logits_of(model, pixel_values), logits_of(model.classifier, residual), atol=1e-6, rtol=0
    )
    assert (logits_of(model, pixel_values) - logits_of(model.classifier, pixel_values)).abs().max() > 1e-3
    # What NPR's code has: a 3 x 3 stem, then ResNet-50's first two stages, in which 512 features end.
    with torch.device("meta"):
        full = BaselineForImageDetection(BaselineConfig(method="npr", backbone_config=BASELINES["npr"].backbone))
    shapes = {name: tuple(value.shape) for name, value in full.named_parameters()}
    assert shapes["classifier.resnet.embedder.embedder.convolution.weight"] == (64, 3, 3, 3)
    assert shapes["classifier.classifier.1.weight"] == (2, 512)


@pytest.mark.parametrize("method", ["resnet50", "swin_t", "deit_s"])
def test_classifiers_are_those_of_transformers(method, clip_dir, pixel_values, tmp_path):
    model = make_random(method, clip_dir)
    model.classifier.save_pretrained(tmp_path)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits_of(model, pixel_values), logits_of(plain, pixel_values), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("method", "millions"), [("resnet50", 23.5), ("swin_t", 27.5), ("deit_s", 21.7), ("npr", 1.4)]
)
def test_published_sizes(method, millions):
    with torch.device("meta"):
        model = BaselineForImageDetection(BaselineConfig(method=method, backbone_config=BASELINES[method].backbone))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert model.config.image_size == 224


@pytest.mark.parametrize("method", OWN_MODELS)
def test_tiles(method, clip_dir):
    """With class texts embeddings are averaged, elsewhere log-odds; a single tile changes nothing."""
    model = make_random(method, clip_dir, tile_images=True)
    pixel_values = torch.randn(2, 3, 48, 64)
    tiles = cut_tiles(pixel_values, 32)
    assert tiles.shape[1] == 4
    with torch.no_grad():
        parts = [model(tile, return_embeds=True) for tile in tiles.unbind(1)]
        actual = model(pixel_values, return_embeds=True)
        plain = make_random(method, clip_dir)
        assert torch.equal(plain(tiles[:, 0]).logits, parts[0].logits)
    if method in CLASS_TEXTS:
        embeds = F.normalize(sum(part.image_embeds for part in parts), dim=-1)
        torch.testing.assert_close(actual.image_embeds, embeds, atol=1e-6, rtol=0)
        expected = model.clip.logit_scale.exp() * embeds @ actual.text_embeds.T
    else:
        expected = sum(part.logits for part in parts) / 4
    torch.testing.assert_close(actual.logits, expected, atol=1e-5, rtol=0)
    assert (actual.logits - parts[0].logits).abs().max() > 1e-4


@pytest.mark.parametrize("method", OWN_MODELS)
def test_embeddings_are_given_on_request(method, clip_dir, pixel_values):
    model = make(method, clip_dir)
    output = model(pixel_values, return_embeds=True)
    assert output.logits.shape == (4, 2) and output.loss is None
    assert (output.text_embeds is not None) == (method in CLASS_TEXTS)
    assert (output.image_embeds is not None) == (BASELINES[method].family == "clip")
    for embeds in (output.image_embeds, output.text_embeds):
        if embeds is not None:
            torch.testing.assert_close(embeds.norm(dim=1), torch.ones(len(embeds)))
    assert list(model(pixel_values).keys()) == ["logits"]
    assert model(pixel_values, labels=LABELS, return_dict=False)[0].shape == ()


# ----------------------------------------------------------------------------------------------------------- training


def train(model, folder, **arguments):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    args = MiraGeTrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **({"learning_rate": 0.05, "warmup_epochs": 0, "discriminative_weight": 0.0} | arguments),
    )
    rows = [{"pixel_values": image, "labels": index % 2} for index, image in enumerate(images)]
    trainer = MiraGeTrainer(model=model, args=args, train_dataset=rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize("method", [name for name in OWN_MODELS if name not in ("zero_shot", "lora")])
def test_what_is_trained_moves_and_nothing_else(method, clip_dir, tmp_path, pixel_values):
    model = make_random(method, clip_dir)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = train(
        model, tmp_path / "run", optim="adamw_torch", learning_rate=0.001
    )  # moves by the smallest gradient
    prefix = {"linear_probe": "head.", "adapter": "adapter."}.get(method, "")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(prefix), name
        if not name.endswith(("k_proj.bias", "key.bias")):  # shifts all scores of a query alike: no gradient
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(entry["cross_entropy"], abs=1e-6)
    assert ("inter_class_separation" in entry) == (method in CLASS_TEXTS)

    model.eval().save_pretrained(tmp_path / "saved")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits_of(loaded, pixel_values), logits_of(model, pixel_values), atol=1e-6, rtol=0)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert str(clip_dir) not in (tmp_path / "saved" / "config.json").read_text()


def test_zero_shot_has_nothing_to_train(clip_dir):
    assert not any(parameter.requires_grad for parameter in make("zero_shot", clip_dir).parameters())


def test_lora_is_merged_when_saved(clip_dir, tmp_path, pixel_values):
    model = make("lora", clip_dir)
    start = logits_of(model, pixel_values)
    wrapped = add_lora(model, 2)
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters()}
    train(wrapped, tmp_path / "run", optim="adamw_torch", learning_rate=0.02)
    for name, parameter in wrapped.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), name
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert sum("lora_A" in name for name in before) == 2 * (3 + 4)  # query and value in every layer of both encoders
    expected = logits_of(wrapped.eval(), pixel_values)
    assert (expected - start).abs().max() > 1e-3
    wrapped.merge_and_unload().save_pretrained(tmp_path / "saved")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert type(loaded) is BaselineForImageDetection
    torch.testing.assert_close(logits_of(loaded, pixel_values), expected, atol=1e-5, rtol=0)


def test_the_contrastive_term_is_refused(clip_dir, tmp_path):
    with pytest.raises(ValueError, match="set `discriminative_weight` to 0"):
        train(make("full_finetuning", clip_dir), tmp_path, discriminative_weight=0.5)


# ------------------------------------------------------------------------------------------------- making and loading


def test_tokenizer_of_the_checkpoint_gives_the_texts(clip_dir, tmp_path):
    CLIPModel.from_pretrained(clip_dir).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    model = BaselineForImageDetection.from_clip("zero_shot", tmp_path, template="{}", class_names=["real", "fake"])
    ids = model.config.class_input_ids
    assert [row[0] for row in ids] == [START] * 2 and [row[-1] for row in ids] == [END] * 2 and len(ids[0]) == 3
    assert model.class_input_ids.tolist() == ids
    with pytest.raises(ValueError, match="has no tokenizer"):
        BaselineForImageDetection.from_clip("zero_shot", clip_dir)


def test_given_weights_without_their_last_layer(tmp_path, pixel_values):
    config = ResNetConfig(hidden_sizes=[16, 32], depths=[1, 1], embedding_size=16, num_labels=7)
    given = ResNetForImageClassification(config)
    given.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = BaselineForImageDetection.from_classifier("resnet50", tmp_path)
    assert model.classifier.classifier[1].weight.shape == (2, 32)
    for name, value in given.resnet.state_dict().items():
        assert torch.equal(model.classifier.resnet.state_dict()[name], value), name
    config.num_labels = 2  # two classes whose order nobody knows
    two = ResNetForImageClassification(config)
    two.save_pretrained(tmp_path / "two")
    drawn = BaselineForImageDetection.from_classifier("resnet50", tmp_path / "two")
    assert not torch.equal(drawn.classifier.classifier[1].weight, two.classifier[1].weight)
    assert str(tmp_path) not in json.dumps(model.config.to_dict(), default=str)
    with pytest.raises(ValueError, match="is a resnet checkpoint; method swin_t needs one of swin"):
        BaselineForImageDetection.from_classifier("swin_t", tmp_path)
    with pytest.raises(ValueError, match="is a resnet checkpoint; method lora needs one of clip"):
        BaselineForImageDetection.from_clip("lora", tmp_path)
    with pytest.raises(ValueError, match="npr starts from random weights"):
        BaselineForImageDetection.from_classifier("npr", tmp_path)


def test_pipeline(clip_dir, images, tmp_path):
    model = make("zero_shot", clip_dir)
    model.save_pretrained(tmp_path)
    build_image_processor(image_size=32).save_pretrained(tmp_path)
    answers = pipeline("image-classification", model=str(tmp_path), batch_size=2)(images[:3])
    assert all({answer["label"] for answer in three} == {"real", "fake"} for three in answers)


def test_incomplete_checkpoints_are_refused(clip_dir, tmp_path):
    model = make("linear_probe", clip_dir)
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if "head" not in k})
    with pytest.raises(ValueError, match="lacks 2 weights, head.bias"):
        BaselineForImageDetection.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"method": "coop"}, "`method` must be one of"),
        ({"method": "npr"}, "`backbone_config` of method npr must be that of a resnet model, got clip"),
        ({"threshold": 1.5}, "`threshold`"),
        ({"tile_images": 2}, "`tile_images`"),
        ({"id2label": {0: "real"}}, "`id2label`"),
        ({"adapter_ratio": 1.5}, "`adapter_ratio`"),
        ({"adapter_reduction": 0}, "`adapter_reduction`"),
        ({"class_input_ids": [[1, 2, 3], [1, 2, 3]]}, "`class_input_ids`"),
        ({"template": "a photo"}, "`template`"),
    ],
)
def test_bad_fields_are_named(fields, match):
    with pytest.raises(ValueError, match=match):
        BaselineConfig(**fields)


def test_overrides_must_be_fields_of_the_backbone():
    with pytest.raises(ValueError, match="`backbone_overrides` holds depth, which method resnet50 cannot set"):
        BaselineForImageDetection.from_classifier("resnet50", overrides={"depth": 3})
    with pytest.raises(ValueError, match="`backbone_overrides` holds model_type"):
        BaselineForImageDetection.from_classifier("resnet50", overrides={"model_type": "swin"})
