#!/usr/bin/env python3
"""Sources over the network, against a hub that is none and misbehaves: network_rehearsal.py RECAST FIXTURES

Every conversion must give the bytes of the same one from a local directory. huggingface_hub reads the same look-alike, so that it is a fair one.
"""
import filecmp
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hub_lookalike import Lookalike, Proxy, Repository

recast, fixtures = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
model = os.path.join(fixtures, "tiny-deepseek-v3-fp8")
scratch = tempfile.mkdtemp()
failures = []
checks = 0


def expect(what, holds, detail=""):
    global checks
    checks += 1
    print(("ok    " if holds else "FAIL  ") + what + (f"  {detail}" if detail != "" else ""), flush=True)
    if not holds:
        failures.append(what)


def fresh(name):
    path = os.path.join(scratch, name)
    shutil.rmtree(path, ignore_errors=True)
    return path


def environment(hub, **more):
    names = ("HF_", "HUGGING", "RECAST_", "http_proxy", "https_proxy", "all_proxy", "HTTP", "ALL_PROXY", "TRANSFORMERS_OFFLINE")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    return clean | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": os.path.join(scratch, "home"), "RECAST_CACHE": os.path.join(scratch, "cache")} | more


def run(hub, *arguments, **more):
    return subprocess.run([recast, *arguments], env=environment(hub, **more), capture_output=True, text=True)


def same(left, right):
    names = sorted(os.listdir(left))
    return names == sorted(os.listdir(right)) and all(filecmp.cmp(f"{left}/{name}", f"{right}/{name}", shallow=False) for name in names)


def said(result):
    lines = [line for line in (result.stderr or result.stdout).replace("\r", "\n").splitlines() if line.strip()]
    return f"exit {result.returncode}: {lines[-1][:230] if lines else ''}"


def forget():
    shutil.rmtree(os.path.join(scratch, "cache"), ignore_errors=True)
    shutil.rmtree(os.path.join(scratch, "home"), ignore_errors=True)


def directory_size(path):
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(path) for name in names)


