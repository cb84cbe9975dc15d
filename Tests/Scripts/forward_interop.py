"""Check `recast forward` against transformers on other architectures of the family.

usage: forward_interop.py RECAST      (pip install 'torch==2.13.0' transformers==5.24.0 safetensors 'mlx[cpu]' mlx-lm)

Makes small random models with transformers, saves them as released checkpoints, and compares float32 logits: DeepSeek-V3 in
Kimi-K2's and Moonlight's manner (one group, no YaRN, hidden size 320, with and without a query rank), DeepSeek-V2 (softmax,
group_limited_greedy) and V2-Lite (greedy, no query rank), YaRN with mscale 0.707, Qwen3-MoE, Qwen3, Llama 3.1, GLM-4-MoE, GLM-4.7-Flash,
MiniMax-M2, Hy3, DeepSeek-V3.2 and GLM-5 beyond the tokens that their indexers keep, Mistral 4 beyond its original length, Kimi-K2.5 under the names of its release, and gpt-oss as BF16 stacks and as MXFP4 blocks,
whose codes mlx-lm runs too.
A Qwen3-MoE is converted to four layouts besides, run as it is stored, and decoded for transformers.
Exits non-zero if a logit differs by more than 2e-4 or another token is preferred.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, DeepseekV32Config,
                          DeepseekV32ForCausalLM, Glm4MoeConfig,
                          Glm4MoeForCausalLM, Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, GlmMoeDsaConfig, GlmMoeDsaForCausalLM, GptOssConfig, GptOssForCausalLM, HYV3Config,
                          HYV3ForCausalLM, Kimi_K25Config, Kimi_K25ForConditionalGeneration, LlamaConfig, LlamaForCausalLM, MiniMaxM2Config,
                          MiniMaxM2ForCausalLM, Mistral4Config, Mistral4ForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

import mistral_names
import random_model

transformers.logging.set_verbosity_error()
torch.manual_seed(4)
recast = sys.argv[1]
COMMON = dict(vocab_size=200, hidden_size=320, intermediate_size=448, moe_intermediate_size=96, num_hidden_layers=3, num_attention_heads=5,
              num_key_value_heads=5, n_shared_experts=1, kv_lora_rank=48, qk_rope_head_dim=16, v_head_dim=24, qk_nope_head_dim=24,
              first_k_dense_replace=1, max_position_embeddings=512, tie_word_embeddings=False, attention_bias=False)
YARN = dict(rope_type='yarn', rope_theta=10000.0, factor=8.0, original_max_position_embeddings=64, beta_fast=32, beta_slow=1,
            mscale=0.707, mscale_all_dim=0.707)
SHARED = {key: COMMON[key] for key in ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers',
                                    'max_position_embeddings')}
PLAIN = dict(rope_type='default', rope_theta=50000.0)
GPT_OSS = dict(
    hidden_size=192, intermediate_size=160, num_attention_heads=6, num_key_value_heads=2, head_dim=24, num_local_experts=6, num_experts_per_tok=3,
    sliding_window=9, layer_types=['sliding_attention', 'full_attention', 'sliding_attention'], swiglu_limit=7.0, rope_parameters=dict(
        rope_type='yarn', rope_theta=150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=64, truncate=False))
CASES = {
    'V3, one group, no YaRN (Kimi-K2)': (DeepseekV3Config, DeepseekV3ForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=10, num_experts_per_tok=3, n_group=1, topk_group=1, norm_topk_prob=True,
        routed_scaling_factor=2.827, rms_norm_eps=1e-5, rope_parameters=PLAIN)),
    'V3, no query rank (Moonlight)': (DeepseekV3Config, DeepseekV3ForCausalLM, dict(
        q_lora_rank=None, n_routed_experts=9, num_experts_per_tok=2, n_group=1, topk_group=1, norm_topk_prob=True,
        routed_scaling_factor=2.446, rms_norm_eps=1e-5, rope_parameters=PLAIN)),
    'V3, groups and YaRN': (DeepseekV3Config, DeepseekV3ForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=12, num_experts_per_tok=4, n_group=3, topk_group=2, norm_topk_prob=True,
        routed_scaling_factor=2.5, rms_norm_eps=1e-6, rope_parameters=YARN)),
    'V2, group_limited_greedy': (DeepseekV2Config, DeepseekV2ForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=12, num_experts_per_tok=4, n_group=3, topk_group=2, topk_method='group_limited_greedy',
        norm_topk_prob=False, routed_scaling_factor=16.0, rms_norm_eps=1e-6, rope_parameters=YARN)),
    'V2-Lite, greedy': (DeepseekV2Config, DeepseekV2ForCausalLM, dict(
        q_lora_rank=None, n_routed_experts=8, num_experts_per_tok=3, n_group=1, topk_group=1, topk_method='greedy',
        norm_topk_prob=False, routed_scaling_factor=1.0, rms_norm_eps=1e-6, rope_parameters=YARN)),
    'Qwen3-MoE, shared key heads': (Qwen3MoeConfig, Qwen3MoeForCausalLM, dict(
        moe_intermediate_size=96, num_attention_heads=6, num_key_value_heads=2, head_dim=40, num_experts=9, num_experts_per_tok=3, norm_topk_prob=True, mlp_only_layers=[2],
        rms_norm_eps=1e-6, rope_parameters=PLAIN)),
    'Qwen3-MoE, every second layer, biases, YaRN, tied': (Qwen3MoeConfig, Qwen3MoeForCausalLM, dict(
        moe_intermediate_size=96, num_attention_heads=4, num_key_value_heads=4, head_dim=32, num_experts=5, num_experts_per_tok=2, norm_topk_prob=False, decoder_sparse_step=2,
        attention_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type='yarn', rope_theta=1e6, factor=4.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=0.707))),
    'Qwen3': (Qwen3Config, Qwen3ForCausalLM, dict(num_attention_heads=6, num_key_value_heads=3, head_dim=40, rope_parameters=PLAIN)),
    'Qwen2.5': (Qwen2Config, Qwen2ForCausalLM, dict(num_attention_heads=10, num_key_value_heads=2, rope_parameters=PLAIN)),
    'Qwen2, YaRN, tied': (Qwen2Config, Qwen2ForCausalLM, dict(
        num_attention_heads=5, num_key_value_heads=1, tie_word_embeddings=True, rms_norm_eps=1e-6,
        rope_parameters=dict(rope_type='yarn', rope_theta=1e6, factor=4.0, original_max_position_embeddings=64))),
    'Llama 3.1, biases': (LlamaConfig, LlamaForCausalLM, dict(
        num_attention_heads=5, num_key_value_heads=1, attention_bias=True, rope_parameters=dict(
            rope_type='llama3', rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=48))),
    'GLM-4-MoE, groups': (Glm4MoeConfig, Glm4MoeForCausalLM, dict(
        moe_intermediate_size=96, num_attention_heads=6, num_key_value_heads=2, head_dim=40, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, n_group=4,
        topk_group=2, first_k_dense_replace=1, use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5, num_nextn_predict_layers=0,
        rope_parameters=dict(rope_type='default', rope_theta=1e6, partial_rotary_factor=0.5))),
    'GLM-4.7-Flash': (Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, {**COMMON, **dict(
        q_lora_rank=72, n_routed_experts=8, num_experts_per_tok=3, n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.8,
        rms_norm_eps=1e-5, rope_parameters=PLAIN, mlp_layer_types=['dense', 'sparse', 'sparse'])}),
    'MiniMax-M2': (MiniMaxM2Config, MiniMaxM2ForCausalLM, dict(
        intermediate_size=96, num_attention_heads=6, num_key_value_heads=3, head_dim=32, num_local_experts=9, num_experts_per_tok=3,
        rope_parameters=dict(rope_type='default', rope_theta=5e6, partial_rotary_factor=0.5))),
    'Hy3': (HYV3Config, HYV3ForCausalLM, dict(
        moe_intermediate_size=96, num_attention_heads=6, num_key_value_heads=2, head_dim=40, num_experts=9, num_experts_per_tok=3,
        num_shared_experts=2, router_scaling_factor=2.826, mlp_layer_types=['dense', 'sparse', 'dense'])),
    'Hy3, biases, tied': (HYV3Config, HYV3ForCausalLM, dict(
        moe_intermediate_size=96, num_attention_heads=5, num_key_value_heads=1, head_dim=32, num_experts=6, num_experts_per_tok=2,
        attention_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-3, enable_moe_fp32_combine=False, rope_parameters=PLAIN)),
    'DeepSeek-V3.2, groups and YaRN': (DeepseekV32Config, DeepseekV32ForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=12, num_experts_per_tok=4, n_group=3, topk_group=2, routed_scaling_factor=2.5, index_topk=20,
        index_n_heads=8, index_head_dim=40, rope_parameters=YARN)),
    'GLM-5': (GlmMoeDsaConfig, GlmMoeDsaForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=9, num_experts_per_tok=3, n_group=1, topk_group=1, rms_norm_eps=1e-5, index_topk=17, index_n_heads=8,
        index_head_dim=24, mlp_layer_types=['sparse', 'dense', 'sparse'], rope_parameters=PLAIN)),
    'GLM-5.2, shared indexers': (GlmMoeDsaConfig, GlmMoeDsaForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=9, num_experts_per_tok=3, n_group=1, topk_group=1, num_hidden_layers=7, index_topk_freq=4,
        index_skip_topk_offset=3, index_topk=5, index_n_heads=11, index_head_dim=32, rms_norm_eps=1e-5, rope_parameters=PLAIN)),
    'Mistral 4, growing queries': (Mistral4Config, Mistral4ForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=9, num_experts_per_tok=3, n_group=1, topk_group=1, rms_norm_eps=1e-5, rope_parameters=dict(
            rope_type='yarn', rope_theta=10000.0, factor=16.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
            mscale_all_dim=1.0, llama_4_scaling_beta=0.3))),
    'Mistral 4, groups, no query rank': (Mistral4Config, Mistral4ForCausalLM, dict(
        q_lora_rank=None, n_routed_experts=12, num_experts_per_tok=4, n_group=3, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=False,
        rope_parameters=dict(
            rope_type='yarn', rope_theta=10000.0, factor=8.0, original_max_position_embeddings=8, mscale_all_dim=0.0, attention_factor=1.0,
            llama_4_scaling_beta=0.1))),
    'gpt-oss': (GptOssConfig, GptOssForCausalLM, GPT_OSS),
    'gpt-oss, one kind of layer, tied': (GptOssConfig, GptOssForCausalLM, dict(
        GPT_OSS, intermediate_size=96, layer_types=['full_attention', 'sliding_attention', 'sliding_attention'], tie_word_embeddings=True,
        sliding_window=1, attention_bias=False, rms_norm_eps=1e-3, swiglu_limit=4.5, swiglu_alpha=1.3)),
}

# Wide enough for groups of 128.
CONVERTED = dict(moe_intermediate_size=128, hidden_size=384, intermediate_size=512, num_attention_heads=6, num_key_value_heads=2, head_dim=64,
                 num_experts=9, num_experts_per_tok=3, norm_topk_prob=True, rms_norm_eps=1e-6, rope_parameters=PLAIN)
LAYOUTS = ['fp8-block', 'int4-g32', 'mxfp4', 'awq']
passed = failed = 0


def tell(good, name, text):
    global passed, failed
    passed, failed = passed + good, failed + (not good)
    print('ok  ' if good else 'FAIL', f'{name}: {text}', flush=True)


def save(folder, Config, Model, options):
    """A random model as a checkpoint in BF16, and sequences to run."""
    model = Model(Config(**{**(COMMON if 'q_lora_rank' in options else SHARED), **options}))
    random_model.fill(model)
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            # Sinks that weigh something, and activations on both sides of gpt-oss's limit.
            if key.endswith('.sinks') or key.endswith('.gate_up_proj_bias'):
                tensor.normal_(0, 2 if key.endswith('.sinks') else 6)
    model.to(torch.bfloat16).save_pretrained(folder + '/model', max_shard_size='300KB')
    return sequences_in(folder, 200)


def sequences_in(folder, vocabulary):
    """Sequences to run, also as a file."""
    sequences = [torch.randint(0, vocabulary, (length,)).tolist() for length in (70, 31, 1)]
    with open(folder + '/tokens.json', 'w') as file:
        json.dump({'sequences': sequences}, file)
    return sequences


def run(*arguments):
    done = subprocess.run([recast, *arguments], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.strip())
    return done.returncode == 0


KIMI = dict(
    text_config=dict(
        model_type='kimi_k2', vocab_size=200, hidden_size=192, intermediate_size=224, moe_intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=5, num_key_value_heads=5, n_shared_experts=1, n_routed_experts=9, num_experts_per_tok=3, n_group=1, topk_group=1,
        routed_scaling_factor=2.827, norm_topk_prob=True, first_k_dense_replace=1, kv_lora_rank=48, q_lora_rank=72, qk_nope_head_dim=24,
        qk_rope_head_dim=16, v_head_dim=24, rms_norm_eps=1e-5, max_position_embeddings=1024, num_nextn_predict_layers=0,
        tie_word_embeddings=False, rope_theta=50000.0, rope_scaling=dict(
            type='yarn', factor=64.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, original_max_position_embeddings=16)),
    vision_config=dict(
        patch_size=2, pos_emb_height=4, pos_emb_width=4, pos_emb_time=1, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
        intermediate_size=32, merge_kernel_size=(2, 2)),
    projection_hidden_size=16, image_token_id=198, video_token_id=199, tie_word_embeddings=False)
# transformers 5 saves Kimi-K2.5 under names that it does not read; these are the release's.
KIMI_NAMES = [
    ('model.language_model.', 'language_model.model.'), ('lm_head.', 'language_model.lm_head.'), ('model.vision_tower.layers.', 'vision_tower.encoder.blocks.'),
    ('model.vision_tower.final_layernorm', 'vision_tower.encoder.final_layernorm'), ('model.vision_tower.', 'vision_tower.'),
    ('model.mm_projector.in_proj', 'mm_projector.proj.0'), ('model.mm_projector.out_proj', 'mm_projector.proj.2'), ('model.mm_projector.', 'mm_projector.'),
    ('pos_emb.position_embeddings', 'pos_emb.weight'), ('.norm1.', '.norm0.'), ('.norm2.', '.norm1.'), ('.mlp.fc1.', '.mlp.fc0.'), ('.mlp.fc2.', '.mlp.fc1.'),
    ('.attn.proj.', '.wo.')]


def save_kimi(folder):
    """A random Kimi-K2.5 as it is released, and sequences to run."""
    model = random_model.fill(Kimi_K25ForConditionalGeneration(Kimi_K25Config(**KIMI))).to(torch.bfloat16)
    tensors, towers = {}, {}
    for key, tensor in model.state_dict().items():
        name = key
        for mine, theirs in KIMI_NAMES[:8] if 'language_model' in key else KIMI_NAMES:
            name = theirs + name[len(mine):] if name.startswith(mine) else name if mine.startswith('model') else name.replace(mine, theirs)
        if name.endswith('.experts.gate_up_proj') or name.endswith('.experts.down_proj'):
            stem, leaf = name.rsplit('.', 1)
            for expert, matrix in enumerate(tensor):
                halves = zip(['gate_proj', 'up_proj'], matrix.chunk(2)) if leaf == 'gate_up_proj' else [(leaf, matrix)]
                tensors |= {f'{stem}.{expert}.{part}.weight': half.contiguous() for part, half in halves}
        elif '.attn.' in name:
            towers.setdefault(name.replace('.attn.' + name.split('.')[-2], '.wqkv'), []).append(tensor)
        else:
            tensors[name] = tensor.contiguous()
    tensors |= {name: torch.cat(parts) for name, parts in towers.items()}
    os.makedirs(folder + '/model')
    save_file(tensors, folder + '/model/model.safetensors', metadata={'format': 'pt'})
    model.config.architectures = ['KimiK25ForConditionalGeneration']
    model.config.save_pretrained(folder + '/model')
    with open(folder + '/model/config.json') as file:
        config = json.load(file)
    config['text_config']['model_type'] = 'kimi_k2'
    with open(folder + '/model/config.json', 'w') as file:
        json.dump(config, file)
    return sequences_in(folder, 198)


def save_mistral(folder):
    """A random Mistral 4 as transformers saves it, the same as Mistral releases it, and sequences to run."""
    sequences = save(folder, Mistral4Config, Mistral4ForCausalLM, dict(
        q_lora_rank=72, n_routed_experts=9, num_experts_per_tok=3, n_group=1, topk_group=1, rms_norm_eps=1e-5, rope_parameters=dict(
            rope_type='yarn', rope_theta=10000.0, factor=16.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0,
            attention_factor=1.0, mscale_all_dim=0.0, llama_4_scaling_beta=0.3)))
    tensors = {}
    for file in os.listdir(folder + '/model'):
        if file.endswith('.safetensors'):
            tensors |= load_file(folder + '/model/' + file)
    native = {}
    for key, tensor in tensors.items():
        if key.endswith(('.experts.gate_up_proj', '.experts.down_proj')):
            stem, leaf = key.rsplit('.', 1)
            parts = ['gate_proj', 'up_proj'] if leaf == 'gate_up_proj' else [leaf]
            for expert, matrix in enumerate(tensor):
                native |= {f'{stem}.{expert}.{part}.weight': piece.contiguous() for part, piece in zip(parts, matrix.chunk(len(parts)))}
        else:
            native[key] = tensor
    native = {mistral_names.native(key): tensor for key, tensor in native.items()}
    os.makedirs(folder + '/native')
    save_file(native, folder + '/native/consolidated.safetensors', metadata={'format': 'pt'})
    with open(folder + '/native/params.json', 'w') as file:
        json.dump(dict(
            dim=320, n_layers=3, n_heads=5, n_kv_heads=5, hidden_dim=448, norm_eps=1e-5, vocab_size=200, tied_embeddings=False,
            max_position_embeddings=512, q_lora_rank=72, kv_lora_rank=48, qk_nope_head_dim=24, qk_rope_head_dim=16, v_head_dim=24, head_dim=40,
            rope_theta=10000.0, yarn=dict(factor=16.0, original_max_position_embeddings=16, beta=32, alpha=1, apply_scale=False),
            llama_4_scaling=dict(beta=0.3, original_max_position_embeddings=16), moe=dict(
                num_experts=9, num_experts_per_tok=3, num_shared_experts=1, expert_hidden_dim=96, first_k_dense_replace=1, route_every_n=1,
                routed_scale=1.0, num_expert_groups=1, num_expert_groups_per_tok=1)), file)
    return sequences, native


def compare(name, folder, stored, plain, sequences, Loader=AutoModelForCausalLM, latent_norms='transformers'):
    """Runs `stored` here and `plain`, the same values in BF16, in transformers."""
    if not run('forward', stored, '--tokens', folder + '/tokens.json', '--logits', folder + '/out.safetensors', '--latent-norms', latent_norms):
        return tell(False, name, 'does not run')
    # Experts of MXFP4 would be computed in BF16 otherwise.
    reference = Loader.from_pretrained(plain, dtype=torch.float32, attn_implementation='eager').float().eval()
    if latent_norms == 'config':
        for key, module in reference.named_modules():
            if key.endswith(('q_a_layernorm', 'kv_a_layernorm')):
                module.variance_epsilon = reference.config.rms_norm_eps
    ours = load_file(folder + '/out.safetensors')['logits']
    worst, same = 0.0, True
    for index, sequence in enumerate(sequences):
        with torch.no_grad():
            theirs = reference(torch.tensor([sequence]), use_cache=False).logits[0].float()
        mine = ours[index, :len(sequence)]
        worst = max(worst, (mine - theirs).abs().max().item())
        same &= torch.equal(mine.argmax(-1), theirs.argmax(-1))
    tell(worst <= 2e-4 and same and bool(ours[1, 31:].isnan().all()), name, f'largest difference {worst:.2g}')


def compare_mlx(folder, sequences):
    """The blocks in `folder` under MLX's names, here and in mlx-lm, which reads the release's description of the rotation."""
    with open(folder + '/blocks/config.json') as file:
        config = json.load(file)
    rotation = config.pop('rope_parameters')
    config |= {'rope_theta': rotation.pop('rope_theta'), 'rope_scaling': rotation | {'truncate': True}}
    with open(folder + '/blocks/config.json', 'w') as file:
        json.dump(config, file)
    if not run('convert', folder + '/blocks', folder + '/mlx', '--to', 'mlx-mxfp4'):
        return tell(False, 'gpt-oss in mlx-lm', 'does not convert')
    run_in_mlx('gpt-oss in mlx-lm', folder, sequences)


def run_in_mlx(name, folder, sequences):
    """Logits of the model in `folder`/mlx, here and in mlx-lm."""
    from pathlib import Path

    import mlx.core as mx
    import numpy as np
    from mlx_lm.utils import load_model
    if not run('forward', folder + '/mlx', '--tokens', folder + '/tokens.json', '--logits', folder + '/out.safetensors'):
        return tell(False, name, 'does not run')
    ours, (model, _) = load_file(folder + '/out.safetensors')['logits'].numpy(), load_model(Path(folder + '/mlx'))
    model.set_dtype(mx.float32)
    worst = max(float(np.abs(np.array(model(mx.array([sequence])))[0] - ours[index, :len(sequence)]).max())
                for index, sequence in enumerate(sequences))
    tell(worst <= 2e-4, name, f'largest difference {worst:.2g}')


for name, (Config, Model, options) in CASES.items():
    with tempfile.TemporaryDirectory() as folder:
        sequences = save(folder, Config, Model, options)
        compare(name, folder, folder + '/model', folder + '/model', sequences, Model)
        if 'Kimi-K2' in name:
            compare(name + ', inner norms as vLLM has them', folder, folder + '/model', folder + '/model', sequences, Model, 'config')
with tempfile.TemporaryDirectory() as folder:
    sequences = save_kimi(folder)
    compare('Kimi-K2.5', folder, folder + '/model', folder + '/model', sequences, Kimi_K25ForConditionalGeneration)
    if run('convert', folder + '/model', folder + '/int4', '--to', 'int4-g32') and run('convert', folder + '/int4', folder + '/back', '--to', 'bf16'):
        compare('Kimi-K2.5 as int4-g32', folder, folder + '/int4', folder + '/back', sequences, Kimi_K25ForConditionalGeneration)
    else:
        tell(False, 'Kimi-K2.5 as int4-g32', 'does not convert')
with tempfile.TemporaryDirectory() as folder:
    sequences, native = save_mistral(folder)
    compare('Mistral Large 3 as it is released', folder, folder + '/native', folder + '/model', sequences, Mistral4ForCausalLM)
    if run('convert', folder + '/native', folder + '/hub', '--to', 'bf16') and run('convert', folder + '/hub', folder + '/back', '--to', 'bf16', '--names', 'mistral'):
        # transformers loads the experts of this model in stacks only.
        run('forward', folder + '/hub', '--tokens', folder + '/tokens.json', '--logits', folder + '/hub.safetensors')
        both = [load_file(folder + file)['logits'].nan_to_num() for file in ('/hub.safetensors', '/out.safetensors')]
        tell(torch.equal(*both), 'Mistral Large 3 under the names of the hub', 'the same logits')
        back = load_file(folder + '/back/consolidated.safetensors')
        with open(folder + '/native/params.json') as one, open(folder + '/back/params.json') as other:
            first, second = json.load(one), json.load(other)
        tell(back.keys() == native.keys() and all(torch.equal(back[key], native[key]) for key in native) and first == second, 'Mistral Large 3 and back',
             f'{len(back)} tensors and params.json')
    else:
        tell(False, 'Mistral Large 3 under the names of the hub', 'does not convert')
with tempfile.TemporaryDirectory() as folder:
    sequences = save(folder, GptOssConfig, GptOssForCausalLM, GPT_OSS)
    random_model.as_blocks(folder + '/model', folder + '/blocks')
    compare('gpt-oss, MXFP4 blocks', folder, folder + '/blocks', folder + '/blocks', sequences)
    if run('convert', folder + '/blocks', folder + '/plain', '--to', 'bf16'):
        compare('gpt-oss, MXFP4 blocks as bf16', folder, folder + '/blocks', folder + '/plain', sequences)
        compare('gpt-oss, what that wrote', folder, folder + '/plain', folder + '/plain', sequences)
    else:
        tell(False, 'gpt-oss, MXFP4 blocks as bf16', 'does not convert')
    compare_mlx(folder, sequences)
with tempfile.TemporaryDirectory() as folder:
    sequences = save(folder, Qwen3MoeConfig, Qwen3MoeForCausalLM, CONVERTED)
    for layout in LAYOUTS:
        name, stored, plain = 'Qwen3-MoE as ' + layout, f'{folder}/{layout}', f'{folder}/{layout}-plain'
        if run('convert', folder + '/model', stored, '--to', layout) and run('convert', stored, plain, '--to', 'bf16'):
            compare(name, folder, stored, plain, sequences)
        else:
            tell(False, name, 'does not convert')
with tempfile.TemporaryDirectory() as folder:
    # Experts of other names than mlx-lm's, behind another parent.
    name = 'MiniMax-M2 as mlx-mxfp4'
    sequences = save(folder, MiniMaxM2Config, MiniMaxM2ForCausalLM, dict(
        hidden_size=384, intermediate_size=128, num_attention_heads=6, num_key_value_heads=3, head_dim=64, num_local_experts=9, num_experts_per_tok=3,
        rope_parameters=dict(rope_type='default', rope_theta=5e6, partial_rotary_factor=0.5)))
    # mlx-lm reads the fields of the release.
    with open(folder + '/model/config.json') as file:
        config = json.load(file)
    with open(folder + '/model/config.json', 'w') as file:
        json.dump(config | {'rope_theta': 5e6, 'rotary_dim': 32, 'shared_intermediate_size': 0, 'use_qk_norm': True}, file)
    if run('convert', folder + '/model', folder + '/mlx', '--to', 'mlx-mxfp4') and run('convert', folder + '/mlx', folder + '/back', '--to', 'bf16'):
        run_in_mlx(name + ' in mlx-lm', folder, sequences)
        compare(name, folder, folder + '/mlx', folder + '/back', sequences)
    else:
        tell(False, name, 'does not convert')
print(f'{passed} passed, {failed} failed')
sys.exit(failed > 0)
