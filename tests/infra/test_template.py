"""The template as a whole: it translates, lints, orders its steps, publishes what changed, bounds what it is given."""

from __future__ import annotations

import json
import re
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest
from cfnlint.api import ManualArgs, lint_file  # type: ignore[import-untyped]

from tests.infra import stacks
from tests.infra.stacks import INSTALLATIONS, REGION, ROOT, Template

# Rules that do not fit, each with its reason.
IGNORED: Final = {
    "W2001": "SAM puts the value of DeploymentType where it is used, so that what it leaves looks unused",
}
# What an optional parameter is when it is used: an empty one stands only where a condition leaves it out.
EXAMPLES: Final = {
    "DatabaseUrlSecretArn": stacks.SECRET_ARN + "a-AbCdEf",
    "MigrationDatabaseUrlSecretArn": stacks.SECRET_ARN + "b-AbCdEf",
    "ApiDatabasePasswordSecretArn": stacks.SECRET_ARN + "c-AbCdEf",
    "CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/0a1b2c3d",
}
GOOD_AND_BAD: Final = {
    "Environment": (["production", "eu-1"], ["local", "Production", "1st", ""]),
    "AllowedOrigins": (
        ["https://app.example.com", "http://localhost:*", "https://[::1]:8443"],
        ["*", "app.example.com", "https://app.example.com/", "ftp://app.example.com"],
    ),
    "DatabaseUrlSecretArn": (["", stacks.SECRET_ARN + "a-AbCdEf"], ["postgresql://me:secret@host/db", "my-secret"]),
    "OpenAiApiKeySecretArn": (["", stacks.SECRET_ARN + "a/b-AbCdEf"], ["sk-live-0123456789"]),
    "SupabaseUrl": (["", "https://project.supabase.co"], ["http://project.supabase.co", "project.supabase.co"]),
    "OpenAiBaseUrl": (["", "http://proxy:8080/v1"], ["proxy:8080", "https://a b"]),
    "AuthIssuers": (["[]", '[{"issuer": "https://a", "kind": "oidc"}]'], ["", "{}", "https://a"]),
    # What is allowed below it must not be the start of another secret's name.
    "GitHubTokenSecrets": (["", "threadkeep/github/"], ["t", "threadkeep", "/"]),
    "UpkeepSchedule": (["rate(5 minutes)", "cron(0 3 * * ? *)"], ["5 minutes", "rate()", ""]),
    "DomainName": (["", "chat.example.com"], ["https://chat.example.com", "chat_example"]),
    "AlarmEmail": (["", "a@example.com"], ["nobody", "a b@example.com"]),
}


def test_what_sam_makes_of_it_has_no_lint(tmp_path: Path) -> None:
    """One installation is enough: the lint goes through what each condition would leave in or out."""
    assert _lint(tmp_path, stacks.translated("whole")) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in stacks.INFRA.glob("*.yaml")))
def test_a_nested_stack_has_no_lint(name: str, tmp_path: Path) -> None:
    assert _lint(tmp_path, stacks.nested()[name]) == []


def test_the_lint_finds_what_it_is_there_for(tmp_path: Path) -> None:
    broken = deepcopy(stacks.root())
    broken["Resources"]["SessionsFunction"]["Properties"]["Timeout"] = 1000
    problems = _lint(tmp_path, stacks.translate(broken, stacks.GIVEN))
    assert [problem for problem in problems if "1000 is greater than the maximum of 900" in problem]


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_nested_stacks_get_and_give_what_is_asked_for(installation: str) -> None:
    """CloudFormation would find out in the middle of a deploy."""
    root = stacks.stack(installation)
    for logical_id, resource in root.of_type("AWS::CloudFormation::Stack").items():
        template = stacks.nested()[Path(resource["Properties"]["TemplateURL"]).stem]
        given = resource["Properties"]["Parameters"]
        needed = {name for name, parameter in template["Parameters"].items() if "Default" not in parameter}
        assert needed <= set(given) <= set(template["Parameters"])
        read = set(re.findall(rf"<{logical_id}\.Outputs\.(\w+)>", json.dumps(root.resources)))
        assert read <= set(template["Outputs"])


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_nothing_reads_a_resource_that_is_not_made(installation: str) -> None:
    for each in stacks.all_stacks(installation):
        made = set(each.resources)
        named = set(re.findall(r"<(\w+)[.>]", json.dumps(list(each.resources.values()))))
        assert named <= made


