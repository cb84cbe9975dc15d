"""What transformers computes of small models of the architectures beside DeepSeek's.

usage: golden_architectures.py OUT_DIR      (pip install 'torch==2.13.0' transformers==5.24.0 safetensors numpy)

NAME.json holds config.json, the names, types and shapes of the tensors as transformers saves them, and the tokens; NAME.safetensors the float32 logits
of every sequence. The weights themselves are made anew by whoever needs them (`weights` below, and ArchitectureTests.swift): value i of a tensor is
a hash of its name and i.
"""
import json
import os
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (DeepseekV3Config, DeepseekV3ForCausalLM, DeepseekV32Config, DeepseekV32ForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM, Glm4MoeLiteConfig,
                          Glm4MoeLiteForCausalLM, GlmMoeDsaConfig, GlmMoeDsaForCausalLM, GptOssConfig,
                          GptOssForCausalLM, HYV3Config, HYV3ForCausalLM, LlamaConfig, LlamaForCausalLM, MiniMaxM2Config, MiniMaxM2ForCausalLM, Mistral4Config, Mistral4ForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

transformers.logging.set_verbosity_error()
SPARSE = dict(
    vocab_size=160, hidden_size=128, intermediate_size=128, moe_intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, q_lora_rank=128, kv_lora_rank=128, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32, n_routed_experts=4,
    num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, index_topk=12, index_head_dim=32, index_n_heads=6,
    max_position_embeddings=512)
MODELS = {
    'qwen3-moe': (Qwen3MoeConfig, Qwen3MoeForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        moe_intermediate_size=128, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1], max_position_embeddings=512,
        rope_parameters=dict(rope_type='default', rope_theta=1e6))),
    'qwen3': (Qwen3Config, Qwen3ForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=512, tie_word_embeddings=True, rope_parameters=dict(rope_type='default', rope_theta=1e6))),
    'qwen2': (Qwen2Config, Qwen2ForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, rope_parameters=dict(rope_type='default', rope_theta=1e6))),
    'llama': (LlamaConfig, LlamaForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
        max_position_embeddings=512, rope_parameters=dict(
            rope_type='llama3', rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32))),
    'glm4-moe': (Glm4MoeConfig, Glm4MoeForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        moe_intermediate_size=128, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, use_qk_norm=True,
        attention_bias=True, routed_scaling_factor=2.5, num_nextn_predict_layers=0, max_position_embeddings=512,
        rope_parameters=dict(rope_type='default', rope_theta=1e6, partial_rotary_factor=0.5))),
    'glm4-moe-lite': (Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, moe_intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=128, kv_lora_rank=128, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32, n_routed_experts=4,
        num_experts_per_tok=2, n_shared_experts=1, max_position_embeddings=512, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type='default', rope_theta=1e6))),
    'minimax-m2': (MiniMaxM2Config, MiniMaxM2ForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=512,
        rope_parameters=dict(rope_type='default', rope_theta=5e6, partial_rotary_factor=0.5))),
    'hy3': (HYV3Config, HYV3ForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        moe_intermediate_size=128, num_experts=4, num_experts_per_tok=2, num_shared_experts=2, router_scaling_factor=2.826,
        max_position_embeddings=512, tie_word_embeddings=True)),
    'gpt-oss': (GptOssConfig, GptOssForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=5, max_position_embeddings=512, rope_parameters=dict(
            rope_type='yarn', rope_theta=150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=64,
            truncate=False))),
    # The language model of several, under the names that the release stores (`released` below).
    'kimi-k25': (DeepseekV3Config, DeepseekV3ForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, moe_intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=128, kv_lora_rank=128, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32, n_routed_experts=4,
        num_experts_per_tok=2, n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1, max_position_embeddings=512,
        rms_norm_eps=1e-5, rope_parameters=dict(rope_type='yarn', rope_theta=50000.0, factor=64.0, original_max_position_embeddings=64,
                                                beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0))),
    # Fewer tokens than two of three sequences have.
    'deepseek-v32': (DeepseekV32Config, DeepseekV32ForCausalLM, dict(SPARSE, n_group=2, topk_group=1, rope_parameters=dict(
        rope_type='yarn', rope_theta=10000.0, factor=8.0, original_max_position_embeddings=64, beta_fast=32, beta_slow=1, mscale=1.0,
        mscale_all_dim=1.0))),
    'glm5': (GlmMoeDsaConfig, GlmMoeDsaForCausalLM, dict(SPARSE, n_group=1, topk_group=1, num_hidden_layers=3, indexer_types=['full', 'shared', 'full'], rope_parameters=dict(
        rope_type='default', rope_theta=1e6))),
    # Sequences longer than the original length.
    'mistral4': (Mistral4Config, Mistral4ForCausalLM, dict({key: value for key, value in SPARSE.items() if not key.startswith('index')}, n_group=1, topk_group=1, rope_parameters=dict(
        rope_type='yarn', rope_theta=10000.0, factor=8.0, original_max_position_embeddings=12, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
        mscale_all_dim=1.0, llama_4_scaling_beta=0.3))),
}


