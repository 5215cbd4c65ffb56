"""Damages files as disks, transfers, editors and other people's programs do; `test_fuzz_readers` says what for."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zlib

import numpy as np
from PIL import Image


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def shuffled(content: bytes, chance: random.Random) -> bytes:
    parts = content.split(b"\n") if content.count(b"\n") > 3 else re.findall(rb"(?s).{1,40}", content)
    first = chance.randrange(len(parts))
    window = parts[first : first + chance.choice((2, 4, len(parts)))]
    chance.shuffle(window)
    parts[first : first + len(window)] = window
    return (b"\n" if content.count(b"\n") > 3 else b"").join(parts)


def bytes_changed(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed))
        way = chance.randrange(4)
        if way == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif way == 1:
            changed[place : place + 1] = bytes([chance.choice(b'0123456789-.,"<>[]{}e \n\0\xff')])
        elif way == 2:
            del changed[place : place + chance.randint(1, 8)]
        else:
            changed[place:place] = changed[place : place + chance.randint(1, 12)]
    return bytes(changed)


HOSTILE = ["null", "true", "-1", "0", "1", "2.5", "1e308", "NaN", str(10**30), str(2**31), '""', '"x"', '"1"', '"."']
HOSTILE += ['"\\u0000"', '"\\ud800"', '"../../x"', "[]", "{}", "[[]]", '{"a": 1}', "[null]", f'"{"y" * 300}"']


def json_changed(content: bytes, chance: random.Random) -> bytes:
    """Values of the tree replaced, removed, doubled, put elsewhere."""
    if chance.random() < 0.03:
        return chance.choice([b"[" * 100_000, b'{"a":' * 100_000, b"1" * 6000, b"null", b"\xef\xbb\xbf" + content])
    root = json.loads(content)
    for _ in range(chance.randint(1, 3)):
        nodes = [root]
        for node in nodes:
            children = node.values() if isinstance(node, dict) else node
            nodes += [child for child in children if child and isinstance(child, dict | list)]
        node = chance.choice([node for node in nodes if node])
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        way = chance.randrange(5)
        if way < 2:
            node[key] = json.loads(chance.choice(HOSTILE))
        elif way == 2:
            del node[key]
        elif way == 3 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] += chance.choice((-1, 1, 0.25, -100, 100))
        elif isinstance(node, list):
            node.insert(chance.randrange(len(node) + 1), json.loads(json.dumps(node[key])))
            chance.shuffle(node)
        else:
            node[chance.choice(list(node))] = json.loads(json.dumps(node[key]))
        if not root:
            break
    return json.dumps(root, indent=1).encode()


WORDS = [b"", *b"-1 0 1 7 2.5 1e5 1e999 nan inf 1_0 0x1 x \xd9\xa1 -0".split()]


def words_changed(content: bytes, chance: random.Random) -> bytes:
    """Numbers of a text or of an XML file's attributes replaced by other words."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    for match in sorted(chance.sample(found, chance.randint(1, 3)), key=lambda match: -match.start()):
        content = content[: match.start()] + chance.choice(WORDS) + content[match.end() :]
    return content


def chunks_of(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of a PNG's chunks."""
    chunks, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_changed(content: bytes, chance: random.Random) -> bytes:
    """Images with valid checksums: other pixels, other modes, other headers, chunks that lack or are out of order."""
    way = chance.randrange(4)
    if way == 0:
        pixels = np.asarray(Image.open(io.BytesIO(content))).copy()
        for _ in range(chance.randint(1, 3)):
            row, column = chance.randrange(pixels.shape[0]), chance.randrange(pixels.shape[1])
            pixels[row, column] = [chance.randrange(256) for _ in range(4)]
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()
    if way == 1:
        stream = io.BytesIO()
        Image.open(io.BytesIO(content)).convert(chance.choice(("L", "RGB", "P", "I;16", "1", "LA"))).save(stream, "PNG")
        return stream.getvalue()
    chunks = chunks_of(content)
    if way == 2:
        header = bytearray(chunks[0][1])
        header[chance.randrange(13)] = chance.randrange(256)
        return png_of([(b"IHDR", bytes(header)), *chunks[1:]])
    place = chance.randrange(len(chunks))
    chunks[place : place + 1] = chance.choice([[], [chunks[place]] * 2, [(b"tEXt", b"a\0b"), chunks[place]]])
    return png_of(chunks)
