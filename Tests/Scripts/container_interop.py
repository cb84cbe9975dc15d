"""Check the containers against the Python libraries and tools that read and write them.

usage: container_interop.py RECAST FIXTURES      (pip install 'torch==2.13.0' safetensors h5py hdf5plugin ml-dtypes pyzstd; tools: zstd, hdf5-tools)

  torch     loads our .bin with weights_only=True and mmap=True; what torch.save writes (views, shared storages, parameters, wrapped
            dictionaries, every dtype, big-endian files) is read to the same bytes
  h5py      reads our datasets under every filter, with the recipe of HDF5/FORMAT.md; what h5py writes (filters, automatic chunks, byte
            orders, Keras' layout) is read to the same bytes; h5dump decodes them with the registered plugin
  zstd      `zstd -t` accepts every archive, `zstd -d` restores those in byte order; pyzstd seeks in them; the recipe of
            ZstdArchive/FORMAT.md undoes the byte planes
  DeepSeek  our shards are those that the published naming rules give, for several numbers of ranks, and read back to the same weights
Prints one line a check and ends with the count; exits non-zero if one fails.
"""
import glob
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

import h5py
import hdf5plugin
import ml_dtypes
import numpy
import pyzstd
import torch
from bundled_model import Conversions, tensors
from safetensors import safe_open
from safetensors.torch import save_file

recast, fixtures = sys.argv[1:3]
formats = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../Formats/Containers')
work = tempfile.mkdtemp()
passed = failed = 0


def check(name, condition):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    print('ok  ' if condition else 'FAIL', name, flush=True)


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, **options)


def recast_run(*arguments):
    result = run(recast, *arguments, '--quiet')
    if result.returncode:
        raise SystemExit(f'recast {" ".join(arguments)}: {result.stderr}')
    return result


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b''


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and raw(a[k]) == raw(b[k]) for k in a)


conversions = Conversions(recast, fixtures, work)
models = {'bf16': conversions.bf16, 'fp8': conversions.fp8, 'int4': conversions.convert(conversions.bf16, 'int4-g128')}


def read_back(source, name):
    """What Recast makes of a source, as safetensors."""
    folder = f'{work}/{name}'
    shutil.rmtree(folder, ignore_errors=True)
    recast_run('convert', source, folder, '--to', 'keep', '--container', 'safetensors')
    return tensors(folder)


# PyTorch
for kind, model in models.items():
    recast_run('convert', model, f'{work}/torch-{kind}', '--to', 'keep', '--container', 'torch')
    plain, mapped = {}, {}
    for name in sorted(glob.glob(f'{work}/torch-{kind}/*.bin')):
        plain |= torch.load(name, weights_only=True)
        mapped |= torch.load(name, weights_only=True, mmap=True)
    check(f'torch.load reads {kind} ({len(plain)} tensors)', same(plain, tensors(model)))
    check(f'torch.load maps {kind}', same(mapped, plain))
    index = json.load(open(f'{work}/torch-{kind}/pytorch_model.bin.index.json'))['weight_map']
    check(f'the index of {kind} names them', index.keys() == plain.keys())

generator = torch.Generator().manual_seed(0)
base = torch.randn(40, 24, 6, generator=generator)
types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
         torch.complex64, torch.float8_e8m0fnu, torch.uint16, torch.uint32, torch.uint64]
numbers = torch.randint(0, 100, (7, 5), generator=generator)
state = {f'type.{t}': (numbers.to(torch.float32).to(t) if t.is_floating_point else numbers.to(t)) for t in types}
state |= {
    'transposed': base[:, :, 0].t(), 'permuted': base.permute(2, 0, 1), 'narrowed': base.narrow(1, 3, 9), 'strided': base[::3, ::5, 1],
    'column': base[:, 7, 3], 'shared': base, 'tied': base, 'inner': base[3], 'scalar': torch.tensor(2.5), 'empty': torch.empty(0, 4),
    'transposed16': torch.randn(300, 200, generator=generator).to(torch.bfloat16).t(),
}
torch.save(state, f'{work}/views.pt')
expected = {k: v.contiguous() for k, v in state.items()}
check(f'views, shared storages and all dtypes that torch.save writes ({len(state)})', same(read_back(f'{work}/views.pt', 'views'), expected))

