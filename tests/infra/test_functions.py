"""The functions as they would be deployed: environment, rights, time, logs, and who reaches them."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, Final

import pytest

from tests.infra import stacks
from tests.infra.stacks import INSTALLATIONS, ROOT, STACK
from threadkeep.health import NO_FILE
from threadkeep.settings import Settings

STREAM_SECONDS: Final = 900
# The longest that API Gateway waits for an answer that is not a stream.
GATEWAY_SECONDS: Final = 30

# What the environment leaves at its default, each with its reason.
AT_DEFAULT: Final = {
    "database_pool_size": "an environment answers one request at a time",
    "max_body_bytes": "the default is below what Lambda takes",
    "files_directory": "of the local system",
    "files_signing_key": "of the local system",
    "trusted_proxy": "the APIs can be reached beside CloudFront, so the word of no proxy is taken",
    "delete_identities": "deleting an account means all of it; switched off by an issuer without a key",
}
# What others than the settings class read.
READ_ELSEWHERE: Final = {
    "AWS_LAMBDA_EXEC_WRAPPER": "Lambda",
    "AWS_LWA_ASYNC_INIT": "Lambda Web Adapter",
    "AWS_LWA_INVOKE_MODE": "Lambda Web Adapter",
    "AWS_LWA_PORT": "Lambda Web Adapter and run.sh",
    "AWS_LWA_READINESS_CHECK_PATH": "Lambda Web Adapter",
    "DATABASE_HOST": "the reading of a database's secret",
    "DATABASE_NAME": "the reading of a database's secret",
    "MIGRATION_DATABASE_URL_SECRET_ARN": "the migrations",
    "API_DATABASE_PASSWORD_SECRET_ARN": "the migrations",
}
# What the nested stacks would give back.
OUTPUTS: Final = {
    "<Identities.Outputs.Issuer>": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI",
    "<Identities.Outputs.ClientId>": "1h57kf5cpq17m0eml12EXAMPLE",
    "<Storage.Outputs.FilesBucket>": "threadkeep-files-1a2b3c",
    "<NetworkDatabase.Outputs.ApiSecretArn>": stacks.SECRET_ARN + "api-AbCdEf",
    "<NetworkDatabase.Outputs.OwnerSecretArn>": stacks.SECRET_ARN + "owner-AbCdEf",
    "<NetworkDatabase.Outputs.ProxyEndpoint>": "threadkeep.proxy-abc.eu-central-1.rds.amazonaws.com",
    "<NetworkDatabase.Outputs.DatabaseEndpoint>": "threadkeep.cluster-abc.eu-central-1.rds.amazonaws.com",
    "<GuestTokenKeys>": stacks.SECRET_ARN + "guests-AbCdEf",
    "<PurgeFunctionAliaslive>": f"arn:aws:lambda:eu-central-1:123456789012:function:{STACK}-purge:live",
}
LOG: Final = {"logs:CreateLogStream", "logs:PutLogEvents"}
SECRETS: Final = {"secretsmanager:GetSecretValue"}
LISTED: Final = {"s3:ListBucket"}
DELETES_IDENTITIES: Final = {"cognito-idp:ListUsers", "cognito-idp:AdminDeleteUser"}
RIGHTS: Final[dict[str, set[str]]] = {
    "ChatFunction": LOG | SECRETS | LISTED | {"s3:GetObject", "s3:PutObject"},
    "ChatStreamFunction": LOG | SECRETS | LISTED | {"s3:GetObject", "s3:PutObject"},
    "SessionsFunction": LOG | SECRETS,
    "DocumentsFunction": LOG | SECRETS,
    "FilesFunction": LOG | SECRETS | LISTED | {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"},
    "AccountFunction": LOG | SECRETS | DELETES_IDENTITIES,
    "AdminFunction": LOG | SECRETS | LISTED | {"lambda:InvokeFunction", "s3:GetObject"},
    "AuthTriggerFunction": LOG | SECRETS,
    "PurgeFunction": LOG | SECRETS | DELETES_IDENTITIES | {"s3:DeleteObject", "sqs:SendMessage"},
    "MigrateFunction": LOG | SECRETS,
}
DATABASE, GUESTS, MIGRATION = "DatabaseUrlSecretArn", "GuestTokenKeys", "MigrationDatabaseUrlSecretArn"
MODELS: Final = {"OpenAiApiKeySecretArn", "AnthropicApiKeySecretArn", "GeminiApiKeySecretArn"}
READABLE_SECRETS: Final[dict[str, set[str]]] = {
    "ChatFunction": {DATABASE, GUESTS, "IssuerSecretArn", "OtlpHeadersSecretArn", "ToolSecretsArn", "people/*"}
    | MODELS,
    "ChatStreamFunction": {DATABASE, GUESTS, "IssuerSecretArn", "OtlpHeadersSecretArn", "ToolSecretsArn", "people/*"}
    | MODELS,
    "SessionsFunction": {DATABASE, GUESTS, "IssuerSecretArn"},
    "DocumentsFunction": {DATABASE, GUESTS, "IssuerSecretArn"},
    "FilesFunction": {DATABASE, GUESTS, "IssuerSecretArn"},
    "AccountFunction": {DATABASE, GUESTS, "IssuerSecretArn", "SupabaseServiceRoleKeySecretArn"},
    "AdminFunction": {DATABASE, GUESTS, "IssuerSecretArn"},
    "AuthTriggerFunction": {DATABASE, "AuthHookSecretArn"},
    "PurgeFunction": {DATABASE, "SupabaseServiceRoleKeySecretArn"},
    "MigrateFunction": {MIGRATION, "ApiDatabasePasswordSecretArn"},
}
# AWS's own, which hold what has no resource to name: network interfaces, and CodeDeploy's work on aliases.
MANAGED_POLICIES: Final = {
    "arn:aws:iam::aws:policy/service-role/AWSLambdaENIManagementAccess",
    "arn:aws:iam::aws:policy/service-role/AWSCodeDeployRoleForLambda",
}


def test_the_functions_are_those_that_were_agreed() -> None:
    assert set(_functions("given")) == set(RIGHTS)


@pytest.mark.parametrize("installation", INSTALLATIONS)
@pytest.mark.parametrize("function", sorted(set(RIGHTS) - {"MigrateFunction"}))
def test_the_environment_is_whole(function: str, installation: str) -> None:
    """The settings class reads what this function would get, so a missing or wrong variable is named here."""
    settings = Settings.load(_environment(function, installation))
    assert settings.environment == "production"
    assert settings.allowed_origins
    assert len(settings.auth_issuers) == 1
    assert settings.guest_token_keys is not None


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_every_setting_is_given_or_left_at_its_default_for_a_reason(installation: str) -> None:
    given = set().union(*(_environment(function, installation) for function in RIGHTS))
    missing = {
        name
        for name in Settings.model_fields
        if name not in AT_DEFAULT and not {name.upper(), f"{name.upper()}_SECRET_ARN"} & given
    }
    assert missing == set()


def test_no_variable_is_one_that_nobody_reads() -> None:
    known = {name.upper() for name in Settings.model_fields}
    known |= {f"{name}_SECRET_ARN" for name in known} | set(READ_ELSEWHERE)
    for function in RIGHTS:
        assert set(_environment(function, "whole")) - known == set()


def test_the_migrations_connect_directly_and_as_the_owner() -> None:
    environment = _environment("MigrateFunction", "whole")
    assert environment["MIGRATION_DATABASE_URL_SECRET_ARN"] == OUTPUTS["<NetworkDatabase.Outputs.OwnerSecretArn>"]
    assert environment["DATABASE_HOST"] == OUTPUTS["<NetworkDatabase.Outputs.DatabaseEndpoint>"]
    assert _environment("ChatFunction", "whole")["DATABASE_HOST"] == OUTPUTS["<NetworkDatabase.Outputs.ProxyEndpoint>"]


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_an_environment_fits_into_what_lambda_takes(installation: str) -> None:
    for function in RIGHTS:
        environment = _environment(function, installation)
        assert sum(len(name) + len(value) for name, value in environment.items()) < 4096


def test_a_handler_is_where_the_code_is() -> None:
    for function, resource in _functions("given").items():
        handler = resource["Properties"]["Handler"]
        if function == "ChatStreamFunction":
            assert handler == "run.sh"
        else:
            folder = re.sub(r"(?<=.)([A-Z])", r"_\1", function.removesuffix("Function")).lower()
            assert handler == f"functions.{folder}.app.handler"
        assert resource["Properties"]["Runtime"] == "python3.13"
        assert stacks.root()["Resources"][function]["Metadata"] == {"BuildMethod": "makefile"}


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_one_processor_for_functions_layers_and_the_web_adapter(architecture: str) -> None:
    parameters = stacks.values(stacks.root(), stacks.GIVEN | {"Architecture": architecture})
    stack = stacks.Stack("root", stacks.translated("given"), parameters)
    for function in stack.of_type("AWS::Lambda::Function").values():
        assert function["Properties"]["Architectures"] == [architecture]
    for layer in stack.of_type("AWS::Lambda::LayerVersion").values():
        assert layer["Properties"]["CompatibleArchitectures"] == [architecture]
    adapter = stack.resources["ChatStreamFunction"]["Properties"]["Layers"][-1]
    assert (
        adapter.split(":")[-2] == {"arm64": "LambdaAdapterLayerArm64", "x86_64": "LambdaAdapterLayerX86"}[architecture]
    )


def test_only_chat_carries_the_agents() -> None:
    for function, resource in _functions("given").items():
        layers = [re.sub(r"[0-9a-f]{10}>$", "", layer) for layer in resource["Properties"]["Layers"]]
        expected = ["<CoreLayer", "<AgentsLayer"] if "Chat" in function else ["<CoreLayer"]
        assert layers[: len(expected)] == expected
        assert len(layers) == len(expected) + (function == "ChatStreamFunction")


def test_each_function_has_the_time_that_its_work_takes() -> None:
    seconds = {name: resource["Properties"]["Timeout"] for name, resource in _functions("given").items()}
    # Behind the HTTP API a turn that takes longer than the gateway waits goes on all the same.
    assert seconds["ChatStreamFunction"] == seconds["ChatFunction"] == STREAM_SECONDS
    assert seconds["MigrateFunction"] == 900
    assert seconds["PurgeFunction"] == 300
    others = set(seconds) - {"ChatStreamFunction", "ChatFunction", "MigrateFunction", "PurgeFunction"}
    assert {seconds[name] for name in others} == {GATEWAY_SECONDS}


def test_chat_really_streams() -> None:
    paths = stacks.stack("given").resources["StreamApi"]["Properties"]["Body"]["paths"]
    assert set(paths) == {"/api/chat", "/api/chat/{proxy+}"}
    for operations in paths.values():
        integration = operations["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]
        assert integration["responseTransferMode"] == "STREAM"
        assert integration["uri"].endswith("<ChatStreamFunctionAliaslive>/response-streaming-invocations")
        assert integration["timeoutInMillis"] == STREAM_SECONDS * 1000
    environment = _environment("ChatStreamFunction", "given")
    assert environment["AWS_LWA_INVOKE_MODE"] == "response_stream"
    # Else a start of more than 10 s would begin again.
    assert environment["AWS_LWA_ASYNC_INIT"] == "true"
    assert environment["AWS_LAMBDA_EXEC_WRAPPER"] == "/opt/bootstrap"


def test_every_route_of_the_api_reaches_its_function() -> None:
    """Who may call what is decided in the functions, for each request: the gateways ask nobody for a token."""
    wrong = {
        f"{method} {path}": reached
        for method, path, tag in _api_routes()
        if (reached := _reached(_http_routes(), method, path)) != tag and tag != "health"
    }
    assert wrong == {}


def test_a_gateways_warnings_do_not_end_a_deploy() -> None:
    """It warns of what SAM writes, too; that every route is there is known before."""
    assert "FailOnWarnings" not in stacks.stack("given").resources["HttpApi"]["Properties"]


def test_no_route_leads_where_the_api_has_nothing() -> None:
    """A path below a prefix that the API does not have reaches the prefix's function, which answers 404 itself."""
    for (method, pattern), folder in _http_routes().items():
        prefix = pattern.removesuffix("/{proxy+}")
        assert [
            path
            for known, path, tag in _api_routes()
            if tag in {folder, "health"} and method in {known, "ANY"} and (path + "/").startswith(prefix + "/")
        ], pattern


