"""Small models of Hugging Face's architectures with random weights, for `run_table.py`. They need transformers."""

# mypy: allow-subclassing-any, no-warn-return-any

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

hf: Any = importlib.import_module("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def made(model: Callable[[Any], Any], config: Any) -> Any:
    """Return the model with the same random weights at every call."""
    torch.manual_seed(0)
    return model(config).eval()


def bert() -> Any:
    return made(hf.BertForSequenceClassification, hf.BertConfig(**SMALL, num_labels=3))


def roberta() -> Any:
    return made(hf.RobertaModel, hf.RobertaConfig(**SMALL))


def distilbert() -> Any:
    sizes = {"vocab_size": 99, "max_position_embeddings": 64}
    config = hf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, **sizes)
    return made(hf.DistilBertForTokenClassification, config)


def albert() -> Any:
    return made(hf.AlbertModel, hf.AlbertConfig(**SMALL, embedding_size=16))


def deberta() -> Any:
    config = hf.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8)
    return made(hf.DebertaV2Model, config)


def mpnet() -> Any:
    return made(hf.MPNetModel, hf.MPNetConfig(**SMALL))


def modernbert() -> Any:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = hf.ModernBertConfig(**SMALL, **special)
    return made(hf.ModernBertModel, config)


def vit() -> Any:
    return made(hf.ViTForImageClassification, hf.ViTConfig(**IMAGE, num_labels=5))


def deit() -> Any:
    return made(hf.DeiTModel, hf.DeiTConfig(**IMAGE))


def dinov2() -> Any:
    """It resizes its position embeddings to the image."""
    return made(hf.Dinov2Model, hf.Dinov2Config(**IMAGE))


def swin() -> Any:
    config = hf.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return made(hf.SwinModel, config)


def convnext() -> Any:
    config = hf.ConvNextConfig(hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 1, 1], num_labels=4)
    return made(hf.ConvNextForImageClassification, config)


def segformer() -> Any:
    config = hf.SegformerConfig(
        num_encoder_blocks=4,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 16, 16],
        num_attention_heads=[1, 2, 2, 2],
        decoder_hidden_size=16,
        num_labels=3,
    )
    return made(hf.SegformerForSemanticSegmentation, config)


def depth_anything() -> Any:
    """Depth Anything with a backbone of two layers."""
    backbone = hf.Dinov2Config(**IMAGE, out_features=["stage1", "stage2"], reshape_hidden_states=False)
    config = hf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        patch_size=8,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    return made(hf.DepthAnythingForDepthEstimation, config)


def detr() -> Any:
    backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = hf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
        num_labels=3,
    )
    return made(hf.DetrForObjectDetection, config)


def sam() -> Any:
    """SAM's image encoder."""
    config = hf.SamVisionConfig(
        hidden_size=16,
        output_channels=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=5,
        global_attn_indexes=[1],
        mlp_dim=24,
    )
    return made(hf.SamVisionModel, config)


def whisper() -> Any:
    """Whisper's encoder."""
    config = hf.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=16,
        max_source_positions=50,
        vocab_size=99,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return made(hf.WhisperModel, config).encoder


def wav2vec2() -> Any:
    """It takes 400 samples at least."""
    config = hf.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        vocab_size=32,
    )
    return made(hf.Wav2Vec2ForCTC, config)


def audio_spectrogram() -> Any:
    config = hf.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        max_length=32,
        num_mel_bins=16,
    )
    return made(hf.ASTModel, config)


def t5() -> Any:
    """T5's encoder."""
    config = hf.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=99)
    return made(hf.T5EncoderModel, config)


def bart() -> Any:
    """An encoder and a decoder, without a cache."""
    config = hf.BartConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        vocab_size=99,
        max_position_embeddings=64,
        use_cache=False,
    )
    return made(hf.BartModel, config)


def clip_text() -> Any:
    config = hf.CLIPTextConfig(**SMALL, projection_dim=16, eos_token_id=98, bos_token_id=97, pad_token_id=1)
    return made(hf.CLIPTextModelWithProjection, config)


def clip_vision() -> Any:
    return made(hf.CLIPVisionModelWithProjection, hf.CLIPVisionConfig(**IMAGE, projection_dim=16))


def llama() -> Any:
    return made(hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL, num_key_value_heads=2, use_cache=False))


def llama_with_cache() -> Any:
    """Its outputs hold a DynamicCache."""
    return made(hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL, num_key_value_heads=2))


def qwen2() -> Any:
    return made(hf.Qwen2ForCausalLM, hf.Qwen2Config(**SMALL, num_key_value_heads=2, use_cache=False))


def mistral() -> Any:
    """Each token sees the last 5 only."""
    config = hf.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=5, use_cache=False)
    return made(hf.MistralForCausalLM, config)


def mixtral() -> Any:
    """Each token goes to two of four experts."""
    config = hf.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, use_cache=False)
    return made(hf.MixtralForCausalLM, config)


def mixtral_in_batches() -> Any:
    """The same with products of matrices in place of an operator that has no ONNX form."""
    sizes: dict[str, Any] = SMALL | {"num_key_value_heads": 2, "num_local_experts": 4}
    config = hf.MixtralConfig(**sizes, use_cache=False, experts_implementation="batched_mm")
    return made(hf.MixtralForCausalLM, config)


def gpt2() -> Any:
    config = hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=64, use_cache=False)
    return made(hf.GPT2LMHeadModel, config)


def mamba() -> Any:
    """A state-space model, whose recurrence is a Python loop over the tokens."""
    config = hf.MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=99, state_size=4, use_cache=False)
    return made(hf.MambaForCausalLM, config)


class DecoderStep(nn.Module):
    """One step of a decoder: the cache of the earlier tokens comes in as tensors, and the longer one goes out."""

    def __init__(self) -> None:
        super().__init__()
        config = hf.LlamaConfig(**SMALL | {"num_hidden_layers": 1}, num_key_value_heads=2)
        self.model = made(hf.LlamaForCausalLM, config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key: Tensor, past_value: Tensor) -> Any:
        """Answer for one token."""
        cache = hf.DynamicCache([(past_key, past_value)])
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        layer = found.past_key_values.layers[0]
        return {"logits": found.logits, "key": layer.keys, "value": layer.values}
