"""Makes `modal_surface.json` from the full recording: `python tests/parity/trim.py RECORDING`."""

import json
import sys
from pathlib import Path
from typing import Any

KEPT_IN_PARAMETERS = ("name", "kind", "required", "default")


def parameters(given: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    return [{key: one[key] for key in KEPT_IN_PARAMETERS if key in one} for one in given]


def trimmed_class(one: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"bases": one.get("bases", [])}
    if one.get("constructor") is not None:
        result["constructor"] = parameters(one["constructor"])
    if "dataclass" in one:
        result["dataclass"] = {
            "fields": [field["name"] for field in one["dataclass"]["fields"]],
            "frozen": one["dataclass"]["frozen"],
        }
    if "enum" in one:
        result["enum"] = one["enum"]
    if one.get("nested"):
        result["nested"] = {name: trimmed_class(inner) for name, inner in one["nested"].items()}
    result["properties"] = sorted(one.get("properties") or {})
    result["methods"] = {
        name: {
            "parameters": parameters(method.get("parameters")),
            "aio": method.get("aio", False),
            "binding": method.get("binding", "instance"),
        }
        for name, method in (one.get("methods") or {}).items()
    }
    return result


def trimmed(full: dict[str, Any]) -> dict[str, Any]:
    return {
        "modal_version": full["modal_version"],
        "modal_all": full["modal_all"],
        "modules": {
            name: {
                "names": {
                    one: {key: value[key] for key in ("kind", "ref", "home") if key in value}
                    for one, value in module.get("names", {}).items()
                },
                "also_importable": sorted(module.get("also_importable") or {}),
            }
            for name, module in full["modules"].items()
        },
        "classes": {name: trimmed_class(one) for name, one in full["classes"].items()},
        "functions": {
            name: {"parameters": parameters(one["parameters"]), "aio": one.get("aio", False)}
            for name, one in full["functions"].items()
        },
        "exceptions": {name: one["mro"] for name, one in full["exceptions"].items()},
        "cli_commands": full["cli_commands"],
        "attributes": full["probes"]["attributes_present"],
        "modules_importable": full["probes"]["modules_importable"],
    }


if __name__ == "__main__":
    recording = json.loads(Path(sys.argv[1]).read_text())
    target = Path(__file__).with_name("modal_surface.json")
    target.write_text(json.dumps(trimmed(recording), indent=1, sort_keys=True) + "\n")
