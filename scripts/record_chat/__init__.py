"""How the recording of a chat in the README is made: `python -m scripts.record_chat`."""
