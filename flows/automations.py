"""Put automations on Prefect's server: ``python -m flows.automations deploy/automations/*.yaml``.

One of the same name is replaced, where ``prefect automation create`` would put a second one beside it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Parameter
from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from dgmm.cli import run_app
from dgmm.errors import InputError, one_line
from dgmm.yaml12 import parse
from flows.common import server_refusals

#: What a message says, in the words of the server's templates.
SUBJECT = "{{ automation.name }}: {{ flow.name or '' }} {{ flow_run.name or '' }}"
BODY = "{{ automation.description }}\n{{ flow_run.state.message or '' }}\n{{ flow_run|ui_url }}\n{{ event.payload }}"


def automations_in(path: str) -> list[AutomationCore]:
    """The automations in a file, of one or of several."""
    try:
        with open(path, encoding="utf-8") as file:
            content: Any = parse(file.read())
        return [AutomationCore.model_validate(each) for each in (content if isinstance(content, list) else [content])]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} holds no automation: {one_line(error)[:300]}") from None


def telling(automation: AutomationCore, block: UUID) -> AutomationCore:
    """An automation that tells somebody, too, in the place of nothing or after what it does."""
    does = [action for action in automation.actions if action.type != "do-nothing"]
    message = SendNotification(block_document_id=block, subject=SUBJECT, body=BODY)
    return automation.model_copy(update={"actions": [*does, message]})


async def put(automations: list[AutomationCore], notify: str | None) -> list[str]:
    """Put automations on the server; their names."""
    async with get_client() as client:
        if notify is not None:
            kind, _, name = notify.partition("/")
            try:
                block = await client.read_block_document_by_name(name, kind)
            except ObjectNotFound:
                raise InputError(
                    f"the server has no block {notify}: make it there first, named by its type and name"
                ) from None
            automations = [telling(automation, block.id) for automation in automations]
        for automation in automations:
            there = await client.read_automations_by_name(automation.name)
            if there:
                await client.update_automation(there[0].id, automation)
            else:
                await client.create_automation(automation)
    return [automation.name for automation in automations]


app = App(name="python -m flows.automations", help=__doc__, result_action="return_value")


@app.default
def main(
    *files: str,
    notify: Annotated[
        str | None, Parameter(help="A block of Prefect's that sends messages, as TYPE/NAME: slack-webhook/operators.")
    ] = None,
) -> None:
    """Put the automations in files on the server, in the place of those of the same names."""
    found = [automation for file in files for automation in automations_in(file)]
    if not found:
        raise InputError("no automations: give their files (deploy/automations/*.yaml)")
    with server_refusals():
        print("\n".join(asyncio.run(put(found, notify))))


if __name__ == "__main__":
    sys.exit(run_app(app, sys.argv[1:]))
