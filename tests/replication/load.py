"""Writes that never pause, and what became of each."""

import contextlib
import http.client
import threading

from tests.support.undercroft import Client


class Load:
    """Writes at one cluster all the time, with pauses of so many seconds; remembers what was
    acknowledged. The value is the name.
    """

    def __init__(self, client: Client, prefix: str, pause: float = 0) -> None:
        self._client = client
        self._prefix = prefix
        self._pause = pause
        self.acknowledged: list[str] = []
        self.refused: list[str] = []  # what the answers said
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pause):
            number += 1
            name = f"{self._prefix}{number}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = self._client.request(
                    "POST", f"secret/data/{name}", {"data": {"value": name}}
                )
                if answer.status == 200:
                    self.acknowledged.append(name)
                else:
                    self.refused.append(f"{answer.status} {answer.body}")

    def stop(self) -> list[str]:
        self._stop.set()
        self._thread.join()
        return self.acknowledged
