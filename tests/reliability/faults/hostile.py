"""Models, journals, scores and sources that somebody has made to harm: a line, or what is equal, in little memory.

A trial changes one file of what was written, or its kind, and puts it back. Whoever takes more memory or time than
here, or raises anything that the command line does not say in a line, has failed.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr

import dgmm
from dgmm.cli import main
from dgmm.data import fingerprint, open_samples
from dgmm.errors import DgmmError
from dgmm.passes import packed, to_parts, unpacked
from dgmm.pipeline import made_with, run_score
from dgmm.store import journal_at, save
from tests import journals, ledgers
from tests.mutations import BITS, TEXT, Generator, damaged, restructured
from tests.reliability.trials import Ended, Trial, fault

#: Bytes beyond what the process has, and seconds, in which a trial must end.
MEMORY, SECONDS = 2**30, 60
#: Bytes of a model that are read here.
MOST = 2**26
#: Trials after which all files are looked at.
CHECKED = 50


@dataclass(frozen=True)
class Subject:
    """Something that was written, in a folder of its own, and how it is read.

    Attributes
    ----------
    folder : Path
    files : dict
        What it consists of, by their names in the folder.
    names : list of str
        Sorted.
    read : callable
        How that ended.
    is_mended : bool
        Whether reading takes away what is damaged.
    """

    folder: Path
    files: dict[str, bytes]
    names: list[str]
    read: Callable[[], Ended]
    is_mended: bool

    @classmethod
    def of(cls, folder: Path, read: Callable[[], Ended], *, is_mended: bool = False) -> Subject:
        """All that lies in a folder."""
        assert read() is Ended.RECOVERED, "it was sound"
        files = ledgers.tree(folder)
        return cls(folder, files, sorted(files), read, is_mended)

    def restore(self, name: str) -> None:
        """The one file that was changed as it was, and all of them where reading may have changed others."""
        if self.is_mended:
            shutil.rmtree(self.folder)
            for other, content in self.files.items():
                (self.folder / other).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / other).write_bytes(content)
            return
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(self.files[name])

    def check(self) -> None:
        """All files are as they were, and no others are there."""
        assert ledgers.tree(self.folder) == self.files, "reading has changed it"


# ---- what is done ---------------------------------------------------------------------------------------------------

NUMBERS: list[Any] = [0, -1, 1, 2, 7, 2**24, 2**31, 2**40, 2**63, 10**30, 1.5, 1e308, None, True, "1", "", [], {}, [[]]]
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CODECS: list[Any] = [
    {"name": name, "configuration": how}
    for name, how in (
        ("pickle", {}),
        ("numcodecs.pickle", {}),
        ("vlen-utf8", {}),
        ("vlen-bytes", {}),
        ("numcodecs.vlen-array", {}),
        ("numcodecs.json2", {}),
        ("numcodecs.lz4", {"acceleration": 1}),
        ("numcodecs.zlib", {"level": 1}),
        ("numcodecs.lzma", {}),
        ("numcodecs.bz2", {"level": 1}),
        ("numcodecs.astype", {"encode_dtype": "<f4", "decode_dtype": "<f8"}),
        ("numcodecs.packbits", {}),
        ("numcodecs.fixedscaleoffset", {"offset": 0, "scale": 1e300, "dtype": "<f8"}),
        ("gzip", {"level": 1}),
        ("blosc", {"cname": "lz4", "clevel": 1, "shuffle": "shuffle", "typesize": 8, "blocksize": 0}),
        ("zstd", {"level": 1, "checksum": False}),
        ("crc32c", {}),
        ("transpose", {"order": [0, 0]}),
        ("transpose", {"order": [1, 0]}),
        ("sharding_indexed", {"chunk_shape": [1], "codecs": [{"name": "bytes"}], "index_codecs": [{"name": "bytes"}]}),
        ("sharding_indexed", {"chunk_shape": [1, 1], "codecs": [LITTLE], "index_codecs": [LITTLE]}),
    )
]
TYPES: list[Any] = [
    "float32",
    "float16",
    "int8",
    "bool",
    "complex128",
    "string",
    "r1024",
    "fixed_length_utf32",
    "|O",
    "<U100000000",
    {"name": "numpy.datetime64", "configuration": {"unit": "s", "scale_factor": 1}},
    {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**33}},
    {"name": "struct", "configuration": {"fields": []}},
]


def boasting(document: dict[str, Any], r: Generator) -> dict[str, Any]:
    """Metadata that speak of what there is not: sizes, dimensions, types, codecs, depths."""
    document = json.loads(json.dumps(document))
    n, one = int(r.choice([0, 1, 2, 33, 64, 65, 1000])), NUMBERS[int(r.integers(len(NUMBERS)))]
    grid = document.get("chunk_grid", {}).get("configuration", {})
    match int(r.integers(9)):
        case 0:
            document["shape"] = [one if isinstance(one, int) and r.random() < 0.7 else 2**40] * n
            grid["chunk_shape"] = [1] * n
        case 1:
            document["shape"] = [one if r.random() < 0.5 else size for size in document.get("shape", [1])]
        case 2:
            grid["chunk_shape"] = [one if r.random() < 0.5 else size for size in grid.get("chunk_shape", [1])]
            document["chunks"] = grid["chunk_shape"]
        case 3:
            document["data_type"] = document["dtype"] = TYPES[int(r.integers(len(TYPES)))]
        case 4:
            codecs = document.setdefault("codecs", [])
            codec = CODECS[int(r.integers(len(CODECS)))]
            codecs[int(r.integers(len(codecs) + 1)) :] = [codec] * int(r.choice([1, 2, 50]))
        case 5:
            inner: Any = document.get("codecs", [])
            for _ in range(int(r.choice([1, 3, 30]))):
                how = {"chunk_shape": document.get("shape", [1]), "codecs": inner, "index_codecs": [{"name": "bytes"}]}
                inner = [{"name": "sharding_indexed", "configuration": how}]
            document["codecs"] = inner
        case 6:
            ids = ["pickle", "vlen-array", "json2", "msgpack2", "lzma", "zlib", "base64", "categorize", "nothing"]
            document[str(r.choice(["compressor", "filters"]))] = [{"id": str(r.choice(ids))}]
        case 7:
            document["attributes"] = {**document.get("attributes", {}), "coordinates": "x " * 1000, "_FillValue": one}
        case _:
            document["fill_value"] = one
    return document


def nested(raw: bytes, r: Generator) -> bytes:
    """Text in which something is nested deeply, or long."""
    place = raw.find(b":", int(r.integers(len(raw)))) + 1
    depth = int(r.choice([100, 3000, 200_000]))
    more = [
        b"[" * depth + b"]" * depth,
        b'{"a":' * depth + b"1" + b"}" * depth,
        b"9" * depth,
        b'"' + b"x" * depth + b'"',
    ]
    return raw[:place] + more[int(r.integers(len(more)))] + raw[place:].lstrip(b" 0123456789.")


@cache
def bombs() -> list[bytes]:
    """Few bytes that would become many."""
    zeros = bytes(2**26)
    block = (2**17 << 3 | 2).to_bytes(3, "little") + b"\0"
    return [
        bytes(numcodecs.Zstd().encode(zeros)),
        b"\x28\xb5\x2f\xfd\x00\x58" + block * 2**14,
        gzip.compress(zeros) * 40,
        bytes(numcodecs.Blosc().encode(zeros)),
        bytes(numcodecs.Zstd().encode(bytes(2**16))) * 4096,
    ]


def other_file(path: Path, r: Generator) -> None:
    """Something else in the place of a file: a link, a pipe, a folder, far more than there was, nothing."""
    path.unlink()
    match int(r.integers(8)):
        case 0:
            path.symlink_to("/dev/zero")
        case 1:
            path.symlink_to(path)
        case 2:
            path.symlink_to("/etc/passwd")
        case 3:
            path.symlink_to("../" * 40 + "etc")
        case 4:
            os.mkfifo(path)
        case 5:
            path.mkdir()
        case 6:
            path.write_bytes(b"")
            os.truncate(path, 2**40)
        case _:
            pass


def change(subject: Subject, r: Generator) -> str:
    """One change to one file; its name."""
    name = subject.names[int(r.integers(len(subject.names)))]
    path, raw = subject.folder / name, subject.files[name]
    is_text, what = raw[:1] == b"{" and len(raw) > 2, r.random()
    if what < 0.1:
        other_file(path, r)
    elif is_text and what < 0.15:
        path.write_bytes(nested(raw, r))
    elif is_text and what < 0.45:
        path.write_text(json.dumps(boasting(json.loads(raw), r)))
    elif is_text and what < 0.7:
        path.write_text(json.dumps(restructured(json.loads(raw), r)))
    elif what < 0.2:
        path.write_bytes(bombs()[int(r.integers(len(bombs())))])
    elif what < 0.3:
        path.write_bytes(subject.files[subject.names[int(r.integers(len(subject.names)))]])
    else:
        path.write_bytes(damaged(raw, r, TEXT if is_text else BITS))
    return name


# ---- how it must end ------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """A trial has taken too long; nobody takes this for damage."""


@contextlib.contextmanager
def little() -> Iterator[None]:
    """Context in which little memory and time can be taken."""

    def late(*_: object) -> None:
        raise TooLong

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
        signal.signal(signal.SIGALRM, handler)


def said(error: Exception) -> Ended:
    """Refused, in a line."""
    line = str(error)
    assert "\n" not in line, line
    assert 0 < len(line) < 1500, line
    return Ended.REFUSED


def tried(subject: Subject, trial: Trial) -> Ended:
    """What becomes of a subject that is changed; it is itself again in the end."""
    changed = change(subject, trial.random)
    try:
        with little(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return subject.read()
    except (DgmmError, OSError) as error:  # which the command line says in a line
        return said(error)
    except TooLong as error:
        raise AssertionError(f"not done after {SECONDS} seconds") from error
    finally:
        subject.restore(changed)
        if trial.number % CHECKED == 1:
            subject.check()


def commanded(*arguments: str) -> tuple[int, str]:
    """What a command prints, if anything goes wrong; nothing but its one line."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    lines = err.getvalue().splitlines()
    assert not lines or (len(lines) == 1 and lines[0].startswith("dgmm: ")), lines
    return code, lines[0] if lines else ""


