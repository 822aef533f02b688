"""Files that are damaged on purpose: NIfTI headers and checkpoints, changed by a random generator."""

import io
import json
import math
import os
import pickle
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch

FIELDS = {
    "i": [0],  # sizeof_hdr
    "h": [*range(40, 56, 2), 68, 70, 72, 74, 252, 254],  # dim, intent, datatype, bitpix, slice_start, codes
    "f": [*range(76, 120, 4), 124, 128, *range(256, 328, 4)],  # pixdim, vox_offset, scl, cal, quaternion, srow
    "B": [39, 122, 123, 344, 345, 346, 347, 348, 349, 352],  # dim_info, units, magic, extension
}
"""Struct format -> where a number of it lies in a NIfTI-1 header."""

WHOLE = [-(2**15), -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 99, 128, 256, 348, 511, 540, 1024, 1792, 2304, 2**15 - 1]
REAL = [math.nan, math.inf, -math.inf, 0.0, 1e-45, 1e38, -1e38, -1.0, 0.5, 3.0, 348.0, 352.5, 353.0, 1e9]


def damaged_bytes(rng: Random, content: bytes) -> bytes:
    """A few bytes overwritten, cut out, added, or all behind a place cut off."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, some = rng.randrange(len(changed) + 1), rng.randbytes(rng.randint(1, 8))
        match rng.randrange(5):
            case 0:
                del changed[at:]
            case 1:
                changed[at:at] = some
            case 2:
                del changed[at : at + len(some)]
            case _:
                changed[at : at + len(some)] = some
    return bytes(changed)


def damaged_header(rng: Random, content: bytes) -> bytes:
    """A NIfTI-1 file, little-endian, with one to four numbers of its header replaced."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice("ihhhfffffB")
        value = rng.choice(REAL) if kind == "f" else rng.choice(WHOLE) % 256 if kind == "B" else rng.choice(WHOLE)
        struct.pack_into(f"<{kind}", changed, rng.choice(FIELDS[kind]), value)
    match rng.randrange(8):
        case 0:
            return damaged_bytes(rng, bytes(changed[:352])) + bytes(changed[352:])
        case 1:
            return bytes(changed[: rng.randrange(len(changed))])
        case 2:
            return bytes(changed) + rng.randbytes(100)
    return bytes(changed)


class Attack:
    """Unpickling it would make the folder that `IES_ATTACK` names."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["IES_ATTACK"],)


NAMES = ["", "x" * 5000, "a\nb", "\x1b[31mred", "model.0.conv.weight", "module.", "../../x", "é\u202e", "0"]
CHANNELS = ["", "3", "a,b", "0,0,0", "-1,2,3", "3,4", "9" * 30, "100000,100000", "3,4,5,6,7,8,9,9,9,9,9,9", " 3, 4 ,5"]
SAID = ["unet", "nnunet", "swin_unetr", "monai-0.9", "", "x\n\x1b[0m" * 99]
SHAPES = [[], [0], [-1], [2**40], [2**62, 4], [1, 1, 1, 1, 1, 1, 1], [81, 3], [3, 2, 3, 3, 3], ["a"], None]
TYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "F4", "I8", "U64", "BOOL", "C64", "nope", "", None]


def damaged_safetensors(rng: Random, content: bytes) -> bytes:
    """A `.safetensors` file with a header that lies, or other bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    match rng.randrange(4):
        case 0:
            return damaged_bytes(rng, content)
        case 1:  # values alone
            at = rng.randrange(len(tensors) - 4)
            return content[: 8 + length] + tensors[:at] + rng.randbytes(4) + tensors[at + 4 :]
    for _ in range(rng.randint(1, 3)):
        _change_header(rng, header)
    told = json.dumps(header).encode()
    announced = len(told) if rng.randrange(6) else rng.choice([0, 1, len(told) - 1, len(told) + 1, 2**40, 2**64 - 1])
    return struct.pack("<Q", announced) + told + tensors


