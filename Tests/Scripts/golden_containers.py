"""Write the container fixtures: what PyTorch and h5py write, with the bytes it means, and archives that must be refused.

usage: golden_containers.py Tests/Fixtures      (pip install 'torch==2.13.0' safetensors h5py hdf5plugin numpy)

  containers/torch.pt, foreign.h5, keras.weights.h5   each with NAME.safetensors, the same tensors as safetensors
  hostile-pickles/*.pt                                 with expected.json: for each what the refusal must say
"""
import collections
import json
import os
import pickle
import struct
import sys
import zipfile

import h5py
import hdf5plugin
import numpy
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

root = sys.argv[1]
good, bad = root + '/containers', root + '/hostile-pickles'
os.makedirs(good, exist_ok=True)
os.makedirs(bad, exist_ok=True)

# PyTorch: views, shared storages, parameters, a wrapped dictionary with other state.
generator = torch.Generator().manual_seed(0)
base = torch.randn(20, 12, 3, generator=generator)
state = collections.OrderedDict(
    transposed=base[:, :, 0].t(), permuted=base.permute(2, 0, 1), narrowed=base.narrow(1, 3, 6), strided=base[::3, ::5, 1], column=base[:, 7, 2],
    far=torch.randn(40, 50, generator=generator)[::20, ::25], shared=base, tied=base, inner=base[3], scalar=torch.tensor(2.5), empty=torch.empty(0, 4),
    half=torch.randn(9, 7, generator=generator).half().t(), bf16=torch.randn(9, 7, generator=generator).bfloat16(), flags=base[0] > 0,
    integers=torch.arange(30).reshape(5, 6)[1:4, 2:5], u16=torch.arange(5).to(torch.uint16), e8m0=torch.ones(3).to(torch.float8_e8m0fnu),
    parameter=torch.nn.Parameter(base[1].clone()), complex=torch.complex(base[0], base[1]),
)
torch.save({'epoch': 3, 'state_dict': state, 'optimizer': {'lr': 1e-3, 'betas': (0.9, 0.99)}}, good + '/torch.pt')
save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, good + '/torch.pt.safetensors')

# h5py: filters, automatic chunks, byte orders, fill values.
values = numpy.random.default_rng(0).standard_normal((37, 53)).astype('f4')
with h5py.File(good + '/foreign.h5', 'w') as file:
    file.create_dataset('gzip/shuffled', data=values, chunks=(8, 10), compression='gzip', shuffle=True)
    file.create_dataset('gzip/checked', data=values, chunks=(37, 7), compression='gzip', fletcher32=True)
    file.create_dataset('auto', data=numpy.arange(3 * 20 * 30, dtype='i8').reshape(3, 20, 30), chunks=True)
    file.create_dataset('big', data=values.astype('>f4'), chunks=(5, 53))
    file.create_dataset('bigplain', data=values.astype('>f8')[:5])
    file.create_dataset('half', data=values.astype('f2'))
    file.create_dataset('flags', data=values[:3] > 0)
    file.create_dataset('complex', data=(values + 1j * values).astype('c8')[:4])
    file.create_dataset('scalar', data=numpy.float32(3))
    grown = file.create_dataset('grown', shape=(20, 30), maxshape=(None, None), chunks=(16, 16), dtype='f4', fillvalue=2)
    grown[:7, :9] = 1
    file.create_dataset('unwritten', shape=(4, 5), dtype='i2')
    file.create_dataset('zstd', data=values, chunks=(9, 53), **hdf5plugin.Zstd(clevel=5))
    file.create_dataset('note', data='a text is no tensor')
    arrays = {}
    file.visititems(lambda name, node: arrays.update({name.replace('/', '.'): node[()]}) if isinstance(node, h5py.Dataset) and name != 'note' else None)
arrays = {k: numpy.array(v, order='C').astype(numpy.asarray(v).dtype.newbyteorder('=')) for k, v in arrays.items()}
save_arrays(arrays, good + '/foreign.h5.safetensors')
with h5py.File(good + '/keras.weights.h5', 'w') as file:
    file.create_dataset('layers/dense/vars/0', data=values[:4])
    file.create_dataset('layers/dense/vars/1', data=values[0])
    file['layers/dense'].attrs['name'] = 'dense'