# ---- models ---------------------------------------------------------------------------------------------------------


def model_at(name: str) -> Subject:
    """A model with all that one may have."""
    from tests.store.test_damage import SETTINGS, TABLE, model, same

    folder = Path(tempfile.mkdtemp())
    fit = model("full")
    save(fit, folder / name, table=TABLE, settings=SETTINGS)

    def read() -> Ended:
        assert same(dgmm.load(folder / name, max_bytes=MOST), fit)
        return Ended.RECOVERED

    return Subject.of(folder, read)


@cache
def model() -> Subject:
    """As a Zarr group."""
    return model_at("m.zarr")


@cache
def json_model() -> Subject:
    """In its JSON form."""
    return model_at("m.json")


# ---- journals -------------------------------------------------------------------------------------------------------


@cache
def journal() -> Subject:
    """The journal of a fit, which is read to where it ends."""
    folder = Path(tempfile.mkdtemp())
    source = Path(tempfile.mkdtemp())
    data = journals.write_data(source)
    settings = journals.train(data, folder / "m", keep_journal=True)
    journals.work(settings)
    shutil.rmtree(folder / "m")
    place, asked, known = folder / "m.journal", made_with(settings), fingerprint(open_samples(data))

    def entries() -> list[bytes]:
        found: list[bytes] = []
        with journal_at(place, known, asked, keep=True) as records:
            while (entry := records.read(len(found))) is not None:
                found.append(packed({}, to_parts([entry.key, entry.value])[1]) + repr(to_parts(entry.key)).encode())
        return found

    whole = entries()
    assert len(whole) > 4

    def read() -> Ended:
        found = entries()
        assert found == whole[: len(found)]
        return Ended.RECOVERED

    return Subject.of(folder, read, is_mended=True)


