"""The templates as CloudFormation gets them: read, translated by SAM, and with their expressions worked out."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import boto3  # type: ignore[import-untyped]
import yaml
from samtranslator.parser.parser import Parser  # type: ignore[import-untyped]
from samtranslator.translator.translator import Translator  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).parents[2]
INFRA: Final = ROOT / "infra"
REGION: Final = "eu-central-1"
ACCOUNT: Final = "123456789012"
STACK: Final = "threadkeep"

SECRET_ARN: Final = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"

GIVEN: Final[dict[str, str]] = {
    "AllowedOrigins": "https://app.example.com",
    "DatabaseUrlSecretArn": SECRET_ARN + "database-AbCdEf",
    "MigrationDatabaseUrlSecretArn": SECRET_ARN + "migration-AbCdEf",
}
# Everything that can be switched on at once.
WHOLE: Final[dict[str, str]] = {
    "AllowedOrigins": "https://app.example.com,https://beta.example.com",
    "Database": "aurora",
    "UseCloudFront": "true",
    "DomainName": "chat.example.com",
    "CertificateArn": f"arn:aws:acm:us-east-1:{ACCOUNT}:certificate/0a1b2c3d",
    "AlarmEmail": "operators@example.com",
    "OtlpEndpoint": "https://otlp.example.com",
    "GitHubTokenSecrets": "threadkeep/github/",
    "ChatConcurrency": "50",
    "SnapStart": "PublishedVersions",
    **{
        name: SECRET_ARN + name
        for name in (
            "AuthHookSecretArn",
            "OtlpHeadersSecretArn",
            "ToolSecretsArn",
            "OpenAiApiKeySecretArn",
            "AnthropicApiKeySecretArn",
            "GeminiApiKeySecretArn",
        )
    },
}
SUPABASE: Final[dict[str, str]] = GIVEN | {
    "Identity": "given",
    "AuthIssuers": json.dumps(
        [
            {
                "issuer": "https://project.supabase.co/auth/v1",
                "kind": "supabase",
                "secretArn": SECRET_ARN + "jwt-AbCdEf",
            }
        ]
    ),
    "IssuerSecretArn": SECRET_ARN + "jwt-AbCdEf",
    "SupabaseUrl": "https://project.supabase.co",
    "SupabaseServiceRoleKeySecretArn": SECRET_ARN + "service-AbCdEf",
    "AuthHookSecretArn": SECRET_ARN + "hook-AbCdEf",
}
INSTALLATIONS: Final = {"given": GIVEN, "whole": WHOLE, "supabase": SUPABASE}

Template = dict[str, Any]


def read(path: Path) -> Template:
    """A template with its short forms (`!Ref`) written out."""
    template: Template = yaml.load(path.read_text(), _Loader)
    return template


@cache
def root() -> Template:
    return read(ROOT / "template.yaml")


@cache
def nested() -> dict[str, Template]:
    return {path.stem: read(path) for path in sorted(INFRA.glob("*.yaml"))}


def translate(template: Template, parameters: Mapping[str, str]) -> Template:
    """What SAM makes of it, with places in S3 for what `sam deploy` uploads."""
    packaged = deepcopy(template)
    for logical_id, resource in packaged["Resources"].items():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            properties["ContentUri"] = properties.get("ContentUri", "").replace("layers/", "s3://artefacts/layers-")
        elif resource["Type"] == "AWS::Serverless::Function":
            properties["CodeUri"] = f"s3://artefacts/{logical_id}"
        elif resource["Type"] == "AWS::CloudFormation::Stack":
            properties["TemplateURL"] = f"https://s3.amazonaws.com/artefacts/{properties['TemplateURL']}"
    session = boto3.session.Session(region_name=REGION)
    translated: Template = Translator({}, Parser(), boto_session=session).translate(
        packaged, values(template, parameters)
    )
    return translated


def values(template: Template, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The parameters with their defaults."""
    defaults = {
        name: parameter["Default"] for name, parameter in template["Parameters"].items() if "Default" in parameter
    }
    return defaults | dict(parameters)


@cache
def translated(installation: str) -> Template:
    return translate(root(), INSTALLATIONS[installation])


