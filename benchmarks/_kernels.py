"""The peer: Jupyter kernels, started as Jupyter's own server starts them."""

from subprocess import DEVNULL
from typing import cast

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.multikernelmanager import AsyncMultiKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

PATIENCE_SECONDS = 60.0


class Kernels:
    """Some kernels, each in a process of its own."""

    def __init__(self) -> None:
        self._manager = AsyncMultiKernelManager()

    async def start(self) -> AsyncKernelClient:
        """Start one and return its client once it is ready for its first cell."""
        kernel_id = await self._manager.start_kernel(kernel_name="python3", stderr=DEVNULL)
        client = cast("AsyncKernelClient", self._manager.get_kernel(kernel_id).client())
        client.start_channels()
        await client.wait_for_ready(PATIENCE_SECONDS)
        return client

    def pids(self) -> list[int]:
        """Return their processes."""
        managers = [self._manager.get_kernel(one) for one in self._manager.list_kernel_ids()]
        provisioners = [cast("LocalProvisioner", manager.provisioner) for manager in managers]
        return [one.pid for one in provisioners if one.pid is not None]

    async def close(self) -> None:
        """End them all."""
        await self._manager.shutdown_all(now=True)
