"""Write the JSON of all dashboards: `python -m grafana`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grafana import business, fairness, feature, fleet, health, model

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> Mapping[str, dict[str, Any]]:
    """Every dashboard by its uid."""
    built = [page.dashboard() for page in (fleet, model, feature, fairness, business, health)]
    return {one["uid"]: one for one in built}


def text(one: Mapping[str, Any]) -> str:
    """As it is committed."""
    return json.dumps(one, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for uid, one in dashboards().items():
        (FOLDER / f"{uid}.json").write_text(text(one), "utf-8")
    print(f"{len(dashboards())} dashboards in {FOLDER}")


if __name__ == "__main__":
    main()
