"""What administrators see and decide."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from functions.admin import configuration, health, models, purge, reports, users
from threadkeep.web import lambda_handler

ROUTERS: Final[tuple[APIRouter, ...]] = (
    configuration.router,
    models.router,
    reports.router,
    users.router,
    purge.router,
    health.router,
)

handler = lambda_handler(*ROUTERS)
