"""A full-width DeepSeek-V3 mixture layer, filled with data, through a calibrated int4 GPTQ conversion.

usage: calibration_rehearsal.py RECAST [--experts 256] [--tokens 8192] [--memory 4GiB] [--nearest-scales] [--directory DIR]

The layer has the released layout (FP8, 128 x 128 blocks) and the released widths; its weights are random with the spread of trained
ones. Prints seconds, peak memory, and what 61 layers would take.
"""
import argparse
import json
import math
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument('recast')
parser.add_argument('--experts', type=int, default=256)
parser.add_argument('--tokens', type=int, default=8192)
parser.add_argument('--memory', default='4GiB')
parser.add_argument('--directory')
parser.add_argument('--nearest-scales', action='store_true', help="keep the layout's own scales")
options = parser.parse_args()

HIDDEN, VOCABULARY = 7168, 2048
CONFIG = {
    'architectures': ['DeepseekV3ForCausalLM'], 'model_type': 'deepseek_v3', 'vocab_size': VOCABULARY, 'hidden_size': HIDDEN,
    'intermediate_size': 18432, 'moe_intermediate_size': 2048, 'num_hidden_layers': 1, 'num_attention_heads': 128, 'num_key_value_heads': 128,
    'n_shared_experts': 1, 'n_routed_experts': options.experts, 'routed_scaling_factor': 2.5, 'kv_lora_rank': 512, 'q_lora_rank': 1536,
    'qk_rope_head_dim': 64, 'v_head_dim': 128, 'qk_nope_head_dim': 128, 'n_group': 8 if options.experts >= 32 else 1,
    'topk_group': 4 if options.experts >= 32 else 1, 'num_experts_per_tok': min(8, options.experts), 'first_k_dense_replace': 0,
    'norm_topk_prob': True, 'scoring_func': 'sigmoid', 'topk_method': 'noaux_tc', 'num_nextn_predict_layers': 0, 'rms_norm_eps': 1e-6,
    'rope_theta': 10000, 'rope_scaling': {'type': 'yarn', 'factor': 40, 'original_max_position_embeddings': 4096, 'beta_fast': 32, 'beta_slow': 1,
                                          'mscale': 1.0, 'mscale_all_dim': 1.0},
    'quantization_config': {'activation_scheme': 'dynamic', 'fmt': 'e4m3', 'quant_method': 'fp8', 'weight_block_size': [128, 128]}}


