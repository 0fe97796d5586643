"""Networks of the transformers package, from small configurations: text, sound, and some for pictures."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from breadth.family import SEED, Family, Inputs, Network, images, sounds, words
from breadth.vision import torchvision_models

Settings = Mapping[str, Any]
VOCABULARY, LENGTH, WIDTH = 100, 12, 64
TEXT = words(VOCABULARY, LENGTH, "input_ids", "attention_mask")
IDS = words(VOCABULARY, LENGTH, "input_ids")
PAIR = words(VOCABULARY, LENGTH, "input_ids", "decoder_input_ids")
KEPT = {"MambaForCausalLM": r"A_log|\.D$|dt_proj|conv1d"}
"""Rates of decay and steps of time: any others make a recurrence that forgets at once, or runs away"""
SCALED = {"T5Model": (r"\.q\.", 0.25)}
"""T5 does not divide the products of its attention by the root of their length: its weights start smaller"""
KEYS = {"image": "pixel_values", "sound": "input_values"}

SIZES: Settings = {
    "hidden_size": WIDTH,
    "max_position_embeddings": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 2 * WIDTH,
}
USUAL: Settings = {**SIZES, "vocab_size": VOCABULARY}
SHORT: Settings = {"vocab_size": VOCABULARY, "n_layer": 2, "n_head": 4, "use_cache": False}
PICTURE: Settings = {**SIZES, "image_size": 32, "patch_size": 8}
SPECTRUM: Settings = {**PICTURE, "max_length": 64, "num_mel_bins": 32}
TWO_STACKS: Settings = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 2 * WIDTH for side in ("encoder", "decoder")},
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
T5: Settings = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 16, "d_ff": 128, "num_layers": 2}
T5 = {**T5, "num_heads": 4, "use_cache": False}
WAVE: Settings = {
    **USUAL,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
WHISPER: Settings = {
    **TWO_STACKS,
    "num_mel_bins": 16,
    "max_source_positions": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
SEGFORMER: Settings = {
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 32,
    "num_labels": 5,
}


def _network(
    names: tuple[str, str], settings: Settings, sample: Callable[[int], Inputs], part: str = ""
) -> Callable[[], Network]:
    """A model and its configuration by the `names` of their classes; `part` of the model is exported."""

    def make() -> Network:
        if find_spec("torchvision"):  # transformers imports it where it is there
            torchvision_models()
        import transformers
        from torch import nn

        config = getattr(transformers, names[1])(**settings)
        config._attn_implementation = "eager"  # exports at every opset
        transformers.set_seed(SEED)
        inner = getattr(transformers, names[0])(config)
        inner = getattr(inner, part) if part else inner
        keys = [KEYS.get(name, name) for name in sample(0)]
        keys = ["input_features" if part and key == "input_values" else key for key in keys]
        cached = {"use_cache": False} if getattr(config, "use_cache", False) and not part else {}

        class First(nn.Module):
            """The first answer, without a cache."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *values: Any) -> Any:
                return self.inner(**dict(zip(keys, values, strict=True)), **cached, return_dict=True)[0]

        return Network(First(), sample, kept=KEPT.get(names[0], ""), scaled=SCALED.get(names[0], ("", 1.0)))

    return make


def _encoder(name: str, **settings: Any) -> Family:
    classes = (f"{name}Model", f"{name}Config")
    return Family(NAMES.get(name, name), "transformers", _network(classes, {**USUAL, **settings}, TEXT))


def _decoder(name: str, **settings: Any) -> Family:
    classes, own = (f"{name}ForCausalLM", f"{name}Config"), {**USUAL, "use_cache": False, **settings}
    return Family(NAMES.get(name, name), "transformers", _network(classes, own, IDS))


def _other(
    name: str, classes: str, settings: Settings, sample: Callable[[int], Inputs], part: str = ""
) -> Family:
    model, config = classes.split()
    return Family(name, "transformers", _network((model, config), settings, sample, part))


NAMES = {
    "Bert": "BERT",
    "Roberta": "RoBERTa",
    "Albert": "ALBERT",
    "Electra": "ELECTRA",
    "DebertaV2": "DeBERTa v2",
}
FAMILIES = (
    _encoder("Bert"),
    _encoder("Roberta"),
    _encoder("Albert", embedding_size=32),
    _encoder("Electra", embedding_size=32),
    _encoder("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    _other(
        "DistilBERT",
        "DistilBertModel DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
        TEXT,
    ),
    _other("GPT-2", "GPT2LMHeadModel GPT2Config", {**SHORT, "n_embd": WIDTH, "n_positions": 64}, IDS),
    _decoder("OPT", ffn_dim=128, word_embed_proj_dim=WIDTH),
    _other("BLOOM", "BloomForCausalLM BloomConfig", {**SHORT, "hidden_size": WIDTH}, IDS),
    _decoder("Llama", num_key_value_heads=2),
    _decoder("Gemma", num_key_value_heads=1, head_dim=16),
    _decoder("Qwen3", num_key_value_heads=2, head_dim=16),
    _decoder("Phi"),
    _decoder("Mamba", state_size=8),
    _other("T5", "T5Model T5Config", T5, PAIR),
    _other("BART", "BartModel BartConfig", {**TWO_STACKS, "use_cache": False}, PAIR),
    _other("Whisper encoder", "WhisperModel WhisperConfig", WHISPER, sounds(16, 100), "encoder"),
    _other("Wav2Vec2", "Wav2Vec2Model Wav2Vec2Config", WAVE, sounds(2000)),
    _other("HuBERT", "HubertModel HubertConfig", WAVE, sounds(2000)),
    _other("AST", "ASTModel ASTConfig", SPECTRUM, sounds(64, 32)),
    _other("CLIP vision", "CLIPVisionModel CLIPVisionConfig", PICTURE, images(32)),
    _other("CLIP text", "CLIPTextModel CLIPTextConfig", {**USUAL, "eos_token_id": 2}, TEXT),
    _other("DINOv2", "Dinov2Model Dinov2Config", PICTURE, images(32)),
    _other("SegFormer", "SegformerForSemanticSegmentation SegformerConfig", SEGFORMER, images(64)),
    _other("SigLIP", "SiglipVisionModel SiglipVisionConfig", PICTURE, images(32)),
)
