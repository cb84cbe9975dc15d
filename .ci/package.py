"""Packages of a built binary: a tarball with its checksum, a Debian package, and a wheel for pip.

usage: package.py RECAST FOLDER [--check]      (RECAST built with --static-swift-stdlib; strip, readelf, objdump and dpkg-deb on the path)

What the packages ask of a machine is read from the binary: the libraries that it names and the newest symbols that it uses of them. The same binary
gives the same packages, byte for byte. --check unpacks each of them, installs the wheel with pip, and converts a checkpoint with what comes out.
"""
import argparse
import base64
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import manual

SUMMARY = 'Converts, quantizes and verifies checkpoints of DeepSeek-V3 class between BF16, FP8, int4, FP4 and GGUF'
DESCRIPTION = """\
One binary for CPU machines: no GPU, no Python, bounded memory, resumable,
audited, bit-identical with the reference implementations.
"""
# Shared library: the Debian package that has it.
LIBRARIES = {'libc.so.6': 'libc6', 'libm.so.6': 'libc6', 'ld-linux-x86-64.so.2': 'libc6', 'ld-linux-aarch64.so.1': 'libc6', 'libstdc++.so.6': 'libstdc++6',
             'libgcc_s.so.1': 'libgcc-s1', 'libz.so.1': 'zlib1g', 'libzstd.so.1': 'libzstd1', 'libdl.so.2': 'libc6', 'libpthread.so.0': 'libc6'}
DEBIAN = {'x86_64': 'amd64', 'aarch64': 'arm64'}
# Not when this ran, so that the bytes are the same: 1980, with which the years of zip files begin.
TIME = 315532800


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needs(binary):
    """The libraries that the binary names, and the newest version of glibc's symbols."""
    libraries = re.findall(r'NEEDED.*\[(.*)\]', output('readelf', '-dW', binary))
    unknown = [name for name in libraries if name not in LIBRARIES]
    if unknown:
        sys.exit(f'{binary} needs {" ".join(unknown)}: build it with --static-swift-stdlib')
    versions = re.findall(r'GLIBC_(\d+)\.(\d+)', output('objdump', '-T', binary))
    return sorted({LIBRARIES[name] for name in libraries}), max((int(a), int(b)) for a, b in versions)


