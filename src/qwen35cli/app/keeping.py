"""A conversation and its place on disk: the text after each turn, the state when one leaves."""

from dataclasses import dataclass, replace
from typing import get_args

from qwen35cli.engine.memory import Memory
from qwen35cli.errors import UsageError

from .conversation import Conversation, Turn
from .load import Loaded, Opened
from .question import Picture, Question, load_picture
from .sessions import Store
from .states import States
from .transcript import Session, StoredPicture, StoredTurn
from .turn import COUNTED, Finish

FINISHES: tuple[Finish, ...] = get_args(Finish)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was written when one left."""

    session: Session
    tokens: int  # of which the state was saved; 0: it was not worth it
    nbytes: int


class Keeper:
    """Saves a conversation as it goes; without a store it saves nothing.

    Attributes:
        session: the one that is open; None where nothing is saved.
    """

    def __init__(self, store: Store | None, states: States | None, opened: Opened) -> None:
        self.store = store
        self.states = states
        self.session: Session | None = None
        self._opened = opened
        self._unsaved: tuple[Conversation, Question | None] | None = None

    def begin(self, conversation: Conversation, name: str | None = None) -> None:
        """Open a new session; what was open before stays saved as it is."""
        if self.store is None:
            return
        opened = self._opened
        quant = opened.checkpoint.format
        session = self.store.new(opened.source.name, quant, conversation.system, name)
        self._release()
        self.session = session

    def resume(self, conversation: Conversation, name: str) -> Question | None:
        """Open the session called `name` and put its turns into the conversation.

        Returns:
            The question that was asked last, where its answer never came.

        Raises:
            UsageError: there is none, another program has it open, or nothing is saved at all.
        """
        if self.store is None:
            raise UsageError("sessions are off: -n saves nothing", "leave out -n")
        if self.session is not None and self.store.find(name) == self.session.id:
            raise UsageError(f"session {self.session.label} is open already")
        session = self.store.open(name)
        try:
            turns = [self._revived(session, turn) for turn in session.turns]
        except BaseException:
            self.store.close(session)
            raise
        self._release()
        self.session = session
        open_ended = bool(turns) and session.turns[-1].answer is None
        unanswered = turns.pop().question if open_ended else None
        conversation.turns = turns
        conversation.system = session.system
        return unanswered

    def knows(self, name: str) -> bool:
        """Whether there is a session called so, or with this id."""
        if self.store is None:
            return False
        try:
            self.store.find(name, whole=True)
        except UsageError:
            return False
        return True

    def restore(self, loaded: Loaded) -> int:
        """Bring back the state of the session; tokens that need not be read again."""
        if self.states is None or self.session is None:
            return 0
        return self.states.load_session(self.session.id, loaded)

    def save(self, conversation: Conversation, asked: Question | None = None) -> None:
        """Write the turns, and a question that has no answer yet."""
        if self.store is None or self.session is None:
            return
        self._unsaved = conversation, asked
        turns = [self._stored(turn.question, turn) for turn in conversation.turns]
        if asked is not None:
            turns.append(self._stored(asked, None))
        changed = replace(self.session, turns=tuple(turns), system=conversation.system)
        self.session = self.store.save(changed)
        self._unsaved = None

    def save_again(self) -> None:
        """Write what could not be written before."""
        if self._unsaved is not None:
            self.save(*self._unsaved)

    def rename(self, name: str) -> None:
        """Give the session a name."""
        if self.store is None or self.session is None:
            raise UsageError("sessions are off: -n saves nothing", "leave out -n")
        self.session = self.store.rename(self.session, name)

    def keep(self, memory: Memory | None) -> Kept | None:
        """Save the state of the session; None where there is nothing to keep."""
        session = self.session
        if session is None or not session.turns:
            return None
        saved = 0, 0
        if self.states is not None and memory is not None:
            saved = self.states.save(memory, session.id)
        return Kept(session, *saved)

    def leave(self, memory: Memory | None) -> Kept | None:
        """Save the state of the session and let it go; None where there is nothing to keep."""
        try:
            self.save_again()
            return self.keep(memory)
        finally:
            self._release()

    def keep_prompt(self, memory: Memory, new_tokens: int) -> int:
        """Save the state of a single question that took long to read; bytes, 0: it did not."""
        if self.states is None or new_tokens < self.states.worth_once:
            return 0
        return self.states.save_prompt(memory)[1]

    def close(self) -> None:
        """Let the session go as it was saved last."""
        self._release()

    def _release(self) -> None:
        if self.store is not None and self.session is not None:
            self.store.close(self.session)
        self.session = self._unsaved = None

    def _stored(self, question: Question, turn: Turn | None) -> StoredTurn:
        parts = tuple(
            part if isinstance(part, str) else self._stored_picture(part) for part in question.parts
        )
        if turn is None:
            return StoredTurn(parts=parts, thinking=False)
        return StoredTurn(
            parts=parts,
            answer=turn.answer,
            reasoning=turn.reasoning,
            finish=turn.finish,
            thinking=turn.thinking,
            **turn.counts,
        )

    def _stored_picture(self, picture: Picture) -> StoredPicture:
        assert self.store is not None and self.session is not None
        there = picture.digest in self.session.digests  # since the last save
        if there and self.store.holds(self.session, picture.digest):
            return StoredPicture(picture.name, picture.digest)
        return self.store.add_picture(self.session, picture.name, picture.data)

    def _revived(self, session: Session, stored: StoredTurn) -> Turn:
        assert self.store is not None
        parts: list[str | Picture] = []
        for part in stored.parts:
            if isinstance(part, str):
                parts.append(part)
            else:
                data = self.store.picture(session, part)
                parts.append(load_picture(self._opened, data, part.name))
        known = next((each for each in FINISHES if each == stored.finish), None)
        finish: Finish = known or "interrupted"
        closed = stored.thinking and stored.answer
        return Turn(
            Question(tuple(parts)),
            stored.thinking,
            answer=stored.answer or "",
            reasoning=stored.reasoning,
            finish=finish,
            closed_by="model" if closed else "none" if stored.thinking else "off",
            counts={name: getattr(stored, name) for name in COUNTED},
        )
