"""The kernels of this machine and those of arm64, which user-mode emulation runs, bit for bit.

usage: kernel_digests.py [--native-only]      (clang of the Swift toolchain; qemu-user and gcc-aarch64-linux-gnu for arm64)

Compiles kernel_digests.c with the kernels' sources for both, runs it at every level that each has, and fails where two lines differ.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument('--native-only', action='store_true')
options = parser.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
kernels = os.path.join(here, '..', '..', 'Sources', 'CKernels')
clang = os.path.join(os.path.dirname(os.path.realpath(shutil.which('swift'))), 'clang')
sources = sorted(os.path.join(kernels, name) for name in os.listdir(kernels) if name.endswith('.c')) + [os.path.join(here, 'kernel_digests.c')]

with tempfile.TemporaryDirectory() as work:

    def digests(name, flags, runner):
        """Level: {kernel: digest}, of a program that is compiled with `flags` and run by `runner`."""
        program = f'{work}/{name}'
        # Optimized as SwiftPM does it.
        subprocess.run([clang, '-O2', '-DNDEBUG', '-I', kernels + '/include', '-o', program, *flags, *sources, '-lm'], check=True)
        levels = subprocess.run([*runner, program], check=True, capture_output=True, text=True).stdout.split()
        return {f'{name} {"plain NEON AVX2 AVX-512".split()[int(level)]}': dict(
            line.split() for line in subprocess.run([*runner, program, level], check=True, capture_output=True, text=True).stdout.splitlines())
            for level in levels}

    found = digests(os.uname().machine, [], [])
    if not options.native_only:
        emulator = shutil.which('qemu-aarch64') or shutil.which('qemu-aarch64-static')
        if not emulator:
            sys.exit('qemu-aarch64 is not here: install qemu-user and gcc-aarch64-linux-gnu')
        found |= digests('aarch64', ['--target=aarch64-linux-gnu', '-static'], [emulator])
    first, expected = next(iter(found.items()))
    bad = [f'{level}: {kernel} differs from {first}' for level, lines in found.items() for kernel in expected if lines.get(kernel) != expected[kernel]]
    if bad or not expected:
        sys.exit('\n'.join(bad) or 'no kernels were run')
    print(f'{len(expected)} groups of kernels: the same bits at {", ".join(found)}')