@dataclass(frozen=True)
class Stack:
    """A template with one set of parameters; nothing in it is deployed, so what a resource is gets its name."""

    name: str
    template: Template
    parameters: Mapping[str, Any]

    @property
    def resources(self) -> dict[str, Any]:
        """What is made with these parameters, every expression worked out."""
        return {
            logical_id: self.value(resource)
            for logical_id, resource in self.template["Resources"].items()
            if self.holds(resource.get("Condition"))
        }

    def of_type(self, kind: str) -> dict[str, Any]:
        return {name: each for name, each in self.resources.items() if each["Type"] == kind}

    def holds(self, condition: str | None) -> bool:
        return condition is None or bool(self.value(self.template["Conditions"][condition]))

    def value(self, expression: Any) -> Any:
        """An expression's value; what only AWS knows reads `<LogicalId>` or `<LogicalId.Attribute>`."""
        if isinstance(expression, list):
            return [each for each in map(self.value, expression) if each is not NO_VALUE]
        if not isinstance(expression, dict):
            return expression
        if len(expression) == 1:
            (function, argument), *_ = expression.items()
            if function == "Ref" or function.startswith("Fn::") or function == "Condition":
                return self._function(function, argument)
        worked_out = {key: self.value(each) for key, each in expression.items()}
        return {key: each for key, each in worked_out.items() if each is not NO_VALUE}

    def _function(self, function: str, argument: Any) -> Any:
        if function == "Ref":
            return self._reference(argument)
        if function == "Condition":
            return self.holds(argument) if isinstance(argument, str) else argument
        if function == "Fn::GetAtt":
            target, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
            return f"<{target}.{attribute}>"
        if function == "Fn::If":
            condition, yes, no = argument
            return self.value(yes if self.holds(condition) else no)
        if function == "Fn::Sub":
            return self._substituted(argument)
        if function == "Fn::Join":
            separator, parts = argument
            parts = self.value(parts)
            return separator.join(map(str, parts if isinstance(parts, list) else parts.split(",")))
        if function == "Fn::Equals":
            left, right = self.value(argument)
            return str(left) == str(right)
        if function == "Fn::Not":
            return not self.value(argument[0])
        if function == "Fn::Or":
            return any(self.value(argument))
        if function == "Fn::Split":
            return f"<{self.value(argument[1])}>"
        if function in {"Fn::Select", "Fn::Cidr", "Fn::GetAZs"}:
            return f"<{function}>"
        raise AssertionError(f"an expression that is not known here: {function}")

    def _reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.parameters:
            value = self.parameters[name]
            is_list = self.template["Parameters"][name]["Type"] == "CommaDelimitedList"
            return value.split(",") if is_list else value
        assert name in self.template["Resources"], name
        return f"<{name}>"

    def _substituted(self, argument: Any) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name in own:
                return str(self.value(own[name]))
            return str(self._reference(name)) if "." not in name else f"<{name}>"

        return re.sub(r"\$\{([^!}][^}]*)\}", replace, text)


@cache
def stack(installation: str) -> Stack:
    """The root stack of an installation, translated."""
    template = translated(installation)
    return Stack("root", template, values(root(), INSTALLATIONS[installation]))


@cache
def all_stacks(installation: str) -> tuple[Stack, ...]:
    """The root stack, and the nested ones that it makes, with the parameters that it gives them."""
    outer = stack(installation)
    inner = []
    for resource in outer.of_type("AWS::CloudFormation::Stack").values():
        properties = resource["Properties"]
        name = Path(properties["TemplateURL"]).stem
        # To the nested stack the name of something in the root is only a text.
        given = {key: re.sub("[<>]", "", str(value)) for key, value in properties["Parameters"].items()}
        inner.append(Stack(name, nested()[name], values(nested()[name], given)))
    return (outer, *inner)


def statements(installation: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement of each policy, with the name of what it belongs to."""
    for each in all_stacks(installation):
        for name, resource in each.resources.items():
            for document in _policy_documents(resource.get("Properties", {})):
                for statement in as_list(document["Statement"]):
                    yield f"{each.name}/{name}", statement


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _policy_documents(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "Statement" in value:
            yield value
        for each in value.values():
            yield from _policy_documents(each)
    elif isinstance(value, list):
        for each in value:
            yield from _policy_documents(each)


class _NoValue:
    def __repr__(self) -> str:
        return "AWS::NoValue"


NO_VALUE: Final = _NoValue()
PSEUDO: Final = {
    "AWS::StackName": STACK,
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags, and dates left as text (policies have a version that looks like one)."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the class's own table without one entry
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if tag == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {tag if tag in {"Ref", "Condition"} else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _tagged)


def main(folder: Path) -> None:
    """Writes the templates as CloudFormation would get them, with everything switched on, for a scanner to read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, template in {"template": translated("whole"), **nested()}.items():
        (folder / f"{name}.json").write_text(json.dumps(template, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
