"""Check compose.yaml and the Kubernetes manifests: their schemas, and what this project promises about them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent
KUBERNETES = "1.31"


def compose_problems(path: Path) -> Iterator[str]:
    """What is wrong with a compose file; every service must be locked down and bounded."""
    if find_spec("compose_spec") is None:
        yield from missing("compose-spec", "the compose file's schema is")
    else:
        from compose_spec import PyCompose

        try:
            # The library knows no merge keys: they are resolved first, as compose itself does.
            merged = {key: value for key, value in yaml.safe_load(path.read_text()).items() if not key.startswith("x-")}
            PyCompose.from_yaml(yaml.safe_dump(merged)).validate()
        except ValueError as error:
            yield f"{path.name}: {error}"
    facts = yaml.safe_load(path.read_text())
    for name, service in facts["services"].items():
        for key, wanted in {"read_only": True, "cap_drop": ["ALL"]}.items():
            if service.get(key) != wanted:
                yield f"{path.name}: service {name} has {key} = {service.get(key)!r}, not {wanted!r}"
        for key in ("mem_limit", "pids_limit"):
            if key not in service:
                yield f"{path.name}: service {name} has no {key}"
        for secret in service.get("secrets", []):
            if secret["source"] not in facts["secrets"]:
                yield f"{path.name}: service {name} uses the secret {secret['source']}, which is not declared"


def manifest_problems(path: Path) -> Iterator[str]:
    """What is wrong with a Kubernetes manifest."""
    schema = find_spec("kubernetes_validate") is not None
    if not schema:
        yield from missing("kubernetes-validate", f"the schema of {path.name} is")
    for document in yaml.safe_load_all(path.read_text()):
        name = f"{path.name}: {document['kind']} {document['metadata']['name']}"
        if schema:
            import kubernetes_validate

            try:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: {error.message}"
        if document["kind"] == "StatefulSet":
            yield from pod_problems(name, document["spec"]["template"]["spec"])


def pod_problems(name: str, pod: dict[str, Any]) -> Iterator[str]:
    """What a pod lacks: no root, a read-only root, no capabilities, limits, probes."""
    if pod.get("securityContext", {}).get("runAsNonRoot") is not True:
        yield f"{name}: runs as root"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        where, context = f"{name}, container {container['name']}", container.get("securityContext", {})
        if context.get("readOnlyRootFilesystem") is not True or context.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: its root is writable, or it may gain rights"
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{where}: keeps capabilities"
        if not {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys():
            yield f"{where}: has no limits"
    for container in pod["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"{name}, container {container['name']}: has no {probe}"


def missing(package: str, what: str) -> Iterator[str]:
    """A schema that cannot be checked here: a line, and a problem only if everything was asked for."""
    text = f"{package} is not installed, so {what} not checked"
    print(f"skipped: {text}")
    if os.environ.get("AMGT_CHECK_ALL"):
        yield text


def main() -> int:
    """Print the problems; returns the exit code."""
    problems = list(compose_problems(DEPLOY / "compose.yaml"))
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        problems += manifest_problems(path)
    print("\n".join(problems) or "compose file and manifests: nothing to object")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
