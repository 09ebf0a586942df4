"""Checkpoints that Hugging Face's tools left on this machine. Never the network."""

from pathlib import Path

from qwen35cli.errors import ModelError

from .names import CONFIG


def find_in_cache(repo_id: str, revision: str | None = None) -> Path:
    """The snapshot folder of `repo_id` in the local cache (`HF_HOME`), at `revision` or main.

    Raises:
        ModelError: it is not there, or `repo_id` is not an id.
    """
    from huggingface_hub import try_to_load_from_cache  # late: slow, and only for Hub ids
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repo_id, CONFIG, revision=revision)
    except HFValidationError as error:
        raise ModelError(f"{repo_id!r} is no Hub id: {error}", "use owner/name") from None
    if not isinstance(config, str):
        wanted = repo_id if revision is None else f"{repo_id} at {revision}"
        raise ModelError(
            f"{wanted} is not in the local Hugging Face cache",
            f"hf download {repo_id} fetches it; --model demo runs at once",
        )
    return Path(config).parent
