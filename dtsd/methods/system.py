"""What the daemon can do, asked of the daemon itself."""

from __future__ import annotations

from dtscore.errors import NotFoundError
from dtscore.inifile import nearest
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Kind, Method
from dtsnet.xmlrpc import Value


def ping(_site: Site, _caller: Caller) -> Value:
    """Answer."""
    return "pong"


def whoami(_site: Site, caller: Caller) -> Value:
    """Say who calls."""
    return {"user": caller.user.name, "role": caller.user.role, "address": caller.address}


def find(name: str) -> Method:
    """Return a method by its name; raises NotFoundError."""
    from dtsd.methods import BY_NAME

    if name not in BY_NAME:
        raise NotFoundError(f"there is no method {name!r:.60}", nearest(name[:60], BY_NAME))
    return BY_NAME[name]


def list_methods(_site: Site, _caller: Caller) -> Value:
    """List the names."""
    from dtsd.methods import BY_NAME

    return [*sorted(BY_NAME)]


def method_help(_site: Site, _caller: Caller, name: str) -> Value:
    """Explain one in words."""
    method = find(name)
    arguments = [f"  {one.name}: {one.kind}. {one.doc}" for one in method.arguments]
    return "\n".join([f"{method.usage} → {method.returns}; role {method.role}", method.doc, *arguments])


def method_signature(_site: Site, _caller: Caller, name: str) -> Value:
    """Return the lists of types that one takes: with none of what may be left out, up to all of it."""
    method = find(name)
    least = sum(one.default is None for one in method.arguments)
    return [
        [_type(method.returns), *(_type(one.kind) for one in method.arguments[:count])]
        for count in range(least, len(method.arguments) + 1)
    ]


def _type(kind: Kind) -> str:
    return "string" if kind == "path" else kind


_NAME = Argument("name", "string", "The method's name.", maximum=128)

METHODS = (
    Method("ping", "read", (), "string", "Answers pong.", ping),
    Method("whoami", "read", (), "struct", "Says who calls: user, role, address.", whoami),
    Method("system.listMethods", "read", (), "array", "Lists the names of all methods.", list_methods),
    Method("system.methodHelp", "read", (_NAME,), "string", "Explains a method and its arguments.", method_help),
    Method("system.methodSignature", "read", (_NAME,), "array", "Lists the types that a method takes.",
           method_signature),
)  # fmt: skip