def test_the_stream_api_has_chat_alone() -> None:
    streamed = {(method, path) for method, path, tag in _api_routes() if tag == "chat"}
    patterns = stacks.stack("given").resources["StreamApi"]["Properties"]["Body"]["paths"]
    routes = {("ANY", pattern): "chat" for pattern in patterns}
    assert all(_reached(routes, method, path) == "chat" for method, path in streamed)
    assert not any(_reached(routes, method, path) for method, path, tag in _api_routes() if tag != "chat")


def test_a_preflight_reaches_the_function_which_knows_the_allowed_origins() -> None:
    for method, path, _ in _api_routes():
        if path != "/api/health":
            assert _reached(_http_routes(), "OPTIONS", path) == _reached(_http_routes(), method, path)


def test_each_route_may_call_its_function_and_nothing_else_may() -> None:
    principals: dict[str, set[str]] = {}
    for permission in stacks.stack("whole").of_type("AWS::Lambda::Permission").values():
        properties = permission["Properties"]
        assert "SourceArn" in properties
        assert properties["FunctionName"].endswith("Aliaslive>")
        name = properties["FunctionName"].strip("<>").removesuffix("Aliaslive")
        principals.setdefault(name, set()).add(properties["Principal"])
    gateway = {"apigateway.amazonaws.com"}
    expected = {name: gateway for name in RIGHTS if name not in {"PurgeFunction", "MigrateFunction"}}
    assert principals == expected | {"AuthTriggerFunction": gateway | {"cognito-idp.amazonaws.com"}}
    assert stacks.stack("whole").of_type("AWS::Lambda::Url") == {}


