"""Dashboards as code: `python -m grafana` (or `make dashboards`) writes the JSON of dashboards/.

    parts     queries, panels and their thresholds, as the dashboards spell them
    frame     what all dashboards share: variables, links, annotations, and the writing
    fleet     which models need somebody now, worst first
    model     one model: red lines, alarms, quality, traffic
    feature   which feature or segment is behind it
    fairness  whether groups are treated alike
    business  what the decisions are worth, and what watching them costs
    health    whether the agents themselves can be believed

A query names metrics of agent/respond/families.py only, matches `job` and `instance`, and aggregates over
instances: with several agents every model is owned by one, but nobody should have to know which.
"""

import warnings

with warnings.catch_warnings():
    # The library would rather have dashboards of version 2, which Grafana before 13 does not load.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.builders.prometheus  # noqa: F401
