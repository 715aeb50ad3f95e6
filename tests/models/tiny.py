"""Pipelines of random weights and a few thousand parameters in the true classes and the true file format."""

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 32  # pixels
WIDTH = 32
CLASSES = ["a red cat", "a dog", "a tree", "the moon", "dog", "apple", "bus", "cat", "egg", "fish", "gem", "hat"]


def save_tiny(class_name: str, folder: Path, **options: Any) -> Path:
    """A plain diffusers folder, as a user has it, without `inference.json`.

    Args:
        options: arguments of the functions below.
    """
    import diffusers

    torch.manual_seed(0)
    parts = (MAKERS | OTHERS)[class_name](**options)
    pipeline = getattr(diffusers, class_name)(**parts)
    if "id2label" in parts:
        pipeline.register_to_config(id2label=parts["id2label"])
    pipeline.save_pretrained(folder)
    return folder


def pixart(scheduler: Any = None, sample_size: int = SIDE // 4) -> dict[str, Any]:
    """With a learned variance; alpha at sample_size 128 is also told the size and the aspect ratio."""
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=sample_size,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=24 if sample_size == 128 else 16,
        cross_attention_dim=48 if sample_size == 128 else 32,
        caption_channels=WIDTH,
        norm_type="ada_norm_single",
    )
    tokenizer = t5_tokenizer()
    return {
        "tokenizer": tokenizer,
        "text_encoder": t5(tokenizer),
        "vae": autoencoder(),
        "transformer": transformer,
        "scheduler": scheduler or DPMSolverMultistepScheduler(),
    }


