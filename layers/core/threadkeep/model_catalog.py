"""The models that may be asked, and what they cost.

Each provider with models has exactly one default, which is active; the database refuses whatever would break that.
What a model costs is taken by a turn when it begins, so a change touches no turn that runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from psycopg.types.json import Jsonb

from threadkeep import activity, patches
from threadkeep.activity import ActivityType
from threadkeep.configuration import Provider
from threadkeep.database import Database, Statement
from threadkeep.errors import ThreadkeepError, invalid
from threadkeep.identity import Principal
from threadkeep.model_metadata import parse_model_metadata

IfMatch = Sequence[str] | None
"""The tags one of which has to be that of the model as it is; `*` and None are any."""

MAXIMUM_ID_CHARACTERS: Final = 100
MAXIMUM_NAME_CHARACTERS: Final = 200
MAXIMUM_DESCRIPTION_CHARACTERS: Final = 4_000
PRICE_DIGITS: Final = 8

# Servers that speak a provider's protocol name theirs `meta-llama/llama-4`, `qwen3:8b` or `models/x@2026`.
MODEL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(?:/[A-Za-z0-9][A-Za-z0-9._:@+-]*)*")
# What a turn says of itself when no model of a provider answers.
RESERVED_ID: Final = "offline"


@dataclass(frozen=True, slots=True)
class ModelFields:
    """What an administrator says of a model: prices in US dollars per million tokens, finer ones in the metadata."""

    name: str
    description: str | None
    is_active: bool
    is_default: bool
    thinking_enabled: bool
    input_price: Decimal
    output_price: Decimal
    metadata: dict[str, Any]

    @property
    def is_priced(self) -> bool:
        """Whether there is a price; without one the usage still counts, and is flagged."""
        return is_priced(self.input_price, self.output_price)


@dataclass(frozen=True, slots=True)
class Model(ModelFields):
    """A row of `model_config`; the times are UTC."""

    model_id: str
    provider: Provider
    created_at: datetime
    updated_at: datetime
    tag: str


_COLUMNS_OF_MODEL: Final = """
        m.model_id, m.name, m.description, m.provider, m.is_active, m.is_default, m.thinking_enabled,
        m.input_pricing_per_million_tokens as input_price, m.output_pricing_per_million_tokens as output_price,
        m.metadata, m.created_at, m.updated_at, private.entity_tag(to_jsonb(m)) as tag
"""
_READ: Final = (
    "select"
    + _COLUMNS_OF_MODEL
    + """
    from public.model_config as m
    where m.model_id = %(model)s
"""
)
_WRITE: Final = """
    update public.model_config as m
    set name = %(name)s,
        description = %(description)s,
        is_active = %(is_active)s,
        is_default = %(is_default)s,
        thinking_enabled = %(thinking_enabled)s,
        input_pricing_per_million_tokens = %(input_price)s,
        output_pricing_per_million_tokens = %(output_price)s,
        metadata = %(metadata)s
    where m.model_id = %(model)s
"""
# The rules of defaults are judged at the end of a transaction; refused by the commit itself, a pipeline would lose its
# connection, and the caller the reason.
_JUDGE: Final[Statement] = ("set constraints all immediate", {})
_HOLD: Final = """
    select from private.hold_model(
        p_model => %(model)s,
        p_if_match => %(if_match)s,
        p_email => %(email)s,
        p_name => %(name_of_caller)s
    )