@cache
def resumed() -> tuple[Path, Any, dict[str, bytes], dict[str, Any]]:
    """A folder, the settings of a fit, its whole journal, and what it comes to."""
    folder = Path(tempfile.mkdtemp())
    settings = journals.train(journals.write_data(folder), folder / "m", keep_journal=True)
    return (
        folder,
        settings,
        ledgers.tree(folder / "m.journal") if journals.work(settings) else {},
        journals.bits(str(folder / "m")),
    )


def forged(files: dict[str, bytes], r: Generator) -> dict[str, bytes]:
    """A journal of which one record says something else, and all that follow are made to follow it."""
    import hashlib

    names = sorted(name for name in files if name.isdigit())
    at = int(r.integers(len(names)))
    found, before = dict(files), ""
    for i, name in enumerate(names[at:], at):
        header, arrays, _ = unpacked(found[name])
        arrays = [*arrays]
        if i == at:
            match int(r.integers(4)):
                case 0:
                    header = restructured({"entry": header["entry"]}, r) | {
                        "before": header["before"],
                        "run": header["run"],
                    }
                case 1 if arrays:
                    j = int(r.integers(len(arrays)))
                    arrays[j] = arrays[j].ravel()[: int(r.integers(3))]
                case 2 if arrays:
                    j = int(r.integers(len(arrays)))
                    arrays[j] = np.full_like(arrays[j], r.choice([0, 1, 100]))
                case _ if arrays:
                    j = int(r.integers(len(arrays)))
                    arrays[j] = (arrays[j] * np.nan) if arrays[j].dtype.kind == "f" else -arrays[j] - 1
        else:
            header["before"] = before
        header = {key: value for key, value in header.items() if key != "arrays"}
        found[name] = packed(header, arrays)
        before = hashlib.sha256(found[name][:-32]).hexdigest()
    return found


