"""What the documentation says of the detectors is what the registry holds."""

from pathlib import Path

import pytest

from detectors import REGISTRY

ROOT = Path(__file__).parents[2]


def question(name: str) -> str:
    return (REGISTRY[name].__doc__ or "").splitlines()[0]


def test_the_table_of_detectors_is_the_registry() -> None:
    """Each detector has its row, made of its own id, family, severity and question; and there is no other."""
    rows = [
        f"| `{name}` | {getattr(kind, 'family', '')} | {getattr(kind, 'severity', '')} | {question(name)} |"
        for name, kind in REGISTRY.items()
    ]
    text = (ROOT / "docs/detectors.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_each_detector_says_what_a_reader_must_know(name: str) -> None:
    """Question, decision rule, parameters, a seeded example and the reference stand in its docstring."""
    text = REGISTRY[name].__doc__ or ""
    assert question(name).endswith("?")
    for part in ("log S = ", "Parameters: ", "Example:", "default_rng(", "Reference"):
        assert part in text, part
