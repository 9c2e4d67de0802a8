"""What ``prefect deploy`` asks for: the settings of a deployment, out of the file that holds them."""

from __future__ import annotations

import os
from typing import Any

from dgmm import config
from dgmm.config import read_settings
from dgmm.errors import InputError
from dgmm.fits import Settings, validated
from flows.assets import asset_of

#: Where the paths in the files lie, unless the environment names another place (``DGMM_ROOT``).
ROOT = "/data"


def settings(flow: str, file: str) -> dict[str, Any]:
    """A step of a deployment: the settings in a file, checked, as its parameters.

    Parameters
    ----------
    flow : str
        Whose they are, such as ``train``.
    file : str
        In YAML; paths below `ROOT` are put below ``DGMM_ROOT`` when that is set.

    Returns
    -------
    dict
        ``settings``; and ``model``, the asset that is read, if one is.
    """
    model = getattr(config, flow.capitalize(), None)
    if not (isinstance(model, type) and issubclass(model, Settings)):
        raise InputError(f"there is no flow {flow!r}: see flows/")
    found = placed(read_settings(file), os.environ.get("DGMM_ROOT", ROOT).rstrip("/"))
    validated(model, found)
    read = found.get("model")
    return {"settings": found, "model": asset_of(read) if isinstance(read, str) else ""}


def placed(value: Any, root: str) -> Any:
    """Settings whose paths below `ROOT` lie below another folder."""
    if isinstance(value, dict):
        return {name: placed(each, root) for name, each in value.items()}
    if isinstance(value, list):
        return [placed(each, root) for each in value]
    return root + value[len(ROOT) :] if isinstance(value, str) and value.startswith(f"{ROOT}/") else value
