"""NCBI's gene files, fetched on request: resumed after a cut, checked, kept."""

from __future__ import annotations

import gzip
import os
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from scstore import fsio
from scstore.errors import NetworkError
from scstore.gene_tables.web import PATIENCE, Sleep, TransientError, check_status, httpx, persist, transient
from scstore.genes.ncbi import TAXA
from scstore.genes.orthologs import GENE_INFO_FILES
from scstore.progress import Reporter

__all__ = ["NCBI_URL", "NcbiFiles", "download_ncbi"]

NCBI_URL = "https://ftp.ncbi.nlm.nih.gov/gene/DATA"
URL_VARIABLE = "SCSTORE_NCBI_URL"
"""A mirror of :data:`NCBI_URL`."""

ATTEMPTS = 5
PIECE = 1 << 20
HEADER = b"#tax_id\t"
"""How each of the files begins, unpacked."""


@dataclass(frozen=True)
class NcbiFiles:
    """Files of NCBI's ``gene/DATA``, on this machine.

    Attributes
    ----------
    gene_info
        By organism.
    gene_summary, gene_orthologs
        Of all organisms.
    """

    gene_info: dict[str, Path]
    gene_summary: Path
    gene_orthologs: Path


def download_ncbi(
    folder: str | os.PathLike[str],
    *,
    base_url: str | None = None,
    timeout: float = 60.0,
    sleep: Sleep = time.sleep,
    progress: Reporter | None = None,
) -> NcbiFiles:
    """Fetch ``gene_info`` of human and mouse, ``gene_summary`` and ``gene_orthologs``, unless they are there.

    A file is written as ``NAME.part``, goes on there after a cut or a kill (HTTP Range, if the server's file is still
    the same), and gets its name once its length, its gzip checksum and its header are right.

    Parameters
    ----------
    folder
        Where they are kept.
    base_url
        By default the environment variable ``SCSTORE_NCBI_URL``, else NCBI's server.
    timeout
        Seconds without a sign of the server before a request is given up.
    sleep
        Waits between tries.
    progress
        Told what is fetched.

    Raises
    ------
    NetworkError
        If a file cannot be fetched; what came of it is kept.
    LockedError
        If another process is fetching into the same folder.
    OutputError
        If the folder cannot be written to.
    """
    place = Path(folder)
    progress = progress or Reporter()
    base = (base_url or os.environ.get(URL_VARIABLE) or NCBI_URL).rstrip("/")
    files = NcbiFiles(
        gene_info={organism: place / f"{GENE_INFO_FILES[organism]}.gz" for organism in TAXA},
        gene_summary=place / "gene_summary.gz",
        gene_orthologs=place / "gene_orthologs.gz",
    )
    addresses = {path: f"{base}/GENE_INFO/Mammalia/{path.name}" for path in files.gene_info.values()}
    addresses |= {path: f"{base}/{path.name}" for path in (files.gene_summary, files.gene_orthologs)}
    if missing := {path: url for path, url in addresses.items() if not path.is_file()}:
        fsio.check_output(place / ".fetching", overwrite=True)
        with (
            fsio.lock(place / ".fetching.lock"),
            httpx.Client(timeout=timeout, follow_redirects=True, headers={"Accept-Encoding": "identity"}) as client,
        ):
            for path, url in missing.items():
                _fetch(client, url, path, sleep=sleep, progress=progress)
    if len(missing) < len(addresses):
        progress.note(f"NCBI's files in {place}: {len(addresses) - len(missing)} were there; delete them to renew them")
    return files


