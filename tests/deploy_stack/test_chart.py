from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agent import config
from tests.deploy_stack.tools import DEPLOY, run, tried

CHART = DEPLOY / "helm" / "plumbline"
MODES = ["shared", "sidecar"]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = yaml.safe_load((CHART / "values.schema.json").read_text())
VERSIONS = ["1.29", "1.33", "1.37"]
"""Of Kubernetes: the first with native sidecars by default, the first with stable ones, the newest known."""


def manifests(mode: str) -> list[dict[str, Any]]:
    """The committed manifests of a mode."""
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{mode}.yaml").read_text()))


def pod(mode: str) -> dict[str, Any]:
    """The pod of a mode."""
    found = [m["spec"]["template"]["spec"] for m in manifests(mode) if "template" in m.get("spec", {})]
    assert len(found) == 1
    return dict(found[0])


def agent_of(mode: str) -> dict[str, Any]:
    """The agent's container of a mode."""
    return dict(pod(mode)["containers" if mode == "shared" else "initContainers"][0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_kubernetes(mode: str, version: str) -> None:
    """Every manifest of Kubernetes' own kinds is valid by that version's schema, unknown fields refused."""
    validator = pytest.importorskip(
        "kubernetes_validate", reason="NOT TESTED: pip install kubernetes-validate"
    )
    own = [m for m in manifests(mode) if not m["apiVersion"].startswith("monitoring.coreos.com/")]
    assert len(own) >= 2
    for manifest in own:
        validator.validate(manifest, version, strict=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_config_in_the_manifests_is_one_the_agent_takes(mode: str, tmp_path: Path) -> None:
    """The ConfigMap's file is a valid config whose state lies on the mounted volume."""
    (found,) = [m for m in manifests(mode) if m["kind"] == "ConfigMap"]
    path = tmp_path / "plumbline.yaml"
    path.write_text(found["data"]["plumbline.yaml"])
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in agent_of(mode)["volumeMounts"]}
    assert config.load(path, {}).state.dir.is_relative_to("/var/lib/plumbline")
    assert mounts == {"/etc/plumbline": True, "/var/lib/plumbline": False, "/tmp": False}


@pytest.mark.parametrize("mode", MODES)
def test_the_agent_keeps_to_the_restricted_profile(mode: str) -> None:
    """Non-root, read-only root, no capability, no escalation, a seccomp profile, bounded memory, no token."""
    context = agent_of(mode)["securityContext"]
    assert context["runAsNonRoot"]
    assert context["runAsUser"] == 10001
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "memory" in agent_of(mode)["resources"]["limits"]
    assert pod(mode)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("mode", MODES)
def test_no_probe_depends_on_kafka(mode: str) -> None:
    """Probes ask /livez and /readyz only, which tests of the server and of the image hold free of Kafka."""
    probes = [value["httpGet"]["path"] for name, value in agent_of(mode).items() if name.endswith("Probe")]
    assert probes
    assert set(probes) <= {"/livez", "/readyz"}


def test_the_sidecar_cannot_hold_the_model_back() -> None:
    """A native sidecar: no readiness probe, which is the pod's, no startup probe, which is waited for."""
    sidecar = agent_of("sidecar")
    assert sidecar["restartPolicy"] == "Always"
    assert "readinessProbe" not in sidecar
    assert "startupProbe" not in sidecar
    assert not [m for m in manifests("sidecar") if m["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("mode", MODES)
def test_the_pod_monitor_finds_the_pod(mode: str) -> None:
    """The PodMonitor selects labels that the pod has, and a port that the agent's container names."""
    (monitor,) = [m["spec"] for m in manifests(mode) if m["kind"] == "PodMonitor"]
    (workload,) = [m for m in manifests(mode) if m["kind"] in {"StatefulSet", "Deployment"}]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["podMetricsEndpoints"][0]["port"] in {port["name"] for port in agent_of(mode)["ports"]}


def test_the_chart_names_the_rules_that_are_tested() -> None:
    """The chart's rules are those of deploy/prometheus: a link, no copy that could fall behind."""
    assert (CHART / "files" / "rules.yaml").resolve() == (DEPLOY / "prometheus" / "rules.yaml").resolve()


def test_the_values_fit_their_schema() -> None:
    """The defaults, with the models that everybody must give, are valid; every default is in the schema."""
    jsonschema.validate(VALUES | {"config": {"models": {"m": {}}}}, SCHEMA)
    assert set(VALUES) == set(SCHEMA["properties"]) - {"global"}


@pytest.mark.parametrize(
    "mistake",
    [
        {"config": {}},
        {"mode": "daemon"},
        {"replicas": 3},
        {"image": {"repository": "plumbline", "tag": "latest"}},
        {"image": {"repository": "plumbline", "digest": "sha256:short"}},
        {"config": {"models": {"m": {}}, "kafka": {"sasl_password": "secret"}}},
        {"sidecar": {"example": {"enabled": True, "image": ""}}},
    ],
    ids=["no-models", "mode", "unknown-key", "latest", "digest", "secret", "example-without-image"],
)
def test_mistakes_in_values_are_refused(mistake: dict[str, Any]) -> None:
    """The schema refuses what would deploy something broken or unsafe."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(VALUES | {"config": {"models": {"m": {}}}} | mistake, SCHEMA)


def test_committed_manifests_are_what_the_chart_renders(helm: str, tmp_path: Path) -> None:
    """deploy/kubernetes/render.sh writes the very files that are committed."""
    run("bash", "deploy/kubernetes/render.sh", str(tmp_path))
    for mode in MODES:
        assert (tmp_path / f"{mode}.yaml").read_text() == (DEPLOY / "kubernetes" / f"{mode}.yaml").read_text()


def test_the_chart_renders_the_rules_word_for_word(helm: str) -> None:
    """The PrometheusRule holds the groups of deploy/prometheus/rules.yaml, their templates untouched."""
    (rule,) = render(
        helm, "--set", "prometheusRule.enabled=true", "--show-only", "templates/prometheusrule.yaml"
    )
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())


def test_a_new_config_restarts_the_agent(helm: str) -> None:
    """The pod's checksum changes with the config, and not with what does not concern it."""
    before = checksum(render(helm))
    assert before == checksum(render(helm, "--set", "podMonitor.interval=10s"))
    assert before != checksum(render(helm, "--set", "config.models.credit-risk.step=1m"))


def test_without_a_volume_the_agent_is_a_deployment(helm: str) -> None:
    """persistence.enabled=false gives a Deployment of one that is never two at a time."""
    found = render(helm, "--set", "persistence.enabled=false")
    (workload,) = [m for m in found if "replicas" in m.get("spec", {})]
    assert workload["kind"] == "Deployment"
    assert workload["spec"]["strategy"] == {"type": "Recreate"}
    assert "plumbline-state" in {volume["name"] for volume in workload["spec"]["template"]["spec"]["volumes"]}


def test_a_pod_of_ones_own_can_include_the_sidecar(helm: str, tmp_path: Path) -> None:
    """A chart that depends on this one gets the committed sidecar by `include`, as its README says."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "plumbline").symlink_to(CHART)
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: mine, version: 1.0.0}")
    values = yaml.safe_load((CHART / "ci" / "sidecar-values.yaml").read_text())
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"plumbline": values}))
    (tmp_path / "templates" / "pod.yaml").write_text(
        "kind: Pod\nspec:\n  initContainers:\n"
        '    {{- include "plumbline.sidecar" .Subcharts.plumbline | nindent 4 }}\n'
        "  volumes:\n"
        '    {{- include "plumbline.sidecar.volumes" .Subcharts.plumbline | nindent 4 }}\n'
    )
    given = ["--kube-version", "1.29.0", "--show-only", "templates/pod.yaml"]
    spec = yaml.safe_load(run(helm, "template", "plumbline", str(tmp_path), *given))["spec"]
    assert spec["initContainers"] == [agent_of("sidecar")]
    assert spec["volumes"] == pod("sidecar")["volumes"]


@pytest.mark.parametrize("mode", MODES)
def test_helm_finds_nothing_to_complain_about(helm: str, mode: str) -> None:
    """`helm lint --strict` passes with the values of each mode, and fails without a model."""
    assert tried(helm, "lint", str(CHART)).returncode
    run(helm, "lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{mode}-values.yaml"))


def render(helm: str, *arguments: str) -> list[dict[str, Any]]:
    """What the chart renders with the values of the shared mode and these arguments."""
    values = str(CHART / "ci" / "shared-values.yaml")
    given = ["template", "plumbline", str(CHART), "--kube-version", "1.29.0", "--values", values, *arguments]
    return list(yaml.safe_load_all(run(helm, *given)))


def checksum(found: list[dict[str, Any]]) -> str:
    """Of the config, as the pod bears it."""
    (workload,) = [m for m in found if "replicas" in m.get("spec", {})]
    return str(workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"])
