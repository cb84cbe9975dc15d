"""Break every system call of a conversion, kill it anywhere, cut the power: it must end in the right bytes or in a sentence, never in wrong bytes.

usage: fault_campaign.py RECAST [--faults 2000] [--kills 500] [--chains 300] [--crash-points 1000] [--seed 1] [--only REGEX] [--case NAME ...]
                         [--jobs 2] [--keep-going]

Conversions of a checkpoint of 22 tensors, cut from the bundled models, run under faults.c, which stands between the program and the C
library. Each runs once clean to learn how many calls of each kind it makes; then are drawn, by the seed and without repetition:

- faults: the n-th call of a kind on a file of the destination or of the source, or all from the n-th on, is answered with an error, a short
  count, or a full disk;
- kills: SIGKILL at the n-th call, in the middle of it if it writes;
- chains: several kills and failing calls, one run after the other;
- crash points: what a disk may hold if the power fails after the first n changes. Of bytes written since their file was last flushed all are
  lost, or some pages of 4 KiB, or none. Of names made, changed and removed since their directory was last flushed the last few are lost: in
  each directory by itself (strict), or of all together, where any fsync keeps all names before it (journaled, as ext4 and XFS do). Besides
  whole runs, such that were killed or met an EIO of fsync, and then went on: what a failed fsync was to flush, later ones do not flush. Half
  of the runs after the crash are killed, too, before they may end.

What must hold: the faulted run ends with 0 and the reference's files, or with a documented status and one sentence; no file under a final name
ever has other bytes; the same command again ends with 0, the reference's files and nothing else. EINTR, short counts and calls that the
program can do without (locks, fsync where there is none, copies in the kernel) must not be noticed. A second run that refuses with a
documented status is counted as a refusal and its sentence shown. Exit status 0 with wrong or missing files, now or once the power failed,
ends the campaign at once.

Every case has a name, as `bf16/d:write@12=EIO+` (d or s for destination and source; + is from there on) or `bf16/crash@40=torn.strict`;
--case with the same seed runs it again, --only draws from those that match. A large number of crash points is all of them. Needs Linux
and a C compiler.
"""
import argparse
import collections
import concurrent.futures
import errno
import gzip
import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, '../Fixtures')
DOCUMENTED = {1, 64, 65, 66, 71, 73, 74, 75}
SECONDS = 60  # that a run may take
PATIENCE = 20  # runs after which a refusal is for good
SILENT = 'SILENT CORRUPTION'

ANSWERS = {
    'open': 'EIO EMFILE EACCES ESTALE EINTR', 'create': 'EIO EMFILE EACCES ENOSPC EDQUOT EINTR', 'close': 'EIO ENOSPC EDQUOT',
    'read': 'EIO ESTALE EINTR short', 'write': 'EIO ENOSPC EDQUOT EINTR short', 'fsync': 'EIO ENOSPC EDQUOT EINVAL EOPNOTSUPP ENOSYS EINTR',
    'fsyncdir': 'EIO ENOSPC EDQUOT EINVAL EOPNOTSUPP ENOSYS EINTR', 'ftruncate': 'EIO ENOSPC EDQUOT EINTR',
    'copy': 'EIO ENOSPC EXDEV ENOSYS EOPNOTSUPP EPERM EINVAL ETXTBSY EINTR short nothing', 'clone': 'EOPNOTSUPP EXDEV EINVAL ENOTTY EIO ENOSPC EINTR',
    'stat': 'EIO EACCES ESTALE', 'statvfs': 'EIO ENOSYS EACCES full', 'flock': 'EWOULDBLOCK ENOLCK EOPNOTSUPP ENOSYS EIO EINTR',
    'opendir': 'EIO EACCES EMFILE', 'readdir': 'EIO', 'mkdir': 'EIO ENOSPC EDQUOT EACCES EROFS', 'rmdir': 'EIO EACCES EBUSY ENOTEMPTY',
    'rename': 'EIO ENOSPC EDQUOT EACCES', 'unlink': 'EIO EACCES EBUSY', 'stdio': 'EIO ENOSPC', 'punch': 'EIO ENOSPC EOPNOTSUPP EINTR',
}
NOT_ERRORS = {'short': -1, 'nothing': -2, 'full': -3, 'kill': -4}
# What a run must not show that it met.
UNNOTICED = {
    'flock': {'ENOLCK', 'EOPNOTSUPP', 'ENOSYS'}, 'fsync': {'EINVAL', 'EOPNOTSUPP', 'ENOSYS'}, 'fsyncdir': {'EINVAL', 'EOPNOTSUPP', 'ENOSYS'},
    'copy': set(ANSWERS['copy'].split()), 'clone': set(ANSWERS['clone'].split()),
}
FAULT = re.compile(r'(?P<side>[ds]):(?P<kind>\w+)@(?P<number>\d+)=(?P<answer>\w+)(?P<sticky>\+?)$')
CRASH = re.compile(r'crash@(?P<prefix>\d+)=(?P<data>\w+)\.(?P<names>\w+)(?: after (?P<history>\S+))?$')
PAGE = 4096
CHANGED = 1_700_000_000_000_000_000  # when all files were changed last


