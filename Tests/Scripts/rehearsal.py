"""Rehearse a 671B conversion without 688 GB: the full-size DeepSeek-V3 checkpoint as sparse files, planned for real.

usage: rehearsal.py RECAST [--directory DIR] [--layers 61] [--shards 163]

Writes every tensor of DeepSeek-V3's FP8 release (names, shapes, dtypes, sizes; data are holes), then inspects it, plans it to
several layouts, converts one full-width layer to several layouts within 256 MiB, and repacks it. Prints seconds and peak memory, and
fails if a count is wrong, planning takes more than 300 MB, a conversion more than 64 MiB and 16 MiB a worker, or a repacked value differs.
Standard library only.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from deepseek_v3 import decoder_layer, model, write


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
    # What a road needs with that budget, however wide its weights: a base and a share for each worker.
    bound = (64 + 16 * len(os.sched_getaffinity(0)) << 20) if hasattr(os, 'sched_getaffinity') else budget
    for source, layout, *more in (('layer', 'int4-g128'), ('layer', 'awq'), ('awq', 'gptq-asym', '--require-exact'), ('layer', 'mlx-4bit'),
                                  ('layer', 'gptq'), ('layer', 'gptq-8bit'), ('layer', 'w4afp8'), ('layer', 'nvfp4')):
        arguments = ['convert', f'{work}/{source}', f'{work}/{layout}', '--to', layout, '--memory', str(budget), *more]
        report, seconds, peak = measure([options.recast, *arguments, '--json'])
        print(f'one layer, 16 experts, {source} to {layout} with --memory 256MiB: {seconds:.2f} s, peak memory {peak / 1e6:.0f} MB')
        if peak > bound:
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