def weights(name, shape):
    """Values in [-1, 1) by the finaliser of splitmix64, times a power of two about 1 / sqrt(columns); norms lie about 1."""
    seed = np.uint64(0xCBF29CE484222325)
    with np.errstate(over='ignore'):
        for byte in name.encode():
            seed = (seed ^ np.uint64(byte)) * np.uint64(0x100000001B3)
        z = (np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + seed
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    values = ((z >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(np.float32) * np.float32(2 ** -23)
    if len(shape) > 1:
        return torch.from_numpy(values * np.float32(0.125)).reshape(shape)
    return torch.from_numpy(values * np.float32(0.25) + np.float32('norm' in name)).reshape(shape)


# A vision tower and a projector, whose arithmetic is nobody's business here.
TOWER = {
    'vision_tower.patch_embed.proj.weight': [16, 3, 2, 2], 'vision_tower.patch_embed.pos_emb.weight': [4, 4, 16],
    'vision_tower.encoder.blocks.0.wqkv.weight': [48, 16], 'vision_tower.encoder.blocks.0.wqkv.bias': [48],
    'vision_tower.encoder.final_layernorm.weight': [16], 'mm_projector.pre_norm.weight': [16], 'mm_projector.proj.0.weight': [64, 64],
}


def released(name, config):
    """What the release calls a tensor of the model, the tensors beside it, and its config.json."""
    if name != 'kimi-k25':
        return lambda key: key, {}, config
    config = {'architectures': ['KimiK25ForConditionalGeneration'], 'model_type': 'kimi_k25', 'tie_word_embeddings': False,
              'vision_config': {'hidden_size': 16}, 'text_config': {**config, 'model_type': 'kimi_k2'}}
    return lambda key: 'language_model.' + key, TOWER, config


os.makedirs(sys.argv[1], exist_ok=True)
for name, (Config, Model, options) in MODELS.items():
    torch.manual_seed(7)
    with tempfile.TemporaryDirectory() as folder:
        Model(Config(**options)).to(torch.bfloat16).save_pretrained(folder)
        with safe_open(folder + '/model.safetensors', 'pt') as file:
            saved = {key: file.get_tensor(key) for key in file.keys()}
        with open(folder + '/config.json') as file:
            called, beside, config = released(name, json.load(file))
        save_file({key: weights(called(key), tensor.shape).to(tensor.dtype) for key, tensor in saved.items()}, folder + '/model.safetensors',
                  metadata={'format': 'pt'})
        model = Model.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager').eval()
    sequences = [torch.randint(0, options['vocab_size'], (length,)).tolist() for length in (40, 17, 1)]
    saved = {called(key): (tensor.dtype, list(tensor.shape)) for key, tensor in saved.items()}
    saved |= {key: (torch.bfloat16, shape) for key, shape in beside.items()}
    types = {torch.bfloat16: 'BF16', torch.float32: 'F32'}
    with open(f'{sys.argv[1]}/{name}.json', 'w') as file:
        json.dump({'config': config, 'tensors': {key: [types[dtype], shape] for key, (dtype, shape) in sorted(saved.items())},
                   'sequences': sequences}, file, indent=1)
    with torch.no_grad():
        logits = [model(torch.tensor([sequence]), use_cache=False).logits[0].float().contiguous() for sequence in sequences]
    save_file({f'logits.{index}': tensor for index, tensor in enumerate(logits)}, f'{sys.argv[1]}/{name}.safetensors')