torch.save(tensors(models['fp8']), f'{work}/fp8.pt')
check('the FP8 model as torch.save writes it', same(read_back(f'{work}/fp8.pt', 'fp8-saved'), tensors(models['fp8'])))
module = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.BatchNorm1d(8))
torch.save(module.state_dict(), f'{work}/module.pth')
check("a module's state_dict with its version numbers", same(read_back(f'{work}/module.pth', 'module'), dict(module.state_dict())))
torch.save({'epoch': 3, 'model': module.state_dict(), 'optimizer': {'lr': 1e-3, 'state': {}}}, f'{work}/training.pt')
check('a training checkpoint that wraps it', same(read_back(f'{work}/training.pt', 'training'), dict(module.state_dict())))
torch.save({'w': torch.nn.Parameter(base[0].clone())}, f'{work}/parameter.pt')
check('parameters', same(read_back(f'{work}/parameter.pt', 'parameter'), {'w': base[0].clone()}))


def big_endian(source, target):
    """The same archive as a big-endian machine writes it."""
    loaded = torch.load(source, weights_only=True)
    order = list(loaded.values())
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith('/byteorder'):
                content = b'big'
            if '/data/' in entry:
                content = numpy.frombuffer(content, '<u4').astype('>u4').tobytes()
            new.writestr(entry, content)
    return order


torch.save({'a': base, 'b': base[:, :, 2].t()}, f'{work}/little.pt')
big_endian(f'{work}/little.pt', f'{work}/big.pt')
check('a big-endian archive', same(read_back(f'{work}/big.pt', 'big'), {'a': base, 'b': base[:, :, 2].t().contiguous()}))

# HDF5
names = {'BF16': ml_dtypes.bfloat16, 'F8_E4M3': ml_dtypes.float8_e4m3fn, 'F8_E5M2': ml_dtypes.float8_e5m2, 'F8_E8M0': ml_dtypes.float8_e8m0fnu}


def h5_tensors(path):
    """HDF5/FORMAT.md's recipe."""
    found = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and not name.startswith('__files__/'):
            values = node[()]
            if 'safetensors_dtype' in node.attrs:
                values = numpy.asarray(values).view(names[node.attrs['safetensors_dtype']])
            found[name.replace('/', '.')] = numpy.asarray(values)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


for kind, model in models.items():
    reference = tensors(model)
    for filter in ('zstd', 'deflate', 'none'):
        path = f'{work}/{kind}-{filter}.h5'
        recast_run('convert', model, path, '--to', 'keep', '--hdf5-filter', filter)
        ours = h5_tensors(path)
        equal = ours.keys() == reference.keys() and all(ours[k].tobytes() == raw(reference[k]) and ours[k].shape == tuple(reference[k].shape) for k in ours)
        floats = all(numpy.array_equal(ours[k].astype(numpy.float32), reference[k].float().numpy(), equal_nan=True) for k in list(ours)[:40])
        check(f'h5py reads {kind} with {filter} ({len(ours)} tensors, {os.path.getsize(path)} bytes)', equal and floats)
        check(f'and Recast reads it back', same(read_back(path, f'{kind}-{filter}'), reference))
with h5py.File(f'{work}/fp8-zstd.h5') as file:
    node = file['model/layers/1/mlp/experts/0/gate_proj/weight']
    check('chunks are shuffled and compressed as registered', hdf5plugin.ZSTD_ID in [node.id.get_create_plist().get_filter(i)[0] for i in range(node.id.get_create_plist().get_nfilters())])
    check('config.json travels inside', json.loads(bytes(file['__files__/config.json'][()]))['model_type'] == 'deepseek_v3')
os.makedirs(f'{work}/sharded', exist_ok=True)
recast_run('convert', models['fp8'], f'{work}/sharded', '--to', 'keep', '--container', 'hdf5', '--overwrite')
ours = {}
for name in glob.glob(f'{work}/sharded/*.h5'):
    ours |= h5_tensors(name)
