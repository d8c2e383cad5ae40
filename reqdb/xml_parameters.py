"""The key/value form: parameters, some of them lists, that say one operation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from reqdb.spec import FileSpec, OperationSpec
from reqdb.xml_checks import HEAD_ATTRIBUTES, Attributes, FileList, check_known, check_operation
from reqdb.xml_values import BLANKS, Limits, one_of, refuse, shown, suggest

PARAMETERS: Mapping[str, str] = {
    "LFN": "lfn",
    "PFN": "pfn",
    "Size": "size",
    "Checksum": "file-checksum",
    "SourceSE": "source",
    "TargetSE": "target",
    "Owner": "owner",
    "Priority": "priority",
    "Name": "name",
    "RequestName": "name",
    "NotBefore": "not-before",
    "Deadline": "deadline",
    "Overwrite": "overwrite",
    "ChecksumType": "checksum",
    "Node": "node",
    "Everywhere": "everywhere",
    "RemoveLastCopy": "remove-last-copy",
    "Delivery": "delivery",
    "Folder": "folder",
    "Queue": "queue",
}
"""Names of the key/value form, known in any case, and the attributes of the other form that they stand for."""

_BY_LOWER = {name.lower(): attribute for name, attribute in PARAMETERS.items()}
_LISTS = {"lfn": "lfn", "pfn": "pfn", "size": "size", "file-checksum": "checksum"}


class Parameters:
    """The parameters so far, each once."""

    def __init__(self, request: Attributes) -> None:
        """Keep the attributes of the request, which count as parameters too."""
        self._request = request
        own = (*HEAD_ATTRIBUTES, "type")
        self._values = {name: text for name, text in request.values.items() if name in own}
        self._lines = dict.fromkeys(self._values, request.line)

    def add(self, attributes: Mapping[str, str], line: int) -> None:
        """Check and keep one <parameter name= value=/>, or raise RequestFileError."""
        place = f"{self._request.file}:{line}"
        check_known(place, "parameter", attributes, ("name", "value"))
        name, value = attributes.get("name"), attributes.get("value")
        if name is None or value is None:
            missing = "name" if name is None else "value"
            raise refuse(place, f"<parameter> without {missing}", "both name= and value=")
        attribute = _BY_LOWER.get(name.lower())
        if attribute is None:
            raise refuse(place, f"unknown parameter {shown(name)}", one_of(PARAMETERS), suggest(name, PARAMETERS))
        if attribute in self._values:
            first = self._lines[attribute]
            raise refuse(place, f"parameter {name!r} twice (first on line {first})", "each parameter once")
        self._values[attribute], self._lines[attribute] = value, line

    def head(self) -> Attributes:
        """Return what the parameters say about the request."""
        return self._attributes(HEAD_ATTRIBUTES)

    def operation(self, elements: Collection[str] | None, limits: Limits) -> OperationSpec:
        """Return the one operation with its files, or raise RequestFileError."""
        names = [name for name in self._values if name not in HEAD_ATTRIBUTES and name not in _LISTS]
        attributes = self._attributes(names)
        values = dict(attributes.values)
        if "target" in values:
            values["target"] = " ".join(self._items("target"))
        operation = check_operation(replace(attributes, values=values), elements)
        return replace(operation, files=self._files(operation, limits))

    def _attributes(self, names: Collection[str]) -> Attributes:
        values = {name: self._values[name] for name in names if name in self._values}
        return Attributes(self._request.file, self._request.line, values, self._lines)

    def _items(self, name: str) -> list[str]:
        """Return the items of a comma-separated list, without the blanks around them."""
        items = [item.strip(BLANKS) for item in self._values[name].split(",")]
        if name in ("lfn", "target") and "" in items:
            place = f"{self._request.file}:{self._lines[name]}"
            found = f"an empty item (number {items.index('') + 1}) in a list"
            raise refuse(place, found, "names separated by single commas", "is there a comma too many?")
        if name == "target" and (blank := next((i for i in items if len(i.split()) > 1), None)):
            place = f"{self._request.file}:{self._lines[name]}"
            raise refuse(place, f"TargetSE item {shown(blank)}", "names separated by commas")
        return items

    def _files(self, operation: OperationSpec, limits: Limits) -> tuple[FileSpec, ...]:
        place = f"{self._request.file}:{self._request.line}"
        if "lfn" not in self._values:
            raise refuse(place, "a request without LFN", '<parameter name="LFN" value="…"/>')
        lists = {attribute: self._items(name) for name, attribute in _LISTS.items() if name in self._values}
        count, line = len(lists["lfn"]), self._lines["lfn"]
        if count > limits.max_files:
            raise refuse(f"{self._request.file}:{line}", "more files", f"at most {limits.max_files}")
        for name, attribute in _LISTS.items():
            if attribute in lists and len(lists[attribute]) != count:
                at = f"{self._request.file}:{self._lines[name]}"
                raise refuse(at, f"{len(lists[attribute])} items in {attribute}", f"{count}, one for each LFN")
        files = FileList(self._request.file, operation)
        for index in range(count):
            values = {name: items[index] for name, items in lists.items() if items[index]}
            files.add(values, line, f" (item {index + 1})")
        return tuple(files.close())
