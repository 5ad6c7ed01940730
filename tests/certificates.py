"""Certificates made on the fly by the openssl command: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PRESENT = shutil.which("openssl") is not None

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


class Leaf:
    """A certificate with its key. `pem` holds both, as a broker takes it."""

    def __init__(self, stem: Path) -> None:
        self.cert, self.key, self.pem = (stem.with_suffix(end) for end in (".crt", ".key", ".pem"))


class Authority:
    """Signs; who trusts `cert` trusts what it signed."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cert, self._key = directory / f"{name}.crt", directory / f"{name}.key"
        extensions = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        subject = ("-subj", f"/CN={name}", "-days", "30", "-nodes")
        _openssl("req", "-x509", *_CURVE, *subject, *extensions, "-keyout", self._key, "-out", self.cert)

    def sign(
        self, name: str, *, host: str = "127.0.0.1", days: int = 30, password: str | None = None
    ) -> Leaf:
        """A leaf of this name for this host; with -1 days one that ended yesterday."""
        leaf = Leaf(self.directory / name)
        asked, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        kind = "IP" if host[0].isdigit() else "DNS"
        extensions.write_text(f"subjectAltName={kind}:{host}\n")
        closed = ("-passout", f"pass:{password}") if password else ("-nodes",)
        _openssl("req", "-new", *_CURVE, *closed, "-subj", f"/CN={name}", "-keyout", leaf.key, "-out", asked)
        signing = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        _openssl("x509", "-req", "-in", asked, *signing, "-days", str(days), "-out", leaf.cert)
        leaf.pem.write_text(leaf.key.read_text() + leaf.cert.read_text())
        return leaf


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