def tensors():
    layer = 'model.layers.0.'
    attention = layer + 'self_attn.'
    yield 'model.embed_tokens.weight', 'BF16', (VOCABULARY, HIDDEN)
    for name, width in (('input_layernorm', HIDDEN), ('post_attention_layernorm', HIDDEN), ('self_attn.q_a_layernorm', 1536), ('self_attn.kv_a_layernorm', 512)):
        yield f'{layer}{name}.weight', 'NORM', (width,)
    linears = [(attention + 'q_a_proj', 1536, HIDDEN), (attention + 'q_b_proj', 24576, 1536), (attention + 'kv_a_proj_with_mqa', 576, HIDDEN),
               (attention + 'kv_b_proj', 32768, 512), (attention + 'o_proj', HIDDEN, 16384)]
    for expert in [f'experts.{number}' for number in range(options.experts)] + ['shared_experts']:
        for name, rows, columns in (('gate_proj', 2048, HIDDEN), ('up_proj', 2048, HIDDEN), ('down_proj', HIDDEN, 2048)):
            linears.append((f'{layer}mlp.{expert}.{name}', rows, columns))
    for name, rows, columns in linears:
        yield name + '.weight', 'F8_E4M3', (rows, columns)
        yield name + '.weight_scale_inv', 'F32', (-(-rows // 128), -(-columns // 128))
    yield layer + 'mlp.gate.weight', 'BF16', (options.experts, HIDDEN)
    yield layer + 'mlp.gate.e_score_correction_bias', 'F32', (options.experts,)
    yield 'model.norm.weight', 'NORM', (HIDDEN,)
    yield 'lm_head.weight', 'BF16', (VOCABULARY, HIDDEN)


def pool(size, dtype, generator):
    """Random bytes that mean numbers of a normal distribution."""
    if dtype == 'F8_E4M3':
        # E4M3 codes of normal numbers with a standard deviation of about a tenth of 448.
        table = bytes(code(generator.gauss(0, 100)) for _ in range(1 << 16))
        order = generator.randbytes(2 * size)
        return bytes(table[order[2 * i] | order[2 * i + 1] << 8] for i in range(size))
    values = [generator.gauss(0, 1 if dtype == 'F32' else 0.02) for _ in range(1 << 14)]
    packed = b''.join(struct.pack('<f', value)[2:] for value in values)
    return packed * (size // len(packed) + 1)


def code(value):
    sign, value = (0x80 if value < 0 else 0), min(abs(value), 448)
    if value < 2 ** -6:
        return sign | round(value * 512)
    exponent = max(-6, min(8, math.frexp(value)[1] - 1))
    mantissa = round(value / 2 ** exponent * 8)
    if mantissa == 16:
        exponent, mantissa = exponent + 1, 8
    return sign | min(0x7E, (exponent + 7) << 3 | mantissa - 8)


def write(folder):
    generator = random.Random(7)
    codes = pool(1 << 20, 'F8_E4M3', generator) * 2
    dense = pool(1 << 20, 'BF16', generator)
    os.makedirs(folder)
    declared, offset = {}, 0
    for name, dtype, shape in tensors():
        count = 1
        for size in shape:
            count *= size
        size = count * {'F8_E4M3': 1, 'F32': 4, 'BF16': 2, 'NORM': 2}[dtype]
        declared[name] = {'dtype': 'BF16' if dtype == 'NORM' else dtype, 'shape': shape, 'data_offsets': [offset, offset + size]}
        offset += size
    text = json.dumps(declared).encode()
    text += b' ' * (-len(text) % 8)
    with open(folder + '/model.safetensors', 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        for name, dtype, shape in tensors():
            count = 1
            for size in shape:
                count *= size
            if dtype == 'NORM':
                file.write(struct.pack('<H', 0x3F80) * count)
            elif dtype == 'F32':
                # Scales that make the weights' standard deviation about 0.02; no bias in the router's choice.
                file.write(struct.pack('<f', 0 if 'bias' in name else 2e-4) * count)
            else:
                source, left = (codes, count) if dtype == 'F8_E4M3' else (dense, 2 * count)
                while left > 0:
                    start = generator.randrange(1 << 19) * 2
                    piece = source[start:start + min(left, 1 << 20)]
                    piece = piece[:len(piece) & ~1 or 1]
                    file.write(piece)
                    left -= len(piece)
    with open(folder + '/config.json', 'w') as file:
        json.dump(CONFIG, file)


work = tempfile.mkdtemp(dir=options.directory)
try:
    write(work + '/layer')
    generator = random.Random(11)
    length = 512
    with open(work + '/tokens.json', 'w') as file:
        json.dump({'sequences': [[generator.randrange(VOCABULARY) for _ in range(length)] for _ in range(options.tokens // length)]}, file)
    started = time.time()
    run = subprocess.run(
        [options.recast, 'convert', work + '/layer', work + '/out', '--to', 'int4-g128', '--quantizer', 'gptq', '--tokens', work + '/tokens.json',
         '--memory', options.memory, '--json', *(['--nearest-scales'] if options.nearest_scales else [])], stdout=subprocess.PIPE, text=True)
    seconds = time.time() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, processor = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
    run.check_returncode()
    report = json.loads(run.stdout)
    print(report['claim'])
    print(f'{options.experts} experts, {options.tokens:,} tokens, --memory {options.memory}: {seconds:,.0f} s, {processor:,.0f} s of processor time on'
          f' {os.cpu_count()} cores, peak memory {peak / 2 ** 30:.2f} GiB; 61 such layers: {seconds * 61 / 3600:.1f} h,'
          f' {processor * 61 / 3600:.0f} core hours')
    units = {'KiB': 10, 'MiB': 20, 'GiB': 30}
    limit = int(options.memory[:-3]) << units[options.memory[-3:]]
    if peak > limit + 150e6:
        sys.exit('peak memory is above --memory and 150 MB')
finally:
    shutil.rmtree(work)
