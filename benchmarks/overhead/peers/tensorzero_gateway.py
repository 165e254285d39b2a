"""The gateway that TensorZero's Python package carries, as a server: CONFIG, and a FILE that it writes its port to."""

# The package stands in an environment of its own; nothing here imports this file.
import pathlib
import signal
import sys
import urllib.parse

import tensorzero

config, port_file = sys.argv[1:]
gateway = tensorzero._start_http_gateway(config_file=config, clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
pathlib.Path(port_file).write_text(str(urllib.parse.urlsplit(gateway.base_url).port))
signal.pause()
