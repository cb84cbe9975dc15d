"""Feed every reader of untrusted bytes with mutated input, guided by coverage: it may refuse, and never trap, hang or allocate without bound.

usage: fuzz.py [--seconds 5 | --executions N] [--reader NAME]... [--build-path .build-fuzz] [--seed 1] [--address] [--jobs N] [--no-build] [--corpus DIR]

Builds Tests/Fuzzing, a target that only this script asks for, with libFuzzer's coverage in all of Recast (`swift build --sanitize fuzzer`; a toolchain of
swift.org on Linux has it), and runs each reader for some seconds from the seeds in Tests/Fuzzing/Corpus. A finding is a trap, a report of a
sanitizer, an input that takes longer than 10 s or more than 1 GB, and an error that is no Failure or an internal one. Inputs with findings are
kept under the build path, each with the command that shows it again; the run goes on without them. Exit status 1 if there are any.

The same seed gives the same inputs as long as the program is the same; how many of them depends on the machine, unless --executions says it. --address adds the address
sanitizer, which sees what C and unsafe Swift read and write beside their memory, at half the speed. --corpus keeps the inputs that reached
something new, and goes on from those of earlier runs. Tests/Fuzzing/seeds.py writes the seeds.
"""
import argparse
import collections
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '../..'))
PACKAGE = os.path.join(ROOT, 'Tests/Fuzzing')
SEEDS = os.path.join(PACKAGE, 'Corpus')
DICTIONARIES = {
    'yaml': ['recipe', 'policy'], 'pickle': ['pickle'], 'binary': ['torch', 'hdf5', 'zstd', 'gguf'],
}  # of all others: json
SHARES = {'hdf5': 0.1}  # it makes a process for each input
LIMITS = ['-timeout=10', '-rss_limit_mb=1500', '-malloc_limit_mb=1000', '-max_len=16384', '-detect_leaks=0']
MOST_FINDINGS = 20  # of one reader; after so many it is given up

Result = collections.namedtuple('Result', 'executions coverage units findings')


def build(options):
    """Builds the targets and returns the program."""
    sanitizers = ['--sanitize', 'fuzzer'] + (['--sanitize', 'address'] if options.address else [])
    # What is fuzzed reads files; sources over the network are left out of the build.
    command = ['swift', 'build', '-c', 'release', '--disable-default-traits', *sanitizers, '--package-path', ROOT, '--scratch-path', options.build_path]
    if not options.no_build:
        jobs = ['-j', str(options.jobs)] if options.jobs else []
        subprocess.run([*command, *jobs, '--product', 'RecastFuzz'], check=True, env=dict(os.environ, RECAST_FUZZING='1'))
    return os.path.join(options.build_path, 'release/RecastFuzz')


def environment(reader, scratch):
    return dict(
        os.environ, RECAST_FUZZ=reader, RECAST_FUZZ_DIRECTORY=scratch,
        # Traps are for libFuzzer to catch.
        SWIFT_BACKTRACE='enable=no', ASAN_OPTIONS='quarantine_size_mb=32:allocator_may_return_null=1:detect_leaks=0')


def launch(command, variables, seconds):
    """Runs libFuzzer once; what it said, and its status."""
    with tempfile.TemporaryFile('w+', errors='replace') as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + seconds + 120
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and time.monotonic() < deadline:
            time.sleep(0.02)
        # Children that a reader made go with it; as long as nobody has waited for it, its group has its number for itself.
        os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        output.seek(0)
        text = output.read()
    if 'libFuzzer: run interrupted' in text:
        sys.exit('interrupted')
    return text, status


def summary(output):
    """The sentence of a finding and where it happened."""
    sentence = re.search(r'^.*(?:Fatal error|Precondition failed|ERROR: AddressSanitizer|ERROR: libFuzzer|runtime error|FINDING).*$', output, re.M)
    text = re.sub(r'^==\d+==\s*', '', sentence.group(0).strip()) if sentence else 'died without a word: ' + output.strip()[-200:]
    for frame in re.findall(r'^ +#\d+ 0x.*$', output, re.M):
        place = re.search(r'/((?:Sources|Formats|checkouts)/\S+\.(?:swift|c):\d+)', frame)
        if place and 'RecastFuzz' not in frame:
            return text, place.group(1)
    return text, ''


