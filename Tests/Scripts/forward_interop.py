"""Check `recast forward` against transformers on other architectures of the family.

usage: forward_interop.py RECAST      (pip install 'torch==2.13.0' transformers==5.17.0 safetensors)

Makes small random models with transformers, saves them as released checkpoints, and compares float32 logits: DeepSeek-V3 in
Kimi-K2's and Moonlight's manner (one group, no YaRN, hidden size 320, with and without a query rank), DeepSeek-V2 (softmax,
group_limited_greedy) and V2-Lite (greedy, no query rank), YaRN with mscale 0.707, Qwen3-MoE, Qwen3, Llama 3.1, GLM-4-MoE, MiniMax-M2.
Exits non-zero if a logit differs by more than
2e-4 or another token is preferred.
"""
import json
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file
from transformers import (AutoModelForCausalLM, DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, Glm4MoeConfig,
                          Glm4MoeForCausalLM, LlamaConfig, LlamaForCausalLM, MiniMaxM2Config, MiniMaxM2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
                          Qwen3MoeConfig, Qwen3MoeForCausalLM)

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
        rope_parameters=dict(rope_type='yarn', rope_theta=1e6, factor=4.0, original_max_position_embeddings=64))),
    'Qwen3': (Qwen3Config, Qwen3ForCausalLM, dict(num_attention_heads=6, num_key_value_heads=3, head_dim=40, rope_parameters=PLAIN)),
    'Llama 3.1, biases': (LlamaConfig, LlamaForCausalLM, dict(
        num_attention_heads=5, num_key_value_heads=1, attention_bias=True, rope_parameters=dict(
            rope_type='llama3', rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=48))),
    'GLM-4-MoE, groups': (Glm4MoeConfig, Glm4MoeForCausalLM, dict(
        moe_intermediate_size=96, num_attention_heads=6, num_key_value_heads=2, head_dim=40, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, n_group=4,
        topk_group=2, first_k_dense_replace=1, use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5, num_nextn_predict_layers=0,
        rope_parameters=dict(rope_type='default', rope_theta=1e6, partial_rotary_factor=0.5))),
    'MiniMax-M2': (MiniMaxM2Config, MiniMaxM2ForCausalLM, dict(
        intermediate_size=96, num_attention_heads=6, num_key_value_heads=3, head_dim=32, num_local_experts=9, num_experts_per_tok=3,
        rope_parameters=dict(rope_type='default', rope_theta=5e6, partial_rotary_factor=0.5))),
}

passed = failed = 0
for name, (Config, Model, options) in CASES.items():
    with tempfile.TemporaryDirectory() as folder:
        model = Model(Config(**{**(COMMON if 'Deepseek' in Model.__name__ else SHARED), **options}))
        with torch.no_grad():
            for key, tensor in model.named_parameters():
                if tensor.dim() > 1:
                    tensor.normal_(0, tensor.shape[-1] ** -0.5)
                elif 'norm' in key:
                    tensor.normal_(1, 0.1)
                else:
                    tensor.normal_(0, 0.1)
            for key, tensor in model.named_buffers():
                if key.endswith('e_score_correction_bias'):
                    tensor.normal_(0, 0.05)
        model.to(torch.bfloat16).save_pretrained(folder + '/model', max_shard_size='300KB')
        reference = AutoModelForCausalLM.from_pretrained(folder + '/model', dtype=torch.float32, attn_implementation='eager').eval()
        sequences = [torch.randint(0, 200, (length,)).tolist() for length in (70, 31, 1)]
        with open(folder + '/tokens.json', 'w') as file:
            json.dump({'sequences': sequences}, file)
        run = subprocess.run([recast, 'forward', folder + '/model', '--tokens', folder + '/tokens.json', '--logits', folder + '/out.safetensors'],
                             capture_output=True, text=True)
        if run.returncode:
            print('FAIL', name, run.stderr.strip())
            failed += 1
            continue
        ours = load_file(folder + '/out.safetensors')['logits']
        worst, same = 0.0, True
        for index, sequence in enumerate(sequences):
            with torch.no_grad():
                theirs = reference(torch.tensor([sequence]), use_cache=False).logits[0].float()
            mine = ours[index, :len(sequence)]
            worst = max(worst, (mine - theirs).abs().max().item())
            same &= torch.equal(mine.argmax(-1), theirs.argmax(-1))
        good = worst <= 2e-4 and same and bool(ours[1, 31:].isnan().all())
        passed, failed = passed + good, failed + (not good)
        print('ok  ' if good else 'FAIL', f'{name}: largest difference {worst:.2g}', flush=True)
print(f'{passed} passed, {failed} failed')
sys.exit(failed > 0)
