"""TLS of the daemon: where it is required, its context, and certificates for sites that have no authority."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtscore.config import DtsdSettings
from dtscore.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName


def is_loopback(host: str) -> bool:
    """Whether a name or address means this host alone; raises ConfigurationError where it means nothing."""
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        what = f"[dtsd] host = {host}: {error.strerror}"
        raise ConfigurationError(what, "write an address of this host") from error
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def make_context(settings: DtsdSettings) -> ssl.SSLContext | None:
    """Return the daemon's TLS context, None where it speaks plainly on loopback; raises ConfigurationError."""
    if settings.certificate_file is None or settings.key_file is None:
        if not is_loopback(settings.host):
            what = f"[dtsd] host = {settings.host} is not loopback, and there is no certificate"
            raise ConfigurationError(what, "make one with: dtsd certificate, or listen on 127.0.0.1")
        return None
    _check_key(settings.key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate_file, settings.key_file)
        if settings.client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(settings.client_ca)
    except (OSError, ssl.SSLError) as error:
        what = f"the daemon's certificates cannot be read: {error}"
        raise ConfigurationError(what, "check [dtsd] certificate_file, key_file and client_ca") from error
    return context


def _check_key(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(f"[dtsd] key_file {path}: {error.strerror}", "make one: dtsd certificate") from error
    if mode & 0o077:
        raise ConfigurationError(f"the key file {path} has mode {mode:04o}, not 0600", f"chmod 600 {path}")


def name_of(connection: ssl.SSLSocket) -> str | None:
    """Return the CN of the certificate that the other side has shown, None without one."""
    subject: Any = (connection.getpeercert() or {}).get("subject", ())
    return next((str(value) for part in subject for name, value in part if name == "commonName"), None)


def make_certificate(certificate: Path, key: Path, names: Sequence[str], days: int) -> None:
    """Write a self-signed certificate for host names and addresses, and its key in a file of mode 0600.

    Raises ConfigurationError where one of the files exists or cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    plain = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(key, plain, 0o600)
    _write(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)


def _general_name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}", "remove the old one first") from error