def fuzz(program, reader, options, scratch):
    seconds = max(1, options.seconds * SHARES.get(reader, 1))
    seeds = os.path.join(scratch, 'seeds')
    shutil.copytree(os.path.join(SEEDS, reader), seeds)
    kept = os.path.join(options.corpus, reader) if options.corpus else os.path.join(scratch, 'corpus')
    inputs = os.path.join(options.build_path, 'findings', reader)
    for folder in (kept, inputs):
        os.makedirs(folder, exist_ok=True)
    dictionary = next((name for name, readers in DICTIONARIES.items() if reader in readers), 'json')
    before = len(os.listdir(kept))
    executions = coverage = runs = 0
    findings = {}
    end = time.monotonic() + seconds
    if options.executions:
        end = time.monotonic() + 600
    while runs == 0 or time.monotonic() < end - 0.5 and len(findings) < MOST_FINDINGS and executions < (options.executions or math.inf):
        left = max(1, round(end - time.monotonic()))
        most = [f'-runs={round((options.executions - executions) * SHARES.get(reader, 1))}'] if options.executions else []
        output, status = launch(
            [program, kept, seeds, f'-max_total_time={left}', f'-seed={options.seed + runs}', f'-artifact_prefix={inputs}/',
             f'-dict={PACKAGE}/Dictionaries/{dictionary}.dict', '-print_final_stats=1', *most, *LIMITS], environment(reader, scratch), left)
        runs += 1
        executions += int((re.findall(r'number_of_executed_units: (\d+)', output) or re.findall(r'^#(\d+)\s', output, re.M) or [0])[-1])
        coverage = max([coverage] + [int(number) for number in re.findall(r'\bcov: (\d+)', output)])
        if status == 0:
            break
        text, place = summary(output)
        artifact = re.search(r'Test unit written to (\S+)', output)
        if not artifact:
            findings[text] = (text, place, None)
            break
        path = artifact.group(1)
        drop(path, [seeds, kept])
        same = findings.setdefault((re.sub(r'\d+', '#', text), place), (text, place, path))
        if same[2] != path:
            os.remove(path)  # one input for a place is enough
    return Result(executions, coverage, max(0, len(os.listdir(kept)) - before), list(findings.values()))


def drop(path, folders):
    """Takes an input out of the seeds, so that the next run gets past it."""
    with open(path, 'rb') as file:
        content = file.read()
    for folder in folders:
        for name in os.listdir(folder):
            other = os.path.join(folder, name)
            if os.path.getsize(other) == len(content):
                with open(other, 'rb') as file:
                    same = file.read() == content
                if same:
                    os.remove(other)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=5)
    parser.add_argument('--executions', type=int)
    parser.add_argument('--reader', action='append', choices=sorted(os.listdir(SEEDS)))
    parser.add_argument('--build-path')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--address', action='store_true')
    parser.add_argument('--jobs', type=int)
    parser.add_argument('--no-build', action='store_true')
    parser.add_argument('--corpus')
    options = parser.parse_args()
    options.build_path = os.path.abspath(options.build_path or os.path.join(ROOT, '.build-fuzz' + ('-address' if options.address else '')))
    program = build(options)
    count = 0
    print(f'{"reader":<14}{"executions":>12}{"a second":>10}{"edges":>8}{"new units":>11}{"findings":>10}', flush=True)
    for reader in options.reader or sorted(os.listdir(SEEDS)):
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix='recast-fuzz-', dir='/dev/shm' if os.path.isdir('/dev/shm') else None) as scratch:
            result = fuzz(program, reader, options, scratch)
        speed = result.executions / (time.monotonic() - started)
        print(
            f'{reader:<14}{result.executions:>12}{speed:>10.0f}{result.coverage:>8}{result.units:>11}{len(result.findings):>10}', flush=True)
        for text, place, path in result.findings:
            count += 1
            print(f'  {text}{f" ({place})" if place else ""}')
            if path:
                print(f'    RECAST_FUZZ={reader} SWIFT_BACKTRACE=enable=no {os.path.relpath(program)} {os.path.relpath(path)}', flush=True)
    print(f'{count} findings' if count else 'no findings')
    sys.exit(1 if count else 0)


if __name__ == '__main__':
    main()
