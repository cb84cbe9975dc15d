"""Small random models of the architectures beside DeepSeek's, and what transformers computes of them.

usage: golden_architectures.py OUT_DIR      (pip install 'torch==2.13.0' transformers==5.17.0 safetensors)

Each NAME gets a folder as transformers saves it, NAME.tokens.json, and NAME.golden.safetensors: the float32 logits of every
sequence, one tensor each.
"""
import json
import os
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

transformers.logging.set_verbosity_error()
MODELS = {
    'qwen3-moe': (Qwen3MoeConfig, Qwen3MoeForCausalLM, dict(
        vocab_size=160, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        moe_intermediate_size=128, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1], max_position_embeddings=512,
        rope_parameters=dict(rope_type='default', rope_theta=1e6))),
}

for name, (Config, Model, options) in MODELS.items():
    torch.manual_seed(7)
    folder = os.path.join(sys.argv[1], name)
    os.makedirs(folder, exist_ok=True)
    model = Model(Config(**options))
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if tensor.dim() > 1:
                tensor.normal_(0, tensor.shape[-1] ** -0.5)
            elif 'norm' in key:
                tensor.normal_(1, 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    os.remove(folder + '/generation_config.json')
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager').eval()
    sequences = [torch.randint(0, options['vocab_size'], (length,)).tolist() for length in (40, 17, 1)]
    with open(folder + '.tokens.json', 'w') as file:
        json.dump({'sequences': sequences}, file)
    with torch.no_grad():
        logits = [reference(torch.tensor([sequence]), use_cache=False).logits[0].float().contiguous() for sequence in sequences]
    save_file({f'logits.{index}': tensor for index, tensor in enumerate(logits)}, folder + '.golden.safetensors')
