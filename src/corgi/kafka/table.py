"""The APIs that are served: one row, one module."""

from __future__ import annotations

from corgi.kafka.api import AnyApi
from corgi.kafka.apis import api_versions, fetch, init_producer_id, list_offsets, metadata, produce

APIS: dict[int, AnyApi] = {
    module.API.key: module.API for module in (produce, fetch, list_offsets, metadata, api_versions, init_producer_id)
}
