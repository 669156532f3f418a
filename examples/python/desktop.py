"""A window with Tk that answers about a picture: python examples/python/desktop.py BUNDLE.

One thread loads the model and makes the answers. What it has to say lies in a queue, which the window looks into every
20 ms by `after`: Tk allows calls on its own thread alone.
"""

from __future__ import annotations

import queue
import sys
import threading
import tkinter as tk
from dataclasses import dataclass
from pathlib import Path
from tkinter import filedialog, scrolledtext, ttk

from valley2_edge import Cancelled, Session, Valley2, Valley2Error


@dataclass(frozen=True)
class Event:
    """What the conversation's thread tells the window: `done` of `total` of a stage, or a text."""

    kind: str
    text: str = ""
    done: int = 0
    total: int = 0


class Conversation:
    """A conversation with a bundle on a thread of its own. No method waits; `events` tells what happens.

    The kinds of events are ready, progress, piece, failed, stopped and finished; the last one follows every question.
    """

    def __init__(self, bundle: Path) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self._questions: queue.Queue[tuple[str, list[Path]] | None] = queue.Queue()
        self._session: Session | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(bundle,))
        self._thread.start()

    def ask(self, question: str, pictures: list[Path]) -> None:
        """Asks, when the questions before are answered."""
        self._stopped.clear()
        self._questions.put((question, pictures))

    def stop(self) -> None:
        """Stops the loading or the answer that is going on."""
        self._stopped.set()
        if self._session is not None:
            self._session.cancel()

    def close(self) -> None:
        """Stops everything and waits for the thread, which takes some milliseconds."""
        self._questions.put(None)
        self.stop()
        self._thread.join()

    def _work(self, bundle: Path) -> None:
        try:
            with Valley2.load(bundle, on_progress=self._report) as model:
                self._session = model.session()
                self.events.put(Event("ready"))
                while (question := self._questions.get()) is not None:
                    self._answer(self._session, *question)
                    self.events.put(Event("finished"))
        except Cancelled:
            self.events.put(Event("stopped"))
        except Valley2Error as error:
            self.events.put(Event("failed", str(error)))

    def _answer(self, session: Session, question: str, pictures: list[Path]) -> None:
        try:
            for piece in session.ask(question, images=pictures, on_progress=self._report):
                self.events.put(Event("piece", piece))
        except Cancelled:
            self.events.put(Event("stopped"))
        except Valley2Error as error:
            self.events.put(Event("failed", str(error)))

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise Cancelled("stopped by the window")
        self.events.put(Event("progress", stage, done, total))


class Window(tk.Tk):
    """Choose a picture, ask, read; the button that asks stops the answer while it is made."""

    def __init__(self, bundle: Path) -> None:
        super().__init__()
        self.title("Valley2")
        self.pictures: list[Path] = []
        self.transcript = scrolledtext.ScrolledText(self, width=60, height=16, state="disabled", wrap="word")
        self.question = ttk.Entry(self)
        self.choose_button = ttk.Button(self, text="Picture…", command=self.choose)
        self.button = ttk.Button(self, text="Ask", command=self.press, state="disabled")
        self.progress = ttk.Progressbar(self)
        self.status = ttk.Label(self, text="Loading")
        self.transcript.grid(row=0, columnspan=3, sticky="nsew")
        self.choose_button.grid(row=1, column=0)
        self.question.grid(row=1, column=1, sticky="ew")
        self.button.grid(row=1, column=2)
        self.status.grid(row=2, column=0, columnspan=2, sticky="w")
        self.progress.grid(row=2, column=2)
        self.rowconfigure(0, weight=1)
        self.columnconfigure(1, weight=1)
        self.question.bind("<Return>", lambda _: self.press())
        self.protocol("WM_DELETE_WINDOW", self.leave)
        self.conversation = Conversation(bundle)
        self.answering = False
        self.after(20, self.look)

    def choose(self) -> None:
        """Takes a picture for the next question."""
        name = filedialog.askopenfilename()
        if name:
            self.show(Path(name))

    def show(self, picture: Path) -> None:
        """Puts a picture beside the next question."""
        self.pictures = [picture]
        self.append(f"[{picture.name}]\n")

    def press(self) -> None:
        """Asks what is typed, or stops the answer."""
        if self.answering:
            self.conversation.stop()
        elif self.question.get() and str(self.button["state"]) != "disabled":
            self.append(self.question.get() + "\n")
            self.conversation.ask(self.question.get(), self.pictures)
            self.pictures = []  # they stay in the context
            self.question.delete(0, "end")
            self.answering = True
            self.button["text"] = "Stop"

    def look(self) -> None:
        """Shows what has happened since the last time."""
        while not self.conversation.events.empty():
            self.hear(self.conversation.events.get())
        self.after(20, self.look)

    def hear(self, event: Event) -> None:
        """Shows an event of the conversation."""
        if event.kind == "progress":
            self.status["text"] = f"{event.text}: {event.done} of {event.total}"
            self.progress.configure(maximum=max(event.total, 1), value=event.done)
        elif event.kind == "ready":
            self.button["state"] = "normal"
            self.status["text"] = "Ready"
        elif event.kind == "finished":
            self.append("\n\n")
            self.answering = False
            self.button["text"] = "Ask"
            self.status["text"] = "Ready"
        else:
            self.append(" (stopped)" if event.kind == "stopped" else event.text)

    def append(self, text: str) -> None:
        """Writes at the end of the transcript."""
        self.transcript["state"] = "normal"
        self.transcript.insert("end", text)
        self.transcript["state"] = "disabled"
        self.transcript.see("end")

    def leave(self) -> None:
        """Closes the window, also while an answer is made."""
        self.conversation.close()
        self.destroy()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Window(Path(sys.argv[1])).mainloop()