def test_both_gateways_are_throttled() -> None:
    resources = stacks.stack("given").resources
    (stage,) = stacks.stack("given").of_type("AWS::ApiGatewayV2::Stage").values()
    assert stage["Properties"]["DefaultRouteSettings"]["ThrottlingRateLimit"] == 100
    assert stage["Properties"]["DefaultRouteSettings"]["ThrottlingBurstLimit"] == 200
    (settings,) = resources["StreamApiv1Stage"]["Properties"]["MethodSettings"]
    assert settings["HttpMethod"] == "*"
    assert settings["ResourcePath"] == "/*"
    assert settings["ThrottlingRateLimit"] == 100
    assert settings["ThrottlingBurstLimit"] == 200


def test_no_gateway_writes_metrics_of_each_route() -> None:
    """They are billed one by one, and no alarm reads them."""
    (stage,) = stacks.stack("given").of_type("AWS::ApiGatewayV2::Stage").values()
    assert "DetailedMetricsEnabled" not in stage["Properties"]["DefaultRouteSettings"]
    (settings,) = stacks.stack("given").resources["StreamApiv1Stage"]["Properties"]["MethodSettings"]
    assert "MetricsEnabled" not in settings


def test_a_log_of_the_gateway_holds_no_header_and_no_query() -> None:
    (stage,) = stacks.stack("given").of_type("AWS::ApiGatewayV2::Stage").values()
    names = set(re.findall(r"\$context\.(\w+)", stage["Properties"]["AccessLogSettings"]["Format"]))
    assert names == {"requestTime", "requestId", "routeKey", "status", "responseLatency", "integrationErrorMessage"}


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_each_function_logs_into_a_group_of_its_own_that_forgets(installation: str) -> None:
    monitoring = next(each for each in stacks.all_stacks(installation) if each.name == "monitoring")
    groups = set()
    for resource in _functions(installation).values():
        logging = resource["Properties"]["LoggingConfig"]
        assert logging["LogFormat"] == "JSON"
        output = re.fullmatch(r"<Monitoring\.Outputs\.(\w+)>", logging["LogGroup"])
        assert output
        name = monitoring.template["Outputs"][output[1]]["Value"]["Ref"]
        group = monitoring.resources[name]
        assert group["Type"] == "AWS::Logs::LogGroup"
        assert int(group["Properties"]["RetentionInDays"]) == 30
        groups.add(name)
    assert len(groups) == len(RIGHTS)