def test_no_function_gets_new_code_before_the_migrations_are_done() -> None:
    root = stacks.stack("given")
    migrations = root.resources["Migrations"]
    (version,) = [name for name in root.of_type("AWS::Lambda::Version") if name.startswith("MigrateFunctionVersion")]
    assert migrations["Properties"]["ServiceToken"] == "<MigrateFunctionAliaslive>"
    assert migrations["Properties"]["Code"] == f"<{version}>"
    assert "DependsOn" not in root.resources["MigrateFunction"]
    waiting = {
        name for name, each in root.of_type("AWS::Lambda::Function").items() if each.get("DependsOn") == "Migrations"
    }
    assert waiting == set(root.of_type("AWS::Lambda::Function")) - {"MigrateFunction"}


def test_the_proxy_gets_its_database_after_the_role_that_it_logs_in_as() -> None:
    """CloudFormation makes a target only of a database that the proxy is logged in at; the migrations make the role."""
    targets = {
        (each.name, name): target
        for each in stacks.all_stacks("whole")
        for name, target in each.of_type("AWS::RDS::DBProxyTargetGroup").items()
    }
    assert {place: target["DependsOn"] for place, target in targets.items()} == {
        ("root", "DatabaseProxyTargets"): "Migrations"
    }
    assert not stacks.stack("given").of_type("AWS::RDS::DBProxyTargetGroup")


def test_an_alias_points_to_a_version_of_its_function() -> None:
    root = stacks.stack("given")
    aliases = root.of_type("AWS::Lambda::Alias")
    assert len(aliases) == len(root.of_type("AWS::Lambda::Function"))
    for name, alias in aliases.items():
        function = name.removesuffix("Aliaslive")
        assert alias["Properties"]["FunctionVersion"].startswith(f"<{function}Version")


@pytest.mark.parametrize(
    ("layer", "republished"),
    [
        ("CoreLayer", None),
        ("AgentsLayer", {"ChatFunction", "ChatStreamFunction"}),
    ],
)
def test_a_change_of_a_layer_alone_publishes_the_functions_that_use_it(
    layer: str, republished: set[str] | None
) -> None:
    changed = deepcopy(stacks.root())
    changed["Resources"][layer]["Properties"]["ContentUri"] = "s3://artefacts/another-build"
    before = _versions(stacks.translated("given"))
    after = _versions(stacks.translate(changed, stacks.GIVEN))
    assert {name for name in before if before[name] != after[name]} == (republished or set(before))


def test_nothing_is_published_when_nothing_changed() -> None:
    again = stacks.translate(deepcopy(stacks.root()), stacks.GIVEN)
    assert _versions(again) == _versions(stacks.translated("given"))


def test_a_change_of_a_parameter_alone_publishes() -> None:
    """SAM looks at the template, in which a parameter's value does not show: the versions' descriptions carry it."""
    template = stacks.translated("given")
    kept = _named(template["Resources"]["SettingsVersion"]["Properties"]["Content"])
    # Not of a version: reserved for the function as a whole.
    of_the_function = {"ChatConcurrency"}
    parameters = set(template["Parameters"])
    outputs = {name for name in kept if ".Outputs." in name}
    for function in stacks.stack("given").of_type("AWS::Lambda::Function"):
        used = _named(template["Resources"][function]["Properties"])
        assert used & parameters <= kept | of_the_function, function
        assert {name for name in used if ".Outputs." in name and "Log" not in name} <= outputs | {
            "NetworkDatabase.Outputs.DatabaseEndpoint",
            "NetworkDatabase.Outputs.SecurityGroupId",
        }, function
    for version in stacks.stack("given").of_type("AWS::Lambda::Version").values():
        assert version["Properties"]["Description"] == "settings <SettingsVersion.VersionNumber>"
    # Lambda publishes nothing for a function that is as it was.
    for each in stacks.stack("given").of_type("AWS::Lambda::Function").values():
        assert each["Properties"]["Description"].endswith("(settings <SettingsVersion.VersionNumber>)")


@pytest.mark.parametrize("name", ["root", *sorted(path.stem for path in stacks.INFRA.glob("*.yaml"))])
def test_a_parameter_says_what_it_is_and_has_bounds(name: str) -> None:
    template = stacks.root() if name == "root" else stacks.nested()[name]
    for parameter, declared in template["Parameters"].items():
        assert declared["Type"] in {"String", "Number", "CommaDelimitedList"}, parameter
        assert len(declared["Description"]) > 10, parameter
        if declared["Type"] == "Number":
            assert "AllowedValues" in declared or {"MinValue", "MaxValue"} <= set(declared), parameter
        else:
            assert "AllowedValues" in declared or "AllowedPattern" in declared, parameter


