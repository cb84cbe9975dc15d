"""Write the fuzz targets' seeds: a few valid inputs for each reader, most of them below 4 KB.

usage: seeds.py RECAST      (a built recast, which makes the layouts and containers; pip install h5py numpy)

Everything under Corpus is made anew. What an input of each reader looks like is said in Sources/RecastFuzz.
"""
import collections
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import types
import zipfile

import h5py
import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, '../Fixtures')
CORPUS = os.path.join(HERE, 'Corpus')
PATTERN = b'\x38\x3c'  # a number in every type that scales have
LAYOUTS = '''bf16 f16 int4-g32 int4-g128-asym int8-channel fp8-channel fp8-block w4afp8 awq-g32 gptq gptq-3bit gptq-asym mxfp4 mlx-mxfp4 nvfp4
nvfp4-modelopt mlx-4bit mlx-3bit'''.split()


def seed(reader, name, content):
    os.makedirs(os.path.join(CORPUS, reader), exist_ok=True)
    with open(os.path.join(CORPUS, reader, name), 'wb') as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def compact(value):
    return json.dumps(value, separators=(',', ':'))


def tensor_file(tensors, metadata=None):
    """A safetensors file out of name -> (dtype, shape, bytes)."""
    header, data = {'__metadata__': metadata} if metadata else {}, b''
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [len(data), len(data) + len(content)]}
        data += content
    text = compact(header).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text + data


def gguf_file(entries, tensors):
    """A GGUF file out of key -> (type, value) and name -> (ggml type, shape, bytes)."""
    text = lambda s: struct.pack('<Q', len(s.encode())) + s.encode()
    numbers = {0: 'B', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q'}
    head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(entries))
    for key, (kind, value) in entries.items():
        head += text(key) + struct.pack('<I', kind)
        if kind == 8:
            head += text(value)
        elif kind == 9:
            inner, values = value
            head += struct.pack('<IQ', inner, len(values))
            head += b''.join(text(v) if inner == 8 else struct.pack('<' + numbers[inner], v) for v in values)
        else:
            head += struct.pack('<' + numbers[kind], value)
    data = b''
    for name, (kind, shape, content) in tensors.items():
        head += text(name) + struct.pack(f'<I{len(shape)}QIQ', len(shape), *reversed(shape), kind, len(data))
        data += content + b'\0' * (-len(content) % 32)
    return head + b'\0' * (-len(head) % 32) + data


