"""The shapes of what administrators configure, and the one way to read them.

A row of `admin_config` is found by its key: `{agent}_{provider}` for the six agents, `tool_{name}` for a team's own
tool, `app_settings`, or `logging_settings`. `private.admin_config_problem` (sql/0002_functions_configuration.sql,
0017_configuration_of_tools.sql) judges the same shapes in the database, so that a row written by hand is refused as
well; a test holds the two together.

A member that may be left out has its default here. An operation that a row does not name is off: a new release may
bring a new operation without making the rows of an older one invalid.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args, overload

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from threadkeep.errors import invalid
from threadkeep.shapes import (
    Days,
    Description,
    Flag,
    Limit,
    Name,
    Prompt,
    Shape,
    SnakeCaseShape,
    Usd,
    distinct,
    legible,
    refusal,
)

Agent = Literal[
    "chat_model_agent",
    "provider_tools_agent",
    "document_agent",
    "python_agent",
    "mermaid_agent",
    "git_mcp_agent",
]
Provider = Literal["google", "openai", "anthropic"]

AGENTS: Final[tuple[Agent, ...]] = get_args(Agent)
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)
PLACEHOLDERS: Final = ("title", "instruction", "currentContent", "updateInstruction", "errorInfo")

# Only a word in braces is a placeholder, so that a template may hold JSON or a diagram. With spaces inside it is
# still meant as one, and refused: it would otherwise reach the model unfilled.
PLACEHOLDER: Final = re.compile(r"\{([ \t]*[A-Za-z0-9_]+[ \t]*)\}")

# The row of a team's own tool. There may be any number of them, and none is needed.
TOOL_KEY: Final = re.compile(r"tool_([a-z][a-z0-9_]{0,39})")


def config_key(agent: Agent, provider: Provider) -> str:
    """The key of the row that configures an agent for a provider, such as `chat_model_agent_google`."""
    return f"{agent}_{provider}"


def is_key(config_key: str) -> bool:
    """Whether a row under this key is read by anything."""
    return config_key in SHAPES or TOOL_KEY.fullmatch(config_key) is not None


@overload
def parse_configuration(config_key: Literal["app_settings"], data: object) -> AppSettings: ...
@overload
def parse_configuration(config_key: Literal["logging_settings"], data: object) -> LoggingSettings: ...
@overload
def parse_configuration(config_key: str, data: object) -> AgentConfiguration | AppSettings | LoggingSettings: ...
def parse_configuration(config_key: str, data: object) -> AgentConfiguration | AppSettings | LoggingSettings:
    """Reads one row's `config_data`, given as decoded JSON.

    An agent's row comes back as its own subclass of `AgentConfiguration`. Raises ThreadkeepError `invalid:api` with
    the JSON path and the reason of each wrong field; `configKey` is the field of an unknown key, `configData` that of
    something that is no object.
    """
    shape = _shape_of(config_key)
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise refusal(error, root="configData") from None


def json_schema(config_key: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one key's `config_data`. Raises ThreadkeepError `invalid:api` for an unknown key."""
    return _shape_of(config_key).model_json_schema(by_alias=True)


def fill(
    template: str,
    *,
    instruction: str,
    title: str = "",
    current_content: str = "",
    update_instruction: str | None = None,
    error_info: str = "",
) -> str:
    """Puts values into a `userPromptTemplate`, in one pass: braces in a value are never read as a placeholder.

    `update_instruction` is the instruction unless it is given.
    """
    values = {
        "title": title,
        "instruction": instruction,
        "currentContent": current_content,
        "updateInstruction": instruction if update_instruction is None else update_instruction,
        "errorInfo": error_info,
    }
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def _known_placeholders(template: str) -> str:
    for name in PLACEHOLDER.findall(template):
        if name not in PLACEHOLDERS:
            raise PydanticCustomError("placeholder", "has an unknown placeholder: {name}", {"name": f"{{{name}}}"})
    return template


