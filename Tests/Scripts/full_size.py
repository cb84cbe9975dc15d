"""Convert the whole 671B: DeepSeek-V3's FP8 release at full size, to BF16, to int4-g128, and from BF16 to FP8 again, killed and resumed on the way.

usage: full_size.py RECAST [--directory DIR] [--layers 61] [--experts 256] [--shards 163] [--kills 3] [--roads bf16,int4-g128,fp8-block]
                    [--memory 2GiB] [--seed N]

The source has every tensor of the release; what would take hundreds of gigabytes is holes: all but the scales, whatever is small, and eight
experts of five layers with their attention, which hold values as a trained model spreads them. The output is written with --sparse, and a file
that has its final name, so that it is written and audited, is looked at and then emptied (int4 has no zero pages: 8 is its zero), unless the next road
reads it. Each road is killed (SIGKILL) when a random number of files is finished, and continued by the same command.

Fails if a run does not end as it should, if a value of the samples is not what the layouts' definitions give (computed here, by other code), if a
hole of the source is not zeros in the output, if the report counts other tensors or differences, or if memory, journal or open files exceed
their bounds. Standard library only. Takes about 50 GB of disk and, on two cores, some two hours at full size.
"""
import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from deepseek_v3 import WIDTH, model, size, write

REAL_EXPERTS = 8
# Whatever is smaller has values everywhere: scales, norms, gates.
SMALL = 8 << 20


