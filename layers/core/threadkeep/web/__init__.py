"""The web kit: what every function of the API shares at its HTTP edge.

A function's `app.py` makes an `APIRouter`, and its handler by `lambda_handler(router)`; the local server mounts the
same routers by `create_app`. Who calls, errors, correlation, CORS and body checks are dealt with here, once.
"""

from threadkeep.web.app import LambdaHandler, Runtime, create_app, lambda_handler
from threadkeep.web.callers import Administrator, Caller, Moment, SignedIn, Visitor, end_guest, moment
from threadkeep.web.calls import client_address
from threadkeep.web.conditions import IfMatch, entity_tag
from threadkeep.web.models import ApiModel, Page, RequestModel
from threadkeep.web.problems import raises

__all__ = [
    "Administrator",
    "ApiModel",
    "Caller",
    "IfMatch",
    "LambdaHandler",
    "Moment",
    "Page",
    "RequestModel",
    "Runtime",
    "SignedIn",
    "Visitor",
    "client_address",
    "create_app",
    "end_guest",
    "entity_tag",
    "lambda_handler",
    "moment",
    "raises",
]