def _address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+([/?][^\s#]*)?", text):
        raise PydanticCustomError("address", "must be an address such as https://tools.example.com/mcp")
    return text


def _url_path(text: str) -> str:
    if not text.startswith("/"):
        raise PydanticCustomError("url_path", "must begin with /")
    return text


Template = Annotated[Prompt, AfterValidator(_known_placeholders)]
UrlPath = Annotated[str, Field(strict=True, max_length=500), AfterValidator(legible), AfterValidator(_url_path)]
ServerAddress = Annotated[str, Field(strict=True, max_length=2_000), AfterValidator(legible), AfterValidator(_address)]


class RateLimit(Shape):
    """How many calls of an agent one user may make in a fixed window; 0 lets nothing pass."""

    per_minute: Limit
    per_hour: Limit
    per_day: Limit


class AgentConfiguration(Shape):
    """What all six agents have."""

    enabled: Flag
    rate_limit: RateLimit


class Tool(Shape):
    """A tool or operation; the description is what a model reads to choose it."""

    description: Description
    enabled: Flag


class Operation(Tool):
    """What a sub-agent does with a document, with what its model is told; `fill` puts values into the template."""

    system_prompt: Prompt | None = None
    user_prompt_template: Template | None = None


# Made without validation, which would build their shapes on import; so are the defaults of whole groups below.
TOOL_OFF: Final = Tool.model_construct(description="Not configured.", enabled=False)
OPERATION_OFF: Final = Operation.model_construct(description="Not configured.", enabled=False)


class Capabilities(Shape):
    """What a chat takes besides text."""

    file_input: Flag = False


class FileInputTypes(Shape):
    """The kinds of files a chat takes, if it takes files."""

    code_files: Flag = False
    text_files: Flag = False
    pdf: Flag = False
    ppt: Flag = False
    excel: Flag = False
    images: Flag = False


class ChatModelTools(Shape):
    """The five agents that the chat agent hands work to."""

    provider_tools_agent: Tool = TOOL_OFF
    document_agent: Tool = TOOL_OFF
    python_agent: Tool = TOOL_OFF
    mermaid_agent: Tool = TOOL_OFF
    git_mcp_agent: Tool = TOOL_OFF


class ChatModelAgent(AgentConfiguration):
    """The agent that talks to the person."""

    system_prompt: Prompt
    capabilities: Capabilities
    file_input_types: FileInputTypes
    tools: ChatModelTools


class ProviderTools(Shape):
    """The provider's own tools; the names are the source design's and mean the same with every provider."""

    google_search: Tool = TOOL_OFF
    url_context: Tool = TOOL_OFF
    code_execution: Tool = TOOL_OFF


class ProviderToolsAgent(AgentConfiguration):
    """The agent that searches the web, reads pages and runs code with the provider's own tools."""

    system_prompt: Prompt
    tools: ProviderTools


class DocumentOperations(Shape):
    """What can be done with a text or a sheet."""

    create: Operation = OPERATION_OFF
    update: Operation = OPERATION_OFF
    suggestion: Operation = OPERATION_OFF
    revert: Operation = OPERATION_OFF


class DocumentAgent(AgentConfiguration):
    """The agent that writes texts and sheets."""

    tools: DocumentOperations


class PythonOperations(Shape):
    """What can be done with Python code."""

    generate: Operation = OPERATION_OFF
    create: Operation = OPERATION_OFF
    update: Operation = OPERATION_OFF
    fix: Operation = OPERATION_OFF
    explain: Operation = OPERATION_OFF
    revert: Operation = OPERATION_OFF


class PythonAgent(AgentConfiguration):
    """The agent that writes Python."""

    tools: PythonOperations


class MermaidOperations(Shape):
    """What can be done with a diagram."""

    generate: Operation = OPERATION_OFF
    create: Operation = OPERATION_OFF
    update: Operation = OPERATION_OFF
    fix: Operation = OPERATION_OFF
    revert: Operation = OPERATION_OFF


class MermaidAgent(AgentConfiguration):
    """The agent that draws diagrams in Mermaid."""

    tools: MermaidOperations


class GitMcpTools(SnakeCaseShape):
    """What may be done on GitHub; each is a group of the tools of its MCP server."""

    repos: Tool = TOOL_OFF
    issues: Tool = TOOL_OFF
    pull_requests: Tool = TOOL_OFF
    users: Tool = TOOL_OFF
    code_search: Tool = TOOL_OFF
    branches: Tool = TOOL_OFF


class GitMcpAgent(AgentConfiguration):
    """The agent that works with GitHub."""

    system_prompt: Prompt
    tools: GitMcpTools


class ToolServer(Shape):
    """Where a tool server is, the name of its token in `TOOL_SECRETS`, and which of its tools are offered."""

    url: ServerAddress
    secret: Name | None = None
    allowed_tools: Annotated[tuple[Name, ...], Field(max_length=100), AfterValidator(distinct)]


class OwnTool(AgentConfiguration):
    """A team's own tool: a registered function of the name in the key, or a tool server of that name."""

    server: ToolServer | None = None


class Guests(Shape):
    """Whether people may chat without an account, and how many guests may be made in an hour."""

    enabled: Flag = True
    per_address_per_hour: Limit = 20
    total_per_hour: Limit = 2_000


class TurnBounds(Shape):
    """Where one turn ends, its sub-agents included: model requests, tool calls, output tokens, seconds, US dollars.

    The seconds leave a Lambda function time to finish within its 15 minutes.
    """

    max_requests: Annotated[int, Field(strict=True, ge=1, le=100)] = 8
    max_tool_calls: Annotated[int, Field(strict=True, ge=0, le=200)] = 16
    max_output_tokens: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 65_536
    max_seconds: Annotated[int, Field(strict=True, ge=1, le=840)] = 600
    # Pydantic would write the default of a decimal into the JSON Schema as a text.
    max_cost_usd: Annotated[Usd, Field(json_schema_extra={"default": 2})] = Decimal(2)


class Titles(Shape):
    """Whether a model writes a session's title after its first answer."""

    enabled: Flag = True


class Budgets(Shape):
    """What may be spent in a calendar month (UTC), in US dollars; null is without bound, 0 lets nothing pass."""

    per_user_monthly_usd: Usd | None = None
    guests_monthly_usd: Usd | None = None


class Fallback(Shape):
    """Models, by `model_id` and in this order, that answer when the chosen one cannot."""

    enabled: Flag = False
    models: Annotated[tuple[Name, ...], Field(max_length=100), AfterValidator(distinct)] = ()


class AppSettings(Shape):
    """What holds for the whole application; the active provider is one of the available ones."""

    active_provider: Provider
    available_providers: Annotated[tuple[Provider, ...], Field(max_length=100), AfterValidator(distinct)]
    guests: Guests = Guests.model_construct()
    turn: TurnBounds = TurnBounds.model_construct()
    titles: Titles = Titles.model_construct()
    budgets: Budgets = Budgets.model_construct()
    fallback: Fallback = Fallback.model_construct()

    @field_validator("available_providers")
    @classmethod
    def _has_the_active_one(cls, available: tuple[Provider, ...], info: ValidationInfo) -> tuple[Provider, ...]:
        active = info.data.get("active_provider")
        if active is not None and active not in available:
            raise PydanticCustomError("inactive", "must name the active provider")
        return available


class LogRetentionDays(SnakeCaseShape):
    """Days after which the purge takes a log's rows; errors only once they are resolved."""

    error_logs: Days
    user_activity_logs: Days
    agent_activity_logs: Days


class CategoryToggles(SnakeCaseShape):
    """Which activities are logged, where activity is logged at all."""

    log_auth_events: Flag = True
    log_chat_events: Flag = True
    log_document_events: Flag = True
    log_admin_events: Flag = True
    log_vote_events: Flag = True
    log_file_events: Flag = True
    log_artifact_events: Flag = True
    log_ai_operations: Flag = True
    log_tool_invocations: Flag = True
    log_code_execution: Flag = True


class PerformanceSettings(SnakeCaseShape):
    """Which share of the activity is logged.

    The batch and async members are taken and have no effect: nothing is queued past a response.
    """

    batch_writes: Flag = True
    batch_size: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 100
    batch_interval_ms: Annotated[int, Field(strict=True, ge=0, le=3_600_000)] = 5_000
    async_logging: Flag = True
    sampling_enabled: Flag = False
    sampling_rate: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 1.0


class PrivacySettings(SnakeCaseShape):
    """What of a person reaches a log; requests to the excluded paths, and below them, are not logged."""

    anonymize_ip: Flag = False
    hash_email: Flag = False
    log_user_agent: Flag = True
    exclude_sensitive_paths: Annotated[tuple[UrlPath, ...], Field(max_length=100), AfterValidator(distinct)] = ()


class LoggingSettings(SnakeCaseShape):
    """What is logged, in which detail, and for how long."""

    error_logging_enabled: Flag
    user_activity_logging_enabled: Flag
    agent_activity_logging_enabled: Flag
    log_retention_days: LogRetentionDays
    category_toggles: CategoryToggles = CategoryToggles.model_construct()
    performance_settings: PerformanceSettings = PerformanceSettings.model_construct()
    privacy_settings: PrivacySettings = PrivacySettings.model_construct()


SHAPES_OF_AGENTS: Final[dict[Agent, type[AgentConfiguration]]] = {
    "chat_model_agent": ChatModelAgent,
    "provider_tools_agent": ProviderToolsAgent,
    "document_agent": DocumentAgent,
    "python_agent": PythonAgent,
    "mermaid_agent": MermaidAgent,
    "git_mcp_agent": GitMcpAgent,
}
SHAPES: Final[dict[str, type[AgentConfiguration | AppSettings | LoggingSettings]]] = {
    "app_settings": AppSettings,
    "logging_settings": LoggingSettings,
    **{config_key(agent, provider): SHAPES_OF_AGENTS[agent] for agent in AGENTS for provider in PROVIDERS},
}


def _shape_of(config_key: str) -> type[AgentConfiguration | AppSettings | LoggingSettings]:
    shape = OwnTool if TOOL_KEY.fullmatch(config_key) else SHAPES.get(config_key)
    if shape is None:
        raise invalid("configKey", "is not the key of a configuration")
    return shape