check('a sharded set holds the same', all(ours[k].tobytes() == raw(v) for k, v in tensors(models['fp8']).items()))
if shutil.which('h5dump'):
    plugin = os.environ | {'HDF5_PLUGIN_PATH': hdf5plugin.PLUGIN_PATH}
    dump = run('h5dump', '-d', '/model/layers/1/mlp/experts/0/gate_proj/weight', f'{work}/bf16-deflate.h5')
    check('h5dump decodes deflate', dump.returncode == 0 and 'DATA {' in dump.stdout)
    listing = run('h5ls', '-rv', f'{work}/bf16-zstd.h5', env=plugin)
    check('h5ls lists zstd chunks', listing.returncode == 0 and '32015' in listing.stdout)

values = numpy.random.default_rng(0).standard_normal((37, 53)).astype('f4')
with h5py.File(f'{work}/foreign.h5', 'w') as file:
    file.create_dataset('gzip/shuffled', data=values, chunks=(8, 10), compression='gzip', shuffle=True)
    file.create_dataset('gzip/checked', data=values, chunks=(37, 7), compression='gzip', fletcher32=True)
    file.create_dataset('auto', data=numpy.arange(3 * 70 * 90, dtype='i8').reshape(3, 70, 90), chunks=True)
    file.create_dataset('big', data=values.astype('>f4'), chunks=(5, 53))
    file.create_dataset('bigplain', data=values.astype('>f8'))
    file.create_dataset('half', data=values.astype('f2'))
    file.create_dataset('flags', data=values > 0)
    file.create_dataset('complex', data=(values + 1j * values).astype('c8'))
    file.create_dataset('scalar', data=numpy.float32(3))
    file.create_dataset('grown', shape=(20, 30), maxshape=(None, None), chunks=(16, 16), dtype='f4', fillvalue=2)
    file['grown'][:7, :9] = 1
    file.create_dataset('unwritten', shape=(4, 5), dtype='i2')
    file.create_dataset('zstd', data=values, chunks=(9, 53), **hdf5plugin.Zstd(clevel=5))
    file.create_dataset('name', data='a text is no tensor')
    wanted = {'gzip.shuffled': values, 'gzip.checked': values, 'auto': file['auto'][()], 'big': values, 'bigplain': values.astype('f8'),
              'half': values.astype('f2'), 'flags': values > 0, 'complex': file['complex'][()], 'scalar': numpy.float32(3), 'grown': file['grown'][()],
              'unwritten': numpy.zeros((4, 5), 'i2'), 'zstd': values}
found = read_back(f'{work}/foreign.h5', 'foreign')
wrong = [k for k in wanted if k not in found or raw(found[k]) != numpy.ascontiguousarray(wanted[k]).tobytes()]
check(f'what h5py writes is read to the same bytes ({len(wanted)}){"" if not wrong else ": " + ", ".join(wrong)}', not wrong and found.keys() == wanted.keys())
with h5py.File(f'{work}/keras.weights.h5', 'w') as file:
    # keras:src/saving/saving_lib.py: layers/<name>/vars/<number>
    file.create_dataset('layers/dense/vars/0', data=values)
    file.create_dataset('layers/dense/vars/1', data=values[0])
    file['layers/dense'].attrs['name'] = 'dense'
found = read_back(f'{work}/keras.weights.h5', 'keras')
check('a Keras .weights.h5 file', found.keys() == {'layers.dense.vars.0', 'layers.dense.vars.1'} and raw(found['layers.dense.vars.0']) == values.tobytes())


# Zstd archives
def restore(path):
    """ZstdArchive/FORMAT.md's recipe, taken from the page itself."""
    page = open(f'{formats}/ZstdArchive/FORMAT.md').read()
    scope = {}
    exec(page.split('```python\n')[1].split('```')[0], scope)
    return scope['restore'](path)


