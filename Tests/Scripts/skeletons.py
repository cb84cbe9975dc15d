"""Plan the conversion of every architecture at the full size of a release, without its data.

usage: skeletons.py RECAST [--directory DIR] [--only NAME] [--seconds 5] [--megabytes 400]

Writes the configuration and the tensors (names, shapes, types; the data are holes) of a release of each architecture, and plans it to bf16, fp8-block,
int4-g32, nvfp4 and mlx-4bit. Fails if the architecture is not recognised, if a role had to be inferred, if other kinds of weights are quantized than the
reader quantizes, or if a plan takes longer or more memory than given. Sizes: the releases' config.json, as their publishers describe them. Standard
library only.
"""
import argparse
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

import mistral_names

WIDTH = {'F8_E4M3': 1, 'U8': 1, 'BF16': 2, 'F32': 4, 'I32': 4, 'I64': 8}
FP8 = {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic', 'weight_block_size': [128, 128]}
TARGETS = ['bf16', 'fp8-block', 'int4-g32', 'nvfp4', 'mlx-4bit']


class Model:
    """The tensors of a model, in the order of its files."""

    def __init__(self, stored='bf16'):
        self.stored, self.tensors, self.linears, self.prefix = stored, [], set(), ''
        # What is no hole: the sizes that are stored beside packed integers.
        self.values = {}

    def add(self, name, *shape, type='BF16'):
        self.tensors.append((self.prefix + name, type, shape))

    def linear(self, name, rows, columns, stored=None, bias=False):
        """A matrix that quantized layouts are for."""
        stored = stored or self.stored
        self.linears.add(kind(self.prefix + name + '.weight'))
        if stored == 'bf16':
            self.add(name + '.weight', rows, columns)
        elif stored == 'fp8':
            self.add(name + '.weight', rows, columns, type='F8_E4M3')
            self.add(name + '.weight_scale_inv', -(-rows // 128), -(-columns // 128), type='F32')
        elif stored == 'int4-g32':
            self.add(name + '.weight_packed', rows, columns // 8, type='I32')
            self.add(name + '.weight_scale', rows, columns // 32)
            self.add(name + '.weight_shape', 2, type='I64')
            self.values[self.prefix + name + '.weight_shape'] = struct.pack('<2q', rows, columns)
        if bias:
            self.add(name + '.bias', rows)

    def network(self, name, hidden, width, stored=None, names=('gate_proj', 'up_proj', 'down_proj')):
        for part in names[:2]:
            self.linear(f'{name}.{part}', width, hidden, stored)
        self.linear(f'{name}.{names[2]}', hidden, width, stored)

    def ends(self, c, head=True):
        """Embedding before the layers, norm and head after them."""
        self.add('model.embed_tokens.weight', c['vocab_size'], c['hidden_size'])
        self.add('model.norm.weight', c['hidden_size'])
        if head:
            self.add('lm_head.weight', c['vocab_size'], c['hidden_size'])

    def norms(self, layer, hidden):
        self.add(layer + 'input_layernorm.weight', hidden)
        self.add(layer + 'post_attention_layernorm.weight', hidden)

    def latent(self, c, layer, stored=None):
        h, heads, a = c['hidden_size'], c['num_attention_heads'], layer + 'self_attn.'
        nope, rope, value, rank = (c[key] for key in ('qk_nope_head_dim', 'qk_rope_head_dim', 'v_head_dim', 'kv_lora_rank'))
        self.linear(a + 'q_a_proj', c['q_lora_rank'], h, stored)
        self.add(a + 'q_a_layernorm.weight', c['q_lora_rank'])
        self.linear(a + 'q_b_proj', heads * (nope + rope), c['q_lora_rank'], stored)
        self.linear(a + 'kv_a_proj_with_mqa', rank + rope, h, stored)
        self.add(a + 'kv_a_layernorm.weight', rank)
        self.linear(a + 'kv_b_proj', heads * (nope + value), rank, stored)
        self.linear(a + 'o_proj', h, heads * value, stored)

    def indexer(self, c, layer):
        i = layer + 'self_attn.indexer.'
        self.linear(i + 'wq_b', c['index_n_heads'] * c['index_head_dim'], c['q_lora_rank'])
        self.linear(i + 'wk', c['index_head_dim'], c['hidden_size'])
        self.add(i + 'k_norm.weight', c['index_head_dim'])
        self.add(i + 'k_norm.bias', c['index_head_dim'])
        self.add(i + 'weights_proj.weight', c['index_n_heads'], c['hidden_size'])

    def grouped(self, c, layer, norms=None, bias=False, all_biased=False):
        h, heads, keys, size, a = c['hidden_size'], c['num_attention_heads'], c['num_key_value_heads'], c['head_dim'], layer + 'self_attn.'
        for part, count in (('q_proj', heads), ('k_proj', keys), ('v_proj', keys)):
            self.linear(a + part, count * size, h, bias=bias)
        self.linear(a + 'o_proj', h, heads * size, bias=all_biased)
        if norms:
            self.add(a + 'q_norm.weight', size if norms == 'head' else heads * size)
            self.add(a + 'k_norm.weight', size if norms == 'head' else keys * size)

    def mixture(self, c, layer, experts, width, stored=None, shared_stored=None):
        h, m = c['hidden_size'], layer + 'mlp.'
        self.add(m + 'gate.weight', experts, h)
        if c.get('scoring', True):
            self.add(m + 'gate.e_score_correction_bias', experts, type='F32')
        for expert in range(experts):
            self.network(f'{m}experts.{expert}', h, width, stored)
        if c.get('n_shared_experts'):
            self.network(m + 'shared_experts', h, width * c['n_shared_experts'], shared_stored)

    def prediction(self, c, layer, embedding=True):
        h = c['hidden_size']
        self.add(layer + 'eh_proj.weight', h, 2 * h)
        for name in ('enorm', 'hnorm', 'shared_head.norm'):
            self.add(f'{layer}{name}.weight', h)
        if embedding:
            self.add(layer + 'embed_tokens.weight', c['vocab_size'], h)
            self.add(layer + 'shared_head.head.weight', c['vocab_size'], h)


def kind(name):
    return re.sub(r'\.\d+(?=\.)', '.*', name)


def deepseek(c, stored='fp8', experts_stored=None, prefix='', indexers=None, embedding=True):
    """DeepSeek-V3 and what has its layers; `indexers` are the layers with an indexer of their own."""
    m = Model(stored)
    m.prefix = prefix
    m.ends(c)
    layers = c['num_hidden_layers']
    for n in range(layers + c.get('num_nextn_predict_layers', 0)):
        layer = f'model.layers.{n}.'
        m.norms(layer, c['hidden_size'])
        m.latent(c, layer)
        if indexers and (n in indexers or n == layers):
            m.indexer(c, layer)
        if n < c['first_k_dense_replace']:
            m.network(layer + 'mlp', c['hidden_size'], c['intermediate_size'])
        else:
            m.mixture(c, layer, c['n_routed_experts'], c['moe_intermediate_size'], experts_stored)
        if n == layers:
            m.prediction(c, layer, embedding)
    return m


V3 = dict(
    architectures=['DeepseekV3ForCausalLM'], model_type='deepseek_v3', hidden_size=7168, num_hidden_layers=61, num_attention_heads=128,
    num_key_value_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, intermediate_size=18432,
    moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, n_group=8, topk_group=4, first_k_dense_replace=3,
    moe_layer_freq=1, norm_topk_prob=True, routed_scaling_factor=2.5, scoring_func='sigmoid', topk_method='noaux_tc', num_nextn_predict_layers=1,
    vocab_size=129280, rms_norm_eps=1e-6, rope_theta=10000, tie_word_embeddings=False, max_position_embeddings=163840, hidden_act='silu', rope_scaling=dict(
        type='yarn', factor=40, original_max_position_embeddings=4096, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0),
    quantization_config=FP8)
K2 = dict(
    V3, num_attention_heads=64, num_key_value_heads=64, n_routed_experts=384, first_k_dense_replace=1, n_group=1, topk_group=1,
    routed_scaling_factor=2.827, num_nextn_predict_layers=0, vocab_size=163840, rope_theta=50000.0, max_position_embeddings=131072, rope_scaling=dict(
        type='yarn', factor=32.0, original_max_position_embeddings=4096, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0))
GLM5 = dict(
    architectures=['GlmMoeDsaForCausalLM'], model_type='glm_moe_dsa', hidden_size=6144, num_hidden_layers=78, num_attention_heads=64, num_key_value_heads=64,
    q_lora_rank=2048, kv_lora_rank=512, qk_nope_head_dim=192, qk_rope_head_dim=64, qk_head_dim=256, head_dim=64, v_head_dim=256, intermediate_size=12288,
    moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, n_group=1, topk_group=1, first_k_dense_replace=3,
    moe_layer_freq=1, norm_topk_prob=True, routed_scaling_factor=2.5, scoring_func='sigmoid', topk_method='noaux_tc', num_nextn_predict_layers=1,
    index_head_dim=128, index_n_heads=32, index_topk=2048, indexer_rope_interleave=True, rope_interleave=True, vocab_size=154880, rms_norm_eps=1e-5,
    tie_word_embeddings=False, max_position_embeddings=202752, hidden_act='silu', rope_parameters=dict(rope_theta=1000000, rope_type='default'))


def glm52():
    types = ['full' if n < 3 or (n - 2) % 4 == 0 else 'shared' for n in range(78)]
    c = dict(GLM5, indexer_types=types, index_topk_freq=4, index_skip_topk_offset=3, index_share_for_mtp_iteration=True, index_topk_pattern=None,
             mlp_layer_types=['dense'] * 3 + ['sparse'] * 75, moe_router_dtype='float32', head_dim=192,
             rope_parameters=dict(rope_theta=8000000, rope_type='default'))
    return c, deepseek(c, 'bf16', indexers={n for n in range(78) if types[n] == 'full'}, embedding=False)


def kimi_k25():
    text = dict(K2, model_type='kimi_k2', rms_norm_eps=1e-5, max_position_embeddings=262144, rope_scaling=dict(
        K2['rope_scaling'], factor=64.0, beta_fast=32.0), quantization_config={
            'quant_method': 'compressed-tensors', 'format': 'pack-quantized', 'quantization_status': 'compressed', 'config_groups': {'group_0': {
                'targets': ['Linear'], 'input_activations': None, 'output_activations': None, 'weights': {
                    'num_bits': 4, 'type': 'int', 'strategy': 'group', 'group_size': 32, 'symmetric': True, 'dynamic': False, 'actorder': None}}},
            'ignore': ['lm_head', 're:.*self_attn.*', 're:.*shared_experts.*', r're:.*mlp\.(gate|up|gate_up|down)_proj.*']})
    m = deepseek(text, 'bf16', experts_stored='int4-g32', prefix='language_model.')
    m.prefix = ''
    for n in range(27):
        block = f'vision_tower.encoder.blocks.{n}.'
        for name, shape in (('norm0.weight', [1152]), ('norm1.weight', [1152]), ('mlp.fc0.weight', [4304, 1152]), ('mlp.fc1.weight', [1152, 4304]),
                            ('wqkv.weight', [3456, 1152]), ('wo.weight', [1152, 1152])):
            m.add(block + name, *shape)
    m.add('vision_tower.patch_embed.proj.weight', 1152, 3, 14, 14)
    m.add('mm_projector.pre_norm.weight', 1152)
    m.add('mm_projector.proj.0.weight', 4608, 4608)
    m.add('mm_projector.proj.2.weight', 7168, 4608)
    return {'architectures': ['KimiK25ForConditionalGeneration'], 'model_type': 'kimi_k25', 'tie_word_embeddings': False,
            'vision_config': {'vt_num_hidden_layers': 27, 'vt_hidden_size': 1152}, 'text_config': text}, m


def glm45():
    c = dict(architectures=['Glm4MoeForCausalLM'], model_type='glm4_moe', hidden_size=5120, num_hidden_layers=92, num_attention_heads=96, num_key_value_heads=8,
             head_dim=128, intermediate_size=12288, moe_intermediate_size=1536, n_routed_experts=160, n_shared_experts=1, num_experts_per_tok=8, n_group=1,
             topk_group=1, first_k_dense_replace=3, norm_topk_prob=True, routed_scaling_factor=2.5, num_nextn_predict_layers=1, use_qk_norm=True,
             attention_bias=True, partial_rotary_factor=0.5, rope_theta=1000000, rope_scaling=None, rms_norm_eps=1e-5, vocab_size=151552,
             max_position_embeddings=202752, tie_word_embeddings=False, hidden_act='silu')
    m = Model()
    m.ends(c)
    for n in range(93):
        layer = f'model.layers.{n}.'
        m.norms(layer, 5120)
        m.grouped(c, layer, 'head', bias=True)
        m.network(layer + 'mlp', 5120, 12288) if n < 3 else m.mixture(c, layer, 160, 1536)
    m.prediction(c, layer)
    return c, m


def glm47_flash():
    c = dict(GLM5, architectures=['Glm4MoeLiteForCausalLM'], model_type='glm4_moe_lite', hidden_size=2048, num_hidden_layers=47, num_attention_heads=20,
             num_key_value_heads=20, q_lora_rank=768, intermediate_size=10240, moe_intermediate_size=1536, n_routed_experts=64, num_experts_per_tok=4,
             first_k_dense_replace=1, routed_scaling_factor=1.8)
    for field in [field for field in c if field.startswith('index')]:
        del c[field]
    return c, deepseek(c, 'bf16')


def qwen3_moe(hidden, layers, heads, keys, experts, width, **others):
    c = dict(architectures=['Qwen3MoeForCausalLM'], model_type='qwen3_moe', hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
             num_key_value_heads=keys, head_dim=128, intermediate_size=12288, moe_intermediate_size=width, num_experts=experts, num_experts_per_tok=8,
             decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True, attention_bias=False, rope_theta=1000000.0, rope_scaling=None,
             rms_norm_eps=1e-6, vocab_size=151936, max_position_embeddings=40960, max_window_layers=layers, use_sliding_window=False,
             sliding_window=None, tie_word_embeddings=False, hidden_act='silu', scoring=False)
    stored = others.pop('stored', 'bf16')
    m = Model(stored)
    m.ends(c)
    for n in range(layers):
        layer = f'model.layers.{n}.'
        m.norms(layer, hidden)
        m.grouped(c, layer, 'head')
        m.mixture(c, layer, experts, width)
    del c['scoring']
    if stored == 'fp8':
        c['quantization_config'] = dict(FP8, modules_to_not_convert=['lm_head'] + [
            f'model.layers.{n}.{name}' for n in range(layers) for name in ('input_layernorm', 'mlp.gate', 'post_attention_layernorm')])
    return c, m


def dense(name, type, hidden, layers, heads, keys, width, vocabulary, norms=None, **others):
    c = dict(architectures=[name], model_type=type, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=keys,
             head_dim=128, intermediate_size=width, vocab_size=vocabulary, attention_bias=False, hidden_act='silu', **others)
    m = Model()
    m.ends(c, head=not c['tie_word_embeddings'])
    for n in range(layers):
        layer = f'model.layers.{n}.'
        m.norms(layer, hidden)
        m.grouped(c, layer, norms)
        m.network(layer + 'mlp', hidden, width)
    return c, m


def qwen25():
    c, m = dense('Qwen2ForCausalLM', 'qwen2', 3584, 28, 28, 4, 18944, 152064, rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=False,
                 use_sliding_window=False, sliding_window=131072, max_window_layers=28, max_position_embeddings=32768)
    # The configuration says nothing of either.
    del c['attention_bias'], c['head_dim']
    for n in range(28):
        for part, heads in (('q', 28), ('k', 4), ('v', 4)):
            m.add(f'model.layers.{n}.self_attn.{part}_proj.bias', heads * 128)
    return c, m


def minimax_m2():
    c = dict(architectures=['MiniMaxM2ForCausalLM'], model_type='minimax_m2', hidden_size=3072, num_hidden_layers=62, num_attention_heads=48,
             num_key_value_heads=8, head_dim=128, rotary_dim=64, rope_theta=5000000, intermediate_size=1536, num_local_experts=256,
             num_experts_per_tok=8, scoring_func='sigmoid', use_routing_bias=True, use_qk_norm=True, qk_norm_type='per_layer', shared_intermediate_size=0,
             rms_norm_eps=1e-6, vocab_size=200064, use_mtp=True, num_mtp_modules=3, mtp_transformer_layers=1, tie_word_embeddings=False, hidden_act='silu',
             attn_type_list=[1] * 62, max_position_embeddings=204800,
             quantization_config=dict(FP8, fmt='float8_e4m3fn', modules_to_not_convert=['gate', 'e_score_correction_bias', 'lm_head']))
    m = Model('fp8')
    m.ends(c)
    for n in range(62):
        layer = f'model.layers.{n}.'
        m.norms(layer, 3072)
        m.grouped(c, layer, 'all')
        m.add(layer + 'block_sparse_moe.gate.weight', 256, 3072, type='F32')
        m.add(layer + 'block_sparse_moe.e_score_correction_bias', 256, type='F32')
        for expert in range(256):
            m.network(f'{layer}block_sparse_moe.experts.{expert}', 3072, 1536, names=('w1', 'w3', 'w2'))
    return c, m


def hy3():
    c = dict(architectures=['HYV3ForCausalLM'], model_type='hy_v3', hidden_size=4096, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
             head_dim=128, intermediate_size=13312, num_experts=192, num_experts_per_tok=8, num_shared_experts=1, moe_intermediate_size=1536,
             router_scaling_factor=2.826, enable_moe_fp32_combine=True, rms_norm_eps=1e-5, vocab_size=120832, num_nextn_predict_layers=1,
             tie_word_embeddings=False, hidden_act='silu', max_position_embeddings=262144, first_k_dense_replace=1,
             rope_parameters=dict(rope_type='default', rope_theta=11158840.0))
    m = Model()
    m.ends(c)
    for n in range(80):
        layer = f'model.layers.{n}.'
        m.norms(layer, 4096)
        m.grouped(c, layer, 'head')
        if n < 1:
            m.network(layer + 'mlp', 4096, 13312)
            continue
        m.add(layer + 'mlp.router.gate.weight', 192, 4096, type='F32')
        m.add(layer + 'mlp.expert_bias', 192, type='F32')
        for expert in range(192):
            m.network(f'{layer}mlp.experts.{expert}', 4096, 1536)
        m.network(layer + 'mlp.shared_mlp', 4096, 1536)
    return c, m


def gpt_oss():
    c = dict(architectures=['GptOssForCausalLM'], model_type='gpt_oss', hidden_size=2880, intermediate_size=2880, num_hidden_layers=36, num_attention_heads=64,
             num_key_value_heads=8, head_dim=64, num_local_experts=128, num_experts_per_tok=4, experts_per_token=4, sliding_window=128,
             layer_types=['sliding_attention', 'full_attention'] * 18, attention_bias=True, swiglu_limit=7.0, rms_norm_eps=1e-5, vocab_size=201088,
             rope_theta=150000, tie_word_embeddings=False, hidden_act='silu', max_position_embeddings=131072, initial_context_length=4096,
             rope_scaling=dict(rope_type='yarn', factor=32.0, original_max_position_embeddings=4096, beta_fast=32.0, beta_slow=1.0, truncate=False),
             quantization_config={'quant_method': 'mxfp4', 'modules_to_not_convert': [
                 'model.layers.*.self_attn', 'model.layers.*.mlp.router', 'model.embed_tokens', 'lm_head']})
    m = Model()
    m.ends(c)
    for n in range(36):
        layer, experts = f'model.layers.{n}.', f'model.layers.{n}.mlp.experts.'
        m.norms(layer, 2880)
        m.grouped(c, layer, bias=True, all_biased=True)
        m.add(layer + 'self_attn.sinks', 64)
        m.add(layer + 'mlp.router.weight', 128, 2880)
        m.add(layer + 'mlp.router.bias', 128)
        for name, rows in (('gate_up_proj', 5760), ('down_proj', 2880)):
            m.linears.add(f'model.layers.*.mlp.experts.*.{name}.weight')
            m.add(f'{experts}{name}_blocks', 128, rows, 90, 16, type='U8')
            m.add(f'{experts}{name}_scales', 128, rows, 90, type='U8')
            m.add(f'{experts}{name}_bias', 128, rows)
    return c, m


def v32():
    c = dict(V3, architectures=['DeepseekV32ForCausalLM'], model_type='deepseek_v32', index_n_heads=64, index_head_dim=128, index_topk=2048,
             quantization_config=dict(FP8, scale_fmt='ue8m0'))
    return c, deepseek(c, indexers=range(61))


def mistral_large3():
    c = dict(V3, intermediate_size=16384, moe_intermediate_size=4096, n_routed_experts=128, num_experts_per_tok=4, n_group=1, topk_group=1,
             num_nextn_predict_layers=0, vocab_size=131072, scoring=False)
    m = deepseek(c)
    m.tensors = [(mistral_names.native(name).replace('weight_scale_inv', 'weight_scale'), type, shape) for name, type, shape in m.tensors]
    for n in range(48):
        for name, shape in (('attention.wq', [1664, 1664]), ('attention.wo', [1664, 1664]), ('feed_forward.w1', [8192, 1664]), ('attention_norm', [1664])):
            m.add(f'vision_encoder.transformer.layers.{n}.{name}.weight', *shape)
    m.add('vision_language_adapter.w_in.weight', 7168, 1664)
    parameters = dict(
        dim=7168, n_layers=61, n_heads=128, n_kv_heads=128, hidden_dim=16384, norm_eps=1e-6, vocab_size=131072, tied_embeddings=False, head_dim=128,
        max_position_embeddings=294912, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rope_theta=10000.0,
        llama_4_scaling=dict(beta=0.1, original_max_position_embeddings=8192), vision_encoder=dict(hidden_size=1664, num_hidden_layers=48),
        yarn=dict(factor=36, original_max_position_embeddings=8192, beta=32, alpha=1, apply_scale=False), moe=dict(
            num_experts=128, num_experts_per_tok=4, num_shared_experts=1, expert_hidden_dim=4096, first_k_dense_replace=3, route_every_n=1,
            routed_scale=1.0, num_expert_groups=1, num_expert_groups_per_tok=1),
        quantization_config={
            'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'quantization_status': 'compressed', 'ignore': ['lm_head'],
            'config_groups': {'group_0': {'targets': ['Linear'], 'output_activations': None, 'weights': {
                'num_bits': 8, 'type': 'float', 'strategy': 'block', 'block_structure': [128, 128], 'symmetric': True, 'dynamic': False},
                'input_activations': {'num_bits': 8, 'type': 'float', 'strategy': 'group', 'group_size': 128, 'symmetric': True, 'dynamic': True}}}})
    return parameters, m


RELEASES = {
    'DeepSeek-V3': lambda: (V3, deepseek(V3)),
    'DeepSeek-V3.2': v32,
    'Kimi-K2-Instruct': lambda: (dict(K2, model_type='kimi_k2'), deepseek(K2)),
    'Kimi-K2.5': kimi_k25,
    'GLM-5-FP8': lambda: (dict(GLM5, quantization_config=FP8), deepseek(GLM5, indexers=range(78), embedding=False)),
    'GLM-5.2': glm52,
    'GLM-4.5': glm45,
    'GLM-4.7-Flash': glm47_flash,
    'Qwen3-235B-A22B-FP8': lambda: qwen3_moe(4096, 94, 64, 4, 128, 1536, stored='fp8'),
    'Qwen3-Coder-480B': lambda: qwen3_moe(6144, 62, 96, 8, 160, 2560),
    'Qwen3-0.6B': lambda: dense('Qwen3ForCausalLM', 'qwen3', 1024, 28, 16, 8, 3072, 151936, 'head', rms_norm_eps=1e-6, rope_theta=1000000,
                                rope_scaling=None, tie_word_embeddings=True, max_position_embeddings=40960),
    'Qwen2.5-7B': qwen25,
    'Llama-3.1-8B': lambda: dense('LlamaForCausalLM', 'llama', 4096, 32, 32, 8, 14336, 128256, rms_norm_eps=1e-5, rope_theta=500000.0, mlp_bias=False,
                                  tie_word_embeddings=False, max_position_embeddings=131072, rope_scaling=dict(
                                      rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)),
    'MiniMax-M2.7': minimax_m2,
    'Hy3': hy3,
    'gpt-oss-120b': gpt_oss,
    'Mistral-Large-3': mistral_large3,
}


def write(folder, config, model, shard=5 << 30):
    """Files of about five gigabytes, holes behind their headers but for a few values."""
    os.makedirs(folder)
    native = 'dim' in config
    stem = 'consolidated' if native else 'model'
    groups, filled = [[]], 0
    for tensor in model.tensors:
        if filled > shard:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += WIDTH[tensor[1]] * math.prod(tensor[2])
    places = {}
    for number, group in enumerate(groups, 1):
        name, header, end = f'{stem}-{number:05d}-of-{len(groups):05d}.safetensors', {}, 0
        for tensor, type, shape in group:
            start, end = end, end + WIDTH[type] * math.prod(shape)
            header[tensor] = {'dtype': type, 'shape': shape, 'data_offsets': [start, end]}
            places[tensor] = name
        text = json.dumps(header).encode()
        with open(f'{folder}/{name}', 'wb') as file:
            file.write(struct.pack('<Q', len(text)) + text)
            file.truncate(8 + len(text) + end)
            for tensor, entry in header.items():
                if tensor in model.values:
                    file.seek(8 + len(text) + entry['data_offsets'][0])
                    file.write(model.values[tensor])
    for name, value in ((stem + '.safetensors.index.json', {'metadata': {}, 'weight_map': places}), ('params.json' if native else 'config.json', config)):
        with open(f'{folder}/{name}', 'w') as file:
            json.dump(value, file)


def measure(arguments):
    """Runs a command; returns what it printed, seconds and megabytes."""
    start = time.monotonic()
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output = child.stdout.read()
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds, size = time.monotonic() - start, usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 1e6
    return (json.loads(output) if child.returncode == 0 else errors.strip()), seconds, size


# What stays BF16 although it is a linear layer, for each target, and why.
def kept(linears, target):
    if target == 'bf16':
        return linears
    if target in ('int4-g32', 'nvfp4'):
        # vLLM builds wk and weights_proj of an indexer as one matrix, which may be FP8 and nothing narrower.
        return {name for name in linears if name.endswith('indexer.wk.weight')}
    return set()


parser = argparse.ArgumentParser()
parser.add_argument('recast')
parser.add_argument('--directory')
parser.add_argument('--only')
parser.add_argument('--seconds', type=float, default=5)
parser.add_argument('--megabytes', type=float, default=400)
options = parser.parse_args()
failures = []
chosen = {release: make for release, make in RELEASES.items() if options.only in (None, release)}
if not chosen:
    sys.exit(f'no release is called {options.only}; known are {", ".join(RELEASES)}')
for release, make in chosen.items():
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        config, model = make()
        write(work + '/model', config, model)
        figures = []
        for target in TARGETS:
            plan, seconds, size = measure([options.recast, 'convert', work + '/model', work + '/out', '--to', target, '--dry-run', '--json'])
            figures.append(f'{target} {seconds:.1f} s, {size:.0f} MB')
            if isinstance(plan, str):
                failures.append(f'{release} to {target}: {plan}')
                continue
            if seconds > options.seconds or size > options.megabytes:
                failures.append(f'{release} to {target}: {seconds:.1f} s, {size:.0f} MB')
            inferred = sorted({road['kind'] for road in plan['roads'] if road['inferred_role']})
            if inferred:
                failures.append(f'{release} to {target}: roles of {inferred[:3]} are inferred')
            if target == 'mlx-4bit':
                continue
            found = {road['kind'] for road in plan['roads'] if road['to'] not in ('bf16', 'f32') and not road['to'].isupper()}
            expected = model.linears - kept(model.linears, target)
            for name in sorted(found ^ expected)[:4]:
                failures.append(f'{release} to {target}: {name} is {"quantized" if name in found else "left as it is"}')
        print(f'{release}, {len(model.tensors):,} tensors: {"; ".join(figures)}', flush=True)
for failure in failures:
    print('FAIL', failure)
print(f'{len(chosen)} releases, {len(failures)} failures')
sys.exit(failures != [])