save_arrays({'layers.dense.vars.0': values[:4], 'layers.dense.vars.1': values[0]}, good + '/keras.weights.h5.safetensors')
with h5py.File(good + '/lzf.h5', 'w') as file:
    file.create_dataset('w', data=values, chunks=(8, 53), compression='lzf')

# Archives to refuse.
expected = {}


def archive(name, data, reason, entries=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(f'{bad}/{name}.pt', 'w', compression) as file:
        file.writestr('archive/data.pkl', data)
        file.writestr('archive/byteorder', 'little')
        for entry, content in entries:
            file.writestr(entry, content)
    expected[name] = reason


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def dump(value, protocol=2):
    return pickle.dumps(value, protocol)


archive('os-system', dump({'w': Call(os.system, 'touch /tmp/recast-was-here')}), 'posix.system')
archive('builtins-eval', dump({'w': Call(eval, '__import__("os").abort()')}), 'builtin')
archive('builtins-exec-protocol-4', dump({'w': Call(exec, 'raise SystemExit')}, 4), 'builtins.exec')
archive('nested-reduce', dump([[[Call(getattr, Call(__import__, 'os'), 'system')]]], 4), 'builtins.getattr')
archive('reduce-of-allowed', b'\x80\x02ccollections\nOrderedDict\n(]tR.', 'a type with arguments')
archive('instance', b"\x80\x02(S'ls'\nios\nsystem\n.", 'opcode 0x53')
archive('object', b"\x80\x02(cos\nsystem\nX\x02\x00\x00\x00lso.", 'os.system')
archive('new-object', b'\x80\x02ccollections\nOrderedDict\n)\x81.', 'opcode 0x81')
archive('extension', b'\x80\x02\x82\x01.', 'opcode 0x82')
archive('numpy-scalar', dump({'w': numpy.float64(1)}), 'numpy')
archive('subprocess-by-stack', b'\x80\x04\x8c\nsubprocess\x8c\x05Popen\x93\x8c\x02ls\x85R.', 'subprocess.Popen')
archive('torch-hub', b'\x80\x02ctorch.hub\nload\n(X\x01\x00\x00\x00xtR.', 'torch.hub.load')
archive('torch-load', b'\x80\x02ctorch\nload\n(X\x01\x00\x00\x00xtR.', 'torch.load')
archive('state-of-a-function', b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.', 'no dictionary')
archive('deep-lists', b'\x80\x02' + b']' * 100000 + b'a' * 99999 + b'.', 'deeper')
archive('deep-tuples', b'\x80\x02)' + b'\x85' * 100000 + b'.', 'nests tuples')
archive('doubling', b'\x80\x02(]q\x00' + b''.join(b']q' + bytes([i + 1]) + b'h' + bytes([i]) + b'ah' + bytes([i]) + b'a' for i in range(60)) + b'1h<.', 'as bombs do')
archive('a-list-of-itself', b'\x80\x02]q\x00h\x00a.', 'deeper')
archive('marks', b'\x80\x02' + b'(' * 5, 'without its last opcode')
archive('truncated', dump({'w': list(range(1000))})[:500], 'byte')
archive('huge-string', b'\x80\x02X\xff\xff\xff\x7fabc.', 'ends inside a text')
archive('huge-number', b'\x80\x02\x8a\xff' + b'\x01' * 255 + b'.', 'number of 255 bytes')
archive('underflow', b'\x80\x02ttt.', 'mark that it never set')
archive('empty', b'', 'without its last opcode')
archive('protocol-0', b"(dp0\nS'w'\np1\nI1\ns.", 'opcode 0x64')


def tensor(key=b'0', storage=b'ctorch\nFloatStorage\n', count=4, offset=0, shape=(4,), strides=(1,)):
    def number(value):
        return b'\x8a\x08' + struct.pack('<q', value)

    def text(value):
        return b'X' + struct.pack('<I', len(value)) + value

    def numbers(values):
        return b'(' + b''.join(map(number, values)) + b't'

    return (b'\x80\x02}(' + text(b'w') + b'ctorch._utils\n_rebuild_tensor_v2\n((' + text(b'storage') + storage + text(key) + text(b'cpu')
            + number(count) + b'tQ' + number(offset) + numbers(shape) + numbers(strides) + b'\x89}tRu.')


data = [('archive/data/0', struct.pack('<4f', 1, 2, 3, 4))]
archive('beyond-storage', tensor(offset=1), 'needs element 4', data)
archive('negative-offset', tensor(offset=-1), 'impossible', data)
archive('negative-shape', tensor(shape=(-4,)), 'impossible', data)
archive('negative-stride', tensor(offset=3, strides=(-1,)), 'impossible', data)
archive('expanded-bomb', tensor(shape=(1 << 20, 1 << 20), strides=(0, 0)), 'expanded view', data)
archive('overflowing-shape', tensor(shape=(1 << 40, 1 << 40), strides=(0, 0)), 'impossible', data)
archive('overflowing-stride', tensor(shape=(4,), strides=(1 << 62,)), 'leave every storage', data)
archive('more-strides', tensor(strides=(1, 1)), 'impossible', data)
archive('missing-storage', tensor(key=b'7'), 'does not hold', data)
archive('storage-elsewhere', tensor(key=b'../../etc/passwd'), 'does not hold', data)
archive('storage-of-no-type', tensor(storage=b'ctorch._utils\n_rebuild_tensor_v2\n'), 'persistent id', data)
archive('path-traversal', tensor(), 'outside the archive', [*data, ('../../etc/cron.d/job', 'x')])
archive('absolute-path', tensor(), 'outside the archive', [*data, ('/etc/passwd', 'x')])
archive('compressed-bomb', tensor(), 'is compressed', [('archive/data/0', bytes(1 << 22))], zipfile.ZIP_DEFLATED)
archive('odd-byte-order', tensor(), 'neither little nor big', data)
with zipfile.ZipFile(f'{bad}/odd-byte-order.pt', 'w') as file:
    file.writestr('archive/data.pkl', tensor())
    file.writestr('archive/byteorder', 'middle')
with zipfile.ZipFile(f'{bad}/two-pickles.pt', 'w') as file:
    file.writestr('a/data.pkl', tensor())
    file.writestr('b/data.pkl', tensor())
expected['two-pickles'] = 'holds 2 data.pkl'
with zipfile.ZipFile(f'{bad}/script.pt', 'w') as file:
    file.writestr('a/data.pkl', tensor())
    file.writestr('a/constants.pkl', b'\x80\x02N.')
expected['script'] = 'TorchScript'
open(f'{bad}/bare-pickle.pt', 'wb').write(dump({'w': 1}))
expected['bare-pickle'] = 'bare pickle'

# Entries that share bytes: one inside another, as the bombs of bamsoftware.com/hacks/zipbomb nest them.
def local(name, size):
    return struct.pack('<4s5H3I2H', b'PK\x03\x04', 20, 0, 0, 0, 0, 0, size, size, len(name), 0) + name


def central(name, size, at):
    return struct.pack('<4s6H3I5H2I', b'PK\x01\x02', 20, 20, 0, 0, 0, 0, 0, size, size, len(name), 0, 0, 0, 0, 0, at) + name


inner = local(b'archive/data/1', 64) + bytes(64)
content = local(b'archive/data/0', len(inner)) + inner
directory = central(b'archive/data/0', len(inner), 0) + central(b'archive/data/1', 64, len(content) - len(inner))
end = struct.pack('<4s4H2IH', b'PK\x05\x06', 0, 0, 2, 2, len(directory), len(content), 0)
open(f'{bad}/overlapping.pt', 'wb').write(content + directory + end)
expected['overlapping'] = 'share bytes'
damaged = bytearray(open(f'{bad}/beyond-storage.pt', 'rb').read())
damaged[damaged.index(b'_rebuild') + 1] ^= 1
open(f'{bad}/wrong-checksum.pt', 'wb').write(damaged)
expected['wrong-checksum'] = 'checksum'
open(f'{bad}/no-directory.pt', 'wb').write(content)
expected['no-directory'] = 'no directory at its end'

json.dump(expected, open(bad + '/expected.json', 'w'), indent=1, sort_keys=True)
