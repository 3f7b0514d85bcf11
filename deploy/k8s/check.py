"""Whether the manifests agree with each other, with the configuration in them, with the image and with the rules.

Policies are another tool's work (scripts/manifests). This asks Kubernetes' schemas, and finds what is valid by itself
and wrong together: a grace period shorter than the drain, a probe where nobody listens, a secret without its key.

    check.py [--tidegate BINARY] [--crds FOLDER] NAME=RENDERED.yaml ...

Prints each fault and exits 1 if there is one. With --tidegate the configurations are put to `tidegate check`; into
FOLDER goes what is for the Prometheus operator, for crds.mjs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
SECRETS = "/run/secrets/tidegate/"
# The oldest that knows every field used here, one in wide use, the newest there is a schema of.
KUBERNETES = ["1.31", "1.32", "1.37"]
LABEL = {"app.kubernetes.io/name": "tidegate"}
ALWAYS = set(
    "ConfigMap/tidegate-config Deployment/tidegate Namespace/tidegate NetworkPolicy/tidegate Service/tidegate"
    " Service/tidegate-admin ServiceAccount/tidegate".split()
)
OF_SEVERAL = {"HorizontalPodAutoscaler/tidegate", "PodDisruptionBudget/tidegate"}
MONITORING = {"ServiceMonitor/tidegate", "PrometheusRule/tidegate"}
# What an API server would drop in silence, because it is not in the operator's definitions.
MONITOR_FIELDS = {"jobLabel", "selector", "endpoints"}
ENDPOINT_FIELDS = {"port", "path", "interval", "scrapeTimeout"}
RULE_FIELDS = {"record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"}

faults = []


def demand(holds, fault):
    if not holds:
        faults.append(fault)


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def drain(config):
    """From SIGTERM to the last answer, with the defaults where the file is silent."""
    listen = config.get("listen", {})
    return seconds(listen.get("drain_grace", "5s")) + seconds(listen.get("drain_timeout", "60s"))


def walk(value):
    """Every mapping and every text in a document."""
    if isinstance(value, dict | str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from walk(inner)


def files(config):
    """The names of the secrets that the configuration reads as files."""
    return {
        found["file"].removeprefix(SECRETS)
        for found in walk(config)
        if isinstance(found, dict) and set(found) == {"file"}
    }


def schema(name, documents):
    """Whether Kubernetes knows every field; what is wrong otherwise is looked for after that."""
    before = len(faults)
    for document in documents:
        for version in KUBERNETES if not document["apiVersion"].startswith("monitoring.coreos.com/") else []:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                demand(False, f"{name}: {document['kind']}, by the schema of {version}: {error.message}")
    return len(faults) == before


class Rendering:
    """One kustomization, rendered."""

    def __init__(self, name, documents):
        self.name = name
        self.documents = documents
        self.by_name = {f"{document['kind']}/{document['metadata']['name']}": document for document in self.documents}
        self.maps = {d["metadata"]["name"]: d["data"] for d in self.documents if d["kind"] == "ConfigMap"}
        if "tidegate-config" not in self.maps:
            sys.exit(
                f"manifests: {name}: no ConfigMap tidegate-config: with a hash in its name a change rolls the pods"
            )
        self.config = yaml.safe_load(self.maps["tidegate-config"]["tidegate.yaml"])
        self.deployment = self.spec("Deployment/tidegate")
        self.labels = self.deployment["template"]["metadata"]["labels"]
        self.pod = self.deployment["template"]["spec"]
        [self.container] = self.pod["containers"]
        self.ports = {entry["name"]: entry["containerPort"] for entry in self.container["ports"]}
        # What the container's environment is, as far as the manifests say it.
        self.variables = {entry["name"]: entry.get("value", "") for entry in self.container["env"]}
        for entry in self.container["env"]:
            if entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") == "metadata.name":
                self.variables[entry["name"]] = "tidegate-0"
        for source in self.container.get("envFrom", []):
            self.variables |= self.maps[source["configMapRef"]["name"]]

    def spec(self, name):
        return self.by_name[name]["spec"]

    def demand(self, holds, fault):
        demand(holds, f"{self.name}: {fault}")

    def check(self, secret_keys, version):
        self.kinds()
        self.time()
        self.listening()
        self.network()
        self.selectors()
        self.numbers()
        self.configuration()
        self.secrets(secret_keys)
        self.rights()
        image, _, tag = self.container["image"].rpartition(":")
        self.demand(image and tag == version, f"the image is {self.container['image']}, the version {version}")
        if "monitoring" in self.name:
            self.monitoring()

    def kinds(self):
        single, monitored = "single-node" in self.name, "monitoring" in self.name
        due = ALWAYS | (set() if single else OF_SEVERAL) | (MONITORING if monitored else set())
        # Its name ends in a hash.
        found = {name for name in self.by_name if not name.startswith("ConfigMap/tidegate-start-")}
        self.demand(found == due, f"too much: {sorted(found - due)}, lacking: {sorted(due - found)}")
        for document in self.documents:
            if document["kind"] != "Namespace":
                namespace = document["metadata"].get("namespace")
                self.demand(namespace == "tidegate", f"{document['kind']} is in the namespace {namespace}")

    def time(self):
        sleep = self.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace, due = self.pod["terminationGracePeriodSeconds"], sleep + drain(self.config) + 10
        self.demand(grace == due, f"terminationGracePeriodSeconds is {grace}, preStop, drain and 10 s are {due:g}")

    def listening(self):
        for name, section in {"http": "listen", "admin": "admin"}.items():
            host, _, port = self.config[section]["address"].rpartition(":")
            self.demand(
                self.ports[name] == int(port), f"port {name} is {self.ports[name]}, {section}.address has {port}"
            )
            self.demand(
                host in ("0.0.0.0", "[::]"), f"{section}.address {host} cannot be reached from outside of the pod"
            )
        for probe, path in {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}.items():
            asked = self.container[f"{probe}Probe"]["httpGet"]
            self.demand(asked == {"path": path, "port": "admin"}, f"the {probe} probe asks {asked}")
        for service, target in {"tidegate": "http", "tidegate-admin": "admin"}.items():
            targets = [entry["targetPort"] for entry in self.spec(f"Service/{service}")["ports"]]
            self.demand(targets == [target], f"service {service} leads to {targets}")

    def network(self):
        policy = self.spec("NetworkPolicy/tidegate")
        let_in = [[entry["port"] for entry in rule["ports"]] for rule in policy["ingress"]]
        self.demand(let_in == [[self.ports["http"]], [self.ports["admin"]]], f"the network policy lets in {let_in}")
        let_out = {entry["port"] for rule in policy["egress"] for entry in rule["ports"]}
        store = self.config.get("store", {}).get("url", "")
        for name, value in self.variables.items():
            store = store.replace(f"${{{name}}}", value)
        asked = {53, 443} | {int(port) for port in re.findall(r":(\d+)(?=[,/]|$)", store)}
        self.demand(asked <= let_out, f"the network policy does not let out {sorted(asked - let_out)}")

    def selectors(self):
        selectors = [self.deployment["selector"], self.spec("NetworkPolicy/tidegate")["podSelector"]]
        selectors += [entry["labelSelector"] for entry in self.pod.get("topologySpreadConstraints", [])]
        apart = self.pod.get("affinity", {}).get("podAntiAffinity", {})
        selectors += [
            entry["labelSelector"] for entry in apart.get("requiredDuringSchedulingIgnoredDuringExecution", [])
        ]
        if "PodDisruptionBudget/tidegate" in self.by_name:
            selectors.append(self.spec("PodDisruptionBudget/tidegate")["selector"])
        selectors += [
            {"matchLabels": self.spec(f"Service/{name}")["selector"]} for name in ("tidegate", "tidegate-admin")
        ]
        self.demand(LABEL.items() <= self.labels.items(), f"the pods' labels are {self.labels}")
        self.demand(all(selector == {"matchLabels": LABEL} for selector in selectors), f"not all selectors are {LABEL}")

    def numbers(self):
        rolling = self.deployment["strategy"]["rollingUpdate"]
        self.demand(rolling == {"maxUnavailable": 0, "maxSurge": 1}, f"a rollout may take {rolling}")
        if "single-node" in self.name:
            self.demand(self.deployment["replicas"] == 1, "several nodes, and no store to share")
            return
        least = self.spec("HorizontalPodAutoscaler/tidegate")["minReplicas"]
        replicas, expected = (
            self.deployment.get("replicas", least),
            self.config.get("store", {}).get("expected_nodes", least),
        )
        self.demand(replicas == expected == least >= 3, f"nodes: {replicas}, expected {expected}, at least {least}")
        may_go = self.spec("PodDisruptionBudget/tidegate")["maxUnavailable"]
        self.demand(may_go == 1, f"the disruption budget lets {may_go} go")

    def mounted(self, folder):
        """The volume at a folder."""
        [mount] = [
            mount for mount in self.container["volumeMounts"] if mount["mountPath"].rstrip("/") == folder.rstrip("/")
        ]
        self.demand("subPath" not in mount, f"{folder} is mounted by subPath, and never changes")
        return next(volume for volume in self.pod["volumes"] if volume["name"] == mount["name"])

    def configuration(self):
        serve, option, path = self.container["args"]
        self.demand((serve, option) == ("serve", "--config"), f"args are {self.container['args']}")
        name = self.mounted(str(Path(path).parent))["configMap"]["name"]
        self.demand(name == "tidegate-config", f"{path} is of {name}")

    def secrets(self, keys):
        secret, rights = self.mounted(SECRETS)["secret"], self.pod["securityContext"]
        self.demand(secret["secretName"] == "tidegate", f"the secret is called {secret['secretName']}")
        readable = secret["defaultMode"] == 0o440 and rights["fsGroup"] == rights["runAsGroup"]
        self.demand(readable, "secrets are for the node's group, and for nobody else")
        given = {}
        for entry in self.container["env"]:
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                given[entry["name"]] = reference["key"]
        lacking = (files(self.config) | set(given.values())) - keys
        self.demand(not lacking, f"secret.example.yaml has no {sorted(lacking)}")
        for found in walk(self.config):
            if isinstance(found, dict) and set(found) == {"env"}:
                self.demand(found["env"] in given, f"the container has no secretKeyRef for {found}")
            elif isinstance(found, str):
                for variable, default in re.findall(r"\$\{(\w+)(:-)?", found):
                    self.demand(default or variable in self.variables, f"${{{variable}}} is not set")

    def rights(self):
        """The `restricted` level that the namespace enforces, which the linter does not ask in full."""
        pod, container = self.pod["securityContext"], self.container["securityContext"]
        has = {
            "runAsNonRoot": pod["runAsNonRoot"],
            "seccompProfile": pod["seccompProfile"] == {"type": "RuntimeDefault"},
            "allowPrivilegeEscalation": not container["allowPrivilegeEscalation"],
            "readOnlyRootFilesystem": container["readOnlyRootFilesystem"],
            "capabilities": container["capabilities"] == {"drop": ["ALL"]},
            "automountServiceAccountToken": not self.pod["automountServiceAccountToken"],
            "no host's own": not {"hostNetwork", "hostPID", "hostIPC"} & set(self.pod),
        }
        self.demand(
            all(has.values()), f"more rights than it needs: {[name for name, holds in has.items() if not holds]}"
        )

    def monitoring(self):
        monitor, groups = self.spec("ServiceMonitor/tidegate"), self.spec("PrometheusRule/tidegate")["groups"]
        rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())["groups"]
        self.demand(
            groups == rules, "PrometheusRule differs from deploy/prometheus/rules.yaml: scripts/manifests --write"
        )
        selected = [
            name
            for name, document in self.by_name.items()
            if document["kind"] == "Service"
            and monitor["selector"]["matchLabels"].items() <= document["metadata"]["labels"].items()
        ]
        self.demand(selected == ["Service/tidegate-admin"], f"the ServiceMonitor selects {selected}")
        self.demand(
            [entry["port"] for entry in monitor["endpoints"]] == ["admin"], "the ServiceMonitor asks another port"
        )
        # The rules say job="tidegate".
        job = self.by_name["Service/tidegate-admin"]["metadata"]["labels"].get(monitor["jobLabel"])
        self.demand(job == "tidegate", f"the job would be called {job}")
        unknown = set(monitor) - MONITOR_FIELDS
        unknown |= {key for endpoint in monitor["endpoints"] for key in endpoint} - ENDPOINT_FIELDS
        unknown |= {key for group in groups for rule in group["rules"] for key in rule} - RULE_FIELDS
        self.demand(not unknown, f"for the Prometheus operator there is no {sorted(unknown)}")

    def tidegate_check(self, binary):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(self.maps["tidegate-config"]["tidegate.yaml"])
            file.flush()
            done = subprocess.run(
                [binary, "check", "--config", file.name], env=self.variables, capture_output=True, text=True
            )
        # The secrets are not here; that is all there is to warn of.
        said = [line for line in done.stderr.splitlines() if f"the file `{SECRETS}" not in line]
        self.demand(done.returncode == 0 and not said, "\n".join(["tidegate check says", *said]))


def image(rendering, version):
    """The image against the pod that runs it."""
    text = (ROOT / "deploy/docker/Dockerfile").read_text().replace("\\\n", " ")
    said = dict(re.findall(r"^(\w+) (.*)$", text[text.rindex("\nFROM ") :], re.M))
    rights = rendering.pod["securityContext"]
    due = {
        "USER": f"{rights['runAsUser']}:{rights['runAsGroup']}",
        "EXPOSE": " ".join(map(str, rendering.ports.values())),
        "CMD": json.dumps(rendering.container["args"]),
    }
    for instruction, rest in due.items():
        demand(said[instruction] == rest, f"Dockerfile: {instruction} {said[instruction]}, the pod has {rest}")
    demand(f'image.version="{version}"' in said["LABEL"], f"Dockerfile: the label's version is not {version}")


def unit(config):
    text = (ROOT / "deploy/systemd/tidegate.service").read_text()
    stop, due = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)[1]), drain(config) + 10
    demand(stop == due, f"tidegate.service: TimeoutStopSec is {stop}, drain and 10 s are {due:g}")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--tidegate")
    options.add_argument("--crds", type=Path)
    options.add_argument("renderings", nargs="+", metavar="NAME=RENDERED.yaml")
    given = options.parse_args()

    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    example = yaml.safe_load((ROOT / "deploy/k8s/secret.example.yaml").read_text())
    schema("secret.example.yaml", [example])
    keys, used = set(example["stringData"]), set()
    for name, path in (entry.split("=", 1) for entry in given.renderings):
        documents = [document for document in yaml.safe_load_all(Path(path).read_text()) if document]
        if not schema(name, documents):
            continue
        rendering = Rendering(name, documents)
        rendering.check(keys, version)
        used |= files(rendering.config)
        if name == "base":
            image(rendering, version)
            unit(rendering.config)
        if given.tidegate:
            rendering.tidegate_check(given.tidegate)
        if given.crds:
            foreign = [
                document for document in rendering.documents if "monitoring.coreos.com/" in document["apiVersion"]
            ]
            (given.crds / f"{name}.monitoring.json").write_text(json.dumps(foreign))
    demand(faults or keys == used, f"secret.example.yaml: nothing uses {sorted(keys - used)}")
    for fault in faults:
        print(f"manifests: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


main()
