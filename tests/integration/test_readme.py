"""The README says what is true. `python tests/integration/test_readme.py` rewrites its table of settings."""

import re
import tomllib
from pathlib import Path

from dgmm.fits import Settings, Training

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PLACE = re.compile(r"(<!-- training settings:[^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


def table(model: type[Settings] = Training) -> str:
    """The settings of training as a Markdown table."""
    lines = ["| setting | default | |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_settings_is_the_schemas() -> None:
    found = PLACE.search(README.read_text())
    assert found is not None
    assert table() in found.group(0)


def test_the_commands_of_the_readme_are_the_ones_that_are_checked() -> None:
    readme, checks = README.read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ("pip install -c config/constraints.txt -e '.[test]'", "python -m flows.pipeline config/ocean.yaml"):
        assert command in readme
    assert "-c config/constraints.txt -e '.[test]'" in checks
    assert "python -m flows.pipeline config/ocean.yaml" in checks


def test_what_it_names_exists() -> None:
    text = README.read_text()
    for path in re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"(?:config|dgmm|tests)/[\w./]+\w", text):
        if "*" not in path:
            assert (ROOT / path).exists(), path
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) >= {"flows", "report", "test", "all"}


if __name__ == "__main__":
    README.write_text(PLACE.sub(lambda m: m.group(1) + table() + m.group(2), README.read_text()))
