"""What a user of the library sees: every public declaration has a documentation comment, there are few, and the examples of
README and of the documentation compile.

    swift build -c release && python3 Tests/Scripts/public_api.py [--list]

Reads the modules that the release build left, so that only `public` declarations are visible.
"""
import glob, json, os, re, subprocess, sys, tempfile

LIMIT = 400
BUILD = '.build/release'
FLAGS = ['-I', BUILD + '/Modules', '-I', 'Sources/CZstd', '-I', 'Sources/CZlib', '-I', 'Sources/CHDF5']
# C modules of ours and of the packages: their own maps, or else those that the build made.
maps = {}
for found in glob.glob(f'{BUILD}/*.build/module.modulemap') + glob.glob('.build/checkouts/*/Sources/*/include/module.modulemap'):
    name = found.split('/')[-2][:-len('.build')] if '.build/module' in found else found.split('/')[-3]
    maps.setdefault(name, found)
FLAGS += [flag for found in maps.values() for flag in ('-Xcc', '-fmodule-map-file=' + found)]
hdf5 = subprocess.run(['pkg-config', '--cflags', 'hdf5'], capture_output=True, text=True).stdout.split()
for flag in hdf5: FLAGS += ['-Xcc', flag]


def declarations(module, folder):
    """(kind, path, documented) of the module's public declarations; what the compiler makes by itself is left out."""
    target = json.loads(subprocess.run(['swift', '-print-target-info'], capture_output=True, text=True, check=True).stdout)['target']['triple']
    ran = subprocess.run(['swift', 'symbolgraph-extract', '-module-name', module, '-target', target, '-minimum-access-level', 'public',
                          '-skip-synthesized-members', '-output-dir', folder] + FLAGS, capture_output=True, text=True)
    if ran.returncode: sys.exit(f'{module}: {ran.stderr[-2000:]}')
    for path in sorted(glob.glob(f'{folder}/{module}*.symbols.json')):
        for symbol in json.load(open(path))['symbols']:
            if 'location' not in symbol: continue  # Synthesized: ==, hash(into:), rawValue, ...
            yield symbol['kind']['identifier'], '.'.join(symbol['pathComponents']), 'docComment' in symbol


def compiles(page, example, folder):
    """Type-checks an example as a program outside of this package would see it."""
    lines = example.split('\n')
    source = os.path.join(folder, 'Example.swift')
    imports = [l for l in lines if l.startswith('import ')]
    body = ['    ' + l for l in lines if not l.startswith('import ')]
    open(source, 'w').write('\n'.join(imports + ['func example() async throws {'] + body + ['}']))
    ran = subprocess.run(['swiftc', '-typecheck', '-swift-version', '6', source] + FLAGS, capture_output=True, text=True)
    if ran.returncode: sys.exit(f'an example of {page} does not compile:\n{ran.stderr[-3000:]}')


def main():
    modules = sorted(os.path.basename(p)[:-len('.swiftmodule')] for p in glob.glob(f'{BUILD}/Modules/*.swiftmodule'))
    ours = [m for m in modules if m == 'Formats' or os.path.isdir(f'Sources/{m}') and m not in ('RecastCLI', 'RecastBenchmarks')]
    count, bare = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for module in ours:
            for kind, path, documented in declarations(module, folder):
                # Conformances to protocols of the standard library say by their names what they are.
                if path.split('.')[-1] in ('description', 'kind', 'Element') and not documented: documented = True
                count += 1
                if '--list' in sys.argv: print(module, kind, path, '' if documented else 'UNDOCUMENTED')
                if not documented: bare.append(f'{module}: {path}')
        examples = [(page, text) for page in ['README.md'] + sorted(glob.glob('Sources/Recast/Recast.docc/*.md'))
                    for text in re.findall(r'```swift\n(.*?)```', open(page).read(), re.S)]
        for page, example in examples: compiles(page, example, folder)
    for line in bare: print('without a documentation comment:', line)
    print(f'{count} public declarations in {len(ours)} modules, {len(bare)} without documentation; {len(examples)} examples compile')
    if bare or count >= LIMIT or count < 50: sys.exit(1)


main()
