"""Work on the model while the user types: one thing at a time, stopped between two steps."""

import threading
from collections.abc import Iterator


class Background:
    """Runs an iterator on a thread. While it runs nobody else may use the model."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Iterator[object]) -> None:
        """Begin with `work`; what was begun before is stopped first."""
        self.stop()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the step that is under way, and leave the rest undone.

        Raises:
            BaseException: whatever the work failed with.
        """
        self.ask_to_stop()
        self.finish()

    def ask_to_stop(self) -> None:
        """Let it end after the step that is under way."""
        self._stop.set()

    def finish(self) -> None:
        """Wait for all of it.

        Raises:
            BaseException: whatever the work failed with.
        """
        if self._thread is not None:
            self._thread.join()  # Ctrl-C ends the waiting; it still runs, and is waited for again
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, work: Iterator[object]) -> None:
        try:
            for _ in work:
                if self._stop.is_set():
                    break
        except BaseException as error:
            self._failure = error
        finally:
            if close := getattr(work, "close", None):
                close()
