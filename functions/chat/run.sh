#!/bin/sh
# Started by Lambda Web Adapter, which puts nothing of Lambda's on Python's path: the layers, then Lambda's own AWS SDK.
cd "$(dirname "$0")" || exit
PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}/opt/python:${LAMBDA_RUNTIME_DIR:-/var/runtime}"
export PYTHONPATH
exec python3 -m uvicorn functions.chat.app:create --factory \
  --host 127.0.0.1 --port "${AWS_LWA_PORT:-8080}" --workers 1 --lifespan off --log-level warning --no-access-log