@pytest.mark.parametrize("function", sorted(RIGHTS))
def test_a_role_may_do_what_its_function_does_and_no_more(function: str) -> None:
    root = stacks.stack("whole")
    role = _role("whole", function)
    assert _functions("whole")[function]["Properties"]["Role"] == f"<{function.removesuffix('Function')}Role.Arn>"
    allowed: set[str] = set()
    for policy in root.resources[role]["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            allowed |= set(stacks.as_list(statement["Action"]))
    assert allowed == RIGHTS[function]


@pytest.mark.parametrize("function", sorted(RIGHTS))
def test_a_role_reads_the_secrets_of_its_function_and_no_others(function: str) -> None:
    given = set().union(*READABLE_SECRETS.values()) - {GUESTS, "people/*"}
    everything = {"GitHubTokenSecrets": "people/"} | {name: stacks.SECRET_ARN + name for name in given}
    parameters = stacks.values(stacks.root(), stacks.SUPABASE | everything)
    stack = stacks.Stack("root", stacks.translated("supabase"), parameters)
    role = stack.resources[_role("supabase", function)]
    readable = [
        resource.removeprefix(stacks.SECRET_ARN).strip("<>")
        for policy in role["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == "secretsmanager:GetSecretValue"
        for resource in stacks.as_list(statement["Resource"])
    ]
    assert sorted(readable) == sorted(READABLE_SECRETS[function])


def test_chat_cannot_touch_cognito_and_the_purge_cannot_read_files() -> None:
    for function in ("ChatFunction", "ChatStreamFunction"):
        assert "cognito" not in json.dumps(stacks.stack("whole").resources[_role("whole", function)])
    assert "s3:GetObject" not in json.dumps(stacks.stack("whole").resources[_role("whole", "PurgeFunction")])


def test_the_administrators_can_ask_for_the_store_s_answer_and_read_no_file() -> None:
    policies = stacks.stack("whole").resources[_role("whole", "AdminFunction")]["Properties"]["Policies"]
    readable = [
        resource
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        if "s3:GetObject" in stacks.as_list(statement["Action"])
        for resource in stacks.as_list(statement["Resource"])
    ]
    assert [str(resource).partition("/")[2] for resource in readable] == [NO_FILE]


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_no_policy_allows_anything_on_everything(installation: str) -> None:
    for owner, statement in stacks.statements(installation):
        if statement["Effect"] == "Allow" and "Resource" in statement:
            assert "*" not in stacks.as_list(statement["Resource"]), owner
            assert not [action for action in stacks.as_list(statement["Action"]) if "*" in action], owner
    for each in stacks.all_stacks(installation):
        for role in each.of_type("AWS::IAM::Role").values():
            assert set(role["Properties"].get("ManagedPolicyArns", [])) <= MANAGED_POLICIES


def test_an_account_with_little_concurrency_can_deploy_it() -> None:
    for resource in _functions("given").values():
        assert "ReservedConcurrentExecutions" not in resource["Properties"]
    assert _functions("whole")["ChatStreamFunction"]["Properties"]["ReservedConcurrentExecutions"] == "50"


def test_snapshots_are_for_those_that_can_be_restored() -> None:
    off = {name: each["Properties"]["SnapStart"]["ApplyOn"] for name, each in _functions("given").items()}
    assert set(off.values()) == {"None"}
    on = {name for name, each in _functions("whole").items() if each["Properties"]["SnapStart"]["ApplyOn"] != "None"}
    assert on == set(RIGHTS) - {"ChatStreamFunction", "MigrateFunction"}


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_functions_are_in_the_network_only_with_the_database_in_it(installation: str) -> None:
    for resource in _functions(installation).values():
        assert ("VpcConfig" in resource["Properties"]) == (installation == "whole")


def _functions(installation: str) -> dict[str, Any]:
    return stacks.stack(installation).of_type("AWS::Lambda::Function")


def _role(installation: str, function: str) -> str:
    role: str = _functions(installation)[function]["Properties"]["Role"]
    return role.strip("<>").removesuffix(".Arn")


def _environment(function: str, installation: str) -> dict[str, str]:
    variables = _functions(installation)[function]["Properties"]["Environment"]["Variables"]
    text = json.dumps(variables)
    for output, value in OUTPUTS.items():
        text = text.replace(output, value)
    environment: dict[str, str] = json.loads(text)
    assert not re.search(r"<[A-Z]\w+[.>]", text), text
    return environment


@cache
def _api_routes() -> list[tuple[str, str, str]]:
    """Method, path and folder of each operation; all tags but one are named as their folders."""
    document = json.loads((ROOT / "openapi.json").read_text())
    return [
        (method.upper(), path, {"administration": "admin"}.get(operation["tags"][0], operation["tags"][0]))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


@cache
def _http_routes() -> dict[tuple[str, str], str]:
    """The folder of the function that each route of the HTTP API leads to."""
    root = stacks.stack("given")
    routes = {}
    for pattern, operations in root.resources["HttpApi"]["Properties"]["Body"]["paths"].items():
        for method, operation in operations.items():
            uri = operation["x-amazon-apigateway-integration"]["uri"]
            function = re.search(r"<(\w+)Aliaslive>", uri)
            assert function
            handler = root.resources[function[1]]["Properties"]["Handler"]
            name = "ANY" if method == "x-amazon-apigateway-any-method" else method.upper()
            routes[name, pattern] = handler.split(".")[1]
    return routes


def _reached(routes: dict[tuple[str, str], str], method: str, path: str) -> str | None:
    """The folder that a request reaches: the exact path wins over a prefix, a longer prefix over a shorter one."""
    candidates = {
        pattern: folder
        for (known, pattern), folder in routes.items()
        if known in {method, "ANY"}
        and (path == pattern or (pattern.endswith("/{proxy+}") and path.startswith(pattern.removesuffix("{proxy+}"))))
    }
    exact = candidates.get(path)
    return exact or (candidates[max(candidates, key=len)] if candidates else None)