class Unusable(Exception):
    """A command that shows nothing, as it fails without any fault."""


# The checkpoint

LAYERS = [
    ['model.layers.0.input_layernorm.weight', 'model.layers.0.self_attn.kv_a_layernorm.weight', 'model.layers.0.self_attn.q_a_layernorm.weight',
     'model.layers.0.self_attn.kv_a_proj_with_mqa.weight', 'model.layers.0.self_attn.kv_b_proj.weight'],
    ['model.layers.0.self_attn.q_a_proj.weight', 'model.layers.0.self_attn.q_b_proj.weight', 'model.layers.1.mlp.gate.weight',
     'model.layers.1.mlp.gate.e_score_correction_bias', 'model.layers.1.mlp.experts.0.gate_proj.weight'],
    ['model.layers.1.mlp.experts.0.up_proj.weight', 'model.layers.1.mlp.experts.0.down_proj.weight', 'model.layers.0.post_attention_layernorm.weight',
     'model.layers.1.input_layernorm.weight', 'model.norm.weight'],
]


def bundled(folder):
    """{name: (dtype, shape, bytes)} of a bundled model."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if '.safetensors' not in name or name.endswith('.json'):
            continue
        with (gzip.open if name.endswith('.gz') else open)(os.path.join(folder, name), 'rb') as file:
            content = file.read()
        size, = struct.unpack_from('<Q', content)
        for key, entry in json.loads(content[8:8 + size]).items():
            if key != '__metadata__':
                first, last = (8 + size + offset for offset in entry['data_offsets'])
                found[key] = (entry['dtype'], entry['shape'], content[first:last])
    return found


def write_shard(path, tensors):
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + b''.join(data for _, _, data in tensors.values()))


def write_checkpoint(model, target):
    """A few tensors of a bundled model as three shards with index, configuration and tokenizer."""
    os.makedirs(target)
    tensors, places, total = bundled(model), {}, 0
    for number, names in enumerate(LAYERS, 1):
        names = [name for weight in names for name in (weight, weight + '_scale_inv') if name in tensors]
        shard = f'model-{number:05d}-of-{len(LAYERS):05d}.safetensors'
        write_shard(os.path.join(target, shard), {name: tensors[name] for name in names})
        places |= dict.fromkeys(names, shard)
        total += sum(len(tensors[name][2]) for name in names)
    with open(os.path.join(target, 'model.safetensors.index.json'), 'w') as file:
        json.dump({'metadata': {'total_size': total}, 'weight_map': places}, file, indent=1)
    for name in ('config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json'):
        shutil.copy(os.path.join(model, name), target)


# What is run

class Command:
    """One conversion: its arguments, and what it must leave behind."""

    def __init__(self, name, container, source, options, out='out', system=None, earlier=None, kills_only=False, is_consumed=False):
        self.name, self.container, self.source, self.options, self.out = name, container, source, options.split(), out
        # `system` is a property of the file system that all its runs see.
        self.system, self.earlier, self.kills_only = system, earlier, kills_only
        # Whether the source is changed by the run: then it lies beside the output, and what must hold of that must hold of it.
        self.is_consumed = is_consumed
        self.before = {}  # what is there before the run
        self.reference = {}  # and after it
        self.counts = {}  # calls by (side, kind)
        self.logs = {}  # its changes in order: of a whole run (None), and of runs that stopped after a fault of this name and went on


def commands():
    """Every container written and read, every road of a weight, cut anew and as the source is cut."""
    plain = 'safetensors'
    return [
        Command('bf16', plain, 'fp8', '--to bf16 --resume'),
        Command('int4', plain, 'bf16', '--to int4-g32'),
        Command('fp8', plain, 'bf16', '--to fp8-block'),
        Command('awq', plain, 'fp8', '--to awq-g32'),
        Command('keep', plain, 'fp8', '--to keep'),
        Command('keep-clones', plain, 'bf16', '--to keep', system='CLONES'),
        Command('keep-cut', plain, 'fp8', '--to keep --shard-size 100kB --resume'),
        Command('bf16-merged', plain, 'fp8', '--to bf16 --shard-size 1GB'),
        Command('no-locks', plain, 'fp8', '--to bf16', system='NO_LOCKS'),
        Command('sparse', plain, 'fp8', '--to bf16 --sparse'),
        Command('consume', plain, 'fp8', '--to bf16 --resume --consume-source', is_consumed=True),
        Command('consume-merged', plain, 'bf16', '--to int4-g32 --resume --shard-size 1GB --consume-source', is_consumed=True),
        Command('overwrite', plain, 'fp8', '--to bf16 --overwrite', earlier=('bf16', '--to int4-g32 --shard-size 100kB')),
        Command('zstd-keep', 'zstd', 'bf16', '--to keep --container zstd'),
        Command('zstd-int4', 'zstd', 'bf16', '--to int4-g32 --container zstd --resume'),
        Command('zstd-in-order', 'zstd', 'fp8', '--to bf16 --container zstd --keep-byte-order --shard-size 300kB'),
        Command('torch-keep', 'torch', 'bf16', '--to keep --container torch --resume'),
        Command('torch-fp8', 'torch', 'bf16', '--to fp8-block --container torch'),
        Command('hdf5-keep', 'hdf5', 'fp8', '--to keep --container hdf5'),
        Command('hdf5-deflate', 'hdf5', 'bf16', '--to int4-g32 --container hdf5 --hdf5-filter deflate'),
        Command('file-int4', 'one .h5', 'bf16', '--to int4-g32 --resume', out='out.h5'),
        Command('file-bare', 'one .h5', 'fp8', '--to keep --hdf5-filter none', out='out.h5'),
        Command('from-zstd', plain, 'zstd', '--to keep --container safetensors'),
        Command('from-torch', plain, 'torch', '--to int4-g32 --container safetensors'),
        Command('from-h5', plain, 'one.h5', '--to bf16 --container safetensors'),
        Command('two-jobs-bf16', plain, 'fp8', '--to bf16 --jobs 2', kills_only=True),
        Command('two-jobs-zstd', 'zstd', 'bf16', '--to int4-g32 --container zstd --jobs 2', kills_only=True),
        Command('two-jobs-file', 'one .h5', 'bf16', '--to int4-g32 --jobs 2', out='out.h5', kills_only=True),
    ]


def is_unfinished(path): return any(part.startswith('.recast') for part in path.split('/'))


def is_consumed(path): return path.startswith('source/') and '.consumed-' in path


def read_tree(root):
    """{path: bytes, or None of a directory} below `root`."""
    found = {}
    for folder, directories, files in os.walk(root):
        for name in directories:
            found[os.path.relpath(os.path.join(folder, name), root)] = None
        for name in files:
            path = os.path.join(folder, name)
            with open(path, 'rb') as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def write_tree(tree, root):
    """Makes `root` hold `tree` and nothing else."""
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    for path, content in sorted(tree.items()):
        path = os.path.join(root, path)
        if content is None:
            os.makedirs(path, exist_ok=True)
        else:
            with open(path, 'wb') as file:
                file.write(content)
            os.utime(path, ns=(CHANGED, CHANGED))


Outcome = collections.namedtuple('Outcome', 'status error fired what counts')


class Machine:
    """Runs the program, with or without the library, in a directory of each thread's own."""

    def __init__(self, recast, work):
        self.recast, self.work, self.library = recast, work, os.path.join(work, 'faults.so')
        self.local, self.places = threading.local(), itertools.count(1)
        compiler = shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
        if compiler is None or not sys.platform.startswith('linux'):
            sys.exit('this needs Linux and a C compiler')
        subprocess.run([compiler, '-O1', '-shared', '-fPIC', '-o', self.library, os.path.join(HERE, 'faults.c'), '-ldl', '-lpthread'], check=True)

    def source(self, name): return os.path.join(self.work, 'sources', name)

    @property
    def place(self):
        if not hasattr(self.local, 'place'):
            self.local.place = os.path.join(self.work, f'place-{next(self.places)}')
        return self.local.place

    def run(self, command, fault=None, log=None, bare=False):
        """Runs a command where the last one left off."""
        source = os.path.join(self.place, 'source') if command.is_consumed else self.source(command.source)
        arguments = [self.recast, 'convert', source, os.path.join(self.place, command.out), *command.options, '--quiet']
        if '--jobs' not in command.options:
            arguments += ['--jobs', '1']
        state, environment = self.place + '.state', dict(os.environ)
        if command.system or not bare:
            with open(state, 'wb') as file:
                file.truncate(PAGE)
            environment |= {'LD_PRELOAD': self.library, 'FAULT_STATE': state, 'FAULT_DESTINATION': self.place, 'FAULT_SOURCE': self.source(command.source)}
            environment |= {'FAULT_' + command.system: '1'} if command.system else {}
            environment |= {'FAULT_LOG': log} if log else {}
            environment |= self.instructions(fault) if fault else {}
        try:
            null = subprocess.DEVNULL
            done = subprocess.run(arguments, stdin=null, stdout=null, stderr=subprocess.PIPE, env=environment, timeout=SECONDS)
            status, error = done.returncode, done.stderr.decode(errors='replace').strip()
        except subprocess.TimeoutExpired:
            status, error = 'hang', ''
        error = self.shorten(error)
        return Outcome(status, error, *(self.read_state(state) if 'FAULT_STATE' in environment else (0, '', {})))

    def shorten(self, text): return text.replace(self.place + '/', '').replace(self.place, '.').replace(self.work + '/', '')

    def instructions(self, fault):
        answer = NOT_ERRORS.get(fault['answer']) or getattr(errno, fault['answer'])
        variables = {'FAULT_SIDE': fault['side'], 'FAULT_CALL': fault['kind'], 'FAULT_AT': fault['number'], 'FAULT_ANSWER': str(answer)}
        return variables | ({'FAULT_STICKY': '1'} if fault['sticky'] else {})

    def read_state(self, path):
        with open(path, 'rb') as file:
            state = file.read()
        _, fired, what = struct.unpack_from('<iI248s', state)
        counts = {}
        for offset in range(256, len(state) - 24, 24):
            name, destination, source = struct.unpack_from('<16sII', state, offset)
            name = name.rstrip(b'\0').decode()
            if name:
                counts['d', name], counts['s', name] = destination, source
        return fired, self.shorten(what.rstrip(b'\0').decode(errors='replace')), counts


