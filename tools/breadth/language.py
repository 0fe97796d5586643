"""Networks of the transformers package, made from small configurations: text, sound, and some for pictures."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from breadth.family import Family, Inputs, Network, images, sounds, words
from breadth.vision import torchvision_models

VOCABULARY, LENGTH, WIDTH = 100, 12, 64
TEXT = words(VOCABULARY, LENGTH, "input_ids", "attention_mask")
IDS = words(VOCABULARY, LENGTH, "input_ids")
USUAL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "max_position_embeddings": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 2 * WIDTH,
}


def _network(model: str, config: str, settings: Mapping[str, Any], sample: Callable[[int], Inputs], part: str = "") -> Callable[[], Network]:
    """A model class with a small configuration; `part` is the path of what is exported of it."""

    def make() -> Network:
        if find_spec("torchvision"):  # transformers imports it where it is there
            torchvision_models()
        import transformers
        from torch import nn

        chosen = getattr(transformers, config)(**settings)
        # The plain form of attention exports at every opset.
        chosen._attn_implementation = "eager"
        inner = getattr(transformers, model)(chosen)
        for name in filter(None, part.split(".")):
            inner = getattr(inner, name)
        names = list(sample(0))
        keys = {"image": "pixel_values", "sound": "input_values" if "Wav" in model or "Hubert" in model or "AST" in model else "input_features"}

        class First(nn.Module):
            """The first answer, without a cache."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *values):  # noqa: ANN002, ANN202
                fed = {keys.get(name, name): value for name, value in zip(names, values, strict=True)}
                cached = {"use_cache": False} if getattr(chosen, "use_cache", False) else {}
                return self.inner(**fed, **cached, return_dict=True)[0]

        return Network(First(), sample)

    return make


def _encoder(model: str, config: str, **settings: Any) -> Callable[[], Network]:
    return _network(model, config, {**USUAL, **settings}, TEXT)


def _decoder(model: str, config: str, **settings: Any) -> Callable[[], Network]:
    return _network(model, config, {**USUAL, "use_cache": False, **settings}, IDS)


VISION = {**{k: v for k, v in USUAL.items() if k != "vocab_size"}, "image_size": 32, "patch_size": 8}
SEQ = {"vocab_size": VOCABULARY, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
       "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "use_cache": False, "pad_token_id": 0}
PAIR = words(VOCABULARY, LENGTH, "input_ids", "decoder_input_ids")
T5 = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "use_cache": False}
WAVE = {**USUAL, "conv_dim": (32, 32, 32), "conv_stride": (5, 4, 2), "conv_kernel": (10, 8, 4),
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 3}
WHISPER = {"vocab_size": VOCABULARY, "num_mel_bins": 16, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2,
           "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
           "max_source_positions": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SEGFORMER = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 32, "num_labels": 5}
DETR = {"d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 8}  # fmt: skip

FAMILIES = (
    Family("BERT", "transformers", _encoder("BertModel", "BertConfig")),
    Family("RoBERTa", "transformers", _encoder("RobertaModel", "RobertaConfig")),
    Family("ALBERT", "transformers", _encoder("AlbertModel", "AlbertConfig", embedding_size=32)),
    Family("ELECTRA", "transformers", _encoder("ElectraModel", "ElectraConfig", embedding_size=32)),
    Family("DeBERTa v2", "transformers", _encoder("DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["p2c", "c2p"])),
    Family("DistilBERT", "transformers", _network("DistilBertModel", "DistilBertConfig", {"vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}, TEXT)),
    Family("GPT-2", "transformers", _network("GPT2LMHeadModel", "GPT2Config", {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "use_cache": False}, IDS)),
    Family("OPT", "transformers", _decoder("OPTForCausalLM", "OPTConfig", ffn_dim=128, word_embed_proj_dim=WIDTH)),
    Family("BLOOM", "transformers", _network("BloomForCausalLM", "BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4, "use_cache": False}, IDS)),
    Family("Llama", "transformers", _decoder("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2)),
    Family("Gemma", "transformers", _decoder("GemmaForCausalLM", "GemmaConfig", num_key_value_heads=1, head_dim=16)),
    Family("Qwen3", "transformers", _decoder("Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=2, head_dim=16)),
    Family("Phi", "transformers", _decoder("PhiForCausalLM", "PhiConfig")),
    Family("Mixtral", "transformers", _decoder("MixtralForCausalLM", "MixtralConfig", num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2)),
    Family("Mamba", "transformers", _decoder("MambaForCausalLM", "MambaConfig", state_size=8)),
    Family("T5", "transformers", _network("T5Model", "T5Config", T5, PAIR)),
    Family("BART", "transformers", _network("BartModel", "BartConfig", SEQ, PAIR)),
    Family("Whisper encoder", "transformers", _network("WhisperModel", "WhisperConfig", WHISPER, sounds(16, 100), "encoder")),
    Family("Wav2Vec2", "transformers", _network("Wav2Vec2Model", "Wav2Vec2Config", WAVE, sounds(2000))),
    Family("HuBERT", "transformers", _network("HubertModel", "HubertConfig", WAVE, sounds(2000))),
    Family("AST", "transformers", _network("ASTModel", "ASTConfig", {**VISION, "max_length": 64, "num_mel_bins": 32}, sounds(64, 32))),
    Family("CLIP vision", "transformers", _network("CLIPVisionModel", "CLIPVisionConfig", VISION, images(32))),
    Family("CLIP text", "transformers", _network("CLIPTextModel", "CLIPTextConfig", {**USUAL, "eos_token_id": 2}, TEXT)),
    Family("DINOv2", "transformers", _network("Dinov2Model", "Dinov2Config", VISION, images(32))),
    Family("SegFormer", "transformers", _network("SegformerForSemanticSegmentation", "SegformerConfig", SEGFORMER, images(64))),
    Family("SigLIP", "transformers", _network("SiglipVisionModel", "SiglipVisionConfig", VISION, images(32))),
)  # fmt: skip
