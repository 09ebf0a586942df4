"""What is written of a conversation as it goes."""

import pytest
from PIL import Image

from qwen35cli.app.conversation import Conversation, Turn
from qwen35cli.app.keeping import Keeper
from qwen35cli.app.question import Picture, Question
from qwen35cli.app.sessions import Store
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
