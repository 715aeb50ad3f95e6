"""Tiny random copies of the models that curation asks, in their true format."""

from pathlib import Path

import torch
from safetensors.torch import save_file

SAID = "<unk> <s> </s> <pad> <image> USER: ASSISTANT: a red blue cat dog on the moon Describe this"
WORDS = SAID.split()
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
    "{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)
SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDE, PATCH = 32, 8


def save_features(kind: str, folder: Path) -> Path:
    """A `clip` or `siglip` with its image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, SiglipConfig, SiglipImageProcessor, SiglipModel

    vision, text = {**SHAPE, "image_size": SIDE, "patch_size": PATCH}, {**SHAPE, "vocab_size": 20}
    torch.manual_seed(0)
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_head(width: int, path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, width, generator=generator)
    save_file({"weight": weight, "bias": torch.tensor([5.0])}, path)
    return path


def save_captioner(folder: Path) -> Path:
    """A LLaVA of a CLIP and a Llama."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )  # fmt: skip

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=["<image>"], **tokens)
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE), tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip
    vision = CLIPVisionConfig(**{**SHAPE, "num_hidden_layers": 2}, image_size=SIDE, patch_size=PATCH, projection_dim=16)
    llama = LlamaConfig(**SHAPE, vocab_size=len(WORDS), num_key_value_heads=2, pad_token_id=WORDS.index("<pad>"))
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=llama, image_token_index=WORDS.index("<image>"))
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
