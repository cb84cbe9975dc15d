"""Time whole conversions of one BF16 layer of 1.7 GB beside `cp` of it, and beside another build of Recast.

usage: benchmark_conversions.py RECAST [--against OTHER] [--layouts awq,nvfp4,...] [--rounds 3] [--directory /dev/shm]

The binaries take turns; of each the fastest round counts, of `cp` too. Another build must give the same bytes: exits if it does not. Needs 4 GB in
DIRECTORY, a file system in memory for figures that do not hang on a disk, and nothing beside it.
"""
import argparse
import hashlib
import json
import math
import os
import random
import shutil
import struct
import subprocess
import tempfile
import time

HIDDEN, INNER, FILES = 8192, 28672, 3

parser = argparse.ArgumentParser()
parser.add_argument('recast')
parser.add_argument('--against')
parser.add_argument('--layouts', default='fp8-block,int4-g128,mxfp8,mxfp4,nvfp4,awq,gptq,mlx-4bit')
parser.add_argument('--rounds', type=int, default=3)
parser.add_argument('--directory', default='/dev/shm')
options = parser.parse_args()


def write_layer(folder):
    """A Llama of one layer, its values normal with a deviation of 0.02, repeated after 4 Mi."""
    chance = random.Random(1)
    singles = struct.pack(f'<{1 << 22}f', *(chance.gauss(0, 0.02) for _ in range(1 << 22)))
    pattern = bytearray(1 << 23)
    pattern[0::2], pattern[1::2] = singles[2::4], singles[3::4]
    layer = 'model.layers.0.'
    shapes = {'model.embed_tokens.weight': [256, HIDDEN], 'model.norm.weight': [HIDDEN], 'lm_head.weight': [256, HIDDEN]}
    for name, rows, columns in (('self_attn.q_proj', HIDDEN, HIDDEN), ('self_attn.k_proj', 1024, HIDDEN), ('self_attn.v_proj', 1024, HIDDEN),
                                ('self_attn.o_proj', HIDDEN, HIDDEN), ('mlp.gate_proj', INNER, HIDDEN), ('mlp.up_proj', INNER, HIDDEN),
                                ('mlp.down_proj', HIDDEN, INNER)):
        shapes[f'{layer}{name}.weight'] = [rows, columns]
    shapes |= {f'{layer}{name}.weight': [HIDDEN] for name in ('input_layernorm', 'post_attention_layernorm')}
    os.makedirs(folder)
    places = {}
    for number in range(FILES):
        file_name, header, end = f'model-{number + 1:05d}-of-{FILES:05d}.safetensors', {}, 0
        for name in list(shapes)[number::FILES]:
            size = 2 * math.prod(shapes[name])
            header[name] = {'dtype': 'BF16', 'shape': shapes[name], 'data_offsets': [end, end + size]}
            places[name], end = file_name, end + size
        text = json.dumps(header).encode()
        with open(os.path.join(folder, file_name), 'wb') as file:
            file.write(struct.pack('<Q', len(text)) + text)
            for entry in header.values():
                left = entry['data_offsets'][1] - entry['data_offsets'][0]
                while left:
                    file.write(pattern[:left])
                    left -= min(left, len(pattern))
    config = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM'], 'hidden_size': HIDDEN, 'intermediate_size': INNER, 'num_hidden_layers': 1,
              'num_attention_heads': 64, 'num_key_value_heads': 8, 'vocab_size': 256, 'rms_norm_eps': 1e-5, 'rope_theta': 5e5,
              'max_position_embeddings': 8192, 'tie_word_embeddings': False, 'torch_dtype': 'bfloat16', 'hidden_act': 'silu'}
    for name, value in (('config.json', config), ('model.safetensors.index.json', {'metadata': {}, 'weight_map': places})):
        with open(os.path.join(folder, name), 'w') as file:
            json.dump(value, file)


def seconds(command, output):
    shutil.rmtree(output, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def digest(folder):
    result = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        if name.endswith('.safetensors'):
            with open(os.path.join(folder, name), 'rb') as file:
                result.update(hashlib.file_digest(file, 'sha256').digest())
    return result.digest()


with tempfile.TemporaryDirectory(dir=options.directory) as work:
    source, output = os.path.join(work, 'source'), os.path.join(work, 'output')
    write_layer(source)
    copy = min(seconds(['cp', '-r', source, output], output) for _ in range(options.rounds))
    print(f'cp of the input: {copy:.2f} s', flush=True)
    for layout in options.layouts.split(','):
        best, digests = {}, set()
        for _ in range(options.rounds):
            for binary in filter(None, (options.recast, options.against)):
                taken = seconds([binary, 'convert', source, output, '--to', layout, '--quiet'], output)
                best[binary] = min(taken, best.get(binary, taken))
                digests.add(digest(output))
        text = f'{layout}: {best[options.recast]:.2f} s, {best[options.recast] / copy:.2f} x cp'
        print(text + (f'; the other build {best[options.against]:.2f} s' if options.against else ''), flush=True)
        if len(digests) > 1:
            raise SystemExit(f'{layout}: the outputs differ')