for kind, model in models.items():
    for planes, options in (('byte planes', []), ('bytes in order', ['--keep-byte-order'])):
        folder = f'{work}/zstd-{kind}-{len(options)}'
        recast_run('convert', model, folder, '--to', 'keep', '--container', 'zstd', *options)
        archives = sorted(glob.glob(folder + '/*.zst'))
        originals = sorted(glob.glob(model + '/*.safetensors'))
        check(f'zstd -t accepts {kind}, {planes}', run('zstd', '-t', *archives).returncode == 0)
        equal = seeks = len(archives) == len(originals)
        for archive, original in zip(archives, originals):
            content = open(original, 'rb').read()
            equal &= restore(archive) == content
            if options:
                equal &= subprocess.run(['zstd', '-dc', archive], capture_output=True).stdout == content
                with pyzstd.SeekableZstdFile(archive) as file:
                    for place in (0, len(content) // 3, len(content) - 100):
                        file.seek(place)
                        seeks &= file.read(100) == content[place:place + 100]
        check(f'{kind}, {planes}: restored to the same files', equal)
        if options:
            check(f'{kind}: pyzstd seeks to the same bytes', seeks)
        check(f'{kind}, {planes}: and Recast reads it back', same(read_back(folder, f'back-{kind}-{len(options)}'), tensors(model)))
folder = f'{work}/zstd-fp8-1'
run('zstd', '-d', '-q', '--rm', *glob.glob(folder + '/*.zst'))
check('unpacked by zstd -d the index fits, and it is a checkpoint again', same(tensors(folder), tensors(models['fp8'])))


# DeepSeek
def rules(model, experts, layers, ranks):
    """deepseek-ai/DeepSeek-V3:inference/convert.py in its own words: which tensor of which rank is what."""
    cut = {'embed': 0, 'wq': 0, 'wq_b': 0, 'wkv_b': 0, 'w1': 0, 'w3': 0, 'head': 0, 'wo': 1, 'w2': 1}
    words = {'embed_tokens': 'embed', 'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm', 'q_proj': 'wq', 'q_a_proj': 'wq_a',
             'q_a_layernorm': 'q_norm', 'q_b_proj': 'wq_b', 'kv_a_proj_with_mqa': 'wkv_a', 'kv_a_layernorm': 'kv_norm', 'kv_b_proj': 'wkv_b',
             'o_proj': 'wo', 'gate_proj': 'w1', 'down_proj': 'w2', 'up_proj': 'w3', 'lm_head': 'head', 'self_attn': 'attn', 'mlp': 'ffn',
             'weight_scale_inv': 'scale', 'e_score_correction_bias': 'bias'}
    result = [{} for _ in range(ranks)]
    for name, tensor in model.items():
        if f'model.layers.{layers}.' in name:
            continue
        parts = [words.get(word, word) for word in name.removeprefix('model.').split('.')]
        axis = cut.get(parts[-2])
        for rank in range(ranks):
            part = tensor
            if 'experts' in parts:
                if int(parts[parts.index('experts') + 1]) // (experts // ranks) != rank:
                    continue
            elif axis is not None:
                assert tensor.shape[axis] % ranks == 0
                part = tensor.chunk(ranks, axis)[rank].contiguous()
            result[rank]['.'.join(parts)] = part
    return result


config = json.load(open(models['bf16'] + '/config.json'))
experts, layers = config['n_routed_experts'], config['num_hidden_layers']
for kind, ranks in (('bf16', 1), ('bf16', 2), ('bf16', 4), ('fp8', 1)):
    folder = f'{work}/ranks-{kind}-{ranks}'
    recast_run('convert', models[kind], folder, '--to', 'keep', '--model-parallel', str(ranks))
    files = [f'{folder}/model{rank}-mp{ranks}.safetensors' for rank in range(ranks)]
    ours = []
    for name in files:
        with safe_open(name, 'pt') as file:
            ours.append({key: file.get_tensor(key) for key in file.keys()})
    check(f'{kind} for {ranks} ranks by the published rules', all(same(a, b) for a, b in zip(ours, rules(tensors(models[kind]), experts, layers, ranks))))
    kept = {k: v for k, v in tensors(models[kind]).items() if f'model.layers.{layers}.' not in k}
    check(f'and read back from {ranks}', same(read_back(folder, f'ranks-back-{kind}-{ranks}'), kept))
folder = f'{work}/theirs'
os.makedirs(folder)
for rank, part in enumerate(rules(tensors(models['bf16']), experts, layers, 4)):
    save_file(part, f'{folder}/model{rank}-mp4.safetensors')
kept = {k: v for k, v in tensors(models['bf16']).items() if f'model.layers.{layers}.' not in k}
check('shards made elsewhere are read', same(read_back(folder, 'theirs-back'), kept))

shutil.rmtree(work)
print(f'{passed} passed, {failed} failed')
sys.exit(failed > 0)