def larger_model(path):
    """Three shards of 24 MiB, so that there are blocks and not only pieces."""
    import random
    import struct
    source = random.Random(1)
    os.makedirs(path)
    json.dump({
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 3, "hidden_size": 1024,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3", "activation_scheme": "dynamic"},
    }, open(f"{path}/config.json", "w"))
    places = {}
    for shard in range(3):
        header, data = {}, bytearray()
        for expert in range(12):
            name = f"model.layers.{shard}.mlp.experts.{expert}.up_proj.weight"
            codes = bytes(byte & 0x77 for byte in source.randbytes(2048 * 1024))
            scales = b"".join(struct.pack("<f", 2.0 ** -source.randint(4, 12)) for _ in range(16 * 8))
            for key, kind, shape, content in ((name, "F8_E4M3", [2048, 1024], codes), (name + "_scale_inv", "F32", [16, 8], scales)):
                header[key] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
                data += content
                places[key] = f"model-{shard + 1:05}-of-00003.safetensors"
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(f"{path}/model-{shard + 1:05}-of-00003.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + data)
    json.dump({"metadata": {}, "weight_map": places}, open(f"{path}/model.safetensors.index.json", "w"))


large = fresh("large")
larger_model(large)
quiet = Lookalike([Repository("org/tiny", model), Repository("org/large", large)])
references = {}
for name, source, layout in (("tiny", model, "bf16"), ("large", large, "bf16"), ("tiny", model, "int4-g32")):
    references[name, layout] = fresh(f"reference-{name}-{layout}")
    assert run(quiet, "convert", source, references[name, layout], "--to", layout).returncode == 0

# Headers only.
before = quiet.sent
result = run(quiet, "inspect", "hf://org/large", "--json")
expect("inspect reads headers only", result.returncode == 0 and quiet.sent - before < 1 << 21, f"{quiet.sent - before:,} of {directory_size(large):,} bytes, {said(result) if result.returncode else ''}")
expect("inspect sees the same model", json.loads(result.stdout or "{}").get("parameters") == json.loads(run(quiet, "inspect", large, "--json").stdout).get("parameters"))

# A quiet network.
for name, layout in references:
    forget()
    quiet.resolves.clear()
    before = quiet.sent
    out = fresh("out")
    result = run(quiet, "convert", f"hf://org/{name}", out, "--to", layout)
    expect(f"{name} -> {layout}: the bytes of a local conversion", result.returncode == 0 and same(references[name, layout], out), said(result))
    expect("requests to resolve, at most 2 a file", max(quiet.resolves.values()) <= 2, dict(most=max(quiet.resolves.values())))
    if name == "large":
        expect("every large file was read whole and hashed", "3 of 3 large files" in result.stderr + result.stdout)
        # But for the scales that are looked at while planning, a piece each.
        expect("every byte came once", quiet.sent - before < directory_size(large) + 40 * (256 << 10), f"{quiet.sent - before:,} of {directory_size(large):,}")

# Ten in a hundred requests fail.
faults = {"503": 0.02, "429": 0.02, "reset": 0.02, "short": 0.015, "cut": 0.015, "refused": 0.01, "whole": 0.01}
for seed in range(3):
    forget()
    hub = Lookalike([Repository("org/large", large), Repository("org/tiny", model)], faults=faults, seed=seed, retry_after=0)
    for name in ("large", "tiny"):
        out = fresh("out")
        result = run(hub, "convert", f"hf://org/{name}", out, "--to", "bf16", "--memory", "64MiB")
        expect(f"{name}, seed {seed}: {hub.failed} of {hub.requests} requests failed, the same bytes", result.returncode == 0 and same(references[name, "bf16"], out), said(result))
    hub.close()

# A small cache stays small, and none is needed.
forget()
out = fresh("out")
result = run(quiet, "convert", "hf://org/large", out, "--to", "bf16", RECAST_CACHE_LIMIT="20MiB")
size = directory_size(os.path.join(scratch, "cache"))
expect("the cache stays within its limit", result.returncode == 0 and same(references["large", "bf16"], out) and size <= 20 << 20, f"{size:,} bytes")
for root, _, names in os.walk(os.path.join(scratch, "cache")):
    for name in names:
        with open(os.path.join(root, name), "r+b") as file:
            file.seek(100)
            file.write(b"damaged")
out = fresh("out")
result = run(quiet, "convert", "hf://org/large", out, "--to", "bf16")
expect("a damaged cache is none", result.returncode == 0 and same(references["large", "bf16"], out), said(result))
forget()
out = fresh("out")
result = run(quiet, "convert", "hf://org/tiny", out, "--to", "bf16", RECAST_CACHE="off")
expect("no cache at all", result.returncode == 0 and same(references["tiny", "bf16"], out) and not os.path.exists(os.path.join(scratch, "cache")), said(result))

# Signed URLs that expire while they are used.
forget()
hub = Lookalike([Repository("org/large", large)], lifetime=2)
out = fresh("out")
result = run(hub, "convert", "hf://org/large", out, "--to", "bf16")
expect("URLs that expire after two seconds", result.returncode == 0 and same(references["large", "bf16"], out), said(result))
hub.close()

# Rate limits name a time.
forget()
hub = Lookalike([Repository("org/tiny", model)], faults={"429": 0.2}, retry_after=0)
started = time.time()
result = run(hub, "inspect", "hf://org/tiny")
expect("rate limits are waited for", result.returncode == 0 and time.time() - started >= 1, f"{time.time() - started:.1f} s, {hub.failed} refusals")
hub.close()
hub = Lookalike([Repository("org/tiny", model)], faults={"429": 1.0}, retry_after=100000)
result = run(hub, "inspect", "hf://org/tiny")
expect("a limit of a day is not waited for", result.returncode == 74 and "left alone" in result.stderr, said(result))
hub.close()

# A push to the branch in mid-run.
forget()
changed = fresh("changed")
shutil.copytree(large, changed)
with open(f"{changed}/model-00002-of-00003.safetensors", "r+b") as file:
    file.seek(-1000, 2)
    file.write(b"\x11" * 100)
repository = Repository("org/large", large)
hub = Lookalike([repository])
first = repository.head


def push(_):
    if sum(hub.resolves.values()) >= 4 and repository.head == first:
        repository.push(changed)


hub.on_request = push
out = fresh("out")
result = run(hub, "convert", "hf://org/large", out, "--to", "bf16")
expect("a push in mid-run mixes nothing", repository.head != first and result.returncode == 0 and same(references["large", "bf16"], out), said(result))
expect("the commit is named", first in result.stdout + result.stderr)
out = fresh("out")
result = run(hub, "convert", f"hf://org/large@{first}", out, "--to", "bf16")
expect("an older commit can be named", result.returncode == 0 and same(references["large", "bf16"], out), said(result))
result = run(hub, "convert", "hf://org/large", out, "--to", "bf16")
expect("what was made of another commit is not continued", result.returncode == 73, said(result))
hub.close()

# Killed and continued.
forget()
out = fresh("out")
kills = 0
for delay in (0.3, 0.5, 0.7, 0.9, 1.1):
    process = subprocess.Popen([recast, "convert", "hf://org/large", out, "--to", "bf16"], env=environment(quiet), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        kills += 1
    process.wait()
result = run(quiet, "convert", "hf://org/large", out, "--to", "bf16", "--resume")
expect(f"killed {kills} times and continued", kills > 0 and result.returncode == 0 and same(references["large", "bf16"], out), said(result))

# In parts, joined without the branch that they began with.
out = fresh("out")
repository = Repository("org/large", large)
hub = Lookalike([repository])
codes = [run(hub, "convert", "hf://org/large", out, "--to", "bf16", "--part", f"{part}/3").returncode for part in (1, 2, 3)]
repository.push(changed)
result = run(hub, "finish", out)
expect("three parts, joined after a push", codes == [0, 0, 0] and result.returncode == 0 and same(references["large", "bf16"], out), f"{codes} {said(result)}")
hub.close()

# Who may read.
for gated in (True, False):
    forget()
    hub = Lookalike([Repository("org/tiny", model, gated=gated, token="hf_secret")])
    result = run(hub, "inspect", "hf://org/tiny")
    expect(f"{'gated' if gated else 'private'}: refused, the token is named", result.returncode == 66 and "HF_TOKEN" in result.stderr, said(result))
    out = fresh("out")
    result = run(hub, "convert", "hf://org/tiny", out, "--to", "bf16", HF_TOKEN=" hf_secret\n")
    expect("with a token", result.returncode == 0 and same(references["tiny", "bf16"], out), said(result))
    expect("the token goes to the hub alone", hub.tokens_at_store == 0 and "hf_secret" not in result.stderr + result.stdout)
    hub.close()
os.makedirs(os.path.join(scratch, "home"), exist_ok=True)
with open(os.path.join(scratch, "home", "token"), "w") as file:
    file.write("hf_file\n")
hub = Lookalike([Repository("org/tiny", model, token="hf_file")])
expect("the token of a file", run(hub, "inspect", "hf://org/tiny").returncode == 0)
hub.close()

# What is not there.
for address, code, word in (
    ("hf://org/none", 66, "no such repository"), ("hf://org/tiny@v9", 66, "no such revision"), ("hf://org/tiny/sub", 66, "has no sub"),
    ("hf://datasets/org/tiny", 64, "datasets"), ("hf://tiny", 64, "hf://ORG/NAME"), ("hf://org/tiny@/x", 64, "empty"), ("hf://org/../tiny", 64, "hf://ORG/NAME"),
    (f"{quiet.endpoint}/org/tiny/discussions/1", 64, "pages"),
):
    result = run(quiet, "inspect", address)
    expect(address.replace(quiet.endpoint, "HUB"), result.returncode == code and word in result.stderr, said(result))
result = run(quiet, "inspect", "hf://org/tiny", HF_ENDPOINT=f"http://127.0.0.1:{quiet.store.server_port}")
expect("what is no hub is told", result.returncode in (65, 66, 74), said(result))

# What a server must not do.
for fault, codes in (("cut", (74,)), ("whole", (65, 74)), ("short", (74,)), ("refused", (66,))):
    forget()
    hub = Lookalike([Repository("org/large", large)], faults={fault: 1.0})
    result = run(hub, "inspect", "hf://org/large")
    expect(f"always {fault}: an end, and where", result.returncode in codes and ("bytes 0" in result.stderr or fault == "refused"), said(result))
    hub.close()
forget()
hub = Lookalike([Repository("org/large", large)])
hub.corrupt = ("model-00002-of-00003.safetensors", 5)
out = fresh("out")
result = run(hub, "convert", "hf://org/large", out, "--to", "bf16")
expect("a wrong byte: the published hash refuses it", result.returncode == 65 and "SHA-256" in result.stderr, said(result))
hub.corrupt = None
result = run(hub, "convert", "hf://org/large", out, "--to", "bf16")
expect("what was made of it is not continued", result.returncode == 73, said(result))
# What was wrong is not kept on disk, either.
result = run(hub, "convert", "hf://org/large", out, "--to", "bf16", "--overwrite")
expect("and can be made anew", result.returncode == 0 and same(references["large", "bf16"], out), said(result))
hub.close()

# A side file of the large store, and a run that ends by something else.
forget()
hub = Lookalike([Repository("org/tiny", model)])
hub.corrupt = ("tokenizer.json", 100)
out = fresh("out")
result = run(hub, "convert", "hf://org/tiny", out, "--to", "bf16")
expect("a wrong byte of tokenizer.json", result.returncode == 65 and "SHA-256" in result.stderr and not os.path.exists(f"{out}/recast.manifest.json"), said(result))
hub.close()
forget()
hub = Lookalike([Repository("org/large", large)])
hub.corrupt = ("model-00001-of-00003.safetensors", 5)
out = fresh("out")
hub.on_request = None
process = subprocess.Popen([recast, "convert", "hf://org/large", out, "--to", "int4-g32", "--quantizer", "mse", "--jobs", "1"], env=environment(hub), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
time.sleep(3)
process.send_signal(signal.SIGINT)
_, errors = process.communicate()
hub.corrupt = None
result = run(hub, "convert", "hf://org/large", out, "--to", "int4-g32", "--quantizer", "mse")
expect("what is wrong is not continued after an interruption", process.returncode in (65, 75) and result.returncode in (0, 73), f"{process.returncode}, then {said(result)}")
if result.returncode == 0:
    again = fresh("again")
    run(hub, "convert", large, again, "--to", "int4-g32", "--quantizer", "mse")
    expect("or it was read anew", same(again, out))
# The header comes wrong once, and right as part of its block.
forget()
hub.corrupt = ("model-00001-of-00003.safetensors", os.path.getsize(f"{large}/model-00001-of-00003.safetensors") - 100)
result = run(hub, "inspect", "hf://org/large")
wrong = result.returncode
hub.corrupt = None
out = fresh("out")
result = run(hub, "convert", "hf://org/large", out, "--to", "bf16")
expect("a header that came wrong is no part of what is proven", result.returncode == 65 or result.returncode == 0 and same(references["large", "bf16"], out), f"inspect {wrong}, then {said(result)}")
hub.close()
forget()
# Servers that say silly things.
hub = Lookalike([Repository("org/tiny", model)], faults={"429": 1.0}, retry_after="1e30")
result = run(hub, "inspect", "hf://org/tiny")
expect("a wait of 1e30 seconds", result.returncode == 74, said(result))
hub.close()
huge = Repository("org/huge", model)
huge.commits[huge.head]["model-00001-of-000004.safetensors"]["size"] = (1 << 63) - 1
hub = Lookalike([huge])
result = run(hub, "inspect", "hf://org/huge")
expect("a file of 2^63 bytes", result.returncode == 65, said(result))
hub.close()
hub = Lookalike([Repository("org/tiny", model)])
hub.renamed = {"old/name": "org/tiny"}
out = fresh("out")
result = run(hub, "convert", "hf://old/name", out, "--to", "bf16")
expect("a repository that was renamed", result.returncode == 0 and same(references["tiny", "bf16"], out), said(result))
result = run(hub, "inspect", "hf://org/tiny", HF_TOKEN="hf_sec\nret\x01")
expect("a token with a line break", result.returncode == 0 and "hf_sec" not in result.stderr, said(result))
result = run(hub, "inspect", "hf://org/tiny", http_proxy="http://user:geheim#1@127.0.0.1:1")
expect("the proxy's password is not printed", result.returncode == 64 and "geheim" not in result.stderr, said(result))
hub.pages = True
out = fresh("out")
result = run(hub, "convert", f"{hub.store_endpoint}/plain/org/tiny", out, "--to", "bf16")
hub.forbidden = "config.json"
refused = run(hub, "inspect", f"{hub.store_endpoint}/plain/org/tiny")
expect("a configuration that is forbidden is not taken for none", refused.returncode == 66 and "config.json" in refused.stderr, said(refused))
expect("pages of a web server are no files", result.returncode == 0 and same(references["tiny", "bf16"], out), said(result))
hub.close()

# Names and single files.
tree = fresh("tree")
shutil.copytree(model, f"{tree}/sub/fp8")
gguf = f"{tree}/tiny-F16.gguf"
assert run(quiet, "convert", references["tiny", "bf16"], gguf, "--to", "f16").returncode == 0
os.remove(gguf + ".recast.manifest.json") if os.path.exists(gguf + ".recast.manifest.json") else None
hub = Lookalike([Repository("org/tree", tree), Repository("org/tiny", model)])
out = fresh("out")
result = run(hub, "convert", "hf://org/tree/sub/fp8", out, "--to", "bf16")
expect("a directory of a repository", result.returncode == 0 and same(references["tiny", "bf16"], out), said(result))
for address in ("hf://org/tree@main/tiny-F16.gguf", f"{hub.endpoint}/org/tree/blob/main/tiny-F16.gguf", f"{hub.store_endpoint}/plain/org/tree/tiny-F16.gguf"):
    result, local = run(hub, "inspect", address, "--json"), run(hub, "inspect", gguf, "--json")
    expect(address.replace(hub.endpoint, "HUB").replace(hub.store_endpoint, "WEB"), result.returncode == 0 and json.loads(result.stdout)["layouts"] == json.loads(local.stdout)["layouts"], said(result))
out = fresh("out")
result = run(hub, "convert", f"{hub.store_endpoint}/plain/org/tiny/", out, "--to", "bf16")
expect("a plain web server", result.returncode == 0 and same(references["tiny", "bf16"], out), said(result))
result = run(hub, "verify", model, "hf://org/tiny", "--weights-only")
expect("verify against the hub", result.returncode == 0, said(result))
tokens = os.path.join(fixtures, "tokens-short.json")
result = run(hub, "forward", "hf://org/tiny", "--tokens", tokens, "--logits", f"{scratch}/remote.safetensors")
local = run(hub, "forward", model, "--tokens", tokens, "--logits", f"{scratch}/local.safetensors")
expect("forward from the hub", result.returncode == 0 and filecmp.cmp(f"{scratch}/remote.safetensors", f"{scratch}/local.safetensors", shallow=False), said(result))
hub.close()

# The hub's own client, and its cache.
forget()
hub = Lookalike([Repository("org/tiny", model)])
home = os.path.join(scratch, "home")
client = "import sys; from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))"
result = subprocess.run([sys.executable, "-c", client], env=environment(hub, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1"), capture_output=True, text=True)
snapshot = result.stdout.strip()
same_files = result.returncode == 0 and all(filecmp.cmp(f"{model}/{name}", f"{snapshot}/{name}", shallow=False) for name in os.listdir(model))
expect("huggingface_hub reads the look-alike", same_files, said(result) if result.returncode else snapshot[-60:])
for offline in ("0", "1"):
    before, out = hub.requests, fresh("out")
    result = run(hub, "convert", "hf://org/tiny", out, "--to", "bf16", HF_HUB_OFFLINE=offline)
    used = hub.requests - before
    expect(f"its cache is read, offline {offline}", result.returncode == 0 and same(references["tiny", "bf16"], out) and used <= (0 if offline == "1" else 5) and "cache" in result.stderr, f"{used} requests, {said(result)}")
# A file that names its model has the name of the repository, wherever it was read from.
names = []
for home_of in (home, fresh("empty")):
    gguf_out = f"{scratch}/named.gguf"
    result = run(hub, "convert", "hf://org/tiny", gguf_out, "--to", "f16", "--overwrite", HF_HOME=home_of, RECAST_CACHE="off")
    names.append(hashlib.sha256(open(gguf_out, "rb").read()).hexdigest() if result.returncode == 0 else said(result))
expect("GGUF from the cache and from the hub: the same file", names[0] == names[1] and len(names[0]) == 64, names[0][:90])
# Links of two steps, as newer clients make them.
blobs = os.path.join(home, "hub", "models--org--tiny", "blobs")
shared = os.path.join(home, "hub", "blobs", "ab")
os.makedirs(shared)
for name in os.listdir(blobs):
    shutil.move(f"{blobs}/{name}", f"{shared}/{name}")
    os.symlink(f"../../blobs/ab/{name}", f"{blobs}/{name}")
out = fresh("out")
result = run(hub, "convert", "hf://org/tiny", out, "--to", "bf16", HF_HUB_OFFLINE="1")
expect("a cache whose links have two steps", result.returncode == 0 and same(references["tiny", "bf16"], out), said(result))
missing = os.path.realpath(f"{snapshot}/model-00002-of-000004.safetensors")
os.remove(missing)
os.remove(f"{snapshot}/model-00002-of-000004.safetensors")
before, out = hub.sent, fresh("out")
result = run(hub, "convert", "hf://org/tiny", out, "--to", "bf16")
expect("what the cache lacks comes from the hub", result.returncode == 0 and same(references["tiny", "bf16"], out) and 0 < hub.sent - before < 8 << 20, f"{hub.sent - before:,} bytes, {said(result)}")
result = run(hub, "inspect", "hf://org/tiny", HF_HUB_OFFLINE="1")
expect("offline, what is missing is named", result.returncode in (65, 66) and "model-00002" in result.stderr, said(result))
result = run(hub, "inspect", "hf://org/other", HF_HUB_OFFLINE="1")
expect("offline, what is not there is not asked for", result.returncode == 66 and "HF_HUB_OFFLINE" in result.stderr, said(result))
hub.close()

# A store that speaks S3, straight and through a proxy that loses one answer in ten.
import logging

import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
store.start()
port = store.get_host_and_port()[1]
account = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"}
client = boto3.client("s3", endpoint_url=account["AWS_ENDPOINT_URL"], aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="secret", region_name="eu-west-1")
client.create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
for source, prefix in ((model, "a b/tiny+1"), (large, "large")):
    for name in os.listdir(source):
        client.upload_file(f"{source}/{name}", "models", f"{prefix}/{name}")
client.upload_file(gguf, "models", "single/tiny.gguf")
for number in range(1100):
    client.put_object(Bucket="models", Key=f"paged/{number:04}.txt", Body=b"")
client.upload_file(gguf, "models", "paged/tiny.gguf")
for loss in (0, 0.3):
    proxy = Proxy(loss, seed=5)
    more = account | ({"http_proxy": proxy.url} if loss else {})
    for name, prefix in (("tiny", "a b/tiny+1/"), ("large", "large")):
        forget()
        out = fresh("out")
        result = run(quiet, "convert", f"s3://models/{prefix}", out, "--to", "bf16", **more)
        expect(f"s3, {name}, {proxy.cut} of {proxy.tunnels} connections were cut", result.returncode == 0 and same(references[name, "bf16"], out), said(result))
    expect("a proxy is used" if loss else "no proxy is used", (proxy.tunnels > 0) == bool(loss))
    proxy.close()
result = run(quiet, "inspect", "s3://models/single/tiny.gguf", **account)
expect("one object", result.returncode == 0, said(result))
proxy = Proxy()
result = run(quiet, "inspect", "s3://models/single/tiny.gguf", http_proxy=proxy.url, no_proxy="127.0.0.1", **account)
expect("no_proxy", result.returncode == 0 and proxy.tunnels == 0, said(result))
proxy.close()
for address, code, word in (("s3://models/none", 66, "nothing lies"), ("s3://absent/x", 66, "bucket"), ("s3://B/x", 64, "BUCKET"), ("gs://models/x", 64, "none of them")):
    result = run(quiet, "inspect", address, **account)
    expect(address, result.returncode == code and word in result.stderr, said(result))
result = run(quiet, "inspect", "s3://models/paged", **account)
expect("a listing of two pages", result.returncode == 0, said(result))
# An object that is replaced while it is read.
forget()
out = fresh("out")
process = subprocess.Popen([recast, "convert", "s3://models/large", out, "--to", "int4-g32", "--quantizer", "mse", "--jobs", "1", "--memory", "32MiB"],
                           env=environment(quiet, **account, RECAST_CACHE="off"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
# Planned, and not finished: there is a journal.
until = time.time() + 60
while not os.path.exists(f"{out}/.recast/journal") and time.time() < until:
    time.sleep(0.01)
began = process.poll() is None
client.upload_file(f"{changed}/model-00002-of-00003.safetensors", "models", "large/model-00003-of-00003.safetensors")
_, errors = process.communicate()
expect("an object that is replaced is no other", began and process.returncode == 65 and "replaced" in errors, f"exit {process.returncode}: {errors.strip()[-150:]}")
store.stop()
quiet.close()

shutil.rmtree(scratch, ignore_errors=True)
print(f"{checks - len(failures)} passed, {len(failures)} failed")
sys.exit(1 if failures else 0)
