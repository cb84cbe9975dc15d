"""The tensors of DeepSeek-V3's FP8 release at full size (names, shapes, types), written as sparse files whose data are holes unless values are given.

Sizes: DeepSeek-V3 technical report (arXiv 2412.19437), table of section 4.2, and the released config.json. Standard library only.
"""
import json
import os
import struct

HIDDEN, DENSE, EXPERT, VOCABULARY, HEADS = 7168, 18432, 2048, 129280, 128
WIDTH = {'F8_E4M3': 1, 'BF16': 2, 'F32': 4}


def fp8(name, rows, columns):
    return [(name + '.weight', 'F8_E4M3', (rows, columns)),
            (name + '.weight_scale_inv', 'F32', ((rows + 127) // 128, (columns + 127) // 128))]


def mlp(prefix, width):
    return fp8(prefix + 'gate_proj', width, HIDDEN) + fp8(prefix + 'up_proj', width, HIDDEN) + fp8(prefix + 'down_proj', HIDDEN, width)


def decoder_layer(prefix, dense, experts=256):
    attention = prefix + 'self_attn.'
    tensors = [(prefix + 'input_layernorm.weight', 'BF16', (HIDDEN,)), (prefix + 'post_attention_layernorm.weight', 'BF16', (HIDDEN,)),
               (attention + 'q_a_layernorm.weight', 'BF16', (1536,)), (attention + 'kv_a_layernorm.weight', 'BF16', (512,))]
    tensors += fp8(attention + 'q_a_proj', 1536, HIDDEN) + fp8(attention + 'q_b_proj', HEADS * 192, 1536)
    tensors += fp8(attention + 'kv_a_proj_with_mqa', 576, HIDDEN) + fp8(attention + 'kv_b_proj', HEADS * 256, 512)
    tensors += fp8(attention + 'o_proj', HIDDEN, HEADS * 128)
    if dense:
        return tensors + mlp(prefix + 'mlp.', DENSE)
    tensors += [(prefix + 'mlp.gate.weight', 'BF16', (experts, HIDDEN)), (prefix + 'mlp.gate.e_score_correction_bias', 'F32', (experts,))]
    for expert in range(experts):
        tensors += mlp(f'{prefix}mlp.experts.{expert}.', EXPERT)
    return tensors + mlp(prefix + 'mlp.shared_experts.', EXPERT)


def model(layers, experts=256):
    tensors = [('model.embed_tokens.weight', 'BF16', (VOCABULARY, HIDDEN))]
    for layer in range(layers):
        tensors += decoder_layer(f'model.layers.{layer}.', layer < 3, experts)
    tensors += [('model.norm.weight', 'BF16', (HIDDEN,)), ('lm_head.weight', 'BF16', (VOCABULARY, HIDDEN))]
    last = f'model.layers.{layers}.'
    tensors += [(last + 'embed_tokens.weight', 'BF16', (VOCABULARY, HIDDEN)), (last + 'enorm.weight', 'BF16', (HIDDEN,)),
                (last + 'hnorm.weight', 'BF16', (HIDDEN,)), (last + 'eh_proj.weight', 'BF16', (HIDDEN, 2 * HIDDEN))]
    tensors += decoder_layer(last, False, experts)
    return tensors + [(last + 'shared_head.norm.weight', 'BF16', (HIDDEN,)), (last + 'shared_head.head.weight', 'BF16', (VOCABULARY, HIDDEN))]


def size(tensor):
    product = WIDTH[tensor[1]]
    for dimension in tensor[2]:
        product *= dimension
    return product


def write(folder, tensors, shards, layers, experts=256, values=lambda tensor: None):
    """Writes a checkpoint; `values` gives the bytes of a tensor (name, type, shape), or None for a hole."""
    os.makedirs(folder)
    total, filled, groups = sum(map(size, tensors)), 0, [[]]
    for tensor in tensors:
        if filled > total * len(groups) / shards:
            groups.append([])
        groups[-1].append(tensor)
        filled += size(tensor)
    weight_map = {}
    for number, group in enumerate(groups, 1):
        name, header, end = f'model-{number:05d}-of-{len(groups):06d}.safetensors', {}, 0
        for tensor in group:
            header[tensor[0]] = {'dtype': tensor[1], 'shape': tensor[2], 'data_offsets': [end, end + size(tensor)]}
            end += size(tensor)
            weight_map[tensor[0]] = name
        text = json.dumps(header).encode()
        with open(os.path.join(folder, name), 'wb') as file:
            file.write(struct.pack('<Q', len(text)) + text)
            file.truncate(8 + len(text) + end)
            for tensor in group:
                data = values(tensor)
                if data is not None:
                    file.seek(8 + len(text) + header[tensor[0]]['data_offsets'][0])
                    file.write(data)
    with open(os.path.join(folder, 'model.safetensors.index.json'), 'w') as file:
        json.dump({'metadata': {}, 'weight_map': weight_map}, file)
    with open(os.path.join(folder, 'config.json'), 'w') as file:
        json.dump({'architectures': ['DeepseekV3ForCausalLM'], 'model_type': 'deepseek_v3', 'num_hidden_layers': layers,
                   'num_nextn_predict_layers': 1, 'n_routed_experts': experts, 'num_experts_per_tok': 8,
                   'num_attention_heads': HEADS, 'qk_nope_head_dim': 128, 'v_head_dim': 128, 'torch_dtype': 'bfloat16',
                   'quantization_config': {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic',
                                           'weight_block_size': [128, 128]}}, file)
    return len(tensors), total