def e4m3(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    value = mantissa / 8 * 2.0 ** -6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -value if code & 128 else value


E4M3 = [e4m3(code) for code in range(256)]


def quantiles():
    """256 E4M3 codes spread as a normal variable, scaled so that its largest fill the type: a byte of chance picks one."""
    normal = statistics.NormalDist(0, 120)
    finite = [code for code in range(256) if code & 127 != 127]
    return bytes(min(finite, key=lambda code: abs(E4M3[code] - normal.inv_cdf((chance + 0.5) / 256))) for chance in range(256))


class Values:
    """What the tensors of the source hold, by name; None for holes."""

    def __init__(self, layers, seed):
        self.seed, self.table = seed, quantiles()
        self.layers = {0, min(3, layers - 1), layers // 2, layers - 1, layers}

    def is_real(self, tensor):
        if size(tensor) <= SMALL:
            return True
        words = tensor[0].split('.')
        if words[1] != 'layers' or int(words[2]) not in self.layers or words[3] in ('embed_tokens', 'shared_head'):
            return False
        return 'experts' not in words or int(words[words.index('experts') + 1]) < REAL_EXPERTS

    def __call__(self, tensor):
        if not self.is_real(tensor):
            return None
        name, type, _ = tensor
        chance, length = random.Random(f'{self.seed} {name}'), size(tensor)
        if type == 'F8_E4M3':
            return chance.randbytes(length).translate(self.table)
        if type == 'F32':
            low, high = (2e-5, 4e-4) if 'scale' in name else (-0.05, 0.05)
            return b''.join(struct.pack('<f', chance.uniform(low, high)) for _ in range(length // 4))
        middle = 1.0 if 'norm' in name else 0.0
        pattern = b''.join(struct.pack('<f', chance.gauss(middle, 0.02))[2:] for _ in range(4099))
        return (pattern * (length // len(pattern) + 1))[:length]


class Files:
    """Tensors of a folder of safetensors files."""

    def __init__(self, folder, names=None):
        self.folder, self.places = folder, {}
        for name in names or sorted(os.listdir(folder)):
            if name.endswith('.safetensors'):
                self.add(name)

    def add(self, name):
        with open(os.path.join(self.folder, name), 'rb') as file:
            length, = struct.unpack('<Q', file.read(8))
            for tensor, entry in json.loads(file.read(length)).items():
                if tensor != '__metadata__':
                    self.places[tensor] = (name, entry['dtype'], entry['shape'], 8 + length + entry['data_offsets'][0])

    def read(self, tensor, first, count):
        """`count` elements from `first` on, as numbers."""
        name, type, _, start = self.places[tensor]
        width = {**WIDTH, 'I32': 4}[type]
        with open(os.path.join(self.folder, name), 'rb') as file:
            file.seek(start + first * width)
            raw = file.read(count * width)
        if type == 'F8_E4M3':
            return [E4M3[byte] for byte in raw]
        if type == 'BF16':
            return [struct.unpack('<f', b'\0\0' + raw[i:i + 2])[0] for i in range(0, len(raw), 2)]
        return list(struct.unpack(f'<{count}' + {'F32': 'f', 'I32': 'i'}[type], raw))


def to_bf16(value):
    bits, = struct.unpack('<I', struct.pack('<f', value))
    return struct.unpack('<f', struct.pack('<I', (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16 & 0xFFFFFFFF))[0]


def f32(value):
    return struct.unpack('<f', struct.pack('<f', value))[0]


def fp8_row(files, weight, row, first, count):
    """A stretch of a row of a block-scaled weight, in F32."""
    columns = files.places[weight][2][1]
    blocks = -(-columns // 128)
    scales = files.read(weight + '_scale_inv', row // 128 * blocks, blocks)
    codes = files.read(weight, row * columns + first, count)
    return [f32(code * scales[(first + i) // 128]) for i, code in enumerate(codes)], scales[first // 128]


def check_sample(road, source, output, weight, chance):
    """Why 128 values of a weight are not what the layout makes of the source's; None if they are."""
    rows, columns = source.places[weight][2]
    row, first = chance.randrange(rows), chance.randrange(columns // 128) * 128
    if source.places[weight][1] == 'BF16':
        wanted = source.read(weight, row * columns + first, 128)
    else:
        wanted = [to_bf16(value) for value in fp8_row(source, weight, row, first, 128)[0]]
    if road == 'bf16':
        found = output.read(weight, row * columns + first, 128)
        return None if found == wanted else f'{weight}[{row}, {first}...] is {found[:4]}..., and should be {wanted[:4]}...'
    if road == 'int4-g128':
        scale, = output.read(weight + '_scale', row * (columns // 128) + first // 128, 1)
        words = output.read(weight + '_packed', (row * columns + first) // 8, 16)
        found = [((word >> 4 * i & 15) - 8) * scale for word in words for i in range(8)]
        # compressed-tensors divides in BF16, where a quotient below 8 is off by a 64th, and the largest is 7.5 by a scale that BF16 rounds, for 7.
        bound = [0.54 * scale] * 128
    else:
        found, scale = fp8_row(output, weight, row, first, 128)
        bound = [max(abs(value) / 16, scale / 1024) * 1.001 for value in wanted]
    for index, (a, b, limit) in enumerate(zip(found, wanted, bound)):
        if not abs(a - b) <= limit:
            return f'{weight}[{row}, {first + index}] is {a}, too far from {b}'
    return None


libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def empty(path):
    """Gives the blocks of a file back; its length stays (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)."""
    with open(path, 'r+b') as file:
        if libc.fallocate(file.fileno(), 3, 0, os.fstat(file.fileno()).st_size):
            raise OSError(ctypes.get_errno(), 'cannot empty', path)


def allocated(folder):
    return sum(os.lstat(os.path.join(at, name)).st_blocks * 512 for at, _, names in os.walk(folder) for name in names)


class Road:
    """One conversion, killed and continued until it ends."""

    def __init__(self, options, name, shards, source, destination, values, tensors, keeps):
        self.options, self.name, self.shards, self.source, self.destination = options, name, shards, source, destination
        self.values, self.tensors, self.keeps = values, {tensor[0]: tensor for tensor in tensors}, keeps
        self.chance = random.Random(f'{options.seed} {name}')
        self.checked, self.samples, self.zeros, self.failures = set(), 0, 0, []
        self.journal = self.space = self.descriptors = 0
        self.input = Files(source)

    def finished(self):
        return [name for name in os.listdir(self.destination) if name.endswith('.safetensors')] if os.path.isdir(self.destination) else []

    def look(self):
        """Checks what has its final name by now, and gives its space back."""
        for name in sorted(set(self.finished()) - self.checked):
            output = Files(self.destination, [name])
            weights = [t[:-7] if t.endswith('_packed') else t for t, place in output.places.items() if t.endswith(('.weight', '.weight_packed'))]
            weights = [t for t in weights if t in self.tensors and self.tensors[t][1] == 'F8_E4M3']
            real = [t for t in weights if self.values.is_real(self.tensors[t])]
            for weight in self.chance.sample(real, min(8, len(real))):
                # Small weights of other files may have their scales elsewhere: what is whole here is looked at.
                suffix = {'int4-g128': '_scale', 'fp8-block': '_scale_inv'}.get(self.name)
                if suffix and weight + suffix not in output.places:
                    continue
                self.samples += 1
                fault = check_sample(self.name, self.input, output, weight, self.chance)
                if fault:
                    self.failures.append(f'{self.name}: {fault}')
            for weight in self.chance.sample(sorted(set(weights) - set(real)), min(4, len(weights) - len(real))):
                stored = weight + '_packed' if self.name == 'int4-g128' else weight
                _, type, shape, _ = output.places[stored]
                values = output.read(stored, self.chance.randrange(shape[0]) * shape[1], 128)
                self.zeros += 1
                if any(value != (-0x77777778 if self.name == 'int4-g128' else 0) for value in values):
                    self.failures.append(f'{self.name}: {weight} is a hole of the source, and here it is {values[:4]}')
            if not self.keeps:
                empty(os.path.join(self.destination, name))
            self.checked.add(name)

    def watch(self, child, until):
        """Looks around every second until the child ends, or is killed with `until` files finished."""
        while child.poll() is None:
            self.look()
            folder = os.path.join(self.destination, '.recast')
            try:
                self.journal = max([self.journal] + [os.stat(os.path.join(folder, n)).st_size for n in os.listdir(folder) if 'journal' in n])
                self.descriptors = max(self.descriptors, len(os.listdir(f'/proc/{child.pid}/fd')))
            except OSError:
                pass
            self.space = max(self.space, allocated(self.destination) if os.path.isdir(self.destination) else 0)
            if until is not None and len(self.finished()) >= until:
                time.sleep(self.chance.uniform(0, 3))
                child.send_signal(signal.SIGKILL)
                child.wait()
                return
            time.sleep(1)

    def run(self):
        kills = sorted(self.chance.sample(range(1, self.shards - 1), self.options.kills))
        command = [self.options.recast, 'convert', self.source, self.destination, '--to', self.name, '--sparse', '--memory', self.options.memory,
                   '--json', '--quiet']
        started, killed = time.monotonic(), 0
        for until in [*kills, None]:
            with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
                child = subprocess.Popen(command, stdout=output, stderr=errors)
                self.watch(child, until)
                output.seek(0)
                errors.seek(0)
                killed += child.returncode == -signal.SIGKILL
                if until is None or child.returncode != -signal.SIGKILL:
                    if child.returncode != 0:
                        self.failures.append(f'{self.name}: exit status {child.returncode}: {errors.read().decode()[-500:]}')
                        return
                    report = json.load(output)
                    break
        seconds = time.monotonic() - started
        self.look()
        manifest = os.path.join(self.destination, 'recast.manifest.json')
        audit, peak = report['audit'], report['peak_rss']
        stored = sum(os.stat(os.path.join(self.source, n)).st_size for n in os.listdir(self.source) if n.endswith('.safetensors'))
        written = sum(os.stat(os.path.join(self.destination, n)).st_size for n in self.finished())
        # What names and digests of a tensor take, and a journal's lines of it.
        count = len(self.tensors)
        for what, found, bound in (('peak memory', peak, 2 * size_of(self.options.memory)), ('journal', self.journal, 1000 * count + 100_000),
                                   ('manifest', os.stat(manifest).st_size, 1000 * count + 1_000_000), ('open files', self.descriptors, 2 * self.shards + 64)):
            if not 0 < found <= bound:
                self.failures.append(f'{self.name}: {what} {found:,}, bound {bound:,}')
        if audit.get('differences', 0) or self.samples == 0 or len(self.checked) != self.shards:
            self.failures.append(f'{self.name}: {audit}, {self.samples} samples, {len(self.checked)} files')
        print(f'| {self.name} | {stored / 1e9:,.0f} GB -> {written / 1e9:,.0f} GB | {killed} | {seconds:,.0f} s | {(stored + written) / seconds / 1e9:.2f} GB/s '
              f'| {peak / 1e6:.0f} MB | {self.journal / 1e6:.1f} MB | {os.stat(manifest).st_size / 1e6:.1f} MB | {self.descriptors} | {self.space / 1e9:.1f} GB '
              f'| {self.samples} + {self.zeros} | {" ".join(f"{max(seconds, (stored + written) / rate / 1e9) / 60:.0f}" for rate in (0.5, 1, 2))} min |', flush=True)
        print(f'    {report["claim"]}', flush=True)


def size_of(text):
    return int(text[:-3]) << {'KiB': 10, 'MiB': 20, 'GiB': 30}[text[-3:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('recast')
    parser.add_argument('--directory')
    parser.add_argument('--layers', type=int, default=61)
    parser.add_argument('--experts', type=int, default=256)
    parser.add_argument('--shards', type=int, default=163)
    parser.add_argument('--kills', type=int, default=3)
    parser.add_argument('--roads', default='bf16,int4-g128,fp8-block')
    parser.add_argument('--memory', default='2GiB')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    work, failures = tempfile.mkdtemp(dir=options.directory), []
    try:
        source, tensors, values = work + '/fp8', model(options.layers, options.experts), Values(options.layers, options.seed)
        started = time.monotonic()
        count, total = write(source, tensors, options.shards, options.layers, options.experts, values)
        shards = sum(name.endswith('.safetensors') for name in os.listdir(source))
        print(f'{count:,} tensors, {total:,} bytes in {shards} files, of which {allocated(source):,} are no holes, made in '
              f'{time.monotonic() - started:.0f} s\n')
        print('| to | read -> written | kills | time | read and written | peak memory | journal | manifest | open files | most disk taken | samples + zeros '
              '| at a disk of 0.5, 1, 2 GB/s |')
        print('|---|---|---|---|---|---|---|---|---|---|---|---|', flush=True)
        roads = options.roads.split(',')
        for name in roads:
            again = name == 'fp8-block' and 'bf16' in roads
            road = Road(options, name, shards, work + '/bf16' if again else source, f'{work}/{name}', values, tensors, keeps=name == 'bf16' and 'fp8-block' in roads)
            road.run()
            failures += road.failures
            if not road.keeps:
                shutil.rmtree(f'{work}/{name}', ignore_errors=True)
            if road.failures:
                break
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for failure in failures:
        print('FAIL', failure)
    sys.exit(len(failures) > 0)


if __name__ == '__main__':
    main()