def _change_header(rng: Random, header: dict[str, Any]) -> None:
    key = rng.choice([key for key, value in header.items() if key != "__metadata__" and isinstance(value, dict)])
    said = header["__metadata__"] = header.get("__metadata__") or {}
    match rng.randrange(9):
        case 0:
            header[rng.choice(NAMES)] = header.pop(key)
        case 1:
            header[key]["dtype"] = rng.choice(TYPES)
        case 2:
            header[key]["shape"] = rng.choice(SHAPES)
        case 3:
            header[key]["data_offsets"] = rng.choice([[0, 0], [4, 0], [-1, 3], [0, 2**60], [0], None])
        case 4:
            header[key] = rng.choice([None, {}, [], "x", 3])
        case 5:
            said["channels"] = rng.choice(CHANNELS)
        case 6:
            said[rng.choice(["architecture", "merging"])] = rng.choice(SAID)
        case 7:
            header["__metadata__"] = rng.choice([{}, {"architecture": 3}])
        case 8:
            header.pop(key)


def damaged_pth(rng: Random, state: dict[str, torch.Tensor]) -> bytes:
    """A `.pth` file: odd content well written, or well-meant content badly written; some want to run code."""
    odd = _odd(rng, dict(state)) if rng.randrange(2) else state
    match rng.randrange(4):
        case 0:
            return pickle.dumps(odd, rng.choice([2, 4]))
        case 1:
            return damaged_bytes(rng, saved(odd, zipped=False))
        case 2:
            return _with_other_members(rng, saved(odd))
    return saved(odd, zipped=bool(rng.randrange(3)))


def saved(content: object, zipped: bool = True) -> bytes:
    """What `torch.save` writes, as a zip or in its old format."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _with_other_members(rng: Random, content: bytes) -> bytes:
    """The same zip, its sums right, with members damaged, dropped, doubled or added; or a damaged zip."""
    if rng.randrange(4) == 0:
        return damaged_bytes(rng, content)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        target = rng.choice([name for name in old.namelist() if name.endswith("data.pkl")] * 9 + old.namelist())
        for name in old.namelist():
            member = old.read(name)
            if name == target:
                member = rng.choice([damaged_bytes(rng, member), _with_opcodes(rng, member), b""])
            new.writestr(name if rng.randrange(40) else "../" + name, member)
    return out.getvalue()


def _with_opcodes(rng: Random, pickled: bytes) -> bytes:
    """A pickle that begins, or goes on, with a call of `os.mkdir`, spelt in one of pickle's ways."""
    path = os.environ["IES_ATTACK"].encode()
    call = rng.choice(
        [
            b"cposix\nmkdir\n(S'" + path + b"'\ntR0",
            b"(S'" + path + b"'\niposix\nmkdir\n0",
            b"(cposix\nmkdir\nS'" + path + b"'\no0",
            b"\x8c\x05posix\x8c\x05mkdir\x93(S'" + path + b"'\ntR0",
            b'cbuiltins\neval\n(S\'__import__("os").mkdir("' + path + b"\")'\ntR0",
            b"ctorch\nload\n(S'" + path + b"'\ntR0",
        ]
    )
    at = rng.choice([2, 2, len(pickled) - 1, rng.randrange(len(pickled))])
    return pickled[:at] + call + pickled[at:]


def _odd(rng: Random, state: dict[Any, Any]) -> object:
    """A state with a strange value or name, a strange wrapping, or none of it."""
    key, first = rng.choice(list(state)), torch.zeros(3)
    strange: list[Any] = [
        *(Attack(), [Attack()], None, 3, "x", b"x", [first], {"a": first}, {"state_dict": state}, float("nan")),
        *(first.expand(2**40, 3), torch.zeros(0), torch.tensor(3.0), first.to(torch.complex64), first.to(torch.int8)),
        *(first.half(), first.double() * math.nan, first.bool(), torch.zeros(3, requires_grad=True)),
        *(torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.nn.Parameter(first), first.to("meta")),
        *(torch.quantize_per_tensor(first, 0.1, 0, torch.qint8), first.to(torch.float8_e4m3fn), Path("x"), Random),
        *(torch.zeros(2**33, 0), first.as_strided((2**20, 2**20), (0, 0)), torch.conj(first.to(torch.complex64))),
    ]
    value = rng.choice(strange)
    match rng.randrange(6):
        case 0:
            return value
        case 1:
            state[rng.choice(NAMES)] = value
        case 2:
            state[rng.choice([3, 1.5, None, ("a", 1)])] = value
        case 3:
            return {rng.choice(["state_dict", "model", "network_weights", "x"]): rng.choice([state, value])}
        case _:
            state[key] = value
    return state
