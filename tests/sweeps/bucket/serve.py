"""moto's S3 server, one request at a time: `python serve.py PORT`.

A store compares and swaps in one step. moto looks first and writes afterwards, in a thread for each request, so that two
conditional puts may both find the object as they wanted it.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def main(port: int) -> None:
    moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environment: Any, start_response: Any) -> Any:
        with turn:
            return moto(environment, start_response)

    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
