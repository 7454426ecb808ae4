"""What is watched, what is kept, what is closed: alarms, queues, canaries, data, network."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from tests.infra import stacks
from tests.infra.stacks import INSTALLATIONS, STACK, Stack

CANARY: Final = {
    "ChatFunction",
    "ChatStreamFunction",
    "SessionsFunction",
    "DocumentsFunction",
    "FilesFunction",
    "AccountFunction",
    "AdminFunction",
    "AuthTriggerFunction",
    "PurgeFunction",
}
# What would be lost for good, by its kind.
DATA: Final = {
    "AWS::S3::Bucket": "Retain",
    "AWS::Cognito::UserPool": "Retain",
    "AWS::RDS::DBCluster": "Snapshot",
}


def test_each_alias_moves_in_steps_and_goes_back_when_its_alarm_rings() -> None:
    root, monitoring = stacks.stack("given"), _nested("given", "monitoring")
    groups = root.of_type("AWS::CodeDeploy::DeploymentGroup")
    assert {name.removesuffix("DeploymentGroup") for name in groups} == CANARY
    for name, group in groups.items():
        properties = group["Properties"]
        assert properties["DeploymentConfigName"] == "CodeDeployDefault.LambdaCanary10Percent5Minutes"
        assert "DEPLOYMENT_STOP_ON_ALARM" in properties["AutoRollbackConfiguration"]["Events"]
        (alarm,) = properties["AlarmConfiguration"]["Alarms"]
        output = re.fullmatch(r"<Monitoring\.Outputs\.(\w+)>", alarm["Name"])
        assert output
        alias = root.template["Resources"][name.removesuffix("DeploymentGroup") + "Aliaslive"]
        assert alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"] == {"Ref": name}
        watched = monitoring.resources[monitoring.template["Outputs"][output[1]]["Value"]["Ref"]]
        function = root.resources[name.removesuffix("DeploymentGroup")]["Properties"]["FunctionName"]
        assert f'"Value": "{function}:live"' in json.dumps(watched)


def test_what_is_watched_by_name_has_that_name() -> None:
    """The alarms come before what they watch, so nothing but this test holds the names together."""
    root, monitoring = stacks.stack("whole"), _nested("whole", "monitoring")
    text = json.dumps(monitoring.resources)
    functions = {each["Properties"]["FunctionName"] for each in root.of_type("AWS::Lambda::Function").values()}
    assert _dimension(monitoring, "FunctionName") == functions
    queues = {each["Properties"]["QueueName"] for each in root.of_type("AWS::SQS::Queue").values()}
    assert _dimension(monitoring, "QueueName") == queues
    assert _dimension(monitoring, "ApiName") == {root.resources["StreamApi"]["Properties"]["Name"]}
    (proxy,) = _nested("whole", "network_database").of_type("AWS::RDS::DBProxy").values()
    assert _dimension(monitoring, "ProxyName") == {proxy["Properties"]["DBProxyName"]}
    shown = set(re.findall(rf":alarm:({STACK}-[\w-]+)", text))
    alarms = {
        each["Properties"]["AlarmName"]
        for stack in (root, monitoring)
        for each in stack.of_type("AWS::CloudWatch::Alarm").values()
    }
    assert shown <= alarms


@pytest.mark.parametrize("kind", ["Errors", "Slow", "Throttled"])
def test_each_function_has_an_alarm(kind: str) -> None:
    alarms = _nested("given", "monitoring").of_type("AWS::CloudWatch::Alarm")
    functions = {name.removesuffix("Function") for name in stacks.stack("given").of_type("AWS::Lambda::Function")}
    assert {f"{function}{kind}" for function in functions} <= set(alarms)


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_every_alarm_tells_somebody_and_silence_is_none(installation: str) -> None:
    for each in stacks.all_stacks(installation):
        for name, alarm in each.of_type("AWS::CloudWatch::Alarm").items():
            assert alarm["Properties"]["AlarmActions"], name
            assert alarm["Properties"]["TreatMissingData"] == "notBreaching", name


def test_both_gateways_and_a_proxy_have_alarms() -> None:
    assert "HttpApiServerErrors" in stacks.stack("given").resources
    assert "StreamApiServerErrors" in _nested("given", "monitoring").resources
    assert "PinnedConnectionsHigh" not in _nested("given", "monitoring").resources
    assert "PinnedConnectionsHigh" in _nested("whole", "monitoring").resources


def test_an_answer_of_500_counts_as_an_error_though_the_invocation_succeeds() -> None:
    filters = _nested("given", "monitoring").of_type("AWS::Logs::MetricFilter")
    assert len(filters) == len(CANARY) + 1
    for each in filters.values():
        assert "$.status >= 500" in each["Properties"]["FilterPattern"]


def test_the_dashboard_can_be_read() -> None:
    (dashboard,) = _nested("whole", "monitoring").of_type("AWS::CloudWatch::Dashboard").values()
    widgets = json.loads(dashboard["Properties"]["DashboardBody"])["widgets"]
    assert [widget["type"] for widget in widgets].count("metric") == 4


def test_what_the_schedule_starts_and_what_fails_ends_in_a_queue() -> None:
    root = stacks.stack("given")
    (schedule,) = root.of_type("AWS::Scheduler::Schedule").values()
    target = schedule["Properties"]["Target"]
    assert "Name" not in schedule["Properties"]
    assert target["Arn"] == "<PurgeFunctionAliaslive>"
    assert target["DeadLetterConfig"] == {"Arn": "<UndeliveredSchedules.Arn>"}
    (failures,) = root.of_type("AWS::Lambda::EventInvokeConfig").values()
    assert failures["Properties"]["DestinationConfig"]["OnFailure"]["Destination"] == "<FailedPurges.Arn>"
    assert failures["Properties"]["Qualifier"] == "live"


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_data_outlives_the_stack(installation: str) -> None:
    for each in stacks.all_stacks(installation):
        for logical_id, resource in each.template["Resources"].items():
            if (policy := DATA.get(resource["Type"])) is not None:
                assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == policy, logical_id
    assert stacks.root()["Resources"]["GuestTokenKeys"]["DeletionPolicy"] == "Retain"
    (cluster,) = (
        r for r in stacks.nested()["network_database"]["Resources"].values() if r["Type"] == "AWS::RDS::DBCluster"
    )
    assert cluster["Properties"]["DeletionProtection"] is True


def test_what_is_stored_is_encrypted() -> None:
    for bucket in _nested("whole", "storage").of_type("AWS::S3::Bucket").values():
        rules = bucket["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rules[0]["ServerSideEncryptionByDefault"]["SSEAlgorithm"] in {"AES256", "aws:kms"}
    for queue in stacks.stack("whole").of_type("AWS::SQS::Queue").values():
        assert queue["Properties"]["SqsManagedSseEnabled"] is True
    (cluster,) = _nested("whole", "network_database").of_type("AWS::RDS::DBCluster").values()
    assert cluster["Properties"]["StorageEncrypted"] is True


def test_buckets_are_closed_and_speak_tls_only() -> None:
    storage = _nested("given", "storage")
    for name, bucket in storage.of_type("AWS::S3::Bucket").items():
        assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
        (policy,) = (
            each
            for each in storage.of_type("AWS::S3::BucketPolicy").values()
            if each["Properties"]["Bucket"] == f"<{name}>"
        )
        tls = policy["Properties"]["PolicyDocument"]["Statement"][0]
        assert tls["Effect"] == "Deny"
        assert tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert set(tls["Resource"]) == {f"<{name}.Arn>", f"<{name}.Arn>/*"}


def test_browsers_upload_from_the_allowed_origins_only() -> None:
    (rule,) = _nested("whole", "storage").resources["Files"]["Properties"]["CorsConfiguration"]["CorsRules"]
    assert rule["AllowedOrigins"] == ["https://app.example.com", "https://beta.example.com"]
    assert "PUT" not in rule["AllowedMethods"]


def test_a_password_is_in_no_template() -> None:
    for each in stacks.all_stacks("whole"):
        text = json.dumps(each.template)
        assert "MasterUserPassword" not in text.replace("ManageMasterUserPassword", "")
        assert not re.search(r"postgresql://[^\"]*:[^\"{]+@", text)
        assert not [
            name
            for name, value in each.template["Parameters"].items()
            if "password" in name.lower() and "Arn" not in name
        ]


def test_the_database_is_reached_from_the_functions_and_the_proxy_alone_over_tls() -> None:
    network = _nested("whole", "network_database")
    for rule in network.of_type("AWS::EC2::SecurityGroupIngress").values():
        assert "SourceSecurityGroupId" in rule["Properties"]
        assert rule["Properties"]["FromPort"] == rule["Properties"]["ToPort"] == 5432
    for group in network.of_type("AWS::EC2::SecurityGroup").values():
        assert "SecurityGroupIngress" not in group["Properties"]
    (proxy,) = network.of_type("AWS::RDS::DBProxy").values()
    assert proxy["Properties"]["RequireTLS"] is True
    (parameters,) = network.of_type("AWS::RDS::DBClusterParameterGroup").values()
    assert parameters["Properties"]["Parameters"]["rds.force_ssl"] == "1"
    assert not [
        each for each in network.of_type("AWS::EC2::Subnet").values() if each["Properties"]["MapPublicIpOnLaunch"]
    ]
    assert [each["Properties"]["VpcEndpointType"] for each in network.of_type("AWS::EC2::VPCEndpoint").values()] == [
        "Gateway"
    ]


@pytest.mark.parametrize("installation", ["given", "supabase"])
def test_the_cheap_way_makes_nothing_that_costs_while_idle(installation: str) -> None:
    kinds = {each["Type"] for stack in stacks.all_stacks(installation) for each in stack.resources.values()}
    assert not {kind for kind in kinds if kind.startswith(("AWS::RDS", "AWS::EC2"))}


def test_the_user_pool_calls_the_function_that_it_may_call() -> None:
    root, identity = stacks.stack("given"), _nested("given", "identity")
    name = root.resources["AuthTriggerFunction"]["Properties"]["FunctionName"]
    triggers = identity.resources["UserPool"]["Properties"]["LambdaConfig"]
    arn = f"arn:aws:lambda:{stacks.REGION}:{stacks.ACCOUNT}:function:{name}:live"
    assert triggers == {"PostConfirmation": arn, "PostAuthentication": arn}
    pattern = identity.template["Parameters"]["TriggerArn"]["AllowedPattern"]
    assert re.fullmatch(pattern, arn)
    permission = root.resources["AuthTriggerPermission"]["Properties"]
    assert permission["SourceArn"] == "<Identities.Outputs.UserPoolArn>"
    assert "admin" in {
        each["Properties"]["GroupName"] for each in identity.of_type("AWS::Cognito::UserPoolGroup").values()
    }


def test_one_address_sends_chat_to_the_api_that_streams_and_caches_nothing() -> None:
    (distribution,) = _nested("whole", "edge").of_type("AWS::CloudFront::Distribution").values()
    config = distribution["Properties"]["DistributionConfig"]
    behaviours = [config["DefaultCacheBehavior"], *config["CacheBehaviors"]]
    assert {each.get("PathPattern"): each["TargetOriginId"] for each in behaviours} == {
        None: "http",
        "/api/chat": "stream",
        "/api/chat/*": "stream",
    }
    caching_disabled = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
    assert {each["CachePolicyId"] for each in behaviours} == {caching_disabled}
    assert all("PATCH" in each["AllowedMethods"] for each in behaviours)
    origins = {each["Id"]: each for each in config["Origins"]}
    assert origins["stream"]["OriginPath"] == "/v1"
    # A stream says something every 10 s.
    assert origins["stream"]["CustomOriginConfig"]["OriginReadTimeout"] >= 30


def _nested(installation: str, name: str) -> Stack:
    return next(each for each in stacks.all_stacks(installation) if each.name == name)


def _dimension(stack: Stack, name: str) -> set[Any]:
    return set(re.findall(rf'{{"Name": "{name}", "Value": "([^"]+)"}}', json.dumps(stack.resources)))
