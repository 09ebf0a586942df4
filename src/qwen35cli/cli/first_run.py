"""A model that an answer needs and that is not on this machine: refused, or downloaded."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen35cli.errors import ModelError

from . import fetching, settings
from .options import Flags
from .terminal import Terminal
from .words import home, size

if TYPE_CHECKING:
    from qwen35cli.checkpoint.hub import NotInCache
    from qwen35cli.model.config import Config


def refuse(missing: "NotInCache", flags: Flags, terminal: Terminal) -> None:
    """Decline to download where the network is not wanted, or nobody can be asked.

    Raises:
        ModelError: with the command to type.
    """
    from qwen35cli.app import pull
    from qwen35cli.checkpoint.hub import pull_command

    repo_id, revision = missing.repo_id, missing.revision
    if by := pull.offline_by(flags.model.offline):
        raise pull.missing_offline(repo_id, revision, by)
    if flags.model.yes or fetching.can_ask(terminal, no_input=flags.input.no_input):
        return
    nbytes = pull.known_bytes(repo_id, revision)
    much = f", {size(nbytes)} to download" if nbytes else ""
    raise ModelError(
        f"{repo_id} is not on this machine{much}",
        f"{pull_command(repo_id, revision)}; -y downloads it now; --model demo runs at once",
    )


def download(
    missing: "NotInCache", flags: Flags, terminal: Terminal, accept: "Callable[[Config], None]"
) -> None:
    """Download a model that an answer needs, asked once and after the sizes are known.

    Args:
        missing: what is not here.
        flags: of the command that needs it.
        terminal: where it is said.
        accept: refuses a model that will not run here, by its config.

    Raises:
        DoesNotFitError: the disk has no room for it; or `accept` found that memory has none.
        ModelError: the user does not want to, or it cannot be had.
    """
    from qwen35cli.app import pull
    from qwen35cli.checkpoint.hub import pull_command
    from qwen35cli.model.siblings import SIBLINGS

    if known := SIBLINGS.get(missing.repo_id):
        accept(known)
    fetching.warn_of_token(False, terminal, ask=False)
    options = pull.PullOptions(
        model=missing.repo_id,
        revision=missing.revision,
        quant=flags.model.quant,
        store=settings.data_folder(),
    )
    job = fetching.prepared(options, terminal)
    job.check_room()
    if job.download_bytes and not flags.model.yes:
        terminal.say(f"{missing.repo_id} is not on this machine yet")
        made = f", then about {size(job.quantized_bytes)} made as {job.quant}"
        question = (
            f"download {size(job.download_bytes)} to {home(job.repo.cache)}"
            f"{made if job.quantized_bytes else ''}?"
        )
        if not fetching.agreed(question, terminal):
            raise ModelError(
                f"{missing.repo_id} was not downloaded",
                f"{pull_command(missing.repo_id, missing.revision)}; --model demo runs at once",
            )
    fetching.carry_out(job, terminal, accept)