def _fetch(client: httpx.Client, url: str, target: Path, *, sleep: Sleep, progress: Reporter) -> None:
    def warn(reason: str) -> None:
        progress.warn(f"{url}: {reason}")

    advice = (
        "What came of it is kept: run the same command again to go on. Without a network, fetch NCBI's gene/DATA files "
        "elsewhere and give them with --gene-info FILE --gene-summary FILE, or put them into the folder of --download."
    )
    try:
        persist(partial(_try, client, url, target, progress), attempts=ATTEMPTS, sleep=sleep, warn=warn)
    except TransientError as error:
        wait = error.retry_after or 0
        later = f" The server asks to wait {wait / 60:,.0f} minutes." if wait > PATIENCE else ""
        msg = f"{url}: cannot be fetched ({error}).{later} {advice}"
        raise NetworkError(msg) from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        msg = f"{url}: cannot be fetched ({error}). Check {URL_VARIABLE}. {advice}"
        raise NetworkError(msg) from error


def _try(client: httpx.Client, url: str, target: Path, progress: Reporter) -> None:
    """One request for what is missing of a file; the file gets its name if it is whole and right."""
    part = target.with_name(f"{target.name}.part")
    tag = target.with_name(f"{target.name}.part.tag")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    ask = {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="ascii")} if have else {}
    try:
        with client.stream("GET", url, headers=ask) as response:
            check_status(response)
            if response.status_code == 416:  # longer than the server's file: it is another one
                _forget(part, tag)
                reason = "the part that was fetched before does not fit the server's file"
                raise TransientError(reason)
            if response.status_code not in (200, 206):
                msg = (
                    f"{url}: the server answered {response.status_code} {response.reason_phrase}. Check "
                    f"{URL_VARIABLE}, or give the file itself (--gene-info FILE, --gene-summary FILE)."
                )
                raise NetworkError(msg)
            start, total = _extent(response)
            if response.status_code == 206 and start != have:
                _forget(part, tag)
                reason = "the server sent another range than was asked for"
                raise TransientError(reason)
            with part.open("r+b" if start else "wb") as file:
                if not start:
                    _remember(tag, response)
                file.seek(start)
                _receive(response, file, target.name, (start, total), progress)
    except httpx.RequestError as error:
        raise transient(error) from error
    got = part.stat().st_size
    if total is not None and got != total:
        if got > total:
            _forget(part, tag)
        reason = f"{got:,} of {total:,} bytes came"
        raise TransientError(reason)
    if fault := _fault(part):
        _forget(part, tag)
        raise TransientError(fault)
    part.replace(target)
    tag.unlink(missing_ok=True)
    fsio.fsync_dir(target.parent)


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """Where the bytes of an answer begin, and how many the whole file has, if the server says so."""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        return (int(found[1]), None if found[2] == "*" else int(found[2])) if found else (-1, None)
    length = response.headers.get("content-length", "")
    return 0, int(length) if length.isdecimal() else None


def _remember(tag: Path, response: httpx.Response) -> None:
    """Keep what names this version of the server's file; without such a name the part cannot be gone on with."""
    etag = response.headers.get("etag", "")
    name = etag if etag.startswith('"') else response.headers.get("last-modified", "")
    if name and name.isascii():
        fsio.write_bytes(tag, name.encode("ascii"))
    else:
        tag.unlink(missing_ok=True)


def _receive(
    response: httpx.Response, file: BinaryIO, name: str, extent: tuple[int, int | None], progress: Reporter
) -> None:
    start, total = extent
    with progress.track(f"fetching {name}", total or 0, "bytes") as track:
        track.resume_at(start)
        try:
            for piece in response.iter_raw():  # as they come: pieces of a set size would be lost with a cut
                file.write(piece)
                track.advance(len(piece))
        finally:
            file.flush()
            os.fsync(file.fileno())


def _fault(part: Path) -> str | None:
    """What is wrong with a fetched file, unpacked to its end; ``None`` if nothing is."""
    try:
        with gzip.open(part) as unpacked:
            if (head := unpacked.read(len(HEADER))) != HEADER:
                return f"what came is not NCBI's file: it begins with {head!r}"
            _drain(unpacked.read)
    except (OSError, EOFError, zlib.error) as error:
        return f"what came is no whole gzip file ({error})"
    return None


def _drain(read: Callable[[int], bytes]) -> None:
    while read(PIECE):
        pass


def _forget(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)