def gguf_seeds():
    """Two experts of a DeepSeek model with split keys and values, and a file of an architecture without names here."""
    arch, u32, f32, text = 'deepseek2.', 4, 6, 8
    entries = {'general.architecture': (text, 'deepseek2'), 'general.name': (text, 'Seed')}
    for key, value in [('block_count', 1), ('context_length', 8), ('embedding_length', 32), ('feed_forward_length', 32), ('expert_count', 2),
                       ('attention.head_count', 2), ('attention.head_count_kv', 1), ('expert_used_count', 1), ('expert_gating_func', 2),
                       ('leading_dense_block_count', 0), ('vocab_size', 4), ('attention.kv_lora_rank', 32), ('expert_feed_forward_length', 32),
                       ('attention.key_length_mla', 48), ('attention.value_length_mla', 32), ('expert_shared_count', 1), ('rope.dimension_count', 16)]:
        entries[arch + key] = (u32, value)
    entries[arch + 'attention.layer_norm_rms_epsilon'] = (f32, 1e-6)
    entries['tokenizer.ggml.tokens'] = (9, (8, ['a', 'b', 'c', 'd']))
    entries['tokenizer.ggml.token_type'] = (9, (5, [1, 1, 1, 3]))
    q8 = lambda rows, columns: (b'\x08\x20' + bytes(32)) * (rows * columns // 32)
    seed('gguf', 'deepseek2', gguf_file(entries, {
        'token_embd.weight': (8, [4, 32], q8(4, 32)), 'output_norm.weight': (0, [32], bytes(128)),
        'blk.0.attn_k_b.weight': (8, [2, 32, 32], q8(64, 32)), 'blk.0.attn_v_b.weight': (8, [2, 32, 32], q8(64, 32)),
        'blk.0.ffn_gate_exps.weight': (8, [2, 32, 32], q8(64, 32)), 'blk.0.exp_probs_b.bias': (0, [2], bytes(8))}))
    seed('gguf', 'other', gguf_file({'general.architecture': (text, 'gemma3'), 'general.alignment': (u32, 64)}, {}))
    kinds = {2: (32, 18), 10: (256, 84), 11: (256, 110), 12: (256, 144), 14: (256, 210), 16: (256, 66), 20: (32, 18), 23: (256, 136), 29: (256, 56),
             34: (256, 54), 39: (32, 17), 40: (64, 36), 30: (1, 2), 1: (1, 2)}
    seed('gguf', 'types', gguf_file({'general.architecture': (text, 'llama')}, {
        f't{kind}.weight': (kind, [2, max(values, 2)], bytes(2 * max(values, 2) // values * size)) for kind, (values, size) in kinds.items()}))


def tensor_text(path):
    """A safetensors file's header as the targets want it: without offsets, but with the bytes of what must be consistent."""
    with open(path, 'rb') as file:
        content = file.read()
    size = struct.unpack('<Q', content[:8])[0]
    header = json.loads(content[8:8 + size])
    for name, tensor in header.items():
        if name == '__metadata__':
            continue
        start, end = tensor.pop('data_offsets')
        if name.endswith(('weight_shape', 'g_idx')):
            tensor['data'] = list(content[8 + size + start:8 + size + end].rstrip(b'\0')) or [0]
    return compact(header)


def numbers(values):
    return b''.join(struct.pack('<H', struct.unpack('<I', struct.pack('<f', value))[0] >> 16) for value in values)


def checkpoint(folder):
    """A BF16 checkpoint of a few weights that every layout can hold."""
    os.makedirs(folder)
    layer = 'model.layers.0.'
    shapes = {
        'model.embed_tokens.weight': [4, 32], layer + 'mlp.gate.weight': [2, 128], layer + 'mlp.experts.0.up_proj.weight': [8, 128],
        layer + 'mlp.experts.1.up_proj.weight': [8, 128], layer + 'self_attn.kv_b_proj.weight': [32, 64], 'model.norm.weight': [32],
    }
    tensors = {}
    for name, shape in shapes.items():
        count = int(numpy.prod(shape))
        tensors[name] = ('BF16', shape, numbers(((7 * i) % 23 - 11) / 64 for i in range(count)))
    with open(folder + '/model.safetensors', 'wb') as file:
        file.write(tensor_file(tensors, {'format': 'pt'}))
    config = {
        'num_hidden_layers': 1, 'n_routed_experts': 2, 'num_attention_heads': 2, 'qk_nope_head_dim': 8, 'v_head_dim': 8, 'model_type': 'deepseek_v3',
    }
    with open(folder + '/config.json', 'w') as file:
        json.dump(config, file)


def convert(recast, source, target, *options):
    subprocess.run([recast, 'convert', source, target, '--quiet', *options], check=True, stdout=subprocess.DEVNULL)


def layouts(recast, scratch):
    """The readers of whole checkpoints: a header and config.json in every layout."""
    checkpoint(scratch + '/bf16')
    for layout in LAYOUTS:
        target = f'{scratch}/{layout}'
        if layout != 'bf16':
            convert(recast, scratch + '/bf16', target, '--to', layout)
        with open(target + '/config.json') as file:
            config = compact(json.load(file))
        seed('checkpoint', layout, tensor_text(target + '/model.safetensors').encode() + b'\0' + config.encode() + b'\0' + PATTERN)
        family = {'int': 1, 'gpt': 2, 'mlx': 3, 'mxf': 4, 'nvf': 4, 'awq': 5}.get(layout[:3], 0)
        seed('config', layout, f'{family}{config}')
    convert(recast, scratch + '/fp8-block', scratch + '/ranks', '--to', 'bf16', '--model-parallel', '2')
    ranks = [tensor_text(f'{scratch}/ranks/model{rank}-mp2.safetensors') for rank in range(2)]
    seed('ranks', 'bf16', f'{ranks[0]}\0{ranks[1]}\0')
    for name in ('fp8-block', 'int4-g32', 'nvfp4', 'mlx-4bit'):
        sides = []
        for folder in ('bf16', name):
            with open(f'{scratch}/{folder}/config.json') as file:
                sides += [tensor_text(f'{scratch}/{folder}/model.safetensors'), compact(json.load(file))]
        seed('verify', name, '\0'.join(sides).encode() + b'\0' + PATTERN)
    stacks = {
        'model.layers.0.mlp.experts.gate_up_proj': {'dtype': 'BF16', 'shape': [2, 64, 16]},
        'model.layers.0.mlp.experts.down_proj': {'dtype': 'BF16', 'shape': [2, 16, 32]},
    }
    blocks = {
        'model.layers.0.mlp.experts.gate_up_proj_blocks': {'dtype': 'U8', 'shape': [2, 4, 1, 16]},
        'model.layers.0.mlp.experts.gate_up_proj_scales': {'dtype': 'U8', 'shape': [2, 4, 1]},
    }
    odd = {
        'a.weight': {'dtype': 'F8_E4M3', 'shape': [4, 4]}, 'a.input_scale': {'dtype': 'F32', 'shape': []},
        'b.weight': {'dtype': 'F64', 'shape': [0, 3]}, 'c': {'dtype': 'F4', 'shape': [2, 2]},
        'd.weight': {'dtype': 'F8_E4M3', 'shape': [2, 2]}, 'd.scale': {'dtype': 'F8_E8M0', 'shape': [1, 1]},
        'e.weight': {'dtype': 'I8', 'shape': [2, 4]}, 'e.weight_scale': {'dtype': 'BF16', 'shape': [2, 1]},
    }
    widths = {'hidden_size': 16, 'moe_intermediate_size': 32}
    mxfp4 = {'quantization_config': {'quant_method': 'mxfp4'}}
    for name, header, config in [('stacks', stacks, widths), ('blocks', blocks, mxfp4), ('odd', odd, {})]:
        seed('checkpoint', name, f'{compact(header)}\0{compact(config)}\0')
    seed('config', 'stacks', '4' + compact(widths))
    seed('config', 'split', '3{"num_attention_heads":2,"qk_nope_head_dim":8,"v_head_dim":8,"quantization":{"group_size":64,"bits":4}}')
    seed('config', 'beside', '5{"model_type":"x"}\0{"bits":4,"group_size":32,"desc_act":false,"sym":true}')
    fp8 = {'quant_method': 'fp8', 'weight_block_size': [128, 128]}
    seed('config', 'text_config', '0' + compact({'text_config': {'num_hidden_layers': 1, 'quantization_config': fp8}}))
    weight = {'dtype': 'fp4', 'group_size': 32, 'scale_format': 'e8m0'}
    seed('config', 'quark', '4' + compact({'quantization_config': {'quant_method': 'quark', 'global_quant_config': {'weight': weight}}}))


class FakeStorage:
    def __init__(self, kind, key, count):
        self.id = ('storage', kind, key, 'cpu', count)


class TorchPickler(pickle.Pickler):
    """torch.save without torch: the names of its functions are enough."""

    def persistent_id(self, value):
        return value.id if isinstance(value, FakeStorage) else None


def torch_names():
    torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
    torch._utils = utils
    for module, name in [(torch, 'FloatStorage'), (torch, 'BFloat16Storage'), (torch, 'HalfStorage'), (torch, 'LongStorage')]:
        setattr(module, name, type(name, (), {'__module__': 'torch'}))

    def _rebuild_tensor_v2(*arguments):
        return arguments

    def _rebuild_parameter(*arguments):
        return arguments

    for function in (_rebuild_tensor_v2, _rebuild_parameter):
        function.__module__, function.__qualname__ = 'torch._utils', function.__name__
        setattr(utils, function.__name__, function)
    sys.modules.update({'torch': torch, 'torch._utils': utils})
    return torch


class Reduced:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickles(scratch):
    """Pickles by themselves, and in the zip files that torch.save makes."""
    torch = torch_names()
    floats, halves = FakeStorage(torch.FloatStorage, '0', 16), FakeStorage(torch.HalfStorage, '1', 8)

    def tensor(storage, offset, shape, strides):
        return Reduced(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, collections.OrderedDict())

    state = collections.OrderedDict(
        whole=tensor(floats, 0, (4, 4), (4, 1)), turned=tensor(floats, 1, (3, 4), (1, 4)), scalar=tensor(floats, 3, (), ()),
        empty=tensor(halves, 0, (0, 4), (4, 1)), wide=tensor(floats, 0, (2, 2, 2), (8, 3, 1)),
        parameter=Reduced(torch._utils._rebuild_parameter, tensor(halves, 0, (2, 4), (4, 1)), True, collections.OrderedDict()))
    documents = {'state': state, 'training': {'epoch': 3, 'state_dict': dict(state), 'lr': [1e-3, (0.9, -1)]}}
    for name, document in documents.items():
        for protocol in (2, 4):
            path = scratch + '/data.pkl'
            with open(path, 'wb') as file:
                TorchPickler(file, protocol).dump(document)
            with open(path, 'rb') as file:
                content = file.read()
            for order in '01' if protocol == 2 else '0':
                seed('pickle', f'{name}-{protocol}-{order}', order.encode() + content)
            if protocol == 2:
                with zipfile.ZipFile(scratch + '/x.pt', 'w') as archive:
                    for entry, data in [('x/data.pkl', content), ('x/byteorder', b'little'), ('x/data/0', bytes(64)), ('x/data/1', bytes(16))]:
                        archive.writestr(zipfile.ZipInfo(entry), data)  # without the time
                with open(scratch + '/x.pt', 'rb') as file:
                    seed('torch', name, file.read())
    folder = FIXTURES + '/hostile-pickles'
    for name in 'nested-reduce negative-stride expanded-bomb marks a-list-of-itself compressed-bomb state-of-a-function'.split():
        with open(f'{folder}/{name}.pt', 'rb') as file:
            seed('torch', name, file.read())
        if name != 'compressed-bomb':
            with zipfile.ZipFile(f'{folder}/{name}.pt') as archive:
                entry = next(entry for entry in archive.namelist() if entry.endswith('data.pkl'))
                seed('pickle', name, b'0' + archive.read(entry))


def containers(recast, scratch):
    small = scratch + '/small'
    os.makedirs(small)
    tensors = {
        'a.weight': ('BF16', [16, 24], numbers((i % 7 - 3) / 8 for i in range(384))), 'b': ('F32', [3], struct.pack('<3f', 1, 2, 3)),
        'count': ('I64', [], struct.pack('<q', 7)), 'empty': ('F16', [0, 4], b''),
    }
    seed('safetensors', 'plain', tensor_file(tensors))
    seed('safetensors', 'metadata', tensor_file(dict(list(tensors.items())[1:]), {'format': 'pt', 'note': 'é\n'}))
    seed('safetensors', 'pointer', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    with open(small + '/model.safetensors', 'wb') as file:
        file.write(tensor_file(tensors))
    with open(small + '/config.json', 'w') as file:
        file.write('{"model_type":"x"}')
    for container, name in [('zstd', 'model.safetensors.zst'), ('torch', 'pytorch_model.bin')]:
        for order in ['', '--keep-byte-order'] if container == 'zstd' else ['']:
            target = f'{scratch}/{container}{order}'
            convert(recast, small, target, '--to', 'keep', '--container', container, *filter(None, [order]))
            with open(f'{target}/{name}', 'rb') as file:
                seed(container, 'recast' + order, file.read())
    convert(recast, small, scratch + '/model.h5', '--to', 'keep')
    with open(scratch + '/model.h5', 'rb') as file:
        seed('hdf5', 'recast', file.read())
    values = numpy.arange(40, dtype='f4').reshape(5, 8)
    with h5py.File(scratch + '/h5py.h5', 'w', libver=('v108', 'v108')) as file:
        file.create_dataset('gzip/shuffled', data=values, chunks=(2, 8), compression='gzip', shuffle=True, fletcher32=True)
        file.create_dataset('big', data=values.astype('>f8')[:2])
        file.create_dataset('grown', shape=(5, 6), maxshape=(None, None), chunks=(4, 4), dtype='f4', fillvalue=2)
        file.create_dataset('unwritten', shape=(2, 3), dtype='i2')
    with h5py.File(scratch + '/old.h5', 'w') as file:
        file['layer/kernel'] = values.astype('f2')
        file['layer/scalar'] = numpy.float32(3)
        file['flags'] = values[0] > 3
        file['note'] = 'a text is no tensor'
    for name in ('h5py', 'old'):
        with open(f'{scratch}/{name}.h5', 'rb') as file:
            seed('hdf5', name, file.read())
    seed('index', 'whole', compact({'metadata': {'total_size': 32}, 'weight_map': {
        'a.weight': 'model-1.safetensors', 'b.weight': 'model-1.safetensors', 'c.weight': 'model-2.safetensors'}}))
    seed('index', 'all', compact({'weight_map': {
        'a.weight': 'model-1.safetensors', 'b.weight': 'model-1.safetensors', 'c.weight': 'model-2.safetensors',
        'model.layers.1.d.weight': 'model-3.safetensors'}}))
    seed('index', 'missing', compact({'weight_map': {'a.weight': 'model-1.safetensors', 'x': '../x.safetensors'}}))


def texts():
    for name, text in {
        'document': '{"a":[1,-2.5e+3,true,false,null],"b":{"é":"\\ud83d\\ude00\\n\\u0007\\/"},"":{}}', 'nested': '[[[[[[[[{}]]]]]]]]',
        'scalar': ' "\\\\ \\" \u2028" ', 'number': '-0.0E-0', 'empty': '{}',
    }.items():
        seed('json', name, text)
    with open(FIXTURES + '/tokenizer/tokenizer.json') as file:
        tokenizer = json.load(file)
    letters = list('abcdeéhilorstw') + ['Ġ', 'Ċ', 'Ã', '©', '1', '2', "'", '.', ' ']
    merges = [['h', 'e'], ['l', 'l'], ['he', 'll'], ['Ġ', 'w'], ['Ġw', 'o']]
    vocabulary = {token: number for number, token in enumerate(letters + [''.join(merge) for merge in merges])}
    small = dict(tokenizer, added_tokens=tokenizer['added_tokens'][:2])
    small['model'] = dict(tokenizer['model'], vocab=vocabulary, merges=merges)
    seed('tokenizer', 'small', json.dumps(small, ensure_ascii=False) + '\0hello world 12')
    words = '[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'
    split = {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Split', 'pattern': {'Regex': '\\p{N}{1,3}'}, 'behavior': 'Isolated', 'invert': False},
        {'type': 'Split', 'pattern': {'Regex': '[一-龥぀-ゟ゠-ヿ]+'}, 'behavior': 'Isolated', 'invert': False},
        {'type': 'Split', 'pattern': {'Regex': words}, 'behavior': 'Isolated', 'invert': False},
        {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': False}]}
    pairs = {'type': 'BPE', 'ignore_merges': True, 'vocab': {'a': 0, 'b': 1, 'ab': 2}, 'merges': ['a b']}
    deepseek = dict(small, pre_tokenizer=split, model=pairs)
    deepseek['added_tokens'] = [{'id': 3, 'content': '<｜end｜>', 'special': True}]
    seed('tokenizer', 'deepseek', json.dumps(deepseek, ensure_ascii=False) + '\0ab<｜end｜>漢字 123\r\n')
    seed('tokens', 'sequences', '{"sequences":[[1,2,3],[4],[]],"note":{"a":[]}}')
    seed('tokens', 'input_ids', tensor_file({'input_ids': ('I64', [2, 3], struct.pack('<6q', 1, 2, 3, 4, 5, 6))}))
    seed('recipe', 'rules', '''# which layout
rules:
  - match: "*.mlp.experts.*"
    to: int4-g32
    quantizer: mse
  - match: 're:.*self_attn\\..*_proj'
    to: bf16
  - {match: "*", to: keep}
''')
    seed('recipe', 'odd', '''rules: &all
  - match: |
      two
      lines
    to: !!str f32
  - match: "tab\\t\\u00e9"
    to: keep
''')
    seed('recipe', 'alias', 'a: &x [1, 2]\nrules:\n  - *x\n  - {match: 1:30, to: 0x1F}\n  - <<: {match: "*"}\n    to: bf16\n')
    seed('policy', 'all', '''claim: 4-bit
exact: false
without-mtp: true
min-sqnr: 12
max-kld: 2.5e-2
max-kld-p99: .5
min-top1: 0.96
min-expert-agreement: 0.9
max-perplexity-ratio: 1.01
max-mtp-kld: 1
weights:
  - match: "*.self_attn.*"
    exact: true
  - match: "re:.*experts.[0-9]+.*"
    min-sqnr: 15
''')
    # What once ended in a trap, or took all memory.
    seed('policy', 'list-as-key', '[a]: b\n? {c: d}\n: e\n')
    seed('policy', 'sexagesimal', 'max-kld: 9223372036854775807:59:59\n')
    bomb = 'a: &a [x,x,x,x,x,x,x,x,x]\n' + ''.join(f'{n}: &{n} [{",".join(["*" + before] * 9)}]\n' for before, n in zip('abcdefgh', 'bcdefghi'))
    seed('policy', 'bomb', bomb)
    seed('policy', 'bomb-behind-a-quote', "k: x 'y\n" + bomb)
    seed('policy', 'numbers', 'max-kld: .inf\nmin-top1: 1_0\nmin-sqnr: 1:30\nmax-mtp-kld: 2001-12-14t21:59:43.10-05:00\nclaim: ~\n')


def models():
    config = {
        'model_type': 'deepseek_v3', 'hidden_size': 16, 'num_hidden_layers': 2, 'first_k_dense_replace': 1, 'num_attention_heads': 2,
        'q_lora_rank': 8, 'kv_lora_rank': 8, 'qk_nope_head_dim': 8, 'qk_rope_head_dim': 4, 'v_head_dim': 8, 'intermediate_size': 24,
        'moe_intermediate_size': 8,
        'vocab_size': 32, 'num_nextn_predict_layers': 1, 'n_routed_experts': 4, 'num_experts_per_tok': 2, 'n_group': 2, 'topk_group': 1,
        'n_shared_experts': 1, 'norm_topk_prob': True, 'routed_scaling_factor': 2.5, 'rope_theta': 10000,
    }
    yarn = {
        'rope_type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 256, 'beta_fast': 32, 'beta_slow': 1, 'mscale': 1, 'mscale_all_dim': 1,
    }
    seed('model', 'v3', compact(config))
    seed('model', 'yarn', compact(dict(config, rope_scaling=yarn, max_position_embeddings=1024, rms_norm_eps=1e-6, tie_word_embeddings=True)))
    seed('model', 'v2', compact(dict(
        config, model_type='deepseek_v2', topk_method='group_limited_greedy', scoring_func='softmax', q_lora_rank=None, num_nextn_predict_layers=0)))
    seed('model', 'kimi', compact(dict(
        config, model_type='kimi_k2', n_group=1, rope_interleave=False, rope_theta=None,
        rope_parameters=dict(yarn, rope_theta=5e4, attention_factor=1.1))))

    def entry(dtype, shape, code=None, values=()):
        return dict(dtype=dtype, shape=shape, **({'data': list(struct.pack(f'<{len(values)}{code}', *values))} if code else {}))

    ones = b'\0' + struct.pack('<f', 1)
    logits = {'logits': entry('F32', [2, 3, 32]), 'hidden.1': entry('F32', [2, 3, 16]), 'hidden.2': entry('F32', [3, 16])}
    logits['mtp.logits'] = entry('F32', [1, 2, 32])
    seed('reference', 'logits', compact({'__metadata__': {'format': 'pt'}, **logits}).encode() + ones)
    stored = {
        '__metadata__': {'recast.reference': '1', 'vocabulary': '32'}, 'lengths': entry('I64', [2], 'q', [3, 2]),
        'input_ids': entry('I64', [5], 'q', [1, 2, 3, 4, 5]), 'top.tokens': entry('I32', [5, 2], 'i', [0, 1] * 5),
        'top.logits': entry('F32', [5, 2], 'f', [0.5, 0.25] * 5), 'log_sum_exp': entry('F64', [5], 'd', [3.5] * 5),
        'target_log_probability': entry('F64', [5], 'd', [-3.0] * 5),
    }
    seed('reference', 'compact', compact(stored) + '\0')
    kept = {'__metadata__': {'recast.statistics': '1'}}
    for module, columns in [('model.layers.0.a', 64), ('model.layers.0.b', 32)]:
        kept[module + '.mean_square'] = kept[module + '.mean_abs'] = entry('F32', [columns])
        kept[module + '.count'] = entry('I64', [1], 'q', [9])
    seed('statistics', 'two', compact(kept).encode() + ones)


def runs():
    digest = '0' * 64
    lines = [
        {'written': 0}, {'audited': 0, 'sha256': [digest]}, {'written': 1}, {'rewrite': 1}, {'shard': 0},
        {'audited': 2, 'sha256': [digest], 'not_finite': 1}, {'calibrated': 2, 'sha256': [digest]}, {'calibration': 'done'},
        {'written': 3}, {'written': 4},
        {'audited': 1, 'sha256': [digest, digest], 'sqnr_db': 20, 'max_abs': 1, 'amax': 2},
    ]
    text = '\n'.join(map(compact, lines)) + '\n'
    for number in range(3):
        seed('journal', f'lines-{number}', f'{number}{text}')
        seed('journal', f'torn-{number}', f'{number}{text[:40]}')
    stage = [{'calibrated': 1, 'sha256': [digest]}, {'calibration': 'void'}, {'calibrated': 0, 'sha256': [digest]}, {'calibration': 'done'}]
    seed('journal', 'calibration', '0' + '\n'.join(map(compact, stage)) + '\n')
    seed('journal', 'no-digests', '0{"audited":0,"sha256":[]}\n')
    seed('journal', 'other', '1!{"plan":"x"}\n{"written":0}\n')
    files = [{'name': f'model-0000{number}-of-00003.safetensors', 'size': size} for number, size in [(1, 640), (2, 4240), (3, 904)]]
    seed('manifest', 'destination', '0' + compact({'schema': 1, 'plan': '@plan', 'files': files, 'weights': []}))
    seed('manifest', 'source', '1' + compact({'plan': 'x', 'weights': [
        {'name': 'model.layers.1.norm.weight', 'tensors': [{'name': 'model.layers.1.norm.weight', 'sha256': digest}]},
        {'name': 'y', 'tensors': [{'name': 'model.embed_tokens.weight', 'sha256': digest, 'index': 1}]}]}))


def main():
    recast = os.path.abspath(sys.argv[1])
    shutil.rmtree(CORPUS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        layouts(recast, scratch)
        pickles(scratch)
        containers(recast, scratch)
    gguf_seeds()
    texts()
    models()
    runs()
    sizes = [os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(CORPUS) for name in names]
    print(f'{len(sizes)} seeds, {sum(sizes)} bytes, the largest {max(sizes)}')


if __name__ == '__main__':
    main()
