"""The verb that publishes: push."""

from __future__ import annotations

from typing import Annotated

import tyro

from beit.cli.options import Artifact
from beit.terminal import print_lines


def push(args: list[str]) -> None:
    """Upload a model with its card to the Hugging Face hub."""

    def command(
        artifact: Artifact,
        repository: Annotated[str, tyro.conf.Positional],
        public: bool = False,
        license: str = "",  # noqa: A002 (the name of the option)
        update: bool = False,
        message: str = "",
        dry_run: str = "",
    ) -> None:
        """Upload weights, config.json and a generated README.md, after listing them.

        Args:
            artifact: Folder of a run, or its `model` folder; `beit convert` makes one of others.
            repository: owner/name on the hub, which is made, private.
            public: Make it for everybody to see.
            license: Identifier of the licence, e.g. apache-2.0, for the model card.
            update: Add a commit to a repository that exists.
            message: What the commit says.
            dry_run: Folder to write all of it to; nothing is uploaded.
        """
        from beit.weights.push import push_to_hub

        pushed = push_to_hub(
            artifact,
            repository,
            public=public,
            license=license,
            update=update,
            message=message,
            dry_run=dry_run,
        )
        print_lines(dry_run or pushed.reference)

    tyro.cli(command, args=args, prog="beit push", config=(tyro.conf.FlagCreatePairsOff,))
