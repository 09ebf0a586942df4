"""What is written of a conversation as it goes."""

import shutil

import pytest
from PIL import Image

from qwen35cli.app.conversation import Conversation, Turn
from qwen35cli.app.keeping import Keeper
from qwen35cli.app.question import Picture, Question
from qwen35cli.app.sessions import Store
from qwen35cli.errors import Qwen35Error
from qwen35cli.images.preprocess import preprocess
from tests import fakes


@pytest.fixture
def keeper(tmp_path):
    keeper = Keeper(Store(tmp_path), None, fakes.fake_opened())
    yield keeper
    keeper.close()


def picture(opened, data):
    patches = preprocess(Image.new("RGB", (40, 40), "red"), opened.image_limits)
    return Picture("red.png", (40, 40), None, patches, data)


def test_a_picture_is_written_once_however_often_is_saved(keeper, monkeypatch):
    opened = fakes.fake_opened()
    conversation = Conversation(opened, system=None, thinking=False)
    keeper.begin(conversation)
    written = []
    add = keeper.store.add_picture
    monkeypatch.setattr(
        keeper.store, "add_picture", lambda *given: written.append(given[2]) or add(*given)
    )
    question = Question((picture(opened, b"one"), "What is it?"))
    keeper.save(conversation, question)
    conversation.turns.append(Turn(question, thinking=False, answer="Red.", finish="stop"))
    keeper.save(conversation)
    keeper.save(conversation, Question((picture(opened, b"two"), "And this?")))
    assert written == [b"one", b"two"]

    conversation.turns.clear()  # and what no turn names is gone, so that it is written anew
    keeper.save(conversation)
    keeper.save(conversation, question)
    assert written == [b"one", b"two", b"one"]
    [stored] = [part for part in keeper.session.turns[-1].parts if not isinstance(part, str)]
    assert keeper.store.picture(keeper.session, stored) == b"one"


def test_a_name_to_begin_is_not_how_an_id_begins(keeper):
    conversation = Conversation(fakes.fake_opened(), system=None, thinking=False)
    keeper.begin(conversation)
    conversation.turns.append(Turn(Question.of("Hm?"), thinking=False, answer="Hm.", finish="stop"))
    keeper.save(conversation)
    id = keeper.session.id
    assert keeper.knows(id) and not keeper.knows(id[:4])


def test_where_no_new_session_can_be_made_the_old_one_stays(keeper, monkeypatch):
    conversation = Conversation(fakes.fake_opened(), system=None, thinking=False)
    keeper.begin(conversation)
    before = keeper.session

    def full(*given):
        raise Qwen35Error("could not make a session")

    with monkeypatch.context() as patched:
        patched.setattr(keeper.store, "new", full)
        with pytest.raises(Qwen35Error):
            keeper.begin(conversation)
    assert keeper.session == before
    keeper.save(conversation, Question.of("Hm?"))
    keeper.begin(conversation)
    assert keeper.session != before


def test_a_folder_that_is_gone_is_an_error_of_the_disk(keeper, tmp_path):
    opened = fakes.fake_opened()
    conversation = Conversation(opened, system=None, thinking=False)
    keeper.begin(conversation)
    question = Question((picture(opened, b"one"), "What is it?"))
    keeper.save(conversation, question)
    shutil.rmtree(tmp_path / keeper.session.id)
    with pytest.raises(Qwen35Error, match="could not save"):
        keeper.save(conversation, question)


@pytest.mark.parametrize("error", [Qwen35Error("the disk is full"), KeyboardInterrupt()])
def test_what_could_not_be_written_is_written_on_leaving(keeper, monkeypatch, error):
    conversation = Conversation(fakes.fake_opened(), system=None, thinking=False)
    keeper.begin(conversation)
    id = keeper.session.id
    conversation.turns.append(Turn(Question.of("Hm?"), thinking=False, answer="Hm.", finish="stop"))

    def failing(session):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(keeper.store, "save", failing)
        with pytest.raises(type(error)):
            keeper.save(conversation)
    assert keeper.leave(None).session.id == id
    assert [turn.answer for turn in keeper.store.read(id).turns] == ["Hm."]
