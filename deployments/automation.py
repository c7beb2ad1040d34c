"""The automation that ends zombies: runs whose process and worker were both killed stay Running and keep their slot.

Prefect has no such automation by default. A run sends a heartbeat every 30 s (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY` in
`prefect.yaml`); after 75 s without one it is Crashed.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

NAME = "crash runs without a heartbeat"
SILENCE_S = 75


def zombies() -> AutomationCore:
    """Return the automation: no heartbeat and no end of the run within `SILENCE_S` makes it Crashed."""
    ends = ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed")
    trigger = EventTrigger(
        posture=Posture.Proactive,
        after={"prefect.flow-run.heartbeat"},
        expect={f"prefect.flow-run.{end}" for end in ends},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=SILENCE_S),
    )
    action = ChangeFlowRunState(
        state=StateType.CRASHED, name="Crashed", message="No heartbeat: its process is gone. Run it again; it goes on."
    )
    return AutomationCore(name=NAME, description=__doc__.splitlines()[0], trigger=trigger, actions=[action])


async def establish(client: PrefectClient) -> None:
    """Create the automation, or bring the one that is there up to date."""
    there = await client.read_automations_by_name(NAME)
    if there:
        await client.update_automation(there[0].id, zombies())
    else:
        await client.create_automation(zombies())
