"""Time the reference forward pass beside transformers, and run one full-size layer of the 671B model.

usage: benchmark_forward.py RECAST FIXTURES [--directory DIR] [--experts 256] [--tokens 256] [--grouped] (pip install torch transformers)

1. The small model, BF16 weights, float32 arithmetic, 96 sequences of 224 tokens, loading included on both sides; in turns.
2. The same of random models with grouped-query attention, 16 sequences of 384 tokens (only these with --grouped).
3. One full-width mixture layer (hidden 7168, 128 heads) in FP8 with EXPERTS experts: tokens/s and peak memory of
   `recast forward --memory 2GiB`. With --compare and few experts, transformers runs the same layer (in float32: 176 MB an expert).
"""
import argparse
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import torch
import transformers
from transformers import (AutoModelForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM, GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM,
                          MiniMaxM2Config, MiniMaxM2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

import random_model

transformers.logging.set_verbosity_error()
parser = argparse.ArgumentParser()
parser.add_argument('recast')
parser.add_argument('fixtures')
parser.add_argument('--directory')
parser.add_argument('--experts', type=int, default=256)
parser.add_argument('--tokens', type=int, default=256)
parser.add_argument('--compare', action='store_true')
parser.add_argument('--grouped', action='store_true')
options = parser.parse_args()
work = tempfile.mkdtemp(dir=options.directory)


def run_recast(model, tokens, *arguments):
    """Seconds of the whole process, and the peak memory that it reports of itself."""
    start = time.monotonic()
    run = subprocess.run([options.recast, 'forward', model, '--tokens', tokens, '--logits', work + '/logits.safetensors', *arguments],
                         check=True, capture_output=True, text=True)
    return time.monotonic() - start, run.stdout.rsplit('peak memory ', 1)[1].strip()


def run_transformers(model, tokens, batch):
    sequences = json.load(open(tokens))['sequences']
    start = time.monotonic()
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        for first in range(0, len(sequences), batch):
            loaded(torch.tensor(sequences[first:first + batch]), use_cache=False)
    return time.monotonic() - start


# Wide enough that arithmetic counts, small enough for a minute.
GROUPED = dict(vocab_size=4096, hidden_size=1024, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4,
               head_dim=64, max_position_embeddings=1024, tie_word_embeddings=False)
SPARSE = dict(moe_intermediate_size=512, num_experts_per_tok=4)
MODELS = {
    'Llama': (LlamaConfig, LlamaForCausalLM, dict(rope_parameters=dict(rope_type='default', rope_theta=5e5))),
    'Qwen3': (Qwen3Config, Qwen3ForCausalLM, {}),
    'Qwen3-MoE': (Qwen3MoeConfig, Qwen3MoeForCausalLM, dict(SPARSE, num_experts=32, norm_topk_prob=True)),
    'GLM-4-MoE': (Glm4MoeConfig, Glm4MoeForCausalLM, dict(
        SPARSE, n_routed_experts=32, n_shared_experts=1, first_k_dense_replace=1, use_qk_norm=True, num_nextn_predict_layers=0,
        rope_parameters=dict(rope_type='default', rope_theta=1e6, partial_rotary_factor=0.5))),
    'MiniMax-M2': (MiniMaxM2Config, MiniMaxM2ForCausalLM, dict(
        intermediate_size=512, num_local_experts=32, num_experts_per_tok=4,
        rope_parameters=dict(rope_type='default', rope_theta=5e6, partial_rotary_factor=0.5))),
    'gpt-oss': (GptOssConfig, GptOssForCausalLM, dict(
        intermediate_size=512, num_local_experts=32, num_experts_per_tok=4, sliding_window=128, rope_parameters=dict(
            rope_type='yarn', rope_theta=150000.0, factor=4.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=256, truncate=False))),
}


def grouped_models():
    """Each in turns with transformers; exits if one is slower."""
    tokens, slow = work + '/grouped.json', []
    sequences = [torch.randint(0, 4096, (384,)).tolist() for _ in range(16)]
    with open(tokens, 'w') as file:
        json.dump({'sequences': sequences}, file)
    count = sum(map(len, sequences))
    for name, (Config, Model, fields) in MODELS.items():
        folder = f'{work}/{name}'
        random_model.fill(Model(Config(**{**GROUPED, **fields}))).to(torch.bfloat16).save_pretrained(folder)
        ours, theirs = [], []
        for _ in range(4):
            ours.append(run_recast(folder, tokens))
            theirs.append(run_transformers(folder, tokens, 8))
        (recast, memory), python = sorted(ours[1:])[1], sorted(theirs[1:])[1]
        print(f'{name}, {count:,} tokens: recast {count / recast:,.0f} tokens/s ({memory}), transformers {count / python:,.0f} tokens/s, '
              f'ratio {python / recast:.2f}', flush=True)
        slow += [name] if recast > python else []
        shutil.rmtree(folder)
    if slow:
        sys.exit(f'slower than transformers: {", ".join(slow)}')


def full_layer(folder):
    """Layer 0 of a one-layer model with the 671B sizes: FP8 codes from a repeated random pattern."""
    hidden, heads, width = 7168, 128, 2048
    torch.manual_seed(1)
    codes = (torch.randn(1 << 22) * 110).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes()
    small = (torch.randn(1 << 16) * 0.02).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    ones = torch.ones(hidden, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    tensors = []

    def fp8(name, rows, columns):
        grid = -(-rows // 128) * -(-columns // 128)
        tensors.append((name + '.weight', 'F8_E4M3', [rows, columns], rows * columns, codes))
        scale = 1 / (110 * columns ** 0.5)
        tensors.append((name + '.weight_scale_inv', 'F32', [-(-rows // 128), -(-columns // 128)], grid * 4, struct.pack('<f', scale) * 256))

    def dense(name, shape, pattern=small):
        count = 2
        for dimension in shape:
            count *= dimension
        tensors.append((name, 'BF16', shape, count, pattern))

    dense('model.embed_tokens.weight', [1024, hidden])
    dense('lm_head.weight', [1024, hidden])
    dense('model.norm.weight', [hidden], ones)
    p = 'model.layers.0.'
    for name in ('input_layernorm', 'post_attention_layernorm'):
        dense(p + name + '.weight', [hidden], ones)
    dense(p + 'self_attn.q_a_layernorm.weight', [1536], ones)
    dense(p + 'self_attn.kv_a_layernorm.weight', [512], ones)
    fp8(p + 'self_attn.q_a_proj', 1536, hidden)
    fp8(p + 'self_attn.q_b_proj', heads * 192, 1536)
    fp8(p + 'self_attn.kv_a_proj_with_mqa', 576, hidden)
    fp8(p + 'self_attn.kv_b_proj', heads * 256, 512)
    fp8(p + 'self_attn.o_proj', hidden, heads * 128)
    dense(p + 'mlp.gate.weight', [options.experts, hidden])
    tensors.append((p + 'mlp.gate.e_score_correction_bias', 'F32', [options.experts], 4 * options.experts, bytes(4096)))
    for expert in [f'experts.{e}' for e in range(options.experts)] + ['shared_experts']:
        fp8(f'{p}mlp.{expert}.gate_proj', width, hidden)
        fp8(f'{p}mlp.{expert}.up_proj', width, hidden)
        fp8(f'{p}mlp.{expert}.down_proj', hidden, width)
    os.makedirs(folder)
    header, end = {}, 0
    for name, dtype, shape, size, _ in tensors:
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(folder + '/model.safetensors', 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        for _, _, _, size, pattern in tensors:
            while size > 0:
                size -= file.write(pattern[:size])
    with open(folder + '/config.json', 'w') as file:
        json.dump(dict(
            architectures=['DeepseekV3ForCausalLM'], model_type='deepseek_v3', hidden_size=hidden, intermediate_size=18432,
            moe_intermediate_size=width, num_hidden_layers=1, num_attention_heads=heads, num_key_value_heads=heads, n_shared_experts=1,
            n_routed_experts=options.experts, routed_scaling_factor=2.5, kv_lora_rank=512, q_lora_rank=1536, qk_rope_head_dim=64, v_head_dim=128,
            qk_nope_head_dim=128, n_group=8, topk_group=4, num_experts_per_tok=8, first_k_dense_replace=0, norm_topk_prob=True, hidden_act='silu',
            max_position_embeddings=4096, rms_norm_eps=1e-6, vocab_size=1024, tie_word_embeddings=False, rope_theta=10000, torch_dtype='bfloat16',
            quantization_config=dict(quant_method='fp8', fmt='e4m3', activation_scheme='dynamic', weight_block_size=[128, 128])), file)
    return end


try:
    if options.grouped:
        grouped_models()
        sys.exit(0)
    small = work + '/small'
    shutil.copytree(options.fixtures + '/tiny-deepseek-v3-bf16', small)
    for name in os.listdir(small):
        if name.endswith('.gz'):
            with gzip.open(f'{small}/{name}') as source, open(f'{small}/{name[:-3]}', 'wb') as target:
                shutil.copyfileobj(source, target)
    tokens = options.fixtures + '/tokens-eval.json'
    count = sum(map(len, json.load(open(tokens))['sequences']))
    ours, theirs = [], []
    for round in range(4):
        ours.append(run_recast(small, tokens))
        theirs.append(run_transformers(small, tokens, 8))
    recast, memory = sorted(ours[1:])[1]
    python = sorted(theirs[1:])[1]
    print(f'small model, {count:,} tokens: recast {count / recast:,.0f} tokens/s ({memory}), transformers {count / python:,.0f} tokens/s, ratio {python / recast:.2f}', flush=True)

    grouped_models()
    size = full_layer(work + '/layer')
    with open(work + '/tokens.json', 'w') as file:
        json.dump({'sequences': [torch.randint(0, 1024, (options.tokens,)).tolist()]}, file)
    run_recast(work + '/layer', work + '/tokens.json', '--memory', '2GiB')
    seconds, memory = run_recast(work + '/layer', work + '/tokens.json', '--memory', '2GiB')
    print(f'one full-size layer, {options.experts} experts, {size / 1e9:.1f} GB in FP8, {options.tokens} tokens with --memory 2GiB: {seconds:.1f} s, {options.tokens / seconds:.1f} tokens/s, peak memory {memory}', flush=True)
    if options.compare:
        subprocess.run([options.recast, 'convert', work + '/layer', work + '/bf16', '--to', 'bf16', '--quiet'], check=True, stdout=subprocess.DEVNULL)
        ours, theirs = [], []
        for round in range(3):
            ours.append(run_recast(work + '/bf16', work + '/tokens.json')[0])
            theirs.append(run_transformers(work + '/bf16', work + '/tokens.json', 1))
        print(f'the same in BF16: recast {options.tokens / min(ours):.1f} tokens/s, transformers {options.tokens / min(theirs):.1f} tokens/s, ratio {min(theirs) / min(ours):.2f}')
finally:
    shutil.rmtree(work)
