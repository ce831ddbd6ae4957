"""What the IAM policies in `deploy/iam` say: single actions, on our table and bucket alone."""

from __future__ import annotations

import re

import pytest

from services.common.settings import AwsSettings, CommonSettings
from services.ingestor.settings import Settings as IngestorSettings
from services.normalizer.settings import NormalizerSettings
from tests.deployment.policies import IAM, ROLES, ROOT, VALUES, Call, allowing, as_list, document


@pytest.mark.parametrize("role", ROLES)
def test_a_policy_names_single_actions_on_this_table_and_this_bucket(role: str) -> None:
    policy = document(role)
    assert policy["Version"] == "2012-10-17"
    sids = [one["Sid"] for one in policy["Statement"]]
    assert len(set(sids)) == len(sids)
    for one in policy["Statement"]:
        assert one.keys() == {"Sid", "Effect", "Action", "Resource"}
        assert one["Effect"] == "Allow"
        assert re.fullmatch("[A-Za-z0-9]+", one["Sid"])
        assert not any("*" in action or "Create" in action for action in as_list(one["Action"]))
        for resource in as_list(one["Resource"]):
            assert resource.endswith(("table/test-latest", ":::test-archive")) or re.fullmatch(
                r"arn:aws:s3:::test-archive/[a-z]+/\*", resource
            )


def test_readers_write_nothing() -> None:
    for role in ("gateway", "operator"):
        for one in document(role)["Statement"]:
            for action in as_list(one["Action"]):
                assert re.match(r"\w+:(Get|BatchGet|List|Describe)", action)


def test_there_are_no_other_policies_and_the_other_services_know_no_stores() -> None:
    trust = {"trust-irsa", "trust-pod-identity"}
    assert {file.stem for file in IAM.glob("*.json")} == {*ROLES, *trust}
    for settings in (IngestorSettings, NormalizerSettings):
        assert not issubclass(settings, AwsSettings)
        assert issubclass(settings, CommonSettings)


@pytest.mark.parametrize("service", ["snapshotter", "gateway"])
def test_a_role_is_for_one_service_account_of_one_cluster(service: str) -> None:
    account = f"market-data-{service}"
    # The name that the chart gives it.
    assert (
        f"kind: ServiceAccount\nmetadata:\n  name: {account}\n"
        in (ROOT / "k8s" / f"{service}.yaml").read_text()
    )
    (irsa,) = document("trust-irsa", SERVICE_ACCOUNT=account)["Statement"]
    assert irsa["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert irsa["Condition"]["StringEquals"] == {
        f"{VALUES['OIDC_PROVIDER']}:aud": "sts.amazonaws.com",
        f"{VALUES['OIDC_PROVIDER']}:sub": f"system:serviceaccount:market-data:{account}",
    }
    (pods,) = document("trust-pod-identity", SERVICE_ACCOUNT=account)["Statement"]
    assert pods["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert pods["Condition"]["StringEquals"] == {
        "aws:RequestTag/eks-cluster-name": "main",
        "aws:RequestTag/kubernetes-namespace": "market-data",
        "aws:RequestTag/kubernetes-service-account": account,
    }


def test_an_operation_on_something_else_is_not_allowed() -> None:
    """The evaluation above is able to refuse."""
    statements = document("snapshotter")["Statement"]
    bucket = "arn:aws:s3:::test-archive"
    for call in (
        Call("PutObject", "s3:PutObject", f"{bucket}/elsewhere/x"),
        Call("PutObject", "s3:PutObject", "arn:aws:s3:::another/ticks/x"),
        Call("DeleteObjects", "s3:DeleteObject", f"{bucket}/index/v=1/log=raw/1.json.gz"),
        Call("DeleteBucket", "s3:DeleteBucket", bucket),
        Call("Scan", "dynamodb:Scan", "arn:aws:dynamodb:us-east-1:111122223333:table/test-latest"),
    ):
        assert allowing(call, statements) == []