def stable_diffusion(
    scheduler: Any = None, time_cond_proj_dim: int | None = None, is_filtered: bool = False
) -> dict[str, Any]:
    """An LCM has `time_cond_proj_dim`. With `is_filtered` a safety checker finds every picture unsafe."""
    from diffusers import PNDMScheduler

    tokenizer = clip_tokenizer()
    return {
        "tokenizer": tokenizer,
        "text_encoder": clip(tokenizer),
        "vae": autoencoder(),
        "unet": unet(time_cond_proj_dim=time_cond_proj_dim),
        "scheduler": scheduler or PNDMScheduler(**SCALED_LINEAR, skip_prk_steps=True, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
        **(safety_checker() if is_filtered else {}),
    }


def stable_diffusion_xl(scheduler: Any = None) -> dict[str, Any]:
    from diffusers import EulerDiscreteScheduler

    tokenizer = clip_tokenizer()
    added = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": WIDTH + 6 * 8}
    return {
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "text_encoder": clip(tokenizer),
        "text_encoder_2": clip(tokenizer, projection=True),
        "vae": autoencoder(),
        "unet": unet(cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", **added),
        "scheduler": scheduler or EulerDiscreteScheduler(**SCALED_LINEAR),
    }


def stable_diffusion_3(scheduler: Any = None) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
    )
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
    return {
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "tokenizer_3": tokenizer_3,
        "text_encoder": clip(tokenizer, projection=True),
        "text_encoder_2": clip(tokenizer, projection=True),
        "text_encoder_3": t5(tokenizer_3, width=3 * WIDTH),
        "vae": autoencoder(shift_factor=0.06),
        "transformer": transformer,
        "scheduler": scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def flux(guidance_embeds: bool = False, use_dynamic_shifting: bool = True) -> dict[str, Any]:
    """Its noise levels depend on the size; as Flux-dev it is told the guidance scale."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,  # of 2x2 latent cells
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer(model_max_length=32)
    return {
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "text_encoder": clip(tokenizer),
        "text_encoder_2": t5(tokenizer_2),
        "vae": autoencoder(shift_factor=0.1),
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=use_dynamic_shifting),
    }


def chroma() -> dict[str, Any]:
    from diffusers import ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = ChromaTransformer2DModel(
        in_channels=16,  # of 2x2 latent cells
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    tokenizer = t5_tokenizer(model_max_length=32)
    return {
        "tokenizer": tokenizer,
        "text_encoder": t5(tokenizer),
        "vae": autoencoder(shift_factor=0.1),
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=2.0),
    }


def z_image() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

    tokenizer = qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 8],
        axes_lens=[256, 64, 64],
    )
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    return {
        "tokenizer": tokenizer,
        "text_encoder": qwen3(tokenizer),
        "vae": autoencoder(shift_factor=0.1),
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def qwen_image() -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 1.0, 0.8, 1.2],
    )
    vae.register_to_config(sample_size=SIDE)  # as other autoencoders say it
    tokenizer = qwen_tokenizer(model_max_length=512)
    transformer = QwenImageTransformer2DModel(
        in_channels=16,  # of 2x2 latent cells
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": qwen_vl(tokenizer),
        "vae": vae,
        "transformer": transformer,
        "scheduler": scheduler,
    }


def flux_2_klein(is_distilled: bool = True) -> dict[str, Any]:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    vae = AutoencoderKLFlux2(**AUTOENCODER, latent_channels=4)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    tokenizer = qwen_tokenizer()
    transformer = Flux2Transformer2DModel(
        in_channels=16,  # of 2x2 latent cells
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 16,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": qwen3(tokenizer, num_layers=27),  # the last that is read
        "vae": vae,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "is_distilled": is_distilled,
    }


def sana(scheduler: Any = None, **options: Any) -> dict[str, Any]:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel

    blocks = {"block_types": "ResBlock", "block_out_channels": (8, 8, 8), "layers_per_block": (1, 1, 1)}
    blocks |= {"qkv_multiscales": ((), (), ())}
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        scaling_factor=0.41407,
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in blocks.items()},
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=SIDE // 4,
        **options,
    )
    tokenizer = gemma_tokenizer()
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return {
        "tokenizer": tokenizer,
        "text_encoder": gemma(tokenizer),
        "vae": vae,
        "transformer": transformer,
        "scheduler": scheduler or DPMSolverMultistepScheduler(**flow),
    }


def sana_sprint() -> dict[str, Any]:
    from diffusers import SCMScheduler

    return sana(SCMScheduler(), guidance_embeds=True, qk_norm="rms_norm_across_heads")


def dit(scheduler: Any = None) -> dict[str, Any]:
    """With a learned variance, and a few of ImageNet's classes named."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        sample_size=SIDE // 4,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        num_embeds_ada_norm=1000,
    )
    return {
        "vae": autoencoder(),
        "transformer": transformer,
        "scheduler": scheduler or DDIMScheduler(),
        "id2label": {str(7 * i): f"{name}, {name} of a kind" for i, name in enumerate(CLASSES)},
    }


def ddpm() -> dict[str, Any]:
    from diffusers import DDPMScheduler, UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    network = UNet2DModel(sample_size=8, block_out_channels=(16,), norm_num_groups=8, layers_per_block=1, **blocks)
    return {"unet": network, "scheduler": DDPMScheduler()}


MAKERS = {
    "PixArtAlphaPipeline": pixart,
    "PixArtSigmaPipeline": pixart,
    "StableDiffusionPipeline": stable_diffusion,
    "LatentConsistencyModelPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "Flux2KleinPipeline": flux_2_klein,
    "ZImagePipeline": z_image,
    "FluxPipeline": flux,
    "ChromaPipeline": chroma,
    "QwenImagePipeline": qwen_image,
    "SanaPipeline": sana,
    "SanaSprintPipeline": sana_sprint,
    "DiTPipeline": dit,
}
TODAY = [  # what people use
    "Flux2KleinPipeline",
    "ZImagePipeline",
    "FluxPipeline",
    "ChromaPipeline",
    "QwenImagePipeline",
    "StableDiffusion3Pipeline",
    "SanaPipeline",
    "SanaSprintPipeline",
    "DiTPipeline",
]
OTHERS = {  # of no family here: sampled, and not trained
    "FluxImg2ImgPipeline": flux,
    "StableDiffusionImg2ImgPipeline": stable_diffusion,
    "DDPMPipeline": ddpm,
}
SCALED_LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


AUTOENCODER: dict[str, Any] = {
    "sample_size": SIDE,
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def autoencoder(**options: Any) -> torch.nn.Module:
    """32 px images <-> 8x8x4 latents, scaled by 0.18215."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**AUTOENCODER, **options)


def unet(cross_attention_dim: int = WIDTH, **options: Any) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE // 4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=cross_attention_dim,
        **options,
    )


def clip(tokenizer: Any, projection: bool = False) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5(tokenizer: Any, width: int = WIDTH) -> torch.nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def qwen3(tokenizer: Any, num_layers: int = 2) -> torch.nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
    )
    return Qwen3ForCausalLM(config).eval()


def qwen_vl(tokenizer: Any) -> torch.nn.Module:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 16}
    text = {
        **small,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "max_position_embeddings": 1024,
    }
    vision = {**small, "depth": 1, "num_heads": 2, "out_hidden_size": 16, "fullatt_block_indexes": [0]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()


def gemma(tokenizer: Any) -> torch.nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
    )
    return Gemma2Model(config).eval()


def gemma_tokenizer() -> Any:
    """Gemma's, with the letters for words."""
    from transformers import GemmaTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *letters]
    vocab = {word: i for i, word in enumerate(words)}
    return GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True, model_max_length=4096)


def safety_checker() -> dict[str, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": SIDE, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=small, vision_config=vision, projection_dim=16))
    torch.nn.init.constant_(checker.concept_embeds_weights, -1.0)  # thresholds of a cosine
    extractor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    return {"safety_checker": checker.eval(), "feature_extractor": extractor}


def clip_tokenizer() -> Any:
    """CLIP's, with the letters for words."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16)


def t5_tokenizer(**options: Any) -> Any:
    """T5's, with the letters for words."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0, **options)


def qwen_tokenizer(model_max_length: int = 64) -> Any:
    """Qwen's, with the bytes for words."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        "{% if enable_thinking is defined and not enable_thinking %}<think>{% endif %}"
    )
    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        extra_special_tokens=words[-2:],
        chat_template=template,
        model_max_length=model_max_length,
    )


def write_json(path: Path, **changes: Any) -> None:
    """Change some values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