@pytest.mark.parametrize("parameter", GOOD_AND_BAD)
def test_a_parameter_refuses_what_would_not_work(parameter: str) -> None:
    pattern = re.compile(stacks.root()["Parameters"][parameter]["AllowedPattern"])
    good, bad = GOOD_AND_BAD[parameter]
    assert [value for value in good if not pattern.fullmatch(value)] == []
    assert [value for value in bad if pattern.fullmatch(value)] == []


def test_the_files_that_name_parameters_name_those_that_there_are() -> None:
    declared = stacks.root()["Parameters"]
    configured = tomllib.loads((ROOT / "samconfig.toml").read_text())
    for installation in ("default", "staging"):
        given = dict(
            line.split("=", 1) for line in configured[installation]["deploy"]["parameters"]["parameter_overrides"]
        )
        assert set(given) <= set(declared)
        for name, value in given.items():
            allowed = declared[name].get("AllowedValues")
            assert str(value) in map(str, allowed) if allowed else re.fullmatch(declared[name]["AllowedPattern"], value)
    page = (ROOT / "docs" / "deploy.md").read_text()
    named = set(re.findall(r'"(\w+)=', page)) | set(re.findall(r"^\| `([A-Z]\w+)`", page, re.MULTILINE))
    assert named <= set(declared)
    assert len(named) > 10


def test_the_copy_of_the_repository_is_not_built_from() -> None:
    """With a copy for each function a build would take gigabytes."""
    configured = tomllib.loads((ROOT / "samconfig.toml").read_text())
    assert configured["default"]["build"]["parameters"]["build_in_source"] is True


def test_every_parameter_stands_in_the_console_under_a_heading() -> None:
    interface = stacks.root()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    shown = [name for group in interface for name in group["Parameters"]]
    assert sorted(shown) == sorted(stacks.root()["Parameters"])


@pytest.mark.parametrize(
    ("rule", "parameters", "is_refused"),
    [
        ("GivenDatabase", {"Database": "given"}, True),
        ("GivenDatabase", stacks.GIVEN, False),
        ("GivenIssuers", {"Identity": "given"}, True),
        ("GivenIssuers", stacks.SUPABASE, False),
        ("DomainHasCertificate", {"DomainName": "chat.example.com"}, True),
        ("DomainHasCertificate", stacks.WHOLE, False),
    ],
)
def test_parameters_that_need_one_another_are_refused_before_anything_is_made(
    rule: str, parameters: dict[str, str], is_refused: bool
) -> None:
    declared = stacks.root()["Rules"][rule]
    stack = stacks.Stack("root", stacks.root(), stacks.values(stacks.root(), parameters))
    assert stack.value(declared["RuleCondition"])
    assert is_refused == (not all(stack.value(each["Assert"]) for each in declared["Assertions"]))


def test_a_template_stays_below_what_cloudformation_takes() -> None:
    for installation in INSTALLATIONS:
        for each in stacks.all_stacks(installation):
            assert len(each.resources) <= 400
            assert len(each.template["Parameters"]) <= 200
            assert len(json.dumps(each.template)) < 900_000


def _lint(folder: Path, template: Template) -> list[str]:
    declared = deepcopy(template)
    for name, parameter in declared["Parameters"].items():
        if name in EXAMPLES:
            parameter["Default"] = EXAMPLES[name]
    path = folder / "template.json"
    path.write_text(json.dumps(declared))
    found = lint_file(path, config=ManualArgs(regions=[REGION], ignore_checks=list(IGNORED)))
    return sorted({f"{match.rule.id} {match.message}" for match in found})


def _versions(template: Template) -> dict[str, str]:
    """The logical id of each function's version: a new one is a new version."""
    return {
        resource["Properties"]["FunctionName"]["Ref"]: name
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Lambda::Version"
    }


def _named(expression: Any) -> set[str]:
    """The parameters, resources and outputs that an expression reads."""
    if isinstance(expression, list):
        return set().union(*map(_named, expression))
    if not isinstance(expression, dict):
        return set()
    if "Ref" in expression:
        return {expression["Ref"]}
    if "Fn::GetAtt" in expression:
        return {".".join(expression["Fn::GetAtt"])}
    if "Fn::Sub" in expression:
        argument = expression["Fn::Sub"]
        text, own = argument if isinstance(argument, list) else (argument, {})
        return (set(re.findall(r"\$\{([^!}]+)\}", text)) - set(own)) | _named(list(own.values()))
    return set().union(*map(_named, expression.values()))