# What a disk holds after the power failed

Record = collections.namedtuple('Record', 'kind handle number path data')


def read_log(path, root, run):
    """The records of one run. Each run numbers its open files from 1."""
    with open(path, 'rb') as file:
        content = file.read()
    records, at = [], 0
    while at < len(content):
        kind, handle, number, path_size, count = struct.unpack_from('<c3xIQII', content, at)
        at += 24
        name = os.path.relpath(content[at:at + path_size].decode(), root) if path_size else ''
        at += path_size
        data = content[at:at + count]
        at += count
        records.append(Record(kind.decode(), (run, handle), number, name, os.path.relpath(data.decode(), root) if kind == b'R' else data))
    return records


class Node:
    """A file and what of it reached the disk; or a directory."""

    def __init__(self, path, content=None):
        self.path, self.is_file = path, content is not None
        self.content, self.flushed = bytearray(content or b''), bytes(content or b'')
        # Pages that a flush would write, and those that a failed one took for written.
        self.dirty, self.dropped = set(), set()

    def write(self, start, data):
        self.resize(max(len(self.content), start + len(data)))
        self.content[start:start + len(data)] = data
        self.touch(start, start + len(data))

    def resize(self, size):
        old = len(self.content)
        self.content = resized(self.content, size)
        self.touch(min(old, size), max(old, size))

    def touch(self, first, last):
        pages = set(range(first // PAGE, -(-last // PAGE)))
        self.dirty |= pages
        self.dropped -= pages

    def flush(self):
        result = bytearray(self.content)
        for page in self.dropped:
            part = slice(page * PAGE, min(page * PAGE + PAGE, len(result)))
            result[part] = resized(self.flushed[part], len(result[part]))
        self.flushed = bytes(result)
        self.dirty.clear()

    def fail_to_flush(self):
        self.dropped |= self.dirty
        self.dirty.clear()


class Operation:
    """A change of names; flushed once the directory that it is in was."""

    def __init__(self, kind, path, node, old=None):
        self.kind, self.path, self.node, self.old, self.is_flushed = kind, path, node, old, False
        self.directory = os.path.dirname(path)


class Disk:
    """Carries out a log and says what may be left of it."""

    def __init__(self, before, is_journaled):
        self.names = {path: Node(path, content) for path, content in before.items()} | {'.': Node('')}
        self.start, self.is_journaled, self.operations, self.handles = dict(self.names), is_journaled, [], {}

    def apply(self, record):
        path, node = record.path, self.handles.get(record.handle)
        if record.kind == 'O':
            if path not in self.names and record.number & 1:
                self.names[path] = Node(path, b'')
                self.operations.append(Operation('make', path, self.names[path]))
            self.handles[record.handle] = self.names[path]
            if record.number & 2:
                self.names[path].resize(0)
        elif record.kind == 'W':
            node.write(record.number, record.data)
        elif record.kind == 'T':
            node.resize(record.number)
        elif record.kind == 'E':
            node.fail_to_flush()
        elif record.kind == 'F':
            node.flush()
            for operation in self.operations:
                operation.is_flushed |= self.is_journaled or not node.is_file and operation.directory == node.path
        elif record.kind == 'M':
            self.names[path] = Node(path)
            self.operations.append(Operation('make', path, self.names[path]))
        elif record.kind == 'R':
            self.names[record.data] = self.names.pop(path)
            self.operations.append(Operation('rename', record.data, self.names[record.data], old=path))
        else:
            self.operations.append(Operation('remove', path, self.names.pop(path)))

    def surviving(self, destination, chance):
        """The operations that are kept. The destination itself, which is in a directory that is not ours, is seldom lost."""
        groups, lost = collections.defaultdict(list), set()
        for operation in self.operations:
            if operation.is_flushed:
                continue
            if operation.path == destination and not operation.node.is_file:
                lost |= {operation} if chance.random() < 1 / 16 else set()
            else:
                groups['' if self.is_journaled else operation.directory].append(operation)
        for _, group in sorted(groups.items()):
            lost.update(group[chance.choice([0, len(group), chance.randint(0, len(group))]):])
        return [operation for operation in self.operations if operation not in lost]

    def after(self, destination, data, chance):
        """A tree that the disk may hold now."""
        names = dict(self.start)
        for operation in self.surviving(destination, chance):
            if operation.kind == 'remove':
                # A directory is not gone while something in it is not.
                if not any(path.startswith(operation.path + '/') for path in names):
                    names.pop(operation.path, None)
                continue
            if operation.old is not None and names.get(operation.old) is operation.node:
                del names[operation.old]
            if (operation.directory or '.') in names:
                names[operation.path] = operation.node
        del names['.']
        return {path: left_of(node, data, chance) if node.is_file else None for path, node in sorted(names.items())}

    def everything(self): return {path: bytes(node.content) if node.is_file else None for path, node in self.names.items() if path != '.'}


def resized(content, size): return bytearray(content[:size]) + bytes(max(0, size - len(content)))


def left_of(node, data, chance):
    """What a file holds if what was not flushed is lost, torn or kept. Its size may be the old one or the new."""
    if data == 'kept' or node.flushed == node.content:
        return bytes(node.content)
    result = resized(node.flushed, chance.choice([len(node.flushed), len(node.content)]))
    if data == 'torn':
        share = chance.choice([0, 0.1, 0.5, 0.9, 1])
        for page in range(0, len(result), PAGE):
            if chance.random() < share:
                piece = node.content[page:page + PAGE][:len(result) - page]
                result[page:page + len(piece)] = piece
    return bytes(result)


# The cases

class Case:
    """A command, and what happens to it."""

    def __init__(self, command, name):
        self.command, self.name = command, f'{command.name}/{name}'
        events = name.split(' then ')
        self.crash = CRASH.match(events[0])
        self.faults = [FAULT.match(event).groupdict() for event in events[bool(self.crash):]]
        self.log = command.logs[self.crash['history']][1] if self.crash else []
        self.is_last = bool(self.crash) and int(self.crash['prefix']) == len(self.log)
        self.label = 'power' if self.crash else 'chain' if len(events) > 1 else self.label_of(self.faults[0])

    def label_of(self, fault): return 'kill' if fault['answer'] == 'kill' else fault['side'] + ':' + fault['kind']

    @property
    def group(self):
        """Cases of a group are met as often as those of any other."""
        return self.command.name, self.label, len(self.faults), str(self.crash and self.crash['history'])


def is_unnoticed(fault):
    """Whether a run must succeed all the same."""
    return fault['answer'] in ('EINTR', 'short') or fault['answer'] in UNNOTICED.get(fault['kind'], ())


def faults(command):
    for (side, kind), count in sorted(command.counts.items()):
        for answer in ANSWERS.get(kind, '').split():
            for number in range(1, count + 1):
                yield f'{side}:{kind}@{number}={answer}'
                # Who tries again after EINTR would try for ever.
                if answer != 'EINTR':
                    yield f'{side}:{kind}@{number}={answer}+'


def kills(command):
    for side, kind in (('d', 'any'), ('d', 'change'), ('s', 'any')):
        for number in range(1, command.counts[side, kind] + 1):
            yield f'{side}:{kind}@{number}=kill'


def chains(command):
    """Stops in two or three runs, one after the other. Much happens soon after a run goes on."""
    chance = random.Random(command.name)
    for _ in range(1000):
        yield ' then '.join(stop(command, chance) for _ in range(chance.choice([2, 2, 3])))


def stop(command, chance):
    likely = [('change', 'kill'), ('change', 'kill'), ('fsync', 'EIO'), ('write', 'ENOSPC'), ('rename', 'EIO'), ('unlink', 'EIO')]
    kind, answer = chance.choice(likely)
    count = command.counts['d', kind]
    return f'd:{kind}@{chance.randint(1, min(count, chance.choice([16, count])) or 1)}={answer}'


def crash_points(command):
    for history, (first, log) in command.logs.items():
        for prefix in range(first + 1, len(log) + 1):
            # What changes nothing needs no replay.
            if log[prefix - 1].kind != 'O' or log[prefix - 1].number:
                for data in ('lost', 'torn', 'kept'):
                    for names in ('strict', 'journaled'):
                        name = f'crash@{prefix}={data}.{names}' + (f' after {history}' if history else '')
                        yield name
                        yield f'{name} then d:change@{random.Random(name).randint(1, 24)}=kill'


def draw(groups, count, chance, is_new):
    """Up to `count` cases, from each group in turn, so that rare calls are all met; from large groups a few more."""
    groups = [chance.sample(group, len(group)) for group in groups if group]
    chance.shuffle(groups)
    drawn = []
    while groups and len(drawn) < count:
        for group in groups:
            for case in [group.pop() for _ in range(min(len(group), 1 + math.isqrt(len(group)) // 4))]:
                if len(drawn) < count and is_new(case):
                    drawn.append(case)
        groups = [group for group in groups if group]
    return drawn


class Result:
    """What came of a case: how its runs ended, and what does not hold, each with a text that cases share and one of its own."""

    def __init__(self, case):
        self.case, self.statuses, self.broken, self.refusal, self.what, self.disk = case, [], [], None, '', ''
        self.is_reached, self.is_skipped = True, False

    def note(self, text, detail=''):
        if (text, detail) not in self.broken:
            self.broken.append((text, detail))

    @property
    def is_silent(self): return any(text.startswith(SILENT) for text, _ in self.broken)


class Campaign:
    def __init__(self, machine, seed, keeps_going):
        self.machine, self.seed, self.keeps_going = machine, seed, keeps_going
        self.seen, self.is_over = set(), False

    # How things are when nothing goes wrong

    def clean_run(self, command, **options):
        write_tree(command.before, self.machine.place)
        outcome = self.machine.run(command, **options)
        if outcome.status != 0:
            raise Unusable(f'a clean run ends with {outcome.status}: {outcome.error}')
        return outcome, read_tree(self.machine.place)

    def prepare(self, command):
        """Learns what a command leaves, and how many calls it makes."""
        if command.is_consumed:
            command.before = {'source': None} | {'source/' + path: content for path, content in read_tree(self.machine.source(command.source)).items()}
        if command.earlier:
            earlier = Command(command.name, '', command.earlier[0], command.earlier[1])
            _, command.before = self.clean_run(earlier, bare=True)
        _, command.reference = self.clean_run(command, bare=True)
        outcome, counted = self.clean_run(command)
        command.counts = outcome.counts
        if command.reference != counted or any(map(is_unfinished, counted)):
            raise Unusable('runs differ from one another without any fault')

    def histories(self, command):
        """Stops after which runs that go on are recorded."""
        chance = random.Random(f'{self.seed} {command.name}')
        changes, flushes = command.counts['d', 'change'], command.counts['d', 'fsync']
        stops = [f'd:change@{number}=kill' for number in sorted(chance.sample(range(2, changes + 1), min(3, changes - 1)))]
        return stops + [f'd:fsync@{number}=EIO' for number in sorted(chance.sample(range(1, flushes + 1), min(3, flushes)))]

    def record(self, command, histories):
        """Records the changes of whole runs, and of such that were stopped and went on."""
        for history in histories:
            write_tree(command.before, self.machine.place)
            first = self.recorded_run(command, history, 1) if history else []
            log = first + self.recorded_run(command, None, 2)
            disk = Disk(command.before, False)
            for record in log:
                disk.apply(record)
            tree = read_tree(self.machine.place)
            if disk.everything() != tree:
                raise Unusable(f'the recorded changes do not make up the output (after {history}); a call is missing in faults.c')
            # Where it does not end well the faults themselves show it.
            if tree == command.reference:
                command.logs[history] = len(first), log

    def recorded_run(self, command, fault, number):
        log = self.machine.place + '.log'
        if os.path.exists(log):
            os.remove(log)
        self.machine.run(command, fault=FAULT.match(fault).groupdict() if fault else None, log=log)
        return read_log(log, self.machine.place, number)

    def disk_of(self, case):
        """A tree that the disk may hold at a crash point."""
        disk = Disk(case.command.before, case.crash['names'] == 'journaled')
        for record in case.log[:int(case.crash['prefix'])]:
            disk.apply(record)
        return disk.after(case.command.out, case.crash['data'], random.Random(f'{self.seed} {case.name}'))

    def is_new(self, case):
        """Whether a case is like no other: many crash points leave the same disk."""
        if not case.crash:
            return True
        digest = hashlib.sha256(repr((case.command.name, case.is_last, case.faults, self.disk_of(case))).encode()).digest()
        is_new = digest not in self.seen
        self.seen.add(digest)
        return is_new

    # What must hold

    def judge_files(self, command, tree, is_done):
        """What is wrong with the files that a run has left: under final names, and with `is_done` altogether."""
        wrong = []
        for path, content in tree.items():
            if is_unfinished(path):
                if is_done:
                    wrong.append(f'{path} is left over')
            elif is_consumed(path) and not is_done and path in command.reference:
                # Its name is in the reference; how much of it is freed is another matter.
                if path.partition('.consumed-')[0] in tree:
                    wrong.append(f'{path} is there under its old name, too')
            elif command.is_consumed and path.startswith('source/') and content == command.before.get(path):
                # Where there is no fsync nothing is freed.
                continue
            elif path not in command.reference and path not in command.before:
                wrong.append(f'{path} is no name of the output')
            elif content != command.reference.get(path) and (is_done or content != command.before.get(path)):
                wrong.append(f'{path} has wrong bytes ({describe(content, command.reference.get(path))})')
        if is_done:
            wrong += [f'{path} is missing' for path in command.reference
                      if path not in tree and not (is_consumed(path) and path.partition('.consumed-')[0] in tree)]
        return wrong

    def judge_run(self, result, outcome, is_killed=False):
        """Notes what is wrong with how a run ended and what it left; true if it is done."""
        command, is_done = result.case.command, outcome.status == 0
        result.statuses.append(outcome.status)
        lines = len(outcome.error.splitlines())
        if outcome.status == 'hang':
            result.note(f'no end after {SECONDS} s')
        elif not is_done and outcome.status not in DOCUMENTED and not (is_killed and outcome.status == -9):
            result.note(f'ends with {outcome.status}, which is not documented', first_line(outcome.error))
        elif not is_done and outcome.status != -9 and lines != 1:
            result.note(f'ends with {outcome.status} and {lines} lines of error', first_line(outcome.error))
        wrong = self.judge_files(command, read_tree(self.machine.place), is_done)
        if is_done and any('left over' not in text for text in wrong):
            self.note_corruption(result, 'a run ends with 0 and its files are wrong', wrong)
        elif wrong:
            result.note(f'after status {outcome.status} files are not as they should be', '; '.join(wrong))
        return is_done

    def note_corruption(self, result, text, wrong):
        result.note(f'{SILENT}: {text}', '; '.join(wrong))
        if not self.keeps_going:
            self.is_over = True

    def run_again(self, result):
        """The same command once more, without faults: it must finish; if it refuses, perhaps some time after."""
        command = result.case.command
        outcome = self.machine.run(command, bare=True)
        if outcome.status == 73 and 'already finished' in outcome.error and not self.judge_files(command, read_tree(self.machine.place), True):
            result.statuses.append(0)
            return
        if self.judge_run(result, outcome) or outcome.status not in DOCUMENTED:
            return
        times = next((times for times in range(1, PATIENCE) if self.judge_run(result, self.machine.run(command, bare=True))), None)
        result.refusal = (f'then done after {times} more' if times else 'for good', outcome.status, outcome.error)

    def run_fault(self, result, fault):
        """Runs the command under a fault; true if it is done all the same."""
        outcome = self.machine.run(result.case.command, fault=fault)
        result.is_reached &= outcome.fired > 0
        result.what = result.what or outcome.what
        is_done = self.judge_run(result, outcome, is_killed=fault['answer'] == 'kill')
        if not is_done and is_unnoticed(fault):
            result.note(f'{fault["answer"]} is not got over: ends with {outcome.status}', outcome.error)
        return is_done

    def lay_out(self, result):
        """Makes the disk what a power failure left."""
        command, tree = result.case.command, self.disk_of(result.case)
        result.disk = ', '.join(path if content is None else f'{path} ({len(content)})' for path, content in tree.items()) or 'nothing'
        write_tree(tree, self.machine.place)
        # The run had ended with 0, so that its files are there, come what may.
        if result.case.is_last and (command.out in tree or command.reference[command.out] is not None):
            wrong = [text for text in self.judge_files(command, tree, True) if 'left over' not in text]
            if wrong:
                self.note_corruption(result, 'a run ended with 0, and the power failed after it', wrong)

    def run(self, case):
        result = Result(case)
        result.is_skipped = self.is_over
        if not result.is_skipped:
            self.lay_out(result) if case.crash else write_tree(case.command.before, self.machine.place)
            if not any(self.run_fault(result, fault) for fault in case.faults):
                self.run_again(result)
            # Which call is met later depends on what went before; that the first is met does not.
            result.is_reached |= len(case.faults) > 1 or bool(case.crash)
        return result


def first_line(text): return (text.splitlines() or [''])[0][:300]


def describe(content, expected):
    if content is None or expected is None:
        return 'a directory and a file'
    first = next((i for i, (a, b) in enumerate(zip(content, expected)) if a != b), min(len(content), len(expected)))
    return f'{len(content)} bytes for {len(expected)}, the first other one at {first}'


# The page at the end

def print_table(results):
    rows = collections.defaultdict(lambda: [0, 0, collections.Counter()])
    for result in results:
        row = rows[result.case.command.container, result.case.label]
        row[0] += 1
        row[1] += result.refusal is not None
        row[2][' then '.join(map(str, dict.fromkeys([result.statuses[0], result.statuses[-1]])))] += 1
    print(f'\n{"container":<12} {"call":<12} {"cases":>6} {"refused":>8}  how the runs ended: the first, then the last')
    for (container, label), (count, refused, statuses) in sorted(rows.items()):
        print(f'{container:<12} {label:<12} {count:>6} {refused or "":>8}  ' + ', '.join(f'{key}: {n}' for key, n in statuses.most_common()))


def shared(text):
    """A sentence as it is for any file, tensor and number."""
    return re.sub(r'\d+', 'N', re.sub(r'(?!Input/output)(\S*/|\bmodel)\S*[\w*]', 'FILE', text))


def grouped(pairs):
    """(key, results) of (key, result) pairs, the most frequent first."""
    groups = collections.defaultdict(list)
    for key, result in pairs:
        groups[key].append(result)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), str(item[0])))


def print_examples(found):
    print('  as in ' + ', '.join(repr(result.case.name) for result in found[:3]))
    print('  there: ' + (f'the disk held {found[0].disk}' if found[0].disk else f'the fault met {found[0].what}'))


def print_refusals(results):
    pairs = (((result.refusal[0], result.refusal[1], shared(result.refusal[2])), result) for result in results if result.refusal)
    for (ending, status, sentence), found in grouped(pairs):
        print(f'refused {len(found)} times, {ending}: {status}: {sentence}')
        print_examples(found)


def print_broken(results):
    notes = [(result, text, detail) for result in results for text, detail in result.broken]
    pairs = (((not text.startswith(SILENT), text, result.case.label, shared(detail)), (result, detail)) for result, text, detail in notes)
    for (_, text, label, _), found in sorted(grouped(pairs), key=lambda item: item[0][0]):
        print(f'NOT SO, {label}, {len(found)} times: {text}: {found[0][1]}')
        print_examples([result for result, _ in found])


def main():
    parser = argparse.ArgumentParser(description='Breaks every system call of a conversion and looks what comes of it.')
    parser.add_argument('recast')
    parser.add_argument('--faults', type=int, default=2000)
    parser.add_argument('--kills', type=int, default=500)
    parser.add_argument('--chains', type=int, default=300)
    parser.add_argument('--crash-points', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--only', default='', metavar='REGEX', help='draw from cases whose names match')
    parser.add_argument('--case', action='append', metavar='NAME', help='run this case and no other')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--keep-going', action='store_true', help='go on after a silent corruption')
    options = parser.parse_args()
    memory = '/dev/shm'
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 29
    work = tempfile.mkdtemp(prefix='fault-campaign-', dir=memory if has_room else None)
    try:
        sys.exit(carry_out(options, work))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def prepare_sources(machine):
    for kind in ('fp8', 'bf16'):
        write_checkpoint(os.path.join(FIXTURES, 'tiny-deepseek-v3-' + kind), machine.source(kind))
    for name, option in (('zstd', '--container zstd'), ('torch', '--container torch'), ('one.h5', '')):
        arguments = [machine.recast, 'convert', machine.source('bf16'), machine.source(name), '--to', 'keep', *option.split(), '--quiet']
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


def carry_out(options, work):
    machine = Machine(os.path.abspath(options.recast), work)
    prepare_sources(machine)
    sources = read_tree(os.path.join(work, 'sources'))
    campaign = Campaign(machine, options.seed, options.keep_going)
    named = [tuple(name.split('/', 1)) for name in options.case or ()]
    chosen, unusable = [], []
    for command in commands():
        names = [name for command_name, name in named if command_name == command.name]
        if named and not names:
            continue
        try:
            campaign.prepare(command)
            if named:
                campaign.record(command, {crash['history'] for crash in map(CRASH.match, (name.split(' then ')[0] for name in names)) if crash})
            elif options.crash_points and not command.kills_only:
                campaign.record(command, [None, *campaign.histories(command)])
            chosen.append(command)
        except Unusable as reason:
            unusable.append(f'{command.name} is left out: {reason}')
    if named:
        drawn = [Case(command, name) for command in chosen for command_name, name in named if command_name == command.name]
    else:
        drawn = draw_cases(options, campaign, chosen)
    with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
        results = list(pool.map(campaign.run, drawn))
    if read_tree(os.path.join(work, 'sources')) != sources:
        unusable.append('the source was changed')
    return report(results, unusable)


def draw_cases(options, campaign, chosen):
    wanted, drawn = re.compile(options.only), []
    for make, count in ((faults, options.faults), (kills, options.kills), (chains, options.chains), (crash_points, options.crash_points)):
        groups = collections.defaultdict(list)
        for command in chosen:
            for name in make(command) if count and (make is kills or not command.kills_only) else ():
                if wanted.search(f'{command.name}/{name}'):
                    case = Case(command, name)
                    groups[case.group].append(case)
        found = draw([groups[key] for key in sorted(groups)], count, random.Random(options.seed), campaign.is_new)
        drawn += found
        print(f'{len(found)} of {sum(map(len, groups.values()))} {make.__name__.replace("_", " ")} drawn', flush=True)
    return drawn


def report(results, others):
    skipped = sum(result.is_skipped for result in results)
    missed = [result for result in results if not result.is_reached]
    results = [result for result in results if result.is_reached and not result.is_skipped]
    print_table(results)
    print_refusals(results)
    print_broken(results)
    if missed:
        print(f'{len(missed)} cases were not reached, as {missed[0].case.name}: a run does not close its files in the same order every time')
    if skipped:
        print(f'{skipped} cases were left out after a silent corruption; --keep-going runs them')
    for text in others:
        print('NOT SO: ' + text)
    silent, refusals = sum(result.is_silent for result in results), sum(result.refusal is not None for result in results)
    broken = sum(bool(result.broken) for result in results)
    kinds = collections.Counter(result.case.label for result in results)
    faulted = len(results) - kinds['power'] - kinds['kill'] - kinds['chain']
    print(f'\n{faulted} faults, {kinds["power"]} crash points replayed, {kinds["kill"]} kills, {kinds["chain"]} chains; '
          f'{silent} silent corruptions, {refusals} refusals, {broken} cases in which something does not hold')
    return 1 if broken or others else 0


if __name__ == '__main__':
    main()