def archive(files, prefix):
    """A compressed tar archive of (name, bytes, permissions), owned by root."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w', format=tarfile.GNU_FORMAT) as tar:
        folders = set()
        for name, content, permissions in files:
            parts = (prefix + name).split('/')[:-1]
            for depth in range(1, len(parts) + 1):
                folder = '/'.join(parts[:depth])
                if folder not in folders and folder not in ('', '.'):
                    folders.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, TIME
                    tar.addfile(entry)
            entry = tarfile.TarInfo(prefix + name)
            entry.size, entry.mode, entry.mtime = len(content), permissions, TIME
            entry.uname = entry.gname = 'root'
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(data.getvalue(), 9, mtime=0)


def extras(recast, version):
    """What shells and man read: (place below /usr/share, bytes)."""
    page = manual.page(output(recast, '--experimental-dump-help'), version).encode()
    places = {'bash': 'bash-completion/completions/recast', 'zsh': 'zsh/vendor-completions/_recast', 'fish': 'fish/vendor_completions.d/recast.fish'}
    made = [(place, output(recast, '--generate-completion-script', shell).encode()) for shell, place in places.items()]
    return [('man/man1/recast.1.gz', gzip.compress(page, 9, mtime=0)), *made]


def debian(folder, version, machine, packages, glibc, binary, texts, shared):
    depends = [f'{name} (>= {glibc[0]}.{glibc[1]})' if name == 'libc6' else name for name in packages]
    texts = [(f'usr/share/doc/recast/{"copyright" if name == "LICENSE" else name}', content, 0o644) for name, content in texts]
    files = [('usr/bin/recast', binary, 0o755), *texts, *(('usr/share/' + name, content, 0o644) for name, content in shared)]
    control = (f'Package: recast\nVersion: {version}\nArchitecture: {DEBIAN[machine]}\nMaintainer: Recast <recast@localhost>\nSection: science\n'
               f'Priority: optional\nInstalled-Size: {sum(len(content) for _, content, _ in files) // 1024 + 1}\nDepends: {", ".join(depends)}\n'
               'Recommends: ca-certificates\nSuggests: libhdf5-103-1 | libhdf5-103 | libhdf5-310\n'
               f'Description: {SUMMARY}\n' + ''.join(f' {line}\n' for line in DESCRIPTION.splitlines()))
    sums = ''.join(f'{hashlib.md5(content).hexdigest()}  {name}\n' for name, content, _ in files)
    members = [('debian-binary', b'2.0\n'),
               ('control.tar.gz', archive([('control', control.encode(), 0o644), ('md5sums', sums.encode(), 0o644)], prefix='./')),
               ('data.tar.gz', archive(files, prefix='./'))]
    path = os.path.join(folder, f'recast_{version}_{DEBIAN[machine]}.deb')
    with open(path, 'wb') as file:
        file.write(b'!<arch>\n')
        for name, content in members:
            file.write(f'{name:<16}{TIME:<12}{0:<6}{0:<6}{"100644":<8}{len(content):<10}`\n'.encode() + content + b'\n' * (len(content) % 2))
    return path


def wheel(folder, version, machine, glibc, binary, texts, shared):
    tag = f'py3-none-manylinux_{glibc[0]}_{glibc[1]}_{machine}'
    info = f'recast_checkpoints-{version}.dist-info'
    files = [(f'recast_checkpoints-{version}.data/scripts/recast', binary, 0o755),
             (f'{info}/METADATA', (f'Metadata-Version: 2.1\nName: recast-checkpoints\nVersion: {version}\nSummary: {SUMMARY}\n'
                                   'Description-Content-Type: text/markdown\n\n').encode() + dict(texts)['README.md'], 0o644),
             (f'{info}/WHEEL', f'Wheel-Version: 1.0\nGenerator: recast\nRoot-Is-Purelib: false\nTag: {tag}\n'.encode(), 0o644),
             (f'{info}/licenses/LICENSE', dict(texts)['LICENSE'], 0o644),
             *((f'recast_checkpoints-{version}.data/data/share/{name}', content, 0o644) for name, content in shared)]
    record = ''.join(
        f'{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()},{len(content)}\n' for name, content, _ in files)
    files.append((f'{info}/RECORD', (record + f'{info}/RECORD,,\n').encode(), 0o644))
    path = os.path.join(folder, f'recast_checkpoints-{version}-{tag}.whl')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content, permissions in files:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = (0o100000 | permissions) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return path


def check(tarball, deb, pip, version):
    """Each package gives a binary that converts."""
    model = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../Tests/Fixtures/tiny-deepseek-v3-fp8')
    with tempfile.TemporaryDirectory() as scratch:
        path = lambda name: os.path.join(scratch, name)
        subprocess.run(['tar', '-C', scratch, '-xzf', tarball], check=True)
        subprocess.run(['dpkg-deb', '--extract', deb, path('deb')], check=True)
        subprocess.run([sys.executable, '-m', 'venv', path('venv')], check=True)
        subprocess.run([path('venv/bin/pip'), 'install', '--quiet', '--disable-pip-version-check', '--no-index', pip], check=True)
        name = os.path.basename(tarball).removesuffix('.tar.gz')
        for binary in path(f'{name}/recast'), path('deb/usr/bin/recast'), path('venv/bin/recast'):
            if output(binary, '--version').strip() != version:
                sys.exit(f'FAILED: {binary} is another version')
            said = output(binary, 'convert', model, path('out'), '--to', 'bf16', '--overwrite')
            if ' 0 differences' not in said:
                sys.exit(f'FAILED: {binary}: {said}')
        subprocess.run(['bash', '-n', path('deb/usr/share/bash-completion/completions/recast')], check=True)
        shown = output('zcat', path('deb/usr/share/man/man1/recast.1.gz'))
        for command in 'convert', 'verify', 'doctor':
            if f'.SS recast {command}' not in shown or not os.path.exists(path('venv/share/man/man1/recast.1.gz')):
                sys.exit(f'FAILED: the manual page does not know {command}, or is not there')
        print('each of them converts the bundled model')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('recast')
    parser.add_argument('folder')
    parser.add_argument('--check', action='store_true')
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    version, machine = output(options.recast, '--version').strip(), os.uname().machine
    with tempfile.TemporaryDirectory() as scratch:
        stripped = os.path.join(scratch, 'recast')
        subprocess.run(['strip', '--strip-all', '-o', stripped, options.recast], check=True)
        packages, glibc = needs(stripped)
        shared = extras(options.recast, version)
        binary = open(stripped, 'rb').read()
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
    texts = [(name, open(os.path.join(top, name), 'rb').read()) for name in ('README.md', 'LICENSE')]
    name = f'recast-{version}-linux-{machine}'
    tarball = os.path.join(options.folder, name + '.tar.gz')
    with open(tarball, 'wb') as file:
        file.write(archive([('recast', binary, 0o755), *((text, content, 0o644) for text, content in texts),
                            *(('share/' + place, content, 0o644) for place, content in shared)], prefix=name + '/'))
    made = [tarball, debian(options.folder, version, machine, packages, glibc, binary, texts, shared),
            wheel(options.folder, version, machine, glibc, binary, texts, shared)]
    with open(os.path.join(options.folder, 'SHA256SUMS'), 'w') as sums:
        for path in made:
            sums.write(f'{hashlib.sha256(open(path, "rb").read()).hexdigest()}  {os.path.basename(path)}\n')
            print(f'{os.path.basename(path)}: {os.path.getsize(path) / 1e6:.1f} MB')
    print(f'binary {len(binary) / 1e6:.1f} MB stripped; needs glibc {glibc[0]}.{glibc[1]}, {", ".join(packages)}')
    if options.check:
        check(*made, version)


if __name__ == '__main__':
    main()
