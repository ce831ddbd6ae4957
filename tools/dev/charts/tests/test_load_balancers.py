"""The gateway behind an ALB, an NLB, or nothing."""

from __future__ import annotations

import pytest

from tools.dev.charts.kubernetes import validate
from tools.dev.charts.testing import of_kind
from tools.dev.charts.workspace import Workspace

pytestmark = pytest.mark.charts


@pytest.mark.parametrize("certificate", ["", "arn:aws:acm:eu-west-1:123456789012:certificate/x"])
@pytest.mark.parametrize("host", ["", "md.example.com"])
def test_an_alb_asks_the_admin_port_for_readiness_and_sends_to_pods(
    workspace: Workspace, host: str, certificate: str
) -> None:
    objects = workspace.render(
        "gateway",
        settings={
            "loadBalancer.profile": "alb",
            "loadBalancer.host": host,
            "loadBalancer.certificateArn": certificate,
        },
    )
    assert validate(objects, "1.33").problems == []
    (ingress,) = of_kind(objects, "Ingress").values()
    marks = ingress["metadata"]["annotations"]
    assert marks["alb.ingress.kubernetes.io/target-type"] == "ip"
    assert marks["alb.ingress.kubernetes.io/healthcheck-port"] == "traffic-port"
    assert marks["alb.ingress.kubernetes.io/healthcheck-path"] == "/readyz"
    assert ("HTTPS" in str(marks)) == bool(certificate)
    (rule,) = ingress["spec"]["rules"]
    assert rule.get("host", "") == host
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] in of_kind(objects, "Service")


def test_a_load_balancer_asks_the_clients_port_and_nobody_outside_reaches_admin(
    workspace: Workspace,
) -> None:
    def may_reach(port: str, **settings: str) -> set[str]:
        objects = workspace.render("gateway", settings=settings)
        (policy,) = of_kind(objects, "NetworkPolicy").values()
        return {
            peer["ipBlock"]["cidr"]
            for rule in policy["spec"]["ingress"]
            if {"port": port} in rule["ports"]
            for peer in rule["from"]
            if "ipBlock" in peer
        }

    clients = {"networkPolicy.clientCidrs": "{203.0.113.0/24}"}
    balancer = {"loadBalancer.profile": "alb", "networkPolicy.healthCheckCidrs": "{10.0.1.0/24}"}
    assert may_reach("http", **clients, **balancer) == {"203.0.113.0/24", "10.0.1.0/24"}
    assert may_reach("http", **clients) == {"203.0.113.0/24"}
    assert may_reach("admin", **clients, **balancer) == set()
    assert may_reach("admin", **clients) == set()


def test_a_load_balancer_can_be_for_some_only(workspace: Workspace) -> None:
    ranges = ["198.51.100.0/24", "2001:db8::/32"]
    settings = {
        "loadBalancer.sourceCidrs": f"{{{','.join(ranges)}}}",
        "loadBalancer.deregistrationDelaySeconds": "300",
        "drain.preStopSeconds": "120",
    }
    alb = workspace.render("gateway", settings={**settings, "loadBalancer.profile": "alb"})
    nlb = workspace.render("gateway", settings={**settings, "loadBalancer.profile": "nlb"})
    assert validate([*alb, *nlb], "1.33").problems == []
    (ingress,) = of_kind(alb, "Ingress").values()
    marks = ingress["metadata"]["annotations"]
    assert marks["alb.ingress.kubernetes.io/inbound-cidrs"] == ",".join(ranges)
    service = of_kind(nlb, "Service")["market-data-gateway"]
    assert service["spec"]["loadBalancerSourceRanges"] == ranges


def test_an_nlb_is_the_service_itself(workspace: Workspace) -> None:
    objects = workspace.render(
        "gateway",
        settings={
            "loadBalancer.profile": "nlb",
            "loadBalancer.certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/x",
            "drain.preStopSeconds": "120",
            "loadBalancer.deregistrationDelaySeconds": "240",
        },
    )
    assert validate(objects, "1.33").problems == []
    assert of_kind(objects, "Ingress") == {}
    service = of_kind(objects, "Service")["market-data-gateway"]
    assert service["spec"]["loadBalancerClass"] == "service.k8s.aws/nlb"
    assert [port["port"] for port in service["spec"]["ports"]] == [443]
    attributes = service["metadata"]["annotations"][
        "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes"
    ]
    assert attributes == "deregistration_delay.timeout_seconds=240"
