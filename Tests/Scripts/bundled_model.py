"""The bundled model as the interop scripts use it: unpacked, converted by Recast, read back."""
import glob
import gzip
import json
import os
import shutil
import subprocess

from safetensors import safe_open


class Conversions:
    """Runs the command `recast` on models in a working directory; each conversion is done once."""

    def __init__(self, recast, fixtures, work):
        self.recast, self.fixtures, self.work = recast, fixtures, work
        self.fp8 = fixtures + '/tiny-deepseek-v3-fp8'
        self.bf16 = work + '/tiny-deepseek-v3-bf16'
        shutil.copytree(fixtures + '/tiny-deepseek-v3-bf16', self.bf16)
        for path in glob.glob(self.bf16 + '/*.gz'):
            with gzip.open(path) as source, open(path[:-3], 'wb') as target:
                shutil.copyfileobj(source, target)
            os.remove(path)

    def convert(self, source, target, rules=()):
        """Converts `source` to the layout `target`, with a recipe of (pattern, layout) rules; returns the directory."""
        out = f'{self.work}/{os.path.basename(source)}-{target}' + ''.join('-beside-' + layout for _, layout in rules)
        options = []
        if rules:
            with open(out + '.yaml', 'w') as file:
                json.dump({'rules': [{'match': match, 'to': layout} for match, layout in rules]}, file)
            options = ['--recipe', out + '.yaml']
        subprocess.run([self.recast, 'convert', source, out, '--to', target, '--resume', '--quiet', *options], check=True, stdout=subprocess.DEVNULL)
        return out


def tensors(folder):
    found = {}
    for path in sorted(glob.glob(folder + '/*.safetensors')):
        with safe_open(path, 'pt') as file:
            for name in file.keys():
                found[name] = file.get_tensor(name)
    return found
