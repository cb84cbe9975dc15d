"""Which of equal scores PyTorch's topk keeps on a processor.

usage: golden_topk.py FILE      (pip install 'torch==2.13.0')

Rows of few different scores, of zeros among others, and with a tail that is below all: what an indexer's scores look like.
"""
import json
import random
import sys

import torch

random.seed(3)
LOWEST = torch.finfo(torch.float32).min
cases = []
for number in range(240):
    count = random.choice([2, 3, 4, 5, 7, 16, 33, 64, 100, 150, 260])
    kept = max(1, count // random.randint(64, 90)) if count > 90 and number % 3 == 0 else random.randint(1, count - 1)
    scores = [float(random.randint(-2, 2)) if number % 2 else random.choice([0.0, 0.0, round(random.gauss(0, 1), 3)]) for _ in range(count)]
    if number % 5 == 0:
        visible = random.randint(kept, count)
        scores[visible:] = [LOWEST] * (count - visible)
    if number % 7 == 0:
        scores.sort(reverse=number % 2 == 0)
    places = torch.tensor(scores).topk(kept).indices.tolist()
    cases.append({'scores': scores, 'places': sorted(places)})
with open(sys.argv[1], 'w') as file:
    json.dump(cases, file)
