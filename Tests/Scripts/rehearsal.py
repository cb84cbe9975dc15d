"""Rehearse a 671B conversion without 688 GB: the full-size DeepSeek-V3 checkpoint as sparse files, planned for real.

usage: rehearsal.py RECAST [--directory DIR] [--layers 61] [--shards 163]

Writes every tensor of DeepSeek-V3's FP8 release (names, shapes, dtypes, sizes; data are holes), then inspects it, plans it to
several layouts, converts one full-width layer to int4-g128 and awq within 256 MiB, and repacks it. Prints seconds and peak memory, and
fails if a count is wrong, planning takes more than 300 MB, a conversion more than its budget + 150 MB, or a repacked value differs.
Standard library only.
"""
import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

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


def model(layers):
    tensors = [('model.embed_tokens.weight', 'BF16', (VOCABULARY, HIDDEN))]
    for layer in range(layers):
        tensors += decoder_layer(f'model.layers.{layer}.', layer < 3)
    tensors += [('model.norm.weight', 'BF16', (HIDDEN,)), ('lm_head.weight', 'BF16', (VOCABULARY, HIDDEN))]
    last = f'model.layers.{layers}.'
    tensors += [(last + 'embed_tokens.weight', 'BF16', (VOCABULARY, HIDDEN)), (last + 'enorm.weight', 'BF16', (HIDDEN,)),
                (last + 'hnorm.weight', 'BF16', (HIDDEN,)), (last + 'eh_proj.weight', 'BF16', (HIDDEN, 2 * HIDDEN))]
    tensors += decoder_layer(last, False)
    return tensors + [(last + 'shared_head.norm.weight', 'BF16', (HIDDEN,)), (last + 'shared_head.head.weight', 'BF16', (VOCABULARY, HIDDEN))]


def size(tensor):
    product = WIDTH[tensor[1]]
    for dimension in tensor[2]:
        product *= dimension
    return product


def write(folder, tensors, shards, layers, experts=256):
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
    with open(os.path.join(folder, 'model.safetensors.index.json'), 'w') as file:
        json.dump({'metadata': {}, 'weight_map': weight_map}, file)
    with open(os.path.join(folder, 'config.json'), 'w') as file:
        json.dump({'architectures': ['DeepseekV3ForCausalLM'], 'model_type': 'deepseek_v3', 'num_hidden_layers': layers,
                   'num_nextn_predict_layers': 1, 'n_routed_experts': experts, 'num_experts_per_tok': 8,
                   'num_attention_heads': HEADS, 'qk_nope_head_dim': 128, 'v_head_dim': 128, 'torch_dtype': 'bfloat16',
                   'quantization_config': {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic',
                                           'weight_block_size': [128, 128]}}, file)
    return len(tensors), total


def measure(arguments):
    """Runs a command; returns its output, seconds and peak resident bytes."""
    start = time.monotonic()
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f'{arguments}: exit status {child.returncode}')
    return json.loads(output), time.monotonic() - start, usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


parser = argparse.ArgumentParser()
parser.add_argument('recast')
parser.add_argument('--directory')
parser.add_argument('--layers', type=int, default=61)
parser.add_argument('--shards', type=int, default=163)
options = parser.parse_args()
work = tempfile.mkdtemp(dir=options.directory)
failures = []
try:
    count, total = write(work + '/full', model(options.layers), options.shards, options.layers)
    print(f'{count:,} tensors, {total:,} bytes of data in sparse files')
    for arguments in (['inspect', work + '/full'], ['convert', work + '/full', work + '/out', '--to', 'bf16', '--dry-run'],
                      *(['convert', work + '/full', work + '/out', '--to', layout, '--dry-run'] for layout in ('int4-g128', 'nvfp4', 'mlx-4bit')),
                      ['convert', work + '/full', work + '/out', '--to', 'keep', '--container', 'zstd', '--dry-run'],
                      ['convert', work + '/full', work + '/out', '--to', 'keep', '--model-parallel', '16', '--dry-run']):
        report, seconds, peak = measure([options.recast, *arguments, '--json'])
        print(f'{arguments[0]} {" ".join(arguments[3:])}: {seconds:.2f} s, peak memory {peak / 1e6:.0f} MB')
        if peak > 300e6:
            failures.append(f'{arguments[0]} took {peak / 1e6:.0f} MB')
        if arguments[0] == 'inspect' and report['tensors'] != count:
            failures.append(f'inspect counts {report["tensors"]} tensors')
        if arguments[0] == 'inspect' and options.layers == 61:
            print(f'{report["parameters"]:,} parameters, {report["active_parameters"]:,} active')
            if report['parameters'] != 684489845504:
                failures.append('the parameters are not those of DeepSeek-V3')
    # A full-width mixture layer with 16 experts: real work, bounded memory.
    write(work + '/layer', decoder_layer('model.layers.0.', False, experts=16), 2, 1, experts=16)
    budget = 256 << 20
    for source, layout, *more in (('layer', 'int4-g128'), ('layer', 'awq'), ('awq', 'gptq-asym', '--require-exact'), ('layer', 'mlx-4bit')):
        arguments = ['convert', f'{work}/{source}', f'{work}/{layout}', '--to', layout, '--memory', str(budget), *more]
        report, seconds, peak = measure([options.recast, *arguments, '--json'])
        print(f'one layer, 16 experts, {source} to {layout} with --memory 256MiB: {seconds:.2f} s, peak memory {peak / 1e6:.0f} MB')
        if peak > budget + 150e6:
            failures.append(f'the conversion to {layout} took {peak / 1e6:.0f} MB')
        if more and (report['audit']['repacked'] < 48 or report['audit']['quantized']):
            failures.append(f'{source} to {layout} was not repacked')
    # The same layer in BF16 through every container, and back out of it.
    for source, name, *more in (('layer', 'bf16', '--to', 'bf16'), *(('bf16', name, '--to', 'keep', '--container', name) for name in ('zstd', 'torch', 'hdf5')),
                                *((name, name + '-back', '--to', 'keep', '--container', 'safetensors') for name in ('zstd', 'torch', 'hdf5'))):
        report, seconds, peak = measure([options.recast, 'convert', f'{work}/{source}', f'{work}/{name}', *more, '--memory', str(budget), '--json'])
        print(f'one layer, {source} to {name} with --memory 256MiB: {seconds:.2f} s, peak memory {peak / 1e6:.0f} MB, {report["output_bytes"]:,} bytes')
        if peak > budget + 150e6:
            failures.append(f'the conversion to {name} took {peak / 1e6:.0f} MB')
    report, seconds, peak = measure([options.recast, 'verify', work + '/awq', work + '/gptq-asym', '--exact', '--memory', str(budget), '--json'])
    print(f'verify --exact of the two: {seconds:.2f} s, peak memory {peak / 1e6:.0f} MB')
    if not report['passed'] or peak > budget + 150e6:
        failures.append('the repacked layer differs, or took too much memory')
finally:
    shutil.rmtree(work)
for failure in failures:
    print('FAIL', failure)
sys.exit(len(failures) > 0)