# ---- scores ---------------------------------------------------------------------------------------------------------


def verified(path: Path) -> bool:
    """Whether scores are sound; every finding is one line."""
    verdict = dgmm.verify(path, data=True, scheduler="threads")
    assert all("\n" not in str(finding) for finding in verdict.findings)
    return verdict.is_sound


def verified_by_command(path: Path) -> bool:
    """The same, as the command line says it."""
    code, line = commanded("verify", str(path), "--data", "--scheduler", "threads", "--quiet")
    assert code or not line
    return not code


@cache
def scores(is_sound: Callable[[Path], bool]) -> Subject:
    """Scores with their ledger, all of which is read."""
    with ledgers.small_for_a_while():
        folder = Path(tempfile.mkdtemp())
        run_score(ledgers.write_job(folder))
    inner = folder / "out"
    whole = {name: zarr.open_array(inner / name, mode="r")[...] for name in ("label", "probability", "log_density")}

    def read() -> Ended:
        if not is_sound(inner):
            return Ended.REFUSED
        opened = dgmm.api.open_scores(inner)
        assert all(opened[name].values.tobytes() == values.tobytes() for name, values in whole.items())
        return Ended.RECOVERED

    return Subject.of(inner, read)


# ---- sources --------------------------------------------------------------------------------------------------------


@cache
def source(version: int) -> Subject:
    """A dataset with coordinates, all of which is read."""
    import xarray as xr

    folder = Path(tempfile.mkdtemp())
    r = np.random.default_rng(1)
    x = r.normal(size=(400, 3))
    coords = {"depth": ("z", [0.0, 1.0, 2.0]), "s": np.arange(400.0)}
    dataset = xr.Dataset({"t": (("s", "z"), x, {"units": "K"})}, coords=coords)
    how: dict[str, Any] = {"zarr_format": version, "consolidated": False, "encoding": {"t": {"chunks": (100, 3)}}}
    dataset.to_zarr(folder / "d.zarr", **how)
    said = fingerprint(open_samples(folder / "d.zarr"))

    def read() -> Ended:
        samples = open_samples(folder / "d.zarr")
        list(samples.storage())
        if fingerprint(samples).keys() != said.keys():
            return Ended.UNTOLD
        # what would be too much for a worker is refused before it is read, see engine/memory.py
        if samples.grid.largest * samples.row_bytes > MOST:
            return Ended.REFUSED
        found = [samples.read(samples.grid.region(i)) for i in range(min(len(samples.grid), 9))]
        return Ended.RECOVERED if np.concatenate(found).tobytes() == x.tobytes() else Ended.UNTOLD

    return Subject.of(folder, read)


SUBJECTS: dict[str, tuple[Callable[[], Subject], int, int]] = {
    "model": (model, 60, 250_000),
    "model in JSON": (json_model, 100, 425_000),
    "journal": (journal, 25, 100_000),
    "scores and their ledger": (lambda: scores(verified), 20, 20_000),
    "scores, by the command line": (lambda: scores(verified_by_command), 10, 5_000),
    "source, format 2": (lambda: source(2), 50, 100_000),
    "source, format 3": (lambda: source(3), 50, 100_000),
}
for what, (make, short, long) in SUBJECTS.items():
    ends = {Ended.REFUSED, Ended.RECOVERED, *([Ended.UNTOLD] if "source" in what else [])}
    fault("hostile", what, short=short, long=long, ends=ends)(lambda trial, make=make: tried(make(), trial))


@fault("forged", "journal, every checksum made to fit", short=5, long=2000, ends={*Ended} - {Ended.SILENT})
def forged_journal(trial: Trial) -> Ended | None:
    """Whoever can write a whole journal can have a fit of theirs returned; but not a traceback, nor run anything."""
    folder, settings, files, expected = resumed()
    for name in ("m", "m.journal"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, content in forged(files, trial.random).items():
        (folder / "m.journal").mkdir(exist_ok=True)
        (folder / "m.journal" / name).write_bytes(content)
    try:
        with little(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = journals.work(settings)
    except DgmmError as error:
        return said(error)
    return Ended.RECOVERED if journals.bits(model) == expected else Ended.UNTOLD
