"""Hold every JSON document that Recast prints or writes against the JSON Schema that `recast schema` prints for it.

usage: json_schemas.py RECAST FIXTURES

FIXTURES holds the bundled models. The schemas allow no key that they do not name, so that a new one is written down before it is printed; and of
the keys that a document need not have, all but `ELSEWHERE` must have been seen. Needs jsonschema.
"""
import json
import os
import subprocess
import sys
import tempfile

import jsonschema

recast, fixtures = map(os.path.abspath, sys.argv[1:3])
fp8, tokens, other = (f'{fixtures}/{name}' for name in ('tiny-deepseek-v3-fp8', 'tokens-short.json', 'tokens-calibration.json'))


def run(*arguments, statuses=(0,)):
    child = subprocess.run([recast, *arguments], capture_output=True, text=True, timeout=600)
    if child.returncode not in statuses:
        sys.exit(f'{arguments} ended with {child.returncode}: {child.stderr}')
    return child


names = [line.split()[0] for line in run('schema').stdout.splitlines()]
schemas = {name: json.loads(run('schema', name).stdout) for name in names}
for name, schema in schemas.items():
    jsonschema.Draft202012Validator.check_schema(schema)
# In a container with a limit; of weights that hold infinities; of models whose inner norms are told apart.
ELSEWHERE = {('doctor', '/memory/limit'), ('manifest', '/weights/*/not_finite'), ('verify', '/forward/latent_norms')}
seen, failures = {name: 0 for name in names}, []
# Keys that a schema lets a document leave out, and that none of these had yet.
unseen = {}


def note_optional(name, schema, path=''):
    for key, inner in schema.get('properties', {}).items():
        if key not in schema.get('required', []):
            unseen[name, f'{path}/{key}'] = True
        note_optional(name, inner, f'{path}/{key}')
    if 'items' in schema:
        note_optional(name, schema['items'], path + '/*')


def note_seen(name, value, path=''):
    for key, inner in value.items() if isinstance(value, dict) else []:
        unseen.pop((name, f'{path}/{key}'), None)
        note_seen(name, inner, f'{path}/{key}')
    for inner in value if isinstance(value, list) else []:
        note_seen(name, inner, path + '/*')


for name, schema in schemas.items():
    note_optional(name, schema)


def check(name, text):
    document = json.loads(text)
    seen[name] += 1
    note_seen(name, document)
    for error in jsonschema.Draft202012Validator(schemas[name]).iter_errors(document):
        failures.append(f'{name}: {"/".join(map(str, error.absolute_path))}: {error.message[:300]}')


with tempfile.TemporaryDirectory() as work:
    check('version', run('version', '--json').stdout)
    check('doctor', run('doctor', '--json').stdout)
    check('doctor', run('doctor', work, '--json').stdout)
    check('layouts', run('layouts', '--json').stdout)
    check('architectures', run('architectures', '--json').stdout)
    check('inspect', run('inspect', fp8, '--json').stdout)
    check('inspect-tensors', run('inspect', fp8, '--tensors', '*', '--json').stdout)
    check('plan', run('plan', fp8, f'{work}/none', '--to', 'bf16', '--json').stdout)
    targets = [('bf16',), ('int4-g32',), ('awq', '--quantizer', 'awq', '--tokens', other), ('keep',), ('bf16', '--model-parallel', '2'), ('q4_k_m',)]
    for number, (layout, *more) in enumerate(targets):
        destination = f'{work}/{number}' + ('.gguf' if layout == 'q4_k_m' else '')
        arguments = ['convert', fp8, destination, '--to', layout, *more, '--json', '--progress', 'json']
        check('plan', run(*arguments, '--dry-run').stdout)
        child = run(*arguments)
        check('convert', child.stdout)
        for line in child.stderr.splitlines():
            check('progress', line)
        with open(f'{destination}.recast.manifest.json' if layout == 'q4_k_m' else f'{destination}/recast.manifest.json') as file:
            check('manifest', file.read())
    check('convert', run('convert', fp8, f'{work}/0', '--to', 'bf16', '--json', '--resume').stdout)
    for more in (['--weights-only'], ['--tokens', tokens], ['--tokens', tokens, '--without-mtp', '--for', 'vllm', '--latent-norms', 'config']):
        child = run('verify', fp8, f'{work}/1', *more, '--json', '--progress', 'json', '--report', f'{work}/report.json', statuses=(0, 1))
        check('verify', child.stdout)
        for line in child.stderr.splitlines():
            check('progress', line)
        with open(f'{work}/report.json') as file:
            check('verify', file.read())
    child = run('sweep', fp8, '--layouts', 'int4-g32,int8-channel', '--tokens', tokens, '--report', f'{work}/sweep.html', '--sensitivity', '--bits', '6', '--json',
                '--progress', 'json')
    check('sweep', child.stdout)
    for line in child.stderr.splitlines():
        check('progress', line)
    with open(f'{work}/sweep.json') as file:
        check('sweep', file.read())

failures += [f'{name}{path}: never seen' for name, path in unseen if (name, path) not in ELSEWHERE]
failures += [f'{name}: no document of this kind was made' for name, count in seen.items() if count == 0]
for failure in sorted(set(failures)):
    print('FAIL', failure)
print(f'{sum(seen.values())} documents of {len(seen)} kinds, {len(failures)} faults')
sys.exit(len(failures) > 0)