"""


def is_priced(input_price: Decimal, output_price: Decimal) -> bool:
    """Whether a model with these prices costs anything, or nobody has said what it costs."""
    return input_price > 0 or output_price > 0


async def all_models(database: Database, administrator: Principal) -> list[Model]:
    """Every model, also those that are not active, by provider and id."""
    read: Final = (
        "select"
        + _COLUMNS_OF_MODEL
        + """
        from public.model_config as m
        order by m.provider, m.model_id
    """
    )
    viewed = activity.noting(activity.note(database, "admin_provider_view", ("model", None)))
    rows, _ = await database.run(administrator, (read, {}), viewed)
    return [Model(**row) for row in rows]


async def read(
    database: Database,
    administrator: Principal,
    model: str,
    *,
    noted_as: ActivityType | None = "admin_provider_view",
) -> Model:
    """A model, also one that is not active; raises `not_found:model`. `noted_as` is what that is on record as."""
    viewed: Final = """
        select private.log_user_activity(%(activity)s)
        from public.model_config as m
        where m.model_id = %(model)s
    """
    values = {"model": _possible(model), "activity": _note(database, noted_as, model)}
    rows, _ = await database.run(administrator, (_READ, values), (viewed, values))
    if not rows:
        raise _no_model()
    return Model(**rows[0])


async def create(
    database: Database, administrator: Principal, model: str, provider: Provider, fields: ModelFields
) -> tuple[Model, bool]:
    """A new model, and whether this call made it: the same again finds it.

    Raises `invalid:api` for an id or metadata that cannot be, `conflict:model` if there is another model of this id,
    and if the provider would be left without an active default: its first model has to be that.
    """
    _check_new_id(model)
    parse_model_metadata(fields.metadata)
    insert: Final = """
        insert into public.model_config (
            model_id, provider, name, description, is_active, is_default, thinking_enabled,
            input_pricing_per_million_tokens, output_pricing_per_million_tokens, metadata
        )
        values (
            %(model)s, %(provider)s, %(name)s, %(description)s, %(is_active)s, %(is_default)s, %(thinking_enabled)s,
            %(input_price)s, %(output_price)s, %(metadata)s
        )
        on conflict (model_id) do nothing
        returning model_id, private.log_user_activity(%(activity)s)
    """
    hold: Final = "select private.hold_administration(%(email)s, %(name_of_caller)s)"
    values = (
        _of(administrator, model, None)
        | _values(fields)
        | {
            "provider": provider,
            "activity": _note(database, "admin_model_create", model),
        }
    )
    _, made, _, [row] = await database.run(
        administrator, (hold, values), (insert, values), _JUDGE, (_READ, values), require_active=False
    )
    found = Model(**row)
    if not made and (found.provider, _fields(found)) != (provider, _fields(fields)):
        raise ThreadkeepError("conflict:model")
    return found, bool(made)


async def change(
    database: Database,
    administrator: Principal,
    model: str,
    changes: Mapping[str, Any],
    *,
    if_match: IfMatch = None,
) -> Model:
    """A model with some of its fields changed, named as in `ModelFields`; of the metadata as by a JSON merge patch.

    Raises `not_found:model`, `invalid:api` for metadata that cannot be, `precondition_failed:model` with the model as
    it is as `current`, and `conflict:model` if its provider would be left without an active default.
    """

    wanted = None if if_match is None or "*" in if_match else if_match

    async def once() -> Model:
        found = await read(database, administrator, model, noted_as=None)
        if wanted is not None and found.tag not in wanted:
            raise _changed_meanwhile(found)
        metadata = patches.merged(found.metadata, changes.get("metadata", {}))
        parse_model_metadata(metadata)
        written = _fields(found) | dict(changes) | {"metadata": metadata}
        write = (_WRITE, {"model": model} | _values(ModelFields(**written)))
        statements = [write] if written != _fields(found) else []
        return await _changed(database, administrator, model, [found.tag], *statements)

    return await patches.until_unchanged(once) if wanted is None else await once()


async def make_default(database: Database, administrator: Principal, model: str, *, if_match: IfMatch = None) -> Model:
    """The default of its provider, in place of another one; raises `conflict:model` if it is not active.

    Raises `not_found:model` and `precondition_failed:model` besides.
    """
    make: Final = "select private.make_model_default(%(model)s, %(if_match)s, %(email)s, %(name_of_caller)s)"
    return await _changed(
        database, administrator, _possible(model), if_match, (make, _of(administrator, model, if_match))
    )


async def delete(database: Database, administrator: Principal, model: str, *, if_match: IfMatch = None) -> None:
    """Deletes a model; what was used of it stays on the bills. Deactivate it to keep it.

    Raises as `change` does, and `conflict:model` if a setting needs it.
    """
    remove: Final = """
        select
            private.delete_model(%(model)s, %(if_match)s, %(email)s, %(name_of_caller)s),
            private.log_user_activity(%(activity)s)
    """
    values = _of(administrator, _possible(model), if_match)
    values |= {"activity": _note(database, "admin_model_delete", model)}
    try:
        await database.run(administrator, (remove, values), _JUDGE, require_active=False)
    except ThreadkeepError as error:
        raise await _with_current(database, administrator, model, error) from None


def current(model: Model) -> dict[str, Any]:
    """The model as an error carries it, in the names of the API."""
    return {
        "modelId": model.model_id,
        "provider": model.provider,
        "name": model.name,
        "description": model.description,
        "isActive": model.is_active,
        "isDefault": model.is_default,
        "thinkingEnabled": model.thinking_enabled,
        "inputPrice": float(model.input_price),
        "outputPrice": float(model.output_price),
        "metadata": model.metadata,
        "updatedAt": model.updated_at.isoformat(),
        "etag": f'"{model.tag}"',
    }


async def _changed(
    database: Database, administrator: Principal, model: str, if_match: IfMatch, *statements: Statement
) -> Model:
    # Only of a row that this transaction wrote: the same again is no change.
    noted: Final = """
        select private.log_user_activity(%(activity)s)
        from public.model_config as m
        where m.model_id = %(model)s
            and m.xmin = pg_current_xact_id_if_assigned()::xid
    """
    values = _of(administrator, model, if_match) | {"activity": _note(database, "admin_model_update", model)}
    try:
        results = await database.run(
            administrator, (_HOLD, values), *statements, (noted, values), _JUDGE, (_READ, values), require_active=False
        )
    except ThreadkeepError as error:
        raise await _with_current(database, administrator, model, error) from None
    return Model(**results[-1][0])


def _note(database: Database, activity_type: ActivityType | None, model: str) -> Jsonb | None:
    return activity.note(database, activity_type, ("model", None), metadata={"model": model})


async def _with_current(
    database: Database, administrator: Principal, model: str, error: ThreadkeepError
) -> ThreadkeepError:
    """The loser of a condition is told what is there now, so that he need not ask; other errors stay as they are."""
    if error.code != "precondition_failed:model":
        return error
    row = await database.row(administrator, _READ, {"model": model})
    return error if row is None else _changed_meanwhile(Model(**row))


def _changed_meanwhile(model: Model) -> ThreadkeepError:
    return ThreadkeepError("precondition_failed:model", extra={"current": current(model)})


def _no_model() -> ThreadkeepError:
    return ThreadkeepError("not_found:model", "There is no such model.")


def _possible(model: str) -> str:
    if len(model) > MAXIMUM_ID_CHARACTERS or "\0" in model:
        raise _no_model()
    return model


def _check_new_id(model: str) -> None:
    if len(model) > MAXIMUM_ID_CHARACTERS or not MODEL_ID.fullmatch(model):
        raise invalid(
            "modelId",
            "must have 1 to 100 letters, digits and ._:@+- in parts between slashes, each of which begins with a"
            " letter or digit",
        )
    if model == RESERVED_ID:
        raise invalid("modelId", "is the name of the model that answers without any provider")


def _of(administrator: Principal, model: str, if_match: IfMatch) -> dict[str, Any]:
    return {
        "model": model,
        "if_match": None if if_match is None else list(if_match),
        "email": administrator.email,
        "name_of_caller": administrator.name,
    }


def _fields(model: ModelFields) -> dict[str, Any]:
    return {one.name: getattr(model, one.name) for one in dataclass_fields(ModelFields)}


def _values(fields: ModelFields) -> dict[str, Any]:
    return _fields(fields) | {"metadata": Jsonb(fields.metadata)}
