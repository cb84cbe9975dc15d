#!/usr/bin/env python3
"""Trains a small byte-level BPE with DeepSeek-V3's pre-tokenizer and writes what the `tokenizers` library makes of a varied text.

    golden_tokenizer.py          writes Tests/Fixtures/tokenizer/{tokenizer.json, corpus.txt, golden.json}
"""
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

FIXTURES = Path(__file__).resolve().parent.parent / "Fixtures"
TARGET = FIXTURES / "tokenizer"

# The three expressions of deepseek-ai/DeepSeek-V3:tokenizer.json.
SPLITS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]

VARIED = """Hello, world! It's 1234567 o'clock -- isn't it?  Two  spaces, three   and a tab\there.
def f(x: int) -> str:\n    return f"{x!r}"  # comment\r\n\tif (a&&b||c) { x[i]->y++; }\r\n\r\n\n\n
The price is $1,234.56 or \u20ac99 (\u00a31\u00bd), 3\u00d74=12, x\u00b2+y\u00b3\u2264\u221ez, \u2192 \u21d2 \u2211.
\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u662f2024\u5e743\u670815\u65e5\u3002\u6a21\u578b\u91cf\u5316\u3068\u691c\u8a3c\u3092\u884c\u3046\u3002\u30ab\u30bf\u30ab\u30ca\u30fc\u3067\u3059\u3002\uff8a\uff9d\uff76\uff78 \uc548\ub155\ud558\uc138\uc694 \uc138\uacc4.
\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5. \u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0661\u0662\u0663. \u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd. \u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0967\u0968\u0969\u096a. \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01
caf\u00e9 cafe\u0301 na\u00efve Stra\u00dfe \u01c5 \u2160\u2161\u2162 \u2460\u2461 \ufb01 \u212b \u00c5 A\u030a \u1e9b\u0323 e\u0301\u0301\u0301
\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f1e9\U0001f1ea\u2764\ufe0f\U0001f44d\U0001f3fd \U00020000\U0001d54f
zero\u200bwidth non\u00a0breaking thin\u2009space ideographic\u3000space line\u2028sep para\u2029sep nel\x85end vt\x0bff\x0c bell\x07 nul\x00 del\x7f
<|begin_of_text|>user<|end_of_text|> <|begin <|begin_of_text|><|begin_of_text|>| aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
https://example.org/a_b-c?d=e&f=%20g#h user@example.com snake_case CamelCase kebab-case ALLCAPS 0x1F 1e-10 'quoted' "double" `tick` ~~~ *** ___
   leading   trailing   
"""


def random_text(count: int) -> str:
    """Characters of every plane and category, and ends of lines and runs of spaces between them."""
    generator = random.Random(7)
    ranges = [(0x20, 0x7E)] * 4 + [(0, 0x1F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF), (0x2000, 0x2BFF),
              (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFEF), (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF)]
    text = []
    for _ in range(count):
        low, high = generator.choice(ranges)
        character = chr(generator.randint(low, high))
        text.append(generator.choice([character, character, character, character + " ", "\n", "  ", "\r\n", character * 3, "a1 "]))
    return "".join(text)


def main() -> None:
    sequences = json.loads((FIXTURES / "tokens-eval.json").read_text())["sequences"]
    plays = "".join(bytes(token for token in row if token < 256).decode("utf-8", "replace") for row in sequences)
    corpus = VARIED + plays[:20000] + random_text(6000)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([VARIED * 4, plays], trainer)
    tokenizer.add_special_tokens([AddedToken("<|begin_of_text|>", normalized=False), AddedToken("<|end_of_text|>", normalized=False)])

    TARGET.mkdir(exist_ok=True)
    (TARGET / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    (TARGET / "corpus.txt").write_bytes(corpus.encode("utf-8"))
    tokens = tokenizer.encode(corpus, add_special_tokens=False).ids
    assert tokenizer.decode(tokens, skip_special_tokens=False) == corpus
    (TARGET / "golden.json").write_text(json.dumps({"tokens": tokens}, separators=(",", ":")) + "\n")
    print(f"{len(corpus.encode())} bytes, {len(tokens)} tokens, vocabulary {tokenizer.get_vocab_size()}")


main()
